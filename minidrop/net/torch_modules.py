"""How the parameters of a layer stand in the PyTorch module that computes the same: names, orders, shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import SnapshotError
from minidrop.layers.batch_norm import BatchNorm
from minidrop.layers.scale import Scale
from minidrop.registry import Registry

if TYPE_CHECKING:
    from minidrop.net.graph import Graph, Node

Arrays = dict[str, np.ndarray]

_forms: Registry[Form] = Registry("layer type with a PyTorch module")


class NoModule(Exception):
    """No PyTorch module computes what a layer does; the message says why."""


@dataclass(frozen=True)
class Form:
    """What a layer type is in PyTorch.

    write(layer, arrays) returns the module's arrays of the layer's, {end of the key: array}, and
    read(layer, arrays) the layer's of the module's, which are there and have the shapes that `write` gives.
    Both raise NoModule, and read SnapshotError for values that the layer cannot hold.
    """

    module: str
    write: Callable[[Any, Arrays], Arrays]
    read: Callable[[Any, Arrays], Arrays]


def form_of(layer_type: str) -> Form | None:
    """Return the Form of a layer type, None without parameters or without such a module."""
    return _forms.get(layer_type) if layer_type in _forms else None


def known_forms() -> list[str]:
    """Return the layer types that have a Form, sorted."""
    return _forms.names()


def scale_behind(graph: Graph, node: Node) -> Node | None:
    """Return the Scale that is a BatchNorm's learned factor and bias: the only reader of its top, over the
    channels."""
    readers = graph.readers[node.tops[0]]
    if len(readers) != 1:
        return None
    layer = readers[0][0].layer
    if not (isinstance(layer, Scale) and isinstance(node.layer, BatchNorm)):
        return None
    fits = layer.learned and layer.axis == 1 and layer.shape == (node.layer.channels,)
    return readers[0][0] if fits else None


def _same(module, names):
    """Return a Form of equal arrays, {name in the layer: name in the module}; those that a layer lacks are
    left out."""
    def write(layer, arrays):
        return {names[name]: array for name, array in arrays.items()}

    def read(layer, arrays):
        own = {theirs: ours for ours, theirs in names.items()}
        return {own[name]: array for name, array in arrays.items()}
    return Form(module, write, read)


for _types, _module in ((("Convolution",), "Conv2d"), (("Deconvolution",), "ConvTranspose2d"),
                        (("LayerNorm",), "LayerNorm"), (("RMSNorm",), "RMSNorm"),
                        (("Position",), "Embedding, of positions")):
    for _type in _types:
        _forms.register(_type)(_same(_module, {"weight": "weight", "bias": "bias"}))
_forms.register("Parameter")(_same("Parameter", {"weight": ""}))


# -- products ------------------------------------------------------------------------------------------------
def _write_linear(layer, arrays):
    return {name: array.T if name == "weight" and layer.transpose else array
            for name, array in arrays.items()}


for _type in ("InnerProduct", "DropConnect"):
    _forms.register(_type)(Form("Linear", _write_linear, _write_linear))


def _write_embedding(layer, arrays):
    # An Embedding has no bias: what is added to each row may as well stand in it.
    return {"weight": arrays["weight"] + arrays.get("bias", 0)}


def _read_embedding(layer, arrays):
    found = {"weight": arrays["weight"]}
    return {**found, "bias": np.zeros_like(found["weight"][0])} if layer.settings.bias_term else found


_forms.register("Embed")(Form("Embedding", _write_embedding, _read_embedding))
_forms.register("PReLU")(Form("PReLU", lambda layer, arrays: {"weight": arrays["slope"].reshape(-1)},
                              lambda layer, arrays: {"slope": arrays["weight"].reshape(layer.shape)}))


# -- BatchNorm, with the Scale behind it ---------------------------------------------------------------------
def _write_norm(layer, arrays):
    """arrays: of the BatchNorm, and perhaps factor and bias of the Scale."""
    share = arrays["scale_factor"][0] or 1
    found = {"running_mean": arrays["mean"] / share, "running_var": arrays["variance"] / share,
             "num_batches_tracked": np.array(0, np.int64)}
    if "factor" in arrays:
        factor = arrays["factor"]
        found = {"weight": factor, "bias": arrays.get("bias", np.zeros_like(factor)), **found}
    return found


def _read_norm(layer, arrays):
    found = {"mean": arrays["running_mean"], "variance": arrays["running_var"],
             "scale_factor": np.ones(1, arrays["running_mean"].dtype)}
    if "weight" in arrays:
        found |= {"factor": arrays["weight"], "bias": arrays["bias"]}
    return found


_forms.register("BatchNorm")(Form("BatchNorm2d", _write_norm, _read_norm))

# -- recurrent networks --------------------------------------------------------------------------------------
# For each gate of PyTorch which one it is of minidrop's, and back: i f g o of i f o g.
_ORDERS = {"LSTM": (0, 1, 3, 2), "GRU": (0, 1, 2), "RNN": (0,)}


def _ordered(layer, array):
    order = _ORDERS[layer.type]         # its own inverse
    return array.reshape(len(order), -1, *array.shape[1:])[list(order)].reshape(array.shape)


def _check_recurrent(layer):
    if layer.static is not None:
        raise NoModule("a static input has no place in a module; give it with the input at every step")
    if layer.projects:
        raise NoModule("its top is a product of the state; set output_product: false and add an InnerProduct")


def _ends(layer):
    """Return {prefix of parameters: end of keys} of each direction."""
    return {"": "", "reverse_": "_reverse"} if layer.both else {"": ""}


def _write_recurrent(layer, arrays):
    _check_recurrent(layer)
    found = {}
    for prefix, end in _ends(layer).items():
        bias = arrays[f"{prefix}bias"]
        for name, array in (("weight_ih", arrays[f"{prefix}weight"]),
                            ("weight_hh", arrays[f"{prefix}recurrent_weight"]), ("bias_ih", bias),
                            ("bias_hh", arrays.get(f"{prefix}recurrent_bias", np.zeros_like(bias)))):
            found[f"{name}_l0{end}"] = _ordered(layer, array)
    return found


def _read_recurrent(layer, arrays):
    _check_recurrent(layer)
    found = {}
    for prefix, end in _ends(layer).items():
        weight, recurrent, bias, state = (_ordered(layer, arrays[f"{name}_l0{end}"]) for name in (
            "weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        found |= {f"{prefix}weight": weight, f"{prefix}recurrent_weight": recurrent}
        # Where the layer has one bias, it is the sum of both.
        found |= ({f"{prefix}bias": bias, f"{prefix}recurrent_bias": state} if layer.state_biases else
                  {f"{prefix}bias": bias + state})
    return found


for _type in _ORDERS:
    _forms.register(_type)(Form(_type, _write_recurrent, _read_recurrent))


def refuse_bias(key: str, bias: np.ndarray) -> None:
    """Raise SnapshotError for a bias other than 0 where the Scale behind a BatchNorm has none."""
    if np.any(bias):
        raise SnapshotError(f"{key}: the Scale behind the BatchNorm has no bias, but this is not 0; set "
                            f"bias_term: true in its scale_param")
