"""Captured iterations: what displays, tests, snapshots, other solvers and other batches see of them."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.solver import captured as captured_module
from tests.backend.captured_mlps import DATA, INPUT, MEMORY, compare, mlp, run, solver


def test_displays_tests_and_snapshots_wait_and_say_what_the_cpu_says(recorded_cuda, tmp_path):
    more = ("display: 5 average_loss: 3 test_interval: 10 test_iter: 2 snapshot: 10 snapshot_keep: 3 "
            f"snapshot_prefix: '{tmp_path}/%s'")
    events = {}
    for name, device in (("gpu", recorded_cuda()), ("cpu", "cpu")):
        made = solver(device, mlp("ROW"), more % name)
        made.test_nets[0].set_input_arrays(*DATA)
        seen = events[name] = []
        made.add_callback(lambda event, seen=seen: seen.append(
            (event.kind, event.iteration, {k: v for k, v in event.values.items() if k != "path"})))
        made.step(24)
    assert len(events["cpu"]) == len(events["gpu"]) > 24
    for (kind, iteration, values), (other_kind, other, expected) in zip(events["gpu"], events["cpu"],
                                                                        strict=True):
        assert (kind, iteration, values.keys()) == (other_kind, other, expected.keys())
        for name, value in expected.items():
            np.testing.assert_allclose(values[name], value, rtol=1e-9, err_msg=f"{kind} {iteration} {name}")


def test_nobody_waits_for_a_step(recorded_cuda, monkeypatch):
    whole = solver(recorded_cuda(), mlp("ROW"))
    whole.add_callback(lambda event: None)
    run(whole, 12)
    monkeypatch.setattr(type(whole.net.backend), "to_host", lambda *_: pytest.fail("waits for the device"))
    whole.step(12)
    monkeypatch.undo()
    assert len(whole.captured.pending) == 24
    assert len(whole.losses) == 1 and not whole.captured.pending


def test_numbers_wait_on_the_host_until_their_iteration_has_been_looked_at(recorded_cuda, monkeypatch):
    whole, last = solver(recorded_cuda(), mlp("Dropout")), {}
    backend = whole.net.backend
    send = backend.send

    def noted(target, source):
        assert last.get(source.ctypes.data, -1) not in [iteration for iteration, _ in whole.captured.pending]
        last[source.ctypes.data] = whole.iteration
        send(target, source)

    monkeypatch.setattr(backend, "send", noted)
    whole.step(2 * captured_module.RING + 20)
    assert len(last) == 2 * captured_module.RING and whole.captured.replayed > captured_module.RING


def test_iterations_that_somebody_looks_into_run_layer_by_layer(recorded_cuda):
    whole, other = solver(recorded_cuda(), mlp("ROW")), solver("cpu", mlp("ROW"))
    run(whole, 12)
    before = whole.captured.replayed
    with whole.uncaptured():
        run(whole, 5)
        assert whole.captured is None
    assert whole.captured.replayed == before > 0
    run(other, 17)
    compare(run(whole, 12), run(other, 12), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > before


def test_a_resumed_run_equals_an_uninterrupted_one(recorded_cuda, tmp_path):
    expected = run(solver(recorded_cuda(), mlp("PERIODIC")), 30)
    first = solver(recorded_cuda(), mlp("PERIODIC"))
    run(first, 13)
    first.snapshot(tmp_path / "a.h5")
    second = solver(recorded_cuda(), mlp("PERIODIC"))
    run(second, 3)
    second.restore(tmp_path / "a.h5")
    found = run(second, 17)
    expected["losses"] = expected["losses"][13:]
    compare(found, expected)


def test_units_change_places_between_captured_iterations(recorded_cuda):
    text = mlp("ROW", "reshuffle_interval: 7")
    whole = solver(recorded_cuda(), text)
    compare(run(whole), run(solver("cpu", text)), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > 4


def test_two_solvers_on_a_device_take_turns(recorded_cuda):
    device, trained = recorded_cuda(), {}
    for kind in ("ROW", "TILE"):
        trained[kind] = solver(device, mlp(kind)), solver("cpu", mlp(kind))
    for i in range(20):
        for pair in trained.values():
            for made in pair:
                made.step(1 + i % 2)
    for whole, other in trained.values():
        compare(run(whole, 3), run(other, 3), rtol=1e-8, atol=1e-10)
        assert whole.captured.replayed > 4


@pytest.mark.parametrize("kind", ["ROW", "Dropout"])
def test_batches_given_by_hand_may_have_several_sizes(recorded_cuda, kind):
    text, found = mlp(kind).replace(MEMORY, INPUT), []
    for device in (recorded_cuda(), "cpu"):
        made = md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' max_iter: 99 random_seed: 4 "
                                      f"net_param {{ {text} }}"),
                         device=device, dtype="float64")
        for i in range(30):
            size = 6 - 2 * (i % 3 == 1)
            made.net.set_inputs(data=DATA[0][:size, :, 0, 0], label=DATA[1][:size])
            made.step()
        found.append({name: parameter.numpy() for name, parameter in made.net.parameters().items()})
        assert device == "cpu" or made.captured.replayed > 4
    compare(*found, rtol=1e-9, atol=1e-11)
