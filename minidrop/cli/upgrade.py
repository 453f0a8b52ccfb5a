"""minidrop upgrade: rewrites network and solver files of Caffe's earlier years in today's form."""

import click

from minidrop.cli.console import echo
from minidrop.cli.options import Command, ignore_unknown_option
from minidrop.config.upgrade_file import upgrade_file


@click.command(cls=Command)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@ignore_unknown_option
def upgrade(source: str, target: str, ignore_unknown: bool) -> None:
    """Rewrite an old network or solver file in today's form.

    IN may be text or binary (a .caffemodel as well), and OUT is in the same format; comments are lost. V0 and
    V1 layers become today's, the number of a solver type its name. IN stays as it is. Fields of forks stay in
    a binary; from a text --ignore-unknown drops them. Caffe's names upgrade_net_proto_text,
    upgrade_net_proto_binary and upgrade_solver_proto_text do the same.
    """
    changes = upgrade_file(source, target, ignore_unknown)
    for line in changes:
        echo(line)
    echo(f"wrote {target}" + ("" if changes else f": {source} is in today's form already"))
