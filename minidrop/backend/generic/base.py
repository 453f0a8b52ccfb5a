"""Backend: the operations that may differ between devices, written once in `xp`.

Every generic method is the reference: a device overrides one only if a measurement says so, and the
backends-agree tests compare the override with it. Each file has one family of operations, whose base classes
say what it is written on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from minidrop.backend.generic.attention import Attention
from minidrop.backend.generic.convolution import Convolutions
from minidrop.backend.generic.kept import KeptSets
from minidrop.backend.generic.nn import Neural
from minidrop.backend.generic.norm import Normalization
from minidrop.backend.generic.pooling import Pooling
from minidrop.backend.generic.update import Updates
from minidrop.errors import BackendError

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
_OF_CTX = {     # what PyTorch's functions keep on a ctx, which stands where a Function is given its Backend
    "save_for_backward": "a Function keeps what backward needs on itself, as self.x = x",
    "saved_tensors": "a Function keeps what backward needs on itself, as self.x",
    "needs_input_grad": "backward(self, backend, gy, wanted) is told which are wanted",
}


class Backend(KeptSets, Convolutions, Pooling, Attention, Neural, Normalization, Updates):
    """Arrays and operations on one device.

    xp: its array module (NumPy or CuPy). name: "cpu" or "cuda:N". precision: what products of float32 arrays
    round their operands to, one of PRECISIONS; float64 is never rounded.
    """

    name = "generic"
    precision = "float32"
    xp = np
    reads_grids = False     # whether its kernels read BlockGrids on the device
    captures = False        # whether `capture` is supported
    capturing = False       # True while work is captured, or done as if it were: the host reads no values
    trouble = None          # while capturing: an array of one int32, nonzero once something went wrong

    if not TYPE_CHECKING:       # or every name would be one of a Backend's
        def __getattr__(self, name):
            instead = f"; {_OF_CTX[name]}" if name in _OF_CTX else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{instead}")

    def __deepcopy__(self, memo: dict) -> "Backend":
        """Return itself: copies of what lies on a device lie on that device."""
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise BackendError("a device cannot be pickled, nor what computes on it: save the state_dict() of a "
                           "module, an optimizer or a scheduler with numpy.savez, a net with net.save(path)")

    @contextmanager
    def as_captured(self, trouble: np.ndarray) -> Iterator[None]:
        """Within this context work is done as if it were captured; errors set the flag `trouble`."""
        was, self.capturing, self.trouble = self.capturing, True, trouble
        try:
            yield
        finally:
            self.capturing, self.trouble = was, None
