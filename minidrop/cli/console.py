"""What the library logs, shown to people: information on stdout, warnings on stderr."""

import errno
import logging
import logging.handlers
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from minidrop.files import open_to_append, write_all

# What moves the cursor, rings, colours or turns the direction of writing, which a terminal would obey.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return a text with control characters, but newlines and tabs, and bytes that are no text as escapes."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def visible_name(name: str) -> str:
    """Return a name as `visible`, on one line."""
    return visible(name).replace("\n", "\\n").replace("\t", "\\t")


def printable(text: str, err: bool = False) -> str:
    """Return a text as `visible`, with escapes for what stdout or stderr cannot encode, too."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print a text to stdout or stderr, as `printable`."""
    click.echo(printable(text, err), STREAMS[err], nl=nl)


class Terminal:
    """stdout or stderr, which may go away while a training runs: from then on what is written is lost."""

    def __init__(self, name: str):
        self.name = name        # looked up at each use: tests and click replace the streams

    def __getattr__(self, name):
        return getattr(getattr(sys, self.name), name)

    def write(self, text: str) -> None:
        """Write text, or nothing where the terminal is gone."""
        self._do("write", text)

    def flush(self) -> None:
        """Flush, where there still is a terminal."""
        self._do("flush")

    def _do(self, method, *arguments):
        try:
            getattr(getattr(sys, self.name), method)(*arguments)
        except OSError as error:
            if error.errno != errno.EIO:        # of a terminal that is gone; a closed pipe ends the program
                error.filename = error.filename or self.name
                raise


STREAMS: dict[bool, Any] = {False: Terminal("stdout"), True: Terminal("stderr")}


class Console(logging.Handler):
    """Shows log records of level INFO and above. A progress bar puts its own `show(text, err)` here while it
    is drawn."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.show = self.plain

    @staticmethod
    def plain(text: str, err: Any) -> None:
        click.echo(text, STREAMS[bool(err)])

    def emit(self, record: Any) -> None:
        # No handleError: a closed pipe has to end the program, not to print a traceback.
        warning = record.levelno >= logging.WARNING
        text = printable(record.getMessage(), warning)
        self.show(f"warning: {text}" if warning else text, warning)


console = Console()


@contextmanager
def informed() -> Iterator:
    """Within this context the library's records of level INFO are shown, too."""
    logger = logging.getLogger("minidrop")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)


class LogFile(logging.Handler):
    """Adds a line for each record to a file. The first that cannot be written is warned of, on the console
    alone; the others are tried all the same."""

    def __init__(self, path: Any):
        super().__init__()
        self.path, self.warned = path, False
        self.file = open_to_append(path)        # no buffer, in which lines would wait for a full disk
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def emit(self, record: Any) -> None:
        line = visible(self.format(record)) + "\n"
        try:
            write_all(self.file, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if not self.warned:
                self.warned = True
                console.show(printable(f"warning: {self.path}: cannot be written: {error.strerror or error}; "
                                       f"training goes on without it", True), True)

    def close(self) -> None:
        self.file.close()
        super().close()


class RunLog:
    """Lets INFO pass, and writes everything down to DEBUG into a file with the time; what came before `open`
    too."""

    def __enter__(self):
        self.logger = logging.getLogger("minidrop")
        self.waiting = logging.handlers.MemoryHandler(10**6, logging.CRITICAL + 1)
        self.file = None
        self.logger.addHandler(self.waiting)
        self.level = self.logger.level
        self.logger.setLevel(logging.DEBUG)
        return self

    def open(self, path: str) -> None:
        """Go on in the file `path`."""
        self.file = LogFile(path)
        self.logger.addHandler(self.file)
        self.waiting.setTarget(self.file)
        self._stop(self.waiting)

    def __exit__(self, *_):
        self._stop(self.waiting)
        if self.file:
            self._stop(self.file)
        self.logger.setLevel(self.level)

    def _stop(self, handler):
        self.logger.removeHandler(handler)
        handler.close()
