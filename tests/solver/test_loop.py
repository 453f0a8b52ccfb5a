"""The training loop: Caffe's order of things, resuming, stopping at NaN, and compact training equal to dense
training."""

import json

import numpy as np
import pytest
from cases import every_pair, in_turn

import minidrop as md
from minidrop.config import parse_solver
from minidrop.snapshot import Snapshot, write_snapshot

NET = """
name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { } param { lr_mult: 2
  decay_mult: 0 }
  inner_product_param { num_output: 20 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
BASE = ("base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 4 momentum: 0.9 weight_decay: 0.01 max_iter: "
        "12 random_seed: 3\n")


def make(settings="", tmp_path="/nonexistent", net=NET, dtype="float64", base=BASE, **options):
    text = f"{base} {settings} solver_mode: CPU net_param {{ {net} }}"
    return md.Solver(parse_solver(text), dtype=dtype, snapshot_prefix=f"{tmp_path}/tiny", **options)


def weights(solver):
    return {name: p.data.copy() for name, p in solver.net.parameters().items()}


def assert_same_weights(a, b):
    for name, value in weights(a).items():
        np.testing.assert_array_equal(value, b.net.parameters()[name].data, err_msg=name)


def events_of(solver):
    events = []
    solver.add_callback(events.append)
    return events


RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.9 delta: 1e-6", "Adam": "momentum: 0.9",
         "AdamW": "momentum: 0.9"}


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


def run_steps(solver, count):
    events = events_of(solver)
    solver.step(count)
    return [e for e in events if e.kind == "step"]


@pytest.mark.parametrize("rule", RULES)
def test_resumed_run_equals_uninterrupted_run(tmp_path, rule):
    base = (f"base_lr: 0.05 lr_policy: 'fixed' type: '{rule}' {RULES[rule]} weight_decay: 0.01 max_iter: 12 "
            f"random_seed: 3 ")
    settings = "snapshot: 5 average_loss: 4 iter_size: 2 test_iter: 2 test_interval: 4"
    whole = make(settings, tmp_path, base=base, dtype="float32")
    all_events = events_of(whole)
    whole.solve()
    resumed = make(settings, tmp_path / "second", base=base, dtype="float32")
    resumed.restore(tmp_path / "tiny_iter_5.h5")
    assert resumed.iteration == 5
    events = events_of(resumed)
    resumed.solve()
    assert_same_weights(whole, resumed)
    wanted = [e for e in all_events if e.iteration > 5 and e.kind != "snapshot"]
    assert [e for e in events if e.kind != "snapshot"] == wanted


def test_same_seed_same_run_other_seed_other_run():
    runs = [make(base=BASE.replace("random_seed: 3", f"random_seed: {seed}")) for seed in (3, 3, 4)]
    for solver in runs:
        solver.step(3)
    assert_same_weights(runs[0], runs[1])
    assert not np.array_equal(weights(runs[0])["ip1/weight"], weights(runs[2])["ip1/weight"])


def test_nets_held_before_restore_are_those_that_go_on(tmp_path):
    base = BASE.replace("random_seed: 3", "")
    whole, solver = (make("test_iter: 1 test_interval: 2", tmp_path, base=base) for _ in range(2))
    whole.step(3)
    net, tested = solver.net, solver.test_nets[0]
    solver.restore(whole.snapshot())
    assert solver.seed == whole.seed and solver.net is net and solver.test_nets == [tested]
    assert net.seed == whole.seed
    for one in (whole, solver):
        one.step(2)
    assert_same_weights(whole, solver)
    for name, parameter in net.parameters().items():
        assert parameter is tested.parameters()[name] is solver.updater.parameters[name]
    net.forward()
    assert net.draws["drop1"].kept == net.blobs["drop1"].kept


def test_restore_brings_back_a_random_seed(tmp_path):
    base = BASE.replace("random_seed: 3", "")
    first, second = (make(base=base, tmp_path=tmp_path) for _ in range(2))
    first.step(2)
    path = first.snapshot()
    second.restore(path)
    assert second.seed == first.seed
    first.step(3)
    second.step(3)
    assert_same_weights(first, second)


class TestRestoreRefuses:
    def snapshot(self, tmp_path):
        solver = make(tmp_path=tmp_path)
        solver.step(2)
        return solver.snapshot()

    @pytest.mark.parametrize("options, message", [
        ({"net": NET.replace("num_output: 20", "num_output: 24")},
         r"data/ip1/weight has shape \(20, 6\), this net expects \(24, 6\)\. Did num_output"),
        ({"net": NET.replace('"ip2"', '"score"')},
         r"is no snapshot of this net: it has no data/score/weight; did you mean"),
        ({"base": BASE.replace("random_seed: 3", "random_seed: 4")}, r"random_seed 3, this solver says 4"),
        ({"base": BASE + "type: 'Nesterov'"}, r"written by solver type 'SGD', this one is 'Nesterov'"),
    ])
    def test_what_does_not_fit_and_changes_nothing(self, tmp_path, options, message):
        path = self.snapshot(tmp_path)
        solver = make(**options)
        before = weights(solver)
        with pytest.raises(md.SnapshotError, match=message):
            solver.restore(path)
        assert solver.iteration == 0
        for name, value in weights(solver).items():
            np.testing.assert_array_equal(value, before[name])

    def test_weights_without_solver_state(self, tmp_path):
        from minidrop.snapshot import Snapshot, write_snapshot
        write_snapshot(tmp_path / "weights.h5", Snapshot({"data/ip1/bias": np.zeros(20)}, {"iteration": 0}))
        with pytest.raises(md.SnapshotError, match="no solver state; give it with --weights"):
            make().restore(tmp_path / "weights.h5")


class TestLoadWeights:
    def test_copies_by_name_and_says_what_it_left(self, tmp_path, caplog):
        first = make(tmp_path=tmp_path)
        first.step(2)
        path = first.snapshot()
        other = make(net=NET.replace('name: "ip2"', 'name: "score"'))
        copied, left = md.load_weights(other.net, path)
        assert copied == ["ip1/weight", "ip1/bias"]
        assert left == ["score/weight (not in the file)", "score/bias (not in the file)", "ip2/bias (not in "
                        "the net)", "ip2/weight (not in the net)"]
        assert "not copied: score/weight" in caplog.text
        np.testing.assert_array_equal(weights(other)["ip1/weight"], weights(first)["ip1/weight"])

    @pytest.mark.parametrize("value, dtype, fits", [
        (np.nan, "float32", False), (np.inf, "float32", False), (1e300, "float32", False),
        (1e300, "float64", True)])
    def test_weights_that_are_no_finite_numbers_are_refused(self, value, dtype, fits, tmp_path):
        solver = md.Solver(parse_solver(f"{BASE} net_param {{ {NET} }}"), device="cpu", dtype=dtype)
        before = solver.net.params["ip2"]["bias"].data.copy()
        arrays = {"data/ip2/weight": np.full((5, 20), value), "data/ip2/bias": np.full(5, 7.0)}
        write_snapshot(tmp_path / "w.h5", Snapshot(arrays, {}))
        if fits:
            md.load_weights(solver.net, tmp_path / "w.h5")
            assert (solver.net.params["ip2"]["weight"].data == value).all()
            return
        with pytest.raises(md.SnapshotError, match="w.h5: ip2/weight has a NaN, an infinity or a number too "
                                                   "large for float32"):
            md.load_weights(solver.net, tmp_path / "w.h5")
        np.testing.assert_array_equal(solver.net.params["ip2"]["bias"].data, before)

    def test_refuses_when_nothing_fits_or_a_shape_differs(self, tmp_path):
        path = make(tmp_path=tmp_path).snapshot()
        renamed = NET.replace('"ip1"', '"a"').replace('"ip2"', '"b"')
        with pytest.raises(md.SnapshotError, match="holds no parameter of this net"):
            md.load_weights(make(net=renamed).net, path)
        with pytest.raises(md.SnapshotError,
                           match=r"ip1/weight has shape \(20, 6\), this net expects \(9, 6\)"):
            md.load_weights(make(net=NET.replace("num_output: 20", "num_output: 9")).net, path)


@pytest.mark.parametrize("best, warned", [("loss", True), ("-loss", False), ("accuracy", False)])
def test_the_best_by_a_loss_is_asked_for_with_a_minus(best, warned, caplog):
    make(f"snapshot: 2 snapshot_best: '{best}' test_iter: 1 test_interval: 3")
    assert [line for line in caplog.messages if "snapshot_best" in line] == [
        '<string>:2:14: snapshot_best keeps the snapshot where loss is highest, which is the worst; "-loss" '
        'asks for the lowest'] * warned


def test_keeps_the_newest_and_the_best(tmp_path):
    solver = make("snapshot: 2 snapshot_keep: 2 snapshot_best: '-loss' test_iter: 1 test_interval: 3",
                  tmp_path)
    events = events_of(solver)
    solver.solve()
    values = {e.iteration: e.values["loss"] for e in events if e.kind == "test"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny_best.h5", "tiny_iter_10.h5",
                                                          "tiny_iter_12.h5"]
    from minidrop.snapshot import read_header
    assert read_header(tmp_path / "tiny_best.h5")["iteration"] == min(values, key=values.get)
    assert solver.best == min(values.values())


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


def test_unknown_best_output_is_found_before_training():
    with pytest.raises(md.ConfigError,
                       match=r"test nets have no output 'acuracy'; did you mean 'accuracy'\?"):
        make("test_iter: 1 test_interval: 3 snapshot_best: 'acuracy'")


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


@pytest.mark.parametrize("what, value, message", [
    ("iteration", "abc", "iteration to be an integer from 0 on, got 'abc'"),
    ("iteration", -5, "iteration to be an integer from 0 on, got -5"),
    ("iteration", 1.5, "iteration to be an integer from 0 on, got 1.5"),
    ("seed", "x", "seed to be an integer from 0 on, got 'x'"),
    ("best", "x", "best to be a number, got 'x'"),
    ("solver/losses", np.zeros((2, 2)), "solver/losses to be a row of floats"),
    ("solver/losses", np.array(1.0), "solver/losses to be a row of floats"),
    ("positions/data", np.array(3), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([], np.int64), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([-3]), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([np.nan]), "positions/data to be one number from 0 on"),
])
def test_a_forged_state_is_refused_and_changes_nothing(tmp_path, what, value, message):
    """The checksum says only that a file is whole; anybody can write one."""
    from minidrop.snapshot import read_snapshot, write_snapshot
    solver = make()
    solver.step(2)
    path = solver.snapshot(tmp_path / "forged.h5")
    snapshot = read_snapshot(path)
    (snapshot.arrays if "/" in what else snapshot.attrs)[what] = value
    write_snapshot(path, snapshot)
    before = weights(solver)
    with pytest.raises(md.SnapshotError, match=message):
        solver.restore(path)
    assert solver.iteration == 2
    for name, kept in before.items():
        np.testing.assert_array_equal(kept, weights(solver)[name])


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


def test_restoring_a_drawn_seed_keeps_the_arrays_that_were_set(tmp_path):
    net = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 6 height: 1 width: 1 } }
      layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
        weight_filler { type: "msra" } } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    rng = np.random.default_rng(0)
    first, second = (make(net=net, base=BASE.replace("random_seed: 3", ""), tmp_path=tmp_path)
                     for _ in range(2))
    x, y = rng.standard_normal((16, 6, 1, 1)), rng.integers(0, 3, 16)
    for solver in (first, second):
        solver.net.set_input_arrays(x, y)
    first.step(3)
    second.restore(first.snapshot())
    for solver in (first, second):
        solver.step(3)
    assert_same_weights(first, second)


# -- which snapshots there are -------------------------------------------------------------------------------
def test_the_snapshot_of_the_lowest_loss_stays_and_is_recommended(tmp_path):
    solver = make("snapshot: 1 snapshot_keep: 2 snapshot_after_train: false", tmp_path)
    losses = iter([3.0, 1.0, 2.0, 5.0, 9.0, 20.0])

    def diverge(event):
        if event.kind == "step":
            solver.losses.clear()
            solver.losses.append(next(losses))
    solver.add_callback(diverge)
    solver.step(6)
    names = sorted(path.name for path in tmp_path.glob("*.h5"))
    assert names == ["tiny_iter_2.h5", "tiny_iter_5.h5", "tiny_iter_6.h5"]
    assert solver.written.advice() == (f"; the last snapshot is {tmp_path}/tiny_iter_6.h5, that of the "
                                       f"lowest loss (1) is {tmp_path}/tiny_iter_2.h5")


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


def test_a_script_without_a_prefix_finds_no_files_it_did_not_ask_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = "test_iter: 1 test_interval: 2 snapshot_best: '-loss'"
    solver = md.Solver(parse_solver(f"{BASE} {settings} solver_mode: CPU net_param {{ {NET} }}"))
    solver.solve()
    assert not list(tmp_path.iterdir())
    solver.snapshot()
    assert [path.name for path in tmp_path.iterdir()] == ["minidrop_iter_12.h5"]


def test_the_best_is_not_written_where_snapshots_are_off_which_is_said(tmp_path, caplog):
    solver = make("test_iter: 1 test_interval: 2 snapshot_best: '-loss' snapshot_after_train: false",
                  tmp_path)
    solver.solve()
    assert not list(tmp_path.iterdir())
    assert "snapshot_best has no effect: snapshots are off" in caplog.text
