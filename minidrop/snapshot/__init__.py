"""Snapshots: HDF5 files, written atomically and read as untrusted.

    write_snapshot(path, Snapshot({"data/ip1/weight": W}, {"iteration": 500}))
    snapshot = read_snapshot(path)

The HDF5 file begins with a user block of 512 bytes, which HDF5 tools skip. It holds the seal, six lines:

    minidrop snapshot 2            the format version; 1 has neither run nor loss
    iteration 500
    bytes 1234567                  the length of the whole file
    run 0123456789abcdef           which run wrote it
    loss 0.25                      the training loss, to see where it began to rise
    sha256 0f3a...                 of the lines above and of everything after the user block

The seal is checked before the HDF5 library sees a single byte, so a damaged file can neither crash it nor be
read in part. It is not a signature: an attacker can seal a file too, so the reader refuses everything that a
snapshot never contains.

Caffe's files of weights and of solver states are read and written here too: caffe_file, caffe_hdf5 and
caffe_writer. They have no seal, so their readers trust nothing.
"""

from minidrop.snapshot.content import Snapshot, is_run_name, join_key, split_key
from minidrop.snapshot.folder import list_snapshots, newest_valid, prune, sealed, under_prefix
from minidrop.snapshot.reader import read_header, read_snapshot
from minidrop.snapshot.seal import Seal
from minidrop.snapshot.writer import check_keys, write_snapshot

__all__ = ["Seal", "Snapshot", "check_keys", "is_run_name", "join_key", "split_key", "write_snapshot",
           "read_snapshot", "read_header", "list_snapshots", "sealed", "under_prefix", "newest_valid",
           "prune"]
