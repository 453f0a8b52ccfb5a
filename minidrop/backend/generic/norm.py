"""Normalization: sums, statistics and factors of channels, and of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidrop.backend.generic.products import Products


class Normalization(Products):
    """Operations on arrays (samples, channels, places), where "of each channel" means an array (channels,).

    No sum of an empty batch is divided by zero.
    """

    def channel_sums(self, x: np.ndarray) -> np.ndarray:
        """Return the sum of each channel."""
        return self.column_sums(x[:, :, 0] if x.shape[2] == 1 else x.sum(axis=2))

    def channel_products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the sum of x * y of each channel."""
        return self.channel_sums(self.xp.multiply(x, y, out=self.empty(x.shape, x.dtype)))

    def channel_moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance) of each channel; the variance is the mean of (x - mean)^2."""
        share = x.dtype.type(1 / max(1, x.shape[0] * x.shape[2]))
        mean = self.channel_sums(x) * share
        centred = self.transform_channels(x, mean)
        return mean, self.channel_products(centred, centred) * share

    def transform_channels(self, x: np.ndarray, centre: np.ndarray | None = None,
                           factor: np.ndarray | None = None, shift: np.ndarray | None = None) -> np.ndarray:
        """Return (x - centre) * factor + shift, each of them of each channel; None leaves a step out."""
        xp, y = self.xp, x
        for step, numbers in ((xp.subtract, centre), (xp.multiply, factor), (xp.add, shift)):
            if numbers is not None:
                y = step(y, numbers[:, None], out=self.empty(x.shape, x.dtype) if y is x else y)
        return y

    def standardize_channels(self, x: np.ndarray, eps: float) -> tuple[np.ndarray, ...]:
        """Return ((x - mean) * factor, mean, variance, factor = 1 / sqrt(variance + eps)) of each channel."""
        mean, variance = self.channel_moments(x)
        factor = 1 / self.xp.sqrt(variance + x.dtype.type(eps))
        return self.transform_channels(x, mean, factor), mean, variance, factor

    def scale_gradients(self, gy: np.ndarray, x: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of x, factor and shift of y = x * factor + shift, each of each channel."""
        return self.transform_channels(gy, None, factor), self.channel_products(gy, x), self.channel_sums(gy)

    def standardize_gradient(self, gy: np.ndarray, y: np.ndarray, factor: np.ndarray,
                             weight: np.ndarray | None = None) -> np.ndarray:
        """Return factor * (gy - mean(gy) - weight * y * mean(gy * y)), all of each channel.

        The gradient of y = factor * (x - mean(x)) where the factor is 1 / d of a deviation d of x: weight 1,
        or 1 + eps / d for a factor of 1 / (d + eps). weight None: 1.
        """
        share = gy.dtype.type(1 / max(1, gy.shape[0] * gy.shape[2]))
        slope = self.channel_products(gy, y) * share
        gx = self.transform_channels(y, None, -slope if weight is None else -slope * weight,
                                     -self.channel_sums(gy) * share)
        gx += gy
        gx *= factor[:, None]
        return gx

    def normalize_channels(self, x: np.ndarray, eps: float, weight: np.ndarray, bias: np.ndarray | None,
                           relu: bool, scale: float = 1.0) -> tuple[np.ndarray, ...]:
        """Return (y, mean, variance, factor): y = scale * f(z * weight + bias), numbers of each channel.

        z and the others: those of `standardize_channels`; f: max(., 0) with `relu`, else nothing; scale > 0.
        """
        z, mean, variance, factor = self.standardize_channels(x, eps)
        y = self.transform_channels(z, None, weight, bias)
        if relu:
            y = self.xp.maximum(y, 0, out=y)
        if scale != 1:
            y *= y.dtype.type(scale)
        return y, mean, variance, factor

    def normalize_channels_gradient(self, gy: np.ndarray, x: np.ndarray, y: np.ndarray | None,
                                    mean: np.ndarray, factor: np.ndarray, weight: np.ndarray,
                                    scale: float = 1.0) -> tuple[np.ndarray, ...]:
        """Return (gx, gweight, gbias) of `normalize_channels`; y: its result with `relu`, None without."""
        z = self.transform_channels(x, mean, factor)
        if scale != 1:
            gy = gy * gy.dtype.type(scale)
        g = gy if y is None else self.xp.where(y > 0, gy, gy.dtype.type(0))
        gx, gweight, gbias = self.scale_gradients(g, z, weight)
        return self.standardize_gradient(gx, z, factor), gweight, gbias

    def normalize_rows(self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None,
                       eps: float, centred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (y, mean, factor): y = (x - mean) * factor * weight + bias, each row of x (rows, columns).

        factor = 1 / sqrt(the mean of (x - mean)^2 + eps); mean: that of the row, or 0 unless `centred`; both
        (rows,). weight, bias (columns,), or None.
        """
        xp, share = self.xp, x.dtype.type(1 / max(1, x.shape[1]))
        mean = x.sum(axis=1) * share if centred else self.zeros(x.shape[:1], x.dtype)
        y = xp.subtract(x, mean[:, None], out=self.empty(x.shape, x.dtype))
        factor = 1 / xp.sqrt((y * y).sum(axis=1) * share + x.dtype.type(eps))
        y *= factor[:, None]
        if weight is not None:
            y *= weight
        if bias is not None:
            y += bias
        return y, mean, factor

    def normalize_rows_gradient(self, gy: np.ndarray, x: np.ndarray, mean: np.ndarray, factor: np.ndarray,
                                weight: np.ndarray | None, centred: bool) -> tuple[np.ndarray, ...]:
        """Return (gx, gweight, gbias) of `normalize_rows`; the last two (columns,), sums over the rows.

        With z = (x - mean) * factor and g = gy * weight:  gx = factor * (g - mean(g) - z * mean(g * z)), the
        means of each row, the first of them only if `centred`.
        """
        share = x.dtype.type(1 / max(1, x.shape[1]))
        z = (x - mean[:, None]) * factor[:, None]
        g = gy if weight is None else gy * weight
        gx = g - z * ((g * z).sum(axis=1) * share)[:, None]
        if centred:
            gx -= (g.sum(axis=1) * share)[:, None]
        gx *= factor[:, None]
        return gx, self.column_sums(gy * z), self.column_sums(gy)

    def lrn(self, x: np.ndarray, axes: Sequence[int], size: int, alpha: float, beta: float,
            k: float) -> np.ndarray:
        """Return x * s^-beta, s = k + alpha * (the sum of x^2 over `size` neighbours along each of `axes`).

        x: of any shape; the window, of odd size, has x in its middle, and zeros beyond the ends.
        """
        s = self._neighbours(x, axes, size, alpha, k)
        s **= x.dtype.type(-beta)
        s *= x
        return s

    def lrn_gradient(self, gy: np.ndarray, x: np.ndarray, axes: Sequence[int], size: int, alpha: float,
                     beta: float, k: float) -> np.ndarray:
        """Return the gradient of `lrn`: gy s^-beta - 2 alpha beta x (the window's sum of gy x s^(-beta - 1)).

        s is computed once more: it has the size of x, and keeping it costs more memory than time.
        """
        number = x.dtype.type
        s = self._neighbours(x, axes, size, alpha, k)
        gx = gy * s ** number(-beta)
        gx -= x * self._window_sums(gx * x / s, axes, size) * number(2 * alpha * beta)
        return gx

    def _neighbours(self, x, axes, size, alpha, k):
        """Return the s of `lrn`, a new array."""
        s = self._window_sums(x * x, axes, size)
        s *= x.dtype.type(alpha)
        s += x.dtype.type(k)
        return s

    def _window_sums(self, x, axes, size):
        """Return the sums of the windows, by shifted additions: no differences of large sums."""
        for axis in axes:
            total = x.copy()
            for distance in range(1, min(size // 2 + 1, x.shape[axis])):
                lead = (slice(None),) * axis
                near, far = (*lead, slice(None, -distance)), (*lead, slice(distance, None))
                total[near] += x[far]
                total[far] += x[near]
            x = total
        return x
