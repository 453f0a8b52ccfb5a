"""Writes Caffe's files of weights and of solver states, atomically."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.config import NetParameter
from minidrop.data.hdf5_disk import write_hdf5
from minidrop.data.wire import BYTES, VARINT, as_key, as_varint
from minidrop.errors import SnapshotError
from minidrop.files import write_all
from minidrop.snapshot.caffe_file import MOST_BYTES, SolverState
from minidrop.snapshot.writer import replacing_safely, write_attributes

# Fields of a BlobProto, by the size of a number: (values, gradient).
_VALUES = {4: (5, 6), 8: (8, 9)}
_SHAPE, _DIM, _LAYER, _BLOBS, _HISTORY = 7, 1, 100, 7, 3
WHAT = "the file of weights"

Arrays = dict[str, list[tuple[Any, Any]]]
"""{layer: [(values, gradient or None)]}, on any device."""


def write_binary_weights(path: str | os.PathLike, net: NetParameter, arrays: Arrays,
                         to_host: Callable = np.asarray) -> None:
    """Write a .caffemodel: the layers of a NetParameter, each with its arrays, float64 ones as such.

    One array at a time is on the host. Raises SnapshotError; a file of 2 GiB or more is refused, as nothing
    reads it.
    """
    path = Path(path)
    heads = [layer.SerializeToString() for layer in net.layer]
    sizes = []
    for layer, head in zip(net.layer, heads, strict=True):
        blobs = [_blob_size(values, gradient) for values, gradient in arrays.get(layer.name, ())]
        sizes.append(len(head) + sum(len(as_key(_BLOBS, BYTES) + as_varint(size)) + size for size in blobs))
    total = sum(sizes)
    if total > MOST_BYTES:
        raise SnapshotError(f"{path}: {WHAT} would take {total} bytes, and nothing reads a .caffemodel of "
                            f"2 GiB or more; save it as .caffemodel.h5")
    name = net.name.encode()
    with replacing_safely(path, total, WHAT) as file:
        _write(file, as_key(1, BYTES), as_varint(len(name)), name)
        for layer, head, size in zip(net.layer, heads, sizes, strict=True):
            _write(file, as_key(_LAYER, BYTES), as_varint(size), head)
            for values, gradient in arrays.get(layer.name, ()):
                _write_blob(file, _BLOBS, values, gradient, to_host)


def write_hdf5_weights(path: str | os.PathLike, layers: Sequence[str], arrays: Arrays,
                       owned: Callable[[str, int], bool] = lambda layer, number: True,
                       to_host: Callable = np.asarray, texts: Mapping[str, str] | None = None) -> None:
    """Write a .caffemodel.h5: /data/LAYER/NUMBER for every layer, and /diff likewise where there are
    gradients.

    owned(layer, number): whether the array is written there; a shared one is, as in Caffe, in its first layer
    alone. texts: {name: text} of attributes of the file, which Caffe does not look at. Raises SnapshotError.
    """
    path, size = Path(path), sum(values.nbytes for own in arrays.values() for values, _ in own)

    def fill(root, disk):
        write_attributes(root, texts or {})
        for layer in layers:
            try:
                groups = [root.require_group(f"data/{layer}")]
                if any(gradient is not None for own in arrays.values() for _, gradient in own):
                    groups.append(root.require_group(f"diff/{layer}"))
                for number, pair in enumerate(arrays.get(layer, ())):
                    for group, array in zip(groups, pair, strict=False):
                        if owned(layer, number) and disk.error is None:
                            group.create_dataset(str(number), data=to_host(array))
            except (TypeError, ValueError) as error:
                raise SnapshotError(f"{path}: layer {layer!r} cannot be written, since another layer's name "
                                    f"is the beginning of its own ({error}); save a .caffemodel") from None

    for layer in layers:
        if "\0" in layer or not layer or layer.startswith("/") or {"", "."} & set(layer.split("/")):
            raise SnapshotError(f"{path}: HDF5 cannot hold a layer of the name {layer!r}; save a .caffemodel")
    with replacing_safely(path, size, WHAT) as file:
        write_hdf5(file, fill)


def write_state(path: str | os.PathLike, state: SolverState) -> None:
    """Write a SolverState, as HDF5 where the name ends in .h5. Raises SnapshotError."""
    path, what = Path(path), "the solver state"
    size = sum(blob.array.nbytes for blob in state.history)
    if path.suffix == ".h5":
        with replacing_safely(path, size, what) as file:
            write_hdf5(file, lambda root, disk: _fill_state(root, disk, state))
        return
    if size + 100 * len(state.history) > MOST_BYTES:
        raise SnapshotError(f"{path}: {what} would take some {size} bytes, and nothing reads a .solverstate "
                            f"of 2 GiB or more; save it as .solverstate.h5")
    name = state.learned_net.encode()
    with replacing_safely(path, size, what) as file:
        _write(file, as_key(1, VARINT), as_varint(state.iteration), as_key(2, BYTES), as_varint(len(name)),
               name)
        for blob in state.history:
            _write_blob(file, _HISTORY, blob.array, None, np.asarray)
        _write(file, as_key(4, VARINT), as_varint(state.current_step))


def _fill_state(root, disk, state):
    root.create_dataset("iter", data=np.array([state.iteration], np.int32))
    root.create_dataset("learned_net", data=np.bytes_(state.learned_net.encode() + b"\0"))
    root.create_dataset("current_step", data=np.array([state.current_step], np.int32))
    group = root.create_group("history")
    for number, blob in enumerate(state.history):
        if disk.error is None:
            group.create_dataset(str(number), data=blob.array)


def _parts(values, gradient):
    """Return the BlobShape of an array, with what stands before it, and the fields of its numbers."""
    dims = b"".join(map(as_varint, values.shape))
    shape = as_key(_DIM, BYTES) + as_varint(len(dims)) + dims
    # A single number has no shape at all, as in Caffe; OpenCV stumbles over an empty one.
    head = as_key(_SHAPE, BYTES) + as_varint(len(shape)) + shape if values.shape else b""
    fields = _VALUES[values.dtype.itemsize]
    return head, [(field, array) for field, array in zip(fields, (values, gradient), strict=True)
                  if array is not None]


def _blob_size(values, gradient):
    head, fields = _parts(values, gradient)
    return len(head) + sum(len(as_key(field, BYTES) + as_varint(array.nbytes)) + array.nbytes
                           for field, array in fields)


def _write_blob(file, number, values, gradient, to_host):
    head, fields = _parts(values, gradient)
    _write(file, as_key(number, BYTES), as_varint(_blob_size(values, gradient)), head)
    for field, array in fields:
        host = np.ascontiguousarray(to_host(array))
        _write(file, as_key(field, BYTES), as_varint(host.nbytes),
               host.astype(host.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)


def _write(file, *pieces):
    """Write all of some pieces; small ones that stand together at once."""
    small = b""
    for piece in pieces:
        if len(piece) < 4096:
            small += bytes(piece)
        else:
            write_all(file, small)
            write_all(file, piece)
            small = b""
    write_all(file, small)
