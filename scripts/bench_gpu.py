"""Check minidrop on a GPU, then measure it against PyTorch and against what the hardware allows.

    python scripts/bench_gpu.py --json gpu.json

First correctness: products of every precision, the compacted net against the masked dense one, training on
both devices. Then, in turn in one run, whole training steps: the paper's multilayer perceptrons at batch 128
and 1024 in float32, tf32 and bfloat16; language models with LSTM layers, where scripts/lstm_models.py is;
SparseDrop's product of 1024^3 in bfloat16; beside them PyTorch, eager and through torch.compile with CUDA
graphs, where it is installed and sees the GPU. It stops starting new cells after --seconds and says which it
left out. FILE is written anew after each cell; a cell that fails stands there too, and the exit status is
then 1, as it is where a check fails.

Our steps are captured (see `capture_steps`), but for two of each perceptron, marked so.

ms: of a step, by the device's events, the median of many after a warm-up; of each kind of step (say each
period), weighted by how often it is drawn. host us: what it takes to give a step to the device, in bursts of
six after it has done all before: with more ahead of it the host would wait for the device, which is no work
of its own. launches: the share of our steps that were one launch; the others, first of their form, are left
out of both. gemm ms: the same step's products alone, given to cuBLAS again one after the other. floor ms:
those, plus the update's bytes (weights and history, read and written) over the bandwidth of a copy, measured
here; %: floor / ms. A working set smaller than the L2 cache is marked: its bytes cost less.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path

from bench_workers import step_time

NETWORKS = ("4096x4096", "2048x2048", "1024x1024", "1024x64")
FAMILIES, RATES, PRECISIONS, BATCHES = ("PERIODIC", "ROW",
                                        "TILE"), (0.5, 0.7), ("float32", "tf32", "bfloat16"), (128, 1024)
# in the order of NETWORKS
PAPER = {("ROW", 0.5): (1.48, 1.45, 1.19, 1.18), ("TILE", 0.5): (1.62, 1.54, 1.19, 1.12),
         ("ROW", 0.7): (1.95, 1.77, 1.45, 1.27), ("TILE", 0.7): (2.16, 1.60, 1.22, 1.19)}
LANGUAGE_MODELS = (("ptb_medium", 0.5), ("caption_lm_2", 0.5), ("caption_lm_2", 0.7))
LSTM_METHODS = ("NR", "NR STEP", "NR+RH SEQUENCE")
SPARSITIES = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
COMPILING = 30      # seconds that torch.compile may take
BURST, BURSTS = 6, 5        # steps of a burst, and bursts a turn, in which the host is timed
RARE = 0.02                 # of a kind of step: nobody waits to see it
TWINS = ("Dropout", "PERIODIC p=0.5")       # measured uncaptured too


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
        """Return the us of the host for a step, the mean of a burst; None where the burst shows something
        else."""
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
    """Return {name: figures} for {name: steps}, which take turns; milliseconds: of a turn, warming: seconds
    at first."""
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
                         "events": statistics.median(share[name]), "launches": launches
                         if getattr(steps, "captured", None) else None}
    return results


# -- the floor -----------------------------------------------------------------------------------------------
def products_alone(steps, clock, repeats=20, recorded=8):
    """Return (ms, operations, bytes) of the products of a step, given to cuBLAS alone; means over several
    steps.

    Of captured steps it is the products of the graphs. None where no product was seen.
    """
    backend, launches = steps.backend, []
    launch = type(backend)._launch

    def recording(calls, *more):
        launches.append((calls, *more))
        launch(backend, calls, *more)

    backend._launch = recording
    try:
        with getattr(steps, "piece_by_piece", nullcontext)():
            clock.times(steps.step, recorded)
    finally:
        del backend._launch

    def again():
        for one in launches:
            launch(backend, *one)

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
    """Return work as a CUDA graph, so that small products do not wait for the host; as it is where that
    cannot be done."""
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
    if not hasattr(steps.backend, "_launch"):       # a rehearsal on the CPU
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


# -- what is measured ----------------------------------------------------------------------------------------
class Bench:
    """All cells of one run."""

    def __init__(self, options, backend, began, write=lambda result: None):
        from minidrop.backend import get_backend
        self.options, self.backend, self.clock = options, backend, Clock(backend)
        self.begin, self.get_backend, self.write = began, get_backend, write
        self.per_second = bandwidth(backend, self.clock, options.copy_bytes)
        self.cache = self.facts().get("l2CacheSize", 0)
        self.result = {"device": backend.describe(), "bandwidth_gb_s": self.per_second / 1e9,
                       "l2_bytes": self.cache, "cells": [], "skipped": [], "failed": []}
        self.torch, self.result["torch"] = (None, None) if options.rehearse else _torch()
        self.compiling, self.longest = COMPILING, {}

    def facts(self):
        cuda = self.clock.cuda
        return cuda.runtime.getDeviceProperties(self.backend.index) if cuda else {}

    def left(self):
        return self.options.seconds - (time.monotonic() - self.begin)

    def cell(self, name, make, torch_makers, base, **facts):
        """Measure one cell, if there is time: see `_cell`. What goes wrong in it ends no other one."""
        if self.left() < max(5, self.longest.get(name, 0)):
            self.result["skipped"].append({"cell": name, **facts})
            return
        try:
            self._cell(name, make, torch_makers, base, facts)
        except Exception as error:
            traceback.print_exc()
            self.result["failed"].append({"cell": name, **facts, "why": f"{type(error).__name__}: {error}"})
        self.write(self.result)

    def _cell(self, name, make, torch_makers, base, facts):
        """`make`, `torch_makers`: {method: () -> steps}, (compiled, () -> steps); `base`: what others are
        compared with."""
        started = time.monotonic()
        methods, failed = {}, {}
        try:
            ours = {method: (False, maker) for method, maker in make.items()}
            for method, (compiled, maker) in (ours | torch_makers if self.torch else ours).items():
                if compiled and (self.left() < 2 * self.compiling or self.options.no_compile):
                    failed[method] = "left out" if self.options.no_compile else "left out: no time to compile"
                    continue
                began = time.monotonic()
                try:
                    methods[method] = maker()
                    self.clock.times(methods[method].step, 4)       # compiles
                except Exception as error:      # what cannot do it ends no measurement of the others
                    failed[method] = (f"{type(error).__name__}: "
                                      f"{str(error).splitlines()[0] if str(error) else ''}")
                    if method in methods:
                        methods.pop(method).close()
                    if method in make:
                        self.result["failed"].append({"cell": name, **facts, "method": method,
                                                      "why": failed[method]})
                if compiled:
                    self.compiling = max(5, time.monotonic() - began)
            results = measure(methods, self.clock, self.options.rounds, self.options.milliseconds,
                              self.options.warming)
            for method, steps in methods.items():
                if method in make and hasattr(steps, "parameters"):
                    add_floor(results[method], steps, self.clock, self.per_second, self.cache)
            for figures in results.values():
                figures["speed_up"] = results[base]["ms"] / figures["ms"]
        finally:
            for steps in methods.values():
                steps.close()
        self.longest[name] = max(self.longest.get(name, 0), time.monotonic() - started)
        self.result["cells"].append({"cell": name, **facts, "methods": results, "failed": failed})
        print_cell(name, facts, results, failed)
        methods.clear()
        self.backend.trim()
        if self.torch:
            self.torch.cuda.empty_cache()

    def mlp(self, network, precision, batch, compiled):
        from gpu_steps import MinidropSteps, TorchMLP, mlp_batches, mlp_settings
        sizes = [int(part) for part in network.split("x")]
        device, batches = self.backend.name, mlp_batches(batch)

        def ours(method, rate, capture=True):
            return lambda: MinidropSteps(mlp_settings(method, sizes, rate, batch), batches, device, precision,
                                         capture)

        # What ordinary dropout costs does not depend on its rate.
        methods = {"Dropout": ("Dropout", 0.5)}
        methods |= {f"{family} p={rate}": (family, rate) for rate in RATES for family in FAMILIES}
        make = {name: ours(*method) for name, method in methods.items()}
        make |= {f"{name} uncaptured": ours(*methods[name], capture=False) for name in TWINS}
        peers = {"torch": (False, lambda: TorchMLP(sizes, 0.5, batch, self.backend.name, precision, False))}
        if compiled:
            peers["torch compile"] = True, lambda: TorchMLP(sizes, 0.5, batch, self.backend.name, precision,
                                                            True)
        paper = {f"{family} p={rate}": figures[NETWORKS.index(network)]
                 for (family, rate), figures in PAPER.items() if network in NETWORKS}
        self.cell("MLP", make, peers, "Dropout", network=network, precision=precision, batch=batch,
                  paper=paper)

    def lstm(self, name, rate, precision):
        from gpu_steps import MinidropSteps, TorchLSTM, lstm_settings, token_batches
        from lstm_models import MODELS
        model, device = MODELS[name], self.backend.name
        make = {method: lambda method=method: MinidropSteps(lstm_settings(model, method, rate),
                                                            token_batches(model), device, precision)
                for method in ("Dropout", *LSTM_METHODS)}
        peers = {"torch": (False, lambda: TorchLSTM(model, rate, self.backend.name, precision, False))}
        self.cell("LSTM", make, peers, "Dropout", network=name, rate=rate, precision=precision)

    def blocks(self, size, precision):
        from gpu_steps import BlockProduct
        backend = self.get_backend(self.backend.name, precision)
        make = {f"sparsity {rate}": lambda rate=rate: BlockProduct(backend, size, rate)
                for rate in SPARSITIES}
        self.cell("BLOCK", make, {}, "sparsity 0", network=f"{size}^3", precision=precision)

    def run(self):
        options = self.options
        low = options.precisions[-1]
        # First the paper's table, then what a large batch shows; the rest as long as there is time.
        first = [(network, "float32", BATCHES[0]) for network in options.networks]
        first += [(options.networks[0], precision, BATCHES[1]) for precision in options.precisions]
        others = [(network, precision, batch) for batch, precision in (
            (BATCHES[1], "tf32"), (BATCHES[1], "bfloat16"), (BATCHES[0], "tf32"), (BATCHES[1], "float32"),
            (BATCHES[0], "bfloat16")) if precision in options.precisions for network in options.networks]
        for cell in first:
            self.mlp(*cell, compiled=True)
        self.blocks(options.block_size, low)
        try:
            import lstm_models  # noqa: F401
            for name, rate in options.models:
                self.lstm(name, rate, "tf32" if "tf32" in options.precisions else "float32")
        except ImportError:
            self.result["skipped"].append({"cell": "LSTM", "why": "scripts/lstm_models.py is not here"})
        for cell in others:
            if cell not in first:
                self.mlp(*cell, compiled=False)


def print_cell(name, facts, results, failed):
    title = ", ".join(str(value) for key, value in facts.items() if key != "paper")
    print(f"\n{name} {title}\n  {'method':<25} {'ms':>9} {'speed-up':>9} {'paper':>6} {'host us':>8} "
          f"{'gemm ms':>8} {'floor ms':>8} {'%':>4}")
    for method, r in results.items():
        floor = (f"{r['gemm_ms']:8.4f} {r['floor_ms']:8.4f} {100 * r['share_of_floor']:4.0f}"
                 f"{' L2' * r['fits_in_l2']}" if "floor_ms" in r else "")
        paper = facts.get("paper", {}).get(method)
        host = "" if r["host_us"] is None else f"{r['host_us']:.0f}"
        print(f"  {method:<25} {r['ms']:9.4f} {r['speed_up']:8.2f}x {f'{paper:.2f}' if paper else '':>6} "
              f"{host:>8} {floor}".rstrip(), flush=True)
    for method, why in failed.items():
        print(f"  {method:<25} {why}")


def _torch():
    """Return (PyTorch, its version), or (None, why it is left out)."""
    try:
        import torch
    except (ImportError, OSError) as error:     # OSError: a library of CUDA that it needs
        return None, f"left out: {error}"
    if not torch.cuda.is_available():
        return None, f"left out: {torch.__version__} sees no GPU"
    return torch, torch.__version__


def write_json(path, result):
    """Replace a file by a result; where that fails the old file stays."""
    new = Path(f"{path}.new")
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--device", default="cuda:0", metavar="cuda:N")
    parser.add_argument("--seconds", type=float, default=420, help="start no cell after so long (default "
                        "420)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: a network takes "
                        "it half a minute")
    # tiny, on the CPU: times mean nothing
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.rehearse
    options.networks = ("64x32",) if small else NETWORKS
    options.precisions = ("float32",) if small else PRECISIONS
    options.models = (("quick_lm", 0.5),) if small else LANGUAGE_MODELS
    options.rounds, options.milliseconds, options.warming = (1, 1, 0.02) if small else (4, 60, 1.5)
    options.block_size, options.copy_bytes = (256, 1 << 16) if small else (1024, 1 << 30)
    from minidrop.backend import cuda_devices, get_backend
    from minidrop.errors import MinidropError
    count, reason = cuda_devices()
    if not small and not count:
        print(f"bench_gpu.py needs an NVIDIA GPU that CuPy can use: {reason}; see `minidrop devices`",
              file=sys.stderr)
        return 2
    try:
        backend = get_backend("cpu" if small else options.device)
    except MinidropError as error:
        print(f"bench_gpu.py: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    from gpu_checks import check_all
    print(f"{backend.describe()}\nchecks", flush=True)
    failures = check_all(backend, options.precisions)

    def write(result):
        if options.json:
            write_json(options.json, {"correct": not failures, "failures": failures, **result})

    write({})
    if failures:
        return 1
    bench = Bench(options, backend, began, write)
    print(f"bandwidth of a copy {bench.per_second / 1e9:.0f} GB/s; PyTorch {bench.result['torch']}",
          flush=True)
    bench.run()
    for what in ("skipped", "failed"):
        for one in bench.result[what]:
            print(f"{'left out' if what == 'skipped' else 'FAILED'}: "
                  f"{', '.join(str(value) for key, value in one.items() if key != 'paper')}")
    write(bench.result)
    return int(bool(bench.result["failed"]))


if __name__ == "__main__":
    sys.exit(main())
