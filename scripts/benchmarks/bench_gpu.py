"""Check minidrop on a GPU, then measure it against PyTorch and against what the hardware allows.

    python scripts/benchmarks/bench_gpu.py --json gpu.json

First correctness: products of every precision, the compacted net against the masked dense one, training on
both devices. Then, in turn in one run, whole training steps: the paper's multilayer perceptrons at batch 128
and 1024 in float32, tf32 and bfloat16; language models with LSTM layers; SparseDrop's product of 1024^3 in
bfloat16; beside them PyTorch, eager and through torch.compile with CUDA graphs, where it is installed and
sees the GPU. It stops starting new cells after --seconds and says which it left out. FILE is written anew
after each cell; a cell that fails stands there too, and the exit status is then 1, as it is where a check
fails.

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
import sys
import time
import traceback
from pathlib import Path

from bench_models import MODELS, find_model
from bench_steps import BlockProduct, MinidropSteps, torch_steps
from gpu_checks import check_all
from gpu_timing import Clock, add_floor, bandwidth, measure
from paper import MNIST

from minidrop.backend import cuda_devices, get_backend
from minidrop.errors import MinidropError

NETWORKS = ("4096x4096", "2048x2048", "1024x1024", "1024x64")
FAMILIES, RATES = ("PERIODIC", "ROW", "TILE"), (0.5, 0.7)
PRECISIONS, BATCHES = ("float32", "tf32", "bfloat16"), (128, 1024)
LANGUAGE_MODELS = (("ptb_medium", 0.5), ("caption_lm_2", 0.5), ("caption_lm_2", 0.7))
LSTM_METHODS = ("NR", "NR STEP", "NR+RH SEQUENCE")
SPARSITIES = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
COMPILING = 30      # seconds that torch.compile may take
TWINS = ("Dropout", "PERIODIC p=0.5")       # measured uncaptured too


# -- what is measured ----------------------------------------------------------------------------------------
class Bench:
    """All cells of one run."""

    def __init__(self, options, backend, began, write=lambda result: None):
        self.options, self.backend, self.clock = options, backend, Clock(backend)
        self.begin, self.write = began, write
        self.per_second = bandwidth(backend, self.clock, options.copy_bytes)
        cuda = self.clock.cuda
        self.cache = cuda.runtime.getDeviceProperties(backend.index).get("l2CacheSize", 0) if cuda else 0
        self.result = {"device": backend.describe(), "bandwidth_gb_s": self.per_second / 1e9,
                       "l2_bytes": self.cache, "cells": [], "skipped": [], "failed": []}
        self.torch, self.result["torch"] = (None, None) if options.rehearse else _torch()
        self.compiling, self.longest = COMPILING, {}

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
        """`make`: {method: () -> steps}; `torch_makers`: {method: (compiled, () -> steps)}."""
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

    def steps(self, model, method, rate, precision, capture=True):
        """Return what makes our steps of a model; their kinds are choices, which cost the host little."""
        return lambda: MinidropSteps(model, method, rate, self.backend.name, precision, capture,
                                     by_share=False)

    def peer(self, model, rate, precision, compiled=False):
        """Return the same of PyTorch, and whether it compiles."""
        return compiled, lambda: torch_steps(model, rate, self.backend.name, precision, compiled)

    def mlp(self, network, precision, batch, compiled):
        model = find_model(network, batch)
        # What ordinary dropout costs does not depend on its rate.
        methods = {"Dropout": ("Dropout", 0.5)}
        methods |= {f"{family} p={rate}": (family, rate) for rate in RATES for family in FAMILIES}
        make = {name: self.steps(model, *method, precision) for name, method in methods.items()}
        make |= {f"{name} uncaptured": self.steps(model, *methods[name], precision, capture=False)
                 for name in TWINS}
        peers = {"torch": self.peer(model, 0.5, precision)}
        if compiled:
            peers["torch compile"] = self.peer(model, 0.5, precision, True)
        paper = {f"{family} p={rate}": figures[-1] for (rate, net), own in MNIST.items() if net == network
                 for family, figures in own.items()}
        self.cell("MLP", make, peers, "Dropout", network=network, precision=precision, batch=batch,
                  paper=paper)

    def lstm(self, name, rate, precision):
        model = MODELS[name]
        make = {method: self.steps(model, method, rate, precision) for method in ("Dropout", *LSTM_METHODS)}
        self.cell("LSTM", make, {"torch": self.peer(model, rate, precision)}, "Dropout", network=name,
                  rate=rate, precision=precision)

    def blocks(self, size, precision):
        backend = get_backend(self.backend.name, precision)
        make = {f"sparsity {rate}": lambda rate=rate: BlockProduct(backend, size, rate)
                for rate in SPARSITIES}
        self.cell("BLOCK", make, {}, "sparsity 0", network=f"{size}^3", precision=precision)

    def run(self):
        options = self.options
        # First the paper's table, then what a large batch shows; the rest as long as there is time.
        first = [(network, "float32", BATCHES[0]) for network in options.networks]
        first += [(options.networks[0], precision, BATCHES[1]) for precision in options.precisions]
        others = [(network, precision, batch) for batch, precision in (
            (BATCHES[1], "tf32"), (BATCHES[1], "bfloat16"), (BATCHES[0], "tf32"), (BATCHES[1], "float32"),
            (BATCHES[0], "bfloat16")) if precision in options.precisions for network in options.networks]
        for cell in first:
            self.mlp(*cell, compiled=True)
        self.blocks(options.block_size, options.precisions[-1])
        for name, rate in options.models:
            self.lstm(name, rate, "tf32" if "tf32" in options.precisions else "float32")
        for cell in others:
            if cell not in first:
                self.mlp(*cell, compiled=False)


def print_cell(name, facts, results, failed):
    title = ", ".join(str(value) for key, value in facts.items() if key != "paper")
    print(f"\n{name} {title}\n  {'method':<25} {'ms':>9} {'speed-up':>9} {'paper':>6} {'host us':>8} "
          f"{'gemm ms':>8} {'floor ms':>8} {'%':>4}")
    for method, r in results.items():
        floor = "" if "floor_ms" not in r else (f"{r['gemm_ms']:8.4f} {r['floor_ms']:8.4f} "
                                                f"{100 * r['share_of_floor']:4.0f}{' L2' * r['fits_in_l2']}")
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
    parser.add_argument("--seconds", type=float, default=420, help="start no cell after so long (420)")
    parser.add_argument("--no-compile", action="store_true",
                        help="leave torch.compile out: a network takes it half a minute")
    # tiny, on the CPU: times mean nothing
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.rehearse
    options.networks = ("64x32",) if small else NETWORKS
    options.precisions = ("float32",) if small else PRECISIONS
    options.models = (("quick_lm", 0.5),) if small else LANGUAGE_MODELS
    options.rounds, options.milliseconds, options.warming = (1, 1, 0.02) if small else (4, 60, 1.5)
    options.block_size, options.copy_bytes = (256, 1 << 16) if small else (1024, 1 << 30)
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
