"""Time a training step of a net of modules (md.nn) and of the same net from its description, in turn.

    python scripts/benchmarks/bench_nn.py
    python scripts/benchmarks/bench_nn.py --nets mlp --rate 0.7 --json nn.json

Both compute the same, bit for bit: patterns, forward, backward, and one update by SGD with momentum, which
is the same code for both. So what differs is what a call of a module costs beside a pass of its Net. Each
runs in a process of its own, and the processes take turns (in_turn.py). "of turns" are the least and the
greatest ratio of two turns, one after the other: how far chance goes. float32, on the CPU.
"""

import argparse
import json
import sys
from pathlib import Path

import minidrop as md

# isort: split
import numpy as np
from in_turn import Worker, measure, serve

from minidrop import nn

WHO, BATCHES = ("net", "module"), 8


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


NETS = {"mlp": Perceptron, "lstm": LanguageModel}


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
        """Run a training step; returns "", as all are of one kind."""
        for parameter in self.parameters:
            parameter.clear_grad()
        self.loss = self.forward_backward(self.batches[self.count % BATCHES])
        for parameter, history in zip(self.parameters, self.history, strict=True):
            parameter.backend.sgd_update(parameter.data, history, parameter.blocks, 1e-4, 0.9, 0.0005, False,
                                         1.0)
        self.count += 1
        return ""

    def weights(self):
        """Return how often each kind of step is drawn."""
        return {"": 1.0}


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


def worker(who, net, rate):
    """Serve the steps of a method."""
    serve((NetSteps if who == "net" else ModuleSteps)(net, float(rate)))


# -- the command ---------------------------------------------------------------------------------------------
def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default all")
    parser.add_argument("--rate", type=float, default=0.5, help="share that is dropped (default 0.5)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--blocks", type=int, default=8, help="turns of each method (default 8)")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="length of a turn (default 1)")
    options = parser.parse_args(arguments)
    print(f"{'net':<6} {'net ms':>9} {'module ms':>9} {'module/net':>10} {'of turns':>14}",
          flush=True)
    done = {}
    for name in options.nets:
        workers = {who: Worker(Path(__file__), "worker", who, name, options.rate) for who in WHO}
        results = measure(workers, options.blocks, options.block_seconds, by_turn=True)
        for one in workers.values():
            one.close()
        done[name] = results
        own, module = (results[who]["ms"] for who in WHO)
        ratios = [b / a for a, b in zip(*(results[who]["turn_ms"] for who in WHO), strict=True)]
        print(f"{name:<6} {own:>9.2f} {module:>9.2f} {module / own:>9.2f}x "
              f"{min(ratios):>6.2f} - {max(ratios):.2f}x", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"rate": options.rate, "nets": done}, file, indent=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:])
    else:
        main()
