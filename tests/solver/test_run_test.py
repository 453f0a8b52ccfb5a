"""run_test: what the mean over batches is."""

import numpy as np
import pytest

import minidrop as md
from minidrop import layers
from minidrop.config import parse_net
from minidrop.errors import DataError
from minidrop.solver import run_test

BATCHES, PLACES, CLASSES = 3, 4, 5
NET = """
  layer { name: "data" type: "MemoryData" top: "x" top: "label"
          memory_data_param { batch_size: 4 channels: 5 height: 1 width: 1 } }
  layer { name: "flat" type: "Flatten" bottom: "x" top: "scores" }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" %(loss)s }
  layer { name: "accuracy" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy" %(accuracy)s }
  layer { name: "perplexity" type: "Perplexity" bottom: "scores" bottom: "label" top: "perplexity" %(loss)s }
"""
IGNORING = {"loss": "loss_param { ignore_label: -1 }", "accuracy": "accuracy_param { ignore_label: -1 }"}


def values_of(labels, scores, settings=None):
    net = md.Net(parse_net(NET % (settings or dict.fromkeys(IGNORING, ""))), "TEST", "cpu", "float64")
    net.set_input_arrays(scores.reshape(len(scores), CLASSES, 1, 1), labels)
    return run_test(net, BATCHES)


@pytest.fixture
def data(rng):
    return rng.integers(0, CLASSES, BATCHES * PLACES), rng.standard_normal((BATCHES * PLACES, CLASSES)) * 3


def log_likelihood(labels, scores):
    return scores[np.arange(len(labels)), labels] - np.log(np.exp(scores).sum(axis=1))


def test_perplexity_is_that_of_all_places(data):
    values = values_of(*data)
    expected = np.exp(-log_likelihood(*data).mean())
    assert values["perplexity"] == pytest.approx(expected, rel=1e-12)
    assert values["loss"] == values["total_loss"] == pytest.approx(np.log(expected), rel=1e-12)
    assert values["accuracy"] == pytest.approx((data[1].argmax(axis=1) == data[0]).mean())


def test_places_that_do_not_count_weigh_nothing(data):
    """Batches of 4, 1 and 0 valid places: five places, each with the same weight in every mean."""
    labels, scores = data
    labels[5:] = -1
    values = values_of(labels, scores, IGNORING)
    likelihood = log_likelihood(labels[:5], scores[:5])
    assert values["perplexity"] == pytest.approx(np.exp(-likelihood.mean()), rel=1e-12)
    assert values["loss"] == values["total_loss"] == pytest.approx(-likelihood.mean(), rel=1e-12)
    assert values["accuracy"] == pytest.approx((scores[:5].argmax(axis=1) == labels[:5]).mean(), rel=1e-12)


@pytest.mark.parametrize("ignoring", [False, True])
def test_the_accuracy_of_a_class_is_that_of_all_its_places(ignoring, data, monkeypatch):
    """Not the mean of what it is in each batch, in which a class may be rare or missing."""
    labels, scores = data
    labels[:] = [0, 0, 0, 1, 0, 1, 1, 2, 2, 2, 2, 3]        # and no 4
    scores[np.arange(12), labels] += np.array([1, -1, 1, 1, -1, 1, -1, 1, 1, -1, 1, 1]) * 99
    if ignoring:
        labels[[0, 3, 11]] = -1         # of classes 0, 1 and 3
    monkeypatch.setitem(globals(), "NET", NET.replace('top: "accuracy"', 'top: "accuracy" top: "each"'))
    values = values_of(labels, scores, IGNORING if ignoring else None)
    right, counted = ([1, 1, 3, 0, 0], [3, 2, 4, 0, 0]) if ignoring else ([2, 2, 3, 1, 0], [4, 3, 4, 1, 0])
    np.testing.assert_allclose(values["each"], np.divide(right, np.maximum(counted, 1)), rtol=1e-12)
    assert values["accuracy"] == pytest.approx(sum(right) / sum(counted), rel=1e-12)


def test_a_nan_in_test_data_is_named(data):
    labels, scores = data
    scores[6, 0] = np.nan
    with pytest.raises(DataError, match="^test data hold a NaN or infinity: .*6"):
        values_of(labels, scores)


@pytest.mark.parametrize("count", [0, -2])
def test_no_batches_are_no_test(count, data):
    net = md.Net(parse_net(NET % dict.fromkeys(IGNORING, "")), "TEST", "cpu")
    with pytest.raises(DataError, match=f"^a test needs 1 batch or more, got {count}$"):
        run_test(net, count)


def test_where_nothing_counts(data):
    labels, scores = data
    labels[:] = -1
    assert values_of(labels, scores, IGNORING)["perplexity"] == 1


def test_infinite_stays_infinite(data):
    labels, scores = data
    scores[2, labels[2]] = -np.inf
    assert values_of(labels, scores)["perplexity"] == np.inf


def test_a_layer_says_how_its_tops_are_averaged(data, monkeypatch):
    """Accuracies of 1, 1/2 and 1/4."""
    _, scores = data
    label = scores.argmax(axis=1)
    label[[4, 5, 8, 9, 10]] = (label[[4, 5, 8, 9, 10]] + 1) % CLASSES
    assert values_of(label, scores)["accuracy"] == pytest.approx(7 / 12)
    monkeypatch.setattr(layers.layer_class("Accuracy"), "averages", "geometric")
    assert values_of(label, scores)["accuracy"] == pytest.approx(1 / 2)
