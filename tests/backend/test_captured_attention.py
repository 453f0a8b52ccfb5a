"""Captured iterations of attention: its own dropout, units of each head, whole heads."""

import nets
import numpy as np
import pytest

from tests.backend.captured_training import assert_captured

DATA = np.random.default_rng(7).standard_normal((24, 13, 1, 1)), np.random.default_rng(8).integers(0, 5, 24)


def net_text(drop, settings):
    """Three steps of two samples."""
    return "\n".join([
        'layer { name: "in" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 6 '
        'channels: 13 height: 1 width: 1 } }',
        nets.layer("Reshape", "x", "data", more="reshape_param { shape { dim: 3 dim: 2 dim: 13 } }"),
        *(nets.ip(name, "x", 32, "axis: 2") for name in "qkv"),
        nets.layer("Attention", "att", "q k v", more=f"attention_param {{ num_heads: 4 {settings} }}"),
        nets.drop("drop", "att", drop, "att", "dropout_ratio: 0.5 axis: 2"),
        nets.ip("scores", "att", 5, "axis: 2"),
        nets.LOSS % "scores" + " # "]).replace('top: "loss" } # ', 'top: "loss" softmax_param { axis: 2 } }')


@pytest.mark.parametrize("drop, settings", [
    ("PERIODIC", "causal: true dropout_ratio: 0.3"),
    pytest.param("PERIODIC heads: 4 groups: 2", "block_keys: 2", marks=pytest.mark.full),
    pytest.param("ROW heads: 4", "causal: true", marks=pytest.mark.full),
    ("ROW heads: 4 whole_heads: true", "causal: true dropout_ratio: 0.3")])
def test_captured_training_equals_that_on_the_cpu_and_the_uncaptured(recorded_cuda, drop, settings):
    assert_captured(recorded_cuda, net_text(drop, settings), DATA)
