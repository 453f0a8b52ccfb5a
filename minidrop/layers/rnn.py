"""RNN."""

from minidrop.functions import recurrent
from minidrop.layers.base import register_layer
from minidrop.layers.recurrent import RecurrentLayer


@register_layer("RNN")
class RNN(RecurrentLayer):
    """h_t = tanh(W x_t + b + W_h h_{t-1}): see `RecurrentLayer`. Caffe's second product is an InnerProduct of
    its own here."""

    cell = recurrent.RNN
