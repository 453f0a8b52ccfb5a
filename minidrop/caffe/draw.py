"""caffe.draw: a net as a picture."""

from __future__ import annotations

import os
from typing import Any

from minidrop.apps.draw_file import picture_writer
from minidrop.apps.drawing import drawing_of
from minidrop.config import as_net_config
from minidrop.errors import ConfigError

_PHASES = {None: "ALL", 0: "TRAIN", 1: "TEST"}


def draw_net_to_file(caffe_net: Any, filename: str | os.PathLike, rankdir: str = "LR", phase: Any = None,
                     display_lrm: bool = False) -> None:
    """Draw a NetParameter to a .dot, .svg, .png or .pdf file, as `minidrop draw_net` does.

    rankdir: where arrows point, "LR", "TB", "RL" or "BT"; phase: TRAIN, TEST, or None for all layers.
    display_lrm: show the multipliers of learning rates. Raises ConfigError.
    """
    write = picture_writer(filename, rankdir)
    if phase not in tuple(_PHASES):
        raise ConfigError(f"phase: expected caffe.TRAIN, caffe.TEST or None for all layers, got {phase!r}")
    write(drawing_of(as_net_config(caffe_net), _PHASES[phase], multipliers=display_lrm)[0])
