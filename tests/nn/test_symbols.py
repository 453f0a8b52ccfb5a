"""Operators of Symbols: each is a layer, and does what NumPy does; what needs values is refused."""

import copy
import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn
from minidrop.testing import assert_matches_masked_dense

F = md.functions


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2, shape)

HUGE = 10**400


class Of(nn.Module):
    """A module of a function of Symbols."""

    def __init__(self, function):
        self.function = function

    def forward(self, x, *more):
        return self.function(x, *more)


A, B, C, S = numbers(3, 4, 5), numbers(3, 4, 5, seed=1), numbers(4, 5), np.array(1.5)
OPERATIONS = {
    "a + b": lambda a, b, c, s: a + b, "a - b": lambda a, b, c, s: a - b,
    "a * b": lambda a, b, c, s: a * b, "a / b": lambda a, b, c, s: a / b,
    "a + c": lambda a, b, c, s: a + c, "c + a": lambda a, b, c, s: c + a, "a - c": lambda a, b, c, s: a - c,
    "c - a": lambda a, b, c, s: c - a, "a * c": lambda a, b, c, s: a * c, "c / a": lambda a, b, c, s: c / a,
    "a * s": lambda a, b, c, s: a * s, "s + a": lambda a, b, c, s: s + a,
    "a + 2": lambda a, b, c, s: a + 2, "2 + a": lambda a, b, c, s: 2 + a, "a - 2": lambda a, b, c, s: a - 2,
    "2 - a": lambda a, b, c, s: 2 - a, "a * 0.1": lambda a, b, c, s: a * 0.1,
    "np * a": lambda a, b, c, s: np.float32(0.5) * a, "a / 3": lambda a, b, c, s: a / 3,
    "3 / a": lambda a, b, c, s: 3 / a, "a ** 3": lambda a, b, c, s: a ** 3, "-a": lambda a, b, c, s: -a,
    "a ** b": lambda a, b, c, s: a ** b, "a ** c": lambda a, b, c, s: a ** c,
    "2 ** a": lambda a, b, c, s: 2 ** a,
    "a % b": lambda a, b, c, s: (a - 1) % b, "a // b": lambda a, b, c, s: (a - 1) // b,
    "a % c": lambda a, b, c, s: -a % c, "2 // a": lambda a, b, c, s: -2 // a,
    "s % a": lambda a, b, c, s: s % a,
    "a % 0.3": lambda a, b, c, s: (a - 1) % 0.3, "2 % a": lambda a, b, c, s: 2 % a,
    "a // -0.3": lambda a, b, c, s: a // -0.3,
    "abs": lambda a, b, c, s: abs(a - b), "reshape": lambda a, b, c, s: a.reshape(3, -1),
    "reshape of a tuple": lambda a, b, c, s: a.reshape((5, 12)),
    "transpose": lambda a, b, c, s: a.transpose(), "T": lambda a, b, c, s: a.T,
    "order": lambda a, b, c, s: a.transpose(1, -1, 0),
    "a[1]": lambda a, b, c, s: a[1], "a[-1, 2:]": lambda a, b, c, s: a[-1, 2:],
    "a[...]": lambda a, b, c, s: a[...],
    "a[1:2]": lambda a, b, c, s: a[1:2], "a[..., 0]": lambda a, b, c, s: a[..., 0],
    "a[:, None, 1:-1]": lambda a, b, c, s: a[:, None, 1:-1], "a[1, 2, 3]": lambda a, b, c, s: a[1, 2, 3],
    "a[np]": lambda a, b, c, s: a[np.int64(2), :2],
    "sum": lambda a, b, c, s: a.sum(), "mean": lambda a, b, c, s: a.mean(),
    "mean(1)": lambda a, b, c, s: a.mean(1), "sum((0, -1))": lambda a, b, c, s: a.sum((0, -1)),
    "a @ b": lambda a, b, c, s: a @ b.transpose(0, 2, 1), "max": lambda a, b, c, s: a.max(axis=1),
    "unpacked": lambda a, b, c, s: sum(part * (i + 1) for i, part in enumerate(c)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@in_turn("name", list(OPERATIONS))
def test_operators_are_those_of_numpy(name, dtype):
    function = OPERATIONS[name]
    arrays = [array.astype(dtype) for array in (A, B, C, S)]
    result = Of(function).to("cpu", dtype)(*arrays)
    expected = function(*arrays)
    assert result.shape == np.shape(expected)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_gradients_of_operators():
    """Of all at once, against differences of the function itself."""
    def function(a, b, c, s):
        x = (a - 2 * b) / (1 + c) + a[:, 1:2].reshape(3, 5).mean(1).sum() * s
        return (x.T * 0.3).sum() + (b ** 2).mean()
    inputs = [md.Tensor(array.copy(), requires_grad=True, backend=None) for array in (A, B, C, S)]
    for tensor in inputs:
        tensor.data = tensor.data.astype(float)
    model = Of(function).to("cpu", "float64")
    model(*inputs).backward()
    for tensor, place in zip(inputs, [(1, 1, 2), (0, 3, 1), (2, 2), ()], strict=True):
        ends = []
        for sign in (1, -1):
            tensor.data[place] += sign * 1e-6
            ends.append(function(*(np.asarray(one.data) for one in inputs)))
            tensor.data[place] -= sign * 1e-6
        assert tensor.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_what_layers_the_operators_are():
    def function(a, b):
        return nn.concat([(a + b) * 0.5, nn.maximum([a, b])], 2)[:, :, 1:4]
    net = Of(function).to("cpu").net_for(A, B)
    assert [layer.type for layer in net.config.message.layer] == [
        "Input", "Input", "Eltwise", "Power", "Eltwise", "Concat", "Slice", "Silence"]
    assert net.outputs == ["slice/1"]


def test_a_factor_that_float32_rounds_is_exact_in_float64():
    net = Of(lambda a: a / 3).to("cpu", "float64").net_for(A)
    assert [layer.type for layer in net.config.message.layer] == ["Input", "Lambda"]
    net = Of(lambda a: a / 3).to("cpu", "float32").net_for(A)
    assert [layer.type for layer in net.config.message.layer] == ["Input", "Power"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@in_turn("function", [lambda a: (a - a[:1]) / 0, lambda a: a / np.float32(0), lambda a: a / 1e-40,
                      lambda a: a * 1e300, lambda a: -a + 1e300, lambda a: a * -1e300, lambda a: a * np.nan])
def test_numbers_that_float32_lacks_give_what_a_tensor_gives(function):
    """Division by 0 as well: infinities of the right sign, and NaNs."""
    expected = function(md.Tensor(A.astype("float32"))).numpy()
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(Of(function).to("cpu")(A).numpy(), expected)


@in_turn("function", [lambda a: a + HUGE, lambda a: HUGE - a, lambda a: a - HUGE, lambda a: a * HUGE,
                      lambda a: a / HUGE, lambda a: HUGE / a, lambda a: a ** HUGE, lambda a: a // HUGE])
def test_a_whole_number_that_no_float_reaches_is_refused_as_by_a_tensor(function):
    for call in (function, Of(function).to("cpu")):
        with pytest.raises(md.TensorError, match="cannot hold a number of 401 digits"):
            call(md.Tensor(A.astype("float32")))


@in_turn("function", [lambda a, n: a + n, lambda a, n: n - a, lambda a, n: a - n, lambda a, n: n * a,
                      lambda a, n: a / n, lambda a, n: n / a, lambda a, n: a ** n, lambda a, n: n // a])
def test_an_array_without_axes_is_a_number(function):
    found, expected = (Of(lambda a, n=n: function(a, n)).to("cpu")(A).numpy() for n in (np.array(2.0), 2.0))
    np.testing.assert_array_equal(found, expected)


def test_a_symbol_is_its_own_copy():
    seen = []
    model = Of(lambda a: seen.append((a, +a, copy.copy(a), *copy.deepcopy([a]))) or a * 2).to("cpu")
    np.testing.assert_allclose(model(A).numpy(), 2 * A, rtol=1e-6)
    assert all(one is seen[0][0] for one in seen[0])


class Gated(nn.Module):
    """A module of primitives, with arrays of its own."""

    def __init__(self):
        self.fc, self.out = nn.Linear(5, 64), nn.Linear(64, 2)
        self.drop, self.act = nn.ApproxDropout(0.5), nn.Sigmoid()
        self.gain, self.queries = nn.Weight(64, filler="uniform"), nn.Weight(4, 64, filler={"type": "msra"})
        self.loss = nn.MSELoss()

    def forward(self, x, target):
        h = self.drop(self.act(self.fc(x)))
        y = self.out(h * self.gain) + self.out(self.queries() - self.gain)
        return self.loss(y * self.act(y), target)


def test_a_custom_module_of_primitives():
    """Its gradients, the contract of compaction, and products that leave out what is dropped."""
    model, (x, target) = Gated().to("cpu", "float64").set_seed(2), (numbers(4, 5), numbers(4, 2))
    net = model.net_for(x, target)
    for i in range(3):
        assert_matches_masked_dense(net, i, {"x": x, "target": target})
    [drop] = net.plan.drops
    assert [[node.name for node in nodes] for nodes in (drop.producers, drop.consumers)] == [["fc"], ["out"]]
    model.zero_grad()
    model(x, target).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    place = 7
    expected = model.gain.weight.grad[place]
    ends = []
    for sign in (1, -1):
        model.iteration = 0
        model.gain.weight.data[place] += sign * 1e-6
        ends.append(float(model(x, target)))
        model.gain.weight.data[place] -= sign * 1e-6
    assert expected == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert 0 <= model.gain.weight.data.min() < model.gain.weight.data.max() <= 1


def test_lambda_runs_in_every_pass():
    factor = [1.0]
    model = nn.Sequential(nn.Linear(3, 3), nn.Lambda(lambda x: F.scale(x, factor[0]))).to("cpu")
    x = numbers(2, 3).astype("f")
    once = model(x).numpy()
    factor[0] = 2.0
    np.testing.assert_array_equal(model(x).numpy(), 2 * once)
    inner = nn.Linear(3, 2).to("cpu")      # a module that a Lambda calls runs by itself
    both = Of(lambda x: nn.Lambda(lambda y: inner(y))(x) * 2).to("cpu")
    np.testing.assert_allclose(both(x).numpy(), 2 * inner(x).numpy(), rtol=1e-6)
    inner = nn.BatchNorm(3).to("cpu")       # nor does it change when the function is run on zeros
    model = Of(lambda x: nn.Lambda(lambda y: inner(y))(x)).to("cpu")
    model.net_for(x)
    assert inner.iteration == 0 and not inner.norm.mean.data.any()
    model(x)
    assert inner.iteration == 1
    np.testing.assert_allclose(inner.norm.mean.data, x.mean(0), rtol=1e-6)
    pair = Of(nn.Lambda(lambda x: (x, F.scale(x, -1.0)))).to("cpu")(x)
    np.testing.assert_array_equal(pair[1].numpy(), -x)


@in_turn("name, function", [
    ("unbind", lambda x: x.unbind(0)[0]), ("split", lambda x: x.split(9, dim=1)[0]),
    ("chunk", lambda x: F.chunk(x, 1, axis=1)[0]),
    ("unpacked", lambda x: sum(part.sum() for part in x.split([4], 1)))])
def test_a_tuple_of_one_is_a_tuple(name, function):
    """Of a single part a Symbol was returned itself, so that [0] took its first entry."""
    x = numbers(1, 4, 3)
    expected, found = function(md.Tensor(x)), Of(function).to("cpu", "float64")(x)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_a_lambda_that_returns_a_tuple_of_one():
    x = numbers(2, 3)
    [only] = nn.Lambda(lambda x: (x * 2,)).to("cpu", "float64")(x)
    np.testing.assert_array_equal(only.numpy(), 2 * x)
    alone = nn.Lambda(lambda x: x * 2).to("cpu", "float64")(x)
    np.testing.assert_array_equal(alone.numpy(), 2 * x)


def test_a_lambda_may_divide_by_what_is_zero_while_its_shapes_are_found(recwarn):
    x = np.float32([[3, 4], [6, 8]])
    unit = nn.Lambda(lambda x: x / x.norm(axis=1, keepdims=True)).to("cpu")
    np.testing.assert_allclose(unit(x).numpy(), [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    assert not recwarn.list


# -- mistakes ------------------------------------------------------------------------------------------------
REMEDY = ("a traced forward only describes the net, so it has no values yet: use a layer or an operator, "
          "nn.Lambda(function)(x), or a Module with `traced = False`, whose forward runs on Tensors")
LEFT = []


def store(x):
    LEFT.append(x)
    return x + LEFT[0]


REFUSED = {
    "bool() or `if`, of Symbol(x, (3, 4, 5)): " + REMEDY: lambda x: x if x else -x,
    "a comparison, of Symbol(x, (3, 4, 5)): ": lambda x: x == 0,
    "float(), of ": lambda x: float(x.sum()),
    "a function of arrays, of Symbol(x, (3, 4, 5)): " + REMEDY: lambda x: np.exp(np.asarray(x)),
    "'argsort', of Symbol(x, (3, 4, 5)): ": lambda x: x.argsort(),
    "matmul in a traced forward is given ndarray: its values would be frozen in the net": lambda x: F.matmul(
        x, A.astype("f")),
    "dropout in a traced forward: its random numbers would be the same in every pass; a layer, such as "
    "nn.Dropout, draws anew": lambda x: F.dropout(x, 0.5),
    "an operation on Symbol(x, (3, 4, 5)) and ndarray: its values would be frozen in the net. Make it an "
    "input of the module or an nn.Weight": lambda x: x + A.astype("f"),
    "+: shapes (3, 4, 5) and (3, 4) do not broadcast": lambda x: x + x.mean(2),
    "[slice(None, None, 2)] of an axis of 3 entries: only slices of step 1": lambda x: x[::2],
    "an index of type list, of ": lambda x: x[[0, 1]],
    "an index of type ndarray, of ": lambda x: x[np.array([0, 1])],
    "the forward of Of returns a ndarray that no layer computes; its values would be frozen": lambda x: A,
    "what the forward of Of returns: expected arrays or Tensors, numbers, text, None, or tuples, lists and "
    "dicts of them, got set": lambda x: {1},
    "Symbol(x, (3, 4, 5)) is left over from another call; do not store what a traced forward computes": store,
    "Linear has parameters, but is no part of Of: set it as an attribute in __init__":
        lambda x: nn.Linear(5, 2)(x),
    "ReLU is given an array inside a traced forward: its values would be frozen in the net. Make it an "
    "input of Of or an nn.Weight": lambda x: nn.ReLU()(A.astype("f")),
    "Plain has traced = False, but is called in the traced forward of Of; set traced = False there too":
        lambda x: Plain()(x),
    "a traced forward sets the attribute 'last', which would happen once and not in every call": None,
    "a module reads arrays and Tensors, and Symbols in a traced forward, got None": lambda x: nn.ReLU()(None),
    "got list; give an array, as of numpy.asarray": lambda x: nn.Linear(2, 2)([[1.0, 2.0]]),
    "axis 3 does not exist: the tensor has 3 axes": lambda x: x.sum(3),
    "Of: layer 'reshape' (Reshape): 60 elements (3, 4, 5) do not fill shape (7, 2)":
        lambda x: x.reshape(7, 2),
    "reshape: expected lengths of 1 or more and at most one -1, got (0, 60)": lambda x: x.reshape(0, 60),
}


class Plain(nn.Module):
    traced = False

    def forward(self, x):
        return x


class Remembers(Of):
    def forward(self, x):
        self.last = x
        return x


@in_turn("words", list(REFUSED))
def test_what_has_no_layer_is_refused(words):
    LEFT.clear()
    model = (Of if REFUSED[words] else Remembers)(REFUSED[words]).to("cpu")
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        if REFUSED[words] is store:
            model(A)
            model(B[:2])
        model(A)


def test_an_index_out_of_range_is_an_index_error():
    with pytest.raises(IndexError, match="index 3 of axis 0, which has 3 entries"):
        Of(lambda x: x[3]).to("cpu")(A)
