"""minidrop compare: one net trained with several kinds of dropout, its accuracy and its time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from minidrop.apps.comparison import Comparison
from minidrop.cli.console import STREAMS, echo
from minidrop.cli.leaving import leave
from minidrop.cli.options import (
    Command,
    Count,
    chosen_device,
    device_options,
    ignore_unknown_option,
    python_option,
    set_option,
    state_options,
)
from minidrop.cli.progress import wants_bar
from minidrop.cli.values import number, print_json
from minidrop.config import load_solver
from minidrop.errors import visible_name
from minidrop.solver import Solver
from minidrop.solver.signals import StopSignals

_MOST_SEEDS = 1000
_QUIET = ("test_interval=0", "display=0", "snapshot=0")


def _kinds(_context, _option, value):
    kinds = [kind.strip() for kind in value.split(",")]
    if not all(kinds) or len(set(kinds)) != len(kinds):
        raise click.BadParameter(f"expected different kinds with commas, as in conventional,approx, got "
                                 f"{value!r}")
    return kinds


@click.command(cls=Command)
@click.argument("solver_file", metavar="SOLVER")
@click.option("--dropout", "kinds", default="conventional,approx", show_default=True, callback=_kinds,
              metavar="A,B,...", help="Kinds to compare: none, conventional, approx, approx:FAMILY.")
@click.option("--seeds", type=Count(most=_MOST_SEEDS), default=1, show_default=True,
              help="Train with this many seeds, from the solver's random_seed on.")
@click.option("--iterations", type=Count(),
              help="Iterations to train.  [default: the solver's max_iter]")
@click.option("--block", type=Count(), default=25, show_default=True,
              help="Iterations of one kind before the next has its turn.")
@click.option("--metric", metavar="OUTPUT", help="Only this output of the test net.  [default: all numbers]")
@click.option("--out", metavar="DIR",
              help="Keep what is done in this folder: the same command goes on there.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar.  [default: on a terminal]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@python_option
@set_option
@state_options
@ignore_unknown_option
@device_options
def compare(solver_file: str, kinds: list[str], seeds: int, iterations: int | None, block: int,
            metric: str | None, out: str | None, progress: bool | None, as_json: bool, overrides: tuple,
            level: int, stages: list, ignore_unknown: bool, device: str, gpu: str | None, dtype: str,
            precision: str) -> None:
    """Train with several kinds of dropout, and compare accuracy and time.

    All start from the same weights and see the same batches. They take turns, a block of iterations each, so
    that whatever else the machine does disturbs all alike; tests are not timed. Speed-ups are over
    conventional dropout, or the first kind where that is not among them.
    """
    device = chosen_device(device, gpu)
    changes = [*overrides, *_QUIET, *([f"max_iter={iterations}"] if iterations else [])]

    def make(kind: str, seed: int | None) -> Solver:
        own = changes if seed is None else [*changes, f"random_seed={seed}"]
        return Solver(load_solver(solver_file, ignore_unknown), own, kind, device, dtype, level, stages,
                      precision=precision)

    comparison = Comparison(make, kinds, seeds, block, out)
    if metric is not None:
        comparison.check_metric(metric)
    total = comparison.iterations * len(kinds) * seeds
    with StopSignals(sighup_effect="none", at_once=leave) as signals, ExitStack() as stack:
        report: Any = lambda steps: None    # noqa: E731
        if wants_bar(progress):
            from tqdm import tqdm
            report = stack.enter_context(tqdm(total=total, unit="iter", file=STREAMS[True],
                                              dynamic_ncols=True, leave=False)).update
        finished = comparison.run(report, lambda: signals.stop_requested)
    if not finished:
        kept = f"the same command goes on in {visible_name(out)}" if out else "without --out nothing is kept"
        echo(f"stopped by {signals.stop_requested}; {kept}", err=True)
        raise click.exceptions.Exit(signals.exit_code)
    result = {"solver": solver_file, **comparison.result(metric)}
    if as_json:
        print_json(result)
    else:
        echo(table(result))


def table(result: dict[str, Any]) -> str:
    """Return a comparison as lines of text."""
    methods = result["methods"]
    names = list(methods[0]["values"])
    heads = ["dropout", "a step", "speed-up", *(f"test {name}" for name in names)]
    rows = [heads]
    for method in methods:
        own = method["families"] if ":" not in method["dropout"] else []
        rows.append([method["dropout"] + (f" ({', '.join(own)})" if own else ""),
                     f"{1000 * method['seconds_per_step']:.2f} ms", f"{method['speed_up']:.2f}x",
                     *(_value(method["values"][name]) for name in names)])
    rows = [[visible_name(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = ["  ".join(cell.rjust(width) if i else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    seeds = result["seeds"]
    spread = f", mean and standard deviation of {seeds} seeds" if seeds > 1 else ""
    return "\n".join([f"{visible_name(result['solver'])}: {result['iterations']} iterations{spread}, on "
                      f"{result['device']}", "", lines[0], "-" * len(lines[0]), *lines[1:]])


def _value(value):
    return number(value["mean"]) + ("" if value["deviation"] is None else f" +- {value['deviation']:.2g}")
