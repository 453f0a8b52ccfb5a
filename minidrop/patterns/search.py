"""How often to draw each period, so that the mean drop rate is p and patterns stay as varied as possible."""

from typing import Any

import numpy as np

from minidrop.errors import ConfigError


def entropy(probabilities: np.ndarray) -> Any:
    """Return -sum d log d in nats."""
    d = np.asarray(probabilities, dtype=np.float64)
    d = d[d > 0]
    return abs(float((d * np.log(d)).sum()))


def exact_search(rates: Any, p: float) -> np.ndarray:
    """Return the maximum-entropy probabilities whose mean rate is p.

    maximise -sum d log d  subject to  sum d = 1, d.u = p     =>     d_i = exp(beta u_i) / sum_j exp(beta u_j)

    rates: u, shape (N,); p: min(u) <= p < max(u). The mean grows with beta; bisection finds beta to the last
    bit. Raises ConfigError if no distribution over `rates` has mean p.
    """
    u = _checked_rates(rates, p)
    if p == u.min():
        return (u == p) / np.count_nonzero(u == p)
    low, high = -1.0, 1.0
    while _tilted(u, low) @ u > p:
        low *= 2
    while _tilted(u, high) @ u < p:
        high *= 2
    while True:
        beta = (low + high) / 2
        if not low < beta < high or high - low < 1e-15 * abs(beta):
            return _tilted(u, beta)
        if _tilted(u, beta) @ u < p:
            low = beta
        else:
            high = beta


def sgd_search(rates: Any, p: float, lambda1: float = 0.99, lambda2: float = 0.01, learning_rate: float = 1.0,
               tolerance: float = 1e-9, max_steps: int = 20000) -> np.ndarray:
    """Return the probabilities that the paper's Algorithm 1 finds: gradient descent on v, d = softmax(v).

    loss = lambda1 (d.u - p)^2 + lambda2 / N sum d log d,     lambda1 + lambda2 = 1

    The mean rate is only pulled towards p: lambda1 = lambda2 = 0.5 misses it badly (N = 8: p = 0.5 gives
    0.564), lambda2 = 0.01 by 0.002 or less for p = 0.3 .. 0.7. Starts at v = 0. The learning rate grows while
    the loss falls and halves when it rises (that step is undone). Stops when no entry of the gradient exceeds
    `tolerance`, or after `max_steps`.
    rates: u, shape (N,). Raises ConfigError. Source: Song and Jiang, arXiv 1805.08939, Algorithm 1, which
    leaves lambda1, lambda2, v and the stopping rule open.
    """
    u = _checked_rates(rates, p)
    if not (lambda1 > 0 and lambda2 >= 0 and abs(lambda1 + lambda2 - 1) < 1e-9):
        raise ConfigError(f"expected lambda1 > 0, lambda2 >= 0 and lambda1 + lambda2 = 1, got {lambda1!r} "
                          f"and {lambda2!r}; raise lambda1 for a truer rate, lambda2 for more variety")

    def evaluate(v):
        shifted = v - v.max()
        log_d = shifted - np.log(np.exp(shifted).sum())
        d = np.exp(log_d)
        return lambda1 * (d @ u - p) ** 2 + lambda2 / u.size * (d @ log_d), d, log_d

    v = np.zeros(u.size)
    loss, d, log_d = evaluate(v)
    for _ in range(max_steps):
        gd = 2 * lambda1 * (d @ u - p) * u + lambda2 / u.size * (log_d + 1)
        gv = d * (gd - d @ gd)
        if np.abs(gv).max() < tolerance:
            break
        tried = v - learning_rate * gv
        tried_loss, tried_d, tried_log_d = evaluate(tried)
        if tried_loss <= loss:
            v, loss, d, log_d = tried, tried_loss, tried_d, tried_log_d
            learning_rate *= 1.1
        else:
            learning_rate *= 0.5
    return d


def _tilted(u, beta):
    exponents = beta * u
    d = np.exp(exponents - exponents.max())
    return d / d.sum()


def _checked_rates(rates, p):
    u = np.asarray(rates, dtype=np.float64)
    if u.ndim != 1 or not u.size or not np.isfinite(u).all():
        raise ConfigError(f"the search needs a row of finite rates, got {rates!r}")
    if not (u.min() <= p < u.max() or p == u.min() == u.max()):
        raise ConfigError(f"no mixture of rates from {u.min():g} to {u.max():g} has mean {p!r}: expected "
                          f"{u.min():g} <= p < {u.max():g}; allow longer periods (max_period) or lower p")
    return u
