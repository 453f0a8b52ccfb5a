"""The folder of one training run, and which folder and snapshot to continue from.

    run.json             the solver of the run, its start, and where its snapshots are
    solver.prototxt      the solver and its nets as they were used: overrides applied, the seed filled in
    net.prototxt
    train.log            the whole output, with times
    metrics.jsonl        one object per line: {"iteration", "phase", "values"}, for TEST also "net", its
                         number; for `loss` and `total_loss` see Event of minidrop.solver
    snapshots/NAME_iter_N.h5

metrics.jsonl contains no times and no paths, so it is the same for two runs with one seed. What a killed run
wrote after its last snapshot is cut off on resuming, so the file of a resumed run equals that of an
uninterrupted one.
"""

import json
import logging
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from minidrop import __version__
from minidrop.apps.run_facts import ROOT, identity, is_own, newest_run, next_number, read_facts
from minidrop.cli import values
from minidrop.cli.prefix import PrefixLock, fcntl
from minidrop.errors import ConfigError, DataError, SnapshotError
from minidrop.files import check_output, open_to_append, replace, sweep, write_all
from minidrop.snapshot import read_header, under_prefix

log = logging.getLogger(__name__)

_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param")


def run_name(solver_path: Any) -> str:
    """Return the name of runs of a solver file: the file's, or its folder's if the file is named `solver`."""
    path = Path(solver_path)
    return (path.resolve().parent.name if path.stem == "solver" else path.stem) or "run"


def choose(solver: Any, out: Any = None, resume: Any = None) -> Any:
    """Return (RunFolder, snapshot to continue from or None) for a Solver, and set where its snapshots go.

    out: the requested folder. resume: None, "auto" or the path of a snapshot. Nothing is written yet, except
    the empty folder of a new run. Raises ConfigError if a new run would mix with an old one.
    """
    name = run_name(solver.config.path)
    if resume == "auto":
        path = Path(out) if out else newest_run(solver)
        if path is None:
            log.info("no earlier run of %s under %s: starting anew", solver.config.path, ROOT)
        else:
            _check_free(path)
            folder = RunFolder(path, name, solver)
            try:
                start = folder.newest_snapshot()
            except BaseException:
                folder.__exit__()       # the caller does not get it
                raise
            if start is None:
                log.info("no snapshot of %s yet in %s: starting anew", solver.config.path, path)
            return folder, start
    path = Path(out) if out else fresh_folder(name)
    if resume is None and (path / "run.json").exists():
        raise ConfigError(f"--out {path}: holds a run already; go on with --resume auto, or name another "
                          f"folder")
    _check_free(path)
    return RunFolder(path, name, solver), resume if resume != "auto" else None


def fresh_folder(name: str) -> Path:
    """Make a folder for a new run and return its path; unique even for starts within one second."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for i in range(1, 10**6):
        path = ROOT / (f"{stem}-{i}" if i > 1 else stem)
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError:
            return path         # `begin` reports why it cannot be written
    raise ConfigError(f"{ROOT}: has too many runs of {stem}")


def _check_free(path):
    """Raise ConfigError if a folder that belongs to no run holds files that a run would replace."""
    if not (path / "run.json").exists():
        for name in ("solver.prototxt", "net.prototxt", "metrics.jsonl", "train.log",
                     *sorted(other.name for other in path.glob("test_net_*.prototxt"))):
            if (path / name).is_file():
                raise ConfigError(f"--out {path}: is no run folder and holds a {name}, which the run would "
                                  f"replace; name another folder")


class RunFolder:
    """The folder `path` of one run of a Solver: a context manager that closes what `begin` opened."""

    def __init__(self, path: Any, name: str, solver: Any):
        self.path, self.solver = path, solver
        self.log_path = path / "train.log"
        file = path / "run.json"
        self.facts = read_facts(file, log.warning) if file.is_file() else {}    # `begin` refuses a pipe
        self.run = self.facts.get("run") or secrets.token_hex(8)
        self.own_prefix = not solver.settings.snapshot_prefix
        prefix = str(path / "snapshots" / name) if self.own_prefix else solver.snapshot_prefix
        if os.path.isdir(prefix):           # as in Caffe for a prefix that is a folder
            prefix = os.path.join(prefix, Path(solver.config.path).stem)
        solver.place_snapshots(prefix, self.run)
        self._metrics: Any = None
        self._lock: Any = None
        self._prefix_lock = PrefixLock(solver.config.where("snapshot_prefix"), prefix, path)
        self._folder: Any = None        # kept open, so that no other folder gets its inode number

    def newest_snapshot(self) -> Path | None:
        """Return the path of this run's newest intact snapshot, or None; warns of broken ones.

        The folder is locked first, since a process that still trains in it could delete the snapshot. Raises
        ConfigError if this run's snapshots have been replaced by those of another with the same prefix.
        """
        if self.path.is_dir():
            self._lock_folder()
        if not self.own_prefix:
            self._prefix_lock.take()
        skipped: list[str] = []
        foreign, found = None, None
        for seal, path in under_prefix(self.solver.snapshot_prefix, skipped):
            try:
                header = read_header(path)
                if self.own_prefix or is_own(self.path, self.facts, seal, header):
                    found = path
                    break
                foreign = foreign or path
            except SnapshotError as error:
                skipped.append(str(error))
        for message in skipped:
            log.warning("passed over: %s", message)
        if foreign and not found and self.facts.get("has_snapshots"):
            raise ConfigError(f"--resume auto: {foreign} is a snapshot of another run with this "
                              f"snapshot_prefix, and none of the run in {self.path} is left; go on from it "
                              f"with --resume FILE, or start anew with another --out")
        return found

    def begin(self) -> None:
        """Create the folder or continue in it: cut metrics.jsonl at the iteration, write the rest."""
        if not self.own_prefix:
            self._check_prefix()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_folder()
            self._folder = _open_folder(self.path)
            facts = {**identity(self.solver), "run": self.run, "number": next_number(),
                     "started": time.time(), "minidrop": __version__}
            self.facts = {**facts, **self.facts,
                          "snapshot_prefix": os.path.abspath(self.solver.snapshot_prefix)}
            self._write_facts()
            self._write_configuration()
            self._cut_metrics()
            self._metrics = open_to_append(self.path / "metrics.jsonl")
        except OSError as error:
            raise self._unwritable(error) from error
        if not self.own_prefix:
            others = [path for seal, path in under_prefix(self.solver.snapshot_prefix)
                      if self.solver.written.is_foreign(seal)]
            if others:
                log.warning("%s: %s is a snapshot of another run; those of the same iterations will be "
                            "replaced, so set another snapshot_prefix for each run",
                            self.solver.config.where("snapshot_prefix"), others[0])
        # Only this run writes here, but others may use a prefix of the solver file.
        sweep(self.path, age=0)
        sweep(Path(self.solver.snapshot_prefix).parent, *([0] if self.own_prefix else []))

    def _write_facts(self):
        replace(self.path / "run.json", json.dumps(self.facts, indent=1) + "\n")

    def _unwritable(self, error):
        path = error.filename
        inside = f"{path}: " if path and str(path) != str(self.path) else ""
        return ConfigError(f"--out {self.path}: the run folder cannot be written: {inside}"
                           f"{error.strerror or error}; choose another one")

    def _check_prefix(self):
        """Raise ConfigError at once if snapshots cannot be written to the prefix, or another run uses it."""
        folder = Path(self.solver.snapshot_prefix).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission"
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise ConfigError(f"{self.solver.config.where('snapshot_prefix')}: snapshots cannot be written "
                              f"to the folder {folder}: {reason}; choose another snapshot_prefix")
        self._prefix_lock.take()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in (self._metrics, self._lock):
            if file:
                file.close()
        if self._folder is not None:
            os.close(self._folder)
        self._prefix_lock.release()
        with suppress(OSError):     # do not leave the empty folder of a run that never began
            self.path.rmdir()
            if self.path.parent == ROOT:
                ROOT.rmdir()

    def _lock_folder(self):
        if self._lock:
            return
        try:
            self._lock = open_to_append(self.log_path)
        except OSError as error:
            raise self._unwritable(error) from error
        if fcntl:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"--out {self.path}: another minidrop train is running in this folder; "
                                  f"stop it first, or choose another folder") from None
            except OSError as error:        # a file system without locks
                log.debug("the run folder is not locked: %s", error)

    def _cut_metrics(self):
        path = self.path / "metrics.jsonl"
        check_output(path)
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        kept = "".join(line for line in old.splitlines(keepends=True)
                       if _is_before(line, self.solver.iteration))
        if kept != old:
            replace(path, kept)

    def record(self, event: Any) -> None:
        """Record an Event of the solver: the values of displays and tests, and that there are snapshots.

        Raises DataError if it cannot be written or the folder is gone.
        """
        if event.kind == "step" and self._is_gone():
            self.facts["has_snapshots"] = True      # not written: the path may be another run's folder
            # Of several ranks all would have to write it, and the others know nothing of this.
            path = self.solver.snapshot() if self.solver.ranks.alone else self.solver.last_snapshot
            raise DataError(f"--out {self.path}: the run folder was removed or renamed while the training "
                            f"ran, which ends after iteration {event.iteration}; go on with "
                            f"{f'--resume {path} and ' if path else ''}another --out")
        if event.kind == "snapshot" and not self.facts.get("has_snapshots"):
            self.facts["has_snapshots"] = True
            self._write_facts()
        if event.kind not in ("display", "test"):
            return
        line = {"iteration": event.iteration, "phase": "TEST" if event.kind == "test" else "TRAIN"}
        if event.kind == "test":
            line["net"] = event.net
        try:
            write_all(self._metrics, (values.as_json({**line, "values": event.values}) + "\n").encode())
        except OSError as error:
            raise DataError(f"{self.path / 'metrics.jsonl'}: cannot be written: "
                            f"{error.strerror or error}; go on later with --resume auto") from error

    def _is_gone(self):
        if self._folder is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._folder), os.stat(self.path))
        except OSError:
            return True

    def _write_configuration(self):
        train, tests = self.solver.choices
        settings = type(self.solver.settings)()
        settings.CopyFrom(self.solver.settings)
        for field in _NET_FIELDS:
            settings.ClearField(field)
        settings.random_seed = self.solver.seed
        # Also a level of 0, where a file asks for another.
        if (train.state.level or train.state.stage or settings.HasField("train_state")
                or train.config.message.HasField("state")):
            settings.train_state.CopyFrom(train.state)
        files = {"net.prototxt": train.config}
        if all(test.config is train.config for test in tests):
            settings.net = "net.prototxt"
        else:
            settings.train_net = "net.prototxt"
            for i, test in enumerate(tests):
                name = "net.prototxt" if test.config is train.config else f"test_net_{i}.prototxt"
                files[name] = test.config
                settings.test_net.append(name)
        for name, config in files.items():
            replace(self.path / name, str(config.message))
        replace(self.path / "solver.prototxt", str(settings))


def _open_folder(path):
    """Return a descriptor of a folder, or None if the system has none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, AttributeError):       # Windows
        return None


def _is_before(line, iteration):
    """Whether a line of metrics.jsonl is complete and from before the snapshot of `iteration`."""
    try:
        return line.endswith("\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False
