"""minidrop tag: gives each token of a text its tag."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from minidrop.apps.tagging import Tagger
from minidrop.cli.options import (
    Command,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    skip_option,
    trained_net,
    weights_option,
)
from minidrop.cli.sentences import counted, lines_of_stdin, progress_option
from minidrop.data.tagged_text import DOCUMENT
from minidrop.errors import DataError

_DOCUMENT = DOCUMENT.decode()
PENDING = 4096              # lines without a token that wait for the tags before them


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE",
              help="The network file; it has a TaggedTextData and a CRF layer.")
@weights_option
@skip_option
@ema_option
@click.option("--format", "layout", type=click.Choice(["lines", "columns"]), default="lines",
              show_default=True, help="lines: a sentence a line, tokens separated by blanks; the output has "
              "its tags. columns: a token a line, an empty line after each sentence, the token in the "
              "net's word_column; the output has the tag as a further column.")
@progress_option
@net_options
@ignore_unknown_option
@device_options
def tag(weights: Any, skip_mismatched: bool, ema: bool, layout: str, progress: bool | None,
        **options: Any) -> None:
    """Tag the sentences of the standard input: `minidrop tag --model NET --weights W < text > tags`."""
    config, settings = trained_net(weights=weights, **options)
    tagger = Tagger(config, weights, skip_mismatched=skip_mismatched, ema=ema, **settings)
    # Someone who types sees the answer to each line.
    window = 1 if sys.stdin.isatty() else 0

    def tagged(sentences: Iterable[list[str]]) -> Iterator[list[str]]:
        return counted(tagger.tag(sentences, window), progress)

    try:
        if layout == "lines":
            _write_lines(tagged, sys.stdout.buffer)
        else:
            _write_columns(tagged, sys.stdout.buffer, tagger.word_column)
    finally:
        tagger.close()


def _write_lines(tagged, target):
    """Write the tags of each line; of an empty one an empty line."""
    for tags in tagged(_tokens(line) for _, line in lines_of_stdin()):
        target.write(" ".join(tags).encode() + b"\n")
        target.flush()


def _tokens(line):
    """Return the tokens of a line: as in a text to train on blanks and tabs separate, no other space."""
    return [part.decode() for part in line.encode().split()]


def _word(parts, column, number):
    """Return the token of a line with these columns: in `column`, or the only one."""
    if len(parts) > 1 and not -len(parts) <= column < len(parts):
        raise DataError(f"stdin:{number}: expected the token in column {column}, the word_column of the net, "
                        f"got {len(parts)} columns")
    return parts[column if len(parts) > 1 else 0]


def _write_columns(tagged, target, column):
    """Write each line with the tag of its token, which is in `column`, behind it; other lines as they are."""
    held: list[list[bytes]] = []        # the lines of each sentence that is read, the other lines before it

    def sentences() -> Iterator[list[str]]:
        lines: list[bytes] = []
        words: list[str] = []
        for number, text in lines_of_stdin():
            parts = _tokens(text)
            if parts and parts[0] != _DOCUMENT:
                words.append(_word(parts, column, number))
            elif words:
                held.append(lines)
                yield words
                lines, words = [], []
            elif len(lines) > PENDING:
                raise DataError(f"stdin:{number}: expected a token, got {PENDING} lines without one")
            lines.append(text.encode())
        held.append(lines)
        if words:
            yield words

    for tags in tagged(sentences()):
        _put(target, held.pop(0), iter(tags))
        target.flush()
    for lines in held:
        _put(target, lines, iter(()))
    target.flush()


def _put(target, lines, tags):
    for line in lines:
        parts = line.split()
        if parts and parts[0] != DOCUMENT:
            between = b"\t" if b"\t" in line else b" "
            line = line.rstrip() + between + next(tags).encode()
        target.write(line + b"\n")
