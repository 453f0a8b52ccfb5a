"""The vocabularies of a net's texts: with another one, tokens have other indices, and weights are noise."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from minidrop.layers import DataLayer

if TYPE_CHECKING:
    from minidrop.net.graph import Node
    from minidrop.net.net import Net

log = logging.getLogger(__name__)


def vocabularies_of(net: Net) -> dict[str, str]:
    """Return {data layer: fingerprint of its vocabulary} of a Net."""
    return {node.name: layer.vocabulary.fingerprint for node, layer in texts_of(net)}


def texts_of(net: Net) -> list[tuple[Node, DataLayer]]:
    """Return (node, layer) of the data layers of a net that have a vocabulary."""
    return [(node, layer) for node in net.graph.nodes
            if isinstance(layer := node.layer, DataLayer) and layer.vocabulary is not None]


def warn_of_other_vocabularies(path: str | PathLike, attrs: Mapping, vocabularies: dict[str, str]) -> None:
    """Log a warning for every text with another vocabulary than the snapshot's net was trained on."""
    record = record_of(attrs, "vocabularies")
    for name, fingerprint in vocabularies.items():
        if isinstance(record.get(name), str) and record[name] != fingerprint:
            log.warning("%s: its net was trained on another vocabulary than that of %s: the tokens have "
                        "other indices now. Name the same text, or the .vocabulary file that was saved of it",
                        path, name)


def record_of(attrs: Mapping, name: str) -> dict:
    """Return a record of a snapshot as a dict; {} if it is malformed, since files are not trusted."""
    try:
        record = json.loads(attrs.get(name, ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
