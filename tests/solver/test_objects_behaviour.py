"""Solver.of: what else a Solver of Python objects does: states, callbacks, faults of data, what it shows."""

import numpy as np
import pytest
from cases import in_turn
from object_solvers import (
    BATCH,
    CLASSES,
    INPUTS,
    RECORDS,
    SEED,
    X,
    Y,
    assert_same,
    by_hand,
    loader,
    mlp,
    sgd,
    solver_of,
)

import minidrop as md
from minidrop import nn
from minidrop.data import ArrayDataset, DataLoader


class Sequences(nn.Module):
    """A recurrent model of (records, steps, inputs); what it calls begins anew in each batch, or goes on."""

    def __init__(self, stateful):
        self.lstm, self.scores = nn.LSTM(3, 6, stateful=stateful), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.scores(self.lstm(x.permute(1, 0, 2))[-1])


@in_turn("stateful", [False, True])
def test_recurrent_states_begin_anew_or_go_on(tmp_path, stateful):
    def parts():
        model = Sequences(stateful).to("cpu").set_seed(1)
        records = 48 if stateful else RECORDS       # of 50 the last batch has 2, for which no state goes on
        batches = DataLoader(ArrayDataset(X[:records].reshape(-1, 4, 3), Y[:records]), BATCH, shuffle=True,
                             seed=3)
        return model, sgd(model), batches
    model, optimizer, batches = parts()
    by_hand(model, optimizer, batches, 8)
    end = {**model.state_dict(), **optimizer.state_dict(), **model.run_state()}
    model, optimizer, batches = parts()
    solver_of(model, optimizer, batches, snapshot_prefix=tmp_path / "s").step(3)
    by_hand(model, optimizer, batches, 5)
    assert_same(end, {**model.state_dict(), **optimizer.state_dict(), **model.run_state()})
    model, optimizer, batches = parts()
    solver = solver_of(model, optimizer, batches, snapshot_prefix=tmp_path / "s")
    solver.step(5)
    path = solver.snapshot()
    model, optimizer, batches = parts()
    solver = solver_of(model, optimizer, batches)
    solver.restore(path)
    solver.step(3)
    assert_same(end, {**model.state_dict(), **optimizer.state_dict(), **model.run_state()})


def test_states_of_another_number_of_streams_are_refused():
    model = Sequences(True).to("cpu").set_seed(1)
    model(X[:8].reshape(8, 4, 3))
    with pytest.raises(md.ShapeError, match=r"'lstm'.* state h of shape \(8, 6\) on, but this batch needs "
                                            r"\(16, 6\); call reset_states\(\) first$"):
        solver_of(model, sgd(model), DataLoader(ArrayDataset(X.reshape(-1, 4, 3), Y), BATCH, drop_last=True))


@in_turn("change", [lambda x: x.view(x.shape[0], -1), lambda x: x.reshape(x.shape[0], 2, 2, 3)[:, 1, 0],
                    lambda x: x.permute(1, 0, 2)[-1], lambda x: x.permute(1, 0, 2)[:1].squeeze(0),
                    lambda x: x.permute(1, 0, 2).max(axis=0), lambda x: x[:, :, None, 2],
                    lambda x: x.permute(1, 0, 2).flatten(0, 1).view(4, -1, 3)[2],
                    lambda x: (x % 0.5 + 2 // x % (x + 9)).mean(1, keepdim=True).squeeze(1),
                    lambda x: x.unsqueeze(2).unsqueeze(-1) * 2,
                    lambda x: x.permute(1, 0, 2).mean(0, True)[0]])
@in_turn("size", [BATCH, 7])
def test_a_smaller_last_batch_takes_what_forward_does_along_other_axes(change, size):
    class Changed(nn.Module):
        def __init__(self):
            self.scores = nn.Layer("InnerProduct", num_output=CLASSES, weight_filler="msra")

        def forward(self, x):
            return self.scores(change(x))

    def parts():
        model = Changed().to("cpu").set_seed(1)
        model(X.reshape(-1, 4, 3))
        return model, sgd(model), DataLoader(ArrayDataset(X.reshape(-1, 4, 3), Y), size)
    model, optimizer, batches = parts()
    by_hand(model, optimizer, batches, 9)
    other, *rest = parts()
    solver_of(other, *rest).step(9)             # the last batch has 2 records, or 1
    assert_same(model.state_dict(), other.state_dict())


@in_turn("frozen", [False, True])
def test_statistics_of_norms_are_those_of_the_model(frozen):
    """Also where a norm alone is in eval mode, and its layer is not trained."""
    ends = []
    for trains in ("solver", "loop"):
        model = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm(8), nn.Linear(8, CLASSES)).to("cpu")
        if frozen:
            by_hand(model, sgd(model), loader(), 2)
            model[1].eval()
            model[0].requires_grad_(False)
        model.draw_from(0)
        optimizer = sgd(model)
        if trains == "solver":
            solver_of(model, optimizer, test=loader(False, 20), ema_decay=0.5).solve()
        else:
            by_hand(model, optimizer, loader(), 10)
        ends.append(model.state_dict())
    assert_same(*ends)


def test_drops_can_be_converted_and_learning_rates_found():
    model = mlp()
    solver = solver_of(model, sgd(model), dropout="conventional")
    assert solver.net.layers["2"].type == "Dropout"
    solver = solver_of(model, sgd(model), loader(drop_last=True))
    before = {**model.state_dict(), **solver.source.optimizer.state_dict()}
    rates = md.find_learning_rate(solver, 1e-3, 1.0, 20)
    assert rates.rates[-1] == pytest.approx(1) and solver.iteration == 0
    assert_same(before, {**model.state_dict(), **solver.source.optimizer.state_dict()})


def test_callbacks_stop_and_break_off_a_run():
    """Whatever ends it, the objects stand where the solver does, and it can go on."""
    model, batches = mlp(), loader()
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches, max_iter=9)
    seen = []

    @solver.add_callback
    def look(event):
        seen.append((event.kind, event.iteration, model.iteration, optimizer.param_groups[0].iteration,
                     batches.state_dict()["batch"]))
        if event.iteration == 3:
            solver.stop()
        if event.iteration == 6:
            raise KeyError("mine")
    assert solver.solve() == {} and solver.iteration == 3
    assert seen == [("step", n, n, n, n) for n in (1, 2, 3)]
    with pytest.raises(KeyError, match="mine"):
        solver.solve()
    assert solver.iteration == model.iteration == 6
    solver.solve()
    other = mlp()
    by_hand(other, sgd(other), loader(), 9)
    assert_same(model.state_dict(), other.state_dict())


def test_a_solver_does_not_go_on_where_a_loop_by_hand_did():
    model, batches = mlp(), loader()
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches)
    solver.step(2)
    by_hand(model, optimizer, batches, 1)
    with pytest.raises(md.ConfigError, match="the optimizer took 3 steps and the solver 2: a loop by hand"):
        solver.step()
    assert solver_of(model, optimizer, batches).iteration == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_cannot_be_read_is_named_and_costs_nothing(workers):
    def fragile(x, y):
        if np.array_equal(x, X[17]) and fails:
            fails.clear()
            raise OSError("gone")
        return x, y
    fails = []
    model, other = mlp(), mlp()
    batches = DataLoader(ArrayDataset(X, Y).map(fragile), BATCH, shuffle=True, seed=2, workers=workers)
    optimizer = sgd(model)
    solver = solver_of(model, optimizer, batches)
    solver.step(2)
    fails.append(1)
    with pytest.raises(md.DataError, match="record 17 of .*OSError: gone"):
        solver.solve()
    assert model.iteration == optimizer.param_groups[0].iteration == solver.iteration < 10
    solver.solve()
    solver.close()
    by_hand(other, sgd(other), loader(), 10)
    assert_same(model.state_dict(), other.state_dict())


def test_early_stopping_ends_it():
    model = mlp()
    stopping = md.EarlyStopping("loss", "min", patience=1, min_delta=100)
    solver = solver_of(model, sgd(model), test=loader(False, 20), early_stopping=stopping, max_iter=40)
    solver.solve()
    assert solver.early_stopping is stopping and stopping.waited == 1
    assert solver.iteration == 4 == solver.settings.test_interval      # an epoch


def test_a_loss_that_is_not_finite_names_the_record():
    x = X.copy()
    x[7, 3] = np.nan
    model = mlp()
    solver = solver_of(model, sgd(model), DataLoader(ArrayDataset(x, Y), 5, shuffle=True, seed=2))
    with pytest.raises(md.NonFiniteError, match=r"because the data hold a NaN or infinity: record 7 of .*"
                       r"\(blob 'x' of layer 'data/loader'\)"):
        solver.solve()
    assert np.isfinite(model[0].weight.data).all() and model.iteration == solver.iteration


def test_what_it_shows_of_itself():
    model = mlp()
    solver = solver_of(model, sgd(model), test=loader(False, 20), epochs=3, max_iter=None)
    assert repr(solver) == ("Solver(SGD, iteration 0 of 12, lr 0.1, 1 test net, trains 'Sequential', phase "
                            "TRAIN, float32, cpu: 6 layers, 548 parameters)")
    assert solver.settings.weight_decay == pytest.approx(0.01) and solver.settings.random_seed == SEED
    own = {name: p for name, p in solver.net.parameters().items()}
    assert own["3/bias"] is model[3].bias and solver.test_nets[0].params["3"]["bias"] is model[3].bias


def test_what_a_smaller_last_batch_may_do():
    """A number that float64 has exactly only by a function, an nn.Lambda, -1 in a reshape, a tied layer."""
    class Free(nn.Module):
        def __init__(self):
            self.one, self.two = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS)
            self.two.tie("weight", self.one)
            self.half, self.scores = nn.Lambda(lambda x: x * 0.5), nn.Linear(INPUTS, CLASSES)

        def forward(self, x):
            return self.scores(self.half(self.two(self.one(x) * (1 / 3))).reshape(-1, 3, 4).reshape(-1, 12))
    ends = []
    for trains in ("solver", "loop"):
        model = Free().to("cpu", "float64").set_seed(2)
        optimizer = sgd(model)
        if trains == "solver":
            solver_of(model, optimizer).solve()
        else:
            by_hand(model, optimizer, loader(), 10)
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)


def test_a_smaller_last_batch_with_the_steps_first():
    """A Lambda's results may have the number of records on any axis, or multiplied by that of the steps."""
    class Tagger(nn.Module):
        def __init__(self):
            self.lstm, self.scores = nn.LSTM(3, 5), nn.Linear(5, CLASSES)
            self.half, self.flat = nn.Lambda(lambda x: x * 0.5), nn.Lambda(lambda x: x.reshape(-1, 5))

        def forward(self, x):
            steps = self.half(self.lstm(x.transpose(1, 0, 2)))
            return self.scores(self.flat(steps)).reshape(4, -1, CLASSES).mean(0)
    sequences, ends = ArrayDataset(X.reshape(RECORDS, 4, 3), Y), []
    for trains in ("solver", "loop"):
        model = Tagger().to("cpu", "float64").set_seed(2)
        optimizer, batches = sgd(model), DataLoader(sequences, 16)
        if trains == "solver":
            solver_of(model, optimizer, batches).solve()
        else:
            by_hand(model, optimizer, batches, 10)
        ends.append({**model.state_dict(), **optimizer.state_dict()})
    assert_same(*ends)
    model = Sequences(stateful=True).to("cpu")
    with pytest.raises(md.ConfigError, match=r"has 2 records in place of 16, but LSTM 'lstm' is "
                       r"stateful: what it carries on is for 16; let the loader drop_last"):
        solver_of(model, sgd(model), batches)


def test_a_pass_of_before_a_restored_snapshot_is_refused(tmp_path):
    model = mlp()
    solver = solver_of(model, sgd(model))
    solver.step(2)
    path = solver.snapshot(tmp_path / "half.h5")
    solver.step(2)
    loss = model.eval()(X).sum()
    solver.restore(path)
    with pytest.raises(md.GraphError, match="whose values have changed since forward"):
        loss.backward()


@pytest.mark.parametrize("change, words", [
    (lambda model: setattr(model, "last", nn.Linear(8, CLASSES)), "it has other modules than when"),
    (lambda model: model.norm.eval(), "BatchNorm 'norm' is not in training, other than when"),
    (lambda model: model.drop.eval(), "ApproxDropout 'drop' is not in training, other than when"),
    (lambda model: model.frozen.train(), "BatchNorm 'frozen' is in training, other than when"),
    (lambda model: model.to(dtype="float64"), "Solver.of: first.weight is in float64, but what is kept"),
])
def test_a_model_that_is_another_than_the_solver_trains(change, words):
    """The net was traced: a new head was not trained, and a norm that was frozen went on."""
    model = nn.Sequential(first=nn.Linear(INPUTS, 8), norm=nn.BatchNorm(8), frozen=nn.BatchNorm(8),
                          drop=nn.ApproxDropout(0.5), last=nn.Linear(8, CLASSES)).set_seed(1)
    model.frozen.eval()
    solver = solver_of(model, sgd(model))
    solver.step()
    model.eval()(X)
    solver.step()               # the model is only used
    model.train()
    model.frozen.eval()
    solver.step()
    change(model)
    for run in (solver.step, solver.solve):
        with pytest.raises(md.ConfigError, match=words):
            run()
    assert solver.iteration == 3
