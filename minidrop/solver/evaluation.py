"""Evaluation of a net on test data: means over batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidrop.autograd import no_grad
from minidrop.config.nets import ALL_RECORDS
from minidrop.errors import DataError
from minidrop.layers import Layer
from minidrop.net import Net
from minidrop.net.graph import BlobRef
from minidrop.solver.debug_info import log_forward


class TestStopped(Exception):
    """A test was asked to stop between two batches, or training behind it."""


def run_test(net: Net, iterations: int = ALL_RECORDS, start: int = 0,
             should_stop: Callable[[], object] = lambda: False) -> dict[str, float | list]:
    """Return {output: mean over batches} of a net in phase TEST, and "total_loss", the sum of its losses.

    iterations: the number of batches; ALL_RECORDS, -1, for one pass of the data with each record once, see
    `Net.one_pass`. The first batch is number `start`. The layer that writes an output decides which mean is
    taken and how a batch is weighted, by `averages` and `weight_of` of `Layer`; else batches weigh as many
    records as they have. Ignored labels count in no mean. Raises DataError, TestStopped if `should_stop()`,
    called before each batch, returns true.
    """
    if iterations == ALL_RECORDS:
        if start:
            raise DataError(f"a test of each record once begins with batch 0, got start {start}")
        with net.one_pass() as batches:
            return run_test(net, batches, 0, should_stop)
    if iterations < 1:
        raise DataError(f"a test needs 1 batch or more, got {iterations}")
    net.seek(start)
    net.reset_states()
    means = {ref.name: mean_of(net, ref) for ref in net.graph.outputs}
    loss = 0.0
    losses = [(ref, weight, BatchMean(net, net.graph.writer[ref].layer)) for ref, weight in net.losses]
    with no_grad():
        for _ in range(iterations):
            if should_stop():
                raise TestStopped
            outputs = net.forward()
            if net.config.message.debug_info:
                log_forward(net)
            for name, tensor in outputs.items():
                value = tensor.numpy().astype(np.float64)
                if np.isnan(value).any():
                    _refuse_nonfinite_data(net)
                _check_shape(name, value, means[name])
                means[name].add(value)
            loss += net.loss
            for ref, _, mean in losses:
                mean.add(net.tensor(ref).numpy().astype(np.float64).sum())
    if all(mean.weight == iterations for *_, mean in losses):       # every label counts
        total = loss / iterations
    else:
        total = sum(weight * mean.value for _, weight, mean in losses)
    return {**{name: as_plain(mean.value) for name, mean in means.items()}, "total_loss": float(total)}


def _check_shape(name, value, mean):
    """Raise DataError where a batch of another size gives an output of another shape, which has no mean."""
    if np.ndim(mean.sum) and np.shape(mean.sum) != value.shape:
        raise DataError(f"output {name!r} has shape {value.shape} in a batch and {np.shape(mean.sum)} in "
                        f"those before, so that there is no mean of it: silence it (a Silence layer), or "
                        f"test a number of full batches")


def _refuse_nonfinite_data(net):
    """Raise DataError if the data are not finite; a net may also give such outputs by itself."""
    if record := net.run.nonfinite_record():
        raise DataError(f"test data hold a NaN or infinity: {record}; leave that record out, or mend it")


class BatchMean:
    """The mean of a layer's top over batches, as the layer's `averages` and `Run.weight_of` say."""

    def __init__(self, net: Net, layer: Layer, top: int = 0):
        self.net, self.layer, self.top = net, layer, top
        self.weight: np.ndarray | float = 0
        self.sum: np.ndarray | float = 0.0

    def add(self, value: np.ndarray) -> None:
        """Count the value of one more batch."""
        weight = self.net.run.weight_of(self.layer, self.top)
        if not np.any(weight):
            return
        if self.layer.averages == "geometric":
            with np.errstate(divide="ignore"):        # log 0
                value = np.log(value)
        self.sum = self.sum + weight * value
        self.weight += weight

    @property
    def value(self) -> np.ndarray | float:
        """The mean of the values so far."""
        mean = self.sum / np.where(self.weight == 0, 1, self.weight)
        return np.exp(mean) if self.layer.averages == "geometric" else mean


def mean_of(net: Net, ref: BlobRef) -> BatchMean:
    """Return the BatchMean of an output of a net, without a batch."""
    node = net.graph.writer[ref]
    return BatchMean(net, node.layer, node.tops.index(ref))


def as_plain(value: np.ndarray | float) -> float | list:
    """Return an array as a float or as nested lists of floats."""
    value = np.asarray(value)
    return float(value) if value.ndim == 0 else value.tolist()
