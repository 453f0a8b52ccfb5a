"""Stateless differentiable functions of Tensors: what layers call, and scripts without a config file."""

from minidrop.autograd import Tensor
from minidrop.functions.activation import power, relu, sigmoid, tanh
from minidrop.functions.affine import affine, prelu
from minidrop.functions.arithmetic import add, maximum, multiply, product, weighted_sum
from minidrop.functions.dropout import (
    approx_dropout,
    dropout,
    expand,
    gaussian_dropout,
    multiply_mask,
    scale,
    take,
)
from minidrop.functions.embed import embed
from minidrop.functions.hidden_drop import HiddenDrop
from minidrop.functions.linear import linear
from minidrop.functions.loss import euclidean_loss, sigmoid_cross_entropy
from minidrop.functions.lrn import lrn
from minidrop.functions.metric import accuracy, perplexity
from minidrop.functions.normalization import Stored, batch_norm, mvn, stored_norm
from minidrop.functions.recurrent import gru, lstm, rnn
from minidrop.functions.shape import concat, flatten, reshape, slice
from minidrop.functions.softmax import softmax, softmax_cross_entropy
from minidrop.functions.steps import add_to_steps, reverse_steps

__all__ = ["HiddenDrop", "Stored", "accuracy", "add", "add_to_steps", "affine", "approx_dropout",
           "batch_norm", "concat", "dropout", "embed", "euclidean_loss", "expand", "flatten",
           "gaussian_dropout", "gru", "linear", "lrn", "lstm", "maximum", "multiply", "multiply_mask", "mvn",
           "perplexity", "power", "prelu", "product", "relu", "reshape", "reverse_steps", "rnn", "scale",
           "sigmoid", "sigmoid_cross_entropy", "slice", "softmax", "softmax_cross_entropy", "stored_norm",
           "take", "tanh", "weighted_sum"]

# The operators belong to Tensor, but their maths to this floor, above it.
Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
