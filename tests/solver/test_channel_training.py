"""Training with dropped channels: every rule ends where the dense net with masks does, reshuffled or not."""

import numpy as np
import pytest
from cases import every_pair

import minidrop as md
from minidrop.config import parse_solver
from minidrop.solver.rules import known_rules

FILLER = 'weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1 max: 1 }'
NET = f"""
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: 5 dim: 4 dim: 6 dim: 5 }} shape {{ dim: 5 }}
    data_filler {{ type: "gaussian" }} data_filler {{ type: "constant" value: 2 }} }} }}
layer {{ name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param {{ num_output: 12 kernel_size: 3 {FILLER} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "c1" top: "c1" }}
layer {{ name: "d1" type: "ApproxDropout" bottom: "c1" top: "d1" approx_dropout_param {{ PATTERN }} }}
layer {{ name: "c2" type: "Convolution" bottom: "d1" top: "c2"
  convolution_param {{ num_output: 12 kernel_size: 2 GROUP {FILLER} }} }}
layer {{ name: "d2" type: "ApproxDropout" bottom: "c2" top: "d2" approx_dropout_param {{ PATTERN }} }}
layer {{ name: "up" type: "Deconvolution" bottom: "d2" top: "up"
  convolution_param {{ num_output: 6 kernel_size: 3 GROUP {FILLER} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "up" top: "ip"
  inner_product_param {{ num_output: 5 {FILLER} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def trained(pattern, group="", masked=False, rule="SGD", more="", iterations=6):
    """{parameter: its values} after some iterations."""
    momentum = "momentum: 0.9" if rule in ("SGD", "Nesterov", "Adam", "AdamW", "AdaDelta") else ""
    net = NET.replace("PATTERN", pattern).replace("GROUP", group)
    text = (f"base_lr: 0.02 lr_policy: 'fixed' type: '{rule}' {momentum} weight_decay: 0.01 max_iter: 20 "
            f"random_seed: 3 {more} net_param {{ {net} }}")
    solver = md.Solver(parse_solver(text), dtype="float64", device="cpu")
    solver.net.run_masked_dense(masked)
    solver.step(iterations)
    return {name: p.numpy().copy() for name, p in solver.net.parameters().items()}


def assert_close(found, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-9, err_msg=name)


@every_pair(("rule", known_rules()), ("group", ["", "group: 2"]),
            ("pattern", ['pattern: "UNIT" groups: 1', 'pattern: "PERIODIC" groups: 2',
                         'pattern: "SLICE" groups: 3 dropout_ratio: 0.7', 'pattern: "TILE"']),
            ("more", ["", "iter_size: 2 clip_gradients: 0.5"]))
def test_as_with_masks(rule, pattern, group, more):
    assert_close(*(trained(pattern, group, masked, rule, more, 4) for masked in (False, True)))


@pytest.mark.parametrize("rule", known_rules())
def test_permuting_channels_changes_no_course(rule):
    """Without drops: only the order of the channels differs, so the layers below all end with the same."""
    plain, moved = (trained(f"dropout_ratio: 0 {every}", rule=rule)
                    for every in ("", "reshuffle_interval: 2"))
    assert not np.array_equal(plain["c1/weight"], moved["c1/weight"])
    for name in ("ip/weight", "ip/bias", "up/bias"):
        np.testing.assert_allclose(moved[name], plain[name], rtol=0, atol=1e-8, err_msg=name)
    for name in ("c1/weight", "c2/weight", "up/weight"):
        np.testing.assert_allclose(np.sort(moved[name].reshape(-1)), np.sort(plain[name].reshape(-1)), rtol=0,
                                   atol=1e-8)
