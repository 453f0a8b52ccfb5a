"""Time the whole training step of 784-h1-h2-10 networks: ordinary dropout, compacted dropout, and PyTorch.

    python scripts/bench_mlp.py --peer torch --json mlp.json
    python scripts/bench_mlp.py --methods ROW TILE PERIODIC:step=20,reshuffle_interval=500
    python scripts/bench_mlp.py --quick

One training step: batch of 128, forward, backward, SGD with momentum 0.9 and weight decay 0.0005, float32.
Every method runs in a process of its own, and the processes take turns in short blocks while the others
sleep: machine noise hits all of them alike, no thread pool spins beside another, and each has its own peak
memory. A step of a pattern family costs what its drawn pattern costs, so its time is the median for each
choice (say each period), weighted by how often the choice is drawn. The permutation of reshuffle_interval,
once in many steps, does not show in a median. "bound" is what the step would gain if it were nothing but its
products: their operations, all over expected ones.
"""

import argparse
import json
import os
import platform
import statistics
import time

import bench_workers
from bench_workers import Worker, serve
from drop_methods import check_methods, parse_method, product_operations

BATCH, CLASSES, INPUTS = 128, 10, 784
MOMENTUM, DECAY, RATE = 0.9, 0.0005, 1e-4     # a low rate: the labels are noise, and nothing here may diverge
SIZES = ("1024x1024", "2048x2048", "4096x4096", "1024x64")
METHODS = ("Dropout", "PERIODIC", "ROW")


# -- networks ------------------------------------------------------------------------------------------------
def mlp(method, sizes, rate, filler="msra"):
    """Return the NetParameter of a 784-h1-...-10 network that reads arrays; after each hidden layer it drops
    by `method`."""
    import minidrop as md
    kind, settings = parse_method(method)
    net = md.NetSpec("mlp")
    net.add("MemoryData", "data", top=["data", "label"], batch_size=BATCH, channels=INPUTS, height=1, width=1)
    bottom = "data"
    for i, outputs in enumerate((*sizes, CLASSES), 1):
        net.add("InnerProduct", f"ip{i}", bottom, num_output=outputs, weight_filler={"type": filler})
        if i <= len(sizes):
            net.add("ReLU", f"relu{i}", f"ip{i}", f"ip{i}")
            net.add(kind, f"drop{i}", f"ip{i}", dropout_ratio=rate, **settings)
        bottom = f"drop{i}"
    net.add("SoftmaxWithLoss", "loss", [f"ip{len(sizes) + 1}", "label"])
    return net.to_proto()


# -- one method, in its own process --------------------------------------------------------------------------
class MinidropSteps:
    """Steps of a minidrop Solver on data in memory. Created in the worker: minidrop must be loaded before
    NumPy."""

    def __init__(self, method, sizes, rate):
        import minidrop as md

        # isort: split
        import numpy as np

        from minidrop.config import SolverParameter
        settings = SolverParameter(base_lr=RATE, lr_policy="fixed", momentum=MOMENTUM, weight_decay=DECAY,
                                   max_iter=10**9, random_seed=0, net_param=mlp(method, sizes, rate),
                                   solver_mode="CPU")
        self.solver = md.Solver(settings)
        rng = np.random.default_rng(0)
        self.solver.net.set_input_arrays(rng.random((8 * BATCH, INPUTS, 1, 1), np.float32),
                                         rng.integers(0, 10, 8 * BATCH))
        self.np = np

    def step(self):
        """Run one step; returns what its cost depends on: the choice of each drop."""
        counter = self.solver.iteration
        self.solver.step()
        return "/".join(site.family.describe(site.sequence.choice_at(counter))
                        for site in self.solver.net.drop_sites.values())

    def weights(self):
        """How often each kind of step is drawn."""
        weights = {"": 1.0}
        for site in self.solver.net.drop_sites.values():
            choices = site.family.distribution
            shares = {site.family.describe(choice): float(share)
                      for choice, share in zip(choices.choices, choices.probabilities, strict=True)}
            weights = {"/".join(filter(None, (a, b))): x * y for a, x in weights.items()
                       for b, y in shares.items()}
        return weights

    def record_products(self):
        """Run one step and keep the operands of its products, to time them alone."""
        backend, products = self.solver.net.backend, []
        gemm = type(backend).gemm

        def recording(self, a, b, trans_a=False, trans_b=False):
            y = gemm(self, a, b, trans_a, trans_b)
            products.append((a.copy().T if trans_a else a.copy(), b.copy().T if trans_b else b.copy(),
                             y.copy()))
            return y

        type(backend).gemm = recording
        self.solver.step()
        type(backend).gemm = gemm
        self.products = products
        return sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in products)

    def products_alone(self):
        """Time the recorded products, with nothing between them."""
        begin = time.perf_counter()
        for a, b, y in self.products:
            self.np.dot(a, b, out=y)
        return time.perf_counter() - begin


class TorchSteps:
    """Steps of the same network in PyTorch as its users write it: nn.Sequential, nn.Dropout, optim.SGD."""

    def __init__(self, method, sizes, rate):
        import torch
        self.torch = torch
        widths, layers = (INPUTS, *sizes), []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Dropout(rate)]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], CLASSES))
        fused = True if method == "torch fused SGD" else None
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE, momentum=MOMENTUM,
                                         weight_decay=DECAY, fused=fused)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(8 * BATCH, INPUTS, generator=generator)
        self.y = torch.randint(0, CLASSES, (8 * BATCH,), generator=generator)
        self.count = 0

    def step(self):
        part = slice(self.count % 8 * BATCH, (self.count % 8 + 1) * BATCH)
        self.count += 1
        self.optimizer.zero_grad()
        self.torch.nn.functional.cross_entropy(self.net(self.x[part]), self.y[part]).backward()
        self.optimizer.step()
        return ""

    def weights(self):
        return {"": 1.0}


def worker(method, size, rate):
    """Be the process of a method."""
    sizes = [int(part) for part in size.split("x")]
    if method.startswith("torch"):
        serve(TorchSteps(method, sizes, rate))
        return
    steps = MinidropSteps(method, sizes, rate)
    serve(steps, operations=lambda count: product_operations(steps.solver.net),
          record=lambda count: steps.record_products(),
          products=lambda count: [steps.products_alone() for _ in range(count)])


# -- all methods of one cell, in turn ------------------------------------------------------------------------
def measure(size, rate, methods, blocks, block_seconds):
    """Return {method: {"ms", "memory_mib", ...}} for one network and rate."""
    workers = {method: Worker(__file__, method, size, rate) for method in methods}
    alone, flops, operations = {}, {}, {}
    for method, process in workers.items():
        if not method.startswith("torch"):
            operations[method] = process.ask("operations")
            recorded = process.ask("record")
            # Only where the products of one step are those of any other: ROW's, say, differ from step to
            # step.
            if len(process.ask("weights")) == 1 and abs(recorded / operations[method][1] - 1) < 0.05:
                flops[method], alone[method] = recorded, []

    def time_products(method, process, count):
        if method in alone:
            process.ask("products", 2)
            alone[method] += process.ask("products", count)

    results = bench_workers.measure(workers, blocks, block_seconds, after_turn=time_products)
    for method, process in workers.items():
        if method in operations:
            results[method]["bound"] = operations[method][0] / operations[method][1]
        if method in alone:
            results[method]["gemm_ms"] = 1e3 * statistics.median(alone[method])
            results[method]["gemm_share"] = results[method]["gemm_ms"] / results[method]["ms"]
            results[method]["gflop"] = flops[method] / 1e9
        process.close()
    return results


def print_cell(size, rate, results, width):
    peer = results.get("torch", {}).get("ms")
    own = results["Dropout"]["ms"]
    for method, r in results.items():
        columns = [f"{size:>10}", f"{rate:.1f}", f"{method:<{width}}", f"{r['ms']:8.2f}",
                   f"{own / r['ms']:9.2f}x", f"{r['bound']:5.2f}x" if "bound" in r else " " * 6,
                   f"{peer / r['ms']:8.2f}x" if peer else " " * 9,
                   f"{r['gemm_ms']:8.2f} {100 * r['gemm_share']:4.0f}%" if "gemm_ms" in r else " " * 14,
                   f"{r['memory_mib']:7.0f}"]
        print(" ".join(columns), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", choices=["torch"], help="measure PyTorch beside")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD",
                        help="pattern families, with settings as in ROW:max_period=3; Dropout is always "
                        "measured "
                             "(default PERIODIC ROW)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="H1xH2")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--blocks", type=int, default=8, help="turns of each method (default 8)")
    parser.add_argument("--block-seconds", type=float, default=0.5, help="length of a turn (default 0.5)")
    parser.add_argument("--quick", action="store_true", help="2048x2048 at 0.5 and 0.7 only")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], options.worker[1], float(options.worker[2]))
        return
    if options.quick:
        options.sizes, options.rates = ["2048x2048"], [0.5, 0.7]
    methods = list(dict.fromkeys(("Dropout", *options.methods)))
    from minidrop.errors import ConfigError
    try:
        check_methods(methods, options.rates)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    if options.peer:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit("--peer torch needs PyTorch: pip install 'minidrop[peers]'") from None
        methods = ["torch", "torch fused SGD", *methods]
    width = max(16, *map(len, methods))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; batch {BATCH}, float32; ms "
          f"are medians\n{'network':>10} {'p':>3} {'method':<{width}} {'ms/step':>8} {'/Dropout':>10} "
          f"{'bound':>6} {'/torch':>9} {'products ms':>14} {'MiB':>7}", flush=True)
    table = []
    for size in options.sizes:
        for rate in options.rates:
            results = measure(size, rate, methods, options.blocks, options.block_seconds)
            print_cell(size, rate, results, width)
            table.append({"network": size, "rate": rate, "methods": results})
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"cores": os.cpu_count(), "machine": platform.platform(), "batch": BATCH,
                       "cells": table}, file,
                      indent=1)


if __name__ == "__main__":
    main()
