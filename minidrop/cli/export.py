"""minidrop export: a trained net as a file for other programs."""

from __future__ import annotations

from typing import Any

import click

from minidrop.apps.onnx import OLDEST_OPSET, OPSET, export_onnx
from minidrop.cli.console import echo
from minidrop.cli.options import (
    Command,
    ema_option,
    ignore_unknown_option,
    net_options,
    numbers,
    refuse_idle,
    skip_option,
    trained_net,
    weights_option,
)
from minidrop.config.check import is_character
from minidrop.errors import visible_name


def _shapes(context, option, values):
    """Return {input: shape} of texts such as data=50,64, or of one text 1,28,28 the shape of a record."""
    found = {}
    for value in values:
        name, equals, shape = value.rpartition("=")
        if not shape or equals and not name or not equals and len(values) > 1:
            raise click.BadParameter(f"expected the shape of a record, as in {option.metavar}, or inputs and "
                                     f"their whole shapes, as in data=50,64, got {value!r}")
        found[name] = numbers()(context, option, shape)
    return found.get("", found)


def _length(length):
    return "?" if length is None else str(length)


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE", help="The network file: a train_val or a deploy one.")
@weights_option
@skip_option
@ema_option
@click.option("--onnx", "out", required=True, metavar="FILE.onnx", help="Where the net goes.")
@click.option("--batch", default="N", show_default=True, metavar="NAME",
              help="The name of the batch axis in the file; its size is left open.")
@click.option("--fixed-batch", is_flag=True, help="Batches have the size that the network file gives them.")
@click.option("--shape", "shapes", multiple=True, callback=_shapes, metavar="1,28,28",
              help="The shape of a record, where its data is not there to tell; or INPUT=50,64, the whole "
                   "shape of an input, as of sequences (steps, records). Repeatable.")
@click.option("--output", "outputs", multiple=True, metavar="BLOB",
              help="Give this blob. Repeatable.  [default: what losses judge, by probabilities]")
@click.option("--opset", type=int, default=OPSET, show_default=True, metavar="N",
              help=f"The version of ONNX's operators, {OLDEST_OPSET} or later.")
@net_options
@ignore_unknown_option
def export(model: str, weights: Any, skip_mismatched: bool, ema: bool, out: str, batch: str,
           fixed_batch: bool, shapes: Any, outputs: tuple[str, ...], opset: int, overrides: tuple,
           dropout: str | None, level: int, stages: list, ignore_unknown: bool) -> None:
    """Write a trained net as an ONNX file, which other programs run.

    The net is that of phase TEST without what reads labels; its inputs are what the data layer gives behind
    its transform_param (scale, mean, crop). A layer without an equivalent is an error that names all of them.
    """
    if fixed_batch:
        refuse_idle(["batch"], "with --fixed-batch that axis has a length and no name; keep one")
    config, options = trained_net(model, weights, overrides, dropout, level, stages, ignore_unknown, "cpu",
                                  None, "float32", None)
    if not all(map(is_character, batch)):
        raise click.UsageError(f"--batch {batch}: expected a name of text")
    done = export_onnx(config, out, list(weights), opset, None if fixed_batch else batch, shapes, outputs,
                       options["level"], options["stages"], skip_mismatched, ema)
    for what, blobs in (("input", done.inputs), ("output", done.outputs)):
        for name, shape in blobs.items():
            echo(f"{what} {visible_name(name)}: {' x '.join(_length(n) for n in shape) or 'one number'}")
    for name, settings in done.transforms.items():
        echo(f"input {visible_name(name)} is what comes out of transform_param {{ {settings} }}")
    for name in done.unread:
        echo(f"no input {visible_name(name)}: recurrent layers begin at the first step of each call")
    echo(f"{visible_name(out)}: {done.bytes / 1e6:.1f} MB, opset {opset}")
