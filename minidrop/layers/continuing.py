"""ContinuingLayer: the base class of layers that may count the steps of a sequence on from batch to batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers.base import Layer
from minidrop.layers.numbers import MOST_COUNTED

if TYPE_CHECKING:
    import numpy as np

    from minidrop.autograd.tensor import Tensor


class ContinuingLayer(Layer):
    """A layer of sequences (steps, streams, units) that with `continues` has the state `position`.

    It is the number of steps before the batch, of all streams alike; `Net.reset_states` sets it to 0.
    """

    most: int | None = None         # how many steps it can count

    def check_steps(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError unless a bottom is a sequence, ConfigError for `continues` in training."""
        if len(shape) != 3:
            raise ShapeError(f"expected a bottom (steps, streams, units), got shape {tuple(shape)}")
        if self.settings.continues and self.training:
            raise ConfigError("continues is for phase TEST, which generates step by step; in training every "
                              "batch begins at step 0: remove it, or include { phase: TEST }")

    def state_shapes(self) -> dict[str, tuple[int]]:
        return {"position": (1,)} if self.settings.continues else {}

    def first_step(self, x: Tensor) -> Any:
        """Return the number of the first step of x, 0 or an array of one; count x in for the next call.

        Raises DataError where the steps of x go beyond `most`, or beyond what their type can count.
        """
        if not self.settings.continues:
            return 0
        first: np.ndarray = self.state["position"]
        steps = x.shape[0]
        bound = MOST_COUNTED[self.context.dtype]
        most = bound if self.most is None else min(self.most, bound)

        def error():
            return DataError(f"the sequence has {int(first[0]) + steps} steps with those of this batch, but "
                             f"the layer tells only {most} apart; begin anew (Net.reset_states), generate a "
                             f"shorter text, or use a net with a larger max_steps")

        x.backend.refuse(first > most - steps, error)
        self.state = {"position": first + steps}
        return first
