"""Factors, biases, slopes and normalizations: gradients, and what they make of kept sets."""

import re

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions
from minidrop.autograd import Parameter
from minidrop.backend import get_backend
from minidrop.errors import KeptError
from minidrop.functions import Stored
from minidrop.functions.affine import Affine
from minidrop.kept import KeptByGroup

CHANNELS = 7
KEPT = {"regular": Kept(1, 3, 1, CHANNELS), "list": Kept.of([0, 1, 5], CHANNELS),
        "empty": Kept(9, 9, 2, CHANNELS), "all": Kept.all(CHANNELS), "wrapped": Kept(-1, 4, 2, CHANNELS)}
EVEN = KeptByGroup([Kept(0, 3, 1, 6), Kept(1, 3, 1, 6)])
UNEVEN = KeptByGroup([Kept(0, 3, 1, CHANNELS), Kept(1, 3, 1, CHANNELS), Kept.all(CHANNELS)])
SHAPES = {"matrix": (4, CHANNELS), "images": (3, CHANNELS, 2, 3), "one record": (1, CHANNELS, 3),
          "one place": (4, CHANNELS, 1, 1)}


def numbers(*shape, seed=0):
    """Random numbers no nearer than 0.05 to 0, where PReLU has its kink."""
    x = np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)
    return np.where(abs(x) < 0.05, 0.05, x)


def stored(channels=CHANNELS, weight=2.5, fraction=0.9):
    """Statistics of batches before: sums of means and of variances."""
    return Stored(numbers(channels, seed=3), weight * (1 + numbers(channels, seed=4) ** 2),
                  np.array([weight]), fraction)


F = numbers(CHANNELS, seed=1)
B = numbers(CHANNELS, seed=2)
BY_CHANNEL = {
    "affine": (lambda x, f, b: functions.affine(x, f, b, carry=True), F, B),
    "affine without bias": (functions.affine, F),
    "affine without factor": (lambda x, b: functions.affine(x, None, b, carry=True), B),
    "affine of one number": (lambda x, f, b: functions.affine(x, f, b, carry=True), numbers(),
                             numbers(seed=1)),
    "prelu": (functions.prelu, F),
    "prelu of one number": (functions.prelu, numbers()),
    "stored_norm": (lambda x: functions.stored_norm(x, stored(), 0.1, carry=True),),
    "mvn": (lambda x: functions.mvn(x, eps=0.3),),
    "mvn, default eps": (functions.mvn,),
    "mvn without variance": (lambda x: functions.mvn(x, scaled=False),),
}
BATCH = {
    "batch_norm": (functions.batch_norm,),
    "batch_norm, eps": (lambda x: functions.batch_norm(x, stored(), 0.1),),
    "batch_norm, weight": (lambda x, f: functions.batch_norm(x, None, 0.1, f), F),
    "batch_norm, weight, bias": (lambda x, f, b: functions.batch_norm(x, stored(), 0.1, f, b), F, B),
    "batch_norm, all, relu": (lambda x, f, b: functions.batch_norm(x, None, 0.1, f, b, True), F, B),
}
WHOLE = {
    "mvn across": (lambda x: functions.mvn(x, across=True, eps=0.2),),
    "lrn": (lambda x: functions.lrn(x, 3, 0.5),),
    "lrn, wide": (lambda x: functions.lrn(x, 15, 0.7, 0.5, 2.0),),
    "lrn, beta 1": (lambda x: functions.lrn(x, 5, 2.0, 1.0, 0.5),),
    "lrn of one": (lambda x: functions.lrn(x, 1, 0.5, 0.3),),
}
CASES = {f"{name}, {what}": (function, numbers(*shape), *more)
         for name, (function, *more) in {**BY_CHANNEL, **BATCH, **WHOLE}.items()
         for what, shape in SHAPES.items()
         # a deviation of next to nothing has no useful numerical gradient
         if not (name == "mvn, default eps" and what in ("matrix", "one place"))
         and not (name == "batch_norm" and what == "one record" and np.prod(shape[2:]) < 3)}
CASES |= {f"{name}, {which} kept, {what}": (
              lambda x, *more, function=function, kept=kept: function(functions.take(x, kept), *more),
              numbers(*SHAPES[what]), *more)
          for name, (function, *more) in {**BY_CHANNEL, **BATCH}.items() if name != "mvn, default eps"
          for which, kept in KEPT.items() for what in ("matrix", "images")}
CASES |= {f"{name}, groups, {what}": (
              lambda x, *more, function=function: function(functions.take(x, UNEVEN), *more),
              numbers(5, *SHAPES[what][1:]), *more)
          for name, (function, *more) in BY_CHANNEL.items() if name != "mvn, default eps"
          for what in ("matrix", "images")}
IMAGES = numbers(3, 4, 5, 2)
CASES |= {
    "affine, two axes": (lambda *xs: functions.affine(*xs, axis=2), IMAGES, numbers(5, 2), numbers(5, 2)),
    "affine, the samples": (lambda *xs: functions.affine(*xs, axis=0), IMAGES, numbers(3), numbers(3)),
    "affine, negative axis": (lambda *xs: functions.affine(*xs, axis=-1), IMAGES, numbers(2)),
    "affine, all axes": (lambda *xs: functions.affine(*xs, axis=0), IMAGES, numbers(3, 4, 5, 2)),
    "affine of a vector": (lambda *xs: functions.affine(*xs, axis=0), numbers(5), numbers(5)),
    "affine of a number": (lambda *xs: functions.affine(*xs, axis=0), numbers(), numbers(seed=1)),
    "affine, kept axis first of two": (
        lambda x, f, b: functions.affine(functions.take(x, Kept(0, 2, 1, 4)), f, b), IMAGES, numbers(4, 5),
        numbers(4, 5)),
    "affine, kept axis second of two": (
        lambda x, f: functions.affine(functions.take(x, Kept.of([1, 2], 4)), f, axis=0), IMAGES,
        numbers(3, 4)),
    "affine, kept axis not covered": (
        lambda x, f: functions.affine(functions.take(x, Kept(1, 2, 1, 4)), f, axis=2), IMAGES, numbers(5)),
    "affine, groups along with samples": (
        lambda x, f: functions.affine(functions.take(x, EVEN), f, axis=0), numbers(4, 6, 2), numbers(4, 6)),
    "affine, groups on no covered axis": (
        lambda x, f: functions.affine(functions.take(x, EVEN), f, axis=2), numbers(4, 6, 2), numbers(2)),
    "batch_norm of a vector": (functions.batch_norm, numbers(6)),
    "stored_norm of a vector": (lambda x: functions.stored_norm(x, stored(1)), numbers(6)),
    "stored_norm, kept samples": (
        lambda x: functions.stored_norm(functions.take(x, Kept(0, 2, 1, 4), 0), stored()),
        numbers(4, CHANNELS)),
    "mvn of a vector": (lambda x: functions.mvn(x, eps=0.2), numbers(6)),
    "mvn of equal places": (lambda x: functions.mvn(x, eps=0.5, scaled=False), np.ones((2, 3, 4))),
    "mvn across, kept samples": (
        lambda x: functions.mvn(functions.take(x, Kept(0, 2, 1, 4), 0), True, eps=0.1), numbers(4, 3, 2)),
    "lrn within": (lambda x: functions.lrn(x, 3, 0.5, axes=(2, 3)), IMAGES),
    "lrn within, kept": (
        lambda x: functions.lrn(functions.take(x, Kept(0, 2, 1, 4)), 5, 2.0, 0.6, axes=(2, 3)), IMAGES),
    "lrn within, groups": (
        lambda x: functions.lrn(functions.take(x, EVEN), 3, 0.5, axes=(2, 3)), numbers(4, 6, 3, 2)),
    "lrn, kept samples": (lambda x: functions.lrn(functions.take(x, Kept(0, 2, 1, 3), 0), 3), IMAGES),
}


# On kept sets matrices and images take turns.
ON_KEPT = [name for name in CASES if name.endswith((" kept, matrix", " kept, images"))]
CHOSEN = [name for name in CASES if name not in ON_KEPT[1::4] + ON_KEPT[2::4]]


@in_turn("name", CHOSEN)
def test_gradient(name):
    function, *arrays = CASES[name]
    check_gradients(function, *arrays)


@pytest.mark.full
@in_turn("name", [name for name in CASES if name not in CHOSEN])
def test_gradient_in_other_shapes(name):
    test_gradient.__wrapped__(name)


# -- kept sets -----------------------------------------------------------------------------------------------
@in_turn("kept", [*KEPT.values(), UNEVEN], ids=[*KEPT, "groups"])
@in_turn("name", BY_CHANNEL)
def test_what_is_kept_is_as_if_all_were(name, kept):
    function, *more = BY_CHANNEL[name]
    x, more = numbers(5, CHANNELS, 3), [Tensor(one) for one in more]
    dense, y = function(Tensor(x), *more), function(functions.take(Tensor(x), kept), *more)
    assert y.kept == kept and y.kept_axis == 1
    mask = kept.mask(5) if isinstance(kept, KeptByGroup) else kept.mask()[None]
    np.testing.assert_allclose(y.numpy(), dense.numpy() * mask[..., None], rtol=1e-12)


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_gradients_of_parameters_are_those_of_the_kept_entries_alone(kept):
    factor, bias, slope = (Parameter(numbers(CHANNELS, seed=i)) for i in range(3))
    x = functions.take(Tensor(numbers(5, CHANNELS, 3)), kept)
    y = functions.prelu(functions.affine(x, factor, bias, carry=True), slope)
    y.backward(np.ones((5, kept.count, 3)))
    for parameter in (factor, bias, slope):
        block, = parameter.blocks
        assert (block.rows, block.cols, block.data.shape) == (kept, None, (kept.count,))


@pytest.mark.parametrize("function, why", [
    (functions.lrn, "LRN adds up neighbours from axis 1 on, but its input carries {} on axis 1"),
    (lambda x: functions.lrn(x, axes=(1, 2)), "LRN adds up neighbours from axis 1 on, but its input carries "
     "{} on axis 1"),
    (lambda x: functions.mvn(x, across=True), "MVN takes its means over the axes from 1 on, but its input "
     "carries {} on axis 1"),
])
def test_what_needs_every_channel_says_so(function, why):
    kept = KEPT["regular"]
    x = functions.take(Tensor(numbers(4, CHANNELS, 3)), kept)
    message = f"{why.format(kept)}; call functions.expand on it first"
    with pytest.raises(KeptError, match=f"^{re.escape(message)}$"):
        function(x)


def test_a_batch_norm_of_groups_says_that_it_mixes_samples():
    x = functions.take(Tensor(numbers(6, CHANNELS)), UNEVEN)
    with pytest.raises(KeptError, match="^BatchNorm takes its means over all samples, but they keep other "
                       "channels each: KeptByGroup.*; call functions.expand on it first$"):
        functions.batch_norm(x)


def test_batch_norm_of_a_kept_set_on_another_axis():
    with pytest.raises(KeptError, match="^BatchNorm takes its means over all other axes, but its input "
                       "carries Kept.* on axis 2; call functions.expand on it first$"):
        functions.batch_norm(functions.take(Tensor(numbers(3, 2, CHANNELS)), KEPT["regular"], 2))


def test_a_function_given_groups_itself_refuses_them():
    x = functions.take(Tensor(numbers(6, CHANNELS)), UNEVEN)
    with pytest.raises(KeptError, match="^parameters along axes 1 to 1 need one kept set for all samples, "
                       "got KeptByGroup"):
        Affine(1, True).apply(x, Tensor(F))


def test_a_factor_has_to_be_whole():
    with pytest.raises(KeptError, match="^affine needs all of factor and bias; call functions.expand "):
        functions.affine(Tensor(numbers(3, CHANNELS)), functions.take(Tensor(F), KEPT["regular"], 0))


@pytest.mark.parametrize("work, message", [
    (lambda x: functions.affine(x, Tensor(numbers(3))),
     "parameters of shape (3,) from axis 1 on do not fit x, which has (7,) there"),
    (lambda x: functions.affine(functions.take(x, KEPT["list"]), Tensor(numbers(3))),
     "parameters of shape (3,) from axis 1 on do not fit x, which has (7,) there"),
    (lambda x: functions.affine(x, Tensor(F), Tensor(numbers(1))),
     "affine: factor and bias of one shape expected, got (7,), (1,)"),
    (lambda x: functions.prelu(x, Tensor(numbers(4))),
     "parameters of shape (4,) from axis 1 on do not fit x, which has (7,) there"),
    (lambda x: functions.batch_norm(x, stored(3)),
     "batch_norm: statistics of 7 channels expected, got shape (3,)"),
    (lambda x: functions.stored_norm(x, stored(3)),
     "parameters of shape (3,) from axis 1 on do not fit x, which has (7,) there"),
])
def test_shapes_that_do_not_fit(work, message):
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        work(Tensor(numbers(2, CHANNELS, 2)))


def test_an_affine_of_nothing_is_its_input():
    x = Tensor(numbers(2, 3))
    assert functions.affine(x) is x


# -- statistics ----------------------------------------------------------------------------------------------
def no_statistics(dtype=np.float64):
    return Stored(*(np.zeros(n, dtype) for n in (CHANNELS, CHANNELS, 1)), 0.9)


def test_statistics_are_decayed_sums():
    own, batches = no_statistics(), [numbers(4, CHANNELS, 3, seed=seed) for seed in range(3)]
    for x in batches:
        functions.batch_norm(Tensor(x), own)
    share = np.array([0.81, 0.9, 1])
    means = np.array([x.mean(axis=(0, 2)) for x in batches])
    variances = np.array([x.var(axis=(0, 2), ddof=1) for x in batches])
    np.testing.assert_allclose(own.weight, [2.71])
    np.testing.assert_allclose(own.means, share @ means)
    np.testing.assert_allclose(own.variances, share @ variances)
    mean, variance = own.read(get_backend("cpu"))
    np.testing.assert_allclose(mean, share @ means / 2.71)
    np.testing.assert_allclose(variance, share @ variances / 2.71)


def test_without_any_batch_they_are_zero():
    own = Stored(np.ones(CHANNELS), np.ones(CHANNELS), np.zeros(1))
    mean, variance = own.read(get_backend("cpu"))
    assert not mean.any() and not variance.any()
    x = numbers(2, CHANNELS)
    np.testing.assert_allclose(functions.stored_norm(Tensor(x), own, 0.25).numpy(), 2 * x)


def test_of_a_single_number_a_channel_the_variance_is_stored_as_it_is():
    own = no_statistics()
    functions.batch_norm(Tensor(numbers(1, CHANNELS)), own)
    np.testing.assert_allclose(own.means, numbers(1, CHANNELS)[0])
    assert not own.variances.any()


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_statistics_of_dropped_channels_stay_as_they_are(kept):
    """The mean and the variance do; their sums grow with the weight."""
    own, dense = no_statistics(), no_statistics()
    first, second = (Tensor(numbers(4, CHANNELS, 3, seed=seed)) for seed in range(2))
    functions.batch_norm(first, own)
    before = own.read(get_backend("cpu"))
    functions.batch_norm(functions.take(second, kept), own)
    for x in (first, second):
        functions.batch_norm(x, dense)
    for now, old, all_of_it in zip(own.read(get_backend("cpu")), before, dense.read(get_backend("cpu")),
                                   strict=True):
        np.testing.assert_allclose(now, np.where(kept.mask(), all_of_it, old))
    assert own.weight == dense.weight


def test_a_channel_that_is_kept_for_the_first_time_late_has_the_statistics_of_that_batch():
    own = no_statistics()
    for kept, seed in ((Kept.of([0, 1], CHANNELS), 0), (Kept.of([1, 2], CHANNELS), 1)):
        functions.batch_norm(functions.take(Tensor(numbers(4, CHANNELS, seed=seed)), kept), own)
    mean, variance = own.read(get_backend("cpu"))
    first, second = (numbers(4, CHANNELS, seed=seed) for seed in range(2))
    expected = [first[:, 0].mean(), (0.9 * first[:, 1] + second[:, 1]).mean() / 1.9, second[:, 2].mean()]
    np.testing.assert_allclose(mean[:3], expected)
    np.testing.assert_allclose(variance[2], second[:, 2].var(ddof=1))
    assert not mean[3:].any() and not variance[3:].any()


@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 7, 9), (2, 3, 100, 50)])
def test_the_variance_of_far_numbers_is_that_of_near_ones(shape):
    """In float32, with a mean of ten thousand deviations."""
    x = (np.random.default_rng(0).standard_normal(shape) + 1e4).astype(np.float32)
    y = functions.batch_norm(Tensor(x), eps=0).numpy()
    axes = (0, *range(2, len(shape)))
    expected = x.astype(float) - x.mean(axis=axes, keepdims=True, dtype=float)
    expected /= expected.std(axis=axes, keepdims=True)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_an_empty_batch_says_nothing_of_the_statistics():
    stored = Stored(np.full(3, 2.0), np.full(3, 4.0), np.ones(1))
    functions.batch_norm(Tensor(np.zeros((0, 3, 2, 2))), stored)
    assert (stored.means == 2).all() and (stored.variances == 4).all() and stored.weight == 1


def test_a_constant_channel_is_no_new_one():
    """Its variance is 0, but its mean has been stored: a batch is added to it, not put in its place."""
    stored, kept = Stored(*(np.zeros(n) for n in (2, 2, 1)), 0.9), Kept.of([0], 2)
    for value in (4.0, 1.0):
        functions.batch_norm(functions.take(Tensor(np.full((3, 2, 2), value)), kept, 1), stored)
    mean, variance = stored.read(get_backend("cpu"))
    assert mean[0] == pytest.approx((0.9 * 4 + 1) / 1.9) and variance[0] == mean[1] == 0


def test_a_channel_that_had_no_batch_takes_the_statistics_of_its_first_one():
    """Also where that one keeps every channel. A channel that has been zeros all along is not one of them."""
    both, seen = Kept.of([0, 1], 3), np.array([[0.0, 1.0, 5.0], [0.0, 3.0, 7.0]])
    stored = Stored(*(np.zeros(n) for n in (3, 3, 1)), 0.9)
    functions.batch_norm(functions.take(Tensor(seen), both, 1), stored)
    functions.batch_norm(functions.take(Tensor(seen), both, 1), stored)
    functions.batch_norm(Tensor(np.array([[3.0, 1.0, 5.0], [2.0, 3.0, 7.0]])), stored)
    mean, variance = stored.read(get_backend("cpu"))
    np.testing.assert_allclose(mean, [2.5 / 2.71, 2, 6], rtol=1e-12)
    np.testing.assert_allclose(variance, [0.5 / 2.71, 2, 2], rtol=1e-12)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("shape", [(4, CHANNELS), (3, CHANNELS, 5, 7), (2, CHANNELS, 300)])
def test_batch_norm_with_its_scale_is_both_after_each_other(shape, dtype, bound):
    found, gy = [], numbers(*shape, seed=8).astype(dtype)
    for fused in (True, False):
        x, weight, bias = (Tensor(value.astype(dtype), True) for value in (numbers(*shape), F, B))
        own = stored()
        y = (functions.batch_norm(x, own, 0.1, weight, bias, True) if fused else
             functions.relu(functions.affine(functions.batch_norm(x, own, 0.1), weight, bias)))
        y.backward(gy)
        found.append([y.data, own.means, own.variances, x.grad, weight.grad, bias.grad])
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_a_bias_of_a_batch_norm_comes_with_a_weight():
    x = Tensor(numbers(3, CHANNELS))
    with pytest.raises(ShapeError, match="batch_norm: a bias, relu and a scale come with a weight, got"):
        functions.batch_norm(x, bias=Tensor(B))
    with pytest.raises(ShapeError, match=r"batch_norm: expected weight of shape \(7,\), got \(3,\)"):
        functions.batch_norm(x, weight=Tensor(numbers(3)))
