"""Captured iterations of convolutional nets: kept channels are read on the device."""

import logging

import nets
import numpy as np
import pytest

from minidrop.kernels.cuda import KERNELS, WINDOW
from tests.backend.captured_training import assert_captured, assert_close, train

DATA = np.random.default_rng(7).standard_normal((22, 3, 7, 6)), np.random.default_rng(8).integers(0, 5, 22)
MEMORY = ('layer { name: "in" type: "MemoryData" top: "data" top: "label" '
          'memory_data_param { batch_size: 6 channels: 3 height: 7 width: 6 } }')
FILLERS = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -.5 max: .5 }'


def conv(name, bottom, outputs, settings, kind="Convolution"):
    return nets.layer(kind, name, bottom, more=f"convolution_param {{ num_output: {outputs} {settings} "
                                               f"{FILLERS} }}")


def dropped(bottom, drop, number):
    """A ReLU and a drop of channels, in place: both are left to the convolution below."""
    return [nets.layer("ReLU", f"relu{number}", bottom, bottom),
            nets.drop(f"drop{number}", bottom, drop, bottom, "dropout_ratio: 0.5")]


def net_text(drop, groups=1):
    """Channels are dropped behind a normalization, and behind a convolution that leaves them out itself."""
    return "\n".join([
        MEMORY, conv("conv1", "data", 12, "kernel_size: 3 pad: 1"),
        nets.layer("BatchNorm", "norm", "conv1", "conv1"),
        nets.layer("Scale", "scale", "conv1", "conv1", "scale_param { bias_term: true }"),
        *dropped("conv1", drop, 1),
        nets.layer("Pooling", "max", "conv1",
                   more="pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
        conv("each", "max", 12, "kernel_size: 2 group: 12"),
        conv("conv2", "each", 10, f"kernel_size: 2 group: {groups}"), *dropped("conv2", drop, 2),
        conv("up", "conv2", 9, "kernel_size: 2 stride: 2", "Deconvolution"), *dropped("up", drop, 3),
        nets.layer("Pooling", "mean", "up", more="pooling_param { pool: AVE kernel_size: 2 }"),
        nets.ip("ip", "mean", 5), nets.LOSS % "ip"])


HOW = {"data": DATA, "settings": "base_lr: 0.01 weight_decay: 0.01"}
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
FAMILIES = ["Dropout", "PERIODIC groups: 1", "ROW groups: 1", "PERIODIC groups: 2", "ROW groups: 2"]
OF_IMAGES = {"put_outputs", *(name for name, kernel in KERNELS.items()
                               if set(WINDOW) <= set(kernel.arguments))}


@pytest.mark.parametrize("drop", [
    pytest.param(drop, marks=pytest.mark.full if drop in ("ROW groups: 1", "PERIODIC groups: 2") else ())
    for drop in FAMILIES])
def test_captured_training_equals_that_on_the_cpu_and_the_uncaptured(recorded_cuda, drop):
    groups = 2 if drop == "Dropout" else 1      # of whole channels: see below
    assert assert_captured(recorded_cuda, net_text(drop, groups), **HOW, **CLOSE) >= OF_IMAGES


@pytest.mark.parametrize("drop", FAMILIES[1::2])
def test_kept_channels_of_grouped_convolutions_run_uncaptured(recorded_cuda, drop, caplog):
    caplog.set_level(logging.INFO)
    text = net_text(drop, groups=2)
    found, whole = train(recorded_cuda(), text, iterations=8, **HOW)
    assert_close(found, train("cpu", text, iterations=8, **HOW)[0], **CLOSE)
    assert not whole.captured.active and whole.captured.replayed == 0
    said = [record.message for record in caplog.records if "uncaptured" in record.message]
    assert said == [f"Steps run uncaptured: {whole.captured.problem}"]
    assert "which channels of each group live is known to the device alone" in whole.captured.problem


def test_volumes_are_captured_without_kernels(recorded_cuda):
    """With three spatial axes the generic methods are the GPU's."""
    more = conv("volumes", "planes", 8, "kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 1 stride: 2")
    text = "\n".join([MEMORY, nets.layer("Reshape", "planes", "data", more=(
        "reshape_param { shape { dim: 0 dim: 1 dim: 3 dim: 7 dim: 6 } }")), more,
        *dropped("volumes", "PERIODIC groups: 1", 1), nets.ip("ip", "volumes", 5), nets.LOSS % "ip"])
    assert assert_captured(recorded_cuda, text, **HOW, **CLOSE) & OF_IMAGES == {"put_outputs"}
