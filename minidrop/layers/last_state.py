"""LastState: what a recurrent layer knows after a whole sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("LastState")
class LastState(Layer):
    """The states of a recurrent layer after the last step of each stream: h (T, N, H), cont (T, N) -> (N, H).

    cont is that of the recurrent layer, with one sequence in each stream: 0 1 ... 1, and 0 in padding. With
    recurrent_param { bidirectional: true }, as there, the second half of H, which was read from the end, is
    taken at step 0. So the length of the padding changes nothing.
    """

    bottoms = (2, 2)
    along = 0

    def setup(self, h: tuple[int, ...], cont: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        others = [field.name for field, _ in settings.ListFields() if field.name != "bidirectional"]
        if others:
            raise ConfigError(f"recurrent_param: of it LastState reads only bidirectional; remove "
                              f"{', '.join(others)}")
        if len(h) != 3 or tuple(cont) != tuple(h[:2]):
            raise ShapeError(f"expected h (steps, streams, units) and cont (steps, streams), got {tuple(h)} "
                             f"and {tuple(cont)}")
        if settings.bidirectional and h[2] % 2:
            raise ShapeError(f"bidirectional is true, but {h[2]} units are no two halves")
        return [tuple(h[1:])]

    def forward(self, h: Tensor, cont: Tensor) -> Tensor:
        return functions.last_state(h, cont, self.settings.bidirectional)
