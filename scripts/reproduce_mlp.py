#!/usr/bin/env python
"""Reproduce Table 1 and Figure 5 of Approximate Random Dropout (arXiv 1805.08939), with every pattern family.

    python scripts/download_data.py mnist
    python scripts/reproduce_mlp.py --quick               # minutes: one net, one rate, a taste of everything
    python scripts/reproduce_mlp.py --jobs 2              # the whole; interrupted, the same command goes on

Networks 784-h1-h2-10 on MNIST, dropout on both hidden layers, in three stages:

    speed     a whole training step, all methods taking turns in one run (scripts/bench_mlp.py); never beside
              anything else
    accuracy  models/mnist_mlp/solver.prototxt with other sizes, rates, methods and seeds: test accuracy at
    the end
    best      each method at its own best rate and learning rate, by the accuracy on the last sixth of the
              training records of a training on the others; then trained on all of them like the runs of the
              stage accuracy

A method is `conventional` or a pattern family with settings, as PERIODIC:step=20,reshuffle_interval=500.
Every finished run is a line of OUT/results.jsonl, and no run that stands there is made again. A training has
a process and a thread of its own, so that --jobs changes no result. OUT/table.md and OUT/figure.png are made
of what is there.
"""

import os
import platform
import re
import sys
from itertools import product
from pathlib import Path

import bench_mlp
import click
import reproduce_report
from reproduce_options import ListOf, between, split_methods
from reproduce_runs import Selection, Store, run_in_workers, work

import minidrop as md
from minidrop.config import TRAIN, decimal, load_net, load_solver
from minidrop.data import HDF5Records, find_source
from minidrop.patterns import known_families

SOLVER = Path(__file__).resolve().parents[1] / "models" / "mnist_mlp" / "solver.prototxt"
STAGES = ("speed", "accuracy", "best")
FULL = {"nets": ("1024x64", "1024x1024", "2048x2048", "4096x4096"), "rates": (0.3, 0.5, 0.7), "seeds": 3,
        "iterations": None, "stages": STAGES, "blocks": 8, "block_seconds": 0.5,
        "out": Path("runs/reproduce_mlp")}
QUICK = {"nets": ("1024x1024",), "rates": (0.5,), "seeds": 1, "iterations": 300,
         "stages": ("speed", "accuracy"), "blocks": 2, "block_seconds": 0.2,
         "out": Path("runs/reproduce_mlp_quick")}


# -- stage speed ---------------------------------------------------------------------------------------------
def measure_speed(selection, store):
    """Time every method of every cell that is missing, beside conventional dropout in the same run."""
    for net, rate in product(selection.nets, selection.rates):
        missing = store.missing([selection.speed(net, rate, method) for method in selection.methods[1:]])
        if not missing:
            continue
        methods = ["conventional", *(key["method"] for key in missing)]
        times = bench_mlp.measure(net, rate, methods, selection.blocks, selection.block_seconds)
        base = times["conventional"]["ms"]
        for key in missing:
            own = times[key["method"]]
            store.add({**key, "speed_up": base / own["ms"], "conventional_ms": base, **own,
                       "cores": os.cpu_count(), "machine": platform.platform()})
            click.echo(f"speed       {net:>9}  p {rate:g}  {key['method']}: {base / own['ms']:.2f}x")


# -- stages accuracy and best --------------------------------------------------------------------------------
def train(key, parts=None):
    """Make one training; returns {"accuracy": on the test records, None where the training diverges}.

    parts: the folder of train.txt and test.txt that stand for the solver's own data.
    """
    kind, settings = bench_mlp.parse_method(key["method"])
    param = "dropout_param" if kind == "Dropout" else "approx_dropout_param"
    overrides = {"max_iter": key["iterations"], "base_lr": key["learning_rate"], "random_seed": key["seed"],
                 "display": 0, "snapshot": 0, "test_interval": 0}
    for i, outputs in enumerate(key["net"].split("x"), 1):
        overrides[f"layer.ip{i}.inner_product_param.num_output"] = outputs
        for name, value in {"dropout_ratio": key["rate"], **settings}.items():
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
    solver = md.Solver(config, overrides, dropout="conventional" if kind == "Dropout" else "approx",
                       device="cpu")
    try:
        solver.step(key["iterations"])
        return {"accuracy": solver.test()["accuracy"]}
    except md.NonFiniteError as error:
        return {"accuracy": None, "diverged": str(error)}
    finally:
        solver.close()


def train_all(keys, store, jobs, parts=None):
    """Make the trainings that are missing, `jobs` at a time, each in a process with one thread."""
    keys = store.missing(keys)
    for done, (key, answer) in enumerate(run_in_workers(__file__, keys, jobs, parts and str(parts)), 1):
        record = {**key, **answer}
        store.add(record)
        value = "diverged" if record["accuracy"] is None else f"{100 * record['accuracy']:.2f} %"
        click.echo(f"{key['stage']:<11} {key['net']:>9}  p {key['rate']:g}  learning rate "
                   f"{key['learning_rate']:g}  seed {key['seed']}  {key['method']}: {value}  ({done} of "
                   f"{len(keys)})")


def split_training_records(folder):
    """Write the training records as two parts: the last sixth is the test part. Nothing is done where that
    stands already."""
    import numpy as np
    from download_data import is_made, write_part
    if is_made(folder):
        return folder
    records = HDF5Records(find_source("mnist/train.txt"), ("data", "label"))
    images, labels = records.read(np.arange(len(records))).values()
    first = len(labels) - len(labels) // 6
    folder.mkdir(exist_ok=True)
    write_part(folder, "train", images[:first, 0], labels[:first])
    write_part(folder, "test", images[first:, 0], labels[first:])
    return folder


def find_best(selection, store, jobs, out):
    """Choose rate and learning rate of every method by validation, then train it so with every seed."""
    pairs = list(product(selection.nets, selection.methods))
    parts = split_training_records(out / "validation")
    train_all([key for pair in pairs for key in selection.validations(*pair)], store, jobs, parts)
    finals = []
    for net, method in pairs:
        best = reproduce_report.best_of(selection, store, net, method)
        if best:
            finals += [selection.run(net, best["rate"], method, seed, best["learning_rate"])
                       for seed in selection.all_seeds]
    train_all(finals, store, jobs)


# -- command line --------------------------------------------------------------------------------------------
def a_net(text):
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"expected two hidden layers as 2048x2048, got {text!r}")
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Exit status: 0 done, 1 "
               "error, 2 wrong usage.")
@click.option("--nets", type=ListOf("H1xH2,...", a_net), help=f"Hidden layers [default: "
              f"{','.join(FULL['nets'])}].")
@click.option("--rates", type=ListOf("P,...", between(0, 1)), help="Dropout rates [default: 0.3,0.5,0.7].")
@click.option("--methods", metavar="METHOD,...", help="Methods [default: conventional and every pattern "
              "family].")
@click.option("--seeds", type=click.IntRange(1), help="Trainings of each setting, seeds 1, 2, ... [default: "
              "3].")
@click.option("--iterations", type=click.IntRange(1), help="Of each training [default: the solver file's "
              "max_iter].")
@click.option("--learning-rates", type=ListOf("LR,...", between(0, 100)), default="0.05,0.1,0.2",
              show_default=True, help="What stage best chooses from; stage accuracy takes the solver file's.")
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True,
              help="Only this one; may be repeated [default: all].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help=f"Folder of the results [default: {FULL['out']}].")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Trainings at a time.")
@click.option("--quick", is_flag=True, help="1024x1024 at 0.5, 300 iterations, one seed, no stage best, "
              "short timings.")
@click.option("--report", "only_report", is_flag=True, help="Run nothing; table and figure of the runs that "
              "are there.")
@click.option("--worker", "is_worker", is_flag=True, hidden=True)
def main(methods, learning_rates, jobs, quick, only_report, is_worker, **asked):
    """Compare every pattern family with conventional dropout: training speed and accuracy, beside the
    paper's."""
    try:
        if is_worker:
            return work(train)
        asked = (QUICK if quick else FULL) | {name: value for name, value in asked.items() if value}
        out, stages = asked.pop("out"), asked.pop("stages")
        settings = load_solver(SOLVER).message
        asked["iterations"] = asked["iterations"] or settings.max_iter
        methods = split_methods(methods) if methods else known_families()
        selection = Selection(methods=tuple(dict.fromkeys(("conventional", *methods))),
                              learning_rates=learning_rates, learning_rate=decimal(settings.base_lr), **asked)
        bench_mlp.check_methods(selection.methods, selection.rates)
        if not only_report:
            run(selection, stages, out, jobs)
        report(selection, Store(out / "results.jsonl"), out)
    except (md.MinidropError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def run(selection, stages, out, jobs):
    """Make all runs of the stages that are missing."""
    if set(stages) & {"accuracy", "best"}:
        find_source("mnist/train.txt")           # before an hour has passed
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "results.jsonl")
    if "speed" in stages:
        measure_speed(selection, store)
    if "accuracy" in stages:
        train_all(selection.accuracies(), store, jobs)
    if "best" in stages:
        find_best(selection, store, jobs, out)


def bound(net, rate, method):
    """Return all over expected operations in the products of a training step."""
    net = md.Net(bench_mlp.mlp(method, [int(size) for size in net.split("x")], rate, filler="constant"),
                 device="cpu")
    everything, expected = bench_mlp.product_operations(net)
    return everything / expected


def report(selection, store, out):
    """Print the tables, write them to OUT/table.md, and draw OUT/figure.png."""
    rows = reproduce_report.rows_of(selection, store, bound)
    if not rows:
        raise md.DataError(f"{store.path}: holds none of these runs; leave out --report to make them")
    text = reproduce_report.text_of(selection, rows, reproduce_report.best_rows(selection, store))
    out.joinpath("table.md").write_text(text, encoding="utf-8")
    click.echo(f"\n{text}")
    try:
        reproduce_report.draw(rows, out / "figure.png")
    except ImportError:
        click.echo("no figure: it needs matplotlib; run: python -m pip install 'minidrop[plot]'", err=True)
    else:
        click.echo(f"{out / 'table.md'}, {out / 'figure.png'}")


if __name__ == "__main__":
    main()
