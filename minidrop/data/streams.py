"""Batches of a text for a language model: streams in order or from random places, and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minidrop.errors import DataError
from minidrop.rng import generator

PADDING = -1                # the label that Sentences gives to steps after the end of a sentence


def part_of(count: int, begin: float, end: float) -> Any:
    """Return the slice of `count` items from share `begin` to share `end`; adjacent shares tile exactly."""
    return slice(round(begin * count), round(end * count))


class TextStreams:
    """A text as parallel streams: batch n holds `steps` steps of each, from step n * steps on.

    Of M tokens stream s has the `length` tokens from s * length on, length = M // streams; the rest is
    dropped. The last token of a stream is read as a label only, so a pass has (length - 1) // steps batches.
    Batch n of the first pass is, with t = 0 ... steps - 1:

        data[t, s] = x[s * length + n * steps + t],  label[t, s] = x[s * length + n * steps + t + 1]

    and cont[t, s] is 0 for the very first step of a pass, else 1. All are (steps, streams), int32. Batch n is
    a function of n alone; after each pass the text starts over. `whole`: a pass ends with a batch of fewer
    steps, those that are left of each stream. `begin` and `end`: the part of the tokens to read, as shares.

    Raises DataError if the text is too short for one batch.
    """

    def __init__(self, indices: np.ndarray, streams: int, steps: int, begin: float = 0.0, end: float = 1.0,
                 name: Path | str = "the text", whole: bool = False):
        part = part_of(len(indices), begin, end)
        self.part = indices = np.asarray(indices, np.int32)[part]
        self.streams, self.steps, self.name, self.first = int(streams), int(steps), str(name), part.start
        self.length = len(indices) // self.streams
        self.batches_per_pass = (self.length - 1 + (self.steps - 1) * whole) // self.steps
        if self.length <= self.steps:
            raise DataError(f"{name}: expected at least {self.streams * (self.steps + 1)} tokens for "
                            f"{self.streams} streams of {self.steps} steps, got {len(indices)}; use fewer "
                            f"streams, fewer steps or a longer text")
        self._rows = indices[:self.length * self.streams].reshape(self.streams, self.length)

    def one_pass(self) -> TextStreams:
        """Return the batches of one pass with all steps of each stream, see `whole`."""
        return TextStreams(self.part, self.streams, self.steps, name=self.name, whole=True)

    def share(self, n: int) -> float:
        """Return how many steps batch n has, divided by `steps`."""
        return min(self.steps, self.length - 1 - self._place(n)) / self.steps

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): data, label and cont by name."""
        place = self._place(n)
        rows = self._rows[:, place:place + self.steps + 1]
        cont = np.ones((rows.shape[1] - 1, self.streams), np.int32)
        cont[0] = place > 0
        return {"data": np.array(rows[:, :-1].T, order="C"), "label": np.array(rows[:, 1:].T, order="C"),
                "cont": cont}

    def where(self, n: int, place: int) -> str:
        """Return "token NUMBER of stream STREAM of FILE" for entry `place` of the flattened batch n."""
        step, stream = divmod(place, self.streams)
        return f"token {self._place(n) + step} of stream {stream} of {self.name}"

    def _place(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        return n % self.batches_per_pass * self.steps


class RandomStreams:
    """A text as streams that begin anew at a random place in every batch, as for models without memory.

    Stream s of batch n has the tokens from place p[s] on, where p is drawn from all places with `steps`
    tokens and one more behind them, with replacement:

        data[t, s] = x[p[s] + t],  label[t, s] = x[p[s] + t + 1]

    and cont[t, s] is 0 where t is 0, else 1. All are (steps, streams), int32. Batch n is a function of (seed,
    layer_name, n) alone. `begin` and `end`: the part of the tokens to read, as shares.

    Raises DataError if the text is too short for one stream.
    """

    def __init__(self, indices: np.ndarray, streams: int, steps: int, seed: int = 0, layer_name: str = "",
                 begin: float = 0.0, end: float = 1.0, name: Path | str = "the text"):
        part = part_of(len(indices), begin, end)
        self.indices = np.asarray(indices, np.int32)[part]
        self.streams, self.steps, self.name, self.first = int(streams), int(steps), str(name), part.start
        self.seed, self.layer_name = seed, layer_name
        if len(self.indices) <= self.steps:
            raise DataError(f"{name}: expected at least {self.steps + 1} tokens for {self.steps} steps, got "
                            f"{len(self.indices)}; use fewer steps or a longer text")
        # So many batches read as many tokens as there are.
        self.batches_per_pass = -(-len(self.indices) // (self.streams * self.steps))

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): data, label and cont by name."""
        places = self._places(n) + np.arange(self.steps + 1)[:, None]
        tokens = self.indices[places]
        cont = np.ones((self.steps, self.streams), np.int32)
        cont[0] = 0
        return {"data": tokens[:-1].copy(), "label": tokens[1:].copy(), "cont": cont}

    def where(self, n: int, place: int) -> str:
        """Return "token NUMBER of FILE" for entry `place` of the flattened batch n."""
        step, stream = divmod(place, self.streams)
        return f"token {self.first + int(self._places(n)[stream]) + step} of {self.name}"

    def _places(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        rng = generator(self.seed, "streams", self.layer_name, n)
        return rng.integers(len(self.indices) - self.steps, size=self.streams)


class Sentences:
    """A text as sentences, one per stream: for models that start over with each, such as caption models.

    A sentence w_1 ... w_k is the words before an <eos>; empty ones are left out. In its stream

        data = <eos> w_1 ... w_k <eos> ...,  label = w_1 ... w_k <eos> -1 ...,  cont = 0 1 ... 1 0 ...

    truncated or padded to `steps`. The label -1 is meant for ignore_label; cont is 0 at padding, which keeps
    it apart from the words in either direction. All are (steps, streams), int32. A batch is never partial but
    continues into the next pass; `whole`: the last batch of a pass ends with empty streams instead, all
    padding, and each pass is the first. With `shuffle` every pass has its own order, a function of
    (seed, layer_name, pass) alone. `begin` and `end`: the part of the sentences to read, as shares.

    Raises DataError if there is no sentence.
    """

    def __init__(self, indices: np.ndarray, eos: Any, streams: int, steps: int, shuffle: bool = False,
                 seed: int = 0, layer_name: str = "", begin: float = 0.0, end: float = 1.0,
                 name: Path | str = "the text", whole: bool = False):
        self.indices = np.asarray(indices, np.int32)
        self.begin, self.end, self.whole = begin, end, whole
        self.eos, self.streams, self.steps, self.name = int(eos), int(streams), int(steps), str(name)
        self.shuffle, self.seed, self.layer_name = bool(shuffle), seed, layer_name
        ends = np.flatnonzero(self.indices == self.eos)
        if len(self.indices) and self.indices[-1] != self.eos:
            ends = np.append(ends, len(self.indices))
        starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
        lines = np.flatnonzero(ends > starts)
        lines = lines[part_of(len(lines), begin, end)]
        if not len(lines):
            raise DataError(f"{name}: expected at least one sentence, a line with a word, got none in this "
                            "part of the text; name another source or correct begin and end")
        self.lines, self.starts, self.lengths = lines, starts[lines], (ends - starts)[lines]
        self.batches_per_pass = -(-len(lines) // self.streams)
        self._orders: dict[int, np.ndarray | None] = {}

    def __len__(self):
        return len(self.lines)

    def one_pass(self) -> Sentences:
        """Return the batches of one pass, each sentence once; see `whole`."""
        return Sentences(self.indices, self.eos, self.streams, self.steps, self.shuffle, self.seed,
                         self.layer_name, self.begin, self.end, self.name, whole=True)

    def share(self, n: int) -> float:
        """Return how many sentences batch n has, divided by the number of streams."""
        return self._sentences_in(n) / self.streams

    def _sentences_in(self, n):
        first = n % self.batches_per_pass * self.streams
        return min(self.streams, len(self) - first) if self.whole else self.streams

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch number n (0, 1, ...): data, label and cont by name."""
        chosen = self._chosen(n)
        lengths = self.lengths[chosen]
        lengths[self._sentences_in(n):] = -1
        step = np.arange(self.steps)[:, None]
        places, inside = self.starts[chosen] + step, step < lengths
        words = np.where(inside, self.indices[np.minimum(places, len(self.indices) - 1)], self.eos)
        data = np.full((self.steps, self.streams), self.eos, np.int32)
        data[1:] = words[:-1]
        label = np.where(step <= lengths, words, PADDING).astype(np.int32)
        cont = ((step > 0) & (step <= lengths)).astype(np.int32)
        return {"data": data, "label": label, "cont": cont}

    def where(self, n: int, place: int) -> str:
        """Return "token NUMBER of line LINE of FILE" for entry `place` of the flattened batch n.

        For padding: the line before it, and the ignore_label to set.
        """
        step, stream = divmod(place, self.streams)
        number = self._chosen(n)[stream]
        line = f"line {self.lines[number] + 1} of {self.name}"
        if step > self.lengths[number] or stream >= self._sentences_in(n):
            return (f"padding after {line}, labelled {PADDING}: set loss_param "
                    f"{{ ignore_label: {PADDING} }}, of Accuracy accuracy_param "
                    f"{{ ignore_label: {PADDING} }}")
        return f"token {step} of {line}"

    def _chosen(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        if self.whole:
            n %= self.batches_per_pass
        # In Python integers as far as possible: a snapshot may hold any n.
        passed, place = divmod(n * self.streams, len(self))
        passes, places = np.divmod(place + np.arange(self.streams), len(self))
        if not self.shuffle:
            return places
        passes = [passed + further for further in passes.tolist()]
        wanted = range(passes[0], passes[-1] + 1)
        self._orders = {number: self._orders.get(number, None) for number in wanted}
        for number, order in self._orders.items():
            if order is None:
                rng = generator(self.seed, "sentences", self.layer_name, number)
                self._orders[number] = rng.permutation(len(self))
        return np.array([self._orders[number][place]
                         for number, place in zip(passes, places.tolist(), strict=True)])
