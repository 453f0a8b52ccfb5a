"""The part of Solver that files keep: snapshots, solver states of Caffe, initial weights."""

from __future__ import annotations

from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from minidrop.errors import CaptureError, DataError, NonFiniteError
from minidrop.solver import caffe_state, state
from minidrop.solver.averages import kept_weights
from minidrop.solver.events import tell
from minidrop.solver.written import Written


class Saving:
    """Where a Solver's snapshots go, and what it writes and reads."""

    last_snapshot: Path | None = None

    def place_snapshots(self: Any, prefix: str | PathLike, run: str = "") -> None:
        """Write snapshots to PREFIX_iter_N.h5 from now on, with the name of the run, if given, in them."""
        self.snapshot_prefix, self.has_prefix, self.written = str(prefix), True, Written(run)

    def load_initial_weights(self: Any, skip_mismatched: bool = False) -> None:
        """Copy the weights of the files that the solver file's `weights` names, looked up beside it first."""
        state.load_initial(self, skip_mismatched)

    def snapshot(self: Any, path: str | PathLike | None = None) -> Path:
        """Write everything a resumed run needs to `path` (default: PREFIX_iter_N.h5), and return the path.

        By default, and where the solver file has a snapshot_format, also Caffe's two files beside it.
        """
        self.ranks.meet("snapshot")
        self.settle()
        caffes = () if path else caffe_state.endings(self.settings)
        path = Path(path) if path else Path(f"{self.snapshot_prefix}_iter_{self.iteration}.h5")
        if self.ranks.is_root:
            self.written.begin(path)
        with kept_weights(self):        # a signal may ask for it in the midst of a test
            state.write(self, path)
        if caffes:
            self.save_solverstate(path.with_suffix(caffes[0]))
        self.written.add(path, self.smoothed_loss)
        self.last_snapshot, self._snapshot_iteration = path, self.iteration
        tell(self, "snapshot", {"path": str(path)})
        if self.ranks.is_root:
            self.written.prune(Path(self.snapshot_prefix), self.settings.snapshot_keep, path, caffes)
        return path

    @property
    def is_saved(self: Any) -> bool:
        """Whether the last snapshot is of this iteration."""
        return self._snapshot_iteration == self.iteration

    def restore(self: Any, path: str | PathLike) -> None:
        """Continue from a snapshot, or a .solverstate(.h5) of Caffe's, as if the run had never stopped.

        If there is only minidrop's snapshot where Caffe would have written the state, it is that one. If
        SnapshotError is raised, the solver is unchanged.
        """
        self.ranks.meet("restore")
        path = caffe_state.there(path)
        with suppress(CaptureError, DataError, NonFiniteError):       # of iterations that no longer count
            self.settle()
        if caffe_state.is_own(path):
            state.restore(self, path)
            self.last_snapshot, self._snapshot_iteration = Path(path), self.iteration
            self.written.recall(Path(self.snapshot_prefix), self.iteration)
            self.written.add(Path(path), self.smoothed_loss)
        else:
            caffe_state.restore(self, path)
            self.last_snapshot = self._snapshot_iteration = None
        self._tested.clear()
        self.local_steps.forget()
        self.source.follow(self)

    def save_solverstate(self: Any, path: str | PathLike) -> Path:
        """Write a .solverstate(.h5) for Caffe and its .caffemodel(.h5) beside it, whose path it returns."""
        written: list[Path] = []
        self.local_steps.join()
        with kept_weights(self):
            self.ranks.at_root(lambda: written.append(caffe_state.save(self, path)))
        return Path(self.ranks.of_root(str(*written)))

