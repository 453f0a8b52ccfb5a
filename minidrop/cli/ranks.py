"""Ranks at the command line: one of them speaks, and an error of any ends all."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minidrop.cli.console import console, echo
from minidrop.cli.run_folder import choose
from minidrop.cli.watched import CAN_WATCH, Reached, watched
from minidrop.errors import LostRankError, ParallelError, visible_name
from minidrop.solver import Solver
from minidrop.solver.communicator import Alone, Communicator
from minidrop.solver.engines import chosen_way
from minidrop.solver.events import Event
from minidrop.solver.mpi import launched_rank, launched_size, world
from minidrop.solver.ranks import Ranks
from minidrop.solver.watchdog import TIMEOUT

log = logging.getLogger(__name__)

PATIENCE = 3.0      # seconds that a rank with an error leaves rank 0 to report it, if it has the same
LATE = 1.0          # seconds more that it has where it is thought lost
WRONG_USAGE = 2     # exit code
FORWARDING = 0.2    # seconds for the launcher to show what a rank has printed: it drops that when all end
MEASURED = 20       # iterations whose traffic is shown
_GO_ON = "go on with the same command and --resume auto, or let --restarts do it"
_LETHAL_REQUESTS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")      # before a training catches them, and after


class _Launch:
    """The Communicator of this process, once a command has asked for it."""

    communicator: Communicator = Alone()


reached = Reached()     # by the training of this process


def guarded() -> int | None:
    """Where this is one of several ranks, let a child go on as the rank, and guard it.

    Returns None in the process that goes on, else the exit code, once the rank has ended. A rank that was
    killed cannot say so, and its launcher knows neither its iteration nor what to do.
    """
    if launched_size() == 1 or not CAN_WATCH:
        return None
    ended = watched()
    if ended is None:
        return None
    if not ended.signal:
        if ended.code == WRONG_USAGE:       # MPI is not started, and others would say the same
            _end_all(ended.code)
        return ended.code
    if ended.signal in _LETHAL_REQUESTS:
        _end_all(128 - ended.code)
        return 128 - ended.code
    echo(f"error: rank {launched_rank()} on {platform.node()} {ended.how} {reached}; {_GO_ON}", err=True)
    sys.stderr.flush()
    _end_all(1)
    return 1


def _end_all(code):
    """Ask the launcher to end all ranks with an exit code, as MPI_Abort does, in PMI's own words.

    MPI itself is of no use: this process has not started it. A launcher that does not speak PMI sees that
    this one ends with an error, and ends the others in its own way.
    """
    with suppress(KeyError, ValueError, OSError):
        time.sleep(FORWARDING)
        os.write(int(os.environ["PMI_FD"]), b"cmd=abort exitcode=%d\n" % code)
        time.sleep(PATIENCE)


@contextmanager
def launched(together: bool | None = None, timeout: float = TIMEOUT) -> Iterator[Communicator]:
    """Give the Communicator of the launcher's processes; in this context only rank 0 shows log records.

    together: False for that of this process alone, True if there must be others. timeout: the seconds that a
    rank waits for others. Raises ParallelError.
    """
    before, level = _Launch.communicator, console.level
    communicator = _Launch.communicator = Alone() if together is False else world(timeout=timeout)
    if together and communicator.size == 1:
        raise ParallelError("--mpi: no launcher started other processes with this one; start it with mpiexec "
                            "-n N, of the MPI that mpi4py uses")
    if communicator.rank:
        console.setLevel(logging.CRITICAL + 1)
    try:
        yield communicator
        Ranks(communicator).any(False)      # all have come this far: MPI waits for them without a limit
    except BaseException:       # `end_with` asks whose error it is
        console.setLevel(level)
        raise
    console.setLevel(level)
    _Launch.communicator = before


def is_alone() -> bool:
    """Whether this process is no rank of several."""
    return _Launch.communicator.size == 1


def wait_for_root() -> None:
    """Give rank 0 the time to show an error that all ranks have, such as wrong usage, and to end them.

    It is for errors from before MPI is started, which `end_with` does not see.
    """
    if launched_rank():
        time.sleep(PATIENCE)


def end_with(lines: Sequence[str], with_traceback: bool = False) -> None:
    """Print the lines of the error that is handled; where this is one of several ranks, end all of them.

    Each stays one line, whatever names and values it quotes.
    """
    communicator, error = _Launch.communicator, sys.exc_info()[1]
    lost = error.lost if isinstance(error, LostRankError) else ()
    first = min(set(range(communicator.size)) - set(lost))
    # An error that all have is shown by one rank, which ends all; of a rank that is gone its guard speaks.
    if communicator.rank != first or isinstance(error, LostRankError) and not lost:
        time.sleep(PATIENCE)
    if first:       # rank 0 may only be late, and say the same of others
        time.sleep(LATE)
    who = f"rank {communicator.rank} on {communicator.host}: " if communicator.rank else ""
    if with_traceback:
        traceback.print_exc()
    if isinstance(error, LostRankError) and lines:
        lines = [*lines[:-1], f"{lines[-1]}. All ranks end, {reached}; {_GO_ON}"]
    for line in lines:
        echo(f"error: {who}{visible_name(line)}", err=True)
    if communicator.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FORWARDING)
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
    log.info("%s", chosen_way(solver.ranks, solver.net.backend)[1])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if communicator.local_size > 1 and not os.environ.get("OMP_NUM_THREADS"):
        threads = max(1, cores // communicator.local_size)
        log.warning("%d ranks share %s, where each may use %d cores; better give each its own: set "
                    "OMP_NUM_THREADS=%d and MINIDROP_THREADS=%d", communicator.local_size,
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
