"""Communicator: how the ranks of a training, which run the same program, exchange arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np


class Request(Protocol):
    """Something that ends by itself, as MPI's requests."""

    def Test(self) -> bool:
        """Whether it has ended. Asking lets it go on."""


class Pending(Protocol):
    """A transfer that has begun. Until it has ended, what it sends must not change."""

    def ready(self) -> bool:
        """Whether it has ended. Asking lets it go on."""

    def wait(self) -> None:
        """Return when it has ended."""


class Mover(Protocol):
    """Moves arrays between ranks, see `Communicator.start`."""

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int) -> Pending:
        """Begin to send parts[r] to rank r, and to receive into found[r] what rank r sends."""


@runtime_checkable
class Communicator(Protocol):
    """Moves arrays between `size` ranks; `rank` is this one, from 0.

    All ranks call `gather` in the same order, with arrays of the same shape and dtype on the host. The calls
    of `start` need an order only among those of one tag. Nothing is added up here: sums over ranks are taken
    by `Ranks`, in the order of the ranks.
    """

    rank: int
    size: int
    host: str           # the name of the machine
    local_rank: int     # among the ranks of this machine
    local_size: int

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int) -> Pending:
        """Begin to send parts[r] to rank r, and to receive into found[r] what rank r sends with this tag.

        The arrays have one axis, and what goes from one rank to another has one length and dtype on both.
        This rank's own places are left alone.
        """

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return (size, *shape): the arrays of all ranks, in their order."""

    def wait(self, request: Request) -> None:
        """Return when it has ended. Raises LostRankError if that takes too long, or another rank is gone."""

    def abort(self) -> NoReturn:
        """End all ranks at once, with exit code 1."""


class Alone:
    """The Communicator of a single process."""

    rank, size, host, local_rank, local_size = 0, 1, "", 0, 1

    def start(self, parts: Any, found: Any, tag: int) -> Pending:
        return _Nothing()

    def gather(self, array: Any) -> Any:
        return array[None]

    def wait(self, request: Request) -> None:
        pass

    def abort(self) -> NoReturn:
        sys.exit(1)


class _Nothing:
    """A transfer between no others."""

    def ready(self) -> bool:
        return True

    def wait(self) -> None:
        pass
