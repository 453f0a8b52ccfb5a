"""Confusion matrices: which classes a trained net takes for which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minidrop.autograd import no_grad
from minidrop.errors import ConfigError, DataError
from minidrop.net import Net

MOST_CLASSES = 20_000       # a matrix of so many takes 3 GB


@dataclass(frozen=True)
class Confusion:
    """counts[i, j]: how many records of label i were taken for class j. scores, labels: blobs."""

    scores: str
    labels: str
    counts: np.ndarray
    weights: str = ""


def confusion_of(net: Net, weights: str = "") -> Confusion:
    """Return the Confusion of a net in phase TEST, over one pass of its data.

    Scores and labels are those of its first Accuracy layer; the greatest score says which class a record is
    taken for, and its ignore_label counts in none. weights: where those of the net are from, to be shown.
    Raises ConfigError without such a layer, DataError for labels that are no class and scores that are not
    finite.
    """
    node = next((node for node in net.graph.nodes if node.config.type == "Accuracy"), None)
    if node is None:
        raise ConfigError(f"{net.config.where()}: the net has no Accuracy layer, which would say what blobs "
                          f"are scores and labels; add one")
    classes, (scores, labels) = node.layer.classes, node.bottoms
    if classes > MOST_CLASSES:
        raise ConfigError(f"{net.config.where(node.index)}: layer {node.name!r} has {classes} classes, more "
                          f"than the {MOST_CLASSES} of which a confusion matrix can be made")
    counts = np.zeros(classes * classes, np.int64)
    for found, expected in _batches(net, scores, labels, node.layer.axis):
        if not np.isfinite(found).all():
            raise DataError(f"{scores.name}: scores hold a NaN or infinity; was the training healthy?")
        counted = np.ones(len(expected), bool)
        if node.layer.ignore_label is not None:
            counted = expected != node.layer.ignore_label
        kept = expected[counted].astype(np.int64)
        if kept.size and not (0 <= kept.min() <= kept.max() < classes):
            raise DataError(f"{labels.name}: expected labels within 0..{classes - 1}, got {kept.min()}.."
                            f"{kept.max()}; does the test set belong to the net?")
        counts += np.bincount(kept * classes + found[counted].argmax(axis=1), minlength=classes * classes)
    return Confusion(scores.name, labels.name, counts.reshape(classes, classes), weights)


def _batches(net, scores, labels, axis) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (scores (places, classes), labels (places,)) of each batch."""
    with no_grad(), net.one_pass() as count:
        net.reset_states()
        for _ in range(count):
            net.forward()
            found = np.moveaxis(net.tensor(scores).numpy(), axis, -1)
            yield found.reshape(-1, found.shape[-1]), net.tensor(labels).numpy().reshape(-1)
