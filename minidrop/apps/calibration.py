"""How good predicted probabilities are: accuracy, negative log-likelihood and calibration."""

from typing import Any

import numpy as np

BINS = 15


class Calibration:
    """How good predicted probabilities are, over places that are added a batch at a time.

    accuracy                 share of places whose label is the most probable class; a tie is wrong
    negative_log_likelihood  mean of -log p[label], in nats
    calibration_error        sum over bins b of n_b / n * |accuracy_b - confidence_b|, where the confidence is
                             the largest probability of a place; bin b of B holds ((b - 1) / B, b / B] (Guo et
                             al. 2017, arXiv 1706.04599, equation 3)
    All are NaN before the first place.
    """

    def __init__(self, bins: Any = BINS):
        self.bins = bins
        self.count = np.zeros(bins, np.int64)
        self._hits, self._confidence, self._log_loss = np.zeros(bins), np.zeros(bins), 0.0

    def add(self, probability: np.ndarray, labels: np.ndarray) -> None:
        """Add places: probability (places, classes), labels (places,) integers."""
        own = probability[np.arange(len(labels)), labels]
        confidence = probability.max(axis=1, initial=0)
        # As in functions.accuracy: a tie counts against the prediction.
        hits = ((probability >= own[:, None]).sum(axis=1) == 1) & np.isfinite(confidence)
        # Inner edges only: a 0 or 1 falls into the first or last bin, however it was rounded.
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
        """Return [{from, to, count, accuracy, confidence}], one per bin; the last two are NaN if empty."""
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
    """Return part / whole; NaN if whole is 0."""
    return float(part / whole) if whole else float("nan")
