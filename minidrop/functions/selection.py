"""Which records, and which entries: re-ordering and filtering a batch, and the places of largest entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Function, Tensor
from minidrop.errors import ConfigError, ShapeError
from minidrop.functions.dropout import expand
from minidrop.functions.indices import refuse, whole_numbers
from minidrop.functions.operands import as_tensor
from minidrop.functions.softmax import records

if TYPE_CHECKING:
    from types import ModuleType

    from minidrop.backend.generic.base import Backend


class BatchReindex(Function):
    """y[i] = x[index[i]] for whole records; index (records of y,).

    index: integers in 0 .. records of x - 1, of any dtype, possibly repeated; the gradients of a record that
    occurs several times are added in the order of its places. Raises DataError for an index out of range,
    with its place.
    """

    __slots__ = ("index", "shape")

    def forward(self, backend: Backend, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        if index.ndim != 1 or not x.ndim:
            raise ShapeError(f"expected records and a vector of indices, got arrays of shapes {x.shape} and "
                             f"{index.shape}")
        whole, wrong = whole_numbers(index, len(x))
        self.index = refuse(backend, whole, index, wrong, "index", len(x), f"the batch has {len(x)} records")
        self.shape = x.shape
        return x[self.index]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[Block, None]:
        return Block(*backend.table_gradient(records(gy), self.index, self.shape[0])), None


def batch_reindex(x: Tensor, index: Tensor | np.ndarray) -> Tensor:
    """Return the records x[index]; see `BatchReindex`."""
    return BatchReindex().apply(x, index)


def filter_records(xs: Sequence[Tensor], selector: Any) -> tuple[Tensor, ...]:
    """Return of each tensor the records where `selector` (records, 1, ...) is not 0, perhaps none at all.

    How many there are depends on values, so this waits for the device. Raises ShapeError for a selector of
    another length.
    """
    selector = as_tensor(selector)
    index = np.flatnonzero(selector.numpy())
    if any(len(x.data) != selector.data.size for x in xs):
        raise ShapeError(f"filter: a selector of shape {selector.shape} does not fit tensors of shapes "
                         f"{', '.join(str(x.shape) for x in xs)}")
    return tuple(batch_reindex(x, index) for x in xs)


def argmax(x: Tensor, top_k: int = 1, axis: int | None = None, out_max_val: bool = False) -> Tensor:
    """Return where the `top_k` largest entries are, in descending order, as numbers without gradient.

    Of equal entries the one with the higher index comes first, as in Caffe. With `axis`: x's shape with top_k
    for the length of that axis; the indices, or with `out_max_val` the entries themselves. Without: each
    record is searched as a whole; (records, 1, top_k) indices, or (records, 2, top_k) indices and entries,
    followed by axes of length 1 where x has more than three. Raises ConfigError for another top_k or axis.
    """
    backend, xp, x = x.backend, x.backend.xp, expand(x)
    whole = axis is None
    rows = records(x.data) if whole else xp.moveaxis(x.data, axis, -1)
    if not 1 <= top_k <= rows.shape[-1]:
        raise ConfigError(f"argmax: top_k must lie in 1..{rows.shape[-1]}, the number of entries that are "
                          f"searched, got {top_k}")
    places = _largest(xp, rows, top_k)
    entries = xp.take_along_axis(rows, places, axis=-1)
    found = places.astype(x.dtype)
    if not whole:
        y = xp.moveaxis(entries if out_max_val else found, -1, axis)
        return Tensor(xp.ascontiguousarray(y), backend=backend)
    parts = [found[:, None], entries[:, None]][:1 + out_max_val]
    y = backend.concatenate(parts, 1)
    return Tensor(y.reshape(y.shape + (1,) * (x.ndim - 3)), backend=backend)


def _largest(xp: ModuleType, x: np.ndarray, top_k: int) -> np.ndarray:
    """Return the indices of the largest entries along the last axis, those of equal entries descending."""
    if top_k == 1:          # a sort costs more, and a step with one may not be capturable
        return x.shape[-1] - 1 - xp.argmax(x[..., ::-1], axis=-1)[..., None]
    return xp.argsort(x, axis=-1, kind="stable")[..., :-1 - top_k:-1]
