"""Log lines as Caffe's: glog's heads, and displays and tests in the lines that Caffe's parsers expect."""

import logging
import time
from typing import Any

import numpy as np

from minidrop.cli import values
from minidrop.cli.progress import Narrator
from minidrop.errors import visible_name

log = logging.getLogger(__name__)

_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E"}


class GlogFormatter(logging.Formatter):
    """Writes records as `I0210 13:39:22.381027 25210 loop.py:204] text`, every line of them with this head.

    Month and day, local time, process, source line: a parser reads a time from each line that it meets.
    """

    def format(self, record: Any) -> str:
        local = time.localtime(record.created)
        microseconds = min(999_999, round(record.created % 1 * 1e6))
        head = (f"{_LETTERS.get(record.levelno, 'F')}{local.tm_mon:02}{local.tm_mday:02} "
                f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}.{microseconds:06} "
                f"{record.process:5d} {record.filename}:{record.lineno}] ")
        return "\n".join(head + line for line in record.getMessage().split("\n"))


class CaffeNarrator(Narrator):
    """Logs displays, tests and snapshots of a Solver line by line as Caffe does.

    A display is `Iteration 100 (12 iter/s, 8s/100 iters), loss = 0.5`, a line for each output of the net
    (`    Train net output #0: loss = 0.5 (* 1 = 0.5 loss)`; an array has one for each value), and the
    learning rate.
    """

    def begin(self, solver: Any) -> None:
        """Log the lines that begin a training; parsers take the time of the first as its start."""
        log.info("Solving %s", visible_name(solver.net.config.message.name))
        log.info("Learning Rate Policy: %s", solver.settings.lr_policy)

    def _display(self, event):
        iteration, solver = event.iteration, event.solver
        rate, taken = self.pace(iteration)
        pace = f" ({rate:.6g} iter/s, {taken:.6g}s/{solver.settings.display} iters)" if rate else ""
        log.log(self.display_level, "Iteration %d%s, loss = %.6g", iteration, pace, event.values["loss"])
        if iteration >= solver.settings.max_iter:       # the last line, after the training: Caffe has no more
            return
        shown = dict(event.values)
        if "loss" in solver.net.outputs:
            # Under this name the event has the smoothed sum of all losses, not the output.
            blob = solver.net.blobs.get("loss")
            shown["loss"] = event.values["loss"] if blob is None else blob.numpy().tolist()
        self._outputs("Train", solver.net, shown, self.display_level)
        log.log(self.display_level, "Iteration %d, lr = %.6g", iteration, event.values["lr"])

    def _test(self, event):
        log.info("Iteration %d, Testing net (#%d)", event.iteration, event.net)
        if "total_loss" in event.values and event.solver.settings.test_compute_loss:
            log.info("Test loss: %.6g", event.values["total_loss"])
        self._outputs("Test", event.solver.test_nets[event.net], event.values, logging.INFO)

    def _outputs(self, kind, net, shown, level):
        weights, number = {ref.name: weight for ref, weight in net.losses}, 0
        for name in (name for name in net.outputs if name in shown):
            for value in np.ravel(shown[name]).tolist():
                weight = weights.get(name)
                loss = f" (* {weight:.6g} = {weight * value:.6g} loss)" if weight is not None else ""
                log.log(level, "    %s net output #%d: %s = %s%s", kind, number, visible_name(name),
                        values.number(value), loss)
                number += 1

    def _snapshot(self, event):
        log.info("Snapshotting to HDF5 file %s", event.values["path"])
