"""What Layerwise keeps: the run of a layer, arrays that a script holds, gradients of a pass of the net."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from minidrop.autograd import Tensor
from minidrop.net.graph import BlobRef, Node

if TYPE_CHECKING:
    from minidrop.layers.given import NodeDraw
    from minidrop.net.net import Net
    from minidrop.net.run import Run


@dataclass
class Call:
    """One run of a layer: what it read, wrote, drew, and its recurrent states before."""

    bottoms: list[Tensor]
    tops: tuple[Tensor, ...]
    drawn: NodeDraw
    state: dict
    spent: bool = False         # its functions, which serve one pass backward, have run backward


class HeldArrays:
    """The arrays of blobs that were given out, as long as somebody holds them.

    A pass writes what a blob holds next to the same array where the shape stays, as in Caffe. What nobody
    holds costs nothing, but for arrays that are views themselves, e.g. of what a Reshape reads: a view of one
    holds what is below it, so that nobody knows whether there are any.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Callable[[], Any]] = {}

    def give(self, name: str, array: Any) -> Any:
        """Return the array of a blob, which is given out."""
        is_view = isinstance(array.base, type(array))
        self._arrays[name] = (lambda: array) if is_view else weakref.ref(array)
        return array

    @property
    def names(self) -> list[str]:
        """The blobs whose array somebody holds, or may hold."""
        self._arrays = {name: array for name, array in self._arrays.items() if array() is not None}
        return list(self._arrays)

    def put(self, name: str, tensor: Tensor, used: Iterable[Call]) -> Tensor:
        """Return a tensor with its values in the held array of a blob, or itself if there is none that fits.

        used: runs of layers whose bottoms are still needed, and not written to.
        """
        held = self._arrays.get(name)
        array: Any = held() if held else None
        new = tensor.data
        if array is None or array is new:
            return tensor
        if (array.shape, array.dtype) != (new.shape, new.dtype):
            self._arrays[name] = weakref.ref(array)
            return tensor
        overlap = tensor.backend.xp.may_share_memory
        if not getattr(array.flags, "writeable", True) or overlap(array, new) or any(
                overlap(array, bottom.data) for call in used for bottom in call.bottoms):
            return tensor
        with tensor.backend.active():
            array[...] = new
        return Tensor(array, tensor.requires_grad, tensor.backend)


class BlobGradients:
    """The gradients of the blobs of a Run, as it hands them on when it goes backward, times a scale.

    Of a blob that layers change in place that is the one below them.
    """

    def __init__(self, run: Run, scale: float = 1.0):
        self._scale = scale
        self._tensors: dict[str, Tensor] = {}
        self._found: dict[int, tuple] = {}      # by the id of the function
        for ref in sorted(run.tensors):
            self._tensors.setdefault(ref.name, run.tensors[ref])
        for tensor in self._tensors.values():
            if tensor.creator is None:          # an input, whose gradient backward leaves in it
                tensor.clear_grad()
        for function in {id(tensor.creator): tensor.creator for tensor in self._tensors.values()
                         if tensor.creator is not None}.values():
            function.watch_backward(self._watch(function))

    def _watch(self, function):
        def watch(backward):
            def watched(backend, gy, wanted):
                self._found[id(function)] = gy if isinstance(gy, tuple) else (gy,)
                return backward(backend, gy, wanted)
            return watched
        return watch

    def of(self, name: str) -> Any:
        """Return the gradient of a blob as an array of its own; None if none reached it."""
        tensor = self._tensors.get(name)
        found = self._found.get(id(tensor.creator)) if tensor is not None else None
        if tensor is not None and tensor.creator is None and tensor.grad is not None:      # of an input
            with tensor.backend.active():
                return tensor.grad / tensor.dtype.type(self._scale)
        if tensor is None or found is None or found[tensor.output_index] is None:
            return None
        with tensor.backend.active():
            whole = tensor.backend.expand(found[tensor.output_index], tensor.kept, tensor.kept_axis)
            return whole / whole.dtype.type(self._scale)


def changed_by(nodes: Sequence[Node], every: Sequence[Node]) -> list[int]:
    """Return the numbers of these nodes of a net and of those behind them, which read other values then."""
    found = {node.index for node in nodes}
    changed: set[str] = set()
    for node in every:
        if node.index in found or not changed.isdisjoint(ref.name for ref in node.bottoms):
            found.add(node.index)
            changed.update(ref.name for ref in node.tops)
    return sorted(found)


def compute_apart(net: Net) -> None:
    """Let passes of the net compute each layer by itself, so that each blob has a gradient; the same bits."""
    net.mode = replace(net.mode, fused=False)


def trained_blobs(net: Net) -> set[BlobRef]:
    """Return the blobs below which there is something to train, or data where force_backward is set."""
    found: set[BlobRef] = set()
    for node in net.graph.nodes:
        read = [ref for i, ref in enumerate(node.bottoms) if i not in net.detached.get(node.index, ())]
        if (any(parameter.requires_grad for parameter in node.layer.params.values())
                or found.intersection(read) or net.force_backward and node.layer.is_data):
            found.update(node.tops)
    return found
