"""Random numbers by Numba loops: what ordinary dropout keeps, and normal numbers."""

import numpy as np

from minidrop.backend.generic import Backend, dropout_threshold
from minidrop.kernels import threads


class RandomNumbers(Backend):
    """`dropout`, `dropout_tile` and `gaussian`."""

    def dropout(self, x: np.ndarray, rate: float, scale: float, key: int) -> tuple[np.ndarray, np.ndarray]:
        from minidrop.kernels import cpu
        x = np.ascontiguousarray(x)
        y, mask = self.empty(x.shape, x.dtype), self.empty(x.shape, np.bool_)
        # Random words: an element costs about as much as four streamed ones.
        threads.by_rows(cpu.dropout, -(-x.size // 4), 4 * x.size, x.reshape(-1), y.reshape(-1),
                        mask.reshape(-1), np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32),
                        np.uint32(dropout_threshold(rate)), x.dtype.type(scale))
        return y, mask

    def dropout_tile(self, shape: tuple[int, int, int], begin: int, strides: tuple[int, int], rate: float,
                     key: int) -> np.ndarray:
        from minidrop.kernels import cpu
        keep = self.empty(shape, np.bool_)
        threads.by_rows(cpu.dropout_tile, len(keep), 4 * keep.size, keep, begin, *strides,
                        np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32),
                        np.uint32(dropout_threshold(rate)))
        return keep

    def gaussian(self, shape: tuple[int, int], dtype: np.dtype, key: int) -> np.ndarray:
        from minidrop.kernels import cpu
        out = self.empty(shape, dtype)
        # A logarithm, a root and an angle: an element costs about as much as ten streamed ones.
        threads.by_rows(cpu.gaussian, -(-out.size // 4), 10 * out.size, out.reshape(-1),
                        np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32))
        return out
