"""get_backend and the kernel threads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidrop.autograd import Block
from minidrop.backend import NumpyBackend, backend_of, cuda_devices, get_backend
from minidrop.errors import BackendError
from minidrop.kept import Kept
from minidrop.kernels import cpu_update, threads

ROOT = Path(__file__).resolve().parents[2]


def test_names():
    assert isinstance(get_backend("cpu"), NumpyBackend)
    assert get_backend("cpu") is get_backend("cpu")
    assert get_backend(get_backend("cpu")) is get_backend("cpu")
    assert backend_of(np.zeros(3)) is get_backend("cpu")
    count, reason = cuda_devices()
    assert get_backend("auto").name == ("cuda:0" if count else "cpu")
    assert bool(count) != bool(reason)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "CPU", "", 0, None])
def test_unknown_device(device):
    with pytest.raises(BackendError, match=f"^unknown device {device!r}: expected auto, cpu or cuda:N$"):
        get_backend(device)


def test_a_device_that_is_not_there():
    with pytest.raises(BackendError, match=r"^device cuda:99 cannot be used: .*; use --device cpu, or see"):
        get_backend("cuda:99")


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 3)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)


def test_splitting_rows_changes_no_result(three_threads, monkeypatch, dtype, rng):
    W, g = (rng.standard_normal((1001, 65)).astype(dtype) for _ in range(2))
    results = []
    for count in (3, 1):
        monkeypatch.setattr(threads, "COUNT", count)
        mine, history = W.copy(), np.zeros_like(W)
        number = W.dtype.type
        every = np.arange(1001)
        threads.by_rows(cpu_update.sgd_update, len(W), W.size, mine, history, (g,), (every,),
                        (np.arange(65),), number(0.1), number(0.9), number(0.01), False, number(1))
        y, mask = get_backend("cpu").dropout(W, 0.5, 2.0, 3)
        rows, cols = Kept(1, 3, 2, 1001), Kept(0, 4, 3, 65)
        gathered = get_backend("cpu").submatrix(W, rows, cols), get_backend("cpu").take(W, cols, 1)
        noise = get_backend("cpu").gaussian(W.shape, W.dtype, 3)
        starts = np.array([0, 1, 400, 998])
        summed = get_backend("cpu").sum_groups(W, np.arange(1001)[::-1].copy(), starts)
        plain = W.copy()
        block = Block(g[:rows.count, :cols.count], rows, cols)
        get_backend("cpu").sgd_update(plain, history, [block], 0.1, 0.0, 0.0, False, 1.0)
        results.append((mine, history, y, mask, noise, summed, plain, *gathered))
    for split, whole in zip(*results, strict=True):
        np.testing.assert_array_equal(split, whole)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 191, 1000])
def test_every_row_is_done_once(three_threads, rows):
    done = np.zeros(rows, int)

    def kernel(first, last):
        done[first:last] += 1
    threads.by_rows(kernel, rows, rows)
    assert (done == 1).all()


@pytest.mark.parametrize("bad_part", [0, 2])
def test_an_error_in_any_thread_is_raised(three_threads, bad_part):
    def kernel(first, last):
        if first == 100 * bad_part:
            raise ArithmeticError("broken kernel")
    with pytest.raises(ArithmeticError, match="broken kernel"):
        threads.by_rows(kernel, 300, 300)


def test_kernels_work_where_no_cache_can_be_written():
    """In a container without a home, say: then every process compiles for itself."""
    script = ("from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
              "import numpy as np; from minidrop.backend import get_backend\n"
              "print(get_backend('cpu').relu(np.array([-1.0, 2.0])))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.split(), done.returncode) == (["[0.", "2.]"], 0), done.stderr
