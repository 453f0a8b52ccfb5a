"""minidrop summary: what a net consists of, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from minidrop.apps.summary import summarise
from minidrop.cli.console import echo
from minidrop.cli.net_table import drop_lines, layer_table, memory_lines
from minidrop.cli.options import (
    Command,
    dtype_option,
    ignore_unknown_option,
    net_options,
    numbers,
    stated,
)
from minidrop.cli.values import print_json
from minidrop.config import load_net
from minidrop.errors import visible_name
from minidrop.net import Net
from minidrop.net.conversion import prepare_nets
from minidrop.net.deploy import deployment


@click.command(cls=Command)
@click.argument("model", metavar="NET")
@click.option("--phase", type=click.Choice(["TRAIN", "TEST"], case_sensitive=False),
              help="The phase whose net is shown.  [default: TRAIN]")
@click.option("--shape", callback=numbers(), metavar="3,227,227",
              help="Show the net as `minidrop predict` runs it, for records of this shape; no data is looked "
              "for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: operations and bytes of a batch.")
@net_options
@dtype_option
@ignore_unknown_option
def summary(model: str, phase: str | None, shape: Any, as_json: bool, overrides: tuple, dropout: str | None,
            level: int, stages: Any, dtype: Any, ignore_unknown: bool) -> None:
    """Show the layers of a net: shapes, parameters, operations, memory, and what drops save.

    Nothing is run, and no weights are made. `minidrop check` looks for mistakes, also in solver files, and
    says how the drops are planned.
    """
    config = load_net(model, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    level, stages = stated(config, level, stages)
    if shape:
        if phase == "TRAIN":
            raise click.UsageError("--shape shows a net in phase TEST; leave out --phase TRAIN")
        phase, used = "TEST", deployment(config, (), level, stages)
        config = used.with_shapes({name: (used.batch_size, *shape) for name in used.inputs})
    net = Net(config, phase or "TRAIN", "cpu", dtype, 0, level, stages, fills=False)
    try:
        found = summarise(net)
    finally:
        net.close()
    if as_json:
        print_json({"net": model, **found.as_dict()})
        return
    echo(f"{visible_name(model)}: phase {found.phase}, {dtype}, batches of {found.batch}")
    echo("\n".join([*layer_table(found, with_memory=True), *memory_lines(found.memory),
                    *drop_lines(found.drops)]))
