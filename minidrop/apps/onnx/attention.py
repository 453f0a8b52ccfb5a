"""Layers of transformers: attention, and where a step stands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop import functions
from minidrop.apps.onnx.writer import LayerWriter, NotExportable, Shape, exports, fixed

_HIDDEN = -1e30             # the score of a key that is not read; its exponential is 0


@exports("Attention")
def attention(to: LayerWriter, layer: Any, q: str, k: str, v: str, key_mask: str = "") -> str:
    if layer.cache:
        raise NotExportable("cache: it goes on from pass to pass; set cache to 0 and give whole sequences")
    queries, keys = (fixed(shape[:1], "steps")[0] for shape in to.bottoms[:2])
    size = fixed(to.bottoms[0][2:])[0] // layer.heads
    scale = layer.scale if layer.scale is not None else 1 / math.sqrt(size)
    q, k, v = (_heads(to, x, shape, layer.heads, perm) for x, shape, perm in zip(
        (to.affine(q, scale), k, v), to.bottoms[:3], ((1, 2, 0, 3), (1, 2, 3, 0), (1, 2, 0, 3)), strict=True))
    scores = to("MatMul", q, k)             # (samples, heads, queries, keys)
    reads = _read_keys(to, layer.causal, queries, keys, key_mask)
    if reads:
        scores = to("Where", reads, scores, to.constant(_HIDDEN))
    shares = to("Softmax", scores, axis=3)
    if reads and (key_mask or keys < queries):      # a query that reads no key gives 0
        shares = to("Where", reads, shares, to.constant(0))
    y = to("Transpose", to("MatMul", shares, v), perm=[2, 0, 1, 3])
    return to("Reshape", y, to.integers(0, 0, -1))


def _heads(to, x, shape, heads, perm):
    """Return x (steps, samples, heads * size) with an axis of heads, its axes in another order."""
    units = fixed(shape[2:])[0]
    return to("Transpose", to.reshape(x, shape, (*shape[:2], heads, units // heads)), perm=perm)


def _read_keys(to, causal, queries, keys, key_mask):
    """Return whether queries read keys, which broadcasts to the scores; "" where all read all."""
    found = []
    if causal:
        places = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
        found.append(to.constant(places, "causal", bool))
    if key_mask:
        found.append(to.unsqueeze(to("Transpose", to.booleans(key_mask), perm=[1, 0]), 1, 2))
    return to("And", *found) if len(found) == 2 else found[0] if found else ""


def _steps(layer: Any, shape: Shape) -> int:
    """Return how many steps a sequence has; raises NotExportable where they count on from pass to pass."""
    if layer.settings.continues:
        raise NotExportable("continues: it counts on from pass to pass; set continues to false and give "
                            "whole sequences")
    return fixed(shape[:1], "steps")[0]


@exports("Position")
def position(to: LayerWriter, layer: Any, x: str) -> str:
    steps = _steps(layer, to.bottoms[0])
    if layer.learned:
        table = to.parameter("weight", (layer.most, 1, layer.units))
        if layer.most > steps:
            table = to.slice(table, 0, 0, steps)
    else:
        backend = layer.context.backend
        angles = functions.step_angles(backend, 0, steps, layer.units, layer.base)
        table = to.constant(functions.sinusoids(backend, angles, layer.units, np.float64)[:, None],
                            "positions")
    return to("Add", x, table)


@exports("Rotary")
def rotary(to: LayerWriter, layer: Any, x: str) -> str:
    steps, shape = _steps(layer, to.bottoms[0]), to.bottoms[0]
    angles = functions.step_angles(layer.context.backend, 0, steps, layer.size, layer.base)[:, None, None]
    cosine, sine = to.constant(np.cos(angles), "cosine"), to.constant(np.sin(angles), "sine")
    heads = to.reshape(x, shape, (*shape[:2], layer.heads, layer.size))
    a, b = to.several("Split", 2, heads, axis=3, num_outputs=2)
    turned = [to("Sub", to("Mul", a, cosine), to("Mul", b, sine)),
              to("Add", to("Mul", b, cosine), to("Mul", a, sine))]
    return to("Reshape", to("Concat", *turned, axis=3), to.integers(0, 0, -1))
