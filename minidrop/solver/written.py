"""The snapshots of one run: which are its own, and which is the one to go back to."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from minidrop.snapshot import Seal, prune, sealed, under_prefix

log = logging.getLogger(__name__)


class Written:
    """What a Solver wrote or was restored from, and the smoothed loss of each.

    run: the name of the run, which stands in its snapshots; "" for a script, whose snapshots name none.
    """

    def __init__(self, run: str = ""):
        self.run = run
        self._losses: dict[Path, float] = {}
        self._warned = False

    def add(self, path: Path, loss: float) -> None:
        """Remember a snapshot and the loss at its iteration."""
        self._losses.pop(path, None)
        self._losses[path] = loss

    def recall(self, prefix: Path, iteration: int) -> None:
        """Remember what this run wrote under a prefix, up to an iteration from which it now goes on."""
        if self.run:
            for seal, path in reversed(under_prefix(prefix)):
                if seal.run == self.run and seal.iteration <= iteration:
                    self.add(path, seal.loss)

    def begin(self, path: Path) -> None:
        """Warn, once, that a snapshot of another run is about to be replaced."""
        if not self._warned and path not in self._losses and any(
                self.is_foreign(seal) for seal, _ in sealed([path])):
            self._warned = True
            log.warning("%s is a snapshot of another run with this snapshot_prefix, and is replaced; set "
                        "another one for each run", path)

    def is_foreign(self, seal: Seal) -> bool:
        """Whether a snapshot names another run; one that names none does not."""
        return seal.run not in ("", self.run)

    def prune(self, prefix: Path, keep: int, newest: Path) -> None:
        """Delete all but the `keep` newest numbered snapshots of a prefix and that of the lowest loss.

        keep 0: all stay. Leftovers of writers that were killed are deleted too.
        """
        best = self.best if keep else None
        protect = [path for path in (newest, best) if path is not None]
        for path in prune(prefix.parent, keep, protect, f"{prefix.name}_iter_",
                          lambda seal: not self.is_foreign(seal)):
            self._losses.pop(path, None)

    @property
    def best(self) -> Path | None:
        """The snapshot of the lowest loss that is still there, the newest of equals; None without any."""
        there = {path: loss for path, loss in self._losses.items() if math.isfinite(loss) and path.exists()}
        return min(reversed(there), key=there.__getitem__, default=None)

    def advice(self) -> str:
        """Say which snapshots to go back to after a divergence; "" where there are none."""
        there = [path for path in self._losses if path.exists()]
        if not there:
            return ""
        best = self.best
        words = f"; the last snapshot is {there[-1]}"
        if best is not None and best != there[-1]:
            words += f", that of the lowest loss ({self._losses[best]:.6g}) is {best}"
        return words
