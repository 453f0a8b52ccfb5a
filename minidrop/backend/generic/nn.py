"""Activations, the softmax loss, and the steps of recurrent networks."""

import math
from types import ModuleType
from typing import Any

import numpy as np

from minidrop.backend.generic.arrays import Arrays

# (1 + t) exp(t^2 / 2) Phi(-t) in powers of (t - 5) / (t + 5), 0 <= t <= 40, to 2e-17, Phi the distribution
# function of the normal distribution: through Chebyshev's nodes, computed with 40 digits.
_TAIL = (
    0.46151582985003775, -0.0915522818340088, 0.03103036842596338, 0.010002352385204274,
    -0.026401042966303377, 0.024536963244480906, -0.015170415402300888, 0.00652200065602172,
    -0.0016760723509154356, 7.791692131159477e-06, 0.0001823342156756057, -5.3608037514625635e-05,
    -9.896519380427111e-06, 9.061184935388098e-06, -6.883972175738501e-08, -1.309925137980042e-06,
    1.2455844413331595e-07, 1.9880186832899552e-07, -2.186097318751282e-08, -3.193142087507991e-08,
    3.5180215224753573e-10, 3.977719908272422e-09, 7.519514242694345e-10)
TANH_GATE = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715


class Neural(Arrays):
    """Operations of neural networks that take more than one ufunc."""

    def relu(self, x: Any) -> Any:
        """Return max(x, 0)."""
        return self.xp.maximum(x, 0, out=self.empty(x.shape, x.dtype))

    def relu_gradient(self, gy: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return gy where y = relu(x) > 0, else 0."""
        return self.activate_gradient(gy, y, "relu", 1)

    def add(self, a: np.ndarray, b: np.ndarray, activation: str = "none") -> np.ndarray:
        """Return f(a + b) for arrays of one shape; f: `activation`, as for `activate`."""
        y = self.xp.add(a, b, out=self.empty(a.shape, np.result_type(a.dtype, b.dtype)))
        return y if activation == "none" else self.activate(y, None, activation, 1, out=y)

    def activate(self, x: np.ndarray, b: Any, activation: str, scale: float, out: Any = None) -> np.ndarray:
        """Return scale * f(x + b); f: activation "none", "relu", "sigmoid" or "tanh"; b (columns,) or None.

        `out`: where to write the result, x itself or an array like it.
        """
        xp, number = self.xp, x.dtype.type
        y = self.empty(x.shape, x.dtype) if out is None else out
        if b is not None:
            x = xp.add(x, b, out=y)
        if activation == "relu":
            xp.maximum(x, 0, out=y)
        elif activation == "sigmoid":
            xp.tanh(xp.multiply(x, number(0.5), out=y), out=y)
            y *= number(0.5)
            y += number(0.5)
        elif activation == "tanh":
            xp.tanh(x, out=y)
        elif b is None and x is not y:
            y[...] = x
        if scale != 1:
            y *= number(scale)
        return y

    def activate_gradient(self, gy: np.ndarray, y: np.ndarray, activation: str, scale: Any) -> np.ndarray:
        """Return gy * scale * f'(x) from y = scale * f(x); scale is not 0 if f is "sigmoid" or "tanh"."""
        number = gy.dtype.type
        if activation == "relu":
            gx = self.xp.multiply(gy, (y if scale > 0 else -y) > 0, out=self.empty(gy.shape, gy.dtype))
            if scale != 1:
                gx *= number(scale)
            return gx
        if activation == "none":
            return self.xp.multiply(gy, number(scale), out=self.empty(gy.shape, gy.dtype))
        f = y if scale == 1 else y / number(scale)
        gx = gy if scale == 1 else gy * number(scale)
        return gx * f * (1 - f) if activation == "sigmoid" else gx * (1 - f * f)

    def self_gate(self, x: np.ndarray, kind: str, beta: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return (y, slope): y = x P(x) and its derivative P(x) + x P'(x), P a distribution function.

        kind: "normal", the normal distribution's (GELU); "tanh", (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
        / 2, which approximates it; "logistic", 1 / (1 + exp(-beta x)) (Swish).
        """
        xp, number = self.xp, x.dtype.type
        if kind == "normal":
            t = xp.minimum(abs(x), number(40))
            q, p = (t - number(5)) / (t + number(5)), number(_TAIL[-1])
            for coefficient in _TAIL[-2::-1]:
                p = p * q + number(coefficient)
            e = xp.exp(number(-0.5) * x * x)
            tail = e * p / (number(1) + t)
            share = xp.where(x < 0, tail, number(1) - tail)
            return x * share, share + x * e * number(1 / math.sqrt(2 * math.pi))
        linear, cubic = map(number, TANH_GATE if kind == "tanh" else (beta, 0.0))
        square = xp.minimum(x * x, number(1e24))        # whose multiples are finite
        share = self.activate(x * (linear + cubic * square), None, "sigmoid", 1)
        inner = linear + number(3) * cubic * square
        return x * share, share + x * inner * share * (number(1) - share)

    def rotate(self, x: np.ndarray, cosine: np.ndarray, sine: np.ndarray, heads: int) -> np.ndarray:
        """Return x (steps, streams, units) with pairs of units turned by the angles of their step.

        The units are `heads` runs, in which the pair k is (k, k + half), of half = units / heads / 2 pairs:
        a, b -> a cos - b sin, b cos + a sin. cosine, sine (steps, half).
        """
        half = cosine.shape[1]
        halves = x.reshape(*x.shape[:2], heads, 2, half)
        a, b = halves[:, :, :, 0], halves[:, :, :, 1]
        c, s = cosine[:, None, None], sine[:, None, None]
        y = self.empty(halves.shape, x.dtype)
        self.xp.subtract(a * c, b * s, out=y[:, :, :, 0])
        self.xp.add(b * c, a * s, out=y[:, :, :, 1])
        return y.reshape(x.shape)

    def cross_entropy(self, x: np.ndarray, label: np.ndarray, probability: np.ndarray,
                      smoothing: float = 0.0, weight: np.ndarray | None = None) -> np.ndarray:
        """Write softmax of the rows of x to `probability`; return ln of each label's probability, (rows,).

        x (rows, classes), may be `probability` itself; label: int64 (rows,). Probabilities below the smallest
        normal number are raised to it before the logarithm. smoothing: the share of the mean of the
        logarithms of all classes, as they are, in what is returned. weight (classes,): by which the
        logarithm of each class is multiplied.
        """
        xp, smallest, number = self.xp, np.finfo(x.dtype).tiny, x.dtype.type
        logarithm = self.empty(x.shape[:1], x.dtype)
        mean = number(1) if weight is None else weight.mean()

        def rows(first, last):
            part, p = x[first:last], probability[first:last]
            xp.subtract(part, part.max(axis=1, keepdims=True), out=p)
            if smoothing:
                middle = p.mean(axis=1) if weight is None else p @ weight / number(p.shape[1])
            self.exp_of_nonpositive(p)
            total = p.sum(axis=1, keepdims=True)
            p /= total
            found = xp.log(xp.maximum(p[xp.arange(last - first), label[first:last]], smallest))
            if weight is not None:
                found *= weight[label[first:last]]
            if smoothing:
                found *= number(1 - smoothing)
                found += number(smoothing) * (middle - mean * xp.log(total[:, 0]))
            logarithm[first:last] = found

        self.in_chunks(rows, x.shape[0], x.shape[1], x.dtype.itemsize)
        return logarithm

    def cross_entropy_gradient(self, probability: np.ndarray, label: np.ndarray, factor: Any,
                               smoothing: float = 0.0, weight: np.ndarray | None = None) -> None:
        """probability = (probability - onehot(label)) * factor, in place; factor: array () or (rows, 1).

        smoothing: the share of each one of onehot(label) that all classes have alike. With a weight
        (classes,) target = weight times that takes the place of onehot(label), and the probability is
        multiplied by the sum of the target.
        """
        number = probability.dtype.type
        spread = None if weight is None or not smoothing else weight * number(smoothing / weight.size)

        def rows(first, last):
            p, own = probability[first:last], number(1 - smoothing)
            if weight is not None:
                own = weight[label[first:last]] * own
                p *= (own if spread is None else own + spread.sum())[:, None]
            p[self.xp.arange(last - first), label[first:last]] -= own
            if smoothing:
                p -= number(smoothing / p.shape[1]) if spread is None else spread
            p *= factor[first:last] if factor.ndim else factor

        self.in_chunks(rows, probability.shape[0], probability.shape[1], probability.dtype.itemsize)

    def transposed(self, W: np.ndarray) -> np.ndarray:
        """Return W^T as a C-contiguous array."""
        out = self.empty(W.shape[::-1], W.dtype)
        out[...] = W.T
        return out

    def lstm_step(self, x: np.ndarray, product: np.ndarray, c_before: np.ndarray, cont: np.ndarray,
                  activated: np.ndarray, c: Any, squashed: np.ndarray, h: np.ndarray) -> None:
        """One step of an LSTM; writes the activated gates i f o g, c, squashed = tanh(c), and h.

        x, product (N, 4 H): the gates' shares from outside and from the state; c_before (N, H); cont (N, 1)
        of 0 and 1. i f o = sigmoid, g = tanh;  c = cont f c_before + i g;  h = o tanh(c).
        """
        xp, units = self.xp, c.shape[1]
        xp.add(x, product, out=activated)
        ifo, g = activated[:, :3 * units], activated[:, 3 * units:]
        ifo[...] = sigmoid(xp, ifo)
        xp.tanh(g, out=g)
        i, f, o = (ifo[:, k * units:(k + 1) * units] for k in range(3))
        xp.multiply(f, c_before * cont, out=c)
        c += i * g
        xp.tanh(c, out=squashed)
        xp.multiply(o, squashed, out=h)

    def lstm_step_gradient(self, activated: np.ndarray, squashed: np.ndarray, c_before: np.ndarray,
                           cont: np.ndarray, dh: np.ndarray, dc: np.ndarray, d: np.ndarray) -> None:
        """The gradient of `lstm_step`, given dh and dc of h and c.

        Writes d, the gradient of x and of product; dc becomes the gradient of c_before.
        """
        units = dh.shape[1]
        i, f, o, g = (activated[:, k * units:(k + 1) * units] for k in range(4))
        dc += dh * o * (1 - squashed * squashed)
        d[:, :units] = dc * g * i * (1 - i)
        d[:, units:2 * units] = dc * (c_before * cont) * f * (1 - f)
        d[:, 2 * units:3 * units] = dh * squashed * o * (1 - o)
        d[:, 3 * units:] = dc * i * (1 - g * g)
        dc *= f * cont


def sigmoid(xp: ModuleType, x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (xp.tanh(0.5 * x) + 1)
