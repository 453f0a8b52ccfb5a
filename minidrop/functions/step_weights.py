"""Weights that every step of a sequence multiplies by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidrop.backend import Backend


class StepWeights:
    """Weights W by which `uses` steps multiply, in one direction and then in the other.

    For each direction they are brought into the form that is best for so many products, once, and that is
    dropped after the last of them. W must not change meanwhile.
    """

    __slots__ = ("W", "uses", "operands")

    def __init__(self, W: np.ndarray, uses: int):
        self.W, self.uses = W, uses
        self.operands: dict[bool, tuple[Any, int]] = {}     # direction -> (W in its form, uses that are left)

    def multiply(self, backend: Backend, x: np.ndarray, transpose: bool) -> Any:
        """Return x op(W) for the x (N, ...) of a step, op(W) = W^T if `transpose`."""
        if transpose in self.operands:
            operand, left = self.operands.pop(transpose)
        else:
            operand, left = backend.thin_operand(self.W, transpose, len(x), self.uses), self.uses
        if left > 1:
            self.operands[transpose] = operand, left - 1
        return backend.thin_gemm(x, operand, trans_b=transpose)
