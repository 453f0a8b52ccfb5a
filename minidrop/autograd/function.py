"""Function: one differentiable operation. What all of them have in common is in `apply`."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidrop.autograd import graph
from minidrop.autograd.tensor import Tensor
from minidrop.errors import KeptError

_ages = itertools.count(1)


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
    An instance is used once. It stores values in the slots of its class; a class without `__slots__` may
    store anything.
    """

    __slots__ = ("inputs", "outputs_count", "returns_tuple", "rank", "age", "input_kept", "output_kept",
                 "_watched")

    kept_rule = "dense"
    _saved: tuple[str, ...] = ("input_kept", "output_kept")

    def __init_subclass__(cls, **more: Any):
        super().__init_subclass__(**more)
        cls._saved = (*cls._saved, *cls.__dict__.get("__slots__", ()))

    def __new__(cls, *_args: Any, **_settings: Any):
        self = super().__new__(cls)
        self.inputs, self._watched = None, None
        self.outputs_count, self.returns_tuple = 1, False
        self.rank = self.age = 0        # among equal ranks the youngest runs backward first
        return self

    def forward(self, backend: Any, *arrays: Any) -> Any:
        raise NotImplementedError

    def backward(self, backend: Any, gy: Any, wanted: Sequence[bool]) -> Any:
        raise NotImplementedError

    def watch_backward(self, watch: Any) -> None:
        """Run watch(backward), a function with the same arguments, in place of backward: for timing."""
        self._watched = watch(self._watched or self.backward)

    def run_backward(self, backend: Any, gy: Any, wanted: Sequence[bool]) -> Any:
        """Run `backward`, through the watches of `watch_backward`, and return its result."""
        return (self._watched or self.backward)(backend, gy, wanted)

    def apply(self, *inputs: Tensor | np.ndarray) -> Any:
        """Compute the output Tensor, or a tuple of them. Other inputs become Tensors on the same device."""
        backend = next((x.backend for x in inputs if isinstance(x, Tensor)), None)
        inputs = tuple(x if isinstance(x, Tensor) else _on(backend, Tensor(x)) for x in inputs)
        backend = inputs[0].backend
        self.output_kept = self._carried(inputs)
        arrays = self.forward(backend, *[x.data for x in inputs])
        requires_grad = graph.is_recording() and any(x.requires_grad for x in inputs)
        self.returns_tuple = isinstance(arrays, tuple)
        arrays = arrays if self.returns_tuple else (arrays,)
        self.outputs_count = len(arrays)
        places = self.output_kept if isinstance(self.output_kept, list) else [self.output_kept] * len(arrays)
        outputs = tuple(Tensor(array, requires_grad, backend, kept, axis)
                        for array, (kept, axis) in zip(arrays, places, strict=True))
        result = outputs if self.returns_tuple else outputs[0]
        if requires_grad:
            self.inputs = inputs
            self.age = next(_ages)
            self.rank = 1 + max(x.creator.rank if x.creator else 0 for x in inputs)
            for i, output in enumerate(outputs):
                output.creator, output.output_index = self, i
        else:
            self.release()
        return result

    def _carried(self, inputs):
        if self.kept_rule == "native":
            self.input_kept = tuple((x.kept, x.kept_axis) for x in inputs)
            return None, 1
        compact = [x for x in inputs if x.kept is not None]
        if not compact:
            return None, 1
        name = type(self).__name__
        if self.kept_rule == "dense":
            raise KeptError(f"{name} needs every unit of its input, which carries {compact[0].kept}; "
                            f"call functions.expand on it first")
        kept, axis = compact[0].kept, compact[0].kept_axis
        if any((x.kept, x.kept_axis) != (kept, axis) for x in inputs):
            raise KeptError(f"{name} needs inputs with one kept set, got "
                            f"{', '.join(repr(x.kept) for x in inputs)}; call functions.expand on them first")
        return kept, axis

    def release(self) -> None:
        """Drop everything saved for backward."""
        self.inputs = self._watched = None
        for name in self._saved:
            if hasattr(self, name):
                delattr(self, name)
        getattr(self, "__dict__", {}).clear()


def _on(backend, tensor):
    if backend is None or tensor.backend is backend:
        return tensor
    return Tensor(backend.asarray(tensor.data), backend=backend)
