"""What a snapshot records of the data: vocabularies, and where batches begin.

With another vocabulary the tokens have other indices, and trained weights are noise; so the nets of a solver
must also share theirs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from os import PathLike

from minidrop.config import param_fields
from minidrop.layers import DataLayer
from minidrop.net import Net

log = logging.getLogger(__name__)


def vocabularies_of(net: Net) -> dict[str, str]:
    """Return {data layer: fingerprint of its vocabulary} of a Net."""
    return {node.name: node.layer.vocabulary.fingerprint for node in _texts(net)}


def vocabulary_record(net: Net) -> str:
    """Return `vocabularies_of` as JSON text."""
    return json.dumps(vocabularies_of(net))


def places_of(net: Net) -> dict[str, dict[str, int | float]]:
    """Return {data layer: {setting: value}} of the settings that decide where batch n begins."""
    return {name: settings for name, layer in net.data_layers.items() if (settings := layer.place_settings())}


def place_record(net: Net) -> str:
    """Return `places_of` as JSON text."""
    return json.dumps(places_of(net))


def vocabulary_problems(train: Net, tests: list[Net]) -> list[str]:
    """Return "file:line:column: what" for each test net's text with another vocabulary than the train net's.

    Data layers of the same name are compared; if the train net has only one with a vocabulary, it is compared
    with all.
    """
    texts = {node.name: node.layer for node in _texts(train)}
    only = next(iter(texts.values())) if len(texts) == 1 else None
    problems = []
    for i, net in enumerate(tests):
        for node in _texts(net):
            wanted, own = texts.get(node.name, only), node.layer
            if wanted is None or own.vocabulary.fingerprint == wanted.vocabulary.fingerprint:
                continue
            where = net.config.where(node.index, *param_fields(node.config.type)[:1])
            sizes = len(own.vocabulary), len(wanted.vocabulary)
            problems.append(
                f"{where}: test net {i}: layer {node.name!r} has another vocabulary ({sizes[0]} tokens) than "
                f"the training net's ({sizes[1]} tokens): set {own.settings_for(wanted)}")
    return problems


def _texts(net):
    """Return the nodes of a net's data layers that have a vocabulary."""
    return [node for node in net.graph.nodes
            if isinstance(node.layer, DataLayer) and node.layer.vocabulary is not None]


def warn_of_other_vocabularies(path: str | PathLike, attrs: Mapping, vocabularies: dict[str, str]) -> None:
    """Log a warning for every text with another vocabulary than the snapshot's net was trained on."""
    record = _record(attrs, "vocabularies")
    for name, fingerprint in vocabularies.items():
        if isinstance(record.get(name), str) and record[name] != fingerprint:
            log.warning("%s: its net was trained on another vocabulary than that of %s: the tokens have "
                        "other indices now. Name the same text, or the .vocabulary file that was saved of it",
                        path, name)


def warn_of_other_places(path: str | PathLike, attrs: Mapping,
                         places: dict[str, dict[str, int | float]]) -> None:
    """Log a warning for every data layer whose batches began elsewhere when the snapshot was written."""
    record = _record(attrs, "texts")
    for name, now in places.items():
        before = record.get(name)
        if not isinstance(before, dict):
            continue
        changed = [key for key, value in now.items()
                   if isinstance(before.get(key), int | float) and before[key] != value]
        if changed:
            old, new = (", ".join(f"{key}: {json.dumps(one[key])[:20]}" for key in changed)
                        for one in (before, now))
            log.warning("%s: was written when %s had %s; now it has %s. The place in the text moves: the run "
                        "goes on from the same batch number, which is elsewhere now", path, name, old, new)


def _record(attrs, name):
    """Return a record of a snapshot as a dict; {} if it is malformed, since files are not trusted."""
    try:
        record = json.loads(attrs.get(name, ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
