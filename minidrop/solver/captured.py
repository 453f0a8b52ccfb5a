"""Whole iterations in one launch: forward, backward and update, captured once per form of the patterns."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minidrop.autograd import Tensor
from minidrop.errors import CaptureError, DataError, NonFiniteError
from minidrop.net.graph import BlobRef
from minidrop.solver.capturable import problem_of
from minidrop.solver.captured_memory import RING, CapturedMemory
from minidrop.solver.captured_patterns import CapturedPatterns
from minidrop.solver.steps import EagerSteps, Show

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

MOST_GRAPHS = 128       # captured forms that are held; a two-layer perceptron has some 30 at most
MOST_FORMS = 64 * MOST_GRAPHS   # forms whose frequency is counted
LOOK_EVERY = RING // 2


class CapturedSteps:
    """Runs the iterations of a Solver as graphs of its device. EagerSteps has the same methods.

    What decides shapes and launches is an iteration's *signature*: step, width and scale of every drawn
    pattern, and the shapes of the batch. (How many units live may depend on the start, too: a MovingKept has
    room for the most.) All that differs within a signature lies in device memory, and is sent there before a
    launch: where kept sets start, the keys of random numbers, the numbers of the update. The first iteration
    of a signature runs as it is, with these numbers read from the device, so that everything is compiled; the
    second is captured; the others are launches.

    The solver's `after_backward` hooks are called while an iteration runs as it is and while it is captured,
    not at a launch: what they give the device to do is part of the graph. They may not look at values.

    Nobody waits for an iteration. Its loss is kept on the device, and beside it whether anything was wrong: a
    loss that is not finite, a label out of range. From then on updates leave weights, histories and states
    alone. `settle` and `look_behind` look, at least every LOOK_EVERY iterations: where something was wrong,
    the solver goes back to that iteration and does it uncaptured, which raises the error that says what.

    A net or solver that cannot be captured runs uncaptured: `problem` says why ('' while steps are captured),
    and is logged.
    """

    def __init__(self, solver: Solver):
        self.solver, self.net, self.backend = solver, solver.net, solver.net.backend
        self.uncaptured = EagerSteps(solver)
        self.losses = self.uncaptured.losses
        self.graphs: dict[tuple, _Graph] = {}       # by signature
        self.seen: Counter[tuple] = Counter()       # how often each signature was drawn
        self.replayed = 0               # iterations that were a launch
        # (iteration, positions of the data layers before it) of those whose outcome has not been read yet.
        self.pending: deque[tuple[int, dict[str, int]]] = deque()
        self.launches = True    # False: every iteration runs as the first of its signature, for comparison
        self.patterns = CapturedPatterns(self.net)
        self.problem = problem_of(solver)
        self.memory: CapturedMemory | None = None
        self._fetched: tuple[int, Any] | None = None    # (number of losses, their copy to the host)

    @property
    def active(self) -> bool:
        """True while iterations are captured."""
        return not self.problem

    @property
    def smoothed_loss(self) -> float:
        """The mean of `losses`, as far as they have been looked at."""
        return self.uncaptured.smoothed_loss

    def step(self, lr: float, show: Show) -> Mapping:
        """Do the solver's iteration, captured where possible; otherwise as `EagerSteps.step`.

        In a captured iteration show() is called after the update, and to read the loss waits for the device.
        """
        outputs = None if self.problem else self._step(lr)
        if outputs is None:
            return self.uncaptured.step(lr, show)
        values = _LateValues(self.solver, lr)
        show(values, outputs)
        return values

    def _step(self, lr):
        """Give the iteration to the device; returns the net's outputs, or None if it must run uncaptured."""
        solver, net = self.solver, self.net
        positions = net.positions
        net.draw_patterns(solver.iteration)
        try:
            form = self.patterns.form()
        except CaptureError as error:
            self._give_up(str(error))
            return None
        problem = None
        with self.backend.active():
            data = net.read()
            shapes = tuple((tensor.data.shape, tensor.data.dtype.str) for tensor in data.values())
            memory = self._memory()
            try:
                if form.lives and any(x.data.shape != net.graph.shapes[ref] for ref, x in data.items()):
                    raise CaptureError("a batch has another size than the net was built for")
                keys = self.patterns.keys(solver.iteration)
                memory.send(lr, solver.iteration, keys, form.starts, form.lives)
                memory.give(shapes, data)
                outputs = self._run((*form.signature, *shapes), len(form.starts))
            except CaptureError as error:
                problem = str(error)
        if problem is not None:         # the error is gone, and with it the arrays that its traceback held
            self._give_up(problem)
            net.seek(positions)         # the batch is read again
            return None
        self.pending.append((solver.iteration, positions))
        return outputs

    def _memory(self):
        """Return the memory of all graphs; where it is outdated, new memory, and all graphs are dropped."""
        if self.memory is None or self.memory.is_outdated:
            self.forget()
            self.memory = CapturedMemory(self.solver, len(self.patterns.keyed))
        return self.memory

    # -- running an iteration ------------------------------------------------------------------------------
    def _run(self, signature, starts):
        if len(self.seen) >= MOST_FORMS:        # the rare ones are counted anew
            self.seen = Counter(dict(self.seen.most_common(MOST_FORMS // 2)))
        self.seen[signature] += 1
        graph = self.graphs.get(signature)
        if graph is None and self.launches and self.seen[signature] > 1 and self._room(signature):
            graph = self.graphs[signature] = self._capture(starts)
        if graph is None:
            tensors = self._work(starts)
            self.net.show(tensors)
        else:
            graph.launch()
            self.replayed += 1
            self.net.show(graph.tensors)
        return {ref.name: self.net.tensor(ref) for ref in self.net.graph.outputs}

    def _room(self, signature):
        """Make room for a graph whose form is drawn more often than another's; returns whether there is."""
        if len(self.graphs) < MOST_GRAPHS:
            return True
        rarest = min(self.graphs, key=self.seen.__getitem__)
        if self.seen[rarest] >= self.seen[signature]:
            return False
        del self.graphs[rarest]
        return True

    def _capture(self, starts):
        tensors = {}
        graph = self.backend.capture(lambda: tensors.update(self._work(starts)))
        return _Graph(graph, tensors)

    def _work(self, starts):
        """Give the device an iteration that reads its numbers from `memory`; returns outputs by BlobRef."""
        net, memory, backend = self.net, self.memory, self.backend
        try:
            with backend.as_captured(memory.trouble):
                self.patterns.give(memory.starts[1:1 + starts], memory.lives, memory.keys)
                net.clear_grads()
                run = net.compute(memory.tensors())
                loss = run.loss_array
                backend.refuse(~backend.xp.isfinite(loss), lambda: AssertionError("raised on no device"))
                run.backward()
                self.uncaptured.after_backward()
                self.solver.updater.apply_numbers(memory.rates)
                memory.keep_states()
                memory.note(loss)
                wanted = {*net.graph.outputs, *(ref for ref, _ in net.losses)}
                return {ref: _data_alone(run.tensors[ref]) for ref in wanted}
        finally:
            net.drops.give_drawn()
            net.set_states(memory.states)

    # -- reading the outcome -------------------------------------------------------------------------------
    def settle(self) -> None:
        """Wait for all iterations and take over their losses; raises the error of the first that failed."""
        if self.memory is not None and self.pending:
            with self.backend.active():
                self._take(self.backend.to_host(self.memory.ring))
        self._fetched = None

    def look_behind(self) -> None:
        """Every LOOK_EVERY iterations take over the losses fetched the last time, and fetch the next."""
        if self.memory is None or not self.pending or len(self.pending) % LOOK_EVERY:
            return
        with self.backend.active():
            if self._fetched is not None:
                self._take(self._fetched[1].get(), self._fetched[0])
            self._fetched = len(self.pending), self.backend.fetch(self.memory.ring)

    def _take(self, ring, count=None):
        """Take the outcomes of the first `count` pending iterations from a copy of the ring."""
        for _ in range(len(self.pending) if count is None else count):
            iteration, positions = self.pending.popleft()
            loss, trouble = ring[:, iteration % RING].tolist()
            if trouble:         # all iterations after this one have changed nothing
                self.backend.synchronize()
                self.pending.clear()
                self._fetched = None
                self.memory.trouble.fill(0)
                self._repeat(iteration, positions, loss)
            self.losses.append(loss)

    def _repeat(self, iteration, positions, loss):
        """Raise the error of an iteration that the device refused; the net is as that iteration found it.

        positions: of the data layers before it.
        """
        net = self.net
        self.solver.iteration = iteration
        what = f"iteration {iteration}: the loss is {loss}" if not math.isfinite(loss) else (
            f"iteration {iteration}: a label, an index or cont is out of range")
        if not net.inputs:
            net.seek(positions)
            states = net.states
            try:
                self.uncaptured.forward_backward()
            finally:
                net.set_states(states)
            raise CaptureError(f"{what} on the device, but not when the iteration was repeated; set "
                               f"capture_steps: false")
        kind = DataError if math.isfinite(loss) else NonFiniteError
        raise kind(f"{what}; the arrays given to the net in that iteration are gone, so where is not known: "
                   f"set capture_steps: false to see it")

    def _give_up(self, problem):
        """Run uncaptured from now on."""
        self.forget()
        self.problem = problem
        log.info("Steps run uncaptured: %s", self.problem)
        self.net.show({})
        self.backend.trim()     # the graphs' memory is of use to others only now

    def close(self) -> None:
        """Free all that the device holds for graphs, without looking at the last iterations."""
        self.pending.clear()
        self._fetched = None
        self._clear()

    def forget(self) -> None:
        """Free all graphs and their memory, after `settle`."""
        self.settle()
        if self.memory is not None:
            self.backend.synchronize()      # numbers may still be on their way
        self._clear()

    def _clear(self):
        self.graphs.clear()
        self.seen.clear()
        self.memory = None


class _Graph:
    """A captured iteration and the tensors that it writes."""

    def __init__(self, graph, tensors: dict[BlobRef, Tensor]):
        self.launch, self.tensors = graph.launch, tensors


class _LateValues(Mapping):
    """The values of a "step" event. The loss is fetched when it is read, which waits for the device."""

    def __init__(self, solver, lr):
        self.solver, self.lr = solver, lr

    def __getitem__(self, name):
        return {"loss": lambda: self.solver.smoothed_loss, "lr": lambda: self.lr}[name]()

    def __iter__(self):
        return iter(("loss", "lr"))

    def __len__(self):
        return 2


def _data_alone(tensor):
    """Return a tensor without what it was computed from."""
    return Tensor(tensor.data, False, tensor.backend, tensor.kept, tensor.kept_axis)
