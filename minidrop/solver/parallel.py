"""Gradients of several ranks, added up as they are: blocks of what is kept travel, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from minidrop.autograd.tensor import Block, Blocks, Parameter, as_matrix
from minidrop.backend import Backend
from minidrop.errors import ParallelError
from minidrop.kept import Kept
from minidrop.solver.ranks import BUCKET, Ranks

_WHOLE, _REGULAR, _LISTED = range(3)        # how a side is written down


class Place(NamedTuple):
    """Where a Block stands in the matrix of its parameter; None means a whole axis."""

    rows: Kept | None
    cols: Kept | None

    def shape(self, matrix: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the block in a matrix of this shape, or in a row of numbers."""
        sides = self if len(matrix) > 1 or self.rows is not None else self[::-1]
        return tuple(n if kept is None else kept.count for n, kept in zip(matrix, sides, strict=False))


WHOLE = Place(None, None)


class GradientSum:
    """Adds up the gradients of all ranks: each rank's blocks go into one row of numbers, bucket by bucket.

    All ranks draw the same patterns, so that mostly they have the same blocks, and then a short hash says so.
    Otherwise they tell each other which they have: groups of samples that are not on every rank, rows of an
    Embed that only some ranks read. What travels is `common_places` of all of them.

    `entries`, `whole_entries`: how many numbers travelled last, and how many all gradients have. `sent`: the
    bytes that this rank sent for it, `bytes_to_add` and what the ranks tell each other of their blocks.
    """

    def __init__(self, ranks: Ranks, backend: Backend, bucket: int = BUCKET):
        self.ranks, self.backend, self.bucket = ranks, backend, bucket
        self.entries = self.whole_entries = self.sent = 0

    def add(self, parameters: Mapping[str, Parameter], factor: float) -> None:
        """Replace each gradient by `factor` times its sum over ranks."""
        before = self.ranks.sent
        with self.backend.active():
            self._add(parameters, factor)
        self.sent = self.ranks.sent - before

    def _add(self, parameters, factor):
        backend = self.backend
        every = list(parameters.values())
        shapes = [as_matrix(parameter.data).shape for parameter in every]
        places = [common_places(own, shape)
                  for own, shape in zip(self._all_places(every), shapes, strict=True)]
        sizes = [[int(np.prod(place.shape(shape))) for place in own]
                 for own, shape in zip(places, shapes, strict=True)]
        self.entries, self.whole_entries = sum(map(sum, sizes)), sum(parameter.size for parameter in every)
        if not self.entries:
            return
        flat = backend.zeros((self.entries,), every[0].dtype)
        views = _views(flat, places, shapes)
        for parameter, own, parts in zip(every, places, views, strict=True):
            for block in parameter.blocks:
                _put(backend, block, own, parts)
        flat *= flat.dtype.type(factor)
        host = backend.to_host(flat)
        self.ranks.add(host, self.bucket)
        if host is not flat:
            flat[...] = backend.asarray(host)
        for parameter, own, parts in zip(every, places, views, strict=True):
            parameter.clear_grad()
            if own:
                parameter.accumulate(Blocks([Block(part.reshape(parameter.shape) if place == WHOLE else part,
                                                   *place)
                                             for part, place in zip(parts, own, strict=True)], flat.dtype))

    def _all_places(self, parameters):
        """Return, for each parameter, the places of its blocks on any rank, in the order of the ranks."""
        own = [[Place(block.rows, block.cols) for block in parameter.blocks] for parameter in parameters]
        row = np.asarray(_written(own), np.int64)
        digest = np.frombuffer(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), np.uint8)
        digests = self.ranks.gather(digest)
        if (digests == digest).all():
            return own
        found: list[list[Place]] = [[] for _ in parameters]
        for other in self.ranks.rows(row):
            for places, read in zip(found, _read(other, len(parameters)), strict=True):
                places += read
        return found


def check_alike(ranks: Ranks, parameters: Mapping[str, Parameter], backend: Backend) -> None:
    """Raise ParallelError unless all ranks have the same weights, bit for bit."""
    if ranks.alone:
        return
    hashes = [np.frombuffer(hashlib.blake2b(np.ascontiguousarray(backend.to_host(parameter.data)).data,
                                            digest_size=16).digest(), np.uint8)
              for parameter in parameters.values()]
    every = ranks.gather(np.array(hashes, np.uint8).reshape(-1, 16))
    differ = (every != every[0]).any(axis=2)
    if differ.any():
        rank, place = (int(one[0]) for one in np.nonzero(differ))
        raise ParallelError(f"rank {rank} has other weights than rank 0, of {list(parameters)[place]}: all "
                            f"ranks must begin with the same seed, weights and snapshot, and run on "
                            f"processors and libraries of one kind")


def common_places(places: Iterable[Place], matrix: tuple[int, ...]) -> list[Place]:
    """Return few places of a parameter that cover those of all ranks.

    Blocks that differ on one side alone become one, with the rows (or columns) of any. The whole is returned
    where that is not larger.
    """
    found = list(dict.fromkeys(places))
    if len(found) > 1:
        for side, other in ((0, 1), (1, 0)):
            if len({place[other] for place in found}) == 1 and None not in {place[side] for place in found}:
                union = _union([place[side] for place in found])
                found = [Place(union, found[0].cols) if side == 0 else Place(found[0].rows, union)]
                break
    if len(found) > 1 and WHOLE in found or (
            sum(np.prod(place.shape(matrix)) for place in found) >= np.prod(matrix) and found):
        return [WHOLE]
    return found


def _union(sets):
    mask = np.zeros(sets[0].total, bool)
    for kept in sets:
        mask[kept.index] = True
    return Kept.of(np.flatnonzero(mask), len(mask))


def _views(flat, places, shapes):
    """Return, for each parameter, views of a row of numbers, one for each place."""
    views, first = [], 0
    for own, shape in zip(places, shapes, strict=True):
        parts = []
        for place in own:
            size = int(np.prod(place.shape(shape)))
            parts.append(flat[first:first + size].reshape(place.shape(shape)))
            first += size
        views.append(parts)
    return views


def _put(backend, block, places, parts):
    """Add a block to the part that covers it."""
    place = Place(block.rows, block.cols)
    if place in places:
        part = parts[places.index(place)]
        part += block.data.reshape(part.shape)
    elif places == [WHOLE]:
        block.add_to(backend, parts[0], 1)
    else:       # one place, which covers all
        rows, cols = (_among(kept, cover) for kept, cover in zip(place, places[0], strict=True))
        backend.add_block(parts[0], rows, cols, block.data)


def _among(kept, cover):
    """Return where the entries of a set stand among those of one that covers it."""
    if cover is None or kept == cover:
        return kept if cover is None else None
    return Kept.of(np.searchsorted(cover.indices, kept.indices), cover.count)


def _written(places):
    """Return a row of whole numbers (int64) that describes the places of all parameters."""
    pieces = []
    for own in places:
        pieces.append([len(own)])
        for place in own:
            pieces += map(_side, place)
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _side(kept):
    if kept is None:
        return [_WHOLE]
    if kept.regular is not None:
        return [_REGULAR, *kept.regular, kept.total]
    return np.concatenate([[_LISTED, kept.total, kept.count], kept.indices])


def _read(row: np.ndarray, parameters: int) -> Iterator[list[Place]]:
    """Yield the places of each parameter that `_written` wrote down."""
    at = 0

    def side():
        nonlocal at
        form, *sizes = row[at:at + 3].tolist()
        if form == _WHOLE:
            at += 1
            return None
        if form == _REGULAR:
            at += 5
            return Kept(*row[at - 4:at])
        total, count = sizes
        at += 3 + count
        return Kept.of(row[at - count:at], total)
    for _ in range(parameters):
        count, at = int(row[at]), at + 1
        yield [Place(side(), side()) for _ in range(count)]
