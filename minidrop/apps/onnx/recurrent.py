"""Recurrent layers: their gates in ONNX's order, and the lengths of sequences.

A recurrent layer that runs forwards begins its sequences at step 0 of each call: its cont counts as 0 there
and 1 afterwards, and is not read. One that runs in both directions reads how long each sequence is from cont:
0 at its first step, 1 at the others, 0 in the padding behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.apps.onnx.writer import INT32, LayerWriter, exports, fixed, size_of

# For each gate of ONNX which one it is of minidrop's: of i f o g, of r z n.
ORDERS = {"LSTM": (0, 2, 1, 3), "GRU": (1, 0, 2), "RNN": (0,)}


@exports("LSTM", "GRU", "RNN")
def recurrent(to: LayerWriter, layer: Any, x: str, cont: str, *others: str) -> list[str]:
    steps, streams = to.bottoms[0][:2]
    x = to.reshape(x, to.bottoms[0], (steps, streams, layer.inputs))
    if layer.static is not None:
        flat = to.reshape(others[0], to.bottoms[2], (streams, layer.static))
        shape = to("Concat", to("Shape", x, start=0, end=2), to.integers(layer.static), axis=0)
        x, others = to("Concat", x, to("Expand", flat, shape), axis=2), others[1:]
    prefixes = ("", "reverse_") if layer.both else ("",)
    weights = [to.constant(np.stack([part(prefix) for prefix in prefixes]), name) for name, part in (
        ("weight", lambda prefix: _inputs(to, layer, prefix)),
        ("recurrent_weight", lambda prefix: _ordered(layer, to.array(f"{prefix}recurrent_weight"))),
        ("bias", lambda prefix: _biases(to, layer, prefix)))]
    more = {"linear_before_reset": 1} if layer.type == "GRU" else {}
    y, *last = to.several(layer.type, 1 + len(layer.state_names), x, *weights,
                          lengths(to, cont, to.bottoms[1]) if layer.both else "", *others,
                          hidden_size=layer.units, direction="bidirectional" if layer.both else "forward",
                          **more)
    return [_joined(to, layer, y, prefixes), *last][:len(to.tops)]


def _ordered(layer, array):
    """Return an array whose rows are gates by units, its gates in ONNX's order."""
    order = ORDERS[layer.type]
    return array.reshape(len(order), layer.units, *array.shape[1:])[list(order)].reshape(array.shape)


def _inputs(to, layer, prefix):
    names = ("weight", *("static_weight",) * (layer.static is not None))
    return np.concatenate([_ordered(layer, to.array(prefix + name)) for name in names], axis=1)


def _biases(to, layer, prefix):
    """Return the bias of the inputs, then that of the state."""
    own = _ordered(layer, to.array(f"{prefix}bias"))
    state = [_ordered(layer, to.array(prefix + name)) for name in layer.state_biases]
    return np.concatenate([own, *(state or [np.zeros_like(own)])])


def _joined(to, layer, y, prefixes):
    """Return (steps, streams, units of both directions) of y (steps, directions, streams, units)."""
    parts = [y] if not layer.both else to.several("Split", 2, y, axis=1, num_outputs=2)
    parts = [to("Squeeze", part, to.integers(1)) for part in parts]
    if layer.projects:
        parts = [to("Tanh", to.product(part, to.parameter(f"{prefix}output_weight"),
                                       to.parameter(f"{prefix}output_bias")))
                 for part, prefix in zip(parts, prefixes, strict=True)]
    return parts[0] if len(parts) == 1 else to("Concat", *parts, axis=2)


def lengths(to: LayerWriter, cont: str, shape: Any) -> str:
    """Return how many steps the sequence of each stream has, int32 (streams,): those before the second 0."""
    steps = size_of(shape[:1])
    ended = to("CumSum", to.affine(to.slice(cont, 0, 1, steps), -1, 1), to.constant(0, "axis", np.int32))
    going = to.floats(to("Less", ended, to.constant(0.5)))
    return to("Cast", to.affine(to.reduce("ReduceSum", going, [0], keepdims=False), shift=1), to=INT32)


@exports("LastState")
def last_state(to: LayerWriter, layer: Any, h: str, cont: str) -> str:
    units = fixed(to.bottoms[0][2:])[0]
    last = to.indices(to.affine(to.floats(lengths(to, cont, to.bottoms[1])), shift=-1))
    shape = to("Concat", to.integers(1), to("Shape", h, start=1, end=3), axis=0)
    places = to("Expand", to.unsqueeze(last, 0, 2), shape)
    y = to("Squeeze", to("GatherElements", h, places, axis=0), to.integers(0))
    if not layer.settings.bidirectional:
        return y
    first = to("Squeeze", to.slice(h, 0, 0, 1), to.integers(0))
    half = units // 2
    return to("Concat", to.slice(y, 1, 0, half), to.slice(first, 1, half, units), axis=1)
