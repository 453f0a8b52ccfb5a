"""Weights for a net that is used, not trained: all of them, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from minidrop.errors import SnapshotError
from minidrop.net import Net


def load_all_weights(net: Net, weights: str | os.PathLike | Iterable[str | os.PathLike],
                     vocabularies: Mapping[str, str] | None = None) -> None:
    """Copy the weights of files, which together must hold every parameter of a net; no file changes nothing.

    vocabularies: {layer: fingerprint}, as for `Net.load_weights`. Raises SnapshotError for a parameter that
    no file holds, and as that does.
    """
    paths = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    if not paths:
        return
    report = net.load_weights(paths, vocabularies=vocabularies)
    if report.unchanged:
        raise SnapshotError(f"{', '.join(report.paths)}: no weights for {', '.join(report.unchanged)}; was "
                            f"it written by another net?")
