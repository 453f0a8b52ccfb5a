"""What commands that read sentences share: the lines of stdin, and a counter on the screen."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click

from minidrop.cli.console import STREAMS
from minidrop.cli.progress import wants_bar
from minidrop.data.text import whole_lines
from minidrop.data.vocabulary import decoded
from minidrop.errors import DataError

LONGEST_LINE = 1 << 20      # bytes
T = TypeVar("T")

progress_option = click.option("--progress/--no-progress", default=None, help="Count the sentences on the "
                               "screen.  [default: on a terminal that does not show the output]")


def lines_of_file(path: str) -> Iterator[str]:
    """Yield the lines of a text, plain or packed. Raises DataError."""
    for text in whole_lines(path):
        if text:
            yield from (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))


def lines_of_stdin() -> Iterator[tuple[int, str]]:
    """Yield (number, line without its end) of stdin, as they come; numbers begin with 1.

    A byte order mark at the beginning is left out, as of a file.

    Raises DataError with the line for one that is not UTF-8, or longer than LONGEST_LINE bytes.
    """
    number = 0
    while line := sys.stdin.buffer.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"stdin:{number + 1}: expected a line of at most {LONGEST_LINE} bytes, got a "
                            f"longer one; is this a text in lines?")
        text = decoded(line if number else line.removeprefix(codecs.BOM_UTF8), "stdin", number)
        number += 1
        yield number, text.rstrip("\r\n")


def counted(sentences: Iterable[T], progress: bool | None) -> Iterator[T]:
    """Yield what is made of sentences, and count them on stderr.

    progress: whether to count; None: on a terminal, unless stdout is one too, which then shows the sentences.
    """
    if not wants_bar(False if progress is None and sys.stdout.isatty() else progress):
        yield from sentences
        return
    from tqdm import tqdm
    with tqdm(unit="sentence", file=STREAMS[True], dynamic_ncols=True) as bar:
        for one in sentences:
            bar.update(1)
            yield one
