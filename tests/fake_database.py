"""Small images, and a database of pairs that lie in no file."""

import numpy as np

from minidrop.data.databases import Database

COUNT = 2100                    # more than two marks
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 3, 4), np.uint8)


class Fake(Database):
    """A database of given pairs, which may say another count."""

    path = "fake"

    def __init__(self, pairs, count=None):
        self.pairs, self.count = pairs, len(pairs) if count is None else count

    def __len__(self):
        return self.count

    def walk(self, start=b"", values=True):
        for key, value in self.pairs:
            if key >= start:
                yield (key, value) if values else key
