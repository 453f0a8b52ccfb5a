"""How good predicted probabilities are: how often right, and whether they mean what they say."""

from typing import Any

import numpy as np

BINS = 15


class Calibration:
    """How good predicted probabilities are, over places that come a batch at a time.

    accuracy                 share of places whose most probable class (the first of equals) is the label
    negative_log_likelihood  mean of -log p[label], in nats
    calibration_error        sum over bins b of n_b / n * |accuracy_b - confidence_b|, the confidence being
                             the largest probability of a place; bin b of B holds ((b - 1) / B, b / B] (Guo et
                             al. 2017, arXiv 1706.04599, equation 3)
    They are NaN before the first place.
    """

    def __init__(self, bins: Any = BINS):
        self.bins = bins
        self.count = np.zeros(bins, np.int64)
        self._hits, self._confidence, self._log_loss = np.zeros(bins), np.zeros(bins), 0.0

    def add(self, probability: np.ndarray, labels: np.ndarray) -> None:
        """Count places: probability (places, classes), labels (places,) whole numbers."""
        own = probability[np.arange(len(labels)), labels]
        confidence = probability.max(axis=1, initial=0)
        # As in functions.accuracy: a tie counts against the prediction.
        hits = ((probability >= own[:, None]).sum(axis=1) == 1) & np.isfinite(confidence)
        # The inner edges alone: whatever rounding does to a 0 or a 1, it falls into the first or the last
        # bin.
        at = np.searchsorted(np.arange(1, self.bins) / self.bins, confidence, side="left")
        self.count += np.bincount(at, minlength=self.bins)
        self._hits += np.bincount(at, hits, self.bins)
        self._confidence += np.bincount(at, confidence, self.bins)
        self._log_loss -= np.log(np.maximum(own, np.finfo(np.float64).tiny)).sum()

    @property
    def accuracy(self) -> Any:
        return share(self._hits.sum(), self.count.sum())

    @property
    def negative_log_likelihood(self) -> float:
        return share(self._log_loss, self.count.sum())

    @property
    def calibration_error(self) -> float:
        # n_b / n * |hits_b / n_b - confidence_b / n_b| without the divisions by n_b, which may be 0.
        return share(np.abs(self._hits - self._confidence).sum(), self.count.sum())

    def reliability(self) -> list:
        """Return [{from, to, count, accuracy, confidence}] by bin; the last two are NaN in an empty one."""
        return [{"from": b / self.bins, "to": (b + 1) / self.bins, "count": int(self.count[b]),
                 "accuracy": share(self._hits[b], self.count[b]),
                 "confidence": share(self._confidence[b], self.count[b])} for b in range(self.bins)]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {"accuracy": self.accuracy, "negative_log_likelihood": self.negative_log_likelihood,
                "calibration_error": self.calibration_error, "reliability": self.reliability()}


def entropy(probability: np.ndarray) -> np.ndarray:
    """Return - sum p log p along the last axis, in nats; 0 log 0 is 0. Shapes: (..., classes) -> (...)."""
    return -(probability * np.log(np.where(probability > 0, probability, 1))).sum(axis=-1)


def share(part: Any, whole: float) -> Any:
    """Return part / whole; NaN where whole is 0."""
    return float(part / whole) if whole else float("nan")
