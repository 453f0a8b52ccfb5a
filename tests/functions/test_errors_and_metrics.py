"""Label checks, shape checks, accuracy against a plain count, and what Bernoulli dropout does."""

import numpy as np
import pytest
from cases import in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop import DataError, Kept, ShapeError, Tensor, functions

SCORES = np.zeros((4, 3))


@pytest.mark.parametrize("function", [functions.softmax_cross_entropy, functions.accuracy])
class TestLabels:
    @in_turn("label, value, place", [
        ([0, 1, 3, 2], "3", 2), ([-1, 1, 2, 2], "-1", 0), ([0, 1, 2, 0.5], "0.5", 3),
        ([0, np.nan, 2, 9], "nan", 1), ([0, 1, 2, np.inf], "inf", 3), ([0, 1e300, 2, 2], "1e+300", 1),
        ([0, 2**62, 2, 2], "4.61169e+18", 1),
    ])
    def test_out_of_range(self, function, label, value, place):
        with pytest.raises(DataError) as caught:
            function(Tensor(SCORES), Tensor(np.array(label)))
        assert str(caught.value) == (f"label {value} at place {place} of the batch is out of range: expected "
                                     f"a whole number of 0..2 (the scores have 3 classes)")
        assert caught.value.place == place

    def test_the_place_counts_over_all_axes(self, function):
        label = np.zeros((2, 2, 2), int)
        label[1, 0, 1] = 5
        with pytest.raises(DataError, match="^label 5 at place 5 of the batch"):
            function(Tensor(np.zeros((2, 3, 2, 2))), Tensor(label))

    def test_an_ignored_label_may_lie_outside(self, function):
        function(Tensor(SCORES), Tensor(np.array([0, 255, 1, 2])), ignore_label=255)
        with pytest.raises(DataError, match="^label 254 at place 2"):
            function(Tensor(SCORES), Tensor(np.array([0, 255, 254, 2])), ignore_label=255)

    @pytest.mark.parametrize("shape", [(3,), (4, 2), ()])
    def test_wrong_number(self, function, shape):
        with pytest.raises(ShapeError) as caught:
            function(Tensor(SCORES), Tensor(np.zeros(shape)))
        assert (str(caught.value) == f"expected 4 labels, one for every row of scores, got an array of shape "
                f"{shape}")


@pytest.mark.parametrize("value, ignore", [(-0.5, None), (1.5, None), (np.nan, None), (np.inf, 2), (-1, 2)])
def test_a_target_of_the_sigmoid_loss_is_a_probability(value, ignore):
    target = np.array([[0, 1, 0.3], [1, value, 0]])
    with pytest.raises(DataError) as caught:
        functions.sigmoid_cross_entropy(Tensor(SCORES[:2]), Tensor(target), ignore)
    assert str(caught.value) == (f"target {value:g} at place 4 of the batch is out of range: expected a "
                                 f"number of 0..1, or the ignore_label")
    assert caught.value.place == 4
    if np.isfinite(value):
        functions.sigmoid_cross_entropy(Tensor(SCORES[:2]), Tensor(target), value)


@in_turn("call, message", [
    (lambda x: functions.weighted_sum([x, Tensor(np.zeros(3))]),
     "sum: tensors of one shape expected, got (4, 3), (3,)"),
    (lambda x: functions.product([x, Tensor(2.0)]), "product: tensors of one shape expected, got (4, 3), ()"),
    (lambda x: functions.maximum([x, Tensor(np.zeros((4, 1)))]), "maximum: tensors of one shape expected, "
     "got (4, 3), (4, 1)"),
    (lambda x: functions.linear(x, Tensor(np.zeros((2, 5)))), "linear: x has 3 features, but W of shape (2, "
     "5) expects 5"),
    (lambda x: functions.linear(x, Tensor(np.zeros((2, 5))), transpose=True),
     "linear: x has 3 features, but W of shape (2, 5) expects 2"),
    (lambda x: functions.linear(x, Tensor(np.zeros((2, 3))), outputs=Kept(0, 2, 1, 3)),
     "linear: Kept(2 of 3: 1 of every 2 from 0) does not fit W of shape (2, 3), which has 2 outputs"),
    (lambda x: functions.linear(functions.take(x, Kept(0, 2, 1, 4), 0), Tensor(np.zeros((2, 3)))),
     "linear: x of shape (2, 3) carries a kept set on axis 0; only the last axis can"),
    (lambda x: functions.take(x, Kept(0, 2, 1, 9)),
     "take: Kept(5 of 9: 1 of every 2 from 0) does not fit axis 1 of shape (4, 3)"),
    (lambda x: functions.euclidean_loss(x, Tensor(np.zeros((4, 2)))), "euclidean loss: shapes (4, 3) and (4, "
     "2) differ"),
    (lambda x: functions.sigmoid_cross_entropy(x, Tensor(np.zeros(4))),
     "sigmoid cross-entropy: shapes (4, 3) and (4,) differ"),
    (lambda x: functions.softmax(functions.take(x, Kept(0, 2, 1, 3))),
     "Softmax needs every unit of its input, which carries Kept(2 of 3: 1 of every 2 from 0); "
     "call functions.expand on it first"),
])
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ShapeError) as caught:
        call(Tensor(SCORES))
    assert str(caught.value) == message


def plain_accuracy(scores, labels, top_k, ignore_label):
    """Count by sorting: among equal scores the label comes last; a row with a NaN is wrong."""
    right, count = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        if label == ignore_label:
            continue
        best = sorted(range(len(row)), key=lambda c, label=label, row=row: (-row[c], c == label))[:top_k]
        count[label] += 1
        right[label] += label in best and not any(np.isnan(row))
    return right.sum() / max(1, count.sum()), right / np.maximum(count, 1)


@given(st.data(), st.sampled_from([None, 0, 2, 77]), st.sampled_from([1, 2, 5]))
@settings(max_examples=100, deadline=None)
def test_accuracy(data, ignore_label, top_k):
    """Few different scores, so that ties are common, and NaN among them."""
    score = st.sampled_from([0.0, -0.0, 1.0, -2.0, 3.5, np.inf, -np.inf, np.nan])
    scores = np.array(data.draw(st.lists(st.lists(score, min_size=5, max_size=5), min_size=1, max_size=8)))
    some_label = st.sampled_from([0, 1, 2, 3, 4] + ([77] if ignore_label == 77 else []))
    label = np.array(data.draw(st.lists(some_label, min_size=len(scores), max_size=len(scores))))
    share, by_class = plain_accuracy(scores, label, top_k, ignore_label)
    got, got_by_class = functions.accuracy(Tensor(scores), Tensor(label), top_k, 1, ignore_label,
                                           per_class=True)
    assert float(got) == pytest.approx(share, abs=1e-12)
    np.testing.assert_allclose(got_by_class.numpy(), by_class, atol=1e-12)
    assert float(functions.accuracy(Tensor(scores), Tensor(label), top_k, 1, ignore_label)) == float(got)


@pytest.mark.parametrize("top_k, expected", [(1, 0), (2, 0), (3, 1)])
def test_one_score_for_all_classes_is_no_prediction(top_k, expected):
    assert float(functions.accuracy(Tensor(SCORES), Tensor([0, 1, 2, 0]), top_k)) == expected


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_accuracy_along_any_axis(backend, dtype, rng, axis):
    scores, label = rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    x = np.moveaxis(scores.reshape(2, 3, 5), -1, axis).astype(dtype)
    got = functions.accuracy(Tensor(backend.asarray(x)), Tensor(backend.asarray(label.reshape(2, 3))), 2,
                             axis)
    assert got.dtype == dtype and got.shape == () and not got.requires_grad
    assert float(got) == pytest.approx(plain_accuracy(scores, label, 2, None)[0], rel=1e-6)


def test_accuracy_sees_dropped_units_as_zero():
    x = Tensor(np.array([[-1.0, 5.0, -3.0], [2.0, 5.0, -3.0]]))
    assert float(functions.accuracy(functions.take(x, Kept(0, 2, 1, 3)), Tensor([1, 0]))) == 1


def test_a_loss_of_impossible_scores_is_finite(dtype):
    x = Tensor(np.array([[0, 1e4, -1e4]], dtype))
    loss = float(functions.softmax_cross_entropy(x, Tensor([2])))
    assert loss == pytest.approx(-np.log(np.finfo(dtype).tiny), rel=1e-5)


def test_what_a_loss_is_divided_by(rng):
    """BATCH_SIZE counts the outer axes, all before that of the classes, as Caffe's outer_num does."""
    x, label = Tensor(rng.standard_normal((2, 5, 3, 4))), Tensor(rng.integers(3, size=(2, 5, 4)))
    label.data[0, 0, 0] = 9
    loss = {mode: float(functions.softmax_cross_entropy(x, label, 2, 9, mode))
            for mode in ("NONE", "FULL", "VALID", "BATCH_SIZE")}
    for mode, count in (("FULL", 40), ("VALID", 39), ("BATCH_SIZE", 10)):
        assert loss[mode] == pytest.approx(loss["NONE"] / count)


class TestDropout:
    def test_kept_ones_are_scaled_and_the_rest_is_zero(self, backend, dtype):
        x = backend.asarray(np.ones((400, 50), dtype))
        y = functions.dropout(Tensor(x), 0.3, key=5).numpy()
        assert set(np.unique(y)) == {0, np.dtype(dtype).type(1 / 0.7)}
        assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.21 / y.size)
        assert abs(y.mean() - 1) < 0.02

    def test_the_key_says_everything(self):
        x = Tensor(np.ones((40, 50)))
        first, again, other = (functions.dropout(x, 0.5, key).numpy() for key in (5, 5, 6))
        assert (first == again).all() and 0.4 < (first == other).mean() < 0.6

    def test_units_are_independent(self):
        """Neighbours agree no more often than chance has it."""
        kept = functions.dropout(Tensor(np.ones((1000, 100))), 0.5, key=11).numpy() > 0
        for agree in (kept[:, 1:] == kept[:, :-1], kept[1:] == kept[:-1]):
            assert abs(agree.mean() - 0.5) < 5 * 0.5 / np.sqrt(agree.size)

    def test_scale_may_be_given(self):
        assert set(np.unique(functions.dropout(Tensor(np.ones(100)), 0.5, 1, scale=1.0).numpy())) == {0, 1}
