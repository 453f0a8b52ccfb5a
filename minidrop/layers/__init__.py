"""The layer types, one a file. Importing this package registers them all."""

import importlib
import pkgutil

from minidrop.layers.base import Context, Layer, ParameterSpec, known_layers, layer_class, register_layer

__all__ = ["Context", "Layer", "ParameterSpec", "known_layers", "layer_class", "register_layer"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
