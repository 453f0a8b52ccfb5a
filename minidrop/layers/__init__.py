"""The layer types, one per file. Importing this package registers them all."""

import importlib
import pkgutil

from minidrop.layers.base import Context, Layer, ParameterSpec, known_layers, layer_class, register_layer
from minidrop.layers.data_layer import DataLayer
from minidrop.layers.python import PythonLayer, allow_python

__all__ = ["Context", "DataLayer", "Layer", "ParameterSpec", "PythonLayer", "allow_python", "known_layers",
           "layer_class", "register_layer"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

# Known to hold for the built-in types that do not say otherwise; a user-defined layer has to declare it
# itself.
for _name in known_layers():
    if "capturable" not in vars(layer_class(_name)):
        layer_class(_name).capturable = True
