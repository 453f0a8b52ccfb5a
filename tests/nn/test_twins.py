"""A net of modules equals that of a file, or of a NetSpec, with the same names and seed: to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from recurrent_nets import STEPS, STREAMS, UNIFORM, WORDS, batch, text

import minidrop as md
from minidrop import nn
from minidrop.config import load_net, parse_net
from minidrop.config.transformer import Transformer
from minidrop.net.costs import costs
from minidrop.testing import assert_matches_masked_dense

ROOT = Path(__file__).resolve().parents[2]
UPDATES, RATE = 5, 0.1
ROWS, INPUTS, HIDDEN, CLASSES = 32, 48, 96, 10
MLP = f"""
    layer {{ name: "in" type: "Input" top: "x" top: "label"
             input_param {{ shape {{ dim: {ROWS} dim: {INPUTS} }} shape {{ dim: {ROWS} }} }} }}
    layer {{ name: "0" type: "InnerProduct" bottom: "x" top: "ip1"
             inner_product_param {{ num_output: {HIDDEN} weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "1" type: "ReLU" bottom: "ip1" top: "ip1" }}
    layer {{ name: "2" type: "ApproxDropout" bottom: "ip1" top: "ip1" %s }}
    layer {{ name: "3" type: "InnerProduct" bottom: "ip1" top: "ip2"
             inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}"""


def mlp(drop, seed=7, dtype="float32", rate=0.5, **settings):
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), drop(rate, **settings),
                         nn.Linear(HIDDEN, CLASSES)).to("cpu", dtype).set_seed(seed)


def vectors(i, rows=ROWS):
    rng = np.random.default_rng(i)
    return rng.standard_normal((rows, INPUTS)).astype("f"), rng.integers(0, CLASSES, rows)


def names_of(model):
    """{the name of a parameter in a Net: its Parameter} of a model."""
    return {f"{module.layer_name}/{name}": parameter for module in model.modules()
            for name, parameter in module.own_parameters().items()}


def assert_twins(model, net, batches, loss_of):
    """Loss, gradients and UPDATES updates are the same, bit for bit; the initial values too."""
    own = names_of(model)
    for i in range(UPDATES):
        inputs = batches(i)
        net.draw_patterns(i)
        net.forward(**inputs)
        net.clear_grads()
        net.backward()
        model.zero_grad()
        loss = loss_of(model, inputs)
        loss.backward()
        assert float(loss) == net.loss
        for name, parameter in net.parameters().items():
            np.testing.assert_array_equal(own[name].data, parameter.data, err_msg=name)
            if parameter.lr_mult:
                np.testing.assert_array_equal(own[name].dense_grad(), parameter.dense_grad(), err_msg=name)
        for parameter in (*model.parameters(), *net.parameters().values()):
            parameter.data[...] -= parameter.dtype.type(RATE) * parameter.dense_grad()
    assert {id(own[name]) for name, parameter in net.parameters().items() if parameter.lr_mult} == {
        id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("settings", [{}, {"pattern": "ROW"}, {"pattern": "TILE", "tile_size": 8},
                                      {"groups": 4, "dropout_ratio": 0.3}])
def test_a_perceptron_equals_its_file(settings):
    own = {name: value for name, value in settings.items() if name != "dropout_ratio"}
    text = " ".join(f'{name}: {f"""{value!r}""" if isinstance(value, str) else value}'
                    for name, value in settings.items())
    net = md.Net(parse_net(MLP % f"approx_dropout_param {{ {text} }}"), device="cpu", seed=7)
    model = mlp(nn.ApproxDropout, rate=settings.get("dropout_ratio", 0.5), **own)

    def loss_of(model, inputs):
        return md.functions.softmax_cross_entropy(model(inputs["x"]), inputs["label"])
    assert_twins(model, net, lambda i: dict(zip(("x", "label"), vectors(i), strict=True)), loss_of)


def test_calls_equal_the_iterations_of_a_solver():
    net = parse_net(MLP % "").message
    solver = md.Solver(md.SolverParameter(net_param=net, base_lr=RATE, lr_policy="fixed", momentum=0.0,
                                          max_iter=UPDATES, random_seed=7), device="cpu")
    model = mlp(nn.ApproxDropout)
    for i in range(UPDATES):
        x, label = vectors(i)
        solver.net.set_inputs(x=x, label=label)
        solver.step()
        model.zero_grad()
        md.functions.softmax_cross_entropy(model(x), label).backward()
        for parameter in model.parameters():
            parameter.data[...] -= np.float32(RATE) * parameter.grad
    for name, parameter in solver.net.parameters().items():
        np.testing.assert_allclose(names_of(model)[name].data, parameter.data, rtol=1e-6, atol=1e-7,
                                   err_msg=name)
    assert model.iteration == solver.iteration == UPDATES


def test_products_apply_what_stands_behind_them():
    x, _ = vectors(0)
    net = mlp(nn.ApproxDropout).net_for(x)
    assert [list(layer.top) for layer in net.config.message.layer] == [["x"], ["0"], ["0"], ["0"], ["3"]]
    [epilogue] = net.plan.epilogues
    assert (epilogue.product.name, epilogue.activation.name, epilogue.drop.name) == ("0", "1", "2")
    both = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh()).to("cpu")      # outputs keep their names
    assert both.net_for(x).outputs == ["1"]


def test_both_products_around_a_drop_are_compact():
    model, (x, label) = mlp(nn.ApproxDropout), vectors(0)
    net = model.net_for(x)
    [drop] = net.plan.drops
    assert [node.name for node in drop.producers] == ["0"]
    assert [node.name for node in drop.consumers] == ["3"]
    rows = {cost.node.name: cost for cost in costs(net) if cost.dense}
    assert rows["0"].expected == pytest.approx(0.5 * rows["0"].dense)
    assert rows["3"].expected == pytest.approx(0.5 * rows["3"].dense)
    md.functions.softmax_cross_entropy(model(x), label).backward()
    first, _, second, _ = model.parameters()
    assert all(block.rows is not None for block in first.blocks)
    assert all(block.cols is not None for block in second.blocks)


@pytest.mark.parametrize("training, passes", [(True, (2, 3)), (False, (1, 1))])
def test_operations_of_a_call(training, passes):
    model, (x, _) = mlp(nn.ApproxDropout).train(training), vectors(0)
    dense = 2 * ROWS * HIDDEN * (passes[0] * INPUTS + passes[1] * CLASSES)      # no gradient of the input
    assert model.operations(x) == pytest.approx((dense, dense / 2 if training else dense))


def test_operations_are_the_same_with_the_loss_inside():
    class Whole(nn.Module):
        def __init__(self):
            self.body, self.loss = mlp(nn.ApproxDropout), nn.CrossEntropyLoss()

        def forward(self, x, label):
            return self.loss(self.body(x), label)

    x, label = vectors(0)
    assert Whole().operations(x, label) == mlp(nn.ApproxDropout).operations(x)


def test_masked_dense():
    """The contract holds for what modules describe: a loss in the module, residuals, slices, Lambdas."""
    class Whole(nn.Module):
        def __init__(self):
            self.body, self.loss = mlp(nn.ApproxDropout, dtype="float64"), nn.CrossEntropyLoss()
            self.branch = nn.Sequential(nn.Linear(CLASSES, 64), nn.GELU(), nn.ApproxDropout(0.7),
                                        nn.Linear(64, CLASSES))
            self.odd = nn.Lambda(lambda x: md.functions.sigmoid(x))

        def forward(self, x, label):
            y = self.body(x)
            y = y + self.branch(y)
            return self.loss(nn.concat([y[:, :4], self.odd(y[:, 4:])]), label)

    model, (x, label) = Whole().to("cpu", "float64"), vectors(0)
    net = model.net_for(x, label)
    for i in range(3):
        assert_matches_masked_dense(net, i, {"x": x, "label": label})
    assert len(net.plan.drops) == 2 and all(drop.producers and drop.consumers for drop in net.plan.drops)


class WithLoss(nn.Module):
    def __init__(self, model):
        self.model, self.loss = model, nn.CrossEntropyLoss(axis=2)

    def forward(self, data, label):
        return self.loss(self.model(data), label)


@pytest.mark.parametrize("make", [
    lambda: LanguageModel({"rate": 0.5}, None, stateful=True),
    lambda: LanguageModel({"rate": 0.5, "time": "STEP"}, {"dropout_ratio": 0.5}, stateful=False),
    lambda: SmallGPT(), lambda: SmallGPT(tied=False)])
def test_masked_dense_of_sequences(make):
    model = WithLoss(make()).to("cpu", "float64").set_seed(5)
    for i in range(3):
        inputs = {key: batch(i)[key] for key in ("data", "label")}
        assert_matches_masked_dense(model.net_for(**inputs), i, inputs)


def test_lenet_equals_its_file():
    shapes = 'input_param { shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 } }'
    message = load_net(ROOT / "models/lenet/train_val.prototxt").message
    layers = [layer for layer in message.layer if "Data" not in layer.type and not layer.include]
    text = f'layer {{ name: "in" type: "Input" top: "data" top: "label" {shapes} }}'
    config = parse_net(text).message
    config.layer.extend(layers)
    net = md.Net(config, device="cpu", seed=2)
    filler = {"weight_filler": "xavier"}
    model = nn.Sequential(
        conv1=nn.Conv2d(1, 20, 5, **filler), pool1=nn.MaxPool2d(2), conv2=nn.Conv2d(20, 50, 5, **filler),
        pool2=nn.MaxPool2d(2), flat=nn.Flatten(), ip1=nn.Linear(800, 500, **filler), relu1=nn.ReLU(),
        ip2=nn.Linear(500, 10, **filler)).to("cpu").set_seed(2)
    rng = np.random.default_rng(0)

    def loss_of(model, inputs):
        return md.functions.softmax_cross_entropy(model(inputs["data"]), inputs["label"])
    assert_twins(model, net, lambda i: {"data": rng.standard_normal((8, 1, 28, 28)).astype("f"),
                                        "label": rng.integers(0, 10, 8)}, loss_of)


def test_statistics_equal_those_of_a_spec():
    """A residual net with batch norms; what they store is compared as well."""
    class Residual(nn.Module):
        def __init__(self):
            self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm(16)
            self.act, self.drop = nn.ReLU(), nn.ApproxDropout(0.5, groups=1)     # norms mix samples
            self.conv2 = nn.Conv2d(16, 3, 3, padding=1)
            self.pool, self.flat, self.scores = nn.AvgPool2d(None), nn.Flatten(), nn.Linear(3, 5)

        def forward(self, x):
            x = x + self.conv2(self.drop(self.act(self.norm(self.conv(x)))))
            return self.scores(self.flat(self.pool(x)))
    n, filler = md.NetSpec(), {"weight_filler": {"type": "msra"}}
    n.add("Input", "in", top=["x", "label"], shape=[[6, 3, 7, 7], [6]])
    y = n.add("Convolution", "conv", "x", num_output=16, kernel_size=3, pad=1, **filler)
    y = n.add("BatchNorm", "norm.norm", y, moving_average_fraction=0.9)
    y = n.add("ReLU", "act", n.add("Scale", "norm.scale", y, bias_term=True, in_place=True))
    y = n.add("ApproxDropout", "drop", y, groups=1)
    y = n.add("Convolution", "conv2", y, num_output=3, kernel_size=3, pad=1, **filler)
    y = n.add("Pooling", "pool", n.add("Eltwise", "sum", ["x", y]), pool="AVE", global_pooling=True)
    y = n.add("InnerProduct", "scores", y, num_output=5, **filler)
    n.add("SoftmaxWithLoss", "loss", [y, "label"])
    net, model = md.Net(n, device="cpu", seed=6), Residual().to("cpu").set_seed(6)

    def batches(i):
        rng = np.random.default_rng(i)
        return {"x": rng.standard_normal((6, 3, 7, 7)).astype("f"), "label": rng.integers(0, 5, 6)}

    def loss_of(model, inputs):
        return md.functions.softmax_cross_entropy(model(inputs["x"]), inputs["label"])
    assert_twins(model, net, batches, loss_of)
    assert model.norm.norm.scale_factor.data[0] > 1
    [drop] = model.net_for(batches(0)["x"]).plan.drops
    assert [node.name for node in drop.producers + drop.consumers] == ["conv", "conv2"]


class LanguageModel(nn.Module):
    def __init__(self, settings, hidden, stateful):
        weights = {"type": "uniform", "min": -0.6, "max": 0.6}
        self.embed = nn.Embedding(WORDS, 10, bias=True, weight_filler=weights)
        self.drop0, self.drop1 = nn.ApproxDropout(**settings), nn.ApproxDropout(**settings)
        self.r1 = nn.LSTM(10, 12, weight_filler=weights, bias_filler="uniform", stateful=stateful,
                          hidden_dropout=hidden)
        self.scores = nn.Linear(12, WORDS, weight_filler=weights)

    def forward(self, data, cont=None):
        return self.scores(self.drop1(self.r1(self.drop0(self.embed(data)), cont)))


@pytest.mark.parametrize("hidden", [None, {"dropout_ratio": 0.5, "time": "STEP"}])
def test_a_language_model_equals_its_file(hidden):
    """Its states are carried from call to call, as those of the file's net are from batch to batch."""
    rh = "dropout_ratio: 0.5 time: STEP" if hidden else ""
    net = md.Net(parse_net(text(nr="dropout_ratio: 0.5", rh=rh)), device="cpu", seed=3, dtype="float64")
    model = LanguageModel({"rate": 0.5}, hidden, stateful=True).to("cpu", "float64").set_seed(3)

    def loss_of(model, inputs):
        return md.functions.softmax_cross_entropy(model(inputs["data"], inputs["cont"]), inputs["label"], 2)
    assert_twins(model, net, batch, loss_of)
    assert "uniform" in UNIFORM and len(model.net_for(batch(0)["data"]).plan.drops) == 2 + bool(hidden)


GPT = {"width": 16, "heads": 2, "blocks": 2, "deviation": 0.2}


class Block(nn.Module):
    """A transformer block with the names that config.transformer gives its layers."""

    def __init__(self, name, rate):
        width, deep = GPT["width"], GPT["deviation"] / (2 * GPT["blocks"]) ** 0.5

        def linear(part, inputs, outputs, deviation=GPT["deviation"]):
            return nn.Linear(inputs, outputs, name=f"{name}_{part}",
                             weight_filler={"type": "gaussian", "std": deviation})
        self.norm1 = nn.LayerNorm(width, name=f"{name}_attention_norm")
        self.norm2 = nn.LayerNorm(width, name=f"{name}_mlp_norm")
        self.q, self.k, self.v = (linear(f"attention_{part}", width, width) for part in "qkv")
        self.attention = nn.Attention(GPT["heads"], causal=True, name=f"{name}_attention")
        self.out = linear("attention_out", width, width, deep)
        self.fc1, self.fc2 = linear("mlp_fc1", width, 4 * width), linear("mlp_fc2", 4 * width, width, deep)
        self.act = nn.GELU()
        self.drop = nn.ApproxDropout(rate, name=f"{name}_mlp_hidden_drop")

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.out(self.attention(self.q(y), self.k(y), self.v(y)))
        return x + self.fc2(self.drop(self.act(self.fc1(self.norm2(x)))))


class SmallGPT(nn.Module):
    def __init__(self, rate=0.5, tied=True):
        filler = {"type": "gaussian", "std": GPT["deviation"]}
        width = GPT["width"]
        self.embed = nn.Embedding(WORDS, width, weight_filler=filler)
        self.position = nn.Position(STEPS, width, weight_filler=filler)
        self.blocks = nn.ModuleList(Block(f"block{i + 1}", rate) for i in range(GPT["blocks"]))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, WORDS, bias=False, weight_filler=filler)
        if tied:
            self.scores.tie("weight", self.embed)

    def forward(self, data):
        x = self.position(self.embed(data))
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))


def test_a_small_gpt_equals_its_spec():
    """With tied weights: one array, one gradient, in the graph too."""
    n, gpt = md.NetSpec("gpt"), Transformer(**GPT, causal=True, drops={"hidden": 0.5})
    n.add("Input", "in", top=["data", "label"], shape=[[STEPS, STREAMS]])
    x = gpt.embedding(n, "data", vocabulary=WORDS, steps=STEPS)
    scores = gpt.scores(n, gpt.encoder(n, x), vocabulary=WORDS)
    n.add("SoftmaxWithLoss", "loss", [scores, "label"], axis=2)
    net = md.Net(n, device="cpu", seed=4)
    model = SmallGPT().to("cpu").set_seed(4)

    def loss_of(model, inputs):
        return md.functions.softmax_cross_entropy(model(inputs["data"]), inputs["label"], 2)
    assert_twins(model, net, lambda i: {key: batch(i)[key] for key in ("data", "label")}, loss_of)
    own = model.net_for(batch(0)["data"])
    assert len(own.graph.parameters) == len(model.parameters()) == len(net.graph.parameters)
    assert all(drop.producers and drop.consumers for drop in own.plan.drops)


def test_a_batch_norm_applies_its_scale_and_the_relu_behind_it():
    x = np.random.default_rng(0).standard_normal((4, 3, 6, 6))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm(4)
                          ).to("cpu", "float64")
    net = model.net_for(x)
    assert list(net.plan.lines()) == ["1.norm applies 1.scale and 2"]     # an output keeps its layer's name
    assert [list(node.config.top) for node in net.graph.nodes][-2:] == [["4.norm"], ["4.scale"]]
    y = model(x)
    mean, deviation = y.data.mean(axis=(0, 2, 3)), y.data.std(axis=(0, 2, 3))
    np.testing.assert_allclose([mean, deviation], [[0] * 4, [1] * 4], atol=1e-3)


class Factors(nn.Module):
    """x is multiplied by what a layer computes of it."""

    def __init__(self):
        super().__init__()
        self.gate, self.scale = nn.Sigmoid(), nn.Layer("Scale", axis=0)

    def forward(self, x):
        return self.scale(2 * x, self.gate(x)).sum()


def test_a_scale_of_two_inputs_overwrites_neither():
    x = md.tensor([[0.5, -1.0]], requires_grad=True)
    Factors().to("cpu")(x).backward()
    gate = 1 / (1 + np.exp(-x.data))
    np.testing.assert_allclose(x.grad, 2 * (gate + x.data * gate * (1 - gate)), rtol=1e-5)
