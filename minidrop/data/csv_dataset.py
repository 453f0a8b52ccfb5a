"""Tables in text files with separated values (CSV)."""

from __future__ import annotations

import csv
import io
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidrop.data.datasets import ArrayDataset
from minidrop.data.image_list import read_list_file
from minidrop.data.vocabulary import decoded
from minidrop.errors import DataError, nearest

FILE_BYTES = 256 << 20


class CSVDataset(ArrayDataset):
    """The rows of a CSV file: records (features,) or, with a target, (features, target).

        train = CSVDataset("train.csv", target="species", categories=["species", "island"])
        test = CSVDataset("test.csv", target="species", categories=train.categories)

    features: the names of the columns that make the features, dtype (columns,); by default all but the
    target. target: a name, for one number a row, or several names. Without a `header` columns are named by
    their numbers, 0, 1, ... By default the first row is the header, but refused if it has nothing but
    numbers, which would be lost as data; True allows it.

    categories: the columns of words, which become numbers: names, of columns whose words are numbered in
    sorted order; or {name: words}, which gives the order and allows no other word. `categories` of the
    dataset is of the second form, for files that must have the same numbers. All other columns must hold
    finite numbers. missing: the number that an empty field or NaN counts as; by default they are an error.
    (An empty field of a column of words is a word like any other.) A target of categories alone is int32, any
    other has target_dtype, by default dtype.

    The file is UTF-8, with or without a byte-order mark; fields may be quoted, as in RFC 4180, and then have
    line breaks; blank lines do not count. It is read once, at most 256 MiB of it. Raises DataError with file
    and line for rows of unequal lengths, words where numbers are expected, and numbers that the dtype cannot
    hold, and with the file for columns that are not there.
    """

    def __init__(self, path: str | os.PathLike, target: Any = None, features: Sequence[Any] | None = None,
                 dtype: Any = "float32", header: bool | None = None, delimiter: str = ",",
                 categories: Sequence[Any] | Mapping[Any, Sequence[str]] = (), missing: float | None = None,
                 target_dtype: Any = None):
        if missing is not None and not math.isfinite(missing):
            raise DataError(f"{path}: missing: expected a finite number, got {missing}")
        self.path = path
        table = _Table(path, header, delimiter)
        self.columns = table.columns
        is_one = target is None or isinstance(target, str | int)
        targets = table.known([] if target is None else [target] if is_one else target, "target")
        self.features = table.known([name for name in table.columns if name not in targets]
                                    if features is None else features, "features")
        if not self.features or set(self.features) & set(targets):
            raise DataError(f"{path}: expected columns of features, and others of the target, got features "
                            f"{list(self.features)[:10]} and target {list(targets)[:10]}; the file has "
                            f"{table.names()}")
        given = categories if isinstance(categories, Mapping) else dict.fromkeys(table.known(categories,
                                                                                             "categories"))
        used = (*self.features, *targets)
        words = {name: given[name] for name in table.known(given, "categories") if name in used}
        values = _read(table, [name for name in used if name not in words], words, missing)
        self.categories = table.categories
        self._lines = np.frombuffer(table.lines, np.int64)
        rows = [_column(table, values[name], name, dtype) for name in self.features]
        arrays = [np.stack(rows, 1)]
        if targets:
            kind = target_dtype or (np.int32 if set(targets) <= set(words) else dtype)
            own = [_column(table, values[name], name, kind) for name in targets]
            arrays.append(own[0] if is_one else np.stack(own, 1))
        super().__init__(*arrays)

    def where(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"


class _Table:
    """A CSV file: `columns`, and `rows()`, of which `lines` tells the first line of each."""

    def __init__(self, path, header, delimiter):
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise DataError(f"{path}: expected a delimiter of one character, got {delimiter!r}")
        self.path, self.delimiter, self.lines = path, delimiter, array("q")
        self.categories: dict[Any, tuple[str, ...]] = {}
        self._content = read_list_file(path, "the table", FILE_BYTES)
        lines = io.TextIOWrapper(io.BytesIO(self._content), "utf-8", newline="")
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self._line = 1                  # where the next row begins
        self._first = None
        begin, fields = next(self._records(), (0, None))
        if fields is None:
            raise DataError(f"{path}: expected a table, got an empty file; name another")
        if header is None and all(map(_is_number, fields)):
            raise DataError(f"{path}:{begin}: expected the names of columns, got nothing but numbers; give "
                            "header=False if they are data, header=True if they are names")
        header = header is None or header
        self.columns = tuple(name.strip() for name in fields) if header else tuple(range(len(fields)))
        self.place = {name: place for place, name in enumerate(self.columns)}
        for place, name in enumerate(self.columns):
            if self.place[name] != place:
                raise DataError(f"{path}:{begin}: expected different names of columns, got {name!r} twice; "
                                "rename one, or, if the first row holds data, give header=False")
        self._first = None if header else (begin, fields)

    def known(self, names, what):
        """Return names of columns as a tuple. Raises DataError for one that the file does not have."""
        if isinstance(names, str):
            raise DataError(f"{self.path}: {what}: expected a list of names, got {names!r}; write [...]")
        for name in names:
            if name not in self.place:
                raise DataError(f"{self.path}: {what}: expected a column of the file, got {name!r}; it has "
                                f"{self.names()}{nearest(name, self.columns)}")
        return tuple(names)

    def names(self):
        """Return the names of the columns, as text for a message."""
        more = f" and {len(self.columns) - 20} more" if len(self.columns) > 20 else ""
        return ", ".join(map(repr, self.columns[:20])) + more

    def rows(self) -> Iterator[list[str]]:
        """Yield the fields of each row of data, once."""
        if self._first is not None:
            self.lines.append(self._first[0])
            yield self._first[1]
        for begin, fields in self._records():
            if len(fields) != len(self.columns):
                raise DataError(f"{self.path}:{begin}: expected {len(self.columns)} fields, as in the first "
                                f"row, got {len(fields)}; correct the row, or the delimiter, "
                                f"{self.delimiter!r}")
            self.lines.append(begin)
            yield fields
        if not self.lines:
            raise DataError(f"{self.path}: expected at least one row of data, got none")

    def wrong(self, row, name, wanted, got, how):
        """Return the error of one field."""
        return DataError(f"{self.path}:{self.lines[row]}: column {name!r}: expected {wanted}, got "
                         f"{str(got)[:40]!r}; {how}")

    def _records(self):
        """Yield (line, fields) of every row that is not blank."""
        while True:
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                raise DataError(f"{self.path}:{self._line}: expected fields separated by "
                                f"{self.delimiter!r}, got a row that cannot be read ({error}); correct its "
                                "quotes") from error
            except UnicodeDecodeError:
                decoded(self._content, self.path)       # says in which line
                raise
            if fields is None:
                return
            begin, self._line = self._line, self._reader.line_num + 1
            if fields:
                yield begin, fields


def _read(table, numeric, words, missing):
    """Return {name: float64 array} of columns of numbers, and of words, as {name: known words or None}."""
    places = [table.place[name] for name in numeric]
    numbers = array("d")
    codes = {name: (table.place[name], array("q"), dict[str, int]()) for name in words}
    for row, fields in enumerate(table.rows()):
        own = [fields[place] for place in places]
        try:
            if "_" in "".join(own):         # Python reads 1_000 as a number
                raise ValueError
            numbers.extend(map(float, own))
        except ValueError:
            del numbers[row * len(places):]
            numbers.extend(_number(table, row, name, text, missing)
                           for name, text in zip(numeric, own, strict=True))
        for place, found, index in codes.values():
            found.append(index.setdefault(fields[place], len(index)))
    values = np.frombuffer(numbers, np.float64).reshape(len(table.lines), len(places)).copy()
    if missing is not None:
        values[np.isnan(values)] = missing
    for row, column in np.argwhere(~np.isfinite(values))[:1].tolist():
        raise table.wrong(row, numeric[column], "a finite number", values[row, column],
                          "correct it (`missing` gives the number that NaN counts as)")
    result = {name: values[:, column] for column, name in enumerate(numeric)}
    for name, (_, found, index) in codes.items():
        result[name] = _numbered(table, name, np.frombuffer(found, np.int64), index, words[name])
    return result


def _number(table, row, name, text, missing):
    """Return the number in a field, NaN for an empty one if that may be missing."""
    if not text.strip():
        if missing is None:
            raise table.wrong(row, name, "a number", text, "fill it in, or give `missing`, the number that "
                              "an empty field counts as")
        return math.nan
    try:
        if "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise table.wrong(row, name, "a number", text, f"correct it, or name {name!r} among the "
                          "categories") from None


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbered(table, name, found, index, words):
    """Return the numbers of the words of a column, which are given as places in `index`."""
    words = tuple(sorted(index) if words is None else words)
    numbers = {word: number for number, word in enumerate(words)}
    if len(numbers) < len(words):
        raise DataError(f"{table.path}: categories: column {name!r}: expected different words, got "
                        f"{len(words) - len(numbers)} of them twice")
    table.categories[name] = words
    for word, place in index.items():
        if word not in numbers:
            row = int(np.flatnonzero(found == place)[0])
            raise table.wrong(row, name, f"one of its {len(words)} categories", word,
                              f"correct it, or add it to the categories{nearest(word, words)}")
    return np.array([numbers[word] for word in index], np.float64)[found]


def _column(table, values, name, dtype):
    """Return numbers in a dtype that can hold them."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf":
        raise DataError(f"{table.path}: expected a dtype of numbers, got {dtype.str.lstrip('|')}")
    with np.errstate(over="ignore", invalid="ignore"):
        held = values.astype(dtype)
    fits = held == values if dtype.kind in "biu" else np.isfinite(held)
    if dtype.kind in "biu":
        fits &= np.abs(values) < 2**53          # from there on float64, in between, rounds
    for row in np.flatnonzero(~fits)[:1].tolist():
        raise table.wrong(row, name, f"a number that {dtype} can hold", values[row], "choose another dtype")
    return held
