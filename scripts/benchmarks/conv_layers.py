"""Single layers for bench_conv.py: forward and backward by minidrop's functions and by torch.nn.functional.

Steps of minidrop and of PyTorch have the same arrays and parameters; `gradients()` are those of the last
step, as arrays: of x, where it has one, and of the parameters.
"""

import time
from dataclasses import dataclass
from functools import partial

import minidrop as md

# isort: split
import numpy as np
from torch_net import lrn_within

from minidrop.autograd import Parameter, Tensor
from minidrop.backend import get_backend
from minidrop.backend.window import Window


@dataclass(frozen=True)
class Case:
    """A layer of (channels, side, side) images; size, stride, pad and groups of its square window."""

    kind: str
    channels: int
    side: int
    outputs: int = 0
    size: int = 0
    stride: int = 1
    pad: int = 0
    groups: int = 1

    @property
    def window(self):
        return Window.of((self.size, self.size), self.stride, self.pad)

    @property
    def is_first(self):
        """Whether it reads an image, of which no gradient is needed."""
        return self.kind == "convolution" and self.channels == 3

    @property
    def what(self):
        """A few words for tables."""
        images = f"{self.channels} x {self.side}x{self.side}"
        if self.kind != "convolution":
            return f"{self.size}x{self.size}/{self.stride}, {images}" if self.stride > 1 else images
        more = f"/{self.stride}" * (self.stride > 1) + f", {self.groups} groups" * (self.groups > 1)
        return f"{self.size}x{self.size}{more}, {images} to {self.outputs}"

    def operations(self, batch):
        """Return the operations in the products of forward and backward; 0 where there are none."""
        if self.kind != "convolution":
            return 0
        places = self.window.places((self.side, self.side))[0] ** 2
        own = 2 * batch * self.outputs * self.channels // self.groups * self.size ** 2 * places
        return own * (2 if self.is_first else 3)

    def arrays(self, batch):
        """Return x and the parameters, arrays."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, self.channels, self.side, self.side), np.float32)
        if self.kind == "convolution":
            shape = self.outputs, self.channels // self.groups, self.size, self.size
            scale = np.float32((2 / np.prod(shape[1:])) ** 0.5)
            return [x, rng.standard_normal(shape, np.float32) * scale,
                    rng.standard_normal(self.outputs, np.float32)]
        if self.kind == "batch_norm":
            return [x, *(rng.standard_normal(self.channels, np.float32) for _ in range(2))]
        return [x]


CASES = {
    "conv3_64": Case("convolution", 64, 32, 64, 3, pad=1),
    "conv3_256": Case("convolution", 256, 13, 256, 3, pad=1),
    "conv3_512": Case("convolution", 512, 14, 512, 3, pad=1),
    "conv5_32": Case("convolution", 32, 16, 32, 5, pad=2),
    "conv5_groups": Case("convolution", 96, 27, 256, 5, pad=2, groups=2),
    "conv11_stride": Case("convolution", 3, 227, 96, 11, stride=4),
    "conv1": Case("convolution", 256, 28, 128, 1),
    "depthwise": Case("convolution", 128, 28, 128, 3, pad=1, groups=128),
    "max_pool": Case("max_pool", 96, 55, size=3, stride=2),
    "ave_pool": Case("ave_pool", 96, 55, size=3, stride=2),
    "lrn_across": Case("lrn_across", 96, 27, size=5),
    "lrn_within": Case("lrn_within", 32, 16, size=3),
    "batch_norm": Case("batch_norm", 64, 32),
}
ALPHA, BETA = 1e-4, 0.75


class LayerSteps:
    """Forward and backward; `forward_seconds` are those of the forward passes so far."""

    def __init__(self, case, batch):
        self.case, self.forward_seconds = case, []
        self.build(case.arrays(batch))
        shape = tuple(self.forward().shape)
        self.gy = self.to_own(np.random.default_rng(1).standard_normal(shape, np.float32))

    def step(self):
        self.clear()
        begin = time.perf_counter()
        y = self.forward()
        self.forward_seconds.append(time.perf_counter() - begin)
        y.backward(self.gy)
        return ""

    def weights(self):
        return {"": 1.0}


class MinidropLayer(LayerSteps):
    """A function of minidrop.functions on the CPU."""

    def build(self, arrays):
        self.backend, case, f = get_backend("cpu"), self.case, md.functions
        x = Tensor(arrays[0], not case.is_first, self.backend)
        self.tensors = [x, *(Parameter(array, self.backend) for array in arrays[1:])]
        self.forward = partial({
            "convolution": lambda x, W, b: f.convolution(x, W, b, case.window, case.groups),
            "max_pool": lambda x: f.max_pooling(x, case.window),
            "ave_pool": lambda x: f.mean_pooling(x, case.window),
            "lrn_across": lambda x: f.lrn(x, case.size, ALPHA, BETA),
            "lrn_within": lambda x: f.lrn(x, case.size, ALPHA, BETA, axes=(2, 3)),
            "batch_norm": lambda x, factor, bias: f.batch_norm(x, weight=factor, bias=bias)}[case.kind],
            *self.tensors)

    def to_own(self, array):
        return array

    def clear(self):
        for tensor in self.tensors:
            tensor.clear_grad()

    def gradients(self):
        return [None if tensor.grad is None else np.asarray(tensor.grad) for tensor in self.tensors]


class TorchLayer(LayerSteps):
    """A function of torch.nn.functional on the CPU."""

    def build(self, arrays):
        import torch
        from torch.nn import functional as f
        case = self.case
        self.to_own = torch.from_numpy
        self.tensors = [torch.from_numpy(array).requires_grad_() for array in arrays]
        self.tensors[0].requires_grad_(not case.is_first)
        self.forward = partial({
            "convolution": lambda x, W, b: f.conv2d(x, W, b, case.stride, case.pad, groups=case.groups),
            "max_pool": lambda x: f.max_pool2d(x, case.size, case.stride, ceil_mode=True),
            "ave_pool": lambda x: f.avg_pool2d(x, case.size, case.stride, ceil_mode=True),
            "lrn_across": lambda x: f.local_response_norm(x, case.size, ALPHA, BETA),
            "lrn_within": lambda x: lrn_within(x, case.size, ALPHA, BETA),
            "batch_norm": lambda x, factor, bias: f.batch_norm(x, None, None, factor, bias, training=True),
        }[case.kind], *self.tensors)

    def clear(self):
        for tensor in self.tensors:
            tensor.grad = None

    def gradients(self):
        return [None if tensor.grad is None else tensor.grad.numpy() for tensor in self.tensors]
