"""caffe.io: images, what makes them the input of a net, and arrays in Caffe's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidrop.caffe.proto import caffe_pb2
from minidrop.config import minidrop_pb2 as pb
from minidrop.data.image_arrays import fit_mean, load_image, oversample, resize_image, to_input
from minidrop.errors import ConfigError, DataError, ShapeError

__all__ = ["Transformer", "array_to_blobproto", "array_to_datum", "arraylist_to_blobprotovecor_str",
           "arraylist_to_blobprotovector_str", "blobproto_to_array", "blobprotovector_str_to_arraylist",
           "caffe_pb2", "datum_to_array", "load_image", "oversample", "resize_image"]


# -- messages ------------------------------------------------------------------------------------------------
def array_to_blobproto(array: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """Return the BlobProto of an array, and of its gradient. Raises ShapeError where their shapes differ."""
    array = np.asarray(array)
    blob = pb.BlobProto()
    blob.shape.dim.extend(array.shape)
    blob.data.extend(array.astype(float).ravel())
    if diff is not None:
        if np.shape(diff) != array.shape:
            raise ShapeError(f"array_to_blobproto: expected a diff of the array's shape {array.shape}, got "
                             f"{np.shape(diff)}")
        blob.diff.extend(np.asarray(diff).astype(float).ravel())
    return blob


def blobproto_to_array(blob: Any, return_diff: bool = False) -> np.ndarray:
    """Return the values of a BlobProto, or its gradient: float32, float64 where it holds such.

    Old blobs have four axes. Raises DataError where the number of values does not fit the shape.
    """
    is_old = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if is_old else tuple(blob.shape.dim)
    single, double = (blob.diff, blob.double_diff) if return_diff else (blob.data, blob.double_data)
    values = np.array(double, np.float64) if len(double) else np.array(single, np.float32)
    return _shaped(values, shape, "BlobProto")


def _shaped(values, shape, what):
    if min(shape, default=0) < 0 or int(np.prod(shape, dtype=object)) != values.size:
        raise DataError(f"{what}: expected as many values as its shape {tuple(shape)} has, got {values.size}")
    return values.reshape(shape)


def arraylist_to_blobprotovector_str(arrays: Sequence[np.ndarray]) -> bytes:
    """Return arrays as a serialized BlobProtoVector."""
    blobs = [array_to_blobproto(array) for array in arrays]
    return pb.BlobProtoVector(blobs=blobs).SerializeToString()


arraylist_to_blobprotovecor_str = arraylist_to_blobprotovector_str      # as Caffe spells it


def blobprotovector_str_to_arraylist(text: bytes) -> list[np.ndarray]:
    """Return the arrays of a serialized BlobProtoVector. Raises DataError where it is none."""
    return [blobproto_to_array(blob) for blob in _parsed(pb.BlobProtoVector, text).blobs]


def _parsed(kind, content):
    message = kind()
    try:
        message.ParseFromString(content)
    except Exception as error:      # protobuf's own type of it depends on its implementation
        raise DataError(f"expected a serialized {kind.__name__}, got other bytes ({error})") from None
    return message


def array_to_datum(array: np.ndarray, label: int | None = None) -> Any:
    """Return the Datum of an array (channels, height, width): uint8 as bytes, other numbers as floats."""
    array = np.asarray(array)
    if array.ndim != 3:
        raise ShapeError(f"array_to_datum: expected an array (channels, height, width), got shape "
                         f"{array.shape}")
    datum = pb.Datum()
    datum.channels, datum.height, datum.width = array.shape
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(float).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> np.ndarray:
    """Return the array (channels, height, width) of a Datum: uint8, or float64. Raises DataError."""
    if datum.encoded:
        raise DataError("datum_to_array: the Datum holds an encoded image (JPEG, PNG); decode datum.data, "
                        "e.g. with Pillow")
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return _shaped(values, (datum.channels, datum.height, datum.width), "Datum")


# -- images --------------------------------------------------------------------------------------------------
class Transformer:
    """Makes images (height, width, channels) the inputs (channels, height, width) of a net, and back.

    inputs: {input: its shape (batch, channels, height, width)}; what is not set is left out. Raises
    ConfigError for an unknown input, ShapeError for settings and images that do not fit.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, name):
        if name not in self.inputs:
            raise ConfigError(f"{name!r} is none of the inputs: {', '.join(self.inputs)}")
        return self.inputs[name]

    def set_transpose(self, name: str, order: Sequence[int]) -> None:
        """Set the order of the axes: (2, 0, 1) for images with channels last."""
        axes = len(self._shape(name)) - 1
        if sorted(order) != list(range(axes)):
            raise ShapeError(f"set_transpose: expected the numbers 0 to {axes - 1}, each once, got {order}")
        self.transpose[name] = order

    def set_channel_swap(self, name: str, order: Sequence[int]) -> None:
        """Set where each channel comes from: (2, 1, 0) makes BGR of RGB."""
        channels = self._shape(name)[1]
        if sorted(order) != list(range(channels)):
            raise ShapeError(f"set_channel_swap: expected the numbers 0 to {channels - 1}, each once, got "
                             f"{order}")
        self.channel_swap[name] = order

    def set_raw_scale(self, name: str, scale: float) -> None:
        """Set by what images are multiplied before the mean is taken off: 255 for those in [0, 1]."""
        self._shape(name)
        self.raw_scale[name] = scale

    def set_mean(self, name: str, mean: np.ndarray) -> None:
        """Set the mean: a number for each channel, or (channels, height, width), resized to the input."""
        self.mean[name] = fit_mean(mean, self._shape(name))

    def set_input_scale(self, name: str, scale: float) -> None:
        """Set by what inputs are multiplied in the end."""
        self._shape(name)
        self.input_scale[name] = scale

    def preprocess(self, name: str, image: np.ndarray) -> np.ndarray:
        """Return the input for an image, float32 (channels, height, width)."""
        size = self._shape(name)[2:]
        return to_input(image, size, self.transpose.get(name), self.channel_swap.get(name),
                        self.raw_scale.get(name), self.mean.get(name), self.input_scale.get(name))

    def deprocess(self, name: str, data: np.ndarray) -> np.ndarray:
        """Return the image of an input: what `preprocess` did, apart from resizing, undone."""
        self._shape(name)
        x = np.array(data, np.float32).squeeze()
        if x.ndim == 2:
            x = x[None]
        if name in self.input_scale:
            x = x / np.float32(self.input_scale[name])
        if name in self.mean:
            x = x + self.mean[name]
        if name in self.raw_scale:
            x = x / np.float32(self.raw_scale[name])
        if name in self.channel_swap:
            x = x[np.argsort(self.channel_swap[name])]
        if name in self.transpose:
            x = x.transpose(np.argsort(self.transpose[name]))
        return x
