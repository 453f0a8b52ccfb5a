"""Output of the command line: log records of level INFO on stdout, warnings on stderr."""

import errno
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from minidrop.errors import ConfigError, visible
from minidrop.files import open_to_append, replace, write_all


def printable(text: str, err: bool = False) -> str:
    """Return a text as `visible` does, also with escapes for what stdout or stderr cannot encode."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print a text to stdout or stderr, made `printable`."""
    click.echo(printable(text, err), STREAMS[err], nl=nl)


class Terminal:
    """stdout or stderr, which may disappear during a training; later output is then lost."""

    def __init__(self, name: str):
        self.name = name        # looked up at each use: tests and click replace the streams

    def __getattr__(self, name):
        return getattr(getattr(sys, self.name), name)

    def write(self, text: str) -> None:
        """Write text, if the terminal still exists."""
        self._do("write", text)

    def flush(self) -> None:
        """Flush, if the terminal still exists."""
        self._do("flush")

    def _do(self, method, *arguments):
        try:
            getattr(getattr(sys, self.name), method)(*arguments)
        except OSError as error:
            if error.errno != errno.EIO:        # EIO: the terminal is gone; a closed pipe ends the program
                error.filename = error.filename or self.name
                raise


STREAMS: dict[bool, Any] = {False: Terminal("stdout"), True: Terminal("stderr")}


def replace_closed() -> None:
    """Let streams that a shell has closed (>&-) be the null device: without one, a file may become stdout."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)     # noqa: SIM115  it stays open as long as the process
            try:
                os.fstat(number)
            except OSError:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)


class Console(logging.Handler):
    """Shows log records of level INFO and above; a progress bar replaces `show(text, err)` while drawn.

    With a formatter, see `formatted`, it writes what that makes of a record, otherwise the message.
    """

    def __init__(self):
        super().__init__(logging.INFO)
        self.show = self.plain

    @staticmethod
    def plain(text: str, err: Any) -> None:
        click.echo(text, STREAMS[bool(err)])

    def emit(self, record: Any) -> None:
        # No handleError: a closed pipe must end the program without a traceback.
        warning = record.levelno >= logging.WARNING
        text = (self.formatter.format(record) if self.formatter else
                f"{'warning: ' * warning}{record.getMessage()}")
        self.show(printable(text, warning), warning)

    @contextmanager
    def formatted(self, formatter: logging.Formatter | None) -> Iterator[None]:
        """Within this context records are shown as `formatter` writes them."""
        self.setFormatter(formatter)
        try:
            yield
        finally:
            self.setFormatter(None)


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
    """Appends a line per record to a file; the first failure is reported on the console only."""

    def __init__(self, path: Any, formatter: logging.Formatter | None = None):
        super().__init__()
        self.path, self.warned = path, False
        self.file = open_to_append(path)        # unbuffered, so that a full disk is noticed at once
        self.setFormatter(formatter or logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

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
    """Writes all records down to DEBUG, with times, to a file, including those from before `open`."""

    def __enter__(self):
        self.logger = logging.getLogger("minidrop")
        self.waiting = logging.handlers.MemoryHandler(10**6, logging.CRITICAL + 1)
        self.file = None
        self.logger.addHandler(self.waiting)
        self.level = self.logger.level
        self.logger.setLevel(logging.DEBUG)
        return self

    def open(self, path: str, formatter: logging.Formatter | None = None) -> None:
        """Append all records, also earlier ones, to the file `path`, as `formatter` writes them."""
        self.file = LogFile(path, formatter)
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


def write(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a result of a command to a file, whole or not at all; raises ConfigError if that fails."""
    try:
        replace(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}; give another "
                          f"name") from None
