"""LSTM."""

from minidrop.functions import recurrent
from minidrop.layers.base import register_layer
from minidrop.layers.recurrent import RecurrentLayer


@register_layer("LSTM")
class LSTM(RecurrentLayer):
    """A long short-term memory, gates in Caffe's order i f o g; see `RecurrentLayer`, functions.LSTM."""

    cell = recurrent.LSTM
    state_names = ("h", "c")
