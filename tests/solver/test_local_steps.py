"""Local SGD: ranks that update by themselves, and average now and then."""

import numpy as np
import pytest
from nets import layer
from parallel_nets import mlp_with, solver_of, trained, weights

from minidrop.errors import NonFiniteError
from minidrop.solver.ranks import bytes_to_add
from minidrop.testing import run_ranks


def states(solver):
    """All that ranks average."""
    return {**weights(solver), **{f"{name} history {i}": array.copy()
                                  for name, arrays in solver.updater.history.items()
                                  for i, array in enumerate(arrays)}}


@pytest.mark.parametrize("settings", ["", "momentum: 0.9 weight_decay: 0.01", "iter_size: 2 ema_decay: 0.9"])
@pytest.mark.parametrize("size", [2, 3])
def test_an_average_every_iteration_is_the_mean_gradient(settings, size):
    """For SGD, up to rounding; also where labels are ignored, and for losses that are sums."""
    losses = [layer("SoftmaxWithLoss", "main", "ip2 label", more="loss_param { ignore_label: 2 }"),
              layer("SoftmaxWithLoss", "other", "ip2 label",
                    more="loss_weight: 0.3 loss_param { ignore_label: 3 }"),
              layer("SoftmaxWithLoss", "summed", "ip2 label",
                    more="loss_weight: 0.01 loss_param { normalization: NONE }")]
    for own in (losses[:1], losses):
        net = [*mlp_with("PERIODIC groups: 1")[:-1], *own]
        expected, values = trained(net, settings)
        local = f"{settings} average_interval: 1"
        for found, seen in run_ranks(size, lambda one, net=net, local=local: trained(net, local, one)):
            np.testing.assert_allclose(seen, values, rtol=0, atol=1e-10)
            for name, array in expected.items():
                np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_ranks_differ_in_between_and_are_equal_after_each_average(rule):
    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC groups: 1"), f'type: "{rule}" momentum: 0.9 ema_decay: 0.5 '
                                                 f"average_interval: 3", communicator)
        found = []
        for _ in range(7):
            solver.step()
            found.append((states(solver), solver.net.masks(), solver.losses[-1],
                          {name: array.copy() for name, array in solver.ema.averages.items()}))
        assert solver.gradient_sum.sent == 0 and solver.local_steps.sent == sum(
            bytes_to_add(array.size, 8, 3, rank=communicator.rank)
            for array in (*found[0][0].values(), *found[0][3].values()))
        return found
    runs = run_ranks(3, work)
    for iteration, (first, *others) in enumerate(zip(*runs, strict=True), 1):
        for other in others:
            assert other[2] == first[2]
            assert all((other[1][name] == mask).all() for name, mask in first[1].items())
            for own, same in ((first[0], other[0]), (first[3], other[3])):
                equal = all((same[name] == array).all() for name, array in own.items())
                assert equal == (iteration % 3 == 0)


def test_an_average_is_the_mean_of_what_the_ranks_had():
    def work(communicator, interval):
        solver = solver_of(mlp_with("PERIODIC"), f"momentum: 0.9 average_interval: {interval}", communicator)
        solver.step(2)
        return states(solver)
    apart, joined = (run_ranks(2, lambda one, k=k: work(one, k)) for k in (3, 2))
    for name, array in joined[0].items():
        np.testing.assert_allclose(array, (apart[0][name] + apart[1][name]) / 2, rtol=1e-12, atol=1e-15)
        assert (apart[0][name] != apart[1][name]).any()


def test_tests_and_snapshots_average_first_and_a_resumed_run_is_the_same(tmp_path):
    test = 'test_iter: 2 test_interval: 5 test_net_param { ' + " ".join(mlp_with("PERIODIC")) + " }"

    def work(communicator, resume):
        solver = solver_of(mlp_with("PERIODIC"), f"momentum: 0.9 average_interval: 4 snapshot: 6 {test}",
                           communicator, snapshot_prefix=tmp_path / "run")
        if resume:
            solver.restore(tmp_path / "run_iter_6.h5")
            solver.step(5)
            return states(solver), list(solver.losses)
        equal = []
        solver.add_callback(lambda event: equal.append((event.kind, event.iteration, weights(solver)))
                            if event.kind in ("test", "snapshot") else None)
        solver.step(11)
        return states(solver), list(solver.losses), equal
    whole, again = (run_ranks(2, lambda one, resume=resume: work(one, resume)) for resume in (False, True))
    assert [one[:2] for one in whole[0][2]] == [("test", 0), ("test", 5), ("snapshot", 6), ("test", 10)]
    for (*_, one), (*_, other) in zip(whole[0][2], whole[1][2], strict=True):
        assert all((one[name] == array).all() for name, array in other.items())
    for before, after in zip(whole, again, strict=True):
        assert before[1][-1:] == after[1][-1:]
        assert all((after[0][name] == array).all() for name, array in before[0].items())


@pytest.mark.parametrize("ends", ["", "stopped"])
def test_training_ends_with_an_average(ends):
    """Also where neither a snapshot nor a test needs one."""
    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC"), "average_interval: 4 max_iter: 6 "
                                                 "snapshot_after_train: false", communicator)
        solver.solve(lambda solver: bool(ends) and solver.iteration == 3)
        return states(solver)
    one, other = run_ranks(2, work)
    assert all((other[name] == array).all() for name, array in one.items())


def test_a_gradient_that_is_broken_on_one_rank_stops_all():
    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC"), "average_interval: 5", communicator)

        def spoil(parameters):
            if communicator.rank:
                parameters["ip2/bias"].blocks[0].data[0] = np.nan
        before = states(solver)
        solver.after_backward.append(spoil)
        with pytest.raises(NonFiniteError, match="rank 1: .*the gradient of ip2/bias .*nothing was updated"):
            solver.step()
        return all((before[name] == array).all() for name, array in states(solver).items())
    assert run_ranks(2, work) == [True, True]


def test_alone_it_does_nothing():
    net = mlp_with("PERIODIC")
    (one, losses), (other, same) = trained(net), trained(net, "average_interval: 2")
    assert losses == same and all((other[name] == array).all() for name, array in one.items())
