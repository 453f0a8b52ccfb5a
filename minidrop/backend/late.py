"""Late: an array that is computed when somebody reads it."""

from __future__ import annotations

import numpy as np


class Late:
    """What a product will be, once it is asked for; its operands are its own.

    shape, dtype: of the array. A device makes them where it can use the operands themselves.
    """

    __slots__ = ()
    shape: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """Compute it."""
        raise NotImplementedError

    @property
    def is_surely_finite(self) -> bool:
        """Whether its operands are so small that no entry can be infinite or NaN; False: nobody knows."""
        return False
