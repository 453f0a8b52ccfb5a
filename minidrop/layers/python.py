"""Python: a layer that a class outside minidrop computes, as in Caffe."""

from __future__ import annotations

import copy
import enum
import importlib
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.config import FillerParameter
from minidrop.errors import ConfigError, DataError, MinidropError, nearest
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.python_blob import Blob, BlobList

if TYPE_CHECKING:
    from minidrop.backend import Backend

_allowed = False


def allow_python(allowed: bool = True) -> bool:
    """Let networks run the code of the modules that their Python layers name; False forbids it again.

    A network file may come from anywhere, so building a Python layer is refused at first. Returns whether it
    was allowed.
    """
    global _allowed
    before, _allowed = _allowed, allowed
    return before


class LayerPhase(enum.IntEnum):
    """The phase of a Python layer, a number as Caffe has it, whose str is the name, as in Faster R-CNN's."""

    TRAIN = 0
    TEST = 1

    def __str__(self):
        return self.name


class PythonLayer:
    """Base of the classes that Python layers name; minidrop.caffe has it as Layer.

    A subclass defines

        setup(bottom, top)         once: checks, parameters (self.blobs.add_blob(2, 3))
        reshape(bottom, top)       before each pass: top[0].reshape(...)
        forward(bottom, top)       top[0].data[...] = f(bottom[0].data)
        backward(top, propagate_down, bottom)
                                   if propagate_down[0]: bottom[0].diff[...] = f'(top[0].diff)

    where bottom and top are lists of `Blob`s, on the host whatever the device of the net. Where a top has the
    name of a bottom both are one blob, which begins with the bottom's values, and in backward holds those of
    the top and its diff. The diffs of other bottoms are zeros when backward begins; what it leaves in the
    diffs of self.blobs is added to the gradients. It has
    `param_str`, `phase` (0: TRAIN, 1: TEST; str gives these names), `blobs`, and `name`. A layer without
    bottoms and parameters feeds the net; where it stands in its data is its own: a snapshot does not have it.
    """

    def __init__(self, name: str = "", param_str: str = "", phase: int = 0, dtype: str = "float32"):
        self.name, self.param_str, self.phase = name, param_str, LayerPhase(phase)
        self.param_str_ = param_str         # as older files of Caffe call it
        self.type = "Python"
        self.blobs = BlobList(dtype)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Prepare the layer; called once."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        raise NotImplementedError("a Python layer needs a method reshape(self, bottom, top)")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Compute the tops."""
        raise NotImplementedError("a Python layer needs a method forward(self, bottom, top)")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Compute the gradients of the bottoms and of the parameters."""
        raise NotImplementedError("a Python layer needs a method backward(self, top, propagate_down, bottom)")


@register_layer("Python")
class Python(Layer):
    """Runs an instance of the class `layer` of `module`, a PythonLayer, found on sys.path (PYTHONPATH).

    Refused with a ConfigError unless `allow_python` was called. What the class raises becomes a ConfigError
    or a DataError that names the layer and the line; its cause has the whole traceback.
    """

    bottoms = (0, None)
    tops = (0, None)
    capturable = False

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        dtype = self.context.dtype
        self.bottom = [Blob(shape, dtype) for shape in shapes]
        named = dict(zip(self.config.bottom, self.bottom, strict=True))
        self.top = [named.get(name) or Blob((), dtype) for name in self.config.top]
        self.passes = 0
        kind = self._kind()
        handed, tops = self.context.handed.get(self.name, (None, ()))
        if type(handed) is kind:
            self.user = handed
            for blob, shape in zip(self.top, tops, strict=False):       # what its `setup` may have given them
                if blob not in self.bottom:
                    blob.reshape(*shape)
        else:
            self.user = self._run(lambda: kind(self.name, self.settings.param_str or self.config.param_str,
                                               int(not self.training), dtype), "__init__", ConfigError)
            self._run(lambda: self.user.setup(self.bottom, self.top), "setup", ConfigError)
        self._run(lambda: self.user.reshape(self.bottom, self.top), "reshape", ConfigError)
        self.is_data = not self.bottom and not self.user.blobs
        return [blob.shape for blob in self.top]

    def _kind(self) -> type[PythonLayer]:
        """Return the class that the settings name."""
        module, name = self.settings.module, self.settings.layer
        if not module or not name:
            raise ConfigError("python_param needs module and layer, the name of a class in it")
        if not _allowed:
            raise ConfigError(f"a Python layer runs the code of module {module!r}, which is refused at "
                              f"first; if you trust it: --allow-python, or minidrop.layers.allow_python()")
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"python_param: module must be the name of a module, such as a.b, got "
                              f"{module!r}")
        found = self._run(lambda: importlib.import_module(module), f"import of {module}", ConfigError)
        kind = getattr(found, name, None)
        if not (isinstance(kind, type) and issubclass(kind, PythonLayer)):
            known = [key for key, value in vars(found).items()
                     if isinstance(value, type) and issubclass(value, PythonLayer)]
            raise ConfigError(f"python_param: module {module!r} ({getattr(found, '__file__', None)}) has no "
                              f"class {name!r} that is derived from minidrop.caffe.Layer"
                              f"{nearest(name, known)}")
        return kind

    def _run(self, call: Callable, what: str, kind: type[MinidropError]) -> Any:
        """Return call(), which runs code from outside; what it raises becomes an error of `kind`."""
        try:
            return call()
        except MemoryError:
            raise
        except Exception as error:
            hint = ""
            if isinstance(error, ModuleNotFoundError):
                hint = ("; minidrop.caffe.install() lets `import caffe` find minidrop.caffe"
                        if error.name == "caffe" else "; is its folder in PYTHONPATH?")
            frame, text = traceback.extract_tb(error.__traceback__)[-1], " ".join(str(error).split())
            raise kind(f"{self.settings.module}.{self.settings.layer}: {what} raised {type(error).__name__}: "
                       f"{text} ({frame.filename}:{frame.lineno}){hint}") from error

    def parameter_specs(self) -> list[ParameterSpec]:
        return [ParameterSpec(f"blob{i}", blob.shape, FillerParameter(), initial=blob.written)
                for i, blob in enumerate(self.user.blobs)]

    def instance(self) -> PythonLayer:
        """Return the instance of the class; its blobs hold the parameters, on a CPU their very arrays."""
        backend: Any = self.context.backend
        for blob, parameter in zip(self.user.blobs, self.params.values(), strict=True):
            blob.hold(backend.to_host(parameter.data))
        return self.user

    def hands_on(self) -> Any:
        return self.user, [blob.shape for blob in self.top]

    def adopt(self, other: Any) -> None:
        """Go on with a copy of the instance that `other` has run, in the shapes of this layer."""
        if other.user is not self.user and type(other.user) is type(self.user):
            self.user = copy.copy(other.user)
            self._run(lambda: self.user.reshape(self.bottom, self.top), "reshape", ConfigError)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        inputs = (*bottoms, *(self.params[f"blob{i}"] for i in range(len(self.user.blobs))))
        if inputs:
            return _Call(self).apply(*inputs)
        backend: Any = self.context.backend
        return tuple(Tensor(array, backend=backend) for array in self.run_forward(backend, []))

    def run_forward(self, backend: Backend, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Run the class's reshape and forward on arrays on the host, and return its tops on the device."""
        self.passes += 1
        blobs = self.user.blobs
        for blob, array in zip((*self.bottom, *blobs), arrays, strict=True):
            blob.hold(array.copy() if blob in self.top else array)
        self._run(lambda: self.user.reshape(self.bottom, self.top), "reshape", DataError)
        self._run(lambda: self.user.forward(self.bottom, self.top), "forward", DataError)
        self._check_shapes("forward", [array.shape for array in arrays])
        for i, blob in enumerate(blobs):            # which it may have changed
            data = self.params[f"blob{i}"].data
            if not np.shares_memory(blob.data, backend.to_host(data)):
                data[...] = backend.asarray(blob.data, data.dtype)
        # Copies: the next pass writes to the same blobs.
        return tuple(backend.asarray(blob.data.copy(), self.context.dtype) for blob in self.top)

    def _check_shapes(self, what, shapes):
        """Raise DataError where the class has given bottoms or parameters shapes that are not theirs."""
        names = [f"bottom[{i}]" for i in range(len(self.bottom))]
        names += [f"self.blobs[{i}]" for i in range(len(self.user.blobs))]
        for name, blob, shape in zip(names, (*self.bottom, *self.user.blobs), shapes, strict=True):
            if blob.shape != shape and (what == "backward" or blob not in self.top):
                raise DataError(f"{self.settings.module}.{self.settings.layer}: {what} left {name} in shape "
                                f"{blob.shape}, expected {shape}; only tops may be reshaped")

    def run_backward(self, call: _Call, gy: Sequence[np.ndarray | None], wanted: Sequence[bool]) -> tuple:
        """Run the class's backward for one call of forward; returns gradients on the host."""
        blobs = (*self.bottom, *self.user.blobs)
        for blob, array in zip(blobs, call.arrays, strict=True):
            blob.hold(array)
        for blob, top, gradient in zip(self.top, call.tops, gy, strict=True):
            if call.number != self.passes or blob in self.bottom:   # something else has been put there since
                blob.hold(top.copy())
            blob.clear_diff()
            if gradient is not None:
                blob.diff[...] = gradient
        down = list(wanted[:len(self.bottom)])
        self._run(lambda: self.user.backward(self.top, down, self.bottom), "backward", DataError)
        self._check_shapes("backward", [array.shape for array in call.arrays])
        return tuple(blob.diff if want else None for blob, want in zip(blobs, wanted, strict=True))


class _Call(Function):
    """One call of the class's forward, and its backward."""

    __slots__ = ("layer", "arrays", "tops", "number")

    def __init__(self, layer: Python):
        self.layer = layer

    def forward(self, backend: Backend, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        self.arrays = [backend.to_host(array) for array in arrays]
        tops = self.layer.run_forward(backend, self.arrays)
        self.tops, self.number = [backend.to_host(top) for top in tops], self.layer.passes
        return tops

    def backward(self, backend: Backend, gy: Sequence[Any], wanted: Sequence[bool]) -> tuple:
        host = [None if g is None else backend.to_host(g) for g in gy]
        found = self.layer.run_backward(self, host, wanted)
        return tuple(None if g is None else backend.asarray(g) for g in found)
