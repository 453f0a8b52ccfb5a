"""AdamW in a whole net against PyTorch's: multiples, clipping, kept blocks, the axes that decay acts on."""

import numpy as np
import pytest

import minidrop as md
from minidrop.autograd import Block, Blocks, Parameter
from minidrop.backend import get_backend
from minidrop.backend.generic import Backend as Generic
from minidrop.config import SolverParameter, parse_solver
from minidrop.kept import Kept
from minidrop.kernels import cpu_update
from minidrop.solver.rules import get_rule

SETTINGS = {"type": "AdamW", "momentum": 0.9, "momentum2": 0.95, "delta": 1e-8}
NET = """
layer { name: "data" type: "Input" top: "x" top: "label" input_param {
  shape { dim: 6 dim: 3 } shape { dim: 6 } } }
layer { name: "embed" type: "Embed" bottom: "x" top: "e" embed_param { num_output: 8 input_dim: 12
  bias_term: false weight_filler { type: "gaussian" std: 0.5 } } param { lr_mult: 0.5 decay_mult: 3 } }
layer { name: "ip1" type: "InnerProduct" bottom: "e" top: "h" inner_product_param { num_output: 16
  weight_filler { type: "msra" } } param { lr_mult: 2 } param { decay_mult: 0.5 } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "drop" type: "ApproxDropout" bottom: "h" top: "d" approx_dropout_param { pattern: "UNIT" } }
layer { name: "ip2" type: "InnerProduct" bottom: "d" top: "y" inner_product_param { num_output: 5
  weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
"""
MULTIPLES = {"embed/weight": (0.5, 3), "ip1/weight": (2, 1), "ip1/bias": (1, 0.5), "ip2/weight": (1, 1),
             "ip2/bias": (1, 1)}


def solver(more="", device="cpu", dtype="float64"):
    text = (f"base_lr: 0.01 lr_policy: 'fixed' type: 'AdamW' momentum: 0.9 momentum2: 0.95 weight_decay: 0.1 "
            f"max_iter: 50 random_seed: 3 {more} net_param {{ {NET} }}")
    made = md.Solver(parse_solver(text), dtype=dtype, device=device)
    rng = np.random.default_rng(0)
    made.net.set_inputs(x=rng.integers(0, 12, (6, 3)), label=rng.integers(0, 5, 6))
    return made


def values(made):
    return {name: p.numpy().copy() for name, p in made.net.parameters().items()}


@pytest.mark.parametrize("clip", [0, 0.2])
@pytest.mark.parametrize("decay_axes", [0, 2])
def test_a_net_takes_pytorchs_steps(clip, decay_axes):
    """Gradients are this net's, in blocks; PyTorch gets them dense."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    made = solver(f"decay_axes: {decay_axes} {f'clip_gradients: {clip}' if clip else ''}")
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in values(made).items()}
    assert theirs.keys() == MULTIPLES.keys()
    optimizer = torch.optim.AdamW([
        {"params": [theirs[name]], "lr": 0.01 * rate,
         "weight_decay": 0.1 * decay if theirs[name].ndim >= decay_axes else 0.0}
        for name, (rate, decay) in MULTIPLES.items()], betas=(0.9, 0.95), eps=1e-8)
    blocks = []

    def hand_over(parameters):
        for name, p in parameters.items():
            theirs[name].grad = torch.tensor(p.dense_grad().copy())
            blocks.append(any(block.rows is not None or block.cols is not None for block in p.blocks))
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in theirs.values()))
        for p in theirs.values() if clip and norm > clip else ():
            p.grad *= clip / norm

    made.after_backward.append(hand_over)
    for _ in range(20):
        made.step(1)
        optimizer.step()
        for name, value in values(made).items():
            np.testing.assert_allclose(value, theirs[name].detach().numpy(), rtol=1e-12, atol=1e-12,
                                       err_msg=name)
    assert any(blocks)


def test_decay_axes_is_for_every_rule():
    """Without a gradient only decay moves a weight."""
    for rule, more in (("SGD", "momentum: 0.9"), ("AdaGrad", ""), ("AdamW", "momentum: 0.9")):
        for axes, moved in ((0, True), (1, True), (2, False), (3, False)):
            text = (f"base_lr: 0.1 lr_policy: 'fixed' type: '{rule}' {more} weight_decay: 0.1 max_iter: 9 "
                    f"random_seed: 1 decay_axes: {axes} net_param {{ {NET} }}")
            made = md.Solver(parse_solver(text), device="cpu")
            with made.net.backend.active():
                made.net.params["ip1"]["bias"].data[...] = 1
                before = values(made)
                made.updater.apply(0, 0.1)
            after = values(made)
            assert np.array_equal(after["ip1/bias"], before["ip1/bias"]) is not moved, (rule, axes)
            assert np.array_equal(after["ip1/weight"], before["ip1/weight"]) is (axes == 3), (rule, axes)


def test_what_has_no_gradient_decays_in_the_same_pass(dtype, monkeypatch):
    """Rows and columns that are left out decay m, v and w as a gradient of zeros would, bit for bit; the
    kernel runs once, over compact blocks."""
    rng, rule, cpu = np.random.default_rng(2), get_rule(SolverParameter(**SETTINGS)), get_backend("cpu")
    calls, kernel = [], cpu_update.update_kernel

    def counted(*key):
        def call(*args):
            calls.append(args[3])
            return kernel(*key)(*args)
        return call

    monkeypatch.setattr(cpu_update, "update_kernel", counted)
    w = rng.standard_normal((12, 10)).astype(dtype)
    compact, dense = Parameter(w.copy()), Parameter(w.copy())
    histories = [[rng.random(w.shape).astype(dtype) for _ in range(2)]]
    histories.append([array.copy() for array in histories[0]])
    rows, cols = Kept(0, 3, 1, 12), Kept(1, 2, 1, 10)
    for iteration in range(3):
        block = Block(rng.standard_normal((rows.count, cols.count)).astype(dtype), rows, cols)
        compact.clear_grad()
        compact.accumulate(Blocks([block], dtype))
        dense.grad = block.dense(cpu, w.shape)
        numbers = rule.numbers(0.01, 0.1, iteration)
        rule.update(cpu, compact, histories[0], numbers, 0.1, False, 0.5)
        Generic().rule_update(dense.data, histories[1], dense.blocks, rule, numbers, 0.0, False, 0.5)
        for got, expected in zip((compact.data, *histories[0]), (dense.data, *histories[1]), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert [tuple(g.shape for g in gs) for gs in calls] == [((4, 5),)] * 3


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, first, second = (solver("warmup_iter: 4 decay_axes: 2 clip_gradients: 0.5", dtype="float32")
                            for _ in range(3))
    whole.step(9)
    first.step(5)
    second.restore(first.snapshot(tmp_path / "a.h5"))
    second.step(4)
    for name, value in values(whole).items():
        np.testing.assert_array_equal(value, values(second)[name], err_msg=name)
