"""cuBLAS itself, called through ctypes.

CuPy's wrapper refuses every call while a stream is captured; cuBLAS does not. `backend.cuda.cublas` computes
the arguments; here are only pointers and numbers, as in NVIDIA's reference.
"""

import ctypes
import os
from ctypes import CDLL
from functools import lru_cache
from importlib import import_module
from threading import get_ident
from typing import Any

_STATUS = {1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH",
           11: "MAPPING_ERROR", 13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED",
           16: "LICENSE_ERROR"}
_HOST_POINTERS, _DEFAULT_MATH = 0, 0
_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_ARGUMENTS = {
    "cublasCreate_v2": (_P,),
    "cublasSetStream_v2": (_P, _P),
    "cublasSetWorkspace_v2": (_P, _P, ctypes.c_size_t),
    "cublasSetPointerMode_v2": (_P, _I),
    "cublasSetMathMode": (_P, _I),
    "cublasGemmEx": (*[_P, _I, _I, _I, _I, _I, _P], *[_P, _I, _I], *[_P, _I, _I], _P, *[_P, _I, _I], _I, _I),
    "cublasGemmStridedBatchedEx": (*[_P, _I, _I, _I, _I, _I, _P], *[_P, _I, _I, _L], *[_P, _I, _I, _L], _P,
                                   *[_P, _I, _I, _L], _I, _I, _I),
}


class CUBLASError(Exception):
    """cuBLAS refused a call; the message has the function and the status."""


def workspace_bytes(major: Any) -> Any:
    """Return the workspace size that NVIDIA recommends for a device of compute capability major.x."""
    return (32 if major >= 9 else 4) * 2**20


class CublasLibrary:
    """The functions of a loaded cuBLAS that we use, and a handle per thread and device.

    gemmEx and gemmStridedBatchedEx take the arguments of cublasGemmEx and cublasGemmStridedBatchedEx in the
    same order, all as int; alpha and beta are addresses in host memory. Raises CUBLASError if cuBLAS returns
    an error.
    """

    CUBLASError = CUBLASError

    def __init__(self, library: Any):
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype, function.errcheck = arguments, ctypes.c_int, _succeeded
        self._library = library
        self._handles: dict[tuple[int, int], _Handle] = {}       # by device and thread
        self.gemmEx, self.gemmStridedBatchedEx = library.cublasGemmEx, library.cublasGemmStridedBatchedEx

    def handle(self, device: int, stream: Any, new_workspace: Any) -> Any:
        """Return this thread's handle for the current device, set to a stream, given as its address.

        device: the current one. new_workspace() -> (address, bytes, owner) is called only for a new handle.
        If a thread uses several streams, they must wait for each other, because they share the workspace.
        """
        # Handles are never freed: a captured step goes on using the workspace of the thread that captured it.
        # The system reuses the ids of threads that have ended, and a new thread takes over the handle.
        key = device, get_ident()
        handle = self._handles.get(key)
        if handle is None:
            handle = self._handles[key] = self._new_handle(new_workspace)
        if handle.stream != stream:
            handle.stream = None
            self._library.cublasSetStream_v2(handle.address, stream)
            # That reset the workspace. Without one cuBLAS may allocate during a capture, and may choose
            # another algorithm, with other rounding, if several streams are in use.
            self._library.cublasSetWorkspace_v2(handle.address, *handle.workspace)
            handle.stream = stream
        return handle.address

    def _new_handle(self, new_workspace):
        *workspace, owner = new_workspace()
        address = ctypes.c_void_p()
        self._library.cublasCreate_v2(ctypes.byref(address))
        self._library.cublasSetPointerMode_v2(address, _HOST_POINTERS)
        self._library.cublasSetMathMode(address, _DEFAULT_MATH)
        return _Handle(address.value, workspace, owner)


class _Handle:
    __slots__ = ("address", "workspace", "owner", "stream")

    def __init__(self, address, workspace, owner):
        self.address, self.workspace, self.owner, self.stream = address, workspace, owner, None


def _succeeded(status, function, _arguments):
    if status:
        raise CUBLASError(f"{function.__name__}: CUBLAS_STATUS_{_STATUS.get(status, status)}")


@lru_cache
def load(major: Any) -> Any:
    """Return the CublasLibrary of CUDA `major`, the one that CuPy uses.

    Raises ImportError, OSError or AttributeError if there is none.
    """
    cupys_module("cublas")      # once that is loaded, the library's file name is enough
    return CublasLibrary(CDLL(file_name(major)))


def cupys_module(library: Any) -> Any:
    """Return CuPy's module for a CUDA library, e.g. "cublas". Raises ImportError if that is missing."""
    # As an attribute: only the package loads the library first, wherever pip, conda or the system put it.
    # Imported by its full name, the module would use the system's loader, which ignores pip's packages.
    libraries = import_module("cupy_backends.cuda.libs")
    try:
        return getattr(libraries, library)
    except AttributeError:      # CuPy before 14 does not search for libraries
        return import_module(f"{libraries.__name__}.{library}")


def file_name(major: Any, system: Any = os.name) -> Any:
    """Return the file name of cuBLAS of CUDA `major`."""
    return f"cublas64_{major}.dll" if system == "nt" else f"libcublas.so.{major}"
