"""What a snapshot says about the vocabularies of a net's texts: another order of tokens turns what was learnt into noise."""

import json
import logging

log = logging.getLogger(__name__)


def vocabularies_of(net):
    """Return {data layer: fingerprint} of the vocabularies of a Net's texts."""
    return {name: layer.vocabulary.fingerprint for name, layer in net.layers.items() if hasattr(layer, "vocabulary")}


def vocabulary_record(net):
    """Return `vocabularies_of` as JSON text."""
    return json.dumps(vocabularies_of(net))


def warn_of_other_vocabularies(path, attrs, vocabularies):
    """Log a warning for every text whose vocabulary is not the one that the snapshot's net was trained on.

    Anybody may have written the snapshot: what is no record of that kind counts as none.
    """
    try:
        record = json.loads(attrs.get("vocabularies", ""))
    except (TypeError, ValueError, RecursionError):
        return
    if not isinstance(record, dict):
        return
    for name, fingerprint in vocabularies.items():
        if isinstance(record.get(name), str) and record[name] != fingerprint:
            log.warning("%s: its net was trained on another vocabulary than that of %s: the tokens have other indices now. "
                        "Name the same text, or the .vocabulary file that was saved of it", path, name)
