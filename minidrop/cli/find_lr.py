"""minidrop find_lr: sweeps the learning rate, and suggests one to begin with."""

from dataclasses import asdict
from typing import Any

import click
import numpy as np

from minidrop.cli.console import echo
from minidrop.cli.options import (
    Command,
    Count,
    chosen_device,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    refuse_idle,
    skip_option,
    weights_option,
)
from minidrop.cli.plots import check_picture, draw_learning_rates
from minidrop.cli.values import print_json
from minidrop.config import load_solver
from minidrop.errors import visible_name
from minidrop.optim.learning_rates import LEAST_ITERATIONS, find_learning_rate
from minidrop.solver import Solver

_ROWS = 12
_MOST_ITERATIONS = 10**6


@click.command("find_lr", cls=Command)
@click.option("--solver", required=True, metavar="FILE", help="The solver file.")
@click.option("--lowest", type=float, default=1e-6, show_default=True, help="The first learning rate.")
@click.option("--highest", type=float, default=1.0, show_default=True, help="The last one.")
@click.option("--iterations", type=Count(LEAST_ITERATIONS, _MOST_ITERATIONS), default=100, show_default=True,
              help="Number of rates to try; each is the same factor above the one before.")
@click.option("--plot", metavar="FILE.png|svg|pdf", help="Draw the losses over the rates as well.")
@click.option("--json", "as_json", is_flag=True, help="Print all numbers, as JSON.")
@net_options
@ignore_unknown_option
@device_options
@weights_option
@skip_option
@ema_option
def find_lr(solver: Any, lowest: float, highest: float, iterations: int, plot: str | None, as_json: bool,
            overrides: tuple, dropout: str | None, level: int, stages: list, ignore_unknown: bool,
            device: str, gpu: str | None, dtype: Any, precision: str, weights: Any,
            skip_mismatched: bool, ema: bool) -> None:
    """Find a learning rate: train with growing ones, and see where the loss falls fastest.

    Each iteration has a higher rate, until the loss diverges. The suggestion is the rate where the smoothed
    loss falls fastest; a base_lr somewhat below it is a place to begin. Nothing is written but the plot.
    """
    if not weights:
        refuse_idle(["ema"], "says how --weights is read; give both")
    if plot:
        check_picture(plot, "--plot")
    device = chosen_device(device, gpu)
    made = Solver(load_solver(solver, ignore_unknown), overrides, dropout, device, dtype, level, stages,
                  precision=precision, initial_weights=False)
    try:
        made.load_initial_weights(skip_mismatched)
        if weights:
            made.net.load_weights(weights, skip_mismatched, ema=ema)
        found = find_learning_rate(made, lowest, highest, iterations)
    finally:
        made.close()
    if plot:
        draw_learning_rates(plot, found, str(solver))
    if as_json:
        print_json(asdict(found))
        return
    echo(_table(found))
    if plot:
        echo(f"wrote {visible_name(plot)}")


def _table(found):
    lines = [f"{'learning rate':>14} {'loss':>10} {'smoothed':>10}"]
    shown = np.unique(np.linspace(0, len(found.rates) - 1, _ROWS).round().astype(int)).tolist()
    lines += [f"{found.rates[i]:>14.4g} {found.losses[i]:>10.5g} {found.smoothed[i]:>10.5g}" for i in shown]
    if found.diverged:
        lines.append(f"ended after {len(found.rates)} iterations: {found.diverged}")
    lines.append("no suggestion: the loss never falls; try higher rates, or more iterations"
                 if found.suggestion is None else
                 f"suggestion: base_lr: {found.suggestion:.3g} (where the smoothed loss falls fastest)")
    return "\n".join(lines)
