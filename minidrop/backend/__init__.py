"""Devices: `get_backend("cpu" | "cuda:N" | "auto")`."""

import re
from functools import lru_cache

from minidrop.backend.base import Backend, sigmoid
from minidrop.backend.numpy_backend import NumpyBackend
from minidrop.errors import BackendError

__all__ = ["Backend", "NumpyBackend", "backend_of", "cuda_devices", "get_backend", "sigmoid"]


def get_backend(device="auto"):
    """Return the Backend of "cpu", "cuda:N" or "auto" (a GPU where there is one); BackendError if it cannot be used."""
    if isinstance(device, Backend):
        return device
    if device == "auto":
        return _cached("cuda:0" if cuda_devices()[0] else "cpu")
    if device == "cpu":
        return _cached("cpu")
    found = re.fullmatch(r"cuda(?::(\d{1,3}))?", str(device))
    if not found:
        raise BackendError(f"unknown device {device!r}: expected auto, cpu or cuda:N")
    return _cached(f"cuda:{int(found[1] or 0)}")


@lru_cache
def _cached(name):
    if name == "cpu":
        return NumpyBackend()
    from minidrop.backend.cupy_backend import CupyBackend
    return CupyBackend(int(name[5:]))


@lru_cache
def cuda_devices():
    """Return (count, reason why there are none)."""
    from minidrop.backend.cupy_backend import device_count
    return device_count()


def backend_of(array):
    """Return the backend on whose device an array lives."""
    if type(array).__module__.partition(".")[0] == "cupy":
        return _cached(f"cuda:{array.device.id}")
    return _cached("cpu")
