"""In which order records are taken: in each epoch each record once, as a function of (seed, name, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidrop.rng import generator, stream_key

BLOCK_BYTES = 512 << 10     # of neighbouring records that BlockOrder keeps in one pool
POOL_BYTES = 32 << 20       # of records that BlockOrder mixes with each other


class Order:
    """Part after part, each in order; with `shuffle`, as in Caffe, the parts in an order of their own in each
    epoch, and the records in each part, but parts are not mixed.

    parts: the number of records of each, e.g. of each file. Memory with `shuffle`: 12 bytes per record of the
    part that is being read.
    """

    def __init__(self, parts: Sequence[int], shuffle: bool = False, seed: int = 0, name: str = ""):
        self.shuffle, self.seed, self.name = bool(shuffle), int(seed), name
        self._counts = [int(count) for count in parts]
        self._starts = np.cumsum((0, *self._counts)).tolist()
        self._held: Any = None
        self._held_of: Any = None

    def __len__(self):
        return self._starts[-1]

    @property
    def key(self) -> int:
        """A number below 2**63 that differs for orders that differ, of the records or in their sequence."""
        more = (self.seed, self.name) if self.shuffle else ()
        return stream_key(0, type(self).__name__, self.shuffle, *more, *self._counts) >> 1

    def runs(self, epoch: int, begin: int, end: int) -> Iterator[np.ndarray]:
        """Yield arrays of indices (int64), together those at the places begin ... end - 1 of an epoch."""
        for piece, count in self._pieces(epoch):
            if begin < min(count, end):
                yield self._indices(epoch, piece, begin, min(count, end))
            begin, end = max(0, begin - count), end - count
            if end <= 0:
                return

    def _pieces(self, epoch):
        """Return (number, number of records) of the pieces that follow each other in an epoch."""
        # These streams are named "hdf5" for every source: another name would change the order of old runs.
        parts = range(len(self._counts))
        if self.shuffle and len(parts) > 1:
            parts = generator(self.seed, "hdf5 files", self.name, epoch).permutation(len(parts)).tolist()
        return [(part, self._counts[part]) for part in parts]

    def _indices(self, epoch, piece, begin, end):
        """Return the indices at some places of a piece."""
        if not self.shuffle:
            return np.arange(self._starts[piece] + begin, self._starts[piece] + end)
        if self._held_of != (epoch, piece):
            self._held = self._held_of = None           # never two at a time
            self._held, self._held_of = self._shuffled(epoch, piece), (epoch, piece)
        return self._held[begin:end].astype(np.int64) + self._starts[piece]

    def _shuffled(self, epoch, part):
        count = self._counts[part]
        rng = generator(self.seed, "hdf5 rows", self.name, epoch, part)
        return rng.permutation(np.arange(count, dtype=np.int32 if count < 2**31 else np.int64))


class BlockOrder(Order):
    """The records of all parts mixed, for sources that are best read in runs of neighbours.

    Each part is cut into blocks of neighbours, of BLOCK_BYTES at most; or of one record, or of one `run` of
    records that can only be read together, if that is larger (but not by far). In each epoch the blocks of
    all parts come in a random order; they are pooled as they come, until a pool holds POOL_BYTES, and the
    records of each pool are shuffled. So records of any two files may be neighbours. What fits into one pool
    is in a uniformly random order; of more, the records of a block are in the same pool, at random places of
    it. An epoch needs each block once. Memory: 8 bytes per record of a pool, 24 per block.
    """

    def __init__(self, parts: Sequence[int], record_bytes: int, seed: int = 0, name: str = "", run: int = 1):
        super().__init__(parts, True, seed, name)
        record_bytes = max(1, record_bytes)
        block = max(1, BLOCK_BYTES // record_bytes)
        if run <= 4 * block:
            block = max(run, block - block % run)
        self._block = block
        self._pool = max(block, POOL_BYTES // record_bytes)     # records
        ends = zip(self._starts, self._starts[1:], strict=False)
        self._first = np.concatenate([np.arange(first, last, block, dtype=np.int64) for first, last in ends])
        # A block ends at the next one, or where its part does, which is where the next part's first begins.
        self._length = np.diff(self._first, append=len(self))
        self._drawn: tuple[Any, ...] = (None, None, None)

    @property
    def key(self) -> int:
        return stream_key(super().key, self._block, self._pool) >> 1

    def _pieces(self, epoch):
        return self._pools(epoch)[0]

    def _pools(self, epoch):
        """Return ([(pool, records in it)], [the blocks of each pool]) of an epoch."""
        if self._drawn[0] != epoch:
            rng = generator(self.seed, "hdf5 blocks", self.name, epoch)
            blocks = rng.permutation(len(self._first))
            before = np.cumsum(self._length[blocks]) - self._length[blocks]
            pools = np.split(blocks, np.flatnonzero(np.diff(before // self._pool)) + 1)
            self._drawn = epoch, [(number, int(self._length[pool].sum()))
                                  for number, pool in enumerate(pools)], pools
        return self._drawn[1:]

    def _indices(self, epoch, piece, begin, end):
        if self._held_of != (epoch, piece):
            blocks = self._pools(epoch)[1][piece]
            every = np.concatenate([np.arange(first, first + length) for first, length in zip(
                self._first[blocks], self._length[blocks], strict=True)])
            rng = generator(self.seed, "hdf5 pools", self.name, epoch, piece)
            self._held, self._held_of = rng.permutation(every), (epoch, piece)
        return self._held[begin:end]
