"""Objects: a model, a loss, an optimizer and loaders, for a Solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidrop.config import NetChoice, SolverConfig, SolverParameter
from minidrop.data import DataLoader, LoaderBatches
from minidrop.errors import ConfigError, SnapshotError
from minidrop.net import Net
from minidrop.nn import Module
from minidrop.nn.built import states_between
from minidrop.nn.objective import DATA, Objective, blob_names
from minidrop.solver.alike import check_alike
from minidrop.solver.communicator import Communicator
from minidrop.solver.early_stopping import EarlyStopping
from minidrop.solver.events import Event
from minidrop.solver.named import check_unmoved, checked_state
from minidrop.solver.object_checks import Tested, check_parameters, check_parts, check_types, tests_of
from minidrop.solver.object_ranks import check_loss, check_shared, described_data
from minidrop.solver.object_settings import settings_of
from minidrop.solver.prepare import net_of
from minidrop.solver.ranks import Ranks
from minidrop.solver.read_once import ReadOnce
from minidrop.solver.rule_update import RuleUpdate
from minidrop.solver.source import Source
from minidrop.solver.updater import Updater

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


Metrics: TypeAlias = Mapping[str, Callable[..., Any]]


class Objects(Source):
    """A model, its loss, an optimizer and loaders, as the source of a Solver; see `Solver.of`.

    The net is that of loss(model(*inputs), *targets), traced once. It shares the model's parameters, and the
    updater the optimizer's groups, with their histories; after each iteration optimizer, scheduler, loader
    and model stand where the solver does.

    As a callback it follows the steps, and lets snapshots keep the learning rates and decays.
    """

    name = "optimizer"
    alike = "let every rank make the same objects, with the same seeds and the whole dataset"

    def __init__(self, model: Module, loss: Callable[..., Any], optimizer: Any, train: DataLoader,
                 tests: Sequence[Tested], scheduler: Any, inputs: int, early_stopping: EarlyStopping | None,
                 max_iter: int | None, epochs: float | None, settings: Mapping[str, Any], ranks: int = 1):
        check_types(model, loss, optimizer, train, tests, scheduler, early_stopping)
        if model.seed < 0:
            raise ConfigError(f"Solver.of: expected the seed of the model to be 0 or more, got {model.seed}")
        self.model, self.optimizer, self.scheduler, self.loader = model, optimizer, scheduler, train
        self.groups = list(optimizer.param_groups)
        self.stopping = early_stopping
        check_shared(train, ranks)
        self.train = self._objective(loss, {}, train, inputs, True, ranks=ranks)
        self.tests = [self._objective(loss, test.metrics, test.loader, inputs, False, test.name)
                      for test in tests]
        check_parameters(model, self.groups, scheduler, self.train, self.tests)
        message = settings_of(settings, max_iter, epochs, train, model, self.groups, scheduler, self.train,
                              self.tests, early_stopping)
        super().__init__(SolverConfig.of(message, "Solver.of"))
        self.parts = [(module, module.training) for module in model.modules()]

    def _objective(self, loss, metrics, loader, inputs, training, name="", ranks=1):
        batches = LoaderBatches(loader)
        if not 1 <= inputs <= len(batches.shapes):
            raise ConfigError(f"inputs: expected a number of the {len(batches.shapes)} arrays of a batch, "
                              f"got {inputs}")
        batches.call(blob_names(self.model, batches.shapes, inputs))
        return Objective(self.model, loss, metrics, batches, inputs, training, name, ranks)

    # -- what a solver asks ----------------------------------------------------------------------------------
    def net(self, choice: NetChoice, share: Net | None, **options: Any) -> Net:
        own = self.train if choice.iterations is None else self.tests[choice.number]
        return net_of(choice, own.params if share is None else share, handed=own.handed, **options)

    def description(self) -> dict[str, object]:
        groups = [(group.lr, group.weight_decay, group.iteration, *group.parameters) for group in self.groups]
        found = {"optimizer": groups, "scheduler": self.scheduler and self.scheduler.state_dict(),
                 **described_data(self.train.batches, "training loader", True)}
        for i, test in enumerate(self.tests):
            found |= described_data(test.batches, f"loader of test {i}", False)
        return found

    def updater(self, settings: SolverParameter, net: Net) -> Updater:
        groups: Sequence[RuleUpdate] = self.groups
        return Updater(settings, net, groups, self._rates)

    def _rates(self, lr):
        first = self.groups[0].lr
        return [group.lr if lr == first else lr * (group.lr / first if first else 1.0)
                for group in self.groups]

    def learning_rate(self, settings: SolverParameter, iteration: int) -> float:
        return self.groups[0].lr if self.scheduler is None else self.scheduler.rates(iteration)[0]

    def early_stopping(self, settings: SolverParameter) -> EarlyStopping | None:
        return self.stopping

    def read(self, settings: SolverParameter) -> ReadOnce:
        return ReadOnce(settings, frozenset(), "change the optimizer's groups, or make another scheduler")

    def begin(self, solver: Solver) -> None:
        """Bring a solver to the optimizer's number of steps and the loader's place."""
        solver.callbacks.insert(0, self)        # the others see objects that have moved
        super().begin(solver)
        solver.iteration = self.groups[0].iteration
        state = self.loader.state_dict()
        solver.net.seek({DATA: self.train.batches.number(state["epoch"], state["batch"])})
        parts = solver.net.parts.states
        states = states_between(self.train.stateful, True, {
            place: np.broadcast_to(0, parts[place].whole_shape(array.shape)) if place in parts else array
            for place, array in solver.net.states.items()})
        solver.net.set_states({place: parts[place].take(array) if place in parts else array
                               for place, array in states.items()})
        choice, ranks = solver.choices[0], solver.ranks
        if choice is not None and not ranks.alone:
            check_alike(ranks, solver.net.parameters(), solver.net.backend)
            ranks.together(lambda: check_loss(self, solver.net, choice))
        self.follow(solver)

    @contextmanager
    def running(self, solver: Solver) -> Iterator[None]:
        """Within this context the solver runs; what it raises leaves the objects where it stands.

        Raises ConfigError if a loop by hand has taken steps meanwhile, or the optimizer has other groups.
        """
        self.read_once.check(solver.settings)
        if list(map(id, self.optimizer.param_groups)) != list(map(id, self.groups)):
            raise ConfigError("the optimizer's groups are others than when the solver was made, which would "
                              "not train them; make a new solver (Solver.of), which begins where this is")
        check_parts(self.model, self.parts)
        for group in self.groups:
            check_unmoved("Solver.of", group.parameters, group.history)
        steps = self.groups[0].iteration
        if steps != solver.iteration:
            raise ConfigError(f"the optimizer took {steps} steps and the solver {solver.iteration}: a loop "
                              f"by hand went on with it; make a new solver (Solver.of), which begins there")
        try:
            yield
        except BaseException:
            self._move(solver)
            raise
        self._join_states(solver)

    def follow(self, solver: Solver) -> None:
        """Bring optimizer, scheduler, model and loader to where the solver is; all ranks call this."""
        self._move(solver)
        self._join_states(solver)

    def _join_states(self, solver):
        """Let modules carry the states of the whole batch, of which each of several ranks has a part."""
        if self.train.stateful and not solver.ranks.alone:
            backend, parts = solver.net.backend, solver.net.parts.states
            self._carry({place: backend.asarray(solver.ranks.whole(backend.to_host(array), parts.get(place)))
                         for place, array in solver.net.states.items()})

    def _move(self, solver):
        """Do what `follow` does; of several ranks, modules carry no states meanwhile."""
        for group in self.groups:
            group.set_state(solver.iteration, group.lr, group.weight_decay)
        if self.scheduler is not None:
            self.scheduler.seek(solver.iteration)
        self.model.draw_from(solver.iteration * solver.settings.iter_size)
        self.loader.seek(*self.train.batches.place(solver.net.data_layers[DATA].position))
        if self.train.stateful and solver.ranks.alone:
            self._carry(solver.net.states)

    def _carry(self, states):
        for name, module, use in self.train.stateful:
            module.carry((True, use), {key: array for (layer, key), array in states.items() if layer == name})

    # -- a callback that snapshots keep ----------------------------------------------------------------------
    def __call__(self, event: Event) -> None:
        if event.kind == "step" and event.solver is not None:
            self._move(event.solver)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {"groups/0/SGD/lr": (1,) float64, ".../weight_decay"} and the scheduler's state."""
        state = {f"{place}/{name}": np.array([value], np.float64) for place, group in self._places()
                 for name, value in (("lr", group.lr), ("weight_decay", group.weight_decay))}
        if self.scheduler is not None:
            state |= {f"scheduler/{name}": array for name, array in self.scheduler.state_dict().items()}
        return state

    def _places(self):
        """Yield (where the state has a group's numbers, group)."""
        return ((f"groups/{i}/{type(group.rule).__name__}", group) for i, group in enumerate(self.groups))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned. Raises SnapshotError, with nothing changed, for another
        one."""
        found = checked_state("the optimizer", state, self.state_dict())
        numbers = {place: (found[f"{place}/lr"][0].item(), found[f"{place}/weight_decay"][0].item())
                   for place, _ in self._places()}
        if negative := [place for place, own in numbers.items() if min(own) < 0]:
            raise SnapshotError(f"the optimizer: expected lr and weight_decay >= 0, got "
                                f"{numbers[negative[0]]} as {negative[0]}")
        if self.scheduler is not None:
            self.scheduler.load_state_dict({name: found[f"scheduler/{name}"]
                                            for name in self.scheduler.state_dict()})
        for place, group in self._places():
            group.set_state(group.iteration, *numbers[place])

    def restart(self) -> None:
        """Leave the settings as they are."""


def solver_of(cls: type[Solver], model: Module, loss: Callable[..., Any], optimizer: Any, train: DataLoader,
              test: DataLoader | Sequence[DataLoader] | Mapping[str, DataLoader] | None = None, *,
              scheduler: Any = None, max_iter: int | None = None, epochs: float | None = None,
              metrics: Metrics | Sequence[Metrics] | Mapping[str, Metrics] | None = None,
              inputs: int = 1, early_stopping: EarlyStopping | None = None,
              snapshot_prefix: str | PathLike | None = None, dropout: str | None = None,
              communicator: Communicator | None = None, **settings: Any) -> Solver:
    """Return a Solver that trains a module with a loss, an optimizer and a loader.

        model = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.ApproxDropout(0.5), nn.Linear(2048, 10))
        solver = md.Solver.of(model, nn.CrossEntropyLoss(), md.optim.SGD(model.parameters(), lr=0.1),
                              train=DataLoader(images, 128, shuffle=True), test=DataLoader(others, 500),
                              metrics={"accuracy": nn.Accuracy()}, epochs=10)
        solver.solve()

    It is the Solver of a file: tests, events, snapshots that runs are resumed from, averages, and so on. An
    iteration computes loss(model(*inputs), *targets) of a batch, of which the first `inputs` arrays are the
    model's; without clipping it gives the same weights, bit for bit, as a loop that calls the objects by
    hand. Arrays come in the model's dtype, on its device.

    loss: a module, or a function of Tensors that returns one number. metrics: {name: the same}, which tests
    compute besides the loss, averaged over the records; a function may return a float. test: a loader that
    tests read whole, each record once, every test_interval iterations (an epoch, unless it is given); or
    several, as a list or as {name: loader}, each of which is a test net, in their order. These may have
    metrics of their own: a list, or {name: {metric: function}}.
    max_iter or epochs: how far to train, counted from the beginning. early_stopping: an EarlyStopping.
    dropout: as in `Solver`. settings: fields of a solver file that no object stands for: display,
    test_interval, snapshot, iter_size, clip_gradients, ema_decay, log_gradient_norm, ... Drops follow from
    the model's seed, see Module.set_seed.

    The solver begins where the objects stand: at the optimizer's number of steps, the loader's place, the
    weights as they are. They move with it, so that a loop written by hand can go on from there. The model is
    traced here: of what is changed in it later, only values count, and other modules, or others in training,
    are refused. Modules in eval mode stay so; tests put all into it.

    communicator: as in `Solver`. Every rank makes the same objects: the loader's batch_size is that of all
    ranks together, each of which trains its part of the batch, and the sum is that of one process.

    Raises ConfigError for what cannot be trained so: a module with traced = False, batches of differing
    shapes, groups with other rules; on several ranks, batches that they cannot share, and a loss that is not
    put together of the losses of their parts.
    """
    if snapshot_prefix is not None:
        settings["snapshot_prefix"] = fspath(snapshot_prefix)
    objects = Objects(model, loss, optimizer, train, tests_of(test, metrics), scheduler, inputs,
                      early_stopping, max_iter, epochs, settings, Ranks(communicator).size)
    return cls(objects, dropout=dropout, device=model.backend, dtype=model.dtype, communicator=communicator)
