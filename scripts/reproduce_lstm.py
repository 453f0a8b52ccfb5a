#!/usr/bin/env python
"""Reproduce the language models of two papers: Approximate Random Dropout, and Structured in Space,
Randomized in Time.

    python scripts/download_data.py ptb                   # or none: the Python standard library's sources are
                                                          read instead
    python scripts/reproduce_lstm.py --quick              # minutes: small nets, a taste of everything
    python scripts/reproduce_lstm.py --part cases --nets ptb_small --methods conventional,NR
    python scripts/reproduce_lstm.py                      # the whole, days; interrupted, the same command
                                                          goes on

    table2  arXiv 1805.08939: 2 and 3 LSTM layers of 1000, rates 0.3, 0.5, 0.7, conventional dropout against
    families of
            patterns on the inputs of the layers: speed-up, word accuracy, perplexity, and loss against time
            (its Figure 6)
    cases   arXiv 2106.12089: conventional dropout; patterns shared by the batch and new at each step (NR
            STEP); the same on the recurrent state too (NR+RH STEP); one pattern for the whole sequence (NR+RH
            SEQUENCE); and NR, one pattern for the sequence on the inputs alone

Each in two stages: `speed`, a whole training step, all methods of a cell taking turns
(scripts/bench_lstm.py); and `training`. scripts/lstm_models.py has the models and says how methods are
written. Every finished run is a line of OUT/results.jsonl, and no run that stands there is made again; one
that was interrupted goes on from its last snapshot. OUT/table.md and OUT/figure.png are made of what is
there.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import bench_lstm
import click
import lstm_report
from drop_methods import product_operations
from lstm_models import MODELS, batches_per_pass, check_methods, language_model, make_solver, solver_settings
from lstm_runs import Selection, curve_points
from reproduce_options import ListOf, between, split_methods
from reproduce_runs import Store, run_in_workers, work

import minidrop as md
from minidrop.data import find_source
from minidrop.solver import run_test

PARTS, STAGES = ("table2", "cases"), ("speed", "training")
TABLE_METHODS = ("conventional", "NR ROW", "NR TILE", "NR")
CASE_METHODS = ("conventional", "NR", "NR STEP", "NR+RH STEP", "NR+RH SEQUENCE")
# The paper's 110000 iterations of caption_lm take days; ptb_medium has a third of its recipe's: 13 epochs.
LENGTHS = {"caption_lm_2": 2000, "caption_lm_3": 2000, "ptb_medium": 17251, "quick_lm": 300}
FULL = {"table2": ("caption_lm_2", "caption_lm_3"), "cases": ("ptb_small", "ptb_medium"),
        "rates": (0.3, 0.5, 0.7), "seeds": 1, "iterations": LENGTHS, "blocks": 8, "block_seconds": 1.0,
        "out": Path("runs/reproduce_lstm")}
QUICK = FULL | {"table2": ("quick_lm",), "cases": ("quick_lm",), "rates": (0.5, 0.7), "blocks": 2,
                "block_seconds": 0.2, "out": Path("runs/reproduce_lstm_quick")}


# -- stage speed ---------------------------------------------------------------------------------------------
def measure_speed(selection, store):
    """Time every method of every cell that is missing, beside conventional dropout in the same run."""
    for cell in selection.cells:
        missing = store.missing([selection.speed(cell, method) for method in cell.methods[1:]])
        if not missing:
            continue
        methods = ["conventional", *(key["method"] for key in missing)]
        times = bench_lstm.measure(cell.net, cell.rate, methods, selection.blocks, selection.block_seconds)
        base = times["conventional"]["ms"]
        for key in missing:
            own = times[key["method"]]
            store.add({**key, "speed_up": base / own["ms"], "conventional_ms": base, **own,
                       "cores": os.cpu_count(), "machine": platform.platform()})
            click.echo(f"speed     {cell.net:>12}  p {cell.rate:g}  {key['method']}: {base / own['ms']:.2f}x")


# -- stage training ------------------------------------------------------------------------------------------
def build(key):
    """Return the Solver of a training's key."""
    model, iterations = MODELS[key["net"]], key["iterations"]
    net = language_model(model, key["method"], key["rate"], key["text"])
    settings = solver_settings(model, net, iterations, random_seed=key["seed"],
                               test_iter=[batches_per_pass(net, "TEST")], test_state={"stage": "test"},
                               snapshot_after_train=False,
                               average_loss=max(1, iterations // curve_points(iterations)))
    return make_solver(settings, key["method"])


def train(key, folder=None):
    """Make one training; returns the test values at its end, None where it diverges, and its curve.

    folder: where snapshots of it go, from which it goes on where it was interrupted. A point of the curve is
    (iteration, seconds of training, training loss since the last point, test loss, perplexity, accuracy),
    losses a token.
    """
    folder = folder and Path(folder) / hashlib.sha256(json.dumps(key,
                                                                 sort_keys=True).encode()).hexdigest()[:16]
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


def keep(solver, curve, folder):
    """Write a snapshot and the curve up to it, and remove what was kept before."""
    folder.mkdir(parents=True, exist_ok=True)
    solver.snapshot(folder / f"{solver.iteration}.h5")
    temporary = folder / "curve.tmp"
    temporary.write_text(json.dumps(curve))
    os.replace(temporary, folder / "curve.json")
    for path in folder.glob("*.h5"):
        if path.stem != str(solver.iteration):
            path.unlink()


def resume(solver, folder):
    """Go on from what `keep` has written, if there is any; returns the curve."""
    if not folder or not (folder / "curve.json").exists():
        return []
    curve = json.loads((folder / "curve.json").read_text())
    solver.restore(folder / f"{curve[-1][0]}.h5")
    return curve


def train_all(keys, store, jobs, out):
    """Make the trainings that are missing, `jobs` at a time, each in a process of its own with its share of
    the cores."""
    keys, threads = store.missing(keys), max(1, (os.cpu_count() or 1) // jobs)
    for done, (key, answer) in enumerate(run_in_workers(__file__, keys, jobs, str(out / "unfinished"),
                                                        threads), 1):
        record = {**key, **answer, "threads": threads}
        store.add(record)
        value = "diverged" if record["perplexity"] is None else (
            f"perplexity {record['perplexity']:.2f}, accuracy {100 * record['accuracy']:.2f} %, "
            f"{record['seconds']:.1f} s")
        click.echo(f"training  {key['net']:>12}  p {key['rate']:g}  seed {key['seed']}  {key['method']}: "
                   f"{value}  ({done} of {len(keys)})")
    with suppress(OSError):                 # there may be one that was interrupted, of another selection
        (out / "unfinished").rmdir()


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


def make_selection(parts, nets, rates, methods, text, iterations, asked):
    """Return the Selection of what the command line asks for."""
    cells = []
    for part in parts:
        own = methods or (TABLE_METHODS if part == "table2" else CASE_METHODS)
        for net in nets or asked[part]:
            # What --rates does not say: table2 has a row of rates, the cases have the files'.
            own_rates = rates or (asked["rates"] if part == "table2" else (MODELS[net].rate,))
            cells += [(part, net, rate, tuple(dict.fromkeys(("conventional", *own)))) for rate in own_rates]
    for _, _, rate, own in cells:
        check_methods(own, [rate])
    texts = {net: text or default_text(net) for _, net, _, _ in cells}
    lengths = {net: iterations or asked["iterations"].get(net) or MODELS[net].solver.max_iter
               for net in texts}
    return Selection.of(cells, texts, lengths, asked["seeds"], asked["blocks"], asked["block_seconds"])


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Exit status: 0 done, 1 "
               "error, 2 wrong usage.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True,
              help="Only this one; may be repeated [default: both].")
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True,
              help="Only this one; may be repeated [default: both].")
@click.option("--nets", type=ListOf("NET,...", a_net),
              help=f"Of {', '.join(MODELS)} [default: table2 {','.join(FULL['table2'])}; cases "
              f"{','.join(FULL['cases'])}].")
@click.option("--rates", type=ListOf("P,...", between(0, 1)),
              help="Dropout rates [default: table2 0.3,0.5,0.7; cases the model files'].")
@click.option("--methods", metavar="METHOD,...",
              help=f"As in scripts/lstm_models.py [default: table2 {','.join(TABLE_METHODS)}; "
                   f"cases {','.join(CASE_METHODS)}].")
@click.option("--text", metavar="TEXT", help="ptb, python-stdlib or a text file [default: ptb if it is "
              "there, tinyshakespeare "
                                             "for char_lstm; else python-stdlib].")
@click.option("--seeds", type=click.IntRange(1), help="Trainings of each setting, seeds 1, 2, ... [default: "
              "1].")
@click.option("--iterations", type=click.IntRange(1),
              help="Of each training; the learning rate falls at the same shares of them "
              "[default: caption_lm 2000, ptb_medium 17251, others the solver file's].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help=f"Folder of the results [default: {FULL['out']}].")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
              help="Trainings at a time; the cores are divided, so that seconds compare only with the same "
              "number.")
@click.option("--quick", is_flag=True, help="Small nets, 300 iterations, short timings.")
@click.option("--report", "only_report", is_flag=True, help="Run nothing; table and figure of the runs that "
              "are there.")
@click.option("--worker", "is_worker", is_flag=True, hidden=True)
def main(parts, stages, nets, rates, methods, text, iterations, jobs, quick, only_report, is_worker, **asked):
    """Compare approximate with conventional dropout in LSTM language models: speed, perplexity, accuracy."""
    try:
        if is_worker:
            return work(train)
        asked = (QUICK if quick else FULL) | {name: value for name, value in asked.items() if value}
        out = asked["out"]
        methods = methods and split_methods(methods, r"\s*,\s*")
        try:
            selection = make_selection(parts or PARTS, nets, rates, methods, text, iterations, asked)
        except md.ConfigError as error:
            raise click.BadParameter(str(error), param_hint="--methods") from None
        if not only_report:
            run(selection, stages or STAGES, out, jobs)
        report(selection, Store(out / "results.jsonl"), out)
    except (md.MinidropError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def run(selection, stages, out, jobs):
    """Make all runs of the stages that are missing."""
    if "training" in stages:
        # a text that is not there says so now
        for cell, phase in product(selection.cells, ("TRAIN", "TEST")):
            batches_per_pass(language_model(MODELS[cell.net], "conventional", cell.rate, cell.text), phase)
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "results.jsonl")
    if "speed" in stages:
        measure_speed(selection, store)
    if "training" in stages:
        train_all(selection.runs(), store, jobs, out)


def bound(net, rate, method):
    """Return all over expected operations in the products of a training step."""
    everything, expected = product_operations(md.Net(language_model(MODELS[net], method, rate), device="cpu"))
    return everything / expected


def report(selection, store, out):
    """Print the tables, write them to OUT/table.md, and draw OUT/figure.png."""
    rows = lstm_report.rows_of(selection, store, bound)
    if not rows:
        raise md.DataError(f"{store.path}: holds none of these runs; leave out --report to make them")
    text = lstm_report.text_of(rows)
    out.joinpath("table.md").write_text(text, encoding="utf-8")
    click.echo(f"\n{text}")
    try:
        drawn = lstm_report.draw(rows, out / "figure.png")
    except ImportError:
        click.echo("no figure: it needs matplotlib; run: python -m pip install 'minidrop[plot]'", err=True)
    else:
        click.echo(f"{out / 'table.md'}" + (f", {out / 'figure.png'}" if drawn else ""))


if __name__ == "__main__":
    main()
