"""What a convolution_param says of a window, and the base class of the layers that slide one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minidrop.backend.window import Window
from minidrop.config import is_repeated
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, ParameterSpec, checked_axis
from minidrop.layers.flow import Pass, Product

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from minidrop.autograd.tensor import Tensor


def window_of(settings: Message, axes: int) -> Window:
    """Return the Window of a ConvolutionParameter for images with `axes` spatial axes. Raises ConfigError."""
    size = window_numbers(settings, "kernel_size", ("kernel_h", "kernel_w"), axes)
    if size is None:
        raise ConfigError("convolution_param needs kernel_size, at least 1")
    stride = window_numbers(settings, "stride", ("stride_h", "stride_w"), axes, 1)
    pad = window_numbers(settings, "pad", ("pad_h", "pad_w"), axes, 0)
    dilation = window_numbers(settings, "dilation", (), axes, 1)
    for name, numbers in (("kernel_size", size), ("stride", stride), ("dilation", dilation)):
        if min(numbers, default=1) < 1:
            raise ConfigError(f"{name} must be at least 1 on every axis, got {list(numbers)}")
    return Window(size, stride, pad, dilation)


def window_numbers(settings: Message, name: str, parts: tuple[str, ...], axes: int,
                   default: int | None = None) -> Any:
    """Return one number for each spatial axis, of a field or of its _h and _w forms; else `default`, or None.

    The field may be repeated: it is given once for all axes, or once for each. Raises ConfigError.
    """
    field = settings.DESCRIPTOR.fields_by_name[name]
    given = (list(getattr(settings, name)) if is_repeated(field)
             else [getattr(settings, name)] * settings.HasField(name))
    own = [part for part in parts if settings.HasField(part)]
    if own:
        if given:
            raise ConfigError(f"{name} and {own[0]} are both given; keep one")
        if axes != 2:
            raise ConfigError(f"{' and '.join(parts)} are for images with two spatial axes, and these have "
                              f"{axes}; use {name}")
        if default is None and len(own) < 2:
            other = next(part for part in parts if part not in own)
            raise ConfigError(f"{own[0]} is given without {other}; give both, or {name}")
        return tuple(getattr(settings, part) if part in own else default for part in parts)
    if len(given) not in (0, 1, axes):
        raise ConfigError(f"{name} is given {len(given)} times; expected once, or once for each of the "
                          f"{axes} spatial axes")
    if not given and default is None:
        return None
    return tuple(given or [default]) * (1 if len(given) == axes else axes)


class SlidingLayer(Layer):
    """Base class of the layers with convolution_param: axis, window, images of one shape.

    `setup` of a subclass calls `read` first. Any axes before that of the channels count as images.
    """

    def read(self, shape: tuple[int, ...]) -> None:
        """Store axis, channels, spatial shape and window for a bottom. Raises ConfigError or ShapeError."""
        self.axis = checked_axis(self.settings.axis, len(shape))
        if self.axis == 0:
            raise ConfigError("axis 0 is the batch; expected 1 or more")
        self.channels, self.spatial = shape[self.axis], tuple(shape[self.axis + 1:])
        self.window = window_of(self.settings, len(self.spatial))
        if not self.spatial:
            raise ShapeError(f"bottom of shape {tuple(shape)} has no axis behind that of the channels, "
                             f"{self.axis}, that a window could slide over")
        if not self.channels:
            raise ShapeError(f"bottom of shape {tuple(shape)} has no channels on axis {self.axis}")

    def fitting_places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the places of the window in the bottom; raises ShapeError if there are none."""
        places = self.window.places(self.spatial)
        if min(places) < 1:
            padded = tuple(n + 2 * p for n, p in zip(self.spatial, self.window.pad, strict=True))
            raise ShapeError(f"a window of {_by(self.window.reach)} does not fit into the bottom of shape "
                             f"{tuple(shape)}, whose padded images are {_by(padded)}; make kernel_size or "
                             f"dilation smaller, or pad larger")
        return places


class ConvolutionLayer(SlidingLayer):
    """Base class of Convolution and Deconvolution: num_output, group, weights and bias, and their flow.

    `forward` stands beside `flow`, which promises what it does: see `Node.is_own_word`.
    """

    function: Callable[..., Tensor]     # of `functions`: what forward computes of each bottom
    weight_rows = "outputs"             # which side the rows of the weights count

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        shape, settings = shapes[0], self.settings
        for other in shapes[1:]:
            if tuple(other) != tuple(shape):
                raise ShapeError(f"bottoms of one shape expected, got "
                                 f"{', '.join(str(tuple(s)) for s in shapes)}")
        self.outputs, self.groups = settings.num_output, settings.group
        if not self.outputs:
            raise ConfigError("convolution_param needs num_output, at least 1")
        self.read(shape)
        if not self.groups or self.channels % self.groups or self.outputs % self.groups:
            raise ConfigError(f"group {self.groups} divides the channels into equal runs, but there are "
                              f"{self.channels} inputs and {self.outputs} outputs; it has to divide both")
        self.places = self.places_of(shape)
        return [tuple(shape[:self.axis]) + (self.outputs, *self.places)] * len(shapes)

    def places_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the spatial shape of the tops."""
        raise NotImplementedError

    @property
    def each_alone(self) -> bool:
        """Whether every input channel has outputs of its own, and passes on whether it is there."""
        return self.weight_rows == "outputs" and self.groups == self.channels > 1

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        rows, columns = self.outputs, self.channels
        if self.weight_rows == "inputs":
            rows, columns = columns, rows
        shape = (rows, columns // self.groups, *self.window.size)
        specs = [ParameterSpec("weight", shape, settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (self.outputs,), settings.bias_filler))
        return specs

    def flow(self, shapes: list[tuple[int, ...]]) -> list:
        facts: list = []
        for number, shape in enumerate(shapes):
            facts += [Pass(number, number, axis, compact=False) for axis in range(self.axis)]
            facts.append(self._product(number, shape))
            if self.each_alone:
                facts.append(Pass(number, number, self.axis, spread=self.outputs // self.channels,
                                  keeps_zero=not self.settings.bias_term))
        return facts

    def _product(self, number, shape):
        """Return the Product of a bottom; one of single channels is too small to leave anything out."""
        rows = math.prod(shape[:self.axis]) * math.prod(self.multiplied)
        kinds = () if self.each_alone else ("units", "groups")
        axes = (0, 1) if self.weight_rows == "outputs" else (1, 0)
        return Product("weight", rows, self.channels // self.groups * self.window.entries, self.outputs,
                       number, self.axis, number, self.axis, kinds,
                       weight_axes=axes if self.groups == 1 else None,
                       biases=("bias",) * self.settings.bias_term, epilogue=not self.each_alone)

    def forward(self, *bottoms: Tensor) -> Any:
        below = self.drawn.outputs
        scale = below.scale if below.kept is not None and self.plan.scales else 1.0
        tops = [self.function(x, self.params["weight"], self.params.get("bias"), self.window, self.groups,
                              self.axis, below.kept, self.plan.activation, scale) for x in bottoms]
        return tops[0] if len(tops) == 1 else tuple(tops)

    @property
    def multiplied(self) -> tuple[int, ...]:
        """The places at which the window is multiplied."""
        return self.places


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
