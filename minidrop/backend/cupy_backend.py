"""One CUDA device through CuPy; imported only when asked for. What runs our own kernels stands in cupy_kernels.py."""

from functools import lru_cache

import numpy as np

from minidrop.backend.cupy_kernels import CupyKernels
from minidrop.errors import BackendError
from minidrop.kernels.loader import Cuda

try:
    import cupy
except ImportError:
    cupy = None


def device_count():
    """Return (count, reason): how many CUDA devices can be used, and why none where it is 0."""
    if cupy is None:
        return 0, "CuPy is not installed; install it with: pip install 'minidrop[cuda12]' (or [cuda13])"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return 0, f"CuPy {cupy.__version__} finds no usable CUDA device ({error})"
    return count, "" if count else f"CuPy {cupy.__version__} finds no CUDA device"


class CupyBackend(CupyKernels):
    """Runs on CUDA device `index`."""

    def __init__(self, index):
        count, reason = device_count()
        if index >= count:
            raise BackendError(f"device cuda:{index} cannot be used: {reason or f'there are {count} devices'}; "
                               f"use --device cpu, or see `minidrop devices`")
        self.name = f"cuda:{index}"
        self.index = index
        self.xp = cupy
        self.device = cupy.cuda.Device(index)
        self.kernels = Cuda(index)
        self._start_kernels()
        self._device_index = lru_cache(maxsize=256)(lambda kept: cupy.asarray(kept.indices))

    def describe(self):
        properties = cupy.cuda.runtime.getDeviceProperties(self.index)
        return (f"{self.name} ({properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, "
                f"CuPy {cupy.__version__}, CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()})")

    def asarray(self, x, dtype=None):
        with self.device:
            return self._guarded(lambda: cupy.asarray(x, dtype))

    def empty(self, shape, dtype):
        return self._guarded(lambda: cupy.empty(shape, dtype))

    def to_host(self, x):
        return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else np.asarray(x)

    def active(self):
        return self.device

    def trim(self):
        cupy.get_default_memory_pool().free_all_blocks()

    def synchronize(self):
        self.device.synchronize()

    def _index(self, kept):
        return kept.index if isinstance(kept.index, slice) else self._device_index(kept)

    def _guarded(self, allocate):
        try:
            return allocate()
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise BackendError(f"{self.name} is out of memory: {error}; make batch_size or the layers smaller") from error


