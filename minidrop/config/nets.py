"""solver_nets: the networks that a solver file names, and the state of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minidrop.config.check import is_repeated
from minidrop.config.load import NetConfig, load_net
from minidrop.config.minidrop_pb2 import TEST, TRAIN, NetState
from minidrop.config.state import filter_state, net_state
from minidrop.errors import ConfigError
from minidrop.files import in_order

if TYPE_CHECKING:
    from minidrop.config.load import SolverConfig

ALL_RECORDS = -1
"""The number of batches of a test that reads each record once."""

_TRAIN_FIELDS = ("train_net_param", "train_net", "net_param", "net")


@dataclass
class NetChoice:
    """A network of a solver: its unfiltered NetConfig, NetState, and batches per test.

    iterations: ALL_RECORDS for as many as have each record once; None: the network is trained. number: which
    of the networks to test it is, from 0 on.
    """

    config: NetConfig
    state: NetState
    iterations: int | None = None
    number: int = 0

    def filtered(self) -> NetConfig:
        """Return the NetConfig with only the layers that the state includes."""
        return filter_state(self.config, self.state.phase, self.state.level, tuple(self.state.stage))


def solver_nets(solver: SolverConfig, level: Any = None, stages: Sequence[str] = (),
                mistakes: list[ConfigError] | None = None) -> tuple[NetChoice | None, list[NetChoice]]:
    """Return (train, tests): the NetChoice to train and the list of those to test, of a SolverConfig.

    The train network is given by exactly one of train_net_param, train_net, net_param and net. The test
    networks are those of test_net_param and test_net, then, if test_iter has more entries, the common network
    of net_param or net. A state is merged from the phase, the network's own `state`, train_state or
    test_state, and (train network only, as on Caffe's command line) `level` and `stages`. A file is looked up
    in the working folder, then beside the solver file, see `in_order`; a file used twice is one NetConfig.
    Raises one ConfigError with every mistake; with a list `mistakes` they are added there instead.
    """
    found = _Finder(solver, [] if mistakes is None else mistakes)
    train, tests = found.train(level, stages), found.tests()
    if mistakes is None and found.mistakes:
        raise ConfigError.together(found.mistakes)
    return train, tests


class _Finder:
    """Finds the networks of a solver, and every mistake in how they are given."""

    def __init__(self, solver, mistakes):
        self.solver, self.message = solver, solver.message
        self.loaded, self.mistakes = {}, mistakes

    def add(self, place, what):
        self.mistakes.append(ConfigError(f"{self.solver.where(*place)}: {what}"))

    def train(self, level, stages):
        """Return the NetChoice to train, None if it has a mistake."""
        message = self.message
        given = [name for name in _TRAIN_FIELDS if message.HasField(name)]
        if not given:
            self.add((), "no network to train; give one of net, train_net, net_param, train_net_param")
            return None
        if len(given) > 1:
            self.add(given[1:2], f"{' and '.join(given[:2])} both give the network to train; keep one")
            return None
        state = message.train_state if message.HasField("train_state") else None
        return self.choice(given[0], 0, TRAIN, None, state, level, stages)

    def tests(self):
        """Return the NetChoices to test."""
        message = self.message
        fields = [("test_net_param", i) for i in range(len(message.test_net_param))]
        fields += [("test_net", i) for i in range(len(message.test_net))]
        iterations, states = message.test_iter, message.test_state
        count = len(iterations)
        common = next((name for name in ("net_param", "net") if message.HasField(name)), None)
        if common and count > len(fields):
            fields += [(common, 0)] * (count - len(fields))
        if count != len(fields):
            self.add(["test_iter"], f"expected one test_iter for each test network, {len(fields)} in all, "
                                    f"got {count}")
        if states and len(states) != len(fields):
            self.add(["test_state"], f"expected no test_state, or one for each test network, {len(fields)} "
                                     f"in all, got {len(states)}")
        if fields and not message.HasField("test_interval"):
            self.add(["test_iter"], f"{len(fields)} test networks but no test_interval; add one (0 never "
                                    f"tests), or remove test_iter")
        for i, value in enumerate(iterations):
            if value < 1 and value != ALL_RECORDS:
                self.add([("test_iter", i)], f"'test_iter' must be at least 1, or {ALL_RECORDS} for every "
                                             f"record once, got {value}")
        choices = [self.choice(*field, TEST, iterations[i] if i < count else 1,
                               states[i] if i < len(states) else None)
                   for i, field in enumerate(fields)]
        for i, choice in enumerate(choices):
            if choice is not None:
                choice.number = i
        return [choice for choice in choices if choice is not None]

    def choice(self, name, index, phase, iterations, state, level=None, stages=()):
        """Return the NetChoice of a field of the solver, None if its file has a mistake."""
        try:
            config = _config(self.solver, name, index, self.loaded)
        except ConfigError as error:
            self.mistakes.append(error)
            return None
        choice = NetChoice(config, NetState(phase=phase), iterations)
        _refine(choice, state, level, stages)
        return choice


def _refine(choice, state, level, stages):
    if choice.config.message.HasField("state"):
        choice.state.MergeFrom(choice.config.message.state)
    if state is not None:
        choice.state.MergeFrom(state)
    given = net_state(choice.state.phase, choice.state.level if level is None else level, stages)
    choice.state.level = given.level
    choice.state.stage.extend(stage for stage in given.stage if stage not in choice.state.stage)


def _config(solver, name, index, loaded):
    field = solver.message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        if (name, index) not in loaded:
            loaded[name, index] = solver.inline_net(name, index)
        return loaded[name, index]
    value = getattr(solver.message, name)
    path = _find(solver, value[index] if is_repeated(field) else value, (name, index))
    if path not in loaded:
        loaded[path] = load_net(path, solver.ignore_unknown)
    return loaded[path]


def _find(solver, path, place):
    candidates = in_order(path, [path, os.path.join(os.path.dirname(solver.path or ""), path)])
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    looked = " nor as ".join(repr(candidate) for candidate in dict.fromkeys(candidates))
    raise ConfigError(f"{solver.where(place)}: network file not found as {looked}")
