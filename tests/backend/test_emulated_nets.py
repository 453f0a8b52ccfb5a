"""Whole nets train on the GPU's overrides as they do on the CPU: what one method returns, the next must be
able to read."""


import re

import nets
import numpy as np
import pytest
from cases import every_pair, in_turn
from nets import IMAGES, drop, layer

from minidrop import functions, nn
from minidrop.backend import Backend
from minidrop.config import parse_net, parse_solver
from minidrop.net import Net
from minidrop.patterns import known_families
from minidrop.solver.updater import Updater

TEXT = ('layer { name: "in" type: "Input" top: "data" top: "label" top: "cont" '
        'input_param { shape { dim: 5 dim: 3 } shape { dim: 5 dim: 3 } shape { dim: 5 dim: 3 } } }')
PICTURES = ('layer { name: "in" type: "Input" top: "data" top: "label" '
            'input_param { shape { dim: 6 dim: 3 dim: 8 dim: 7 } shape { dim: 6 } } }')
LOSS = ('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%s" bottom: "label" top: "loss" softmax_param '
        '{ axis: %d } }')
FILLER = 'weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: .5 }'


def ip(name, bottom, outputs, axis=1):
    return nets.ip(name, bottom, outputs, f"axis: {axis}", fillers=FILLER)


def mlp(family):
    return [IMAGES, ip("ip1", "data", 45), layer("ReLU", "relu1", "ip1"), drop("drop1", "relu1", family),
            ip("ip2", "drop1", 37), layer("TanH", "tanh2", "ip2"), drop("drop2", "tanh2", family),
            ip("ip3", "drop2", 21), layer("Sigmoid", "sigmoid3", "ip3"), ip("ip4", "sigmoid3", 7),
            LOSS % ("ip4", 1)]


def mlp_in_place(family):
    """The same; products apply what follows them."""
    net = "\n".join(mlp(family))
    for name, top in (("relu1", "ip1"), ("drop1", "ip1"), ("tanh2", "ip2"), ("drop2", "ip2"),
                      ("sigmoid3", "ip3")):
        net = re.sub(f'(bottom|top): "{name}"', rf'\1: "{top}"', net)
    return [IMAGES, net.removeprefix(IMAGES)]


def text(family):
    embed = layer("Embed", "embed", "data", more=(
        f"embed_param {{ input_dim: 11 num_output: 26 bias_term: false {FILLER} }}"))
    lstm = f"recurrent_param {{ num_output: 22 {FILLER} }}"
    return [TEXT, embed, drop("drop1", "embed", family), layer("LSTM", "lstm1", "drop1 cont", more=lstm),
            drop("drop2", "lstm1", family), layer("LSTM", "lstm2", "drop2 cont", more=lstm),
            ip("ip", "lstm2", 11, 2), LOSS % ("ip", 2)]


def conv(name, bottom, outputs, settings=""):
    return layer("Convolution", name, bottom, more=(
        f'convolution_param {{ num_output: {outputs} kernel_size: 3 {settings} '
        f'weight_filler {{ type: "xavier" }} }}'))


def pictures(family):
    """Channels dropped in the midst of a net, grouped ones too; products apply what follows them."""
    return [PICTURES, conv("conv1", "data", 20, "pad: 1"), layer("ReLU", "relu1", "conv1", "conv1"),
            drop("drop1", "conv1", family, "conv1"),
            layer("Pooling", "pool1", "conv1", more="pooling_param { kernel_size: 2 stride: 2 }"),
            conv("conv2", "pool1", 16, "pad: 1 group: 2"), layer("ReLU", "relu2", "conv2", "conv2"),
            drop("drop2", "conv2", family, "conv2"), layer("Pooling", "pool2", "conv2", more=(
                "pooling_param { pool: AVE global_pooling: true }")), ip("ip", "pool2", 7), LOSS % ("ip", 1)]


def batch(rng, first):
    if first is PICTURES:
        return {"data": rng.standard_normal((6, 3, 8, 7)), "label": rng.integers(0, 7, 6)}
    if first is TEXT:
        return {"data": rng.integers(0, 11, (5, 3)), "label": rng.integers(0, 11, (5, 3)),
                "cont": (rng.random((5, 3)) > 0.2).astype(float)}
    return {"data": rng.standard_normal((6, 13)), "label": rng.integers(0, 7, 6)}


ITERATIONS = 3


def train(layers, device, solver, dtype="float64"):
    """Return (losses, parameters) of some steps."""
    net = Net(parse_net("\n".join(layers)), device=device, dtype=dtype, seed=3)
    updater, rng, losses = Updater(parse_solver(solver).message, net), np.random.default_rng(1), []
    for iteration in range(ITERATIONS):
        net.draw_patterns(iteration)
        net.forward(**batch(rng, layers[0]))
        losses.append(net.loss)
        net.backward()
        updater.apply(iteration, 0.1)
    return losses, {name: p.numpy() for name, p in net.parameters().items()}


FAMILIES = ["Dropout", *known_families(), "PERIODIC groups: 3", "UNIT groups: 2"]


@every_pair(("layers", [mlp, mlp_in_place, text, pictures]), ("family", FAMILIES),
            ("solver", ["momentum: 0.9 weight_decay: 0.01 clip_gradients: 1", "momentum: 0",
                    "type: 'AdamW' momentum: 0.9 weight_decay: 0.01 decay_axes: 2 delta: 1e-3"]))
def test_training_equals_that_on_the_cpu(emulated_cuda, layers, family, solver):
    cuda = emulated_cuda()
    cuda.kernels.launches.clear()
    losses, parameters = train(layers(family), cuda, solver)
    expected_losses, expected = train(layers(family), "cpu", solver)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-11)
    for name, value in expected.items():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    ran = set(cuda.kernels.launches)
    update = "rule_update" if "AdamW" in solver else "sgd_update" if "0.9" in solver else "subtract_block"
    assert {"cross_entropy", "cross_entropy_gradient", update} <= ran
    assert {text: {"lstm_step", "lstm_step_gradient", "link_places", "sum_places"},
            pictures: {"columns", "add_columns", "put_outputs", "max_pool", "max_pool_gradient", "mean_pool",
                       "mean_pool_gradient"}}.get(layers, {"activate"}) <= ran
    assert "gemmEx" in cuda.blas.library.calls


@every_pair(("layers", [mlp, mlp_in_place, text, pictures]), ("family", FAMILIES),
            ("precision, off", [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 5e-2)]))
def test_training_in_float32_and_less(emulated_cuda, layers, family, precision, off):
    """Products round their operands, kernels do not: losses stay near those of float32."""
    solver = "momentum: 0.9 weight_decay: 0.01"
    cuda = emulated_cuda(precision)
    cuda.kernels.launches.clear()
    losses, _ = train(layers(family), cuda, solver, "float32")
    expected, _ = train(layers(family), "cpu", solver, "float32")
    np.testing.assert_allclose(losses, expected, rtol=off)
    # forward and two gradients above, below or between drops; none of the data, and no convolution
    products = {text: 3 + 3, pictures: 3}.get(layers, 2 + 3 + 3)
    skips = family == "BLOCK" and precision != "float32"
    assert cuda.kernels.launches.count("block_product") == (ITERATIONS * products if skips else 0)


@in_turn("precision, dtype, off", [("float32", "float64", 1e-11), ("float16", "float32", 1e-2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_patterns_held_for_two_steps(emulated_cuda, groups, precision, dtype, off, monkeypatch):
    """Around the layers and on what their gates read."""
    monkeypatch.setattr(Backend, "pays", lambda *_: True)
    held = f"dropout_ratio: 0.5 steps_per_pattern: 2 groups: {groups}"
    layers = [one.replace("recurrent_param {", f"recurrent_param {{ hidden_dropout {{ {held} }}")
              for one in text(f"PERIODIC steps_per_pattern: 2 groups: {groups}")]
    losses, parameters = train(layers, emulated_cuda(precision), "momentum: 0.9", dtype)
    expected_losses, expected = train(layers, "cpu", "momentum: 0.9", dtype)
    np.testing.assert_allclose(losses, expected_losses, rtol=off)
    for name, value in expected.items() if dtype == "float64" else ():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


class WordModel(nn.Module):
    """Recurrent, with drops, an operator, a Lambda and a carried state."""

    def __init__(self):
        self.embed, self.drop1 = nn.Embedding(11, 26), nn.ApproxDropout(0.5)
        self.lstm, self.drop2 = nn.LSTM(26, 22, stateful=True), nn.ApproxDropout(0.5)
        self.norm, self.scores = nn.LayerNorm(22), nn.Linear(22, 11)
        self.odd = nn.Lambda(lambda x: functions.scale(functions.tanh(x), 0.5))

    def forward(self, x):
        h = self.drop2(self.lstm(self.drop1(self.embed(x))))
        return self.scores(self.odd(self.norm(h)) + h * 0.1)


def module_losses(device):
    model = WordModel().to(device, "float64").set_seed(4)
    rng, losses = np.random.default_rng(0), []
    for _ in range(ITERATIONS):
        x, label = rng.integers(0, 11, (2, 5, 4))
        model.zero_grad()
        loss = functions.softmax_cross_entropy(model(x), label, 2)
        loss.backward()
        losses.append(float(loss))
        for parameter in model.parameters():
            parameter.data[...] -= 0.5 * parameter.dense_grad()
    return losses, model


def test_modules_train_as_on_the_cpu(emulated_cuda):
    losses, model = module_losses(emulated_cuda())
    expected, other = module_losses("cpu")
    np.testing.assert_allclose(losses, expected, rtol=1e-11)
    for (name, array), own in zip(other.state_dict().items(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(own, array, rtol=1e-9, atol=1e-11, err_msg=name)
    model.to("cpu")
    other.load_state_dict(model.state_dict())
    other.load_run_state(model.run_state())
    x = np.random.default_rng(1).integers(0, 11, (5, 4))
    np.testing.assert_array_equal(model(x).numpy(), other(x).numpy())
