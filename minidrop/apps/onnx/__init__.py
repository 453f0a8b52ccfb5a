"""Export of nets as ONNX: a function for each layer type that has an equivalent, one file per family.

    graph of the net in use -> each layer, by its type, to nodes -> the nodes that outputs need -> file
"""

from minidrop.apps.onnx import (  # noqa: F401 - they register what they export
    attention,
    elementwise,
    images,
    normalization,
    products,
    recurrent,
    shape,
)
from minidrop.apps.onnx.export import OLDEST_OPSET, OPSET, Exported, export_onnx
from minidrop.apps.onnx.writer import LayerWriter, NotExportable, exported_types, exports

__all__ = ["OLDEST_OPSET", "OPSET", "Exported", "LayerWriter", "NotExportable", "export_onnx",
           "exported_types", "exports"]
