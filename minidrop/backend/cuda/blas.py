"""cuBLAS on one device: a handle per thread, and launching the calls that `cublas.py` computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from minidrop.backend.cuda import cublas_library
from minidrop.backend.cuda.cublas import Gemm
from minidrop.backend.cuda.graphs import Graphs
from minidrop.errors import BackendError, CaptureError

# cudaDataType of the operands and of the result, cublasComputeType_t, and the dtype of alpha and beta.
_TYPES = {
    "float32": (0, 0, 68, np.float32),
    "float64": (1, 1, 70, np.float64),
    "tf32": (0, 0, 77, np.float32),
    "float16": (2, 0, 68, np.float32),
    "bfloat16": (14, 0, 68, np.float32),
}
_DEFAULT_ALGORITHM = -1


class Blas:
    """cuBLAS for the arrays of one device.

    name, index: of the device; cupy: the module; graphs: the device's Graphs; empty(shape, dtype): allocates.
    """

    def __init__(self, name: str, index: int, cupy: Any, graphs: Graphs, empty: Callable):
        self.name, self._index, self._cupy, self._graphs, self._empty = name, index, cupy, graphs, empty
        self._library: cublas_library.CublasLibrary | None = None

    def handle(self) -> tuple[Any, int]:
        """Return (cuBLAS, this thread's handle for the device, set to the current stream).

        Raises BackendError if cuBLAS is missing or does not start.
        """
        runtime = self._cupy.cuda.runtime
        if self._library is None:
            try:
                self._library = cublas_library.load(runtime.runtimeGetVersion() // 1000)
            except (ImportError, OSError, AttributeError) as error:     # CuPy imports without CUDA libraries
                major = runtime.driverGetVersion() // 1000
                raise BackendError(f"{self.name} cannot multiply: cuBLAS is missing "
                                   f"({str(error).splitlines()[0]}); install it with: python -m pip install "
                                   f"'minidrop[cuda{13 if major >= 13 else 12}]'") from error
        try:
            return self._library, self._library.handle(self._index, self._cupy.cuda.get_current_stream().ptr,
                                                       self._new_workspace)
        except cublas_library.CUBLASError as error:
            raise BackendError(f"{self.name} cannot multiply: cuBLAS does not start: {error}") from error

    def launch(self, calls: Iterable[Gemm], a: Any, b: Any, out: Any, kind: str) -> None:
        """Run Gemm calls on three arrays, in order.

        kind: of the operands, a key of _TYPES. Raises BackendError if cuBLAS refuses a call.
        """
        blas, handle = self.handle()
        operand_type, result_type, compute, scalar = _TYPES[kind]
        pointer_a, pointer_b, pointer_c = (self.pointer(array) for array in (a, b, out))
        for call in calls:
            left = (pointer_b + call.a * b.itemsize, operand_type, call.lda)
            right = (pointer_a + call.b * a.itemsize, operand_type, call.ldb)
            result = (pointer_c + call.c * out.itemsize, result_type, call.ldc)
            shape = (handle, int(call.transa), int(call.transb), call.m, call.n, call.k,
                     _scalar(call.alpha, scalar)[0])
            beta, _alive = _scalar(call.beta, scalar)
            end = (compute, _DEFAULT_ALGORITHM)
            try:
                if call.routine == "gemm":
                    blas.gemmEx(*shape, *left, *right, beta, *result, *end)
                else:
                    blas.gemmStridedBatchedEx(*shape, *left, call.stride_a, *right, call.stride_b, beta,
                                              *result, call.stride_c, call.batch, *end)
            except blas.CUBLASError as error:
                raise BackendError(f"{self.name}: cuBLAS refused a product in {kind}: {error}; "
                                   f"{call}") from error

    def pointer(self, array: Any) -> int:
        """Return the device address of an array."""
        return array.data.ptr

    def _new_workspace(self):
        if self._graphs.held is not None:
            raise CaptureError(f"{self.name}: cuBLAS cannot be started while a graph is captured; multiply "
                               f"once before, in the same thread")
        size = cublas_library.workspace_bytes(
            self._cupy.cuda.runtime.getDeviceProperties(self._index)["major"])
        memory = self._empty((size,), np.uint8)
        return memory.data.ptr, size, memory


@lru_cache(maxsize=256)
def _scalar(value, dtype):
    """Return (pointer, array) of a number on the host; the array must live as long as the pointer is used."""
    array = np.array(value, dtype)
    return array.ctypes.data, array
