"""DropSite: the place where one layer drops, and what of it others see."""

import numpy as np

from minidrop.errors import CaptureError, ShapeError
from minidrop.patterns.base import get_family
from minidrop.patterns.sequence import PatternSequence


class DropSite:
    """The place where one layer drops: holds the iteration's pattern for all who compute, read or check.

    layer_name, seed: what the sequence of patterns depends on, beside the settings.
    total: length of the dropped axis; the layer sets it once shapes are known.
    active: False in phase TEST: nothing is dropped, scale is 1.
    attached: True where a product has taken a pattern of weights upon itself: nothing is left to do here.
    scaled: True where the product that leaves the dropped units out multiplies the kept ones by `scale` as well.
    masked: True where dense code multiplies by an explicit mask instead (the oracle): then `kept`, `tiles` and
    `groups` are None.
    steps: None where a pattern holds for the whole batch; else the number of steps of its sequences, each of which has a
    pattern of its own (`patterns`): what is dropped are then blocks, one for each step.
    moving: lent by a captured step: what others are given instead of `kept_sets`, one for one; of BLOCK where the device
    finds which blocks live.

    Before the first `draw` a site is the identity.
    """

    def __init__(self, layer_name, settings, seed, total=None):
        self.layer_name = layer_name
        self.settings = settings
        self.seed = seed
        self.total = total
        self.active = True
        self.attached = False
        self.scaled = False
        self.masked = False
        self.steps = None
        self.moving = None
        self.family = get_family(settings)
        self.sequence = PatternSequence(self.family, seed, layer_name)
        self.pattern = None
        self._first, self._patterns, self._kept_by_steps = 0, (), None

    @property
    def drops(self):
        """"units", "weights" or "blocks": what it does here. Weights of no product are units, in runs."""
        if self.steps is not None:
            return "blocks"
        return "units" if self.family.drops == "weights" and not self.attached else self.family.drops

    def draw(self, counter):
        """Set and return the pattern of iteration `counter`, whatever was drawn before; of its first step, if each has one."""
        self._first = counter * (self.steps or 1)
        self.pattern, self._patterns, self._kept_by_steps = self.sequence.at(self._first), None, None
        return self.pattern

    @property
    def patterns(self):
        """The patterns drawn: one, or where `steps` is given one for each; () before the first `draw`."""
        if self._patterns is None:
            self._patterns = tuple(self.sequence.at(self._first + t) for t in range(self.steps or 1))
        return self._patterns

    @property
    def drawn(self):
        """The drawn pattern where it acts, else None."""
        return self.pattern if self.active else None

    def _drawn_kept(self):
        """The Kept of the drawn pattern, or None where it drops nothing of this axis."""
        if self.drawn is None or self.drops != "units":
            return None
        if self.total is None:
            raise ShapeError(f"layer {self.layer_name!r}: the length of the dropped axis is not known yet; "
                             "shape the layer (set DropSite.total) before asking what is kept")
        kept = self.pattern.kept(self.total)
        return None if kept.is_all else kept

    @property
    def kept(self):
        """What compact code computes: a Kept, or None for all (nothing dropped, phase TEST, or `masked`)."""
        kept = None if self.masked else self._drawn_kept()
        return kept if kept is None or self.moving is None else self.moving[0]

    def tiles(self, outputs, inputs):
        """What lives of the weights of the product that took the site: (outputs, inputs) pairs of Kept, or None for all."""
        if self.drawn is None or self.masked or self.drops != "weights":
            return None
        tiles = self.pattern.tiles(outputs, inputs)
        return tiles if self.moving is None else tuple(zip(self.moving[::2], self.moving[1::2], strict=True))

    def kept_sets(self, weights=None):
        """Every Kept of this iteration that others are given, in order; [] where nothing is dropped.

        weights: (outputs, inputs) of the product that took a pattern of weights. Not for patterns of blocks.
        """
        if self.masked or self.drawn is None:
            return []
        if self.drops == "weights":
            return [kept for tile in self.pattern.tiles(*weights) for kept in tile]
        kept = self._drawn_kept()
        return [] if kept is None else [kept]

    def groups(self, samples):
        """What lives of `samples` x total activations: (first, last, Kept) for each group of samples, or None for all."""
        if self.drawn is None or self.masked or self.drops != "blocks":
            return None
        groups = self._groups(samples)
        return groups if self.moving is None else groups.moving(self.moving)

    def grid(self, samples):
        """The BlockGrid of `samples` x total activations, or None for all. CaptureError where each step has a pattern."""
        if self.drawn is None or self.masked or not self.pattern.rate:
            return None
        if self.steps is not None:
            raise CaptureError(f"layer {self.layer_name!r} ({self.family.name}) draws another pattern for each step")
        return self.pattern.grid(samples, self.total)

    def _groups(self, samples):
        if self.steps is None:
            return self.pattern.groups(samples, self.total)
        if self._kept_by_steps is None:
            self._kept_by_steps = [pattern.kept(self.total) for pattern in self.patterns]
        streams = samples // self.steps        # samples stand step by step, as in an array (steps, streams, total)
        return tuple((t * streams, (t + 1) * streams, kept) for t, kept in enumerate(self._kept_by_steps))

    @property
    def scale(self):
        """What surviving values are multiplied by; with scale RATE it holds even where `kept` is None."""
        return self.pattern.scale if self.drawn is not None else 1.0

    def mask(self, dtype=np.float64):
        """Return the array of length `total`, scale included, that dense code would multiply units by.

        This and its two neighbours raise ValueError where the site drops something else.
        """
        self._expect("units", "mask")
        kept = self._drawn_kept()
        if kept is None:
            return np.full(self.total, self.scale, dtype)
        mask = kept.mask(dtype)
        mask *= self.scale
        return mask

    def block_mask(self, samples, dtype=np.float64):
        """Return the array (samples, total), scale included, that dense code would multiply activations by."""
        self._expect("blocks", "block_mask")
        mask = np.full((samples, self.total), self.scale, dtype)
        if self.drawn is not None:
            for first, last, kept in self._groups(samples):
                mask[first:last] *= kept.mask(dtype)
        return mask

    def weight_mask(self, outputs, inputs, dtype=np.float64):
        """Return the array (outputs, inputs), scale included, that dense code would multiply the product's weights by."""
        self._expect("weights", "weight_mask")
        if self.drawn is None:
            return np.ones((outputs, inputs), dtype)
        return self.pattern.weight_mask(outputs, inputs).astype(dtype) * self.scale

    def _expect(self, drops, method):
        if self.drops != drops:
            right = {"units": "mask", "blocks": "block_mask", "weights": "weight_mask"}[self.drops]
            raise ValueError(f"layer {self.layer_name!r}: {method} is for a site that drops {drops}; this one drops "
                             f"{self.drops} (pattern {self.family.name}): call {right}")

    def __repr__(self):
        return f"DropSite({self.layer_name!r}, {self.settings}, total={self.total}, pattern={self.pattern})"
