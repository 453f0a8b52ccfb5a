"""How a signal ends a command at once."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any

from minidrop.errors import visible_name
from minidrop.files import abandon
from minidrop.solver.signals import StopSignals


def leave(number: int, frame: Any) -> None:
    """Signal handler that ends the process at once, with exit code 128 + N, and says so in one line.

    Files that are not finished are deleted, and named; those that they were to replace stay. Nothing is
    said to the impatient, who have asked a training to stop before: it says so itself. It raises no
    exception: that could happen anywhere, such as in a callback or a destructor, where Python prints and
    ignores it, or inside a library that converts it into another one.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):       # the signal may have interrupted a write to it
            stream.flush()
    names = ", ".join(visible_name(str(path)) for path in abandon())
    line = f"stopped by {signal.Signals(number).name}" + (f"; not written: {names}" if names else "")
    with suppress(Exception):           # a line end first, after a bar and the ^C that a terminal shows
        if not StopSignals.asked:
            os.write(2, f"{chr(10) * sys.stderr.isatty()}{line}\n".encode("utf-8", "backslashreplace"))
    os._exit(128 + number)
