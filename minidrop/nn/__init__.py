"""Nets described in Python: modules that own parameters and run as planned Nets. See Module."""

from minidrop.nn.containers import ModuleDict, ModuleList, Sequential
from minidrop.nn.layer import Lambda, Layer, Weight
from minidrop.nn.losses import Accuracy, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from minidrop.nn.module import Module
from minidrop.nn.operations import concat, maximum
from minidrop.nn.products import (
    BatchNorm,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    DropConnect,
    Embedding,
    LayerNorm,
    Linear,
    Position,
    PReLU,
    RMSNorm,
    Scale,
)
from minidrop.nn.sequences import GRU, LSTM, RNN, Attention, MultiHeadAttention, Recurrent, Rotary
from minidrop.nn.simple import (
    ELU,
    GELU,
    LRN,
    ApproxDropout,
    AvgPool2d,
    Dropout,
    Flatten,
    GaussianDropout,
    Identity,
    MaxPool2d,
    Permute,
    ReLU,
    Reshape,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Swish,
    Tanh,
)
from minidrop.nn.symbol import Symbol, TraceError

__all__ = ["ELU", "GELU", "GRU", "LRN", "LSTM", "RNN", "Accuracy", "ApproxDropout", "Attention", "AvgPool2d",
           "BCEWithLogitsLoss", "BatchNorm", "Conv1d", "Conv2d", "ConvTranspose2d", "CrossEntropyLoss",
           "DropConnect", "Dropout", "Embedding", "Flatten", "GaussianDropout", "Identity", "L1Loss", "LSTM",
           "Lambda", "Layer", "LayerNorm", "Linear", "MSELoss", "MaxPool2d", "Module", "ModuleDict",
           "ModuleList", "MultiHeadAttention", "PReLU", "Permute", "Position", "RMSNorm", "ReLU", "Recurrent",
           "Reshape", "Rotary", "Scale", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Swish",
           "Symbol", "Tanh", "TraceError", "Weight", "concat", "maximum"]
