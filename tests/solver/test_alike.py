"""Ranks that were started differently say so before they train."""

import pytest
from parallel_nets import mlp, mlp_with, solver_of

from minidrop.errors import ParallelError
from minidrop.solver.communicator import Alone
from minidrop.testing import run_ranks


@pytest.mark.parametrize(("settings", "options", "said"), [
    ("momentum: 0.5", {}, "it has solver: momentum: 0.5"),
    ('wire: "bfloat16"', {}, 'it has solver: wire: "bfloat16"'),
    ("max_iter: 7", {}, "it has solver: max_iter: 7; rank 0 has solver: max_iter: 50"),
    ("", {"dropout": "conventional"}, 'it has dropout: conventional; rank 0 has dropout: None')])
def test_another_description(settings, options, said):
    """With another max_iter the ranks would wait for each other for ever."""
    def work(communicator):
        own = communicator.rank == 1
        with pytest.raises(ParallelError) as error:
            solver_of(mlp_with("PERIODIC"), settings if own else "", communicator, **(options if own else {}))
        return str(error.value)
    assert run_ranks(3, work) == [f"rank 1 was started otherwise than rank 0: {said}; start all ranks with "
                                  f"the same files and options"] * 3


def test_the_device_of_a_rank_is_its_own_affair():
    def work(communicator):
        more = "device_id: 1" if communicator.rank else "solver_mode: CPU"
        return solver_of(mlp_with("PERIODIC"), more, communicator).settings.device_id
    assert run_ranks(2, work) == [0, 1]


def test_another_net():
    def work(communicator):
        with pytest.raises(ParallelError, match=r"it has .*: dropout_ratio: 0.25; rank 0 has .*: 0.5"):
            solver_of([layer.replace("dropout_ratio: 0.5", f"dropout_ratio: {0.5 / (1 + communicator.rank)}")
                       for layer in mlp_with("PERIODIC dropout_ratio: 0.5")], "", communicator)
    run_ranks(2, work)


@pytest.mark.parametrize("size", ["1", "3"])
def test_processes_that_do_not_train_a_solver_file_together_are_warned(size, monkeypatch, caplog):
    """Each would train the whole net, and write the others' snapshots. Alone() says that it is meant so."""
    said = "a launcher has started 3 processes, and each of them trains the whole model by itself"
    monkeypatch.setenv("PMI_SIZE", size)
    solver_of(mlp(), "", Alone()).close()
    assert said not in caplog.text
    solver_of(mlp()).close()
    assert caplog.text.count(said) == (size == "3")
