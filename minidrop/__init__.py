"""minidrop: a small deep-learning framework whose dropout makes training faster."""

from minidrop.kernels import threads  # before anything loads NumPy, see there

# isort: split
from minidrop import functions
from minidrop.apps.generation import TextModel
from minidrop.apps.onnx import export_onnx
from minidrop.apps.tagging import Tagger
from minidrop.apps.translation import Translator
from minidrop.apps.uncertainty import evaluate_monte_carlo, monte_carlo
from minidrop.autograd import Function, Parameter, Tensor, check_gradients, no_grad
from minidrop.config import NetParameter, NetSpec, SolverParameter
from minidrop.config import layers as L
from minidrop.errors import (
                             BackendError,
                             ConfigError,
                             DataError,
                             MinidropError,
                             NonFiniteError,
                             ShapeError,
                             SnapshotError,
)
from minidrop.kept import Kept
from minidrop.layers import DataLayer, Layer, register_layer
from minidrop.net import Net
from minidrop.net.state_dict import from_torch_state_dict, to_torch_state_dict
from minidrop.patterns import register_pattern
from minidrop.solver import Solver, load_weights

__version__ = "0.1.0"

__all__ = ["BackendError", "ConfigError", "DataError", "DataLayer", "Function", "Kept", "L", "Layer",
           "MinidropError", "Net", "NetParameter", "NetSpec", "NonFiniteError", "Parameter", "ShapeError",
           "SnapshotError", "Solver", "SolverParameter", "Tagger", "Tensor", "TextModel", "Translator",
           "__version__", "check_gradients", "evaluate_monte_carlo", "export_onnx", "from_torch_state_dict",
           "functions", "load_weights", "monte_carlo", "no_grad", "register_layer", "register_pattern",
           "threads", "to_torch_state_dict"]
