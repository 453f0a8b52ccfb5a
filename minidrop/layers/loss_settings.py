"""What layers that compare with labels read in loss_param, and what a batch weighs in their means."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.config import LayerParameter, decimal
from minidrop.errors import ConfigError

LOSS_FIELDS = ("ignore_label", "normalization", "normalize")
"""What `loss_settings` reads, all Caffe's; a layer that calls it names them as its `reads_loss_param`."""


def labels_that_count(label: Any, places: int, ignore_label: int | None,
                      normalization: str = "VALID") -> float:
    """Return a batch's weight in means over batches: the number of its labels that count, over `places`.

    places: how many labels the net was built for. Only VALID leaves those out that are `ignore_label`. A loss
    with normalization NONE is no mean over labels, so that its batches weigh alike: 1.
    """
    if normalization == "NONE" or not places:
        return 1.0
    if ignore_label is None or normalization != "VALID":
        return label.size / places
    return float((label != ignore_label).sum()) / places


def label_smoothing(config: LayerParameter) -> float:
    """Return label_smoothing of a layer's loss_param; raises ConfigError where it is no share."""
    share = decimal(config.loss_param.label_smoothing)
    if not 0 <= share < 1:
        raise ConfigError(f"loss_param: label_smoothing must lie in [0, 1), got {share:g}")
    return share


def class_weights(config: LayerParameter, classes: int) -> np.ndarray | None:
    """Return class_weight of a layer's loss_param, float64 (classes,), None for none; ConfigError."""
    weights = np.array([decimal(weight) for weight in config.loss_param.class_weight])
    if not weights.size:
        return None
    if weights.size != classes:
        raise ConfigError(f"loss_param: expected a class_weight for each of the {classes} classes of the "
                          f"scores, got {weights.size}")
    if (weights < 0).any() or not weights.any():
        raise ConfigError(f"loss_param: class_weight must be numbers from 0 on, not all 0, got "
                          f"{', '.join(f'{weight:g}' for weight in weights[:8])}")
    return weights


def loss_settings(config: LayerParameter, default: str = "VALID") -> tuple[int | None, str]:
    """Return (ignore_label or None, normalization mode) of a layer's loss_param.

    The older field `normalize` applies if `normalization` is absent.
    """
    loss = config.loss_param
    mode = default
    if loss.HasField("normalization"):
        mode = loss.NormalizationMode.Name(loss.normalization)
    elif loss.HasField("normalize"):
        mode = "VALID" if loss.normalize else "BATCH_SIZE"
    return loss.ignore_label if loss.HasField("ignore_label") else None, mode
