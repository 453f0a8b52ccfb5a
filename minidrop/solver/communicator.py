"""Communicator: how the ranks of a training, which run the same program, exchange arrays."""

from __future__ import annotations

import sys
from typing import Any, NoReturn, Protocol

import numpy as np


class Communicator(Protocol):
    """Moves arrays between `size` ranks; `rank` is this one, from 0.

    All ranks call the same methods in the same order, with arrays of the same shape and dtype on the host.
    Nothing is added up here: sums over ranks are taken by `Ranks`, in the order of the ranks.
    """

    rank: int
    size: int
    host: str           # the name of the machine
    local_rank: int     # among the ranks of this machine
    local_size: int

    def exchange(self, parts: np.ndarray) -> np.ndarray:
        """Send parts[r] to rank r; return an array of the same shape whose [r] is from rank r."""

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return (size, *shape): the arrays of all ranks, in their order."""

    def abort(self) -> NoReturn:
        """End all ranks at once, with exit code 1."""


class Alone:
    """The Communicator of a single process."""

    rank, size, host, local_rank, local_size = 0, 1, "", 0, 1

    def exchange(self, parts: Any) -> Any:
        return parts

    def gather(self, array: Any) -> Any:
        return array[None]

    def abort(self) -> NoReturn:
        sys.exit(1)
