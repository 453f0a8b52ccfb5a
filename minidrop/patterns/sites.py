"""Sites: what a pattern drops or keeps as one, in a row: units, tiles of weights, or blocks of activations."""

from dataclasses import replace

import numpy as np

from minidrop.patterns.block import block_units
from minidrop.patterns.tile import tile_size


class Sites:
    """The sites of a family on an axis of `units`; for a family of weights, of a product units x inputs.

    what: "units"; "tiles" of weights, counted row by row; or "blocks" of one group of samples.
    count: how many there are; sizes: (count,), the units or weights in each (less at the edges).
    """

    def __init__(self, family, units, inputs=None):
        self.units, self.inputs = units, inputs or units
        self.what = {"weights": "tiles", "blocks": "blocks"}.get(family.drops, "units")
        example = family.pattern(family.distribution.choices[0], 0)
        if self.what == "tiles":
            self.size = example.size or tile_size(self.inputs, example.columns)
            sizes = np.outer(_pieces(self.size, self.units), _pieces(self.size, self.inputs))
            self.rows, self.columns = sizes.shape
            self.sizes = sizes.ravel()
        elif self.what == "blocks":
            self.size = example.block_units or block_units(example.rate, units)
            self.sizes = _pieces(self.size, units)
        else:
            self.sizes = np.ones(units, dtype=np.int64)
        self.count = self.sizes.size

    def live(self, pattern):
        """Return the bool array (count,) of what lives under a pattern of the family."""
        if self.what == "tiles":
            return replace(pattern, size=1).weight_mask(self.rows, self.columns).astype(bool).ravel()
        kept = pattern.kept(self.units).mask(bool)
        return kept[::self.size] if self.what == "blocks" else kept


def _pieces(size, total):
    """Return the lengths of the pieces of `size` that `total` falls into."""
    return np.diff(np.r_[np.arange(0, total, size), total])
