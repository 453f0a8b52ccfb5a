"""GRU."""

from minidrop.functions import recurrent
from minidrop.layers.base import register_layer
from minidrop.layers.recurrent import RecurrentLayer


@register_layer("GRU")
class GRU(RecurrentLayer):
    """A gated recurrent unit as in PyTorch, gates in the order r z n; see `RecurrentLayer`, functions.GRU."""

    cell = recurrent.GRU
    state_biases = ("recurrent_bias",)
