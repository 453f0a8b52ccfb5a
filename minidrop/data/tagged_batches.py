"""Batches of tagged sentences of similar length, with their characters."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.data.streams import PADDING
from minidrop.data.tagged_vocabulary import Encoded
from minidrop.rng import generator

POOL = 100          # batches whose sentences are sorted by length together


class TaggedSentences:
    """Sentences, one a stream, padded to the longest of the batch; T, N, L: steps, streams, characters.

        words (T, N)              the sentence's words, then <pad>
        tags (T, N)               its tags, then -1, which is meant for ignore_label; 0 where not known
        cont (T, N)               0 1 ... 1, then 0, which keeps padding apart in either direction
        characters (L, T * N)     the characters of word (t, n) in column t * N + n, then <pad>
        character_cont (L, T * N) as cont, for the characters of each word
        character_mask (L, T * N) 1 at characters, 0 at padding

    All are int32. A pass has each sentence once, so its last batch may end with empty streams, all padding.
    In order of the file, or with `shuffle` each pass in its own order: then the sentences of a batch have
    similar lengths, as runs of 100 batches are sorted by length and the batches shuffled. With an
    `unknown_rate` a word that occurs once in the training text is read as <unk> in that share of its
    readings, or nothing would be learned of <unk>. Batch n is a function of (seed, layer_name, n) alone.
    """

    def __init__(self, encoded: Encoded, streams: int, shuffle: bool = False, seed: int = 0,
                 layer_name: str = "", unknown_rate: float = 0.0, steps: int = 0, text: Any = None):
        self.encoded, self.streams, self.shuffle = encoded, int(streams), bool(shuffle)
        self.seed, self.layer_name, self.unknown_rate = seed, layer_name, unknown_rate
        self.steps, self.text = int(steps), text    # of longer sentences the first `steps` tokens; 0: all
        self.batches_per_pass = max(1, -(-len(encoded) // self.streams))
        self._order: tuple = (None, None)

    def one_pass(self) -> TaggedSentences:
        """Return these batches: a pass of them has each sentence once."""
        return self

    def share(self, n: int) -> float:
        """Return how many sentences batch n has, divided by the number of streams."""
        return len(self.chosen(n)) / self.streams

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...) as {name: array}."""
        encoded, chosen = self.encoded, self.chosen(n)
        lengths = np.zeros(self.streams, np.int64)
        lengths[:len(chosen)] = encoded.lengths[chosen]
        if self.steps:
            lengths = np.minimum(lengths, self.steps)
        step = np.arange(max(1, int(lengths.max())))[:, None]
        inside = step < lengths
        first = np.zeros(self.streams, np.int64)
        first[:len(chosen)] = encoded.starts[chosen]
        place = np.where(inside, first + step, 0)
        none = not len(encoded.word)
        words = np.zeros(inside.shape, np.int32) if none else np.where(inside, encoded.word[place], 0)
        if self.unknown_rate:
            rng = generator(self.seed, "unknown words", self.layer_name, n)
            rare = encoded.vocabulary.once[words] & (rng.random(words.shape) < self.unknown_rate)
            words = np.where(rare, encoded.vocabulary.words.unk, words)
        tags = 0 if encoded.tag is None else encoded.tag[place]
        return {"words": words.astype(np.int32), "tags": np.where(inside, tags, PADDING).astype(np.int32),
                "cont": (inside & (step > 0)).astype(np.int32), **self._characters(place, inside)}

    def _characters(self, place, inside):
        encoded = self.encoded
        spelling = np.zeros(place.size, np.int64)
        spelling[inside.reshape(-1)] = encoded.spelling[place[inside]]
        lengths = np.zeros(place.size, np.int64)
        lengths[inside.reshape(-1)] = encoded.spelled_lengths[spelling[inside.reshape(-1)]]
        most = max(1, int(lengths.max()))
        step = np.arange(most)[:, None]
        mask = step < lengths
        spelled = np.zeros(mask.shape, np.int32)
        if len(encoded.spelled):
            spelled[...] = np.where(mask, encoded.spelled[spelling, :most].T, 0)
        return {"characters": spelled, "character_cont": (mask & (step > 0)).astype(np.int32),
                "character_mask": mask.astype(np.int32)}

    def chosen(self, n: int) -> np.ndarray:
        """Return the numbers of the sentences of batch n, fewer than streams in the last of a pass.

        Raises ValueError for a number below 0.
        """
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        number, place = divmod(int(n), self.batches_per_pass)
        if not self.shuffle:
            return np.arange(place * self.streams, min(len(self.encoded), (place + 1) * self.streams))
        known, batches = self._order        # one attribute: a reader thread may be between two
        if known != number:
            batches = self._shuffled(number)
            self._order = number, batches
        return batches[place]

    def _shuffled(self, number):
        """Return the batches of a pass, as arrays of the numbers of sentences."""
        rng = generator(self.seed, "tagged sentences", self.layer_name, number)
        order, size = rng.permutation(len(self.encoded)), self.streams * POOL
        pools = [order[first:first + size] for first in range(0, len(order), size)]
        order = np.concatenate([pool[np.argsort(self.encoded.lengths[pool], kind="stable")]
                                for pool in pools])
        batches = [order[first:first + self.streams] for first in range(0, len(order), self.streams)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def where(self, n: int, place: int) -> str:
        """Return "the token of FILE:LINE" for entry `place` of the flattened batch n."""
        chosen = self.chosen(n)
        step, stream = divmod(place, self.streams)
        if stream >= len(chosen):
            return "padding"
        step %= max(1, self._longest(chosen))       # characters (L, T * N) are L times (T, N)
        length = int(self.encoded.lengths[chosen[stream]])
        token = int(self.encoded.starts[chosen[stream]]) + min(step, length - 1)
        what = "the token" if step < length else "padding after the token"
        return f"{what} of {self.text.where(token)}" if self.text is not None else f"{what} {token}"

    def _longest(self, chosen):
        longest = int(self.encoded.lengths[chosen].max())
        return min(longest, self.steps) if self.steps else longest
