"""Function: one differentiable operation. What all of them have in common is in `apply`."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidrop.autograd import graph
from minidrop.autograd.tensor import Tensor
from minidrop.errors import KeptError, kind_of
from minidrop.kept import Kept, KeptByGroup

Place: TypeAlias = tuple[Kept | KeptByGroup | None, int]      # a kept set, and the axis that it is on


class Function:
    """One differentiable operation on arrays, first order only.

    `forward(backend, *arrays)` returns an array (or a tuple of them) and stores on `self` what
    `backward(backend, gy, wanted)` needs; backward returns one array, `Block` or None per input. If forward
    returned a tuple, `gy` is one.

    `kept_rule` says what happens to kept sets:
      "same"    elementwise: all inputs share one kept set, and the output carries it;
      "native"  the function itself reads `input_kept` and sets `output_kept` = (kept, axis), or a list with
                one for each output;
      "dense"   the function cannot work on compact data: a compact input raises KeptError.
    An instance stores values in the slots of its class; a class without `__slots__` may store anything. One
    that computes for the second time leaves it to another, as it was made itself.
    """

    __slots__ = ("inputs", "outputs_count", "returns_tuple", "rank", "age", "input_kept", "output_kept",
                 "_watched", "_made")

    kept_rule = "dense"
    inputs: Any         # the input Tensors, until backward has run
    input_kept: tuple[Place, ...]
    output_kept: Place | list[Place]
    outputs_count: int
    returns_tuple: bool
    rank: int           # one more than the highest among the creators of the inputs
    age: int
    _saved: tuple[str, ...] = ("input_kept", "output_kept")
    _watched: Callable[..., Any] | None
    _made: "Function"   # as it was before it computed
    _is_own = True      # whether it is minidrop's, which makes one for each call

    def __init_subclass__(cls, **more: Any):
        super().__init_subclass__(**more)
        cls._is_own = cls.__module__.partition(".")[0] == "minidrop"
        cls._saved = (*cls._saved, *cls.__dict__.get("__slots__", ()))

    def forward(self, backend: Any, *arrays: Any) -> Any:
        """Return the output array, or a tuple of them, for the arrays of the inputs."""
        raise NotImplementedError

    def backward(self, backend: Any, gy: Any, wanted: Sequence[bool]) -> Any:
        """Return the gradients of the inputs for `gy`, that of the output, or a tuple of those of several.

        Each is an array, a Block or None; `wanted` says for each input whether it is needed at all.
        """
        raise NotImplementedError

    def watch_backward(self, watch: Any) -> None:
        """Run watch(backward), a function with the same arguments, in place of backward: for timing."""
        self._watched = watch(self._watched or self.backward)

    def run_backward(self, backend: Any, gy: Any, wanted: Sequence[bool]) -> Any:
        """Run `backward`, through the watches of `watch_backward`, and return its result."""
        return (self._watched or self.backward)(backend, gy, wanted)

    def apply(self, *inputs: Tensor | np.ndarray) -> Any:
        """Compute the output Tensor, or a tuple of them. Other inputs become Tensors on the same device."""
        if not getattr(self, "_is_own", False):
            self = _unused(self)
        backend, wanted, compact, plain = None, False, False, False
        for x in inputs:
            if not isinstance(x, Tensor):
                plain = True
                continue
            if backend is None:
                backend = x.backend
            wanted = wanted or x.requires_grad
            compact = compact or x.kept is not None
        tensors: tuple[Tensor, ...] = inputs    # type: ignore[assignment]      # unless there are plain arrays
        if plain:
            tensors = tuple([x if isinstance(x, Tensor) else _on(backend, Tensor(x)) for x in inputs])
            backend = tensors[0].backend
        if self.kept_rule == "native":
            self.input_kept = tuple([(x.kept, x.kept_axis) for x in tensors])
            self.output_kept = None, 1
        else:
            self.output_kept = self._carried(tensors) if compact else (None, 1)
        arrays = self.forward(backend, *[x.data for x in tensors])
        wanted = wanted and graph.is_recording()
        backend, places = self.output_backend(backend), self.output_kept
        self.returns_tuple = isinstance(arrays, tuple)
        result: Tensor | tuple[Tensor, ...]
        if self.returns_tuple:
            each = places if isinstance(places, list) else [places] * len(arrays)
            outputs = result = tuple([Tensor(array, wanted, backend, kept, axis)
                                      for array, (kept, axis) in zip(arrays, each, strict=True)])
        else:
            kept, axis = places[0] if isinstance(places, list) else places
            result = Tensor(arrays, wanted, backend, kept, axis)
            outputs = (result,)
        if not wanted:
            self.release()
            return result
        rank = 0
        for x in tensors:
            if x.creator is not None and x.creator.rank > rank:
                rank = x.creator.rank
        self.rank, self.age = rank + 1, next(graph.clock)   # of equal ranks the youngest runs backward first
        self.inputs, self.outputs_count, self._watched = tensors, len(outputs), None
        for i, output in enumerate(outputs):
            output.creator, output.output_index = self, i
        return result

    def output_backend(self, backend: Any) -> Any:
        """Return the Backend of the outputs, given that of the inputs: the same, unless data is moved."""
        return backend

    def _carried(self, inputs):
        compact = [x for x in inputs if x.kept is not None]
        name = type(self).__name__
        if self.kept_rule == "dense":
            raise KeptError(f"{name} needs every unit of its input, which carries {compact[0].kept}; "
                            f"call functions.expand on it first")
        kept, axis = compact[0].kept, compact[0].kept_axis
        if any((x.kept, x.kept_axis) != (kept, axis) for x in inputs):
            raise KeptError(f"{name} needs inputs with one kept set, got "
                            f"{', '.join(repr(x.kept) for x in inputs)}; call functions.expand on them first")
        return kept, axis

    def holds(self, array: np.ndarray, backend: Any) -> bool:
        """Whether backward would read this array: whether what forward stored shares memory with it."""
        stored = [getattr(self, name, None) for name in self._saved]
        stored += getattr(self, "__dict__", {}).values()
        return any(_shares(one, array, backend.xp) for one in stored)

    def release(self) -> None:
        """Drop everything saved for backward."""
        self.inputs = self._watched = None
        for name in self._saved:
            if hasattr(self, name):
                delattr(self, name)
        getattr(self, "__dict__", {}).clear()


def _unused(function):
    """Return a Function that has computed nothing: this one, or a copy of it as it was made."""
    if not isinstance(function, Function):
        raise TypeError(f"a Function is an object for each call, so write MyFunction().apply(x), not "
                        f"MyFunction.apply(x); got {kind_of(function)} in its place")
    if hasattr(function, "_made"):
        return copy.copy(function._made)
    function._made = copy.copy(function)
    return function


def _on(backend, tensor):
    if backend is None or tensor.backend is backend:
        return tensor
    return Tensor(backend.asarray(tensor.data), backend=backend)


def _shares(stored, array, xp, depth=4):
    """Whether an array is stored in a value: itself, in a list or dict, or in what a function is made of."""
    if isinstance(stored, xp.ndarray):
        return bool(xp.may_share_memory(stored, array))
    if isinstance(stored, list | tuple):
        parts = stored
    elif isinstance(stored, dict):
        parts = list(stored.values())
    elif depth and type(stored).__module__.startswith("minidrop.functions"):
        names = [name for kind in type(stored).__mro__ for name in vars(kind).get("__slots__", ())]
        parts = [getattr(stored, name, None) for name in names]
        parts += getattr(stored, "__dict__", {}).values()
    else:
        return False
    return bool(depth) and any(_shares(part, array, xp, depth - 1) for part in parts)
