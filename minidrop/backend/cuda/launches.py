"""What all operations with a kernel need: launching it, and arrays in a layout that kernels read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.backend.cuda.graphs import Graphs
from minidrop.backend.cuda.kept_tables import KeptTables
from minidrop.backend.cuda.table_kept import TableKept
from minidrop.backend.generic import Backend
from minidrop.backend.window import Window
from minidrop.kernels.cuda import WINDOW
from minidrop.kernels.loader import REALS


class KernelLaunches(Backend):
    """A backend that launches kernels.

    kernels: the device that launches them (kernels/loader.py). tables: kept sets as their arguments. graphs:
    where work is captured.
    """

    kernels: Any
    tables: KeptTables
    graphs: Graphs

    def _run(self, kernel, macros=None, /, **values):
        """Launch a kernel of kernels/cuda.py."""
        kernel(self.kernels, values, **macros or {})

    def _rows(self, x, shape):
        """Return `x` as a matrix (or vector) whose rows a kernel can read, copied if necessary."""
        if x.shape != shape:
            x = self.xp.ascontiguousarray(x).reshape(shape)
        return x if is_straight(x) else self.xp.ascontiguousarray(x)

    def _flat(self, x):
        return self.xp.ascontiguousarray(x).reshape(-1)

    def _index(self, kept):
        return self.tables.index(kept)

    def _block(self, out, rows, cols, x):
        """Return (out, x, other arguments) of a kernel that updates out[rows, cols]; None if none can."""
        if out.ndim == 1:
            rows, cols = None, rows if cols is None else cols
            out, x = out[None], x.reshape(1, -1)
        elif out.flags.c_contiguous and (out.ndim > 2 or rows is None and cols is None):
            out = out.reshape(len(out), math.prod(out.shape[1:]))
            if rows is None and cols is None:
                x = x.reshape(out.shape)
        if out.ndim != 2 or not is_real(out) or not is_straight(out) or x.dtype != out.dtype:
            return None
        return out, self._rows(x, x.shape), {
            "rows": self.tables.axis(rows, out.shape[0]), "cols": self.tables.axis(cols, out.shape[1]),
            "places": rows.places if isinstance(rows, TableKept) else None}

    def refuse(self, wrong: np.ndarray, error: Callable) -> None:
        if not self.capturing:
            super().refuse(wrong, error)
        elif self.trouble is not None:
            self.trouble |= wrong.any().astype(np.int32)


def is_real(x: np.ndarray) -> bool:
    """True for arrays of a dtype that the kernels compute in."""
    return x.dtype.name in REALS


def is_straight(x: np.ndarray) -> bool:
    """True for a vector or a matrix with contiguous rows, and no negative stride along axis 0."""
    if x.ndim == 1:
        return x.strides[0] >= 0
    return x.ndim == 2 and (x.shape[1] <= 1 or x.strides[1] == x.itemsize) and x.strides[0] >= 0


def window_numbers(window: Window) -> dict[str, int]:
    """Return a window over one or two axes as the arguments of kernels that slide one."""
    window = window if len(window.size) == 2 else window.with_axis()
    numbers = *window.size, *window.stride, *window.pad, *window.dilation
    return {argument.name: number for argument, number in zip(WINDOW, numbers, strict=True)}
