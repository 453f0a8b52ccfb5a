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


def train(device, make, launches=True, loss=None, iterations=14):
    """Return {name: array} of weights and the optimizer's state after some iterations, and the solver."""
    model = nn.Sequential(nn.Linear(INPUTS, 45), nn.ReLU(), nn.ApproxDropout(0.5, groups=1),
                          nn.Linear(45, CLASSES)).to(device, "float64").set_seed(4)
    optimizer = make(model)
    scheduler = optim.schedulers.cosine(optimizer, 20, min_lr=0.001)
    solver = md.Solver.of(model, loss or nn.CrossEntropyLoss(), optimizer,
                          DataLoader(ArrayDataset(X, Y), 6, shuffle=True), scheduler=scheduler, max_iter=20)
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
