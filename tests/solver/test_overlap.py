"""Gradients that travel while the backward pass runs: the same bits as at its end."""

import pytest
from nets import drop, ip, layer
from parallel_nets import (
    FINE,
    LOSS,
    broken,
    conv_net,
    language_model,
    memory,
    mlp_with,
    solver_of,
    trained,
    write_text,
)

from minidrop.backend import get_backend
from minidrop.errors import DataError
from minidrop.solver.parallel import GradientSum
from minidrop.solver.ranks import Ranks
from minidrop.testing import run_ranks


def assert_overlap_changes_nothing(layers, settings="", ranks=(2, 3, 4), iterations=3):
    """Weights and losses are the same to the last bit, in whatever buckets, early or late."""
    for size in ranks:
        found = [run_ranks(size, lambda one, how=f"{settings} {how}": trained(layers, how, one, iterations))
                 for how in ("layer_wise_reduce: false reduce_bucket: 100000", "reduce_bucket: 1",
                             "reduce_bucket: 200", "layer_wise_reduce: false reduce_bucket: 1")]
        expected, losses = found[0][0]
        for weights, own in (one for run in found for one in run):
            assert own == losses
            for name, values in expected.items():
                assert (weights[name] == values).all(), name


@pytest.mark.parametrize("kind", ["Dropout", "PERIODIC groups: 1", "PERIODIC groups: 4", "TILE"])
def test_a_perceptron(kind):
    assert_overlap_changes_nothing(mlp_with(kind), "momentum: 0.9 clip_gradients: 0.5", (2, 3))


def test_passes_of_which_the_last_sends():
    assert_overlap_changes_nothing(mlp_with("PERIODIC groups: 2"), "iter_size: 3 ema_decay: 0.9", (4,))


def test_labels_that_are_ignored():
    """Ranks divide by what counts on all, which is known before the last pass backward."""
    one = mlp_with("PERIODIC")[:-1]
    loss = layer("SoftmaxWithLoss", "loss", "ip2 label", more="loss_param { ignore_label: 2 }")
    other = layer("SoftmaxWithLoss", "other", "ip2 label", more="loss_param { ignore_label: 3 }")
    for losses in ([loss], [loss, other]):
        assert_overlap_changes_nothing([*one, *losses], "iter_size: 2", (3,))


def test_shared_parameters():
    """The second product that reads a weight completes its gradient; a third weight is read in between."""
    shared = 'param { name: "w" } param { name: "b" }'
    net = [memory(), ip("ip0", "data", 16, fillers=FINE), ip("ip1", "ip0", 16, more=shared, fillers=FINE),
           layer("ReLU", "relu1", "ip1"), ip("between", "relu1", 16, fillers=FINE),
           ip("again", "between", 16, more=shared, fillers=FINE), ip("ip2", "again", 7, fillers=FINE), LOSS]
    assert_overlap_changes_nothing(net, ranks=(3,))


def test_rows_that_only_some_ranks_read(tmp_path):
    lstm = layer("LSTM", "h", "embed cont", more="recurrent_param { num_output: 6 weight_filler { type: "
                                                 '"uniform" min: -0.3 max: 0.3 } }')
    assert_overlap_changes_nothing(language_model(write_text(tmp_path), lstm), ranks=(3,))


def test_a_convolutional_net():
    assert_overlap_changes_nothing(conv_net(drop("drop1", "relu1", "PERIODIC groups: 4", top="relu1")),
                                   ranks=(2,))


def test_buckets_begin_to_travel_before_backward_ends():
    """The last layer's first; that of the first layer waits for the end."""
    net = [*mlp_with("PERIODIC groups: 1"), ip("aside", "relu1", 3, fillers=FINE),
           'layer { name: "silence" type: "Silence" bottom: "aside" }']

    def work(communicator):
        solver = solver_of(net, "reduce_bucket: 1", communicator)
        told, net_backward = [], solver.net.backward

        def backward(*given):
            net_backward(*given)
            told.append("end")
        solver.net.backward = backward
        solver.gradient_sum.listeners.append(lambda number, begins: told.append((number, begins)))
        solver.step()
        names = list(reversed(solver.updater.parameters))
        return [names[number] for number, begins in (one for one in told[:told.index("end")] if one != "end")
                if begins], sorted(one for one in told if one != "end") == sorted(
                    (n, begins) for n in range(len(names)) for begins in (False, True))
    for before, complete in run_ranks(2, work):
        assert {"ip2/weight", "ip2/bias", "aside/weight", "aside/bias"} <= set(before) and complete
        assert "ip1/weight" not in before


@pytest.mark.parametrize("bucket", [1, 100000])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_backward_pass_that_fails_on_one_rank_fails_on_all(bucket, rank, monkeypatch):
    """Whatever has travelled by then; the weights stay as they were, and training can go on."""
    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC"), f"reduce_bucket: {bucket}", communicator)
        solver.step(2)
        before = {name: p.data.copy() for name, p in solver.net.parameters().items()}
        backward = solver.net.backward

        solver.net.backward = broken(backward, monkeypatch, communicator.rank == rank)
        with pytest.raises(DataError, match=f"rank {rank}: .*this rank cannot"):
            solver.step()
        assert all((before[name] == p.data).all() for name, p in solver.net.parameters().items())
        solver.net.backward = backward
        solver.step()
        return solver.losses[-1]
    assert len(set(run_ranks(3, work))) == 1


def test_an_empty_sum():
    """A solver that trains nothing in this iteration still agrees with the others."""
    def work(communicator):
        total = GradientSum(Ranks(communicator), get_backend("cpu"))
        total.add({}, 0.5)
        return total.entries
    assert run_ranks(2, work) == [0, 0]
