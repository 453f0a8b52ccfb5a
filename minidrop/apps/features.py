"""Features: blobs of a net as records of databases, one a sample, as Caffe's extract_features writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import no_grad
from minidrop.data.database_writer import check_new_database, new_database
from minidrop.data.datum import write_datum
from minidrop.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from minidrop.net import Net

KINDS = ("lmdb", "leveldb")


def check_features(net: Net, blobs: Sequence[str], paths: Sequence[str]) -> None:
    """Raise ConfigError or DataError unless each blob is of the net and each path that of a new database."""
    if len(blobs) != len(paths):
        raise ConfigError(f"expected a database for each blob, got the databases {', '.join(paths)} and "
                          f"the blobs {', '.join(blobs)}")
    if len(set(paths)) < len(paths):
        raise ConfigError(f"expected a database of its own for each blob, got {', '.join(paths)}")
    known = {ref.name for ref in net.graph.writer}
    for blob in blobs:
        if blob not in known:
            raise ConfigError(f"{net.config.where()}: the net has no blob {blob!r} in phase "
                              f"{net.phase}{nearest(blob, known)}")
    for path in paths:
        check_new_database(path)


def extract_features(net: Net, blobs: Sequence[str], paths: Sequence[str], batches: int,
                     kind: str = "lmdb") -> list[int]:
    """Run the net on `batches` batches of its data and write each blob to a new database; returns the counts.

    A record is a Datum of one sample, its values as float_data, (channels, height, width) as far as the blob
    has those axes; its key is its number, "0000000000" first. The databases appear whole, at the end. kind:
    "lmdb" or "leveldb". Raises what `check_features` and `Net.forward` do.
    """
    check_features(net, blobs, paths)
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of database {kind!r} (known: {', '.join(KINDS)})")
    counts = [0] * len(blobs)
    with ExitStack() as stack:
        puts = [stack.enter_context(new_database(path, kind.upper())) for path in paths]
        net.seek(0)
        net.reset_states()
        for _ in range(batches):
            with no_grad():
                net.forward()
            for i, (blob, put) in enumerate(zip(blobs, puts, strict=True)):
                for sample in samples(net.blobs[blob].numpy()):
                    put(b"%010d" % counts[i], write_datum(sample, 0))
                    counts[i] += 1
    return counts


def samples(values: np.ndarray) -> np.ndarray:
    """Return a blob as float32 (samples, channels, height, width); axes behind the fourth join the height."""
    values = np.asarray(values, np.float32)
    if not values.size:
        raise DataError(f"a blob of shape {values.shape} holds no numbers to write")
    values = values.reshape(1, 1) if values.ndim == 0 else values
    shape = (*values.shape, 1, 1, 1)
    return values.reshape(shape[:4] if values.ndim <= 4 else (*shape[:2], -1, 1))
