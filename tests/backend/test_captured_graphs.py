"""Captured iterations: how many graphs there are, and when they are forgotten."""

import gc
import weakref

import pytest

from minidrop.errors import CaptureError
from minidrop.solver import captured as captured_module
from tests.backend.captured_mlps import compare, mlp, run, solver


def test_a_form_is_captured_when_it_comes_a_second_time(recorded_cuda):
    whole = solver(recorded_cuda(), mlp("Dropout"))
    run(whole, 5)
    assert (len(whole.captured.graphs), whole.captured.replayed) == (1, 4)


def test_only_the_most_frequent_forms_are_held(recorded_cuda, monkeypatch):
    monkeypatch.setattr(captured_module, "MOST_GRAPHS", 2)
    whole = solver(recorded_cuda(), mlp("ROW", "max_period: 6"))
    compare(run(whole, 30), run(solver("cpu", mlp("ROW", "max_period: 6")), 30), rtol=1e-9, atol=1e-11)
    steps = whole.captured
    assert len(steps.seen) > 3 and len(steps.graphs) == 2 and 0 < steps.replayed < 30
    assert min(steps.seen[form] for form in steps.graphs) >= sorted(steps.seen.values())[-3]


def test_rare_forms_are_not_counted_for_ever(recorded_cuda, monkeypatch):
    monkeypatch.setattr(captured_module, "MOST_FORMS", 4)
    whole = solver(recorded_cuda(), mlp("ROW", "max_period: 6"))
    compare(run(whole, 30), run(solver("cpu", mlp("ROW", "max_period: 6")), 30), rtol=1e-9, atol=1e-11)
    assert len(whole.captured.seen) <= 4 and whole.captured.replayed


def test_graphs_are_forgotten_where_a_weight_is_another_array(recorded_cuda):
    whole, other = solver(recorded_cuda(), mlp("ROW")), solver("cpu", mlp("ROW"))
    for made in (whole, other):
        run(made, 12)
        weight = made.net.params["ip2"]["weight"]
        weight.data = weight.data * 0.5
    before = whole.captured.replayed
    compare(run(whole, 12), run(other, 12), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > before


def test_graphs_are_forgotten_where_the_update_is_another(recorded_cuda):
    whole, other = solver(recorded_cuda(), mlp("ROW")), solver("cpu", mlp("ROW"))
    for made in (whole, other):
        run(made, 12)
        made.net.params["ip2"]["weight"].lr_mult = 0.1
        made.updater.rule.momentum = 0.5
    before = whole.captured.replayed
    compare(run(whole, 12), run(other, 12), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > before


@pytest.mark.parametrize("end", ["close", "rebuild", "give up"])
def test_graphs_and_their_memory_go_at_once_where_nobody_needs_them(recorded_cuda, monkeypatch, end):
    whole, alive = solver(recorded_cuda(), mlp("Dropout")), []
    run(whole, 5)
    [graph] = map(weakref.ref, whole.captured.graphs.values())
    monkeypatch.setattr(type(whole.net.backend), "trim", lambda _: alive.append(graph()))
    gc.collect()
    gc.disable()
    try:
        if end == "close":
            whole.close()
        elif end == "rebuild":
            whole.build(3)
        else:
            monkeypatch.setattr(whole.captured.patterns, "form",
                                lambda: (_ for _ in ()).throw(CaptureError("why")))
            whole.step()
            assert whole.captured.problem == "why"
    finally:
        gc.enable()
    assert alive and not any(alive)
