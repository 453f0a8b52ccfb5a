"""minidrop init: lists the models that come with minidrop, or copies one."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from pathlib import Path

import click

from minidrop.apps.models import copy_model, find_model, known_models
from minidrop.cli.console import echo
from minidrop.cli.options import Command
from minidrop.cli.values import print_json
from minidrop.errors import visible_name


@click.command(cls=Command)
@click.argument("name", metavar="[MODEL]", required=False)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files of the model that are in DIR already.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def init(name: str | None, folder: Path | None, force: bool, as_json: bool) -> None:
    """Copy the files of MODEL to DIR, by default ./MODEL; without MODEL list those there are.

    A model is a network file, solver files and a README with what it reaches; they are yours to change.
    """
    if name is None:
        if force:
            raise click.UsageError("--force is for copying: name a model")
        _list(known_models(), as_json)
        return
    model = find_model(name)
    folder = folder or Path(model.name)
    paths = copy_model(model, folder, force)
    if as_json:
        print_json({"model": model.name, "files": [str(path) for path in paths],
                    "data_sets": model.data_sets})
        return
    for path in paths:
        echo(f"wrote {visible_name(str(path))}")
    echo("next:")
    for data_set in model.data_sets:
        echo(f"  minidrop data {data_set}")
    if model.solvers:
        echo(f"  minidrop train --solver {shlex.quote(str(folder / model.solvers[0]))}")


def _list(models, as_json):
    if as_json:
        print_json([{"name": model.name, "title": model.title, "data_sets": model.data_sets,
                     "files": [file.name for file in model.files]} for model in models])
        return
    width, columns = max(len(model.name) for model in models), shutil.get_terminal_size((110, 24)).columns
    room = max(columns, 60) - width - 2
    for model in models:
        echo(f"{model.name:<{width}}  {textwrap.shorten(model.title, room, placeholder=' ...')}")
    echo("copy one with: minidrop init MODEL")
