"""Sites: what a pattern drops or keeps as one, in a row: units, weights, tiles of weights, or blocks of
activations."""

from functools import cached_property
from math import prod
from typing import Any

import numpy as np


class Sites:
    """The sites of a family on an axis of `units`; for a family of weights, of a product units x inputs.

    what: their name in tables, a plural; drops: what the family drops, "units", "weights" or "blocks". sides:
    how long the pieces of each axis are, see `pieces`; None where each unit or weight is a site. shape,
    count: how many sites there are along each axis, and in all; total: how many units or weights they have
    together.
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
        """The (count,) units or weights in each site, row by row; None where it is one in each."""
        if self.sides is None:
            return None
        sizes = self.sides[0]
        for side in self.sides[1:]:
            sizes = np.multiply.outer(sizes, side)
        return sizes.ravel()


def pieces(size: int, total: int) -> np.ndarray:
    """Return the lengths of the pieces of `size` that `total` falls into; the last may be shorter."""
    return np.diff(np.r_[np.arange(0, total, size), total])
