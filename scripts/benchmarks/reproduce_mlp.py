#!/usr/bin/env python
"""Reproduce Table 1 and Figure 5 of Approximate Random Dropout (arXiv 1805.08939), with every pattern family.

    minidrop data mnist
    python scripts/benchmarks/reproduce_mlp.py --quick   # minutes: one net, one rate, a taste of everything
    python scripts/benchmarks/reproduce_mlp.py --jobs 2  # the whole; the same command resumes it

Networks 784-h1-h2-10 on MNIST, dropout on both hidden layers, in three stages:

    speed     a whole training step, all methods taking turns (bench_mlp.py); never beside anything else
    accuracy  models/mnist_mlp/solver.prototxt with other sizes, rates, methods, seeds: final test accuracy
    best      each method at its own best rate and learning rate, by the accuracy on the last sixth of the
              training records of a training on the others; then trained on all of them like the runs of the
              stage accuracy

A method is `conventional` or a pattern family with settings, as PERIODIC:step=20,reshuffle_interval=500.
Every finished run is a line of OUT/results.jsonl, and no run that stands there is made again. A training has
a process and a thread of its own, so that --jobs changes no result. OUT/table.md and OUT/figure.png are made
of what is there.
"""

import re
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import stdev

import click
import reproduction_report as tables
from bench_models import Perceptron
from paper import MNIST
from reproduction import Cell, ListOf, Store, between, command, measure_speed, split_methods, train_all

import minidrop as md
from minidrop.config import TRAIN, decimal, load_net, load_solver
from minidrop.data import HDF5Records, find_source
from minidrop.patterns import known_families

ROOT = Path(__file__).resolve().parents[2]
SOLVER = ROOT / "models" / "mnist_mlp" / "solver.prototxt"
STAGES = ("speed", "accuracy", "best")
FULL = {"nets": ("1024x64", "1024x1024", "2048x2048", "4096x4096"), "rates": (0.3, 0.5, 0.7), "seeds": 3,
        "iterations": None, "stages": STAGES, "timing": {"blocks": 8, "block_seconds": 0.5},
        "out": Path("runs/reproduce_mlp")}
QUICK = {"nets": ("1024x1024",), "rates": (0.5,), "seeds": 1, "iterations": 300,
         "stages": ("speed", "accuracy"), "timing": {"blocks": 2, "block_seconds": 0.2},
         "out": Path("runs/reproduce_mlp_quick")}


# -- stages accuracy and best --------------------------------------------------------------------------------
def solver_of(key, parts=None):
    """Return the Solver of a training. key: its net, method, rate, seed, iterations and learning_rate.

    parts: the folder of train.txt and test.txt that stand for the solver's own data.
    """
    drop = Perceptron.parse(key["method"]).inputs
    param = "dropout_param" if drop is None else "approx_dropout_param"
    overrides = {"max_iter": key["iterations"], "base_lr": key["learning_rate"], "random_seed": key["seed"],
                 "display": 0, "snapshot": 0, "test_interval": 0}
    for i, outputs in enumerate(key["net"].split("x"), 1):
        overrides[f"layer.ip{i}.inner_product_param.num_output"] = outputs
        for name, value in {"dropout_ratio": key["rate"], **(drop or {})}.items():
            overrides[f"layer.drop{i}.{param}.{name}"] = value
    config = load_solver(SOLVER)
    if parts:
        net = load_net(SOLVER.parent / config.message.net)
        for layer in net.message.layer:
            if layer.type == "HDF5Data":
                part = "train" if layer.include[0].phase == TRAIN else "test"
                layer.hdf5_data_param.source = str(Path(parts).resolve() / f"{part}.txt")
        config.message.ClearField("net")
        config.message.net_param.CopyFrom(net.message)
    return md.Solver(config, overrides, dropout="conventional" if drop is None else "approx", device="cpu")


def train(key, parts=None):
    """Make one training; returns {"accuracy": on the test records, None where the training diverges}."""
    solver = solver_of(key, parts)
    try:
        solver.step(key["iterations"])
        return {"accuracy": solver.test()["accuracy"]}
    except md.NonFiniteError as error:
        return {"accuracy": None, "diverged": str(error)}
    finally:
        solver.close()


def split_training_records(folder):
    """Write the training records as two parts, unless they are there: the last sixth is the test part."""
    import numpy as np
    sys.path.append(str(ROOT / "scripts"))
    from minidrop.data.prepare import is_made, write_part
    if is_made(folder):
        return folder
    records = HDF5Records(find_source("mnist/train.txt"), ("data", "label"))
    images, labels = records.read(np.arange(len(records))).values()
    first = len(labels) - len(labels) // 6
    folder.mkdir(exist_ok=True)
    write_part(folder, "train", images[:first], labels[:first])
    write_part(folder, "test", images[first:], labels[first:])
    return folder


def validations(cells, method, learning_rates):
    """Return the keys of trainings that leave out and test on the last sixth; `cells` of one net."""
    return [cell.run(method, 1, stage="validation", learning_rate=learning_rate)
            for cell, learning_rate in product(cells, learning_rates)]


def best_cells(cells, learning_rates, store):
    """Yield (cell of the best rate and learning rate, validation accuracy, method) for every net and method.

    Not until all are there, nor where all have diverged.
    """
    for net in dict.fromkeys(cell.net for cell in cells):
        own = [cell for cell in cells if cell.net == net]
        for method in own[0].methods:
            records = [store.find(key) for key in validations(own, method, learning_rates)]
            made = [record for record in records if record and record["accuracy"] is not None]
            if made and None not in records:
                best = max(made, key=lambda record: record["accuracy"])
                training = own[0].training | {"learning_rate": best["learning_rate"]}
                yield replace(own[0], rate=best["rate"], training=training), best["accuracy"], method


def find_best(cells, learning_rates, store, jobs, out):
    """Choose rate and learning rate of every method by validation, then train it so with every seed."""
    keys = [key for net in dict.fromkeys(cell.net for cell in cells) for method in cells[0].methods
            for key in validations([cell for cell in cells if cell.net == net], method, learning_rates)]
    train_all(__file__, keys, store, jobs, str(split_training_records(out / "validation")))
    train_all(__file__, [key for cell, _, method in best_cells(cells, learning_rates, store)
                         for key in replace(cell, methods=(method,)).runs()], store, jobs)


# -- table and figure ----------------------------------------------------------------------------------------
def paper(row, number):
    """Return the paper's speed-up (0) or difference of accuracy (1), or None."""
    found = MNIST.get((row.cell.rate, row.cell.net), {}).get(row.method)
    return found and (found[2], found[1] - found[0])[number]


def text_of(rows, best):
    """Return the tables as Markdown; `best` as from `best_cells`, with rows: [(row, validation accuracy)]."""
    cell, accuracy = rows[0].cell, ("test accuracy %", lambda row: tables.spread(row, "accuracy"))
    seeds = f"{cell.seeds} seeds, mean ± standard deviation" if cell.seeds > 1 else "one seed"
    parts = [f"MNIST, 784-h1-h2-10; {cell.training['iterations']} iterations of batch 128, learning rate "
             f"{cell.training['learning_rate']:g} falling to 0 (models/mnist_mlp); {seeds}.\n"
             "Speed-up: a whole training step, conventional dropout over the method, in one run. Bound: the "
             "same for the operations of the products.\n"
             "Difference: of the test accuracy to conventional dropout, in points. The paper: arXiv "
             "1805.08939, Caffe, 60000 iterations.",
             tables.markdown(rows, "net", "p", "method", "speed-up", "bound", accuracy, "difference",
                      ("paper: speed-up", lambda row: tables.times(paper(row, 0))),
                      ("paper: difference", lambda row: tables.signed(paper(row, 1))))]
    if best:
        validation = {id(row): value for row, value in best}
        parts += ["Each method at its own best rate and learning rate: chosen on the last sixth of the "
                  "training records, trained on all:",
                  tables.markdown([row for row, _ in best], "net", "p", "method",
                           ("learning rate", lambda row: f"{row.cell.training['learning_rate']:g}"),
                           ("validation accuracy %", lambda row: f"{100 * validation[id(row)]:.2f}"),
                           accuracy, "difference", "speed-up")]
    return "\n\n".join(parts) + "\n"


def best_rows(cells, learning_rates, store):
    """Return [(row, validation accuracy)] for every net and method whose best settings are known."""
    found = [(tables.Row.of(cell, store, method), value)
             for cell, value, method in best_cells(cells, learning_rates, store)]
    for net in dict.fromkeys(row.cell.net for row, _ in found):
        tables.compared([row for row, _ in found if row.cell.net == net])
    return found


def draw(rows, path):
    """Draw speed-ups above and differences of accuracy below, a column for each rate; returns whether it did.

    ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    rows = [row for row in rows if row.method != "conventional"]
    nets, rates = (list(dict.fromkeys(getattr(row.cell, name) for row in rows)) for name in ("net", "rate"))
    methods = list(dict.fromkeys(row.method for row in rows))
    panels = [(number, name, label) for number, name, label in (
        (0, "speed_up", "speed-up over conventional dropout"),
        (1, "difference", "test accuracy − conventional, points"))
        if any(getattr(row, name) is not None for row in rows)]
    if not panels:
        return False
    width = 1.2 + len(rates) * max(3.5, 0.17 * len(nets) * (len(methods) + 1.5))
    figure = Figure(figsize=(width, 0.8 + 3.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(rates), squeeze=False, sharex=True, sharey="row")
    handles, bar = {}, 0.84 / len(methods)
    for line, (number, name, label) in zip(axes, panels, strict=True):
        line[0].set_ylabel(label)
        for one in line:
            one.axhline(1 - number, color="black", linewidth=0.8, zorder=2.5)
            one.set_xlim(-0.6, len(nets) - 0.4)
            tables.tidy(one, "y")
        for row in rows:        # a group of bars for each net; a diamond is the paper's figure
            one, value = line[rates.index(row.cell.rate)], getattr(row, name)
            place = methods.index(row.method)
            if value is None:
                continue
            x = nets.index(row.cell.net) + (place - (len(methods) - 1) / 2) * bar
            error = stdev(row.values("accuracy")) if name == "difference" and len(row.runs) > 1 else None
            bars = one.bar(x, value, 0.9 * bar, color=tables.color_of(place), yerr=error, zorder=2,
                           error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": "#333333"})
            handles.setdefault(row.method, bars[0])
            if paper(row, number) is not None:
                handles["paper"], = one.plot(x, paper(row, number), "D", markersize=4.5,
                                             markerfacecolor="white", color="black", linestyle="none",
                                             zorder=3)
    for j, rate in enumerate(rates):
        axes[0][j].set_title(f"dropout rate {rate:g}")
        axes[-1][j].set_xticks(range(len(nets)), nets)
    handles = {name: handles[name] for name in (*methods, "paper") if name in handles}
    tables.save(figure, handles, max(1, int(width / (0.6 + 0.09 * max(map(len, handles))))), path)
    return True


# -- command line --------------------------------------------------------------------------------------------
def a_net(text):
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"expected two hidden layers as 2048x2048, got {text!r}")
    return text


def make_cells(nets, rates, methods, seeds, iterations, timing):
    """Return the cells of all nets and rates."""
    settings = load_solver(SOLVER).message
    training = {"stage": "accuracy", "iterations": iterations or settings.max_iter,
                "learning_rate": decimal(settings.base_lr)}
    methods = tuple(dict.fromkeys(("conventional", *(methods or known_families()))))
    return [Cell(net, rate, methods, training, timing, seeds) for net, rate in product(nets, rates)]


@command(train, STAGES, {
    "--rates": "Dropout rates [default: 0.3,0.5,0.7].",
    "--methods": "Methods [default: conventional and every pattern family].",
    "--seeds": "Trainings of each setting, seeds 1, 2, ... [default: 3].",
    "--iterations": "Of each training [default: the solver file's max_iter].",
    "--out": f"Folder of the results [default: {FULL['out']}].", "--jobs": "Trainings at a time.",
    "--quick": "1024x1024 at 0.5, 300 iterations, one seed, no stage best, short timings."})
@click.option("--nets", type=ListOf("H1xH2,...", a_net),
              help=f"Hidden layers [default: {','.join(FULL['nets'])}].")
@click.option("--learning-rates", type=ListOf("LR,...", between(0, 100)), default="0.05,0.1,0.2",
              show_default=True, help="What stage best chooses from; stage accuracy takes the solver file's.")
def main(methods, learning_rates, jobs, quick, only_report, **asked):
    """Compare pattern families with conventional dropout: training speed and accuracy, beside the paper's."""
    asked = (QUICK if quick else FULL) | {name: value for name, value in asked.items() if value}
    out, stages = asked.pop("out"), asked.pop("stages")
    cells = make_cells(methods=methods and split_methods(methods), **asked)
    Perceptron(()).check(cells[0].methods, asked["rates"])
    if not only_report:
        if set(stages) & {"accuracy", "best"}:
            find_source("mnist/train.txt")           # before an hour has passed
        out.mkdir(parents=True, exist_ok=True)
        store = Store(out / "results.jsonl")
        if "speed" in stages:
            measure_speed(cells, store)
        if "accuracy" in stages:
            train_all(__file__, [key for cell in cells for key in cell.runs()], store, jobs)
        if "best" in stages:
            find_best(cells, learning_rates, store, jobs, out)
    store = Store(out / "results.jsonl")
    tables.report(tables.rows_of(cells, store), store,
                  lambda rows: text_of(rows, best_rows(cells, learning_rates, store)), draw)


if __name__ == "__main__":
    main()
