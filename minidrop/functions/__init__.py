"""Stateless differentiable functions of Tensors: what layers call, and scripts without a config file."""

from inspect import isfunction
from typing import NoReturn

from minidrop.autograd import Tensor
from minidrop.errors import no_attribute
from minidrop.functions.activation import power, relu, sigmoid, tanh
from minidrop.functions.affine import affine, prelu
from minidrop.functions.arithmetic import product, weighted_sum
from minidrop.functions.attention import attention
from minidrop.functions.axes import (
    broadcast_to,
    cat,
    chunk,
    moveaxis,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from minidrop.functions.binary import add, divide, maximum, minimum, multiply, pow, subtract
from minidrop.functions.choices import where
from minidrop.functions.chunks import ChunkCounts, count_chunks
from minidrop.functions.conversion import astype, tensor, to
from minidrop.functions.convolution import convolution, deconvolution, im2col
from minidrop.functions.crf import best_tags, crf
from minidrop.functions.criteria import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from minidrop.functions.described import described
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
from minidrop.functions.explained import explain_making, explain_methods, explained
from minidrop.functions.hidden_drop import HiddenDrop
from minidrop.functions.indexing import get_item, unbind
from minidrop.functions.likelihood_losses import infogain_loss, multinomial_logistic_loss
from minidrop.functions.linear import linear
from minidrop.functions.loss import euclidean_loss, sigmoid_cross_entropy
from minidrop.functions.lrn import lrn
from minidrop.functions.margin_losses import contrastive_loss, hinge_loss
from minidrop.functions.matrices import einsum, matmul
from minidrop.functions.metric import accuracy, perplexity
from minidrop.functions.normalization import Stored, batch_norm, mvn, stored_norm
from minidrop.functions.operators import Operators
from minidrop.functions.pooling import max_pooling, mean_pooling, pooled_places, stochastic_pooling
from minidrop.functions.positions import add_positions, rotary, sinusoids, step_angles
from minidrop.functions.recurrent import gru, lstm, rnn
from minidrop.functions.reductions import (
    amax,
    amin,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    std,
    sum,
    var,
)
from minidrop.functions.rows import layer_norm, rms_norm
from minidrop.functions.selection import argmax, batch_reindex, filter_records
from minidrop.functions.shape import concat, flatten, patches, permute, reshape, slice
from minidrop.functions.softmax import log_softmax, softmax, softmax_cross_entropy
from minidrop.functions.steps import add_to_steps, last_state, reverse_steps
from minidrop.functions.torch_names import FUNCTIONS
from minidrop.functions.trailing import crop, reduction, tile
from minidrop.functions.unary import (
    ceil,
    clamp,
    cos,
    expm1,
    floor,
    log1p,
    negative,
    round,
    sign,
    sin,
    sqrt,
    square,
)

concatenate, expand_dims, abs = cat, unsqueeze, absval

__all__ = ["ChunkCounts", "HiddenDrop", "Stored", "abs", "absval", "accuracy", "add", "add_positions",
           "add_to_steps", "affine", "amax", "amin", "approx_dropout", "argmax", "astype", "attention",
           "batch_norm", "batch_reindex", "best_tags", "binary_cross_entropy",
           "binary_cross_entropy_with_logits", "bnll", "broadcast_to", "cat", "ceil", "chunk", "clamp",
           "clip", "concat", "concatenate", "contrastive_loss", "convolution", "cos", "count_chunks", "crf",
           "crop", "cross_entropy", "cumsum", "deconvolution", "divide", "dropout", "einsum", "elu", "embed",
           "euclidean_loss", "exp", "expand", "expand_dims", "expm1", "filter_records", "flatten", "floor",
           "gaussian_dropout", "gelu", "get_item", "gru", "hinge_loss", "huber_loss", "im2col",
           "infogain_loss", "kl_div", "l1_loss", "last_state", "layer_norm", "linear", "log", "log1p",
           "log_softmax", "logsumexp", "lrn", "lstm", "matmul", "max", "max_pooling", "maximum", "mean",
           "mean_pooling", "min", "minimum", "moveaxis", "mse_loss", "multinomial_logistic_loss", "multiply",
           "multiply_mask", "mvn", "negative", "nll_loss", "norm", "patches", "permute", "perplexity",
           "pooled_places", "pow", "power", "prelu", "product", "reduction", "relu", "reshape",
           "reverse_steps", "rms_norm", "rnn", "rotary", "round", "scale", "sigmoid",
           "sigmoid_cross_entropy", "sign", "sin", "sinusoids", "slice", "smooth_l1_loss", "softmax",
           "softmax_cross_entropy", "split", "sqrt", "square", "squeeze", "stack", "std", "step_angles",
           "stochastic_pooling", "stored_norm", "subtract", "sum", "swish", "take", "tanh", "tensor",
           "threshold", "tile", "to", "transpose", "unbind", "unsqueeze", "var", "weighted_sum", "where"]


def __getattr__(name: str) -> NoReturn:
    raise no_attribute(__name__, name, __all__, FUNCTIONS)


def __dir__() -> list[str]:
    """Return the public names alone: modules inside are no part of the interface."""
    return sorted(__all__)


_functions = {name: globals()[name] for name in __all__ if isfunction(globals()[name])}
_public = {function: described(explained(function)) for function in _functions.values()}  # an alias stays one
globals().update({name: _public[function] for name, function in _functions.items()})

for _kind in (ChunkCounts, HiddenDrop, Stored):
    explain_making(_kind)
explain_methods(Operators)
# The operators belong to Tensor, but their maths to this floor, above it.
Tensor.define(Operators)
