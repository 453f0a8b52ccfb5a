"""caffe.draw: a net as a picture."""

from __future__ import annotations

import os
from typing import Any

from minidrop.apps.drawing import drawing_of
from minidrop.apps.pictures import as_dot, as_svg
from minidrop.config import as_net_config
from minidrop.errors import ConfigError
from minidrop.files import replace

_PHASES = {None: "ALL", 0: "TRAIN", 1: "TEST"}


def draw_net_to_file(caffe_net: Any, filename: str | os.PathLike, rankdir: str = "LR", phase: Any = None,
                     display_lrm: bool = False) -> None:
    """Draw a NetParameter to a .dot or .svg file; phase: TRAIN, TEST, or None for all layers.

    Raises ConfigError for another ending: `minidrop draw_net` has .png and .pdf too, by graphviz.
    """
    write = {".dot": as_dot, ".svg": as_svg}.get(os.path.splitext(filename)[1].lower())
    if write is None:
        raise ConfigError(f"{filename}: expected a name that ends with .dot or .svg; for .png and .pdf use "
                          f"minidrop draw_net, or dot -Tpng on a .dot")
    drawing, _ = drawing_of(as_net_config(caffe_net), _PHASES[phase], multipliers=display_lrm)
    try:
        replace(filename, write(drawing, rankdir))
    except OSError as error:
        raise ConfigError(f"{filename}: cannot be written: {error.strerror or error}") from None
