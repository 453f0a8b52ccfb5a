"""Kernels in CUDA C++: declaring their arguments, checking those of a call, and compiling.

A `Kernel` names a file in this folder and declares the arguments in the order of the C signature. Sizes and
strides are not passed by the caller: they follow from the shapes of the arrays, which must agree. A *device*
compiles and launches kernels (`Cuda`; the tests have one that runs the same files on the host).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidrop.errors import BackendError, ShapeError

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17", "--fmad=false")
CUPYS_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")     # CuPy adds these
REALS = {"float32": "float", "float64": "double"}
OPERANDS = ("REAL", "float16", "bfloat16")     # by the value of the macro OPERAND; 16-bit ones as uint16
_NUMBERS = {"int": np.int32, "unsigned int": np.uint32, "long long": np.int64,
            "unsigned long long": np.uint64, "double": np.float64}
_LARGEST_INT = 2**31 - 1


class Array(NamedTuple):
    """A pointer to an array.

    dtype: "REAL", "OPERAND" (the macro of that name, see OPERANDS) or a NumPy name. shape: names of sizes;
    equal names must have equal values. The array must be C-contiguous. With `strided` only what lies at one
    place of the first axis must be, and its stride is passed as another argument. With `optional` it may be
    None.
    """

    name: str
    shape: tuple
    dtype: str = "REAL"
    strided: bool = False
    optional: bool = False


class Number(NamedTuple):
    """A number of a C type; if `varying`, it may be an array of one element, read on the device at launch."""

    name: str
    type: str = "REAL"
    varying: bool = False


class Size(NamedTuple):
    """A size by name."""

    name: str


class Axis(NamedTuple):
    """A kept set: `kept` of the `total` entries of an axis, both names of sizes; its value: an `AxisValue`.

    table: "int64" if the kernel calls `unit`, "int32" if it calls `place` (common.cuh).
    """

    name: str
    kept: str
    total: str
    table: str = "int64"


class AxisValue(NamedTuple):
    """A kept set as a kernel takes it, see `unit` and `place` in common.cuh; `start` as a varying Number."""

    kept: int
    total: int
    start: object
    step: int
    width: int
    table: object = None


def axis_value(kept: Any, table: np.ndarray | None = None) -> AxisValue:
    """Return a Kept as an AxisValue; a set that is not regular needs its `table` on the device.

    A set on the device has its start read from `start_at` at launch, also in a captured graph; entries beyond
    those that it then has are -1. Raises BackendError for an axis that is too long.
    """
    moving = kept.on_device
    start, step, width = (0, kept.step, kept.width) if moving else kept.regular or (0, 1, 1)
    if kept.is_all:
        start, step, width = 0, max(1, kept.total), max(1, kept.total)
    if kept.total - min(start, 0) + (kept.step if moving else 0) > _LARGEST_INT:
        raise BackendError(f"{kept!r}: the GPU kernels count the entries of one axis in 32 bits; this one is "
                           f"too long")
    if not moving and kept.regular is None and not kept.is_all:
        return AxisValue(kept.count, kept.total, 0, 1, 1, table)
    return AxisValue(kept.count, kept.total, kept.start_at if moving else start, min(step, _LARGEST_INT),
                     min(width, _LARGEST_INT))


class Kernel:
    """One kernel: its name, its file, its arguments in order, and how it is launched.

    `grid(sizes, macros)` returns (grid, block). `macros`: for each macro of the file other than REAL the
    values in use; `fits(macros)` tells whether a combination is used.
    """

    def __init__(self, name: str, file: str, arguments: list, grid: Callable, fits: Callable | None = None,
                 **macros: Any):
        self.name, self.file, self.arguments = name, file, tuple(arguments)
        self.grid, self.macros = grid, macros
        self.fits = fits or (lambda macros: True)

    def __call__(self, device, values, **macros):
        """Run on `device`: values {argument: value}; nothing is launched if a size is 0.

        Raises ShapeError or BackendError with the kernel, the argument, what was expected and what it got.
        """
        real, sizes, arguments = self.bind(device, values, macros)
        if not all(sizes.values()):
            return
        device.launch(self, {"REAL": REALS[real], **macros}, *self.grid(sizes, macros), arguments)

    def bind(self, device: Any, values: Any,
             macros: dict[str, int]) -> tuple[str, dict[str, int], list[np.ndarray | np.generic | None]]:
        """Return (dtype of REAL, sizes by name, C arguments: arrays, None for null, NumPy numbers)."""
        expected = {argument.name for argument in self.arguments if not isinstance(argument, Size)}
        if expected != set(values):
            raise TypeError(f"kernel {self.name} takes {sorted(expected)}, got {sorted(values)}")
        real = next((values[a.name].dtype.name for a in self.arguments if isinstance(a, Array)
                     # if no argument says, it does not matter
                     and a.dtype == "REAL" and values[a.name] is not None), "float64")
        if real not in REALS:
            raise BackendError(f"kernel {self.name}: expected arrays of {' or '.join(REALS)}, got {real}")
        types = {"REAL": real, "OPERAND": "uint16" if macros.get("OPERAND") else real}
        sizes: dict[str, int] = {}
        given: list = []
        for argument in self.arguments:
            if isinstance(argument, Array):
                given += self._array(device, argument, values[argument.name], types, sizes)
            elif isinstance(argument, Axis):
                given += self._axis(device, argument, values[argument.name], sizes)
            elif isinstance(argument, Number):
                given += self._number(device, argument, values[argument.name], real)
            else:
                given.append(argument)
        # Sizes last: a later argument may have determined them.
        return real, sizes, [np.int64(sizes[a.name]) if isinstance(a, Size) else a for a in given]

    def _array(self, device, argument, x, types, sizes):
        if x is None and argument.optional:
            return [None, np.int64(0)][:1 + argument.strided]
        where = f"kernel {self.name}: argument {argument.name}"
        wanted = types.get(argument.dtype, argument.dtype)
        complaint = device.complaint(x)
        if complaint:
            raise BackendError(f"{where}: {complaint}")
        if x.dtype != wanted:
            raise BackendError(f"{where}: expected {wanted}, got {x.dtype}")
        if x.ndim != len(argument.shape):
            raise ShapeError(f"{where}: expected {len(argument.shape)} axes ({', '.join(argument.shape)}), "
                             f"got an array of shape {x.shape}")
        for size, length in zip(argument.shape, x.shape, strict=True):
            self._agree(size, length, sizes, f"{where} of shape {x.shape}")
        if not argument.strided:
            if not x.flags.c_contiguous:
                raise BackendError(f"{where}: expected a C-contiguous array, got strides {x.strides} of "
                                   f"shape {x.shape}")
            return [x]
        stride, inner = x.strides[0], x.strides[1:]
        straight = x[0].flags.c_contiguous if x.size and x.ndim > 2 else (
            inner in ((), (x.itemsize,)) or x.shape[1] <= 1)
        if x.size and (not straight or stride % x.itemsize or stride < 0):
            raise BackendError(f"{where}: expected rows of neighbours, got strides {x.strides} of shape "
                               f"{x.shape}")
        return [x, np.int64(stride // x.itemsize)]

    def _axis(self, device, argument, value, sizes):
        where = f"kernel {self.name}: argument {argument.name}"
        for size, length in ((argument.kept, value.kept), (argument.total, value.total)):
            self._agree(size, length, sizes, where)
        start, start_at = self._varying(device, where, value.start, np.int32)
        if value.table is not None and (device.complaint(value.table) or value.table.dtype != argument.table):
            complaint = (device.complaint(value.table) or f"expected a table of {argument.table}, got "
                         f"{value.table.dtype}")
            raise BackendError(f"{where}: {complaint}")
        return [start, start_at, np.int32(value.step), np.int32(value.width), np.int32(value.total),
                value.table]

    def _number(self, device, argument, value, real):
        kind = np.dtype(real).type if argument.type == "REAL" else _NUMBERS[argument.type]
        if argument.varying:
            return self._varying(device, f"kernel {self.name}: argument {argument.name}", value, kind)
        return [kind(value)]

    def _varying(self, device, where, value, kind):
        """Return [number, array or None]."""
        if not hasattr(value, "shape") or isinstance(value, np.generic):
            return [kind(value), None]
        complaint = device.complaint(value)
        if complaint or value.dtype != kind or value.size != 1:
            raise BackendError(f"{where}: expected a number or an array of one {np.dtype(kind).name}, got "
                               f"{complaint or f'{value.size} of {value.dtype}'}")
        return [kind(0), value]

    def _agree(self, size, length, sizes, where):
        known = sizes.setdefault(size, length)
        if known != length:
            raise ShapeError(f"{where}: expected {size} = {known} as in the arguments before, got {length}")

    def variants(self) -> list[dict[str, int | str]]:
        """Return the macros of every variant in use: each REAL with each combination of the file's own."""
        found: list[dict[str, int | str]] = [{"REAL": real} for real in REALS.values()]
        for name, choices in self.macros.items():
            found = [{**one, name: choice} for one in found for choice in choices]
        return [one for one in found if self.fits(one)]


@lru_cache
def source(file: str) -> str:
    """Return the text of a kernel file with its includes from this folder inlined."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    return re.sub(r'^#include "([\w.]+)"$', lambda found: source(found[1]), text, flags=re.MULTILINE)


def options(macros: Any) -> Any:
    """Return the compiler options for the macros of one variant."""
    return OPTIONS + tuple(f"-D{name}={value}" for name, value in sorted(macros.items()))


class Cuda:
    """Runs kernels on CUDA device `index`, on CuPy's current stream.

    They are compiled on first use; CuPy caches them on disk.
    """

    def __init__(self, index: Any, cupy: Any):
        self.index, self.cupy = index, cupy
        self._functions: dict[tuple, Callable] = {}

    def complaint(self, x: np.ndarray) -> Any:
        """Return why `x` cannot be an argument on this device, or ''."""
        if not isinstance(x, self.cupy.ndarray):
            return f"expected an array on cuda:{self.index}, got {type(x).__module__}.{type(x).__name__}"
        return ("" if x.device.id == self.index
                else f"expected an array on cuda:{self.index}, got one on cuda:{x.device.id}")

    def launch(self, kernel: Any, macros: Any, grid: Callable, block: Any, arguments: Any) -> None:
        """Launch `kernel` with bound arguments. Raises BackendError if NVRTC, the compiler, is missing."""
        null = np.uint64(0)
        try:
            with self.cupy.cuda.Device(self.index):
                self._function(kernel, macros)(
                    grid, block, tuple(null if x is None else x for x in arguments))
        except (ImportError, RuntimeError) as error:
            if "nvrtc" not in str(error):
                raise
            raise BackendError(f"kernel {kernel.name} cannot be compiled: NVRTC is missing; install it with: "
                               f"pip install 'minidrop[cuda12]' (or [cuda13]) ({error})") from error

    def _function(self, kernel, macros):
        key = (kernel.name, *sorted(macros.items()))
        if key not in self._functions:
            self._functions[key] = self._module(kernel.file, key[1:]).get_function(kernel.name)
        return self._functions[key]

    def _module(self, file, macros):
        return self.cupy.RawModule(code=source(file), options=options(dict(macros)))


def compile_for(file: str, macros: Any, architecture: Any) -> Any:
    """Compile a kernel file for an architecture such as "sm_90" and return the cubin.

    Needs CuPy and NVRTC, but no GPU.
    """
    # CuPy's binding, because `cupy.cuda.compiler` queries a device even if the architecture is given.
    from cupy_backends.cuda.libs import nvrtc
    program = nvrtc.createProgram(source(file), file, (), ())
    try:
        nvrtc.compileProgram(program, (*options(macros), *CUPYS_OPTIONS,
                                       f"--gpu-architecture={architecture}"))
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise BackendError.saying([f"{file} with {macros} does not compile for {architecture}: {error}",
                                   *log.splitlines()]) from error
    finally:
        nvrtc.destroyProgram(program)
