"""Statistics of a table of patterns: one row per pattern, which sites live, and how often it is drawn.

Tables may have 10^8 entries of one byte each. Products with them convert entries to 8-byte numbers, a few
rows at a time.
"""

from math import erfc, sqrt
from typing import Any

import numpy as np

CORRELATED_SITES = 1024     # sites, at random, that the correlation is estimated from where rows have more
CELLS = 2 ** 20             # entries of a table that are converted to numbers at a time


def _parts(live, length=None):
    """Yield slices of rows of about CELLS entries, each row counted as `length` entries."""
    rows = max(1, CELLS // max(1, length or live.shape[1]))
    for first in range(0, len(live), rows):
        yield slice(first, first + rows)


def row_counts(live: Any, sizes: Any = None) -> Any:
    """Return how many units or weights live in each row of live (K, n); sizes (n,) of the sites, None: 1."""
    if sizes is None:
        return live.sum(1)
    return np.concatenate([live[part] @ sizes for part in _parts(live)])


def column_sums(live: Any, weights: Any) -> Any:
    """Return weights @ live as (n,) float64, for live (K, n) bool, weights (K,)."""
    total = np.zeros(live.shape[1])
    for part in _parts(live):
        total += weights[part] @ live[part].astype(np.float64)
    return total


def deviation(values: Any, weights: tuple[int, int] | None) -> Any:
    """Return the standard deviation of values (K,) drawn with weights (K,) of sum 1."""
    return sqrt(float(weights @ (values - weights @ values) ** 2))


def joint_keep(live: Any, weights: Any) -> Any:
    """Return P(site i and site i + d both live) for d = 1 .. n-1, the mean over i = 0 .. n-1-d.

    live (K, n) bool, weights (K,) of sum 1 -> (n-1,). Without wrapping around. Computed by FFT, so exact up
    to rounding.
    """
    n = live.shape[1]
    length = 1 << (2 * n - 1).bit_length()
    power = np.zeros(length // 2 + 1)
    for part in _parts(live, length):
        spectrum = np.fft.rfft(live[part], length)
        power += weights[part] @ (spectrum.real ** 2 + spectrum.imag ** 2)
    pairs = np.fft.irfft(power, length)[1:n]
    return np.clip(pairs / np.arange(n - 1, 0, -1), 0, 1)


def chi_square(live: Any, counts: Any, rates: Any, p: float) -> Any:
    """Return how evenly a sequence drops its sites, against independent (Bernoulli) drops of rate p.

        Q = sum_i (c_i - m)^2 / (N p (1 - p)),     c_i drops of site i in N iterations, m = sum_t u_t

    live (K, n) bool, the different patterns; counts (K,), how often each was drawn, of sum N; rates (K,): u,
    the probability that a site is dropped given the choice (period, width) of its pattern. m is N p up to the
    rounding of quotas.

    If all sites and iterations were independent, Q would be chi-square with n degrees of freedom. Two things
    differ:
    1. Quotas fix how often each choice is drawn, so only offsets vary: c_i has variance N v, where
       v = mean u (1 - u) is less than p (1 - p) if u varies. Hence E[Q] = n v / (p (1 - p)).
    2. Sites of one pattern are correlated: Q is a sum of dependent squares, approximated by a scaled
       chi-square of nu degrees of freedom with the same mean and variance (Satterthwaite 1946)

           nu = n^2 / sum_ij rho_ij^2,     rho_ij = E[(d_i - u) (d_j - u)] / v

       rho^2 is estimated from the sequence, less its bias of about 1/N per pair:
       r^2 - (1 - r^2) / (N - 2).
    The tail P(chi-square_nu >= Q nu / E[Q]) follows Wilson and Hilferty (1931).

    Returns {"value": Q, "bernoulli": n, "expected": E[Q], "freedom": nu, "p_value"}, or None if nothing
    varies.
    """
    iterations, n = int(counts.sum()), live.shape[1]
    weights = counts / iterations
    v = float(weights @ (rates * (1 - rates)))
    if not v > 0 or not 0 < p < 1 or iterations < 3:
        return None
    drops = iterations - column_sums(live, counts)
    value = float(((drops - counts @ rates) ** 2).sum() / (iterations * p * (1 - p)))
    expected = n * v / (p * (1 - p))
    freedom = n ** 2 / _sum_of_squared_correlations(live, weights, rates, v, iterations)
    return {"value": value, "bernoulli": n, "expected": expected, "freedom": freedom,
            "p_value": upper_tail(value / expected * freedom, freedom)}


def _sum_of_squared_correlations(live, weights, rates, v, iterations):
    n = live.shape[1]
    if n > CORRELATED_SITES:
        live = live[:, np.sort(np.random.default_rng(0).choice(n, CORRELATED_SITES, replace=False))]
    m = live.shape[1]

    def residuals(part):
        return ((~live[part] - rates[part, None]) * np.sqrt(weights[part] / v)[:, None]).astype(np.float32)

    # |R^T R| = |R R^T|, and the smaller of the two is cheap if there are few different patterns.
    if len(live) < m:
        all_rows = residuals(slice(None))
        products = all_rows @ all_rows.T
    else:
        products = np.zeros((m, m))
        for part in _parts(live):
            rows = residuals(part)
            products += rows.T @ rows
    squares = float(np.square(products).sum(dtype=np.float64))
    others = max(0.0, squares - (m ** 2 - squares) / (iterations - 2) - m)
    return n + (others * n * (n - 1) / (m * (m - 1)) if m > 1 else 0)


def upper_tail(x: Any, freedom: Any) -> Any:
    """Return P(chi-square >= x) by Wilson and Hilferty, within 0.01 or so from 2 degrees of freedom on."""
    spread = 2 / (9 * freedom)
    return erfc(((max(x, 0.0) / freedom) ** (1 / 3) - (1 - spread)) / sqrt(2 * spread)) / 2
