"""Solver: trains a net as a solver file says, in Caffe's loop."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from minidrop.autograd import Parameter, Tensor
from minidrop.backend import Backend
from minidrop.config import load_solver
from minidrop.config.numbers import truth, whole_number
from minidrop.errors import ConfigError, fits_into_memory
from minidrop.net import Net
from minidrop.net.conversion import dropout_kind
from minidrop.solver import show, state
from minidrop.solver.alike import check_alike, check_description, warn_of_others
from minidrop.solver.averages import average_statistics, averages_of, begin, permute, tested_weights
from minidrop.solver.captured import CapturedSteps
from minidrop.solver.checks import warn_of_best, warn_of_ignored
from minidrop.solver.communicator import Communicator
from minidrop.solver.engines import Engine, engine_of
from minidrop.solver.evaluation import TestStopped, run_test
from minidrop.solver.events import Event, checked_callback, small_outputs, small_values, stateful, tell
from minidrop.solver.local_steps import LocalSteps
from minidrop.solver.loss_scale import LossScale
from minidrop.solver.objects import solver_of
from minidrop.solver.parallel import GradientSum
from minidrop.solver.prepare import built_nets, chosen_device, grown_batches, grown_rates, prepared_nets
from minidrop.solver.ranks import Ranks
from minidrop.solver.saving import Saving
from minidrop.solver.source import Description, as_source
from minidrop.solver.steps import EagerSteps
from minidrop.solver.wire import wire_of


class Solver(Saving):
    """Trains `net`, tests `test_nets`, writes snapshots. Use `step`, or `solve` for the whole run.

    `source`: a SolverConfig, a SolverParameter or the path of a solver file; `of` takes Python objects.
    `overrides`: {"base_lr": 0.05} or ["layer.drop1.approx_dropout_param.dropout_ratio=0.3"]. `dropout`: None,
    "conventional", "approx" or "approx:FAMILY", to which every drop layer is converted. `device`: "auto"
    follows solver_mode and falls back to the CPU. `level`, `stages`: of the train net. `snapshot_prefix`,
    `precision` (of products on a GPU): instead of the file's; with float16 the gradients are scaled (see
    `LossScale`). Raises one ConfigError with every mistake in the solver file and its nets.

    On a GPU iterations are captured (see `CapturedSteps`) unless capture_steps is false. Then an error is
    raised some iterations after the one that caused it, by the first call that needs a result; weights and
    states are then those before the failed iteration.

    Without a prefix, snapshots are only written every `snapshot` iterations and by `snapshot()`, into the
    working folder. `stop()` ends training after the current iteration, also from a callback (see `Event`).
    `initial_weights`: False leaves the files that `weights` names unread, for a solver to be restored.
    `skip_mismatched`: their arrays of other shapes are left out, with a warning for each.
    `ema`: with ema_decay the averages of the weights (see EMA), which begin as the weights before the first
    iteration. Statistics of layers, as of BatchNorm, are as they are. `early_stopping`: the file's.

    `communicator`: of the ranks that train together; every rank makes the same Solver and calls the same
    methods. Each reads its part of every batch, and gradients are added up over them (see `Ranks` and
    `GradientSum`), or weights are averaged now and then (`LocalSteps`); rank 0 alone writes snapshots.
    `ranks` is what they agree on. `batch_per_rank`: each batch_size of the net to train is that of one rank.
    `scale_lr`: learning rates times the number of ranks.

    `choices` is (train, tests): the NetChoice of each net, overrides applied. `settings` is the resolved
    SolverParameter. `steps` runs the iterations.

    `after_forward`: functions called before the last pass of an iteration goes backward, in eager steps only.
    `after_backward`: functions called with {"layer/name": Parameter} of all trained parameters when the
    gradients of an iteration are complete (after iter_size passes), before they are clipped and applied. They
    may change the gradients, which in float16 are still multiplied by `loss_scale`. In captured steps their
    launches are captured with the iteration, see `CapturedSteps`.
    """

    _stopping = False
    __repr__ = show.described
    of = classmethod(solver_of)

    def __init__(self, source: Description, overrides: Mapping | Sequence[str] = (),
                 dropout: str | None = None, device: str | Backend = "auto", dtype: str = "float32",
                 level: int | None = None, stages: Sequence[str] = (),
                 snapshot_prefix: str | PathLike | None = None, precision: str | None = None,
                 initial_weights: bool = True, skip_mismatched: bool = False,
                 communicator: Communicator | None = None, batch_per_rank: bool = False,
                 scale_lr: bool = False):
        self.source, self.ranks = as_source(source), Ranks(communicator)
        warn_of_others(communicator)
        self.config = self.source.config
        dropout = dropout and dropout_kind(dropout)
        mistakes: list[ConfigError] = []
        train, tests = prepared_nets(self.config, overrides, precision, dropout, level, stages, mistakes)
        if truth("batch_per_rank", batch_per_rank) and train is not None:
            train = grown_batches(train, self.ranks.size)
        if truth("scale_lr", scale_lr):
            self.config = grown_rates(self.config, self.ranks.size)
        self.settings = self.config.message
        self.choices = train, tests
        check_description(self.ranks, {"dtype": dtype, "dropout": dropout, "solver": self.settings} | {
            f"net {i}": choice and choice.config.message for i, choice in enumerate((train, *tests))} | (
                {} if self.ranks.alone else self.source.description()), self.source.alike)
        self.device = chosen_device(self.settings, device, self.ranks.communicator.local_rank)
        self.dtype, self.dropout = dtype, dropout
        prefix = snapshot_prefix or self.settings.snapshot_prefix
        self.place_snapshots(prefix or Path(self.config.path or "minidrop").stem)
        self.has_prefix = bool(prefix)
        self.callbacks: list[Callable[[Event], object]] = []
        self._late_error: BaseException | None = None
        self._should_stop: Callable[[Solver], object] = _never
        self.after_forward: list[Callable[[], object]] = []
        self.after_backward: list[Callable[[dict[str, Parameter]], object]] = []
        warn_of_ignored(self.config)
        self._nets: list[Net] = []
        self._engine: Engine | None = None
        seed = self.settings.random_seed
        self.build(seed if seed >= 0 else int(self.ranks.of_root(str(secrets.randbits(31)))), mistakes)
        warn_of_best(self.config, self.test_nets)
        self.early_stopping = self.source.early_stopping(self.settings)
        if truth("initial_weights", initial_weights):
            self.load_initial_weights(skip_mismatched)
        self.source.begin(self)

    @classmethod
    def from_file(cls, path: str | PathLike, overrides: Mapping | Sequence[str] = (),
                  **options: Any) -> Solver:
        """Return the Solver of a solver file; options as in `Solver`."""
        return cls(load_solver(path), overrides, **options)

    def build(self, seed: int, mistakes: Sequence[ConfigError] = ()) -> None:
        """Make the nets and the update rule for a seed, at iteration 0.

        Made again, the nets stay the same objects, and read the arrays and inputs that were set. Raises
        `mistakes`, known already, together with those that it finds.
        """
        train, tests = self.choices
        nets = built_nets(self.config, (train, *tests), partial(
            self.source.net, device=self.device, dtype=self.dtype, seed=seed,
            precision=self.settings.precision, ranks=self.ranks), mistakes)
        if self._nets:
            self.steps.close()
            for old, new in zip(self._nets, nets, strict=True):     # references to a net stay valid
                old.become(new)
        self._nets = self._nets or nets
        self.net, *self.test_nets = self._nets
        self.seed = seed
        self.updater = self.source.updater(self.settings, self.net)
        self._engine = self._engine or engine_of(self.ranks, self.net.backend, wire_of(self.settings))
        self.gradient_sum = GradientSum(self.ranks, self.net.backend, self.settings.reduce_bucket,
                                        self.settings.layer_wise_reduce, self._engine)
        self.local_steps = LocalSteps(self)
        self.ema = averages_of(self)
        self.loss_scale = LossScale() if self.net.backend.precision == "float16" else None
        self.iteration = 0
        self.best: float | None = None
        captures = self.settings.capture_steps and self.net.backend.captures
        steps = CapturedSteps if captures else EagerSteps
        self.steps: EagerSteps | CapturedSteps = steps(self)
        self._snapshot_iteration: int | None = None
        self._tested: dict[int, dict] = {}
        for callback in stateful(self):
            callback.restart()

    # -- running ---------------------------------------------------------------------------------------------
    def solve(self, should_stop: Callable[[Solver], bool] = lambda solver: False) -> dict[str, float | list]:
        """Train until max_iter, then write the last snapshot and test.

        Returns the values of the last test of the first test net, {} if there was none. Between iterations
        and between test batches training ends if `should_stop(solver)` is true or `stop` was called, as by
        early stopping; it then writes the last snapshot, but does not test again. Raises SnapshotError at the
        start if no snapshot could be written under its name.
        """
        self.ranks.meet("solve")
        if self.has_prefix or self.settings.snapshot:
            state.check_names(self)
        self.local_steps.join()
        check_alike(self.ranks, self.updater.parameters, self.net.backend)
        self._stopping = False
        self._should_stop = lambda solver: self.ranks.any(should_stop(solver) or self._stopping)
        try:
            with self._running():
                while self.iteration < self.settings.max_iter and not self._should_stop(self):
                    self._iterate()
            stopped = self.iteration < self.settings.max_iter
        finally:
            self._should_stop = _never
        with self._running():
            self.local_steps.join()
            if self.settings.snapshot_after_train and not self.is_saved and state.writes_snapshots(self):
                self.snapshot()
            if self.losses and not stopped:
                tell(self, "display", {"loss": self.smoothed_loss, "lr": self.learning_rate})
            if self.settings.test_interval and not stopped:
                self.test_all()
        return self._tested.get(0, {})

    def step(self, iterations: int = 1) -> None:
        """Run iterations, at most up to one in which `stop` is called.

        Each one tests and reshuffles if due, runs forward and backward, updates, and writes a snapshot if
        due. Raises NonFiniteError before the update if the loss is NaN or infinite.
        """
        iterations = whole_number("step: iterations", iterations, 0)
        self.ranks.meet("step")
        self._stopping = False
        with self._running():
            for _ in range(iterations):
                self._iterate()
                if self.ranks.any(self._stopping):
                    return

    @contextmanager
    def _running(self):
        """Within this context TestStopped ends the iterations; no reader thread outlives an error."""
        try:
            with self.source.running(self):
                yield
                if not self.ranks.alone:
                    self.settle()
        except TestStopped:
            pass
        except BaseException:
            for net in self._nets:
                net.stop_reading()
            raise

    def stop(self) -> None:
        """End `solve` or `step` after this iteration; in a test, before it and between two batches."""
        self._stopping = True

    def _iterate(self) -> None:
        with fits_into_memory(f"iteration {self.iteration}: what it computes"):     # where no layer is known
            self._step()

    def _step(self) -> None:
        settings = self.settings
        self.steps.look_behind()
        if settings.test_interval and self.iteration % settings.test_interval == 0 and (
                self.iteration > 0 or settings.test_initialization):
            self.test_all()
            if self.ranks.any(self._stopping):
                raise TestStopped
        # After the tests, which write the best snapshot: a run resumed from it permutes here as well.
        for parameter, axis, order in self.net.due_permutations(self.iteration):
            self.settle()
            self.updater.permute(parameter, axis, order)
            permute(self.ema, parameter, axis, order)
        begin(self)
        self._late_error = None
        values = self.steps.step(self.learning_rate, self._display)
        self.iteration += 1
        if self._late_error is not None:
            raise self._late_error
        tell(self, "step", values)
        if settings.snapshot and self.iteration % settings.snapshot == 0:
            self.snapshot()

    def _display(self, values: Mapping, outputs: dict[str, Tensor]) -> None:
        if self.settings.display and self.iteration % self.settings.display == 0:
            try:
                tell(self, "display", {**values, **small_outputs(outputs)})
            except BaseException as error:      # the iteration is completed first
                self._late_error = error

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Within this context iterations run layer by layer, so that blobs and gradients can be read."""
        self.settle()
        steps, self.steps = self.steps, self.steps.uncaptured
        try:
            yield
        finally:
            self.steps = steps

    @property
    def captured(self) -> CapturedSteps | None:
        """`steps` if it captures iterations, else None."""
        return self.steps if isinstance(self.steps, CapturedSteps) else None

    def settle(self) -> None:
        """Wait, on all ranks, for what is queued on the device; raises the error of the first that failed."""
        self.steps.settle()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the current iteration."""
        return self.source.learning_rate(self.settings, self.iteration)

    @property
    def losses(self) -> deque[float]:
        """The training losses of the last `average_loss` iterations: weighted sums, without weight decay."""
        self.steps.look()
        return self.steps.losses

    @property
    def smoothed_loss(self) -> float:
        """The mean of the last `average_loss` losses."""
        self.steps.look()
        return self.steps.smoothed_loss

    def test_all(self) -> list[dict[str, float | list]]:
        """Test every test net, write the best snapshot if configured, and return {output: mean} of each."""
        results = [self.test(i) for i in range(len(self.test_nets))]
        state.keep_best(self, results)
        return results

    def test(self, index: int = 0) -> dict[str, float | list]:
        """Return {output: mean over test_iter batches} of a test net, from the first record on.

        The net reads the averages of the weights, if there are any (ema_test). The "test" event leaves out
        outputs of more than 100 values.
        """
        self.ranks.meet("test")
        self.settle()
        self.local_steps.join()
        average_statistics(self.net, self.ranks)
        net, choice = self.test_nets[index], self.choices[1][index]
        with tested_weights(self):
            values = run_test(net, choice.iterations, 0, lambda: self._should_stop(self), self.ranks)
        if not self.settings.test_compute_loss:
            values.pop("total_loss")
        self._tested[index] = values
        tell(self, "test", small_values(values), index)
        return values

    # -- callbacks -----------------------------------------------------------------------------------------
    def add_callback(self, function: Callable[[Event], object]) -> Callable[[Event], object]:
        """Call function(event) for every Event from now on; returns the function.

        Snapshots keep the state of one that is Stateful, see solver.events: add it before `restore`. Raises
        ConfigError for a second one of its name.
        """
        self.callbacks.append(checked_callback(self, function))
        return function

    def close(self) -> None:
        """Stop reader threads, free device memory held for captured iterations, end the link to other ranks.
        """
        self.steps.close()
        self.steps = self.steps.uncaptured
        self.gradient_sum.engine.close()
        for net in (self.net, *self.test_nets):
            net.close()


def _never(_solver):
    return False
