"""What modules refuse when they are made, and sizes as numbers of Python's and NumPy's."""

import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn

RATE = "must lie in [0, 1), got 1.5"
REFUSED = {
    f"ApproxDropout: rate (dropout_ratio) {RATE}": lambda: nn.ApproxDropout(1.5),
    f"Dropout: dropout_ratio {RATE}": lambda: nn.Dropout(1.5),
    f"GaussianDropout: dropout_ratio {RATE}": lambda: nn.GaussianDropout(1.5),
    f"DropConnect: layer 'dropconnect' (DropConnect): dropout_ratio {RATE}":
        lambda: nn.DropConnect(4, 3, rate=1.5),
    f"Attention: dropout_ratio {RATE}": lambda: nn.Attention(2, dropout=1.5),
    f"CrossEntropyLoss (SoftmaxWithLoss): loss_param: label_smoothing {RATE}":
        lambda: nn.CrossEntropyLoss(label_smoothing=1.5),
    "LSTM: layer 'lstm' (LSTM): rate (dropout_ratio) " + RATE:
        lambda: nn.LSTM(4, 3, hidden_dropout={"dropout_ratio": 1.5}),
    "Attention: num_heads must be at least 1, got 0": lambda: nn.Attention(0),
    "Rotary: base must be above 0, got -1": lambda: nn.Rotary(base=-1),
    "LRN: local_size must be odd, got 4": lambda: nn.LRN(4),
    "MaxPool2d (Pooling): kernel_size and stride must be at least 1, got [0, 0] and [1, 1]":
        lambda: nn.MaxPool2d(0, stride=1),
    "MaxPool2d (Pooling): pad [2, 2] must be smaller than the window": lambda: nn.MaxPool2d(2, padding=2),
    "Layer (Tile): tile_param needs tiles, at least 1": lambda: nn.Layer("Tile", tiles=0),
    "Layer (Clip): clip_param: min 1 is above max 0": lambda: nn.Layer("Clip", min=1, max=0),
    "Layer (Patches): patches_param needs patch_size": lambda: nn.Layer("Patches"),
    "Linear: layer 'linear' (InnerProduct): inner_product_param needs num_output": lambda: nn.Linear(4, 0),
    "'num_output' takes ": lambda: nn.Linear(4, -1),
    "Conv2d: layer 'conv2d' (Convolution): stride must be at least 1 on every axis, got [0, 0]":
        lambda: nn.Conv2d(4, 2, 3, stride=0),
    "(Convolution): group 3 divides the channels into equal runs": lambda: nn.Conv2d(4, 6, 3, groups=3),
    "(LayerNorm): eps must not be negative": lambda: nn.LayerNorm(4, eps=-1),
    "kernel_size takes a whole number or 2, one for each axis, got 1.5": lambda: nn.Conv2d(4, 2, 1.5),
    "dilation takes a whole number or 2, one for each axis, got (1, 2, 3)":
        lambda: nn.Conv2d(4, 2, 3, dilation=(1, 2, 3)),
    "padding takes a whole number or 2, one for each axis, got None": lambda: nn.AvgPool2d(2, padding=None),
    "stride takes a whole number or 2, one for each axis, got '2'": lambda: nn.AvgPool2d(2, stride="2"),
    "kernel_size takes a whole number or 1, one for each axis, got [3, 3]": lambda: nn.Conv1d(4, 2, [3, 3]),
    "shape takes a whole number or one for each axis, got nan": lambda: nn.RMSNorm(float("nan")),
    "axis of a Scale should lie below 32, got 1000000000": lambda: nn.Scale(4, axis=10**9),
    "BatchNorm: momentum: expected a number in [0, 1], what the newest batch weighs, got 'a'":
        lambda: nn.BatchNorm(4, momentum="a"),
    "BatchNorm: momentum: expected a number in [0, 1], what the newest batch weighs, got 1.5":
        lambda: nn.BatchNorm(4, momentum=1.5),
    "reduction should be one of mean, batch, sum, got ['mean']":
        lambda: nn.CrossEntropyLoss(reduction=["mean"]),
    "layer 'relu' (ReLU): 'negative_slope' takes a number, got True": lambda: nn.ReLU(True),    # inplace
    "nesterov: expected True or False, got 0.01": lambda:
        md.optim.SGD([md.Parameter(np.ones(2))], 0.1, 0.9, 0, 0.01),
    "reduction should be 'mean' or 'sum', got ['mean']": lambda: nn.MSELoss(reduction=["mean"]),
}


@in_turn("words", list(REFUSED))
def test_a_module_is_refused_when_it_is_made(words):
    with pytest.raises(md.ConfigError, match=re.escape(words)):
        REFUSED[words]()


def test_what_its_inputs_decide_is_said_when_it_is_called():
    pooling = nn.MaxPool2d(9)
    with pytest.raises(md.ConfigError, match="a window of 9 x 9 does not fit"):
        pooling(np.zeros((1, 1, 4, 4)))


@in_turn("two", [np.int64(2), np.uint8(2), np.array(2), (2, 2), [2], np.array([2, 2])])
def test_sizes_may_be_numbers_of_numpy(two):
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    for make in (lambda n: nn.Conv2d(3, 4, n, stride=n, padding=n, dilation=n),
                 lambda n: nn.ConvTranspose2d(3, 4, n, stride=n), lambda n: nn.MaxPool2d(n, stride=n),
                 lambda n: nn.AvgPool2d(3, n, padding=n)):
        np.testing.assert_array_equal(make(two)(x).numpy(), make(2)(x).numpy())
    six = np.int64(6)
    assert nn.LayerNorm(six).weight.shape == nn.RMSNorm(np.array(6)).weight.shape == (6,)
    assert nn.Scale(np.int64(3))(x).shape == x.shape
