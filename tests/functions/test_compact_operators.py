"""Operators, methods and functions of compact tensors equal those of their dense values."""

import operator

import numpy as np
import pytest
from cases import in_turn
from compact_tensors import EVEN, LIST, ODD, UNEVEN, compact_and_dense
from operator_cases import SHARED, numbers

import minidrop as md
from minidrop import Kept, Parameter, Tensor, functions
from minidrop.autograd import backward
from minidrop.errors import ShapeError


def agree(function, *pairs):
    """The function of compact tensors equals that of their dense values, and so do the gradients."""
    found = []
    for tensors in zip(*pairs, strict=True):
        y = function(*tensors)
        y = y if isinstance(y, tuple) else (y,)
        for one in y:
            assert one.shape == np.shape(one.numpy())
        if y[0].requires_grad:
            gys = [np.random.default_rng([i, *one.shape]).uniform(1, 2, one.shape) for i, one in enumerate(y)]
            backward([(one, one.backend.compact(gy, one.kept, one.kept_axis))
                      for one, gy in zip(y, gys, strict=True)])
        # of a compact leaf dropped entries are no variables: their gradients are not known
        gradients = [x.grad if x.kept is None or x.grad is None
                     else x.backend.expand(x.grad, x.kept, x.kept_axis) for x in tensors]
        found.append(([one.numpy() for one in y], gradients))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    for ours, theirs, (compact, _) in zip(found[0][1], found[1][1], pairs, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and compact.kept is not None:
            back = compact.backend.expand(compact.backend.compact(theirs, compact.kept, compact.kept_axis),
                                          compact.kept, compact.kept_axis)
            np.testing.assert_allclose(ours, back, rtol=1e-12, atol=1e-14)
        elif ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


ON_ZERO = ("log", "sqrt", "**", "std")         # not differentiable where an entry is dropped
ONE_OPERAND = {name: case for name, case in SHARED.items()
               if len(case) == 2 and case[1].shape == (4, 7) and not any(word in name for word in ON_ZERO)
               and "/ x" not in name}


@in_turn("name", ONE_OPERAND)
@in_turn("kept", [EVEN, LIST, Kept(9, 9, 1, 7), Kept.all(7), UNEVEN])
def test_one_compact_operand(kept, name):
    agree(ONE_OPERAND[name][0], compact_and_dense(kept))


@in_turn("name", [name for name, case in SHARED.items() if len(case) == 2 and case[1].shape == (4, 7)])
@in_turn("kept", [EVEN, UNEVEN])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_values_of_one_compact_operand(kept, name):
    """Also where the dropped entries, 0, give infinities."""
    x, dense = compact_and_dense(kept)
    with md.no_grad():
        ours, theirs = SHARED[name][0](x), SHARED[name][0](dense)
    for one, other in zip(*((y if isinstance(y, tuple) else (y,)) for y in (ours, theirs)), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@in_turn("first, second", [(EVEN, EVEN), (EVEN, ODD), (EVEN, None), (None, LIST), (UNEVEN, UNEVEN),
                           (UNEVEN, EVEN), (None, UNEVEN)])
@in_turn("symbol, function", [
    ("+", operator.add), ("-", operator.sub), ("*", operator.mul), ("/", lambda a, b: a / (b * b + 1)),
    ("max", functions.maximum), ("min", functions.minimum),
    ("where", lambda a, b: functions.where(a > b, a, b)),
    ("cat", lambda a, b: functions.cat([a, b])), ("stack", lambda a, b: functions.stack([a, b])),
    ("@", lambda a, b: a @ b.T), ("**", lambda a, b: (a * a + 1) ** b),
    ("mse", functions.mse_loss), ("huber", functions.huber_loss)])
def test_two_operands_of_which_some_are_compact(first, second, symbol, function):
    def pair(kept, seed):
        if kept is not None:
            return compact_and_dense(kept, seed=seed)
        x = numbers(4, 7, seed=seed)
        return Tensor(x, True), Tensor(x, True)
    agree(function, pair(first, 1), pair(second, 2))


@in_turn("function", [
    lambda x: x + numbers(7), lambda x: numbers(4, 1) * x, lambda x: x - numbers(2, 4, 7),
    lambda x: x * Tensor(numbers()), lambda x: x * 0, lambda x: x / 2, lambda x: x[0],
    lambda x: x[:, [1, 1, 0]], lambda x: x.sum(0), lambda x: x.mean(), lambda x: x @ numbers(7, 2),
    lambda x: numbers(3, 4) @ x, lambda x: x.astype("float32").astype("float64"), lambda x: x.clone(),
    lambda x: x.softmax(1), lambda x: x.clip(0.1, None), lambda x: x.clip(-0.1, 0.2), lambda x: x.norm(),
    lambda x: functions.cross_entropy(x, [1, 2, 3, 4]), lambda x: x.masked_fill(x == 0, 3.0)])
def test_compact_tensors_with_arrays(function):
    for kept in (EVEN, UNEVEN):
        agree(function, compact_and_dense(kept))


def test_a_kept_set_on_the_first_axis():
    for function in (lambda x: x + 1, lambda x: x * 2, lambda x: x[2], lambda x: x.T, lambda x: x.sum(1),
                     lambda x: x @ numbers(4, 2)):
        agree(function, compact_and_dense(EVEN, 0))


def test_what_carries_a_kept_set_on():
    x, _ = compact_and_dense(EVEN)
    for y in (x * 2, 3 * x, x / 2, -x, abs(x), x.relu(), x.tanh(), (x * x).sqrt(), x ** 2, x.clip(-1, 1),
              x * x, x - x, x.clone(), x.detach(), x.double(), x.sin(), x.round(), functions.maximum(x, x)):
        assert y.kept == EVEN and y.data.shape == (4, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        expanded = [x + 1, 1 - x, 2 / x, x.exp(), x.sigmoid(), x.clip(1, 2), x * np.nan, x / 0, x ** 0,
                    x ** -1, 2 ** x, x > 0, x * numbers(7), x * Tensor(2.0)]
    for y in expanded:
        assert y.kept is None and y.data.shape == (4, 7)


def test_a_compact_operand_of_a_product_reads_only_the_kept_rows():
    x, _ = compact_and_dense(EVEN)
    W = Parameter(numbers(7, 2))
    (x @ W).sum().backward()
    assert [block.rows for block in W.blocks] == [EVEN]


@pytest.mark.parametrize("kept", [EVEN, UNEVEN])
def test_concat_of_compact_and_dense_tensors(kept):
    x, dense = compact_and_dense(kept)
    with pytest.raises(ShapeError, match="^concat on axis 1 needs inputs that are all dense, or all with a "
                                         "kept set on it, got .* call functions.expand on them first"):
        functions.concat([x, dense])
    np.testing.assert_allclose(functions.concat([x, x]).numpy(), np.concatenate([dense.data] * 2, 1))
    np.testing.assert_allclose(functions.cat([x, dense], 1).numpy(), np.concatenate([dense.data] * 2, 1))
