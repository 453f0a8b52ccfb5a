"""minidrop draw_net: draws a network file, with graphviz where it is installed."""

from typing import Any

import click

from minidrop.apps.draw_file import picture_writer
from minidrop.apps.drawing import PHASES, drawing_of
from minidrop.apps.pictures import DIRECTIONS
from minidrop.cli.console import echo
from minidrop.cli.options import Command, ignore_unknown_option, net_options, stated
from minidrop.config import load_net
from minidrop.errors import visible_name
from minidrop.net.conversion import prepare_nets


@click.command("draw_net", cls=Command)
@click.argument("net")
@click.argument("out")
@click.option("--rankdir", type=click.Choice(DIRECTIONS, case_sensitive=False), default="LR",
              show_default=True, help="Where arrows point: LR from left to right, TB from top to bottom.")
@click.option("--phase", type=click.Choice(list(PHASES), case_sensitive=False), default="ALL",
              show_default=True, help="The layers of one phase, or of both.")
@click.option("--display-lrm", is_flag=True, help="Show the multipliers of learning rates as well.")
@net_options
@ignore_unknown_option
def draw_net(net: Any, out: Any, rankdir: str, phase: str, display_lrm: bool, overrides: tuple,
             dropout: str | None, level: int, stages: list, ignore_unknown: bool) -> None:
    """Draw the network file NET to OUT, a name that ends with .dot, .svg, .png or .pdf.

    It shows each layer with its window and its output, and what drops keep and save. Without its data a net
    is drawn too, but for shapes and savings. An .svg is drawn by graphviz where
    its `dot` is installed, otherwise by minidrop; .png and .pdf need `dot`.
    """
    write = picture_writer(out, rankdir)
    config = load_net(net, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    drawing, reason = drawing_of(config, phase, *stated(config, level, stages), display_lrm)
    if reason:
        echo(f"warning: shapes or savings are missing: {reason.partition(' (known types')[0]}", err=True)
    write(drawing)
    echo(f"{visible_name(out)}: {sum(len(card.rows) for card in drawing.cards)} layers")
