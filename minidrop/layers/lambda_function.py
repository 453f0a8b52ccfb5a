"""Lambda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minidrop.autograd import Tensor, no_grad
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer


@dataclass(frozen=True)
class Measured:
    """A function, and the shapes of what it gives for bottoms of these shapes; whether that is a tuple."""

    function: Callable[..., Any]
    bottoms: list[tuple[int, ...]]
    tops: list[tuple[int, ...]]
    gives_tuple: bool


class Judging(partial):
    """A function that judges what a net computes, as a loss or a metric: what is saved does without it."""


@register_layer("Lambda")
class Lambda(Layer):
    """The Tensors that a Python function makes of the bottoms, run anew in every pass.

    No file can hold a function: md.nn.Lambda hands it over, alone or Measured. Gradients flow as its own
    operations say. It gets dense bottoms, and its results must have the shapes that they have for bottoms of
    zeros; a batch with fewer records is measured for itself.

    A function whose `capturable` is True does the same work for the device in every pass, and gets all that
    differs from its Tensors: then iterations may be captured.
    """

    bottoms = (0, None)
    tops = (1, None)
    capturable = False      # unless its function says so
    needs_handed = True

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        handed = self.context.handed.get(self.name)
        if handed is None:
            raise ConfigError("a Lambda runs a Python function, which no file can hold: what files are to "
                              "hold is made of the layers, the operators and the functions of md.nn that "
                              "are layers, or of layers of your own (md.register_layer)")
        known = isinstance(handed, Measured)
        self.function = handed.function if known else handed
        self.measured: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        if known:
            self.measured[tuple(handed.bottoms)] = handed.tops
        return self._shapes_for(shapes)

    def captures(self) -> bool:
        """Whether the function says of itself that it is capturable."""
        function = self.function.args[0] if isinstance(self.function, Judging) else self.function
        return getattr(function, "capturable", False) is True

    def hands_on(self) -> Any:
        return self.function

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tops = as_tensors(self.function(*bottoms))
        shapes, expected = [tuple(top.shape) for top in tops], self._shapes_for([x.shape for x in bottoms])
        if shapes != expected:
            raise ShapeError(f"the function gives {shapes}, but {expected} for bottoms of zeros; shapes "
                             f"must not depend on values: run such code in a Module with traced = False")
        return tops

    def _shapes_for(self, shapes):
        """Return the shapes of the tops for bottoms of these shapes."""
        shapes = tuple(map(tuple, shapes))
        if shapes not in self.measured:
            self.measured[shapes] = measured(self.function, shapes, self.context.backend,
                                             self.context.dtype).tops
        return self.measured[shapes]


def measured(function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], backend: Any,
             dtype: str) -> Measured:
    """Return what a function gives for Tensors of zeros; raises ConfigError if it gives none."""
    with backend.active(), no_grad(), np.errstate(all="ignore"):     # 0 / 0 is no mistake of the function
        bottoms = [Tensor(backend.zeros(shape, dtype), backend=backend) for shape in shapes]
        result = function(*bottoms)
        tops = [tuple(top.shape) for top in as_tensors(result)]
    return Measured(function, list(shapes), tops, isinstance(result, tuple | list))


def as_tensors(result: Any) -> tuple[Tensor, ...]:
    """Return a function's result as a tuple of Tensors; raises ConfigError if it is none."""
    tops = tuple(result) if isinstance(result, tuple | list) else (result,)
    wrong = [type(top).__name__ for top in tops if not isinstance(top, Tensor)]
    if wrong or not tops:
        raise ConfigError(f"the function must return a Tensor or a tuple of them, got "
                          f"{wrong[0] if wrong else 'an empty tuple'}")
    return tops
