"""minidrop tag: gives each token of a text its tag."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import click

from minidrop.apps.tagging import Tagger
from minidrop.cli.console import STREAMS
from minidrop.cli.options import (
    Command,
    chosen_device,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    skip_option,
    stated,
    weights_option,
)
from minidrop.cli.progress import wants_bar
from minidrop.config import load_net
from minidrop.data.tagged_text import DOCUMENT
from minidrop.errors import DataError
from minidrop.net.conversion import prepare_nets

LINE_LIMIT = 1 << 20        # bytes of a line
PENDING = 4096              # lines without a token that wait for the tags before them


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE",
              help="The network file; it has a TaggedTextData and a CRF layer.")
@weights_option
@skip_option
@ema_option
@click.option("--format", "layout", type=click.Choice(["lines", "columns"]), default="lines",
              show_default=True, help="lines: a sentence a line, tokens separated by blanks; the output has "
              "its tags. columns: a token a line, an empty line after each sentence; the output has the tag "
              "as a further column.")
@click.option("--progress/--no-progress", default=None, help="Count the sentences on the screen.  [default: "
              "on a terminal that does not show the output]")
@net_options
@ignore_unknown_option
@device_options
def tag(model: Any, weights: Any, skip_mismatched: bool, ema: bool, layout: str, progress: bool | None,
        overrides: tuple, dropout: str | None, level: int, stages: list, ignore_unknown: bool, device: str,
        gpu: str | None, dtype: Any, precision: str) -> None:
    """Tag the sentences of the standard input: `minidrop tag --model NET --weights W < text > tags`."""
    if not weights:
        raise click.UsageError("give --weights, a snapshot of the net")
    config = load_net(model, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    tagger = Tagger(config, weights, chosen_device(device, gpu), dtype, *stated(config, level, stages),
                    precision=precision or "float32", skip_mismatched=skip_mismatched, ema=ema)
    # Someone who types sees the answer to each line.
    window = 1 if sys.stdin.isatty() else 0
    bar = wants_bar(None if progress is None and not sys.stdout.isatty() else bool(progress))
    write = _write_lines if layout == "lines" else _write_columns
    try:
        with _counter() if bar else nullcontext() as counter:
            write(tagger, window, sys.stdin.buffer, sys.stdout.buffer,
                  counter.update if counter is not None else lambda: None)
    finally:
        tagger.close()


def _counter():
    from tqdm import tqdm
    return tqdm(unit="sentence", file=STREAMS[True], dynamic_ncols=True)


def _write_lines(tagger, window, source, target, count):
    """Write the tags of each line; of an empty one an empty line."""
    sentences = (line.decode().split() for _, line in _lines(source))
    for tags in tagger.tag(sentences, window):
        target.write(" ".join(tags).encode() + b"\n")
        target.flush()
        count()


def _write_columns(tagger, window, source, target, count):
    """Write each line with the tag of its token behind it; other lines as they are."""
    held: list[list[bytes]] = []        # the lines of each sentence that is read, the other lines before it

    def sentences() -> Iterator[list[str]]:
        lines: list[bytes] = []
        words: list[str] = []
        for number, line in _lines(source):
            parts = line.split()
            if parts and parts[0] != DOCUMENT:
                words.append(parts[0].decode())
            elif words:
                held.append(lines)
                yield words
                lines, words = [], []
            elif len(lines) > PENDING:
                raise DataError(f"standard input:{number}: expected a token, got {PENDING} lines without one")
            lines.append(line)
        held.append(lines)
        if words:
            yield words

    for tags in tagger.tag(sentences(), window):
        _put(target, held.pop(0), iter(tags))
        target.flush()
        count()
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


def _lines(source) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line without its end) of the input. Raises DataError for one that is no text."""
    number = 0
    while line := source.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT:
            raise DataError(f"standard input:{number}: expected a line of at most {LINE_LIMIT} bytes, got "
                            f"more; is this a text with a sentence a line?")
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"standard input:{number}: expected text in UTF-8, got the byte "
                            f"0x{line[error.start]:02X}; convert it, e.g. with iconv -t UTF-8") from None
        yield number, line.rstrip(b"\r\n")
