"""Solvers by pycaffe's names, over minidrop's Solver."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from minidrop.autograd import Parameter
from minidrop.autograd.block import Blocks
from minidrop.caffe import mode
from minidrop.caffe.net import Net
from minidrop.config.numbers import whole_number
from minidrop.errors import ConfigError, NonFiniteError
from minidrop.net.layerwise_parts import BlobGradients, compute_apart
from minidrop.solver import Solver as Core
from minidrop.solver.averages import average, begin
from minidrop.solver.prepare import as_solver_config


class Solver:
    """Trains as a solver file says, by the rule of its type; `core` is the minidrop Solver behind it.

    `net` and `test_nets` are nets by pycaffe's names. It runs on the device that is set (see `set_mode_gpu`),
    whatever solver_mode says. A step computes, as in minidrop's own training, only the units that drops keep,
    with the same bits; it leaves blobs and the gradients of blobs and parameters to be looked at.
    """

    type: str | None = None

    def __init__(self, solver_file: Any):
        config = replace(as_solver_config(solver_file), is_stepped=True)
        overrides: dict[str, Any] = {"type": self.type} if self.type else {}
        seed = mode.seed()
        if seed is not None and config.message.random_seed < 0:
            overrides["random_seed"] = seed
        self.core = Core(config, overrides, device=mode.device())
        self.net = Net.of(self.core.net)
        self.test_nets = [Net.of(net) for net in self.core.test_nets]
        self._on_start: list[Callable[[], object]] = []
        self._on_gradients: list[Callable[[], object]] = []
        self._blob_gradients: BlobGradients | None = None
        compute_apart(self.core.net)
        self.core.after_forward.append(self._watch)
        self.core.after_backward.append(self._ready)

    def _watch(self) -> None:
        """Keep the gradients of the blobs of the pass that goes backward now, for who looks later."""
        scale = self.core.loss_scale
        self._blob_gradients = BlobGradients(self.core.net.run, scale.value if scale else 1.0)

    def _ready(self, parameters: dict[str, Parameter]) -> None:
        """Call what waits for the gradients, which may change them, then keep them for who looks later."""
        self.net.gradients_of_step.clear()
        if self._blob_gradients is not None:
            self.net.layerwise.give_gradients(self._blob_gradients)
        for function in self._on_gradients:
            function()
        self.net.gradients_of_step = {
            own: partial(Blocks(own.blocks, own.dtype).dense, own.backend, own.shape)
            for own in parameters.values()}

    @property
    def iter(self) -> int:
        """The number of iterations done."""
        return self.core.iteration

    @property
    def param(self) -> Any:
        """The SolverParameter."""
        return self.core.settings

    @property
    def lr(self) -> float:
        """The learning rate of the current iteration."""
        return self.core.learning_rate

    def step(self, iterations: int) -> None:
        """Run iterations: forward, backward, update, with the tests and snapshots that are due.

        Early stopping ends them behind a test. A negative number is none, as in pycaffe; raises
        ConfigError for what is no whole number.
        """
        end, before = self.iter + whole_number("step: iterations", iterations), -1
        with self.core.uncaptured():
            while before < self.iter < end:
                before = self.iter
                self._start()
                self.core.step(1)

    def solve(self, resume_file: str | os.PathLike | None = None) -> None:
        """Train until max_iter, from a snapshot if one is given, then write a snapshot and test.

        Raises ConfigError where the file has no max_iter, which `step` can do without.
        """
        if not self.param.max_iter:
            raise ConfigError(f"{self.core.config.where()}: max_iter is missing, to which solve() trains; "
                              f"step(n) needs none")
        if resume_file is not None:
            self.restore(resume_file)
        started = None

        def start(_core: Core) -> bool:
            nonlocal started
            if started != self.iter:        # it is asked between the batches of tests as well
                started = self.iter
                self._start()
            return False

        with self.core.uncaptured():
            self.core.solve(start)

    def _start(self) -> None:
        self.net.reshape()
        for function in self._on_start:
            function()

    def apply_update(self) -> None:
        """Update the weights by the gradients that the net's parameters hold, and clear those.

        They are divided by iter_size, as Caffe does; `iter` stays. Raises NonFiniteError, and changes
        nothing, if one of them is not finite.
        """
        core = self.core
        self.net.take_gradients_of_step()
        begin(core)
        if broken := core.updater.apply(core.iteration, core.learning_rate, core.settings.iter_size):
            raise NonFiniteError(f"apply_update: the gradient of {broken} is not finite; nothing was updated")
        average(core)

    def add_callback(self, on_start: Callable[[], object], on_gradients_ready: Callable[[], object]) -> None:
        """Call on_start() before each iteration, on_gradients_ready() before each update.

        What the latter writes to the `diff` of a parameter is what the update uses.
        """
        self._on_start.append(on_start)
        self._on_gradients.append(on_gradients_ready)

    def snapshot(self) -> str:
        """Write a snapshot, from which `restore` goes on; returns its path."""
        return str(self.core.snapshot())

    def restore(self, path: str | os.PathLike) -> None:
        """Go on from a snapshot, or from a .solverstate or .solverstate.h5 of Caffe's."""
        self.core.restore(path)


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum, whatever the file's type."""

    type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient, whatever the file's type."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad, whatever the file's type."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp, whatever the file's type."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta, whatever the file's type."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Adam, whatever the file's type."""

    type = "Adam"


def get_solver(solver_file: Any) -> Solver:
    """Return the solver of a file, of the class of its type."""
    config = as_solver_config(solver_file)
    classes = SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver
    kind = next((kind for kind in classes if kind.type == config.message.type), Solver)
    return kind(config)
