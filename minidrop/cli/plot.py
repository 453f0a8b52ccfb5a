"""minidrop plot: curves of trainings, in a file or in the terminal."""

from __future__ import annotations

import click

from minidrop.apps.curves import chosen, named_apart, read_curves
from minidrop.cli.console import echo
from minidrop.cli.curve_plots import check_panels, draw_curves, text_curves
from minidrop.cli.options import Command
from minidrop.cli.plots import check_picture
from minidrop.errors import visible_name


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", metavar="FILE.png|svg|pdf", help="Draw a picture.")
@click.option("--terminal", is_flag=True, help="Draw in the terminal.  [default: without --out]")
@click.option("--metric", "metrics", multiple=True, metavar="NAME",
              help="Only this quantity: loss, lr, an output of the net. Repeatable.  [default: all]")
@click.option("--log", "log_scale", is_flag=True, help="A logarithmic scale of values.")
@click.option("--title", metavar="TEXT", help="The title of the picture.  [default: the names of the runs]")
def plot(paths: tuple[str, ...], out: str | None, terminal: bool, metrics: tuple[str, ...], log_scale: bool,
         title: str | None) -> None:
    """Draw the curves of trainings over the iterations: losses, tests, the learning rate.

    RUN is the folder of a run (`minidrop train --out`), its metrics.jsonl, or a log of minidrop or Caffe.
    Several runs are drawn into the same panels. A training may still be running.
    """
    if out:
        check_picture(out, "--out")
    runs = [read_curves(path) for path in paths]
    named_apart(runs, paths)
    names = chosen(runs, metrics)
    check_panels(names)
    if out:
        draw_curves(out, runs, names, title or ", ".join(run.name for run in runs), log_scale)
    if terminal or not out:
        for i, name in enumerate(names):
            echo(("\n" if i else "") + text_curves(runs, name, log_scale))
    if out:
        echo(f"wrote {visible_name(out)}")
