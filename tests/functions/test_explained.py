"""What functions say of arguments of another kind than they take, and that they say no more than that."""

import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn
from minidrop.backend.window import Window
from minidrop.functions.explained import explained

F = md.functions
X = md.tensor(np.random.default_rng(0).standard_normal((4, 6)), dtype="float32")
IMAGES = md.tensor(np.ones((2, 3, 6, 6)), dtype="float32")
LABELS = np.arange(4)
DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]
REFUSED = {
    "lrn: beta: expected a number, got str": lambda: F.lrn(IMAGES, 3, 1.0, "a"),
    "layer_norm: eps: expected a number, got list": lambda: F.layer_norm(X, eps=[1]),
    "relu: negative_slope: expected a number, got ndarray": lambda: F.relu(X, np.ones(2)),
    "sum: keepdims: expected True or False, got an array": lambda: F.sum(X, 1, np.ones(2)),
    "einsum: equation: expected a text, got 3": lambda: F.einsum(3, X),
    "max_pooling: window: expected Window, got 2": lambda: F.max_pooling(IMAGES, 2),
    "tile: x: expected a Tensor (md.tensor makes one), got 3": lambda: F.tile(3, 2, 1),
    "argmax: x: expected a Tensor (md.tensor makes one), got ndarray": lambda: F.argmax(X.numpy()),
    "swish: beta: expected a number, got 1000000000": lambda: F.swish(X, 10**400),
    "dropout: key: expected a whole number from 0 to 2**64 - 1, got -1": lambda: F.dropout(X, 0.5, -1),
    "gaussian_dropout: key: expected a whole number from 0 to 2**64 - 1, got str":
        lambda: F.gaussian_dropout(X, 0.5, "x"),
    "gru: drop: expected HiddenDrop, got 3": lambda: F.gru(X, X, X, X, X, X, drop=3),
    "reshape: shape: expected a list, got 24": lambda: F.reshape(X, 24),
    "an axis is a whole number, got an array of shape (4, 6)": lambda: F.softmax(X, X.numpy()),
    "normalization: unknown 'x'": lambda: F.softmax_cross_entropy(X, LABELS, normalization="x"),
    "smoothing: expected a number from 0 to 1, got ''":
        lambda: F.cross_entropy(X, LABELS, label_smoothing=""),
    "scheme: unknown 'x'": lambda: F.count_chunks(np.zeros((3, 2)), np.zeros((3, 2)), "x"),
    "deconvolution: expected groups that divide the 3 filters of W, got 2147483648":
        lambda: F.deconvolution(IMAGES, md.tensor(np.ones((3, 4, 2, 2))), groups=2**31),
    "tile: tiles: expected a whole number of at least 1, got 0": lambda: F.tile(X, 0),
    "crf: expected W of shape (6, 6), got (1, 1)":
        lambda: F.crf(X[None], np.zeros((1, 4)), md.tensor(np.ones((1, 1))), X[0], X[0]),
    "batch_norm: expected weight of shape (6,), got ()": lambda: F.batch_norm(X, weight=md.tensor(1.0)),
    "got lists that are nested too deeply": lambda: X + DEEP,
    "cannot hold a number of 5001 digits": lambda: X + 10**5000,
    "std: correction: expected a number, got str": lambda: X.std(correction="x"),
    "chunk: chunks: expected a whole number, got list": lambda: X.chunk([1]),
    "amax: keepdims: expected True or False": lambda: X.amax(1, keepdim=np.ones(2)),
    "log: scale: expected a number, got None": lambda: X.log(scale=None),
    "contrastive_loss: margin: expected a number, got an array of shape (2,)":
        lambda: F.contrastive_loss(X, X, LABELS, np.ones(2)),
    "attention: scale: expected a number, got Tensor of shape (4, 6)":
        lambda: F.attention(*[X[None]] * 3, scale=X),
    "unknown dtype '\\udcff'": lambda: X.astype("\udcff"),
    "HiddenDrop: cannot take units = 3": lambda: F.HiddenDrop(3),
    "requires_grad: expected True or False, got an array of shape (2,)": lambda: X.require_grad(np.ones(2)),
    "crop: cannot take x = Tensor of shape (4, 6), axis = 0, offsets = [], lengths = [2] (ValueErr":
        lambda: F.crop(X, 0, [], [2]),
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


def test_what_no_kind_explains_is_said_with_all_arguments():
    @explained
    def fails(x: "int", times: "float" = 1.0) -> "int":
        raise ValueError("of its own\nand more")
    with pytest.raises(md.MinidropError, match=r"^fails: cannot take x = 1, times = 2 "
                                               r"\(ValueError: of its own\)$"):
        fails(1, 2)
    with pytest.raises(md.MinidropError, match="^fails: x: expected a whole number, got str$") as caught:
        fails("1")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(TypeError, match="^fails takes x, times; got 'time'; did you mean 'times'"):
        fails(1, time=2)
    with pytest.raises(TypeError, match="^relu takes x, negative_slope; got 'negative_slop'; did you mean"):
        F.relu(X, negative_slop=0.1)


@in_turn("call, words", [
    (lambda: nn.LSTM(8, 16, 2), "LSTM takes 2 arguments by position (input_size, hidden_size), got 3; by "
     "name it takes stateful, weight_filler, bias_filler, name, settings of the layer"),
    (lambda: nn.Dropout(0.5, True), "Dropout takes 1 argument by position (rate), got 2; by name it takes "
     "axes, name"),
    (lambda: nn.Sigmoid(1), "Sigmoid takes no argument by position, got 1; by name it takes name"),
    (lambda: F.relu(X, 0.1, 2), "relu takes 2 arguments by position (x, negative_slope), got 3"),
    (lambda: X.var(1, 2), "var takes 2 arguments by position (x, axis), got 3; by name it takes keepdims, "
     "correction, dim, keepdim"),
])
def test_an_argument_too_many_comes_with_what_is_taken(call, words):
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        call()


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("of a device"),
                                   FloatingPointError("asked for")])
def test_what_is_not_said_of_values_stays_as_it_is(error):
    @explained
    def fails(x: "int") -> "int":
        raise error
    with pytest.raises(type(error)) as caught:
        fails("1")
    assert caught.value is error


def test_functions_are_known_by_their_own_names_and_signatures():
    assert F.relu.__name__ == "relu" and F.concatenate is F.cat and F.relu.__doc__
    assert F.relu.__wrapped__.__module__ == "minidrop.functions.activation"
