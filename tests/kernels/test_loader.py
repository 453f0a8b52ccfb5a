"""Launches: sizes and strides follow from the arrays, and what does not fit is refused by name before
anything runs."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import BackendError, ShapeError
from minidrop.kept import Kept
from minidrop.kernels import cuda, loader
from minidrop.kernels.loader import FOLDER, Array, Axis, Number, Size, axis_value


class Recorder:
    """A device that only notes what it is asked to launch."""

    def __init__(self):
        self.calls = []

    def complaint(self, x):
        return "" if isinstance(x, np.ndarray) else f"expected an array here, got {type(x).__name__}"

    def launch(self, kernel, macros, grid, block, arguments):
        self.calls.append((kernel.name, macros, grid, block, arguments))


def array(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


def transpose(**changes):
    device = Recorder()
    cuda.transpose(device, {"W": array(40, 70), "out": array(70, 40), **changes})
    return device.calls


def test_a_launch():
    wide = array(40, 100)
    [(name, macros, grid, block, arguments)] = transpose(W=wide[:, :70])
    assert (name, macros, grid, block) == ("transpose", {"REAL": "float"}, (3, 2), (32, 8))
    assert arguments[0].base is wide and [(type(n), int(n)) for n in (arguments[1], *arguments[3:])] == [
        (np.int64, 100), (np.int64, 40), (np.int64, 70)]


def test_the_type_of_the_arrays_chooses_the_variant():
    [(_, macros, *_)] = transpose(W=array(40, 70, dtype="float64"), out=array(70, 40, dtype="float64"))
    assert macros == {"REAL": "double"}


def test_nothing_to_do_is_not_launched():
    assert transpose(W=array(0, 70), out=array(70, 0)) == []


@pytest.mark.parametrize("changes, error, message", [
    ({"out": array(70, 41)}, ShapeError,
     r"kernel transpose: argument out of shape \(70, 41\): expected n = 40 as in the "
                                         r"arguments before, got 41"),
    ({"out": array(70)}, ShapeError,
     r"kernel transpose: argument out: expected 2 axes \(m, n\), got an array of shape "
                                     r"\(70,\)"),
    ({"out": array(70, 40, dtype="float64")}, BackendError, "kernel transpose: argument out: expected "
     "float32, got float64"),
    ({"out": array(40, 70).T}, BackendError,
     r"kernel transpose: argument out: expected a C-contiguous array, got strides "
                                             r"\(4, 280\) of shape \(70, 40\)"),
    ({"W": array(40, 140)[:, ::2]}, BackendError,
     r"kernel transpose: argument W: expected rows of neighbours, got strides "
                                                  r"\(560, 8\) of shape \(40, 70\)"),
    ({"W": array(40, 70)[::-1]}, BackendError,
     r"kernel transpose: argument W: expected rows of neighbours, got strides "
                                               r"\(-280, 4\)"),
    ({"W": array(40, 70, dtype="int32")}, BackendError, "kernel transpose: expected arrays of float32 or "
     "float64, got int32"),
    ({"out": memoryview(b"")}, BackendError, "kernel transpose: argument out: expected an array here, got "
     "memoryview"),
    ({"more": 1}, TypeError, r"kernel transpose takes \['W', 'out'\], got \['W', 'more', 'out'\]"),
])
def test_what_does_not_fit(changes, error, message):
    with pytest.raises(error, match="^" + message):
        transpose(**changes)


def test_varying_numbers_are_read_on_the_device():
    device, key = Recorder(), np.array([5], np.uint64)
    for given in (2**63 + 1, np.uint64(7), key):
        cuda.gaussian(device, {"out": array(3), "key": given})
    pairs = [arguments[1:3] for *_, arguments in device.calls]
    assert [(int(value), at is key) for value, at in pairs] == [(2**63 + 1, False), (7, False), (0, True)]
    assert [type(value) for value, _ in pairs] == [np.uint64] * 3 and pairs[0][1] is None
    for wrong in (np.array([5], np.int64), np.array([5, 6], np.uint64)):
        with pytest.raises(BackendError, match="gaussian: argument key: expected a number or an array of one "
                           "uint64, got"):
            cuda.gaussian(device, {"out": array(3), "key": wrong})


@pytest.mark.parametrize("kept, expected", [
    (Kept(2, 7, 4, 23), (2, 7, 4)), (Kept(-3, 10, 5, 23), (-3, 10, 5)), (Kept.all(23), (0, 23, 23)),
    (Kept.all(0), (0, 1, 1)), (Kept.of(range(23), 23), (0, 23, 23)),
    (Kept(2, 2**40, 2**35, 23), (2, 2**31 - 1, 2**31 - 1)),
])
def test_axis(kept, expected):
    assert axis_value(kept, "table") == (kept.count, kept.total, *expected, None)


def test_a_table_has_the_type_that_the_kernel_reads():
    device, x, kept = Recorder(), array(3, 9), Kept.of([1, 4], 9)
    for kernel, arrays, wrong, right in (
            (cuda.take_block, {"W": x, "out": array(3, 2)}, np.int32, np.int64),
            (cuda.expand, {"x": array(3, 2), "out": x}, np.int64, np.int32)):
        values = {**arrays, "rows": axis_value(Kept.all(3))}
        with pytest.raises(BackendError, match=f"cols: expected a table of {np.dtype(right)}, got "
                           f"{np.dtype(wrong)}$"):
            kernel(device, {**values, "cols": axis_value(kept, np.zeros(9, wrong))})
        kernel(device, {**values, "cols": axis_value(kept, np.zeros(9, right))})


def test_an_axis_that_is_a_list_has_a_table_and_one_too_long_is_refused():
    assert axis_value(Kept.of([3, 5], 9), "table").table == "table"
    assert axis_value(Kept.all(2**31 - 1)).total == 2**31 - 1
    for kept in (Kept.all(2**31), Kept(-1, 5, 3, 2**31 - 1)):
        with pytest.raises(BackendError, match="32 bits; this one is too long$"):
            axis_value(kept)


class Module:
    """What CuPy would compile: notes how, and then every launch."""

    made, launched = [], []

    def __init__(self, code, options):
        self.made.append((code, options))

    def get_function(self, name):
        return lambda *launch: self.launched.append((name, *launch))


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy in which NumPy's arrays are the device's."""
    monkeypatch.setattr(Module, "made", [])
    monkeypatch.setattr(Module, "launched", [])
    return SimpleNamespace(ndarray=np.ndarray, RawModule=Module,
                           cuda=SimpleNamespace(Device=lambda index: nullcontext()))


def on_device_0(device):
    """`device` without its look at where an array is, which NumPy's do not say."""
    device.complaint = lambda x: ""
    return device


def test_cuda_compiles_a_variant_once_and_passes_null_for_what_is_not_there(cupy):
    device, x = on_device_0(loader.Cuda(0, cupy)), array(3, 5)
    for activation in (1, 2, 1):
        cuda.activate(device, {"x": x, "b": None, "y": x, "scale": 2}, ACTIVATION=activation)
    text = loader.source("activation.cu")
    assert Module.made == [(text, ("--std=c++17", "--fmad=false", f"-DACTIVATION={n}", "-DREAL=float"))
                           for n in (1, 2)]
    assert [name for name, *_ in Module.launched] == ["activate"] * 3
    name, grid, block, arguments = Module.launched[0]
    assert (grid, block) == ((1, 1), (32, 8))
    assert arguments[0] is x and (type(arguments[2]), arguments[2]) == (np.uint64, 0)
    assert [type(n) for n in arguments[1:]] == [np.int64, np.uint64, np.int64, np.ndarray, np.int64,
                                                np.float32, np.int64, np.int64]


def test_cuda_refuses_what_lives_elsewhere(cupy):
    cupy.ndarray = type("ndarray", (), {"device": SimpleNamespace(id=1)})
    device = loader.Cuda(0, cupy)
    assert device.complaint(cupy.ndarray()) == "expected an array on cuda:0, got one on cuda:1"
    assert device.complaint(array(3)) == "expected an array on cuda:0, got numpy.ndarray"
    with pytest.raises(BackendError, match="^kernel gaussian: argument out: expected an array on cuda:0, got "
                       "numpy.ndarray$"):
        cuda.gaussian(device, {"out": array(3), "key": 1})


@pytest.mark.parametrize("message, expected, error", [
    ("Failure finding libnvrtc.so", "^kernel gaussian cannot be compiled: NVRTC is missing; install it with",
     BackendError),
    ("out of luck", "^out of luck$", RuntimeError)])
def test_a_missing_compiler_is_explained(cupy, monkeypatch, message, expected, error):
    def get_function(self, name):
        raise RuntimeError(message)
    monkeypatch.setattr(Module, "get_function", get_function)
    with pytest.raises(error, match=expected):
        cuda.gaussian(on_device_0(loader.Cuda(0, cupy)), {"out": array(3), "key": 1})


FILES = sorted(path.name for path in FOLDER.glob("*.cu"))


def signatures(file):
    """Yield (kernel, its C parameters with the macros of common.cuh and window.cuh written out) of a file."""
    for name, text in re.findall(r'extern "C" __global__ void (\w+)\(([^{]*)\)\s*\{',
                                 _without_bounds(loader.source(file))):
        macros = re.findall(r"^#define (WINDOW|IMAGE|NUMBERS) (.+)$",
                            loader.source(file).replace("\\\n", ""), re.MULTILINE)
        for macro, parameters in macros:
            text = re.sub(rf"\b{macro}\b", parameters, text)
        text = re.sub(r"KEPT\((\w+)\)", r"int \1_start, const int* \1_start_at, int \1_step, int \1_width, "
                                         r"int \1_total, const void* \1_table", text)
        text = re.sub(r"VARYING\(([\w ]+), (\w+)\)", r"\1 \2_value, const \1* \2_at", text)
        yield name, [" ".join(part.replace("__restrict__", "").split()) for part in text.split(",")]


def _without_bounds(text):
    return re.sub(r"__launch_bounds__\([^)]*\) ", "", text)


def declared(argument):
    """The C parameters of a declared argument."""
    if isinstance(argument, Array):
        kind = {"REAL": "REAL", "OPERAND": "Operand", "float64": "double", "int32": "int",
                "int64": "long long", "uint8": "unsigned char"}[argument.dtype]
        yield rf"(const )?{kind}\* {argument.name}"
        if argument.strided:
            yield f"long long {argument.name}_stride"
    elif isinstance(argument, Axis):
        yield from (rf"{kind} {argument.name}_{field}" for kind, field in (
            ("int", "start"), (r"const int\*", "start_at"), ("int", "step"), ("int", "width"),
            ("int", "total"), (r"const void\*", "table")))
    elif isinstance(argument, Number) and argument.varying:
        yield from (f"{argument.type} {argument.name}_value", rf"const {argument.type}\* {argument.name}_at")
    else:
        yield f"{argument.type if isinstance(argument, Number) else 'long long'} {argument.name}"


def test_every_file_is_declared():
    assert {kernel.file for kernel in cuda.KERNELS.values()} == set(FILES)
    assert {name for file in FILES for name, _ in signatures(file)} == set(cuda.KERNELS)


@in_turn("file", FILES)
def test_the_declared_arguments_are_those_of_the_signature(file):
    for name, parameters in signatures(file):
        expected = [pattern for argument in cuda.KERNELS[name].arguments for pattern in declared(argument)]
        assert len(parameters) == len(expected), name
        for parameter, pattern in zip(parameters, expected, strict=True):
            assert re.fullmatch(pattern, parameter), f"{name}: {parameter} is declared as {pattern}"


@in_turn("name", cuda.KERNELS)
def test_every_argument_is_bound_to_one_parameter(name):
    """Sizes that a kernel takes are named by its arrays."""
    kernel = cuda.KERNELS[name]
    known = {size for a in kernel.arguments for size in (a.shape if isinstance(a, Array) else
                                                         (a.count, a.total) if isinstance(a, Axis) else ())}
    assert {a.name for a in kernel.arguments if isinstance(a, Size)} <= known
