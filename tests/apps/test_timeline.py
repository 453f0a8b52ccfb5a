"""A timeline: spans of every part of an iteration, on each rank."""

import json

import pytest
from parallel_nets import mlp_with, solver_of

from minidrop.apps.timeline import timeline
from minidrop.testing import run_ranks


def spans(events, part, pid=0):
    return [event for event in events if event.get("cat") == part and event["pid"] == pid]


def assert_inside(inner, outer):
    assert outer["ts"] - 1 <= inner["ts"]
    assert inner["ts"] + inner.get("dur", 0) <= outer["ts"] + outer["dur"] + 1


def test_one_process(tmp_path):
    path = tmp_path / "trace.json"
    solver = solver_of(mlp_with("PERIODIC"), "iter_size: 2")
    with timeline(solver, path, 2):
        solver.step(2)
        assert not solver.callbacks and "step" not in vars(solver.steps)        # nothing is recorded any more
        assert json.loads(path.read_text())["traceEvents"]
        path.rename(tmp_path / "moved.json")
        solver.step()
    assert not path.exists()
    path = tmp_path / "moved.json"
    solver.step()
    events = json.loads(path.read_text())["traceEvents"]
    iterations = spans(events, "iteration")
    assert [one["args"]["iteration"] for one in iterations] == [0, 1]
    for part, layers in (("forward", ["data", "ip1", "relu1", "drop1", "ip2", "loss"]),
                         ("backward", ["ip2", "ip1", "loss"]), ("update", [""])):
        names = {f"{part} {name}".strip() for name in layers}
        found = spans(events, part)
        assert names <= {one["name"] for one in found}
        for one in found:
            assert_inside(one, iterations[one["args"]["iteration"]])
    assert not spans(events, "reduce") and len(spans(events, "update")) == 2
    assert sum(one["name"] == "forward ip1" for one in events) == 4


def test_ranks_whose_buckets_begin_before_backward_ends(tmp_path):
    path = tmp_path / "trace.json"

    def work(communicator):
        solver = solver_of(mlp_with("PERIODIC"), "reduce_bucket: 1", communicator)
        with timeline(solver, path):
            solver.step(2)
    run_ranks(2, work)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {"rank 0", "rank 1"}
    for pid in (0, 1):
        for iteration in spans(events, "iteration", pid):
            def of(part, pid=pid, iteration=iteration):
                return [one for one in spans(events, part, pid) if one["args"] == iteration["args"]]
            begins = [one["ts"] for one in of("reduce") if one["ph"] == "b"]
            ends = [one["ts"] for one in of("reduce") if one["ph"] == "e"]
            last = max(one["ts"] + one["dur"] for one in of("backward"))
            assert len(begins) == len(ends) == 4
            assert min(begins) < last and max(ends) <= of("update")[0]["ts"]
            assert {one["id"] for one in of("reduce")} == {f"{iteration['args']['iteration']}.{n}"
                                                           for n in range(4)}


def test_a_file_that_cannot_be_written_shows_before_training(tmp_path):
    solver = solver_of(mlp_with("PERIODIC"))
    with pytest.raises(OSError, match="none"), timeline(solver, tmp_path / "none" / "trace.json"):
        raise AssertionError("it began")
    assert not solver.gradient_sum.listeners
