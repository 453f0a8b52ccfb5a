"""CapturedSteps: whole iterations in one launch each, captured once per form of the drawn patterns."""

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
from minidrop.solver.captured_ranks import CapturedRanks
from minidrop.solver.evaluation import joined_outputs
from minidrop.solver.late_values import LateValues
from minidrop.solver.steps import EagerSteps, Show

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

MOST_GRAPHS = 128       # kept at a time; a two-layer perceptron needs about 30 at most
MOST_FORMS = 64 * MOST_GRAPHS   # forms whose frequency is counted
LOOK_EVERY = RING // 2


class CapturedSteps:
    """Runs the iterations of a Solver as graphs of its device. EagerSteps has the same methods.

    The *signature* of an iteration decides its shapes and launches: step, width and scale of every drawn
    pattern, and the shapes of the batch. (The number of kept units may also depend on the start; a MovingKept
    has room for the largest.) Everything that differs within a signature is in device memory and is sent
    there before a launch: the starts of kept sets, the keys of random numbers, the numbers of the update. The
    first iteration of a signature runs eagerly, with these numbers read from the device, so that everything
    is compiled; the second is captured; the later ones are launches.

    The solver's `after_backward` hooks are called when an iteration runs eagerly and when it is captured, not
    at a launch: the device work that they queue is part of the graph. They must not read values.

    The host does not wait for an iteration. Its loss stays on the device, together with a flag for errors: a
    loss that is not finite, a label out of range. Once the flag is set, updates leave weights, histories and
    states unchanged. `settle` and `look_behind` read the flags, at least every LOOK_EVERY iterations; after
    an error the solver returns to that iteration and repeats it uncaptured, which raises the exact error.

    Several ranks capture if gradients travel from GPU to GPU, see `CapturedRanks`. An error is raised on all
    in the same iteration, so one rank by itself only looks at losses (`look`).

    A net or solver that cannot be captured runs uncaptured; the reason is logged, and kept in `problem`,
    which is '' while steps are captured.
    """

    def __init__(self, solver: Solver):
        self.solver, self.net, self.backend = solver, solver.net, solver.net.backend
        self.uncaptured = EagerSteps(solver)
        self.losses = self.uncaptured.losses
        self.graphs: dict[tuple, _Graph] = {}       # by signature
        self.seen: Counter[tuple] = Counter()       # how often each signature was drawn
        self.replayed = 0               # the number of iterations that were launches
        # (iteration, positions of the data layers before it) of iterations whose outcome is not read yet.
        self.pending: deque[tuple[int, dict[str, int]]] = deque()
        self.launches = True    # False: every iteration runs eagerly, for comparison
        self.patterns = CapturedPatterns(self.net)
        self.joint = CapturedRanks(solver, self.graphs.clear)
        self.unsettled = 0              # the number of iterations that all ranks have not settled yet
        self.problem = problem_of(solver)
        self.memory: CapturedMemory | None = None
        self.memories = 0               # how many there have been: ranks have to have as many
        self._fetched: tuple[int, Any] | None = None    # (number of losses, their copy to the host)

    @property
    def active(self) -> bool:
        """Whether iterations are captured."""
        return not self.problem

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradients of the last iteration whose outcome has been read."""
        return self.uncaptured.gradient_norm

    @property
    def smoothed_loss(self) -> float:
        """The mean of `losses`, as far as they have been read; NaN if an error is to be raised."""
        return math.nan if self.joint.several and self.pending else self.uncaptured.smoothed_loss

    def step(self, lr: float, show: Show) -> Mapping:
        """Run the solver's iteration, captured if possible, otherwise as `EagerSteps.step`.

        In a captured iteration show() is called after the update, and reading the loss waits for the device.
        """
        if self.joint.several and self.solver.ranks.any(self.problem) and not self.problem:
            self._give_up("another rank runs uncaptured")
        outputs = None if self.problem else self._step(lr)
        if outputs is None:
            return self.uncaptured.step(lr, show)
        solver, display = self.solver, self.solver.settings.display
        values = LateValues(solver, lr)
        if self.joint.several and display and solver.iteration % display == 0:
            self.settle()
            outputs = joined_outputs(self.net, outputs, solver.ranks)
        show(values, outputs)
        return values

    def _step(self, lr):
        """Queue the iteration on the device; returns the net's outputs, or None if it must run uncaptured."""
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
            self.joint.keep_up()
            data = solver.ranks.together(net.read)
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
        if problem is not None:         # outside of except, so that the traceback no longer holds arrays
            self._give_up(problem)
            net.seek(positions)         # the batch is read again
            return None
        self.pending.append((solver.iteration, positions))
        self.unsettled += 1
        self._count_averages(1)
        return outputs

    def _count_averages(self, updates):
        if self.solver.ema is not None:
            self.solver.ema.updates += updates

    def _memory(self):
        """Return the memory that all graphs read; if it is outdated, drop all graphs and make a new one."""
        if self.memory is None or self.memory.is_outdated:
            self.forget()
            self.memory = CapturedMemory(self.solver, len(self.patterns.keyed))
            self.memories += 1
        return self.memory

    # -- running an iteration ------------------------------------------------------------------------------
    def _run(self, signature, starts):
        if len(self.seen) >= MOST_FORMS:        # forget the counts of the rarer half
            self.seen = Counter(dict(self.seen.most_common(MOST_FORMS // 2)))
        signature = self.joint.signature((self.memories, *signature))
        self.seen[signature] += 1
        graph = self.graphs.get(signature)
        if graph is None and self.launches and self.seen[signature] > 1 and self._room(signature):
            graph = self.graphs[signature] = self._capture(starts)
        if graph is None:
            self.net.show(self._run_eagerly(starts))
        else:
            graph.launch()
            self.replayed += 1
            self.net.show(graph.tensors)
        return {ref.name: self.net.tensor(ref) for ref in self.net.graph.outputs}

    def _room(self, signature):
        """Return whether there is room for a graph; a graph that is drawn less often is dropped for it."""
        if len(self.graphs) < MOST_GRAPHS:
            return True
        rarest = min(self.graphs, key=self.seen.__getitem__)
        if self.seen[rarest] >= self.seen[signature]:
            return False
        del self.graphs[rarest]
        return True

    def _run_eagerly(self, starts):
        """As `_work`; if that cannot be captured, statistics that layers have stored are as before."""
        arrays = [parameter.data for parameter in self.net.statistics()]
        before = [array.copy() for array in arrays]
        try:
            return self._work(starts)
        except CaptureError:
            for array, values in zip(arrays, before, strict=True):
                array[...] = values
            raise

    def _capture(self, starts):
        tensors = {}
        graph = self.joint.capture(lambda: tensors.update(self._work(starts)))
        return _Graph(graph, tensors)

    def _work(self, starts):
        """Queue an iteration that reads its numbers from `memory`; returns its outputs by BlobRef."""
        net, memory, backend = self.net, self.memory, self.backend
        try:
            with backend.as_captured(memory.trouble):
                self.patterns.give(memory.starts[1:1 + starts], memory.lives, memory.keys)
                net.clear_grads()
                run = self.solver.ranks.together(lambda: net.compute(memory.tensors()))
                loss = self.joint.backward(run, memory.trouble, self.patterns.moving)
                self.uncaptured.after_backward()
                norm = self.solver.updater.apply_numbers(memory.rates)
                if memory.averaging is not None:
                    self.solver.ema.update_on_device(memory.averaging)
                memory.keep_states()
                memory.note(loss, norm)
                wanted = {*net.graph.outputs, *(ref for ref, _ in net.losses)}
                return {ref: _data_alone(run.tensors[ref]) for ref in wanted}
        finally:
            net.drops.give_drawn()
            net.set_states(memory.states)

    # -- reading the outcome -------------------------------------------------------------------------------
    def settle(self) -> None:
        """Wait for all iterations and record their losses; raises the error of the first that failed.

        All ranks call it in the same iteration.
        """
        self._read(True)
        self._fetched, self.unsettled = None, 0

    def look(self) -> None:
        """As `settle`; but where there are other ranks, an error waits until all of them settle."""
        if self.joint.several:
            self._read(False)
        else:
            self.settle()

    def _read(self, raises):
        if self.memory is not None and self.pending:
            with self.backend.active():
                self.joint.wait_for_device()
                self._take(self.backend.to_host(self.memory.ring), raises=raises)

    def look_behind(self) -> None:
        """Every LOOK_EVERY iterations record the losses fetched last time, and start to fetch the next.

        Of several ranks, where others may be gone, all settle instead.
        """
        if self.joint.several:
            if self.unsettled >= LOOK_EVERY:
                self.settle()
            return
        if self.memory is None or not self.pending or len(self.pending) % LOOK_EVERY:
            return
        with self.backend.active():
            if self._fetched is not None:
                self._take(self._fetched[1].get(), self._fetched[0])
            self._fetched = len(self.pending), self.backend.fetch(self.memory.ring)

    def _take(self, ring, count=None, raises=True):
        """Record the outcomes of the first `count` pending iterations from a copy of the ring.

        Of an error and what follows, nothing is recorded unless it `raises`.
        """
        for _ in range(len(self.pending) if count is None else count):
            iteration, positions = self.pending[0]
            loss, trouble, norm = ring[:, iteration % RING].tolist()
            if trouble and not raises:
                return
            self.pending.popleft()
            if trouble:         # the iterations after this one have changed nothing
                self.backend.synchronize()
                self._count_averages(-1 - len(self.pending))
                self.pending.clear()
                self._fetched = None
                self.memory.trouble.fill(0)
                self._repeat(iteration, positions, loss)
            self.losses.append(loss)
            self.uncaptured.gradient_norm = norm

    def _repeat(self, iteration, positions, loss):
        """Raise the error of an iteration that failed on the device; the net is in its state before it.

        positions: of the data layers before the iteration.
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
        """Run uncaptured from now on, because of `problem`."""
        self.forget()
        self.problem = problem
        log.info("Steps run uncaptured: %s", self.problem)
        self.net.show({})
        self.backend.trim()     # returns the graphs' memory

    def close(self) -> None:
        """Free all that the device holds for graphs, without reading the last outcomes."""
        self.pending.clear()
        self._fetched = None
        self._clear()

    def forget(self) -> None:
        """Free all graphs and their memory, after `settle`."""
        self.settle()
        if self.memory is not None:
            self.backend.synchronize()      # copies to the device may be pending
        self._clear()

    def _clear(self):
        self.graphs.clear()
        self.seen.clear()
        self.memory = None


class _Graph:
    """A captured iteration and the tensors it writes."""

    def __init__(self, graph, tensors: dict[BlobRef, Tensor]):
        self.launch, self.tensors = graph.launch, tensors


def _data_alone(tensor):
    """Return a tensor detached from its history."""
    return Tensor(tensor.data, False, tensor.backend, tensor.kept, tensor.kept_axis)
