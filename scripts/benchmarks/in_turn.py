"""Time several methods in turn: each has a process of its own, which sleeps while the others run.

So machine noise hits all of them alike, no thread pool spins beside another, and each has its own peak
memory. The process of a method calls `serve`, the process that compares them `measure`. Steps are as in
bench_steps.py.
"""

import json
import os
import subprocess
import sys
import time
from itertools import combinations
from statistics import median


def serve(steps, **commands):
    """Answer each command, a line of standard input, with a line of JSON. `commands`: {name: f(count)}."""
    import resource

    def run(count):
        answer = []
        for _ in range(count):
            begin = time.perf_counter()
            kind = steps.step()
            answer.append((kind, time.perf_counter() - begin))
        return answer

    commands = {"steps": run, "weights": lambda count: steps.weights(),
                "memory": lambda count: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024} | commands
    for line in sys.stdin:
        command, count = line.split()
        print(json.dumps(commands[command](int(count))), flush=True)


class Worker:
    """A method's process, asked from here; `launcher` is what stands before it, such as mpiexec -n 2."""

    def __init__(self, script, *arguments, launcher=(), environment=None):
        self.process = subprocess.Popen([*launcher, sys.executable, script, *map(str, arguments)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **(environment or {})})

    def ask(self, command, count=0):
        try:
            self.process.stdin.write(f"{command} {count}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit("a worker has stopped; its error stands above")
        return json.loads(line)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def measure(workers, blocks, block_seconds, after_turn=None, alike=False):
    """Return {name: {"ms", "steps", "weight_measured", "memory_mib"}} for {name: worker}, which take turns.

    A turn takes `block_seconds`, but at least two steps, after two that are not counted: they wake caches and
    thread pools up again. `after_turn(name, worker, steps)` runs at the end of each. alike: all make the same
    number of steps, that of the fastest, so that those who read batches of several lengths read the same.
    """
    counts, times = {}, {name: [] for name in workers}
    for name, worker in workers.items():
        worker.ask("steps", 3)                              # compiles, allocates
        counts[name] = max(2, round(block_seconds / median(t for _, t in worker.ask("steps", 3))))
    if alike:
        counts = dict.fromkeys(counts, max(counts.values()))
    for _ in range(blocks):
        for name, worker in workers.items():
            worker.ask("steps", 2)
            times[name] += worker.ask("steps", counts[name])
            if after_turn:
                after_turn(name, worker, counts[name])
    results = {}
    for name, worker in workers.items():
        seconds, measured = step_time(times[name], worker.ask("weights"))
        results[name] = {"ms": 1e3 * seconds, "steps": len(times[name]), "weight_measured": measured,
                         "memory_mib": worker.ask("memory")}
    return results


def step_time(times, weights):
    """Return (seconds of a step, share of all kinds that was seen) for [(kind, seconds), ...].

    weights a dict {kind: how often it is drawn}: the median of each kind, weighted so. weights a number:
    kinds are numbers, what each step keeps, and `weights` their mean in the long run; the time there, on a
    line through the measured points.
    """
    if not isinstance(weights, dict):
        return line_at(times, weights), 1.0
    by_kind = {}
    for kind, seconds in times:
        by_kind.setdefault(kind, []).append(seconds)
    seen = {kind: weight for kind, weight in weights.items() if kind in by_kind}
    total = sum(seen.values())
    return sum(weight / total * median(by_kind[kind]) for kind, weight in seen.items()), total


def line_at(points, x):
    """Return y at x on the Theil-Sen line, whose slope is the median of all pairs' slopes."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if abs(b[0] - a[0]) > 1e-9]
    slope = median(slopes) if slopes else 0.0
    return median(y - slope * (own - x) for own, y in points)
