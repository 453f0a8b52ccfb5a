"""Nets of images of models/ for bench_conv.py: data in memory in place of their data layers.

Methods:

    dense       train_val.prototxt as it is, with conventional dropout where it has any
    approx      train_val_approx.prototxt, with drops of channels or units by ApproxDropout
    channels    dense, and behind each convolution a drop of channels, the same ones for the whole batch
"""

from dataclasses import dataclass
from functools import cached_property

import minidrop as md

# isort: split
import numpy as np
from bench_models import BATCHES, FOLDER, Model
from drop_methods import Method

from minidrop.config import TRAIN, NetParameter, SolverParameter, filter_state, load_net, load_solver
from minidrop.config.assign import assign
from minidrop.errors import ConfigError, nearest

# as the data layer of each makes them
SHAPES = {"lenet": (1, 28, 28), "cifar10_quick": (3, 32, 32), "cifar10_full": (3, 32, 32),
          "caffenet": (3, 227, 227), "vgg16": (3, 224, 224), "resnet_cifar": (3, 28, 28)}
METHODS = ("dense", "approx", "channels")
DIFFERENT = 2           # batches; eight of large images would not fit into memory


@dataclass(frozen=True)
class ConvNet(Model):
    """A model of models/; batch 0 leaves the file's."""

    folder: str
    batch: int = 0
    by_share, parse = False, staticmethod(Method)

    def _file(self, method):
        """Return the NetParameter of the file in phase TRAIN."""
        name = f"train_val{'_approx' * (method == 'approx')}.prototxt"
        return filter_state(load_net(FOLDER / self.folder / name), TRAIN).message

    @cached_property
    def samples(self):
        """The batch size."""
        return self.batch or self._file("dense").layer[0].hdf5_data_param.batch_size

    def net(self, method, rate=0.5):
        """Return the NetParameter; `rate` is that of "channels"."""
        file, inputs = self._file(method), md.NetSpec(self.folder)
        data = file.layer[0]
        inputs.add("Input", data.name, top=list(data.top),
                   shape=[[self.samples, *SHAPES[self.folder]], [self.samples]])
        net = inputs.to_proto()
        net.layer.extend(file.layer[1:])
        return drop_channels(net, rate) if method == "channels" else net

    def settings(self, method, rate=0.5, **changes):
        """Return the SolverParameter; one batch a step, at a low rate: labels are noise, nothing may
        diverge."""
        file = load_solver(FOLDER / self.folder / "solver.prototxt").message
        settings = SolverParameter(net_param=self.net(method, rate), momentum=file.momentum,
                                   weight_decay=file.weight_decay)
        for name, value in {"base_lr": 1e-5, "lr_policy": "fixed", "max_iter": 10**9, "random_seed": 0,
                            **changes}.items():
            assign(settings, name, value)
        return settings

    def batches(self):
        """Return random batches, {top: array}; two take turns."""
        rng, net = np.random.default_rng(0), self._file("dense")
        classes = [layer for layer in net.layer if layer.type == "InnerProduct"][-1]
        different = [{"data": rng.standard_normal((self.samples, *SHAPES[self.folder]), np.float32),
                      "label": rng.integers(0, classes.inner_product_param.num_output, self.samples)}
                     for _ in range(DIFFERENT)]
        return different * (BATCHES // DIFFERENT)


def find_net(text):
    """Return the ConvNet of NAME or NAME:BATCH. Raises ConfigError."""
    name, colon, batch = text.partition(":")
    if name not in SHAPES:
        raise ConfigError(f"unknown net {name!r}{nearest(name, SHAPES)} (nets: {', '.join(SHAPES)})")
    if colon and not (batch.isdecimal() and int(batch)):
        raise ConfigError(f"net {text!r}: expected NAME or NAME:BATCH, got the batch {batch!r}")
    return ConvNet(name, int(batch or 0))


def drop_channels(net, rate):
    """Return a NetParameter with an ApproxDropout of channels behind each convolution.

    It stands behind the ReLU that works in place on the convolution's top; without one behind what else does,
    BatchNorm and Scale, or behind the convolution.
    """
    ends = {_end(net, i): layer for i, layer in enumerate(net.layer) if layer.type == "Convolution"}
    dropped = NetParameter(name=f"{net.name}_channels")
    for i, layer in enumerate(net.layer):
        dropped.layer.add().CopyFrom(layer)
        if i in ends:
            drop = dropped.layer.add(name=f"{ends[i].name}_channels", type="ApproxDropout",
                                     bottom=ends[i].top, top=ends[i].top)
            assign(drop, "approx_dropout_param", {"dropout_ratio": rate, "axis": 1, "groups": 1})
    return dropped


def _end(net, start):
    """Return the number of the layer behind which the channels of convolution number `start` are dropped."""
    end, blob = start, net.layer[start].top[0]
    for i in range(start + 1, len(net.layer)):
        layer = net.layer[i]
        in_place = list(layer.bottom) == list(layer.top) == [blob]
        if in_place and layer.type in ("BatchNorm", "Scale", "ReLU"):
            end = i
        if layer.type == "ReLU" and in_place or not in_place and blob in layer.bottom:
            break
    return end
