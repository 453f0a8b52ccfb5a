"""minidrop by pycaffe's names: `import minidrop.caffe as caffe` runs what was written for Caffe's Python.

    net = caffe.Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)
    net.blobs["data"].data[...] = transformer.preprocess("data", caffe.io.load_image("cat.jpg"))
    probabilities = net.forward()["prob"][0]

Names and arrays only: the work is done by Net, Solver and NetSpec of minidrop. Importing it allows Python
layers, see `minidrop.layers.allow_python`; programs that say `import caffe` run after `install()`.
"""

from __future__ import annotations

import logging
import sys

from minidrop.caffe import coord_map, draw, io, net_spec, proto
from minidrop.caffe.classifier import Classifier, Detector
from minidrop.caffe.mode import set_device, set_mode_cpu, set_mode_gpu, set_random_seed
from minidrop.caffe.net import TEST, TRAIN, Net
from minidrop.caffe.net_spec import NetSpec, layers, params, to_proto
from minidrop.caffe.solvers import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from minidrop.errors import ConfigError
from minidrop.layers import PythonLayer as Layer
from minidrop.layers import allow_python
from minidrop.layers import known_layers as layer_type_list

__version__ = "1.0.0"       # of the Caffe whose names these are

__all__ = ["AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "Classifier", "Detector", "Layer",
           "NesterovSolver", "Net", "NetSpec", "RMSPropSolver", "SGDSolver", "Solver", "TEST", "TRAIN",
           "coord_map", "draw", "get_solver", "init_log", "install", "io", "layer_type_list", "layers", "log",
           "net_spec", "params", "proto", "set_device", "set_mode_cpu", "set_mode_gpu", "set_random_seed",
           "to_proto"]

allow_python()


def install() -> None:
    """Let `import caffe`, in this process, find these names; ConfigError if it has found another package."""
    own = sys.modules[__name__]
    if sys.modules.get("caffe", own) is not own:
        raise ConfigError(f"another package caffe is imported already, from "
                          f"{getattr(sys.modules['caffe'], '__file__', None)}; call install() before that")
    for name, module in list(sys.modules.items()):
        if name == __name__ or name.startswith(f"{__name__}."):
            sys.modules[name.removeprefix("minidrop.")] = module


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show what minidrop logs from a level of Caffe's on: 0 all, 1 warnings, 2 errors."""
    levels = logging.INFO, logging.WARNING, logging.ERROR
    logging.getLogger("minidrop").setLevel(levels[min(max(level, 0), 2)])
    if stderr:
        logging.basicConfig()


def log(message: str) -> None:
    """Log a message."""
    logging.getLogger("minidrop.caffe").info("%s", message)
