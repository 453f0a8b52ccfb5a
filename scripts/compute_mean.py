#!/usr/bin/env python
"""Compute the mean image of HDF5 records, for `mean_file` of a transform_param.

python scripts/compute_mean.py SOURCE OUT reads the files that the list SOURCE names, once, and writes OUT: a
.npy file if it ends so, else Caffe's .binaryproto. It prints the mean of each channel, which `mean_value`
takes.
"""

import sys

import click

from minidrop.data import HDF5Records, find_source
from minidrop.data.mean_file import mean_of, write_mean
from minidrop.errors import DataError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False))
@click.option("--name", default="data", show_default=True, help="The dataset in the HDF5 files.")
def main(source, out, name):
    """Write the mean over all records of SOURCE, the list of HDF5 files that a network file names, to OUT:
    a .npy file if it ends so, else a .binaryproto as Caffe's compute_image_mean writes.

    Exit status: 0 done, 1 it could not be done, 2 wrong usage.
    """
    try:
        records = HDF5Records(find_source(source), (name,))
        if len(records.shapes(name)) > 3:
            raise DataError(f"{source}: expected records of at most 3 axes (channels, height, width), got "
                            f"the shape {records.shapes(name)}; name another dataset with --name")
        mean = mean_of(records, name)
        try:
            write_mean(out, mean)
        except OSError as error:
            raise DataError(f"{out}: cannot be written: {error.strerror or error}; give another "
                            f"file, or make its folder") from None
    except (DataError, OSError) as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    click.echo(f"{out}: the mean of {len(records)} records of shape {mean.shape}")
    if mean.ndim == 3:
        for channel, value in enumerate(mean.mean(axis=(1, 2))):
            click.echo(f"channel {channel}: mean_value: {value:.6g}")


if __name__ == "__main__":
    main()
