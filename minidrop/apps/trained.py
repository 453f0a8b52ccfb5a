"""Nets that are used, not trained: with all of their weights, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from minidrop.errors import DataError, SnapshotError, in_short
from minidrop.net import Net
from minidrop.net.definition import check_size, read_definition


def load_all_weights(net: Net, weights: str | os.PathLike | Iterable[str | os.PathLike],
                     vocabularies: Mapping[str, str] | None = None, skip_mismatched: bool = False,
                     ema: bool = False) -> None:
    """Copy the weights of files, which together must hold every parameter of a net; no file changes nothing.

    vocabularies, skip_mismatched, ema: as for `Net.load_weights`. Raises SnapshotError for a parameter that
    no file holds, and as that does; with skip_mismatched those that a file holds in another shape stay as
    they are, which is logged.
    """
    paths = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    if not paths:
        return
    report = net.load_weights(paths, skip_mismatched, vocabularies, ema)
    if report.unchanged:
        raise SnapshotError(f"{', '.join(report.paths)}: no weights for {', '.join(report.unchanged)}; was "
                            f"it written by another net?")


def check_sentences(sentences: Any) -> None:
    """Raise DataError for a text where several sentences are expected: it would be read letter by letter."""
    if isinstance(sentences, str | bytes) or not isinstance(sentences, Iterable):
        raise DataError(f"expected several sentences, such as a list of them, got {in_short(sentences)}")


def load(path: str | os.PathLike, phase: str = "TEST", device: Any = "auto", dtype: Any = None, seed: int = 0,
         precision: str = "float32", ema: bool = False) -> Net:
    """Return the Net that a file holds whole: its definition and its weights; no other file is read.

    path: a snapshot of a Solver, or an .h5 or .safetensors file of `Net.save`. In place of its data layers
    the net has Input layers: `predict(x)` takes records as those read them, and applies their
    transform_param; `forward` takes arrays behind it, of any batch size. dtype: that of the net that was
    saved, unless given. ema: take the averages of weights of a snapshot. Of a Solver it is the net that is
    tested first, else the one that is trained; losses and metrics that are Python functions are left out.

    The file may be anybody's: a definition that would read other files, write some or import code is
    refused. Layers of your own must be registered before. Raises SnapshotError, also where the file holds no
    definition, such as a .caffemodel, and ConfigError where it has mistakes.

    Example: md.load("runs/mnist/snapshots/mnist_iter_10000.h5").predict(images)
    """
    config, saved = read_definition(path)
    options: dict[str, Any] = {"phase": phase, "device": device, "dtype": dtype or saved, "seed": seed,
                               "precision": precision}
    empty = Net(config, fills=False, **options)
    try:
        check_size(path, empty)
    finally:
        empty.close()
    net = Net(config, **options)
    try:
        load_all_weights(net, [path], {}, ema=ema)
    except BaseException:
        net.close()
        raise
    return net
