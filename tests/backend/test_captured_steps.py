"""Captured iterations: what a Solver does with graphs, on a backend that captures as a device does and runs
on the host."""

import logging
import re

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.solver.rules import known_rules
from tests.backend.captured_mlps import DATA, compare, language_model, mlp, run, small, solver, text_solver


@pytest.mark.parametrize("kind", ["Dropout", "GaussianDropout", "ROW", "TILE",
                                  *(pytest.param(kind, marks=pytest.mark.full)
                                    for kind in ("PERIODIC", "SLICE"))])
def test_captured_training_equals_that_on_the_cpu_and_the_uncaptured(recorded_cuda, kind):
    whole = solver(recorded_cuda(), mlp(kind))
    found = run(whole)
    assert whole.captured.problem == ""
    assert whole.captured.replayed > 4
    compare(found, run(solver("cpu", mlp(kind))), rtol=1e-9, atol=1e-11)
    step_by_step = solver(recorded_cuda(), mlp(kind))
    step_by_step.captured.launches = False
    compare(found, run(step_by_step))
    assert step_by_step.captured.replayed == 0


@pytest.mark.parametrize("kind, groups", [pytest.param("PERIODIC", "groups: 2", marks=pytest.mark.full),
                                          ("ROW", "groups: 4"),
                                          ("PERIODIC", "groups: 3 grouping: INDEPENDENT step: 7")])
def test_groups_of_samples_are_captured(recorded_cuda, kind, groups):
    """Sets of all groups are read on the device, padded to one size."""
    whole = solver(recorded_cuda(), mlp(kind, groups), "clip_gradients: 0.5")
    found = run(whole)
    assert whole.captured.problem == "" and whole.captured.replayed > 4
    compare(found, run(solver("cpu", mlp(kind, groups), "clip_gradients: 0.5")), rtol=1e-9, atol=1e-11)
    step_by_step = solver(recorded_cuda(), mlp(kind, groups), "clip_gradients: 0.5")
    step_by_step.captured.launches = False
    compare(found, run(step_by_step))


@pytest.mark.parametrize("more", ["clip_gradients: 0.5", "momentum: 0 weight_decay: 0",
                                  "regularization_type: 'L1'", "average_loss: 5 iter_size: 1"])
def test_other_settings_of_the_update(recorded_cuda, more):
    more = more.replace("momentum: 0", "momentum: 0")
    text = mlp("ROW")
    settings = {"momentum: 0 weight_decay: 0": {"overrides": ["momentum=0", "weight_decay=0"]}}.get(more, {})
    more = "" if settings else more
    whole = solver(recorded_cuda(), text, more, **settings)
    found = run(whole)
    assert whole.captured.replayed > 4
    compare(found, run(solver("cpu", text, more, **settings)), rtol=1e-9, atol=1e-11)


NUMBERS = {"RMSProp": "rms_decay: 0.9 delta: 1e-3", "AdaGrad": "delta: 1e-3", "AdaDelta": "momentum: 0.9 "
           "delta: 1e-3", **dict.fromkeys(("Adam", "AdamW", "OwnAdamW"), "momentum: 0.9 delta: 1e-3")}


@pytest.mark.parametrize("rule, clip", [
    *((rule, "") for rule in (*known_rules(), "OwnAdamW")),
    *(pytest.param(rule, "clip_gradients: 0.5", marks=() if rule == "Adam" else pytest.mark.full)
      for rule in (*known_rules(), "OwnAdamW"))])
def test_every_rule_is_captured(recorded_cuda, adamw, rule, clip):
    """Its numbers, such as Adam's corrections, are those of the iteration; OwnAdamW is a rule of a
    user's own."""
    net = small("ROW", "param { lr_mult: 2 decay_mult: 0.5 } param { decay_mult: 0 }")
    text = (f"base_lr: 0.01 lr_policy: 'step' gamma: 0.5 stepsize: 15 weight_decay: 0.01 max_iter: 99 "
            f"random_seed: 4 type: '{rule}' {NUMBERS.get(rule, 'momentum: 0.9')} {clip} net_param {{ {net} "
            f"}}")
    results = []
    for device, launches in ((recorded_cuda(), True), (recorded_cuda(), False), ("cpu", None)):
        made = md.Solver(parse_solver(text), device=device, dtype="float64")
        made.net.set_input_arrays(*DATA)
        if made.captured:
            made.captured.launches = launches
        results.append(run(made))
        assert not made.captured or made.captured.problem == "" and (made.captured.replayed > 4) == launches
    compare(results[0], results[1])
    compare(results[0], results[2], rtol=1e-8, atol=1e-10)


def halve(parameters):
    """What a distributed run would do there: change all gradients."""
    for parameter in parameters.values():
        parameter.grad = parameter.grad * 0.5


def test_a_hook_between_backward_and_update_is_captured(recorded_cuda):
    calls, results = [], []
    for device in (recorded_cuda(), "cpu"):
        made = solver(device, mlp("ROW"))
        run(made, 12)
        before = made.captured and made.captured.replayed
        made.after_backward += [lambda parameters, device=device: calls.append(device), halve]
        results.append(run(made))
        assert device == "cpu" or made.captured.problem == "" and made.captured.replayed > before + 4
    compare(*results, rtol=1e-9, atol=1e-11)
    assert calls.count("cpu") == 16 and 0 < len(calls) - 16 < 16      # captured: not at a launch
    plain = solver("cpu", mlp("ROW"))
    run(plain, 12)
    assert not np.allclose(run(plain)["ip1/weight"], results[1]["ip1/weight"], rtol=1e-3)


def test_a_hook_that_looks_at_a_gradient_ends_capturing_and_loses_nothing(recorded_cuda):
    results = []
    for device in (recorded_cuda(), "cpu"):
        made = solver(device, mlp("ROW"))
        made.after_backward.append(lambda parameters: [float(p.grad.sum()) for p in parameters.values()])
        results.append(run(made))
        assert device == "cpu" or made.captured.problem and made.captured.replayed == 0
    compare(*results, rtol=1e-9, atol=1e-11)


def test_in_float32_and_lower_precision(recorded_cuda):
    for precision, off in (("float32", 1e-4), ("bfloat16", 0.2)):
        whole = solver(recorded_cuda(precision), mlp("ROW"), dtype="float32", precision=precision)
        found = run(whole)
        assert whole.captured.replayed > 4
        np.testing.assert_allclose(found["losses"], run(solver("cpu", mlp("ROW"), dtype="float32"))["losses"],
                                   rtol=off)


def test_blocks_are_captured_where_kernels_skip_them(recorded_cuda):
    results = []
    for launches in (True, False):
        whole = solver(recorded_cuda("bfloat16"), mlp("BLOCK"), dtype="float32", precision="bfloat16")
        whole.captured.launches = launches
        results.append(run(whole))
        assert whole.captured.problem == "" and whole.captured.replayed == (15 if launches else 0)
    compare(*results)
    np.testing.assert_allclose(results[0]["losses"],
                               run(solver("cpu", mlp("BLOCK"), dtype="float32"))["losses"], rtol=0.2)


@pytest.mark.parametrize("kind, reason", [
    ("UNIT", r"layer 'drop1' \(UNIT\) keeps another number of units in every iteration"),
    ("BLOCK", r"layer 'ip1' \(InnerProduct\): .* multiplies dropped blocks of float64 in pieces"),
])
def test_what_cannot_be_captured_runs_uncaptured_and_says_why(recorded_cuda, kind, reason, caplog):
    caplog.set_level(logging.INFO)
    whole = solver(recorded_cuda(), mlp(kind))
    compare(run(whole), run(solver("cpu", mlp(kind))), rtol=1e-9, atol=1e-11)
    assert not whole.captured.active and whole.captured.replayed == 0
    said = [record.message for record in caplog.records if "uncaptured" in record.message]
    assert said == [f"Steps run uncaptured: {whole.captured.problem}"]
    assert re.search(reason, whole.captured.problem)


def test_solvers_that_cannot_be_captured(recorded_cuda):
    whole = solver(recorded_cuda(), mlp("ROW"), "iter_size: 2")
    assert "iter_size is 2" in whole.captured.problem
    compare(run(whole, 4), run(solver("cpu", mlp("ROW"), "iter_size: 2"), 4), rtol=1e-9, atol=1e-11)


def test_room_for_units_that_a_start_does_not_have_may_hold_anything_but_in_a_norm(recorded_cuda):
    """sigmoid(0) stands there: nobody reads it but the norm that gradients are clipped by."""
    text = mlp("ROW", middle="Sigmoid")
    assert "layer act1, whose f(0) is not 0" in solver(recorded_cuda(), text, "clip_gradients: "
                                                       "0.5").captured.problem
    whole = solver(recorded_cuda(), text)
    compare(run(whole), run(solver("cpu", text)), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > 4
    elsewhere = 'layer { name: "act3" type: "Sigmoid" bottom: "ip3" top: "ip3" } layer { name: "loss"'
    above = mlp("ROW").replace('layer { name: "loss"', elsewhere)
    assert solver(recorded_cuda(), above, "clip_gradients: 0.5").captured.active


def test_the_norm_of_gradients_comes_with_the_loss(recorded_cuda):
    """Nobody waits for it but who reads it."""
    kinds = ("PERIODIC", "groups: 2"), ("ROW", "")
    for kind, more in kinds:
        norms = {}
        for device in (recorded_cuda(), "cpu"):
            made = solver(device, mlp(kind, more), "log_gradient_norm: true")
            norms[made.net.backend.name] = seen = []
            made.add_callback(lambda event, seen=seen: seen.append(event.values["gradient_norm"]))
            made.step(12)
        recorded, plain = norms.values()
        np.testing.assert_allclose(recorded, plain, rtol=1e-9)
        assert len(set(plain)) == 12
    whole = solver(recorded_cuda(), mlp("ROW"), "log_gradient_norm: true")
    whole.step(12)
    assert len(whole.captured.pending) == 12 and whole.captured.replayed > 4
    text = mlp("ROW", middle="Sigmoid")
    assert "log_gradient_norm with layer act1" in solver(recorded_cuda(), text, "log_gradient_norm: "
                                                         "true").captured.problem


def test_a_sweep_of_learning_rates_changes_nothing_captured(recorded_cuda):
    plain, swept = (solver(recorded_cuda(), mlp("ROW"), "type: 'Adam'") for _ in range(2))
    for made in (plain, swept):
        made.step(6)
    replayed = swept.captured.replayed
    assert len(md.find_learning_rate(swept, 1e-4, 1.0, 10).rates) == 10
    for made in (plain, swept):
        made.step(6)
    assert swept.captured.replayed == plain.captured.replayed > replayed
    compare(run(swept, 6), run(plain, 6), rtol=0, atol=0)


def test_capturing_can_be_switched_off(recorded_cuda):
    assert solver(recorded_cuda(), mlp("ROW"), "capture_steps: false").captured is None
    assert solver("cpu", mlp("ROW")).captured is None


def test_a_layer_of_a_users_own_is_captured_only_if_it_says_so(recorded_cuda, own_layer):
    text = mlp("ROW", middle=own_layer.type)
    assert f"layer 'act1' ({own_layer.type}) does not say" in solver(recorded_cuda(), text).captured.problem
    own_layer.capturable = True
    whole = solver(recorded_cuda(), text)
    compare(run(whole), run(solver("cpu", text)), rtol=1e-9, atol=1e-11)
    assert whole.captured.replayed > 4


def test_a_layer_that_asks_the_host_ends_capturing_and_loses_nothing(recorded_cuda, own_layer):
    own_layer.capturable, own_layer.asks = True, True
    text = mlp("ROW", middle=own_layer.type)
    whole = solver(recorded_cuda(), text)
    compare(run(whole), run(solver("cpu", text)), rtol=1e-9, atol=1e-11)
    assert "act1" in whole.captured.problem and whole.captured.replayed == 0


@pytest.mark.parametrize("kind, hidden", [
    ("Dropout", ""), pytest.param("ROW", "", marks=pytest.mark.full),
    ("ROW", 'hidden_dropout { dropout_ratio: 0.5 pattern: "ROW" }'),
    pytest.param("Dropout", 'hidden_dropout { dropout_ratio: 0.5 step: 7 }', marks=pytest.mark.full),
    ("ROW", "hidden_dropout { step: 7 groups: 2 }")])
def test_language_models_with_carried_states(recorded_cuda, tmp_path, kind, hidden):
    text = language_model(tmp_path, kind, hidden)
    whole, other = text_solver(recorded_cuda(), text), text_solver("cpu", text)
    compare(run(whole, 20), run(other, 20), rtol=1e-8, atol=1e-10)
    assert whole.captured.problem == "" and whole.captured.replayed > 4
    for place, state in other.net.states.items():
        np.testing.assert_allclose(whole.net.backend.to_host(whole.net.states[place]), state, rtol=1e-8,
                                   atol=1e-10)
