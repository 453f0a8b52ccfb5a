"""GaussianDropout: multiplicative Gaussian noise with the variance of dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import RandomDrop, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("GaussianDropout")
class GaussianDropout(RandomDrop):
    """y = x * (1 + sqrt(p / (1 - p)) e), e ~ N(0, 1), p = dropout_ratio.

    y = x where drops do not act (phase TEST). The factor has the mean and the variance of dropout's at the
    same p (Srivastava et al. 2014, section 10).
    """

    stream = "gaussian dropout"
    draws_by_place = True
    reason = "it sets no unit to zero, so there is none to leave out"

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.drawn
        return functions.gaussian_dropout(x, self.rate, drawn.key, drawn.part) if drawn.dropping else x
