"""ReshapedParameter: a parameter of another shape, for layers that share one array in two shapes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minidrop.autograd.block import Block, Blocks, as_matrix
from minidrop.autograd.graph import whole_of
from minidrop.autograd.tensor import Parameter


def _that_of_whole(name, doc):
    return property(lambda self: getattr(self.whole, name),
                    lambda self, value: setattr(self.whole, name, value), doc=doc)


class ReshapedParameter(Parameter):
    """The values and the gradient of the Parameter `whole` in another shape, of as many entries."""

    __slots__ = ("_shape", "_whole")

    def __init__(self, whole: Parameter, shape: tuple[int, ...], name: str | None = None):
        self._whole, self._shape = whole, tuple(shape)
        self.backend, self.name = whole.backend, name
        self.kept = self.creator = None
        self.kept_axis, self.output_index = 1, 0

    @property
    def whole(self) -> Parameter:
        """The parameter that is trained."""
        return self._whole

    @property
    def data(self) -> Any:
        """The values of `whole`, in this shape."""
        return self._whole.data.reshape(self._shape)

    @data.setter
    def data(self, value: Any) -> None:
        self._whole.data = self._fitting(value).reshape(self._whole.shape)

    requires_grad = _that_of_whole("requires_grad", "Whether `whole` is trained.")
    lr_mult = _that_of_whole("lr_mult", "That of `whole`.")
    decay_mult = _that_of_whole("decay_mult", "That of `whole`.")
    changed = _that_of_whole("changed", "That of `whole`.")
    same = _that_of_whole("same", "That of `whole`.")

    @property
    def blocks(self) -> list[Block]:
        """The gradient as blocks of a matrix of this shape: one, or none."""
        grad = self.grad
        return [] if grad is None else [Block(grad)]

    @blocks.setter
    def blocks(self, value: list[Block]) -> None:
        self.grad = Blocks(value, self.dtype).dense(self.backend, self._shape) if value else None

    @property
    def grad(self) -> np.ndarray | None:
        """The dense gradient in this shape, or None before the first backward."""
        grad = self._whole.grad
        return None if grad is None else grad.reshape(self._shape)

    @grad.setter
    def grad(self, value: np.ndarray | None) -> None:
        self._whole.grad = None if value is None else self._fitting_grad(value).reshape(self._whole.shape)

    def accumulate(self, gradient: Block | Blocks | np.ndarray) -> None:
        """Add to the gradient of `whole`: a Block as it is where both are the same matrix."""
        for part in gradient.parts if isinstance(gradient, Blocks) else [gradient]:
            if not isinstance(part, Block):
                self._whole.accumulate(part.reshape(self._whole.shape))
            elif as_matrix(self.data).shape == as_matrix(self._whole.data).shape:
                self._whole.accumulate(part)
            else:
                dense = part.dense(self.backend, self._shape)
                self._whole.accumulate(dense.reshape(self._whole.shape))

    def copy_from(self, other: Parameter) -> None:
        """Copy values, gradient and multipliers from a Parameter of this shape."""
        self._whole.copy_from(whole_of(other))

    def __deepcopy__(self, memo: dict) -> ReshapedParameter:
        return ReshapedParameter(copy.deepcopy(self._whole, memo), self._shape, self.name)

    def share_data(self, other: Parameter) -> None:
        """Hold the very values of a Parameter of this shape."""
        self.data = other.data
