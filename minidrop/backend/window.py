"""Window: what convolution and pooling slide over the spatial axes of images (N, C, *spatial)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minidrop.errors import ShapeError


@dataclass(frozen=True)
class Window:
    """A window with one number for each spatial axis.

    size: its entries. stride: the distance of two places. pad: the zeros put around the image, on each side.
    dilation: the distance of two neighbouring entries.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, size: tuple[int, ...], stride: int = 1, pad: int = 0, dilation: int = 1) -> Window:
        """Return a Window whose other numbers are the same for every axis."""
        return cls(tuple(size), *((number,) * len(size) for number in (stride, pad, dilation)))

    @property
    def reach(self) -> tuple[int, ...]:
        """The extent of the window on each axis, holes included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))

    @property
    def entries(self) -> int:
        """The number of entries."""
        return math.prod(self.size)

    @property
    def is_point(self) -> bool:
        """Whether it reads each entry of an image once, and nothing else: 1 x 1 without stride or pad."""
        return self.entries == 1 and not any(self.pad) and all(s == 1 for s in self.stride)

    def places(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of places on each axis, rounded down: a window lies inside the padded image."""
        return tuple((n + 2 * p - r) // s + 1 for n, p, r, s
                     in zip(spatial, self.pad, self.reach, self.stride, strict=True))

    def fitting(self, spatial: tuple[int, ...], places: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return the number of places on each axis, by default `places`; ShapeError if there is none."""
        found = self.places(spatial) if places is None else places
        if min(found, default=1) < 1:
            raise ShapeError(f"a window of {self.reach} with pad {self.pad} does not fit into images of "
                             f"{tuple(spatial)}")
        return found

    def spread(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the smallest image with so many places: the inverse of `places`."""
        return tuple(s * (n - 1) + r - 2 * p for n, p, r, s
                     in zip(places, self.pad, self.reach, self.stride, strict=True))

    def with_axis(self) -> Window:
        """Return the same window for images with one more spatial axis, of length 1, before the others."""
        return Window((1, *self.size), (1, *self.stride), (0, *self.pad), (1, *self.dilation))
