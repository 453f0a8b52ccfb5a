"""minidrop generate: writes text with a language model."""

import sys
from typing import Any

import click

from minidrop.apps.generation import TextModel
from minidrop.cli.console import echo
from minidrop.cli.options import (
    Command,
    Count,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    seed_type,
    skip_option,
    trained_net,
    weights_option,
)


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE",
              help="The network file; it reads a text with a TextData layer.")
@weights_option
@skip_option
@ema_option
@click.option("--prompt", default="", metavar="TEXT", help="What the text begins with.")
@click.option("--length", type=Count(), default=200, show_default=True,
              help="Number of tokens to write: words, characters or pieces of words.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True,
              help="Scores are divided by it: below 1 the likely becomes likelier, 0 always takes the most "
              "likely token.")
@click.option("--seed", type=seed_type, default=0, show_default=True,
              help="Seed of the random numbers that draw the text.")
@net_options
@ignore_unknown_option
@device_options
def generate(weights: Any, skip_mismatched: bool, ema: bool, prompt: str, length: int, temperature: Any,
             seed: int, **options: Any) -> None:
    """Continue a prompt with text drawn from a trained language model."""
    config, settings = trained_net(weights=weights, **options)
    writer = TextModel(config, weights, skip_mismatched=skip_mismatched, ema=ema, **settings)
    try:
        if unknown := writer.unknown(prompt):
            names = ", ".join(map(repr, unknown))
            echo(f"warning: the vocabulary lacks {names}; the model reads <unk> instead", err=True)
        pieces = writer.stream(prompt, length, temperature, seed)
        first = next(pieces)            # raises errors in the arguments before anything is printed
        write_text(prompt + first)
        for piece in pieces:
            write_text(piece)
        echo()
    finally:
        writer.close()


def write_text(text: str) -> None:
    """Print text at once: control characters as escapes on a terminal, unencodable ones as ? in a file."""
    if sys.stdout.isatty():
        echo(text, nl=False)
        return
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)
