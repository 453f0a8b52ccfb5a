"""Logs of trainings as tables: what minidrop and Caffe print, and Caffe's parse_log made CSV files of."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError

FIXED = ("NumIters", "Seconds", "LearningRate")     # the columns of every row, before those of the outputs
MOST_ROWS = 1_000_000
MOST_COLUMNS = 1000
_LINE_BYTES = 1 << 16           # what is longer is no line of a log
_HALF_A_YEAR = 183 * 86400.0

_NUMBER = r"[-+]?(?:\d[\d.eE+-]*|\.\d[\deE+-]*|nan|inf)"
_GLOG = re.compile(r"\s*[IWEF](\d{4})?(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{1,6})\s")
_OWN = re.compile(r"\s*(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d),(\d{1,6})\s")
_ITERATION = re.compile(r"\bIteration (\d{1,18})\b")
_OUTPUT = re.compile(rf"\b(Train|Test) net output #(\d{{1,9}}): (\S+) = ({_NUMBER})")
_RATE = re.compile(rf"\blr = ({_NUMBER})")
_TESTING = re.compile(r", Testing net \(#\d{1,9}\)(: )?")
_STARTED = re.compile(r": training to iteration \d{1,18} on (.{1,500}); run folder ")
_LOSS = re.compile(rf", loss = ({_NUMBER})")
# What minidrop shows in one line, as "loss = 0.5, accuracy = [0.25, 0.5]".
_VALUE = re.compile(rf"(\S+) = ({_NUMBER}|\[[^\[\]]*\])(?:, |$)")


class Log(NamedTuple):
    """Rows of training and of tests, each {column: number}, with NumIters, Seconds, LearningRate first.

    Seconds count from the start of the training; nan where the lines have no time.
    """

    train: list[dict[str, float]]
    test: list[dict[str, float]]


def read_log(path: str | os.PathLike) -> Log:
    """Return the Log of a file that minidrop or Caffe printed while training.

    Lines that say nothing of an iteration are passed over. Raises DataError where the file is no regular one,
    cannot be read, holds no iteration at all, or holds too much.
    """
    reader = _Reader(_year(path))
    for line in _lines(path):
        reader.take(line)
        if len(reader.train) + len(reader.test) > raised(MOST_ROWS):
            raise DataError(f"{path}: expected at most {raised(MOST_ROWS)} rows, got more; {how_to_raise()}")
    log = reader.finished()
    if not log.train and not log.test:
        raise DataError(f"{path}: expected a log of minidrop or Caffe, with lines such as `Iteration 100, "
                        f"loss = 0.5`, got none; give train.log of a run folder, or what caffe train printed")
    return log


@dataclass
class Session:
    """A process that trained, as its log tells: from `first` to `last` iteration that it printed.

    device: what it computed on, "" where the log does not say. seconds: from its first line to its last.
    paced: those from the line of `first` to that of `last`. Both are nan where the lines have no time.
    """

    device: str = ""
    seconds: float = math.nan
    first: int | None = None
    last: int | None = None
    paced: float = math.nan


def read_sessions(path: str | os.PathLike) -> list[Session]:
    """Return the Sessions of a log of minidrop, or the one of a log of Caffe; [] without any iteration.

    Raises DataError as `read_log`, but not for a log without iterations.
    """
    reader = _Reader(_year(path))
    sessions = [Session()]
    begun = at_first = None
    for line in _lines(path):
        reader.read_time(line)
        started = _STARTED.search(line)
        if started:
            if sessions[-1].device or sessions[-1].first is not None:
                sessions.append(Session())
            begun, sessions[-1].device = reader.now, started[1]
        session = sessions[-1]
        begun = reader.now if begun is None else begun
        if reader.now is not None:
            session.seconds = reader.now - begun
        found = _ITERATION.search(line)
        if found:
            session.last = int(found[1])
            if session.first is None:
                session.first, at_first = session.last, reader.now
            if reader.now is not None and at_first is not None:
                session.paced = reader.now - at_first
    return [session for session in sessions if session.first is not None]


def _lines(path):
    """Yield the lines of a log; raises DataError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            while line := file.readline(_LINE_BYTES):
                yield line.decode("utf-8", "replace").rstrip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _year(path):
    """Return the year of the file's last change, which Caffe's times lack; DataError if it is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise DataError(f"{path}: expected a log file, got {kind}; give the file of the log")
    return datetime.fromtimestamp(found.st_mtime).year


class _Reader:
    """Takes the lines of a log in turn."""

    def __init__(self, year):
        self.year = year
        self.train, self.test, self.smoothed = [], [], []
        self.start = self.begun = self.now = None       # of "Solving", of the first line, of this line
        self.iteration, self.rate, self.first_rate = None, math.nan, math.nan
        self.row = self.last = None         # of (kind, number) outputs, the row that is being filled

    def take(self, line):
        self.read_time(line)
        if self.start is None and self.now is not None and " Solving " in f"{line} ":
            self.start = self.now
        found = _ITERATION.search(line)
        if found:
            self._iteration(line, int(found[1]), found.end())
        elif self.iteration is not None:
            self._output(line)

    def read_time(self, line):
        """Read the time of a line; a log with years that go back to January passed a turn of the year."""
        found = _GLOG.match(line) or _OWN.match(line)
        if not found:
            return
        year, *rest, fraction = found.groups()
        try:
            time = datetime(int(year or self.year), *map(int, rest), int(fraction.ljust(6, "0"))).timestamp()
            if year is None and self.now is not None and time < self.now - _HALF_A_YEAR:
                self.year += 1
                return self.read_time(line)
        except (ValueError, OverflowError, OSError):
            return
        self.now = time
        self.begun = time if self.begun is None else self.begun

    def _iteration(self, line, iteration, end):
        self.iteration, self.row, self.last = iteration, None, -1
        testing = _TESTING.search(line, end)
        rest = line[testing.end():] if testing else line[line.find(", ", end) + 2:]
        values = dict(self._values(rest)) if not testing or testing[1] else {}
        rate = values.pop("lr", None)
        if rate is not None:
            self.first_rate = rate if math.isnan(self.first_rate) else self.first_rate
            self.rate = rate
            # Caffe prints the rate behind the outputs of its iteration.
            if self.train and self.train[-1]["NumIters"] == iteration:
                self.train[-1]["LearningRate"] = rate
            if self.smoothed and self.smoothed[-1]["NumIters"] == iteration:
                self.smoothed[-1]["LearningRate"] = rate
        if testing:
            if values:
                self.test.append(self._new() | values)
        elif rate is not None and values:       # a line of minidrop has all in one
            self.train.append(self._new() | values)
        elif "loss" in values:
            self.smoothed.append(self._new() | {"loss": values["loss"]})

    def _output(self, line):
        """Read a line such as `Train net output #0: loss = 0.5 (* 1 = 0.5 loss)`."""
        found = _OUTPUT.search(line)
        if not found:
            return
        rows, number, name = self.train if found[1] == "Train" else self.test, int(found[2]), found[3]
        if self.row is None or number <= self.last or self.rows is not rows:
            self.row, self.rows = self._new(), rows
            rows.append(self.row)
        self.last = number
        same = sum(column == name or column.startswith(f"{name}[") for column in self.row)
        if same < MOST_COLUMNS:
            self.row[f"{name}[{same}]" if same else name] = _number(found[4])

    def _new(self):
        return {"NumIters": float(self.iteration), "Seconds": self.now if self.now is not None else math.nan,
                "LearningRate": self.rate}

    @staticmethod
    def _values(text) -> Iterator[tuple[str, float]]:
        for name, value in _VALUE.findall(text):
            if not value.startswith("["):
                yield name, _number(value)
                continue
            for i, part in enumerate(value[1:-1].split(", ")[:MOST_COLUMNS]):
                yield f"{name}[{i}]", _number(part)

    def finished(self):
        """Return the Log: seconds from the start, and no rate missing where a later line gives the first."""
        train = self.train or self.smoothed
        start = next((time for time in (self.start, self.begun) if time is not None), math.nan)
        for rows in (train, self.test):
            for row in rows:
                row["Seconds"] = round(row["Seconds"] - start, 6)
                if math.isnan(row["LearningRate"]):
                    row["LearningRate"] = self.first_rate
        return Log(train, self.test)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def columns(rows: Iterable[dict[str, float]]) -> list[str]:
    """Return the names of all columns, in the order in which they appear; DataError if they are too many."""
    names = dict.fromkeys(FIXED)
    for row in rows:
        names.update(dict.fromkeys(row))
        if len(names) > raised(MOST_COLUMNS):
            raise DataError(f"the log names more than {raised(MOST_COLUMNS)} different outputs, too many for "
                            f"a table; {how_to_raise()}")
    return list(names)


def as_csv(rows: list[dict[str, float]], delimiter: str = ",") -> str:
    """Return rows as CSV, with a head; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_paths(log: str | os.PathLike, folder: str | os.PathLike) -> tuple[Path, Path]:
    """Return where Caffe's parse_log puts the tables of a log: (FOLDER/LOG.train, FOLDER/LOG.test)."""
    name = Path(log).name
    return Path(folder) / f"{name}.train", Path(folder) / f"{name}.test"


def outputs(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the outputs, all columns but the fixed ones."""
    return columns(rows)[len(FIXED):]
