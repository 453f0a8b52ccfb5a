"""Losses, and the accuracy, as modules: called with Tensors, or as the end of a module's forward."""

from __future__ import annotations

from typing import Any

from minidrop.errors import ConfigError, ShapeError, in_short
from minidrop.nn.layer import Layer
from minidrop.nn.module import Module
from minidrop.nn.symbol import Symbol

NORMALIZATIONS = {"mean": "VALID", "batch": "BATCH_SIZE", "sum": "NONE"}


class CrossEntropyLoss(Layer):
    """- log softmax(scores)[label], the mean over all places that count. A layer SoftmaxWithLoss.

    axis: that of the classes, for scores (N, classes, ...) 1, for sequences (steps, streams, classes) 2.
    ignore_label: places with this label do not count. label_smoothing: the share of each label that all
    classes are given alike. reduction: "mean", "sum", or "batch", the sum over the length of axis 0.

    As in Caffe a place's loss is at most 87.3 in float32, with an exact gradient; that of
    functions.cross_entropy has no bound.
    """

    def __init__(self, axis: int = 1, ignore_label: int | None = None, label_smoothing: float = 0.0,
                 reduction: str = "mean", *, name: str | None = None):
        super().__init__("SoftmaxWithLoss", axis=axis, name=name, loss_param=_loss(
            reduction, NORMALIZATIONS, ignore_label=ignore_label, label_smoothing=label_smoothing or None))


class BCEWithLogitsLoss(Layer):
    """- t log s(x) - (1 - t) log(1 - s(x)), s the sigmoid, targets t in 0 .. 1. SigmoidCrossEntropyLoss.

    reduction: "mean" over all entries, "sum", or "batch", the sum over the length of axis 0.
    """

    def __init__(self, ignore_label: int | None = None, reduction: str = "mean", *, name: str | None = None):
        super().__init__("SigmoidCrossEntropyLoss", name=name,
                         loss_param=_loss(reduction, NORMALIZATIONS, ignore_label=ignore_label))


class _Distance(Module):
    """Base class of losses on the difference of predictions and targets of one shape.

    Raises ConfigError for another reduction, and ShapeError for two shapes.
    """

    def __init__(self, reduction: str = "mean"):
        if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
            raise ConfigError(f"{type(self).__name__}: reduction should be 'mean' or 'sum', got "
                              f"{in_short(reduction)}")
        self.reduction = reduction

    def cost(self, difference: Symbol) -> Symbol:
        """Return what an entry costs."""
        raise NotImplementedError

    def forward(self, x: Symbol, target: Symbol) -> Symbol:
        shapes = [one.shape if isinstance(one, Symbol) else type(one).__name__ for one in (x, target)]
        if not (isinstance(x, Symbol) and isinstance(target, Symbol) and x.shape == target.shape):
            raise ShapeError(f"{self.describe()}: expected predictions and targets of one shape, got "
                             f"{shapes[0]} and {shapes[1]}")
        return x.trace.add("Reduction", [self.cost(x - target)], operation=self.reduction.upper(),
                           loss_weight=1)


class MSELoss(_Distance):
    """(x - target)^2, the mean over all entries, or the sum.

    Raises ConfigError for another reduction, and ShapeError for two shapes.
    """

    def cost(self, difference: Symbol) -> Symbol:
        return difference ** 2


class L1Loss(_Distance):
    """|x - target|, the mean over all entries, or the sum.

    Raises ConfigError for another reduction, and ShapeError for two shapes.
    """

    def cost(self, difference: Symbol) -> Symbol:
        return abs(difference)


class Accuracy(Layer):
    """The share of labels that are among the top_k highest scores. A layer Accuracy.

    axis: that of the classes, for scores (N, classes, ...) 1. ignore_label: places with this label do not
    count.
    """

    def __init__(self, top_k: int = 1, axis: int = 1, ignore_label: int | None = None, *,
                 name: str | None = None):
        super().__init__("Accuracy", top_k=top_k, axis=axis, ignore_label=ignore_label, name=name)


def _loss(reduction: str, known: dict[str, str], **settings: Any) -> dict[str, Any]:
    """Return a loss_param."""
    if not isinstance(reduction, str) or reduction not in known:
        raise ConfigError(f"reduction should be one of {', '.join(known)}, got {in_short(reduction)}")
    return {"normalization": known[reduction]} | {name: value for name, value in settings.items()
                                                  if value is not None}
