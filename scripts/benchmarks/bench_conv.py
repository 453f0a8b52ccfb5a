"""Time the whole training step of nets of images, and single layers: minidrop and PyTorch on a CPU.

    python scripts/benchmarks/bench_conv.py --peer torch --channel-drops --json conv.json
    python scripts/benchmarks/bench_conv.py --peer torch --nets lenet caffenet:16 --methods dense
    python scripts/benchmarks/bench_conv.py --peer torch --layers --batch 16
    python scripts/benchmarks/bench_conv.py --peer torch --memory --nets cifar10_full

One training step: forward, backward, SGD with the momentum and weight decay of the model's solver file,
float32, random images in memory. The methods are those of conv_nets.py; each is compared with the same net in
PyTorch (torch_net.py: nn.Dropout, nn.Dropout2d for channels, optim.SGD with fused=True) with as many threads.
Every method of a net runs in a process of its own, and the processes take turns (in_turn.py). Times are
medians. "/torch" and "/dense" say how many times as fast: PyTorch's time over minidrop's for the same method,
and that of "dense" over that of the method. "bound" is the time that the products would take, their
operations counted (those expected of a drop), at the rate of a large product of NumPy in turn with the rest.

--layers times forward and backward of single layers, parameters and x (but images) with gradients. --memory
prints what a training takes in a fresh process: above the interpreter and libraries, which have run a step
with one image before, and of that what steps add to the net as it was built. PyTorch allocates gradients and
momentum in its first step, minidrop the momentum before it: compare "in all".

Nothing else may run beside it: PyTorch's threads wait for each other several times a layer.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import bench_cpu
from conv_layers import CASES
from conv_nets import METHODS, find_net
from conv_worker import PRODUCT_SIZE
from in_turn import Worker, measure

from minidrop.errors import ConfigError, nearest
from minidrop.kernels import threads

NETS = ("lenet", "cifar10_quick", "cifar10_full", "caffenet:16", "caffenet:64", "vgg16:4", "resnet_cifar")
WORKER = Path(__file__).with_name("conv_worker.py")
PRODUCT = "product"
THREADS = ("MINIDROP_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


# -- measuring -----------------------------------------------------------------------------------------------
def in_turn(workers, options, after_turn=None, script=WORKER):
    """Return `measure` of {name: arguments of a script}, and GFLOP/s of a large product in turn with them."""
    running = {name: Worker(script, *arguments) for name, arguments in workers.items()}
    running[PRODUCT] = Worker(WORKER, PRODUCT)
    results = measure(running, options.blocks, options.block_seconds, after_turn)
    for worker in running.values():
        worker.close()
    return results, 2 * PRODUCT_SIZE ** 3 / 1e6 / results.pop(PRODUCT)["ms"]


def measure_net(name, methods, options):
    """Return (GFLOP/s, {method: figures}) of a net."""
    peers = [f"{options.peer} {method}" for method in methods] if options.peer else []
    results, rate = in_turn({method: ["net", method, name, options.rate] for method in (*methods, *peers)},
                            options)
    figures = {}
    for method in methods:
        dense, expected = find_net(name).operations(method, options.rate)
        own = figures[method] = {**results[method], "gflop_dense": dense / 1e9, "gflop": expected / 1e9,
                                 "bound_ms": expected / 1e6 / rate}
        add_ratios(own, results.get(f"torch {method}"))
        if "dense" in results:
            own["to_dense"] = results["dense"]["ms"] / own["ms"]
            if options.peer:
                own["torch_to_dense"] = results["torch dense"]["ms"] / own["torch"]["ms"]
    return rate, figures


def measure_layer(name, options):
    """Return (GFLOP/s, figures) of a layer."""
    forward = {who: [] for who in ("minidrop", *([options.peer] if options.peer else []))}

    def note_forward(who, worker, count):
        if who in forward:
            forward[who] += worker.ask("forward", count)

    workers = {who: ["layer", who, name, options.batch] for who in forward}
    results, rate = in_turn(workers, options, note_forward)
    for who, seconds in forward.items():
        results[who]["forward_ms"] = 1e3 * statistics.median(seconds)
    own, operations = results["minidrop"], CASES[name].operations(options.batch)
    if operations:
        own |= {"gflop": operations / 1e9, "bound_ms": operations / 1e6 / rate}
    add_ratios(own, results.get("torch"))
    return rate, own


def add_ratios(own, peer):
    """Add to figures what they are against the bound and PyTorch."""
    if "bound_ms" in own:
        own["of_bound"] = own["bound_ms"] / own["ms"]
    if peer:
        own |= {"torch": peer, "to_torch": peer["ms"] / own["ms"]}


def measure_memory(name, method, options):
    """Return MiB of a training: {"base", "built": with the net, "peak", "steps", "total"}."""
    done = subprocess.run([sys.executable, WORKER, "memory", method, name, str(options.rate)],
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("a worker has stopped; its error stands above")
    own = json.loads(done.stdout)
    return {**own, "steps": own["peak"] - own["built"], "total": own["peak"] - own["before"]}


# -- tables --------------------------------------------------------------------------------------------------
def times(format, *path):
    """Return f(figures) that prints the one at `path`, "" where it is missing."""
    def text(figures):
        for key in path:
            figures = figures.get(key, {})
        return format.format(figures) if figures != {} else ""
    return text


NET_COLUMNS = {     # head: (width, f(figures))
    "ms/step": (9, times("{:.2f}", "ms")), "torch ms": (9, times("{:.2f}", "torch", "ms")),
    "/torch": (7, times("{:.2f}x", "to_torch")), "/dense": (7, times("{:.2f}x", "to_dense")),
    "torch/dense": (11, times("{:.2f}x", "torch_to_dense")), "bound ms": (9, times("{:.2f}", "bound_ms")),
    "of it": (6, times("{:.0%}", "of_bound")), "GFLOP": (8, times("{:.2f}", "gflop"))}
LAYER_COLUMNS = {
    "ms": (9, times("{:.3f}", "ms")), "forward": (9, times("{:.3f}", "forward_ms")),
    "torch ms": (9, times("{:.3f}", "torch", "ms")), "forward ": (9, times("{:.3f}", "torch", "forward_ms")),
    "/torch": (7, times("{:.2f}x", "to_torch")), "bound ms": (9, times("{:.3f}", "bound_ms")),
    "of it": (6, times("{:.0%}", "of_bound"))}
MEMORY_COLUMNS = {
    "in all MiB": (10, times("{:.0f}", "total")), "steps MiB": (9, times("{:.0f}", "steps")),
    "torch in all": (12, times("{:.0f}", "torch", "total")), "steps": (6, times("{:.0f}", "torch", "steps"))}


def print_head(*words, columns):
    """Print the head of a table; `words`: (text, width), negative to the left."""
    print_line(words, [(head, width) for head, (width, _) in columns.items()])


def print_row(*words, columns, figures):
    """Print a line of it."""
    print_line(words, [(text(figures), width) for width, text in columns.values()])


def print_line(*cells):
    """Print cells, lists of (text, width)."""
    print(" ".join(text.ljust(-width) if width < 0 else text.rjust(width) for part in cells
                   for text, width in part), flush=True)


# -- the command ---------------------------------------------------------------------------------------------
def options_of(arguments=None):
    """Return (parser, options)."""
    parser = bench_cpu.options_of(__doc__, 1, f"of {', '.join(METHODS)} (default dense approx)")
    parser.add_argument("--nets", nargs="+", metavar="NAME[:BATCH]",
                        help=f"default {' '.join(NETS)}; without :BATCH the model's batch")
    parser.add_argument("--channel-drops", action="store_true", help="the method channels, too")
    parser.add_argument("--rate", type=float, default=0.5, help="of channels (default 0.5)")
    parser.add_argument("--layers", nargs="*", metavar="LAYER",
                        help=f"single layers instead: all, or some of {', '.join(CASES)}")
    parser.add_argument("--batch", type=int, default=16, help="of single layers (default 16)")
    parser.add_argument("--memory", action="store_true", help="memory instead of times")
    parser.add_argument("--threads", type=int, default=threads.COUNT,
                        help=f"of every process (default {threads.COUNT})")
    options = parser.parse_args(arguments)
    methods = options.methods or ["dense", "approx"]
    options.methods = list(dict.fromkeys([*methods, *["channels"] * options.channel_drops]))
    try:
        for name in options.nets or ():
            find_net(name)
    except ConfigError as error:
        parser.error(f"argument --nets: {error}")
    for flag, names, known in (("--methods", options.methods, METHODS),
                               ("--layers", options.layers or (), CASES)):
        for name in names:
            if name not in known:
                parser.error(f"argument {flag}: unknown {name!r}{nearest(name, known)} (known: "
                             f"{', '.join(known)})")
    if not 0 < options.rate < 1:
        parser.error(f"argument --rate: expected a number above 0 and below 1, got {options.rate:g}")
    for flag in "batch", "threads", "blocks":
        if getattr(options, flag) < 1:
            parser.error(f"argument --{flag}: expected at least 1, got {getattr(options, flag)}")
    if options.peer:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit("--peer torch needs PyTorch: pip install 'minidrop[peers]'") from None
    return options


def run_nets(options):
    """Print the table of steps, or of memory; yield a cell of the file of figures for each net."""
    columns, width = MEMORY_COLUMNS if options.memory else NET_COLUMNS, 14
    print_head(("net", width), ("batch", 5), ("method", -8), columns=columns)
    for name in options.nets or NETS:
        net, cell = find_net(name), {}
        if options.memory:
            cell["methods"] = {method: measure_memory(name, method, options) for method in options.methods}
            for method, figures in cell["methods"].items() if options.peer else ():
                figures["torch"] = measure_memory(name, f"{options.peer} {method}", options)
        else:
            cell["gflop_per_second"], cell["methods"] = measure_net(name, options.methods, options)
        for method, figures in cell["methods"].items():
            print_row((net.folder, width), (str(net.samples), 5), (method, -8), columns=columns,
                      figures=figures)
        yield {"net": net.folder, "batch": net.samples, **cell}


def run_layers(options):
    """Print the table of layers; yield a cell of the file of figures for each."""
    print_head(("layer", -13), ("forward and backward", -35), columns=LAYER_COLUMNS)
    for name in options.layers or CASES:
        rate, figures = measure_layer(name, options)
        print_row((name, -13), (CASES[name].what, -35), columns=LAYER_COLUMNS, figures=figures)
        yield {"layer": name, "what": CASES[name].what, "gflop_per_second": rate, **figures}


def main():
    options = options_of()
    os.environ.update(dict.fromkeys(THREADS, str(options.threads)))     # of the workers
    layers = options.layers is not None
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: others use this machine (load {load:.1f}); threads that wait for each other, as "
              f"PyTorch's do most of all, then take far too long", file=sys.stderr)
    facts = {"threads": options.threads, **({"batch": options.batch} if layers else {"rate": options.rate})}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; "
          f"{', '.join(f'{name} {value:g}' for name, value in facts.items())}, float32; ms are medians",
          flush=True)
    done = []
    for cell in (run_layers if layers else run_nets)(options):
        done.append(cell)
        if options.json:                                    # after each cell: the next may take long
            with open(options.json, "w") as file:
                json.dump({"cores": os.cpu_count(), "machine": platform.platform(), "load_before": load,
                           **facts, "cells": done}, file, indent=1)


if __name__ == "__main__":
    main()
