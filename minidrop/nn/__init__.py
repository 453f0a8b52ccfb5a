"""Nets described in Python: modules that own parameters and run as planned Nets. See Module.

    model = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.ApproxDropout(0.5), nn.Linear(2048, 10))
    loss = md.functions.softmax_cross_entropy(model(images), labels)
    loss.backward()                             # fills the gradients of model.parameters()
    scores = model.eval()(images).numpy()       # nothing is dropped

Images are (N, C, H, W), sequences (steps, streams, units), as everywhere in minidrop.
"""

from typing import NoReturn

from minidrop.errors import no_attribute
from minidrop.functions import concat, maximum
from minidrop.functions.described import describes
from minidrop.functions.explained import explain_making
from minidrop.nn.containers import ModuleDict, ModuleList, Sequential
from minidrop.nn.described import describe
from minidrop.nn.layer import Lambda, Layer, Weight
from minidrop.nn.losses import Accuracy, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from minidrop.nn.module import Module
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
from minidrop.nn.torch_names import HINTS

describes(Symbol, describe)
describes(Weight, describe)

__all__ = ["Accuracy", "ApproxDropout", "Attention", "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm", "Conv1d",
           "Conv2d", "ConvTranspose2d", "CrossEntropyLoss", "DropConnect", "Dropout", "ELU", "Embedding",
           "Flatten", "GELU", "GRU", "GaussianDropout", "Identity", "L1Loss", "LRN", "LSTM", "Lambda",
           "Layer", "LayerNorm", "Linear", "MSELoss", "MaxPool2d", "Module", "ModuleDict", "ModuleList",
           "MultiHeadAttention", "PReLU", "Permute", "Position", "RMSNorm", "RNN", "ReLU", "Recurrent",
           "Reshape", "Rotary", "Scale", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Swish",
           "Symbol", "Tanh", "TraceError", "Weight", "concat", "maximum"]

for _name in __all__:
    if isinstance(globals()[_name], type):
        explain_making(globals()[_name])


def __getattr__(name: str) -> NoReturn:
    raise no_attribute(__name__, name, __all__, HINTS)


def __dir__() -> list[str]:
    """Return the public names alone: modules inside are no part of the interface."""
    return sorted(__all__)
