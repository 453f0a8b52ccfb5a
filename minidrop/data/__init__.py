"""Where records come from: finding sources, reading idx, HDF5 and text files, batching, prefetching.

Importing this package opens no file and does not load the HDF5 library; both happen when a reader is made.
"""

from minidrop.data.batches import Batches
from minidrop.data.hdf5 import HDF5Records
from minidrop.data.idx import read_idx
from minidrop.data.prefetch import Prefetcher
from minidrop.data.records import ArrayRecords, Records
from minidrop.data.sources import DATA_SETS, cache_dir, find_source, how_to_make
from minidrop.data.text import Sentences, Text, TextStreams, read_text, read_vocabulary
from minidrop.data.vocabulary import Vocabulary

__all__ = ["DATA_SETS", "ArrayRecords", "Batches", "HDF5Records", "Prefetcher", "Records", "Sentences",
           "Text", "TextStreams", "Vocabulary", "cache_dir", "find_source", "how_to_make", "read_idx",
           "read_text", "read_vocabulary"]
