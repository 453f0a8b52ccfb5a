"""Every public function's gradient against central differences, dense and with kept sets."""

import numpy as np
import pytest
from cases import in_turn
from products import block_linear, linear_grids, linear_pieces

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions
from minidrop.functions.pieces import block_pieces, tile_pieces
from minidrop.patterns import NOTHING, DropSite, PatternSettings
from minidrop.patterns.block import BlockPattern
from minidrop.patterns.draw import Masked
from minidrop.patterns.tile import TilePattern

TOTAL = 7
KEPT = {"regular": Kept(1, 3, 1, TOTAL), "list": Kept.of([0, 1, 5], TOTAL), "empty": Kept(9, 9, 2, TOTAL),
        "all": Kept.all(TOTAL), "wrapped": Kept(-1, 4, 2, TOTAL)}
EVEN = Kept(0, 2, 1, 6)


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    """Random numbers no nearer than 0.05 to 0, where the rectifier has its kink."""
    x = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return np.where(abs(x) < 0.05, 0.05, x)


def labels(*shape, classes=7):
    return np.random.default_rng(1).integers(0, classes, shape)


def on_kept(function, axis=1):
    """The same function with its first input compacted by each kept set."""
    return [(f"{name} kept", lambda x, *rest, kept=kept: function(functions.take(x, kept, axis), *rest))
            for name, kept in KEPT.items()]


def draw(masked=False):
    drawn = DropSite("drop", PatternSettings(0.4), seed=3, total=TOTAL).draw(5)
    return Masked(drawn) if masked else drawn


def block_draw(masked):
    settings = PatternSettings(0.4, "BLOCK", block_samples=2, block_units=2)
    drawn = DropSite("drop", settings, seed=3, total=TOTAL).draw(5)
    return Masked(drawn) if masked else drawn


X = numbers(4, TOTAL)
ELEMENTWISE = {
    "relu": functions.relu,
    "leaky relu": lambda x: functions.relu(x, 0.1),
    "sigmoid": functions.sigmoid,
    "tanh": functions.tanh,
    "power 1": lambda x: functions.power(x, 1.0, -2.0, 0.5),
    "power 3": lambda x: functions.power(x, 3.0, 0.5, 0.1),
    "power -1.5": lambda x: functions.power(functions.power(x, 2.0), -1.5, 2.0, 0.3),
    "power 0": lambda x: functions.power(x, 0.0, 2.0, 3.0),
    "power of nothing": lambda x: functions.power(x, 2.0, 0.0, 3.0),
    "dropout": lambda x: functions.dropout(functions.expand(x), 0.4, key=17),
    "dropout of whole rows": lambda x: functions.dropout(functions.expand(x), 0.4, key=18, axes=(-1,)),
    "gaussian_dropout": lambda x: functions.gaussian_dropout(functions.expand(x), 0.4, key=17),
    "no gaussian_dropout": lambda x: functions.gaussian_dropout(x, 0, key=17),
    "no dropout": lambda x: functions.dropout(x, 0, key=17),
    "multiply_mask": lambda x: functions.multiply_mask(x, np.linspace(0, 2, TOTAL)[None]),
    "expand": functions.expand,
    "scale": lambda x: functions.scale(x, -1.5),
    "scale by 1": lambda x: functions.scale(x, 1),
    "take again": lambda x: functions.take(x, KEPT["regular"]),
    "approx_dropout": lambda x: functions.approx_dropout(x, draw()),
    "approx_dropout masked": lambda x: functions.approx_dropout(x, draw(masked=True)),
    "approx_dropout in a test": lambda x: functions.approx_dropout(x, NOTHING),
    "linear": lambda x: functions.linear(x, Tensor(numbers(3, TOTAL))),
    "softmax": lambda x: functions.softmax(functions.expand(x)),
    "weighted_sum of one": lambda x: functions.weighted_sum([x, x, x], [1, -2, 0.5]),
    "product of one": lambda x: functions.product([x, x, x]),
    "maximum of one": lambda x: functions.maximum([x, functions.power(x, 1.0, 2.0)]),
}
CASES = {}
for _name, _function in ELEMENTWISE.items():
    CASES[_name] = (_function, X)
    CASES.update({f"{_name}, {which}": (function, X) for which, function in on_kept(_function)})

A, B, C = numbers(3, TOTAL, seed=1), numbers(3, TOTAL, seed=2), numbers(3, TOTAL, seed=3)
W, b = numbers(5, TOTAL), numbers(5)
CASES |= {
    "softmax_cross_entropy, smoothed": (lambda x: functions.softmax_cross_entropy(
        x, labels(4, classes=7), 1, 2, smoothing=0.2), X),
    "softmax_cross_entropy, class weights": (lambda x: functions.softmax_cross_entropy(
        x, labels(4, classes=7), class_weight=[1, 0.5, 2, 0, 3, 1, 0.25]), X),
    "softmax_cross_entropy, class weights, smoothed": (lambda x: functions.softmax_cross_entropy(
        x, labels(4, classes=7), 1, 2, smoothing=0.2, class_weight=[1, 0.5, 2, 0, 3, 1, 0.25]), X),
    "add": (functions.add, A, B),
    "multiply": (functions.multiply, A, B),
    "weighted_sum and a ReLU": (lambda *xs: functions.weighted_sum(xs, [1, -0.5, 3], relu=True), A, B, C),
    "weighted_sum": (lambda *xs: functions.weighted_sum(xs, [1, -0.5, 3]), A, B, C),
    "product": (lambda *xs: functions.product(xs), A, np.where(B > 1, 0.0, B), C),
    "maximum": (lambda *xs: functions.maximum(xs), A, B, C),
    "concat": (lambda *xs: functions.concat(xs), A, numbers(3, 2), C),
    "concat axis -1 of 3-D": (lambda *xs: functions.concat(xs, -1), numbers(2, 3, 4), numbers(2, 3, 1)),
    "slice": (lambda x: functions.slice(x, [2, 3]), A),
    "slice axis 0": (lambda x: functions.slice(x, [1], 0), A),
    "slice into one": (lambda x: functions.slice(x, []), A),
    "slice, one part unread": (lambda x: functions.slice(x, [2, 5])[1], A),
    "reshape": (lambda x: functions.reshape(x, (TOTAL, -1)), A),
    "flatten": (lambda x: functions.flatten(x), numbers(2, 3, 4)),
    "flatten some": (lambda x: functions.flatten(x, 1, -2), numbers(2, 3, 4, 2)),
    "take axis 0": (lambda x: functions.take(x, Kept(0, 2, 1, 3), 0), A),
    "take 4-D": (lambda x: functions.take(x, EVEN), numbers(2, 6, 3, 2)),
    "expand 4-D": (lambda x: functions.expand(functions.take(x, EVEN)), numbers(2, 6, 3, 2)),
    "linear of all": (functions.linear, A, W, b),
    "linear without b": (functions.linear, A, W),
    "linear of sequences": (functions.linear, numbers(2, 3, TOTAL), W, b),
    "linear with dropped weights": (lambda x, W, b: functions.linear(x, functions.dropout(W, 0.4, key=3), b),
                                    A, W, b),
    "dropout 4-D, axes": (lambda x: functions.dropout(x, 0.4, key=3, axes=(0, -1)), numbers(2, 6, 3, 2)),
    "linear of a vector": (functions.linear, numbers(TOTAL), W, b),
    "embed": (functions.embed, labels(2, 3, classes=4), numbers(5, 4), numbers(4)),
    "embed without b": (functions.embed, labels(6, classes=3), numbers(3, 4)),
    "softmax axis 0": (lambda x: functions.softmax(x, 0), A),
    "softmax 4-D": (lambda x: functions.softmax(x, 1), numbers(2, 3, 2, 2)),
    "euclidean_loss": (functions.euclidean_loss, A, B),
    "euclidean_loss of numbers": (functions.euclidean_loss, numbers(), numbers(seed=1)),
    "sigmoid_cross_entropy": (lambda x: functions.sigmoid_cross_entropy(x, numbers(3, TOTAL, low=0, high=1)),
                              A),
    "sigmoid_cross_entropy, ignoring":
        (lambda x: functions.sigmoid_cross_entropy(x, labels(3, TOTAL, classes=3) - 1, -1, "VALID"), A),
}
for _kept_in in (None, *KEPT.values()):
    for _kept_out in (None, *(Kept(*k.regular, 5) for k in KEPT.values() if k.regular), Kept.of([1, 4], 5)):
        for _transpose in (False, True):
            CASES[f"linear, in {_kept_in}, out {_kept_out}, transpose {_transpose}"] = (
                lambda x, W, b, i=_kept_in, o=_kept_out, t=_transpose: functions.linear(
                    x if i is None else functions.take(x, i), W, b, o, t), A, W.T if _transpose else W, b)
_tiles = tile_pieces(3, TilePattern(2 / 3, 3.0, 3, 1, 2, drops="weights").tiles(5, TOTAL))
_blocks = block_pieces(3, 5, TOTAL, [(0, 1, Kept.of([1, 4], 5)), (1, 3, Kept.all(5))],
                                 [(0, 2, KEPT["regular"]), (2, 3, KEPT["list"])])
for _transpose in (False, True):
    for _name, _pieces in (("tiles", _tiles), ("blocks", _blocks),
                           ("one piece", block_pieces(3, 5, TOTAL))):
        CASES[f"linear_pieces, {_name}, transpose {_transpose}"] = (
            lambda x, W, b, p=_pieces, t=_transpose: linear_pieces(x, W, b, p, 1.5, t),
            A, W.T if _transpose else W, b)
    CASES[f"linear_pieces, no b, transpose {_transpose}"] = (
        lambda x, W, t=_transpose: linear_pieces(x, W, None, _tiles, 1.0, t), A, W.T if _transpose
        else W)
    for _sides in ((True, False), (False, True), (True, True)):
        _groups = [BlockPattern(0.5, 2.0, 3, 2, 2, drops="blocks").groups(3, n) if dropped else None
                   for n, dropped in zip((5, TOTAL), _sides, strict=True)]
        CASES[f"block_linear, {_sides}, transpose {_transpose}"] = (
            lambda x, W, b, g=_groups, t=_transpose: block_linear(x, W, b, *g, t),
            A, W.T if _transpose else W, b)
        _grids = [None if groups is None else groups.grid for groups in _groups]
        CASES[f"linear_grids, {_sides}, transpose {_transpose}"] = (
            lambda x, W, b, g=_grids, t=_transpose: linear_grids(x, W, b, *g, t), A,
            W.T if _transpose else W, b)
        CASES[f"linear_grids, then tanh, {_sides}, transpose {_transpose}"] = (
            lambda x, W, b, g=_grids, t=_transpose: linear_grids(x, W, b, *g, t, "tanh"),
            A, W.T if _transpose else W, b)
for _activation in ("none", "relu", "sigmoid", "tanh"):
    for _scale in (1, 2.5):
        for _given in ((A, W, b), (A, W), (numbers(2, 3, TOTAL), W, b), (numbers(TOTAL), W, b)):
            CASES[f"linear, then {_activation} times {_scale}, {len(_given)} inputs, {_given[0].ndim}-D"] = (
                lambda x, W, b=None, f=_activation, s=_scale: functions.linear(x, W, b, None, False, f,
                                                                               s), *_given)
        CASES[f"linear, kept, then {_activation} times {_scale}"] = (
            lambda x, W, b, f=_activation, s=_scale: functions.linear(
                functions.take(x, KEPT["regular"]), W, b, Kept.of([1, 4], 5), False, f, s), A, W, b)
    CASES[f"linear_pieces, then {_activation}"] = (
        lambda x, W, b, f=_activation: linear_pieces(x, W, b, _tiles, 1.5, False, f), A, W, b)
    CASES[f"linear_pieces, no b, then {_activation}"] = (
        lambda x, W, f=_activation: linear_pieces(x, W, None, _blocks, 1.0, False, f), A, W)
CASES |= {
    "linear, then relu times less than 0": (lambda *xs: functions.linear(*xs, activation="relu", scale=-1.5),
                                            A, W, b),
    "linear, then relu times 0": (lambda *xs: functions.linear(*xs, activation="relu", scale=0), A, W, b),
    "linear, then none times 0": (lambda *xs: functions.linear(*xs, scale=0), A, W, b),
}
for _axis, _shape in ((1, (4, TOTAL)), (1, (2, TOTAL, 3, 2)), (-1, (2, 3, TOTAL))):
    for _masked in (False, True):
        CASES[f"approx_dropout of blocks, axis {_axis} of {len(_shape)}, masked {_masked}"] = (
            lambda x, a=_axis, m=_masked: functions.approx_dropout(x, block_draw(m), a), numbers(*_shape))
for _name, _kept in KEPT.items():
    CASES[f"embed, kept {_name}"] = (lambda ids, W, b, kept=_kept: functions.embed(ids, W, b, kept),
                                     labels(2, 4), W.T @ W, numbers(TOTAL))
for _normalization in ("VALID", "FULL", "BATCH_SIZE", "NONE"):
    for _ignore in (None, 2):
        CASES[f"softmax_cross_entropy {_normalization}, ignoring {_ignore}"] = (
            lambda x, label, i=_ignore, n=_normalization: functions.softmax_cross_entropy(x, label, 1, i, n),
            numbers(3, 5, 2, 2), labels(3, 2, 2, classes=5))
        CASES[f"softmax_cross_entropy, last axis, {_normalization}, ignoring {_ignore}"] = (
            lambda x, label, i=_ignore, n=_normalization: functions.softmax_cross_entropy(x, label, -1, i, n),
            numbers(2, 3, 5), labels(2, 3, classes=5))


@in_turn("name", CASES)
def test_gradient(name):
    function, *arrays = CASES[name]
    check_gradients(function, *arrays)


def test_every_public_function_is_here():
    without_gradient = {"ChunkCounts", "HiddenDrop", "Stored", "accuracy", "argmax", "best_tags",
                        "count_chunks", "perplexity", "pooled_places", "sinusoids", "step_angles",
                        "tensor", "threshold"}
    elsewhere = {"add_to_steps", "gru", "lstm", "reverse_steps", "rnn"}      # in test_recurrent.py
    elsewhere |= {"absval", "batch_reindex", "bnll", "clip", "contrastive_loss", "crop", "elu", "exp",
                  "filter_records", "hinge_loss", "infogain_loss", "log", "multinomial_logistic_loss",
                  "reduction", "swish", "tile"}                              # in test_caffe_functions.py
    elsewhere |= {"affine", "batch_norm", "lrn", "mvn", "prelu", "stored_norm"}     # in test_normalization.py
    elsewhere |= {"crf", "last_state"}                                       # in test_crf.py
    elsewhere |= {"attention"}                                               # in test_attention.py
    elsewhere |= {"convolution", "deconvolution", "im2col"}                  # in test_convolution.py
    elsewhere |= {"max_pooling", "mean_pooling", "stochastic_pooling"}       # in test_pooling.py
    elsewhere |= {"add_positions", "gelu", "layer_norm", "patches", "permute", "rms_norm",
                  "rotary"}                                                  # in test_rows_and_positions.py
    # in test_operators.py
    elsewhere |= {"abs", "amax", "amin", "astype", "binary_cross_entropy", "binary_cross_entropy_with_logits",
                  "broadcast_to", "cat", "ceil", "chunk", "clamp", "concatenate", "cos", "cross_entropy",
                  "cumsum", "divide", "einsum", "expand_dims",
                  "expm1", "floor", "get_item", "huber_loss", "kl_div",
                  "l1_loss", "log1p", "log_softmax", "logsumexp", "matmul", "max", "mean", "min", "minimum",
                  "moveaxis", "mse_loss", "negative", "nll_loss", "norm", "pow", "round", "sign", "sin",
                  "smooth_l1_loss", "split", "sqrt", "square", "squeeze", "stack", "std", "subtract", "sum",
                  "to", "transpose", "unbind", "unsqueeze", "var", "where"}
    checked = {name.split(",")[0].split()[0] for name in CASES} | elsewhere
    assert set(functions.__all__) - checked == without_gradient


def test_targets_and_labels_get_no_gradient():
    target = Tensor(numbers(3, TOTAL, low=0, high=1), requires_grad=True)
    functions.sigmoid_cross_entropy(Tensor(A, requires_grad=True), target).backward()
    label = Tensor(np.zeros(3), requires_grad=True)
    functions.softmax_cross_entropy(Tensor(A, requires_grad=True), label).backward()
    assert target.grad is None and label.grad is None


def test_of_equal_inputs_the_first_gets_the_gradient_of_the_maximum():
    a, b = (Tensor(np.array([1.0, 5.0]), requires_grad=True) for _ in range(2))
    functions.maximum([a, b]).backward(np.ones(2))
    assert a.grad.tolist() == [1, 1] and b.grad.tolist() == [0, 0]


@pytest.mark.parametrize("kept", [Kept(1, 3, 2, 5), Kept.of([0, 3], 5)])
def test_flatten_spreads_a_kept_set_of_its_first_axis(kept):
    x = numbers(3, 5, 2, 2)
    flat = functions.flatten(functions.take(Tensor(x), kept, 1))
    assert flat.shape == (3, 20) and flat.kept == kept.spread(4)
    np.testing.assert_array_equal(flat.numpy(), (x * kept.mask(float)[:, None, None]).reshape(3, 20))
    check_gradients(lambda t: functions.flatten(functions.take(t, kept, 1)), x)


def test_flatten_refuses_to_mix_the_entries_of_a_kept_set():
    with pytest.raises(ShapeError, match="flatten from axis 1 on would mix the entries of .* on axis 2"):
        functions.flatten(functions.take(Tensor(numbers(3, 4, 5)), Kept(0, 2, 1, 5), 2))
