"""Activations, the softmax loss, and the steps of recurrent networks."""

from types import ModuleType
from typing import Any

import numpy as np


class Neural:
    """Operations of neural networks that take more than one ufunc."""

    def relu(self, x: Any) -> Any:
        """Return max(x, 0)."""
        return self.xp.maximum(x, 0, out=self.empty(x.shape, x.dtype))

    def relu_gradient(self, gy: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return gy where y = relu(x) > 0, else 0."""
        return self.activate_gradient(gy, y, "relu", 1)

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

    def cross_entropy(self, x: np.ndarray, label: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Write softmax of the rows of x to `probability`; return ln of each label's probability, (rows,).

        x (rows, classes), may be `probability` itself; label: int64 (rows,). Probabilities below the smallest
        normal number are raised to it before the logarithm.
        """
        xp, smallest = self.xp, np.finfo(x.dtype).tiny
        logarithm = self.empty(x.shape[:1], x.dtype)

        def rows(first, last):
            part, p = x[first:last], probability[first:last]
            xp.subtract(part, part.max(axis=1, keepdims=True), out=p)
            xp.exp(p, out=p)
            p /= p.sum(axis=1, keepdims=True)
            logarithm[first:last] = xp.log(
                xp.maximum(p[xp.arange(last - first), label[first:last]], smallest))

        self.in_chunks(rows, *x.shape, x.dtype.itemsize)
        return logarithm

    def cross_entropy_gradient(self, probability: np.ndarray, label: np.ndarray, factor: Any) -> None:
        """probability = (probability - onehot(label)) * factor, in place; factor: array () or (rows, 1)."""
        def rows(first, last):
            p = probability[first:last]
            p[self.xp.arange(last - first), label[first:last]] -= 1
            p *= factor[first:last] if factor.ndim else factor

        self.in_chunks(rows, *probability.shape, probability.dtype.itemsize)

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
