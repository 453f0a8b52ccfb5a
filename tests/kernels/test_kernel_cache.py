"""What Numba keeps on disk of a kernel is used only while no kernel's source has changed."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from numba.core import config

from minidrop.kernels import cpu

LOAD_ALL = """
import pkgutil
from importlib import import_module
from numba.core.cpu import CPUContext
from numba.core.dispatcher import Dispatcher
from minidrop import kernels

def load_additional_registries(self):
    raise AssertionError("Numba reads all that it could compile")

CPUContext.load_additional_registries = load_additional_registries
loaded = set()
for module in pkgutil.iter_modules(kernels.__path__):
    for name, kernel in vars(import_module(f"minidrop.kernels.{module.name}")).items():
        if isinstance(kernel, Dispatcher) and kernel.stats.cache_path:
            here = kernel.targetctx.codegen().magic_tuple()
            for types, machine, _ in kernel._cache._cache_file._load_index():
                if machine == here:
                    kernel.compile(types)
                    loaded.add(name)
print(*loaded)
"""
LOOP = "def loop(x, first, last):\n    for i in range(first, last):\n        x[i] += 1\n"


@pytest.fixture
def loop(tmp_path):
    """A function in a file of its own, whose cache is empty."""
    (tmp_path / "own_kernel.py").write_text(LOOP)
    spec = importlib.util.spec_from_file_location("own_kernel", tmp_path / "own_kernel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.loop


def loaded(function, cached=True):
    """Return whether a kernel's code, in what is a new process to Numba, came from the disk."""
    kernel, x = cpu.jit(function, cached), np.zeros(3)
    kernel(x, 1, 3)
    assert x.tolist() == [0, 1, 1]
    return sum(kernel.stats.cache_hits.values()) == 1


def test_a_change_in_any_kernels_file_compiles_a_kernel_anew(loop, monkeypatch):
    """Numba looks at the loop's own file alone, but what the loop calls may stand in another."""
    assert [loaded(loop), loaded(loop)] == [False, True]
    monkeypatch.setattr(cpu, "SOURCES", b"of other kernels")
    assert [loaded(loop), loaded(loop)] == [False, True]
    assert not loaded(loop, cached=False)


def test_without_compilation_a_kernel_is_its_function(loop, monkeypatch):
    """With NUMBA_DISABLE_JIT=1 in the environment, as for a debugger."""
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert cpu.jit(loop) is loop and cpu.jit(loop, cached=False) is loop


def test_the_fingerprint_is_of_every_file(tmp_path):
    (tmp_path / "cpu.py").write_text("loop")
    seen = [cpu.fingerprint(tmp_path)]
    for text in ("called", "called, changed", "called"):
        (tmp_path / "vectors.py").write_text(text)
        seen.append(cpu.fingerprint(tmp_path))
    assert len(set(seen)) == 3 and seen[1] == seen[3]


def test_processes_that_compile_for_different_types_at_once(loop, monkeypatch):
    """One writes its files while the other is about to, and does not see them in the index."""
    (one, x), (other, y) = ((cpu.jit(loop), np.zeros(3, dtype)) for dtype in ("d", "f"))
    files, others = one._cache._cache_file, other._cache._cache_file
    write = files._save_data

    def write_after_the_other(*given):
        other(y, 1, 3)
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_save_data", write_after_the_other)
        patch.setattr(others, "_load_index", lambda: {})
        one(x, 1, 3)
    for a in (x, y):
        assert a.tolist() == [0, 1, 1]
        later = cpu.jit(loop)
        later(a, 0, 3)
        assert a.tolist() == [1, 2, 2] and later.stats.cache_hits


def test_what_is_compiled_needs_no_compiler():
    """Reading all of it takes half a second. A missing symbol would end the process."""
    x = np.ones((1, 3), "f")
    cpu.take_columns(x, np.array([2]), np.empty((1, 1), "f"), 0, 1)
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    assert "take_columns" in done.stdout.split()
