"""Prepares a Solver: its settings, and the nets that they name, with overrides applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

from minidrop.backend import Backend, cuda_devices
from minidrop.config import (
    NetChoice,
    SolverConfig,
    SolverParameter,
    apply_overrides,
    load_solver,
    solver_nets,
    split_overrides,
)
from minidrop.config.state import is_in
from minidrop.errors import ConfigError
from minidrop.net import Net
from minidrop.net.checks import outputs_of
from minidrop.net.conversion import dropout_kind, prepare_nets
from minidrop.solver.checks import solver_problems, warn_of_ignored
from minidrop.solver.data_record import vocabulary_problems
from minidrop.solver.early_stopping import early_stopping_problems
from minidrop.solver.ranks import Ranks
from minidrop.solver.state import best_problems


def as_solver_config(source: SolverConfig | SolverParameter | str | PathLike) -> SolverConfig:
    """Return the SolverConfig of a description of a solver, which may be the path of a file."""
    if isinstance(source, SolverConfig):
        return source
    if isinstance(source, SolverParameter):
        return SolverConfig.of(source)
    return load_solver(source)


def prepared_nets(config: SolverConfig, overrides: Any, precision: str | None,
                  dropout: str | None, level: int | None, stages: Sequence[str],
                  mistakes: list[ConfigError]) -> tuple[NetChoice | None, list[Any]]:
    """Apply overrides to the solver and, once, to each net; returns (train, tests).

    Mistakes in how the solver gives its nets are added to `mistakes`; those of overrides are raised.
    """
    own, in_layers = split_overrides(overrides)
    apply_overrides(config, [*own, f"precision={precision}"] if precision else own)
    train, tests = solver_nets(config, level, stages, mistakes)
    nets = list({id(choice.config): choice.config for choice in (train, *tests) if choice}.values())
    if mistakes and in_layers:          # it might name a layer of a net that is missing
        raise ConfigError.together([ConfigError.of(solver_problems(config)), *mistakes])
    prepare_nets(nets, dropout, in_layers)
    return train, tests


def grown_batches(train: NetChoice, ranks: int) -> NetChoice:
    """Return the net to train with each batch_size times the number of ranks; other nets keep theirs.

    Raises ConfigError if no layer has a batch_size.
    """
    message, found = deepcopy(train.config.message), False
    for layer in message.layer:
        for _, param in layer.ListFields() if is_in(layer, train.state) else ():
            if "batch_size" in getattr(getattr(param, "DESCRIPTOR", None), "fields_by_name", ()):
                param.batch_size *= ranks
                found = True
    if not found:
        raise ConfigError(f"{train.config.where()}: batch_per_rank multiplies each batch_size by the number "
                          f"of ranks, but no layer of the net to train has one; write the whole batch there")
    return replace(train, config=replace(train.config, message=message))


def grown_rates(config: SolverConfig, ranks: int) -> SolverConfig:
    """Return a solver with the learning rates times the number of ranks (Goyal et al. 2017)."""
    message = deepcopy(config.message)
    for field in ("base_lr", "min_lr", "max_lr"):
        if message.HasField(field):
            setattr(message, field, getattr(message, field) * ranks)
    return replace(config, message=message)


def built_nets(config: SolverConfig, choices: Sequence[NetChoice | None],
               build: Callable[[NetChoice, Net | None], Net], mistakes: Sequence[ConfigError]) -> list[Net]:
    """Return the train net and the test nets, made by build(choice, train net or None).

    Raises one ConfigError with every mistake in the solver's fields and its nets.
    """
    nets: list[Net | None] = []
    errors = [ConfigError.of(solver_problems(config)), *mistakes]
    for choice in choices:
        try:
            nets.append(build(choice, nets[0] if nets else None) if choice is not None else None)
        except ConfigError as error:
            nets.append(None)
            errors.append(error)
    sound = [net for net in nets if net is not None]
    if len(sound) == len(nets):
        errors += [ConfigError.of(best_problems(config, sound[1:])),
                   ConfigError.of(early_stopping_problems(config, sound[1:])),
                   ConfigError.of(vocabulary_problems(sound[0], sound[1:])),
                   ConfigError.of(_output_problems(sound))]
    if any(str(error) for error in errors):
        for net in sound:
            net.close()
        raise ConfigError.together(error for error in errors if str(error))
    return sound


def _output_problems(nets):
    """Return the mistake of each HDF5Output that writes the file of another of the nets."""
    first: dict[Any, tuple[str, str]] = {}
    lines = []
    for number, net in enumerate(nets):
        title = f"test net {number - 1}" if number else "the train net"
        for place, node in outputs_of(net.graph):
            other, layer = first.setdefault(place, (title, node.name))
            if other != title:
                where = net.config.where(node.index, "hdf5_output_param", "file_name")
                lines.append(f"{where}: layer {node.name!r} (HDF5Output): in {title} it would write the file "
                             f"of {layer!r} in {other}; include the layer in one phase, or give each a "
                             f"file_name of its own")
    return lines


def net_of(choice: NetChoice, share: Any, ranks: Ranks | None = None, **options: Any) -> Net:
    """Return the net that a solver trains or tests; `share` and options as for `Net`.

    ranks: each trains a part of every batch. What they test is dealt out batch by batch.
    """
    phase = "TRAIN" if choice.iterations is None else "TEST"
    if phase == "TRAIN" and ranks is not None:
        options.update(rank=ranks.rank, ranks=ranks.size)
    net = Net(choice.config, phase, level=choice.state.level, stages=tuple(choice.state.stage), share=share,
              **options)
    written = [name for name, layer in net.layers.items() if layer.type == "HDF5Output"]
    if written and ranks is not None and not ranks.alone:
        raise ConfigError(f"{net.config.where()}: layer {written[0]!r} (HDF5Output): each of {ranks.size} "
                          f"ranks would write its file; leave it out, or use one process")
    return net


def chosen_device(settings: SolverParameter, device: str | Backend,
                  local_rank: int = 0) -> str | Backend:
    """Return the device to use; "auto" follows solver_mode and falls back to the CPU.

    local_rank: the number among the ranks of this machine, of which each takes the next GPU after device_id.
    """
    if device != "auto":
        return device
    if settings.solver_mode == settings.CPU:        # CuPy need not be loaded to say so
        return "cpu"
    count = cuda_devices()[0]
    if not count:
        return "cpu"
    return f"cuda:{(settings.device_id + local_rank) % count if local_rank else settings.device_id}"


def described_nets(config: SolverConfig, overrides: Any = (), dropout: str | None = None,
                   level: int | None = None, stages: Sequence[str] = ()) -> list[Net]:
    """Return the train net and the test nets of a solver, for inspection only (see `fills` of Net).

    Raises one ConfigError with every mistake in the solver and its nets.
    """
    mistakes: list[ConfigError] = []
    kind = dropout and dropout_kind(dropout)
    train, tests = prepared_nets(config, overrides, None, kind, level, stages, mistakes)
    warn_of_ignored(config)

    return built_nets(config, (train, *tests), partial(net_of, device="cpu", fills=False), mistakes)
