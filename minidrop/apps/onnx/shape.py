"""Layers that move entries and change none: shapes, pieces, copies, choices."""

from __future__ import annotations

from typing import Any

from minidrop.apps.onnx.writer import LayerWriter, exports, fixed, size_of


@exports("Reshape", "Flatten")
def reshape(to: LayerWriter, layer: Any, x: str, reference: str = "") -> str:
    return to.reshape(x, to.bottoms[0], to.tops[0])


@exports("Permute")
def permute(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Transpose", x, perm=layer.order)


@exports("Concat")
def concat(to: LayerWriter, layer: Any, *bottoms: str) -> str:
    return to("Concat", *bottoms, axis=layer.axis)


@exports("Slice")
def slice(to: LayerWriter, layer: Any, x: str) -> list[str]:
    count = len(to.tops)
    if not layer.settings.slice_point:
        return to.several("Split", count, x, axis=layer.axis, num_outputs=count)
    lengths = fixed(tuple(top[layer.axis] for top in to.tops), "pieces")
    return to.several("Split", count, x, to.integers(*lengths), axis=layer.axis)


@exports("Crop")
def crop(to: LayerWriter, layer: Any, x: str, reference: str) -> str:
    for axis, first in enumerate(layer.offsets, layer.axis):
        if to.tops[0][axis] != to.bottoms[0][axis]:
            length = size_of(to.tops[0][axis:axis + 1])
            x = to.slice(x, axis, first, first + length)
    return x


@exports("Tile")
def tile(to: LayerWriter, layer: Any, x: str) -> str:
    counts = [1] * len(to.bottoms[0])
    counts[layer.axis] = layer.tiles
    return to("Tile", x, to.integers(*counts))


@exports("Reduction")
def reduction(to: LayerWriter, layer: Any, x: str) -> str:
    op = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}
    y = to.reduce(op[layer.operation], x, range(layer.axis, len(to.bottoms[0])), keepdims=False)
    return to.affine(y, layer.coeff)


@exports("ArgMax")
def argmax(to: LayerWriter, layer: Any, x: str) -> str:
    shape, top_k, axis = to.bottoms[0], layer.settings.top_k, layer.axis
    if axis is None:
        x, axis, count = to("Flatten", x, axis=1), 1, size_of(shape[1:])
    else:
        count = size_of(shape[axis:axis + 1])
    # Of equal entries ONNX takes the first, and Caffe the last: so they are read from the end.
    turned = to("Slice", x, to.integers(-1), to.integers(-2**31), to.integers(axis), to.integers(-1))
    values, places = to.several("TopK", 2, turned, to.integers(top_k), axis=axis)
    places = to.affine(to.floats(places), -1, count - 1)
    if layer.axis is not None:
        return values if layer.settings.out_max_val else places
    both = [places, values] if layer.settings.out_max_val else [places]
    y = to("Concat", *(to.unsqueeze(one, 1) for one in both), axis=1)
    return to.unsqueeze(y, *range(3, len(to.tops[0])))


@exports("BatchReindex")
def batch_reindex(to: LayerWriter, layer: Any, x: str, index: str) -> str:
    return to("Gather", x, to.indices(index), axis=0)


@exports("Filter")
def filter_records(to: LayerWriter, layer: Any, *bottoms: str) -> list[str]:
    *blobs, selector = bottoms
    passes = to.booleans(to("Reshape", selector, to.integers(-1)))
    return [to("Compress", x, passes, axis=0) for x in blobs]
