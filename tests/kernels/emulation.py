"""A device that runs the CUDA kernels on the host, and a backend on it: NumPy's arrays, the GPU's kernels and
overrides."""

import ctypes
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np

from minidrop.backend import Backend
from minidrop.backend.cuda.blocks import CudaBlocks
from minidrop.backend.cuda.graphs import Graphs
from minidrop.backend.cuda.kept_tables import KeptTables
from minidrop.backend.cuda.kernels import CupyKernels
from minidrop.kernels import loader

HEADER = Path(__file__).with_name("emulate.h")
COMPILER = next((found for found in map(shutil.which, ("g++", "c++", "clang++")) if found), None)
MISSING = "" if COMPILER else "no C++ compiler (g++, c++ or clang++) to run the CUDA kernels with on the host"


built = None            # that of builds.py: tests/conftest.py puts it here
_libraries = {}         # (text, flags) -> library: what is the same for several emulators is compiled once


class Emulator:
    """Compiles kernel files for the host, each variant once. `change` may alter a file's text before that."""

    def __init__(self, change=None):
        self.change, self.backwards = change or (lambda file, text: text), False
        self.libraries, self.launches = {}, []

    def complaint(self, x):
        return "" if isinstance(x, np.ndarray) else f"expected a NumPy array, got {type(x).__name__}"

    def launch(self, kernel, macros, grid, block, arguments):
        self.launches.append(kernel.name)
        self.backwards = not self.backwards         # threads take turns in the other order every time
        boxes = [ctypes.c_void_p(0 if x is None else x.ctypes.data) if x is None or isinstance(x, np.ndarray)
                 else np.array(x) for x in arguments]
        places = [box.ctypes.data if isinstance(box, np.ndarray) else ctypes.addressof(box) for box in boxes]
        run = getattr(self.library(kernel.file, macros), f"run_{kernel.name}")
        if run((ctypes.c_void_p * len(places))(*places), (ctypes.c_uint * 4)(*grid, *block),
               int(self.backwards)):
            raise RuntimeError(f"{kernel.name}: some threads wait at a barrier that others never reach")

    def library(self, file, macros):
        key = "-".join([Path(file).stem, *(str(value) for _, value in sorted(macros.items()))])
        if key not in self.libraries:
            text = self.change(file, loader.source(file))
            # `extern "C"` and a static function, which is what __global__ becomes here, exclude each other.
            text = text.replace('extern "C" __global__', "__global__")
            names = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(", text)
            barriers = int("__s" in text.replace("__shared__", ""))
            text = "\n".join([text, *(f"EMULATE({name})" for name in names)])
            flags = tuple(f"-D{name}={value}" for name, value in sorted(macros.items()))
            if (text, flags) not in _libraries:
                _libraries[text, flags] = compiled(text, flags, f"-DBARRIERS={barriers}")
            self.libraries[key] = _libraries[text, flags]
        return self.libraries[key]


@lru_cache
def compiler_version():
    return subprocess.run([COMPILER, "--version"], check=True, capture_output=True, text=True).stdout


def compiled(text, flags, barriers):
    """Return the library that a C++ text becomes, with emulate.h before it."""
    command = (COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-w", barriers)
    known = (compiler_version(), platform.machine(), HEADER.read_text())

    def make_header(path):
        subprocess.run([*command, "-x", "c++-header", "-o", str(path), str(HEADER)], check=True)

    def make(path):
        header = HEADER
        if "g++" in Path(COMPILER).name:    # finds NAME.gch beside NAME; to read it anew takes half the time
            built((*command, *known), ".h.gch", make_header)
            header = built((*command, *known), ".h", lambda path: path.write_text(HEADER.read_text()))
        subprocess.run([*command, *flags, "-shared", "-include", str(header), "-x", "c++", "-", "-o",
                        str(path)], check=True, input=text, text=True)
    return ctypes.CDLL(str(built((*command, *flags, *known, text), ".so", make)))


class EmulatedBackend(CudaBlocks, CupyKernels, Backend):
    """What CupyBackend overrides with kernels, on NumPy arrays. New arrays hold NaN: what is not written
    shows."""

    name = "emulated"

    def __init__(self, change=None):
        self.start(Emulator(change))

    def start(self, kernels):
        self.kernels, self.graphs, self.tables = kernels, Graphs(self.name, None, None), KeptTables(self)

    def empty(self, shape, dtype):
        out = np.empty(shape, dtype)
        out.fill(np.nan if out.dtype.kind == "f" else 1)
        return out

    # What products give CudaBlocks; here all operands are read as they are.
    def _kind(self, dtype):
        return np.dtype(dtype).name

    def _read(self, x, kind):
        return x
