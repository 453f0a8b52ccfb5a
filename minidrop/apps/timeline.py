"""Timeline: when the parts of training iterations run, on each rank, as a file that trace viewers show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

from minidrop.apps.timing import Clock, replaced, timed_layers
from minidrop.files import replace

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

MOST_ITERATIONS = 100       # that are recorded


@contextmanager
def timeline(solver: Solver, path: str | PathLike, iterations: int = MOST_ITERATIONS) -> Iterator[Timeline]:
    """Within this context the first iterations of a solver are recorded; after the last rank 0 writes `path`.

        with timeline(solver, "trace.json"):
            solver.step(20)

    The file has Chrome's trace format (JSON), which Perfetto (ui.perfetto.dev) and chrome://tracing show: a
    process for each rank, with spans of iterations, of layers forward and backward and of the update, and
    with several ranks of the buckets of gradients, from where they begin to travel to where they have been
    added up. Times are microseconds since all ranks began, by the clock of each.

    These iterations run layer by layer, and wait for the device before and after each span: on a GPU they are
    slower than those after them, which are captured again. If one fails, a solver on its own writes what it
    has; of several ranks none does.
    Raises OSError (of several ranks ParallelError), before training, where the file cannot be written.
    """
    trace = Timeline(solver, iterations)
    trace.write(path)       # what is wrong with the path shows before training
    try:
        with trace.recording(lambda: trace.write(path)):
            yield trace
    except BaseException:
        if solver.ranks.alone:
            trace.write(path)
        raise
    if not trace.is_over:
        trace.write(path)


class Timeline(Clock):
    """The spans of a solver's first iterations: `events` are those of this rank."""

    def __init__(self, solver: Solver, iterations: int):
        super().__init__(solver.net.backend.synchronize)
        self.solver, self.last = solver, solver.iteration + iterations
        self.events: list[dict[str, Any]] = []
        self.is_over = False        # whether all iterations have been recorded
        solver.ranks.any(False)         # all ranks begin
        self.began = time.perf_counter()

    @contextmanager
    def recording(self, done: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Within this context iterations are recorded, as far as they are among the first; then done()."""
        solver = self.solver

        def look(event):
            if event.kind == "step" and event.iteration >= self.last and not self.is_over:
                stack.close()       # what comes now runs as it would have
                self.is_over = True
                done()
        with ExitStack() as stack:
            stack.enter_context(solver.uncaptured())
            steps = solver.steps
            for name, key in (("step", "iteration"), ("update", "update")):
                stack.enter_context(replaced(steps, name, self.timed(
                    getattr(steps, name), lambda *_, key=key: (key, ""))))
            stack.enter_context(timed_layers(self, solver.net))
            solver.gradient_sum.listeners.append(self._bucket)
            stack.callback(solver.gradient_sum.listeners.remove, self._bucket)
            solver.add_callback(look)
            stack.callback(solver.callbacks.remove, look)
            yield

    def note(self, key: tuple[str, str], start: float, end: float) -> None:
        """Record a span."""
        part, layer = key
        self._record(f"{part} {layer}".strip(), part, start, ph="X", dur=round(1e6 * (end - start), 1))

    def _bucket(self, number, begins):
        self._record(f"bucket {number}", "reduce", time.perf_counter(), ph="b" if begins else "e",
                     id=f"{self.solver.iteration}.{number}")

    def _record(self, name, part, seconds, **more):
        iteration = self.solver.iteration
        if iteration < self.last:
            self.events.append({"name": name, "cat": part, **more, "ts": self._microseconds(seconds),
                                "pid": self.solver.ranks.rank, "tid": 0, "args": {"iteration": iteration}})

    def _microseconds(self, seconds):
        return round(1e6 * (seconds - self.began), 1)

    def write(self, path: str | PathLike) -> None:
        """Let rank 0 write the spans of all ranks, in the order in which they began. All ranks call this."""
        ranks = self.solver.ranks
        ordered = sorted(self.events, key=lambda event: event["ts"])
        events = [event for text in ranks.texts(json.dumps(ordered)) for event in json.loads(text)]
        names = [{"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}}
                 for rank in range(ranks.size)]
        text = json.dumps({"traceEvents": [*names, *events], "displayTimeUnit": "ms"})
        ranks.at_root(lambda: replace(path, text))
