"""A layer is one file and its function another: the worked example in docs/examples, used like any other
layer."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared import run_apart

from minidrop import ConfigError, Net, Tensor, check_gradients
from minidrop.config import parse_net, parse_solver
from minidrop.layers import base
from minidrop.net.costs import costs, drop_savings
from minidrop.patterns import known_families
from minidrop.solver.updater import Updater
from minidrop.testing import assert_matches_masked_dense

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
CONV = '''layer {{ name: "{0}" type: "PlainConvolution" bottom: "{1}" top: "{0}"
                   param_str: '{{"num_output": {2}, "kernel_size": 3}}' }}'''
DROP = 'layer {{ name: "{0}" type: "ApproxDropout" bottom: "{1}" top: "{1}" approx_dropout_param {{ {2} }} }}'
NET = "\n".join([
    'layer { name: "in" type: "Input" top: "x" top: "y"',
    '  input_param { shape { dim: 4 dim: 3 dim: 9 dim: 8 } shape { dim: 4 } } }',
    CONV.format("conv1", "x", 16),
    'layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }',
    DROP.format("drop1", "conv1", "%s"),
    CONV.format("conv2", "conv1", 14),
    DROP.format("drop2", "conv2", "%s"),
    'layer { name: "flat" type: "Flatten" bottom: "conv2" top: "flat" }',
    'layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"',
    '  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }',
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }'])
BATCH = {"x": np.random.default_rng(0).standard_normal((4, 3, 9, 8)), "y": np.array([0, 2, 4, 1])}


@pytest.fixture
def module(monkeypatch):
    """The example's module; its layer is registered during the test alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("convolution_layer", FOLDER / "convolution_layer.py")
    module = importlib.util.module_from_spec(spec)
    with base._types.forgetting():
        spec.loader.exec_module(module)
        yield module


def net_of(settings="", **options):
    if not any(word in settings for word in ("groups", "TILE", "BLOCK")):
        settings += " groups: 1"
    return Net(parse_net(NET % (settings, settings)), **{"device": "cpu", "dtype": "float64", **options})


def test_units_that_differ_between_groups_are_left_to_layers_that_know_of_them(module):
    net = net_of("groups: 2")
    lines = list(net.plan.lines())
    assert lines[0] == ("drop1 gathers: conv1 (PlainConvolution) can leave out no units that differ between "
                        "groups of samples; try groups: 1")
    assert "the units dropped by drop1 are put back as zeros before conv2 (PlainConvolution)" in lines
    assert "ip reads only the units kept by drop2" in lines
    for iteration in range(3):
        assert_matches_masked_dense(net, iteration, BATCH)


def test_the_function_has_right_values_and_gradients(module):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    x, W, b = BATCH["x"], np.random.default_rng(1).standard_normal((5, 3, 3, 3)), np.arange(5.0)
    np.testing.assert_allclose(module.convolution(*map(Tensor, (x, W, b))).numpy(),
                               torch.nn.functional.conv2d(*map(torch.tensor, (x, W, b))).numpy(), atol=1e-12)
    check_gradients(module.convolution, x[:2, :, :4, :4], W, b)


def test_whole_channels_are_left_out_on_both_sides(module):
    plan = net_of().plan
    assert list(plan.lines()) == [
        "conv1 computes only the units kept by drop1", "conv2 reads only the units kept by drop1",
        "conv2 computes only the units kept by drop2", "ip reads only the units kept by drop2"]


@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("family", known_families())
def test_compact_equals_masked_dense(module, family, rate):
    net = net_of(f'pattern: "{family}" dropout_ratio: {rate}')
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, BATCH)


def test_costs_are_counted(module):
    net = net_of("dropout_ratio: 0.5")
    rows = {row.node.name: row for row in costs(net)}
    # forward, and the weights' gradient
    assert rows["conv1"].dense == 2 * 2 * (4 * 7 * 6) * (3 * 9) * 16
    assert rows["conv1"].expected == rows["conv1"].dense / 2
    assert rows["conv2"].expected == rows["conv2"].dense / 4 and rows["ip"].expected == rows["ip"].dense / 2
    assert all(saved > 0 for _, saved in drop_savings(net))


def test_the_gradient_of_four_axes_trains_as_blocks(module):
    """Momentum and decay act on all weights, whether their gradient is a block or dense."""
    def trained(masked):
        net = net_of()
        net.run_masked_dense(masked)
        updater = Updater(parse_solver("momentum: 0.9 weight_decay: 0.01").message, net)
        for iteration in range(6):
            net.draw_patterns(iteration)
            net.forward(**BATCH)
            net.backward()
            block = net.params["conv2"]["weight"].blocks[0]
            assert (block.rows is None) == (block.cols is None) == masked
            updater.apply(iteration, 0.05)
        return [parameter.data.copy() for parameter in net.parameters().values()]

    for compact, dense in zip(trained(False), trained(True), strict=True):
        np.testing.assert_allclose(compact, dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings, message", [
    ('{"num_output": 4}', "needs kernel_size, of type int"),
    ('{"num_output": 4, "kernel": 3}', "has no setting 'kernel', did you mean 'kernel_size'"),
    ('{"num_output": "4", "kernel_size": 3}', "num_output must be of type int, got '4'"),
    ("[1]", "must be a JSON object"), ("{", "is no JSON"),
])
def test_wrong_settings_name_the_layer(module, settings, message):
    text = NET.replace('{"num_output": 16, "kernel_size": 3}', settings) % ("", "")
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(text, "net.prototxt"), device="cpu")
    assert ("layer 'conv1' (PlainConvolution)" in str(caught.value)
            and message.split(", did")[0] in str(caught.value))


def test_check_from_the_command_line(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET % ("groups: 1", "groups: 1"))
    done = run_apart("--import", FOLDER / "convolution_layer.py", "check", tmp_path / "net.prototxt")
    assert done.returncode == 0, done.stderr
    assert ("conv2 reads only the units kept by drop1" in done.stdout and "drop2 (PERIODIC) "
            "saves" in done.stdout)
