"""Which *_param fields of a LayerParameter a layer type reads."""

from functools import cache

from minidrop.config.forks import YOUNGER_TYPES, foreign_type, foreign_v1_type
from minidrop.config.minidrop_pb2 import LayerParameter
from minidrop.registry import Registry

# The valid values of a layer's `type`; filled by layers/.
layer_types: Registry[type] = Registry("layer type", "type")

TYPES_OF_V1 = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution", "DATA": "Data",
    "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "EXP": "Exp", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col", "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "MVN": "MVN",
    "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence", "SLICE": "Slice",
    "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "TANH": "TanH",
    "THRESHOLD": "Threshold", "WINDOW_DATA": "WindowData",
}
"""Today's name of each type of a V1 layer."""

# The fields that a type reads besides the one whose message is named after it.
_BESIDES = {
    "CRF": ("loss_param",),
    "Data": ("transform_param",),
    "Deconvolution": ("convolution_param",),
    "DropConnect": ("inner_product_param", "dropout_param"),
    "F1": ("crf_param",),
    "GRU": ("recurrent_param",),
    "GaussianDropout": ("dropout_param",),
    "HDF5Data": ("transform_param",),
    "Im2col": ("convolution_param",),
    "ImageData": ("transform_param",),
    "LSTM": ("recurrent_param",),
    "LastState": ("recurrent_param",),
    "MemoryData": ("transform_param",),
    "Perplexity": ("softmax_param", "loss_param"),
    "RNN": ("recurrent_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
    "WindowData": ("transform_param",),
}


def unknown_type(kind: str) -> str:
    """Return the message for a layer type that is not registered: of which fork it is, or nearest names."""
    found = foreign_type(kind)
    if found is None:
        return str(layer_types.unknown(kind))
    return (f"unknown layer type {kind!r}: it is of a fork of Caffe, {found.fork}, and minidrop has none; "
            f"{found.without}")


def unknown_v1_type(value: str) -> str:
    """Return the message for a value that forks or today's form have and V1's `type` has not, else ""."""
    if kind := foreign_v1_type(value):
        return unknown_type(kind).replace(repr(kind), value, 1)
    plain = value.replace("_", "").lower()
    for old, kind in TYPES_OF_V1.items():
        if kind and plain in (old.replace("_", "").lower(), kind.lower()):
            return f"'layers' has no type {value}; this form calls it {old}: write type: {old}"
    today = next((kind for kind in layer_types.names() if kind.lower() == plain), "")
    return today and (f"'layers' has no type {value}, which is younger than this form; take this layer out, "
                      f"let `minidrop upgrade` write the file anew, and add layer {{ type: \"{today}\" ... }}"
                      f"{YOUNGER_TYPES.get(value, '')}")


@cache
def param_fields(layer_type: str) -> tuple[str, ...]:
    """Return the names of the *_param fields that a layer type reads, its own first, e.g. ("relu_param",).

    By convention type X reads the field whose message is XParameter, and a type that ends in Loss also reads
    loss_param. A type that the schema does not know reads none.
    """
    own = tuple(field.name for field in LayerParameter.DESCRIPTOR.fields
                if field.message_type is not None and field.message_type.name == f"{layer_type}Parameter"
                and field.name.endswith("_param"))
    besides = _BESIDES.get(layer_type, ("loss_param",) if layer_type.endswith("Loss") else ())
    return own + tuple(name for name in besides if name not in own)


@cache
def all_param_fields() -> tuple[str, ...]:
    """Return the names of all *_param fields of a LayerParameter."""
    return tuple(field.name for field in LayerParameter.DESCRIPTOR.fields
                 if field.message_type is not None and field.name.endswith("_param"))
