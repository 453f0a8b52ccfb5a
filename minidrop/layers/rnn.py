"""RNN."""

from __future__ import annotations

from minidrop.functions import recurrent
from minidrop.layers.base import register_layer
from minidrop.layers.recurrent import RecurrentLayer


@register_layer("RNN")
class RNN(RecurrentLayer):
    """Caffe's RNN: h_t = tanh(W x_t + b + W_h h_{t-1}), top o_t = tanh(W_o h_t + b_o); see `RecurrentLayer`.

    The state is h, and so is the top with `output_product: false` (Elman 1990, PyTorch's RNN). Parameters
    are in Caffe's order: weight, bias, static_weight, recurrent_weight, output_weight, output_bias.
    """

    cell = recurrent.RNN

    def read_settings(self) -> None:
        self.projects = self.settings.output_product
