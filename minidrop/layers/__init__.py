"""The layer types, one a file. Importing this package registers them all."""

import importlib
import pkgutil

from minidrop.layers.base import Context, Layer, ParameterSpec, known_layers, layer_class, register_layer
from minidrop.layers.data_layer import DataLayer

__all__ = ["Context", "DataLayer", "Layer", "ParameterSpec", "known_layers", "layer_class", "register_layer"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

# Of these it is known; whoever adds a layer of their own says so themselves.
for _name in known_layers():
    layer_class(_name).capturable = True
