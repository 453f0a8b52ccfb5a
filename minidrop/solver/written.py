"""Written: the snapshots of one run, and which of them to return to."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from minidrop.errors import SnapshotError
from minidrop.snapshot import Seal, prune, sealed, under_prefix

log = logging.getLogger(__name__)


class Written:
    """The snapshots that a Solver wrote or was restored from, with the smoothed loss of each.

    run: the name of the run, which its snapshots contain; "" for a script, whose snapshots contain none.
    """

    def __init__(self, run: str = ""):
        self.run = run
        self._losses: dict[Path, float] = {}
        self._warned = False

    def add(self, path: Path, loss: float) -> None:
        """Record a snapshot and the loss at its iteration."""
        self._losses.pop(path, None)
        self._losses[path] = loss

    def recall(self, prefix: Path, iteration: int) -> None:
        """Record what this run wrote under a prefix up to `iteration`, from which it continues."""
        if self.run:
            for seal, path in reversed(under_prefix(prefix)):
                if seal.run == self.run and seal.iteration <= iteration:
                    self.add(path, seal.loss)

    def begin(self, path: Path) -> None:
        """Warn, once, if writing `path` replaces a snapshot of another run."""
        if not self._warned and path not in self._losses and any(
                self.is_foreign(seal) for seal, _ in sealed([path])):
            self._warned = True
            log.warning("%s is a snapshot of another run with this snapshot_prefix, and is replaced; set "
                        "another one for each run", path)

    def is_foreign(self, seal: Seal) -> bool:
        """Whether a snapshot names another run; False if it names none."""
        return seal.run not in ("", self.run)

    def prune(self, prefix: Path, keep: int, newest: Path, beside: Sequence[str] = ()) -> None:
        """Delete all numbered snapshots of a prefix but the `keep` newest and that of the lowest loss.

        keep 0: all stay. beside: the endings of files that go with theirs. Leftovers of killed writers are
        deleted as well.
        """
        best = self.best if keep else None
        protect = [path for path in (newest, best) if path is not None]
        for path in prune(prefix.parent, keep, protect, f"{prefix.name}_iter_",
                          lambda seal: not self.is_foreign(seal)):
            self._losses.pop(path, None)
            for ending in beside:
                other = path.with_suffix(ending)
                try:
                    other.unlink(missing_ok=True)
                except OSError as error:
                    raise SnapshotError(f"{other}: an old file could not be deleted: "
                                        f"{error.strerror}") from error

    @property
    def best(self) -> Path | None:
        """The existing snapshot of the lowest loss, the newest of equals; None if there is none."""
        there = {path: loss for path, loss in self._losses.items() if math.isfinite(loss) and path.exists()}
        return min(reversed(there), key=there.__getitem__, default=None)

    def advice(self) -> str:
        """Return a sentence on which snapshots to return to after a divergence; "" if there are none."""
        there = [path for path in self._losses if path.exists()]
        if not there:
            return ""
        best = self.best
        words = f"; the last snapshot is {there[-1]}"
        if best is not None and best != there[-1]:
            words += f", that of the lowest loss ({self._losses[best]:.6g}) is {best}"
        return words
