"""How bench_gpu.py times steps: by a device's events, beside the host's time and the hardware's floor."""

import statistics
import time
from contextlib import nullcontext

from in_turn import step_time

BURST, BURSTS = 6, 5        # steps of a burst, and bursts a turn, in which the host is timed
RARE = 0.02                 # of a kind of step: nobody waits to see it


class Clock:
    """Time on a device, by its events; without a device (a rehearsal) by the clock."""

    def __init__(self, backend):
        self.backend = backend
        self.cuda = getattr(backend.xp, "cuda", None)

    def mark(self):
        if self.cuda is None:
            return time.perf_counter()
        event = self.cuda.Event()
        event.record()
        return event

    def between(self, first, last):
        """Milliseconds."""
        return 1e3 * (last - first) if self.cuda is None else self.cuda.get_elapsed_time(first, last)

    def times(self, step, count):
        """Return ([(kind, ms) of each step], share of the wall time that the events saw)."""
        with self.backend.active():
            self.backend.synchronize()
            begin, marks, kinds = time.perf_counter(), [self.mark()], []
            for _ in range(count):
                kinds.append(step())
                marks.append(self.mark())
            self.backend.synchronize()
            wall = time.perf_counter() - begin
            times = [self.between(*pair) for pair in zip(marks, marks[1:], strict=False)]
        return list(zip(kinds, times, strict=True)), sum(times) / 1e3 / wall

    def host(self, step):
        """Return the host's us for a step, the mean of a burst; None where a step was no launch."""
        with self.backend.active():
            self.backend.synchronize()
            begin = time.perf_counter()
            kinds = [step() for _ in range(BURST)]
            us = 1e6 * (time.perf_counter() - begin) / BURST
        return None if None in kinds else us


def warm_up(steps, clock, seconds):
    """Let steps compile, and be captured in all forms that are not rare; returns the ms of one."""
    clock.times(steps.step, 3)
    wanted, found = {kind for kind, weight in steps.weights().items() if weight > RARE}, set()
    end = time.monotonic() + seconds
    while True:
        last = clock.times(steps.step, 5)[0]
        found |= {kind for kind, _ in last}
        if time.monotonic() > end or wanted <= found and all(kind is not None for kind, _ in last):
            return statistics.median(ms for _, ms in last)


def measure(methods, clock, rounds, milliseconds, warming):
    """Return {name: figures} for {name: steps} in turns of some milliseconds, after seconds of `warming`."""
    seen, host, share = ({name: [] for name in methods} for _ in range(3))
    counts = {name: int(min(100, max(5, milliseconds / max(warm_up(steps, clock, warming), 1e-3))))
              for name, steps in methods.items()}
    for _ in range(rounds):
        for name, steps in methods.items():
            clock.times(steps.step, 2)
            times, events = clock.times(steps.step, counts[name])
            seen[name] += times
            host[name] += [clock.host(steps.step) for _ in range(BURSTS)]
            share[name].append(events)
    results = {}
    for name, steps in methods.items():
        times = [(kind, ms) for kind, ms in seen[name] if kind is not None]
        launches = len(times) / len(seen[name])
        if not times:       # none was captured: what there is
            times = [("", ms) for _, ms in seen[name]]
        ms, measured = step_time(times, steps.weights() if launches else {"": 1.0})
        bursts = [us for us in host[name] if us is not None]
        results[name] = {"ms": ms, "host_us": statistics.median(bursts) if bursts else None,
                         "steps": len(times), "weight_measured": measured,
                         "events": statistics.median(share[name]),
                         "launches": launches if getattr(steps, "captured", None) else None}
    return results


# -- the floor -----------------------------------------------------------------------------------------------
def products_alone(steps, clock, repeats=20, recorded=8):
    """Return (ms, operations, bytes) of the products of a step, given to cuBLAS alone.

    Means over several steps; of captured ones, of their graphs. None where no product was seen.
    """
    backend, launches = steps.backend, []
    launch = backend.blas.launch

    def recording(calls, *more):
        launches.append((calls, *more))
        launch(calls, *more)

    backend.blas.launch = recording
    try:
        with getattr(steps, "piece_by_piece", nullcontext)():
            clock.times(steps.step, recorded)
    finally:
        del backend.blas.launch

    def again():
        for one in launches:
            launch(*one)

    if not launches:
        return None
    again = in_a_graph(again, clock)
    clock.times(again, 2)
    ms = statistics.median(ms for _, ms in clock.times(again, repeats)[0]) / recorded
    operations = moved = 0
    for calls, a, b, out, _ in launches:
        for call in calls:
            operations += 2 * call.m * call.n * call.k * call.batch
            moved += call.batch * (call.m * call.k * b.itemsize + call.k * call.n * a.itemsize
                                   + call.m * call.n * out.itemsize)
    return ms, operations / recorded, moved / recorded


def in_a_graph(work, clock):
    """Return work as a CUDA graph where possible, so that small products do not wait for the host."""
    if clock.cuda is None:
        return work
    stream = clock.cuda.Stream(non_blocking=True)
    clock.backend.synchronize()
    try:
        with clock.backend.active(), stream:
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
    except Exception as error:
        print(f"  products are timed without a graph: {error}")
        return work
    return graph.launch


def bandwidth(backend, clock, size=1 << 30):
    """Return the bytes a second of a copy, each read and each written."""
    with backend.active():
        source, target = (backend.zeros((size,), "uint8") for _ in range(2))

        def copy():
            target[...] = source
        clock.times(copy, 3)
        return 2 * size / (statistics.median(ms for _, ms in clock.times(copy, 20)[0]) / 1e3)


def add_floor(result, steps, clock, per_second, cache):
    """Add to a method's figures what the hardware allows."""
    if not hasattr(steps.backend, "blas"):       # a rehearsal on the CPU
        return
    alone = products_alone(steps, clock)
    if alone is None:
        return
    ms, operations, moved = alone
    update = 16 * steps.parameters()
    floor = ms + 1e3 * update / per_second
    result |= {"gemm_ms": ms, "gflop": operations / 1e9, "gemm_tflops": operations / ms / 1e9,
               "gemm_bytes": moved, "update_bytes": update, "floor_ms": floor,
               "share_of_floor": floor / result["ms"],
               "bandwidth_share": (moved + update) / per_second / (result["ms"] / 1e3),
               "fits_in_l2": update / 2 < cache}
