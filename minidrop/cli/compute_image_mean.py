"""minidrop compute_image_mean: the mean of the images in a database."""

from __future__ import annotations

import click

from minidrop.cli.caffe_tools import Tool, backend_option, processed
from minidrop.cli.console import echo
from minidrop.data.databases import open_database
from minidrop.data.datum_records import DatumRecords
from minidrop.data.mean_file import mean_of, write_mean
from minidrop.data.sources import find_database

LINE_EVERY = 10000


@click.command(cls=Tool, name="compute_image_mean")
@click.argument("database", metavar="INPUT_DB")
@click.argument("output", metavar="[OUTPUT_FILE]", required=False)
@backend_option("lmdb")
def compute_image_mean(database: str, output: str | None, backend: str) -> None:
    """Print the mean of each channel of the images in a database, and write the mean image.

    OUTPUT_FILE is what transform_param's mean_file names: .binaryproto, or .npy.
    """
    records = DatumRecords(open_database(find_database(database), backend.upper()))
    shown = 0

    def report(count: int) -> None:
        nonlocal shown
        while shown + LINE_EVERY <= count:
            shown += LINE_EVERY
            processed(shown)

    try:
        mean = mean_of(records, report=report)
        if len(records) % LINE_EVERY:
            processed(len(records))
    finally:
        records.close()
    if output is not None:
        write_mean(output, mean)
        echo(f"Write to {output}")
    echo(f"Number of channels: {len(mean)}")
    for channel, value in enumerate(mean.mean(axis=(1, 2)).tolist()):
        echo(f"mean_value channel [{channel}]: {value:g}")
