"""minidrop: a small deep-learning framework whose dropout makes training faster."""

from minidrop.kernels import threads  # before anything loads NumPy, see there

# isort: split
from typing import NoReturn

from minidrop import data, functions, nn, optim
from minidrop.apps.generation import TextModel
from minidrop.apps.onnx import export_onnx
from minidrop.apps.tagging import Tagger
from minidrop.apps.trained import load
from minidrop.apps.translation import Translator
from minidrop.apps.uncertainty import evaluate_monte_carlo, monte_carlo
from minidrop.autograd import Function, Parameter, Tensor, check_gradients, no_grad
from minidrop.config import NetParameter, NetSpec, SolverParameter
from minidrop.config import layers as L
from minidrop.errors import (
    BackendError,
    ConfigError,
    DataError,
    GraphError,
    MinidropError,
    NonFiniteError,
    ParallelError,
    PlaceError,
    ShapeError,
    SnapshotError,
    TensorError,
    no_attribute,
)
from minidrop.functions import tensor
from minidrop.functions.torch_names import FUNCTIONS, TOP
from minidrop.kept import Kept
from minidrop.layers import DataLayer, Layer, register_layer
from minidrop.net import Net
from minidrop.net.state_dict import from_torch_state_dict, to_torch_state_dict
from minidrop.optim import find_learning_rate
from minidrop.patterns import register_pattern
from minidrop.solver import EMA, EarlyStopping, Event, Solver, StopTraining, load_weights

grad_check = check_gradients        # the name that PyTorch's users look for

__version__ = "0.1.0"

__all__ = ["BackendError", "ConfigError", "DataError", "DataLayer", "EMA", "EarlyStopping", "Event",
           "Function", "GraphError", "Kept", "L", "Layer", "MinidropError", "Net", "NetParameter", "NetSpec",
           "NonFiniteError", "ParallelError", "Parameter", "PlaceError", "ShapeError", "SnapshotError",
           "Solver", "SolverParameter", "StopTraining", "Tagger", "Tensor", "TensorError", "TextModel",
           "Translator", "__version__", "check_gradients", "data", "evaluate_monte_carlo", "export_onnx",
           "find_learning_rate", "from_torch_state_dict", "functions", "grad_check", "load", "load_weights",
           "monte_carlo", "nn", "no_grad", "optim", "register_layer", "register_pattern", "tensor", "threads",
           "to_torch_state_dict"]


def __getattr__(name: str) -> NoReturn:
    homes = [("md.functions", functions), ("md.nn", nn), ("md.optim", optim), ("md.data", data)]
    found = [f"{home}.{name}" for home, module in homes if name in module.__all__]
    raise no_attribute(__name__, name, __all__, {name: found[0]} if found else FUNCTIONS | TOP)


def __dir__() -> list[str]:
    """Return the public names alone: modules inside are no part of the interface."""
    return sorted(__all__)
