"""Values and gradients against PyTorch, where it has the operation."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, functions

torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
F = torch.nn.functional
KEPT = Kept(1, 3, 1, 7)
MASK = torch.tensor(KEPT.mask(float))


def numbers(*shape, seed=0, low=-3.0, high=3.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


X = numbers(5, 7)
ELEMENTWISE = {
    "relu": (functions.relu, torch.relu),
    "leaky relu": (lambda x: functions.relu(x, 0.1), lambda x: F.leaky_relu(x, 0.1)),
    "sigmoid": (functions.sigmoid, torch.sigmoid),
    "tanh": (functions.tanh, torch.tanh),
    "power": (lambda x: functions.power(x, 3.0, 0.5, 2.0), lambda x: (2 + 0.5 * x) ** 3),
    "softmax": (functions.softmax, lambda x: F.softmax(x, 1)),
}


@in_turn("name", ELEMENTWISE)
def test_elementwise(agrees_with_torch, name):
    agrees_with_torch(*ELEMENTWISE[name], X)


@in_turn("name", [name for name in ELEMENTWISE if name != "softmax"])
def test_elementwise_on_kept_units(agrees_with_torch, name):
    """What is computed of a compact tensor is what dense code computes of its value."""
    ours, theirs = ELEMENTWISE[name]
    agrees_with_torch(lambda x: ours(functions.take(x, KEPT)), lambda x: theirs(x * MASK), X)


def test_far_values(agrees_with_torch):
    """Nothing overflows."""
    x = np.array([[-1e4, -800.0, -90.0, 0.5, 90.0, 800.0, 1e4]])
    for ours, theirs in (ELEMENTWISE["sigmoid"], ELEMENTWISE["tanh"]):
        agrees_with_torch(ours, theirs, x)
    agrees_with_torch(functions.softmax, lambda x: F.softmax(x, 1), x)
    target = np.full((1, 7), 0.25)
    agrees_with_torch(lambda x: functions.sigmoid_cross_entropy(x, target),
                      lambda x: F.binary_cross_entropy_with_logits(x, torch.tensor(target), reduction="sum"),
                      x)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_linear(agrees_with_torch, lead):
    agrees_with_torch(functions.linear, F.linear, numbers(*lead, 7), numbers(4, 7), numbers(4))
    agrees_with_torch(functions.linear, F.linear, numbers(*lead, 7), numbers(4, 7))
    agrees_with_torch(lambda x, W, b: functions.linear(x, W, b, transpose=True), lambda x, W,
                      b: F.linear(x, W.T, b), numbers(*lead, 7), numbers(7, 4), numbers(4))


@in_turn("lead", [(), (5,), (2, 3), (0,)])
@in_turn("scale", [1, 2.5])
@in_turn("name, theirs", [("none", lambda y: y), ("relu", F.relu), ("sigmoid", torch.sigmoid),
                          ("tanh", torch.tanh)])
def test_linear_and_what_follows(agrees_with_torch, name, theirs, scale, lead):
    x, W, b, kept = numbers(*lead, 7), numbers(9, 7), numbers(9), Kept(0, 2, 1, 9)
    mask = torch.tensor(kept.mask(float))
    agrees_with_torch(lambda *xs: functions.linear(*xs, activation=name, scale=scale),
                      lambda *xs: scale * theirs(F.linear(*xs)), x, W, b)
    agrees_with_torch(lambda *xs: functions.linear(*xs, activation=name, scale=scale),
                      lambda *xs: scale * theirs(F.linear(*xs)), x, W)
    agrees_with_torch(lambda *xs: functions.linear(*xs, kept, activation=name, scale=scale),
                      lambda *xs: scale * theirs(F.linear(*xs)) * mask, x, W, b)


IN_SETS = {"no": None, "one in three": KEPT, "wrapped": Kept(-1, 4, 2, 7), "none kept": Kept(9, 9, 1, 7),
           "list": Kept.of([0, 6], 7)}
OUT_SETS = {"no": None, "every other": Kept(0, 2, 1, 9), "runs": Kept(2, 5, 3, 9),
            "none kept": Kept(9, 9, 1, 9)}


@in_turn("in_kept", IN_SETS.values(), ids=IN_SETS)
@in_turn("out_kept", OUT_SETS.values(), ids=OUT_SETS)
@in_turn("transpose", [False, True])
@in_turn("lead", [(5,), (2, 3)])
def test_linear_with_kept_sets(agrees_with_torch, in_kept, out_kept, transpose, lead):
    in_mask, out_mask = (1 if kept is None else torch.tensor(kept.mask(float))
                         for kept in (in_kept, out_kept))
    agrees_with_torch(
        lambda x, W, b: functions.linear(functions.take(x, in_kept, -1) if in_kept is not None else x, W, b,
                                         out_kept, transpose),
        lambda x, W, b: F.linear(x * in_mask, W.T if transpose else W, b) * out_mask,
        numbers(*lead, 7), numbers(7, 9) if transpose else numbers(9, 7), numbers(9))


@in_turn("lead", [(), (5,), (4, 3), (0, 3)])
@in_turn("kept", [None, KEPT])
def test_embed(agrees_with_torch, lead, kept):
    ids = np.random.default_rng(4).integers(0, 6, lead)
    mask = 1 if kept is None else MASK
    agrees_with_torch(lambda ids, W: functions.embed(ids, W, None, kept), lambda ids,
                      W: F.embedding(ids, W) * mask, ids, numbers(6, 7))
    agrees_with_torch(lambda ids, W, b: functions.embed(ids, W, b, kept), lambda ids, W,
                      b: (F.embedding(ids, W) + b) * mask, ids, numbers(6, 7), numbers(7))


def test_arithmetic(agrees_with_torch):
    a, b, c = (numbers(3, 4, seed=seed) for seed in range(3))
    agrees_with_torch(functions.add, torch.add, a, b)
    agrees_with_torch(functions.multiply, torch.mul, a, b)
    agrees_with_torch(lambda *xs: functions.weighted_sum(xs, (2, -1, 0.5)), lambda a, b,
                      c: 2 * a - b + 0.5 * c, a, b, c)
    agrees_with_torch(lambda *xs: functions.product(xs), lambda a, b, c: a * b * c, a, np.zeros((3, 4)), c)
    agrees_with_torch(lambda *xs: functions.maximum(xs), lambda a, b,
                      c: torch.maximum(torch.maximum(a, b), c), a, b, c)


def test_moving(agrees_with_torch):
    x = numbers(2, 6, 3, 4)
    agrees_with_torch(lambda x: functions.slice(x, [1, 4]), lambda x: torch.split(x, [1, 3, 2], 1), x)
    agrees_with_torch(lambda x: functions.slice(x, [], -1), lambda x: (x * 1,), x)
    agrees_with_torch(lambda a, b: functions.concat([a, b], 2), lambda a, b: torch.cat([a, b], 2), x,
                      numbers(2, 6, 1, 4))
    agrees_with_torch(lambda x: functions.flatten(x, 1, 2), lambda x: torch.flatten(x, 1, 2), x)
    agrees_with_torch(lambda x: functions.reshape(x, (4, -1)), lambda x: x.reshape(4, -1), x)
    agrees_with_torch(functions.flatten, lambda x: x.reshape(0, 72), np.zeros((0, 6, 3, 4)))


LABELS = np.array([[[0, 4], [2, 2]], [[1, 3], [4, 2]], [[2, 0], [0, 1]]])


@in_turn("smoothing", [0.1, 0.9])
@in_turn("ignore_label", [None, 2])
@in_turn("axis", [1, 2, -1])
def test_smoothed_softmax_cross_entropy(agrees_with_torch, smoothing, ignore_label, axis):
    agrees_with_torch(
        lambda x: functions.softmax_cross_entropy(x, LABELS, axis, ignore_label, smoothing=smoothing),
        lambda x: F.cross_entropy(torch.movedim(x, axis, 1), torch.tensor(LABELS), label_smoothing=smoothing,
                                  ignore_index=-100 if ignore_label is None else ignore_label),
        np.moveaxis(numbers(3, 5, 2, 2), 1, axis))


WEIGHTS = (0.5, 0.0, 2.0, 0.125, 1.0)


@in_turn("smoothing", [0.0, 0.2])
@in_turn("ignore_label", [None, 2, 99])
@in_turn("axis", [1, 2, -1])
@in_turn("weights", [WEIGHTS, tuple(weight / 1000 for weight in WEIGHTS)])     # a sum far below 1
def test_weighted_softmax_cross_entropy(agrees_with_torch, smoothing, ignore_label, axis, weights):
    agrees_with_torch(
        lambda x: functions.softmax_cross_entropy(x, LABELS, axis, ignore_label, smoothing=smoothing,
                                                  class_weight=weights),
        lambda x: F.cross_entropy(torch.movedim(x, axis, 1), torch.tensor(LABELS), label_smoothing=smoothing,
                                  weight=torch.tensor(weights, dtype=torch.float64),
                                  ignore_index=-100 if ignore_label is None else ignore_label),
        np.moveaxis(numbers(3, 5, 2, 2), 1, axis))


@in_turn("normalization, divisor", [("FULL", 12), ("BATCH_SIZE", 3), ("NONE", 1)])
def test_class_weights_do_not_enter_other_divisors(agrees_with_torch, normalization, divisor):
    agrees_with_torch(
        lambda x: functions.softmax_cross_entropy(x, LABELS, 1, 2, normalization, 0.1, WEIGHTS),
        lambda x: F.cross_entropy(x, torch.tensor(LABELS), torch.tensor(WEIGHTS, dtype=torch.float64),
                                  ignore_index=2, label_smoothing=0.1, reduction="sum") / divisor,
        numbers(3, 5, 2, 2))


@in_turn("normalization, divisor", [("VALID", "valid"), ("FULL", 12), ("BATCH_SIZE", "outer"), ("NONE", 1)])
@in_turn("ignore_label", [None, 2, 0, 99])
@in_turn("axis", [1, 2, -1])
@in_turn("label_dtype", [np.int64, np.uint8, np.float32])
def test_softmax_cross_entropy(agrees_with_torch, normalization, divisor, ignore_label, axis, label_dtype):
    x = np.moveaxis(numbers(3, 5, 2, 2), 1, axis)
    label = LABELS.astype(label_dtype)
    places = {"valid": (LABELS != ignore_label).sum(),
              "outer": {1: 3, 2: 6, -1: 12}[axis]}.get(divisor, divisor)

    def theirs(x):
        target = torch.tensor(LABELS)
        return F.cross_entropy(torch.movedim(x, axis, 1), target, reduction="sum",
                               ignore_index=-100 if ignore_label is None else ignore_label) / places
    agrees_with_torch(lambda x: functions.softmax_cross_entropy(x, label, axis, ignore_label, normalization),
                      theirs, x)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
@pytest.mark.parametrize("records", [6, 2, 1])
def test_cross_entropy_where_a_labels_probability_is_0_to_rounding(dtype, options, records):
    """As PyTorch's: 200 for scores 200 apart, not the 87.3 of Caffe's in float32; some places are ignored."""
    x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(dtype)
    label = np.random.default_rng(1).integers(0, 5, (6, 3))
    x[0, :2, 0], x[1, 2, 1], x[2, 3, 2], x[3] = (0, 200), -1e4, 1e30, -2000
    label[0, 0], label[1, 1], label[2, 2], label[3] = 0, 2, 0, -100
    x, label = x[:records], label[:records]
    own, other = functions.tensor(x.copy(), requires_grad=True), torch.tensor(x, requires_grad=True)
    loss = functions.cross_entropy(own, label, **options)
    expected = F.cross_entropy(other, torch.tensor(label), **options)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(own.grad, other.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_scores_that_are_minus_infinity(dtype):
    x, label = np.array([[-np.inf, 0, 1], [0, 1, 2]], dtype), np.array([0, 2])
    assert functions.cross_entropy(x, label).item() == np.inf
    assert functions.cross_entropy(x, [-100, 2]).item() == pytest.approx(0.40760596)
    ignored = functions.cross_entropy(x, [-100, -100]).item()
    assert ignored == 0 and not np.signbit(ignored)         # NaN in PyTorch


@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE"])
def test_softmax_cross_entropy_of_ignored_places_only(forward_backward, normalization):
    (loss,), (gx,
              ) = forward_backward(lambda x: functions.softmax_cross_entropy(x, [7, 7], 1, 7, normalization),
                                   numbers(2, 3))
    assert loss == 0 and not gx.any()


def test_euclidean_loss(agrees_with_torch):
    agrees_with_torch(functions.euclidean_loss, lambda a, b: F.mse_loss(a, b, reduction="sum") / 6,
                      numbers(3, 4, 2), numbers(3, 4, 2, seed=1))
    agrees_with_torch(functions.euclidean_loss, lambda a,
                      b: F.mse_loss(a, b.reshape(3, 4), reduction="sum") / 6, numbers(3, 4), numbers(3, 2, 2))


@in_turn("normalization, divisor", [("VALID", "valid"), ("FULL", 12), ("BATCH_SIZE", 3),
                                    ("NONE", 1)])
@in_turn("ignore_label", [None, 1])
def test_sigmoid_cross_entropy(agrees_with_torch, normalization, divisor, ignore_label):
    target = np.random.default_rng(3).integers(0, 2, (3, 4)).astype(float)
    weight = torch.tensor((target != ignore_label).astype(float))
    divisor = float(weight.sum()) if divisor == "valid" else divisor
    agrees_with_torch(
        lambda x: functions.sigmoid_cross_entropy(x, target.reshape(12), ignore_label, normalization),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.tensor(target), weight, reduction="sum")
        / divisor, numbers(3, 4))
