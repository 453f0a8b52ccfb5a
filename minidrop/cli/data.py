"""minidrop data: fetches a data set, or lists those there are."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from minidrop.cli.console import echo, informed
from minidrop.cli.options import Command
from minidrop.cli.values import print_json
from minidrop.data.data_sets import TITLES
from minidrop.data.prepare import is_there, prepare
from minidrop.data.sources import DATA_SETS, cache_dir
from minidrop.errors import visible_name


@click.command("data", cls=Command, epilog=(
    "Raw files are looked for in --from, then in $MINIDROP_DATA/NAME (which is only read), and are else "
    "downloaded; a broken download goes on where it stopped. What is made goes to $MINIDROP_CACHE/NAME, "
    "default ~/.cache/minidrop/NAME, where every network file finds it."))
@click.argument("name", metavar="list|NAME", default="list", type=click.Choice(("list", *DATA_SETS)))
@click.option("--folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
              help="Make DIR/NAME instead: a network file finds it if DIR is the working folder or its own.")
@click.option("--from", "source", metavar="DIR",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Take the raw files from this folder; nothing is downloaded.")
@click.option("--mirror", "mirrors", metavar="URL", multiple=True,
              help="Download from this address instead of the known ones. Repeatable.")
@click.option("--force", is_flag=True, help="Make the files again where they are there.")
@click.option("--json", "as_json", is_flag=True, help="With list: print JSON.")
def data(name: str, folder: Path | None, source: Path | None, mirrors: tuple[str, ...], force: bool,
         as_json: bool) -> None:
    """Fetch the data set NAME, or list those there are.

    Images (digits, mnist, fashion-mnist, cifar10) become HDF5 files for an HDF5Data layer; texts (ptb,
    tinyshakespeare) stay texts, for a TextData layer. digits comes with scikit-learn and needs no network.
    The texts may be compressed with xz or gzip in --from and $MINIDROP_DATA. ptb is made of a text of the
    Linguistic Data Consortium and is for research only.

    Raw files of cifar10 are cifar-10-binary.tar.gz; or data_batch_1.bin ... test_batch.bin, be it in
    cifar-10-batches-bin; or jpeg-train-0.npz, jpeg-train-1.npz and jpeg-test.npz, JPEG copies, whose pixels
    are not the set's own. The Python version of the set is a pickle, which is never read.
    """
    if name == "list":
        if source or mirrors or force:
            raise click.UsageError("--from, --mirror and --force are for fetching: name a data set")
        _list(folder, as_json)
        return
    if as_json:
        raise click.UsageError("--json is for `minidrop data list`")
    if name == "digits" and (source or mirrors):
        raise click.UsageError(f"{name} comes with scikit-learn: leave out --from and --mirror")
    with informed():
        prepare(name, source, mirrors, force, folder)


def _list(folder, as_json):
    """Print every data set, how large it is to download, and whether it is there."""
    place = folder or cache_dir()
    found = [{"name": name, "what": what, "download_mb": size, "folder": str(place / name),
              "is_there": is_there(name, place)} for name, (what, size) in TITLES.items()]
    if as_json:
        print_json(found)
        return
    width = max(map(len, TITLES))
    longest = max(len(one["what"]) for one in found)
    for one in found:
        size = f"{one['download_mb']} MB" if one["download_mb"] else ""
        state = "in " + visible_name(one["folder"]) if one["is_there"] else "not here yet"
        echo(f"{one['name']:<{width}}  {one['what']:<{longest}}  {size:>6}  {state}")
    missing = next((one["name"] for one in found if not one["is_there"]), None)
    if missing:
        at = f" --folder {shlex.quote(str(folder))}" if folder else ""
        echo(f"fetch one with: minidrop data {missing}{at}")
