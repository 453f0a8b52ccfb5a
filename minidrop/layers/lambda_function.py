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
    """A function, and the shapes of what it gives for bottoms of these shapes."""

    function: Callable[..., Any]
    bottoms: list[tuple[int, ...]]
    tops: list[tuple[int, ...]]


class Judging(partial):
    """A function that judges what a net computes, as a loss or a metric: what is saved does without it."""


@register_layer("Lambda")
class Lambda(Layer):
    """The Tensors that a Python function makes of the bottoms, run anew in every pass.

    No file can hold a function: md.nn.Lambda hands it over, alone or Measured. Gradients flow as its own
    operations say. It gets dense bottoms, and its results must have the shapes that they have for bottoms of
    zeros; of a batch with fewer records or steps, lengths that differ as those of the bottoms do.

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
            raise ConfigError("a Lambda runs a Python function, which no file can hold: describe the net "
                              "with md.nn.Lambda, or write a layer of your own (md.register_layer)")
        known = isinstance(handed, Measured)
        self.function = handed.function if known else handed
        self.lengths = [length for shape in shapes for length in shape]
        self.shapes = (handed.tops if known and handed.bottoms == list(shapes)
                       else shapes_of(self.function, shapes, self.context.backend, self.context.dtype))
        return self.shapes

    def captures(self) -> bool:
        """Whether the function says of itself that it is capturable."""
        function = self.function.args[0] if isinstance(self.function, Judging) else self.function
        return getattr(function, "capturable", False) is True

    def hands_on(self) -> Any:
        return self.function

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tops = as_tensors(self.function(*bottoms))
        shapes = [tuple(top.shape) for top in tops]
        if shapes != self.shapes and not self._fits(shapes, bottoms):
            raise ShapeError(f"the function gives {shapes}, but {self.shapes} for bottoms of zeros; shapes "
                             f"must not depend on values: run such code in a Module with traced = False")
        return tops

    def _fits(self, shapes, bottoms):
        """Return whether all lengths are those of zeros, or changed in the ratio of a length of a bottom.

        So are a number of records, wherever its axis is, and one of records times steps.
        """
        now = [length for bottom in bottoms for length in bottom.shape]
        if len(now) != len(self.lengths):
            return False
        ratios = {(1, 1), *zip(now, self.lengths, strict=True)}
        return [len(shape) for shape in shapes] == [len(shape) for shape in self.shapes] and all(
            any(ours * old == theirs * new for new, old in ratios)
            for shape, other in zip(shapes, self.shapes, strict=True)
            for ours, theirs in zip(shape, other, strict=True))


def shapes_of(function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], backend: Any,
              dtype: str) -> list[tuple[int, ...]]:
    """Return the shapes of what a function gives for Tensors of zeros; ConfigError if it gives none."""
    with backend.active(), no_grad(), np.errstate(all="ignore"):     # 0 / 0 is no mistake of the function
        bottoms = [Tensor(backend.zeros(shape, dtype), backend=backend) for shape in shapes]
        return [tuple(top.shape) for top in as_tensors(function(*bottoms))]


def as_tensors(result: Any) -> tuple[Tensor, ...]:
    """Return a function's result as a tuple of Tensors; raises ConfigError if it is none."""
    tops = tuple(result) if isinstance(result, tuple | list) else (result,)
    wrong = [type(top).__name__ for top in tops if not isinstance(top, Tensor)]
    if wrong or not tops:
        raise ConfigError(f"the function must return a Tensor or a tuple of them, got "
                          f"{wrong[0] if wrong else 'an empty tuple'}")
    return tops
