"""TableKept: which rows of a table a batch names, known on the device alone."""

import numpy as np


class TableKept:
    """The rows of a table that the places of a batch name: what `rows` of a `Block` is where nobody asks
    which they are.

    ids: int64 (count,), the row that each place names; one row may be named several times. places: int32
    (total,), the first place that names a row, -1 where none does: that place has the gradient of the row,
    the others have zeros. Both belong to one device, and their shapes say nothing of the batch.
    """

    __slots__ = ("ids", "places")

    is_all, on_device, family = False, True, None

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
