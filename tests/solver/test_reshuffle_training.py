"""Training with reshuffle_interval: the same course as without it, for every rule; resumed exactly; with test
nets."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  param { } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 20 weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1
    max: 1 } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param { RATE reshuffle_interval: 3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 12 transpose: true weight_filler { type: "msra" } } }
layer { name: "tanh2" type: "TanH" bottom: "ip2" top: "tanh2" }
layer { name: "drop2" type: "ApproxDropout" bottom: "tanh2" top: "drop2"
  approx_dropout_param { RATE reshuffle_interval: 2 } }
layer { name: "ip3" type: "InnerProduct" bottom: "drop2" top: "ip3"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip3" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }
"""
RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.9 delta: 1e-6", "Adam": "momentum: 0.9",
         "AdamW": "momentum: 0.9"}


def make(rule="SGD", reshuffle=True, rate=0, more="", tmp_path="/nonexistent", dtype="float64", net=NET,
         device="cpu"):
    net = net.replace("RATE", f"dropout_ratio: {rate}")
    if not reshuffle:
        net = net.replace("reshuffle_interval: 3", "").replace("reshuffle_interval: 2", "")
    if rule == "AdamW":         # which has no L1
        more = more.replace("regularization_type: 'L1'", "decay_axes: 2")
    text = (f"base_lr: 0.03 lr_policy: 'fixed' type: '{rule}' {RULES[rule]} weight_decay: 0.01 max_iter: 20 "
            f"random_seed: 3 {more} net_param {{ {net} }}")
    return md.Solver(parse_solver(text), dtype=dtype, device=device, snapshot_prefix=f"{tmp_path}/tiny")


def weights(solver):
    return {name: solver.net.backend.to_host(p.data).copy() for name, p in solver.net.parameters().items()}


def losses(solver, iterations=20):
    seen = []
    solver.add_callback(lambda event: seen.append(event.values["loss"]) if event.kind == "step" else None)
    solver.step(iterations)
    return np.array(seen)


SETTINGS = ["", "regularization_type: 'L1' clip_gradients: 0.3 iter_size: 2"]


@pytest.mark.parametrize("more", SETTINGS, ids=["plain", "L1, clipped, two passes"])
@pytest.mark.parametrize("rule", RULES)
class TestTheCourseOfTraining:
    def test_is_the_same_while_nothing_is_dropped(self, rule, more, backend):
        still, moving = (make(rule, reshuffle, more=more, device=backend.name) for reshuffle in (False, True))
        assert not still.net.reshuffles and len(moving.net.reshuffles) == 2
        np.testing.assert_allclose(losses(moving), losses(still), rtol=0, atol=1e-9)
        a, b = weights(still), weights(moving)
        for name in ("ip1/weight", "ip1/bias", "ip2/weight", "ip2/bias", "ip3/weight"):
            assert np.abs(a[name] - b[name]).max() > 1e-3, name           # moved, ...
            # ... no more
            np.testing.assert_allclose(np.sort(a[name], axis=None), np.sort(b[name], axis=None), atol=1e-9)
        np.testing.assert_allclose(a["ip3/bias"], b["ip3/bias"], atol=1e-9)

    def test_is_another_if_a_history_stays_behind(self, rule, more, monkeypatch):
        """What the test above can see."""
        def weights_only(self, parameter, axis, order):
            parameter.data[...] = np.take(parameter.data, order, axis=axis)
        still = losses(make(rule, False, more=more))
        monkeypatch.setattr("minidrop.solver.updater.Updater.permute", weights_only)
        assert np.abs(losses(make(rule, more=more)) - still).max() > 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_every_slot_of_the_history_moves(rule):
    solver = make(rule)
    solver.step(2)
    before = {name: [h.copy() for h in history] for name, history in solver.updater.history.items()}
    parameter, axis, order = next(solver.net.due_permutations(3))
    solver.updater.permute(parameter, axis, order)
    for old, new in zip(before["ip1/weight"], solver.updater.history["ip1/weight"], strict=True):
        assert old.any()
        np.testing.assert_array_equal(new, old[order])
    assert len(before["ip1/weight"]) == solver.updater.rule.slots >= 1
    for old, new in zip(before["ip2/weight"], solver.updater.history["ip2/weight"], strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_frozen_parameter_moves_too():
    net = NET.replace("param { } param { lr_mult: 2 decay_mult: 0 }", "param { lr_mult: 0 } param { lr_mult: "
                      "0 }")
    still, moving = make(reshuffle=False, net=net), make(net=net)
    assert "ip1/weight" not in moving.updater.history
    np.testing.assert_allclose(losses(moving), losses(still), rtol=0, atol=1e-9)
    assert not np.array_equal(weights(still)["ip1/weight"], weights(moving)["ip1/weight"])


@pytest.mark.parametrize("rule", RULES)
def test_compact_training_equals_masked_dense_training(rule):
    compact, dense = (make(rule, rate=0.5, more="iter_size: 2") for _ in range(2))
    dense.net.run_masked_dense()
    compact.step(10)
    dense.step(10)
    for name, value in weights(compact).items():
        np.testing.assert_allclose(value, weights(dense)[name], rtol=0, atol=1e-9, err_msg=name)


def test_other_units_live_and_die_together():
    """With drops the course is another one: that is what it is for."""
    still, moving = losses(make(reshuffle=False, rate=0.5)), losses(make(rate=0.5))
    np.testing.assert_array_equal(moving[:2], still[:2])
    assert np.abs(moving[2:] - still[2:]).max() > 1e-3


def test_when(monkeypatch):
    """After iteration 0, before forward, once an iteration however many passes it has, and after the
    tests."""
    solver = make(more="iter_size: 2 test_iter: 1 test_interval: 6")
    seen = []
    permute = type(solver.updater).permute
    monkeypatch.setattr(type(solver.updater), "permute",
                        lambda self, p, axis, order: (seen.append((solver.iteration, p.name)),
                                                      permute(self, p, axis, order)))
    forward = type(solver.net).forward
    monkeypatch.setattr(type(solver.net), "forward",
                        lambda self, **inputs: (seen.append((solver.iteration, self.phase)),
                                                forward(self, **inputs))[1])
    solver.step(7)
    first, second = ["ip1.weight", "ip1.bias", "ip2.weight"], ["ip2.weight", "ip2.bias", "ip3.weight"]
    passes = ["TRAIN", "TRAIN"]
    assert [[name for i, name in seen if i == k] for k in range(7)] == [
        ["TEST", *passes], passes, second + passes, first + passes, second + passes, passes,
        ["TEST", *first, *second, *passes]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at", [5, 6])
def test_resumed_run_equals_uninterrupted_run(tmp_path, rule, at):
    """Also from a snapshot of the very iteration before which units move."""
    whole = make(rule, rate=0.5, more=f"snapshot: {at} iter_size: 2 test_iter: 2 test_interval: 4",
                 tmp_path=tmp_path, dtype="float32")
    whole.solve()
    resumed = make(rule, rate=0.5, more="iter_size: 2 test_iter: 2 test_interval: 4",
                   tmp_path=tmp_path / "second", dtype="float32")
    resumed.restore(tmp_path / f"tiny_iter_{at}.h5")
    assert resumed.iteration == at
    resumed.solve()
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(resumed)[name], err_msg=name)
    for name, history in whole.updater.history.items():
        for a, b in zip(history, resumed.updater.history[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_the_best_snapshot_is_resumed_exactly(tmp_path):
    """It is written while an iteration begins, at a test: before the units move, not after."""
    # any value is the best
    settings = "test_iter: 1 test_interval: 6 test_initialization: false snapshot_best: 'loss'"
    whole = make(rate=0.5, more=settings, tmp_path=tmp_path, dtype="float32")
    whole.step(7)
    assert (tmp_path / "tiny_best.h5").exists()
    resumed = make(rate=0.5, more=settings, tmp_path=tmp_path / "second", dtype="float32")
    resumed.restore(tmp_path / "tiny_best.h5")
    assert resumed.iteration == 6
    resumed.step(6)
    whole.step(5)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(resumed)[name], err_msg=name)


def test_test_nets_see_no_difference():
    """A test right before and right after the units move gives the same values."""
    solver = make(rate=0.5, more="test_iter: 3 test_interval: 100")
    solver.step(6)
    before = solver.test()
    assert len(list(solver.net.due_permutations(6))) == 6
    for parameter, axis, order in solver.net.due_permutations(6):
        solver.updater.permute(parameter, axis, order)
    after = solver.test()
    assert after["accuracy"] == before["accuracy"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-12)


@pytest.mark.parametrize("command", [("check", "net.prototxt"), ("train", "--solver", "solver.prototxt")])
def test_commands_say_what_moves(tmp_path, monkeypatch, capsys, command):
    from minidrop.cli import run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET.replace("RATE", "").replace('include { phase: TEST }', ""))
    (tmp_path / "solver.prototxt").write_text("net: 'net.prototxt' base_lr: 0.1 lr_policy: 'fixed' max_iter: "
                                              "4")
    assert run(list(command)) == 0
    said = "".join(capsys.readouterr())
    assert said.count("drop1 permutes the units of ip1 every 3 iterations") == 1
    assert said.count("drop2 permutes the units of ip2 every 2 iterations") == 1


def test_conventional_dropout_reshuffles_nothing():
    text = f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 3 net_param {{ {NET.replace('RATE', '')} }}"
    assert md.Solver(parse_solver(text), dropout="conventional", device="cpu").net.reshuffles == []


def test_a_test_net_that_cannot_follow_is_reported_with_the_solver():
    net = NET + 'layer { name: "seen" type: "ReLU" bottom: "tanh2" top: "seen" include { phase: TEST } }'
    with pytest.raises(md.ConfigError, match="permutes the units of ip2 .* cannot follow: blob seen of seen "
                       ".* is an output"):
        make(net=net, more="test_iter: 1 test_interval: 5")
