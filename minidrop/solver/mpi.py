"""MPI: the Communicator of processes that an MPI launcher such as mpiexec started, through mpi4py."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from minidrop.errors import ParallelError
from minidrop.solver.communicator import Alone, Communicator

# What launchers tell a process of the number of its fellows: MPICH and others with PMI, Open MPI, Slurm.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_LAUNCHERS = (*_SIZES, "PMIX_RANK")
SPINS = 200                         # polls without a pause
LONGEST_PAUSE = 1e-3                # seconds


def launched_size(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a launcher says it started with this one; 1 if there is no launcher."""
    found = [int(environment[name]) for name in _SIZES if environment.get(name, "").isdecimal()]
    return max(found, default=1)


def world(environment: Mapping[str, str] = os.environ) -> Communicator:
    """Return the Communicator of the processes that a launcher started with this one.

    Alone, without loading MPI, if there is no launcher. Raises ParallelError if mpi4py is missing, or if its
    MPI does not find the processes that the launcher speaks of.
    """
    if not any(name in environment for name in _LAUNCHERS):
        return Alone()
    wanted = launched_size(environment)
    # Read when MPI starts: the program says itself why it ends.
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"     # reader threads call no MPI
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
                            f"{MPI.Get_library_version()[:40]!r}. Use the mpiexec of that one; with Slurm, "
                            f"srun --mpi=pmi2. To train each alone: --no-mpi")
    return MPIRanks(MPI) if size > 1 else Alone()


class MPIRanks:
    """The Communicator of all processes of an MPI program.

    A wait polls, at first without a pause and then with longer ones of at most LONGEST_PAUSE, so that more
    ranks than cores do not hold each other up, whichever MPI it is.
    """

    def __init__(self, mpi: Any):
        self.world, self._all_ended = mpi.COMM_WORLD, mpi.Request.Testall
        self.rank, self.size, self.host = self.world.rank, self.world.size, mpi.Get_processor_name()
        local = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        local.Free()

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int) -> _Transfer:
        # Messages from rank to rank: collectives take several rounds, each of which waits for a call of MPI.
        others = [(self.rank + i) % self.size for i in range(1, self.size)]
        requests = [self.world.Irecv(found[r].view(np.uint8), r, tag) for r in reversed(others)]
        requests += [self.world.Isend(parts[r].view(np.uint8), r, tag) for r in others]
        return _Transfer(requests, self._all_ended, _wait)

    def gather(self, array: np.ndarray) -> np.ndarray:
        found = np.empty((self.size, *array.shape), array.dtype)
        _wait(self.world.Iallgather(np.ascontiguousarray(array), found))
        return found

    def abort(self) -> NoReturn:
        self.world.Abort(1)
        raise SystemExit(1)


class _Transfer:
    """Messages under way. MPI's requests hold their arrays."""

    def __init__(self, requests, all_ended, wait):
        self.requests, self._all_ended, self._wait = requests, all_ended, wait

    def Test(self) -> bool:     # named as that of MPI's requests
        return self._all_ended(self.requests)

    def ready(self) -> bool:
        return self.Test()

    def wait(self) -> None:
        self._wait(self)


def _wait(request):
    pause = 1e-5
    for _ in range(SPINS):
        if request.Test():
            return
    while not request.Test():
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)
