"""Caffe's solver states: a run of Caffe goes on here, and one of minidrop's there."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minidrop.data.binaryproto import Blob
from minidrop.errors import NonFiniteError, SnapshotError
from minidrop.net.loading import Loading
from minidrop.snapshot.caffe_file import (
    STATE,
    SolverState,
    file_kind,
    read_binary_state,
    weights_given_as_state,
)
from minidrop.snapshot.caffe_hdf5 import read_hdf5_state
from minidrop.snapshot.caffe_writer import write_state
from minidrop.solver.loss_scale import LossScale

if TYPE_CHECKING:
    from minidrop.config import SolverParameter
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)


def endings(settings: SolverParameter) -> tuple[str, ...]:
    """Return the endings of the files, the state's first, that snapshot_format asks for; () if not given."""
    if not settings.HasField("snapshot_format"):
        return ()
    end = ".h5" if settings.snapshot_format == settings.HDF5 else ""
    return f".solverstate{end}", f".caffemodel{end}"


def there(path: str | bytes | os.PathLike) -> str:
    """Return the path of a state, or of minidrop's snapshot of the same name if only that is there."""
    text = os.fsdecode(path)
    own = text.removesuffix(".h5").removesuffix(".solverstate") + ".h5"
    if ".solverstate" not in text or os.path.exists(text) or not os.path.isfile(own):
        return text
    log.info("%s is not there: going on from %s, the snapshot that minidrop writes in its place", text, own)
    return own


def is_own(path: str | os.PathLike) -> bool:
    """Whether a file is a snapshot of minidrop's, by its content. Raises SnapshotError."""
    return file_kind(path, STATE) == "snapshot"


def restore(solver: Solver, path: str | os.PathLike) -> None:
    """Set a Solver to the state in a .solverstate or .solverstate.h5 and to the weights that it names.

    The file of weights is looked for as written, then beside the state. Neither format says where the data
    were: the run goes on at the batch that an uninterrupted one would read, with recurrent states at zero.
    Everything is checked before anything is changed. Raises SnapshotError.
    """
    kind = file_kind(path, STATE)
    if kind == "safetensors":
        raise weights_given_as_state(path)
    state = read_hdf5_state(path) if kind == "hdf5" else read_binary_state(path)
    history = _checked_history(solver, Path(path), state)
    weights = _weights_of(Path(path), state)
    Loading(solver.net, weights).apply()
    net = solver.net
    with net.backend.active():
        for target, blob in history:
            target[...] = net.backend.asarray(blob.array.reshape(target.shape), target.dtype)
    solver.iteration, solver.best = state.iteration, None
    solver.loss_scale = LossScale() if solver.loss_scale is not None else None
    solver.losses.clear()
    net.reset_states()
    batch = state.iteration * solver.settings.iter_size
    net.seek(batch)
    log.info("%s: a solver state of Caffe's; the data go on at batch %d", path, batch)


def save(solver: Solver, path: str | os.PathLike) -> Path:
    """Write PREFIX.solverstate and PREFIX.caffemodel, or both with .h5, for Caffe to go on from.

    Of a parameter that is not trained, which has no history here, Caffe expects zeros. Returns the path of
    the weights. Raises SnapshotError, or NonFiniteError if a number is none.
    """
    solver.settle()
    text = os.fspath(path)
    ending = next((end for end in (".solverstate", ".solverstate.h5") if text.endswith(end)), None)
    if ending is None:
        raise SnapshotError(f"{text}: expected a name that ends in .solverstate or .solverstate.h5, which "
                            f"chooses the format")
    weights = text.removesuffix(ending) + ending.replace("solverstate", "caffemodel")
    to_host, history = solver.net.backend.to_host, []
    parameters = solver.net.parameters()
    for slot in range(solver.updater.rule.slots):
        for name, parameter in parameters.items():
            own = solver.updater.history.get(name)
            history.append(Blob.of(np.zeros(parameter.shape, solver.dtype) if own is None
                                else np.ascontiguousarray(to_host(own[slot]))))
    arrays = [*(blob.array for blob in history), *(to_host(p.data) for p in parameters.values())]
    if not all(np.isfinite(array).all() for array in arrays):
        raise NonFiniteError(f"iteration {solver.iteration}: a number is not finite, so no solver state was "
                             f"written")
    solver.net.save(weights)        # first: a state must not name weights that are not there
    write_state(path, SolverState(solver.iteration, weights, history, _current_step(solver)))
    return Path(weights)


def _checked_history(solver, path, state):
    """Return pairs (array of the updater, Blob of the file) for every trained parameter."""
    parameters, slots = solver.net.parameters(), solver.updater.rule.slots
    kind = solver.settings.type
    if len(state.history) != slots * len(parameters):
        other = "; the solver's type, or the net, is another one" if len(state.history) else ""
        raise SnapshotError(f"{path}: expected a history of {slots * len(parameters)} arrays, "
                            f"{'one' if slots == 1 else slots} for each of the {len(parameters)} parameters "
                            f"as of solver type {kind!r}, got {len(state.history)}{other}")
    pairs = []
    for slot in range(slots):
        for i, (name, parameter) in enumerate(parameters.items()):
            blob = state.history[slot * len(parameters) + i]
            if not blob.fits(tuple(parameter.shape)):
                raise SnapshotError(f"{path}: the history of {name} has shape {blob.shape}, this net "
                                    f"expects {tuple(parameter.shape)}; is it the state of another net?")
            with np.errstate(over="ignore"):
                finite = np.isfinite(blob.array.astype(solver.dtype, copy=False)).all()
            if not finite:
                raise SnapshotError(f"{path}: training cannot go on from here: the history of {name} is not "
                                    f"finite; use an older one")
            if name in solver.updater.history:
                pairs.append((solver.updater.history[name][slot], blob))
    return pairs


def _weights_of(path, state):
    """Return the path of the weights that a state names."""
    name = state.learned_net
    if not name:
        raise SnapshotError(f"{path}: names no file of weights (learned_net); start from the weights alone "
                            f"with --weights")
    places = [Path(name), path.parent / name, path.parent / name.replace("\\", "/").rsplit("/", 1)[-1]]
    for place in places:
        try:
            if place.is_file():
                return place
        except (OSError, ValueError):
            continue
    looked = " nor as ".join(repr(str(place)) for place in dict.fromkeys(places))
    raise SnapshotError(f"{path}: its weights are not found as {looked}; put them beside it")


def _current_step(solver):
    """Return the steps of the learning rate taken until the last iteration, as Caffe counts them."""
    settings, last = solver.settings, max(0, solver.iteration - 1)
    if settings.lr_policy == "step" and settings.stepsize > 0:
        return last // settings.stepsize
    if settings.lr_policy == "multistep":
        return sum(value <= last for value in settings.stepvalue)
    return 0
