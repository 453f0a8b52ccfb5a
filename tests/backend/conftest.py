"""cuBLAS on the host, to check what it is asked for."""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from minidrop.backend import Backend, cuda_devices, get_backend
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.backend.cuda.blas import Blas
from minidrop.backend.cuda.cublas import Gemm
from minidrop.backend.cuda.cublas_library import CUBLASError
from minidrop.backend.cuda.products import CudaProducts


@pytest.fixture(scope="session")
def interpret():
    return run_calls


def run_calls(calls, a, b, c):
    """Do what cuBLAS does with Gemm calls for our operands a and b and result c, flat NumPy arrays; c is
    changed.

    An access outside its buffer raises IndexError; an argument that cuBLAS refuses, and two products of a
    batch that write the same element, raise ValueError.
    """
    for call in calls:
        _check(call)
        written = np.zeros(c.size, bool)
        for i in range(call.batch):
            # cuBLAS's first operand is our second.
            of_left = (call.k, call.m) if call.transa else (call.m, call.k)
            of_right = (call.n, call.k) if call.transb else (call.k, call.n)
            left = b[_places(b, call.a + i * call.stride_a, call.lda, *of_left)]
            right = a[_places(a, call.b + i * call.stride_b, call.ldb, *of_right)]
            place = _places(c, call.c + i * call.stride_c, call.ldc, call.m, call.n)
            if written[place].any():
                raise ValueError(f"{call}: products of one batch write the same elements")
            written[place] = True
            with np.errstate(all="ignore"):         # a GPU says nothing of infinities either
                product = (left.T if call.transa else left) @ (right.T if call.transb else right)
                result = call.alpha * product
            # With beta = 0 the old value is not read: it may be a NaN.
            c[place] = result + call.beta * c[place] if call.beta else result


def _places(buffer, offset, ld, rows, columns):
    """Return where the elements (rows, columns) of a column-major matrix stand in a buffer."""
    place = offset + np.arange(rows)[:, None] + ld * np.arange(columns)
    if not 0 <= place.min() <= place.max() < buffer.size:
        raise IndexError(f"elements {place.min()} .. {place.max()} of a buffer of {buffer.size}")
    return place


def _check(call):
    """The conditions in cuBLAS's reference for gemm and gemmStridedBatched."""
    numbers = (call.m, call.n, call.k, call.lda, call.ldb, call.ldc, call.batch)
    if min(numbers) < 1 or max(numbers) >= 2**31:
        raise ValueError(f"{call}: sizes must be positive and fit 32 bits")
    least = (call.k if call.transa else call.m, call.n if call.transb else call.k, call.m)
    if any(ld < rows for ld, rows in zip((call.lda, call.ldb, call.ldc), least, strict=True)):
        raise ValueError(f"{call}: leading dimensions must be at least {least}")
    if call.batch > 1 and call.routine != "gemmStridedBatched":
        raise ValueError(f"{call}: a batch needs gemmStridedBatched")


# -- cuBLAS on host memory -----------------------------------------------------------------------------------
TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: np.dtype(np.uint16)}


class HostCublas:
    """What `backend.cublas_library` offers, with the same order of arguments, on pointers to host memory.

    Knows the combinations of types that cuBLAS's reference lists for C in float32 or float64; `calls` records
    their routines.
    """

    CUBLASError = CUBLASError

    def __init__(self):
        self.calls = []

    def gemmEx(self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype,
               ldc, computeType, algo):
        self.calls.append("gemmEx")
        self._run(transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0,
                  1, computeType)

    def gemmStridedBatchedEx(self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype,
                             ldb, strideB, beta, C, Ctype, ldc, strideC, batchCount, computeType, algo):
        self.calls.append("gemmStridedBatchedEx")
        self._run(transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C,
                  Ctype, ldc, strideC, batchCount, computeType)

    def _run(self, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C,
             Ctype, ldc, strideC, batch, compute):
        for number in (m, n, k, alpha, A, lda, strideA, B, ldb, strideB, beta, C, ldc, strideC, batch):
            assert type(number) is int, f"ctypes takes no {type(number).__name__} for a pointer or a size"
        if (Atype, Btype, Ctype, compute) not in ((0, 0, 0, 68), (0, 0, 0, 77), (1, 1, 1, 70), (2, 2, 0, 68),
                                                  (14, 14, 0, 68)):
            raise self.CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
        alpha, beta = (float(seen(p, 1, TYPES[1 if compute == 70 else 0])[0]) for p in (alpha, beta))
        call = Gemm(bool(transa), bool(transb), m, n, k, 0, lda, 0, ldb, 0, ldc, alpha, beta, batch, strideA,
                    strideB, strideC)
        sizes = [ld * (columns - 1) + rows + stride * (batch - 1) for ld, stride, rows, columns in (
            (lda, strideA, *((k, m) if transa else (m, k))), (ldb, strideB, *((n, k) if transb else (k, n))),
            (ldc, strideC, m, n))]
        a, b = (values(seen(p, size, TYPES[kind]), compute)
                for p, size, kind in ((A, sizes[0], Atype), (B, sizes[1], Btype)))
        run_calls([call], b, a, seen(C, sizes[2], TYPES[Ctype]))


def seen(pointer, count, dtype):
    """Return `count` numbers of host memory as an array."""
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(pointer), dtype)


def values(numbers, compute):
    """Return operands as cuBLAS multiplies them: bfloat16 from its bits, TF32 with 10 bits after the
    point."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    if compute == 77:
        return ((numbers.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return numbers if numbers.dtype == np.float64 else numbers.astype(np.float32)


class HostBlas(Blas):
    """The CUDA backend's `blas` on host memory."""

    def __init__(self, name):
        self.name, self.library = name, HostCublas()

    def handle(self):
        return self.library, 0

    def pointer(self, array):
        return array.ctypes.data


class HostCuda(CudaProducts, Backend):
    """Everything of the CUDA backend's products but the device."""

    name = "cuda:0 on the host"

    def __init__(self, precision="float32"):
        self.precision, self.blas = precision, HostBlas(self.name)

    def to_host(self, x):
        return np.asarray(self._dense(x))


@pytest.fixture
def host_cuda():
    """host_cuda(precision="float32") -> a backend whose products go the CUDA backend's way, on host
    memory."""
    return HostCuda


@pytest.fixture(scope="session")
def emulated_cuda(emulation):
    """emulated_cuda(precision="float32") -> all that CupyBackend overrides, on host memory: cuBLAS above the
    kernels."""
    class EmulatedCuda(HostCuda, emulation.EmulatedBackend):
        def __init__(self, precision="float32"):
            HostCuda.__init__(self, precision)
            emulation.EmulatedBackend.start(self, device)

    device = emulation.Emulator()       # compiles each kernel once
    ours, theirs = ([kind for kind in backend.__mro__ if kind.__module__.startswith("minidrop.")]
                    for backend in (EmulatedCuda, CupyBackend))
    assert ours == theirs[1:], "CupyBackend resolves its methods in another order"
    return EmulatedCuda


@pytest.fixture(scope="session")
def recorded_cuda(emulated_cuda):
    """recorded_cuda(precision="float32") -> an emulated_cuda that captures steps and replays them: see
    recording.py."""
    neighbour("recorded_arrays")
    return neighbour("recording").recorded(emulated_cuda)


@pytest.fixture
def own_layer():
    """A layer type of a user's own, "OwnDouble": y = 2 x; with `asks` it looks at a value."""
    from minidrop import functions
    from minidrop.layers import Layer, base, register_layer
    from minidrop.layers.flow import Pass

    class Double(Layer):
        asks = False

        def flow(self, shapes):
            return [Pass(keeps_zero=True)]

        def forward(self, x):
            if self.asks and float(x.data.sum()) > 1e9:
                raise AssertionError
            return functions.scale(x, 2.0)

    with base._types.forgetting():
        register_layer("OwnDouble")(Double)
        yield Double


@pytest.fixture
def linked_cuda(recorded_cuda):
    """linked_cuda(communicator) -> a recorded_cuda of a rank, which NCCL links to those of the others; its
    `fake` is what is called. In a graph the link's work runs where the stream that computes waits for it."""
    from minidrop.backend.cuda.nccl import NcclLink, unique_key
    from minidrop.backend.generic.arrays import Linkable
    fake_nccl = neighbour("fake_nccl")

    class Tapes(NcclLink):
        def pointer(self, array):
            assert array.array.flags.c_contiguous
            return array.array.ctypes.data

    class Linked(recorded_cuda):
        def __init__(self, communicator):
            super().__init__()
            self.fake, recorder = fake_nccl.Fake(communicator), self.recorder
            recorder.beside = lambda: self.fake.now.name == "link"
            self.fake.joined = lambda: recorder.graph is None or recorder.graph.join()
            self.fake.run = lambda pointers, exchange: recorder.run("messages", [
                memory for memory in recorder.live if any(map(memory.holds, pointers))], exchange)

        def linkable(self):
            return Linkable(f"GPU {self.fake.world.rank}", "NCCL 2.27.3")

        def link_key(self):
            return unique_key(self.fake.nccl)

        def link(self, key, rank, size):
            return Tapes(self.fake.cupy, self.fake.nccl, fake_nccl.Device(), rank, size, key)
    return Linked


def neighbour(name):
    """Return a module of this folder; from then on others can import it by its name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(params=["cpu", "emulated", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def any_backend(request):
    """Also all that the CUDA backend overrides, kernels and products, run on the host."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated_cuda")()
    return request.getfixturevalue("backend_of_name")(request.param)


@pytest.fixture
def array(rng, dtype):
    """array(shape, layout) -> random numbers in that memory layout."""
    def make(shape, layout="contiguous"):
        if layout == "transposed":
            return rng.standard_normal(shape[::-1]).astype(dtype).T
        if layout == "strided":
            return rng.standard_normal([2 * n
                                        for n in shape]).astype(dtype)[tuple(slice(None, None, 2)
                                                                             for _ in shape)]
        return rng.standard_normal(shape).astype(dtype)
    return make


@pytest.fixture(params=["cpu", "host cuda", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def product_backend(request, host_cuda):
    """Those of `any_backend`, and the CUDA backend's products on host memory."""
    if request.param == "cuda:0" and not cuda_devices()[0]:
        pytest.skip(cuda_devices()[1])
    return host_cuda() if request.param == "host cuda" else get_backend(request.param)
