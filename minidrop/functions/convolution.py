"""Convolution and its transpose, computed only for the channels that draws keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidrop.autograd import Block, Blocks, Function, Tensor
from minidrop.backend.window import Window
from minidrop.errors import CaptureError, KeptError, ShapeError, in_short
from minidrop.functions.checks import WHOLE, check_bias
from minidrop.functions.conversion import of_one_dtype
from minidrop.functions.dropout import expand
from minidrop.functions.groups import by_groups
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.backend import Backend


class _Part(NamedTuple):
    """A run of an axis of channels that is cut into equal groups: group `number` of them.

    bounds: where its entries lie in the compact axis; None: all of it. kept: which of its own it has.
    """

    number: int
    bounds: tuple[int, int] | None
    kept: Kept | None


class _Sliding(Function):
    """What Convolution and Deconvolution share: y = scale * f(sum of windows + b), channels on `axis`.

    A convolution maps the columns of W (rows, columns / groups, *size) to its rows, and its transpose the
    rows to the columns. Axes before that of the channels are images of their own.
    """

    __slots__ = ("window", "axis", "groups", "out_kept", "activation", "scale", "factor", "x", "y", "shape",
                 "lead", "work", "W_shape")
    kept_rule = "native"

    def __init__(self, window: Window, groups: int = 1, axis: int = 1, out_kept: Kept | None = None,
                 activation: str = "none", scale: float = 1.0):
        self.window, self.groups, self.axis, self.out_kept = window, groups, axis, out_kept
        self.activation, self.scale = activation, scale
        # Of gy, where nothing but the scale stands between: multiplying what is smaller costs less.
        self.factor = scale if activation == "none" else 1.0

    def _images(self, x, channels):
        """Return x as (N, C, *spatial), and its kept set; raises ShapeError unless it has `channels`."""
        kept, at = self.input_kept[0]
        if kept is not None and at % x.ndim != self.axis:
            raise KeptError(f"convolution: x of shape {x.shape} carries a kept set on axis {at}; only the "
                            f"axis of the channels, {self.axis}, can; call functions.expand on it first")
        found = x.shape[self.axis] if kept is None else kept.total
        if found != channels:
            raise ShapeError(f"convolution: x has {found} channels, but W expects {channels}")
        self.lead, self.shape = x.shape[:self.axis], x.shape
        return x.reshape(math.prod(self.lead), *x.shape[self.axis:]), kept

    def _choose(self, backend, W, rows_kept, columns_kept):
        """Store the products of the groups, each (part of the rows, part of the columns, its own filters)."""
        self.W_shape, self.work = W.shape, []
        per_group = len(W) // self.groups
        for rows, columns in zip(_parts(rows_kept, len(W), self.groups),
                                 _parts(columns_kept, W.shape[1] * self.groups, self.groups), strict=True):
            own = W if self.groups == 1 else W[rows.number * per_group:(rows.number + 1) * per_group]
            own = backend.take(backend.take(own, rows.kept, 0), columns.kept, 1)
            self.work.append((rows, columns, own))

    def _weight_gradient(self, backend, gradients, dtype):
        """Return the gradient of W from that of the filters of each group, matrices."""
        rows, columns, _ = self.work[0]
        gradients = [backend.scaled(gradient, self.factor) for gradient in gradients]
        if self.groups == 1:
            return Block(gradients[0], rows.kept, _spread(columns.kept, self.window))
        if all(part.kept is None for work in self.work for part in work[:2]):
            return backend.concatenate(gradients, 0).reshape(self.W_shape)
        width = self.W_shape[0] // self.groups
        return Blocks([Block(gradient, _placed(rows, width, self.W_shape[0]),
                             _spread(columns.kept, self.window))
                       for gradient, (rows, columns, _) in zip(gradients, self.work, strict=True)
                       if gradient.size], dtype)

    def _added(self, backend, y, b):
        """Return scale * f(y + b), in place: where the sums of windows are computed without them."""
        if b is not None:
            y += backend.take(b, self.out_kept, 0).reshape(-1, *(1,) * (y.ndim - 2))
        plain = self.activation == "none" and self.scale == 1
        return y if plain else backend.activate(y, None, self.activation, self.scale, out=y)

    def _finish(self, x, y):
        """Store what backward needs of images x and y, and return y with the axes of x."""
        self.output_kept = self.out_kept, self.axis
        self.x, self.y = x, None if self.activation == "none" else y
        return y.reshape(*self.lead, *y.shape[1:])

    def _incoming(self, backend, gy):
        """Return gy as images, before the activation and its scale; see `factor`."""
        gy = backend.xp.ascontiguousarray(gy).reshape(math.prod(self.lead), *gy.shape[self.axis:])
        return gy if self.y is None else backend.activate_gradient(gy, self.y, self.activation, self.scale)

    def _image_gradient(self, backend, wanted):
        """Return room for the gradient of the images x, or None."""
        return backend.empty(self.x.shape, self.x.dtype) if wanted[0] else None

    def _outgoing(self, backend, gx, gW, gy, wanted):
        """Return the gradients of x, W and, if there is one, b; gy: of y as images."""
        gb = None
        if len(wanted) > 2 and wanted[2]:
            flat = gy.reshape(*gy.shape[:2], math.prod(gy.shape[2:]))
            gb = Block(backend.scaled(backend.channel_sums(flat), self.factor), self.out_kept)
        return (None if gx is None else gx.reshape(self.shape), gW, gb)[:len(wanted)]


class Convolution(_Sliding):
    """y = scale * f(b[o] + sum over c, k of W[o, c, k] x[n, c, p * stride + k * dilation - pad]).

    x (N, C, *spatial), W (O, C / groups, *size), b (O,) -> y (N, O, *places), see `Window.places`. Output
    channels of a group read the input channels of the same one. If x carries a kept set of channels, only
    those of W are read; if `out_kept` is given, only those outputs are computed, and y carries it. Raises
    ShapeError.
    """

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray,
                b: np.ndarray | None = None) -> np.ndarray:
        x, in_kept = self._images(x, W.shape[1] * self.groups)
        self._choose(backend, W, self.out_kept, in_kept)
        outputs = len(W) if self.out_kept is None else self.out_kept.count
        y = backend.empty((len(x), outputs, *self.window.fitting(x.shape[2:])), x.dtype)
        b = None if b is None else backend.take(b, self.out_kept, 0)
        relu = self.activation == "relu"
        scale = self.scale if relu or self.activation == "none" else 1
        for rows, columns, own in self.work:
            bias = b if b is None or rows.bounds is None else b[slice(*rows.bounds)]
            backend.convolve(x, own, bias, self.window, y, columns.bounds, rows.bounds, relu, scale)
        if self.activation not in ("none", "relu"):
            backend.activate(y, None, self.activation, self.scale, out=y)
        return self._finish(x, y)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gy, gx = self._incoming(backend, gy), self._image_gradient(backend, wanted)
        x = self.x if wanted[1] else None
        gradients = [backend.convolve_gradients(x, backend.scaled(own, self.factor), gy, self.window, gx,
                                                columns.bounds, rows.bounds, wanted[1])
                     for rows, columns, own in self.work] if wanted[0] or wanted[1] else []
        gW = self._weight_gradient(backend, gradients, gy.dtype) if wanted[1] else None
        return self._outgoing(backend, gx, gW, gy, wanted)


class Deconvolution(_Sliding):
    """y = scale * f(b[c] + sum of W[o, c, k] x[n, o, p] over o and all k, p that meet at the place of y).

    The transpose of `Convolution`: x (N, O, *places), W (O, C / groups, *size), b (C,) -> y (N, C, *spatial):
    `Window.spread`. Kept sets as there. Raises ShapeError.
    """

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray,
                b: np.ndarray | None = None) -> np.ndarray:
        x, in_kept = self._images(x, len(W))
        self._choose(backend, W, in_kept, self.out_kept)
        outputs = W.shape[1] * self.groups if self.out_kept is None else self.out_kept.count
        y = backend.empty((len(x), outputs, *self.window.spread(x.shape[2:])), x.dtype)
        for rows, columns, own in self.work:
            backend.convolve_gradients(None, own, x, self.window, y, columns.bounds, rows.bounds, False)
        return self._finish(x, self._added(backend, y, b))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gy, gx, gradients = self._incoming(backend, gy), self._image_gradient(backend, wanted), []
        for rows, columns, own in self.work:
            if wanted[0]:
                backend.convolve(gy, backend.scaled(own, self.factor), None, self.window, gx, columns.bounds,
                                 rows.bounds)
            if wanted[1]:
                gradients.append(backend.convolve_gradients(gy, own, self.x, self.window, None,
                                                            columns.bounds, rows.bounds))
        gW = self._weight_gradient(backend, gradients, gy.dtype) if wanted[1] else None
        return self._outgoing(backend, gx, gW, gy, wanted)


class Depthwise(_Sliding):
    """A Convolution with a group for each input channel: W (C m, 1, *size), m outputs for each channel.

    If x carries a kept set of channels, y carries the same, each entry spread over its m outputs.
    """

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray,
                b: np.ndarray | None = None) -> np.ndarray:
        x, kept = self._images(x, self.groups)
        self.out_kept = None if kept is None else kept.spread(len(W) // self.groups)
        own = backend.take(W, self.out_kept, 0)
        y = backend.empty((len(x), len(own), *self.window.fitting(x.shape[2:])), x.dtype)
        backend.convolve_each(x, own, self.window, y)
        self.work = own
        return self._finish(x, self._added(backend, y, b))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gy, gx, gW = self._incoming(backend, gy), self._image_gradient(backend, wanted), None
        if wanted[0]:
            backend.convolve_each_image_gradient(backend.scaled(self.work, self.factor), gy, self.window, gx)
        if wanted[1]:
            gradient = backend.convolve_each_weight_gradient(self.x, gy, self.window)
            gW = Block(backend.scaled(gradient, self.factor), self.out_kept)
        return self._outgoing(backend, gx, gW, gy, wanted)


def _parts(kept: Kept | None, total: int, groups: int) -> Iterator[_Part]:
    """Yield the _Part of each of `groups` equal runs of an axis."""
    width = total // groups
    if groups == 1:
        yield _Part(0, None, None if kept is None or kept.is_all else kept)
        return
    if kept is None or kept.is_all:
        for i in range(groups):
            yield _Part(i, (i * width, (i + 1) * width), None)
        return
    if kept.on_device:
        raise CaptureError(f"{kept}: which channels of each group live is known to the device alone")
    ends = np.searchsorted(kept.indices, np.arange(groups + 1) * width).tolist()
    for i in range(groups):
        yield _Part(i, (ends[i], ends[i + 1]), Kept.of(kept.indices[ends[i]:ends[i + 1]] - i * width, width))


def _placed(part: _Part, width: int, total: int) -> Kept:
    """Return what a part keeps as entries of the whole axis."""
    first = part.number * width
    own = np.arange(width) if part.kept is None else part.kept.indices
    return Kept.of(own + first, total)


def _spread(kept: Kept | None, window: Window) -> Kept | None:
    """Return which columns of W as a matrix belong to the kept channels."""
    return None if kept is None else kept.spread(window.entries)


def _sliding(kind: type[_Sliding], x: Tensor, W: Tensor, b: Tensor | None, window: Window, groups: int,
             axis: int, out_kept: Any, activation: str, scale: float) -> Tensor:
    """Apply a function of sliding windows; where groups of samples keep other channels, to each of them."""
    rest = (W,) if b is None else (W, b)
    in_kept = x.kept if isinstance(x.kept, KeptByGroup) else None
    grouped = out_kept if isinstance(out_kept, KeptByGroup) else None
    if in_kept is not None and (axis != 1 or grouped is not None and len(grouped.sets) != len(in_kept.sets)):
        x, in_kept = expand(x), None
    shared = in_kept if grouped is None else grouped
    if shared is None:
        return kind(window, groups, axis, out_kept, activation, scale).apply(x, *rest)

    def work(own, part):
        kept = out_kept if grouped is None else own
        return kind(window, groups, axis, kept, activation, scale).apply(part, *rest)

    if grouped is None and kind is Depthwise:
        return by_groups(work, (x,), shared, axis - 1, shared.spread(len(W.data) // groups))
    return by_groups(work, (x,), shared, axis - 1, grouped)


def _operands(what, x, W, b, axis, groups):
    """Return x, W and b as tensors of one dtype; raises ShapeError unless x has W's axes behind `axis`.

    Also unless W falls into `groups`.
    """
    x, W, b = of_one_dtype(x, W, b)
    if W.ndim < 3 or x.ndim != axis + W.ndim - 1:
        raise ShapeError(f"{what}: expected filters W (outputs, inputs, *size) and x with as many axes of "
                         f"places behind the channels, axis {axis}, got W of shape {W.shape} and x of shape "
                         f"{x.shape}")
    if not isinstance(groups, WHOLE) or groups < 1 or W.shape[0] % groups:
        raise ShapeError(f"{what}: expected groups that divide the {W.shape[0]} filters of W, got "
                         f"{in_short(groups)}")
    return x, W, b


def convolution(x: Tensor, W: Tensor, b: Tensor | None = None, window: Window | None = None, groups: int = 1,
                axis: int = 1, out_kept: Kept | KeptByGroup | None = None, activation: str = "none",
                scale: float = 1.0) -> Tensor:
    """Return scale * f(the convolution of x (N, C, *spatial) with W (O, C / groups, *size), plus b).

    window: its stride, pad and dilation (none unless given). axis: that of the channels. out_kept: the output
    channels to compute (a KeptByGroup: other ones for each group of samples). See `Convolution`; with a group
    for each input channel, `Depthwise`.
    """
    x, W, b = _operands("convolution", x, W, b, axis, groups)
    check_bias("convolution", b, W.shape[0])
    window = window or Window.of(W.shape[2:])
    kind = Depthwise if W.shape[1] == 1 and groups > 1 and out_kept is None else Convolution
    return _sliding(kind, x, W, b, window, groups, axis, out_kept, activation, scale)


def deconvolution(x: Tensor, W: Tensor, b: Tensor | None = None, window: Window | None = None,
                  groups: int = 1, axis: int = 1, out_kept: Kept | KeptByGroup | None = None,
                  activation: str = "none", scale: float = 1.0) -> Tensor:
    """Return scale * f(the transposed convolution of x (N, O, *places), plus b).

    W (O, C / groups, *size); the other arguments as those of `convolution`. See `Deconvolution`.
    """
    x, W, b = _operands("deconvolution", x, W, b, axis, groups)
    check_bias("deconvolution", b, W.shape[1] * groups)
    window = window or Window.of(W.shape[2:])
    return _sliding(Deconvolution, x, W, b, window, groups, axis, out_kept, activation, scale)


class Im2col(Function):
    """y[n, (c, k), p] = x[n, c, p * stride + k * dilation - pad]: the windows of images as channels.

    A kept set of channels is passed on, each as the run of its entries.
    """

    __slots__ = ("window", "shape")
    kept_rule = "native"

    def __init__(self, window: Window):
        self.window = window

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        kept, axis = self.input_kept[0]
        if kept is not None and axis % x.ndim != 1:
            raise KeptError(f"im2col would mix the entries of {kept} on axis {axis}; call functions.expand "
                            f"on it first")
        self.shape = x.shape
        self.output_kept = None if kept is None else kept.spread(self.window.entries), 1
        places = self.window.fitting(x.shape[2:])
        columns = backend.columns(x, self.window).reshape(x.shape[1] * self.window.entries, len(x), *places)
        return backend.xp.ascontiguousarray(backend.xp.moveaxis(columns, 1, 0))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        gx = backend.empty(self.shape, gy.dtype)
        columns = backend.xp.ascontiguousarray(backend.xp.moveaxis(gy, 1, 0))
        backend.add_columns(columns, self.window, gx)
        return gx


def im2col(x: Tensor, window: Window) -> Tensor:
    """Return the windows of x (N, C, *spatial) as channels (N, C * entries, *places); see `Im2col`.

    Raises ShapeError for a window of other axes.
    """
    if x.ndim != 2 + len(window.size):
        raise ShapeError(f"im2col: a window of {len(window.size)} axes slides over x (N, C, *spatial), got x "
                         f"of shape {x.shape}")
    return Im2col(window).apply(x)
