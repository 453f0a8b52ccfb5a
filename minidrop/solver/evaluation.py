"""Evaluation of a net on test data: means over batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidrop.autograd import Tensor, no_grad
from minidrop.config.nets import ALL_RECORDS
from minidrop.errors import DataError
from minidrop.layers import Layer
from minidrop.net import Net
from minidrop.net.graph import BlobRef
from minidrop.solver.debug_info import log_forward
from minidrop.solver.ranks import Ranks


class TestStopped(Exception):
    """A test was asked to stop between two batches, or training behind it."""


def run_test(net: Net, iterations: int = ALL_RECORDS, start: int = 0,
             should_stop: Callable[[], object] = lambda: False, ranks: Ranks | None = None
             ) -> dict[str, float | list]:
    """Return {output: mean over batches} of a net in phase TEST, and "total_loss", the sum of its losses.

    iterations: the number of batches; ALL_RECORDS, -1, for one pass of the data with each record once, see
    `Net.one_pass`. The first batch is number `start`. The layer that writes an output decides which mean is
    taken and how a batch is weighted, by `averages` and `weight_of` of `Layer`; else batches weigh as many
    records as they have. Ignored labels count in no mean. Raises DataError, TestStopped if `should_stop()`,
    called before each batch, returns true.

    ranks: each runs its share of the batches, or all of them where the net has states that a batch leaves to
    the next, and all return the same means.
    """
    ranks = Ranks() if ranks is None else ranks
    if iterations == ALL_RECORDS:
        if start:
            raise DataError(f"a test of each record once begins with batch 0, got start {start}")
        with net.one_pass() as batches:
            return run_test(net, batches, 0, should_stop, ranks)
    if iterations < 1:
        raise DataError(f"a test needs 1 batch or more, got {iterations}")
    net.reset_states()
    split = not ranks.alone and not net.states
    first, last = (_share(iterations, ranks) if split else (0, iterations))
    net.seek(start + first)
    means = {ref.name: mean_of(net, ref) for ref in net.graph.outputs}
    loss = 0.0
    losses = [(ref, weight, BatchMean(net, net.graph.writer[ref].layer)) for ref, weight in net.losses]

    def run_batch():
        nonlocal loss
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

    with no_grad():
        # All ranks take as many rounds, so that they stop together.
        for i in range(-(-iterations // ranks.size) if split else iterations):
            if ranks.any(should_stop()):
                raise TestStopped
            ranks.together(run_batch if first + i < last else lambda: None)
    if split:
        loss = float(ranks.total(loss))
        for name, mean in (*means.items(), *((ref.name, mean) for ref, _, mean in losses)):
            mean.join(ranks, name)
    if all(mean.weight == iterations for *_, mean in losses):       # every label counts
        total = loss / iterations
    else:
        total = sum(weight * mean.value for _, weight, mean in losses)
    return {**{name: as_plain(mean.value) for name, mean in means.items()}, "total_loss": float(total)}


def _share(iterations, ranks):
    """Return (first, last): a rank runs the batches first .. last - 1 of a test."""
    return ranks.rank * iterations // ranks.size, (ranks.rank + 1) * iterations // ranks.size


def joined_outputs(net: Net, outputs: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the outputs of a whole batch, of which each rank has run a part: what holds samples is put
    together, sums are added, and means are taken as `BatchMean` does."""
    if ranks.alone:
        return outputs
    joined = {}
    for ref in net.graph.outputs:
        value = outputs[ref.name].numpy()
        part = net.parts.blobs.get(ref)
        if part is not None:
            value = ranks.whole(value, part)
        elif ref in net.parts.adds_up:
            value = ranks.total(value)
        else:
            mean = mean_of(net, ref)
            mean.add(value.astype(np.float64))
            mean.join(ranks, ref.name)
            value = np.asarray(mean.value)
        joined[ref.name] = Tensor(value.astype(outputs[ref.name].dtype))
    return joined


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

    def join(self, ranks: Ranks, name: str) -> None:
        """Count what other ranks have added too. Raises DataError where their values differ in shape."""
        shapes = [text for text in ranks.texts(str(np.shape(self.sum))) if text != "()"]
        if len(set(shapes)) > 1:
            raise DataError(f"output {name!r} has shape {shapes[0]} in some batches and {shapes[-1]} in "
                            f"others, so that there is no mean of it: silence it (a Silence layer), or test "
                            f"a number of full batches")
        shape = tuple(int(n) for n in shapes[0].strip("(),").split(",")) if shapes else ()
        self.sum = _added(ranks, self.sum, shape)
        weighted = ranks.any(np.ndim(self.weight))
        self.weight = _added(ranks, self.weight, shape if weighted else ())
        if not shape:
            self.sum, self.weight = float(self.sum), float(self.weight)

    @property
    def value(self) -> np.ndarray | float:
        """The mean of the values so far."""
        mean = self.sum / np.where(self.weight == 0, 1, self.weight)
        return np.exp(mean) if self.layer.averages == "geometric" else mean


def _added(ranks, value, shape):
    return ranks.total(np.broadcast_to(value, shape))


def mean_of(net: Net, ref: BlobRef) -> BatchMean:
    """Return the BatchMean of an output of a net, without a batch."""
    node = net.graph.writer[ref]
    return BatchMean(net, node.layer, node.tops.index(ref))


def as_plain(value: np.ndarray | float) -> float | list:
    """Return an array as a float or as nested lists of floats."""
    value = np.asarray(value)
    return float(value) if value.ndim == 0 else value.tolist()
