"""Where records come from: finding sources, reading databases, images, HDF5, idx and text files, batching,
prefetching; and, for scripts without a config file, datasets and the DataLoader over them.

Importing this package opens no file and loads no library that reads one; both happen when a reader is made.
"""

from typing import NoReturn

from minidrop.data.batches import Batches
from minidrop.data.collate import pad_sequences, stack
from minidrop.data.csv_dataset import CSVDataset
from minidrop.data.database_writer import new_database
from minidrop.data.databases import open_database
from minidrop.data.datasets import (
           ArrayDataset,
           Dataset,
           MappedDataset,
           RecordsDataset,
           SequenceDataset,
           Subset,
           random_split,
)
from minidrop.data.datum_records import DatumRecords
from minidrop.data.file_datasets import MNIST, HDF5Dataset, IDXDataset, ImageFolder, TextDataset
from minidrop.data.hdf5 import HDF5Records
from minidrop.data.idx import read_idx
from minidrop.data.image_list import ImageList, ImageRecords
from minidrop.data.iterable import GeneratorDataset, IterableDataset
from minidrop.data.loader import DataLoader
from minidrop.data.loader_batches import LoaderBatches
from minidrop.data.parallel import ParallelBatches
from minidrop.data.prefetch import Prefetcher
from minidrop.data.records import ArrayRecords, Records
from minidrop.data.sentences import SentenceVocabulary, VocabularyPair, read_lines, read_sentence_vocabulary
from minidrop.data.sources import DATA_SETS, cache_dir, find_database, find_source, how_to_make
from minidrop.data.streams import RandomStreams, Sentences, TextStreams
from minidrop.data.tagged_batches import TaggedSentences
from minidrop.data.tagged_text import TaggedText, read_tagged
from minidrop.data.tagged_vocabulary import Encoded, TaggedVocabulary
from minidrop.data.text import Text, read_text, read_vocabulary
from minidrop.data.torch_names import HINTS
from minidrop.data.vocabulary import Vocabulary
from minidrop.errors import no_attribute

__all__ = ["ArrayDataset", "ArrayRecords", "Batches", "CSVDataset", "DATA_SETS", "DataLoader", "Dataset",
           "DatumRecords", "Encoded", "GeneratorDataset", "HDF5Dataset", "HDF5Records", "IDXDataset",
           "ImageFolder", "ImageList", "ImageRecords", "IterableDataset", "LoaderBatches", "MNIST",
           "MappedDataset", "ParallelBatches", "Prefetcher", "RandomStreams", "Records", "RecordsDataset",
           "SentenceVocabulary", "Sentences", "SequenceDataset", "Subset", "TaggedSentences", "TaggedText",
           "TaggedVocabulary", "Text", "TextDataset", "TextStreams", "Vocabulary", "VocabularyPair",
           "cache_dir", "find_database", "find_source", "how_to_make", "new_database", "open_database",
           "pad_sequences", "random_split", "read_idx", "read_lines", "read_sentence_vocabulary",
           "read_tagged", "read_text", "read_vocabulary", "stack"]


def __getattr__(name: str) -> NoReturn:
    raise no_attribute(__name__, name, __all__, HINTS)


def __dir__() -> list[str]:
    """Return the public names alone: modules inside are no part of the interface."""
    return sorted(__all__)
