"""Loads weights into a net by the names of its layers: from snapshots, and from Caffe's files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config.numbers import truth
from minidrop.data.binaryproto import Blob
from minidrop.errors import MOST_MISTAKES, SnapshotError, nearest
from minidrop.net.load_report import LoadReport, shown
from minidrop.net.vocabularies import vocabularies_of, warn_of_other_vocabularies
from minidrop.snapshot import read_snapshot, split_key
from minidrop.snapshot.caffe_file import CaffeWeights, file_kind, read_binary_weights
from minidrop.snapshot.caffe_hdf5 import read_hdf5_weights
from minidrop.snapshot.safetensors_file import read_safetensors

if TYPE_CHECKING:
    from minidrop.net.net import Net

log = logging.getLogger(__name__)

MOST_COMMAS = 8             # in the name of a file of weights that stands among others
_PIECE = 1 << 20            # numbers looked at together
_REMEDY = ("Did num_output of that layer or of the one before it change, or the shape of the records? "
           "--skip-mismatched (from Python skip_mismatched=True) leaves what does not fit as it is")

_NO_AVERAGES = ("holds no averages of weights, which a solver with ema_decay writes into its snapshots; "
                "leave out --ema (load_weights: ema=True)")

Paths = str | os.PathLike | Sequence[str | os.PathLike]


class Loading:
    """What files of weights would change in a net: `report` says it, and `apply` does it.

    Everything is checked here, and nothing is changed. Raises SnapshotError if an array does not fit, unless
    skip_mismatched, if a file holds nothing for this net, or a number that is none in the net's dtype.
    """

    def __init__(self, net: Net, paths: Paths, skip_mismatched: bool = False,
                 vocabularies: Mapping[str, str] | None = None, ema: bool = False):
        self.net = net
        self.chosen: dict[str, Blob] = {}           # by the name of the parameter
        self.ema = truth("ema", ema)
        skip_mismatched = truth("skip_mismatched", skip_mismatched)
        self._targets, self._owners = net.parameters(), net.owners()
        self._first = {other: name for name, others in self._owners.items() for other in others}
        files = paths_of(paths)
        self.report = LoadReport(tuple(map(str, files)), len(self._targets))
        self._vocabularies = vocabularies_of(net) if vocabularies is None else dict(vocabularies)
        self._attrs: list[tuple[Any, Mapping]] = []
        for path in files:
            self._add(path, skip_mismatched)
        order = {name: place for place, name in enumerate(self._targets)}
        self.report.copied = sorted(self.chosen, key=order.__getitem__)
        doubtful = {self._first.get(name, name) for name, _, _ in self.report.mismatched}
        self.report.unchanged = [name for name in self._targets if name not in self.chosen
                                 and not {name, name.rsplit("/", 1)[0]} & doubtful]

    def apply(self) -> LoadReport:
        """Copy the arrays into the net, log the report and return it."""
        copy_values(self.net, ((name, blob.array) for name, blob in self.chosen.items()))
        log.info("%s", self.report)
        for name in self.report.left:
            log.warning("%s: not copied: %s", ", ".join(self.report.paths), name)
        for path, attrs in self._attrs:
            warn_of_other_vocabularies(path, attrs, self._vocabularies)
        return self.report

    def _add(self, path, skip_mismatched):
        """Choose what one file holds; a later file counts more."""
        kind, before = file_kind(path), len(self.report.mismatched)
        if kind == "snapshot":
            chosen, others = self._of_snapshot(path)
        elif self.ema:
            raise SnapshotError(f"{path}: {_NO_AVERAGES}")
        elif kind == "safetensors":
            found, attrs = read_safetensors(path)
            if not skip_mismatched:
                self._check_names(path, found)
            chosen, others = self._of_names(path, found, attrs)
        else:
            chosen, others = self._of_caffe(read_hdf5_weights(path) if kind == "hdf5"
                                            else read_binary_weights(path))
        wrong = self.report.mismatched[before:]
        if wrong and not skip_mismatched:
            lines = [f"{path}: {name} has {'' if isinstance(there, list) else 'shape '}{shown(there)}, this "
                     f"net expects {shown(here)}"
                     for name, there, here in wrong[:MOST_MISTAKES]]
            more = len(wrong) - len(lines)
            lines += [f"{path}: ... and {more} more"] * (more > 0)
            raise SnapshotError.saying([*lines[:-1], f"{lines[-1]}. {_REMEDY}"])
        if not chosen and not wrong:
            raise SnapshotError(f"{path}: holds no parameter of this net (it has "
                                f"{', '.join(sorted(others)[:6]) or 'none'}; the net has "
                                f"{', '.join(sorted(self._targets)[:6]) or 'none'})")
        for name, blob in chosen.items():
            if not is_finite(blob.array, self.net.dtype):
                raise SnapshotError(f"{path}: {name} has a NaN, an infinity or a number too large for "
                                    f"{self.net.dtype}; use weights of before")
        self.chosen.update(chosen)
        self.report.shapes.update({name: blob.shape for name, blob in chosen.items()})
        self.report.shapes.update(others)
        self.report.left_out += [name for name in others if name not in self.report.left_out]

    def _of_snapshot(self, path):
        """Return ({name: Blob}, {name in the file: shape} of the others) of a snapshot of minidrop."""
        snapshot = read_snapshot(path)
        self._attrs.append((path, snapshot.attrs))
        found = {"/".join(split_key(key)[1:]): value for key, value in snapshot.arrays.items()
                 if key.startswith("data/")}
        if self.ema:
            averages = {"/".join(split_key(key)[1:]): value for key, value in snapshot.arrays.items()
                        if key.startswith("ema/")}
            if not averages:
                raise SnapshotError(f"{path}: {_NO_AVERAGES}")
            found.update(averages)
        return self._of_names(path, found, snapshot.attrs)

    def _check_names(self, path, found):
        """Raise SnapshotError for a parameter that a layer of this net does not have."""
        for name in found:
            layer, _, parameter = name.rpartition("/")
            own = self.net.params.get(layer, {})
            if layer in self.net.layers and parameter not in own:
                raise SnapshotError(f"{path}: layer {layer!r} has no parameter {parameter[:80]!r}"
                                    f"{nearest(parameter, own)} (it has: {', '.join(own) or 'none'})")

    def _of_names(self, path, found, attrs):
        """Return the same of {name in the file: array}, with the attributes of a snapshot."""
        for names in _shared_names(path, attrs):
            for name in names[1:]:
                if names[0] in found:
                    found.setdefault(name, found[names[0]])
        source = {name: own for name in self._targets for own in reversed(self._owners[name]) if own in found}
        chosen = {}
        for name, own in source.items():
            self._choose(chosen, name, Blob.of(found[own]))
        used = {id(found[own]) for own in source.values()}
        return chosen, {name: value.shape for name, value in found.items() if id(value) not in used}

    def _of_caffe(self, weights: CaffeWeights):
        """Return the same of a file of Caffe's, whose arrays have numbers instead of names."""
        chosen: dict[str, Blob] = {}
        for layer, own in self.net.params.items():
            if layer not in weights.layers:
                continue
            blobs = weights.layers[layer]
            needed = [i for i, name in enumerate(own) if weights.whole or self._is_first(layer, name)]
            if not set(needed) <= set(blobs) or max(blobs, default=0) >= len(own):
                self.report.mismatched.append((layer, weights.shapes(layer), [p.shape for p in own.values()]))
                continue
            for i, (name, parameter) in enumerate(own.items()):
                if i in blobs:
                    self._choose(chosen, self._first[f"{layer}/{name}"], blobs[i], f"{layer}/{name}",
                                 parameter.shape)
        others = {}
        for layer in weights.layers:
            if layer not in self.net.params and (shapes := weights.shapes(layer)):
                if layer in self.net.layers:
                    self.report.mismatched.append((layer, shapes, []))
                else:
                    others[layer] = shapes
        return chosen, others

    def _is_first(self, layer, name):
        return self._first[f"{layer}/{name}"] == f"{layer}/{name}"

    def _choose(self, chosen, name, blob, shown_as="", shape=None):
        shape = tuple(shape or self._targets[name].shape)
        if blob.fits(shape):
            chosen[name] = blob
        else:
            self.report.mismatched.append((shown_as or name, blob.shape, shape))


def paths_of(paths: Paths) -> list[str | os.PathLike]:
    """Return a list of paths: of one, of several in one text, separated by commas, or of a list of either.

    A file whose own name has commas is found, alone and among others.
    """
    if isinstance(paths, os.PathLike):
        return [paths]
    if isinstance(paths, str):
        found: list[str | os.PathLike] = [*apart(paths)]
        if not found:
            raise SnapshotError("expected the name of a file of weights, got an empty text")
        return found
    found = [path for one in paths for path in paths_of(one)]
    if not found:
        raise SnapshotError("expected the names of files of weights, got none")
    return found


def apart(text: str, is_file: Callable[[str], bool] = os.path.isfile) -> list[str]:
    """Return the names in a text with commas between. One with up to MOST_COMMAS in it must be a file's."""
    parts, found, first = text.split(","), [], 0
    while first < len(parts):
        ends = range(min(len(parts), first + 1 + MOST_COMMAS), first + 1, -1)
        end = next((end for end in ends if is_file(",".join(parts[first:end]).strip())), first + 1)
        found.append(",".join(parts[first:end]).strip())
        first = end
    return [name for name in found if name]


def copy_values(net: Net, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Copy arrays to parameters, each ("layer/parameter", as many numbers), which have been checked."""
    targets = net.parameters()
    for name, array in values:
        target = targets[name].data
        target[...] = net.backend.asarray(array.reshape(target.shape), net.dtype)
        targets[name].note_change()


def is_finite(array: np.ndarray, dtype: str) -> bool:
    """Whether all numbers are finite in `dtype`; the copy that this needs is small."""
    flat = array.reshape(-1)
    with np.errstate(over="ignore"):
        return all(np.isfinite(flat[i:i + _PIECE].astype(dtype, copy=False)).all()
                   for i in range(0, flat.size, _PIECE))


def _shared_names(path, attrs):
    """Return a list of names for each shared parameter, the name of its array first."""
    try:
        shared = json.loads(attrs.get("shared", "[]"))
        if all(isinstance(name, str) for names in shared for name in names) and all(map(len, shared)):
            return shared
    except (TypeError, ValueError):
        pass
    raise SnapshotError(f"{path}: refused as a snapshot: expected shared to be lists of names, got "
                        f"{str(attrs['shared'])[:80]!r}")
