"""Sites: what a pattern drops or keeps as one: units, weights, tiles of weights, or blocks of activations."""

from functools import cached_property
from math import prod
from typing import Any

import numpy as np


class Sites:
    """The sites of a family on an axis of `units`; if it drops weights, on weights (units, inputs).

    what: their name in tables, a plural. drops: what the family drops, "units", "weights" or "blocks".
    sides: the lengths of the pieces along each axis, see `pieces`; None if each unit or weight is a site.
    shape, count: number of sites along each axis, and in all. total: number of units or weights in all sites.
    """

    def __init__(self, what: str, drops: str, units: int, inputs: Any = None,
                 sides: tuple[np.ndarray, ...] | None = None):
        self.what, self.drops, self.units, self.inputs = what, drops, units, inputs
        self.sides = sides
        axes = (units, inputs) if drops == "weights" else (units,)
        self.shape = axes if sides is None else tuple(side.size for side in sides)
        self.count, self.total = prod(self.shape), prod(axes)

    @cached_property
    def sizes(self) -> Any:
        """Number of units or weights in each site, (count,), row by row; None if each has one."""
        if self.sides is None:
            return None
        sizes = self.sides[0]
        for side in self.sides[1:]:
            sizes = np.multiply.outer(sizes, side)
        return sizes.ravel()


def pieces(size: int, total: int) -> np.ndarray:
    """Return the lengths of `total` split into pieces of `size`; the last may be shorter."""
    return np.diff(np.r_[np.arange(0, total, size), total])
