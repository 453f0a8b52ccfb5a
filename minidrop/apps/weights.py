"""Weights for a net that is used: each parameter has to come from a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidrop.errors import SnapshotError

if TYPE_CHECKING:
    from minidrop.net.net import Net

Files = str | os.PathLike | Sequence[str | os.PathLike]


def load_all(net: Net, weights: Files, vocabularies: dict[str, str] | None = None,
             skip_mismatched: bool = False, ema: bool = False) -> None:
    """Copy the weights of files to a net; without files it stays as it is.

    vocabularies, skip_mismatched, ema: as for `Net.load_weights`. Raises SnapshotError unless the files hold
    every parameter together; with skip_mismatched those that they hold in another shape stay as they are,
    which is logged.
    """
    files = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    missing = dict.fromkeys(net.parameters())
    for path in files:
        report = net.load_weights(path, skip_mismatched, vocabularies, ema)
        layers = {name for name, _, _ in report.mismatched}
        for name in list(missing):
            if name in report.copied or {name, name.rsplit("/", 1)[0]} & layers:
                del missing[name]
    if files and missing:
        raise SnapshotError(f"{', '.join(map(str, files))}: no weights for {', '.join(missing)}; was it "
                            f"written by another net?")
