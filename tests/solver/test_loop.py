"""The training loop: Caffe's order of things, clipping, stopping at NaN, and compact training equal to dense
training."""

import json

import numpy as np
import pytest
from cases import every_pair, in_turn
from tiny_solver import BASE, NET, RULES, assert_same_weights, events_of, make, run_steps, weights

import minidrop as md
from minidrop.config import parse_solver


@every_pair(("rule, regularization", [(rule, kind) for rule in RULES for kind in ("L1", "L2")
                                      if (rule, kind) != ("AdamW", "L1")]),
            ("family", ["PERIODIC", "ROW"]))
def test_compact_training_equals_masked_dense_training(rule, family, regularization):
    """Every rule acts on all weights as with ordinary dropout: one that was dropped has gradient 0 and is not
    frozen."""
    base = (f"base_lr: 0.05 lr_policy: 'fixed' type: '{rule}' {RULES[rule]} weight_decay: 0.01 max_iter: 99 "
            f"random_seed: 3 ")
    settings = f"regularization_type: '{regularization}' clip_gradients: 0.3 iter_size: 2"
    compact, dense = (make(settings, base=base, dropout=f"approx:{family}") for _ in range(2))
    dense.net.run_masked_dense()
    compact.step(10)
    dense.step(10)
    for name, value in weights(compact).items():
        np.testing.assert_allclose(value, dense.net.parameters()[name].data, rtol=0, atol=1e-9, err_msg=name)


def test_order_of_the_loop(tmp_path):
    solver = make("display: 5 snapshot: 6 test_iter: 2 test_interval: 4", tmp_path)
    events = events_of(solver)
    solver.solve()
    seen = [(e.kind, e.iteration) for e in events if e.kind != "step"]
    assert seen == [("test", 0), ("display", 0), ("test", 4), ("display", 5), ("snapshot", 6), ("test", 8),
                    ("display", 10), ("snapshot", 12), ("display", 12), ("test", 12)]
    assert [e.iteration for e in events if e.kind == "step"] == list(range(1, 13))
    assert set(events[0].values) == {"accuracy", "loss"}
    rates = [e.values["lr"] for e in events if e.kind == "step"]
    assert rates == [0.05] * 4 + [0.025] * 4 + [0.0125] * 4


def test_no_test_before_the_first_iteration_if_not_wanted():
    solver = make("test_iter: 1 test_interval: 4 test_initialization: false")
    events = events_of(solver)
    solver.step(5)
    assert [e.iteration for e in events if e.kind == "test"] == [4]


def test_iter_size_accumulates_like_one_larger_batch():
    """Two passes over batches a and b with iter_size 2 step as one pass over a and b together."""
    linear = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: %d channels: 6 height: 1 width: 1 } }
      layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
        weight_filler { type: "msra" } } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 6, 1, 1)), rng.integers(0, 3, 16)
    solvers = [make(f"iter_size: {size}", net=linear % (8 // size)) for size in (1, 2)]
    for solver in solvers:
        solver.net.set_input_arrays(x, y)
        solver.step(4)
    for name, value in weights(solvers[0]).items():
        np.testing.assert_allclose(value, solvers[1].net.parameters()[name].data, atol=1e-12)


IGNORING = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
    memory_data_param { batch_size: %d channels: 6 height: 1 width: 1 } }
  layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4
    weight_filler { type: "msra" } } }
  layer { name: "slice" type: "Slice" bottom: "ip" top: "one" top: "rest" slice_param { slice_point: 1 } }
"""
LOSSES = {
    "softmax": """layer { name: "a" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "a"
      loss_weight: 0.5 loss_param { ignore_label: 3 normalization: %s } }""",
    "sigmoid": """layer { name: "b" type: "SigmoidCrossEntropyLoss" bottom: "one" bottom: "label" top: "b"
      loss_weight: 2 loss_param { ignore_label: 0 normalization: %s } }""",
    "weighted": """layer { name: "w" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "w"
      loss_param { ignore_label: 3 class_weight: [0.5, 2, 1, 1] label_smoothing: 0.1 normalization: %s } }""",
    "euclidean": """layer { name: "c" type: "EuclideanLoss" bottom: "one" bottom: "label" top: "c" }""",
    "same labels": """layer { name: "d" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "d"
      loss_param { ignore_label: 3 } softmax_param { axis: -1 } }"""}


@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE"])
@in_turn("losses", ["softmax", "sigmoid", "weighted", "weighted euclidean",
                                    "softmax sigmoid", "softmax euclidean",
                                    "sigmoid euclidean softmax", "softmax same-labels"])
def test_iter_size_with_ignored_labels_steps_like_one_larger_batch(losses, normalization):
    """Also clipped, and with several losses that weigh the passes differently; some passes count nothing."""
    net = IGNORING + "".join(LOSSES[name.replace("-", " ")].replace("%s", normalization)
                             for name in losses.split())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 6, 1, 1)), rng.integers(0, 2, 32)
    if "sigmoid" not in losses:
        y = rng.choice([0, 1, 2, 3], 32, p=[0.2, 0.2, 0.1, 0.5])
    y[8:10], y[2:4] = 0, 0 if "sigmoid" in losses else 3
    found = []
    for size in (1, 4):
        solver = make(f"iter_size: {size} clip_gradients: {0.3 * size}", net=net % (8 // size))
        solver.net.set_input_arrays(x, y)
        solver.step(4)
        assert solver.net.positions == {"data": 4 * size}
        found.append((solver.losses[-1], weights(solver)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(value, found[1][1][name], atol=1e-12)


def test_passes_in_which_every_label_is_ignored_leave_the_weights():
    solver = make("iter_size: 2 weight_decay: 0", net=(IGNORING + LOSSES["same labels"]) % 4,
                  base="base_lr: 1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 ")
    solver.net.set_input_arrays(np.ones((8, 6, 1, 1)), np.full(8, 3))
    before = weights(solver)
    solver.step()
    assert solver.losses[-1] == 0
    for name, value in weights(solver).items():
        np.testing.assert_array_equal(value, before[name])


def test_clip_gradients_scales_to_the_norm():
    solver = make("clip_gradients: 1e-3", base="base_lr: 1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 ")
    before = weights(solver)
    solver.step()
    moved = {name: value - before[name] for name, value in weights(solver).items()}
    multiplier = {"ip1/bias": 2}
    norm = np.sqrt(sum(((m / multiplier.get(name, 1)) ** 2).sum() for name, m in moved.items()))
    assert norm == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("family", ["PERIODIC", "TILE", "BLOCK"])
def test_clipping_takes_one_sum_of_all_gradients(monkeypatch, family):
    """However many blocks the gradients have, a device is waited for once."""
    wide = NET.replace("num_output: 20", "num_output: 64").replace("dim: 6 }", "dim: 64 }")
    solver = make("clip_gradients: 1e-3", net=wide, dropout=f"approx:{family}",
                  base="base_lr: 1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 ")
    sums, norms, sum_of_squares = [], [], type(solver.net.backend).sum_of_squares

    def counted(backend, *arrays):
        sums.append(len(arrays))
        norms.append(sum((p.dense_grad()**2).sum() for p in solver.updater.parameters.values()))
        found = sum_of_squares(backend, *arrays)
        assert found == pytest.approx(norms[-1], rel=1e-12)
        return found

    monkeypatch.setattr(type(solver.net.backend), "sum_of_squares", counted)
    solver.step(6)
    assert len(sums) == 6 and max(sums) > 4 * (family == "TILE")


def test_after_backward_sees_the_gradients_of_all_passes_and_may_change_them():
    solver, plain = (make("iter_size: 2 clip_gradients: 1e-3") for _ in range(2))
    seen, events = [], events_of(solver)
    solver.after_backward.append(lambda parameters: seen.append(
        (len(events), {name: p.dense_grad().copy() for name, p in parameters.items()})))
    plain.steps.forward_backward()
    solver.step()
    assert [count for count, _ in seen] == [0]         # before anybody is told of the iteration
    for name, gradient in seen[0][1].items():           # not clipped yet
        np.testing.assert_array_equal(gradient, plain.net.parameters()[name].dense_grad(), err_msg=name)
    assert seen[0][1].keys() == solver.updater.parameters.keys()


def test_gradients_that_after_backward_sets_are_those_that_are_applied():
    solver, other = (make(base=BASE.replace("weight_decay: 0.01", "")) for _ in range(2))

    def forget(parameters):
        for parameter in parameters.values():
            parameter.clear_grad()

    before = weights(solver)
    solver.after_backward.append(forget)
    solver.step(3)
    for name, value in weights(solver).items():
        np.testing.assert_array_equal(value, before[name])
    solver.after_backward.clear()
    solver.iteration = 0
    solver.net.seek(0)
    solver.step(3)
    other.step(3)
    assert_same_weights(solver, other)


def test_gradients_that_after_backward_writes_to_are_those_that_are_applied():
    """In place, as they may be set: those of a compact net came as blocks."""
    solvers = []
    for half in (lambda p: np.multiply(p.grad, 0.5, out=p.grad), lambda p: p.scale_grad(0.5)):
        solvers.append(make())
        solvers[-1].after_backward.append(lambda parameters, half=half: list(map(half, parameters.values())))
        solvers[-1].step(3)
    assert_same_weights(*solvers)


def test_average_loss_is_the_mean_of_the_last():
    single, averaged = make(), make("average_loss: 3")
    losses = [e.values["loss"] for e in run_steps(single, 6)]
    smoothed = [e.values["loss"] for e in run_steps(averaged, 6)]
    expected = [np.mean(losses[max(0, i - 2):i + 1]) for i in range(6)]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-12)


def test_same_seed_same_run_other_seed_other_run():
    runs = [make(base=BASE.replace("random_seed: 3", f"random_seed: {seed}")) for seed in (3, 3, 4)]
    for solver in runs:
        solver.step(3)
    assert_same_weights(runs[0], runs[1])
    assert not np.array_equal(weights(runs[0])["ip1/weight"], weights(runs[2])["ip1/weight"])


def test_stops_at_the_first_nonfinite_loss_and_keeps_the_snapshot(tmp_path):
    base = "base_lr: 1e30 lr_policy: 'fixed' max_iter: 9 random_seed: 1 "
    solver = make("snapshot: 1", tmp_path, base=base, dtype="float32")
    with np.errstate(all="ignore"), pytest.raises(md.NonFiniteError) as caught:
        solver.solve()
    assert "the first output that is not finite is blob 'ip" in str(caught.value)
    assert f"the last snapshot is {solver.last_snapshot}" in str(caught.value)
    assert solver.last_snapshot.exists()


def test_every_mistake_in_one_report():
    text = ("base_lr: 0.1 lr_policy: 'stepp' momentum: 1.5 max_iter: 0 regularization_type: 'L3' "
            "snapshot_best: 'acuracy' net_param { layer { name: 'ip' type: 'InnerProductt' bottom: 'x' top: "
            "'y' } }")
    with pytest.raises(md.ConfigError) as caught:
        md.Solver(parse_solver(text, "s.prototxt"))
    report = str(caught.value)
    for part in ("got 'stepp'; did you mean 'step'?", "momentum", "max_iter must be at least 1",
                 "regularization_type must be L1 or L2, got 'L3'", "unknown layer type 'InnerProductt'",
                 "bottom 'x' is written by no layer"):
        assert part in report, report
    assert all(line.startswith("s.prototxt:1:") for line in report.split("\n")), report


def test_dropout_and_overrides(tmp_path):
    path = tmp_path / "solver.prototxt"
    (tmp_path / "net.prototxt").write_text(NET)
    path.write_text(BASE + "net: 'net.prototxt' test_iter: 1 test_interval: 5")
    overrides = {"max_iter": 7, "layer.drop1.approx_dropout_param.dropout_ratio": 0.3}
    solver = md.Solver.from_file(path, overrides=overrides)
    assert solver.settings.max_iter == 7 and solver.net.drop_sites["drop1"].settings.rate == 0.3
    plain = md.Solver.from_file(path, dropout="conventional")
    assert plain.net.drop_sites == {} and plain.net.layers["drop1"].type == "Dropout"
    assert plain.net.params["ip1"]["weight"] is plain.test_nets[0].params["ip1"]["weight"]
    row = md.Solver.from_file(path, dropout="approx:ROW")
    assert row.net.drop_sites["drop1"].settings.family == "ROW"


def test_stopping_early_makes_no_last_test_and_keeps_the_last_state(tmp_path):
    solver = make("test_iter: 1 test_interval: 100 test_initialization: false", tmp_path)
    assert solver.solve(should_stop=lambda s: s.iteration == 3) == {}
    assert solver.iteration == 3 and solver.is_saved
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_iter_3.h5"]
    assert json.dumps(solver.solve())


def test_fields_without_effect_are_named_once(caplog):
    make("debug_info: true snapshot_diff: true test_compute_loss: true "
         "min_lr: 0.01 max_lr: 0.5 pct_start: 0.2")
    said = [record.getMessage() for record in caplog.records if "has no effect" in record.getMessage()]
    assert [message.split(": ")[1] for message in said] == [
        "snapshot_diff has no effect", "max_lr has no effect", "min_lr has no effect",
        "pct_start has no effect", "debug_info has no effect while display is 0"]


def test_settings_that_the_policy_or_the_rule_does_not_read_are_named(caplog):
    """A `fixed` rate with gamma and stepsize never stepped, and nobody was told."""
    make('gamma: 0.1 power: 2 stepsize: 5 stepvalue: 7 momentum2: 0.9 delta: 0.1 rms_decay: 0.5 '
         'test_interval: 5 regularization_type: "L1"', base="base_lr: 1 lr_policy: 'fixed' max_iter: 9 ")
    said = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
    assert said == [
        "gamma has no effect: lr_policy 'fixed' does not read it, step, exp, inv, multistep and sigmoid do",
        "stepsize has no effect: lr_policy 'fixed' does not read it, step and sigmoid do",
        "power has no effect: lr_policy 'fixed' does not read it, inv and poly do",
        "stepvalue has no effect: lr_policy 'fixed' does not read it, multistep does",
        "delta has no effect: type 'SGD' does not read it, AdaDelta, AdaGrad, Adam, AdamW and RMSProp do",
        "momentum2 has no effect: type 'SGD' does not read it, Adam and AdamW do",
        "rms_decay has no effect: type 'SGD' does not read it, RMSProp does",
        "regularization_type has no effect: weight_decay is 0",
        "test_interval has no effect: there is no network to test; give test_iter, and where the network is "
        "not in `net`, a test_net"]


def test_large_outputs_are_not_copied_into_every_display():
    wide = NET + """
      layer { name: "extra" type: "InnerProduct" bottom: "data" top: "extra"
        inner_product_param { num_output: 50 } }
      layer { name: "few" type: "Slice" bottom: "label" top: "few" slice_param { axis: 0 } }"""
    solver = make("display: 1", net=wide)
    events = events_of(solver)
    solver.step()
    display = next(e for e in events if e.kind == "display")
    assert set(display.values) == {"loss", "lr", "few"} and len(display.values["few"]) == 8
    assert set(next(e for e in events if e.kind == "step").values) == {"loss", "lr"}


def test_a_callback_stops_training_and_knows_its_solver(tmp_path):
    solver, seen, tests = make("test_iter: 1 test_interval: 2 snapshot_after_train: false", tmp_path), [], []

    def stop(event):
        seen.append(event.solver)
        tests.extend([event.values] * (event.kind == "test"))
        if event.kind == "step" and event.iteration >= 3:
            event.solver.stop()
    solver.add_callback(stop)
    assert solver.solve() == tests[-1] and solver.iteration == 3 and set(seen) == {solver}
    solver.step(5)
    assert solver.iteration == 4
    assert not list(tmp_path.iterdir())
