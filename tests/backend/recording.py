"""Capture without a GPU: a backend on host memory that records what it is given to do, and does it later, as
CUDA graphs do.

Its arrays are Tapes (recorded_arrays.py), which never become NumPy's by themselves. While a step is captured
nothing runs: operations learn the shapes of their results from blank operands, and what needs a value raises
CaptureError.
"""

import ctypes
import inspect
import weakref

import numpy as np
from recorded_arrays import Arrays, Memory, Tape, blank, extent, leaves, plain, tapes

from minidrop.errors import CaptureError

NUMBERS = (bool, int, float, complex, np.generic)


def named(text):
    """The NumPy functions of some names, as far as this NumPy has them."""
    return {getattr(np, name) for name in text.split() if hasattr(np, name)}


ABOUT = named("shape ndim size result_type can_cast promote_types isscalar iscomplexobj isrealobj "
              "broadcast_shapes may_share_memory")
VIEWS = named("reshape ravel transpose moveaxis swapaxes rollaxis squeeze expand_dims broadcast_to "
              "broadcast_arrays split array_split hsplit vsplit flip atleast_1d atleast_2d atleast_3d "
              "ascontiguousarray diagonal") | {np.lib.stride_tricks.as_strided}
# What CuPy does with plain kernels: it reads nothing, sends nothing from the host and calls no library.
KERNELS = VIEWS | named("zeros ones full arange eye empty_like zeros_like ones_like full_like sum prod max "
                        "min amax amin any all mean argmax argmin take take_along_axis where copyto clip "
                        "copy")


def _run(function, arguments, options, targets):
    """Call a NumPy function and copy what it returns to `targets`, if there are any."""
    with np.errstate(all="ignore"):
        result = function(*arguments, **options)
    for target, part in zip(targets, result if isinstance(result, tuple | list) else [result], strict=False):
        target[...] = part


# -- recording -----------------------------------------------------------------------------------------------
class Graph:
    """What a capture recorded: `names` of its operations in order. `launch` does it all on the same memory.

    `held`: arrays of the backend's caches that it reads.
    """

    def __init__(self, recorder):
        self.recorder, self.names, self.refused = recorder, [], None
        self.own = {}           # number -> (bytes, poison) of memory that the capture allocated: its pool
                                # keeps it
        self._steps, self._beside, self._outside = [], [], {}

    def add(self, name, memories, run):
        self.names.append(name)
        (self._beside if self.recorder.beside() else self._steps).append(run)
        for memory in memories:
            if memory.number not in self.own:
                self._outside.setdefault(memory.number, (weakref.ref(memory), name, memory.bytes.size))

    def join(self):
        """What was recorded of a second stream runs here: nothing has waited for it before."""
        self._steps += self._beside
        self._beside = []

    def launch(self):
        """Run. AssertionError where memory that the graph found when it was captured has been freed since."""
        self.recorder.look("launch()", "no graph can be launched")
        for memory, name, size in self._outside.values():
            if memory() is None:
                raise AssertionError(f"the graph reads memory that was freed: {size} bytes, first used by "
                                     f"{name}")
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
        self.beside = lambda: False     # whether a second stream is the current one

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
        if graph._beside:
            raise AssertionError("the capture ends before it waits for its second stream")
        if graph.refused:        # as a stream's capture is lost, even if somebody caught the error
            raise CaptureError(graph.refused)
        if changed:
            raise AssertionError(f"{changed} arrays changed during a capture: something ran that was not "
                                 f"recorded")
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
                raise TypeError(f"{name}: unsupported type {type(x).__module__}.{type(x).__name__} beside "
                                f"arrays of the device; send it there with backend.asarray")

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
        """Return a result of NumPy's as Tapes: views of the operands' memory as such, all else copied (with
        `fill`)."""
        if isinstance(result, tuple | list):
            return type(result)(self.adopt(one, operands, fill) for one in result)
        if not isinstance(result, np.ndarray | np.generic):
            return result
        result = np.asarray(result)
        pointer = result.ctypes.data
        for x in operands if result.size else ():
            if x.memory.holds(pointer):
                return Tape(self, result, x.memory)
        dense = extent(result) == (0, result.nbytes)
        new = self.allocate(result.shape, result.dtype, result.strides if dense else None)
        if fill:
            new.array[...] = result
        return new

    def do(self, name, function, arguments, options=None, out=None):
        """Return function(*arguments, **options): run with NumPy arrays for Tapes, or recorded. `out`: what
        it writes to."""
        options = options or {}
        operands = tapes(arguments, options)
        with np.errstate(all="ignore"):
            if self.graph is None or function in VIEWS:
                result = function(*plain(arguments), **plain(options))
                if self.graph is None:
                    return self.adopt(result, operands) if out is None else out
                parts = result if isinstance(result, tuple | list) else [result]
                if all(any(x.memory.holds(part.ctypes.data) for x in operands) for part in parts):
                    return self.adopt(result, operands)
            # says what it looks like, and what does not fit
            result = function(*blank(arguments), **blank(options))
        # no Tape: a graph keeps no memory alive but its own
        arguments, options = plain(arguments), plain(options)
        made = self.adopt(result, [], fill=False) if out is None else out
        targets = plain(tapes(made)) if out is None else []
        self.graph.add(name, [x.memory for x in (*operands, *tapes(made))],
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
        if any(not isinstance(x, Tape) for x in (out if isinstance(out, tuple) else [] if out is None
                                                 else [out])):
            raise TypeError(f"{name}: out is no array of the device")
        if method == "at":
            out = inputs[0]
        return self.do(name, getattr(ufunc, method), inputs, options, out)

    def function(self, function, arguments, options):
        name = function.__name__
        if function in ABOUT:
            return function(*plain(arguments), **plain(options))
        if function not in KERNELS or function is np.where and len(arguments) + len(options) < 3:
            self.look(f"xp.{name}", "it is none of the functions that CuPy does with kernels alone")
        for x in leaves((arguments, options)):
            if isinstance(x, np.ndarray):
                self.check(f"xp.{name}", x)
        out = arguments[0] if function is np.copyto else options.get("out")
        return self.do(name, function, arguments, options, out)


# -- kernels, cuBLAS, the backend ----------------------------------------------------------------------------
class RecordedKernels:
    """A device for kernels (see kernels/loader.py) that takes Tapes; `inner` runs them."""

    def __init__(self, recorder, inner):
        self.recorder, self.inner, self.launches = recorder, inner, inner.launches

    def complaint(self, x):
        return "" if isinstance(x, Tape) else f"expected an array of the device, got {type(x).__name__}"

    def launch(self, kernel, macros, grid, block, arguments):
        given, memories = plain(tuple(arguments)), [x.memory for x in tapes(*arguments)]
        self.recorder.run(kernel.name, memories,
                          lambda: self.inner.launch(kernel, macros, grid, block, given))


class RecordedCublas:
    """HostCublas, `inner`, whose calls are recorded: pointers of the device as they are, numbers of the host
    by value."""

    def __init__(self, recorder, inner):
        self.recorder, self.inner = recorder, inner
        self.calls, self.CUBLASError = inner.calls, inner.CUBLASError

    def gemmEx(self, *arguments):
        self._call(self.inner.gemmEx, arguments)

    def gemmStridedBatchedEx(self, *arguments):
        self._call(self.inner.gemmStridedBatchedEx, arguments)

    def _call(self, routine, arguments):
        given = inspect.signature(routine).bind(*arguments).arguments
        memories = [self._memory(routine, given[name]) for name in "ABC"]
        size = 8 if given["computeType"] == 70 else 4
        # A graph remembers the numbers that stood there when it was captured.
        numbers = [ctypes.create_string_buffer(ctypes.string_at(given[name], size), size)
                   for name in ("alpha", "beta")]
        given["alpha"], given["beta"] = map(ctypes.addressof, numbers)
        self.recorder.run(routine.__name__, memories, lambda numbers=numbers: routine(*given.values()))

    def _memory(self, routine, pointer):
        for memory in self.recorder.live:
            if memory.holds(pointer):
                return memory
        raise AssertionError(f"{routine.__name__}: a pointer to none of the arrays that live")


def recorded(emulated):
    """Return the class of backends as `emulated` (see conftest.py) whose `capture` works as on a GPU, only
    stricter."""
    class RecordedCuda(emulated):
        captures = True

        def __init__(self, precision="float32"):
            super().__init__(precision)
            self.recorder = Recorder()
            self.xp = Arrays(self.recorder)
            self.blas.library = RecordedCublas(self.recorder, self.blas.library)
            self.blas.pointer = lambda array: array.array.ctypes.data
            self.kernels = RecordedKernels(self.recorder, self.kernels)

        def capture(self, work):
            self.recorder.look("capture()", "there is one capture at a time")
            was, self.capturing, self.graphs.held = self.capturing, True, []
            try:
                graph = self.recorder.capture(work)
                graph.held = self.graphs.held
                return graph
            finally:
                self.capturing, self.graphs.held = was, None

        def empty(self, shape, dtype):
            return self.xp.empty(shape, dtype)

        def to_host(self, x):
            x = self._dense(x)
            return x.get() if isinstance(x, Tape) else np.asarray(x)

        def synchronize(self):
            self.recorder.look("synchronize()", "waiting ends the capture")

        def trim(self):
            self.recorder.look("trim()", "no memory can be freed")

    return RecordedCuda
