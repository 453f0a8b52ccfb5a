"""What functions refuse before they compute: shapes and settings that gave wrong numbers without a word."""

import numpy as np
import pytest
from cases import in_turn
from operator_cases import numbers

from minidrop import Kept, Parameter, Tensor, functions
from minidrop.errors import ConfigError, MinidropError, ShapeError, TensorError

X, MATRIX = Tensor(numbers(3, 4)), Tensor(numbers(2, 4))
IMAGES, FILTERS = Tensor(numbers(1, 2, 5, 5)), Tensor(numbers(3, 2, 3, 3))
WHOLE = Tensor(np.arange(12).reshape(3, 4))


@in_turn("kind, compute, message", [
    (ShapeError, lambda: functions.linear(X, MATRIX, Tensor(numbers(1))),
     r"^linear: expected a bias of shape \(2,"
     r"\), one number for each output, got \(1,\)$"),
    (ShapeError, lambda: functions.linear(X, MATRIX, Tensor(numbers(4)), transpose=False),
     "^linear: expected a b"),
    (ShapeError, lambda: functions.linear(X, Tensor(numbers(2, 4, 1))), "^linear: W is a matrix"),
    (ShapeError, lambda: functions.convolution(IMAGES, FILTERS, Tensor(numbers(2))),
     r"^convolution: expected a bi"
     r"as of shape \(3,\), one number for each output, got \(2,\)$"),
    (ShapeError, lambda: functions.deconvolution(IMAGES, Tensor(numbers(2, 3, 3, 3)), Tensor(numbers(2))),
     r"^deconvolution: expected a bias of shape \(3,\)"),
    (ConfigError, lambda: functions.dropout(X, 2.0, 1), r"^dropout: rate must lie in \[0, 1\), got 2"),
    (ConfigError, lambda: functions.dropout(X, 1.0, 1), r"^dropout: rate must lie in \[0, 1\), got 1"),
    (ConfigError, lambda: functions.gaussian_dropout(X, -0.5, 1), "^gaussian_dropout: rate must lie in"),
    (TensorError, lambda: functions.dropout(WHOLE, 0.25, 1),
     "^dropout: expected real numbers, got dtype int64"),
    (TensorError, lambda: functions.scale(WHOLE, 0.5),
     "^scale: expected real numbers, got dtype int64; convert"),
    (ConfigError, lambda: functions.gelu(X, "tahn"), "^gelu: unknown 'tahn'; did you mean 'tanh'"),
    (ConfigError, lambda: functions.reduction(X, "MAEN"), "^reduction: unknown 'MAEN'; did you mean 'MEAN'"),
    (ConfigError, lambda: functions.clip(X, 2, 1), "^clip: the lower bound 2 is above the upper one, 1$"),
    (ConfigError, lambda: X.clamp(2, 1), "^clip: the lower bound 2 is above the upper one, 1$"),
    (ConfigError, lambda: functions.argmax(X, 5, 1), "^argmax: top_k must lie in 1..4"),
    (ConfigError, lambda: functions.log(X, 1.0), "^log: the base must be above 0, and not 1, got 1$"),
    (ConfigError, lambda: functions.exp(X, -2.0), "^exp: the base must be above 0, got -2$"),
    (ShapeError, lambda: functions.slice(X, [5]),
     r"^slice: expected points in ascending order within the 4 entr"),
    (ShapeError, lambda: functions.slice(X, [3, 1]), "^slice: expected points in ascending order"),
    (ShapeError, lambda: functions.flatten(X, 3), "^axis 3 does not exist: the tensor has 2 axes"),
    (ShapeError, lambda: functions.tile(X, 2, 9), "^axis 9 does not exist"),
    (ShapeError, lambda: functions.take(X, Kept(0, 2, 1, 4), 7), "^axis 7 does not exist"),
    (ShapeError, lambda: functions.softmax(X, 5), "^axis 5 does not exist"),
    (ShapeError, lambda: functions.log_softmax(Tensor(np.float64(1))), "^axis 1 does not exist"),
    (ShapeError, lambda: functions.layer_norm(X, axis=-3), "^axis -3 does not exist"),
    (ShapeError, lambda: functions.crop(X, 2, [0], [1]), "^axis 2 does not exist"),
    (ShapeError, lambda: functions.reduction(X, axis=2), "^axis 2 does not exist"),
    (ShapeError, lambda: functions.reshape(X, (5, -1)),
     r"^shape \(3, 4\) of 12 entries cannot become \(5, -1\)"),
    (ShapeError, lambda: functions.concat([X, Tensor(numbers(2, 5))]),
     "^concat along axis 1: lengths of all other"),
    (ShapeError, lambda: functions.concat([]), "^concat joins one or more tensors, got none"),
    (ShapeError, lambda: functions.weighted_sum([X, X], [1.0]),
     "^weighted_sum: expected a coefficient for each"),
    (TensorError, lambda: functions.maximum([]), "^maximum takes a list of one or more tensors"),
])
def test_mistakes(kind, compute, message):
    with pytest.raises(kind, match=message) as caught:
        compute()
    assert isinstance(caught.value, MinidropError)


def test_products_of_several_dtypes_are_of_the_widest():
    """A product of float32 and float64 was refused by NumPy, or lost its bias's digits."""
    x, W, b = numbers(3, 4), numbers(2, 4, seed=1), numbers(2, seed=2)
    expected = x.astype(np.float32).astype(float) @ W.T + b
    W, b = Parameter(W), Parameter(b)
    y = functions.linear(Tensor(x.astype(np.float32), True), W, b)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.data, expected, rtol=1e-12)
    y.backward(np.ones((3, 2)))
    np.testing.assert_allclose(W.grad, np.ones((2, 3)) @ x.astype(np.float32), rtol=1e-6)
    ones = functions.convolution(Tensor(np.ones((1, 2, 5, 5), np.int64)), FILTERS)
    np.testing.assert_allclose(ones.data[0, :, 0, 0], FILTERS.data.sum(axis=(1, 2, 3)), rtol=1e-6)
    joined = functions.concat([Tensor(np.float32([[0.1]])), Tensor(np.array([[0.1]]))])
    assert joined.dtype == np.float64 and joined.tolist()[0][1] == 0.1


def test_metrics_take_arrays_and_lists():
    scores = Tensor(np.eye(3))
    for label in (np.arange(3), [0, 1, 2], Tensor(np.arange(3))):
        assert float(functions.accuracy(scores, label)) == 1
        np.testing.assert_allclose(float(functions.perplexity(scores, label)), 1 + 2 / np.e, rtol=1e-12)
    assert functions.filter_records([scores], np.array([1, 0, 1]))[0].tolist() == [[1, 0, 0], [0, 0, 1]]
