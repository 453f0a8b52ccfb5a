"""Beam search: the most likely sequences of many sentences at once, given a model that scores next words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Best:
    """The best complete sequence of a sentence: its words, which end in `end`, the place that each attends
    to, its logarithmic probability, and that divided by its length penalty."""

    words: list = field(default_factory=list)
    places: list = field(default_factory=list)
    log_probability: float = -math.inf
    score: float = -math.inf


def length_penalty(length: int, alpha: float) -> float:
    """Return ((5 + length) / 6) ** alpha, by which a logarithmic probability is divided. Wu et al. 2016."""
    return ((5 + length) / 6) ** alpha


def beam_search(step: Callable, sentences: int, beams: int, begin: int, end: int, most: int,
                alpha: float = 1.0, never: tuple = (), wanted: int | None = None) -> list[Best]:
    """Return the Best of each wanted sentence: the sequence found with the largest log p / length penalty.

    step(words, origins) returns (log p (sentences * beams, words), places (sentences * beams,)): the model
    reads one word for each beam of each sentence, after what the beam number `origins` had read before.
    beams: how many unfinished sequences of a sentence go on; 1 takes the likeliest word each time. A sentence
    is done when `beams` of its sequences have ended, or they have `most` words, the last of which is `end`.
    never: words that are not written. wanted: how many sentences count, the first ones (None: all); the
    others, which fill a batch, are given to the model as well, but nothing is searched for in them.

    With as many beams as there are sequences it finds the best of all.
    """
    best = [Best() for _ in range(sentences)]
    wanted = sentences if wanted is None else wanted
    ended = np.where(np.arange(sentences) < wanted, 0, beams)
    live = np.full((sentences, beams), -math.inf)
    live[:, 0] = 0
    histories: list[list[tuple]] = [[((), ())] * beams for _ in range(sentences)]
    words = np.full(sentences * beams, begin)
    origins = np.arange(sentences * beams)
    for length in range(1, most + 1):
        scores, places = step(words, origins)
        scores = scores.reshape(sentences, beams, -1).astype(np.float64)
        scores[:, :, list(never)] = -math.inf
        if length == most:
            only = scores[:, :, end].copy()
            scores[:] = -math.inf
            scores[:, :, end] = only
        count = scores.shape[2]
        totals = (live[:, :, None] + scores).reshape(sentences, -1)
        places = np.asarray(places).reshape(sentences, beams)
        for i in np.flatnonzero(ended < beams):
            chosen = _largest(totals[i], 2 * beams)
            own = [(int(k) // count, int(k) % count, float(totals[i, k])) for k in chosen]
            for beam, _, total in (one for one in own[:beams] if one[1] == end):
                ended[i] += 1
                score = total / length_penalty(length, alpha)
                if score > best[i].score:
                    before, looked = histories[i][beam]
                    best[i] = Best([*before, end], [*looked, int(places[i, beam])], total, score)
            going = [one for one in own if one[1] != end][:beams]
            if not going:
                ended[i] = beams
                continue
            going += [(going[0][0], going[0][1], -math.inf)] * (beams - len(going))
            old = histories[i]
            histories[i] = [((*old[beam][0], word), (*old[beam][1], int(places[i, beam])))
                            for beam, word, _ in going]
            live[i] = [total for *_, total in going]
            part = slice(i * beams, (i + 1) * beams)
            words[part] = [word for _, word, _ in going]
            origins[part] = [i * beams + beam for beam, *_ in going]
        if (ended >= beams).all():
            break
    return best[:wanted]


def _largest(values, count):
    """Return the indices of the `count` largest finite values, largest first; equals in their order."""
    if count < len(values):
        found = np.sort(np.argpartition(-values, count - 1)[:count])
    else:
        found = np.arange(len(values))
    found = found[np.argsort(-values[found], kind="stable")]
    return found[np.isfinite(values[found])]
