"""Functions that are not 0 at 0, of compact tensors: of the dense value, or carrying the kept set on."""

import numpy as np
import pytest
from cases import in_turn
from operator_cases import numbers

from minidrop import Kept, ShapeError, Tensor, functions
from minidrop.kept import KeptByGroup

KEPT = [Kept(1, 2, 1, 6), Kept.of([0, 1, 5], 6), KeptByGroup([Kept(0, 2, 1, 6), Kept.of([3], 6)])]
VECTOR, TABLE = Tensor(numbers(6, seed=1)), Tensor(numbers(5, 6, seed=2))
STORED = functions.Stored(numbers(6, seed=3), numbers(6, seed=4) ** 2, np.ones(1), 0.9)

# name: (function(x, **carry), shape of x, its compact axis)
NOT_ZERO_AT_ZERO = {
    "exp": (functions.exp, (4, 6), 1),
    "exp to a base": (lambda x, **more: functions.exp(x, 2, 0.5, 1, **more), (4, 6), 1),
    "log": (lambda x, **more: functions.log(x, shift=9.0, **more), (4, 6), 1),
    "sigmoid": (functions.sigmoid, (4, 6), 1),
    "bnll": (functions.bnll, (4, 6), 1),
    "shift": (lambda x, **more: functions.power(x, shift=0.5, **more), (4, 6), 1),
    "power 0": (lambda x, **more: functions.power(x, 0.0, **more), (4, 6), 1),
    "clip from above 0": (lambda x, **more: functions.clip(x, 0.25, 1.5, **more), (4, 6), 1),
    "clip to below 0": (lambda x, **more: functions.clip(x, None, -0.25, **more), (4, 6), 1),
    "threshold below 0": (lambda x, **more: functions.threshold(x, -0.5, **more), (4, 6), 1),
    "affine": (lambda x, **more: functions.affine(x, VECTOR, VECTOR, **more), (4, 6, 3), 1),
    "bias": (lambda x, **more: functions.affine(x, None, VECTOR, **more), (4, 6), 1),
    "bias elsewhere": (lambda x, **more: functions.affine(x, None, VECTOR, 2, **more), (4, 6, 6), 1),
    "positions": (lambda x, **more: functions.add_positions(x, TABLE, **more), (5, 4, 6), 2),
    "layer norm": (lambda x, **more: functions.layer_norm(x, VECTOR, VECTOR, **more), (4, 6, 6), 1),
    "stored norm": (lambda x, **more: functions.stored_norm(x, STORED, **more), (4, 6, 2), 1),
}
ZERO_AT_ZERO = {
    "log of 1 + x": (lambda x: functions.log(functions.relu(x), shift=1.0), (4, 6), 1),
    "power": (lambda x: functions.power(x, 2.0, 3.0), (4, 6), 1),
    "clip": (lambda x: functions.clip(x, -0.25, 0.25), (4, 6), 1),
    "threshold": (functions.threshold, (4, 6), 1),
    "factor": (lambda x: functions.affine(x, VECTOR), (4, 6), 1),
    "gelu": (functions.gelu, (4, 6), 1),
    "layer norm": (lambda x: functions.layer_norm(x, VECTOR), (4, 6, 6), 1),
    "flatten behind": (lambda x: functions.flatten(x, 2), (4, 6, 3, 2), 1),
    "flatten before": (lambda x: functions.flatten(x, 0, 1), (2, 3, 4, 6), 3),
}


def compact(shape, axis, kept):
    """A compact tensor, and the 0/1 mask of what it has."""
    x = functions.take(Tensor(numbers(*shape), True), kept, axis)
    ones = functions.take(Tensor(np.ones(shape)), kept, axis)
    return x, ones.numpy()


@in_turn("name", NOT_ZERO_AT_ZERO)
@in_turn("kept", KEPT)
def test_a_function_is_that_of_the_dense_value(kept, name):
    function, *where = NOT_ZERO_AT_ZERO[name]
    x, mask = compact(*where, kept)
    y = function(x)
    assert y.kept is None and y.shape == x.shape
    np.testing.assert_allclose(y.data, function(functions.expand(x)).data, rtol=1e-12)
    assert np.abs(y.data[mask == 0]).max() > 0.01          # which carrying the set on would lose


@in_turn("name", NOT_ZERO_AT_ZERO)
@in_turn("kept", KEPT)
def test_layers_carry_the_kept_set_on(kept, name):
    function, *where = NOT_ZERO_AT_ZERO[name]
    x, mask = compact(*where, kept)
    y = function(x, carry=True)
    assert y.kept == kept and y.data.shape == x.data.shape
    np.testing.assert_allclose(y.numpy(), function(functions.expand(x)).data * mask, rtol=1e-12)


@in_turn("name", ZERO_AT_ZERO)
@in_turn("kept", KEPT)
def test_where_0_gives_0_nothing_is_expanded(kept, name):
    function, *where = ZERO_AT_ZERO[name]
    x, _ = compact(*where, kept)
    y = function(x)
    assert y.kept == kept
    np.testing.assert_allclose(y.numpy(), function(functions.expand(x)).data, rtol=1e-12)


INTEGERS = np.array([[-2, 0, 3]])


@pytest.mark.parametrize("name, value", [
    ("exp", np.exp(INTEGERS)), ("sigmoid", 1 / (1 + np.exp(-INTEGERS))), ("tanh", np.tanh(INTEGERS)),
    ("bnll", np.log1p(np.exp(INTEGERS))), ("gelu", [[-0.04550026, 0, 2.99595031]]),
    ("swish", INTEGERS / (1 + np.exp(-INTEGERS))), ("elu", [[np.expm1(-2), 0, 3]]),
    ("softmax", np.exp(INTEGERS) / np.exp(INTEGERS).sum()),
    ("log_softmax", INTEGERS - np.log(np.exp(INTEGERS).sum())), ("norm", np.sqrt(13)),
    ("logsumexp", np.log(np.exp(INTEGERS).sum())), ("sqrt", None), ("log", None), ("std", np.sqrt(19 / 3))])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_integers_become_real_numbers(name, value):
    y = getattr(functions, name)(Tensor(INTEGERS))
    assert y.dtype == np.float32
    if value is not None:
        np.testing.assert_allclose(y.data, value, rtol=1e-6)


def test_real_settings_of_integers_are_not_rounded():
    x = Tensor(INTEGERS)
    assert functions.power(x, scale=0.5).tolist() == [[-1, 0, 1.5]]
    assert functions.clip(x, 0.5).tolist() == [[0.5, 0.5, 3]]
    assert functions.clip(x, high=1.5).tolist() == [[-2, 0, 1.5]]
    assert functions.threshold(x, -0.5).tolist() == [[0, 1, 1]]
    assert functions.relu(x, 0.25).tolist() == [[-0.5, 0, 3]]
    for y in (functions.clip(x, -1, 2), functions.relu(x), functions.absval(x), x.clamp(min=1)):
        assert y.dtype == np.int64
    assert functions.clip(x, -1, 2).tolist() == [[-1, 0, 2]] and x.clamp(min=1).tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("axis, end", [(1, 2), (0, 2), (0, 1)])
def test_flatten_refuses_to_mix_kept_entries_or_the_samples_of_groups(axis, end):
    x, _ = compact((2, 4, 6, 3), 2, KEPT[2])
    with pytest.raises(ShapeError, match="would mix the entries of"):
        functions.flatten(x, axis, end)
