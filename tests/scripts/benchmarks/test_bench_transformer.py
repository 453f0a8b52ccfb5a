"""bench_transformer.py and torch_transformer.py: nets that compute the same in PyTorch, and short runs."""

import json
import subprocess
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from cases import in_turn
from programs import run_here

import minidrop as md
from minidrop.config.transformer import PLACES, Transformer

SHAPES = {
    "gpt": Transformer(16, 2, 2, causal=True),
    "bias": Transformer(16, 2, 2, causal=True, bias=False, norm_first=False, activation="ReLU"),
    "turned": Transformer(16, 2, 1, hidden=24, causal=True, rotary=True, norm="RMSNorm", activation="SiLU"),
    "apart": Transformer(16, 2, 1, causal=True, tied=False, drops={"q": 0.5, "k": 0.5, "v": 0.5})}


def net_of(scripts, shape, kind="gpt", batch=3, **sizes):
    """A minidrop Net in float64 that drops nothing, its inputs, and PyTorch's net with its weights."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the other side here")
    model = {"gpt": "gpt_shakespeare", "vit": "vit_sparsedrop", "plain": "vit_cifar10"}[kind]
    own = replace(scripts.transformer_nets.NETS["gpt_tiny"], model=model, batch=batch, small=shape)
    net = md.Net(own.net("none"), "TRAIN", "cpu", dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    for parameter in net.parameters().values():
        parameter.data[...] = rng.uniform(-0.7, 0.7, parameter.shape)
    theirs = own.torch_net("none").double() if not shape.drops else None
    return torch, own, net, theirs


def check(scripts, shape, kind="gpt", batch=3):
    """Loss and every gradient agree."""
    torch, own, net, theirs = net_of(scripts, shape, kind, batch)
    if theirs is None:          # products apart, but nothing dropped
        theirs = scripts.torch_transformer.gpt(shape, own.outputs, own.sizes["steps"]).double().eval()
    scripts.torch_transformer.copy_weights(theirs, net)
    data = {name: array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
            for name, array in own.batches()[0].items()}
    net.forward(**data)
    net.backward()
    x, label = (torch.from_numpy(data[name]) for name in ("data", "label"))
    loss = theirs.loss(*((x.T, label.T) if own.is_text else (x, label)))
    loss.backward()
    assert net.loss == pytest.approx(loss.item(), rel=1e-9)
    for name, expected in scripts.torch_transformer.views(theirs, gradients=True).items():
        expected = expected.numpy()
        np.testing.assert_allclose(net.parameters()[name].dense_grad().reshape(expected.shape), expected, rtol=0,
                                   atol=1e-9 * max(1, np.abs(expected).max()), err_msg=name)


@in_turn("name", SHAPES)
def test_a_gpt_is_that_of_pytorch(scripts, name):
    check(scripts, SHAPES[name])


@in_turn("kind, batch, bias", [("vit", 2, False), ("plain", 1, True)])
def test_a_vision_transformer_is_that_of_pytorch(scripts, kind, batch, bias):
    check(scripts, Transformer(16, 2, 1, bias=bias), kind, batch)
