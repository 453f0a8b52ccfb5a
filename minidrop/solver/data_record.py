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
from minidrop.net import Net
from minidrop.net.vocabularies import record_of, texts_of, vocabularies_of

log = logging.getLogger(__name__)


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
    texts = {node.name: layer for node, layer in texts_of(train)}
    only = next(iter(texts.values())) if len(texts) == 1 else None
    problems = []
    for i, net in enumerate(tests):
        for node, own in texts_of(net):
            wanted = texts.get(node.name, only)
            if wanted is None or own.vocabulary.fingerprint == wanted.vocabulary.fingerprint:
                continue
            where = net.config.where(node.index, *param_fields(node.config.type)[:1])
            sizes = len(own.vocabulary), len(wanted.vocabulary)
            problems.append(
                f"{where}: test net {i}: layer {node.name!r} has another vocabulary ({sizes[0]} tokens) than "
                f"the training net's ({sizes[1]} tokens): set {own.settings_for(wanted)}")
    return problems


def warn_of_other_places(path: str | PathLike, attrs: Mapping,
                         places: dict[str, dict[str, int | float]]) -> None:
    """Log a warning for every data layer whose batches began elsewhere when the snapshot was written."""
    record = record_of(attrs, "texts")
    for name, now in places.items():
        before = record.get(name)
        if not isinstance(before, dict):
            continue
        changed = [key for key, value in now.items()
                   if isinstance(before.get(key), int | float) and before[key] != value]
        if changed:
            old, new = (", ".join(f"{key}: {json.dumps(one[key])[:20]}" for key in changed)
                        for one in (before, now))
            log.warning("%s: was written when %s had %s; now it has %s. The place in the data moves: the run "
                        "goes on from the same batch number, which is elsewhere now", path, name, old, new)
