"""caffe.coord_map: where the pixels of one blob lie in another, and the Crop that aligns the two."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from minidrop.caffe.net_spec import Function, NetSpec, Top, layers
from minidrop.config import is_repeated
from minidrop.errors import ConfigError
from minidrop.layers.sliding import window_numbers

__all__ = ["coord_map", "coord_map_from_to", "crop"]

_PASSING = ("AbsVal", "ApproxDropout", "BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Eltwise",
            "Exp", "GaussianDropout", "LRN", "Log", "MVN", "PReLU", "Power", "ReLU", "Scale", "Sigmoid",
            "Split", "Swish", "TanH", "Threshold")
_SLIDING = {"Convolution": "convolution_param", "Deconvolution": "convolution_param",
            "Im2col": "convolution_param", "Pooling": "pooling_param"}


class Map(NamedTuple):
    """Place x of one blob is place scale * x + shift of another, on each spatial axis as Fractions.

    axis: the one of the channels, which stands before the spatial ones; None: it does not matter.
    """

    axis: int | None
    scale: Any
    shift: Any

    def after(self, other: Map) -> Map:
        """Return the map that goes by `other`, then by this one. Raises ConfigError if the axes differ."""
        if None not in (self.axis, other.axis) and self.axis != other.axis:
            raise ConfigError(f"coord_map: expected layers with their channels on one axis, got axes "
                              f"{other.axis} and {self.axis}")
        axis = other.axis if self.axis is None else self.axis
        return Map(axis, self.scale * other.scale, self.scale * other.shift + self.shift)

    def inverse(self) -> Map:
        """Return the map back."""
        return Map(self.axis, 1 / self.scale, -self.shift / self.scale)


_SAME = Map(None, np.array([Fraction(1)]), np.array([Fraction(0)]))


def coord_map(layer: Function) -> Map | None:
    """Return the Map from the bottom of a layer to its top; None: places get lost. Raises ConfigError."""
    if layer.type in _PASSING:
        return _SAME
    if layer.type not in (*_SLIDING, "Crop"):
        return None
    alone = NetSpec()
    alone.add(layer.type, "layer", top=[], **{key: value for key, value in layer.settings.items()
                                             if key not in ("name", "bottom", "top")})
    message = alone.to_proto().layer[0]
    if layer.type == "Crop":
        offset = _fractions(message.crop_param.offset or [0])
        return Map(message.crop_param.axis - 1, offset ** 0, -offset)
    settings = getattr(message, _SLIDING[layer.type])
    given = [own.name for own, _ in settings.ListFields()]
    axes = max(1, *(len(value) for own, value in settings.ListFields() if is_repeated(own)),
               2 * any(name.endswith(("_h", "_w")) for name in given))
    size = window_numbers(settings, "kernel_size", ("kernel_h", "kernel_w"), axes)
    if size is None:
        raise ConfigError(f"coord_map: a {layer.type} layer needs kernel_size, as the places of a window of "
                          f"the whole image are not known")
    stride = _fractions(window_numbers(settings, "stride", ("stride_h", "stride_w"), axes, 1))
    pad = _fractions(window_numbers(settings, "pad", ("pad_h", "pad_w"), axes, 0))
    dilation = 1 if layer.type == "Pooling" else _fractions(window_numbers(settings, "dilation", (), axes, 1))
    if not all(stride):
        raise ConfigError(f"coord_map: the stride of a {layer.type} layer must be at least 1")
    to_bottom = Map(1 if layer.type == "Pooling" else settings.axis, stride,
                    (_fractions(size) - 1) * dilation / 2 - pad)
    return to_bottom if layer.type == "Deconvolution" else to_bottom.inverse()


def _fractions(numbers):
    return np.array([Fraction(number) for number in numbers])


def _maps_to(top):
    """Return {blob: Map from it to `top`} of all that top is computed from, the nearest first."""
    maps = {top: _SAME}
    waiting = deque([top])
    while waiting:
        blob = waiting.popleft()
        step = coord_map(blob.layer) if isinstance(blob, Top) else None
        if step is None:
            continue
        read = blob.layer.bottoms
        for bottom in read[:1] if blob.layer.type == "Crop" else read:      # its second only gives a shape
            if bottom not in maps:
                maps[bottom] = maps[blob].after(step)
                waiting.append(bottom)
    return maps


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Return the Map from one blob of a NetSpec to another, over what both are computed from.

    Raises ConfigError where there is no such blob.
    """
    origins, targets = _maps_to(top_from), _maps_to(top_to)
    common = next((blob for blob in targets if blob in origins), None)
    if common is None:
        raise ConfigError(f"coord_map: expected two blobs computed from a common one by layers that keep "
                          f"places, got a {top_from.layer.type}'s and a {top_to.layer.type}'s")
    return targets[common].after(origins[common].inverse())


def crop(top_from: Top, top_to: Top) -> Top:
    """Return the Top of a Crop layer that cuts `top_from` to the places of `top_to`.

    Raises ConfigError where the two differ in scale, by a part of a pixel, or top_from begins too late.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if any(scale != 1) or any(part.denominator != 1 or part > 0 for part in shift):
        raise ConfigError(f"crop: expected blobs of one scale, the first beginning whole pixels before the "
                          f"second, got scale {', '.join(map(str, scale))} and a beginning "
                          f"{', '.join(str(-part) for part in shift)} pixels before")
    return layers.Crop(top_from, top_to, axis=2 if axis is None else axis + 1,
                       offset=[int(-part) for part in shift])
