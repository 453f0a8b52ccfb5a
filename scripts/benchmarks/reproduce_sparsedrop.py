#!/usr/bin/env python
"""Reproduce Table 1 of SparseDrop (Lo 2024): each method of dropping at its own best rate, in four tasks.

    minidrop data mnist; minidrop data cifar10
    minidrop data tinyshakespeare
    python scripts/benchmarks/reproduce_sparsedrop.py --quick  # minutes: small nets, a taste of everything
    python scripts/benchmarks/reproduce_sparsedrop.py          # the whole, days; the same command resumes it

Tasks (sparsedrop_tasks.py): a perceptron on MNIST, vision transformers on CIFAR-10 and, where it is there,
Fashion-MNIST, and a GPT on tiny Shakespeare. Methods: `none`; `conventional` dropout; BLOCK, SparseDrop's
blocks of 128 samples x 128 units; and PERIODIC, minidrop's own, or any family with settings. All drop the
inputs of the same products. A training ends when records that were left out of it have shown nothing better
for some time, and counts as its best moment: quality and minutes of training up to then.

Every finished training is a line of OUT/results.jsonl, and none that stands there is made again; one that was
interrupted goes on from its last snapshot. OUT/table.md and OUT/figure.png are made of what is there.
"""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import click
from drop_methods import parse_method
from paper import SPARSEDROP
from reproduction import Cell, ListOf, Store, command, folder_of, keep, resume, split_methods, train_cells
from reproduction_report import collect, color_of, markdown, mean_of, notes, report, save, tidy
from sparsedrop_tasks import QUICK_TASKS, TASKS

import minidrop as md
from minidrop.data import find_source

ALL = TASKS | QUICK_TASKS
METHODS = ("none", "conventional", "BLOCK", "PERIODIC")
FULL = {"tasks": tuple(TASKS), "rates": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), "methods": METHODS,
        "out": Path("runs/reproduce_sparsedrop")}
# A block of the full size would be all that a small net has.
QUICK = {"tasks": tuple(QUICK_TASKS), "rates": (0.3, 0.5),
         "methods": ("none", "conventional", "BLOCK:block_samples=16,block_units=16", "PERIODIC"),
         "out": Path("runs/reproduce_sparsedrop_quick")}


# -- one training --------------------------------------------------------------------------------------------
def build(key, parts):
    """Return (Task, Solver) of a training's key."""
    task = replace(ALL[key["net"]], most=key["looks"])
    return task, md.Solver(task.settings(key["method"], key["rate"], key["seed"], parts), device="cpu")


def train(key, extra):
    """Make one training; returns its best values and when it had them, or None where it diverges.

    extra: {"parts": the folder of its records, "unfinished": where snapshots go}. A point of the curve is
    (iteration, seconds of training, loss, accuracy), of what was left out.
    """
    folder = folder_of(key, extra["unfinished"])
    task, solver = build(key, extra["parts"])
    try:
        warm_up(key, extra["parts"])
        curve = finish(task, solver, folder)
        iteration, seconds, loss, accuracy = best_of(task, curve)
        result = {"accuracy": accuracy, "loss": loss, "seconds": seconds, "iteration": iteration,
                  "curve": curve}
    except md.NonFiniteError as error:
        result = {"accuracy": None, "loss": None, "seconds": None, "diverged": str(error)}
    finally:
        solver.close()
    shutil.rmtree(folder, ignore_errors=True)
    return result


def warm_up(key, parts):
    """Make two steps that nobody times: what is compiled is then there."""
    _, solver = build(key, parts)
    solver.step(min(2, solver.settings.max_iter))
    solver.close()


def finish(task, solver, folder):
    """Train to the end, from a snapshot in `folder` if there is one; returns the curve."""
    curve = resume(solver, folder)
    while not ended(task, curve):
        begin = time.perf_counter()
        solver.step(task.every)
        seconds = time.perf_counter() - begin + (curve[-1][1] if curve else 0.0)
        values = solver.test()
        curve.append([solver.iteration, seconds, values["loss"], values["accuracy"]])
        keep(solver, curve, folder)
    return curve


def ended(task, curve):
    """Whether a training has looked often enough, or seen nothing better for as long as its patience."""
    if len(curve) >= task.most:
        return True
    return bool(curve) and len(curve) - 1 - curve.index(best_of(task, curve)) >= task.patience


def best_of(task, curve):
    """Return the first of the best points of a curve."""
    best = curve[0]
    for point in curve[1:]:
        if task.better(_value(task, point), _value(task, best)):
            best = point
    return best


def _value(task, point):
    return point[2 if task.measure == "loss" else 3]


# -- table and figure ----------------------------------------------------------------------------------------
@dataclass
class Row:
    """A task, a method and a rate: the trainings that did not diverge."""

    task: str
    method: str
    rate: float
    runs: list = field(default_factory=list)
    diverged: int = 0
    missing: int = 0

    @property
    def values(self):
        """What tells how good each training is: losses, or accuracies in %."""
        measure = ALL[self.task].measure
        return [run[measure] * (100 if measure == "accuracy" else 1) for run in self.runs]

    @property
    def quality(self):
        """Their mean, and how far they spread; what is missing or has diverged."""
        return mean_of(self.values, 3 if ALL[self.task].measure == "loss" else 2) + notes(self)

    @property
    def minutes(self):
        """Of training to the best moment; "-" where not all trainings had as many threads."""
        alike = len({run["threads"] for run in self.runs}) == 1
        return f"{mean(run['seconds'] for run in self.runs) / 60:.2f}" if alike else "-"

    @property
    def iterations(self):
        """To the best moment."""
        return f"{mean(run['iteration'] for run in self.runs):.0f}" if self.runs else "-"

    def paper(self):
        """Return what is published, as text."""
        found = SPARSEDROP.get(self.task, {}).get(self.method)
        return f"p {found[0]:g}: {found[1]:g}, {found[2]:g} min" if found else "-"


def rows_of(cells, store):
    """Return a Row for each task, method and rate of which there is a training."""
    rows = []
    for cell in cells:
        for method in cell.methods:
            row = collect(Row(cell.net, method, cell.rate), cell, store)
            if row.runs or row.diverged:
                rows.append(row)
    return rows


def best_rows(rows):
    """Return of each task and method the row whose mean is best; of those that diverged nowhere, if any."""
    best = {}
    for row in sorted(rows, key=lambda row: row.diverged):
        found = best.setdefault((row.task, row.method), row)
        if row.diverged == found.diverged and row.runs and ALL[row.task].better(mean(row.values),
                                                                               mean(found.values)):
            best[row.task, row.method] = row
    order = list(dict.fromkeys((row.task, row.method) for row in rows))
    return sorted(best.values(), key=lambda row: (
        [task for task, _ in order].index(row.task), [method for _, method in order].index(row.method)))


def text_of(rows):
    """Return the tables as Markdown: each method at its best rate, and all rates."""
    rate = ("p", lambda row: f"{row.rate:g}" if row.method != "none" else "-")
    common = [("task", lambda row: row.task), ("method", lambda row: row.method), rate,
              ("measure", lambda row: "loss" if ALL[row.task].measure == "loss" else "accuracy %"),
              ("quality", lambda row: row.quality), ("minutes", lambda row: row.minutes),
              ("iterations", lambda row: row.iterations)]
    return "\n\n".join([
        "Each method at its best rate. Quality: at the best moment of a training, on records that were left "
        "out of it, which chose the rate as well. Minutes: of training up to then, in float32 on this "
        "machine.\n"
        "Published: SparseDrop (Lo 2024), 16-bit numbers on an RTX 2060.",
        markdown(best_rows(rows), *common, ("published", Row.paper)),
        "All rates:", markdown(rows, *common)]) + "\n"


def draw(rows, path):
    """Draw quality and minutes against the rate, a column for each task; returns whether it did.

    ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    rows = [row for row in rows if row.runs]
    tasks, methods = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("task", "method"))
    if not rows:
        return False
    figure = Figure(figsize=(1.2 + 3.6 * len(tasks), 6.4), layout="constrained")
    axes, handles = figure.subplots(2, len(tasks), squeeze=False, sharex=True), {}
    for column, task in enumerate(tasks):
        quality, minutes = axes[0][column], axes[1][column]
        quality.set(title=task, ylabel="loss" if ALL[task].measure == "loss" else "accuracy %")
        minutes.set(xlabel="dropout rate", ylabel="minutes to the best moment")
        for method in methods:
            own = sorted((row.rate, mean(row.values), mean(run["seconds"] for run in row.runs) / 60)
                         for row in rows if (row.task, row.method) == (task, method))
            color = color_of(methods.index(method))
            for place, one in enumerate((quality, minutes), 1) if own else ():
                if method == "none":
                    handles[method] = one.axhline(own[0][place], color=color, linewidth=1)
                else:
                    handles[method], = one.plot([point[0] for point in own], [point[place] for point in own],
                                                ".-", color=color)
        for one in (quality, minutes):
            tidy(one)
    save(figure, handles, len(methods), path)
    return True


# -- command line --------------------------------------------------------------------------------------------
def a_task(text):
    if text not in ALL:
        raise ValueError(f"expected one of {', '.join(ALL)}, got {text}")
    return text


def make_cells(tasks, rates, methods, seeds, looks):
    """Return the cells of all tasks and rates; `none` has a cell of its own."""
    cells = []
    for task in tasks:
        training = {"stage": "training", "looks": looks or ALL[task].most, "patience": ALL[task].patience}
        if "none" in methods:
            cells.append(Cell(task, 0.0, ("none",), training, {}, seeds))
        dropping = tuple(method for method in methods if method != "none")
        cells += [Cell(task, rate, dropping, training, {}, seeds) for rate in rates if dropping]
    return cells


def is_there(task):
    """Return whether the data of a task are there; those that are not are named."""
    try:
        find_source(ALL[task].source, kind="text" if ALL[task].is_text else "list")
    except md.DataError as error:
        click.echo(f"{task} is left out: {error}", err=True)
        return False
    return True


@command(train, ("training",), {
    "--rates": "Dropout rates to choose from [default: 0.1,0.2,...,0.7].",
    "--methods": f"See drop_methods.py, and `none` [default: {','.join(METHODS)}].",
    "--seeds": "Trainings of each setting, seeds 1, 2, ... [default: 1].",
    "--iterations": "Of each training, at most [default: the recipe's].",
    "--out": f"Folder of the results [default: {FULL['out']}].",
    "--jobs": "Trainings at a time; they divide the cores: minutes compare only with the same number.",
    "--quick": "Small nets, a few hundred iterations, two rates."})
@click.option("--tasks", type=ListOf("TASK,...", a_task),
              help=f"Of {', '.join(ALL)} [default: those of the first four whose data are there].")
def main(tasks, stages, rates, methods, iterations, seeds, out, jobs, quick, only_report):
    """Compare ways to drop at their best rates: quality, and minutes of training to it."""
    asked = QUICK if quick else FULL
    out, rates = out or asked["out"], rates or asked["rates"]
    methods = split_methods(methods) if methods else asked["methods"]
    for method in methods:
        if method != "none":
            parse_method(method).check(rates)
    if not only_report:
        tasks = tasks or tuple(filter(is_there, asked["tasks"]))
        if not tasks:
            raise md.DataError("the data of no task are there; `minidrop data` fetches them")
    cells = [cell for task in tasks or asked["tasks"]
             for cell in make_cells([task], rates, methods, seeds or 1,
                                    iterations and max(1, iterations // ALL[task].every))]
    if not only_report:
        run(cells, out, jobs)
    store = Store(out / "results.jsonl")
    report(rows_of(cells, store), store, text_of, draw)


def run(cells, out, jobs):
    """Make all trainings that are missing, task after task."""
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "results.jsonl")
    for task in dict.fromkeys(cell.net for cell in cells):
        parts = ALL[task].make_parts(out / "records")
        extra = {"parts": parts and str(parts), "unfinished": str(out / "unfinished")}
        train_cells(__file__, [cell for cell in cells if cell.net == task], store, jobs, out, extra)


if __name__ == "__main__":
    main()
