"""Places: where blocks of gradients stand, and few of them that cover those of all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minidrop.autograd.block import Block, Blocks, as_matrix
from minidrop.autograd.tensor import Parameter
from minidrop.backend import Backend
from minidrop.errors import CaptureError
from minidrop.kept import Kept

_WHOLE, _REGULAR, _LISTED, _MOVING = range(4)       # how a side is written down
_MADE = ("spread", "repeated")          # how one MovingKept is made of another


class Place(NamedTuple):
    """Where a Block stands in the matrix of its parameter; None means a whole axis."""

    rows: Kept | None
    cols: Kept | None

    def shape(self, matrix: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the block in a matrix of this shape, or in a row of numbers."""
        sides = self if len(matrix) > 1 or self.rows is not None else self[::-1]
        return tuple(n if kept is None else kept.count for n, kept in zip(matrix, sides, strict=False))


WHOLE = Place(None, None)


def common_places(places: Iterable[Place], matrix: tuple[int, ...]) -> list[Place]:
    """Return few places of a parameter that cover those of all ranks.

    Blocks that differ on one side alone become one, with the rows (or columns) of any. The whole is returned
    where that is not larger. What sets have in common that are read on a device is not known.
    """
    found = list(dict.fromkeys(places))
    if len(found) > 1 and not any(kept is not None and kept.on_device for place in found for kept in place):
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


def places_of(parameter: Parameter) -> list[Place]:
    """Return the places of the blocks of a parameter's gradient; of rows that a device alone knows, all."""
    return [_place_of(block) for block in parameter.blocks]


def _place_of(block):
    return Place(None if block.rows is not None and block.rows.is_table else block.rows, block.cols)


class Packed:
    """The gradients of some parameters, times a factor, as one row of numbers.

    places: for each parameter those of its blocks on any rank. `flat`: the row, of `entries` numbers.
    """

    def __init__(self, backend: Backend, parameters: Sequence[Parameter], places: Iterable[list[Place]],
                 factor: float):
        self.backend, self.parameters = backend, parameters
        shapes = [as_matrix(parameter.data).shape for parameter in parameters]
        self.places = [common_places(own, shape) for own, shape in zip(places, shapes, strict=True)]
        sizes = [[int(np.prod(place.shape(shape))) for place in own]
                 for own, shape in zip(self.places, shapes, strict=True)]
        self.entries = sum(map(sum, sizes))
        self.flat = backend.xp.empty((self.entries,), parameters[0].dtype if parameters else np.float32)
        first = 0
        self.parts: list[list[np.ndarray]] = []     # of each parameter, the part of the row for each place
        for own, shape, lengths in zip(self.places, shapes, sizes, strict=True):
            self.parts.append([])
            for place, length in zip(own, lengths, strict=True):
                self.parts[-1].append(self.flat[first:first + length].reshape(place.shape(shape)))
                first += length
        for parameter, own, parts in zip(parameters, self.places, self.parts, strict=True):
            self._fill(parameter, own, parts, self.flat.dtype.type(factor))

    def _fill(self, parameter, places, parts, factor):
        if [Place(block.rows, block.cols) for block in parameter.blocks] == places:
            for block, part in zip(parameter.blocks, parts, strict=True):
                self.backend.xp.multiply(block.data.reshape(part.shape), factor, out=part)
            return
        for part in parts:
            part[...] = 0
        for block in parameter.blocks:
            _put(self.backend, block, places, parts)
        for part in parts:
            part *= factor

    def give(self) -> None:
        """Let the numbers of the row, as they are now, be the gradients."""
        for parameter, own, parts in zip(self.parameters, self.places, self.parts, strict=True):
            parameter.clear_grad()
            if own:
                parameter.accumulate(Blocks([
                    Block(part.reshape(parameter.shape) if place == WHOLE else part, *place)
                    for part, place in zip(parts, own, strict=True)], self.flat.dtype))


def _put(backend, block, places, parts):
    """Add a block to the part that covers it."""
    place = _place_of(block)
    which = places.index(place) if place in places else 0       # else a single one covers all
    rows, cols = (_among(own, kept, cover) for own, kept, cover in zip(
        (block.rows, block.cols), place, places[which], strict=True))
    backend.add_block(parts[which], rows, cols, block.data)


def _among(own, kept, cover):
    """Return where the entries of a block's own set stand in one that covers `kept`, its place."""
    if cover is None:
        return own
    if kept == cover:
        return None
    return Kept.of(np.searchsorted(cover.indices, kept.indices), cover.count)


def written(places: Sequence[list[Place]], moving: Sequence[Kept] = ()) -> np.ndarray:
    """Return a row of whole numbers (int64) that describes the places of all parameters.

    moving: the sets that a captured step reads on the device, as all ranks list them.
    """
    pieces = []
    for own in places:
        pieces.append([len(own)])
        for place in own:
            pieces += [_side(kept, moving) for kept in place]
    return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


def _side(kept, moving):
    if kept is None:
        return [_WHOLE]
    if kept.on_device:
        steps = []
        while kept.made_of is not None:
            kept, method, number = kept.made_of
            steps = [_MADE.index(method), number, *steps]
        place = next((i for i, one in enumerate(moving) if one is kept), None)
        if place is None:
            raise CaptureError("a gradient has a kept set that other ranks do not know")
        return [_MOVING, place, len(steps), *steps]
    if kept.regular is not None:
        return [_REGULAR, *kept.regular, kept.total]
    return np.concatenate([[_LISTED, kept.total, kept.count], kept.indices])


def read(row: np.ndarray, parameters: int, moving: Sequence[Kept] = ()) -> Iterator[list[Place]]:
    """Yield the places of each parameter that `written` wrote down."""
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
        if form == _MOVING:
            kept, length = moving[sizes[0]], sizes[1]
            at += 3 + length
            for method, number in row[at - length:at].reshape(-1, 2).tolist():
                kept = getattr(kept, _MADE[method])(number)
            return kept
        total, count = sizes
        at += 3 + count
        return Kept.of(row[at - count:at], total)
    for _ in range(parameters):
        count, at = int(row[at]), at + 1
        yield [Place(side(), side()) for _ in range(count)]
