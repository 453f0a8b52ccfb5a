"""cuBLAS itself, called through ctypes: CuPy's wrapper refuses every call while a stream is captured, cuBLAS
does not.

What is asked of it is computed in `backend.cublas`; everything here is pointers and numbers, as in NVIDIA's
reference.
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
    """cuBLAS refused a call; names the function and the status."""


def workspace_bytes(major: Any) -> Any:
    """Return how much memory NVIDIA recommends to give cuBLAS on a device of compute capability major.x."""
    return (32 if major >= 9 else 4) * 2**20


class CublasLibrary:
    """The functions of a loaded cuBLAS that we use, and a handle for each thread and device.

    gemmEx and gemmStridedBatchedEx take the arguments of cublasGemmEx and cublasGemmStridedBatchedEx in their
    order, all of them int; alpha and beta are addresses in host memory. CUBLASError where cuBLAS returns an
    error.
    """

    CUBLASError = CUBLASError

    def __init__(self, library: Any):
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype, function.errcheck = arguments, ctypes.c_int, _succeeded
        self._library = library
        self._handles = {}
        self.gemmEx, self.gemmStridedBatchedEx = library.cublasGemmEx, library.cublasGemmStridedBatchedEx

    def handle(self, device: str, stream: Any, new_workspace: Any) -> Any:
        """Return this thread's handle of a device, which must be the current one, working on a stream, given
        as its address.

        new_workspace() -> (address, bytes, owner) is called for a new handle alone. What a thread runs on
        several streams must wait for each other, since they share it.
        """
        # Handles are for ever: a captured step goes on to use the workspace of the thread that captured it.
        # The system gives the number of a thread that has ended to another one, which takes its handle over.
        key = device, get_ident()
        handle = self._handles.get(key)
        if handle is None:
            handle = self._handles[key] = self._new_handle(new_workspace)
        if handle.stream != stream:
            handle.stream = None
            self._library.cublasSetStream_v2(handle.address, stream)
            # That took the workspace away. Without one of its own cuBLAS may allocate inside of a capture,
            # and choose another algorithm, which rounds otherwise, when several streams are at work.
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
    """Return the CublasLibrary of CUDA `major`, that which CuPy uses. ImportError, OSError or AttributeError
    without one."""
    cupys_module("cublas")      # once that is there, the library's name is enough
    return CublasLibrary(CDLL(file_name(major)))


def cupys_module(library: Any) -> Any:
    """Return CuPy's own module of a library of CUDA, say "cublas". ImportError where that library is not
    found."""
    # As an attribute: only its package loads the library first, from where pip, conda or the system put it.
    # Imported by its full name, the module would look where the system's loader looks, which knows nothing of
    # pip's packages.
    libraries = import_module("cupy_backends.cuda.libs")
    try:
        return getattr(libraries, library)
    except AttributeError:      # a CuPy before 14 finds nothing for anybody
        return import_module(f"{libraries.__name__}.{library}")


def file_name(major: Any, system: Any = os.name) -> Any:
    """Return what the cuBLAS of CUDA `major` is called."""
    return f"cublas64_{major}.dll" if system == "nt" else f"libcublas.so.{major}"
