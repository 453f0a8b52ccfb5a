"""Solver.of: losses and metrics of all kinds, of models with several inputs and outputs."""

import numpy as np
import pytest
from cases import in_turn
from object_solvers import (
    BATCH,
    CLASSES,
    INPUTS,
    RECORDS,
    Untraced,
    X,
    Y,
    assert_same,
    by_hand,
    loader,
    mlp,
    sgd,
    solver_of,
    squares,
)

import minidrop as md
from minidrop import nn, optim
from minidrop.data import ArrayDataset, DataLoader


class Two(nn.Module):
    """A sum of losses, each of which is one by itself."""

    def __init__(self):
        self.entropy, self.smooth = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.2)

    def forward(self, scores, labels):
        return self.entropy(scores, labels) * 0.25 + self.smooth(scores, labels)


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        self.scale, self.entropy = nn.Weight(CLASSES, filler={"type": "constant", "value": 1}), \
            nn.CrossEntropyLoss()

    def forward(self, scores, labels):
        return self.entropy(scores * self.scale(), labels)


@in_turn("make", [lambda: squares, Two, Untraced, Weighted, lambda: nn.CrossEntropyLoss(reduction="sum")])
def test_losses(make):
    """Functions of Tensors and modules, each as in a loop by hand."""
    ends = []
    for trains in ("solver", "loop"):
        model, loss, batches = mlp(), make(), loader()
        parameters = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else [])]
        optimizer = optim.Adam(parameters, lr=0.01)
        if trains == "solver":
            solver = md.Solver.of(model, loss, optimizer, batches, max_iter=7)
            solver.solve()
            assert solver.net.outputs == ["loss"]
        else:
            by_hand(model, optimizer, batches, 7, loss=loss)
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


def test_metrics_are_means_over_the_records():
    """Of batches of 20, 20 and 10 records; functions may give Tensors or floats."""
    model = mlp()
    solver = solver_of(model, sgd(model), test=loader(False, 20), metrics={
        "accuracy": nn.Accuracy(), "top2": nn.Accuracy(top_k=2), "squares": squares,
        "largest": lambda scores, labels: float(scores.numpy().max(axis=1).mean())})
    solver.solve()
    values = solver.test()
    assert list(values) == ["loss", "accuracy", "top2", "squares", "largest"]
    assert model.training and model[2].training
    scores = model.eval()(X)
    order = np.argsort(-scores.numpy(), axis=1)
    assert values == pytest.approx({
        "loss": float(nn.CrossEntropyLoss()(scores, Y)), "squares": float(squares(scores, md.tensor(Y))),
        "accuracy": (order[:, 0] == Y).mean(), "top2": (order[:, :2] == Y[:, None]).any(axis=1).mean(),
        "largest": scores.numpy().max(axis=1).mean()}, rel=1e-6)


class Both(nn.Module):
    """Two inputs, two outputs; a layer is called as an output is, another as an argument."""

    def __init__(self):
        self.loss, self.x = nn.Linear(INPUTS, 8), nn.Linear(INPUTS, 8)
        self.drop, self.scores = nn.ApproxDropout(0.5), nn.Linear(8, CLASSES)

    def forward(self, x, other):
        hidden = self.drop(self.loss(x) + self.x(other))
        return {"scores": self.scores(hidden), "hidden": hidden}


def test_several_inputs_outputs_and_targets():
    def loss(outputs, labels, weights):
        return (nn.CrossEntropyLoss()(outputs["scores"], labels)
                + (outputs["hidden"] ** 2).mean() * weights.mean())
    ends, weights = [], np.linspace(0, 1, RECORDS, dtype="f")
    for trains in ("solver", "loop"):
        model = Both().to("cpu").set_seed(1)
        optimizer, batches = sgd(model), DataLoader(ArrayDataset(X, X[::-1].copy(), Y, weights), BATCH)
        if trains == "solver":
            solver = md.Solver.of(model, loss, optimizer, batches, inputs=2, max_iter=6, test=batches,
                                  metrics={"hidden": lambda outputs, *_: outputs["hidden"].mean()})
            assert list(solver.test()) == ["loss", "hidden"]
            solver.solve()
        else:
            done = 0
            while done < 6:
                for x, other, y, weight in batches:
                    if done < 6:
                        loss(model(x, other), md.tensor(y), md.tensor(weight)).backward()
                        optimizer.step()
                        done += 1
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)
