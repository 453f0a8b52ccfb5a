"""What a TransformationParameter does to the first top of a data layer."""

import numpy as np
from google.protobuf.message import Message

from minidrop.config import decimal
from minidrop.errors import ConfigError

_ONLY_FOR_IMAGES = ("mirror", "crop_size", "mean_file", "force_color", "force_gray")


def check_transform(settings: Message, shape: tuple[int, ...]) -> None:
    """Raise ConfigError if `settings` do not suit records of `shape`, or ask for what is unsupported."""
    for name in _ONLY_FOR_IMAGES:
        if settings.HasField(name):
            raise ConfigError(f"transform_param: {name} is not supported yet; scale and mean_value are")
    channels = shape[0] if len(shape) == 3 else 1
    if len(settings.mean_value) not in (0, 1, channels):
        raise ConfigError(f"transform_param: expected one mean_value, or one for each of the {channels} "
                          f"channels, got {len(settings.mean_value)}")


def transform(settings: Message, x: np.ndarray, dtype: str) -> np.ndarray:
    """Return (x - mean_value) * scale as `dtype`; x (records, ...), several means go along axis 1."""
    if settings.mean_value:
        mean = np.array([decimal(value) for value in settings.mean_value], dtype)
        x = x - (mean.reshape((1, -1) + (1,) * (x.ndim - 2)) if mean.size > 1 else mean)
    if settings.HasField("scale"):
        return np.multiply(x, np.dtype(dtype).type(decimal(settings.scale)), dtype=dtype)
    return x.astype(dtype, copy=False)
