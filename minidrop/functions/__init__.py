"""Stateless differentiable maths on Tensors: what layers are made of, and what a script without a config file uses."""

from minidrop.autograd import Tensor
from minidrop.functions.activation import power, relu, sigmoid, tanh
from minidrop.functions.arithmetic import add, maximum, multiply, product, weighted_sum
from minidrop.functions.dropout import approx_dropout, dropout, expand, gaussian_dropout, multiply_mask, site_mask, take
from minidrop.functions.linear import linear
from minidrop.functions.loss import euclidean_loss, sigmoid_cross_entropy
from minidrop.functions.metric import accuracy
from minidrop.functions.pieces import block_pieces, linear_pieces, tile_pieces
from minidrop.functions.recurrent import gru, lstm, rnn
from minidrop.functions.shape import concat, flatten, reshape, slice
from minidrop.functions.softmax import softmax, softmax_cross_entropy

__all__ = ["accuracy", "add", "approx_dropout", "block_pieces", "concat", "dropout", "euclidean_loss", "expand",
           "flatten", "gaussian_dropout", "gru", "linear", "linear_pieces", "lstm", "maximum", "multiply",
           "multiply_mask", "power", "product", "relu", "reshape", "rnn", "sigmoid", "sigmoid_cross_entropy",
           "site_mask", "slice", "softmax", "softmax_cross_entropy", "take", "tanh", "tile_pieces", "weighted_sum"]

# Operators belong to Tensor, their maths to this floor above it.
Tensor.__add__ = add
Tensor.__mul__ = multiply
