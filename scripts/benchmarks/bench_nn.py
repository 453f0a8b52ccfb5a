"""Time a training step of a net of modules (md.nn) and of the same net from its description, in pairs.

    python scripts/benchmarks/bench_nn.py
    python scripts/benchmarks/bench_nn.py --nets mlp gpt --rate 0.7 --seconds 60 --json nn.json

Both compute the same, bit for bit: patterns, forward, backward, and one update by SGD with momentum, which
is the same code for both. So what differs is what a call of a module costs beside a pass of its Net. Both
run in this process, step by step in turn (in_pairs.py). Printed are the median of a step of each, the median
of the pairs' ratios with its 95 % interval, and their quartiles: how far chance goes. float32, on the CPU.
"""

import argparse
import json

import minidrop as md

# isort: split
import numpy as np
from in_pairs import in_pairs, ratios_of

from minidrop import nn
from minidrop.config.transformer import Transformer

BATCHES, WARM = 8, 3


# -- nets ----------------------------------------------------------------------------------------------------
class Perceptron:
    """784-2048-2048-10, batches of 128."""

    rows, hidden, axis = 128, 2048, 1
    shapes = [[rows, 784], [rows]]

    def describe(self, n, rate):
        """Add the layers to a NetSpec, and return the scores."""
        x = "data"
        for i, units in enumerate((self.hidden, self.hidden, 10), 1):
            x = n.add("InnerProduct", f"ip{i}", x, num_output=units, weight_filler={"type": "msra"})
            if i < 3:
                x = n.add("ReLU", f"relu{i}", x)
                x = n.add("ApproxDropout", f"drop{i}", x, dropout_ratio=rate)
        return x

    def module(self, rate):
        """Return the same as a module."""
        units = self.hidden
        return nn.Sequential(ip1=nn.Linear(784, units), relu1=nn.ReLU(), drop1=nn.ApproxDropout(rate),
                             ip2=nn.Linear(units, units), relu2=nn.ReLU(), drop2=nn.ApproxDropout(rate),
                             ip3=nn.Linear(units, 10))

    def batch(self, rng):
        """Return {input: array}."""
        return {"data": rng.random((self.rows, 784), np.float32), "label": rng.integers(0, 10, self.rows)}


class LanguageModel:
    """Embedding and LSTM of 256 units, 2000 words, 32 steps of 32 streams; states begin as zeros."""

    steps, streams, units, words, axis = 32, 32, 256, 2000, 2
    shapes = [[steps, streams]] * 3

    def describe(self, n, rate):
        """Add the layers to a NetSpec, and return the scores."""
        drop = {"dropout_ratio": rate}
        x = n.add("Embed", "embed", "data", input_dim=self.words, num_output=self.units, bias_term=False,
                  weight_filler={"type": "xavier"})
        x = n.add("ApproxDropout", "drop0", x, **drop)
        x = n.add("LSTM", "lstm", [x, "cont"], num_output=self.units, weight_filler={"type": "xavier"})
        x = n.add("ApproxDropout", "drop1", x, **drop)
        return n.add("InnerProduct", "scores", x, num_output=self.words, axis=2,
                     weight_filler={"type": "msra"})

    def module(self, rate):
        """Return the same as a module."""
        return _Words(self.words, self.units, rate)

    def batch(self, rng):
        """Return {input: array}."""
        tokens, labels = rng.integers(0, self.words, (2, self.steps, self.streams))
        cont = np.ones((self.steps, self.streams), np.float32)
        cont[0] = 0
        return {"data": tokens, "label": labels, "cont": cont}


class _Words(nn.Module):
    def __init__(self, words, units, rate):
        self.embed = nn.Embedding(words, units, weight_filler="xavier")
        self.drop0, self.drop1 = nn.ApproxDropout(rate), nn.ApproxDropout(rate)
        self.lstm, self.scores = nn.LSTM(units, units), nn.Linear(units, words)

    def forward(self, data, cont):
        return self.scores(self.drop1(self.lstm(self.drop0(self.embed(data)), cont)))


class LeNet:
    """Caffe's LeNet with a drop behind its hidden layer, batches of 64 images."""

    images, axis = 64, 1
    shapes = [[images, 1, 28, 28], [images]]

    def describe(self, n, rate):
        """Add the layers to a NetSpec, and return the scores."""
        x, filler = "data", {"weight_filler": {"type": "xavier"}}
        for i, channels in enumerate((20, 50), 1):
            x = n.add("Convolution", f"conv{i}", x, num_output=channels, kernel_size=5, **filler)
            x = n.add("Pooling", f"pool{i}", x, kernel_size=2, stride=2)
        x = n.add("InnerProduct", "ip1", n.add("Flatten", "flat", x), num_output=500, **filler)
        x = n.add("ApproxDropout", "drop1", n.add("ReLU", "relu1", x), dropout_ratio=rate)
        return n.add("InnerProduct", "ip2", x, num_output=10, **filler)

    def module(self, rate):
        """Return the same as a module."""
        filler = {"weight_filler": "xavier"}
        return nn.Sequential(conv1=nn.Conv2d(1, 20, 5, **filler), pool1=nn.MaxPool2d(2),
                             conv2=nn.Conv2d(20, 50, 5, **filler), pool2=nn.MaxPool2d(2), flat=nn.Flatten(),
                             ip1=nn.Linear(800, 500, **filler), relu1=nn.ReLU(),
                             drop1=nn.ApproxDropout(rate), ip2=nn.Linear(500, 10, **filler))

    def batch(self, rng):
        """Return {input: array}."""
        return {"data": rng.random((self.images, 1, 28, 28), np.float32),
                "label": rng.integers(0, 10, self.images)}


class SmallGPT:
    """A causal transformer of 2 blocks of 128 units in 4 heads, 65 characters, 64 steps of 8 streams."""

    steps, streams, words, axis = 64, 8, 65, 2
    size = {"width": 128, "heads": 4, "blocks": 2, "deviation": 0.02}
    shapes = [[steps, streams]] * 2

    def describe(self, n, rate):
        """Add the layers to a NetSpec, and return the scores."""
        gpt = Transformer(**self.size, causal=True, drops={"hidden": rate})
        x = gpt.embedding(n, "data", vocabulary=self.words, steps=self.steps)
        return gpt.scores(n, gpt.encoder(n, x), vocabulary=self.words)

    def module(self, rate):
        """Return the same as a module."""
        return _GPT(self.words, self.steps, self.size, rate)

    def batch(self, rng):
        """Return {input: array}."""
        data, label = rng.integers(0, self.words, (2, self.steps, self.streams))
        return {"data": data, "label": label}


class _Block(nn.Module):
    def __init__(self, name, size, rate):
        width, deep = size["width"], size["deviation"] / (2 * size["blocks"]) ** 0.5

        def linear(part, inputs, outputs, deviation=size["deviation"]):
            return nn.Linear(inputs, outputs, name=f"{name}_{part}",
                             weight_filler={"type": "gaussian", "std": deviation})
        self.norm1 = nn.LayerNorm(width, name=f"{name}_attention_norm")
        self.norm2 = nn.LayerNorm(width, name=f"{name}_mlp_norm")
        self.q, self.k, self.v = (linear(f"attention_{part}", width, width) for part in "qkv")
        self.attention = nn.Attention(size["heads"], causal=True, name=f"{name}_attention")
        self.out = linear("attention_out", width, width, deep)
        self.fc1, self.fc2 = linear("mlp_fc1", width, 4 * width), linear("mlp_fc2", 4 * width, width, deep)
        self.act, self.drop = nn.GELU(), nn.ApproxDropout(rate, name=f"{name}_mlp_hidden_drop")

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.out(self.attention(self.q(y), self.k(y), self.v(y)))
        return x + self.fc2(self.drop(self.act(self.fc1(self.norm2(x)))))


class _GPT(nn.Module):
    def __init__(self, words, steps, size, rate):
        width, filler = size["width"], {"type": "gaussian", "std": size["deviation"]}
        self.embed = nn.Embedding(words, width, weight_filler=filler)
        self.position = nn.Position(steps, width, weight_filler=filler)
        self.blocks = nn.ModuleList(_Block(f"block{i + 1}", size, rate) for i in range(size["blocks"]))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, words, bias=False, weight_filler=filler)
        self.scores.tie("weight", self.embed)

    def forward(self, data):
        x = self.position(self.embed(data))
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))


NETS = {"mlp": Perceptron, "lstm": LanguageModel, "lenet": LeNet, "gpt": SmallGPT}


# -- steps ---------------------------------------------------------------------------------------------------
class Steps:
    """What both methods have: batches and the update. `loss`: of the step before, as a Tensor or float."""

    def __init__(self, net, rate):
        self.kind, self.rate, self.count = NETS[net](), rate, 0
        rng = np.random.default_rng(0)
        self.batches = [self.kind.batch(rng) for _ in range(BATCHES)]
        self.build()
        self.history = [np.zeros_like(parameter.data) for parameter in self.parameters]

    def step(self):
        """Run a training step."""
        for parameter in self.parameters:
            parameter.clear_grad()
        self.loss = self.forward_backward(self.batches[self.count % BATCHES])
        for parameter, history in zip(self.parameters, self.history, strict=True):
            parameter.backend.sgd_update(parameter.data, history, parameter.blocks, 1e-4, 0.9, 0.0005, False,
                                         1.0)
        self.count += 1


class NetSteps(Steps):
    """A Net from a NetSpec, with its loss as a layer."""

    def build(self):
        n, tops = md.NetSpec("net"), ["data", "label", "cont"][:len(self.kind.shapes)]
        n.add("Input", "in", top=tops, shape=self.kind.shapes)
        scores = self.kind.describe(n, self.rate)
        n.add("SoftmaxWithLoss", "loss", [scores, "label"], axis=self.kind.axis)
        self.net = md.Net(n, device="cpu", seed=0)
        self.parameters = list(self.net.parameters().values())

    def forward_backward(self, batch):
        self.net.draw_patterns(self.count)
        self.net.forward(**batch)
        self.net.backward()
        return self.net.loss


class ModuleSteps(Steps):
    """A module, with its loss as a function of Tensors."""

    def build(self):
        self.model = self.kind.module(self.rate).to("cpu").set_seed(0)
        self.parameters = self.model.parameters()

    def forward_backward(self, batch):
        given = [array for name, array in batch.items() if name != "label"]
        loss = md.functions.softmax_cross_entropy(self.model(*given), batch["label"], self.kind.axis)
        loss.backward()
        return float(loss)


# -- the command ---------------------------------------------------------------------------------------------
def compare(name, rate, seconds, block=1):
    """Return the Ratios of the steps of a module to those of its Net."""
    net, module = NetSteps(name, rate), ModuleSteps(name, rate)
    for _ in range(WARM):                       # compiles, allocates
        net.step()
        module.step()
    return ratios_of(in_pairs(net.step, module.step, seconds, block))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default all")
    parser.add_argument("--rate", type=float, default=0.5, help="share that is dropped (default 0.5)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each net (default 20)")
    parser.add_argument("--block", type=int, default=1, help="steps of each in a pair (default 1)")
    options = parser.parse_args(arguments)
    print(f"{'net':<6} {'net ms':>9} {'module ms':>9}  module / net", flush=True)
    done = {}
    for name in options.nets:
        found = compare(name, options.rate, options.seconds, options.block)
        own, module = found.seconds
        print(f"{name:<6} {1e3 * own:>9.2f} {1e3 * module:>9.2f}  {found}", flush=True)
        done[name] = found._asdict()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"rate": options.rate, "nets": done}, file, indent=1)


if __name__ == "__main__":
    main()
