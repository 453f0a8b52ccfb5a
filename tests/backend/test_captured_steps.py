"""Captured iterations: what a Solver does with graphs, on a backend that captures as a device does and runs
on the host."""

import gc
import logging
import re
import weakref

import nets
import numpy as np
import pytest

import minidrop as md
from minidrop import functions
from minidrop.config import parse_solver
from minidrop.errors import CaptureError, DataError, NonFiniteError
from minidrop.layers import Layer, base, register_layer
from minidrop.layers.flow import Pass
from minidrop.solver import captured as captured_module
from minidrop.solver.rules import known_rules

FILLER = 'weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: .5 }'
MEMORY = ('layer { name: "in" type: "MemoryData" top: "data" top: "label" '
          'memory_data_param { batch_size: 6 channels: 13 height: 1 width: 1 } }')
INPUT = ('layer { name: "in" type: "Input" top: "data" top: "label" '
         'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
DATA = np.random.default_rng(7).standard_normal((22, 13, 1, 1)), np.random.default_rng(8).integers(0, 5, 22)


def ip(name, bottom, outputs):
    return nets.ip(name, bottom, outputs, fillers=FILLER)


def drop(name, bottom, kind, more=""):
    return nets.drop(name, bottom, kind, bottom, f"dropout_ratio: 0.5 {more}")


def mlp(kind, more="", middle="ReLU"):
    return "\n".join([
        MEMORY, ip("ip1", "data", 45), f'layer {{ name: "act1" type: "{middle}" bottom: "ip1" top: "ip1" }}',
        drop("drop1", "ip1", kind, more), ip("ip2", "ip1", 37), 'layer { name: "act2" type: "TanH" bottom: '
        '"ip2" top: "ip2" }', drop("drop2", "ip2", kind, more), ip("ip3", "ip2", 5),
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }'])


def small(kind, second=""):
    """One drop between two products: what an update does with a compact gradient needs no more."""
    return "\n".join([
        MEMORY, ip("ip1", "data", 45), drop("drop1", "ip1", kind),
        ip("ip2", "ip1", 5).replace('name: "ip2"', f'name: "ip2" {second}'),
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }'])


def solver(device, net, more="", data=DATA, **options):
    text = (f"base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 15 momentum: 0.9 weight_decay: 0.01 "
            f"max_iter: 99 random_seed: 4 {more} net_param {{ {net} }}")
    made = md.Solver(parse_solver(text), device=device, **{"dtype": "float64", **options})
    made.net.set_input_arrays(*data)
    return made


def run(made, iterations=16):
    """Train; return {what: arrays} of all that a snapshot would keep."""
    losses = []
    for _ in range(iterations):
        made.step()
        losses.append(made.net.loss)
    found = {name: p.numpy() for name, p in made.net.parameters().items()}
    found |= {f"history {name}": np.stack([made.net.backend.to_host(array).copy() for array in history])
              for name, history in made.updater.history.items()}
    return {**found, "losses": np.array(losses)}


def compare(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if tolerance:
            np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture
def own_layer():
    """A layer type of a user's own: y = 2 x; with `asks` it looks at a value."""
    class Double(Layer):
        asks = False

        def flow(self, shapes):
            return [Pass(keeps_zero=True)]

        def forward(self, x):
            if self.asks and float(x.data.sum()) > 1e9:
                raise AssertionError
            return functions.scale(x, 2.0)

    with base._types.forgetting():
        register_layer("OwnDouble")(Double)
        yield Double


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


# -- how many graphs -----------------------------------------------------------------------------------------
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


# -- errors --------------------------------------------------------------------------------------------------
def named(data, labels):
    return {"data": data, "labels": labels}


def broken(record, value):
    data, labels = (array.copy() for array in DATA)
    if value == "label":
        labels[record] = 9
    else:
        data[record, 3] = value
    return named(data, labels)


@pytest.mark.parametrize("value, error, text", [
    (np.nan, NonFiniteError, "iteration 18: the loss is nan, because the data hold a NaN or .*: record 21"),
    ("label", DataError, "label 9 at place 1 of the batch is out of range.*record 21 of the arrays set"),
])
def test_an_error_is_told_as_uncaptured_and_nothing_is_lost(recorded_cuda, value, error, text):
    """Record 21 comes in iteration 3, and again in 7, 10, 14, 18: the arrays are broken after 15
    iterations."""
    whole, other = solver(recorded_cuda(), mlp("ROW")), solver("cpu", mlp("ROW"))
    for made in (whole, other):
        run(made, 15)
        made.net.layers["in"].batches.records.arrays = broken(21, value)
        with pytest.raises(error, match=text):
            for _ in range(20):
                made.step()
            made.settle()
        assert made.iteration == 18
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_allclose(parameter.numpy(), other.net.parameters()[name].numpy(), rtol=1e-9,
                                   err_msg=name)
    assert whole.captured.replayed > 4
    for made in (whole, other):         # and both go on
        made.net.layers["in"].batches.records.arrays = named(*DATA)
        made.net.seek(18)
    compare(run(whole, 6), run(other, 6), rtol=1e-9, atol=1e-11)


def test_the_loss_is_looked_at_sooner_or_later(recorded_cuda):
    whole = solver(recorded_cuda(), mlp("Dropout"))
    whole.step(10)
    whole.net.layers["in"].batches.records.arrays = named(np.full_like(DATA[0], np.inf), DATA[1])
    with pytest.raises(NonFiniteError, match="iteration 10: the loss is nan"):
        for _ in range(2 * captured_module.LOOK_EVERY + 1):
            whole.step()


def test_arrays_given_by_hand_cannot_be_given_again(recorded_cuda):
    text = mlp("ROW").replace(MEMORY, INPUT)
    made = md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' max_iter: 99 random_seed: 4 net_param "
                                  f"{{ {text} }}"),
                     device=recorded_cuda(), dtype="float64")
    batch = {"data": DATA[0][:6, :, 0, 0], "label": DATA[1][:6]}
    made.net.set_inputs(**batch)
    made.step(6)
    made.net.set_inputs(data=batch["data"] * np.nan)
    made.step(2)
    with pytest.raises(NonFiniteError, match="iteration 6: the loss is nan; the arrays given to the net in "
                       "that iteration are "
                                             "gone, so where is not known: set capture_steps: false"):
        made.settle()
    assert made.iteration == 6
    made.net.set_inputs(**{**batch, "label": batch["label"] + 5})
    made.step()
    with pytest.raises(DataError, match="iteration 6: a label, an index or cont is out of range"):
        made.settle()


def test_states_stay_as_the_bad_iteration_found_them(recorded_cuda, tmp_path):
    shapes = 3 * "shape { dim: 5 dim: 3 } "
    _, *layers = language_model(tmp_path, "ROW").split("\n")
    text = "\n".join(['layer { name: "text" type: "Input" top: "data" top: "label" top: "cont" '
                      f'input_param {{ {shapes} }} }}', *layers])
    whole, rng = text_solver(recorded_cuda(), text), np.random.default_rng(2)
    for _ in range(12):
        whole.net.set_inputs(data=rng.integers(0, 12, (5, 3)), label=rng.integers(0, 12, (5, 3)),
                             cont=np.ones((5, 3)))
        whole.step()
    whole.settle()
    before = {place: whole.net.backend.to_host(state).copy() for place, state in whole.net.states.items()}
    for bad in ({"cont": np.full((5, 3), 0.5)}, {"cont": np.ones((5, 3)), "data": np.full((5, 3), 12)}):
        whole.net.set_inputs(**bad)
        whole.step(3)
        with pytest.raises(DataError, match="iteration 12: a label, an index or cont is out of range"):
            whole.settle()
        for place, state in whole.net.states.items():
            np.testing.assert_array_equal(whole.net.backend.to_host(state), before[place])
            assert state.any()
    assert whole.captured.replayed > 3


# -- what others see -----------------------------------------------------------------------------------------
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


# -- recurrent nets ------------------------------------------------------------------------------------------
def language_model(tmp_path, kind="ROW", hidden=""):
    text = tmp_path / "text.txt"
    words = np.random.default_rng(3).choice(list("abcdefgh"), 600)
    text.write_text(" ".join(words) + "\n")
    lstm = f'recurrent_param {{ num_output: 24 {FILLER} {hidden} }}'
    return "\n".join([
        'layer { name: "text" type: "TextData" top: "data" top: "label" top: "cont" text_data_param { '
        f'source: "{text}" batch_size: 3 steps: 5 }} }}',
        'layer { name: "embed" type: "Embed" bottom: "data" top: "embed" '
        f'embed_param {{ input_dim: 12 num_output: 26 bias_term: false {FILLER} }} }}',
        drop("drop1", "embed", kind),
        f'layer {{ name: "lstm" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm" {lstm} }}',
        drop("drop2", "lstm", kind), 'layer { name: "ip" type: "InnerProduct" bottom: "lstm" top: "ip" '
        f'inner_product_param {{ num_output: 12 axis: 2 {FILLER} }} }}',
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" softmax_param '
        '{ axis: 2 } }'])


def text_solver(device, net):
    return md.Solver(parse_solver(f"base_lr: 0.5 lr_policy: 'fixed' clip_gradients: 1 momentum: 0.5 "
                                  f"max_iter: 99 random_seed: 4 net_param {{ {net} }}"), device=device,
                     dtype="float64")


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
