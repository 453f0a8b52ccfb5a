"""Batches of pairs of sentences that say the same in two languages."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minidrop.data.sentences import Lines, SentenceVocabulary, VocabularyPair
from minidrop.data.streams import PADDING
from minidrop.errors import DataError
from minidrop.rng import generator

TOPS = ("source", "source_mask", "target", "label", "source_cont", "target_cont")


def check_pair(source: Lines, target: Lines) -> None:
    """Raise DataError unless two files have as many lines."""
    counts = len(source.lengths), len(target.lengths)
    if counts[0] != counts[1]:
        short, long = (source, target) if counts[0] < counts[1] else (target, source)
        raise DataError(f"{long.name}:{min(counts) + 1}: expected the end of the file, as {short.name} has "
                        f"{min(counts)} lines, got {max(counts)} lines; each line of one must be the "
                        f"translation of the same line of the other")


class ParallelBatches:
    """Pairs of sentences, source s_1 ... s_k and target w_1 ... w_m, one pair per stream:

        source  s_1 ... s_k <pad> ...        source_mask  1 ... 1 0 ...        source_cont  0 1 ... 1 0 ...
        target  <s> w_1 ... w_m <pad> ...    label  w_1 ... w_m </s> -1 ...    target_cont  0 1 ... 1 0 ...

    (places, streams) and (steps, streams), int32, as long as the longest of the batch needs. The label -1 is
    meant for ignore_label. `most`: most words of a source and most steps of a target sentence; longer pairs
    are cut, or with `leave_out` left out.

    Pairs come in the order of the files, pass after pass; a batch is never partial but continues into the
    next pass. Those of `one_pass` have each pair once; the last of them repeats a pair in the streams that
    are left, with labels -1. With `shuffle` every pass has its own order, a function of (seed, layer_name,
    pass) alone; then `pool` batches at a time are sorted by length, and come in an order of their own. Batch
    n is a function of n alone. Raises DataError if no pair is left.
    """

    def __init__(self, source: Lines, target: Lines, vocabularies: VocabularyPair, streams: int,
                 most: tuple[int, int], leave_out: bool = False, shuffle: bool = False, pool: int = 1,
                 seed: int = 0, layer_name: str = ""):
        check_pair(source, target)
        self.files, self.vocabularies, self.streams = (source, target), vocabularies, int(streams)
        self.shuffle, self.pool, self.seed, self.layer_name = shuffle, max(1, pool), seed, layer_name
        self.indices = [lines.encoded(vocabulary) for lines, vocabulary in
                        ((source, vocabularies.source), (target, vocabularies.target))]
        self.starts = [np.cumsum(lines.lengths) - lines.lengths for lines in (source, target)]
        room = most[0], most[1] - 1         # a target sentence takes one step more than it has words
        lengths = [lines.lengths for lines in (source, target)]
        fits = np.ones(len(lengths[0]), bool)
        if leave_out:
            fits = (lengths[0] <= room[0]) & (lengths[1] <= room[1])
        self.lines = np.flatnonzero(fits)
        self.left_out = len(fits) - len(self.lines)
        if not len(self.lines):
            raise DataError(f"{source.name}: expected a pair of at most {room[0]} and {room[1]} words, got "
                            f"only longer ones; set larger source_steps and target_steps")
        self.lengths = [np.minimum(own, limit)[self.lines] for own, limit in zip(lengths, room, strict=True)]
        self.starts = [own[self.lines] for own in self.starts]
        self.batches_per_pass = -(-len(self.lines) // self.streams)
        self._orders: dict[int, np.ndarray] = {}
        self._pool: tuple[int, Any] = (-1, None)
        self.whole = False

    def one_pass(self) -> ParallelBatches:
        """Return the batches of one pass in the order of the files, each pair once."""
        batches = copy.copy(self)
        batches.whole, batches.shuffle = True, False
        return batches

    def share(self, n: int) -> float:
        """Return how many pairs batch n has that count, divided by the number of streams."""
        return self._pairs_in(n) / self.streams

    def _pairs_in(self, n):
        first = n % self.batches_per_pass * self.streams
        return min(self.streams, len(self) - first) if self.whole else self.streams

    def __len__(self):
        return len(self.lines)

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): the arrays of `TOPS` by name."""
        chosen = self._chosen(n)
        source, target = (self._words(side, chosen) for side in (0, 1))
        (words, inside), (following, within) = source, target
        steps = len(following) + 1
        vocabulary = self.vocabularies.target
        inputs = np.full((steps, len(chosen)), vocabulary.pad, np.int32)
        inputs[0], inputs[1:] = vocabulary.begin, following
        label = np.full((steps, len(chosen)), PADDING, np.int32)
        label[:-1] = np.where(within, following, PADDING)
        label[self.lengths[1][chosen], np.arange(len(chosen))] = vocabulary.end
        label[:, self._pairs_in(n):] = PADDING
        conts = []
        for mask in (inside, label != PADDING):
            conts.append(mask.astype(np.int32))
            conts[-1][0] = 0
        return dict(zip(TOPS, (words, inside.astype(np.int32), inputs, label, *conts), strict=True))

    def where(self, n: int, place: int) -> str:
        """Return "line LINE of FILE" for entry `place` of the flattened batch n."""
        line = self.lines[self._chosen(n)[place % self.streams]] + 1
        return (f"line {line} of {self.files[0].name} and {self.files[1].name} (padding has the label "
                f"{PADDING}: set loss_param {{ ignore_label: {PADDING} }}, of Accuracy accuracy_param "
                f"{{ ignore_label: {PADDING} }})")

    def _words(self, side, chosen):
        """Return (indices (steps, streams), whether each is a word)."""
        lengths = self.lengths[side][chosen]
        step = np.arange(lengths.max())[:, None]
        inside = step < lengths
        places = np.where(inside, self.starts[side][chosen] + step, 0)
        vocabulary: SentenceVocabulary = (self.vocabularies.source, self.vocabularies.target)[side]
        return np.where(inside, self.indices[side][places], vocabulary.pad).astype(np.int32), inside

    def _chosen(self, n):
        """Return the numbers of the pairs of batch n."""
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        if self.whole:
            first = n % self.batches_per_pass * self.streams
            return np.minimum(np.arange(first, first + self.streams), len(self) - 1)
        if not self.shuffle:
            return self._numbers(n * self.streams, self.streams)
        pool, place = divmod(int(n), self.pool)
        if self._pool[0] != pool:
            numbers = self._numbers(pool * self.pool * self.streams, self.pool * self.streams)
            if self.pool > 1:
                numbers = numbers[np.lexsort((self.lengths[0][numbers], self.lengths[1][numbers]))]
            order = generator(self.seed, "pools", self.layer_name, pool).permutation(self.pool)
            self._pool = pool, numbers.reshape(self.pool, self.streams)[order]
        return self._pool[1][place]

    def _numbers(self, first, count):
        """Return the numbers of `count` pairs from place `first` of the run on."""
        # In Python integers as far as possible: a snapshot may hold any n.
        passed, place = divmod(first, len(self))
        passes, places = np.divmod(place + np.arange(count), len(self))
        if not self.shuffle:
            return places
        wanted = {passed + int(further) for further in (passes[0], passes[-1])}
        wanted = set(range(min(wanted), max(wanted) + 1))
        self._orders = {number: self._orders[number] if number in self._orders else
                        generator(self.seed, "pairs", self.layer_name, number).permutation(len(self))
                        for number in wanted}
        found = np.empty(count, np.int64)
        for number in wanted:
            own = passes == number - passed
            found[own] = self._orders[number][places[own]]
        return found
