"""Solver: trains a net as a solver file says. The loop is Caffe's."""

import logging
import math
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidrop.autograd import no_grad
from minidrop.backend import cuda_devices
from minidrop.config import SolverConfig, SolverParameter, apply_overrides, decimal, load_solver, solver_nets
from minidrop.errors import CaptureError, ConfigError, DataError, NonFiniteError
from minidrop.net import Net
from minidrop.net.conversion import dropout_kind, prepare_nets
from minidrop.solver import state
from minidrop.solver.captured import CapturedSteps
from minidrop.solver.loss_scale import LossScale
from minidrop.solver.lr_policy import check_lr_policy, learning_rate
from minidrop.solver.rules import check_rule
from minidrop.solver.updater import Updater
from minidrop.solver.vocabulary_record import vocabulary_problems

log = logging.getLogger(__name__)

_MOST_VALUES_SHOWN = 100


@dataclass
class Event:
    """What callbacks are told: `kind` "test", "step", "display" or "snapshot", the iteration, and its values
    by name.

    A "step" has the loss and the learning rate, a "display" the net's small outputs too. A "test" event has
    `net`, the number of the test net; a "snapshot" event has the value "path". On a GPU nobody waits for a
    "step": only who reads its values does, and has to while the event is told.
    """

    kind: str
    iteration: int
    values: Mapping
    net: int = 0


class Solver:
    """Trains `net`, tests `test_nets`, writes snapshots. Use `step`, or `solve` for the whole run.

    `source`: a SolverConfig, a SolverParameter or the path of a solver file. `overrides`: {"base_lr": 0.05}
    or ["layer.drop1.approx_dropout_param.dropout_ratio=0.3"]. `dropout`: None, "conventional", "approx" or
    "approx:FAMILY", which turns every drop layer into that kind. `device`: "auto" follows solver_mode and
    falls back to the CPU. `level`, `stages`: of the train net. `snapshot_prefix`: where snapshots go, instead
    of the file's. `precision`: of products on a GPU, instead of the file's; with float16 the gradients are
    scaled (see `LossScale`). Raises ConfigError with every mistake of the solver file and its nets at once.

    On a GPU iterations are captured, see `CapturedSteps`, unless capture_steps is false: then an error of an
    iteration is raised some iterations later, by whatever asks for a result, with weights and states as that
    iteration found them.

    `choices` is (train, tests): the NetChoice of each net, overrides applied; `settings` the resolved
    SolverParameter.
    """

    def __init__(self, source, overrides=(), dropout=None, device="auto", dtype="float32", level=None,
                 stages=(), snapshot_prefix=None, precision=None):
        self.config = _as_config(source)
        dropout = dropout and dropout_kind(dropout)
        train, tests = _prepared_nets(self.config, overrides, dropout, level, stages)
        self.settings = self.config.message
        if precision:
            self.settings.precision = precision
        self.choices = train, tests
        self.device, self.dtype, self.dropout = _device(self.settings, device), dtype, dropout
        self.snapshot_prefix = str(snapshot_prefix or self.settings.snapshot_prefix
                                   or Path(self.config.path or "minidrop").stem)
        self.callbacks = []
        _warn_of_ignored(self.config)
        seed = self.settings.random_seed
        self.build(seed if seed >= 0 else secrets.randbits(31))
        for path in self.settings.weights:
            state.load_weights(self.net, path)

    @classmethod
    def from_file(cls, path, overrides=(), **options):
        """Return the Solver of a solver file; options as in `Solver`."""
        return cls(load_solver(path), overrides, **options)

    def build(self, seed):
        """Make the nets and the update rule for a seed, at iteration 0."""
        train, tests = self.choices
        problems = _solver_problems(self.config)
        nets = []
        for choice in (train, *tests):
            try:
                nets.append(self._net(choice, seed, nets[0] if nets else None))
            except ConfigError as error:
                problems += [line for line in str(error).split("\n") if line not in problems]
        if len(nets) == 1 + len(tests):
            problems += state.best_problems(self.config, nets[1:])
            problems += vocabulary_problems(nets[0], nets[1:])
        if problems:
            raise ConfigError("\n".join(problems))
        self.seed = seed
        self.net, self.test_nets = nets[0], nets[1:]
        self.updater = Updater(self.settings, self.net)
        self.loss_scale = LossScale() if self.net.backend.precision == "float16" else None
        self.iteration = 0
        self.best = None
        self._losses = deque(maxlen=max(1, self.settings.average_loss))
        wanted = self.settings.capture_steps and self.net.backend.captures
        self.captured = CapturedSteps(self) if wanted else None
        self._snapshot_iteration = None
        self._tested = {}

    def rebuild(self, seed):
        """Make everything anew for another seed; arrays set with set_input_arrays stay set."""
        before, captured = (self.net, *self.test_nets), self.captured
        self.build(seed)
        if captured is not None:
            captured.close()
        for old, new in zip(before, (self.net, *self.test_nets), strict=True):
            for name, layer in old.data_layers.items():
                new.layers[name].adopt(layer)
            old.close()

    def _net(self, choice, seed, share):
        phase = "TRAIN" if choice.iterations is None else "TEST"
        return Net(choice.config, phase, self.device, self.dtype, seed, choice.state.level,
                   tuple(choice.state.stage), share, self.settings.precision)

    # -- running ---------------------------------------------------------------------------------------------
    def solve(self, should_stop=lambda solver: False):
        """Train until max_iter, then write the last snapshot and test. Returns the values of the last test of
        the first test net ({} without one). `should_stop(solver)` is asked between iterations; stopped early,
        no test is made."""
        while self.iteration < self.settings.max_iter:
            if should_stop(self):
                return {}
            self.step()
        if self.settings.snapshot_after_train and self._snapshot_iteration != self.iteration:
            self.snapshot()
        if self.losses:
            self._tell("display", {"loss": self.smoothed_loss, "lr": self.learning_rate})
        if self.settings.test_interval:
            self.test_all()
        return self._tested.get(0, {})

    def step(self, iterations=1):
        """Run some iterations: test, reshuffle if due; forward and backward iter_size times, update, snapshot
        if due.

        Raises NonFiniteError, before the update, where the loss is NaN or infinite.
        """
        for _ in range(iterations):
            self._step()

    def _step(self):
        settings, captured = self.settings, self.captured
        if captured is not None:
            captured.look_behind()
        if settings.test_interval and self.iteration % settings.test_interval == 0 and (
                self.iteration > 0 or settings.test_initialization):
            self.test_all()
        # After the tests: the best snapshot, written there, must hold what a resumed run permutes here.
        for parameter, axis, order in self.net.due_permutations(self.iteration):
            self.settle()
            self.updater.permute(parameter, axis, order)
        lr = self.learning_rate
        outputs = captured.step(lr) if captured is not None else None
        whole = outputs is not None         # the update included
        if not whole:
            outputs = self._forward_backward()
        values = _StepValues(self, lr) if whole else dict(_StepValues(self, lr))
        if settings.display and self.iteration % settings.display == 0:
            self._tell("display", {**values, **_small_values(outputs)})
        if not whole:
            self._update(lr)
        self.iteration += 1
        self._tell("step", values)
        if settings.snapshot and self.iteration % settings.snapshot == 0:
            self.snapshot()

    def _update(self, lr):
        if self.loss_scale is None:
            self.updater.apply(self.iteration, lr, self.settings.iter_size)
            return
        scale = self.loss_scale.value
        finite = self.updater.apply_if_finite(self.iteration, lr, self.settings.iter_size, scale)
        if not self.loss_scale.note(finite):
            raise NonFiniteError(f"iteration {self.iteration}: in float16 the gradients are not finite even "
                                 f"unscaled. Try a smaller base_lr (now {lr:g}), or precision: \"bfloat16\"")
        if not finite:
            log.info("Iteration %d, gradients are not finite at a loss scale of %g: no update, the scale is "
                     "now %g", self.iteration, scale, self.loss_scale.value)

    def _forward_backward(self):
        """Forward and backward iter_size times; returns the net's outputs of the last pass."""
        net, iter_size = self.net, self.settings.iter_size
        net.clear_grads()
        loss = 0.0
        for part in range(iter_size):
            net.draw_patterns(self.iteration * iter_size + part)
            # the loss is checked instead
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                outputs = net.forward()
                part_loss = net.loss
                if not math.isfinite(part_loss):
                    raise self._nonfinite(part_loss)
                net.backward(self.loss_scale.value if self.loss_scale else 1.0)
            loss += part_loss / iter_size
        self._losses.append(loss)
        return outputs

    def _nonfinite(self, loss):
        found = self.net.first_nonfinite()
        place = (f"the first output that is not finite is blob {found[1]!r} of layer {found[0]!r}" if found
                 else "every output of the net is finite: the sum of the losses overflows")
        last = f"; the last snapshot is {self.last_snapshot}" if self.last_snapshot else ""
        return NonFiniteError(f"iteration {self.iteration}: the loss is {loss}; {place}. Try a smaller "
                              f"base_lr (now {self.learning_rate:g}) or clip_gradients{last}")

    @contextmanager
    def uncaptured(self):
        """Within this context every iteration runs layer by layer, for who looks inside."""
        self.settle()
        captured, self.captured = self.captured, None
        try:
            yield
        finally:
            self.captured = captured

    def settle(self):
        """Wait for all iterations given to the device. Raises what went wrong in one of them."""
        if self.captured is not None:
            self.captured.settle()

    def repeat(self, iteration, positions, loss):
        """Raise what was wrong in an iteration that the device refused; the net is as that iteration found
        it.

        positions: of the data layers, then. loss: its loss.
        """
        self.iteration = iteration
        what = f"iteration {iteration}: the loss is {loss}" if not math.isfinite(loss) else (
            f"iteration {iteration}: a label, an index or cont is out of range")
        if not self.net.inputs:
            self.net.seek(positions)
            states = self.net.states
            try:
                self._forward_backward()
            finally:
                self.net.set_states(states)
            raise CaptureError(f"{what} on the device, but not when the iteration was repeated; set "
                               f"capture_steps: false")
        kind = DataError if math.isfinite(loss) else NonFiniteError
        raise kind(f"{what}; the arrays given to the net in that iteration are gone, so where is not known: "
                   f"set capture_steps: false to see it")

    @property
    def learning_rate(self):
        """The learning rate of the current iteration."""
        return learning_rate(self.settings, self.iteration)

    @property
    def losses(self):
        """The last `average_loss` losses, a deque."""
        self.settle()
        return self._losses

    @property
    def smoothed_loss(self):
        """The mean of the last `average_loss` losses."""
        losses = self.losses
        return sum(losses) / len(losses) if losses else math.nan

    def test_all(self):
        """Test every test net; returns a list of {output: mean}. Keeps the snapshot of the best value if
        asked to."""
        results = [self.test(i) for i in range(len(self.test_nets))]
        state.keep_best(self, results)
        return results

    def test(self, index=0):
        """Return {output: mean over test_iter batches} of one test net. Every test begins at the first
        record."""
        self.settle()
        net, choice = self.test_nets[index], self.choices[1][index]
        values = run_test(net, choice.iterations)
        if not self.settings.test_compute_loss:
            values.pop("total_loss")
        self._tested[index] = values
        self._tell("test", values, index)
        return values

    # -- callbacks and snapshots -----------------------------------------------------------------------------
    def add_callback(self, function):
        """Call function(event) for every Event: tests, steps, displays, snapshots."""
        self.callbacks.append(function)
        return function

    def _tell(self, kind, values, net=0):
        if self.callbacks:
            event = Event(kind, self.iteration, values, net)
            for function in self.callbacks:
                function(event)

    last_snapshot = None

    def snapshot(self, path=None):
        """Write everything that a resumed run needs to `path` (default: PREFIX_iter_N.h5); returns the
        path."""
        self.settle()
        path = Path(path) if path else Path(f"{self.snapshot_prefix}_iter_{self.iteration}.h5")
        state.write(self, path)
        self.last_snapshot, self._snapshot_iteration = path, self.iteration
        self._tell("snapshot", {"path": str(path)})
        state.prune_old(self, path)
        return path

    def restore(self, path):
        """Go on from a snapshot as if the run had never stopped. Raises SnapshotError, leaving the solver as
        it was."""
        with suppress(CaptureError, DataError, NonFiniteError):       # of what is left behind
            self.settle()
        state.restore(self, path)
        self.last_snapshot, self._snapshot_iteration = Path(path), self.iteration

    def close(self):
        """Stop reading threads, and free what the device holds for captured iterations."""
        if self.captured is not None:
            self.captured.close()
        self.captured = None
        for net in (self.net, *self.test_nets):
            net.close()


def run_test(net, iterations, start=0):
    """Return {output: mean over some batches} of a net in phase TEST, and "total_loss", the weighted sum of
    its losses.

    What a mean is, the layer says that writes the output: see `averages` and `batch_weight` of `Layer`.
    """
    net.seek(start)
    net.reset_states()
    writers = {ref.name: net.graph.writer[ref].layer for ref in net.graph.outputs}
    means, loss = {name: BatchMean(layer) for name, layer in writers.items()}, 0.0
    with no_grad():
        for _ in range(iterations):
            for name, tensor in net.forward().items():
                means[name].add(tensor.numpy().astype(np.float64))
            loss += net.loss
    return {**{name: _plain(mean.value) for name, mean in means.items()}, "total_loss": loss / iterations}


class BatchMean:
    """The mean of a layer's top over batches, of the kind that the layer says: its `averages` and
    `batch_weight`."""

    def __init__(self, layer):
        self.layer, self.sum, self.weight = layer, 0.0, 0

    def add(self, value):
        weight = self.layer.batch_weight
        if not weight:
            return
        if self.layer.averages == "geometric":
            with np.errstate(divide="ignore"):        # log 0
                value = np.log(value)
        self.sum = self.sum + weight * value
        self.weight += weight

    @property
    def value(self):
        mean = self.sum / max(1, self.weight)
        return np.exp(mean) if self.layer.averages == "geometric" else mean


class _StepValues(Mapping):
    """What a "step" event says. The loss is asked for only if somebody reads it: on a GPU that waits for the
    iteration."""

    def __init__(self, solver, lr):
        self.solver = solver
        self.known = {"lr": lr, **(solver.loss_scale.values if solver.loss_scale else {})}

    def __getitem__(self, name):
        return self.solver.smoothed_loss if name == "loss" else self.known[name]

    def __iter__(self):
        return iter(("loss", *self.known))

    def __len__(self):
        return 1 + len(self.known)


def _small_values(outputs):
    """Return the outputs worth a line of text as plain numbers; `loss` stands there already, smoothed."""
    return {name: _plain(tensor.numpy()) for name, tensor in outputs.items()
            if name != "loss" and tensor.data.size <= _MOST_VALUES_SHOWN}


def _plain(value):
    value = np.asarray(value)
    return float(value) if value.ndim == 0 else value.tolist()


def _as_config(source):
    if isinstance(source, SolverConfig):
        return source
    if isinstance(source, SolverParameter):
        return SolverConfig.of(source)
    return load_solver(source)


def _prepared_nets(config, overrides, dropout, level, stages):
    """Return (train, tests), NetChoices with the overrides applied to solver and nets, each net description
    once."""
    from minidrop.config import split_overrides
    own, in_layers = split_overrides(overrides)
    apply_overrides(config, own)
    train, tests = solver_nets(config, level, stages)
    nets = list({id(choice.config): choice.config for choice in (train, *tests)}.values())
    prepare_nets(nets, dropout, in_layers)
    return train, tests


def _device(settings, device):
    if device != "auto":
        return device
    if settings.solver_mode == settings.CPU or not cuda_devices()[0]:
        return "cpu"
    return f"cuda:{settings.device_id}"


def _solver_problems(config):
    """Every mistake in the solver's own fields, as "file:line:column: what"."""
    settings = config.message
    found = check_lr_policy(settings) + check_rule(settings)
    for field, least in (("max_iter", 1), ("iter_size", 1), ("average_loss", 1), ("display", 0),
                         ("snapshot", 0), ("test_interval", 0)):
        if getattr(settings, field) < least:
            found.append((field, f"{field} must be at least {least}, got {getattr(settings, field)}"))
    if settings.regularization_type not in ("L1", "L2"):
        found.append(("regularization_type", f"regularization_type must be L1 or L2, got "
                      f"{settings.regularization_type!r}"))
    if decimal(settings.weight_decay) < 0:
        found.append(("weight_decay", f"weight_decay must not be negative, got "
                      f"{decimal(settings.weight_decay):g}"))
    return [f"{config.where(field)}: {problem}" for field, problem in dict.fromkeys(found)]


_IGNORED = {"debug_info": "minidrop time shows where the time goes, and a NaN is always located",
            "snapshot_diff": "snapshots hold no gradients", "snapshot_format": "snapshots are HDF5"}


def _warn_of_ignored(config):
    """Say which fields of a real Caffe file have no effect here, where the file sets them to something."""
    settings = config.message
    for field, reason in _IGNORED.items():
        if settings.HasField(field) and getattr(settings, field):
            log.warning("%s: %s has no effect: %s", config.where(field), field, reason)
