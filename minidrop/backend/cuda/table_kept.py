"""TableKept: which rows of a table a batch reads, known on the device alone."""

import numpy as np


class TableKept:
    """The rows of a table that a batch reads, as the `rows` of a `Block` whose entries the host never needs.

    ids: int64 (count,), the row that each place reads, possibly repeated. places: int32 (total,), the first
    place that reads a row, or -1: that place has the row's whole gradient, further places of the row have
    zeros. Both are on one device, and their shapes do not depend on the contents of the batch.
    """

    __slots__ = ("ids", "places")

    is_all, on_device, is_table, family = False, True, True, None

    def __init__(self, ids: np.ndarray, places: np.ndarray):
        self.ids, self.places = ids, places

    @property
    def count(self) -> int:
        """The number of places."""
        return self.ids.size

    @property
    def total(self) -> int:
        """The number of rows of the table."""
        return self.places.size

    def __repr__(self):
        return f"TableKept({self.count} places of {self.total} rows)"
