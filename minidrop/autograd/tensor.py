"""Tensor: an array, its kept set, and how it was computed. Parameter: a tensor that a solver trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from minidrop.autograd import graph
from minidrop.autograd.block import Block, Blocks, as_matrix
from minidrop.autograd.copies import Copies
from minidrop.autograd.held import as_held, is_held
from minidrop.autograd.number import Number
from minidrop.autograd.show import described
from minidrop.autograd.size import Size
from minidrop.backend import backend_of
from minidrop.config.numbers import truth
from minidrop.errors import GraphError, ShapeError, TensorError
from minidrop.kept import KeptByGroup, are_disjoint

if TYPE_CHECKING:
    from minidrop.autograd.function import Function
    from minidrop.autograd.operators import Operators
    from minidrop.backend.generic.base import Backend
    from minidrop.kept import Kept
else:
    Operators = object      # `define` adds them

# Blocks of several groups overlap; the update reads them faster than they are added (docs/benchmarks.md).
MOST_OF_ONE = 4
MOST_SPANS = 8      # that a Parameter remembers, the newest
_OF_PYTORCH = {"gradient": "; it is gy here",
               "retain_graph": "; a graph runs backward once: add the losses, and run backward of the sum",
               "create_graph": "; nothing is differentiated twice"}
_OF_OBJECT = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__format__")  # objects have them


class Tensor(Copies, Number, Operators):
    """An array that remembers how it was computed.

    `data` is physical: if `kept` is set, its axis `kept_axis` holds only the kept entries, or ShapeError is
    raised. `shape` is logical, as if nothing had been dropped; `grad` has the physical shape of `data`. A
    tensor carries one kept set at most. functions.operators has most methods; they never change a tensor.
    Raises TensorError for what is no array of real numbers, see `as_held`.
    """

    __slots__ = ("data", "backend", "kept", "kept_axis", "requires_grad", "grad", "creator", "output_index",
                 "name")

    # NumPy then leaves array + tensor to Tensor; its own result would have no gradient.
    __array_ufunc__ = None
    changed = 0         # the place in `graph.clock` of the last change of the values in place; of a Parameter

    def __init__(self, data: Any, requires_grad: bool = False, backend: Any = None,
                 kept: Kept | KeptByGroup | None = None, kept_axis: int = 1, name: Any = None):
        self.data = data if is_held(data) else as_held(data)
        self.backend = backend or backend_of(self.data)
        self.kept = kept
        self.kept_axis = kept_axis
        self.requires_grad = truth("requires_grad", requires_grad, TensorError)
        self.grad: np.ndarray | None = None
        self.creator: Function | None = None
        self.output_index = 0
        self.name = name
        if kept is not None and self.data.shape[kept_axis] != kept.count:
            raise ShapeError(f"tensor {name or ''}: axis {kept_axis} of {self.data.shape} should hold the "
                             f"{kept.count} entries of {kept}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        if self.kept is None:
            return self.data.shape
        shape = list(self.data.shape)
        shape[self.kept_axis] = self.kept.total
        return tuple(shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the entries."""
        return self.data.dtype

    def numpy(self) -> np.ndarray:
        """Return the logical (dense) value, dropped entries zero, as a NumPy array; copy it to change it."""
        return self.backend.to_host(self.backend.expand(self.data, self.kept, self.kept_axis))

    @property
    def entries(self) -> np.ndarray:
        """`data`, without the columns that a group with fewer kept entries than another does not use.

        (As a dense array then: what is dropped is zero.)
        """
        uneven = isinstance(self.kept, KeptByGroup) and not self.kept.is_even
        return self.backend.expand(self.data, self.kept, self.kept_axis) if uneven else self.data

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype, copy=copy)

    @property
    def size(self) -> Size:
        """The number of entries, dropped ones included."""
        return Size(self.shape)

    @property
    def device(self) -> str:
        """The name of the device: "cpu" or "cuda:N"."""
        return self.backend.name

    @property
    def is_leaf(self) -> bool:
        """True if no function computed this tensor, or none that backward would go through."""
        return self.creator is None

    def tolist(self) -> Any:
        """Return the logical value as nested lists of Python numbers."""
        return self.numpy().tolist()

    def detach(self) -> Tensor:
        """Return a tensor of the same data that backward passes do not go through."""
        return Tensor(self.data, False, self.backend, self.kept, self.kept_axis)

    @classmethod
    def define(cls, methods: type) -> None:
        """Add what the body of a class defines: operators and methods, whose maths is on a higher floor."""
        for name, value in vars(methods).items():
            if name in _OF_OBJECT or name not in {*vars(object), "__module__", "__dict__", "__weakref__"}:
                setattr(cls, name, value)

    def backward(self, gy: np.ndarray | None = None, **theirs: NoReturn) -> None:
        """Add d self / d leaf, times `gy`, to the `grad` of every leaf this tensor was computed from.

        `gy` may be omitted for a single number: it is then 1. Raises ShapeError if it is missing otherwise,
        or does not have the physical shape of this tensor, and GraphError if there is no leaf to reach, or if
        backward has run already.
        """
        for name in theirs:
            raise TypeError(f"backward takes gy; got {name!r}{_OF_PYTORCH.get(name, '')}")
        if not self.requires_grad:
            raise GraphError(f"backward: nothing that this tensor of shape {self.shape} was computed from "
                             f"requires a gradient; was it computed under no_grad, or detached?")
        if gy is None and self.data.size != 1:
            raise ShapeError(f"backward: a tensor of shape {self.shape} is no single number, whose gradient "
                             f"is 1; give gy, an array of the physical shape {self.data.shape}")
        gy = (self.backend.xp.ones_like(self.data) if gy is None
              else self.backend.asarray(gy if isinstance(gy, Tensor) else as_held(gy), self.data.dtype))
        if gy.shape != self.data.shape:
            raise ShapeError(f"backward: gy should have the physical shape of the tensor, {self.data.shape}, "
                             f"got {gy.shape}")
        with self.backend.active():
            graph.backward([(self, gy)])

    def accumulate(self, gradient: Any) -> None:
        """Add to `grad` (leaves only)."""
        gradient = self.as_array(gradient)
        self.grad = gradient if self.grad is None else self.grad + gradient

    def as_array(self, gradient: Any) -> np.ndarray:
        """Return a gradient of this tensor, perhaps a Block or Blocks, as an array shaped like `data`."""
        return (gradient.dense(self.backend, self.data.shape) if isinstance(gradient, Block | Blocks)
                else gradient)

    def require_grad(self, requires_grad: bool = True) -> None:
        """Let backward passes reach this tensor, or not. Raises TensorError for what is neither."""
        self.requires_grad = truth("requires_grad", requires_grad, TensorError)

    def clear_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def __repr__(self):
        return described(self)


_slot = vars(Tensor)["data"]
_hold = _slot.__set__               # without a look at what is held


class Parameter(Tensor):
    """A tensor that a solver trains.

    What is set as its `data` are numbers of its shape, else ShapeError or TensorError is raised; they take
    its dtype and device. Its gradient is stored as `blocks`, as backward produced them; `grad` is the dense
    one. `lr_mult` and `decay_mult` multiply the solver's learning rate and weight decay, as in Caffe.
    """

    __slots__ = ("blocks", "lr_mult", "decay_mult", "changed", "same")

    def __init__(self, data: np.ndarray, backend: Backend | None = None, name: str | None = None,
                 lr_mult: float = 1.0, decay_mult: float = 1.0):
        self.blocks: list[Block] = []
        self.backend, self.changed = None, 0
        self.same: tuple[tuple[int, int], ...] = ()     # from when to when the values were those of now
        super().__init__(data, lr_mult != 0, backend, name=name)
        self.lr_mult = lr_mult
        self.decay_mult = decay_mult

    def _set_data(self, value: Any) -> None:
        if self.backend is not None:        # else this is a new parameter
            value = self._fitting(value)
        _hold(self, value)

    # The getter of the slot itself: every product reads it.
    data = property(_slot.__get__, _set_data, doc="The values, an array on the parameter's device.")

    def _fitting(self, value):
        what = f"{self.name or 'parameter'}: its data are numbers of shape {self.shape}"
        if isinstance(value, Tensor):
            value = value.numpy()
        if not hasattr(value, "dtype"):
            with suppress(ValueError):      # a list whose rows differ
                value = np.asarray(value)
        _refuse_no_numbers(value, what)
        if value.shape != self.shape:
            raise ShapeError(f"{what}, got {value.shape}")
        with self.backend.active():
            value = self.backend.asarray(value, self.dtype)
            is_fit = value.flags.c_contiguous and getattr(value.flags, "writeable", True)
            return value if is_fit else value.copy()

    @property
    def grad(self) -> np.ndarray | None:
        """The dense gradient, an array shaped like `data`, or None before the first backward.

        What is written to the array counts: from now on it is the gradient, in place of the blocks. It may be
        set to None or an array of numbers of the same shape; else ShapeError or TensorError is raised.
        """
        if not self.blocks:
            return None
        with self.backend.active():
            dense = self.dense_grad()
        self.blocks = [Block(dense)]
        return dense

    @grad.setter
    def grad(self, value: np.ndarray | None) -> None:
        self.blocks = [] if value is None else [Block(self._fitting_grad(value))]

    def _fitting_grad(self, value):
        what = f"{self.name or 'parameter'}: its gradient is an array of shape {self.shape}"
        if getattr(value, "shape", None) != self.shape or isinstance(value, Tensor):
            raise ShapeError(f"{what}, got {type(value).__name__} {getattr(value, 'shape', '')}")
        _refuse_no_numbers(value, what)
        with self.backend.active():
            return self.backend.asarray(value, self.dtype)

    def dense_grad(self) -> np.ndarray:
        """Return the dense gradient, an array like `data` that is only read; zeros before any backward."""
        return Blocks(self.blocks, self.dtype).dense(self.backend, self.shape)

    def has_separate_blocks(self) -> bool:
        """True if no entry is in two blocks of the gradient: no two share a row, or no two share a column."""
        if len(self.blocks) < 2:
            return True
        sides = [block.rows for block in self.blocks], [block.cols for block in self.blocks]
        return any(are_disjoint(sets, total) for sets, total in zip(sides, as_matrix(self.data).shape,
                                                                    strict=False))

    def accumulate(self, gradient: Block | Blocks | np.ndarray) -> None:
        """Add a dense array, a Block or Blocks to the gradient.

        Blocks at the same place are summed immediately. If the blocks together would be larger than the dense
        gradient, or MOST_OF_ONE times as large where they come from one product, they are replaced by it.
        """
        most = self.data.size * (1 if self.blocks else MOST_OF_ONE)
        for block in gradient.parts if isinstance(gradient, Blocks) else [gradient]:
            self._add(block if isinstance(block, Block) else Block(block))
        if len(self.blocks) > 1 and sum(block.size for block in self.blocks) > most:
            self.blocks = [Block(Blocks(self.blocks, self.dtype).dense(self.backend, self.shape))]

    def copy_from(self, other: Parameter) -> None:
        """Copy values, gradient and multipliers from a Parameter of the same shape."""
        self.data[...] = other.data
        self.note_change()
        self.blocks = [Block(block.data.copy(), block.rows, block.cols) for block in other.blocks]
        self.requires_grad = other.requires_grad
        self.lr_mult, self.decay_mult = other.lr_mult, other.decay_mult

    def move_to(self, backend: Backend, dtype: str) -> None:
        """Hold the same values on another device or in another dtype, without a gradient."""
        _hold(self, backend.asarray(self.backend.to_host(self.data), dtype))
        self.backend = backend
        self.clear_grad()

    def __copy__(self) -> Parameter:
        new = Parameter(self.data, self.backend, self.name, self.lr_mult, self.decay_mult)
        new.requires_grad = self.requires_grad
        return new

    def __deepcopy__(self, memo: dict) -> Parameter:
        new = Parameter(self.data.copy(), self.backend, self.name)
        new.copy_from(self)
        return new

    def share_data(self, other: Parameter) -> None:
        """Hold the very values of a Parameter of the same shape, dtype and device; gradients stay apart."""
        if (self.shape, self.dtype, self.backend) == (other.shape, other.dtype, other.backend):
            _hold(self, other.data)     # as it is, also where nothing may be written to it
        else:
            self.data = other.data

    def note_change(self) -> None:
        """Record that the values have changed in place: backward passes of before must not read them."""
        self.changed, self.same = next(graph.clock), ()

    @staticmethod
    @contextmanager
    def other_values(parameters: Iterable[Parameter]) -> Iterator[None]:
        """Within this context parameters hold other values, behind it those of before again.

        Passes of before may run backward behind it, but not within it; those of within it not behind it.
        """
        held = []
        for parameter in parameters:
            spans = *parameter.same[1 - MOST_SPANS:], (parameter.changed, next(graph.clock))
            parameter.note_change()
            held.append((parameter, parameter.changed, spans))
        try:
            yield
        finally:
            for parameter, changed, spans in held:
                is_alone = parameter.changed == changed     # as no step within
                parameter.note_change()
                parameter.same = spans if is_alone else ()

    def scale_grad(self, factor: float) -> None:
        """Multiply the gradient by a number."""
        self.blocks = [Block(block.data * self.dtype.type(factor), block.rows, block.cols)
                       for block in self.blocks]

    def _add(self, block):
        for i, old in enumerate(self.blocks):
            if old.rows == block.rows and old.cols == block.cols:
                # A whole gradient may come as a matrix or in the parameter's own shape.
                self.blocks[i] = Block(old.data + block.data.reshape(old.data.shape), old.rows, old.cols)
                return
        self.blocks.append(block)


def _refuse_no_numbers(value, what):
    """Raise TensorError for an array that is not of real numbers, or hides some behind a mask."""
    if np.ma.is_masked(value) or getattr(value, "dtype", np.dtype(object)).kind not in "fiub":
        raise TensorError(f"{what}, got {getattr(value, 'dtype', type(value).__name__)}"
                          f"{' with masked entries' * np.ma.is_masked(value)}")
