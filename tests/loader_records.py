"""Records for a DataLoader, and which of them are in its batches."""

import numpy as np

from minidrop.data import ArrayDataset


def arrays(count=23):
    return ArrayDataset(np.arange(2.0 * count).reshape(count, 2), np.arange(count))


def ids(batches):
    """The records of batches, each as a list."""
    return [batch[-1].tolist() for batch in batches]


def numbers(count=23):
    for number in range(count):
        yield np.full(2, number, np.float32), number
