"""Captured iterations of several ranks: gradients, losses and errors travel within the graphs."""

import re

import numpy as np
import pytest
from nets import drop, ip, layer
from parallel_nets import FINE, LOSS, conv_net, feed, language_model, memory, mlp, mlp_with, write_text

from minidrop.autograd.graph import Watch
from minidrop.backend.device_sets import MovingKept
from minidrop.config import parse_solver
from minidrop.errors import DataError, NonFiniteError
from minidrop.kept import Kept
from minidrop.net.run import Run
from minidrop.solver import Solver
from minidrop.solver.places import WHOLE, Place, read, written
from minidrop.testing import run_ranks

ITERATIONS = 9


def solver_on(backend, layers, settings="", communicator=None, records=50, dtype="float64"):
    text = (f'base_lr: 0.1 max_iter: 99 lr_policy: "fixed" momentum: 0.9 random_seed: 5 {settings} '
            f'net_param {{ {" ".join(layers)} }}')
    solver = Solver(parse_solver(text, "s"), device=backend, communicator=communicator, dtype=dtype)
    feed(solver, records)
    return solver


def state(solver):
    """{what: array} of all that training changes."""
    host = solver.net.backend.to_host
    found = {name: host(p.data).copy() for name, p in solver.net.parameters().items()}
    found |= {f"{name}/{i}": host(one).copy() for name, own in solver.updater.history.items()
              for i, one in enumerate(own)}
    return {**found, "losses": np.array(solver.losses)}


def trained(backend, layers, settings, communicator, launches=True, **options):
    """Return (state, launches, the problem) after some iterations."""
    solver = solver_on(backend, layers, f"average_loss: {ITERATIONS} {settings}", communicator, **options)
    if solver.captured is not None:
        solver.captured.launches = launches
    solver.step(ITERATIONS)
    found = state(solver), solver.captured and solver.captured.replayed, solver.captured and (
        solver.captured.problem)
    solver.close()
    return found


def two_drops(kind, more=""):
    """Products between drops, whose gradients have rows and columns."""
    return [memory(), ip("ip1", "data", 40, fillers=FINE), layer("ReLU", "relu1", "ip1"),
            drop("drop1", "relu1", kind, "relu1", f"dropout_ratio: 0.5 {more}"),
            ip("ip3", "relu1", 32, fillers=FINE), layer("TanH", "tanh", "ip3"),
            drop("drop2", "tanh", kind, "tanh", f"dropout_ratio: 0.5 {more}"),
            ip("ip2", "tanh", 7, fillers=FINE), LOSS]


NETS = {
    "one group": (two_drops("PERIODIC", "groups: 1"), "reduce_bucket: 1 clip_gradients: 0.5"),
    "two groups": (two_drops("PERIODIC", "groups: 2"), "reduce_bucket: 100"),
    "a group that is not on every rank": (two_drops("PERIODIC", "groups: 6"), ""),
    "at the end": (two_drops("ROW", "groups: 1"), "layer_wise_reduce: false"),
    "SLICE": (two_drops("SLICE", "groups: 1"), "reduce_bucket: 300 ema_decay: 0.9"),
    "TILE": (two_drops("TILE"), 'type: "Adam" log_gradient_norm: true'),
    "Dropout": (mlp_with("Dropout"), "regularization_type: 'L1' weight_decay: 0.01"),
    "channels": (conv_net(drop("drop1", "relu1", "PERIODIC", "relu1", "dropout_ratio: 0.5 axis: 1")), ""),
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.full if name in ("at the end", "SLICE", "TILE") else ())
    for name in NETS])
def test_a_training(linked_cuda, name):
    """Bits are those without graphs, and on all ranks; the values those of ranks on the CPU."""
    layers, settings = NETS[name]
    size = 3 if "not on every" in name else 2
    captured, by_pieces = (run_ranks(size, lambda one, launches=launches: trained(
        linked_cuda(one), layers, settings, one, launches)) for launches in (True, False))
    on_cpu = run_ranks(size, lambda one: trained("cpu", layers, settings, one))
    for (found, launches, problem), (pieces, none, _), (expected, *_) in zip(captured, by_pieces, on_cpu,
                                                                          strict=True):
        assert problem == "" and none == 0
        assert launches > (4 if "PERIODIC" in str(layers) else 0)
        assert found.keys() == expected.keys()
        for what, values in expected.items():
            np.testing.assert_array_equal(found[what], pieces[what], err_msg=what)
            np.testing.assert_array_equal(found[what], captured[0][0][what], err_msg=what)
            np.testing.assert_allclose(found[what], values, rtol=1e-9, atol=1e-11, err_msg=what)


@pytest.mark.parametrize("settings", ["", "capture_steps: false"])
@pytest.mark.parametrize("rate", [0.5, 0.75])           # at .75 two groups are smaller than the table
def test_a_text_whose_states_are_carried(linked_cuda, tmp_path, rate, settings):
    """Which rows of a table a batch reads its device alone knows, so all of them travel."""
    recurrent = layer("LSTM", "h", "drop cont", more=f"recurrent_param {{ num_output: 10 {FINE} }}")
    below = drop("drop", "embed", "PERIODIC", "drop", f"step: 4 dropout_ratio: {rate}")
    layers = language_model(write_text(tmp_path), below, recurrent)
    found = run_ranks(2, lambda one: trained(linked_cuda(one), layers, settings, one))
    expected = run_ranks(2, lambda one: trained("cpu", layers, settings, one))
    for (own, launches, problem), (wanted, *_) in zip(found, expected, strict=True):
        assert (problem, launches) == (None, None) if settings else problem == "" and launches > 4
        for what, values in wanted.items():
            np.testing.assert_allclose(own[what], values, rtol=1e-9, atol=1e-11, err_msg=what)


def test_sixteen_bits_on_the_way(linked_cuda):
    layers, settings = two_drops("PERIODIC", "groups: 2"), 'wire: "bfloat16"'
    runs = [run_ranks(2, lambda one, launches=launches: trained(
        linked_cuda(one), layers, settings, one, launches, dtype="float32")) for launches in (True, False)]
    for (found, launches, _), (pieces, *_) in zip(*runs, strict=True):
        assert launches > 4
        for what, values in pieces.items():
            np.testing.assert_array_equal(found[what], values, err_msg=what)


def test_streams_and_events_of_a_graph(linked_cuda):
    """No event is asked while a step is captured, and the stream that computes waits for each bucket."""
    def work(communicator):
        backend = linked_cuda(communicator)
        solver = solver_on(backend, two_drops("PERIODIC", "groups: 1"), "reduce_bucket: 1", communicator)
        solver.step(1)
        del backend.fake.log[:]
        solver.step(1)
        log = [line.split()[0] if line[:4] in ("send", "recv") else line for line in backend.fake.log]
        del backend.fake.log[:]
        solver.step(1)
        launched = [line for line in backend.fake.log if line != "event on compute"]    # as the host waits
        solver.close()
        return log[1:-1], launched
    one = ["event on compute", "link waits for compute", *["send", "recv"] * 2, "event on link"]
    waits = "compute waits for link"
    for log, launched in run_ranks(2, work):
        assert launched == []       # a launch makes no call
        # A bucket for each of six parameters, of which none waits for another, and then the loss.
        assert log[-8:] == [*one, waits] and log.count(waits) == 7
        assert [line for line in log if line != waits] == one * 7
        assert log.index(waits) > log.index("event on link") + 6       # another bucket goes beside the first


@pytest.mark.parametrize("display", ["", "display: 4"])
def test_a_loss_that_is_not_finite_on_one_rank(linked_cuda, display):
    """All raise it in the same iteration, whoever has looked at losses, and go back to the one before."""
    def work(communicator):
        backend = linked_cuda(communicator)
        solver = solver_on(backend, two_drops("PERIODIC", "groups: 1"), display, communicator)
        seen = []
        if communicator.rank == 0:
            solver.add_callback(lambda event: event.kind == "step" and seen.append(event.values["loss"]))
        solver.step(5)
        before = state(solver)
        broken = np.random.default_rng(0).standard_normal((50, 13, 1, 1))
        broken[np.arange(40, 50, 2) + 1] = np.nan       # records of rank 1 alone, from iteration 8 on
        solver.net.set_input_arrays(broken, np.zeros(50, int), "data")
        with pytest.raises(NonFiniteError, match=r"iteration 8: the loss is .*data hold a NaN"):
            solver.step(60)
        return before, state(solver), solver.iteration, len(seen)
    (_, first, iteration, seen), (_, second, *_) = run_ranks(2, work)
    assert iteration == 8 and seen >= 8
    for what in first:
        if what != "losses":
            np.testing.assert_array_equal(first[what], second[what])
            assert np.isfinite(first[what]).all()


@pytest.mark.parametrize("call", [lambda solver: solver.step(8), Solver.solve], ids=["step", "solve"])
def test_an_error_near_the_end(linked_cuda, call):
    """Nothing reads its loss any more, and all ranks raise it."""
    def work(communicator):
        solver = solver_on(linked_cuda(communicator), two_drops("PERIODIC", "groups: 1"),
                           "snapshot_after_train: false", communicator)
        data = np.random.default_rng(0).standard_normal((12 * 9, 13, 1, 1))
        data[12 * 6] = np.nan
        solver.net.set_input_arrays(data, np.zeros(len(data), int), "data")
        seen = []
        solver.add_callback(lambda event: seen.append(event.values["loss"]))
        solver.settings.max_iter = 8
        with pytest.raises(NonFiniteError, match="iteration 6"):
            call(solver)
        assert solver.iteration == 6
        return np.isfinite(seen).tolist()
    for finite in run_ranks(2, work):       # a loss is never that of an earlier iteration
        assert finite == [True] * 6 + [False] * 2


@pytest.mark.parametrize("iteration", [0, 1, 2])
def test_a_backward_pass_that_fails_on_one_rank(linked_cuda, monkeypatch, iteration):
    """With a bucket for each parameter, which are complete in another order than the one they are sent in."""
    def work(communicator):
        solver = solver_on(linked_cuda(communicator), mlp_with("PERIODIC groups: 1"), "reduce_bucket: 1",
                           communicator)
        solver.step(iteration)
        fails.append(solver.net) if communicator.rank == 1 else None
        if iteration == 2:      # it is a launch, in which nothing can fail
            solver.step()
        else:
            with pytest.raises(DataError, match="rank 1: this rank cannot"):
                solver.step()
        fails.clear()
        solver.step(3)
        return solver.losses[-1]

    class Fails(Watch):
        """Lets backward fail when two gradients are complete."""

        def __init__(self, inner):
            self.inner, self.left = inner, 2
            self.begin, self.has_run = inner.begin, inner.has_run

        def complete(self, leaf):
            self.inner.complete(leaf)
            self.left -= 1
            if not self.left:
                raise DataError("this rank cannot")
    fails, compute = [], Run.backward
    monkeypatch.setattr(Run, "backward", lambda self, scale, watch: compute(
        self, scale, Fails(watch) if self.net in fails else watch))
    assert len(set(run_ranks(2, work))) == 1


def test_what_only_one_rank_knows(linked_cuda):
    """A hook that only one rank has makes its graphs anew, and no other launches meanwhile."""
    def work(communicator):
        solver = solver_on(linked_cuda(communicator), two_drops("PERIODIC", "groups: 1"), "", communicator)
        solver.step(4)
        if communicator.rank == 0:
            solver.after_backward.append(lambda parameters: None)
        solver.step(4)
        return solver.captured.replayed, solver.losses[-1]
    found = run_ranks(2, work)
    assert found[0] == found[1] and found[0][0] == 3 + 3


def test_a_record_that_one_rank_cannot_read(linked_cuda):
    def work(communicator):
        solver = solver_on(linked_cuda(communicator), two_drops("PERIODIC", "groups: 1"), "", communicator)
        solver.step(3)
        read = solver.net.read

        def fail():
            raise DataError("this record is broken")
        if communicator.rank == 1:
            solver.net.read = fail
        with pytest.raises(DataError, match="rank 1: this record is broken"):
            solver.step()
        solver.net.read = read
        solver.step(2)
        return solver.losses[-1]
    assert len(set(run_ranks(2, work))) == 1


def test_a_layer_that_asks_for_a_value_on_one_rank(linked_cuda, own_layer):
    """It cannot be captured there: all go on without graphs, with the bits of a training that has none."""
    own_layer.capturable = True
    layers = mlp(layer(own_layer.type, "double", "relu1", "relu1"))

    def work(communicator, settings, asks):
        backend = linked_cuda(communicator)
        solver = solver_on(backend, layers, settings, communicator)
        solver.net.layers["double"].asks = asks and communicator.rank == 1
        solver.step(5)
        return state(solver), solver.captured and solver.captured.problem
    found = run_ranks(2, lambda one: work(one, "", True))
    expected = run_ranks(2, lambda one: work(one, "capture_steps: false", False))
    for (own, problem), (wanted, _) in zip(found, expected, strict=True):
        assert "there is no value yet" in problem
        for what, values in wanted.items():
            np.testing.assert_allclose(own[what], values, rtol=1e-12, atol=1e-14, err_msg=what)


@pytest.mark.parametrize(("layers", "settings", "problem"), [
    (two_drops("PERIODIC"), "average_interval: 2", "average_interval is set"),
    (two_drops("BLOCK"), "", "the blocks of a part of a batch have no grid of their own"),
    ([*mlp()[:-1], layer("SoftmaxWithLoss", "loss", "ip2 label", more="loss_param { ignore_label: 3 }")], "",
     r"how much a rank's batch weighs in loss 'loss' \(SoftmaxWithLoss\) depends on its labels")])
def test_what_is_not_captured(linked_cuda, layers, settings, problem):
    def work(communicator):
        solver = solver_on(linked_cuda(communicator), layers, settings, communicator)
        solver.step(3)
        return solver.captured.problem, solver.captured.replayed
    for said, launches in run_ranks(2, work):
        assert re.fullmatch(problem, said) and launches == 0


def test_gradients_that_come_through_the_host(recorded_cuda):
    def work(communicator):
        solver = solver_on(recorded_cuda(), two_drops("PERIODIC"), "", communicator)
        solver.step(3)
        return solver.captured.problem
    assert run_ranks(2, work) == ["gradients of other ranks come through the host"] * 2


@pytest.mark.parametrize(("groups", "entries"), [
    (1, 24 * 13 + 24 + 16 * 24 + 16 + 7 * 16 + 7),      # 20 of 40 units, with room for 24; 16 of 32
    # Each rank has one group: rows of both in ip1, which are more than all, and two blocks in ip3.
    (2, 40 * 13 + 40 + 2 * 16 * 24 + 32 + 7 * 32 + 7)])
def test_what_travels_is_compact(linked_cuda, groups, entries):
    def work(communicator):
        layers = two_drops("PERIODIC", f"step: 4 groups: {groups}")
        solver = solver_on(linked_cuda(communicator), layers, "", communicator)
        solver.step(3)
        return solver.captured.replayed, solver.gradient_sum.entries, solver.gradient_sum.whole_entries
    assert run_ranks(2, work) == [(2, entries, 40 * 14 + 32 * 41 + 7 * 33)] * 2


def test_sets_of_a_device_are_written_down_by_their_place_in_a_list():
    moving = [MovingKept(Kept(0, 2, 1, total), np.zeros(1, np.int32)) for total in (10, 10, 6)]
    places = [[Place(moving[1], None), Place(moving[0], moving[2].spread(3))],
              [Place(moving[2].repeated(4), None)], [WHOLE]]
    found = list(read(written(places, moving), 3, moving))
    assert found == places
    assert found[0][0].rows is moving[1] and found[1][0].rows is moving[2].repeated(4)
