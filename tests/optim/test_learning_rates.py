"""find_learning_rate: the sweep and its suggestion, where it ends, and a solver that is as it was before."""

import math

import numpy as np
import pytest

import minidrop as md
from minidrop import optim
from minidrop.autograd import Parameter
from minidrop.config import parse_solver
from minidrop.errors import ConfigError, NonFiniteError
from minidrop.optim import find_learning_rate
from minidrop.snapshot import read_snapshot
from minidrop.solver.trial import trial

UNIFORM = 'weight_filler { type: "uniform" min: -0.3 max: 0.3 }'
TEXT = f"""
layer {{ name: "text" type: "TextData" top: "data" top: "label" top: "cont" text_data_param {{
  source: "text.txt" batch_size: 4 steps: 5 level: CHARACTER }} }}
layer {{ name: "embed" type: "Embed" bottom: "data" top: "embed"
  embed_param {{ num_output: 6 input_dim: 9 {UNIFORM} }} }}
layer {{ name: "r" type: "LSTM" bottom: "embed" bottom: "cont" top: "h"
  recurrent_param {{ num_output: 8 {UNIFORM} hidden_dropout {{ pattern: "UNIT" }} }} }}
layer {{ name: "drop" type: "Dropout" bottom: "h" top: "drop" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
  inner_product_param {{ num_output: 9 axis: 2 {UNIFORM} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  softmax_param {{ axis: 2 }} }}"""
MLP = f"""
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: 8 dim: 6 }} shape {{ dim: 8 }} data_filler {{ type: "gaussian" }}
  data_filler {{ type: "constant" value: 2 }} }} }}
layer {{ name: "norm" type: "BatchNorm" bottom: "data" top: "norm" }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "norm" top: "ip1"
  inner_product_param {{ num_output: 20 {UNIFORM} }} }}
layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param {{ reshuffle_interval: 3 }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param {{ num_output: 5 {UNIFORM} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text("".join(rng.choice(list("abcd e"), 4 * 5 * 8 + 1)), encoding="utf-8")

    def build(net, settings=""):
        return md.Solver(parse_solver(
            f"base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 2 max_iter: 20 random_seed: 3 display: 1 "
            f"average_loss: 3 test_interval: 0 snapshot_prefix: 'own' {settings} net_param {{ {net} }}"),
            device="cpu")
    return build


def state_of(solver, path):
    """All that a snapshot holds: weights, statistics, history, states, positions, losses."""
    return read_snapshot(solver.snapshot(path))


def assert_same(one, other):
    assert one.arrays.keys() == other.arrays.keys() and dict(one.attrs) == dict(other.attrs)
    for key, array in one.arrays.items():
        assert np.array_equal(array, other.arrays[key]), key


@pytest.mark.parametrize("net, settings", [
    (TEXT, "type: 'SGD' momentum: 0.9 clip_gradients: 1"),
    (MLP, "type: 'AdamW' momentum: 0.9 weight_decay: 0.01"),
    (MLP, "type: 'Adam' momentum: 0.9 iter_size: 2"),
    (MLP, "momentum: 0.9 ema_decay: 0.9")])
def test_a_solver_goes_on_as_if_there_had_been_no_sweep(make, tmp_path, net, settings):
    plain, swept = make(net, settings), make(net, settings)
    events = []
    for solver in (plain, swept):
        solver.step(4)
    before = state_of(swept, tmp_path / "before.h5")
    swept.add_callback(lambda event: events.append(event.kind))
    found = find_learning_rate(swept, 1e-4, 10.0, 30)
    assert len(found.rates) >= 10 and not events
    assert_same(state_of(swept, tmp_path / "after.h5"), before)
    for solver in (plain, swept):
        solver.step(5)
    assert_same(state_of(swept, tmp_path / "swept.h5"), state_of(plain, tmp_path / "plain.h5"))
    assert not (tmp_path / "own_iter_4.h5").exists()


def test_a_sweep_at_the_start_and_one_that_fails_leave_no_trace(make, tmp_path):
    plain, swept = make(MLP, "type: 'Adam' momentum: 0.9"), make(MLP, "type: 'Adam' momentum: 0.9")
    find_learning_rate(swept, iterations=12)
    with pytest.raises(NonFiniteError), trial(swept) as step:
        step(0.1)
        swept.after_backward.append(lambda parameters: parameters["ip1/weight"].scale_grad(math.nan))
        step(0.1)
    swept.after_backward.clear()
    assert swept.iteration == 0 and not swept.net.blobs
    for solver in (plain, swept):
        solver.step(3)
    assert_same(state_of(swept, tmp_path / "swept.h5"), state_of(plain, tmp_path / "plain.h5"))


def test_a_trial_trains_as_the_solver_does(make):
    plain, tried = make(MLP, "momentum: 0.9"), make(MLP, "momentum: 0.9")
    losses = []
    plain.add_callback(lambda event: losses.append(plain.losses[-1]) if event.kind == "step" else None)
    plain.step(7)
    with trial(tried) as step:
        assert [step(0.05 * 0.5 ** (i // 2)) for i in range(7)] == losses
        for name, p in tried.net.parameters().items():
            assert np.array_equal(p.data, plain.net.parameters()[name].data)


def test_the_numbers_of_a_sweep():
    asked = []

    def step(rate):
        asked.append(rate)
        return 3.0 - 2 / (1 + (0.01 / rate) ** 2)       # falls fastest with log(rate) at 0.01

    found = find_learning_rate(step, 1e-4, 1.0, 81, smoothing=0.0)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 1, 81), rtol=1e-12)
    assert found.rates == asked and found.smoothed == found.losses and found.diverged == ""
    assert found.suggestion == pytest.approx(0.01, rel=0.06)        # a ratio of 10 ** (1 / 20) between two
    smooth = find_learning_rate(step, 1e-4, 1.0, 81, smoothing=0.5)
    weights = 0.5 ** np.arange(10, -1, -1)
    assert smooth.smoothed[10] == pytest.approx(np.average(smooth.losses[:11], weights=weights), rel=1e-12)
    assert smooth.suggestion > found.suggestion


def test_a_sweep_ends_where_the_loss_diverges():
    def sweep(worst, loss=lambda rate: 1.0):
        return find_learning_rate(lambda rate: worst(rate) if rate > 0.1 else loss(rate), 1e-3, 10, 41)

    def broken(rate):
        raise NonFiniteError("a gradient is not")
    for found in (sweep(lambda rate: math.nan), sweep(broken)):
        assert max(found.rates) <= 0.1 and len(found.losses) == len(found.rates) == 21
        assert found.diverged in ("the loss is nan", "a gradient is not")
    assert found.suggestion is None             # the loss is constant
    found = sweep(lambda rate: 1000.0)
    assert "4 times its lowest value" in found.diverged and len(found.rates) == 22
    assert sweep(lambda rate: -1000.0, lambda rate: -rate).diverged == ""


def test_an_optimizer_sweeps_within_restored():
    p = Parameter(np.array([4.0, -3.0]), name="p")
    optimizer = optim.Adam([p])

    def step(rate):
        optimizer.lr = rate
        p.grad = 2 * p.data
        optimizer.step()
        return float((p.data ** 2).sum())
    state = optimizer.state_dict()
    with optimizer.restored():
        found = find_learning_rate(step, 1e-3, 100.0, 60)
    assert found.suggestion and p.numpy().tolist() == [4.0, -3.0]
    assert all(np.array_equal(array, state[key]) for key, array in optimizer.state_dict().items())


@pytest.mark.parametrize("settings, message", [
    ({"lowest": 0}, "rates 0 < lowest < highest, got 0 and 1"), ({"lowest": 2}, "got 2 and 1"),
    ({"highest": math.inf}, "got 1e-06 and inf"), ({"iterations": 9}, "iterations >= 10, got 9"),
    ({"smoothing": 1}, "smoothing from 0 to below 1, got 1"), ({"diverges_at": 1}, "above 1, got 1")])
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        find_learning_rate(lambda rate: 1.0, **settings)


def test_a_sweep_that_is_over_too_soon_says_why():
    with pytest.raises(ConfigError, match="from 1e-06 on only 0 ended well, expected 10: the loss is nan"):
        find_learning_rate(lambda rate: math.nan)


def test_a_net_without_a_loss_is_refused(make):
    with pytest.raises(ConfigError, match="a training step needs a loss, but no layer is one"):
        find_learning_rate(make(MLP[:MLP.index('layer { name: "loss"')]))
