"""Texts in a Solver: do its nets share a vocabulary, and what does a snapshot say about vocabularies and
places in texts?

Another order of tokens turns what was learnt into noise.
"""

import json
import logging

from minidrop.config import decimal

log = logging.getLogger(__name__)


def vocabularies_of(net):
    """Return {data layer: fingerprint} of the vocabularies of a Net's texts."""
    return {name: layer.vocabulary.fingerprint for name, layer in net.layers.items()
            if hasattr(layer, "vocabulary")}


def vocabulary_record(net):
    """Return `vocabularies_of` as JSON text."""
    return json.dumps(vocabularies_of(net))


def places_of(net):
    """Return {data layer: {setting: value}} of what says, for a Net's TextData layers, where batch number n
    begins."""
    return {name: _place_settings(layer.settings) for name, layer in net.layers.items()
            if layer.type == "TextData"}


def _place_settings(settings):
    return {"batch_size": settings.batch_size, "steps": settings.steps, "begin": decimal(settings.begin),
            "end": decimal(settings.end), "sentences": settings.sentences}


def place_record(net):
    """Return `places_of` as JSON text."""
    return json.dumps(places_of(net))


def vocabulary_problems(train, tests):
    """What is wrong where a test net reads a text by another vocabulary than the train net, as
    "file:line:column: what".

    Compared are texts of the same name; a train net's only text is compared with any.
    """
    texts = {node.name: node for node in train.graph.nodes if hasattr(node.layer, "vocabulary")}
    only = next(iter(texts.values())) if len(texts) == 1 else None
    problems = []
    for i, net in enumerate(tests):
        for node in net.graph.nodes:
            wanted = texts.get(node.name, only)
            if wanted is None or not hasattr(node.layer, "vocabulary"):
                continue
            own, other = node.layer.vocabulary, wanted.layer.vocabulary
            if own.fingerprint != other.fingerprint:
                remedy = _remedy(node.config.text_data_param, wanted.config.text_data_param)
                problems.append(f"{net.config.where(node.index, 'text_data_param')}: test net {i}: layer "
                                f"{node.name!r} has another vocabulary ({len(own)} tokens) than the training "
                                f"net's ({len(other)} tokens): set {remedy} in its text_data_param")
    return problems


def _remedy(own, wanted):
    """Return the settings that give a TextData layer the vocabulary of another."""
    name, remedy = wanted.vocabulary or wanted.source, []
    if own.level != wanted.level:
        remedy.append(f"level: {wanted.Level.Name(wanted.level)}")
    if own.vocabulary_size != wanted.vocabulary_size:
        remedy.append(f"vocabulary_size: {wanted.vocabulary_size}")
    if (own.vocabulary or own.source) != name or not remedy:
        remedy.insert(0, f'vocabulary: "{name}"')
    return " ".join(remedy)


def warn_of_other_vocabularies(path, attrs, vocabularies):
    """Log a warning for every text whose vocabulary is not the one that the snapshot's net was trained on."""
    record = _record(attrs, "vocabularies")
    for name, fingerprint in vocabularies.items():
        if isinstance(record.get(name), str) and record[name] != fingerprint:
            log.warning("%s: its net was trained on another vocabulary than that of %s: the tokens have "
                        "other indices now. Name the same text, or the .vocabulary file that was saved of it",
                        path, name)


def warn_of_other_places(path, attrs, places):
    """Log a warning for every text in which batch number n is not where it was for the snapshot's net."""
    record = _record(attrs, "texts")
    for name, now in places.items():
        before = record.get(name)
        if not isinstance(before, dict):
            continue
        changed = [key for key, value in now.items() if isinstance(before.get(key), int | float)
                   and before[key] != value]
        if changed:
            old, new = (", ".join(f"{key}: {json.dumps(one[key])[:20]}" for key in changed)
                        for one in (before, now))
            log.warning("%s: was written when %s had %s; now it has %s. The place in the text moves: the run "
                        "goes on from the same batch number, which is elsewhere now", path, name, old, new)


def _record(attrs, name):
    """Return a record of a snapshot as a dict. Anybody may have written it: what is no record of that kind
    counts as none."""
    try:
        record = json.loads(attrs.get(name, ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
