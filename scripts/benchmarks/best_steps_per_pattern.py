#!/usr/bin/env python
"""Measure for how many steps of a sequence a pattern should hold, on this machine and for one net.

    python scripts/benchmarks/best_steps_per_pattern.py models/ptb_small/solver.prototxt
    python scripts/benchmarks/best_steps_per_pattern.py models/char_lstm/solver.prototxt --steps 5,10,25,50

Whole training steps of the net of a solver file with steps_per_pattern set to each number in all of its drops
of sequences, of states too, beside ordinary dropout; all in turn. The longer a pattern holds the fewer are
drawn, and the worse the net may learn: so the best is the shortest that is no more than --within slower than
the fastest. What is multiplied by a mask because skipping would not pay (`Backend.pays`) costs the same for
every number.
"""

import re
import sys

import click

import minidrop as md
from minidrop.apps.timing import measure_steps
from minidrop.config import load_solver

PLACES = {"ApproxDropout": "approx_dropout_param", "AttentionDecoder": "decoder_param.hidden_dropout"}
DEFAULT = (1, 2, 5, 10, 20)


def sequence_drops(net):
    """Return [(the Drop, its settings as --set names them)] of all drops of units of sequences."""
    found = []
    for drop in net.plan.drops:
        shape = net.graph.shapes[drop.node.tops[0]]
        if len(shape) == 3 and drop.fact.axis % 3 == 2 and drop.site.family.drops == "units":
            place = PLACES.get(drop.node.config.type, "recurrent_param.hidden_dropout")
            found.append((drop, f"layer.{drop.node.name}.{place}"))
    return found


def solver_of(path, overrides=(), dropout=None):
    """Return the Solver of a file that only trains."""
    config = load_solver(path)
    config.message.ClearField("snapshot_best")
    return md.Solver(config, [*overrides, "display=0", "snapshot=0", "snapshot_after_train=false",
                              "test_interval=0", "test_initialization=false"], dropout, device="cpu")


def solvers_of(path, steps):
    """Return {"Dropout": its Solver, number of steps: its Solver}. DataError without drops of sequences."""
    solvers = {"Dropout": solver_of(path, dropout="conventional")}
    found = solver_of(path)
    drops = sequence_drops(found.net)
    found.close()
    if not drops:
        raise md.DataError(f"{path}: drops no units of sequences (steps, streams, units); steps_per_pattern "
                           f"is a setting of ApproxDropout on them, and of hidden_dropout")
    for number in steps:
        solvers[number] = solver_of(path, [f"{place}.steps_per_pattern={number}" for _, place in drops])
    return solvers


def skips(net):
    """Return the names of the layers whose drops make a product smaller."""
    return [drop.node.name for drop, _ in sequence_drops(net) if drop.producer or drop.consumers]


def best_of(seconds, within):
    """Return the smallest number of steps whose time is at most 1 + `within` times the shortest time.

    seconds: {number of steps: seconds of a training step}.
    """
    most = min(seconds.values()) * (1 + within)
    return min(number for number, own in seconds.items() if own <= most)


def numbers_of(_context, _option, text):
    """Return the numbers of --steps."""
    parts = re.split(r"[,\s]+", text.strip(" ,"))
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise click.BadParameter(f"expected whole numbers from 1 on, got {text}")
    return tuple(dict.fromkeys(map(int, parts)))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("solver", metavar="SOLVER")
@click.option("--steps", metavar="K,...", callback=numbers_of, default=",".join(map(str, DEFAULT)),
              show_default=True, help="Numbers of steps to compare.")
@click.option("--iterations", type=click.IntRange(1), default=40, show_default=True,
              help="Training steps of each.")
@click.option("--within", type=click.FloatRange(0), default=0.05, show_default=True,
              help="How much slower than the fastest the best may be.")
def main(solver, steps, iterations, within):
    """Measure for how many steps a pattern should hold."""
    try:
        solvers = solvers_of(solver, steps)
        timings = measure_steps({number: one.step for number, one in solvers.items()}, iterations)
    except (md.MinidropError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    base = timings["Dropout"].median
    for number, timing in timings.items():
        named = "" if number == "Dropout" else ", ".join(skips(solvers[number].net)) or "nothing"
        click.echo(f"{number:>8}  {1e3 * timing.median:8.2f} ms/step  {base / timing.median:5.2f}x"
                   + f"  skips for {named}" * bool(named))
    for one in solvers.values():
        one.close()
    click.echo(f"best: steps_per_pattern: {best_of({k: timings[k].median for k in steps}, within)}")


if __name__ == "__main__":
    main()
