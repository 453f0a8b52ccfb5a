"""What a net sets on a layer: a NodePlan per mode, a NodeDraw per iteration. The layer only reads them."""

from dataclasses import dataclass
from typing import Any

from minidrop.patterns.draw import NOTHING, Draw
from minidrop.patterns.part import Part


@dataclass(frozen=True)
class NodePlan:
    """What the planner decided for one layer.

    activation: for a product, a normalization or a sum, the function it applies to its result
        (Backend.activate).
    scaling: for a normalization, the Scale layer whose factor and bias it applies.
    scales: for a product or a normalization, it multiplies the units that it computes by the scale of their
        drop.
    done: for an activation, a drop or a Scale, the layer above has already done its work.
    skips: for a drop inside the layer, its products leave out what is dropped; otherwise a mask is applied.
    expand: the numbers of the bottoms that the net makes dense first.
    whole: the net makes the tops dense, which lack entries only where all bottoms happen to lack the same.
    """

    activation: str = "none"
    scaling: Any = None
    scales: bool = False
    done: bool = False
    skips: bool = False
    expand: frozenset = frozenset()
    whole: bool = False


@dataclass(frozen=True)
class NodeDraw:
    """What one iteration drops around one layer, and the key of the layer's random numbers.

    outputs: what the layer need not compute.
    inputs: which blocks of its dense first bottom it need not read.
    own: what it drops itself.
    dropping: whether its random drops act.
    part: which samples of the batch the first bottom holds, None for all: numbers that the layer draws for an
    entry are those of its place in the whole batch.
    key: an integer, or a device array that holds it; None for a layer without random numbers.
    """

    outputs: Draw = NOTHING
    inputs: Draw = NOTHING
    own: Draw = NOTHING
    dropping: bool = False
    key: object = None
    part: Part | None = None
