"""Opening untrusted HDF5 files.

Links, virtual and external storage are refused, because they would let a file read from elsewhere on the
machine, and every size is checked before memory is allocated.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError, nearest

FLETCHER32 = 3                 # the number of that filter
CHUNK_BYTES_LIMIT = 256 << 20  # a compressed chunk is always unpacked as a whole


@contextmanager
def open_hdf5(path: Path) -> Iterator:
    """Open an HDF5 file for reading; whatever the library raises in the context becomes a DataError."""
    import h5py

    try:
        with h5py.File(path, "r") as h5:
            yield h5
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "unable to lock file" in reason:
            raise DataError(f"{path}: is locked by another process, probably one that is writing it; wait "
                            f"until that has ended") from error
        raise DataError(f"{path}: expected a readable HDF5 file, got: {reason}; the file is damaged, cut "
                        "short or of another kind: make it again") from error


def checked_dataset(h5: Any, path: Path, name: str) -> Any:
    """Return the dataset `name`, of records, after every check that does not read them."""
    dataset = checked_array(h5, path, name)
    if not dataset.shape or 0 in dataset.shape:
        raise DataError(f"{path}: dataset {name!r}: expected records along the first axis, got the shape "
                        f"{dataset.shape}")
    return dataset


def checked_array(h5: Any, path: Path, name: str) -> Any:
    """Return the dataset `name`, of any shape, after every check that does not read it."""
    import h5py

    parts, group = [part for part in name.split("/") if part], h5
    for depth, part in enumerate(parts):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise DataError(f"{path}: expected a dataset {name!r}, got none of that name (the file holds "
                            f"{', '.join(map(repr, sorted(h5)[:10])) or 'nothing'}){nearest(name, h5)}")
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{path}: {'/'.join(parts[:depth + 1])!r}: expected data in this file, got "
                            f"{'a soft' if isinstance(link, h5py.SoftLink) else 'an external'} link; links "
                            "are refused: copy the data into the file")
        group = group[part]
    dataset, where = group, f"{path}: dataset {name!r}"
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{where}: expected a dataset, got a {type(dataset).__name__.lower()}")
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{where}: expected data in this file, got "
                        f"{'virtual' if dataset.is_virtual else 'external'} storage, which reads other files "
                        "and is refused: copy the data into the file")
    dtype = dataset.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.subdtype:
        raise DataError(f"{where}: expected integers, floats or booleans of at most 8 bytes, got {dtype}; "
                        "convert it")
    if dataset.shape is None:
        raise DataError(f"{where}: expected numbers, got none at all")
    return dataset


def plain_attribute(root: Any, name: str, most: int) -> str | int | float:
    """Return the attribute `name` of an open file or group: one number, or a text of at most `most` bytes.

    Raises DataError, without the name of the file, for any other kind: texts of variable length lie elsewhere
    in the file.
    """
    import h5py

    attribute = root.attrs.get_id(name)
    kind = attribute.get_type()
    text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
    if not (text or kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)) or attribute.shape != ():
        raise DataError(f"attribute {name!r}: expected one number or text of a fixed length")
    if attribute.get_storage_size() > most:
        raise DataError(f"attribute {name!r}: expected at most {most} bytes, got "
                        f"{attribute.get_storage_size()}")
    value = root.attrs[name]
    return bytes(value).decode() if text else value.item()


def check_storage(dataset: Any, where: str) -> None:
    """Raise DataError for storage that does not match a dataset's shape, or that needs too much memory.

    Refused are sizes that were declared but never written, chunks beyond CHUNK_BYTES_LIMIT, and chunks
    outside the grid that the shape implies, which crash the HDF5 library.
    """
    file_size = os.stat(dataset.file.filename).st_size
    if dataset.chunks is None:
        _check_count(dataset, where, dataset.nbytes, dataset.id.get_storage_size(), "bytes")
        _check_count(dataset, where, dataset.nbytes, file_size - (dataset.id.get_offset() or 0), "bytes")
        return
    grid = [-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    _check_count(dataset, where, math.prod(grid), dataset.id.get_num_chunks(), "chunks")
    if is_filtered(dataset):
        band = min(dataset.chunks[0], dataset.shape[0]) * math.prod(dataset.shape[1:])
        if max(band, math.prod(dataset.chunks)) * dataset.dtype.itemsize > raised(CHUNK_BYTES_LIMIT):
            raise DataError(f"{where}: expected compressed chunks whose records take at most "
                            f"{CHUNK_BYTES_LIMIT >> 20} MiB, got the chunk shape {dataset.chunks}; rewrite "
                            f"it with fewer records a chunk, or, {how_to_raise()}")
    _check_chunks(dataset, where, grid, file_size)


def _check_count(dataset, where, parts, stored, what):
    if stored < parts:
        raise DataError(f"{where}: expected {parts} {what} of data for the shape {dataset.shape}, got "
                        f"{stored}; the file was not written to the end: make it again")


def _check_chunks(dataset, where, grid, file_size):
    """Check every chunk: each place of the grid has one, inside the file, of a plausible size."""
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    least = 5 if FLETCHER32 in filters else 1 if filters else size      # Fletcher-32 adds 4 bytes
    found = np.zeros(math.prod(grid), bool)
    total = 0

    def look(chunk):
        nonlocal total
        total += chunk.size
        places = [divmod(*pair) for pair in zip(chunk.chunk_offset, dataset.chunks, strict=True)]
        inside = all(not rest and place < length for (place, rest), length in zip(places, grid, strict=True))
        if not inside or not least <= chunk.size <= file_size - chunk.byte_offset:
            raise DataError(f"{where}: expected chunks of {dataset.chunks} that fill the shape "
                            f"{dataset.shape} and lie in the file, got one of {chunk.size} bytes at "
                            f"{tuple(chunk.chunk_offset)}; the file is damaged: make it again")
        found[np.ravel_multi_index([place for place, _ in places], grid)] = True

    look_at_chunks(dataset.id, look)
    _check_count(dataset, where, found.size, int(found.sum()), "chunks")
    if total > file_size:       # chunks overlap: one megabyte posing as a thousand chunks
        raise DataError(f"{where}: expected chunks that do not overlap, got {total} bytes of them in a "
                        f"file of {file_size}; the file is damaged: make it again")


def look_at_chunks(dataset_id: Any, look: Callable) -> None:
    """Call `look` with the StoreInfo of every chunk, in one pass if HDF5 can (from 1.12.3 on)."""
    if hasattr(dataset_id, "chunk_iter"):
        dataset_id.chunk_iter(look)
    else:
        for number in range(dataset_id.get_num_chunks()):
            look(dataset_id.get_chunk_info(number))


def is_filtered(dataset: Any) -> bool:
    """Return whether the chunks of a dataset are compressed, checksummed or otherwise filtered."""
    return dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters() > 0
