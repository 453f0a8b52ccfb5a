"""Arrays of a device without a device: what CuPy's have of NumPy's interface, on host memory, each operation
a recorder's.

`recorder` is that of recording.py: it runs what it is given, or records it.
"""

import itertools
import types

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class Memory:
    """One allocation. Python frees it with the last Tape on it; the bytes stay as long as a graph points
    there.

    New ones hold what shows where it is used: NaN, and large integers.
    """

    numbers = itertools.count()

    def __init__(self, size, dtype):
        self.bytes, self.number = np.empty(max(1, size), np.uint8), next(self.numbers)
        self.poison = 0xFF if np.dtype(dtype).kind in "fc" else 0x7F
        self.bytes.fill(self.poison)
        self.begin = self.bytes.ctypes.data         # asked for with every operation

    def holds(self, pointer):
        return self.begin <= pointer < self.begin + self.bytes.size


class Tape(NDArrayOperatorsMixin):
    """An array of the device, with what CuPy's arrays have of NumPy's interface. Single numbers stay 0-d
    arrays."""

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
            raise TypeError(f"{kind.__name__}() of an array of shape {self.shape}: only 0-d arrays are "
                            f"numbers")
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
        return self.recorder.function(np.reshape, (self, shape[0] if len(shape) == 1 else shape),
                                      {"order": order})

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
    setattr(owner, name, lambda self, *arguments,
            **options: self.recorder.function(function, (self, *arguments), options))


for _name in "shape dtype ndim size itemsize nbytes strides flags".split():
    setattr(Tape, _name, property(lambda self, name=_name: getattr(self.array, name)))
for _name in ("sum prod max min any all mean argmax argmin take clip ravel squeeze swapaxes var std cumsum "
              "dot argsort nonzero searchsorted repeat").split():
    _forward(Tape, _name, getattr(np, _name))


def leaves(value):
    """Return what is in a tree of tuples, lists and dicts."""
    found, left = [], [value]
    while left:
        value = left.pop()
        kind = type(value)
        if kind is tuple or kind is list:
            left.extend(reversed(value))
        elif isinstance(value, dict):
            left.extend(reversed(value.values()))
        else:
            found.append(value)
    return found


def tapes(*values):
    return [x for x in leaves(values) if isinstance(x, Tape)]


def replaced(value, change):
    """Return a tree with every Tape in it replaced by change(tape)."""
    if isinstance(value, dict):
        return {key: replaced(one, change) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(replaced(one, change) for one in value)
    return change(value) if isinstance(value, Tape) else value


def plain(value):
    return replaced(value, lambda x: x.array)


def extent(array):
    """Return how many bytes lie before and from the first entry of an array on."""
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides,
                                                   strict=True)] if array.size else []
    return -sum(min(0, step) for step in steps), sum(max(0, step) for step in steps) + array.itemsize


def blank(value):
    """Zeros in arrays of the same shapes, types and strides."""
    def zeros(x):
        before, after = extent(x.array)
        return np.ndarray(x.shape, x.dtype, np.zeros(before + after, np.uint8), before, x.strides)
    return replaced(value, zeros)


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
        return x if x.ndim and x.flags.c_contiguous else self._recorder.function(np.ascontiguousarray, (x,),
                                                                                 {})


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
