"""Whole iterations in one launch: forward, backward and update captured once for every form of the drawn
patterns."""

import logging
import math
from collections import Counter, deque

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import CaptureError
from minidrop.kept import Kept, MovingKept
from minidrop.patterns.draw import NOTHING

log = logging.getLogger(__name__)

MOST_GRAPHS = 128       # captured forms that are held; a two-layer perceptron has some 30 at most
MOST_FORMS = 64 * MOST_GRAPHS   # forms whose frequency is counted
MULTIPLE = 8            # of compact sizes: then rows of 16-bit numbers begin on multiples of 16 bytes, as
                        # products like it
RING = 64               # iterations whose outcome the device remembers
LOOK_EVERY = RING // 2


class CapturedSteps:
    """Runs the iterations of a Solver as graphs of its device.

    What decides shapes and launches is an iteration's *signature*: step, width and scale of every drawn
    pattern, and the shapes of the batch. (How many units live may depend on the start, too: a MovingKept has
    room for the most.) All that differs within a signature lies in device memory, and is sent there before a
    launch: where kept sets start, the keys of random numbers, the learning rate. The first iteration of a
    signature runs as it is, with these numbers read from the device, so that everything is compiled; the
    second is captured; the others are launches.

    Nobody waits for an iteration. Its loss is kept on the device, and beside it whether anything was wrong: a
    loss that is not finite, a label out of range. From then on updates leave weights, histories and states
    alone. `settle` and `look_behind` look, at least every LOOK_EVERY iterations: where something was wrong,
    the solver goes back to that iteration and does it uncaptured, which raises the error that says what.

    A net or solver that cannot be captured runs uncaptured: `problem` says why ('' while steps are captured),
    and is logged.
    """

    def __init__(self, solver):
        self.solver, self.net, self.backend = solver, solver.net, solver.net.backend
        self.losses = solver._losses
        self.graphs = {}                # signature -> _Graph
        self.seen = Counter()           # how often each signature was drawn
        self.replayed = 0               # iterations that were a launch
        self.pending = deque()          # (iteration, positions of the data layers) of iterations nobody has
                                        # looked at
        self.launches = True            # False: every iteration runs as the first of its signature, for
                                        # comparison
        self.keyed = [layer for layer in self.net.layers.values() if layer.stream is not None]
        self.weighted = {drop.node.index: (drop.producer.layer.outputs, drop.producer.layer.inputs)
                         for drop in self.net.plan.drops if drop.kind == "weights"}
        shapes = self.net.graph.shapes
        self.samples = {drop.node.index: math.prod(shapes[drop.node.tops[0]][:drop.fact.axis])
                        for drop in self.net.plan.drops if drop.kind == "blocks"}
        self.problem = _problem(solver)
        self.memory = None
        self._fetched = None            # (number of losses, their copy on its way to the host)

    @property
    def active(self):
        """True while iterations are captured."""
        return not self.problem

    def step(self, lr):
        """Do the solver's iteration; returns the net's outputs, or None where it has to be done
        uncaptured."""
        if self.problem:
            return None
        solver, net = self.solver, self.net
        positions = net.positions
        net.draw_patterns(solver.iteration)
        try:
            form, starts, lives = self._form()
        except CaptureError as error:
            self._give_up(str(error))
            return None
        problem = None
        with self.backend.active():
            data = net.read()
            signature = (*form, *((tensor.data.shape, tensor.data.dtype.str) for tensor in data.values()))
            self._same_arrays()
            try:
                if lives and any(tensor.data.shape != net.graph.shapes[ref] for ref, tensor in data.items()):
                    raise CaptureError("a batch has another size than the net was built for")
                self._send(signature, starts, lives, lr, data)
                outputs = self._run(signature, starts)
            except CaptureError as error:
                problem = str(error)
        if problem is not None:         # the error is gone, and with it the arrays that its traceback held
            self._give_up(problem)
            net.seek(positions)         # the batch is read again
            return None
        self.pending.append((solver.iteration, positions))
        return outputs

    # -- what an iteration is --------------------------------------------------------------------------------
    def _form(self):
        """Return (signature of the drawn patterns, where their kept sets start, {layer: which of its blocks
        live})."""
        net = self.net
        form, starts, lives = [net.mode, *map(net.is_dropping, net.drop_layers.values())], [], {}
        for index, draw in net.acting(net.drawn).items():
            if net.mode.masked:
                draw = NOTHING
            grid = draw.grid(self.samples.get(index))
            if grid is not None:
                lives[index] = grid.lives
            kept_sets = draw.kept_sets(self.weighted.get(index))
            for kept in kept_sets:
                if kept.regular is None:
                    name = net.graph.nodes[index].name
                    raise CaptureError(f"layer {name!r} ({net.drop_sites[name].family.name}) keeps another "
                                       f"number of units in every iteration")
                if _moves(kept):
                    starts.append(kept.regular[0])
            form.append((draw.scale, grid is None, *((*kept.regular[1:], kept.total) for kept in kept_sets)))
        return tuple(form), starts, lives

    def _same_arrays(self):
        """Forget all graphs where weights or histories lie elsewhere than they did, or are updated
        otherwise."""
        if self.memory is None or self.memory.is_outdated():
            self.forget()
            self.memory = _Memory(self)

    def _send(self, signature, starts, lives, lr, data):
        memory = self.memory
        keys = [layer.key(self.solver.iteration) for layer in self.keyed]
        memory.send(lr, keys, [self.solver.iteration % RING, *starts], lives)
        memory.give(signature[-len(data):] if data else (), data)
        for (name, key), buffer in memory.states.items():
            state = self.net.layers[name].state
            if state[key] is not buffer:
                buffer[...] = state[key]
                state[key] = buffer

    # -- running it ------------------------------------------------------------------------------------------
    def _run(self, signature, starts):
        if len(self.seen) >= MOST_FORMS:        # the rare ones are counted anew
            self.seen = Counter(dict(self.seen.most_common(MOST_FORMS // 2)))
        self.seen[signature] += 1
        graph = self.graphs.get(signature)
        if graph is None and self.launches and self.seen[signature] > 1 and self._room(signature):
            graph = self.graphs[signature] = self._capture(len(starts))
        if graph is None:
            tensors = self._work(len(starts))
            self.net.show(tensors)
        else:
            graph.launch()
            self.replayed += 1
            self.net.show(graph.tensors)
        return {ref.name: self.net.tensor(ref) for ref in self.net.graph.outputs}

    def _room(self, signature):
        """Make room for one more graph if it is asked for more often than another; returns whether there is
        room."""
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
        """Give the device one iteration; all numbers that differ come from `memory`. Returns {BlobRef:
        Tensor} of outputs."""
        net, memory, backend = self.net, self.memory, self.backend
        was, backend.capturing, backend.trouble = backend.capturing, True, memory.trouble
        try:
            self._give(memory, starts)
            net.clear_grads()
            run = net.compute(memory.tensors(backend))
            loss = run.loss_array
            backend.refuse(~backend.xp.isfinite(loss), lambda: AssertionError("nobody looks while capturing"))
            run.backward()
            self.solver.updater.apply(0, memory.lr)
            for (name, key), buffer in memory.states.items():
                backend.keep_if_well(buffer, net.layers[name].state[key])
            memory.note(backend, loss)
            wanted = {*net.graph.outputs, *(ref for ref, _ in net.losses)}
            return {ref: _data_alone(run.tensors[ref]) for ref in wanted}
        finally:
            backend.capturing, backend.trouble = was, None
            self._take_back(memory)

    def _give(self, memory, starts):
        """Give the layers draws and keys that are read from the device when the work runs."""
        net, places = self.net, iter(memory.starts[1:1 + starts])
        draws = net.acting(net.drawn)
        for index, draw in {} if net.mode.masked else draws.items():
            if index in self.samples:
                draws[index] = draw if draw is NOTHING else draw.given(memory.lives.get(index))
                continue
            # Of pairs of tiles the outputs are disjoint, and so are the inputs.
            kept_sets = draw.kept_sets(self.weighted.get(index))
            sets = [MovingKept(kept, next(places), (index, i % 2, len(kept_sets) // 2), MULTIPLE)
                    if _moves(kept) else kept for i, kept in enumerate(kept_sets)]
            draws[index] = draw if draw is NOTHING else draw.given(sets)
        keys = {layer.name: key for layer, key in zip(self.keyed, memory.keys, strict=True)}
        net.give(draws, lambda layer: keys[layer.name])

    def _take_back(self, memory):
        self.net.give_drawn()
        for (name, key), buffer in memory.states.items():
            self.net.layers[name].state[key] = buffer

    # -- looking at what came of it --------------------------------------------------------------------------
    def settle(self):
        """Wait for all iterations and take over their losses; raises what went wrong in the first that went
        wrong."""
        if self.pending:
            with self.backend.active():
                self._take(self.backend.to_host(self.memory.ring))
        self._fetched = None

    def look_behind(self):
        """Every LOOK_EVERY iterations take what was asked for so many before, long done by now, and ask for
        the next."""
        if not self.pending or len(self.pending) % LOOK_EVERY:
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
                self.solver.repeat(iteration, positions, loss)
            self.losses.append(loss)

    def _give_up(self, problem):
        """Run uncaptured from now on."""
        self.forget()
        self.problem = problem
        log.info("Steps run uncaptured: %s", self.problem)
        self.net.show({})
        self.backend.trim()     # the graphs' memory is of use to others only now

    def close(self):
        """Let go of all that the device holds for graphs, whatever came of the last iterations."""
        self.pending.clear()
        self._fetched = None
        self._clear()

    def forget(self):
        """Free all graphs and their memory; what is pending is settled first."""
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

    def __init__(self, graph, tensors):
        self.launch, self.tensors = graph.launch, tensors


class _Memory:
    """The device memory that graphs share: where what differs from iteration to iteration is found."""

    MOST_STARTS = 256

    def __init__(self, steps):
        backend, net, keyed = steps.backend, steps.net, len(steps.keyed)
        self.owner, self.backend = steps, backend
        self.updater = steps.solver.updater
        self.net = net
        self.constants = self._constants()
        self.weights = [(parameter, parameter.data) for parameter in net.parameters().values()]
        self.histories = [(history, i, array) for history in steps.solver.updater.history.values()
                          for i, array in enumerate(history)]
        size = 8 + 8 * keyed + 4 * self.MOST_STARTS
        self.numbers = backend.zeros((size,), np.uint8)
        self.lr, keys, starts = _parts(self.numbers, keyed)
        self.keys, self.starts = ([part[i:i + 1] for i in range(part.size)] for part in (keys, starts))
        # Nobody knows when a copy is done, but iterations more than RING back are: they have been looked at.
        host = backend.pinned(np.zeros((2 * RING, size), np.uint8))
        self.sent, self.host = 0, [(numbers, _parts(numbers, keyed)) for numbers in host]
        self.lives = {}                 # {layer: which of its blocks live}
        self.trouble = backend.zeros((1,), np.int32)
        self.ring = backend.zeros((2, RING), np.float64)        # loss and trouble
        self.states = {}
        for place, array in net.states.items():
            self.states[place] = backend.empty(array.shape, array.dtype)
        self.inputs = {}                # (shape, dtype) of the whole batch -> {BlobRef: array}
        self.batch = None

    def _constants(self):
        """What graphs hold and somebody may change."""
        return self.net.mode, self.updater.constants

    def is_outdated(self):
        """Whether a weight or a history is another array than when graphs began to read it, or a factor
        another number."""
        return (self.constants != self._constants()
                or any(parameter.data is not array for parameter, array in self.weights)
                or any(history[i] is not array for history, i, array in self.histories))

    def send(self, lr, keys, starts, lives):
        """Send the numbers of one iteration to the device."""
        if len(starts) > self.MOST_STARTS:
            raise CaptureError(f"the patterns of one iteration have {len(starts)} starts, more than "
                               f"{self.MOST_STARTS}")
        numbers, (host_lr, host_keys, host_starts) = self.host[self.sent % len(self.host)]
        self.sent += 1
        host_lr[0], host_keys[:], host_starts[:len(starts)] = lr, keys, starts
        self.backend.send(self.numbers, numbers)
        for name, table in zip(lives, self.backend.upload(self.owner, [*lives.values()]) if lives else (),
                               strict=True):
            if name not in self.lives:
                self.lives[name] = self.backend.empty(table.shape, table.dtype)
            self.lives[name][...] = table

    def give(self, shapes, data):
        """Copy a batch to where graphs of its shapes read it."""
        if shapes not in self.inputs:
            self.inputs[shapes] = {ref: self.backend.empty(tensor.data.shape, tensor.data.dtype)
                                   for ref, tensor in data.items()}
        self.batch = self.inputs[shapes]
        for ref, tensor in data.items():
            self.batch[ref][...] = tensor.data

    def tensors(self, backend):
        return {ref: Tensor(array, backend=backend) for ref, array in self.batch.items()}

    def note(self, backend, loss):
        """Write loss and trouble where `ring` keeps those of the iteration."""
        place = MovingKept(Kept(0, RING, 1, RING), self.starts[0])
        outcome = backend.empty((2, 1), np.float64)
        outcome[0] = loss
        outcome[1] = self.trouble
        backend.put_columns(self.ring, place, outcome)


def _parts(numbers, keys):
    """Return (rate, keys, starts): what the bytes `numbers` hold, as views."""
    ends = 8, 8 + 8 * keys
    return (numbers[:ends[0]].view(np.float64), numbers[ends[0]:ends[1]].view(np.uint64),
            numbers[ends[1]:].view(np.int32))


def _moves(kept):
    """Whether a kept set is another one for another start."""
    _, step, width = kept.regular
    return width < step


def _data_alone(tensor):
    """Return a tensor without what it was computed from."""
    return Tensor(tensor.data, False, tensor.backend, tensor.kept, tensor.kept_axis)


def _problem(solver):
    """Return why iterations of a solver cannot be captured, ''."""
    settings, net = solver.settings, solver.net
    # Where a MovingKept has room for more units than live, f(0) stands there: nobody reads it but the norm of
    # the gradients.
    unclear = sorted({node.name for drop in net.plan.drops for node in drop.crossed
                      if not all(fact.keeps_zero for fact in node.passes)})
    foreign = [f"layer {name!r} ({layer.type})" for name, layer in net.layers.items()
               if not layer.capturable and not layer.is_data]
    reasons = [
        (not solver.updater.rule.capturable,
         f"type {settings.type!r} computes with numbers of the host in every iteration; SGD does not"),
        (settings.iter_size != 1, f"iter_size is {settings.iter_size}"),
        (solver.loss_scale is not None, "in float16 the host looks after every backward pass whether "
         "gradients are finite"),
        (net.config.message.force_backward, "force_backward is set"),
        (bool(unclear) and solver.updater.clip >= 0, f"clip_gradients with layer {', '.join(unclear)}, whose "
         f"f(0) is not 0"),
        (not net.losses, "the net has no loss"),
        (bool(foreign), f"{', '.join(foreign)} does not say that it is capturable"),
    ]
    return next((reason for holds, reason in reasons if holds), "")
