"""Symbol: what stands for a Tensor while a module's forward is traced."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.errors import ConfigError
from minidrop.functions.described import described
from minidrop.functions.operands import as_number, unboxed

if TYPE_CHECKING:
    from minidrop.nn.trace import Trace


class TraceError(ConfigError):
    """A traced forward does what no layer describes."""


class _NoAttribute(TraceError, AttributeError):
    """A Symbol lacks an attribute that a Tensor has; hasattr() sees it as any other."""


REMEDY = ("a traced forward only describes the net, so it has no values yet: use a layer or an operator, "
          "nn.Lambda(function)(x), or a Module with `traced = False`, whose forward runs on Tensors")


# Methods of a Tensor that Symbols have, and of them those with the arguments of the function of that name.
ALIKE = ("abs", "cumsum", "exp", "log", "log_softmax", "logsumexp", "mean", "norm", "relu", "sigmoid",
         "softmax", "sqrt", "square", "sum", "tanh")
METHODS = {name for name in functions.__all__ if hasattr(Tensor, name)} | {
    "argmin", "add", "sub", "mul", "div", "neg", "mm", "bmm", "any", "all"}


def frozen(what: str, value: Any) -> TraceError:
    """Return the error for an array that a traced forward uses as a constant."""
    return TraceError(f"{what} {type(value).__name__}: its values would be frozen in the net. Make it an "
                      f"input of the module or an nn.Weight; {REMEDY}")


class Symbol:
    """One blob of a net that is being described: a shape without values.

    It has the operators + - * / // % ** @ with numbers and Symbols, slices as indices, and those methods of a
    Tensor that are functions of minidrop.functions, which take Symbols too: each adds the layer that does it,
    or else a Lambda. A second operand may lack axes in front: x (N, C) + b (C,). Anything that needs a value
    raises TraceError.
    """

    __slots__ = ("trace", "blob", "shape")

    __array_ufunc__ = None      # NumPy then leaves number * symbol to the Symbol

    def __init__(self, trace: Trace, blob: str, shape: tuple[int, ...]):
        self.trace, self.blob, self.shape = trace, blob, tuple(shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self):
        return self.shape[0] if self.shape else self._refuse("len() of a single number")

    def __repr__(self):
        return f"Symbol({self.blob}, {self.shape})"

    # -- arithmetic ------------------------------------------------------------------------------------------
    def __add__(self, other):
        number = _number("+", other)
        if number is not None:
            return self._power(shift=number)
        return self._with(other, "Bias", functions.add, lambda a, b: a.trace.add("Eltwise", [a, b]))

    def __sub__(self, other):
        number = _number("-", other)
        if number is not None:
            return self._power(shift=-number)
        other = self._operand(other)
        if other.shape == self.shape:
            return self.trace.add("Eltwise", [self, other], coeff=[1, -1])
        return self + -other

    def __rsub__(self, other):
        number = _number("-", other)
        if number is not None:
            return self._power(scale=-1.0, shift=number)
        return self._operand(other) - self

    def __mul__(self, other):
        number = _number("*", other)
        if number is not None:
            return self._power(scale=number)
        return self._with(other, "Scale", functions.multiply,
                          lambda a, b: a.trace.add("Eltwise", [a, b], operation="PROD"))

    def __truediv__(self, other):
        number = _number("/", other)
        if number == 0:
            return self._computed(operator.truediv, self, other)
        if number is not None:
            return self._power(scale=1 / number)
        return self * self._operand(other) ** -1

    def __rtruediv__(self, other):
        return self ** -1 * other

    def __pow__(self, other):
        number = _number("**", other)
        if number is not None:
            return self._power(power=number)
        return functions.pow(self, other)

    def __rpow__(self, other):
        return functions.pow(other, self)

    def __floordiv__(self, other):
        return self._computed(operator.floordiv, self, other)

    def __rfloordiv__(self, other):
        return self._computed(operator.floordiv, other, self)

    def __mod__(self, other):
        return self._computed(operator.mod, self, other)

    def __rmod__(self, other):
        return self._computed(operator.mod, other, self)

    def _computed(self, function, *operands):
        """Return function(a, b) of Symbols and numbers, as a Lambda."""
        given = [one if isinstance(one, Real) else self._operand(one) for one in map(unboxed, operands)]
        symbols = [one for one in given if isinstance(one, Symbol)]
        numbers = tuple(None if isinstance(one, Symbol) else one for one in given)
        return self.trace.add_function(partial(_of_numbers, function, numbers), symbols,
                                       kind=function.__name__)

    def __matmul__(self, other):
        return functions.matmul(self, other)

    def __rmatmul__(self, other):
        return functions.matmul(other, self)

    def __neg__(self):
        return self._power(scale=-1.0)

    def __pos__(self):
        return self

    def __abs__(self):
        return self.trace.add("AbsVal", [self])

    __radd__, __rmul__ = __add__, __mul__

    def _power(self, **settings):
        """Return (shift + scale x) ** power; settings that float32 holds only rounded stay as they are."""
        if all(map(self.trace.is_exact, settings.values())):
            return self.trace.add("Power", [self], **settings)
        return self.trace.add_function(partial(functions.power, **settings), [self])

    def _with(self, other, kind, function, same):
        """Return same(a, b) for operands of one shape, else a layer `kind` that gives the smaller axes.

        They are the last ones, or the first ones of an operand whose others have length 1. Where the two
        broadcast in another way, function(a, b) as a Lambda.
        """
        other = self._operand(other)
        a, b = self, other
        if a.shape == b.shape:
            return same(a, b)
        if b.ndim > a.ndim or b.ndim == a.ndim and math.prod(a.shape) < math.prod(b.shape):
            a, b = b, a
        first = _alike(a.shape, b.shape)
        if a.ndim == b.ndim and first and all(length == 1 for length in b.shape[first:]):
            return self.trace.add(kind, [a, b.reshape(b.shape[:first])], axis=0)
        if b.ndim and a.shape[a.ndim - b.ndim:] != b.shape:
            return self.trace.add_function(function, [self, other], kind=function.__name__)
        return self.trace.add(kind, [a, b], axis=a.ndim - b.ndim)

    def _operand(self, other):
        other = other.as_symbol() if hasattr(other, "as_symbol") else other
        if isinstance(other, Symbol):
            return self.trace.checked(other)
        raise frozen(f"an operation on {self!r} and", other)

    # -- shape -----------------------------------------------------------------------------------------------
    def reshape(self, *shape: Any) -> Symbol:
        """Return the same entries in another shape; one -1 takes what is left.

        Raises TraceError for a length of 0.
        """
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if any(length == 0 or length < -1 for length in shape):
            raise TraceError(f"reshape: expected lengths of 1 or more and at most one -1, got {shape}")
        first = _alike(self.shape, shape)
        behind = _alike(self.shape[first:][::-1], shape[first:][::-1])
        # Axes that stay are not named, so that the layer is the same for a batch of fewer records.
        among: dict[str, Any] = {"shape": {"dim": list(shape[first:len(shape) - behind])}}
        if first or behind:
            among |= {"axis": first, "num_axes": self.ndim - first - behind}
        return self.trace.add("Reshape", [self], **among)

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Symbol:
        """Return the axes `start_dim` .. `end_dim` as one."""
        if not self.ndim:
            return self.reshape(1)
        return functions.flatten(self, start_dim, end_dim)      # type: ignore[arg-type, return-value]

    def permute(self, *order: Any) -> Symbol:
        """Return the axes in another order: axis order[i] becomes axis i."""
        order = tuple(order[0]) if len(order) == 1 and isinstance(order[0], tuple | list) else order
        order = tuple(axis + self.ndim if isinstance(axis, int) and axis < 0 else axis for axis in order)
        return functions.permute(self, order)       # type: ignore[arg-type, return-value]

    def transpose(self, *order: Any) -> Symbol:
        """Return two axes exchanged, or the axes in another order, reversed unless one is given."""
        if len(order) == 2:
            return functions.transpose(self, *order)        # type: ignore[return-value]
        return self.permute(*(order or range(self.ndim)[::-1]))

    @property
    def T(self) -> Symbol:
        """The axes in reverse order."""
        return self.transpose()

    def __getitem__(self, key):
        parts = list(key) if isinstance(key, tuple) else [key]
        if sum(part is Ellipsis for part in parts) > 1:
            self._refuse("an index with two ellipses")
        if not any(part is Ellipsis for part in parts):
            parts.append(Ellipsis)
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        rest = self.ndim - sum(part is not None for part in parts) + 1
        if rest < 0:
            raise IndexError(f"{len(parts) - 1} indices for {self!r}")
        parts[place:place + 1] = [slice(None)] * rest
        found, shape, axis = self, [], 0
        for part in parts:
            if part is None:
                shape.append(1)
                continue
            first, last = self._bounds(part, axis)
            found = found._cut(axis, first, last)
            if isinstance(part, slice):
                shape.append(last - first)
            axis += 1
        return found if tuple(shape) == found.shape else found.reshape(shape)

    def _bounds(self, part, axis):
        length = self.shape[axis]
        if isinstance(part, slice):
            first, last, step = part.indices(length)
            if step != 1 or first >= last:
                self._refuse(f"[{part}] of an axis of {length} entries: only slices of step 1 that are not "
                             f"empty")
            return first, last
        if isinstance(part, bool):
            self._refuse("an index of type bool")
        try:
            place = operator.index(part)
        except TypeError:       # arrays have an __index__, too
            self._refuse(f"an index of type {type(part).__name__}")
        if not -length <= place < length:
            raise IndexError(f"index {place} of axis {axis}, which has {length} entries, of {self!r}")
        return place % length, place % length + 1

    def _cut(self, axis, first, last):
        points = [point for point in (first, last) if 0 < point < self.shape[axis]]
        if not points:
            return self
        parts = self.trace.add("Slice", [self], len(points) + 1, axis=axis, slice_point=points)
        return parts[1 if first else 0]

    def __iter__(self) -> Iterator[Symbol]:
        return (self[i] for i in range(len(self)))

    # -- what needs values -----------------------------------------------------------------------------------
    def _refuse(self, what) -> NoReturn:
        raise TraceError(f"{what}, of {self!r}: {REMEDY}")

    def __copy__(self) -> Symbol:
        return self         # nothing changes it

    def __deepcopy__(self, memo: dict) -> Symbol:
        return self

    def __bool__(self):
        self._refuse("bool() or `if`")

    def __float__(self):
        self._refuse("float()")

    def __int__(self):
        self._refuse("int()")

    def __array__(self, dtype=None, copy=None):
        self._refuse("a function of arrays")

    def __eq__(self, other):
        self._refuse("a comparison")

    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __eq__
    __hash__ = object.__hash__

    def __setitem__(self, key, value):
        self._refuse("an assignment to entries")

    def __getattr__(self, name):
        if name in METHODS:
            own = getattr(functions, name) if name in ALIKE else described(getattr(Tensor, name))
            return partial(own, self)
        raise _NoAttribute(f"{name!r}, of {self!r}: {REMEDY}")


def _number(what, operand):
    """Return a number as a float, None for another operand.

    Raises TensorError for a whole number that no float is as large as.
    """
    found = unboxed(operand)
    return float(as_number(what, np.dtype(float), found)) if isinstance(found, Real) else None


def _of_numbers(function, numbers, *tensors):
    """Return function(a, b), where numbers has None in the places of the tensors."""
    found = iter(tensors)
    return function(*(next(found) if one is None else one for one in numbers))


def _alike(shape, other):
    """Return how many of the first lengths of two shapes are the same."""
    differs = (i for i, (one, two) in enumerate(zip(shape, other, strict=False)) if one != two)
    return next(differs, min(len(shape), len(other)))
