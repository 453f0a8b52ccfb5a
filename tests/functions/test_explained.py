"""What functions say of arguments of another kind than they take, and that they say no more than that."""

import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.backend.window import Window
from minidrop.functions.explained import explained

F = md.functions
X = md.tensor(np.random.default_rng(0).standard_normal((4, 6)), dtype="float32")
IMAGES = md.tensor(np.ones((2, 3, 6, 6)), dtype="float32")
REFUSED = {
    "lrn: beta: expected a number, got str": lambda: F.lrn(IMAGES, 3, 1.0, "a"),
    "layer_norm: eps: expected a number, got list": lambda: F.layer_norm(X, eps=[1]),
    "relu: negative_slope: expected a number, got ndarray": lambda: F.relu(X, np.ones(2)),
    "sum: keepdims: expected True or False, got ndarray": lambda: F.sum(X, 1, np.ones(2)),
    "einsum: equation: expected a text, got int": lambda: F.einsum(3, X),
    "max_pooling: window: expected Window, got int": lambda: F.max_pooling(IMAGES, 2),
    "tile: x: expected a Tensor (md.tensor makes one), got int": lambda: F.tile(3, 2, 1),
    "argmax: x: expected a Tensor (md.tensor makes one), got ndarray": lambda: F.argmax(X.numpy()),
    "swish: beta: expected a number, got int": lambda: F.swish(X, 10**400),
    "accuracy: top_k: expected a whole number, got str": lambda: F.accuracy(X, [0, 1, 2, 3], "1"),
    "axis 2 does not exist: the tensor has 2 axes": lambda: F.accuracy(X, [0, 1, 2, 3], axis=2),
    "axis 3 does not exist: the tensor has 2 axes": lambda: F.lrn(X, axes=(3,)),
    "pooling: a window of 2 axes slides over x (N, C, *spatial), got x of shape (4, 6)":
        lambda: F.mean_pooling(X, Window.of((2, 2))),
    "im2col: a window of 2 axes slides over x": lambda: F.im2col(X, Window.of((2, 2))),
    "embed: W is a matrix (rows, columns), got shape (6,)": lambda: F.embed([0], X[0]),
    "attention: rate must lie in [0, 1), got 1": lambda: F.attention(*[X[None]] * 3, rate=1.0),
}


@in_turn("words", list(REFUSED))
def test_an_argument_of_another_kind_is_named(words):
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        REFUSED[words]()


def test_what_the_arguments_do_not_explain_stays_as_it_is():
    @explained
    def fails(x: "int", times: "float" = 1.0) -> "int":
        raise ValueError("of its own")
    with pytest.raises(ValueError, match="^of its own$"):
        fails(1, 2)
    with pytest.raises(md.MinidropError, match="^fails: x: expected a whole number, got str$") as caught:
        fails("1")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(TypeError, match="unexpected keyword argument 'time'"):
        fails(1, time=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'negative_slop'"):
        F.relu(X, negative_slop=0.1)


def test_functions_are_known_by_their_own_names_and_signatures():
    assert F.relu.__name__ == "relu" and F.concatenate is F.cat and F.relu.__doc__
    assert F.relu.__wrapped__.__module__ == "minidrop.functions.activation"
