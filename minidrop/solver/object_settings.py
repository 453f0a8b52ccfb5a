"""The SolverParameter of a Solver that is made of Python objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minidrop.config import SolverParameter
from minidrop.config.assign import assign
from minidrop.config.nets import ALL_RECORDS
from minidrop.config.numbers import real_number
from minidrop.data import DataLoader
from minidrop.errors import ConfigError
from minidrop.nn import Module
from minidrop.nn.objective import Objective
from minidrop.solver.early_stopping import EarlyStopping

# What objects say, in place of the fields of a solver file.
_SAID = {"model": ("net", "net_param", "train_net", "train_net_param", "train_state"),
         "test": ("test_net", "test_net_param", "test_state", "test_iter"),
         "optimizer": ("base_lr", "momentum", "momentum2", "rms_decay", "delta", "weight_decay",
                       "regularization_type", "decay_axes", "type", "solver_type"),
         "scheduler": ("lr_policy", "gamma", "power", "stepsize", "stepvalue", "warmup_iter", "min_lr",
                       "max_lr", "pct_start"),
         "model's method set_seed, called before an optimizer is made,": ("random_seed", "seed"),
         "model, whose method `to` moves it,": ("solver_mode", "device_id", "precision", "device", "dtype"),
         # options of a Solver of a file
         "training loader's batch_size, that of all ranks together,": ("batch_per_rank",),
         "optimizer's lr, multiplied by the number of ranks where that is meant,": ("scale_lr",)}
_SAYS = {field: what for what, fields in _SAID.items() for field in fields}


def settings_of(given: Mapping[str, Any], max_iter: int | None, epochs: float | None, loader: DataLoader,
                model: Module, groups: Sequence[Any], scheduler: Any, train: Objective,
                tests: Sequence[Objective], early_stopping: EarlyStopping | None) -> SolverParameter:
    """Return the SolverParameter that says the same as the objects, as far as its fields can.

    given: fields that no object stands for. Raises ConfigError for others.
    """
    message, first = SolverParameter(), groups[0]
    for field, value in given.items():
        if field in _SAYS:
            raise ConfigError(f"Solver.of: {field} is no setting here; the {_SAYS[field]} says it")
        assign(message, field, value, "Solver.of")
    assign(message, "max_iter", _iterations(max_iter, epochs, loader, message.iter_size), "Solver.of")
    for field, value in {"type": first.rule.name, "base_lr": first.lr, "weight_decay": first.weight_decay,
                         "random_seed": model.seed, "precision": model.backend.precision,
                         "regularization_type": "L1" if first.l1 else "L2", **vars(first.rule),
                         **_policy(scheduler, message.max_iter)}.items():
        if field in message.DESCRIPTOR.fields_by_name:
            assign(message, field, value, "Solver.of")
    message.train_net_param.CopyFrom(train.message)
    for test in tests:
        message.test_net_param.add().CopyFrom(test.message)
        message.test_iter.append(ALL_RECORDS)
    if tests and not message.HasField("test_interval"):
        if loader.records is None:
            raise ConfigError("Solver.of: the training loader does not know its length; say by "
                              "test_interval how many iterations there are between two tests")
        message.test_interval = max(1, len(loader) // max(1, message.iter_size))
    if early_stopping is not None:
        own = early_stopping
        assign(message, "early_stopping", {"metric": own.metric, "mode": own.mode.upper(),
                                           "patience": own.patience, "min_delta": own.min_delta})
    return message


def _iterations(max_iter, epochs, loader, iter_size):
    """Return how many iterations to train, given as such or as epochs."""
    if (max_iter is None) == (epochs is None):
        raise ConfigError("Solver.of: give either max_iter or epochs")
    if epochs is None:
        return max_iter
    if loader.records is None:
        raise ConfigError("Solver.of: the training loader does not know how many batches an epoch has; give "
                          "max_iter in place of epochs")
    number = real_number("Solver.of: epochs", epochs, "a number of more than 0", lambda n: 0 < n < math.inf)
    return math.ceil(number * len(loader) / max(1, iter_size))


def _policy(scheduler, max_iter):
    """Return the fields of the learning rates; "fixed" where they cannot say what the scheduler does."""
    if scheduler is None or scheduler.settings.get("max_iter", max_iter) != max_iter:
        return {"lr_policy": "fixed"}
    settings = {name: list(value) if isinstance(value, tuple) else value
                for name, value in scheduler.settings.items()}
    return {"lr_policy": scheduler.lr_policy, "base_lr": scheduler.state_dict()["base_lr"][0],
            **settings}
