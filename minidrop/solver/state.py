"""The state of a Solver in files: writing and restoring snapshots, initial weights, the best snapshot."""

from __future__ import annotations

import errno
import json
import logging
from os import PathLike
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config import SolverConfig
from minidrop.errors import NonFiniteError, SnapshotError, nearest
from minidrop.net import Net
from minidrop.net.definition import DEPLOY, definition_of
from minidrop.net.given import given_net
from minidrop.net.loading import Paths, apart
from minidrop.net.vocabularies import vocabularies_of, warn_of_other_vocabularies
from minidrop.snapshot import (
    Snapshot,
    check_keys,
    is_run_name,
    join_key,
    read_snapshot,
    split_key,
    write_snapshot,
)
from minidrop.solver.alike import check_alike
from minidrop.solver.averages import average_statistics, averages_of
from minidrop.solver.caffe_state import endings
from minidrop.solver.data_record import (
    place_record,
    places_of,
    vocabulary_record,
    warn_of_other_places,
)
from minidrop.solver.drop_record import drop_record, read_record, warn_of_other_patterns
from minidrop.solver.events import stateful
from minidrop.solver.loss_scale import LossScale

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

_WEIGHT_HINT = "Did num_output of that layer or of the one before it change?"
_STATE_HINT = "Did batch_size of the data change? --weights starts with new states"


def write(solver: Solver, path: Path) -> None:
    """Write weights, history, positions, seed and descriptions of a Solver to `path`, atomically.

    Raises NonFiniteError if a value is not finite, so that training could not continue from it. Of several
    ranks all call this, and rank 0 writes.
    """
    ranks, net = solver.ranks, solver.net
    solver.local_steps.join()
    check_alike(ranks, solver.updater.parameters, net.backend)
    average_statistics(net, ranks)
    arrays = {key: net.backend.to_host(array) for key, array in _state_arrays(solver).items()}
    for names, part in net.parts.states.items():        # of the whole batch, whatever the number of ranks
        key = join_key("state", *names)
        arrays[key] = ranks.whole(arrays[key], part)
    if broken := _nonfinite(arrays):
        raise NonFiniteError(f"iteration {solver.iteration}: {broken} is not finite, so no snapshot was "
                             f"written. Try a smaller base_lr (now {solver.learning_rate:g}) or "
                             f"clip_gradients{solver.written.advice()}")
    arrays["solver/losses"] = np.array(solver.losses, np.float64)
    arrays.update({join_key("positions", name): np.array([position], np.int64)
                   for name, position in solver.net.positions.items()})
    attrs = {"iteration": solver.iteration, "seed": solver.seed, "dtype": solver.dtype,
             "rule": solver.settings.type, "dropout": solver.dropout or "",
             "net": str(solver.net.config.message), "solver": str(solver.settings),
             "patterns": drop_record(solver.net), "vocabularies": vocabulary_record(solver.net),
             "texts": place_record(solver.net), DEPLOY: definition_of(_net_in_use(solver))[DEPLOY]}
    if shared := [names for names in solver.net.owners().values() if len(names) > 1]:
        attrs["shared"] = json.dumps(shared)
    if solver.written.run:
        attrs.update(run=solver.written.run, loss=solver.smoothed_loss)
    if solver.ema is not None:
        attrs["ema_updates"] = solver.ema.updates
    for callback in stateful(solver):
        arrays.update({join_key("callbacks", callback.name, key): np.asarray(array)
                       for key, array in callback.state_dict().items()})
    if solver.best is not None:
        attrs["best"] = float(solver.best)
    if solver.net.backend.precision != "float32":
        attrs["precision"] = solver.net.backend.precision
    if solver.loss_scale is not None:
        attrs.update(solver.loss_scale.state)
    ranks.at_root(lambda: _write_file(path, Snapshot(arrays, attrs)))


def _net_in_use(solver):
    """Return the net that a snapshot describes: the first that is tested, if its weights are all there."""
    tested = next(iter(solver.test_nets), None)
    trained = {name for names in solver.net.owners().values() for name in names}
    return tested if tested and trained.issuperset(tested.parameters()) else solver.net


def _write_file(path, snapshot):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnapshotError(f"{path}: the folder cannot be made: {error.strerror}") from error
    write_snapshot(path, snapshot)


def check_names(solver: Solver) -> None:
    """Raise SnapshotError if the name of the file or of an array is too long for a snapshot."""
    path = Path(f"{solver.snapshot_prefix}_iter_{solver.settings.max_iter}.h5")
    check_keys(path, _state_arrays(solver))
    path = path.with_suffix(max((".h5", *endings(solver.settings)), key=len))
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SnapshotError(f"{path}: no snapshot can have this name, which is too long; choose a "
                                f"shorter snapshot_prefix") from error


def _state_arrays(solver):
    """Return every array that training changes, by its key in a snapshot."""
    arrays = {_key("data", name): p.data for name, p in solver.net.parameters().items()}
    for name, history in solver.updater.history.items():
        arrays.update({f"{_key('solver/history', name)}/{i}": h for i, h in enumerate(history)})
    arrays.update({join_key("state", *names): array for names, array in solver.net.states.items()})
    if solver.ema is not None:
        arrays.update({_key("ema", name): average for name, average in solver.ema.averages.items()})
    return arrays


def _nonfinite(arrays):
    """Return the key of an array that holds a NaN or infinity, or None."""
    return next((key for key, array in arrays.items()
                 if array.dtype.kind == "f" and not np.isfinite(array).all()), None)


def _key(group, name):
    layer, parameter = name.rsplit("/", 1)
    return f"{group}/{join_key(layer, parameter)}"


def restore(solver: Solver, path: str | PathLike) -> None:
    """Set a Solver to the state in `path`; everything is checked before anything is changed.

    Logs a warning if drops will draw other patterns than when the snapshot was written. Raises SnapshotError.
    """
    snapshot = read_snapshot(path)
    arrays = snapshot.arrays
    attrs: dict[str, Any] = snapshot.attrs
    if "solver/losses" not in arrays or not {"iteration", "seed", "rule"} <= set(attrs):
        raise SnapshotError(f"{path}: holds weights but no solver state; give it with --weights, not "
                            f"--resume")
    losses, positions = _checked_state(path, arrays, attrs)
    loss_scale = solver.loss_scale and LossScale.of(path, attrs)
    record = read_record(path, attrs["patterns"]) if "patterns" in attrs else None
    seed, wanted = attrs["seed"], solver.settings.random_seed
    if wanted >= 0 and wanted != seed:
        raise SnapshotError(f"{path}: was written with random_seed {seed}, this solver says {wanted}; a "
                            f"resumed run must keep the seed. To start anew from these weights use --weights")
    if attrs["rule"] != solver.settings.type:
        raise SnapshotError(f"{path}: was written by solver type {attrs['rule']!r}, this one is "
                            f"{solver.settings.type!r}; their histories differ. To start anew from these "
                            f"weights use --weights")
    averaged = "ema_updates" in attrs
    for names, part in solver.net.parts.states.items():
        key = join_key("state", *names)
        if key in arrays and arrays[key].shape[part.axis:part.axis + 1] == (part.whole,):
            arrays[key] = part.take(arrays[key])
    groups = ("data", "solver", "state", *["ema"] * (averaged and solver.ema is not None))
    expected = {key: array for key, array in _state_arrays(solver).items() if key.split("/")[0] in groups}
    found = {key for key in arrays if key.split("/")[0] in groups} - {"solver/losses"}
    for key in expected:
        if key not in found:
            raise SnapshotError(f"{path}: is no snapshot of this net: it has no {key}{nearest(key, found)}")
        hint = _STATE_HINT if key.startswith("state/") else _WEIGHT_HINT
        _check_shape(path, key, arrays[key], expected[key], hint)
    if found - set(expected):
        raise SnapshotError(f"{path}: is no snapshot of this net: it has {min(found - set(expected))}, the "
                            f"net has not")
    states = _callback_states(path, solver, arrays)
    if broken := _nonfinite({key: arrays[key] for key in expected}):
        raise SnapshotError(f"{path}: training cannot go on from here: {broken} is not finite; use an older "
                            f"one")
    if seed != solver.seed:
        solver.build(seed)
    for key, target in _state_arrays(solver).items():
        if key in expected:
            target[...] = solver.net.backend.asarray(arrays[key], target.dtype)
    for parameter in solver.net.parameters().values():
        parameter.note_change()
    _restore_averages(solver, path, attrs)
    _restore_callbacks(solver, path, states)
    solver.iteration = attrs["iteration"]
    solver.best = attrs.get("best")
    solver.loss_scale = loss_scale
    solver.losses.clear()
    solver.losses.extend(losses)
    solver.net.seek(positions)
    warn_of_other_patterns(path, record, solver.net)
    warn_of_other_vocabularies(path, attrs, vocabularies_of(solver.net))
    warn_of_other_places(path, attrs, places_of(solver.net))


def _checked_state(path, arrays, attrs):
    """Return (losses, {data layer: position}); raises SnapshotError for impossible values."""
    for name in ("iteration", "seed", *["ema_updates"] * ("ema_updates" in attrs)):
        if not isinstance(attrs[name], int) or not 0 <= attrs[name] < 2 ** 63:
            raise SnapshotError(f"{path}: refused as a snapshot: expected {name} to be an integer from 0 on, "
                                f"got {attrs[name]!r}")
    if not is_run_name(attrs.get("run", "0" * 16)):
        raise SnapshotError(f"{path}: refused as a snapshot: expected run to be 16 hexadecimal digits, got "
                            f"{str(attrs['run'])[:80]!r}")
    if not isinstance(attrs.get("best", 0.0), int | float):
        raise SnapshotError(f"{path}: refused as a snapshot: expected best to be a number, got "
                            f"{attrs['best']!r}")
    losses = arrays["solver/losses"]
    if losses.ndim != 1 or losses.dtype.kind != "f":
        raise SnapshotError(f"{path}: refused as a snapshot: expected solver/losses to be a row of floats, "
                            f"got {losses.dtype} of shape {losses.shape}")
    positions = {}
    for key, value in arrays.items():
        if key.startswith("positions/"):
            if value.shape != (1,) or value.dtype.kind not in "iu" or not 0 <= int(value[0]) < 2 ** 63:
                raise SnapshotError(f"{path}: refused as a snapshot: expected {key} to be one number from 0 "
                                    f"on, got {value.dtype} of shape {value.shape}")
            positions[split_key(key)[1]] = int(value[0])
    return losses.tolist(), positions


def _restore_averages(solver, path, attrs):
    """Let the averages go on from those of a snapshot, whose arrays are there already."""
    if solver.ema is None:
        if "ema_updates" in attrs:
            log.warning("%s: holds averages of the weights, which end here, as ema_decay is 0", path)
        return
    if "ema_updates" not in attrs:
        log.warning("%s: holds no averages of the weights; they begin as its weights", path)
        solver.ema = averages_of(solver)
    else:
        solver.ema.updates = attrs["ema_updates"]


def _callback_states(path, solver, arrays):
    """Return {name of a callback: its state}; raises SnapshotError for one that does not fit."""
    states: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        if key.startswith("callbacks/"):
            _, name, *rest = split_key(key)
            states.setdefault(name, {})["/".join(rest)] = array
    for callback in stateful(solver):
        if callback.name in states:     # tried out, so that a later mistake changes nothing
            before = callback.state_dict()
            try:
                callback.load_state_dict(states[callback.name])
            except SnapshotError as error:
                raise SnapshotError(f"{path}: {error}") from error
            callback.load_state_dict(before)
    return states


def _restore_callbacks(solver, path, states):
    for callback in stateful(solver):
        if callback.name in states:
            callback.load_state_dict(states[callback.name])
        else:
            callback.restart()
            log.warning("%s: holds no state of %s, which begins anew", path, callback.name)


def load_weights(net: Net, path: Paths, vocabularies: dict[str, str] | None = None,
                 skip_mismatched: bool = False, ema: bool = False) -> tuple[list[str], list[str]]:
    """Copy the weights of files to a net as `Net.load_weights` does; returns (copied, left) names.

    `left` lists what the files lack, what the net lacks, and with skip_mismatched what does not fit.
    """
    report = given_net(net).load_weights(path, skip_mismatched, vocabularies, ema)
    return report.copied, report.left


def load_initial(solver: Solver, skip_mismatched: bool = False) -> None:
    """Copy the weights of the files that a solver's `weights` names, looked up beside its file first."""
    folder = Path(solver.config.path or "").parent
    paths: list[Path] = []
    for i, text in enumerate(solver.settings.weights):
        for name in apart(text, lambda name: isfile(folder / name) or isfile(name)):
            places = [folder / name, Path(name)]
            if not any(place.exists() for place in places):
                looked = ", ".join(dict.fromkeys(str(place.absolute()) for place in places))
                raise SnapshotError(f"{solver.config.where(('weights', i))}: weights: {name}: there is no "
                                    f"such file of weights or snapshot (looked for {looked}); correct it")
            paths.append(next(place for place in places if place.exists()))
    if solver.settings.weights:
        solver.net.load_weights(paths, skip_mismatched)


def _check_shape(path, name, value, target, hint=_WEIGHT_HINT):
    if tuple(value.shape) != tuple(target.shape):
        raise SnapshotError(f"{path}: {name} has shape {tuple(value.shape)}, this net expects "
                            f"{tuple(target.shape)}. {hint}")


def best_problems(config: SolverConfig, test_nets: list[Net]) -> list[str]:
    """Return what is wrong with snapshot_best, as "file:line:column: what"."""
    name = config.message.snapshot_best.removeprefix("-")
    outputs = [output for net in test_nets for output in net.outputs]
    if not name or name in outputs:
        return []
    return [f"{config.where('snapshot_best')}: the test nets have no output {name!r}{nearest(name, outputs)} "
            f"(outputs: {', '.join(outputs) or 'none, there is no test net'})"]


def writes_snapshots(solver: Solver) -> bool:
    """Whether training writes snapshots by itself: every `snapshot` iterations, or at its end to a prefix."""
    settings = solver.settings
    return settings.snapshot > 0 or settings.snapshot_after_train and solver.has_prefix


def keep_best(solver: Solver, results: list[dict]) -> None:
    """Write PREFIX_best.h5 if the output that snapshot_best names is better than ever before.

    "-loss" means smaller is better. The first test net with that output counts; a NaN is never better. Does
    nothing if snapshots are off, see `writes_snapshots`.
    """
    wanted = solver.settings.snapshot_best
    if not wanted or not writes_snapshots(solver):
        return
    name, sign = wanted.removeprefix("-"), -1 if wanted.startswith("-") else 1
    value = float(np.mean(next(result[name] for result in results if name in result)))
    if not np.isnan(value) and (solver.best is None or sign * value > sign * solver.best):
        path = Path(f"{solver.snapshot_prefix}_best.h5")
        solver.written.begin(path)
        solver.best = value
        write(solver, path)
