"""Records in HDF5 files, read in slices."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.hdf5_checks import check_storage, checked_dataset, is_filtered, open_hdf5
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.probe import probe
from minidrop.data.records import Records
from minidrop.data.sources import DATA_SETS, how_to_make
from minidrop.errors import DataError

BLOCK_BYTES = 2 << 20          # of one read from the HDF5 library
SINGLE_ROW_BYTES = 64 << 10    # reading this much takes about as long as another call
LIST_BYTES_LIMIT = 16 << 20
BATCH_BYTES_LIMIT = 1 << 30
SUFFIXES = (".h5", ".hdf5")


class HDF5Records(Records):
    """The records of the HDF5 files that a list file names, one per line.

    A relative name is looked up beside the list file, then in the working directory. Every file has one
    dataset for each of `names` (integers, floats or booleans of at most 8 bytes). Axis 0 counts the records
    and agrees within a file; the other axes agree across files. If files store a dataset in different dtypes,
    it is read as their common dtype. files: these, in place of what the list names.

    Raises DataError, here or when reading, for what is missing, damaged, inconsistent or refused. No file
    stays open.
    """

    def __init__(self, list_path: Any, names: tuple[str, ...], files: Sequence[Path] = ()):
        self.list_path, self.names = Path(list_path), tuple(names)
        self.files = list(files) or _read_list(self.list_path)
        self.packed = False                 # whether any dataset is compressed
        probe(self.files, self.names)
        first = {path: self._look(path) for path in dict.fromkeys(self.files)}
        self.stored = [first[path] for path in self.files]      # each: {name: (shape, type)}
        self.counts = tuple(next(iter(arrays.values()))[0][0] for arrays in self.stored)
        self.layout = self._agreed(first)
        self._starts = np.cumsum((0, *self.counts))

    def __len__(self):
        return int(self._starts[-1])

    @property
    def parts(self) -> tuple[int, int]:
        return self.counts

    @property
    def name(self) -> str:
        return str(self.list_path)

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """As in Records. Raises DataError for more than BATCH_BYTES_LIMIT of compressed records.

        A small file can decompress to a thousand times its size.
        """
        if self.packed and count * self.record_bytes > raised(BATCH_BYTES_LIMIT):
            raise DataError(f"{self.name}: expected batches of at most {BATCH_BYTES_LIMIT >> 20} MiB of "
                            f"compressed records, got {count} records of {self.record_bytes} bytes; use a "
                            f"smaller batch_size, or, {how_to_raise()}")
        return super().empty(count)

    def where(self, index: int) -> str:
        file = self._file_of(index)
        return f"{self.files[file]}: record {index - self._starts[file]}"

    def read(self, indices: np.ndarray) -> Any:
        """Return {name: array} of the records with these indices, in the order given."""
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        out = self.empty(indices.size)
        self.read_into(out, indices)
        return out

    def read_into(self, out: dict[str, np.ndarray], indices: np.ndarray) -> None:
        """Fill `out` with the records of these indices.

        The records of one file are gathered in one pass over it, in blocks of about 2 MiB; blocks without a
        wanted record are never read. Memory: one block, and the indices.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not indices.size:
            return
        low, high = indices.min(), indices.max()
        if not 0 <= low <= high < len(self):
            raise DataError(f"{self.files[0] if len(self.files) == 1 else self.name}: expected rows within "
                            f"0..{len(self) - 1}, got {low}..{high}")
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        for file in range(self._file_of(low), self._file_of(high) + 1):
            begin, end = np.searchsorted(ordered, self._starts[file:file + 2])
            if begin < end:
                self._read_file(file, ordered[begin:end] - self._starts[file], order[begin:end], out)

    def _file_of(self, index):
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _read_file(self, file, rows, places, out):
        """Set out[name][places[i]] to record rows[i] of a file, for increasing rows."""
        path = self.files[file]
        with open_hdf5(path) as h5:
            for name in self.names:
                dataset = checked_dataset(h5, path, name)
                shape, dtype = self.stored[file][name]
                if (dataset.shape, dataset.dtype.newbyteorder("=")) != (shape, dtype):
                    raise DataError(f"{path}: dataset {name!r}: expected {dtype} of {shape} as at the "
                                    f"start, got {dataset.dtype} of {dataset.shape}; do not change data "
                                    "files during a run")
                _gather(dataset, rows, places, out[name])

    def _look(self, path):
        """Return {name: (shape, type)} of the datasets of a file, after every check."""
        found = {}
        with open_hdf5(path) as h5:
            for name in self.names:
                dataset = checked_dataset(h5, path, name)
                check_storage(dataset, f"{path}: dataset {name!r}")
                self.packed |= is_filtered(dataset)
                found[name] = dataset.shape, dataset.dtype.newbyteorder("=")
                count = found[self.names[0]][0][0]
                if dataset.shape[0] != count:
                    raise DataError(f"{path}: expected as many records of {name!r} as of {self.names[0]!r}, "
                                    f"{count}, got {dataset.shape[0]}; rewrite the file")
        return found

    def _agreed(self, files):
        """Return the layout of all files: one shape, and a dtype that holds what each of them stores."""
        layout = {}
        for name, (expected, _) in files[self.files[0]].items():
            for path, arrays in files.items():
                shape, _ = arrays[name]
                if shape[1:] != expected[1:]:
                    raise DataError(f"{path}: dataset {name!r}: expected records of shape {expected[1:]} "
                                    f"as in {self.files[0]}, got shape {shape[1:]}; all files of a list "
                                    "must agree")
            types = {arrays[name][1] for arrays in files.values()}
            layout[name] = expected[1:], types.pop() if len(types) == 1 else np.result_type(*types)
        return layout


def _read_list(path):
    try:
        with open(path, "rb") as file:
            content = file.read(raised(LIST_BYTES_LIMIT) + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the list file cannot be read "
                        f"({getattr(error, 'strerror', None) or error}); {_remedy(path)}") from error
    if content.startswith(b"\x89HDF\r\n\x1a\n"):
        raise DataError(f"{path}: expected a text file that names HDF5 files, got an HDF5 file; write a list "
                        f"file with the line {path.name!r} and name that one")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = ["\0"]
    if len(content) > raised(LIST_BYTES_LIMIT) or any("\0" in line for line in lines):
        raise DataError(f"{path}: expected a text file that names one HDF5 file a line, got something else; "
                        "correct the source")
    names = [line.strip() for line in lines]
    # A list may name a file many times; it is looked up once.
    places = {}
    for number, name in enumerate(names, start=1):
        if name and name not in places:
            places[name] = _place(path, number, name)
    files = [places[name] for name in names if name]
    if not files:
        raise DataError(f"{path}: expected at least one line with the name of an HDF5 file, got none; "
                        f"{_remedy(path)}")
    return files


def _place(path, number, name):
    """Return the file that line `number` of the list file `path` names."""
    places = list(dict.fromkeys((path.parent / name, Path(name))))
    try:
        found = [place for place in places if place.is_file()]
    except OSError as error:
        raise DataError(f"{path}:{number}: expected the name of an HDF5 file, got one that the system "
                        f"refuses ({error.strerror}); {_remedy(path)}") from error
    if found:
        return found[0]
    # A `source` may name any file on this machine: no message repeats its contents.
    if not name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}:{number}: expected the name of an HDF5 file, got a line that names none and "
                        f"does not end in {' or '.join(SUFFIXES)}; {_remedy(path)}")
    raise DataError(f"{path}:{number}: no such file {name!r} (looked for "
                    f"{', '.join(str(place.absolute()) for place in places)}); {_remedy(path)}")


def _remedy(list_path):
    name = list_path.absolute().parent.name
    return how_to_make(name) if name in DATA_SETS else "correct the list or make the file"


def _gather(dataset, rows, places, out):
    """Set out[places[i]] = dataset[rows[i]] for increasing rows, in one pass over the dataset."""
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    chunk_rows = dataset.chunks[0] if dataset.chunks else 1
    block_rows = max(1, BLOCK_BYTES // row_bytes // chunk_rows) * chunk_rows
    if not is_filtered(dataset):
        block_rows = min(block_rows, max(1, BLOCK_BYTES // row_bytes))
    begin = 0
    while begin < len(rows):
        low = int(rows[begin])
        end = int(np.searchsorted(rows, (low // block_rows + 1) * block_rows))
        high = int(rows[end - 1]) + 1
        if (high - low) * row_bytes > (end - begin) * SINGLE_ROW_BYTES and not is_filtered(dataset):
            for row, place in zip(rows[begin:end].tolist(), places[begin:end].tolist(), strict=True):
                out[place] = dataset[row]
        else:
            out[places[begin:end]] = dataset[low:high][rows[begin:end] - low]
        begin = end
