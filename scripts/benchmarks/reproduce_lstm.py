#!/usr/bin/env python
"""Reproduce language models of Approximate Random Dropout and of Structured in Space, Randomized in Time.

    minidrop data ptb                                   # else the sources of Python's library are read
    python scripts/benchmarks/reproduce_lstm.py --quick  # minutes: small nets, a taste of everything
    python scripts/benchmarks/reproduce_lstm.py          # the whole, days; the same command resumes it

    table2  arXiv 1805.08939: 2 and 3 LSTM layers of 1000, rates 0.3, 0.5, 0.7, conventional dropout against
            families of patterns on the inputs of the layers: speed-up, word accuracy, perplexity, and loss
            against time (its Figure 6)
    cases   arXiv 2106.12089: conventional dropout; patterns shared by the batch and new at each step (NR
            STEP); the same on the recurrent state too (NR+RH STEP); one pattern for the whole sequence (NR+RH
            SEQUENCE); and NR, one pattern for the sequence on the inputs alone

Each in two stages: `speed`, a whole training step, all methods of a cell taking turns (bench_lstm.py); and
`training`. bench_models.py has the models, and drop_methods.py says how methods are written. Every finished
run is a line of OUT/results.jsonl, and no run that stands there is made again; one that was interrupted goes
on from its last snapshot. OUT/table.md and OUT/figure.png are made of what is there.
"""

import os
import shutil
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from statistics import mean

import click
from bench_models import MODELS, batches_per_pass, make_solver
from paper import LANGUAGE_MODELS
from reproduction import (
    Cell,
    ListOf,
    Store,
    command,
    folder_of,
    keep,
    measure_speed,
    resume,
    split_methods,
    train_all,
)
from reproduction_report import color_of, markdown, report, rows_of, save, spread, tidy, times

import minidrop as md
from minidrop.data import find_source
from minidrop.solver import run_test

PARTS, STAGES = ("table2", "cases"), ("speed", "training")
TABLE_METHODS = ("conventional", "NR ROW", "NR TILE", "NR")
CASE_METHODS = ("conventional", "NR", "NR STEP", "NR+RH STEP", "NR+RH SEQUENCE")
# The paper's 110000 iterations of caption_lm take days; ptb_medium has a third of its recipe's: 13 epochs.
LENGTHS = {"caption_lm_2": 2000, "caption_lm_3": 2000, "ptb_medium": 17251, "quick_lm": 300}
FULL = {"table2": ("caption_lm_2", "caption_lm_3"), "cases": ("ptb_small", "ptb_medium"),
        "rates": (0.3, 0.5, 0.7), "timing": {"blocks": 8, "block_seconds": 1.0},
        "out": Path("runs/reproduce_lstm")}
QUICK = {"table2": ("quick_lm",), "cases": ("quick_lm",), "rates": (0.5, 0.7),
         "timing": {"blocks": 2, "block_seconds": 0.2}, "out": Path("runs/reproduce_lstm_quick")}


# -- stage training ------------------------------------------------------------------------------------------
def build(key):
    """Return the Solver of a training's key."""
    model, iterations = MODELS[key["net"]], key["iterations"]
    net = model.net(key["method"], key["rate"], key["text"])
    settings = model.solver_settings(net, iterations, random_seed=key["seed"],
                                     test_iter=[batches_per_pass(net, "TEST")], test_state={"stage": "test"},
                                     snapshot_after_train=False,
                                     average_loss=max(1, iterations // curve_points(iterations)))
    return make_solver(settings, model.parse(key["method"]))


def curve_points(iterations):
    """Return the number of points of a training's curve: of tests, and of snapshots to go on from."""
    return max(1, min(20, iterations // 25))


def train(key, folder=None):
    """Make one training; returns the test values at its end, None where it diverges, and its curve.

    folder: where snapshots of it go, from which it goes on where it was interrupted. A point of the curve is
    (iteration, seconds of training, training loss since the last point, test loss, perplexity, accuracy),
    losses a token.
    """
    folder = folder and folder_of(key, folder)
    solver = build(key)
    try:
        warm_up(key)
        result = finish(solver, key, folder)
    except md.NonFiniteError as error:
        result = {"perplexity": None, "accuracy": None, "seconds": None, "diverged": str(error)}
    finally:
        solver.close()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def warm_up(key):
    """Make two steps that nobody times: what is compiled is then there."""
    solver = build(key)
    solver.step(2)
    solver.close()


def finish(solver, key, folder):
    """Train to the end, from a snapshot in `folder` if there is one; returns the result."""
    curve, iterations, weight = resume(solver, folder), key["iterations"], solver.net.losses[0][1]
    seconds, points = curve[-1][1] if curve else 0.0, curve_points(iterations)
    for mark in (iterations * point // points for point in range(1, points + 1)):
        if mark <= solver.iteration:
            continue
        begin = time.perf_counter()
        solver.step(mark - solver.iteration)
        seconds += time.perf_counter() - begin
        # Of short trainings, tests on the way see a part of the text.
        test = run_test(solver.test_nets[0], min(solver.settings.test_iter[0], max(1, iterations // points)))
        curve.append([mark, seconds, solver.smoothed_loss / weight, test["loss"], test["perplexity"],
                      test["accuracy"]])
        if folder and mark < iterations:
            keep(solver, curve, folder)
    test = solver.test()
    return {"perplexity": test["perplexity"], "accuracy": test["accuracy"], "seconds": seconds,
            "curve": curve}


# -- tables and figure ---------------------------------------------------------------------------------------
TITLES = {
    "table2": "Table 2 of arXiv 1805.08939: 110000 iterations of Caffe there; word accuracy 47.6 -> 46.8 % "
              "with ROW at p = 0.3, 46.2 -> 44.7 % at 0.7.",
    "cases": "The cases of arXiv 2106.12089, whose trainings ran 1.23 to 1.64 times faster at equal metrics."}


def paper(row):
    """Return the paper's speed-up, or None."""
    if row.method.partition(":")[0] in ("NR ROW", "NR TILE"):
        return LANGUAGE_MODELS.get((row.cell.net, row.cell.rate))
    return None


def seconds(row):
    """Return the mean seconds of trainings that had the same number of threads."""
    alike = len({run["threads"] for run in row.runs}) == 1
    return f"{mean(row.values('seconds')):.1f}" if alike else "-"


def relative(row):
    """Return how the mean perplexity differs from that of conventional dropout."""
    both = row.to_base("perplexity")
    return f"{100 * (both[0] / both[1] - 1):+.2f} %" if both else "-"


def text_of(rows):
    """Return the tables as Markdown, one for each part."""
    texts = []
    for part in dict.fromkeys(row.cell.part for row in rows):
        own = [row for row in rows if row.cell.part == part]
        names = ", ".join(dict.fromkeys(row.cell.training["text"] for row in own))
        texts += [f"{TITLES[part]}\nHere: text {names}. Speed-up: a whole training step, conventional "
                  "dropout over the method, in one run. Bound: the same for the operations of the "
                  "products.\nSeconds: of the training, without tests; perplexity and accuracy on the test "
                  "part at its end, compared with conventional dropout.",
                  markdown(own, "net", "p", "method", "speed-up", "bound",
                           ("paper", lambda row: times(paper(row))),
                           ("iterations", lambda row: str(row.cell.training["iterations"])),
                           ("seconds", seconds), ("perplexity", lambda row: spread(row, "perplexity")),
                           ("to conventional", relative), ("accuracy %", lambda row: spread(row, "accuracy")),
                           "difference")]
    return "\n\n".join(texts) + "\n"


def draw(rows, path):
    """Draw the test loss against seconds of training, a panel for each net and rate; returns whether it did.

    The first seed of each method. ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    rows, panels = [row for row in rows if row.runs], {}
    for row in rows:
        panel = row.cell.net, row.cell.rate, row.cell.training["iterations"]
        panels.setdefault(panel, {}).setdefault(row.method, row)
    if not panels:
        return False
    methods = list(dict.fromkeys(row.method for row in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 4 * columns, 0.8 + 3.2 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    handles = {}
    for ((net, rate, _), own), one in zip(panels.items(), axes, strict=False):
        for method, row in own.items():
            _, x, _, y, *_ = zip(*row.runs[0]["curve"], strict=True)
            handles[method], = one.plot(x, y, ".-", color=color_of(methods.index(method)))
        one.set(title=f"{net}, dropout rate {rate:g}", xlabel="seconds of training",
                ylabel="test loss a token")
        tidy(one)
    for one in axes[len(panels):]:
        one.set_visible(False)
    save(figure, handles, 2 * columns, path)
    return True


# -- command line --------------------------------------------------------------------------------------------
def a_net(text):
    if text not in MODELS:
        raise ValueError(f"expected one of {', '.join(MODELS)}, got {text}")
    return text


def default_text(net):
    """Return the text of a model: a known data set if it is there, else what every machine has."""
    settings = MODELS[net].text
    characters = settings.level == settings.CHARACTER
    wanted, name = ("tinyshakespeare/input.txt",) * 2 if characters else ("ptb/train.txt", "ptb")
    try:
        find_source(wanted, kind="text")
    except md.DataError:
        return "python-stdlib"
    return name


def make_cells(parts, nets, rates, methods, text, iterations, seeds, asked):
    """Return the cells of what the command line asks for."""
    cells = []
    for part in parts:
        own_methods = methods or (TABLE_METHODS if part == "table2" else CASE_METHODS)
        own_methods = tuple(dict.fromkeys(("conventional", *own_methods)))
        for net in nets or asked[part]:
            # What --rates does not say: table2 has a row of rates, the cases have the files'.
            own_rates = rates or (asked["rates"] if part == "table2" else (MODELS[net].rate,))
            MODELS[net].check(own_methods, own_rates)
            training = {"stage": "training", "text": text or default_text(net),
                        "iterations": iterations or LENGTHS.get(net) or MODELS[net].file_solver.max_iter}
            cells += [Cell(net, rate, own_methods, training, asked["timing"], seeds, part)
                      for rate in own_rates]
    return cells


@command(train, STAGES, {
    "--rates": "Dropout rates [default: table2 0.3,0.5,0.7; cases the model files'].",
    "--methods": f"See drop_methods.py [default: table2 {','.join(TABLE_METHODS)}; "
                 f"cases {','.join(CASE_METHODS)}].",
    "--seeds": "Trainings of each setting, seeds 1, 2, ... [default: 1].",
    "--iterations": "Of each training; the learning rate falls at the same shares of them "
                    "[default: caption_lm 2000, ptb_medium 17251, others the solver file's].",
    "--out": f"Folder of the results [default: {FULL['out']}].",
    "--jobs": "Trainings at a time; they divide the cores: seconds compare only with the same number.",
    "--quick": "Small nets, 300 iterations, short timings."})
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True,
              help="Only this one; may be repeated [default: both].")
@click.option("--nets", type=ListOf("NET,...", a_net),
              help=f"Of {', '.join(MODELS)} [default: table2 {','.join(FULL['table2'])}; "
                   f"cases {','.join(FULL['cases'])}].")
@click.option("--text", metavar="TEXT",
              help="ptb, python-stdlib or a text file [default: ptb if it is there, tinyshakespeare for "
                   "char_lstm; else python-stdlib].")
def main(parts, stages, nets, rates, methods, text, iterations, seeds, out, jobs, quick, only_report):
    """Compare approximate with conventional dropout in LSTM language models: speed, perplexity, accuracy."""
    asked, stages = QUICK if quick else FULL, stages or STAGES
    out = out or asked["out"]
    try:
        cells = make_cells(parts or PARTS, nets, rates, methods and split_methods(methods, r"\s*,\s*"), text,
                           iterations, seeds or 1, asked)
    except md.ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--methods") from None
    if not only_report:
        run(cells, stages, out, jobs)
    store = Store(out / "results.jsonl")
    report(rows_of(cells, store), store, text_of, draw)


def run(cells, stages, out, jobs):
    """Make all runs of the stages that are missing."""
    if "training" in stages:
        for cell, phase in product(cells, ("TRAIN", "TEST")):      # a text that is not there says so now
            batches_per_pass(MODELS[cell.net].net("conventional", cell.rate, cell.training["text"]), phase)
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "results.jsonl")
    if "speed" in stages:
        measure_speed(cells, store)
    if "training" in stages:
        train_all(__file__, [key for cell in cells for key in cell.runs()], store, jobs,
                  str(out / "unfinished"), max(1, (os.cpu_count() or 1) // jobs))
        with suppress(OSError):             # there may be one that was interrupted, of another selection
            (out / "unfinished").rmdir()


if __name__ == "__main__":
    main()
