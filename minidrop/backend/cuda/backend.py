"""One CUDA device through CuPy: products by cuBLAS, our own kernels, and generic `xp` methods otherwise.

Imported only on demand.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidrop.backend.cuda.blas import Blas
from minidrop.backend.cuda.blocks import CudaBlocks
from minidrop.backend.cuda.graphs import CudaGraph, Fetched, Graphs, fetch
from minidrop.backend.cuda.kept_tables import KeptTables
from minidrop.backend.cuda.kernels import CupyKernels
from minidrop.backend.cuda.nccl import NcclLink, nccl_module, unique_key
from minidrop.backend.cuda.products import CudaProducts
from minidrop.backend.cuda.uploads import Uploads
from minidrop.backend.generic.arrays import Linkable
from minidrop.errors import BackendError, CaptureError
from minidrop.kernels.loader import Cuda

try:
    import cupy
except ImportError:
    cupy = None


def device_count() -> tuple[int, str]:
    """Return (count, reason): the number of usable CUDA devices, and why there is none if it is 0."""
    if cupy is None:
        return 0, "CuPy is not installed; install it with: pip install 'minidrop[cuda12]' (or [cuda13])"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return 0, f"CuPy {cupy.__version__} finds no usable CUDA device ({error})"
    return count, "" if count else f"CuPy {cupy.__version__} finds no CUDA device"


class CupyBackend(CudaProducts, CudaBlocks, CupyKernels):
    """CUDA device `index`. `precision`: of products of float32 arrays, see `backend.cuda.products`.

    `blas` multiplies, `kernels` launches our own kernels, `tables` holds the kept sets that they read, and
    `graphs` captures. The base classes override operations of backend/generic.
    """

    captures = True

    def __init__(self, index: Any, precision: str = "float32"):
        count, reason = device_count()
        if index >= count:
            devices = f"there {'is 1 device' if count == 1 else f'are {count} devices'}, numbered from 0"
            raise BackendError(f"device cuda:{index} cannot be used: {reason or devices}; use --device cpu, "
                               f"or see `minidrop devices`")
        self.name = f"cuda:{index}"
        self.index = index
        self.precision = precision
        self.xp = cupy
        self.device = cupy.cuda.Device(index)
        self.graphs = Graphs(self.name, cupy, self.device)
        self.blas = Blas(self.name, index, cupy, self.graphs, self.empty)
        self.kernels = Cuda(index, cupy)
        self.tables = KeptTables(self)
        self._uploads = Uploads(cupy, self.device)

    def describe(self) -> str:
        properties = cupy.cuda.runtime.getDeviceProperties(self.index)
        precision = "" if self.precision == "float32" else f", products in {self.precision}"
        return (f"{self.name} ({properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} "
                f"GiB, CuPy {cupy.__version__}, CUDA runtime "
                f"{_version(cupy.cuda.runtime.runtimeGetVersion())}, driver for CUDA "
                f"{_version(cupy.cuda.runtime.driverGetVersion())}{precision})")

    # -- arrays ----------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: Any = None) -> np.ndarray:
        if self.capturing and not _is_on_a_device(x):
            raise CaptureError(f"{_name_of(x, dtype)} is needed from the host inside the step")
        with self.device, self._memory_explained(
                lambda: (np.shape(x), dtype or getattr(x, "dtype", np.float64))):
            return cupy.asarray(x, dtype)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        try:
            return cupy.empty(shape, dtype)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise self._out_of_memory(error, shape, dtype) from error

    def to_host(self, x: Any) -> np.ndarray:
        x = self._dense(x)
        return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else np.asarray(x)

    def pinned(self, x: Any) -> np.ndarray:
        return self._uploads.pinned(x)

    def upload(self, owner: Any, arrays: Any) -> Any:
        hosts = [x for x in arrays if not _is_on_a_device(x)]
        if self.capturing and hosts:
            raise CaptureError(f"a batch of {', '.join(_name_of(x) for x in hosts)} is needed from the host "
                               f"inside the step")
        with self._memory_explained():
            uploaded = iter(self._uploads.upload(owner, hosts, self.empty))
        return [self.asarray(x) if _is_on_a_device(x) else next(uploaded) for x in arrays]

    def send(self, target: Any, source: Any) -> None:
        if self.capturing:
            raise CaptureError(f"{_name_of(source)} is sent from the host inside the step")
        target.set(source, stream=cupy.cuda.get_current_stream())

    @contextmanager
    def active(self) -> Iterator:
        with self.device, self._memory_explained():
            yield

    # -- other processes -------------------------------------------------------------------------------------
    def linkable(self) -> Linkable:
        nccl, problem = nccl_module()
        if nccl is None:
            return Linkable(self.device.pci_bus_id, "", problem)
        version = nccl.get_version()
        return Linkable(self.device.pci_bus_id,
                        f"NCCL {version // 10000}.{version // 100 % 100}.{version % 100}")

    def link_key(self) -> bytes:
        return unique_key(nccl_module()[0])

    def link(self, key: bytes, rank: int, size: int) -> NcclLink:
        return NcclLink(cupy, nccl_module()[0], self.device, rank, size, key)

    def trim(self) -> None:
        self._uploads.trim()
        self.graphs.trim()
        cupy.get_default_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        self.device.synchronize()

    @contextmanager
    def _memory_explained(self, asked=None):
        """Turn CuPy's out-of-memory error into one that says what was requested and what is free."""
        try:
            yield
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise self._out_of_memory(error, *(asked() if asked else ())) from error

    def _out_of_memory(self, error, shape=None, dtype=None):
        """Return the BackendError of a failed allocation: of an array, or of a temporary within CuPy."""
        wanted = str(error)
        if shape is not None:
            shape = shape if isinstance(shape, tuple) else (shape,)
            size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
            wanted = f"asked for {np.dtype(dtype)} {tuple(map(int, shape))}, {size:,} bytes"
        with self.device:
            free, total = cupy.cuda.runtime.memGetInfo()
            pool = cupy.get_default_memory_pool()
            held, used = pool.total_bytes(), pool.used_bytes()
        return BackendError(f"{self.name} is out of memory: {wanted}; of its {total:,} bytes {free:,} are "
                            f"free, and {used:,} of the {held:,} held here are in use; make batch_size or "
                            f"the layers smaller, or end what else runs on the device")

    # -- captures --------------------------------------------------------------------------------------------
    def capture(self, work: Callable) -> CudaGraph:
        was = self.capturing

        def captured():
            self.capturing = True
            try:
                work()
            finally:
                self.capturing = was

        # A thread without a cuBLAS handle could not create one during the capture.
        return self.graphs.capture(captured, self.blas.handle)

    def fetch(self, x: Any) -> Fetched:
        return fetch(cupy, x)


def _is_on_a_device(x):
    # of CuPy, or of other libraries
    return isinstance(x, cupy.ndarray) or hasattr(x, "__cuda_array_interface__")


def _name_of(x, dtype=None):
    """Return dtype and shape of a host array, for messages."""
    x = np.asarray(x)
    return f"{np.dtype(dtype or x.dtype)} {x.shape}"


def _version(number):
    """Return CUDA's version number as text: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
