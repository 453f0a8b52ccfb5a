"""MPI: the Communicator of processes that an MPI launcher such as mpiexec started, through mpi4py."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import numpy as np

from minidrop.errors import LostRankError, ParallelError
from minidrop.solver.communicator import Alone, Communicator
from minidrop.solver.watchdog import TIMEOUT, Watchdog

# What launchers tell a process of the number of its fellows: MPICH and others with PMI, Open MPI, Slurm.
# The first that is set counts: within a job, mpiexec starts helpers of its own as one task of Slurm a node.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_LAUNCHERS = (*_SIZES, "PMIX_RANK")
STARTING = 60.0                     # seconds that ranks may start one after the other, at least
_LONGEST_TIMER = 1e8                # seconds, three years; more is no limit, which timers may not take
_MOST_LATER = 10                    # seconds: rank 0 is the first to say that it waits in vain
SPINS = 200                         # polls without a pause
LONGEST_PAUSE = 1e-3                # seconds
_LONGEST_NAME = 255                 # bytes of a host's name


def launched_size(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a launcher says it started with this one; 1 if there is no launcher."""
    return next(_numbers(environment, _SIZES), 1)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return which of them a launcher says this one is, from 0."""
    return next(_numbers(environment, _RANKS), 0)


def launch_line(size: int, environment: Mapping[str, str] = os.environ) -> str:
    """Return the command that starts `size` processes as those of this run were: "mpiexec -n 4"."""
    by_slurm = "SLURM_STEP_NUM_TASKS" in environment
    by_mpiexec = "PMI_HOSTNAME" in environment or "OMPI_COMM_WORLD_SIZE" in environment
    return f"srun --mpi=pmi2 -n {size}" if by_slurm and not by_mpiexec else f"mpiexec -n {size}"


def _numbers(environment, names):
    return (int(environment[name]) for name in names if environment.get(name, "").isdecimal())


def world(environment: Mapping[str, str] = os.environ, timeout: float = TIMEOUT) -> Communicator:
    """Return the Communicator of the processes that a launcher started with this one.

    Alone, without loading MPI, if there is no launcher. `timeout`: the seconds that a rank waits for others
    in an exchange, see `Watchdog`; until all have started MPI it is at least STARTING, and then SIGALRM ends
    the process. Raises ParallelError if mpi4py is missing, or if its MPI does not find the
    processes that the launcher speaks of.
    """
    if not any(name in environment for name in _LAUNCHERS):
        return Alone()
    wanted = launched_size(environment)
    # Read when MPI starts: the program says itself why it ends.
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"     # reader threads call no MPI
        with _interruptible(max(timeout, STARTING) + min(launched_rank(), _MOST_LATER)):
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:        # RuntimeError: mpi4py without an MPI library
        if wanted == 1 and "PMIX_RANK" not in environment:
            return Alone()
        raise ParallelError(f"{wanted} processes were started to train together, but mpi4py cannot be loaded "
                            f"({error}); pip install 'minidrop[mpi]', or train each alone "
                            f"(--no-mpi)") from error
    size = MPI.COMM_WORLD.size
    if size < wanted:
        raise ParallelError(f"{wanted} processes were started to train together, but MPI finds only {size}: "
                            f"the launcher is of another MPI than that of mpi4py, "
                            f"{library()}. Use the mpiexec of that one; with Slurm, "
                            f"srun --mpi=pmi2. To train each alone: --no-mpi")
    if size == 1:
        return Alone()
    _end_together()
    return MPIRanks(MPI, timeout)


@cache
def _end_together():
    """Have an exception that nothing catches end all ranks, as under `python -m mpi4py`."""
    from mpi4py.run import set_abort_status
    show = sys.excepthook

    def hook(kind, error, traceback):
        show(kind, error, traceback)
        set_abort_status(error)     # when the interpreter ends, in place of waiting for the other ranks

    sys.excepthook = hook


@contextmanager
def _interruptible(seconds: float) -> Iterator[None]:
    """Within this context SIGTERM and Ctrl-C end the process at once, and so does SIGALRM after `seconds`.

    MPI starts by waiting, without a limit, for all processes of the launcher, and lets no handler of Python
    run meanwhile. What it makes of SIGHUP (MPICH 5 takes it, and does nothing) is undone afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
    before: dict[signal.Signals, Any] = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, signal.SIG_DFL)
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
        signal.setitimer(signal.ITIMER_REAL, seconds if seconds < _LONGEST_TIMER else 0)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def library() -> str:
    """Return which MPI library moves the arrays: "MPICH Version: 4.3.0"."""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split("\n")[0].split()).strip("\0")


class MPIRanks:
    """The Communicator of all processes of an MPI program.

    A wait polls, at first without a pause and then with longer ones of at most LONGEST_PAUSE, so that more
    ranks than cores do not hold each other up, whichever MPI it is. It raises LostRankError after `timeout`
    seconds, or when MPI says that another rank is gone.
    """

    def __init__(self, mpi: Any, timeout: float = TIMEOUT):
        self.world, self._all_ended, self._failure = mpi.COMM_WORLD, mpi.Request.Testall, mpi.Exception
        self.rank, self.size, self.host = self.world.rank, self.world.size, mpi.Get_processor_name()
        local = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        local.Free()
        self._watchdog: Watchdog | None = None
        name = np.array([self.host.encode()[:_LONGEST_NAME]], f"S{_LONGEST_NAME}")
        names = self.gather(name.view(np.uint8))
        hosts = [bytes(name).rstrip(b"\0").decode(errors="replace") for name in names]
        self._watchdog = Watchdog(mpi, hosts, timeout)

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int) -> _Transfer:
        # Messages from rank to rank: collectives take several rounds, each of which waits for a call of MPI.
        others = [(self.rank + i) % self.size for i in range(1, self.size)]
        requests = [self.world.Irecv(found[r].view(np.uint8), r, tag) for r in reversed(others)]
        requests += [self.world.Isend(parts[r].view(np.uint8), r, tag) for r in others]
        return _Transfer(requests, self._all_ended, self)

    def gather(self, array: np.ndarray) -> np.ndarray:
        found = np.empty((self.size, *array.shape), array.dtype)
        self.wait(self.world.Iallgather(np.ascontiguousarray(array), found))
        return found

    def abort(self) -> NoReturn:
        self.world.Abort(1)
        raise SystemExit(1)

    def wait(self, request: Any) -> None:
        """Return when a request of MPI, or a _Transfer, has ended."""
        if any(self.test(request) for _ in range(SPINS)):
            return
        if self._watchdog is not None:
            self._watchdog.begin()
        pause = 1e-5
        while not self.test(request):
            if self._watchdog is not None:
                self._watchdog.look()
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    def test(self, request: Any) -> bool:
        """Return whether a request has ended. Raises LostRankError if MPI says that another rank is gone."""
        try:
            return request.Test()
        except self._failure as error:
            raise LostRankError(f"an exchange with other ranks failed ({error}): one of them is gone, or the "
                                f"network to it") from error


class _Transfer:
    """Messages under way. MPI's requests hold their arrays."""

    def __init__(self, requests: list, all_ended: Any, ranks: MPIRanks):
        self.requests, self._all_ended, self._ranks = requests, all_ended, ranks

    def Test(self) -> bool:     # named as that of MPI's requests
        return self._all_ended(self.requests)

    def ready(self) -> bool:
        return self._ranks.test(self)

    def wait(self) -> None:
        self._ranks.wait(self)
