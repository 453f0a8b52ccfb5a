"""CapturedMemory: the device memory for what differs between captured iterations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.backend.device_sets import MovingKept
from minidrop.errors import CaptureError
from minidrop.kept import Kept
from minidrop.net.graph import BlobRef

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

RING = 64               # the number of iterations whose outcome the device keeps
MOST_STARTS = 256


class CapturedMemory:
    """The device arrays that all graphs of a Solver read, and in which they record outcomes.

    `rates`: the numbers of the update, as from `Updater.numbers`, each a float64 array (1,). `averaging`: the
    rate of the averages of the weights, None without them. `keys`,
    `starts`: lists of arrays (1,), the keys of random numbers and the starts of kept sets. `lives`: {node
    index: which of its blocks are kept}. `trouble`: nonzero after an error. `ring`: (3, RING), of the last
    iterations the losses, `trouble`, and the norms of the gradients. `states`: the states of recurrent
    layers.
    """

    def __init__(self, solver: Solver, keyed: int):
        self.solver, self.net, self.updater = solver, solver.net, solver.updater
        self.backend = backend = solver.net.backend
        net = solver.net
        self.constants = self._constants()
        self.weights = [(parameter, parameter.data) for parameter in net.parameters().values()]
        self.histories = [(history, i, array) for history in self.updater.history.values()
                          for i, array in enumerate(history)]
        self.averages = [] if solver.ema is None else [*solver.ema.averages.values()]
        rates = self.updater.numbers(solver.iteration, solver.learning_rate)
        counts = sum(map(len, rates.values())) + (solver.ema is not None), keyed
        size = 8 * sum(counts) + 4 * MOST_STARTS
        self.numbers = backend.zeros((size,), np.uint8)
        ones = [[part[i:i + 1] for i in range(part.size)] for part in _parts(self.numbers, *counts)]
        places, self.keys, self.starts = iter(ones[0]), ones[1], ones[2]
        self.rates = {pair: tuple(next(places) for _ in own) for pair, own in rates.items()}
        self.averaging: np.ndarray | None = next(places, None)
        # A copy may be pending, but none from more than RING iterations ago: their outcomes have been read.
        host = backend.pinned(np.zeros((2 * RING, size), np.uint8))
        self.sent, self.host = 0, [(numbers, _parts(numbers, *counts)) for numbers in host]
        self.lives: dict[int, np.ndarray] = {}
        self.trouble = backend.zeros((1,), np.int32)
        self.ring = backend.zeros((3, RING), np.float64)
        self.states = {place: backend.empty(array.shape, array.dtype) for place, array in net.states.items()}
        self.inputs: dict[tuple, dict[BlobRef, np.ndarray]] = {}    # by the shapes and dtypes of a batch
        self.batch: dict[BlobRef, np.ndarray] = {}

    def _constants(self):
        """Return what graphs hold as constants although it can change."""
        return self.net.mode, self.updater.constants, list(self.solver.after_backward)

    @property
    def is_outdated(self) -> bool:
        """Whether a weight, history or average is not the array that graphs read, or a constant changed."""
        averages = [] if self.solver.ema is None else [*self.solver.ema.averages.values()]
        return (self.constants != self._constants() or len(averages) != len(self.averages)
                or any(own is not array for own, array in zip(averages, self.averages, strict=True))
                or any(parameter.data is not array for parameter, array in self.weights)
                or any(history[i] is not array for history, i, array in self.histories))

    def send(self, lr: float, iteration: int, keys: list, starts: list[int],
             lives: dict[int, np.ndarray]) -> None:
        """Send the numbers of one iteration to the device; raises CaptureError for too many starts."""
        starts = [iteration % RING, *starts]
        if len(starts) > MOST_STARTS:
            raise CaptureError(f"the patterns of one iteration have {len(starts)} starts, more than "
                               f"{MOST_STARTS}")
        numbers, (host_rates, host_keys, host_starts) = self.host[self.sent % len(self.host)]
        self.sent += 1
        rates = [number for own in self.updater.numbers(iteration, lr).values() for number in own]
        if self.solver.ema is not None:
            rates.append(self.solver.ema.rate)
        host_rates[:], host_keys[:] = rates, keys
        host_starts[:len(starts)] = starts
        self.backend.send(self.numbers, numbers)
        tables: Any = self.backend.upload(self, [*lives.values()]) if lives else ()
        for index, table in zip(lives, tables, strict=True):
            if index not in self.lives:
                self.lives[index] = self.backend.empty(table.shape, table.dtype)
            self.lives[index][...] = table

    def give(self, shapes: tuple, data: dict[BlobRef, Tensor]) -> None:
        """Copy a batch and the current states to the arrays that graphs of these shapes read."""
        if shapes not in self.inputs:
            self.inputs[shapes] = {ref: self.backend.empty(tensor.data.shape, tensor.data.dtype)
                                   for ref, tensor in data.items()}
        self.batch = self.inputs[shapes]
        for ref, tensor in data.items():
            self.batch[ref][...] = tensor.data
        for place, state in self.net.states.items():
            if self.states[place] is not state:
                self.states[place][...] = state
        self.net.set_states(self.states)

    def tensors(self) -> dict[BlobRef, Tensor]:
        """Return the batch given last, as {BlobRef: Tensor}."""
        return {ref: Tensor(array, backend=self.backend) for ref, array in self.batch.items()}

    def keep_states(self) -> None:
        """Store the new states of the net, unless there was an error."""
        for place, state in self.net.states.items():
            self.backend.keep_if_well(self.states[place], state)

    def note(self, loss: np.ndarray, norm: np.ndarray) -> None:
        """Write the loss, `trouble` and the norm to the iteration's place in `ring`."""
        place = MovingKept(Kept(0, RING, 1, RING), self.starts[0])
        outcome = self.backend.empty((3, 1), np.float64)
        outcome[0] = loss
        outcome[1] = self.trouble
        outcome[2] = norm
        self.backend.put_columns(self.ring, place, outcome)


def _parts(numbers, rates, keys):
    """Return (rates, keys, starts) as views of the bytes `numbers`."""
    ends = 8 * rates, 8 * (rates + keys)
    return (numbers[:ends[0]].view(np.float64), numbers[ends[0]:ends[1]].view(np.uint64),
            numbers[ends[1]:].view(np.int32))
