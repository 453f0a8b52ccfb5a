"""Predictions in files: CSV, JSON lines, and .npz; written batch by batch, however many there are."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from minidrop.errors import ConfigError, DataError

FORMATS = ("csv", "jsonl", "npz")
_PIECE = 1 << 20


def format_of(path: str | None, asked: str | None) -> str:
    """Return the format of a file: what is asked for, else what its name ends with, "csv" without a file.

    Raises ConfigError for another ending.
    """
    if asked or path is None:
        return asked or "csv"
    ending = Path(path).suffix.lower().lstrip(".")
    if ending == "json":
        ending = "jsonl"
    if ending not in FORMATS:
        raise ConfigError(f"{path}: expected a name that ends with .{', .'.join(FORMATS)}, or a --format")
    return ending


class Lines:
    """Writes predictions as text, a record a line: CSV or JSON lines.

    top_k: of each record the greatest values alone, with their classes. classes: names, by which classes are
    called: in the first line of CSV, beside each value in JSON lines. Raises ConfigError for outputs of which
    there are no classes, DataError for another number of names.
    """

    def __init__(self, file: IO[bytes], kind: str, top_k: int = 0, classes: Sequence[str] = ()):
        self.file, self.kind, self.top_k, self.classes = file, kind, top_k, classes
        self._began = False

    def add(self, records: Sequence[str], outputs: dict[str, np.ndarray]) -> None:
        """Write the rows of a batch."""
        if not self._began and self.classes:
            _check_names(self.classes, outputs)
        rows = (_top_rows(outputs, self.top_k) if self.top_k else
                zip(*(array.reshape(len(array), -1).tolist() for array in outputs.values()), strict=True))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        if not self._began and self.kind == "csv":
            table.writerow(self._head(outputs))
        self._began = True
        for record, parts in zip(records, rows, strict=True):
            if self.kind == "csv":
                table.writerow([record, *self._cells(parts)])
            else:
                text.write(json.dumps({"record": record, **self._values(parts, outputs)}) + "\n")
        self.file.write(text.getvalue().encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Write what is left: nothing."""

    def _head(self, outputs):
        if self.top_k:
            count = min(self.top_k, int(np.prod(next(iter(outputs.values())).shape[1:])))
            return ["record", *(f"{what}_{i}" for i in range(1, count + 1) for what in ("class", "value"))]
        names = ["record"]
        for name, array in outputs.items():
            count = int(np.prod(array.shape[1:]))
            names += self.classes or ([name] if count == 1 else [f"{name}_{i}" for i in range(count)])
        return names

    def _cells(self, parts):
        if self.top_k:
            for place, value in parts:
                yield from (self._class(place), f"{value:.9g}")
            return
        for row in parts:
            yield from (f"{value:.9g}" for value in row)

    def _values(self, parts, outputs):
        if self.top_k:
            return {"top": [{"class": self._class(place), "value": _finite(value)} for place, value in parts]}
        if self.classes:
            return {name: [{"class": own, "value": _finite(value)} for own, value in zip(
                self.classes, row, strict=True)] for name, row in zip(outputs, parts, strict=True)}
        return {name: _finite(row[0]) if array.ndim == 1 else _shaped(row, array.shape[1:])
                for (name, array), row in zip(outputs.items(), parts, strict=True)}

    def _class(self, place):
        return self.classes[place] if self.classes else place


class Arrays:
    """Writes predictions as the arrays of an .npz file, by output; with top_k `classes` and `values`.

    Each array grows in a nameless file in `folder` until `close`. Names of records that are no numbers are
    `record`.
    """

    def __init__(self, file: IO[bytes], folder: str, top_k: int = 0):
        self.file, self.folder, self.top_k = file, folder, top_k
        self._parts: dict[str, tuple[IO[bytes], list[Any]]] = {}     # {array: (file, [rows, shape, dtype])}
        self._records: list[str] = []

    def add(self, records: Sequence[str], outputs: dict[str, np.ndarray]) -> None:
        """Add the rows of a batch."""
        if not all(name.isdecimal() for name in records):
            self._records += records
        if self.top_k:
            found = list(_top_rows(outputs, self.top_k))
            outputs = {"classes": np.array([[place for place, _ in row] for row in found]),
                       "values": np.array([[value for _, value in row] for row in found], np.float32)}
        for name, array in outputs.items():
            if name not in self._parts:
                # Nothing is left of it, however the program ends.
                self._parts[name] = tempfile.TemporaryFile(dir=self.folder), [0, array.shape[1:], array.dtype]
            file, facts = self._parts[name]
            file.write(np.ascontiguousarray(array).data)
            facts[0] += len(array)

    def close(self) -> None:
        """Put the .npz file together."""
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, (file, (rows, shape, dtype)) in self._parts.items():
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, {
                        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                        "shape": (rows, *shape)})
                    while piece := file.read(_PIECE):
                        member.write(piece)
                file.close()
            if self._records:
                with archive.open("record.npy", "w") as member:
                    np.save(member, np.array(self._records), allow_pickle=False)


def _check_names(classes, outputs):
    if len(outputs) != 1:
        raise ConfigError(f"names of classes: expected one output, got {', '.join(outputs)}; name one with "
                          f"--output")
    count = int(np.prod(next(iter(outputs.values())).shape[1:]))
    if len(classes) != count:
        raise DataError(f"names of classes: expected {count}, one for each value of {next(iter(outputs))!r}, "
                        f"got {len(classes)}")


def _top_rows(outputs, count):
    """Yield [(class, value)] of each record: the greatest values, the first of equals first."""
    if len(outputs) != 1 or next(iter(outputs.values())).ndim < 2:
        shown = ", ".join(f"{name} {array.shape[1:]}" for name, array in outputs.items())
        raise ConfigError(f"--top-k: expected one output with a value for each class, got {shown}; name one "
                          f"with --output")
    array = next(iter(outputs.values()))
    for row in array.reshape(len(array), -1):
        places = np.argsort(-row, kind="stable")[:count]
        yield list(zip(places.tolist(), row[places].tolist(), strict=True))


def _finite(value):
    return value if math.isfinite(value) else None          # which JSON lacks


def _shaped(row, shape):
    """Return the numbers of a record as nested lists, as in its array."""
    array = np.empty(shape, object)
    array.reshape(-1)[:] = [_finite(value) for value in row]
    return array.tolist()
