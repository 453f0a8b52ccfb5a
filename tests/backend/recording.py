"""Capture without a GPU: a backend on host memory that records what it is given to do, and does it later, as CUDA graphs do.

`Tape` stands for CuPy's array: it is no NumPy array and never becomes one by itself. While a step is captured nothing runs:
operations learn the shapes of their results from blank operands, and what needs a value raises CaptureError.
"""

import ctypes
import inspect
import itertools
import types
import weakref

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minidrop.errors import CaptureError

NUMBERS = (bool, int, float, complex, np.generic)


def named(text):
    """The NumPy functions of some names, as far as this NumPy has them."""
    return {getattr(np, name) for name in text.split() if hasattr(np, name)}


ABOUT = named("shape ndim size result_type can_cast promote_types isscalar iscomplexobj isrealobj broadcast_shapes")
VIEWS = named("reshape ravel transpose moveaxis swapaxes rollaxis squeeze expand_dims broadcast_to broadcast_arrays split "
              "array_split hsplit vsplit flip atleast_1d atleast_2d atleast_3d ascontiguousarray diagonal")
# What CuPy does with plain kernels: it reads nothing, sends nothing from the host and calls no library.
KERNELS = VIEWS | named("zeros ones full arange eye empty_like zeros_like ones_like full_like sum prod max min amax amin any "
                        "all mean argmax argmin take take_along_axis where copyto clip copy")


# -- arrays --------------------------------------------------------------------------------------------------------------
class Memory:
    """One allocation. Python frees it with the last Tape on it; the bytes stay as long as a graph points there.

    New ones hold what shows where it is used: NaN, and large integers.
    """

    numbers = itertools.count()

    def __init__(self, size, dtype):
        self.bytes, self.number = np.empty(max(1, size), np.uint8), next(self.numbers)
        self.poison = 0xFF if np.dtype(dtype).kind in "fc" else 0x7F
        self.bytes.fill(self.poison)

    def holds(self, pointer):
        first = self.bytes.ctypes.data
        return first <= pointer < first + self.bytes.size


class Tape(NDArrayOperatorsMixin):
    """An array of the device, with what CuPy's arrays have of NumPy's interface. Single numbers stay 0-d arrays."""

    def __init__(self, recorder, array, memory):
        self.recorder, self.array, self.memory = recorder, array, memory

    def __repr__(self):
        return f"Tape({self.shape} {self.dtype})"

    def __len__(self):
        return len(self.array)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    @property
    def T(self):  # noqa: N802
        return self._view(self.array.T)

    def _view(self, array):
        return Tape(self.recorder, array, self.memory)

    # -- what needs values
    def get(self):
        """Return a NumPy array with these values."""
        self.recorder.look("get()")
        return self.array.copy()

    def set(self, x):
        """Copy a host array of the same shape and type into this one."""
        self.recorder.look("set()", "no host array can be sent")
        if np.shape(x) != self.shape or x.dtype != self.dtype:
            raise ValueError(f"set: expected {self.shape} {self.dtype}, got {np.shape(x)} {x.dtype}")
        self.array[...] = x

    def item(self, *place):
        self.recorder.look("item()")
        return self.array.item(*place)

    def tolist(self):
        self.recorder.look("tolist()")
        return self.array.tolist()

    def __bool__(self):
        self.recorder.look("bool()")
        return bool(self.array)

    def _number(self, kind):
        self.recorder.look(f"{kind.__name__}()")
        if self.ndim:
            raise TypeError(f"{kind.__name__}() of an array of shape {self.shape}: only 0-d arrays are numbers")
        return kind(self.array)

    def __float__(self):
        return self._number(float)

    def __int__(self):
        return self._number(int)

    def __complex__(self):
        return self._number(complex)

    def __index__(self):
        self.recorder.look("an array as a Python integer")
        return self.array.__index__()

    def __array__(self, dtype=None, copy=None):
        self.recorder.look("np.asarray()")
        raise TypeError("implicit conversion of a device array to a NumPy array; use backend.to_host")

    # -- what runs on the device
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return self.recorder.ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function, kinds, arguments, options):
        return self.recorder.function(function, arguments, options)

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if self.recorder.is_basic(index):
            rest = () if any(i is Ellipsis for i in index) else (Ellipsis,)     # a single entry is a 0-d view
            return self._view(self.array[(*index, *rest)])
        return self.recorder.do("x[index]", lambda x, index: x[index], (self, index))

    def __setitem__(self, index, value):
        index = index if isinstance(index, tuple) else (index,)
        self.recorder.is_basic(index)
        self.recorder.check("x[index] = value", value)

        def put(x, index, value):
            x[index] = value

        self.recorder.do("x[index] = value", put, (self, index, value), out=self)

    def reshape(self, *shape, order="C"):
        return self.recorder.function(np.reshape, (self, shape[0] if len(shape) == 1 else shape), {"order": order})

    def transpose(self, *axes):
        return self.recorder.function(np.transpose, (self, axes[0] if len(axes) == 1 else axes or None), {})

    def view(self, dtype):
        return self._view(self.array.view(dtype))

    def astype(self, dtype, order="K", copy=True):
        if not copy and self.dtype == dtype:
            return self
        return self.recorder.do("astype", lambda x: x.astype(dtype, order), (self,))

    def copy(self, order="C"):
        return self.recorder.do("copy", lambda x: x.copy(order), (self,))

    def flatten(self, order="C"):
        return self.recorder.do("flatten", lambda x: x.flatten(order), (self,))

    def fill(self, value):
        self.recorder.check("fill", value)
        self.recorder.do("fill", lambda x, value: x.fill(value), (self, value), out=self)


def _forward(owner, name, function):
    setattr(owner, name, lambda self, *arguments, **options: self.recorder.function(function, (self, *arguments), options))


for _name in "shape dtype ndim size itemsize nbytes strides flags".split():
    setattr(Tape, _name, property(lambda self, name=_name: getattr(self.array, name)))
for _name in ("sum prod max min any all mean argmax argmin take clip ravel squeeze swapaxes var std cumsum dot argsort "
              "nonzero searchsorted repeat").split():
    _forward(Tape, _name, getattr(np, _name))


def _leaves(value):
    """Return what is in a tree of tuples, lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for one in value for leaf in _leaves(one)] if type(value) in (tuple, list) else [value]


def _tapes(*values):
    return [x for x in _leaves(values) if isinstance(x, Tape)]


def _change(value, change):
    """Return a tree with every Tape in it replaced by change(tape)."""
    if isinstance(value, dict):
        return {key: _change(one, change) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_change(one, change) for one in value)
    return change(value) if isinstance(value, Tape) else value


def _plain(value):
    return _change(value, lambda x: x.array)


def _extent(array):
    """Return how many bytes lie before and from the first entry of an array on."""
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)] if array.size else []
    return -sum(min(0, step) for step in steps), sum(max(0, step) for step in steps) + array.itemsize


def _blank(value):
    """Zeros in arrays of the same shapes, types and strides."""
    def zeros(x):
        before, after = _extent(x.array)
        return np.ndarray(x.shape, x.dtype, np.zeros(before + after, np.uint8), before, x.strides)
    return _change(value, zeros)


def _run(function, arguments, options, targets):
    """Call a NumPy function and copy what it returns to `targets`, if there are any."""
    with np.errstate(all="ignore"):
        result = function(*arguments, **options)
    for target, part in zip(targets, result if isinstance(result, tuple | list) else [result], strict=False):
        target[...] = part


# -- recording -----------------------------------------------------------------------------------------------------------
class Graph:
    """What a capture recorded: `names` of its operations in order. `launch` does it all on the same memory.

    `held`: arrays of the backend's caches that it reads.
    """

    def __init__(self, recorder):
        self.recorder, self.names, self.refused = recorder, [], None
        self.own = {}           # number -> (bytes, poison) of memory that the capture allocated: its pool keeps it
        self._steps, self._outside = [], {}

    def add(self, name, memories, run):
        self.names.append(name)
        self._steps.append(run)
        for memory in memories:
            if memory.number not in self.own:
                self._outside.setdefault(memory.number, (weakref.ref(memory), name, memory.bytes.size))

    def launch(self):
        """Run. AssertionError where memory that the graph found when it was captured has been freed since."""
        self.recorder.look("launch()", "no graph can be launched")
        for memory, name, size in self._outside.values():
            if memory() is None:
                raise AssertionError(f"the graph reads memory that was freed: {size} bytes, first used by {name}")
        self.spoil()
        for run in self._steps:
            run()

    def spoil(self):
        """Nothing lives on from one launch to the next but what was there before the capture."""
        for content, poison in self.own.values():
            content.fill(poison)


class Recorder:
    """Runs operations on Tapes, or records them while there is a `graph`."""

    def __init__(self):
        self.graph, self.live = None, weakref.WeakSet()

    def capture(self, work):
        """Return the Graph of what work() does."""
        self.look("capture()", "there is one capture at a time")
        before = [(memory, memory.bytes.copy()) for memory in self.live]
        self.graph = graph = Graph(self)
        try:
            work()
        finally:
            self.graph = None
            graph.spoil()
            changed = sum(not np.array_equal(memory.bytes, content) for memory, content in before)
            for memory, content in before:
                memory.bytes[...] = content
        if graph.refused:        # as a stream's capture is lost, even if somebody caught the error
            raise CaptureError(graph.refused)
        if changed:
            raise AssertionError(f"{changed} arrays changed during a capture: something ran that was not recorded")
        return graph

    def look(self, what, why="nothing has run, so there is no value yet"):
        """CaptureError while a step is captured."""
        if self.graph is not None:
            self.graph.refused = f"{what} while a step is being captured: {why}"
            raise CaptureError(self.graph.refused)

    def check(self, name, *operands):
        """TypeError for operands that CuPy would not convert."""
        for x in operands:
            if not isinstance(x, (Tape, *NUMBERS)) and not (isinstance(x, np.ndarray) and x.ndim == 0):
                raise TypeError(f"{name}: unsupported type {type(x).__module__}.{type(x).__name__} beside arrays of the "
                                f"device; send it there with backend.asarray")

    def is_basic(self, index):
        """Whether an index, a tuple, makes a view. CaptureError for one that cannot be captured."""
        if any(isinstance(i, list | np.ndarray) for i in index):
            self.look("an index on the host", "no host array can be sent")
        arrays = [i for i in index if isinstance(i, Tape | list | np.ndarray | bool | np.bool_)]
        if any(i.dtype == np.bool_ for i in arrays if isinstance(i, Tape)):
            self.look("a mask as an index", "how many entries it has is not known yet")
        return not arrays

    def allocate(self, shape, dtype, strides=None):
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        memory = Memory(size, dtype)
        self.live.add(memory)
        if self.graph is not None:
            self.graph.own[memory.number] = memory.bytes, memory.poison
        return Tape(self, np.ndarray(shape, dtype, memory.bytes, 0, strides), memory)

    def adopt(self, result, operands, fill=True):
        """Return a result of NumPy's as Tapes: views of the operands' memory as such, all else copied (with `fill`)."""
        if isinstance(result, tuple | list):
            return type(result)(self.adopt(one, operands, fill) for one in result)
        if not isinstance(result, np.ndarray | np.generic):
            return result
        result = np.asarray(result)
        for x in operands:
            if result.size and x.memory.holds(result.ctypes.data):
                return Tape(self, result, x.memory)
        dense = _extent(result) == (0, result.nbytes)
        new = self.allocate(result.shape, result.dtype, result.strides if dense else None)
        if fill:
            new.array[...] = result
        return new

    def do(self, name, function, arguments, options=None, out=None):
        """Return function(*arguments, **options): run with NumPy arrays for Tapes, or recorded. `out`: what it writes to."""
        options = options or {}
        operands = _tapes(arguments, options)
        with np.errstate(all="ignore"):
            if self.graph is None or function in VIEWS:
                result = function(*_plain(arguments), **_plain(options))
                if self.graph is None:
                    return self.adopt(result, operands) if out is None else out
                parts = result if isinstance(result, tuple | list) else [result]
                if all(any(x.memory.holds(part.ctypes.data) for x in operands) for part in parts):
                    return self.adopt(result, operands)
            result = function(*_blank(arguments), **_blank(options))     # says what it looks like, and what does not fit
        arguments, options = _plain(arguments), _plain(options)      # no Tape: a graph keeps no memory alive but its own
        made = self.adopt(result, [], fill=False) if out is None else out
        targets = _plain(_tapes(made)) if out is None else []
        self.graph.add(name, [x.memory for x in (*operands, *_tapes(made))],
                       lambda: _run(function, arguments, options, targets))
        return made

    def run(self, name, memories, run):
        """Call run(), which returns nothing, or record it."""
        if self.graph is None:
            run()
        else:
            self.graph.add(name, memories, run)

    def ufunc(self, ufunc, method, inputs, options):
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        self.check(name, *inputs[:2 if method == "__call__" else 1], options.get("where", True))
        if ufunc.signature or method not in ("__call__", "reduce"):
            self.look(name, "CuPy does more for it than launch kernels")
        out = options.get("out")
        out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
        if any(not isinstance(x, Tape) for x in (out if isinstance(out, tuple) else [] if out is None else [out])):
            raise TypeError(f"{name}: out is no array of the device")
        if method == "at":
            out = inputs[0]
        return self.do(name, getattr(ufunc, method), inputs, options, out)

    def function(self, function, arguments, options):
        name = function.__name__
        if function in ABOUT:
            return function(*_plain(arguments), **_plain(options))
        if function not in KERNELS or function is np.where and len(arguments) + len(options) < 3:
            self.look(f"xp.{name}", "it is none of the functions that CuPy does with kernels alone")
        for x in _leaves((arguments, options)):
            if isinstance(x, np.ndarray):
                self.check(f"xp.{name}", x)
        out = arguments[0] if function is np.copyto else options.get("out")
        return self.do(name, function, arguments, options, out)


class Arrays:
    """An array module as CuPy is one: `home`, NumPy or a module of it, on Tapes."""

    ndarray = Tape

    def __init__(self, recorder, home=np):
        self._recorder, self._home, self.__name__ = recorder, home, "recorded." + home.__name__

    def __getattr__(self, name):
        found = getattr(self._home, name)
        if isinstance(found, np.ufunc):
            return _Ufunc(self._recorder, found)
        if isinstance(found, types.ModuleType):
            return Arrays(self._recorder, found)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *arguments, **options: self._recorder.function(found, arguments, options)

    def empty(self, shape, dtype=float, order="C"):
        example = np.empty(shape, dtype, order)
        return self._recorder.allocate(example.shape, example.dtype, example.strides)

    def empty_like(self, x, dtype=None):
        return self._recorder.adopt(np.empty_like(x.array, dtype), [], fill=False)

    def asarray(self, x, dtype=None, order=None):
        if isinstance(x, Tape):
            return x if dtype is None else x.astype(dtype, copy=False)
        self._recorder.look("asarray()", "no host array can be sent")
        return self._recorder.adopt(np.array(x, dtype, order=order), [])

    def array(self, x, dtype=None, copy=True):
        x = self.asarray(x, dtype)
        return x.copy() if copy else x

    def ascontiguousarray(self, x, dtype=None):
        x = self.asarray(x, dtype)
        return x if x.ndim and x.flags.c_contiguous else self._recorder.function(np.ascontiguousarray, (x,), {})


class _Ufunc:
    def __init__(self, recorder, ufunc):
        self._recorder, self._ufunc = recorder, ufunc

    def __call__(self, *inputs, **options):
        count = self._ufunc.nin
        if len(inputs) > count:
            inputs, options = inputs[:count], {**options, "out": inputs[count:]}
        return self._recorder.ufunc(self._ufunc, "__call__", inputs, options)

    def __getattr__(self, method):
        return lambda *inputs, **options: self._recorder.ufunc(self._ufunc, method, inputs, options)


# -- kernels, cuBLAS, the backend ----------------------------------------------------------------------------------------
class RecordedKernels:
    """A device for kernels (see kernels/loader.py) that takes Tapes; `inner` runs them."""

    def __init__(self, recorder, inner):
        self.recorder, self.inner, self.launches = recorder, inner, inner.launches

    def complaint(self, x):
        return "" if isinstance(x, Tape) else f"expected an array of the device, got {type(x).__name__}"

    def launch(self, kernel, macros, grid, block, arguments):
        plain, memories = _plain(tuple(arguments)), [x.memory for x in _tapes(tuple(arguments))]
        self.recorder.run(kernel.name, memories, lambda: self.inner.launch(kernel, macros, grid, block, plain))


class RecordedCublas:
    """HostCublas, `inner`, whose calls are recorded: pointers of the device as they are, numbers of the host by value."""

    def __init__(self, recorder, inner):
        self.recorder, self.inner, self.calls, self.CUBLASError = recorder, inner, inner.calls, inner.CUBLASError

    def gemmEx(self, *arguments):
        self._call(self.inner.gemmEx, arguments)

    def gemmStridedBatchedEx(self, *arguments):
        self._call(self.inner.gemmStridedBatchedEx, arguments)

    def _call(self, routine, arguments):
        given = inspect.signature(routine).bind(*arguments).arguments
        memories = [self._memory(routine, given[name]) for name in "ABC"]
        size = 8 if given["computeType"] == 70 else 4
        # A graph remembers the numbers that stood there when it was captured.
        numbers = [ctypes.create_string_buffer(ctypes.string_at(given[name], size), size) for name in ("alpha", "beta")]
        given["alpha"], given["beta"] = map(ctypes.addressof, numbers)
        self.recorder.run(routine.__name__, memories, lambda numbers=numbers: routine(*given.values()))

    def _memory(self, routine, pointer):
        for memory in self.recorder.live:
            if memory.holds(pointer):
                return memory
        raise AssertionError(f"{routine.__name__}: a pointer to none of the arrays that live")


def recorded(emulated):
    """Return the class of backends as `emulated` (see conftest.py) whose `capture` works as on a GPU, only stricter."""
    class RecordedCuda(emulated):
        captures = True

        def __init__(self, precision="float32"):
            super().__init__(precision)
            self.recorder = Recorder()
            self.xp = Arrays(self.recorder)
            self.blas, self.kernels = RecordedCublas(self.recorder, self.blas), RecordedKernels(self.recorder, self.kernels)

        def capture(self, work):
            self.recorder.look("capture()", "there is one capture at a time")
            self.capturing, self.held = True, []
            try:
                graph = self.recorder.capture(work)
                graph.held = self.held
                return graph
            finally:
                self.capturing, self.held = False, None

        def empty(self, shape, dtype):
            return self.xp.empty(shape, dtype)

        def to_host(self, x):
            x = self._dense(x)
            return x.get() if isinstance(x, Tape) else np.asarray(x)

        def synchronize(self):
            self.recorder.look("synchronize()", "waiting ends the capture")

        def trim(self):
            self.recorder.look("trim()", "no memory can be freed")

        def _pointer(self, array):
            return array.array.ctypes.data

    return RecordedCuda
