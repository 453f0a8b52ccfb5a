"""What tensors, functions and modules do with arrays of every kind, and what they refuse."""

import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn

F = md.functions
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
LABEL = np.array([0, 2, 1, 0])
SAME = {
    "a list": X.tolist(), "big-endian": X.astype(">f4"), "big-endian doubles": X.astype(">f8"),
    "in Fortran's order": np.asfortranarray(X), "from the end": X[::-1, ::-1][::-1, ::-1],
    "with gaps": np.repeat(X, 2, axis=1)[:, ::2], "wider than doubles": X.astype(np.longdouble),
    "a matrix": X.view(np.matrix), "of a subclass": X.view(type("Own", (np.ndarray,), {})),
}


@in_turn("name", list(SAME))
def test_arrays_of_every_kind_are_computed_alike(name):
    given = SAME[name]
    for function in (F.relu, F.softmax, lambda x: F.linear(x, W), lambda x: md.tensor(X) + x,
                     lambda x: F.cross_entropy(x, LABEL), lambda x: md.Tensor(x) * 2,
                     lambda x: md.tensor(x) @ W.T,
                     nn.Sequential(nn.Linear(3, 2), nn.ReLU()).set_seed(0) if name != "a list" else F.exp):
        np.testing.assert_allclose(function(given).numpy(), function(X).numpy(), rtol=1e-5, atol=1e-6)
    assert md.Tensor(given).dtype.isnative and md.Tensor(given).dtype.itemsize <= 8
    assert type(md.Tensor(given).data) is np.ndarray


def test_bare_arrays_are_operands_of_products():
    images, filters = np.ones((2, 3, 5, 5), np.float32), np.ones((4, 3, 2, 2))
    y = F.convolution(images, filters, np.zeros(4))
    assert y.dtype == np.float64 and (y.numpy() == 12).all()
    assert F.deconvolution(y.numpy(), filters).shape == (2, 3, 5, 5)
    np.testing.assert_array_equal(F.linear(X.tolist(), W).numpy(), F.linear(X, md.tensor(W)).numpy())


def test_integers_are_scores_too():
    scores = np.array([[1, 2, 3], [3, 1, 1]])
    expected = F.cross_entropy(scores.astype(np.float32), [0, 1]).item()
    assert F.cross_entropy(scores, [0, 1]).item() == expected
    assert F.softmax_cross_entropy(scores, [0, 1]).item() == expected


NONE = {
    "an array of real numbers, got one of dtype complex": X + 1j, "got one of dtype <U1": np.array(["a"]),
    "got one of dtype object": np.array([None]), "got one of dtype datetime64": np.array(["2020"], "M8[D]"),
    "got a masked one; fill in what is masked": np.ma.masked_array(X, X > 0),
    "nested lists of unequal lengths are no array": [[1.0, 2.0], [3.0]],
}


@in_turn("words", list(NONE))
def test_what_is_no_array_of_numbers_is_refused(words):
    given = NONE[words]
    for function in (md.Tensor, md.tensor, F.relu, lambda x: F.linear(x, W), lambda x: F.embed(x, W),
                     lambda x: md.tensor(X) + x, lambda x: F.cross_entropy(X, x), lambda x: F.cat([X, x]),
                     lambda x: md.tensor(X, requires_grad=True).exp().backward(x)):
        with pytest.raises(md.MinidropError, match=re.escape(words)):
            function(given)


REFUSED = {
    "linear: x has no axis of features": lambda: F.linear(1.0, W),
    "linear: W is a matrix (outputs, inputs), got shape (3,)": lambda: F.linear(X, W[0]),
    "convolution: expected filters W (outputs, inputs, *size) and x":
        lambda: F.convolution(X, np.ones((2, 3, 2, 2))),
    "deconvolution: expected filters W": lambda: F.deconvolution(np.ones((1, 2, 3, 3)), W),
    "+: float32 cannot hold a number of 401 digits": lambda: md.tensor(X) + 10**400,
    "<: float32 cannot hold a number of 401 digits": lambda: md.tensor(X) < 10**400,
    "clip: low: expected a number, got [0]": lambda: md.tensor(X).clamp([0]),
    "clip: high: expected a number, got 1000": lambda: F.clip(X, 0, 10**400),
    "dropout: rate: expected a number, got '0.5'": lambda: F.dropout(md.tensor(X), "0.5", 1),
    "split: expected a whole number of entries, or a list of them, got 1.5": lambda: F.split(X, 1.5),
    "unknown device an array of shape (2,)": lambda: nn.ReLU().to(np.zeros(2, int)),
    "set_seed: expected a whole number, got 'a'": lambda: nn.ReLU().set_seed("a"),
    "Kept needs whole numbers, got start=[0]": lambda: _kept([0]),
    "MSELoss: expected predictions and targets of one shape, got list and (4, 3)":
        lambda: nn.MSELoss()([1.0], X),
    "arrays and Tensors, and Symbols in a traced forward, got list": lambda: nn.LSTM(3, 2)([[1.0]]),
    "ModuleList: expected modules, got int": lambda: nn.ModuleList(3),
    "MultiHeadAttention: 3 heads do not divide the width, 4": lambda: nn.MultiHeadAttention(4, 3),
}


def _kept(start):
    try:
        return md.Kept(start, 2, 1, 6)
    except ValueError as error:
        raise md.ConfigError(str(error)) from error


@in_turn("words", list(REFUSED))
def test_arguments_that_fit_nothing(words):
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        REFUSED[words]()
