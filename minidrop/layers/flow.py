"""Flow facts: how entries of blobs pass through a layer.

`Layer.flow(shapes)` returns a list of them; planner, costs, checks and reshuffling use nothing else. Bottoms,
tops and axes are numbers; axes count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidrop.patterns.drop_site import DropSite

OWN = -1
"""As the bottom of a Product: it reads the layer's own result of the previous step. As its top: its result
is a state that the layer's other Products read, not a top of the layer."""


@dataclass(frozen=True)
class Pass:
    """Entry i of the top's axis is computed from entry i of the bottom's axis alone.

    bottom, top: their numbers; top None: the layer reads the bottom and computes nothing from it.
    axis: the axis for which this holds; None: every axis.
    spread: each entry becomes this many neighbouring entries.
    keeps_zero: an entry that is zero throughout stays zero.
    finite: finite input gives finite output and derivative.
    compact: correct even if entries are missing; False if, say, each has a random number tied to its place.
    activation: the name of the function in Backend.activate, "" if there is none.
    epilogue: can apply the Scale below it, a ReLU below that and the scale of a drop of units to its result
        (see NodePlan).
    scales_channels: it multiplies the entries of axis 1 by a learned factor each, and may add a bias.
    mixes_samples: an entry depends on those of other samples too: what a drop leaves out must be the same for
        all of them.
    mixes_steps: an entry depends on those of other steps of its sequence: samples may differ in what a drop
        leaves out, steps may not.
    joint: of several bottoms; it holds where all of them lack the same entries.
    runs: it holds for entries taken in whole runs of this many neighbours, as heads of attention are; with 1
        for each entry. Facts with longer runs hold only together with those of the other bottoms.
    """

    bottom: int = 0
    top: int | None = 0
    axis: int | None = None
    spread: int = 1
    keeps_zero: bool = False
    finite: bool = True
    compact: bool = True
    activation: str = ""
    epilogue: bool = False
    scales_channels: bool = False
    mixes_samples: bool = False
    mixes_steps: bool = False
    joint: bool = False
    runs: int = 1

    def covers(self, axis: int) -> bool:
        """Whether this holds for an axis."""
        return self.axis in (None, axis)


@dataclass(frozen=True)
class Product:
    """A matrix product that may leave out entries of the bottom's `in_axis` and of the top's `out_axis`.

    parameter: the name of the weights; "" where another bottom stands in their place, number `factor`.
    rows, inputs, outputs: its size in one forward pass, split into `calls` successive products.
    in_axis, out_axis: None if no single axis is that side of the product.
    kinds: what it can leave out, of "units", "weights" and "blocks"; with "groups" as well, other units for
        each group of samples (a KeptByGroup).
    in_spread: the number of neighbouring inputs that an entry of in_axis stands for.
    weight_axes: the axes of the weights that count the outputs and the inputs; None if no order of the units
        but one fits them, as with groups of channels.
    biases: the names of other parameters with one entry per output.
    epilogue: can apply an activation and the scale of a drop of units to its result (see NodePlan).
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
    weight_axes: tuple | None = (0, 1)
    biases: tuple = ()
    epilogue: bool = False
    factor: int | None = None

    def leaves_out(self, kind: str, groups: int = 1) -> bool:
        """Whether it can leave out "units", "weights" or "blocks"; units that differ between `groups`."""
        return kind in self.kinds and (groups == 1 or kind != "units" or "groups" in self.kinds)

    @property
    def operations(self) -> float:
        """The number of multiplications and additions in one forward pass."""
        return 2.0 * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Adds:
    """The layer adds this bottom to its other ones: what the bottom lacks of `axis` adds nothing there.

    So it may lack units while the others and the top are dense, as the branch of a residual sum does. axis
    None: any one. epilogue: it can apply a ReLU below it to its result (see NodePlan).
    """

    bottom: int
    axis: int | None = None
    epilogue: bool = False


@dataclass(frozen=True)
class Drops:
    """The layer drops entries of `axis` of its top; with top OWN, of what its own Products read of that top.

    site: the DropSite of a drop by patterns; None if no product can become smaller, for the given `reason`.
    leaves_scale: the product above that computes the kept units may apply their scale instead.
    reshuffle_interval: the units above are permuted every so many iterations (see net.reshuffle); 0: never.
    label: its name in messages, if not the layer's name.
    """

    site: DropSite | None = None
    top: int = 0
    axis: int = 1
    reason: str = ""
    leaves_scale: bool = False
    reshuffle_interval: int = 0
    label: str = ""
