"""A rule of one's own is one class: AdamW, whose decay is no part of the gradient."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidrop.autograd import Block, Blocks, Parameter
from minidrop.backend.generic import Backend
from minidrop.backend.numpy import NumpyBackend
from minidrop.kept import Kept
from minidrop.kernels import cpu_update

ROOT = Path(__file__).resolve().parents[2]


def steps(rule, on, w, gradients):
    parameter, history = Parameter(w.copy(), on), [np.zeros_like(w) for _ in range(rule.slots)]
    for iteration, blocks in enumerate(gradients):
        parameter.blocks = blocks
        rule.update(on, parameter, history, rule.numbers(0.01, 0.1, iteration), decay=0.1)
    return [parameter.data, *history]


def blocks(rng, dtype):
    """Two blocks that share no row, and rows without a gradient."""
    rows, cols = Kept(0, 3, 1, 12), Kept(1, 2, 1, 9)
    return [Block(rng.standard_normal((rows.count, cols.count)).astype(dtype), rows, cols),
            Block(rng.standard_normal((2, 9)).astype(dtype), Kept.of([1, 7], 12))]


def test_compact_gradients_take_the_kernel_and_have_the_bits_of_the_formula(adamw, dtype, rng, monkeypatch):
    w, gradients = rng.standard_normal((12, 9)).astype(dtype), [blocks(rng, dtype) for _ in range(4)]
    expected = steps(adamw, Backend(), w, gradients)
    monkeypatch.setattr(Backend, "rule_update", None)
    for got, want in zip(steps(adamw, NumpyBackend(), w, gradients), expected, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == dtype


def test_it_is_pytorchs(adamw, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    w, gradients = rng.standard_normal((12, 9)), [blocks(rng, "f8") for _ in range(10)]
    p = torch.tensor(w, requires_grad=True)
    optimizer = torch.optim.AdamW([p], lr=0.01, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    for given in gradients:
        p.grad = torch.tensor(Blocks(given, w.dtype).dense(Backend(), w.shape))
        optimizer.step()
    np.testing.assert_allclose(steps(adamw, NumpyBackend(), w, gradients)[0], p.detach().numpy(), rtol=1e-9,
                               atol=1e-12)


# Trains one step; prints how often the kernel was found on disk and how often it was compiled, and the
# weights.
STEP = """
import minidrop, numpy as np
from minidrop.kernels import cpu_update
def formula(w, g, h, lr):
    h = h + g
    return {result}, h
kernel = cpu_update.update_kernel(formula, 1)
W, h, g, every = np.ones((2, 3)), np.zeros((2, 3)), np.full((2, 3), 0.5), np.arange(3)
kernel(W, h, h, (g,), (every[:2],), (every,), (np.float64(0.5),), np.float64(0), False, np.float64(1), 0, 2)
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()), W[0, 0])
"""


def test_kernels_are_kept_on_disk_for_the_same_formula_and_a_changed_one_is_compiled_anew(tmp_path):
    """The module of the first process is gone when the second process has the formula in another module."""
    changed = STEP.format(result="w + lr * h")
    for name, more, found in (("first", "", ["0", "1", "0.75"]),
                              ("second", changed, ["1", "0", "0.75", "0", "1", "1.25"])):
        define, use = STEP.format(result="w - lr * h").split("kernel = ")
        module = tmp_path / f"{name}_rule.py"
        module.write_text(define)
        text = f"from {name}_rule import *\nkernel = {use}{more}"
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True,
                              env={**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)})
        assert done.stdout.split() == found
        module.unlink()


def test_a_formula_that_is_more_than_its_code_is_not_kept():
    factor = 2.0

    def closed(w, g, h):
        return w - factor * g, h

    def calls(w, g, h):
        return w - g / math.sqrt(h), abs_of(h)

    def plain(w, g, h):
        return w - g / np.sqrt(h), h

    assert [cpu_update.is_whole(formula) for formula in (closed, calls, plain)] == [False, False, True]


def abs_of(x):
    return abs(x)
