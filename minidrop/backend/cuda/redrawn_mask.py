"""RedrawnMask: a dropout mask that takes no memory."""

from __future__ import annotations

import numpy as np

from minidrop.backend.generic import Backend


class RedrawnMask:
    """The mask of a dropout: not stored, but drawn again when it is needed."""

    def __init__(self, backend: Backend, shape: tuple[int, int], dtype: np.dtype, rate: float, key: int):
        self.backend, self.shape, self.dtype, self.rate, self.key = backend, shape, dtype, rate, key

    def __array__(self, dtype=None, copy=None):
        ones = self.backend.xp.ones(self.shape, self.dtype)
        kept = self.backend.to_host(self.backend._dropped(ones, self.rate, 1, self.key)) != 0
        return kept if dtype is None else kept.astype(dtype)
