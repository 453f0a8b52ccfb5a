"""Stateless differentiable functions of Tensors: what layers call, and scripts without a config file."""

from minidrop.autograd import Tensor
from minidrop.functions.activation import power, relu, sigmoid, tanh
from minidrop.functions.affine import affine, prelu
from minidrop.functions.arithmetic import add, maximum, multiply, product, weighted_sum
from minidrop.functions.attention import attention
from minidrop.functions.chunks import ChunkCounts, count_chunks
from minidrop.functions.convolution import convolution, deconvolution, im2col
from minidrop.functions.crf import best_tags, crf
from minidrop.functions.dropout import (
    approx_dropout,
    dropout,
    expand,
    gaussian_dropout,
    multiply_mask,
    scale,
    take,
)
from minidrop.functions.elementwise import absval, bnll, clip, elu, exp, gelu, log, swish, threshold
from minidrop.functions.embed import embed
from minidrop.functions.hidden_drop import HiddenDrop
from minidrop.functions.likelihood_losses import infogain_loss, multinomial_logistic_loss
from minidrop.functions.linear import linear
from minidrop.functions.loss import euclidean_loss, sigmoid_cross_entropy
from minidrop.functions.lrn import lrn
from minidrop.functions.margin_losses import contrastive_loss, hinge_loss
from minidrop.functions.metric import accuracy, perplexity
from minidrop.functions.normalization import Stored, batch_norm, mvn, stored_norm
from minidrop.functions.pooling import max_pooling, mean_pooling, pooled_places, stochastic_pooling
from minidrop.functions.positions import add_positions, rotary, sinusoids, step_angles
from minidrop.functions.recurrent import gru, lstm, rnn
from minidrop.functions.rows import layer_norm, rms_norm
from minidrop.functions.selection import argmax, batch_reindex, filter_records
from minidrop.functions.shape import concat, flatten, patches, permute, reshape, slice
from minidrop.functions.softmax import softmax, softmax_cross_entropy
from minidrop.functions.steps import add_to_steps, last_state, reverse_steps
from minidrop.functions.trailing import crop, reduction, tile

__all__ = ["ChunkCounts", "HiddenDrop", "Stored", "absval", "accuracy", "add", "add_positions",
           "add_to_steps", "affine", "approx_dropout", "argmax", "attention", "batch_norm", "batch_reindex",
           "best_tags", "bnll", "clip", "concat", "contrastive_loss", "convolution", "count_chunks", "crf",
           "crop", "deconvolution", "dropout", "elu", "embed", "euclidean_loss", "exp", "expand",
           "filter_records", "flatten", "gaussian_dropout", "gelu", "gru", "hinge_loss", "im2col",
           "infogain_loss", "last_state", "layer_norm", "linear", "log", "lrn", "lstm", "max_pooling",
           "maximum", "mean_pooling", "multinomial_logistic_loss", "multiply", "multiply_mask", "mvn",
           "patches", "permute", "perplexity", "pooled_places", "power", "prelu", "product", "reduction",
           "relu", "reshape", "reverse_steps", "rms_norm", "rnn", "rotary", "scale", "sigmoid",
           "sigmoid_cross_entropy", "sinusoids", "slice", "softmax", "softmax_cross_entropy", "step_angles",
           "stochastic_pooling", "stored_norm", "swish", "take", "tanh", "threshold", "tile", "weighted_sum"]

# The operators belong to Tensor, but their maths to this floor, above it.
Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
