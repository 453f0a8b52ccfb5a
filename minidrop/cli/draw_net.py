"""minidrop draw_net: draws a network file, with graphviz where it is installed."""

import os
import shutil
import subprocess
from typing import Any

import click

from minidrop.apps.drawing import PHASES, drawing_of
from minidrop.apps.pictures import DIRECTIONS, as_dot, as_svg
from minidrop.cli.console import echo, visible_name, write
from minidrop.cli.options import Command, ignore_unknown_option, net_options, stated
from minidrop.config import load_net
from minidrop.errors import ConfigError
from minidrop.net.conversion import prepare_nets

_SECONDS = 120
_FORMATS = (".dot", ".svg", ".png", ".pdf")


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
    ending = os.path.splitext(out)[1].lower()
    if ending not in _FORMATS:
        raise ConfigError(f"{out}: expected a name that ends with {', '.join(_FORMATS)}")
    program = shutil.which("dot")
    if ending not in (".dot", ".svg") and program is None:
        raise ConfigError(f"{out}: {ending} needs graphviz, whose program dot is not installed; draw an "
                          f".svg, or install it (apt install graphviz)")
    config = load_net(net, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    drawing, reason = drawing_of(config, phase, *stated(config, level, stages), display_lrm)
    if reason:
        echo(f"warning: shapes or savings are missing: {reason.partition(' (known types')[0]}", err=True)
    content: str | bytes
    if ending == ".dot":
        content = as_dot(drawing, rankdir)
    elif program is None:
        content = as_svg(drawing, rankdir)
    else:
        content = _by_graphviz(program, as_dot(drawing, rankdir), ending[1:], out)
    write(out, content)
    echo(f"{visible_name(out)}: {sum(len(card.rows) for card in drawing.cards)} layers")


def _by_graphviz(program, text, kind, out):
    """Return the picture that `dot` draws; raises ConfigError if it fails."""
    try:
        done = subprocess.run([program, f"-T{kind}"], input=text.encode(), capture_output=True,
                              timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{out}: {program} did not draw it within {_SECONDS} s; write a .dot and draw that "
                          f"yourself, or take a smaller net") from None
    except OSError as error:
        raise ConfigError(f"{out}: {program} cannot be run: {error.strerror or error}; reinstall graphviz, "
                          f"or write a .dot") from None
    if done.returncode or not done.stdout:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())[:200]
        raise ConfigError(f"{out}: {program} failed with exit code {done.returncode}: "
                          f"{words or 'no message'}; write a .dot and try it by hand")
    return done.stdout
