"""cuBLAS through ctypes: a library of its functions' signatures, compiled here, says what arrives."""

import ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidrop.backend.cuda import backend as cupy_backend
from minidrop.backend.cuda import cublas_library
from minidrop.backend.cuda import facts as cuda_facts
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.backend.cuda.cublas_library import CUBLASError, CublasLibrary, workspace_bytes
from minidrop.errors import BackendError, CaptureError

COMPILER = next((found for found in map(shutil.which, ("g++", "c++", "clang++")) if found), None)
BIG = 2**40         # more than 32 bits hold


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    if not COMPILER:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to make a cuBLAS that only writes down its calls")
    library = tmp_path_factory.mktemp("cublas") / cublas_library.file_name(12)
    subprocess.run([COMPILER, "-std=c++17", "-shared", "-fPIC",
                    str(Path(__file__).with_name("fake_cublas.cpp")), "-o", str(library)], check=True)
    return library


@pytest.fixture
def fake(path):
    """fake.calls() -> the calls since the last time, as [name, *numbers]; fake.answer(name, status) from now
    on."""
    library = ctypes.CDLL(str(path))
    library.calls.restype = ctypes.c_char_p

    def calls():
        lines = [line.split() for line in library.calls().decode().splitlines()]
        library.forget()
        return [[name, *map(int, numbers)] for name, *numbers in lines]

    answered = set()

    def answer(name, status):
        answered.add(name)
        library.answer(name.encode(), status)

    calls()
    yield SimpleNamespace(library=library, calls=calls, answer=answer)
    for name in answered:
        library.answer(name.encode(), 0)


@pytest.fixture
def blas(fake):
    return CublasLibrary(fake.library)


def workspace():
    return BIG + 512, 4 * 2**20, "the memory"


def test_every_argument_arrives_in_its_place(blas, fake):
    """Numbers that differ, pointers beyond 32 bits, and the default algorithm, which is negative."""
    arguments = [BIG + 1, 0, 1, 3, 4, 5, BIG + 6, BIG + 7, 14, 8, BIG + 9, 2, 10, BIG + 11, BIG + 12, 0, 13,
                 68, -1]
    blas.gemmEx(*arguments)
    assert fake.calls() == [["gemm", *arguments]]
    arguments = [BIG + 1, 1, 0, 3, 4, 5, BIG + 6, BIG + 7, 14, 8, BIG + 70, BIG + 9, 2, 10, -BIG, BIG + 11,
                 BIG + 12, 1, 13, BIG + 14, 2**31 - 1, 77, -1]
    blas.gemmStridedBatchedEx(*arguments)
    assert fake.calls() == [["batch", *arguments]]


def test_other_types_than_int_are_no_arguments(blas, fake):
    arguments = [BIG + 1, 0, 1, 3, 4, 5, BIG, BIG, 0, 8, BIG, 0, 10, BIG, BIG, 0, 13, 68, -1]
    for place in (3, 6, 9):
        wrong = list(arguments)
        wrong[place] = 3.0
        with pytest.raises(ctypes.ArgumentError, match=f"argument {place + 1}"):
            blas.gemmEx(*wrong)
    assert fake.calls() == []


def test_a_new_handle_is_set_up_once(blas, fake):
    handle = blas.handle(0, 0, workspace)
    assert handle > 2**32
    assert fake.calls() == [["create"], ["pointers", handle, 0], ["math", handle, 0], ["stream", handle, 0],
                            ["workspace", handle, BIG + 512, 4 * 2**20]]
    assert blas.handle(0, 0, workspace) == handle and fake.calls() == []


def test_another_stream_takes_the_workspace_away_so_it_is_given_again(blas, fake):
    handle = blas.handle(0, 0, workspace)
    fake.calls()
    for stream in (BIG + 3, 0):
        for _ in range(2):
            assert blas.handle(0, stream, workspace) == handle
        assert fake.calls() == [["stream", handle, stream], ["workspace", handle, BIG + 512, 4 * 2**20]]


def test_a_failed_change_of_streams_is_tried_again(blas, fake):
    handle = blas.handle(0, 0, workspace)
    fake.answer("workspace", 7)
    with pytest.raises(CUBLASError, match="^cublasSetWorkspace_v2: CUBLAS_STATUS_INVALID_VALUE$"):
        blas.handle(0, 5, workspace)
    fake.answer("workspace", 0)
    fake.calls()
    blas.handle(0, 5, workspace)
    assert [name for name, *_ in fake.calls()] == ["stream", "workspace"]
    assert blas.handle(0, 5, workspace) == handle


def test_each_thread_and_device_has_a_handle_of_its_own(blas):
    handles = [blas.handle(0, 0, workspace), blas.handle(1, 0, workspace)]
    thread = threading.Thread(target=lambda: handles.append(blas.handle(0, 0, workspace)))
    thread.start()
    thread.join()
    assert len(set(handles)) == 3
    assert blas.handle(0, 0, workspace) == handles[0] and blas.handle(1, 0, workspace) == handles[1]


@pytest.mark.parametrize("status, name", [(1, "NOT_INITIALIZED"), (3, "ALLOC_FAILED"), (7, "INVALID_VALUE"),
                                          (8, "ARCH_MISMATCH"), (11, "MAPPING_ERROR"),
                                          (13, "EXECUTION_FAILED"), (14, "INTERNAL_ERROR"),
                                          (15, "NOT_SUPPORTED"), (16, "LICENSE_ERROR"), (99, "99")])
def test_errors_name_the_function_and_the_status(blas, fake, status, name):
    fake.answer("gemm", status)
    with pytest.raises(blas.CUBLASError, match=f"^cublasGemmEx: CUBLAS_STATUS_{name}$"):
        blas.gemmEx(*[0] * 19)
    fake.answer("batch", status)
    with pytest.raises(blas.CUBLASError, match=f"^cublasGemmStridedBatchedEx: CUBLAS_STATUS_{name}$"):
        blas.gemmStridedBatchedEx(*[0] * 23)


def test_a_library_without_our_functions():
    with pytest.raises(AttributeError, match="cublasCreate_v2"):
        CublasLibrary(ctypes.CDLL(None))


# -- in the backend ------------------------------------------------------------------------------------------
@pytest.fixture
def make_backend(monkeypatch, path):
    """make_backend(compute capability's major) -> (backend, its CuPy, which has NumPy's arrays)."""
    class Package:
        """As CuPy's: a library is loaded when its module is asked of the package."""

        def __getattr__(self, name):
            asked.append(name)

    asked = []

    def make(major=9):
        state = SimpleNamespace(stream=BIG + 8, memory=[])

        def empty(shape, dtype):
            memory = np.empty(shape, dtype)
            state.memory.append(memory)
            return SimpleNamespace(data=SimpleNamespace(ptr=memory.ctypes.data), nbytes=memory.nbytes)

        runtime = SimpleNamespace(getDeviceCount=lambda: 1, runtimeGetVersion=lambda: 12090,
                                  driverGetVersion=lambda: 12080,
                                  getDeviceProperties=lambda index: {"major": major})
        state.cupy = SimpleNamespace(empty=empty, cuda=SimpleNamespace(
            runtime=runtime, Device=lambda index: index, memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            get_current_stream=lambda: SimpleNamespace(ptr=state.stream)))
        monkeypatch.setattr(cupy_backend, "cupy", state.cupy)
        return CupyBackend(0), state

    monkeypatch.setattr(cublas_library, "import_module", {"cupy_backends.cuda.libs": Package()}.__getitem__)
    monkeypatch.setattr(cublas_library, "CDLL", lambda name: ctypes.CDLL(str(path.with_name(name))))
    cublas_library.load.cache_clear()
    yield make
    cublas_library.load.cache_clear()
    assert asked == ["cublas"]


def test_cupy_is_let_look_where_pip_put_cublas(monkeypatch):
    """The system's loader does not look there: CuPy loads the library before its module, if it is asked the
    right way."""
    pytest.importorskip("cupy", reason="CuPy is not installed; pip install 'minidrop[nvrtc]' brings it")
    asked = []

    def load(name):
        asked.append(name)
        raise pathfinder.DynamicLibNotFoundError("nowhere")

    pathfinder = pytest.importorskip("cuda.pathfinder")
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas", raising=False)
    monkeypatch.delitem(vars(sys.modules["cupy_backends.cuda.libs"]), "cublas", raising=False)
    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", load)
    with pytest.raises(ImportError, match="nowhere"):
        cublas_library.cupys_module("cublas")
    assert asked == ["cublas"]


@pytest.mark.parametrize("major, size", [(7, 4 * 2**20), (8, 4 * 2**20), (9, 32 * 2**20), (12, 32 * 2**20)])
def test_the_backend_gives_what_nvidia_recommends(make_backend, fake, major, size):
    backend, state = make_backend(major)
    blas, handle = backend.blas.handle()
    [memory] = state.memory
    assert workspace_bytes(major) == memory.nbytes == size
    assert fake.calls()[-2:] == [["stream", handle, BIG + 8], ["workspace", handle, memory.ctypes.data, size]]
    state.stream = 0
    assert backend.blas.handle() == (blas, handle) and len(state.memory) == 1
    assert [name for name, *_ in fake.calls()] == ["stream", "workspace"]


def test_backends_of_all_precisions_share_a_handle(make_backend):
    backend, state = make_backend()
    other = CupyBackend(0, "tf32")
    assert other.blas.handle() == backend.blas.handle() and len(state.memory) == 1


def test_a_cublas_that_does_not_start(make_backend, fake):
    backend, _ = make_backend()
    fake.answer("create", 1)
    with pytest.raises(BackendError, match="^cuda:0 cannot multiply: cuBLAS does not start: cublasCreate_v2: "
                       "CUBLAS_STATUS_"
                                           "NOT_INITIALIZED$"):
        backend.blas.handle()


def test_cublas_is_not_started_while_a_graph_is_captured(make_backend, fake):
    backend, state = make_backend()
    backend.graphs.held = []
    with pytest.raises(CaptureError, match="^cuda:0: cuBLAS cannot be started while a graph is captured; "
                       "multiply"):
        backend.blas.handle()
    assert fake.calls() == [] and state.memory == []
    backend.graphs.held = None
    handle = backend.blas.handle()
    backend.graphs.held, state.stream = [], BIG + 9
    assert backend.blas.handle() == handle and fake.calls()[-2][0] == "stream"


@pytest.mark.parametrize("who", ["products", "devices"])
def test_cublas_is_looked_for_where_pip_puts_it(monkeypatch, who):
    """CuPy asks `cuda.pathfinder` where a module is asked of its package, not where it is imported by its own
    name."""
    libraries, asked = pytest.importorskip("cupy_backends.cuda.libs"), []
    if "cublas" in vars(libraries):
        pytest.skip("CuPy has loaded cuBLAS already")

    def find(name):
        asked.append(name)
        raise libraries._pathfinder.DynamicLibNotFoundError("nowhere")

    monkeypatch.setattr(libraries._pathfinder, "load_nvidia_dynamic_lib", find)
    monkeypatch.delenv("READTHEDOCS", raising=False)
    monkeypatch.delenv("CUPY_CI", raising=False)
    if who == "devices":
        assert cuda_facts._missing("cublas")[1] == "nowhere"
    else:
        cublas_library.load.cache_clear()
        with pytest.raises(ImportError, match="^nowhere$"):
            cublas_library.load(12)
    assert asked == ["cublas"]


def test_the_name_follows_cuda_and_the_system():
    assert cublas_library.file_name(13, "posix") == "libcublas.so.13"
    assert cublas_library.file_name(12, "nt") == "cublas64_12.dll"
