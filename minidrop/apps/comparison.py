"""Kinds of dropout compared: one solver trained with each of them, in turns, with several seeds."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from minidrop.errors import ConfigError, DataError, nearest
from minidrop.files import read_regular, replace
from minidrop.solver import Solver

WARM_UP = 3             # steps of a net that is thrown away: they compile, and touch the memory first
SAVE_AFTER = 60.0       # seconds of training, after which what was done is saved
FILE = "comparison.json"
_MOST_BYTES = 64 << 20


@dataclass
class Method:
    """A kind of dropout and what was measured of it: seconds of each block, values of each seed's test.

    families: those of the patterns that its drops draw.
    """

    kind: str
    families: list[str] = field(default_factory=list)
    block_seconds: list[float] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)


class Comparison:
    """Trains a solver with each kind of dropout, from the same weights and on the same batches.

    make(kind, seed) returns the Solver of a kind of dropout, with a seed, or with the file's for None; it
    tests and saves nothing by itself. The solvers take turns, a block of iterations each, so that whatever
    else the machine does disturbs all alike; tests are not timed. Their number of iterations is max_iter.

    folder: where what is done is kept, so that the same comparison goes on there if it was stopped; the
    result is the same but for the clock. Made again with more seeds it only runs the new ones. Without a
    folder nothing is written. Raises ConfigError for a solver without a test, and where the folder holds
    another comparison; DataError where what it holds is damaged.
    """

    def __init__(self, make: Callable[[str, int | None], Solver], kinds: Sequence[str], seeds: int = 1,
                 block: int = 25, folder: str | os.PathLike | None = None):
        if len(set(kinds)) != len(kinds) or not kinds:
            raise ConfigError(f"expected different kinds of dropout to compare, got "
                              f"{', '.join(kinds) or 'none'}")
        self.make, self.kinds, self.seeds, self.block = make, list(kinds), seeds, block
        self.folder = Path(folder) if folder is not None else None
        self.methods = [Method(kind) for kind in kinds]
        facts = []
        for method in self.methods:
            solver = make(method.kind, None)
            try:
                facts.append(self._facts(solver))
                method.families = list(dict.fromkeys(
                    site.settings.family for site in solver.net.drop_sites.values() if site.settings.rate))
                self.iterations, self.device = solver.settings.max_iter, solver.net.backend.name
                self.first_seed = max(0, solver.settings.random_seed)
                _check_tests(solver)
                test = solver.test_nets[0]
                self.outputs = [ref.name for ref in test.output_refs
                                if math.prod(test.graph.shapes[ref]) == 1]
            finally:
                solver.close()
        self.facts = {"kinds": self.kinds, "block": block, "solvers": facts}
        self.done = 0
        self._saved: tuple[list[str], int] = [], 0      # solvers under way, and their iteration
        if self.folder is not None:
            self._read()

    def check_metric(self, name: str) -> None:
        """Raise ConfigError where the test net has no such output that is one number."""
        known = self.outputs
        if name not in known:
            raise ConfigError(f"the test net has no output {name!r} of one number{nearest(name, known)} "
                              f"(such outputs: {', '.join(known) or 'none'})")

    def run(self, report: Callable[[int], object] = lambda steps: None,
            should_stop: Callable[[], object] = lambda: False) -> bool:
        """Train what is left, and return True; False if `should_stop()` ended it between two blocks.

        report: is told of iterations done, those that were done before first. What is done is saved where
        there is a folder, also when it is stopped.
        """
        report(self.done * self.iterations * len(self.kinds))
        if self.done >= self.seeds:
            return True
        if self.folder is not None:         # before the work
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.folder}: the folder cannot be made: {error.strerror or error}; "
                                  f"name another") from None
        for kind in self.kinds:
            solver = self.make(kind, None)
            try:
                solver.step(WARM_UP)
            finally:
                solver.close()
        while self.done < self.seeds:
            if not self._run_seed(self.first_seed + self.done, report, should_stop):
                return False
        return True

    def _run_seed(self, seed, report, should_stop):
        """Train with one seed; returns False where it was stopped before its end."""
        solvers = [self.make(kind, seed) for kind in self.kinds]
        try:
            start = self._resume(solvers)
            report(start * len(solvers))
            saved = time.monotonic()
            # Who goes first alternates: an odd number of blocks before has turned them round.
            turns = list(zip(solvers, self.methods, strict=True))[::-1 if start // self.block % 2 else 1]
            for begin in range(start, self.iterations, self.block):
                if should_stop():
                    self._save(solvers if begin else [], seed)
                    return False
                steps = min(self.block, self.iterations - begin)
                for solver, method in turns:
                    clock = time.perf_counter()
                    solver.step(steps)
                    solver.settle()
                    solver.net.backend.synchronize()
                    method.block_seconds.append(time.perf_counter() - clock)
                    report(steps)
                turns.reverse()
                if begin + steps < self.iterations and time.monotonic() - saved > SAVE_AFTER:
                    self._save(solvers, seed)
                    saved = time.monotonic()
            for solver, method in zip(solvers, self.methods, strict=True):
                method.values.append({name: value for name, value in solver.test().items()
                                      if isinstance(value, float)})
        finally:
            for solver in solvers:
                solver.close()
        self.done += 1
        self._save([], seed)
        return True

    # -- what is kept ----------------------------------------------------------------------------------------
    def _facts(self, solver):
        settings = type(solver.settings)()
        settings.CopyFrom(solver.settings)
        settings.ClearField("random_seed")
        return {"settings": str(settings), "net": str(solver.net.config.message), "dtype": solver.dtype,
                "seed": max(0, solver.settings.random_seed)}

    def _save(self, solvers, seed):
        """Write down what is done, with snapshots of solvers that are under way."""
        if self.folder is None:
            return
        names = []
        for i, solver in enumerate(solvers):
            names.append(f"under_way_{seed}_{solver.iteration}_{i}.h5")
            solver.snapshot(self.folder / names[-1])
        state = {"facts": self.facts, "done": self.done, "under_way": names,
                 "iteration": solvers[0].iteration if solvers else 0,
                 "methods": [{"block_seconds": method.block_seconds, "values": method.values}
                             for method in self.methods]}
        replace(self.folder / FILE, json.dumps(state, indent=1) + "\n")
        for path in self.folder.glob("under_way_*.h5"):
            if path.name not in names:
                with suppress(OSError):
                    path.unlink()

    def _read(self):
        path = self.folder / FILE
        if not path.exists():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise ConfigError(f"{self.folder}: is no folder of a comparison, and not empty; name another")
            return
        try:
            content = read_regular(path, _MOST_BYTES)
            state = json.loads(content)
            other = state["facts"] != self.facts
            self.done = int(state["done"])
            self._saved = list(state["under_way"]), int(state["iteration"])
            for method, own in zip(self.methods, state["methods"], strict=not other):
                method.block_seconds = [float(value) for value in own["block_seconds"]]
                method.values = [{str(name): float(value) for name, value in one.items()}
                                 for one in own["values"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: expected what a comparison has written, got something else ({error}); "
                            f"delete it, or name another folder") from error
        if other:
            raise ConfigError(f"{self.folder}: holds a comparison of other settings, nets or kinds of "
                              f"dropout; name another folder")

    def _resume(self, solvers):
        """Restore solvers that were under way; returns their iteration."""
        (names, iteration), self._saved = self._saved, ([], 0)
        if not names:
            return 0
        for solver, name in zip(solvers, names, strict=True):
            solver.restore(self.folder / Path(name).name)
        return iteration

    # -- what came out ---------------------------------------------------------------------------------------
    def result(self, metric: str | None = None) -> dict[str, Any]:
        """Return what was measured, for JSON: of each method seconds, the time of a step, and its tests.

        `values` {output: {mean, deviation (None for one seed), each}}. speed_up: the ratio of the total
        seconds of `against`, conventional dropout where it is compared, else the first; the median is over
        blocks that stood side by side. metric: only this output of the test. Raises ConfigError where there
        is no such output.
        """
        against = self.methods[self.kinds.index("conventional") if "conventional" in self.kinds else 0]
        known = list(self.methods[0].values[0])
        if metric is not None:
            self.check_metric(metric)
        methods = []
        for method in self.methods:
            seconds, base = method.block_seconds, against.block_seconds
            values = {}
            for name in [metric] if metric else known:
                each = [one[name] for one in method.values[:self.seeds]]
                values[name] = {"mean": mean(each), "deviation": stdev(each) if len(each) > 1 else None,
                                "each": each}
            methods.append({
                "dropout": method.kind, "families": method.families, "seconds": sum(seconds),
                "seconds_per_step": sum(seconds) / (self.iterations * self.done),
                "speed_up": sum(base) / sum(seconds),
                "median_speed_up": median(a / b for a, b in zip(base, seconds, strict=True)),
                "values": values})
        return {"iterations": self.iterations, "seeds": self.done, "first_seed": self.first_seed,
                "block": self.block, "device": self.device, "against": against.kind, "methods": methods}


def _check_tests(solver):
    if not solver.test_nets:
        raise ConfigError(f"{solver.config.where()}: has no test net, so there is nothing to compare but "
                          f"time; add test_iter and test_interval")
