"""Backend: the operations that may differ between devices, written once in `xp`.

Every generic method is the reference: a device overrides one only where a measurement says so, and the
backends-agree tests compare the override with it. One family of operations a file.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minidrop.backend.generic.arrays import Arrays
from minidrop.backend.generic.kept import KeptSets
from minidrop.backend.generic.nn import Neural
from minidrop.backend.generic.products import Products
from minidrop.backend.generic.random import Random
from minidrop.backend.generic.update import Updates

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


class Backend(Arrays, Products, KeptSets, Neural, Random, Updates):
    """Arrays and products on one device. `xp` is its array module (NumPy or CuPy); `name` is "cpu" or
    "cuda:N".

    `precision`, one of PRECISIONS: what products of float32 arrays round their operands to; float64 is never
    rounded.
    """

    name = "generic"
    precision = "float32"
    xp = np
    reads_grids = False     # has kernels that look into BlockGrids on the device
    captures = False        # whether `capture` can do anything
    capturing = False       # True while work is captured, or done as if it were: the host looks at nothing
    trouble = None          # while capturing: an array of one int32, not 0 once something was wrong

    @contextmanager
    def as_captured(self, trouble: np.ndarray) -> Iterator[None]:
        """Within this context work is done as if it were captured; what is wrong is noted in `trouble`."""
        was, self.capturing, self.trouble = self.capturing, True, trouble
        try:
            yield
        finally:
            self.capturing, self.trouble = was, None
