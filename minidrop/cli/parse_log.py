"""minidrop parse_log: makes tables of the log of a training, minidrop's or Caffe's, and plots them."""

from pathlib import Path
from typing import Any

import click

from minidrop.apps.curves import chosen, curves_of_log
from minidrop.apps.logs import as_csv, csv_paths, read_log
from minidrop.cli.console import echo, write
from minidrop.cli.curve_plots import draw_curves
from minidrop.cli.options import Command
from minidrop.cli.plots import check_picture
from minidrop.errors import ConfigError, visible_name


@click.command("parse_log", cls=Command)
@click.argument("log")
@click.argument("out_dir")
@click.option("--verbose", is_flag=True, help="Name the files that are written.")
@click.option("--delimiter", default=",", show_default=True, help="What stands between columns.")
@click.option("--plot", metavar="FILE.png|svg|pdf", help="Draw the columns over the iterations as well.")
def parse_log(log: Any, out_dir: Any, verbose: bool, delimiter: str, plot: str | None) -> None:
    """Write the tables OUT_DIR/LOG.train and OUT_DIR/LOG.test of a training's log.

    LOG is train.log of a run folder, or what Caffe printed. The tables are CSV with the columns of Caffe's
    tool of this name: NumIters, Seconds, LearningRate, then the net's outputs.
    """
    if len(delimiter) != 1 or delimiter in "\"\r\n":
        raise click.UsageError(f"--delimiter {delimiter!r}: expected one character, no quote and no line end")
    if not Path(out_dir).is_dir():
        raise ConfigError(f"{out_dir}: there is no such folder; make it first")
    if plot:
        check_picture(plot, "--plot")
    parsed = read_log(log)
    for path, rows in zip(csv_paths(log, out_dir), parsed, strict=True):
        if not rows:
            if verbose:
                echo(f"no rows for {visible_name(str(path))}")
            continue
        write(path, as_csv(rows, delimiter))
        if verbose:
            echo(f"wrote {visible_name(str(path))}: {len(rows)} rows")
    if plot:
        curves = curves_of_log(parsed, Path(log).name)
        draw_curves(plot, [curves], chosen([curves]), curves.name, option="--plot")
        if verbose:
            echo(f"wrote {visible_name(plot)}")
