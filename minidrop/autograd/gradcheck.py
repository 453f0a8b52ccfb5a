"""Compare a function's backward with numerical differences: part of the library, for authors of layers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.autograd import graph
from minidrop.autograd.tensor import Tensor


def numerical_gradient(f: Callable, x: np.ndarray, gy: list[np.ndarray], epsilon: float = 1e-5) -> np.ndarray:
    """Return d sum(f() * gy) / d x by central differences.

    `x`, a float64 NumPy array, is perturbed in place and restored.
    """
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        middle = x[i]
        x[i] = middle + epsilon
        above = f()
        x[i] = middle - epsilon
        below = f()
        x[i] = middle
        gradient[i] = sum(float(((a - b) * g).sum())
                          for a, b, g in zip(above, below, gy, strict=True)) / (2 * epsilon)
    return gradient


def check_gradients(function: Any, *arrays: np.ndarray, wanted: Any = None, rtol: Any = 1e-5,
                    atol: Any = 1e-7, seed: Any = 0) -> bool:
    """Check every wanted input's gradient of `function(*tensors)` against central differences in float64.

    `function` takes Tensors and returns a Tensor or a tuple of them; `arrays` are its inputs; integer arrays
    are never differentiated. Returns True; raises AssertionError with the input, the worst entry and both
    values.
    """
    values = [np.array(a, np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in arrays]
    wanted = [a.dtype.kind == "f" for a in values] if wanted is None else wanted

    def run():
        tensors = [Tensor(a, requires_grad=w) for a, w in zip(values, wanted, strict=True)]
        outputs = function(*tensors)
        return tensors, outputs if isinstance(outputs, tuple) else (outputs,)

    rng = np.random.default_rng(seed)
    tensors, outputs = run()
    gy = [rng.standard_normal(np.shape(y.data)) for y in outputs]
    graph.backward(list(zip(outputs, gy, strict=True)))
    for i, (tensor, want) in enumerate(zip(tensors, wanted, strict=True)):
        if not want:
            continue
        expected = numerical_gradient(lambda: [np.array(y.data) for y in run()[1]], values[i], gy)
        got = tensor.grad if tensor.grad is not None else np.zeros_like(expected)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol,
                                   err_msg=f"gradient of input {i}, shape {values[i].shape}")
    return True
