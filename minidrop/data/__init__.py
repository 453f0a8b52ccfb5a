"""Where records come from: finding sources, reading idx, HDF5 and text files, batches, reading ahead.

Importing this package opens no file and loads no HDF5 library; both happen when a reader is made.
"""

from minidrop.data.hdf5 import Batches, HDF5Records
from minidrop.data.idx import read_idx
from minidrop.data.prefetch import Prefetcher
from minidrop.data.sources import DATA_SETS, cache_dir, find_source, how_to_make
from minidrop.data.text import Sentences, Text, TextStreams, read_text, read_vocabulary
from minidrop.data.vocabulary import Vocabulary

__all__ = ["DATA_SETS", "Batches", "HDF5Records", "Prefetcher", "Sentences", "Text", "TextStreams", "Vocabulary", "cache_dir",
           "find_source", "how_to_make", "read_idx", "read_text", "read_vocabulary"]
