"""Crop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Crop")
class Crop(Layer):
    """Cuts its first bottom from `axis` on to the lengths of its second one.

    Each piece begins at an `offset`: one for all axes, or one for each. No gradient passes to the second.
    """

    bottoms = (2, 2)

    def setup(self, shape: tuple[int, ...], reference: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = self.along = checked_axis(self.settings.axis, len(shape))
        count, offsets = len(shape) - self.axis, list(self.settings.offset)
        if len(offsets) not in (0, 1, count):
            raise ConfigError(f"expected no offset, one, or one for each of the {count} axes from axis "
                              f"{self.axis} on, got {len(offsets)}")
        if len(reference) < len(shape):
            raise ShapeError(f"expected a second bottom of at least {len(shape)} axes, got "
                             f"{tuple(reference)}")
        self.offsets = offsets * count if len(offsets) == 1 else offsets or [0] * count
        lengths = tuple(reference[self.axis:len(shape)])
        for axis, (offset, length) in enumerate(zip(self.offsets, lengths, strict=True), self.axis):
            if offset + length > shape[axis]:
                raise ShapeError(f"axis {axis} has {shape[axis]} entries, too few for {length} from number "
                                 f"{offset} on")
        return [tuple(shape[:self.axis]) + lengths]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [*(Pass(axis=axis, keeps_zero=True) for axis in range(self.axis)), Pass(1, None)]

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        return functions.crop(x, self.axis, self.offsets, reference.shape[self.axis:x.ndim])
