"""Functions of Caffe's layers: gradients against central differences, kept sets, values at their edges."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, Tensor, check_gradients, functions
from minidrop.errors import DataError, KeptError, ShapeError

TOTAL = 7
KEPT = {"regular": Kept(1, 3, 1, TOTAL), "list": Kept.of([0, 1, 5], TOTAL), "empty": Kept(9, 9, 2, TOTAL),
        "all": Kept.all(TOTAL), "wrapped": Kept(-1, 4, 2, TOTAL)}


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    """Random numbers no nearer than 0.05 to 0, where |x| has its kink."""
    x = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return np.where(abs(x) < 0.05, 0.05, x)


def probabilities(*shape):
    p = numbers(*shape, low=0.1, high=1)
    return p / p.sum(axis=1, keepdims=True)


def labels(*shape, classes=5):
    return np.random.default_rng(1).integers(0, classes, shape)


ELEMENTWISE = {
    "absval": functions.absval,
    "bnll": lambda x: functions.bnll(x, carry=True),
    "clip": lambda x: functions.clip(x, -0.6, 1.1),
    "elu": functions.elu,
    "elu of another alpha": lambda x: functions.elu(x, -0.3),
    "exp": lambda x: functions.exp(x, carry=True),
    "exp to a base": lambda x: functions.exp(x, 2.0, -0.5, 0.7, carry=True),
    "log": lambda x: functions.log(x, shift=3.0, carry=True),
    "log to a base": lambda x: functions.log(x, 10.0, -0.3, 1.0),
    "swish": functions.swish,
    "swish of another beta": lambda x: functions.swish(x, -2.5),
}
X = numbers(4, TOTAL)


@in_turn("name", ELEMENTWISE)
@in_turn("x", [X, numbers(1, TOTAL), numbers(2, TOTAL, 3), numbers(0, TOTAL)], ids=str)
def test_gradient_of_elementwise_functions(name, x):
    check_gradients(ELEMENTWISE[name], x)


@in_turn("which", KEPT)
@in_turn("name", ELEMENTWISE)
def test_gradient_of_elementwise_functions_of_kept_entries(name, which):
    def function(x):
        y = ELEMENTWISE[name](functions.take(x, KEPT[which]))
        assert y.kept == KEPT[which] and y.kept_axis == 1
        return y
    check_gradients(function, X)


@in_turn("name", ELEMENTWISE)
def test_a_single_number_stays_one(name):
    check_gradients(ELEMENTWISE[name], np.array(0.7))


A, B = numbers(3, 4, seed=1), numbers(3, 4, seed=2)
IMAGES = numbers(2, 3, 4, 5)
H = numbers(5, 5, low=0.1)
CASES = {
    "crop": (lambda x: functions.crop(x, 2, [1, 2], [2, 3]), IMAGES),
    "crop of one axis": (lambda x: functions.crop(x, -1, [0], [5]), IMAGES),
    "crop of all axes": (lambda x: functions.crop(x, 0, [1, 0, 3, 2], [1, 2, 1, 3]), IMAGES),
    "tile": (lambda x: functions.tile(x, 3), IMAGES),
    "tile axis 0": (lambda x: functions.tile(x, 2, 0), A),
    "tile the last axis": (lambda x: functions.tile(x, 2, -1), IMAGES),
    "tile once": (lambda x: functions.tile(x, 1), A),
    "batch_reindex": (functions.batch_reindex, IMAGES, np.array([1, 0, 1, 1])),
    "batch_reindex of a vector": (functions.batch_reindex, numbers(5), np.array([4.0, 4.0, 0.0]).astype(int)),
    "batch_reindex to nothing": (functions.batch_reindex, A, np.array([], int)),
    "filter_records": (lambda a, b: functions.filter_records((a, b), Tensor(np.array([1, 0, -2]))), A,
                       numbers(3, 2, 2)),
    "filter_records, none left": (lambda a: functions.filter_records((a,), Tensor(np.zeros((3, 1)))), A),
    "hinge_loss": (functions.hinge_loss, numbers(3, 5), labels(3)),
    "hinge_loss, squared, of images": (lambda x, label: functions.hinge_loss(x, label, squared=True),
                                       numbers(3, 5, 2), labels(3, 1, classes=10)),
    "multinomial_logistic_loss": (functions.multinomial_logistic_loss, probabilities(3, 5), labels(3)),
    "multinomial_logistic_loss of one": (functions.multinomial_logistic_loss, probabilities(1, 2, 3),
                                         labels(1, classes=6)),
    "contrastive_loss, legacy": (lambda a, b, y: functions.contrastive_loss(a, b, y, 9.0, legacy=True), A, B,
                                 np.array([0, 1, 0])),
}
for _operation in ("SUM", "ASUM", "SUMSQ", "MEAN"):
    for _axis in (0, 1, -1):
        CASES[f"reduction {_operation}, axis {_axis}"] = (
            lambda x, o=_operation, a=_axis: functions.reduction(x, o, a, -0.7), IMAGES)
for _normalization in ("VALID", "FULL", "BATCH_SIZE", "NONE"):
    for _ignore in (None, 2):
        CASES[f"infogain_loss {_normalization}, ignoring {_ignore}"] = (
            lambda x, label, i=_ignore, n=_normalization: functions.infogain_loss(x, label, H, 1, i, n),
            numbers(3, 5, 2), labels(3, 2))
CASES["infogain_loss, last axis"] = (lambda x, label: functions.infogain_loss(x, label, H, -1),
                                     numbers(2, 3, 5), labels(2, 3))


@in_turn("name", CASES)
def test_gradient(name):
    function, *arrays = CASES[name]
    check_gradients(function, *arrays)


def test_gradient_of_the_contrastive_loss():
    """Up to Caffe's 0.0001 beside the distance."""
    check_gradients(lambda a, b, y: functions.contrastive_loss(a, b, y, 4.0), A, B, np.array([0, 1, 0]),
                    rtol=1e-3)


@in_turn("kept", KEPT.values(), ids=KEPT)
@in_turn("function", [
    lambda x: functions.crop(x, 2, [1, 0], [2, 2]), lambda x: functions.tile(x, 2, 2),
    lambda x: functions.tile(x, 2, -1), lambda x: functions.reduction(x, "SUMSQ", 2),
    lambda x: functions.reduction(x, "MEAN", -1)])
def test_kept_sets_of_axes_before_are_passed_on(function, kept):
    x = numbers(2, TOTAL, 3, 2)
    y = function(functions.take(Tensor(x), kept))
    assert y.kept == kept and y.kept_axis == 1
    dense = function(Tensor(x * kept.mask(float)[:, None, None]))
    np.testing.assert_allclose(y.numpy(), dense.numpy(), atol=1e-12)
    check_gradients(lambda x: function(functions.take(x, kept)), x)


@pytest.mark.parametrize("function", [
    lambda x: functions.crop(x, 1, [1], [2]), lambda x: functions.tile(x, 2, 1),
    lambda x: functions.tile(x, 2, 0), lambda x: functions.reduction(x, "SUM", 1)])
def test_kept_sets_of_other_axes_are_refused(function):
    with pytest.raises(KeptError, match="needs every entry of axis 1, which carries .*; call functions"):
        function(functions.take(Tensor(X), KEPT["regular"]))


# -- values --------------------------------------------------------------------------------------------------
FAR = np.array([-1e4, -60.0, -1.0, 0.0, 1.0, 60.0, 1e4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_from_zero_nothing_overflows(dtype):
    x = FAR.astype(dtype)
    far = FAR[1:-1]
    for function, expected in (
            (functions.bnll, np.log1p(np.exp(far))), (functions.elu, np.where(far > 0, far, np.expm1(far))),
            (functions.swish, far / (1 + np.exp(-far)))):
        tensor = Tensor(x, requires_grad=True)
        y = function(tensor)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.numpy()[1:-1], expected, rtol=1e-5, atol=1e-12)
        y.backward(np.ones_like(x))
        assert tensor.grad.dtype == dtype and np.isfinite(tensor.grad).all()
        assert tensor.grad[-1] == 1 and tensor.grad[0] == 0


def test_derivatives_at_the_edges():
    x = Tensor(np.array([-1.0, 0.0, 2.0]), requires_grad=True)
    functions.clip(x, -1, 2).backward(np.ones(3))
    assert x.grad.tolist() == [1, 1, 1]          # the bounds belong to the range
    x.clear_grad()
    functions.absval(x).backward(np.ones(3))
    assert x.grad.tolist() == [-1, 0, 1]
    x.clear_grad()
    functions.elu(x, 0.5).backward(np.ones(3))
    np.testing.assert_allclose(x.grad, [0.5 * np.exp(-1), 0.5, 1])


def test_threshold_has_no_gradient():
    x = Tensor(np.array([[-1.0, 0.5, 0.6]], np.float32), requires_grad=True)
    y = functions.threshold(x, 0.5)
    assert y.numpy().tolist() == [[0, 0, 1]] and y.dtype == np.float32 and not y.requires_grad
    kept = functions.threshold(functions.take(x, Kept.of([0, 2], 3)), 0.5)
    assert kept.kept == Kept.of([0, 2], 3) and kept.numpy().tolist() == [[0, 0, 1]]


def in_caffes_order(row, top_k):
    """Pairs (value, index) in descending order, as std::greater sorts them."""
    return sorted(((value, i) for i, value in enumerate(row)), reverse=True)[:top_k]


@in_turn("top_k", [1, 2, 5])
@in_turn("axis", [None, 0, 1, -1])
def test_argmax_orders_ties_as_caffe(axis, top_k):
    x = np.random.default_rng(3).integers(0, 3, (5, 6, 5)).astype(np.float64)        # many ties
    rows = x.reshape(5, -1) if axis is None else np.moveaxis(x, axis, -1)
    found = [in_caffes_order(row, top_k) for row in rows.reshape(-1, rows.shape[-1])]
    values, places = (np.array([[pair[i] for pair in row] for row in found]).reshape(*rows.shape[:-1], top_k)
                      for i in (0, 1))
    if axis is None:
        expected = places[:, None], np.stack([places, values], 1)
    else:
        expected = np.moveaxis(places, -1, axis), np.moveaxis(values, -1, axis)
    for out_max_val in (False, True):
        y = functions.argmax(Tensor(x, requires_grad=True), top_k, axis, out_max_val)
        np.testing.assert_array_equal(y.numpy(), expected[out_max_val])
        assert y.dtype == x.dtype and not y.requires_grad


@pytest.mark.parametrize("shape, expected", [
    ((4,), (4, 1, 1)), ((4, 3), (4, 1, 1)), ((4, 3, 2, 2), (4, 1, 1, 1)), ((2, 3, 1, 1, 2), (2, 1, 1, 1, 1)),
    ((0, 3), (0, 1, 1))])
def test_argmax_of_records_has_at_least_three_axes(shape, expected):
    assert functions.argmax(Tensor(numbers(*shape))).shape == expected
    with_values = functions.argmax(Tensor(numbers(*shape)), out_max_val=True)
    assert with_values.shape == (expected[0], 2, *expected[2:])


def test_the_least_probabilities():
    """Smaller ones count as 1e-20, in float32 too."""
    p = Tensor(np.array([[0, 1], [1, 0]], np.float32), requires_grad=True)
    loss = functions.multinomial_logistic_loss(p, np.array([0, 0]))
    loss.backward()
    assert float(loss) == pytest.approx(-np.log(1e-20) / 2) and loss.dtype == np.float32
    np.testing.assert_allclose(p.grad, [[-0.5e20, 0], [-0.5, 0]], rtol=1e-6)
    x = Tensor(np.array([[0, 1000]], np.float32), requires_grad=True)
    loss = functions.infogain_loss(x, np.array([0]), np.eye(2, dtype=np.float32))
    loss.backward()
    assert float(loss) == pytest.approx(-np.log(1e-20))
    np.testing.assert_allclose(x.grad, [[-1, 1]])


def test_equal_vectors_of_a_dissimilar_pair_have_a_finite_gradient():
    a = Tensor(np.ones((1, 3)), requires_grad=True)
    loss = functions.contrastive_loss(a, np.ones((1, 3)), np.array([0]), 2.0)
    loss.backward()
    assert float(loss) == 2 and (a.grad == 0).all()


# -- errors --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call, place", [
    (lambda: functions.hinge_loss(Tensor(A), np.array([0, 4, 1])), 1),
    (lambda: functions.hinge_loss(Tensor(A), np.array([0.5, 3, 1])), 0),
    (lambda: functions.multinomial_logistic_loss(Tensor(A), np.array([0, 3, -1])), 2),
    (lambda: functions.infogain_loss(Tensor(A), np.array([0, np.nan, 1]), np.eye(4)), 1),
    (lambda: functions.contrastive_loss(Tensor(A), A, np.array([0, 1, 2])), 2),
    (lambda: functions.batch_reindex(Tensor(A), np.array([0, 3])), 1),
])
def test_labels_and_indices_out_of_range(call, place):
    with pytest.raises(DataError, match=f" at place {place} of the batch is out of range: expected a whole "
                                        f"number of 0") as caught:
        call()
    assert caught.value.place == place


@pytest.mark.parametrize("call, message", [
    (lambda x: functions.crop(x, 1, [2], [3]), r"crop: lengths \(3,\) from offsets \(2,\) on do not fit"),
    (lambda x: functions.crop(x, 0, [0], [3]), r"do not fit into shape \(3, 4\) from axis 0 on"),
    (lambda x: functions.reduction(functions.crop(x, 1, [0], [0]), "MEAN", 1), "no entries from axis 1 on"),
    (lambda x: functions.batch_reindex(x, np.zeros((2, 1), int)), "a vector of indices, got arrays of"),
    (lambda x: functions.filter_records([x], Tensor(np.ones(2))), r"a selector of shape \(2,\) does not fit"),
    (lambda x: functions.hinge_loss(x, np.zeros(4, int)), "expected 3 labels"),
    (lambda x: functions.infogain_loss(x, np.zeros(3, int), np.eye(3)), "matrix of 4 x 4 entries"),
    (lambda x: functions.contrastive_loss(x, A[:2], np.zeros(3, int)), "as many values and 3 labels"),
    (lambda x: functions.argmax(Tensor(np.float64(3))), "with a batch axis, got a single number"),
])
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ShapeError, match=message):
        call(Tensor(A))
