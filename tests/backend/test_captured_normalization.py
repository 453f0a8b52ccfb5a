"""Captured iterations of nets with normalizations: statistics, factors and slopes of kept channels."""

import nets
import numpy as np
import pytest

from minidrop.config import parse_net
from minidrop.net import Net
from tests.backend.captured_training import assert_captured

DATA = np.random.default_rng(7).standard_normal((22, 13, 1, 1)), np.random.default_rng(8).integers(0, 5, 22)
LAYERS = {"BatchNorm": "", "Scale": "scale_param { bias_term: true }", "PReLU": "", "LRN": "",
          "MVN": "mvn_param { across_channels: true }"}


def net_text(drop):
    crossed = [nets.layer(kind, kind, "ip1", "ip1", LAYERS[kind]) for kind in ("BatchNorm", "Scale", "PReLU")]
    whole = [nets.layer(kind, kind, "ip2", "ip2", LAYERS[kind]) for kind in ("MVN", "LRN")]
    return "\n".join([
        'layer { name: "in" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 6 '
        'channels: 13 height: 1 width: 1 } }', nets.ip("ip1", "data", 45), *crossed,
        nets.drop("drop1", "ip1", drop, "ip1", "dropout_ratio: 0.5"), nets.ip("ip2", "ip1", 37), *whole,
        nets.ip("ip3", "ip2", 5), nets.LOSS % "ip3"])


@pytest.mark.parametrize("drop", [
    "Dropout", "ROW groups: 1", "PERIODIC groups: 2",
    pytest.param("PERIODIC groups: 1", marks=pytest.mark.full)])
def test_captured_training_equals_that_on_the_cpu_and_the_uncaptured(recorded_cuda, drop):
    assert_captured(recorded_cuda, net_text(drop), DATA, least=5)


@pytest.mark.parametrize("drop", ["ROW groups: 1", "PERIODIC groups: 1 scale: PATTERN"])
def test_a_captured_normalization_applies_the_scale_of_a_drop(recorded_cuda, drop):
    text = net_text(drop).replace('type: "PReLU"', 'type: "ReLU"')
    lines = list(Net(parse_net(text), device="cpu").plan.lines())
    assert "BatchNorm applies Scale, PReLU and the scale of drop1" in lines
    assert_captured(recorded_cuda, text, DATA)


TRANSFORMER = "\n".join([
    'layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 3 '
    'dim: 8 } shape { dim: 4 dim: 3 } data_filler { type: "gaussian" } data_filler { value: 2 } } }',
    nets.ip("ip1", "data", 12, "axis: 2"), nets.layer("Position", "at", "ip1", "ip1"),
    nets.layer("Position", "sines", "ip1", "ip1", "position_param { kind: SINUSOIDAL }"),
    nets.drop("drop1", "ip1", "PERIODIC groups: 1", "ip1", "dropout_ratio: 0.5"),
    nets.layer("Rotary", "turned", "ip1"), nets.layer("RMSNorm", "rms", "turned"),
    nets.layer("Permute", "moved", "rms", None, "permute_param { order: 1 order: 0 order: 2 }"),
    nets.layer("Permute", "back", "moved", None, "permute_param { order: 1 order: 0 order: 2 }"),
    nets.ip("ip2", "back", 20, "axis: 2"), nets.layer("GELU", "gelu", "ip2", "ip2"),
    nets.drop("drop2", "ip2", "ROW groups: 1", "ip2", "dropout_ratio: 0.5"),
    nets.ip("ip3", "ip2", 12, "axis: 2"),
    nets.layer("SiLU", "silu", "ip3", "ip3"), nets.layer("LayerNorm", "norm", "ip3"),
    nets.ip("ip4", "norm", 5, "axis: 2"),
    nets.layer("SoftmaxWithLoss", "loss", "ip4 label", None,
               "softmax_param { axis: 2 } loss_param { label_smoothing: 0.1 }")])


def test_captured_parts_of_transformers(recorded_cuda):
    assert_captured(recorded_cuda, TRANSFORMER, least=4, iterations=16)
