"""Devices: `get_backend("cpu" | "cuda:N" | "auto")`."""

import re
from contextlib import suppress
from functools import lru_cache

import numpy as np

from minidrop.backend.generic import PRECISIONS, Backend, sigmoid
from minidrop.backend.numpy import NumpyBackend
from minidrop.errors import BackendError, in_short, nearest

__all__ = ["PRECISIONS", "Backend", "NumpyBackend", "backend_of", "cuda_devices", "get_backend", "sigmoid"]


def get_backend(device: str | Backend = "auto", precision: str = "float32") -> Backend:
    """Return the Backend of "cpu", "cuda:N" or "auto" (a GPU if there is one).

    precision: of products, one of PRECISIONS. A Backend is returned unchanged. Raises BackendError if the
    device cannot be used or does not support the precision.
    """
    if isinstance(device, Backend):
        return device
    if precision not in PRECISIONS:
        raise BackendError(f"unknown precision {in_short(precision)}{nearest(precision, PRECISIONS)} (known: "
                           f"{', '.join(PRECISIONS)})")
    if isinstance(device, str) and device == "auto":
        device = "cuda:0" if cuda_devices()[0] else "cpu"
    text = ""
    with suppress(Exception):       # of a value that has no text
        text = str(device)
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", text)
    if not found:
        raise BackendError(f"unknown device {in_short(device)}: expected auto, cpu or cuda:N")
    return _cached("cpu" if found[0] == "cpu" else f"cuda:{int(found[1] or 0)}", precision)


@lru_cache
def _cached(name, precision):
    if name == "cpu":
        if precision != "float32":
            raise BackendError(f"precision {precision} needs a GPU: on the CPU products are in float32 or "
                               f"float64, the type of all numbers; remove it, or choose --device cuda:N")
        return NumpyBackend()
    from minidrop.backend.cuda.backend import CupyBackend
    return CupyBackend(int(name[5:]), precision)


@lru_cache
def cuda_devices() -> tuple[int, str]:
    """Return (number of CUDA devices, reason why there are none)."""
    from minidrop.backend.cuda.backend import device_count
    return device_count()


def backend_of(array: np.ndarray) -> Backend:
    """Return the Backend of the device that holds an array."""
    if type(array).__module__.partition(".")[0] == "cupy":
        return _cached(f"cuda:{_number(array)}", "float32")
    return _cached("cpu", "float32")


def _number(array):
    """Return the number of the CUDA device that holds a CuPy array."""
    return array.device.id
