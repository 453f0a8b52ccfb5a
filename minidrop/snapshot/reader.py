"""Reads snapshots, which may come from anybody."""

from os import PathLike
from pathlib import Path

import numpy as np

from minidrop.data.hdf5_checks import plain_attribute
from minidrop.data.hdf5_disk import Disk
from minidrop.data.probe import probe
from minidrop.errors import DataError, SnapshotError
from minidrop.snapshot.content import MAX_DEPTH, Snapshot, is_plain
from minidrop.snapshot.seal import digest_of, open_regular, read_seal


def read_snapshot(path: str | PathLike) -> Snapshot:
    """Return the Snapshot in the file `path`; the arrays are new, C-contiguous, of the stored dtype.

    Raises SnapshotError for anything but an intact snapshot of a known format version. Soft and external
    links, data outside the file, and types other than numbers and fixed-length text are refused, and no array
    is allocated that the file does not contain.
    """
    return _read(path, _read_root)


def read_header(path: str | PathLike) -> dict[str, str | int | float]:
    """Return the attributes of the snapshot `path` as a dict; the whole file is checked, no array is read."""
    return _read(path, _read_attributes)


def _read(path, reader):
    import h5py

    try:
        with open_regular(path) as file:
            seal = read_seal(file, path)
            if digest_of(file, seal) != seal.digest:
                raise SnapshotError(f"{path}: the snapshot is damaged (wrong checksum); use an older one")
            _probe(path)
            disk = Disk(file)
            try:
                with disk, h5py.File(disk, "r") as root:
                    if root.id.get_create_plist().get_version()[0] < 2:
                        raise _Refused("an older form of HDF5, whose headers have no checksums")
                    return reader(root, seal.size)
            finally:
                if disk.error is not None:      # then h5py read zeros in its place
                    raise disk.error
    except _Refused as error:
        raise SnapshotError(f"{path}: refused as a snapshot: {error}; use one that minidrop wrote") from None
    except SnapshotError:
        raise
    except OSError as error:
        raise SnapshotError(f"{path}: the snapshot cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise SnapshotError(f"{path}: not enough memory to read the snapshot") from error
    except Exception as error:  # a file forged to confuse h5py can make it raise nearly anything
        raise SnapshotError(f"{path}: refused as a snapshot: its structure is broken ({error})") from error


def _probe(path):
    """Refuse a file that crashes the HDF5 library; the seal does not exclude a forged one."""
    try:
        probe([Path(path)])
    except DataError as error:
        raise SnapshotError(f"{error}, or use a snapshot that minidrop wrote") from None


def _read_root(root, size):
    arrays, seen, left = {}, {_address(root)}, [size]
    _read_group(root, "", 1, arrays, seen, left)
    return Snapshot(arrays, _read_attributes(root, size))


def _address(item):
    import h5py

    return h5py.h5o.get_info(item.id).addr


def _read_group(group, prefix, depth, arrays, seen, left):
    """Add the arrays below `group`; seen: addresses so far; left: [bytes that arrays may still take]."""
    import h5py

    if depth > MAX_DEPTH:
        raise _Refused(f"groups nested more than {MAX_DEPTH} deep")
    for name in group:
        key = prefix + name
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _Refused(f"{key!r} is a soft or external link")
        item = group[name]
        if _address(item) in seen:
            raise _Refused(f"{key!r} is a second link to the same object")
        seen.add(_address(item))
        if isinstance(item, h5py.Group):
            _read_group(item, key + "/", depth + 1, arrays, seen, left)
        elif isinstance(item, h5py.Dataset):
            arrays[key] = _read_array(item, key, left)
        else:
            raise _Refused(f"{key!r} is neither a group nor an array")


def _read_array(dataset, key, left):
    import h5py

    plist = dataset.id.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count():
        raise _Refused(f"array {key!r} is virtual, chunked, compact or stored in another file")
    dtype = dataset.dtype
    numbers = (h5py.h5t.INTEGER, h5py.h5t.FLOAT) if dtype.kind != "b" else (h5py.h5t.ENUM,)
    if not is_plain(dtype) or dataset.id.get_type().get_class() not in numbers or dataset.shape is None:
        raise _Refused(f"array {key!r}: expected booleans, integers or floats, got {dtype}")
    size = dtype.itemsize
    for length in dataset.shape:
        size *= int(length)
    if size != dataset.id.get_storage_size() or (size and dataset.id.get_offset() is None) or size > left[0]:
        raise _Refused(f"array {key!r} claims {size} bytes that the file does not hold")
    left[0] -= size
    array = np.empty(dataset.shape, np.dtype(dtype.str))
    if size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def _read_attributes(root, size):
    try:
        return {name: plain_attribute(root, name, size) for name in root.attrs}
    except DataError as error:
        raise _Refused(str(error)) from None


class _Refused(Exception):
    """Raised for content that minidrop's snapshots never have."""
