"""Which networks a solver file names, and in which state each is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minidrop.config.check import is_repeated
from minidrop.config.load import NetConfig, load_net
from minidrop.config.minidrop_pb2 import TEST, TRAIN, NetParameter, NetState
from minidrop.config.spec import NetSpec
from minidrop.config.state import filter_state
from minidrop.errors import ConfigError

if TYPE_CHECKING:
    from minidrop.config.load import SolverConfig

_TRAIN_FIELDS = ("train_net_param", "train_net", "net_param", "net")


@dataclass
class NetChoice:
    """A network of a solver: its unfiltered NetConfig, its NetState, and batches a test (None: training)."""

    config: NetConfig
    state: NetState
    iterations: int | None = None

    def filtered(self) -> Any:
        """Return the NetConfig with the layers that the state lets in."""
        return filter_state(self.config, self.state.phase, self.state.level, tuple(self.state.stage))


def solver_nets(solver: SolverConfig, level: Any = None, stages: tuple = ()) -> tuple[NetChoice, list]:
    """Return (train, tests): the NetChoice to train and the list of those to test, of a SolverConfig.

    The train network is the one of train_net_param, train_net, net_param, net. Tests are those of
    test_net_param and test_net, then, where test_iter counts more than these, the common network of net_param
    or net. A state is built from the phase, then the network's own `state`, then train_state or test_state,
    then `level` and `stages` (for the train network, as on Caffe's command line). A file is looked for beside
    the working folder, then beside the solver file; one file read twice is one NetConfig. ConfigError where
    the fields do not fit each other.
    """
    message, loaded = solver.message, {}
    given = [name for name in _TRAIN_FIELDS if message.HasField(name)]
    if not given:
        raise ConfigError(f"{solver.where()}: no network to train; give one of net, train_net, net_param, "
                          "train_net_param")
    if len(given) > 1:
        both = " and ".join(given[:2])
        raise ConfigError(f"{solver.where(given[1])}: {both} both give the network to train; keep one")
    train = NetChoice(_config(solver, given[0], 0, loaded), NetState(phase=TRAIN))
    _refine(train, message.train_state if message.HasField("train_state") else None, level, stages)
    return train, _tests(solver, loaded)


def _tests(solver, loaded):
    message = solver.message
    fields = [("test_net_param", i) for i in range(len(message.test_net_param))]
    fields += [("test_net", i) for i in range(len(message.test_net))]
    count = len(message.test_iter)
    common = next((name for name in ("net_param", "net") if message.HasField(name)), None)
    if common and count > len(fields):
        fields += [(common, 0)] * (count - len(fields))
    if count != len(fields):
        raise ConfigError(f"{solver.where('test_iter')}: expected one test_iter for each test network, "
                          f"{len(fields)} in all, got {count}")
    states = message.test_state
    if states and len(states) != len(fields):
        raise ConfigError(f"{solver.where('test_state')}: expected no test_state, or one for each test "
                          f"network, {len(fields)} in all, got {len(states)}")
    if fields and not message.HasField("test_interval"):
        raise ConfigError(f"{solver.where('test_iter')}: {len(fields)} test networks but no test_interval; "
                          "add one (0 never tests), or remove test_iter")
    tests = []
    for i, (name, index) in enumerate(fields):
        if message.test_iter[i] < 1:
            raise ConfigError(f"{solver.where(('test_iter', i))}: 'test_iter' must be at least 1, got "
                              f"{message.test_iter[i]}")
        test = NetChoice(_config(solver, name, index, loaded), NetState(phase=TEST), message.test_iter[i])
        _refine(test, states[i] if states else None, None, ())
        tests.append(test)
    return tests


def _refine(choice, state, level, stages):
    if choice.config.message.HasField("state"):
        choice.state.MergeFrom(choice.config.message.state)
    if state is not None:
        choice.state.MergeFrom(state)
    if level is not None:
        choice.state.level = level
    choice.state.stage.extend(stage for stage in stages if stage not in choice.state.stage)


def _config(solver, name, index, loaded):
    field = solver.message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        if (name, index) not in loaded:
            loaded[name, index] = solver.inline_net(name, index)
        return loaded[name, index]
    value = getattr(solver.message, name)
    path = _find(solver, value[index] if is_repeated(field) else value, (name, index))
    if path not in loaded:
        loaded[path] = load_net(path)
    return loaded[path]


def _find(solver, path, place):
    beside = os.path.join(os.path.dirname(solver.path or ""), path)
    for candidate in (path, beside):
        if os.path.isfile(candidate):
            return candidate
    looked = " nor as ".join(repr(candidate) for candidate in dict.fromkeys((path, beside)))
    raise ConfigError(f"{solver.where(place)}: network file not found as {looked}")


def as_net_config(source: object) -> NetConfig:
    """Return the NetConfig of what a net is built from; ConfigError for anything else."""
    if isinstance(source, NetConfig):
        return source
    if isinstance(source, NetParameter):
        return NetConfig.of(source)
    if isinstance(source, NetSpec):
        return NetConfig.of(source.to_proto())
    if isinstance(source, str | os.PathLike):
        return load_net(os.fspath(source))
    raise ConfigError(f"a net is built from a NetConfig, NetParameter, NetSpec or path, got "
                      f"{type(source).__name__}")
