"""minidrop report: what runs did, as one HTML page."""

from __future__ import annotations

import os
import time

import click

from minidrop import __version__
from minidrop.apps.curves import named_apart
from minidrop.apps.report_page import page
from minidrop.apps.run_report import read_run
from minidrop.cli.console import echo, write
from minidrop.cli.options import Command
from minidrop.errors import ConfigError, visible_name


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", default="report.html", show_default=True, metavar="FILE.html", help="The page.")
@click.option("--title", metavar="TEXT", help="The title of the page.  [default: the names of the runs]")
@click.option("--log", "log_scale", is_flag=True, help="A logarithmic scale of values.")
@click.option("--confusion", is_flag=True,
              help="Run the test net of each run with its newest snapshot, and show which classes it takes "
              "for which. Needs an Accuracy layer.")
def report(paths: tuple[str, ...], out: str, title: str | None, log_scale: bool, confusion: bool) -> None:
    """Write one HTML page of trainings: curves, values, times, environment, net, and what drops kept.

    RUN is the folder of a run (`minidrop train --out`); of its metrics.jsonl, or of a log of minidrop or
    Caffe, only the curves are known. The page needs no network and holds no script; the data of a run are
    looked up where its solver file stood, to show its net. A training may still be running.
    """
    if os.path.splitext(out)[1].lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: expected a name that ends with .html")
    runs = [read_run(path, confusion) for path in paths]
    named_apart([run.curves for run in runs], paths)
    for run in runs:
        for note in run.notes:
            echo(f"warning: {run.curves.name}: {note}", err=True)
    made = time.strftime(f"minidrop {__version__}, %Y-%m-%d %H:%M UTC", time.gmtime())
    write(out, page(runs, title or ", ".join(run.curves.name for run in runs), log_scale, made))
    echo(f"wrote {visible_name(out)}")
