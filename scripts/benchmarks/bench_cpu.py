"""What bench_mlp.py, bench_lstm.py and the reproductions share: all methods of a model and rate, in turn.

With peers (peers.py), and of perceptrons with the floor of a step (step_floor.py).

Run as a script it is the process of one method: bench_cpu.py METHOD MODEL RATE, see in_turn.py.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

import numpy as np
import peers
from bench_models import SentenceModel, find_model, product_operations, text_net
from bench_steps import MinidropSteps
from in_turn import Worker, serve
from in_turn import measure as measure_in_turn
from step_floor import COPY, CopySteps, add_floor, mean_bytes, print_floor

from minidrop.apps.timing import profile_steps
from minidrop.errors import ConfigError, MinidropError


# -- one method, in its own process --------------------------------------------------------------------------
class Products:
    """The products of a step, timed alone."""

    def __init__(self, steps):
        self.steps, self.operands = steps, []

    def record(self, _count):
        """Run one step, keep the operands of its products, and return their operations."""
        kind, operands = type(self.steps.backend), []
        gemm, late_product = kind.gemm, kind.late_product

        def recording(backend, a, b, trans_a=False, trans_b=False, out=None):
            y = gemm(backend, a, b, trans_a, trans_b, out)
            a, b = a.copy(), b.copy()
            operands.append((a.T if trans_a else a, b.T if trans_b else b, y.copy()))
            return y

        def recording_late(backend, a, b, cols=None):
            made = late_product(backend, a, b, cols)
            if made is not None:
                operands.append((a.T.copy(), b.copy(), np.empty(made.shape, made.dtype)))
            return made

        kind.gemm, kind.late_product = recording, recording_late
        try:
            self.steps.step()
        finally:
            kind.gemm, kind.late_product = gemm, late_product
        self.operands = operands
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
    if method in peers.ALL:
        steps = peers.peer_steps(method, model, float(rate))
        serve(steps, note=lambda count: steps.note)
        return
    if method == COPY:
        serve(CopySteps(model))
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
def measure(name, rate, methods, blocks, block_seconds, parts=0, floor=False):
    """Return {method: {"ms", "memory_mib", ...}} for one model and rate.

    parts: steps of each turn of which is learned what they spend forward, backward and on the update.
    floor: of a perceptron, also what its steps move, and the floor of their time (step_floor.py).
    """
    model, own = find_model(name), [method for method in methods if method not in peers.ALL]
    workers = {method: Worker(__file__, method, name, rate) for method in (*methods, *[COPY] * floor)}
    alone, operations, shares = {}, {}, {method: [] for method in workers}
    for method in own:
        process = workers[method]
        # Where masks are multiplied by on purpose there is nothing to reach.
        if model.parse(method).how != "dense":
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
                              isinstance(model, SentenceModel))
    for method, process in workers.items():
        result = results[method]
        note = process.ask("note") if method in peers.ALL else ""
        if note:
            result["note"] = note
        if method in operations:
            dense, expected = operations[method]
            result["bound"] = dense / expected
            if not isinstance(model, SentenceModel):    # whose shapes are those of its longest sentences
                result |= {"gflop": expected / 1e9, "gflop_per_second": expected / 1e6 / result["ms"]}
        if shares[method]:
            result |= {f"{part}_ms": result["ms"] * statistics.median(own[part] for own in shares[method])
                       for part in shares[method][0]}
        if method in alone:
            result["gemm_ms"] = 1e3 * statistics.median(alone[method])
            result["gemm_share"] = result["gemm_ms"] / result["ms"]
        process.close()
    if floor:
        bandwidth = CopySteps(model).bytes / (results.pop(COPY)["ms"] / 1e3)
        add_floor(results, {method: mean_bytes(model, method, rate) for method in own}, bandwidth)
    return results


# -- the command ---------------------------------------------------------------------------------------------
def ratio_to(method):
    """Return the column of how many times as long as a method's another one takes."""
    return max(8, len(method) + 2), lambda r, all_of: f"{all_of[method]['ms'] / r['ms']:.2f}x"


def columns_of(methods):
    """Return {head: (width, f(figures of a method, those of all))} of a table that has these peers."""
    found = [method for method in peers.ALL if method in methods]
    return {"ms/step": (9, lambda r, all_of: f"{r['ms']:.2f}"), "/Dropout": ratio_to("Dropout"),
            "bound": (6, lambda r, all_of: f"{r['bound']:.2f}x"),
            **{f"/{method}": ratio_to(method) for method in found},
            "products ms": (14, lambda r, all_of: f"{r['gemm_ms']:.2f} {100 * r['gemm_share']:.0f}%"),
            "GFLOP": (8, lambda r, all_of: f"{r['gflop']:.2f}"),
            "GFLOP/s": (8, lambda r, all_of: f"{r['gflop_per_second']:.0f}"),
            "MiB": (7, lambda r, all_of: f"{r['memory_mib']:.0f}")}


def print_cell(name, rate, results, width):
    """Print a line for each method; a figure that it does not have is left out. Then notes and floors."""
    for method, r in results.items():
        cells = []
        for space, text in columns_of(results).values():
            try:
                cells.append(f"{text(r, results):>{space}}")
            except KeyError:
                cells.append(" " * space)
        print(f"{name:>12} {rate:4g} {method:<{width}} {' '.join(cells)}", flush=True)
    for method, r in results.items():
        if "note" in r:
            print(f"    {method}: {r['note']}", flush=True)
    print_floor(results)


def options_of(doc, block_seconds, methods_help, several=()):
    """Return a parser of what the commands understand; `several`: peers that can be named together."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    if several:
        parser.add_argument("--peer", nargs="+", choices=several, default=[],
                            help="measure these beside, as peers.py says")
    else:
        parser.add_argument("--peer", choices=["torch"], help="measure PyTorch beside")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=methods_help)
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--blocks", type=int, default=8, help="turns of each method (default 8)")
    parser.add_argument("--block-seconds", type=float, default=block_seconds,
                        help=f"length of a turn (default {block_seconds:g})")
    return parser


def run(parser, options, what, cells, floor=False, **facts):
    """Measure and print all (model, rate, methods); `what` a model is called in the file of figures."""
    beside = [method for peer in dict.fromkeys(options.peer) for method in peers.PEERS[peer]]
    handmade = any("handmade" in method for method in beside)       # the net that computes the same is
    cells = [(name, rate, list(dict.fromkeys(("Dropout", *methods,  # measured, too
                                              *[find_model(name).one_group] * handmade))))
             for name, rate, methods in cells]
    try:
        for name, rate, methods in cells:
            if not 0 < rate < 1:
                parser.error(f"argument --rates: expected numbers above 0 and below 1, got {rate:g}")
            find_model(name).check(methods, [rate])
            for peer in options.peer:
                if peer != "torch" and isinstance(find_model(name), SentenceModel):
                    parser.error(f"argument --peer: {name} reads sentences, and has the peer torch alone")
    except ConfigError as error:
        parser.error(str(error))
    for problem in filter(None, map(peers.missing, options.peer)):
        raise SystemExit(problem)
    try:
        for name in {name for name, *_ in cells if isinstance(find_model(name), SentenceModel)}:
            text_net(find_model(name).file_net)         # whether its text is there, before workers start
    except MinidropError as error:
        raise SystemExit(f"error: {error}") from None
    cells = [(name, rate, [*beside, *methods]) for name, rate, methods in cells]
    width = max(len(method) for _, _, methods in cells for method in methods)
    more = "".join(f"{name} {value}, " for name, value in facts.items())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {more}float32; ms are "
          f"medians\n{what:>12} {'p':>4} {'method':<{width}} "
          f"{' '.join(f'{head:>{space}}' for head, (space, _) in columns_of(beside).items())}", flush=True)
    done = []
    for name, rate, methods in cells:
        results = measure(name, rate, methods, options.blocks, options.block_seconds, floor=floor)
        print_cell(name, rate, results, width)
        done.append({what: name, "rate": rate, "methods": results})
        if options.json:                                    # after each cell: the next may take half an hour
            with open(options.json, "w") as file:
                json.dump({"cores": os.cpu_count(), "machine": platform.platform(), **facts, "cells": done},
                          file, indent=1)


if __name__ == "__main__":
    worker(*sys.argv[1:])
