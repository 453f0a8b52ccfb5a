"""Predictions of a trained net for records in files: how the files are read, and the net that predicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from minidrop.apps.trained import load_all_weights
from minidrop.config import NetConfig
from minidrop.data.record_files import Reading
from minidrop.errors import ConfigError
from minidrop.net import Net
from minidrop.net.deploy import Given, deployment
from minidrop.net.prediction import Predictor


def predictor_of(source: NetConfig, weights: str | os.PathLike | Sequence[str | os.PathLike],
                 outputs: Sequence[str] = (), device: str = "auto", dtype: str = "float32", level: int = 0,
                 stages: Sequence[str] = (), precision: str = "float32",
                 skip_mismatched: bool = False, ema: bool = False) -> Predictor:
    """Return the Predictor of a description with the weights in files; see `deployment` for what is computed.

    The files are read when the first batch has told the shape of records; SnapshotError is raised then where
    they do not fit, or lack weights. skip_mismatched, ema: as for `load_all_weights`. Raises ConfigError
    where the net cannot predict.
    """
    deployed = deployment(source, outputs, level, stages)

    def make(config: NetConfig) -> Net:
        net = Net(config, "TEST", device, dtype, 0, level, tuple(stages), precision=precision)
        try:
            load_all_weights(net, weights, None, skip_mismatched, ema)
        except BaseException:
            net.close()
            raise
        return net
    return Predictor(deployed, make, dtype)


def reading_of(given: Given, shape: Sequence[int] | None = None, columns: tuple[int, int | None] = (0, None),
               channels: str | None = None, size: tuple[int, int] | None = None,
               has_images: bool = False) -> Reading:
    """Return how files are read for an input: as asked, else as its data layer does.

    channels: of images; Caffe's layers read blue, green, red. Raises ConfigError where images are read
    (`has_images`) and the layer does not say how.
    """
    layer = given.layer
    known, scaled = _images_of(layer)
    if has_images and channels is None and known is None:
        raise ConfigError(f"layer {layer.name!r} ({layer.type}) does not say what the channels of images "
                          f"are; say it with --channels bgr, rgb or gray")
    declared: Any = layer.input_param.shape
    if (shape is None and layer.type == "Input" and declared and len(declared[0].dim) > 1
            and not layer.transform_param.crop_size):       # it is the shape of what is cut out of a record
        shape = declared[0].dim[1:]
    return Reading(tuple(shape) if shape else None, columns, channels or known or "bgr", size or scaled,
                   layer.transform_param.crop_size if given.transformed else 0)


def _images_of(layer):
    """Return (channels, (height, width)) of the images that a layer reads, None where it does not say."""
    settings = layer.image_data_param
    if layer.type == "ImageData":
        return ("bgr" if settings.is_color else "gray",
                (settings.new_height, settings.new_width) if settings.new_height else None)
    if layer.type in ("Data", "WindowData"):
        return "gray" if layer.transform_param.force_gray else "bgr", None
    shape = ()
    if layer.type == "MemoryData":
        memory = layer.memory_data_param
        shape = (memory.channels, memory.height, memory.width)
    elif layer.type == "Input" and layer.input_param.shape:
        shape = tuple(layer.input_param.shape[0].dim[1:])
        if layer.transform_param.crop_size and len(shape) == 3:
            return {1: "gray", 3: "bgr"}.get(shape[0]), None
    if len(shape) == 3 and shape[0] in (1, 3):
        return "gray" if shape[0] == 1 else "bgr", shape[1:]
    return None, None
