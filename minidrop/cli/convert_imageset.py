"""minidrop convert_imageset: a database of the images that a list names."""

from __future__ import annotations

import click

from minidrop.cli.caffe_tools import Tool, backend_option, processed, seed_option
from minidrop.cli.console import echo
from minidrop.cli.options import Count
from minidrop.data.convert import image_datums, store
from minidrop.data.database_writer import check_new_database
from minidrop.data.image_list import ImageList, ImageRecords
from minidrop.data.images import ENCODINGS


@click.command(cls=Tool, name="convert_imageset")
@click.argument("root", metavar="ROOTFOLDER/")
@click.argument("listfile")
@click.argument("database", metavar="DB_NAME")
@click.option("--gray", is_flag=True, help="Store one channel of gray.")
@click.option("--shuffle", is_flag=True, help="Shuffle the images.")
@backend_option("lmdb")
@click.option("--resize-width", type=Count(0), default=0, help="Width that images are scaled to.")
@click.option("--resize-height", type=Count(0), default=0, help="Height that images are scaled to.")
@click.option("--check-size", is_flag=True, help="Fail if images have different sizes.")
@click.option("--encoded", is_flag=True, help="Store images in a format such as JPEG, not as pixels.")
@click.option("--encode-type", default=None, metavar="|".join(ENCODINGS),
              help="That format; without it, what the ending of each file's name says.")
@seed_option
def convert_imageset(root: str, listfile: str, database: str, gray: bool, shuffle: bool, backend: str,
                     resize_width: int, resize_height: int, check_size: bool, encoded: bool,
                     encode_type: str | None, seed: int) -> None:
    """Make a database for Data layers of the images that LISTFILE names, one `PATH LABEL` a line.

    ROOTFOLDER/ is put before each path as it is. Images that cannot be read are left out, with a line for
    each.
    """
    if bool(resize_width) != bool(resize_height):
        raise click.UsageError("--resize_width and --resize_height go together: give both or neither")
    if encode_type is not None and encode_type.lower().lstrip(".") not in ENCODINGS:
        raise click.UsageError(f"--encode_type: expected one of {', '.join(ENCODINGS)}, got {encode_type!r}")
    check_new_database(database)
    images = ImageRecords(ImageList(listfile), root, not gray,
                          (resize_height, resize_width) if resize_height else None)
    echo(f"A total of {len(images)} images.")
    left_out = 0

    def skipped(text: str) -> None:
        nonlocal left_out
        left_out += 1
        echo(f"warning: {text} (left out)", err=True)

    encoding = (encode_type or "") if encoded or encode_type else None
    count = store(database, backend.upper(),
                  image_datums(images, skipped, encoding, check_size, shuffle, seed), processed)
    echo(f"{database}: {count} records; {left_out} images left out")
