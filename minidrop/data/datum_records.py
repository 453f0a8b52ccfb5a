"""DatumRecords: the Datums of a database as records."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from minidrop.data.databases import Database
from minidrop.data.datum import parse_datum, read_datum
from minidrop.data.pictures import PictureRecords
from minidrop.errors import DataError

MARK = 1000         # records from one remembered key to the next


class DatumRecords(PictureRecords):
    """The Datums of a database, numbered in the order of their keys.

    color: whether encoded images are decoded to three channels (True) or one (False); None leaves what they
    have. Neighbours are read by one walk; to go anywhere else, one of the keys that were remembered on the
    way is looked up. Raises DataError, here or when reading, for a record that is no Datum or unlike the
    first.
    """

    def __init__(self, database: Database, crop: int = 0, color: bool | None = None):
        super().__init__(crop)
        self.database, self.color = database, color
        self._marks: list[bytes] = []       # the keys of the records 0, MARK, 2 * MARK, ... passed so far
        self._walk: Iterator[tuple[bytes, bytes]] | None = None
        self._next = 0                      # the number of the record that the walk comes to next
        self.unpacks = self.is_encoded

    def __len__(self):
        return len(self.database)

    @property
    def name(self) -> str:
        """The path of the database."""
        return str(self.database.path)

    @cached_property
    def is_encoded(self) -> bool:
        """Whether the first record is an image in a format such as JPEG. Raises DataError for no Datum."""
        _, value = self._record(0)
        try:
            return parse_datum(value).encoded
        except ValueError as error:
            raise self._unreadable(0, error) from error

    def one(self, index: int) -> tuple[np.ndarray, int]:
        """Return image (channels, height, width) and label of a record. Raises DataError for no Datum."""
        _, value = self._record(index)
        try:
            return read_datum(value, self.color)
        except ValueError as error:
            raise self._unreadable(index, error) from error

    def values(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of every record, in order."""
        for index in range(len(self)):
            yield self._record(index)

    def where(self, index: int) -> str:
        key = next(self._keys(index), b"")
        return f"{self.name}: record {index} (key {key.decode(errors='backslashreplace')[:200]!r})"

    def close(self) -> None:
        """Close the database."""
        self._walk = None
        self.database.close()

    def _unreadable(self, index, error):
        return DataError(f"{self.where(index)}: expected a Datum with an image or an array, got {error}; "
                         "make the database again, e.g. with: minidrop convert_imageset")

    def _record(self, index):
        """Return (key, value) of a record."""
        if not 0 <= index < len(self):
            raise DataError(f"{self.name}: expected record numbers within 0..{len(self) - 1}, got {index}")
        if self._walk is None or index != self._next:
            self._walk = None
            key = next(self._keys(index), None)
            self._walk, self._next = self._rising(self.database.walk(key or b""), index), index
        found = next(self._walk, None)
        if found is None:
            self._walk = None
            raise DataError(f"{self.name}: expected {len(self)} records, got {index}; the database is "
                            "damaged, or changes while it is read: make it again")
        self._next += 1
        self._remember(index, found[0])
        return found

    def _keys(self, index):
        """Yield the keys of the records from `index` on."""
        mark = min(index // MARK, len(self._marks) - 1)
        begin, start = (mark * MARK, self._marks[mark]) if mark >= 0 else (0, b"")
        walk = self._rising(((key, None) for key in self.database.walk(start, values=False)), begin)
        for number, (key, _) in enumerate(walk, begin):
            self._remember(number, key)
            if number >= index:
                yield key

    def _remember(self, index, key):
        if index == MARK * len(self._marks):
            self._marks.append(key)

    def _rising(self, walk, begin):
        """Yield what a walk yields, but no more records than there are, and only while keys rise.

        Pages of a damaged database can lead in a circle.
        """
        before = None
        for found in islice(walk, len(self) - begin):
            if before is not None and found[0] <= before:
                raise DataError(f"{self.name}: expected keys that rise, got {found[0][:200]!r} behind "
                                f"{before[:200]!r}; the database is damaged: make it again")
            before = found[0]
            yield found


def color_of(settings: Any, force_encoded_color: bool = False) -> bool | None:
    """Return `color` for DatumRecords as a TransformationParameter and force_encoded_color say."""
    if settings.force_color or force_encoded_color:
        return True
    return False if settings.force_gray else None
