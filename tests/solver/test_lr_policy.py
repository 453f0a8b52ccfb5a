"""The learning rate policies against values worked out by hand, and the mistakes found beforehand."""

import math

import pytest
from cases import in_turn
from google.protobuf import text_format

import minidrop as md
from minidrop.config import minidrop_pb2, parse_solver
from minidrop.errors import ConfigError
from minidrop.solver.lr_policy import POLICIES, check_lr_policy, learning_rate


def solver(text):
    return text_format.Parse(text, minidrop_pb2.SolverParameter())


STEP = 'base_lr: 0.1 lr_policy: "step" gamma: 0.1 stepsize: 100'
MULTISTEP = 'base_lr: 0.01 lr_policy: "multistep" gamma: 0.5 stepvalue: 10 stepvalue: 30'
INV = 'base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75'
POLY = 'base_lr: 0.2 lr_policy: "poly" power: 2 max_iter: 10'
COSINE = 'base_lr: 0.2 lr_policy: "cosine" max_iter: 12 min_lr: 0.05'
CYCLE = 'base_lr: 0.1 lr_policy: "onecycle" max_lr: 0.5 max_iter: 8 pct_start: 0.25 min_lr: 0.02'
WARM = " warmup_iter: 4 "
SIGMOID = 'base_lr: 0.1 lr_policy: "sigmoid" gamma: -0.5 stepsize: 10'


@in_turn("text, iteration, expected", [
    ('base_lr: 0.01 lr_policy: "fixed"', 12345, 0.01),
    (STEP, 0, 0.1), (STEP, 99, 0.1), (STEP, 100, 0.01), (STEP, 250, 0.001),
    ('base_lr: 1 lr_policy: "exp" gamma: 0.9', 0, 1.0), ('base_lr: 1 lr_policy: "exp" gamma: 0.9', 2, 0.81),
    (INV, 0, 0.01), (INV, 10000, 0.005946035575013605),  # 0.01 * 2 ** -0.75
    (MULTISTEP, 9, 0.01), (MULTISTEP, 10, 0.005), (MULTISTEP, 29, 0.005), (MULTISTEP, 30, 0.0025),
    (MULTISTEP, 10**6, 0.0025),
    (POLY, 0, 0.2), (POLY, 5, 0.05), (POLY, 10, 0.0), (POLY, 15, 0.0),
    (SIGMOID, 10, 0.05), (SIGMOID, 12, 0.02689414213699951),  # 0.1 / (1 + e)
    (SIGMOID, 0, 0.0993307149075715), (SIGMOID, 10**6, 0.0),
    (COSINE, 0, 0.2), (COSINE, 4, 0.05 + 0.15 * 0.75), (COSINE, 6, 0.125), (COSINE, 8, 0.05 + 0.15 * 0.25),
    (COSINE, 12, 0.05), (COSINE, 10**6, 0.05),
    ('base_lr: 0.2 lr_policy: "cosine" max_iter: 12', 6, 0.1),
    # the highest rate at 0.25 * 8 - 1, the last at 8 - 1
    (CYCLE, 0, 0.1), (CYCLE, 1, 0.5), (CYCLE, 4, 0.26), (CYCLE, 7, 0.02), (CYCLE, 10**6, 0.02),
    (CYCLE.replace("8", "12") + WARM, 0, 0.025), (CYCLE.replace("8", "12") + WARM, 5, 0.5),
    (CYCLE.replace("0.25", "1"), 7, 0.5), (CYCLE.replace("0.25", "0.125"), 0, 0.5),
    # in a warm-up the rate grows in equal steps to that with which the policy begins
    (COSINE + WARM, 0, 0.05), (COSINE + WARM, 1, 0.1), (COSINE + WARM, 3, 0.2), (COSINE + WARM, 4, 0.2),
    (COSINE + WARM, 8, 0.125), (COSINE + WARM, 12, 0.05), (COSINE + WARM, 13, 0.05),
    (POLY + WARM, 0, 0.05), (POLY + WARM, 4, 0.2), (POLY + WARM, 7, 0.05), (POLY + WARM, 10, 0.0),
    (MULTISTEP + WARM, 0, 0.0025), (MULTISTEP + WARM, 4, 0.01), (MULTISTEP + WARM, 9, 0.01),
    (MULTISTEP + WARM, 10, 0.005),
    (STEP + " warmup_iter: 200", 99, 0.0005), (STEP + " warmup_iter: 200", 200, 0.001),
    ('base_lr: 0.01 lr_policy: "fixed" warmup_iter: 1', 0, 0.01),
    ('base_lr: 1 lr_policy: "exp" gamma: 0.9 warmup_iter: 2', 0, 0.405),
])
def test_values(text, iteration, expected):
    assert check_lr_policy(solver(text)) == []
    assert learning_rate(solver(text), iteration) == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_the_decimal_that_was_written_is_meant():
    assert learning_rate(solver('base_lr: 0.01 lr_policy: "fixed"'), 0) == 0.01
    assert learning_rate(solver(STEP), 100) == 0.1 * 0.1


def test_too_large_is_infinite():
    assert learning_rate(solver('base_lr: 1 lr_policy: "exp" gamma: 10'), 1000) == math.inf


def test_unknown_policy():
    with pytest.raises(ConfigError, match="expected one of fixed, .*; got 'stepp'; did you mean 'step'"):
        learning_rate(solver('base_lr: 1 lr_policy: "stepp"'), 0)


GOOD = {"fixed": "", "step": "gamma: 0.1 stepsize: 5", "exp": "gamma: 0.9", "inv": "gamma: 0.1 power: 1",
        "multistep": "gamma: 0.1 stepvalue: 3 stepvalue: 7", "poly": "power: 1 max_iter: 9",
        "sigmoid": "gamma: 1 stepsize: 3", "cosine": "max_iter: 9", "onecycle": "max_lr: 0.5 max_iter: 9"}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_missing_field_is_named(policy):
    assert check_lr_policy(solver(f'base_lr: 0.1 lr_policy: "{policy}" {GOOD[policy]}')) == []
    wanted = {word.rstrip(":") for word in GOOD[policy].split() if word.endswith(":")}
    problems = check_lr_policy(solver(f'lr_policy: "{policy}"'))
    assert {field for field, _ in problems} == wanted | {"base_lr"}
    for field, problem in problems:
        assert problem == ("base_lr is missing" if field == "base_lr" else
                           f"lr_policy '{policy}' needs {field}, which is missing")


@in_turn("text, field, message", [
    ('base_lr: 1', "lr_policy", "lr_policy is missing; it is one of fixed, step"),
    ('base_lr: 1 lr_policy: "Step"', "lr_policy", "got 'Step'; did you mean 'step'"),
    ('base_lr: 1 lr_policy: "zzz"', "lr_policy", "got 'zzz'"),
    ('base_lr: -0.1 lr_policy: "fixed"', "base_lr", "base_lr: expected a number >= 0, got -0.1"),
    ('base_lr: nan lr_policy: "fixed"', "base_lr", "got nan"),
    ('base_lr: 1 lr_policy: "step" gamma: 0.1 stepsize: 0', "stepsize", "must be at least 1, but is 0"),
    ('base_lr: 1 lr_policy: "step" gamma: -0.1 stepsize: 1', "gamma", "must be a number >= 0, but is -0.1"),
    ('base_lr: 1 lr_policy: "inv" gamma: inf power: 1', "gamma", "must be a number >= 0, but is inf"),
    ('base_lr: 1 lr_policy: "poly" power: -1 max_iter: 5', "power", "must be a number >= 0, but is -1"),
    ('base_lr: 1 lr_policy: "poly" power: 1 max_iter: 0', "max_iter", "must be at least 1, but is 0"),
    ('base_lr: 1 lr_policy: "multistep" gamma: 0.1 stepvalue: 5 stepvalue: 5', "stepvalue",
     "must increase, but is 5, 5"),
    ('base_lr: 1 lr_policy: "multistep" gamma: 0.1 stepvalue: -3 stepvalue: 5', "stepvalue",
     "must not be negative, but is -3, 5"),
    ('base_lr: 1 lr_policy: "cosine" max_iter: 5 warmup_iter: 5', "warmup_iter",
     "'cosine' begins after the warm-up and ends at max_iter: expected fewer than 5, got 5"),
    ('base_lr: 1 lr_policy: "poly" power: 1 max_iter: 5 warmup_iter: 6', "warmup_iter", "'poly' begins"),
    ('base_lr: 0.1 lr_policy: "cosine" max_iter: 5 min_lr: 0.2', "min_lr", "from 0 to base_lr, 0.1, got 0.2"),
    ('base_lr: 0.1 lr_policy: "cosine" max_iter: 5 min_lr: -1', "min_lr", "got -1"),
    ('base_lr: 0.1 lr_policy: "cosine" max_iter: 5 min_lr: nan', "min_lr", "got nan"),
    ('base_lr: 0.1 lr_policy: "cosine" max_iter: 0', "max_iter", "must be at least 1, but is 0"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: 0.05', "max_lr", "base_lr on, 0.1, got 0.05"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: inf', "max_lr", "must be a number >= 0"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: 1 min_lr: 2', "min_lr", "max_lr, 1, got 2"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: 1 pct_start: 2', "pct_start", "1, got 2"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: 1 pct_start: nan', "pct_start", "got nan"),
    ('base_lr: 0.1 lr_policy: "onecycle" max_iter: 5 max_lr: 1 warmup_iter: 5', "warmup_iter",
     "fewer than 5"),
])
def test_mistakes(text, field, message):
    (where, problem), = check_lr_policy(solver(text))
    assert where == field and message in problem


def test_warmup_and_cosine_are_pytorchs():
    """LinearLR then CosineAnnealingLR, as PyTorch chains them."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    schedulers = torch.optim.lr_scheduler
    chained = schedulers.SequentialLR(optimizer, [
        schedulers.LinearLR(optimizer, start_factor=1 / 5, total_iters=4),
        schedulers.CosineAnnealingLR(optimizer, T_max=15, eta_min=0.01)], milestones=[5])
    settings = solver('base_lr: 0.2 lr_policy: "cosine" max_iter: 20 warmup_iter: 5 min_lr: 0.01')
    for iteration in range(20):
        theirs = optimizer.param_groups[0]["lr"]
        assert learning_rate(settings, iteration) == pytest.approx(theirs, rel=1e-9), iteration
        optimizer.step()
        chained.step()


@pytest.mark.parametrize("pct_start", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_onecycle_is_pytorchs(pct_start):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=40, pct_start=pct_start,
                                                 div_factor=20, final_div_factor=100, cycle_momentum=False)
    settings = solver(f'base_lr: 0.025 lr_policy: "onecycle" max_lr: 0.5 max_iter: 40 min_lr: 0.00025 '
                      f'pct_start: {pct_start}')
    assert check_lr_policy(settings) == []
    for iteration in range(40):
        rate = optimizer.param_groups[0]["lr"]
        assert learning_rate(settings, iteration) == pytest.approx(rate, rel=1e-9), iteration
        optimizer.step()
        if iteration < 39:
            theirs.step()


def test_a_whole_curve_of_warmup_and_cosine_resumed_in_the_middle(tmp_path):
    """The rates that a Solver reports: 3 equal steps up to 0.4, then half a cosine down to min_lr at
    max_iter; a run that is resumed in either part reports the same, and its weights are the same bit for
    bit."""
    net = """layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 4 dim: 3 }
            data_filler { type: "gaussian" } } }
      layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2
            weight_filler { type: "xavier" } } }
      layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1
            reduction_param { operation: SUMSQ } }"""
    text = (f"base_lr: 0.4 lr_policy: 'cosine' min_lr: 0.1 warmup_iter: 3 max_iter: 9 momentum: 0.5 "
            f"random_seed: 2 solver_mode: CPU net_param {{ {net} }}")
    s3 = math.sqrt(3)
    # cos(pi i / 6) for i = 0 ... 5 behind the warm-up
    expected = [0.4 / 3, 0.8 / 3, 0.4] + [0.1 + 0.15 * (1 + cosine) for cosine in
                                          (1, s3 / 2, 0.5, 0, -0.5, -s3 / 2)]

    def run(solver, count):
        rates = []
        solver.callbacks[:] = [lambda event: event.kind == "step" and rates.append(event.values["lr"])]
        solver.step(count)
        return rates
    whole = md.Solver(parse_solver(text), dtype="float64", snapshot_prefix=tmp_path / "whole")
    assert run(whole, 9) == pytest.approx(expected, rel=1e-12)
    assert whole.learning_rate == 0.1
    for at in (2, 6):
        first, second = (md.Solver(parse_solver(text), dtype="float64", snapshot_prefix=tmp_path / name)
                         for name in ("first", "second"))
        rates = run(first, at)
        second.restore(first.snapshot())
        rates += run(second, 9 - at)
        assert rates == pytest.approx(expected, rel=1e-12)
        for name, parameter in whole.net.parameters().items():
            assert (second.net.parameters()[name].data == parameter.data).all()
