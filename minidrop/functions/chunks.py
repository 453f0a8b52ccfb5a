"""How many chunks of tagged sequences, such as names, are found: a metric without a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidrop.errors import DataError, ShapeError
from minidrop.functions.checks import check_name

LETTERS = {"IOBES": 4, "IOB2": 2}       # tags for each kind: B I E S, or B I; tag 0 is O
_BEGIN, _INSIDE, _END, _SINGLE = range(4)


@dataclass(frozen=True)
class ChunkCounts:
    """right: chunks found with their exact ends and kind; found, wanted: all that were found, that there are.

    tokens, right_tokens: those that are no padding, and those of them with the right tag.
    """

    right: int
    found: int
    wanted: int
    right_tokens: int
    tokens: int


def count_chunks(path: np.ndarray, tags: np.ndarray, scheme: str = "IOBES") -> ChunkCounts:
    """Return the ChunkCounts of found tags against those wanted, host arrays (T, N), -1 in padding of `tags`.

    Tags are numbered as TagSet does. A chunk begins at B or S, after O, E or S, and where the kind changes:
    also where the found tags break the rules of their scheme, as in conlleval and seqeval. Raises ShapeError,
    DataError for a tag that is no whole number from 0 on.
    """
    if path.shape != tags.shape or tags.ndim != 2:
        raise ShapeError(f"expected found and wanted tags of one shape (steps, streams), got {path.shape} "
                         f"and {tags.shape}")
    check_name("count_chunks: scheme", scheme, tuple(LETTERS))
    valid = tags != -1
    spans = []
    for own in (path, tags):
        own = np.where(valid, own, 0)
        wrong = (own < 0) | (own != np.floor(own))
        if wrong.any():
            raise DataError(f"expected tags as whole numbers from 0 on, got {own[wrong][0]:g}",
                            int(wrong.reshape(-1).argmax()))
        spans.append(_spans(own.astype(np.int64), LETTERS[scheme]))
    (begins, ends, kinds), (true_begins, true_ends, true_kinds) = spans
    right = begins & true_begins & (ends == true_ends) & (kinds == true_kinds)
    return ChunkCounts(int(right.sum()), int(begins.sum()), int(true_begins.sum()),
                       int(((path == tags) & valid).sum()), int(valid.sum()))


def _spans(tags, letters):
    """Return (where chunks begin, the last step of the chunk at each step, its kind), arrays (T, N)."""
    inside = tags > 0
    letter, kind = (tags - 1) % letters, (tags - 1) // letters
    begins = inside.copy()
    begins[1:] &= ((letter[1:] == _BEGIN) | (letter[1:] == _SINGLE) | ~inside[:-1] | (letter[:-1] == _END)
                   | (letter[:-1] == _SINGLE) | (kind[1:] != kind[:-1]))
    ends = np.zeros(tags.shape, np.int64)
    for t in range(len(tags) - 1, -1, -1):
        ends[t] = t
        if t + 1 < len(tags):
            goes_on = inside[t + 1] & ~begins[t + 1] & inside[t]
            ends[t] = np.where(goes_on, ends[t + 1], t)
    return begins, ends, kind
