"""What a net gives a layer: a NodePlan, once, and a NodeDraw for every iteration. A layer only reads them."""

from dataclasses import dataclass

from minidrop.patterns.draw import NOTHING, Draw


@dataclass(frozen=True)
class NodePlan:
    """What the planner decided about one layer.

    activation: of a product, the function to apply to what it computes (Backend.activate). scales: of a
    product, it multiplies the units that it computes by the scale of their drop. done: of an activation or a
    drop, the product above has done its work. skips: of a drop inside the layer, its products leave out what
    is dropped; else a mask. expand: the numbers of the bottoms that the net makes dense first.
    """

    activation: str = "none"
    scales: bool = False
    done: bool = False
    skips: bool = False
    expand: frozenset = frozenset()


@dataclass(frozen=True)
class NodeDraw:
    """What one iteration drops around one layer, and its random numbers.

    outputs: what the layer need not compute. inputs: which blocks of its dense first bottom it need not read.
    own: what it drops itself. dropping: whether its random drops act. key: of its random numbers, an integer
    or an array of it on the device; None for a layer without any.
    """

    outputs: Draw = NOTHING
    inputs: Draw = NOTHING
    own: Draw = NOTHING
    dropping: bool = False
    key: object = None
