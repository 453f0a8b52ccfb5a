"""The form of drawn patterns: what decides shapes and launches; the rest is read from device memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidrop.backend.device_sets import DeviceGrid, MovingKept
from minidrop.errors import CaptureError
from minidrop.net import Net
from minidrop.patterns.draw import NOTHING

MULTIPLE = 8        # of compact sizes, so that rows of 16-bit numbers are aligned to 16 bytes


@dataclass(frozen=True)
class Form:
    """The draws of one iteration, split into what a graph fixes and what it reads.

    `signature`: step, width and scale of every drawn pattern. `starts`: the starts of the kept sets. `lives`:
    {node index: which of its blocks are kept}.
    """

    signature: tuple
    starts: list[int]
    lives: dict[int, np.ndarray]


class CapturedPatterns:
    """Finds the Form of a Net's draws, and gives its layers such draws, to be read on the device.

    Kept sets are those of the whole batch, the same on all ranks. `moving`: those given last whose starts are
    read, in the order of these.
    """

    def __init__(self, net: Net):
        self.net = net
        self.drops = {drop.node.index: drop for drop in net.plan.drops}
        self.moving: list[MovingKept] = []
        self.weighted = {drop.node.index: (drop.producer.layer.outputs, drop.producer.layer.inputs)
                         for drop in net.plan.drops if drop.kind == "weights"}
        shapes = net.graph.shapes
        self.samples = {drop.node.index: math.prod(shapes[drop.node.tops[0]][:drop.fact.axis])
                        for drop in net.plan.drops if drop.kind == "blocks"}
        self.keyed = [layer for layer in net.layers.values() if layer.stream is not None]

    def form(self) -> Form:
        """Return the Form of the current draws; raises CaptureError for irregular kept sets."""
        net = self.net
        form, starts, lives = [net.mode, *map(net.is_dropping, net.drop_layers.values())], [], {}
        own = net.drops.acting()
        for index, draw in net.drops.acting(whole=True).items():
            if net.mode.masked:
                draw = NOTHING
            grid = None if net.mode.masked else own[index].grid(self.samples.get(index))
            if grid is not None:
                lives[index] = grid.lives
            kept_sets = draw.kept_sets(self.weighted.get(index))
            for kept in kept_sets:
                if kept.regular is None:
                    name = net.graph.nodes[index].name
                    raise CaptureError(f"layer {name!r} ({net.drop_sites[name].family.name}) keeps another "
                                       f"number of units in every iteration")
                if _moves(kept):
                    starts.append(kept.regular[0])
            form.append((draw.scale, grid is None, *((*kept.regular[1:], kept.total) for kept in kept_sets)))
        return Form(tuple(form), starts, lives)

    def keys(self, iteration: int) -> list:
        """Return the keys of an iteration's random numbers."""
        return [layer.key(iteration) for layer in self.keyed]

    def give(self, starts: Iterable[np.ndarray], lives: Any,
             keys: list[np.ndarray]) -> None:
        """Give the layers draws whose starts, lives and keys are read from these device arrays at launch."""
        net, places = self.net, iter(starts)
        draws, self.moving = net.drops.acting(), []
        for index, draw in {} if net.mode.masked else net.drops.acting(whole=True).items():
            if index in self.samples:
                if index in lives:
                    shape = draws[index].grid(self.samples[index]).block_shape
                    draws[index] = draws[index].given(DeviceGrid(lives[index], *shape))
                continue
            kept_sets = draw.kept_sets(self.weighted.get(index))
            # Of pairs of tiles the outputs are disjoint, and so are the inputs.
            pairs = len(kept_sets) // 2 if index in self.weighted else 0
            sets = [MovingKept(kept, next(places), (index, i % 2, pairs) if pairs else None, MULTIPLE)
                    if _moves(kept) else kept for i, kept in enumerate(kept_sets)]
            self.moving += [kept for kept in sets if isinstance(kept, MovingKept)]
            draws[index] = net.drops.of_part(self.drops[index], draw.given(sets))
        key_of = {layer.name: key for layer, key in zip(self.keyed, keys, strict=True)}
        net.drops.give(draws, lambda layer: key_of[layer.name])


def _moves(kept):
    """Whether a kept set depends on its start."""
    _, step, width = kept.regular
    return width < step
