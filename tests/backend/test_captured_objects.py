"""A Solver of Python objects captures its iterations as one of a file does."""

import numpy as np
import pytest

import minidrop as md
from minidrop import nn, optim
from minidrop.data import ArrayDataset, DataLoader

RECORDS, INPUTS, CLASSES = 24, 13, 5
X = np.random.default_rng(7).standard_normal((RECORDS, INPUTS))
Y = np.random.default_rng(8).integers(0, CLASSES, RECORDS)


def groups(model):
    return optim.Adam([{"params": model[0].parameters(), "lr": 0.03, "weight_decay": 0.1},
                       {"params": model[3].parameters()}], lr=0.01)


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(device, make, launches=True, loss=None, iterations=14, labels=Y, **settings):
    """Return {name: array} of weights and the optimizer's state after some iterations, and the solver."""
    model = nn.Sequential(nn.Linear(INPUTS, 45), nn.ReLU(), nn.ApproxDropout(0.5, groups=1),
                          nn.Linear(45, CLASSES)).to(device, "float64").set_seed(4)
    optimizer = make(model)
    scheduler = optim.schedulers.cosine(optimizer, 20, min_lr=0.001)
    solver = md.Solver.of(model, loss or nn.CrossEntropyLoss(), optimizer,
                          DataLoader(ArrayDataset(X, labels), 6, shuffle=True), scheduler=scheduler,
                          max_iter=20, **settings)
    if solver.captured is not None:
        solver.captured.launches = launches
    solver.step(iterations)
    solver.settle()
    return {**model.state_dict(), **optimizer.state_dict()}, solver


@pytest.mark.parametrize("make", [sgd, groups])
def test_captured_iterations(recorded_cuda, make):
    """Captured they equal the uncaptured to the last bit, and the CPU up to rounding."""
    found, solver = train(recorded_cuda(), make)
    assert solver.captured.problem == "" and solver.captured.replayed >= 3
    uncaptured, _ = train(recorded_cuda(), make, launches=False)
    expected, _ = train("cpu", make)
    for name, value in found.items():
        np.testing.assert_array_equal(value, uncaptured[name], err_msg=name)
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_a_function_of_tensors_is_not_captured(recorded_cuda):
    def loss(scores, labels):
        return md.functions.softmax_cross_entropy(scores, labels)
    found, solver = train(recorded_cuda(), sgd, loss=loss, iterations=4)
    assert solver.captured.problem == "layer 'loss' (Lambda) does not say that it is capturable"
    expected, _ = train("cpu", sgd, loss=loss, iterations=4)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


def of_operators(scores, labels):
    """Comparisons, slices, reductions and a loss."""
    above = md.functions.where(scores > 0, scores, 0.1 * scores) - scores.mean(axis=1, keepdims=True)
    spread = (above[:, 1:] - above[:, :-1]).clip(0, 2) ** 2
    return md.functions.cross_entropy(scores, labels) + 0.1 * spread.sum(axis=1).mean()


def smoothed(scores, labels):
    return md.functions.cross_entropy(scores, labels, label_smoothing=0.1)


@pytest.mark.parametrize("function", [smoothed, of_operators])
def test_a_loss_that_says_it_is_capturable(recorded_cuda, function, monkeypatch):
    """Captured it gives the bits of the uncaptured, and the CPU's numbers up to rounding."""
    monkeypatch.setattr(function, "capturable", True, raising=False)
    found, solver = train(recorded_cuda(), sgd, loss=function)
    assert solver.captured.problem == "" and solver.captured.replayed >= 3
    uncaptured, _ = train(recorded_cuda(), sgd, loss=function, launches=False)
    expected, _ = train("cpu", sgd, loss=function)
    for name, value in found.items():
        np.testing.assert_array_equal(value, uncaptured[name], err_msg=name)
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_a_capturable_loss_that_reads_values_is_not_captured(recorded_cuda):
    def loss(scores, labels):
        found = md.functions.cross_entropy(scores, labels)
        return found if float(found.detach().numpy()) > -1 else 2 * found
    loss.capturable = True
    found, solver = train(recorded_cuda(), sgd, loss=loss, iterations=8)
    assert solver.captured.replayed == 0 and solver.captured.problem
    expected, _ = train("cpu", sgd, loss=loss, iterations=8)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


def averages_of(solver):
    return {"updates": solver.ema.updates, **{name: solver.updater.backend.to_host(average)
                                              for name, average in solver.ema.averages.items()}}


@pytest.mark.parametrize("warmup", [False, True])
def test_averages_of_the_weights(recorded_cuda, warmup):
    """They are updated within the captured iteration, at a rate that changes with the warm-up."""
    settings = {"ema_decay": 0.7, "ema_warmup": warmup}
    _, solver = train(recorded_cuda(), sgd, **settings)
    assert solver.captured.problem == "" and solver.captured.replayed >= 3
    _, uncaptured = train(recorded_cuda(), sgd, launches=False, **settings)
    _, expected = train("cpu", sgd, **settings)
    found, same, close = map(averages_of, (solver, uncaptured, expected))
    assert found["updates"] == same["updates"] == close["updates"] == 14
    for name, average in found.items():
        np.testing.assert_array_equal(average, same[name], err_msg=name)
        np.testing.assert_allclose(average, close[name], rtol=1e-8, atol=1e-10, err_msg=name)
    # What a test or a snapshot sets in their place is what later launches read.
    with solver.ema.applied():
        pass
    solver.ema.load_state_dict(solver.ema.state_dict())
    solver.step(3)
    expected.step(3)
    solver.settle()
    for name, average in averages_of(expected).items():
        np.testing.assert_allclose(averages_of(solver)[name], average, rtol=1e-8, atol=1e-10, err_msg=name)


def test_averages_stay_as_they_are_after_an_error(recorded_cuda):
    """They, and how often they were updated, are those before the iteration that failed."""
    model = nn.Sequential(nn.Linear(INPUTS, 9), nn.ReLU(), nn.Linear(9, CLASSES)).to(recorded_cuda(),
                                                                                     "float64").set_seed(4)
    labels = Y.copy()
    labels[20] = CLASSES            # of the fourth batch
    solver = md.Solver.of(model, nn.CrossEntropyLoss(), sgd(model), DataLoader(ArrayDataset(X, labels), 6),
                          max_iter=20, ema_decay=0.7)
    solver.step(3)
    solver.settle()
    before = averages_of(solver)
    solver.step(4)                  # launched, without waiting
    with pytest.raises(md.DataError, match="label 5 at place 2 of the batch is out of range"):
        solver.settle()
    assert solver.captured.problem == "" and solver.iteration == 3
    for name, average in averages_of(solver).items():
        np.testing.assert_array_equal(average, before[name], err_msg=name)
