"""Where records come from: finding sources, reading idx and HDF5 files, batches, reading ahead.

Importing this package opens no file and loads no HDF5 library; both happen when a reader is made.
"""

from minidrop.data.hdf5 import Batches, HDF5Records
from minidrop.data.idx import read_idx
from minidrop.data.prefetch import Prefetcher
from minidrop.data.sources import DATA_SETS, cache_dir, find_source, how_to_make

__all__ = ["DATA_SETS", "Batches", "HDF5Records", "Prefetcher", "cache_dir", "find_source", "how_to_make",
           "read_idx"]
