"""minidrop extract_features: blobs of a trained net as records of databases."""

from typing import Any

import click

from minidrop.apps.features import KINDS, check_features, extract_features
from minidrop.cli.console import echo
from minidrop.cli.options import Command, Count, ema_option, ignore_unknown_option, python_option, skip_option
from minidrop.config import load_net
from minidrop.errors import visible_name
from minidrop.net import Net


def _device(mode, device_id):
    """Return the device that Caffe's last two arguments choose; raises UsageError."""
    if mode.upper() not in ("CPU", "GPU"):
        raise click.UsageError(f"expected CPU or GPU behind the type of the database, got {mode!r}")
    number = device_id.upper().removeprefix("DEVICE_ID=")
    if not number.isdecimal() or len(number) > 3:
        raise click.UsageError(f"expected the number of a GPU, as in DEVICE_ID=0, got {device_id!r}")
    return "cpu" if mode.upper() == "CPU" else f"cuda:{int(number)}"


@click.command("extract_features", cls=Command)
@click.argument("weights")
@click.argument("model")
@click.argument("blobs")
@click.argument("databases")
@click.argument("batches", type=Count())
@click.argument("db_type", type=click.Choice(KINDS, case_sensitive=False))
@click.argument("mode", default="CPU", metavar="[CPU|GPU]")
@click.argument("device_id", default="DEVICE_ID=0", metavar="[DEVICE_ID=0]")
@skip_option
@ema_option
@python_option
@ignore_unknown_option
def extract_features_command(weights: Any, model: Any, blobs: str, databases: str, batches: int, db_type: str,
                             mode: str, device_id: str, skip_mismatched: bool, ema: bool,
                             ignore_unknown: bool) -> None:
    """Write BLOBS, as fc7,prob, of the network file MODEL with WEIGHTS to new DATABASES, one for each.

    The net reads BATCHES batches of its own data, in phase TEST. A record is a Datum with float_data.
    """
    names, paths = blobs.split(","), databases.split(",")
    net = Net(load_net(model, ignore_unknown), "TEST", _device(mode, device_id))
    try:
        check_features(net, names, paths)       # before weights are read, which takes long
        echo(net.load_weights(weights, skip_mismatched, ema=ema).summary)
        counts = extract_features(net, names, paths, batches, db_type.lower())
    finally:
        net.close()
    for name, path, count in zip(names, paths, counts, strict=True):
        echo(f"{visible_name(str(path))}: {count} records of {visible_name(name)}")
