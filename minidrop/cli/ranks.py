"""Ranks at the command line: one of them speaks, and an error of any ends all."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidrop.cli.console import console, echo
from minidrop.cli.run_folder import choose
from minidrop.errors import ParallelError
from minidrop.solver import Solver
from minidrop.solver.communicator import Alone, Communicator
from minidrop.solver.events import Event
from minidrop.solver.mpi import world

log = logging.getLogger(__name__)

PATIENCE = 3.0      # seconds that a rank with an error leaves rank 0 to report it, if it has the same
MEASURED = 20       # iterations whose traffic is shown


class _Launch:
    """The Communicator of this process, once a command has asked for it."""

    communicator: Communicator = Alone()


@contextmanager
def launched(together: bool | None = None) -> Iterator[Communicator]:
    """Give the Communicator of the launcher's processes; in this context only rank 0 shows log records.

    together: False for that of this process alone, True if there must be others. Raises ParallelError.
    """
    before, level = _Launch.communicator, console.level
    communicator = _Launch.communicator = Alone() if together is False else world()
    if together and communicator.size == 1:
        raise ParallelError("--mpi: no launcher started other processes with this one; start it with mpiexec "
                            "-n N, of the MPI that mpi4py uses")
    if communicator.rank:
        console.setLevel(logging.CRITICAL + 1)
    try:
        yield communicator
    except BaseException:       # `end_with` asks whose error it is
        console.setLevel(level)
        raise
    console.setLevel(level)
    _Launch.communicator = before


def is_alone() -> bool:
    """Whether this process is no rank of several."""
    return _Launch.communicator.size == 1


def end_with(lines: list[str], with_traceback: bool = False) -> None:
    """Print the lines of the error that is handled; where this is one of several ranks, end all of them."""
    communicator = _Launch.communicator
    if communicator.rank:
        time.sleep(PATIENCE)    # an error that all have is shown by rank 0 alone, which ends all
    who = f"rank {communicator.rank} on {communicator.host}: " if communicator.rank else ""
    if with_traceback:
        traceback.print_exc()
    for line in lines:
        echo(f"error: {who}{line}", err=True)
    if communicator.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        communicator.abort()


def chosen(solver: Solver, out: Any, resume: Any) -> tuple[Any, Path | None]:
    """Let rank 0 choose the run folder; returns it, on others None, and the snapshot to resume from or None.

    All ranks have the same prefix of snapshots afterwards.
    """
    ranks = solver.ranks
    folder, start = ranks.together(lambda: choose(solver, out, resume) if ranks.is_root else (None, None))
    where = json.dumps([solver.snapshot_prefix, solver.written.run, str(start) if start else ""])
    prefix, run, path = json.loads(ranks.of_root(where))
    if not ranks.is_root:
        solver.place_snapshots(prefix, run)
    return folder, Path(path) if path else None


def introduce(solver: Solver) -> None:
    """Log how many ranks train, and warn of more threads than cores."""
    communicator = solver.ranks.communicator
    hosts = sorted(set(solver.ranks.texts(communicator.host)))
    log.info("%d ranks on %s train together, each on 1/%d of every batch", communicator.size,
             hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts", communicator.size)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if communicator.local_size > 1 and not os.environ.get("OMP_NUM_THREADS"):
        threads = max(1, cores // communicator.local_size)
        log.warning("%d ranks share %s, where each may use %d cores; better give each its own: mpiexec -genv "
                    "OMP_NUM_THREADS %d -genv MINIDROP_THREADS %d ...", communicator.local_size,
                    communicator.host, cores, threads, threads)


class Traffic:
    """Logs once how much a rank sends: the mean of the first iterations. A callback."""

    def __init__(self, last: int):
        self.last, self.steps, self.sent, self.entries, self.whole = last, 0, 0, 0, 0

    def __call__(self, event: Event) -> None:
        if event.kind != "step" or self.steps >= MEASURED or event.solver is None:
            return
        local, total = event.solver.local_steps, event.solver.gradient_sum
        if local.active:
            if local.sent:
                self.steps = MEASURED
                log.info("each rank sends %.4g MB of weights and history every %d iterations",
                         local.sent / 1e6, local.interval)
            return
        self.steps += 1
        self.sent += total.sent
        self.entries += total.entries
        self.whole += total.whole_entries
        if self.steps == MEASURED or event.iteration == self.last:
            log.info("each rank sends %.4g MB of gradients in an iteration, %.3g of what it would send "
                     "without drops (mean of %d iterations)", self.sent / self.steps / 1e6,
                     self.entries / max(1, self.whole), self.steps)
