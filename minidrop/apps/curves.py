"""Curves of trainings: what a run folder or a log has recorded over the iterations."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minidrop.apps.logs import FIXED, MOST_ROWS, Log, outputs, read_log
from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import ConfigError, DataError, nearest
from minidrop.files import open_regular

METRICS = "metrics.jsonl"
RATE = "lr"
_LINE_BYTES = 1 << 20

Points = list[tuple[float, float]]      # (iteration, value; nan where it is not finite)


@dataclass
class Curves:
    """What is known of one training: {quantity: {phase: Points}}; phase: "train", "test", "test 1", ..."""

    name: str
    points: dict[str, dict[str, Points]] = field(default_factory=dict)

    def add(self, quantity: str, phase: str, iteration: float, value: float) -> None:
        """Add a point."""
        self.points.setdefault(quantity, {}).setdefault(phase, []).append((iteration, value))


def read_curves(path: str | os.PathLike) -> Curves:
    """Return the Curves of a run folder, of its metrics.jsonl, or of a log of minidrop or Caffe.

    Raises DataError for what is none of these, or holds no point.
    """
    path = Path(path)
    if path.is_dir():
        return _of_metrics(path / METRICS, path.resolve().name)
    if path.suffix == ".jsonl":
        return _of_metrics(path, path.resolve().parent.name)
    return curves_of_log(read_log(path), path.name)


def curves_of_log(log: Log, name: str) -> Curves:
    """Return the Curves of a Log."""
    curves = Curves(name)
    for phase, rows in (("train", log.train), ("test", log.test)):
        for column in outputs(rows):
            for row in rows:
                if column in row:
                    curves.add(column, phase, row[FIXED[0]], row[column])
    for row in log.train:
        if math.isfinite(row[FIXED[2]]):
            curves.add(RATE, "train", row[FIXED[0]], row[FIXED[2]])
    return curves


def chosen(runs: Sequence[Curves], names: Sequence[str] = ()) -> list[str]:
    """Return the quantities of runs: those asked for, else all, the learning rate last.

    Raises ConfigError for one that no run has.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.points))
    for name in names:
        if name not in known:
            raise ConfigError(f"no run has recorded {name!r}{nearest(name, known)} (recorded: "
                              f"{', '.join(known)})")
    return list(names) or sorted(known, key=lambda name: name == RATE)


def named_apart(runs: Sequence[Curves], paths: Sequence[str]) -> None:
    """Call runs of one name by their paths."""
    names = [run.name for run in runs]
    for run, path, name in zip(runs, paths, names, strict=True):
        if names.count(name) > 1:
            run.name = str(path)


def _of_metrics(path, name):
    curves = Curves(name)
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_LINE_BYTES + 1):
                number += 1
                if number > raised(MOST_ROWS):
                    raise DataError(f"{path}: expected at most {raised(MOST_ROWS)} lines, got more; "
                                    f"{how_to_raise()}")
                if line.endswith(b"\n"):        # else a training is writing it right now
                    _add(curves, line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; give the folder of a run, as "
                        f"`minidrop train --out` makes it, or a log") from None
    if not curves.points:
        raise DataError(f"{path}: nothing is recorded yet; wait for the first display or test")
    return curves


def _add(curves, line, where):
    """Add the values of one line of metrics.jsonl."""
    try:
        record = json.loads(line)
        iteration, phase, values = int(record["iteration"]), record["phase"], record["values"]
        net = int(record.get("net", 0))
        if phase not in ("TRAIN", "TEST") or abs(iteration) > 2**53:
            raise ValueError("another phase or iteration")
        kind = "train" if phase == "TRAIN" else f"test {net}" if net else "test"
        for name, value in values.items():
            for i, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
                curves.add(name if i is None else f"{name}[{i}]", kind, iteration, _number(one))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: expected a line such as {{\"iteration\": 0, \"phase\": \"TRAIN\", "
                        f"\"values\": {{\"loss\": 0.5}}}}, got another ({error})") from None


def _number(value: Any) -> float:
    """Return a recorded number; null stands for what is not finite."""
    return math.nan if value is None else float(value)
