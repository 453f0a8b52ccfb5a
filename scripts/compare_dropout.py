#!/usr/bin/env python
"""Train one net with ordinary and with approximate dropout in one run, and compare time and accuracy.

Both kinds of dropout are put into the same solver file, start from the same weights and see the same batches.
They take turns, a block of iterations each, so that whatever else the machine does disturbs both alike. Tests
are not timed.
"""

import json
import sys
import time
from statistics import mean, median

import click
from tqdm import tqdm

import minidrop as md

WARM_UP = 3      # iterations of throw-away nets: they load or compile what is compiled, and touch the memory
                 # first


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Exit status: 0 done, 1 "
               "error, 2 wrong usage.")
@click.option("--solver", "solver_file", default="models/digits_mlp/solver.prototxt", show_default=True,
              help="Solver file; its net may have layers of type Dropout or ApproxDropout.")
@click.option("--iterations", type=click.IntRange(1), help="Iterations to train [default: the solver's "
              "max_iter].")
@click.option("--families", metavar="A,B", help="Pattern families to compare, as PERIODIC,ROW [default: the "
              "net's own].")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Repeat with this many "
              "seeds.")
@click.option("--block", type=click.IntRange(1), default=25, show_default=True, help="Iterations a turn.")
@click.option("--metric", default="accuracy", show_default=True, help="Output of the test net to report.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(solver_file, iterations, families, seeds, block, metric, device, as_json):
    """Train with ordinary and with approximate dropout in one run; print seconds, accuracy and speed-up."""
    kinds = ["conventional"] + ([f"approx:{name.strip()}" for name in families.split(",")] if families
                                else ["approx"])
    try:
        result = compare(solver_file, kinds, iterations, seeds, block, metric, device)
    except md.MinidropError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(json.dumps(result) if as_json else table(result))


def compare(solver_file, kinds, iterations=None, seeds=1, block=25, metric="accuracy", device="auto"):
    """Return {"methods": [...], and what was run}; the first of `kinds` is what the others are compared
    with."""
    overrides = {"test_interval": 0, "display": 0, "snapshot": 0} | ({"max_iter": iterations} if iterations
                                                                     else {})

    def build(kind, seed=None):
        seeded = overrides if seed is None else overrides | {"random_seed": seed}
        return md.Solver.from_file(solver_file, seeded, dropout=kind, device=device)

    first = build(kinds[0])
    iterations, first_seed = first.settings.max_iter, max(0, first.settings.random_seed)
    check_metric(first, metric, solver_file)
    first.close()
    for kind in kinds:
        solver = build(kind)
        solver.step(WARM_UP)
        solver.close()
    methods = [{"dropout": kind, "block_seconds": [], metric: []} for kind in kinds]
    with tqdm(total=iterations * len(kinds) * seeds, unit="it", disable=None, leave=False) as bar:
        for seed in range(first_seed, first_seed + seeds):
            solvers = [build(kind, seed) for kind in kinds]
            train_by_turns(solvers, methods, iterations, block, bar)
            for solver, method in zip(solvers, methods, strict=True):
                method["name"] = name_of(solver)
                method[metric].append(solver.test()[metric])
                solver.close()
    summarise(methods, metric, iterations * seeds)
    return {"solver": solver_file, "iterations": iterations, "seeds": seeds, "first_seed": first_seed,
            "block": block, "metric": metric, "device": solvers[0].net.backend.name, "methods": methods}


def train_by_turns(solvers, methods, iterations, block, bar):
    """Train all solvers, a block each in turn, and note the seconds of every block in its method."""
    turns = list(zip(solvers, methods, strict=True))
    for start in range(0, iterations, block):
        steps = min(block, iterations - start)
        for solver, method in turns:
            begin = time.perf_counter()
            solver.step(steps)
            method["block_seconds"].append(time.perf_counter() - begin)
            bar.update(steps)
        turns.reverse()          # who goes first alternates as well


def check_metric(solver, metric, solver_file):
    """Raise ConfigError where the solver has no test net, or that has no such output."""
    if not solver.test_nets:
        raise md.ConfigError(f"{solver_file}: has no test net, so there is no accuracy to compare; add "
                             f"test_iter and test_interval")
    outputs = solver.test_nets[0].outputs
    if metric not in outputs:
        raise md.ConfigError(f"{solver_file}: the test net has no output {metric!r} (outputs: "
                             f"{', '.join(outputs)}); choose one with --metric")


def name_of(solver):
    """Return what the table calls a solver's dropout."""
    families = dict.fromkeys(site.settings.family for site in solver.net.drop_sites.values())
    return f"approximate ({', '.join(families)})" if families else "conventional"


def summarise(methods, metric, iterations):
    """Add to each method its seconds, milliseconds an iteration, mean metric, and speed-up over the first
    method.

    `speed_up` is the ratio of the total seconds, `median_block_speed_up` the median over blocks that stood
    side by side.
    """
    base = methods[0]["block_seconds"]
    for method in methods:
        blocks = method["block_seconds"]
        method["seconds"] = sum(blocks)
        method["ms_per_iteration"] = 1000 * sum(blocks) / iterations
        method[f"mean_{metric}"] = mean(method[metric])
        method["speed_up"] = sum(base) / sum(blocks)
        method["median_block_speed_up"] = median(a / b for a, b in zip(base, blocks, strict=True))


def table(result):
    """Return the comparison as lines of text."""
    metric, seeds = result["metric"], result["seeds"]
    share = metric.startswith("accuracy")
    value = (lambda x: f"{100 * x:.2f} %") if share else (lambda x: f"{x:.4g}")
    heads = ("dropout", "training", "iteration", f"test {metric}", "speed-up")
    rows = [(method["name"], f"{method['seconds']:.1f} s", f"{method['ms_per_iteration']:.2f} ms",
             value(method[f"mean_{metric}"]), f"{method['speed_up']:.2f}x") for method in result["methods"]]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = ["  ".join(cell.rjust(width) if i else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in (heads, *rows)]
    runs = f"{result['iterations']} iterations" + (f", mean of {seeds} seeds" if seeds > 1 else "")
    return "\n".join([f"{result['solver']}: {runs}, on {result['device']}", "", lines[0], "-" * len(lines[0]),
                      *lines[1:]])


if __name__ == "__main__":
    main()
