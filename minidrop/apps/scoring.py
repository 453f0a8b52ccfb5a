"""Scoring text with a language model: how likely each line is, many lines at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from minidrop.apps.generation import TextModel
from minidrop.apps.text_nets import for_steps
from minidrop.autograd import no_grad
from minidrop.errors import ConfigError, NonFiniteError
from minidrop.net import Net

STREAMS = 16                # lines at a time
WINDOW = 16                 # batches of lines that are read together, and sorted by length
MOST_STEPS = 64             # steps at a time of a net that remembers all that it read


@dataclass(frozen=True)
class LineScore:
    """What a language model says of a line.

    tokens: how many it has, at level WORD with the <eos> and at level CHARACTER with the line end that ends
    it. unknown: how many of them were read as <unk>. log_probability: the natural logarithm of the
    probability of all of them together.
    """

    tokens: int
    unknown: int
    log_probability: float

    @property
    def perplexity(self) -> float:
        """exp(-log_probability / tokens); 1 for a line without tokens, which level PIECE may have."""
        with np.errstate(over="ignore"):        # infinity, of a line that the model holds for impossible
            return float(np.exp(-self.log_probability / self.tokens)) if self.tokens else 1.0


class LineScorer:
    """Gives lines of text the LineScores of a TextModel, `streams` lines at a time.

    Every line stands alone: the model begins with what `TextModel.generate` begins without a prompt, an <eos>
    or a line end, and gives each token of the line the probability softmax(scores) over all its classes, in
    float64. Of a line that is longer than the model's context the rest is read in windows of that length;
    each begins with the last half of the window before, whose tokens are not counted again. What a line gets
    depends on the others by rounding alone. Raises ConfigError for a number of streams below 1.
    """

    def __init__(self, model: TextModel, streams: int = STREAMS):
        if streams < 1:
            raise ConfigError(f"streams must be at least 1, got {streams}")
        self.model, self.streams = model, streams
        layer = model.described.message.layer[model.text]
        self._data, self._cont = layer.top[0], layer.top[2] if len(layer.top) > 2 else None
        self._steps = model.context or min(layer.text_data_param.steps or MOST_STEPS, MOST_STEPS)
        config, self._scores, self._axis = for_steps(model.described, model.text, self._steps, 0, streams)
        own = model.net
        self.net = Net(config, "TEST", own.backend, own.dtype, 0, own.level, own.stages, share=own)

    def scores(self, lines: Iterable[str], window: int = 0) -> Iterator[LineScore]:
        """Yield the LineScore of each line, which has no line end.

        So many lines are read before their scores are yielded, 16 batches unless given. Raises
        NonFiniteError.
        """
        lines = iter(lines)
        while own := list(islice(lines, window or WINDOW * self.streams)):
            yield from self._scored([self._read(line) for line in own])

    def close(self) -> None:
        """Free the net's memory; that of the model stays."""
        self.net.close()

    def _read(self, line):
        """Return the indices of a line behind what the model begins with."""
        vocabulary = self.model.vocabulary
        if vocabulary.level != "PIECE":
            own = vocabulary.encode(line + "\n")
            begin = own[-1:]                    # <eos>, or the line end
        else:
            own, begin = vocabulary.encode(line), vocabulary.encode("\n")[-1:]
            begin = begin if len(begin) else np.zeros(1, own.dtype)     # a tokenizer may make nothing of it
        return np.concatenate([begin, own])

    def _scored(self, lines):
        """Return the LineScores of indices, each behind a beginning."""
        order = np.argsort([len(tokens) for tokens in lines], kind="stable").tolist()
        sums = np.zeros(len(lines))
        if self.model.context:
            self._in_windows(lines, order, sums)
        else:
            for first in range(0, len(order), self.streams):
                self._from_step_to_step(lines, order[first:first + self.streams], sums)
        unknown = self.model.vocabulary.unk
        return [LineScore(len(tokens) - 1, 0 if unknown is None else int((tokens[1:] == unknown).sum()),
                          float(total)) for tokens, total in zip(lines, sums, strict=True)]

    def _in_windows(self, lines, order, sums):
        """Add to `sums` what the tokens of lines are, of a net that sees a context: windows stand alone."""
        windows = ((line, *window) for line in order for window in self._windows(len(lines[line]) - 1))
        while batch := list(islice(windows, self.streams)):
            pieces = [lines[line][begin:end + 1] for line, begin, _, end in batch]
            self.net.reset_states()
            for place, (line, begin, first, _), found in zip(
                    range(len(batch)), batch, self._pass(pieces, True), strict=True):
                sums[line] += found[first - begin:len(pieces[place]) - 1].sum()

    def _windows(self, count):
        """Yield (begin, first that counts, end) of the windows over `count` tokens."""
        context, begin, first = self.model.context, 0, 0
        while first < count:
            yield begin, first, min(begin + context, count)
            first = begin + context
            begin = first - context // 2

    def _from_step_to_step(self, lines, chosen, sums):
        """Add to `sums` what the tokens of chosen lines are, of a net that goes on where it was."""
        self.net.reset_states()
        for begin in range(0, max(len(lines[line]) for line in chosen) - 1, self._steps):
            pieces = [lines[line][begin:begin + self._steps + 1] for line in chosen]
            for line, piece, found in zip(chosen, pieces, self._pass(pieces, not begin), strict=True):
                sums[line] += found[:max(0, len(piece) - 1)].sum()

    def _pass(self, pieces, begins):
        """Run the net on pieces of lines, one a stream; returns log P of the token after each, (piece, step).

        begins: whether the pieces begin sequences. No step sees the padding behind it.
        """
        data = np.zeros((self._steps, self.streams), np.int64)
        label = np.zeros_like(data)
        for stream, piece in enumerate(pieces):
            count = max(0, len(piece) - 1)
            data[:count, stream], label[:count, stream] = piece[:count], piece[1:]
        inputs = {self._data: data}
        if self._cont:
            inputs[self._cont] = np.ones(data.shape)
            if self.model.sentences:
                inputs[self._cont][data == self.model.vocabulary.eos] = 0
            if begins:
                inputs[self._cont][0] = 0
        steps = max((len(piece) - 1 for piece in pieces), default=0)
        with self.net.guard(wait=True), no_grad():
            self.net.forward(**inputs)
            scores = self.net.blobs[self._scores].numpy()
        scores = np.moveaxis(scores, self._axis, -1).reshape(self._steps, self.streams, -1)
        found = np.zeros((len(pieces), self._steps))
        for step in range(steps):               # one at a time: the classes are many
            own = scores[step, :len(pieces)].astype(np.float64)
            highest = own.max(axis=-1, keepdims=True)
            total = np.log(np.exp(own - highest).sum(axis=-1)) + highest[:, 0]
            found[:, step] = own[np.arange(len(pieces)), label[step, :len(pieces)]] - total
        real = np.arange(self._steps) < np.array([[len(piece) - 1] for piece in pieces])
        if not np.isfinite(found[real]).all():
            raise NonFiniteError(f"the scores {self._scores!r} hold a NaN or infinity; was the training "
                                 f"healthy?")
        return np.where(real, found, 0)
