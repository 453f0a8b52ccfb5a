"""Several ranks train Python objects as one process does, or say why they cannot."""

import copy
import re

import numpy as np
import pytest
from cases import in_turn
from object_solvers import CLASSES, INPUTS, X, Y, mlp, squares

import minidrop as md
from minidrop import nn, optim
from minidrop.data import ArrayDataset, DataLoader, GeneratorDataset
from minidrop.errors import ConfigError, DataError, ParallelError
from minidrop.optim import schedulers
from minidrop.solver.communicator import Alone
from minidrop.solver.ranks import Ranks
from minidrop.testing import run_ranks

BATCH, RECORDS = 24, 36         # an epoch is a whole batch and one of 12
X, Y = X[:RECORDS].astype("f8"), Y[:RECORDS]
ORDERED = {"PERIODIC": [1, 2, 4, 5], "SLICE": [2], "UNIT": [4]}
DROPS = {"nothing": nn.ReLU, "Dropout": lambda: nn.Dropout(0.5),
         "GaussianDropout": lambda: nn.GaussianDropout(0.4),
         **{f"{family} in {groups}": lambda family=family, groups=groups: nn.ApproxDropout(
             0.5, pattern=family, groups=groups) for family, many in ORDERED.items() for groups in many},
         **{family: lambda family=family: nn.ApproxDropout(0.5, pattern=family)
            for family in ("TILE", "BLOCK", "ROW")}}


def loader(data=(X, Y), size=BATCH, **options):
    return DataLoader(ArrayDataset(*data), size, **{"shuffle": True, "seed": 2, **options})


def net(*layers):
    return nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), *layers, nn.Linear(32, CLASSES))


def solver_of(communicator=None, model=mlp, data=loader, loss=nn.CrossEntropyLoss, **options):
    """A Solver in float64; model, data and loss are made anew on every rank."""
    model = model().to("cpu", "float64").set_seed(5)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return md.Solver.of(model, loss(), optimizer, data(), communicator=communicator,
                        scheduler=schedulers.step(optimizer, stepsize=10, gamma=0.7),
                        **{"max_iter": 50, "snapshot_after_train": False, "average_loss": 50, **options})


def state_of(solver):
    """Everything that training changes."""
    model, optimizer = solver.source.model, solver.source.optimizer
    found = {**model.state_dict(), **optimizer.state_dict(), **model.run_state(),
             "losses": list(solver.losses), "at": list(solver.source.loader.state_dict().values())[:2]}
    return {name: np.array(values) for name, values in found.items()}


def trained(communicator=None, iterations=6, **options):
    solver = solver_of(communicator, **options)
    solver.step(iterations)
    return state_of(solver)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


def assert_same(ranks=(2, 3), **options):
    expected = trained(**options)
    assert np.ptp(expected["losses"]) > 0
    for size in ranks:
        for found in run_ranks(size, lambda one: trained(one, **options)):
            assert_equal(found, expected)


@in_turn("kind", DROPS)
def test_every_drop_and_a_smaller_last_batch(kind):
    assert_same((3,), model=lambda: net(DROPS[kind]()), iterations=4)


def test_fifty_iterations():
    options = {"model": lambda: net(nn.ApproxDropout(0.5, groups=4)), "clip_gradients": 1.0, "iterations": 50}
    assert_same((1, 2, 3, 4), **options)


class Sequences(nn.Module):
    """A recurrent model of (records, steps, inputs), or of (steps, records, inputs)."""

    def __init__(self, stateful=False, steps_first=False):
        self.lstm = nn.LSTM(3, 6, stateful=stateful, hidden_dropout={"dropout_ratio": 0.4},
                            hidden_dropout_type="CONVENTIONAL")
        self.scores, self.steps_first = nn.Linear(6, CLASSES), steps_first

    def forward(self, x):
        return self.scores(self.lstm(x if self.steps_first else x.permute(1, 0, 2))[-1])


def steps_first(records):
    x, y = zip(*records, strict=True)
    return np.stack(x, axis=1), np.array(y)


def noisy(rng, x, y):
    return x + rng.standard_normal(x.shape), y


SEQUENCES = X.reshape(RECORDS, 4, 3), Y


@in_turn("options", [
    {"model": Sequences, "data": lambda: loader(SEQUENCES)},
    {"model": lambda: Sequences(stateful=True), "data": lambda: loader(SEQUENCES, size=12)},
    {"model": lambda: Sequences(steps_first=True),
     "data": lambda: loader(SEQUENCES, collate=steps_first, drop_last=True)},
    {"data": lambda: loader(augment=noisy, workers=2)},
    {"iter_size": 3}])
def test_models_and_loaders(options):
    assert_same(**options)


def stream(length=None, drop_last=True):
    def records():
        yield from zip(X, Y, strict=True)
    return lambda: DataLoader(GeneratorDataset(records, length, buffer=9), BATCH, shuffle=True,
                              drop_last=drop_last)


def test_streams():
    """Each rank reads all, and takes its part."""
    assert_same(data=stream())
    assert_same(data=stream(RECORDS, drop_last=False))


def test_ranks_read_their_own_records_alone():
    """Of datasets whose records can be read one by one."""
    class Counting(ArrayDataset):
        def read(self, indices):
            self.seen.extend(indices.tolist())
            return super().read(indices)

    def work(communicator):
        data = Counting(X, Y)
        data.seen = []
        solver = solver_of(communicator, data=lambda: DataLoader(data, BATCH, shuffle=True, seed=2))
        data.seen.clear()
        solver.step(2)
        return data.seen
    seen = run_ranks(3, work)
    assert [len(own) for own in seen] == [12] * 3 and sorted(sum(seen, [])) == list(range(RECORDS))


@in_turn("loss", [lambda: nn.CrossEntropyLoss(ignore_label=2), lambda: nn.CrossEntropyLoss(reduction="sum"),
                  lambda: nn.MSELoss("sum"), lambda: squares])
def test_losses(loss):
    targets = X[:, :CLASSES] if isinstance(loss(), nn.MSELoss) else Y
    assert_same((3,), loss=loss, data=lambda: loader((X, targets)), clip_gradients=0.5)


@in_turn("loss", [lambda scores, labels: (scores ** 2).mean() ** 0.5,
                  lambda scores, labels: (scores ** 2).sum(),
                  lambda scores, labels: ((scores - scores.mean(0)) ** 2).mean()])
def test_losses_that_are_not_put_together_of_those_of_parts(loss):
    """A function that sums is taken for a mean, as nobody can tell."""
    with pytest.raises(ConfigError, match=r"^rank 0: Solver.of: the loss of 2 records is \S+, but the mean "
                                          r"of those of two ranks that have 1 each is \S+: Sequential or the "
                                          r"loss computes something between records. Use one process"):
        run_ranks(3, lambda one: solver_of(one, loss=lambda: loss))
    solver_of(loss=lambda: loss).step(1)


def test_a_loss_near_zero_may_be_all_rounding():
    """As that of a model that has been trained."""
    run_ranks(2, lambda one: solver_of(
        one, loss=lambda: lambda scores, labels: (1e-9 * scores + 3e5).mean() - 3e5).step(1))


def test_a_function_that_draws_and_statistics_of_batches_are_left_to_the_user(caplog):
    noise = nn.Lambda(lambda x: x + np.random.default_rng().standard_normal(x.shape))
    for layer in (nn.BatchNorm(32), noise):
        run_ranks(2, lambda one, layer=layer: solver_of(one, model=lambda: net(copy.deepcopy(layer))).step(1))
    assert "takes its statistics of the samples of each rank" in caplog.text


class Unshaped(nn.Module):
    def __init__(self):
        self.scores = nn.Linear(INPUTS, CLASSES)

    def forward(self, x):
        return self.scores(x) * (1 / x.shape[0])


@in_turn("options, said", [
    ({"data": lambda: loader(size=22)}, "batch_size that is a multiple of 3, the number of ranks .* got 22"),
    ({"data": lambda: loader((X[:35], Y[:35]))},
     r"of an epoch has 11 records, which 3 ranks cannot share equally \(2 would be left\); .* drop_last"),
    ({"data": lambda: loader((X[:9], Y[:9]))}, "at least one whole batch of 24 records for 3 ranks.* got 9"),
    ({"data": stream(drop_last=False)}, "does not know its length, .* which 3 ranks cannot share; let it "
                                        "drop_last, or give it a length"),
    ({"data": lambda: loader(collate=lambda records: (np.ones((5, INPUTS)), np.zeros(5)), drop_last=True)},
     r"x has shape \(5, 12\) in a batch of 24 records and \(5, 12\) in one of 8, .* `collate`"),
    ({"model": Unshaped, "data": lambda: loader(drop_last=True)},
     "of a batch each of 3 ranks has 8 records in place of 24, and for it the forward of Unshaped "
     "describes another net, .* or use one process")])
def test_what_ranks_cannot_share(options, said):
    with pytest.raises((ConfigError, DataError), match=f"^[^\n]*{said}[^\n]*$"):
        run_ranks(3, lambda one: solver_of(one, **options))


@in_turn("what, said", [
    (lambda rank: {"data": lambda: loader(seed=rank)}, "training loader: .*'seed': 1.* rank 0 .*'seed': 0"),
    (lambda rank: {"data": lambda: loader((X + rank, Y))}, "first batch of the training loader: "),
    (lambda rank: {"test": loader(size=4 + rank)}, "loader of test 0: .*'batch_size': 5"),
    (lambda rank: {"test": {"a": loader(), "b": loader((X[rank:], Y[rank:]))}}, "loader of test 1: .*: 35"),
    (lambda rank: {"test": loader((X + rank, Y))}, "first batch of the loader of test 0: "),
    (lambda rank: {"clip_gradients": 1.0 + rank}, "clip_gradients: 2"),
    (lambda rank: {"model": lambda: net(nn.Dropout(0.1 + rank / 4))}, "dropout_ratio: 0.35")])
def test_ranks_that_are_made_otherwise(what, said):
    """As where a script gives each rank records of its own."""
    with pytest.raises(ParallelError, match=f"^rank 1 was started otherwise than rank 0: .*{said}.*; let "
                                            f"every rank make the same objects, .* and the whole dataset$"):
        run_ranks(2, lambda one: solver_of(one, **what(one.rank)))


@in_turn("given, kind", [(3, "int"), (lambda: None, "function"), (Alone, "the class Alone")])
def test_what_is_no_communicator(given, kind):
    """As mpi4py's MPI.COMM_WORLD, or `world` without a call."""
    message = f"communicator: expected what minidrop.solver.mpi.world() returns, got {kind}"
    for make in (solver_of, Ranks):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            make(given)


def test_a_test_loader_of_which_one_rank_has_looked_at_a_batch():
    def work(one=None):
        test = loader()
        if one is not None and one.rank:
            next(iter(test))
        return solver_of(one, test=test).test()["loss"]
    assert run_ranks(2, work) == pytest.approx([work()] * 2, rel=1e-12)


def test_weights_that_differ():
    def work(one):
        model = net().to("cpu", "float64").set_seed(5)
        model(X[:1])
        model[0].weight.data[0, 0] += one.rank
        solver_of(one, model=lambda: model)
    with pytest.raises(ParallelError, match="rank 1 has other weights than rank 0, of 0/weight"):
        run_ranks(2, work)


@in_turn("model, size", [(lambda: net(nn.ApproxDropout(0.5, groups=2)), BATCH),
                         (lambda: Sequences(stateful=True), 12)])
def test_a_run_resumed_with_another_number_of_ranks(model, size, tmp_path):
    """And the loop by hand that goes on: the objects stand where those of one process do."""
    options = {"model": model, "data": lambda: loader(SEQUENCES if size == 12 else (X, Y), size),
               "ema_decay": 0.9, "test_interval": 100}
    expected, path = trained(**options), tmp_path / "s.h5"

    def first(communicator=None):
        solver = solver_of(communicator, **options)
        solver.step(3)
        solver.snapshot(path)

    def second(communicator=None):
        solver = solver_of(communicator, **options)
        solver.restore(path)
        solver.step(3)
        return state_of(solver)
    for before, after in ((3, 2), (2, 1), (1, 4), (2, 2)):
        run_ranks(before, first)
        for found in run_ranks(after, second):
            assert_equal(found, expected)


def test_tests_and_early_stopping_see_all_ranks():
    def events(communicator=None):
        found = []
        solver = solver_of(communicator, test=DataLoader(ArrayDataset(X[:31], Y[:31]), 4), test_interval=2,
                           metrics={"accuracy": nn.Accuracy()}, max_iter=9, display=3,
                           early_stopping=md.EarlyStopping("accuracy", "max", patience=2))
        solver.add_callback(lambda event: found.append((event.kind, event.iteration, dict(event.values))))
        solver.solve()
        return found
    one = events()
    for several in run_ranks(3, events):
        assert [event[:2] for event in several] == [event[:2] for event in one]
        for (_, _, found), (_, _, expected) in zip(several, one, strict=True):
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


@in_turn("own, others", [("snapshot", "step"), ("test", "step"), ("snapshot", "restore"), ("solve", "test"),
                         ("step", "solve")])
def test_calls_that_one_rank_makes_alone(own, others, tmp_path):
    """As in `if ranks.rank == 0: solver.snapshot()`: what the others do next would never end, or fail."""
    def train(communicator):
        solver, call = solver_of(communicator, test=loader()), own if communicator.rank == 0 else others
        getattr(solver, call)(*[tmp_path / "s.h5"] * (call in ("snapshot", "restore")))

    with pytest.raises(ParallelError, match=f"rank 0 calls {own}, rank 1 calls {others}: every rank has to "
                                            f"make the same calls in the same order"):
        run_ranks(3, train)
    assert not list(tmp_path.iterdir())


@in_turn("kind, call", [(kind, call) for kind in ("test", "step", "display") for call in ("solve", "step")])
def test_one_rank_that_stops_stops_all(kind, call):
    def train(communicator):
        solver = solver_of(communicator, test=loader(size=18), test_interval=2, display=1, max_iter=6)

        @solver.add_callback
        def stop(event):
            if event.kind == kind and event.iteration == 2 and communicator.rank == 1:
                raise md.StopTraining
        getattr(solver, call)(*[6] * (call == "step"))
        return solver.iteration

    assert run_ranks(2, train) == [3 if kind == "display" else 2] * 2
