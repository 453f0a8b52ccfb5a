"""Solver.of: what cannot be trained is refused, and says why."""

import functools

import numpy as np
import pytest
from cases import in_turn
from object_solvers import (
    BATCH,
    CLASSES,
    INPUTS,
    SEED,
    Untraced,
    X,
    Y,
    adamw,
    groups,
    loader,
    mlp,
    sgd,
    solver_of,
    squares,
    stream,
)

import minidrop as md
from minidrop import nn, optim
from minidrop.data import ArrayDataset, DataLoader


class Reshaped(nn.Module):
    def __init__(self, how):
        self.scores, self.how = nn.Linear(INPUTS, CLASSES), how

    def forward(self, x):
        return self.how(self.scores(x), x)


def broken(model=None, loss=None, optimizer=None, train=None, **options):
    model = mlp() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer(model)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return md.Solver.of(model, loss, optimizer, loader() if train is None else train,
                        **{"max_iter": 10, **options})


def other_scheduler():
    return optim.schedulers.fixed(sgd(mlp()))


def stepped(model):
    optimizer = groups(optim.Adam)(model)
    optimizer.param_groups[0].set_state(3, 0.1, 0.0)
    return optimizer


MISTAKES = [
    (lambda: md.Solver.of(mlp, nn.CrossEntropyLoss(), None, loader()), "model: expected a Module, got "),
    (lambda: broken(optimizer=lambda _: "sgd"), "optimizer: expected one of md.optim, got str"),
    (lambda: broken(train=[(X, Y)]), "train: expected a DataLoader, got list"),
    (lambda: broken(test=X), "test: expected a DataLoader or None, got ndarray"),
    (lambda: broken(test=[]), "test: expected one or more loaders, got an empty list; None is for no test"),
    (lambda: broken(loss=nn.CrossEntropyLoss), "loss: expected a module or a function, got the class "
                                               "CrossEntropyLoss; write CrossEntropyLoss(...)"),
    (lambda: broken(optimizer=lambda _: md.optim.SGD), "got the class SGD; write SGD(...)"),
    (lambda: broken(test=loader(), metrics=["accuracy"]), "metrics: expected {name: function}, got list"),
    (lambda: broken(test=[loader(), X]), "test 1: expected a DataLoader, got ndarray"),
    (lambda: broken(test={"": loader()}), "test: expected names of loaders, got ''"),
    (lambda: broken(test=[loader()], metrics=[{}, {}]), "metrics: expected those of each test, 0, got 0, 1"),
    (lambda: broken(test={"a": loader()}, metrics={"b": {}}), "expected those of each test, 'a', got 'b'"),
    (lambda: broken(test={"a": loader(), "b": loader()}, metrics={"a": {}, "b": squares}),
     "metrics: expected {name: function} for test 'b', got function"),
    (lambda: broken(test=loader(), metrics=3), "metrics: expected {name: function}, got int"),
    (lambda: broken(scheduler="cosine"), "scheduler: expected one of md.optim.schedulers, got str"),
    (lambda: broken(scheduler=other_scheduler()), "scheduler: it is that of another optimizer"),
    (lambda: broken(loss="mse"), "loss: expected a module or a function, got str"),
    (lambda: broken(early_stopping="loss"), "early_stopping: expected an EarlyStopping, got str"),
    (lambda: broken(early_stopping=md.EarlyStopping("los", "min"), test=loader(False, 20)),
     "early_stopping: the test nets have no output 'los'; did you mean 'loss'"),
    (lambda: broken(early_stopping=md.EarlyStopping("loss", "min")), "there is no test net"),
    (lambda: broken(metrics={"accuracy": nn.Accuracy()}), "metrics: tests compute them; give a test loader"),
    (lambda: broken(metrics={"loss": squares}, test=loader()), "metrics: expected names other than 'loss'"),
    (lambda: broken(mlp().eval()), "Sequential is in eval mode; call its method train"),
    (lambda: broken(max_iter=None), "give either max_iter or epochs"),
    (lambda: broken(epochs=2), "give either max_iter or epochs"),
    (lambda: broken(max_iter=None, epochs=float("nan")), "epochs: expected a number of more than 0, got nan"),
    (lambda: broken(max_iter=None, epochs=-1), "epochs: expected a number of more than 0, got -1"),
    (lambda: broken().step(-1), "step: iterations: expected a whole number of at least 0, got -1"),
    (lambda: broken().step(1.5), "step: iterations: expected a whole number of at least 0, got 1.5"),
    (lambda: broken(max_iter=0), "max_iter must be at least 1, got 0"),
    (lambda: broken(max_iter=None, epochs=1, train=stream()()), "not know how many batches an epoch has"),
    (lambda: broken(test=loader(), train=stream()()), "say by test_interval"),
    (lambda: broken(base_lr=0.1), "base_lr is no setting here; the optimizer says it"),
    (lambda: broken(random_seed=1), "random_seed is no setting here; the model's method set_seed"),
    (lambda: broken(seed=1), "seed is no setting here; the model's method set_seed, called before"),
    (lambda: broken(batch_per_rank=True), "batch_per_rank is no setting here; the training loader's batch_s"),
    (lambda: broken(scale_lr=True), "scale_lr is no setting here; the optimizer's lr, multiplied by"),
    (lambda: broken(dtype="float64"), "dtype is no setting here; the model, whose method `to` moves it, s"),
    (lambda: broken(test_intervall=1), "has no field 'test_intervall'; did you mean 'test_interval'"),
    (lambda: broken(clip_gradients="much"), "Solver.of: 'clip_gradients' takes a number, got 'much'"),
    (lambda: broken(inputs=3), "inputs: expected a number of the 2 arrays of a batch, got 3"),
    (lambda: broken(inputs=2), "its forward cannot be called with 2 of the 2 arrays of a batch"),
    (lambda: broken(nn.Sequential(nn.Linear(INPUTS, CLASSES), Untraced())),
     "Untraced '1' has traced = False, and a Solver needs one net"),
    (lambda: broken(optimizer=lambda _: sgd(mlp())), "parameter .* is none that Sequential and the loss use"),
    (lambda: broken(optimizer=stepped), "its groups took different numbers of steps"),
    (lambda: broken(optimizer=lambda model: optim.SGD(
        [{"params": model[0].parameters(), "nesterov": True}, {"params": model[3].parameters()}], lr=0.1,
        momentum=0.9)),
     "a Solver has one rule, the groups have Nesterov, SGD"),
    (lambda: broken(loss=lambda scores, labels: scores), r"the loss: expected one number for a batch, "
                                                         r"got shape \(16, 4\); take its mean"),
    (lambda: broken(loss=lambda scores: scores.sum()), "the loss is called with what the model returns and 1 "
                                                       "target: too many positional arguments"),
    (lambda: broken(Reshaped(lambda y, x: (y, y)), loss=lambda one, two, labels: (one - two).sum()),
     "the loss is called with what the model returns, a tuple of 2 as one argument, and 1 target: missing a "
     "required argument: 'labels'"),
    (lambda: broken(metrics={"m": lambda scores: 1.0}, test=loader()), "metric 'm' is called with wh"),
    (lambda: broken(loss=lambda scores, labels: 1.0), "the loss should return a Tensor, .* got float"),
    (lambda: broken(metrics={"m": lambda scores, _: scores.numpy()}, test=loader()), "'m': expected one n"),
    (lambda: broken(loss=nn.Layer("SoftmaxWithLoss", loss_weight=0.5)), "loss_weight has no effect on a m"),
    (lambda: broken(Reshaped(lambda y, x: y.reshape(x.shape[0] * CLASSES).reshape(-1, CLASSES))),
     r"the last batch of an epoch has 2 records in place of 16, and for it the forward of Reshaped describes "
     r"another net, from layer 'reshape' .* on: .* or let the loader drop_last"),
    (lambda: broken(Reshaped(lambda y, x: y * (1 / x.shape[0]))), "another net, from layer 'power'"),
    (lambda: broken(Reshaped(lambda y, x: nn.Lambda(lambda z, n=x.shape[0]: z * n)(y))),
     "describes another function in layer 'lambda'"),
    (lambda: broken(Reshaped(lambda y, x: y.reshape(BATCH, CLASSES))), "describes no net: "),
    (lambda: broken(train=DataLoader(ArrayDataset(X, Y), BATCH, collate=lambda records: {"x": X})),
     "expected a batch as a tuple of arrays, first the inputs of the model, .* got dict"),
]


@in_turn("make, message", MISTAKES)
def test_mistakes(make, message):
    with pytest.raises((md.ConfigError, md.DataError), match=message):
        make()


def test_a_wrapper_may_call_a_loss_with_other_arguments():
    def spread(scores):
        return (scores ** 2).mean()

    @functools.wraps(spread)
    def loss(scores, labels):
        return spread(scores)

    solver = broken(loss=loss)
    solver.step(1)
    assert solver.iteration == 1


def test_a_group_that_the_solver_does_not_know_is_no_group_that_is_left_out():
    model = mlp()
    optimizer = optim.SGD(model[3].parameters(), lr=0.1)
    solver = solver_of(model, optimizer)
    solver.step()
    optimizer.add_param_group({"params": model[0].parameters()})
    with pytest.raises(md.ConfigError, match="the optimizer's groups are others than when"):
        solver.step()


def test_no_imaginary_part_is_left_out():
    model = mlp()
    solver = solver_of(model, sgd(model), DataLoader(ArrayDataset(X + 1j, Y), BATCH))
    with pytest.raises(md.DataError, match="layer 'data/loader' .*: the batch's x is no array of numbers "
                                           "\\(its dtype is complex64; convert it\\)"):
        solver.step()


def test_no_batch_of_another_shape_is_trained_with():
    sizes = iter([6] * 3 + [7])
    batches = DataLoader(ArrayDataset(X, Y), BATCH, collate=lambda records: (
        np.zeros((8, next(sizes)), "f"), np.zeros(8)))
    model = nn.Sequential(nn.Linear(6, CLASSES)).to("cpu")
    solver = solver_of(model, sgd(model), batches)
    with pytest.raises(md.DataError, match=r"layer 'data/loader' .* batch 2 of epoch 0: expected x of shape "
                       r"\(8, 6\), as in the first batch .* got \(8, 7\)\. A Solver trains one net"):
        solver.solve()


def test_a_layer_that_tests_alone_use_is_refused():
    class Switched(nn.Module):
        def __init__(self):
            self.one, self.two = nn.Linear(INPUTS, CLASSES), nn.Linear(INPUTS, CLASSES)

        def forward(self, x):
            return self.one(x) if self.training else self.two(x)
    model = Switched().to("cpu")
    with pytest.raises(md.ConfigError, match="test: two reads weight, which is no parameter of that layer in "
                       "training"):
        md.Solver.of(model, nn.CrossEntropyLoss(), sgd(model.one), loader(), loader(), max_iter=1)


@in_turn("change, message", [
    ({"seed": SEED + 1}, "was written with random_seed 5, this solver says 6"),
    ({"optimizer": adamw}, "was written by solver type 'SGD', this one is 'AdamW'"),
    ({"optimizer": lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9, form="pytorch")},
     "the optimizer: has no 'groups/0/GradientMomentum/lr'")])
def test_a_snapshot_of_other_objects_is_refused(tmp_path, change, message):
    model = mlp()
    path = solver_of(model, sgd(model)).snapshot(tmp_path / "s.h5")
    model = mlp(seed=change.get("seed", SEED))
    solver = solver_of(model, change.get("optimizer", sgd)(model))
    with pytest.raises(md.SnapshotError, match=message):
        solver.restore(path)


def test_another_loader_is_warned_of(tmp_path, caplog):
    model = mlp()
    path = solver_of(model, sgd(model)).snapshot(tmp_path / "s.h5")
    model = mlp()
    solver_of(model, sgd(model), loader(size=10)).restore(path)
    assert "was written when data/loader had batch_size: 16; now it has batch_size: 10" in caplog.text


@pytest.mark.parametrize("size", ["1", "3"])
def test_processes_that_do_not_train_together_are_warned(size, monkeypatch, caplog):
    monkeypatch.setenv("PMI_SIZE", size)
    model = mlp()
    solver_of(model, sgd(model))
    assert ("a launcher has started 3 processes, and each of them trains the whole model by itself; if they "
            "are to train one together, pass communicator=world()" in caplog.text) is (size == "3")
