"""What bench_mlp.py, bench_lstm.py and the reproductions share: all methods of a model and rate, in turn.

Run as a script it is the process of one method: bench_cpu.py METHOD MODEL RATE, see in_turn.py.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

from bench_models import SentenceModel, find_model, product_operations
from bench_steps import MinidropSteps, torch_steps
from in_turn import Worker, serve
from in_turn import measure as measure_in_turn

from minidrop.apps.timing import profile_steps
from minidrop.errors import ConfigError


# -- one method, in its own process --------------------------------------------------------------------------
class Products:
    """The products of a step, timed alone."""

    def __init__(self, steps):
        self.steps, self.operands = steps, []

    def record(self, _count):
        """Run one step, keep the operands of its products, and return their operations."""
        kind, operands = type(self.steps.backend), []
        gemm = kind.gemm

        def recording(backend, a, b, trans_a=False, trans_b=False, out=None):
            y = gemm(backend, a, b, trans_a, trans_b, out)
            a, b = a.copy(), b.copy()
            operands.append((a.T if trans_a else a, b.T if trans_b else b, y.copy()))
            return y

        kind.gemm = recording
        self.steps.step()
        kind.gemm, self.operands = gemm, operands
        return sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in operands)

    def run(self, count):
        """Return the seconds of the recorded products, with nothing between them, `count` times."""
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            for a, b, y in self.operands:
                a.dot(b, out=y)
            seconds.append(time.perf_counter() - begin)
        return seconds


def worker(method, name, rate):
    """Be the process of a method."""
    model = find_model(name)
    if method.startswith("torch"):
        serve(torch_steps(model, float(rate), fused=method == "torch fused"))
        return
    steps = MinidropSteps(model, method, float(rate))
    products = Products(steps)
    serve(steps, operations=lambda count: product_operations(steps.net), record=products.record,
          products=products.run, parts=lambda count: step_parts(steps, count))


def step_parts(steps, count):
    """Return the shares of `count` steps that their parts take, {"forward", "backward", "update": share}."""
    profile = profile_steps(steps.net, steps.step, count, steps.solver.updater.rule)
    return {part: sum(own[part] for own in profile.layers.values()) / profile.step
            for part in ("forward", "backward", "update")}


# -- all methods of one model and rate, in turn --------------------------------------------------------------
def measure(name, rate, methods, blocks, block_seconds, parts=0):
    """Return {method: {"ms", "memory_mib", ...}} for one model and rate.

    parts: steps of each turn of which is learned what they spend forward, backward and on the update.
    """
    workers = {method: Worker(__file__, method, name, rate) for method in methods}
    alone, operations, shares, parse = {}, {}, {method: [] for method in methods}, find_model(name).parse
    for method, process in workers.items():
        # Where masks are multiplied by on purpose there is nothing to reach.
        if not method.startswith("torch") and parse(method).how != "dense":
            operations[method] = process.ask("operations")
            weights = process.ask("weights")
            # Only where the products of all steps are alike: ROW's, say, differ from step to step.
            if isinstance(weights, dict) and len(weights) == 1:
                if abs(process.ask("record") / operations[method][1] - 1) < 0.05:
                    alone[method] = []

    def time_products(method, process, count):
        if method in alone:
            process.ask("products", 2)
            alone[method] += process.ask("products", count)
        if parts and method in operations:
            shares[method].append(process.ask("parts", parts))

    results = measure_in_turn(workers, blocks, block_seconds, time_products,
                              isinstance(find_model(name), SentenceModel))
    for method, process in workers.items():
        result = results[method]
        if method in operations:
            dense, expected = operations[method]
            result |= {"bound": dense / expected, "gflop": expected / 1e9,
                       "gflop_per_second": expected / 1e6 / result["ms"]}
        if shares[method]:
            result |= {f"{part}_ms": result["ms"] * statistics.median(own[part] for own in shares[method])
                       for part in shares[method][0]}
        if method in alone:
            result["gemm_ms"] = 1e3 * statistics.median(alone[method])
            result["gemm_share"] = result["gemm_ms"] / result["ms"]
        process.close()
    return results


# -- the command ---------------------------------------------------------------------------------------------
COLUMNS = {     # head: (width, f(figures of a method, those of ordinary dropout, those of PyTorch))
    "ms/step": (9, lambda r, own, peer: f"{r['ms']:.2f}"),
    "/Dropout": (9, lambda r, own, peer: f"{own['ms'] / r['ms']:.2f}x"),
    "bound": (6, lambda r, own, peer: f"{r['bound']:.2f}x"),
    "/torch": (8, lambda r, own, peer: f"{peer['ms'] / r['ms']:.2f}x"),
    "products ms": (14, lambda r, own, peer: f"{r['gemm_ms']:.2f} {100 * r['gemm_share']:.0f}%"),
    "GFLOP": (8, lambda r, own, peer: f"{r['gflop']:.2f}"),
    "GFLOP/s": (8, lambda r, own, peer: f"{r['gflop_per_second']:.0f}"),
    "MiB": (7, lambda r, own, peer: f"{r['memory_mib']:.0f}")}


def print_cell(name, rate, results, width):
    """Print a line for each method; a figure that it does not have is left out."""
    for method, r in results.items():
        cells = []
        for space, text in COLUMNS.values():
            try:
                cells.append(f"{text(r, results['Dropout'], results.get('torch', {})):>{space}}")
            except KeyError:
                cells.append(" " * space)
        print(f"{name:>12} {rate:4g} {method:<{width}} {' '.join(cells)}", flush=True)


def options_of(doc, block_seconds, methods_help):
    """Return a parser of what both commands understand."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--peer", choices=["torch"], help="measure PyTorch beside")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=methods_help)
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--blocks", type=int, default=8, help="turns of each method (default 8)")
    parser.add_argument("--block-seconds", type=float, default=block_seconds,
                        help=f"length of a turn (default {block_seconds:g})")
    return parser


def run(parser, options, what, cells, **facts):
    """Measure and print all (model, rate, methods); `what` a model is called in the file of figures."""
    cells = [(name, rate, list(dict.fromkeys(("Dropout", *methods)))) for name, rate, methods in cells]
    try:
        for name, rate, methods in cells:
            if not 0 < rate < 1:
                parser.error(f"argument --rates: expected numbers above 0 and below 1, got {rate:g}")
            find_model(name).check(methods, [rate])
    except ConfigError as error:
        parser.error(str(error))
    if options.peer:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit("--peer torch needs PyTorch: pip install 'minidrop[peers]'") from None
        cells = [(name, rate, ["torch", "torch fused", *methods]) for name, rate, methods in cells]
    width = max(len(method) for _, _, methods in cells for method in methods)
    more = "".join(f"{name} {value}, " for name, value in facts.items())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {more}float32; ms are "
          f"medians\n{what:>12} {'p':>4} {'method':<{width}} "
          f"{' '.join(f'{head:>{space}}' for head, (space, _) in COLUMNS.items())}", flush=True)
    done = []
    for name, rate, methods in cells:
        results = measure(name, rate, methods, options.blocks, options.block_seconds)
        print_cell(name, rate, results, width)
        done.append({what: name, "rate": rate, "methods": results})
        if options.json:                                    # after each cell: the next may take half an hour
            with open(options.json, "w") as file:
                json.dump({"cores": os.cpu_count(), "machine": platform.platform(), **facts, "cells": done},
                          file, indent=1)


if __name__ == "__main__":
    worker(*sys.argv[1:])
