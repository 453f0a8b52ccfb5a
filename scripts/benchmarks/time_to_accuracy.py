#!/usr/bin/env python
"""Draw test accuracy against training time on MNIST: PyTorch, ordinary dropout here, and groups of samples.

    minidrop data mnist
    python scripts/benchmarks/time_to_accuracy.py --svg time_to_accuracy.svg --json time_to_accuracy.json
    python scripts/benchmarks/time_to_accuracy.py --drawn time_to_accuracy.json --svg again.svg

784-h-h-10 with dropout on both hidden layers, models/mnist_mlp's solver: batch 128, a rate that falls to 0,
momentum, weight decay, clipping. All methods train for the same iterations, one after the other, in short
stretches that take turns, so that a busy machine slows all alike; tests are not timed. Prints for each method
the seconds to some accuracies and the last accuracy. Nothing else may run meanwhile. With --drawn it measures
nothing: it takes the curves that a run has written with --json.
"""

import json
import sys
import time
from pathlib import Path

import click
from reproduce_mlp import SOLVER, solver_of

import minidrop as md
from minidrop.apps.charts import ticks
from minidrop.apps.markup import Markup, element
from minidrop.config import decimal, load_solver
from minidrop.data import HDF5Records, find_source

METHODS = {"PyTorch, Dropout": None, "Dropout": "conventional", "one mask": "PERIODIC:groups=1",
           "two groups": "PERIODIC:groups=2", "four groups": "PERIODIC:groups=4"}
"""{name: method, see drop_methods.py}; None: in PyTorch."""
STYLE = """
text { fill: #57606a; font: 15px system-ui, sans-serif; }
polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 6 4; }
.grid { stroke: #d0d7de; }
.c0 { stroke: #6e7781; } .c1 { stroke: #bf5b00; } .c2 { stroke: #8250df; }
.c3 { stroke: #0969da; } .c4 { stroke: #1a7f37; } .c5 { stroke: #cf222e; }
@media (prefers-color-scheme: dark) {
  text { fill: #adbac7; } .grid { stroke: #373e47; }
  .c0 { stroke: #9aa5b1; } .c1 { stroke: #f0883e; } .c2 { stroke: #bc8cff; }
  .c3 { stroke: #58a6ff; } .c4 { stroke: #56d364; } .c5 { stroke: #ff7b72; }
}
"""


class MinidropRun:
    """A Solver of models/mnist_mlp with other sizes and drops."""

    def __init__(self, method, units, rate, iterations, seed):
        settings = load_solver(SOLVER).message
        self.solver = solver_of({"net": f"{units}x{units}", "method": method, "rate": rate, "seed": seed,
                                 "iterations": iterations, "learning_rate": decimal(settings.base_lr)})
        self.step, self.close = self.solver.step, self.solver.close

    def accuracy(self):
        return self.solver.test()["accuracy"]


class TorchRun:
    """The same in PyTorch, as its users write it: nn.Dropout, optim.SGD, clip_grad_norm_."""

    def __init__(self, units, rate, iterations, seed):
        import torch
        self.torch, self.iterations, self.done = torch, iterations, 0
        torch.manual_seed(seed)
        nn = torch.nn
        self.net = nn.Sequential(nn.Linear(784, units), nn.ReLU(), nn.Dropout(rate), nn.Linear(units, units),
                                 nn.ReLU(), nn.Dropout(rate), nn.Linear(units, 10))
        for layer in self.net[::3]:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.settings = load_solver(SOLVER).message
        weights, biases = zip(*((layer.weight, layer.bias) for layer in self.net[::3]), strict=True)
        self.optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": self.settings.weight_decay}, {"params": biases}],
            lr=self.settings.base_lr, momentum=self.settings.momentum)
        self.train, self.test = (self._records(part) for part in ("train", "test"))
        self.order = torch.empty(0, dtype=torch.long)

    def _records(self, part):
        records = HDF5Records(find_source(f"mnist/{part}.txt"), ("data", "label"))
        data, label = records.read(range(len(records))).values()
        return (self.torch.tensor(data.reshape(len(data), -1) / 255.0, dtype=self.torch.float32),
                self.torch.tensor(label.astype("int64")))

    def step(self, count):
        torch, (data, label) = self.torch, self.train
        self.net.train()
        for _ in range(count):
            if len(self.order) < 128:
                self.order = torch.cat([self.order, torch.randperm(len(data))])
            chosen, self.order = self.order[:128], self.order[128:]
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.base_lr * (1 - self.done / self.iterations)
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.net(data[chosen]), label[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.clip_gradients)
            self.optimizer.step()
            self.done += 1

    def accuracy(self):
        self.net.eval()
        with self.torch.no_grad():
            data, label = self.test
            return (self.net(data).argmax(1) == label).double().mean().item()

    def close(self):
        pass


def measure(units, rate, iterations, stretch, seed):
    """Return {method: [[iteration, seconds so far, test accuracy], ...]}."""
    runs = {}
    for name, method in METHODS.items():
        try:
            runs[name] = (TorchRun(units, rate, iterations, seed) if method is None
                          else MinidropRun(method, units, rate, iterations, seed))
        except ImportError:
            click.echo("no PyTorch: its curve is left out", err=True)
    curves, seconds = {name: [] for name in runs}, dict.fromkeys(runs, 0.0)
    for done in range(stretch, iterations + 1, stretch):
        for name, run in runs.items():
            start = time.perf_counter()
            run.step(stretch)
            seconds[name] += time.perf_counter() - start
            curves[name].append([done, seconds[name], run.accuracy()])
        click.echo(f"{done} of {iterations} iterations", err=True)
    for run in runs.values():
        run.close()
    return curves


def table(curves, targets):
    """Return lines: seconds to each of some accuracies, the seconds of all iterations, the last accuracy."""
    lines = [f"{'':18}" + "".join(f"{f'to {target:.1%}':>11}" for target in targets)
             + f"{'all':>9}{'accuracy':>11}"]
    for name, curve in curves.items():
        reached = [next((f"{seconds:.1f} s" for _, seconds, accuracy in curve if accuracy >= target), "-")
                   for target in targets]
        lines.append(f"{name:18}" + "".join(f"{text:>11}" for text in reached)
                     + f"{curve[-1][1]:>7.1f} s{curve[-1][2]:>11.2%}")
    return lines


def picture(curves):
    """Return accuracy against seconds as SVG: for light and dark pages, with text that a phone can show."""
    left, right, top, floor, width = 46, 12, 10, 262, 480
    best = max(accuracy for curve in curves.values() for *_, accuracy in curve)
    low, high = 100 * best - 2.5, 100 * best + 0.2
    longest = max(curve[-1][1] for curve in curves.values())

    def x_of(seconds):
        return round(left + seconds / longest * (width - left - right), 1)

    def y_of(percent):
        return round(floor - (percent - low) / (high - low) * (floor - top), 1)

    parts = [element("title", "test accuracy against seconds of training"),
             element("style", Markup(STYLE))]
    for tick in ticks(low, high):
        parts += [element("line", x1=left, x2=width - right, y1=y_of(tick), y2=y_of(tick), class_="grid"),
                  element("text", f"{tick:g}", x=left - 6, y=y_of(tick) + 5, text_anchor="end")]
    for tick in ticks(0, longest):
        parts.append(element("text", f"{tick:g}", x=x_of(tick), y=floor + 19, text_anchor="middle"))
    parts += [element("text", "seconds of training", x=(left + width - right) / 2, y=floor + 38,
                      text_anchor="middle"),
              element("text", "test accuracy, %", x=left + 6, y=top + 14)]
    for i, (name, curve) in enumerate(curves.items()):
        shown = [(x_of(seconds), y_of(100 * accuracy)) for _, seconds, accuracy in curve
                 if 100 * accuracy >= low]
        x, y = left, floor + 62 + 22 * i
        kind = f"c{i % 6}" + " dashed" * ("Dropout" in name)
        parts += [element("polyline", points=" ".join(f"{a},{b}" for a, b in shown), class_=kind),
                  element("polyline", points=f"{x},{y} {x + 30},{y}", class_=kind),
                  element("text", f"{name} ({100 * curve[-1][2]:.2f} %)", x=x + 38, y=y + 5)]
    height = floor + 52 + 22 * len(curves)
    return element("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}",
                   role="img") + "\n"


@click.command(help=__doc__)
@click.option("--units", default=2048, show_default=True, type=click.IntRange(1))
@click.option("--rate", default=0.5, show_default=True, type=click.FloatRange(0, 1, max_open=True))
@click.option("--iterations", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--stretch", default=100, show_default=True, type=click.IntRange(1),
              help="Iterations between two tests.")
@click.option("--seed", default=1, show_default=True)
@click.option("--svg", metavar="FILE", help="Draw into a file.")
@click.option("--json", "json_file", metavar="FILE", help="Write the curves.")
@click.option("--drawn", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Take the curves of this file, which --json wrote, and measure nothing.")
def main(units, rate, iterations, stretch, seed, svg, json_file, drawn):
    try:
        curves = (json.loads(Path(drawn).read_text()) if drawn else
                  measure(units, rate, iterations, min(stretch, iterations), seed))
    except md.MinidropError as error:
        sys.exit(f"error: {error}")
    click.echo("\n".join(table(curves, (0.97, 0.98, 0.984))))
    if json_file:
        Path(json_file).write_text(json.dumps(curves) + "\n")
    if svg:
        Path(svg).write_text(picture(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
