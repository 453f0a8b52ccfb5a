"""Where nets and solvers that are made from now on run, and from what seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from minidrop.backend import cuda_devices
from minidrop.errors import BackendError

log = logging.getLogger("minidrop.caffe")


@dataclass
class _Chosen:
    gpu: bool = False
    number: int = 0
    seed: int | None = None


_chosen = _Chosen()


def set_mode_cpu() -> None:
    """Let nets and solvers made from now on run on the CPU, as they do at first."""
    _chosen.gpu = False


def set_mode_gpu() -> None:
    """Let nets and solvers made from now on run on the GPU, with a warning on the CPU where there is none.

    The arrays of their blobs are then CuPy's: `array.get()` copies one to the host.
    """
    _chosen.gpu = True
    if not cuda_devices()[0]:
        log.warning("set_mode_gpu: no GPU can be used here (%s); running on the CPU", cuda_devices()[1])


def set_device(number: int) -> None:
    """Choose the GPU of `set_mode_gpu` by its number. Raises BackendError where there are others only."""
    count = cuda_devices()[0]
    if number < 0 or count and number >= count:
        raise BackendError(f"set_device: expected a number of 0 to {max(0, count - 1)}, got {number}")
    _chosen.number = number


def set_random_seed(seed: int) -> None:
    """Let everything random in nets and solvers made from now on follow from `seed`.

    A random_seed in a solver file counts more. Without either a net has the seed 0, a solver a random one.
    """
    _chosen.seed = int(seed)


def device() -> str:
    """Return the device that is chosen, "cpu" or "cuda:N"."""
    return f"cuda:{_chosen.number}" if _chosen.gpu and cuda_devices()[0] else "cpu"


def seed() -> int | None:
    """Return the seed that is set, None if none is."""
    return _chosen.seed
