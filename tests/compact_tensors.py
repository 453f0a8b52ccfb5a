"""Kept sets of seven entries, and tensors that carry them beside dense ones of the same value."""

import numpy as np
from operator_cases import numbers

from minidrop import Kept, Tensor, functions
from minidrop.kept import KeptByGroup

EVEN, ODD, LIST = Kept(0, 2, 1, 7), Kept(1, 2, 1, 7), Kept.of([1, 2, 6], 7)
UNEVEN = KeptByGroup([LIST, Kept(0, 2, 1, 7)])


def compact_and_dense(kept, axis=1, seed=0):
    """A compact leaf, and a dense one of the same value."""
    x = numbers(4, 7, 3, seed=seed)[..., 0]
    x = x if axis else np.ascontiguousarray(x.T)
    taken = functions.take(Tensor(x), kept, axis)
    return (Tensor(taken.data.copy(), True, kept=kept, kept_axis=axis), Tensor(taken.numpy(), True))
