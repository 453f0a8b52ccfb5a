"""Records in HDF5 files, read in slices, and the batches of a training run made of them."""

import math
import threading
from pathlib import Path

import numpy as np

from minidrop.data.hdf5_checks import check_storage, checked_dataset, is_filtered, open_hdf5
from minidrop.data.sources import DATA_SETS, how_to_make
from minidrop.errors import DataError
from minidrop.rng import generator

BLOCK_BYTES = 2 << 20          # what one read asks of the HDF5 library
SINGLE_ROW_BYTES = 64 << 10    # reading this much costs about as much as one more call
LIST_BYTES_LIMIT = 16 << 20


class HDF5Records:
    """The records of the HDF5 files that a list file names, one file a line.

    A relative name is looked for beside the list file, then in the working folder. Every file holds one
    dataset for each of `names`; all have the same number of records, their first axis, and agree over the
    files in the other axes and in the type (integers, floats or booleans of at most 8 bytes).

    Raises DataError, here or when reading, for what is missing, damaged, inconsistent or refused. No file
    stays open.
    """

    def __init__(self, list_path, names):
        self.list_path, self.names = Path(list_path), tuple(names)
        self.files = _read_list(self.list_path)
        self._layout = None                 # name -> (record shape, dtype), agreed by all files
        self.counts = tuple(self._count(file) for file in range(len(self.files)))

    def __len__(self):
        return sum(self.counts)

    def shapes(self, name):
        """Return the shape of one record of the dataset `name`, without the axis of records."""
        return self._layout[name][0]

    def dtypes(self, name):
        """Return the type of the dataset `name` as stored, in the machine's byte order."""
        return self._layout[name][1]

    @property
    def record_bytes(self):
        """The size in bytes of one record, all names together."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._layout.values())

    def empty(self, count):
        """Return uninitialised arrays for `count` records by name; DataError where memory is short."""
        try:
            return {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in self._layout.items()}
        except (MemoryError, ValueError) as error:
            raise DataError(f"{self.list_path}: {count} records of {self.record_bytes} bytes do not fit into "
                            "memory; use a smaller batch_size") from error

    def read(self, file, rows, out=None):
        """Return (or fill `out` with) the given rows of file number `file`, in the order given, by name.

        The rows are gathered in one pass over the file, in blocks of about 2 MiB; blocks without a wanted row
        are never read. Memory: the result and one block.
        """
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.counts[file]:
            raise DataError(f"{self.files[file]}: expected rows within 0..{self.counts[file] - 1}, got "
                            f"{rows.min()}..{rows.max()}")
        if out is None:
            out = self.empty(rows.size)
        order = np.argsort(rows, kind="stable")
        path = self.files[file]
        with open_hdf5(path) as h5:
            for name in self.names:
                dataset = checked_dataset(h5, path, name)
                at_start = (self.counts[file], *self.shapes(name)), self.dtypes(name)
                if (dataset.shape, dataset.dtype.newbyteorder("=")) != at_start:
                    raise DataError(f"{path}: dataset {name!r}: expected {at_start[1]} of "
                                    f"{at_start[0]} as at the start, got {dataset.dtype} of "
                                    f"{dataset.shape}; do not change data files during a run")
                _gather(dataset, rows[order], order, out[name])
        return out

    def _count(self, file):
        path, count, first = self.files[file], None, {}
        with open_hdf5(path) as h5:
            for name in self.names:
                dataset = checked_dataset(h5, path, name)
                check_storage(dataset, f"{path}: dataset {name!r}")
                if count is None:
                    count = dataset.shape[0]
                elif dataset.shape[0] != count:
                    raise DataError(f"{path}: expected as many records of {name!r} as of {self.names[0]!r}, "
                                    f"{count}, got {dataset.shape[0]}; rewrite the file")
                first[name] = dataset.shape[1:], dataset.dtype.newbyteorder("=")
        if self._layout is None:
            self._layout = first
        for name, (shape, dtype) in self._layout.items():
            if first[name] != (shape, dtype):
                raise DataError(f"{path}: dataset {name!r}: expected records of shape {shape} and type "
                                f"{dtype} as in {self.files[0]}, got shape {first[name][0]} and type "
                                f"{first[name][1]}; all files of a list must agree")
        return count


class Batches:
    """The batches of a run: batch(n) is a pure function of n, so resuming needs only the next number.

    Records are taken epoch after epoch; a batch is never partial but goes on into the next epoch. With
    `shuffle`, as in Caffe, each epoch has its own order of files and its own order of rows in each file, and
    files are not interleaved. The orders depend on (seed, layer_name, epoch) alone.

    Memory: neighbouring batches are gathered together, in one pass over the file, as many as fit into
    `window_bytes` (at least one, at most about an epoch); that window, one block of 2 MiB, and for `shuffle`
    12 bytes for each record of the file being read. One window is held at a time. May be called from any
    thread.
    """

    def __init__(self, records, batch_size, shuffle=False, seed=0, layer_name="", window_bytes=32 << 20):
        if batch_size < 1:
            raise DataError(f"layer {layer_name!r}: expected a batch_size of at least 1, got {batch_size}; "
                            "correct it")
        self.records, self.batch_size, self.shuffle = records, int(batch_size), bool(shuffle)
        self.seed, self.layer_name = seed, layer_name
        fitting = max(1, window_bytes // max(1, records.record_bytes * self.batch_size))
        self.window_batches = min(fitting, -(-len(records) // self.batch_size))
        self._window = self._window_number = self._rows = self._rows_of = None
        self._lock = threading.Lock()

    def batch(self, n):
        """Return batch number n (0, 1, ...) by name: arrays batch_size x record shape, of the type stored."""
        number, place = divmod(int(n), self.window_batches)
        if number < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        with self._lock:
            if number != self._window_number:
                # The old window goes first, so that there are never two.
                self._window = self._window_number = None
                self._window = self._fill(number)
                self._window_number = number
            part = slice(place * self.batch_size, (place + 1) * self.batch_size)
            return {name: array[part].copy() for name, array in self._window.items()}

    def where(self, n, index):
        """Return "FILE: record ROW" for entry `index` of batch n, for messages about that record."""
        with self._lock:
            for file, rows, _ in self._runs(n * self.batch_size + index, 1):
                return f"{self.records.files[file]}: record {rows[0]}"

    def _fill(self, number):
        size = self.window_batches * self.batch_size
        window = self.records.empty(size)
        for file, rows, place in self._runs(number * size, size):
            part = slice(place, place + len(rows))
            self.records.read(file, rows, {name: array[part] for name, array in window.items()})
        return window

    def _runs(self, position, size):
        """Yield (file, rows, place) so that rows fill places place.. of `size` records from `position` on."""
        place = 0
        while place < size:
            epoch, rest = divmod(position + place, len(self.records))
            for file in self._file_order(epoch):
                count = self.records.counts[file]
                if rest >= count:
                    rest -= count
                    continue
                end = min(count, rest + size - place)
                rows = self._row_order(epoch, file)[rest:end] if self.shuffle else np.arange(rest, end)
                yield file, rows, place
                place, rest = place + len(rows), 0
                if place == size:
                    return

    def _file_order(self, epoch):
        files = len(self.records.files)
        if not self.shuffle or files == 1:
            return range(files)
        return generator(self.seed, "hdf5 files", self.layer_name, epoch).permutation(files).tolist()

    def _row_order(self, epoch, file):
        if self._rows_of != (epoch, file):
            rng = generator(self.seed, "hdf5 rows", self.layer_name, epoch, file)
            self._rows, count = None, self.records.counts[file]
            self._rows = rng.permutation(np.arange(count, dtype=np.int32 if count < 2**31 else np.int64))
            self._rows_of = epoch, file
        return self._rows


def _read_list(path):
    try:
        with open(path, "rb") as file:
            content = file.read(LIST_BYTES_LIMIT + 1)
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
    if len(content) > LIST_BYTES_LIMIT or any("\0" in line for line in lines):
        raise DataError(f"{path}: expected a text file that names one HDF5 file a line, got something else; "
                        "correct the source")
    files = []
    for number, name in enumerate((line.strip() for line in lines), start=1):
        if not name:
            continue
        places = list(dict.fromkeys((path.parent / name, Path(name))))
        try:
            found = [place for place in places if place.is_file()]
        except OSError as error:
            raise DataError(f"{path}:{number}: expected the name of an HDF5 file, got one that the system "
                            f"refuses ({error.strerror}); {_remedy(path)}") from error
        if not found:
            raise DataError(f"{path}:{number}: no such file {name!r} (looked for "
                            f"{', '.join(str(place.absolute()) for place in places)}); {_remedy(path)}")
        files.append(found[0])
    if not files:
        raise DataError(f"{path}: expected at least one line with the name of an HDF5 file, got none; "
                        f"{_remedy(path)}")
    return files


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
