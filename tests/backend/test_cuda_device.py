"""The CUDA device itself, with a CuPy that only pretends: which device, memory that runs out, what is
missing."""

import types

import numpy as np
import pytest

from minidrop.backend.cuda import backend as cupy_backend
from minidrop.backend.cuda import facts as cuda_facts
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.backend.cuda.facts import CudaFacts, Device
from minidrop.errors import BackendError

H200 = Device(0, "NVIDIA H200", 150 * 2**30, 149 * 2**30, "9.0")
GOOD = dict(devices=(H200,), driver=(12, 8), release="570.86.10", runtime=(12, 9), cupy="14.2.0",
            packages=("cupy-cuda12x",))


class OutOfMemory(MemoryError):
    pass


def make_cupy(count=2, room=10**6):
    """A CuPy whose arrays are NumPy's, with `count` devices of `room` bytes."""
    cupy = types.SimpleNamespace(__version__="14.2.0", ndarray=np.ndarray, asnumpy=np.asarray)
    state = cupy.state = types.SimpleNamespace(current=[0])

    class On:
        def __init__(self, index):
            self.id = index

        def __enter__(self):
            state.current.append(self.id)
            return self

        def __exit__(self, *_):
            state.current.pop()

    def allocate(shape, dtype=np.float64):
        size = np.prod(shape, dtype=object) * np.dtype(dtype).itemsize
        if size > room:
            raise OutOfMemory(f"Out of memory allocating {size:,} bytes")
        return np.empty(shape, dtype)

    def asarray(x, dtype=None):
        out = allocate(np.shape(x), dtype or np.asarray(x).dtype)
        out[...] = x
        return out

    cupy.empty, cupy.asarray = allocate, asarray
    properties = {"name": b"Pretender", "totalGlobalMem": room, "major": 9, "minor": 0}
    runtime = types.SimpleNamespace(
        CUDARuntimeError=RuntimeError, getDeviceCount=lambda: count,
        getDeviceProperties=lambda index: properties, runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 12080, memGetInfo=lambda: (room // 2, room))
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=On,
                                      get_current_stream=lambda: types.SimpleNamespace(ptr=0),
                                      memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemory))
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(total_bytes=lambda: 3000,
                                                                 used_bytes=lambda: 2000)
    return cupy


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(cupy_backend, "cupy", make_cupy())
    return cupy_backend.cupy


# -- which device --------------------------------------------------------------------------------------------
def test_the_second_device_is_the_second_device(cupy):
    backend = CupyBackend(1)
    assert (backend.name, backend.device.id) == ("cuda:1", 1)
    with backend.active():
        assert cupy.state.current == [0, 1]
    assert cupy.state.current == [0]
    assert (backend.describe() == "cuda:1 (Pretender, 0 GiB, CuPy 14.2.0, CUDA runtime 12.9, driver for CUDA "
            "12.8)")
    assert CupyBackend(0, "tf32").describe().endswith(", products in tf32)")


@pytest.mark.parametrize("count, reason", [(2, "there are 2 devices, numbered from 0"),
                                           (1, "there is 1 device, numbered from 0"),
                                           (0, "CuPy 14.2.0 finds no CUDA device")])
def test_a_device_beyond_the_last_one(monkeypatch, count, reason):
    monkeypatch.setattr(cupy_backend, "cupy", make_cupy(count))
    with pytest.raises(BackendError, match=f"^device cuda:{count} cannot be used: {reason}; use --device "
                       f"cpu, or see "
                                           f"`minidrop devices`$"):
        CupyBackend(count)


# -- memory --------------------------------------------------------------------------------------------------
ENDING = (r"; of its 1,000,000 bytes 500,000 are free, and 2,000 of the 3,000 held here are in use; make "
          r"batch_size or the layers smaller, or end what else runs on the device$")


def test_out_of_memory_says_what_was_asked_for(cupy):
    backend = CupyBackend(0)
    asked = r"^cuda:0 is out of memory: asked for float32 \(4096, 512\), 8,388,608 bytes"
    for allocate in (lambda: backend.empty((4096, 512), np.float32),
                     lambda: backend.zeros((4096, 512), "float32"),
                     lambda: backend.asarray(np.zeros((4096, 512), np.float32))):
        with pytest.raises(BackendError, match=asked + ENDING):
            allocate()
    with pytest.raises(BackendError, match=r"asked for float64 \(1000000,\), 8,000,000 bytes"):
        backend.empty(10**6, np.float64)
    assert backend.empty((10, 10), np.float32).shape == (10, 10)


def test_a_temporary_that_only_cupy_knows_is_explained_too(cupy):
    with pytest.raises(BackendError,
                       match=r"^cuda:0 is out of memory: Out of memory allocating 8,000,000 bytes" + ENDING):
        with CupyBackend(0).active():
            cupy.empty(10**6)


def test_other_errors_pass(cupy):
    with pytest.raises(ZeroDivisionError):
        with CupyBackend(0).active():
            1 / 0  # noqa: B018


def test_without_cublas_products_say_how_to_get_it(cupy, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", None)
    with pytest.raises(BackendError,
                       match=r"^cuda:0 cannot multiply: cuBLAS is missing \(.*\); install it with: python -m "
                                           r"pip install 'minidrop\[cuda12\]'$"):
        CupyBackend(0).blas.handle()


# -- minidrop devices ----------------------------------------------------------------------------------------
def test_a_machine_that_has_everything():
    assert CudaFacts(**GOOD).lines() == [
        "cuda:0 (NVIDIA H200, 150.0 GiB, 149.0 GiB free, compute capability 9.0)",
        "CUDA: driver 570.86.10 for CUDA 12.8, CUDA runtime 12.9, CuPy 14.2.0 (cupy-cuda12x)"]


@pytest.mark.parametrize("change, advice", [
    (dict(missing=(("cuBLAS", "no libcublas"),)),
     "The NVIDIA driver supports CUDA 12.8: python -m pip install 'minidrop[cuda12]'"),
    (dict(missing=(("NVRTC", "no libnvrtc"),), driver=(13, 0)),       # a CuPy for CUDA 12 stays one
     "The NVIDIA driver supports CUDA 13.0: python -m pip install 'minidrop[cuda12]'"),
    (dict(devices=(), cupy=None, packages=()),
     "The NVIDIA driver supports CUDA 12.8: python -m pip install 'minidrop[cuda12]'"),
    (dict(devices=(), cupy=None, packages=(), driver=(13, 1)),
     "The NVIDIA driver supports CUDA 13.1: python -m pip install 'minidrop[cuda13]'"),
    (dict(devices=(), cupy=None, packages=(), driver=(11, 8)),
     "The NVIDIA driver supports CUDA 11.8 only; install a driver for CUDA 12 or newer first"),
    (dict(devices=(), packages=("cupy-cuda13x",)),
     "cupy-cuda13x is for a newer CUDA than the driver's: python -m pip uninstall -y cupy-cuda13x && python "
     "-m pip install 'minidrop[cuda12]'"),
    (dict(packages=("cupy-cuda12x", "cupy-cuda13x"), driver=(13, 0)),
     "cupy-cuda13x stands beside another CuPy: keep one of them: python -m pip uninstall -y cupy-cuda12x "
     "cupy-cuda13x && python -m pip install 'minidrop[cuda13]'"),
    (dict(devices=(), driver=None, cupy=None, packages=()),
     "There is no NVIDIA driver either. With a GPU and its driver: python -m pip install 'minidrop[cuda12]' "
     "(or [cuda13] where nvidia-smi says CUDA 13)"),
])
def test_what_is_missing_comes_with_the_command_that_brings_it(change, advice):
    lines = CudaFacts(**{**GOOD, **change}).lines()
    assert lines[-1] == advice
    assert all(f"missing: {name} ({why})" in lines for name, why in change.get("missing", ()))


def test_facts_of_a_machine(cupy, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_facts, "_driver", lambda: (12, 8))
    monkeypatch.setattr(cuda_facts, "_RELEASE", tmp_path / "version")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Wed Feb 12 "
                                      "2025\nGCC: 12")
    monkeypatch.setattr(cuda_facts, "_packages", lambda: ("cupy-cuda12x",))
    monkeypatch.setattr(cuda_facts, "_missing", lambda library: ("cuBLAS", "gone") if library == "cublas"
                        else None)
    facts = cuda_facts.cuda_facts()
    assert facts == CudaFacts(tuple(Device(i, "Pretender", 10**6, 500_000, "9.0") for i in (0, 1)), "",
                              (12, 8), "570.86.10", (12, 9), "14.2.0", ("cupy-cuda12x",),
                              (("cuBLAS", "gone"),))
    assert cupy.state.current == [0]


def test_a_library_that_cannot_be_loaded_is_missing():
    missing = cuda_facts._missing("cublas")
    assert missing is None or (missing[0] == "cuBLAS" and missing[1])


def test_facts_of_this_machine_are_lines():
    lines = cuda_facts.cuda_facts().lines()
    assert lines and all(line and "\n" not in line for line in lines)
