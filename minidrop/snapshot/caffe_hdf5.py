"""Caffe's HDF5 files: weights as /data/LAYER/NUMBER, the state of a solver as /iter, /history/NUMBER."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.binaryproto import Blob
from minidrop.data.hdf5_checks import check_storage, checked_array, open_hdf5, plain_attribute
from minidrop.data.limits import check_unpacked
from minidrop.data.probe import probe
from minidrop.errors import DataError, SnapshotError
from minidrop.snapshot.caffe_file import (
    STATE,
    WEIGHTS,
    CaffeWeights,
    SolverState,
    checked_iteration,
    explained,
    file_kind,
    refused,
    state_given_as_weights,
    weights_given_as_state,
)
from minidrop.snapshot.content import MAX_DEPTH

MOST_OBJECTS = 1 << 16      # groups and arrays in one file
_MOST_TEXT = 4096
_WEIGHTS, _STATE = "no .caffemodel.h5 of Caffe's", "no .solverstate.h5 of Caffe's"


def read_hdf5_weights(path: str | os.PathLike) -> CaffeWeights:
    """Return the CaffeWeights of a .caffemodel.h5. Raises SnapshotError.

    The file is tried in another process first. A layer's name may hold a "/".
    """
    path = Path(path)
    with explained(path):
        _check_kind(path, _WEIGHTS, WEIGHTS)
        probe([path])
        with open_hdf5(path) as h5:
            if not _is_group(h5, "data"):
                if _is_group(h5, "history"):
                    raise state_given_as_weights(path)
                raise refused(path, _WEIGHTS, f"has no group 'data' with a group for each layer, but "
                                              f"{', '.join(map(repr, sorted(h5)[:10])) or 'nothing'}")
            reader = _Reader(path, h5)
            reader.read("data", 1)
            return CaffeWeights({layer: dict(sorted(blobs.items())) for layer, blobs in reader.found.items()},
                                whole=False)


def read_hdf5_texts(path: str | os.PathLike, names: Sequence[str], most: int) -> dict[str, str]:
    """Return those attributes of a .caffemodel.h5 that it has, which are texts of at most `most` bytes.

    Raises SnapshotError.
    """
    path = Path(path)
    with explained(path):
        _check_kind(path, _WEIGHTS, WEIGHTS)
        probe([path])
        with open_hdf5(path) as h5:
            try:
                found = {name: plain_attribute(h5, name, most) for name in names if name in h5.attrs}
            except DataError as error:
                raise SnapshotError(f"{path}: {error}; get the file again") from None
    return {name: value for name, value in found.items() if isinstance(value, str)}


def read_hdf5_state(path: str | os.PathLike) -> SolverState:
    """Return the SolverState of a .solverstate.h5. Raises SnapshotError."""
    path = Path(path)
    with explained(path, _STATE):
        _check_kind(path, _STATE, STATE)
        probe([path])
        with open_hdf5(path) as h5:
            if not _is_group(h5, "history") or "iter" not in h5:
                if _is_group(h5, "data"):
                    raise weights_given_as_state(path)
                raise refused(path, _STATE, "has no iter and history")
            reader = _Reader(path, h5)
            reader.read("history", 1)
            history = reader.found.get("", {})
            if sorted(history) != list(range(len(history))):
                raise refused(path, _STATE, "lacks arrays of its history")
            iteration, name = _number(h5, path, "iter"), _text(h5, path, "learned_net")
            step = _number(h5, path, "current_step") if "current_step" in h5 else 0
    with explained(path, _STATE):
        arrays = [history[i] for i in range(len(history))]
        return SolverState(checked_iteration(iteration), name, arrays, step)


def _check_kind(path, what, expected):
    """Refuse a pipe, which would be waited for, and everything else that is no HDF5 file."""
    if file_kind(path, expected) != "hdf5":
        raise refused(path, what, "is no HDF5 file")


def _is_group(h5, name):
    import h5py

    return isinstance(h5.get(name, getlink=True), h5py.HardLink) and isinstance(h5[name], h5py.Group)


class _Reader:
    """Reads the arrays below a group: `found` is {name of the group within it: {number: Blob}}."""

    def __init__(self, path, h5):
        self.path, self.h5, self.found = path, h5, {}
        self.objects = self.size = 0

    def read(self, place, depth, layer=""):
        import h5py

        if not _is_group(self.h5, place):
            raise SnapshotError(f"{self.path}: {place!r}: expected a group of arrays in this file")
        if depth > MAX_DEPTH:
            raise SnapshotError(f"{self.path}: groups nested more than {MAX_DEPTH} deep are refused")
        if layer:
            self.found.setdefault(layer, {})
        group = self.h5[place]
        for name in group:
            self.objects += 1
            if self.objects > MOST_OBJECTS:
                raise SnapshotError(f"{self.path}: more than {MOST_OBJECTS} groups and arrays are refused")
            inside = f"{place}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):    # before anything follows it
                raise SnapshotError(f"{self.path}: {inside!r} is a soft or external link; links are refused: "
                                    f"copy the data into the file")
            if isinstance(group[name], h5py.Group):
                self.read(inside, depth + 1, f"{layer}/{name}" if layer else name)
            elif name.isascii() and name.isdecimal() and len(name) < 10:
                self.found.setdefault(layer, {})[int(name)] = Blob.of(self._array(inside))
            else:
                raise SnapshotError(f"{self.path}: {inside!r}: expected arrays called 0, 1, ...")

    def _array(self, place):
        dataset = checked_array(self.h5, self.path, place)
        if 0 in dataset.shape:
            raise SnapshotError(f"{self.path}: {place!r}: expected values, got the shape {dataset.shape}")
        check_storage(dataset, f"{self.path}: dataset {place!r}")
        self.size += dataset.nbytes
        check_unpacked(self.size, self.path)
        array = np.asarray(dataset[()])
        return array.astype(np.float64) if array.dtype.kind != "f" else array


def _number(h5, path, name):
    dataset = checked_array(h5, path, name)
    if dataset.size != 1 or dataset.dtype.kind not in "iu":
        raise refused(path, _STATE, f"has {dataset.dtype} of shape {dataset.shape} as {name}; expected one "
                                    f"integer")
    check_storage(dataset, f"{path}: dataset {name!r}")
    return int(np.asarray(dataset[()]).reshape(-1)[0])


def _text(h5: Any, path: Path, name: str) -> str:
    """Return a text of fixed length, "" if there is none."""
    import h5py

    if name not in h5:
        return ""
    dataset = h5[name] if isinstance(h5.get(name, getlink=True), h5py.HardLink) else None
    if (not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "S" or dataset.shape not in ((), (1,))
            or dataset.dtype.itemsize > _MOST_TEXT or dataset.is_virtual or dataset.external):
        raise refused(path, _STATE, f"has something else than a short text as {name}")
    return bytes(np.asarray(dataset[()]).reshape(-1)[0]).split(b"\0")[0].decode(errors="replace")
