"""Nets that several ranks train, and the comparison of such a training with that of a single process."""

import numpy as np
from nets import drop, ip, layer

from minidrop.config import parse_solver
from minidrop.errors import DataError
from minidrop.functions.linear import Linear
from minidrop.solver import Solver
from minidrop.testing.ranks import run_ranks

BATCH = 12      # divisible by 1, 2, 3 and 4 ranks
LOSS = layer("SoftmaxWithLoss", "loss", "ip2 label")
FINE = 'weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "uniform" min: -0.1 max: 0.1 }'


def memory(channels=13, size=1, more="", batch=BATCH):
    """A MemoryData of images."""
    return (f'layer {{ name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param {{ '
            f'batch_size: {batch} channels: {channels} height: {size} width: {size} }} {more} }}')


def mlp(*drops, data=None, first="data"):
    """A perceptron with drops behind its first layer."""
    return [data or memory(), ip("ip1", first, 24, fillers=FINE), layer("ReLU", "relu1", "ip1"),
            *drops, ip("ip2", "relu1", 7, fillers=FINE), LOSS]


def conv_net(*drops):
    """A convolutional net; its images are cropped and mirrored at random."""
    settings = f"num_output: 8 kernel_size: 3 {FINE}"
    return [memory(2, 9, "transform_param { crop_size: 7 mirror: true }"),
            layer("Convolution", "conv1", "data", more=f"convolution_param {{ {settings} }}"),
            layer("ReLU", "relu1", "conv1"), *drops,
            layer("Convolution", "conv2", "relu1", more=f"convolution_param {{ {settings} }}"),
            layer("Pooling", "pool", "conv2", more="pooling_param { pool: AVE global_pooling: true }"),
            ip("ip2", "pool", 7, fillers=FINE), LOSS]


def text_data(path, more=""):
    """A TextData of three tops."""
    return (f'layer {{ name: "data" type: "TextData" top: "data" top: "label" top: "cont" text_data_param {{ '
            f'source: "{path}" level: CHARACTER steps: 5 batch_size: {BATCH} {more} }} }}')


def language_model(path, *middle, more="", last="h"):
    """A model of characters: Embed, what is in the middle, a projection and the loss."""
    return [text_data(path, more),
            layer("Embed", "embed", "data", more="embed_param { input_dim: 31 num_output: 8 bias_term: false "
                                                 'weight_filler { type: "uniform" min: -1 max: 1 } }'),
            *middle, ip("ip2", last, 31, "axis: 2", fillers=FINE),
            layer("SoftmaxWithLoss", "loss", "ip2 label", more="softmax_param { axis: 2 }")]


def write_text(folder):
    """Write a text of 30 different characters; returns its path."""
    rng = np.random.default_rng(3)
    path = folder / "text.txt"
    path.write_text("".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz .,!"), 3000)))
    return path


def solver_of(layers, settings="", communicator=None, records=50, **options):
    """A Solver in float64 on the CPU, whose MemoryData is fed."""
    net = "\n".join(layers)
    most = "" if "max_iter" in settings else "max_iter: 50"
    text = f'base_lr: 0.1 {most} lr_policy: "fixed" random_seed: 5 {settings} net_param {{ {net} }}'
    solver = Solver(parse_solver(text, "solver.prototxt"), device="cpu", dtype="float64",
                    communicator=communicator, **options)
    feed(solver, records)
    return solver


def feed(solver, records=50):
    """Give the nets of a Solver records that belong to no rank."""
    for net in (solver.net, *solver.test_nets):
        for name, own in net.data_layers.items():
            if own.takes_arrays:
                rng = np.random.default_rng(7)
                net.set_input_arrays(rng.standard_normal((records, *own.record)), rng.integers(0, 7, records),
                                     name)


def weights(solver):
    """{name: values} of all parameters."""
    return {name: parameter.data.copy() for name, parameter in solver.net.parameters().items()}


def trained(layers, settings="", communicator=None, iterations=6, **options):
    """Return (weights, losses) after some iterations."""
    solver = solver_of(layers, f"average_loss: {iterations} {settings}", communicator, **options)
    solver.step(iterations)
    return weights(solver), list(solver.losses)


def assert_same_training(layers, settings="", ranks=(2, 3), **options):
    """Some numbers of ranks train to the weights and losses of one process with the whole batch."""
    expected, losses = trained(layers, settings, **options)
    assert np.ptp(losses) > 0
    for size in ranks:
        for found, own in run_ranks(size, lambda one: trained(layers, settings, one, **options)):
            np.testing.assert_allclose(own, losses, rtol=0, atol=1e-10)
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


def mlp_with(kind, groups=0):
    """A perceptron with a drop of one kind behind its first layer."""
    return mlp(drop("drop1", "relu1", kind, top="relu1"))


_BACKWARD = Linear.backward


def broken(backward, monkeypatch, is_here):
    """Return `backward` of a net; it fails behind ip2, whose gradients travel, if is_here."""
    def fail(self, *given):
        if isinstance(self.inputs[0].creator, Linear):      # ip2
            return _BACKWARD(self, *given)
        raise DataError("this rank cannot")

    def run(*given):
        if is_here:
            monkeypatch.setattr(Linear, "backward", fail)
        try:
            backward(*given)
        finally:
            monkeypatch.setattr(Linear, "backward", _BACKWARD)
    return run
