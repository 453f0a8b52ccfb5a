"""What a run folder tells of a training: curves, times, environment, its net, and what its drops kept."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from minidrop.apps.confusion import Confusion, confusion_of
from minidrop.apps.curves import RATE, Curves, read_curves
from minidrop.apps.logs import Session, read_sessions
from minidrop.apps.run_facts import is_own, read_facts
from minidrop.apps.summary import Summary, summarise
from minidrop.config import SolverConfig, load_solver, parse_net
from minidrop.config.load import read_text
from minidrop.errors import ConfigError, MinidropError, SnapshotError
from minidrop.net import Net
from minidrop.patterns.drop_site import DropSite
from minidrop.snapshot import newest_valid, read_header, under_prefix

log = logging.getLogger(__name__)

MOST_DRAWS = 1000       # patterns of a drop that are drawn again


@dataclass(frozen=True)
class KeptShare:
    """The share of units, weights or blocks that a drop kept: over `looked` iterations of the run."""

    layer: str
    mean: float
    least: float
    greatest: float
    looked: int


@dataclass
class RunReport:
    """What is known of a run.

    facts: (what, text) of its environment and times. net: the Summary of the net that was trained, or None.
    confusion: of the test net with the newest weights, where that was asked for. kept: of each drop with
    regular patterns, drawn again from the run's seed. texts: {file: text} of its configuration. notes: what
    could not be told, and why.
    """

    curves: Curves
    facts: list[tuple[str, str]] = field(default_factory=list)
    net: Summary | None = None
    confusion: Confusion | None = None
    kept: list[KeptShare] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Extremes:
    """A quantity over a run: (iteration, value) of its last, least and greatest one; None: none is finite."""

    phase: str
    quantity: str
    count: int
    last: tuple[float, float]
    least: tuple[float, float] | None
    greatest: tuple[float, float] | None


def read_run(path: str | os.PathLike, confusion: bool = False) -> RunReport:
    """Return the RunReport of a run folder, or of a metrics.jsonl or a log, which tell less.

    confusion: run the test net with the newest snapshot. Raises DataError where there are no curves, and
    MinidropError where there is no confusion matrix. What else is missing or damaged becomes a note.
    """
    path = Path(path)
    report = RunReport(read_curves(path))
    if not path.is_dir():
        if confusion:
            raise ConfigError(f"{path}: a confusion matrix needs the folder of a run, with its snapshots")
        report.notes.append("only the curves are known: this is no run folder")
        return report
    facts = read_facts(path / "run.json", lambda message, *values: report.notes.append(message % values))
    if not facts:
        report.notes.append(f"{path / 'run.json'}: no facts of the run are known")
    solver = _configuration(path, report)
    _tell(report, facts, solver, _sessions(path, report))
    if solver is not None:
        _describe(path, report, facts, solver)
    if confusion:
        report.confusion = _confusion(path, facts, solver)
    return report


def extremes(curves: Curves) -> list[Extremes]:
    """Return the Extremes of every quantity in every phase."""
    found = []
    for quantity, phases in curves.points.items():
        for phase, points in phases.items():
            finite = [point for point in points if math.isfinite(point[1])]
            found.append(Extremes(phase, quantity, len(points), points[-1],
                                  min(finite, key=lambda point: point[1], default=None),
                                  max(finite, key=lambda point: point[1], default=None)))
    return found


def kept_share(site: DropSite, iterations: int, most: int = MOST_DRAWS) -> KeptShare:
    """Return what a drop keeps in iterations 0 .. iterations - 1, or in evenly spaced ones of them.

    At most `most` patterns are drawn: an iteration may need several, for groups of samples or for steps.
    """
    each = site.draws
    looked = max(1, min(iterations, most // each))
    shares = []
    for k in range(looked):
        first = k * iterations // looked * each
        for i in range(each):
            patterns = site.sequence.groups_at(first + i)
            shares += [len(pattern.kept(site.entries)) / site.entries
                       if site.entries and site.family.drops == "units" else 1 - pattern.rate
                       for pattern in patterns]
    return KeptShare(site.layer_name, fmean(shares), min(shares), max(shares), looked)


def _configuration(path, report) -> SolverConfig | None:
    for name in ("solver.prototxt", "net.prototxt"):
        try:
            report.texts[name] = read_text(str(path / name))
        except MinidropError as error:
            report.notes.append(str(error))
    try:
        return load_solver(path / "solver.prototxt") if "solver.prototxt" in report.texts else None
    except MinidropError as error:
        report.notes.append(str(error))
        return None


def _sessions(path, report) -> list[Session]:
    file = path / "train.log"
    try:
        return read_sessions(file)
    except MinidropError as error:
        report.notes.append(f"{error}: no times are known")
        return []


def _tell(report: RunReport, facts: dict[str, Any], solver: SolverConfig | None,
          sessions: list[Session]) -> None:
    """Note the facts of a run: what trained, where, how far, and in which time."""
    said: list[tuple[str, Any]] = [("solver file", facts.get("solver")), ("minidrop", facts.get("minidrop"))]
    if "started" in facts:
        said.append(("started", _clock(facts["started"])))
    said += [("device", device) for device in dict.fromkeys(one.device for one in sessions)]
    said.append(("dtype", facts.get("dtype")))
    if facts:
        said.append(("--dropout", facts.get("dropout") or "as the net says"))
    settings = solver.message if solver else None
    if settings is not None:
        said += [("seed", settings.random_seed), ("update rule", settings.type)]
    most = f" of {settings.max_iter}" if settings is not None else ""
    said.append(("iterations", f"{_iterations(report.curves)}{most}"))
    if rates := report.curves.points.get(RATE, {}).get("train"):
        said.append(("learning rate", f"{rates[0][1]:.4g} at first, {rates[-1][1]:.4g} at the end"))
    if any(math.isfinite(one.seconds) for one in sessions):
        said.append(("time in all", _duration(sum(one.seconds for one in sessions
                                                  if math.isfinite(one.seconds)))
                     + (f" in {len(sessions)} sessions" if len(sessions) > 1 else "")))
    paced = [(one.last - one.first, one.paced) for one in sessions
             if one.first is not None and one.last is not None and one.last > one.first and one.paced > 0]
    if paced:
        steps, seconds = map(sum, zip(*paced, strict=True))
        said.append(("time per iteration", f"{1000 * seconds / steps:.4g} ms, {steps / seconds:.4g} a "
                                           f"second, tests and snapshots included"))
    report.facts = [(what, str(value)) for what, value in said if value not in (None, "")]


def _describe(path, report, facts, solver):
    """Build the net of a run, without parameters, and note what it consists of and what its drops kept."""
    try:
        net = _net(path, "net.prototxt", facts, solver, "TRAIN", fills=False)
    except (MinidropError, OSError) as error:
        report.notes.append(f"the net cannot be shown: {error}")
        return
    try:
        report.net = summarise(net)
        report.kept = [kept_share(drop.site, _iterations(report.curves)) for drop in net.plan.drops]
    finally:
        net.close()


def _confusion(path, facts, solver):
    """Return the Confusion of the first test net of a run with its newest snapshot."""
    skipped: list[str] = []
    weights = newest_valid(path / "snapshots", skipped) or _under_own_prefix(path, facts, skipped)
    if solver is None or weights is None:
        raise SnapshotError(f"{path}: a confusion matrix needs solver.prototxt and a snapshot of the run, "
                            f"and there is none" + "".join(f"; passed over: {one}" for one in skipped))
    name = os.path.basename(solver.message.test_net[0]) if solver.message.test_net else "net.prototxt"
    net = _net(path, name, facts, solver, "TEST")
    try:
        # What the tests of the run read.
        net.load_weights([str(weights)], ema=bool(solver.message.ema_decay and solver.message.ema_test))
        return confusion_of(net, weights.name)
    finally:
        net.close()


def _under_own_prefix(path, facts, skipped):
    """Return the newest intact snapshot of a run, or None; another one may have the same snapshot_prefix."""
    for seal, found in under_prefix(str(facts.get("snapshot_prefix") or path / "none"), skipped):
        try:
            if is_own(path, facts, seal, read_header(found)):
                return found
        except SnapshotError as error:
            skipped.append(str(error))
    return None


def _net(path, name, facts, solver, phase, fills=True):
    """Return the net of a file of a run folder; its data are looked up beside the run's solver file."""
    config = parse_net(read_text(str(path / name)), str(path / name))
    folder = os.path.dirname(str(facts.get("solver") or "")) or str(path)
    config = replace(config, path=os.path.join(folder, name))
    settings = solver.message
    tests = settings.test_state
    state = settings.train_state if phase == "TRAIN" else tests[0] if tests else type(settings.train_state)()
    dtype = "float64" if facts.get("dtype") == "float64" else "float32"
    return Net(config, phase, "cpu", dtype, max(settings.random_seed, 0), state.level, tuple(state.stage),
               fills=fills)


def _iterations(curves):
    """Return the greatest iteration with a value."""
    return int(max(points[-1][0] for phases in curves.points.values() for points in phases.values()))


def _clock(seconds):
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"


def _duration(seconds):
    """Return seconds as text such as 1 h 2 min 3 s, or 4.5 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h " * bool(hours) + f"{minutes} min {seconds} s"
