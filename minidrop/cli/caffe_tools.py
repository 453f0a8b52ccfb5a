"""What the commands share that are programs of their own in Caffe: flags of gflags, kinds of databases."""

from __future__ import annotations

from collections.abc import Callable

import click

from minidrop.cli.console import echo
from minidrop.cli.options import Command, seed_type

_TRUE, _FALSE = {"true", "t", "1", "yes", "y"}, {"false", "f", "0", "no", "n"}


class Tool(Command):
    """A command that also takes gflags' ways to switch: --gray=true, --gray=false, --nogray."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        switches = {option.opts[0] for option in self.params
                    if isinstance(option, click.Option) and option.is_flag}
        end = arguments.index("--") if "--" in arguments else len(arguments)
        spelled: list[str] = []
        for argument in arguments[:end]:
            name, _, value = argument.partition("=")
            if name in switches and value.lower() in _TRUE | _FALSE:
                # The last one counts, as with gflags.
                spelled = [other for other in spelled if other != name] + [name] * (value.lower() in _TRUE)
            elif argument.startswith("--no") and f"--{argument[4:]}" in switches:
                spelled = [other for other in spelled if other != f"--{argument[4:]}"]
            else:
                spelled.append(argument)
        return super().parse_args(context, spelled + arguments[end:])


def backend_option(default: str) -> Callable:
    """Return the option --backend: the kind of a database."""
    return click.option("--backend", type=click.Choice(["lmdb", "leveldb"], case_sensitive=False),
                        default=default, show_default=True, help="Kind of the database.")


seed_option = click.option("--seed", type=seed_type, default=0, show_default=True,
                           help="Seed of the random numbers.")


def processed(count: int) -> None:
    """Print how far a tool is."""
    echo(f"Processed {count} files.")
