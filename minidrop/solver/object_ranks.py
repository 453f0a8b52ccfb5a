"""What a Solver of Python objects asks of them where several ranks train together."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Tensor, no_grad
from minidrop.config import NetChoice
from minidrop.data import DataLoader, LoaderBatches
from minidrop.errors import ConfigError
from minidrop.net import Net
from minidrop.nn.objective import DATA

if TYPE_CHECKING:
    from minidrop.solver.objects import Objects


def check_shared(loader: DataLoader, ranks: int) -> None:
    """Raise ConfigError unless each batch of a loader, the last one of an epoch too, can be shared equally.
    """
    if ranks == 1:
        return
    size = loader.batch_size
    if size % ranks:
        raise ConfigError(f"Solver.of: expected a training loader with a batch_size that is a multiple of "
                          f"{ranks}, the number of ranks that share it, got {size}; change it, or the number")
    if loader.records is not None and loader.records < size:
        raise ConfigError(f"Solver.of: expected at least one whole batch of {size} records for {ranks} ranks "
                          f"to share, got {loader.records}; choose a smaller batch_size")
    if loader.drop_last:
        return
    if loader.records is None:
        raise ConfigError(f"Solver.of: the training loader does not know its length, so that its last batch "
                          f"may have any number of records, which {ranks} ranks cannot share; let it "
                          f"drop_last, or give it a length")
    last = loader.records % size
    if last % ranks:
        raise ConfigError(f"Solver.of: the last batch of an epoch has {last} record{'s' * (last > 1)}, which "
                          f"{ranks} ranks cannot share equally ({last % ranks} would be left); let the "
                          f"training loader drop_last")


def described_data(batches: LoaderBatches, what: str, goes_on: bool) -> dict[str, object]:
    """Return what decides which records a rank reads: the settings of a loader, and its first batch.

    what: what messages call the loader. goes_on: whether the place where it stands counts.
    """
    first = hashlib.blake2b(digest_size=16)
    for name, array in batches.batch(0).items():
        first.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    batches.close()
    left = ("order",) if goes_on else ("order", "epoch", "batch")
    settings = {name: value for name, value in batches.loader.state_dict().items() if name not in left}
    return {what: settings, f"first batch of the {what}": f"{first.hexdigest()} (a hash)"}


def check_loss(objects: Objects, net: Net, choice: NetChoice) -> None:
    """Raise ConfigError unless the loss of some records is put together of those of each half of them.

    It is computed without drops, from the first records. Nothing is said of layers that are known to differ
    from rank to rank, for which there is a warning, such as BatchNorm, of a model that carries states on, nor
    of a function that gives another result each time.
    """
    mixed = any(fact.mixes_samples for node in net.graph.nodes for fact in node.passes)
    drawn = any(layer.stream is not None and not layer.draws_by_place for layer in net.layers.values())
    if mixed or drawn or objects.train.stateful:
        return
    adds_up, half = net.losses[0][0] in net.parts.adds_up, objects.train.least
    whole = objects.net(choice, None, device=net.backend, dtype=net.dtype, seed=net.seed,
                        precision=net.backend.precision)
    whole.set_dropping(False)
    batches = objects.train.batches
    first = list(zip(batches.batch(0).values(), batches.axes(net.parts.ranks), strict=True))
    (loss, _), (again, _), (one, weight), (other, weight_of_other) = (
        _loss(whole, first, *records)
        for records in ((0, 2 * half), (0, 2 * half), (0, half), (half, 2 * half)))
    whole.close()
    found = one + other if adds_up else (one * weight + other * weight_of_other) / (
        weight + weight_of_other or 1)
    fine = 1e-3 if net.backend.precision != "float32" else 1e-9 if net.dtype == "float64" else 1e-5
    # A loss near 0, as of a model that has been trained, may be all rounding.
    near = fine * max(1.0, *map(abs, (loss, one, other)))
    if loss == again and math.isfinite(loss) and abs(found - loss) > near:
        raise ConfigError(f"Solver.of: the loss of {2 * half} records is {loss:.6g}, but "
                          f"{'the sum' if adds_up else 'the mean'} of those of two ranks that have {half} "
                          f"each is {found:.6g}: {objects.model.describe()} or the loss computes something "
                          f"between records. Use one process, or let the loss be a mean over records")


def _loss(whole, arrays, first, last):
    """Return (loss, what counts in it) of the records first .. last - 1 of (array, axis of records)s."""
    node = next(node for node in whole.graph.nodes if node.name == DATA)
    with whole.backend.active(), no_grad():
        run = whole.compute({ref: Tensor(whole.backend.asarray(np.ascontiguousarray(
            array[(slice(None),) * axis + (slice(first, last),)]), whole.dtype), backend=whole.backend)
            for ref, (array, axis) in zip(node.tops, arrays, strict=True)})
        return run.loss, run.loss_counts[0]
