"""Random numbers per element: a function of a key and an index, the same on every device."""

import math
from typing import Any

import numpy as np

from minidrop.backend.generic.arrays import Arrays
from minidrop.errors import CaptureError


class Random(Arrays):
    """Masks of ordinary dropout, normal and uniform samples, from a counter-based generator (Philox)."""

    def dropout(self, x: np.ndarray, rate: float, scale: float, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (y, mask): y = x * mask * scale, mask ~ Bernoulli(1 - rate), element i from (key, i) alone.

        `mask` is for `dropout_gradient`: a 0/1 array, or an object that `to_host` turns into one.
        Philox4x32-10 (Salmon et al. 2011), counter i // 4, word i % 4: the same mask on every device.
        """
        xp = self.xp
        words = _words(xp, x.size, key).reshape(x.shape)
        mask = words >= xp.uint64(dropout_threshold(rate))
        return (x * mask * x.dtype.type(scale)).astype(x.dtype, copy=False), mask

    def dropout_gradient(self, gy: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
        """Return gy * mask * scale."""
        gx = self.xp.multiply(gy, mask, out=self.empty(gy.shape, gy.dtype))
        gx *= gy.dtype.type(scale)
        return gx

    def dropout_tile(self, shape: tuple[int, int, int], begin: int, strides: tuple[int, int], rate: float,
                     key: Any) -> np.ndarray:
        """Return which entries of a part of a larger array `dropout` keeps, a bool array of `shape`.

        Entry (a, r, c) is element begin + a strides[0] + r strides[1] + c of that array.
        """
        if not isinstance(key, int):
            raise CaptureError("dropout of a part of an array needs its key on the host")
        xp = self.xp
        places = [xp.arange(length, dtype=np.int64) for length in shape]
        index = (begin + places[0][:, None, None] * strides[0] + places[1][:, None] * strides[1]
                 + places[2]).astype(np.uint64)
        words = xp.stack(_philox(xp, index >> xp.uint64(2), key), axis=-1)
        word = xp.take_along_axis(words, (index & xp.uint64(3)).astype(np.int64)[..., None], axis=-1)
        return word[..., 0] >= xp.uint64(dropout_threshold(rate))

    def gaussian(self, shape: Any, dtype: Any, key: int) -> Any:
        """Return samples of N(0, 1), sample i from (key, i) alone; equal for all dtypes, up to rounding.

        Box and Muller 1958 on the words of `dropout`: words 2k and 2k + 1 give u and v = (word + 1) / 2**32
        in (0, 1], and samples 2k and 2k + 1 are sqrt(-2 ln u) times cos and sin of 2 pi v. None is beyond
        sqrt(64 ln 2) = 6.66.
        """
        xp, size = self.xp, math.prod(shape)
        # In float64 for every dtype: a u near 1, rounded to float32, would lose most digits of its logarithm.
        uniform = ((_words(xp, size + size % 2, key).astype(np.float64) + 1) * 2.0**-32).reshape(-1, 2)
        radius, angle = xp.sqrt(-2 * xp.log(uniform[:, 0])), 2 * math.pi * uniform[:, 1]
        pairs = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=1)
        return pairs.reshape(-1)[:size].reshape(shape).astype(dtype)


    def uniform(self, shape: Any, dtype: Any, key: int) -> Any:
        """Return samples of U(0, 1]: sample i is (word + 1) / 2**32 with word i of `dropout`."""
        if not isinstance(key, int):
            raise CaptureError("uniform numbers need their key on the host")
        words = _words(self.xp, math.prod(shape), key).astype(np.float64)
        return ((words + 1) * 2.0**-32).reshape(shape).astype(dtype)


def dropout_threshold(rate: float) -> int:
    """Return the least 32-bit word that keeps an element: P(word < threshold) = rate."""
    return min(round(rate * 2.0**32), 2**32 - 1)


def _words(xp, count, key):
    """Return the first `count` random words of a key, as uint64."""
    blocks = xp.arange(-(-count // 4), dtype=np.uint64)
    return xp.stack(_philox(xp, blocks, key), axis=1).reshape(-1)[:count]


def _philox(xp, blocks, key):
    """Return Philox4x32-10 of the counters (block, 0, 0) as four uint64 arrays of 32-bit words."""
    low32, shift = xp.uint64(0xFFFFFFFF), xp.uint64(32)
    c0, c1 = blocks & low32, blocks >> shift
    c2 = c3 = xp.zeros_like(blocks)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        product0, product1 = xp.uint64(0xD2511F53) * c0, xp.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((product1 >> shift) ^ c1 ^ xp.uint64(k0), product1 & low32,
                          (product0 >> shift) ^ c3 ^ xp.uint64(k1), product0 & low32)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3
