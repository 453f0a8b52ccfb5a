"""How entries flow through a layer: the facts from which planner, costs, check and reshuffling work
everything out.

`Layer.flow(shapes)` returns a list of them. Bottoms, tops and axes are numbers; an axis is counted from 0.
"""

from dataclasses import dataclass

OWN = -1
"""The bottom of a Product that reads the layer's own result, of the step before; its top where that is a
state which the layer's other Products read, and no top of the layer."""


@dataclass(frozen=True)
class Pass:
    """Entry i of the top's axis is computed from entry i of the bottom's axis alone.

    bottom, top: their numbers; top None: the layer reads the bottom, and makes nothing of it. axis: the axis
    of which that holds; None: every axis. spread: each entry becomes a run of so many neighbours. keeps_zero:
    an entry that is zero throughout stays zero. finite: finite input gives finite output and slope. compact:
    computes correctly where entries are missing; False where each has, say, a random number by its place.
    activation: the name in Backend.activate of the function that this is, "" if none.
    """

    bottom: int = 0
    top: int | None = 0
    axis: int | None = None
    spread: int = 1
    keeps_zero: bool = False
    finite: bool = True
    compact: bool = True
    activation: str = ""

    def covers(self, axis: int) -> bool:
        """Whether this holds of an axis."""
        return self.axis in (None, axis)


@dataclass(frozen=True)
class Product:
    """A product of matrices that may leave out entries of the bottom's `in_axis` and of the top's `out_axis`.

    parameter: the name of the weights, of which axis weight_axes[0] counts the outputs and weight_axes[1] the
    inputs; biases: other parameters with one entry an output. An axis that is None is no side of the product
    on its own. kinds: what it can leave out, of "units", "weights" and "blocks". in_spread: an entry of
    in_axis is so many neighbouring inputs. rows, inputs, outputs: its size in one forward pass, in `calls`
    products one after the other. epilogue: applies an activation and the scale of a drop of units to what it
    computes (NodePlan).
    """

    parameter: str
    rows: int
    inputs: int
    outputs: int
    bottom: int = 0
    in_axis: int | None = None
    top: int = 0
    out_axis: int | None = None
    kinds: tuple = ()
    in_spread: int = 1
    calls: int = 1
    weight_axes: tuple = (0, 1)
    biases: tuple = ()
    epilogue: bool = False

    @property
    def operations(self) -> float:
        """Multiplications and additions of one forward pass."""
        return 2.0 * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Drops:
    """The layer drops entries: of `axis` of its top, or, with top OWN, of what its own Products read of that.

    site: the DropSite of a drop by patterns; None where no product can be made smaller, and `reason` says
    why. leaves_scale: may leave the scale of units that the product above computed to that product.
    reshuffle_interval: the units above get other places every so many iterations (see reshuffle); 0: never.
    label: what it is called in messages, where that is not the layer's name.
    """

    site: object = None
    top: int = 0
    axis: int = 1
    reason: str = ""
    leaves_scale: bool = False
    reshuffle_interval: int = 0
    label: str = ""
