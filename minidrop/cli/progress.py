"""The output of a training: one line per display and test, or a progress bar."""

import logging
import os
import sys
import time
from typing import Any

from minidrop.cli import values
from minidrop.cli.console import STREAMS, console

log = logging.getLogger(__name__)


class Narrator:
    """Logs displays, tests and snapshots of a Solver in Caffe's words.

    `tests` is {test net: its last values}. With a bar on the screen, displays only go to the log file.
    """

    def __init__(self, iteration: int, with_bar: Any):
        self.tests: dict[int, dict[str, float]] = {}
        self.display_level = logging.DEBUG if with_bar else logging.INFO
        self.last = iteration, time.monotonic()

    def __call__(self, event):
        if event.kind == "display":
            self._display(event)
        elif event.kind == "test":
            self.tests[event.net] = event.values
            self._test(event)
        elif event.kind == "snapshot":
            self._snapshot(event)

    def begin(self, solver: Any) -> None:
        """Log what stands before the first iteration: nothing."""

    def pace(self, iteration: int) -> tuple[float, float]:
        """Return (iterations a second, seconds) since the last call; 0 iterations a second at the first."""
        (before, then), now = self.last, time.monotonic()
        self.last = iteration, now
        return ((iteration - before) / (now - then) if iteration > before and now > then else 0.0), now - then

    def _display(self, event):
        rate, _ = self.pace(event.iteration)
        log.log(self.display_level, "Iteration %d%s, %s", event.iteration,
                f" ({rate:.4g} iter/s)" if rate else "", values.as_text(event.values))

    def _test(self, event):
        log.info("Iteration %d, Testing net (#%d): %s", event.iteration, event.net,
                 values.as_text(event.values))

    def _snapshot(self, event):
        log.info("Iteration %d, snapshot %s", event.iteration, event.values["path"])


class Bar:
    """A progress bar on stderr: rate, time left, smoothed loss, learning rate. Log lines appear above it."""

    def __init__(self, solver: Any):
        self.solver = solver

    def __enter__(self):
        from tqdm import tqdm
        self.bar = tqdm(total=self.solver.settings.max_iter, initial=self.solver.iteration, unit="iter",
                        file=STREAMS[True], dynamic_ncols=True, smoothing=0.1)
        console.show = lambda text, err: self.bar.write(text, file=STREAMS[bool(err)])
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Stop the bar and leave it on the screen."""
        console.show = console.plain
        self.bar.close()

    def __call__(self, event):
        # update returns True if it was drawn; a text for each step costs too much.
        if event.kind == "step" and self.bar.update(1):
            shown = {name: event.values[name] for name in ("loss", "lr")}
            self.bar.set_postfix_str(values.as_text(shown).replace(" = ", "="), refresh=False)


def wants_bar(asked: bool | None) -> bool:
    """Return whether to draw a bar: as --progress says, by default on a terminal of known width."""
    if asked is not None:
        return asked
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
