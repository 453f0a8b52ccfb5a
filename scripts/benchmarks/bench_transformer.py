"""Time the whole training step of transformers, attention alone and one product: minidrop and PyTorch.

    python scripts/benchmarks/bench_transformer.py --peer torch --json transformer.json
    python scripts/benchmarks/bench_transformer.py --peer torch --nets gpt_1024:8 --rates 0.5
    python scripts/benchmarks/bench_transformer.py --peer torch --parts attention --steps 64 512
    python scripts/benchmarks/bench_transformer.py --peer torch --quick

One training step: forward, backward, AdamW without clipping, float32, random tokens or images in memory. The
nets and methods are those of transformer_nets.py. Each is compared with the same net in PyTorch as its users
write it (torch_transformer.py: nn.Dropout in the same places, scaled_dot_product_attention, optim.AdamW with
fused=True), eager and through torch.compile, with as many threads: `approx` with `conventional` there, and
BLOCK with `inputs`. Every method runs in a process of its own, and the processes take turns (in_turn.py).
Times are medians.

"/torch", "/compiled" and "/none" say how many times as fast: their time over that of the method. "bound" is
what the operations of its products allow beside those of a net that drops nothing, and "bound ms" the time
of these operations at the rate of a large product of NumPy in turn with the rest.

The part `attention` is causal attention of 8 heads of 128 alone, forward and backward; `product` is y =
drop(x) W^T with its gradients, all of one size, which is SparseDrop's curve.

Nothing else may run beside it: PyTorch's threads wait for each other several times a layer.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import bench_cpu
from bench_conv import THREADS, add_ratios, in_turn, print_head, print_row, times
from transformer_nets import METHODS, PEERS, find_net
from transformer_worker import PRODUCTS, AttentionCase

from minidrop.errors import ConfigError, nearest
from minidrop.kernels import threads

WORKER = Path(__file__).with_name("transformer_worker.py")
PARTS = ("nets", "attention", "product")
FULL = {"nets": ("gpt_small", "gpt_1024:8", "gpt_1024:32", "vit_1024:8"), "rates": (0.1, 0.3, 0.5, 0.7),
        "steps": (64, 128, 256, 512, 1024), "size": 1024, "batch": 8}
QUICK = {"nets": ("gpt_small",), "rates": (0.5,), "steps": (64,), "size": 256, "batch": 2, "blocks": 2,
         "block_seconds": 0.2}
MORE_RATES = {"gpt_small": (0.2,)}          # the rate of nanoGPT's recipe
COMPILE_SECONDS = 600


# -- measuring -----------------------------------------------------------------------------------------------
def measure_net(name, rate, methods, options):
    """Return (GFLOP/s, {method: figures}) of a net."""
    peers = {who: dict.fromkeys(f"{who} {PEERS.get(method, method)}" for method in methods)
             for who in options.peers}
    names = [*methods, *(peer for own in peers.values() for peer in own)]
    results, speed = in_turn({one: ["net", one, name, rate] for one in names}, options, script=WORKER)
    figures = {}
    for method in methods:
        dense, expected = find_net(name).operations(method, rate)
        own = figures[method] = {**results[method], "gflop_dense": dense / 1e9, "gflop": expected / 1e9,
                                 "bound_ms": expected / 1e6 / speed, "bound": dense / expected}
        for who in options.peers:
            own[who] = results[f"{who} {PEERS.get(method, method)}"]
        compare(own, results.get("none"))
    return speed, figures


def measure_attention(steps, options):
    """Return (GFLOP/s, {"minidrop": figures}) of attention over so many steps."""
    who = ["minidrop", *(["torch"] if options.peer else [])]
    results, speed = in_turn({one: ["attention", one, steps, options.batch] for one in who}, options,
                             script=WORKER)
    operations = AttentionCase(steps).operations(options.batch)
    own = results["minidrop"] | {"gflop": operations / 1e9, "bound_ms": operations / 1e6 / speed}
    if options.peer:
        own["torch"] = results["torch"]
    compare(own)
    return speed, {"minidrop": own}


def measure_product(rate, options):
    """Return (GFLOP/s, {method: figures}) of one product."""
    peers = ["torch dense", "torch Dropout"] if options.peer else []
    results, speed = in_turn({one: ["product", one, options.size, rate] for one in (*PRODUCTS, *peers)},
                             options, script=WORKER)
    figures = {}
    for method in PRODUCTS:
        kept = 1 - rate if method in PRODUCTS[2:] else 1.0
        operations = 3 * 2 * options.size ** 3 * kept
        own = figures[method] = {**results[method], "gflop": operations / 1e9, "bound": 1 / kept,
                                 "bound_ms": operations / 1e6 / speed}
        if options.peer:
            own["torch"] = results["torch dense" if method == "dense" else "torch Dropout"]
        compare(own, results["dense"])
        own["to_dropout"] = results["Dropout"]["ms"] / own["ms"]
    return speed, figures


def compare(own, none=None):
    """Add to figures what they are against the bound, PyTorch and a net that drops nothing."""
    add_ratios(own, own.get("torch"))
    if "compiled" in own:
        own["to_compiled"] = own["compiled"]["ms"] / own["ms"]
    if none:
        own["to_none"] = none["ms"] / own["ms"]


def why_not_compiled():
    """Return why torch.compile does not work here, tried in a process of its own; "" if it does."""
    try:
        done = subprocess.run([sys.executable, WORKER, "compiles"], capture_output=True, text=True,
                              timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"a small net took more than {COMPILE_SECONDS} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return done.stdout.strip()


# -- the tables ----------------------------------------------------------------------------------------------
COLUMNS = {     # head: (width, f(figures))
    "ms": (9, times("{:.2f}", "ms")), "torch ms": (9, times("{:.2f}", "torch", "ms")),
    "compiled": (9, times("{:.2f}", "compiled", "ms")), "/torch": (7, times("{:.2f}x", "to_torch")),
    "/compiled": (9, times("{:.2f}x", "to_compiled")), "/none": (7, times("{:.2f}x", "to_none")),
    "bound": (6, times("{:.2f}x", "bound")), "bound ms": (9, times("{:.2f}", "bound_ms")),
    "of it": (6, times("{:.0%}", "of_bound")), "GFLOP": (8, times("{:.2f}", "gflop")),
    "MiB": (6, times("{:.0f}", "memory_mib"))}
PRODUCT_COLUMNS = {("/dense" if head == "/none" else head): column for head, column in COLUMNS.items()
                   if "compiled" not in head} | {"/Dropout": (8, times("{:.2f}x", "to_dropout"))}
ATTENTION_COLUMNS = {head: COLUMNS[head]
                     for head in ("ms", "torch ms", "/torch", "bound ms", "of it", "GFLOP", "MiB")}


def cells_of(options):
    """Yield (facts, columns, f() -> (GFLOP/s, {method: figures})) of every cell that was asked for."""
    for name in options.nets if "nets" in options.parts else ():
        rates = options.rates or sorted({*options.default_rates, *MORE_RATES.get(name, ())})
        for rate in rates:
            facts = {"net": name.partition(":")[0], "batch": find_net(name).samples, "rate": rate}
            yield ({"part": "nets", **facts}, COLUMNS,
                   lambda name=name, rate=rate: measure_net(name, rate, options.methods, options))
    for steps in options.steps if "attention" in options.parts else ():
        yield ({"part": "attention", "steps": steps, "batch": options.batch}, ATTENTION_COLUMNS,
               lambda steps=steps: measure_attention(steps, options))
    for rate in (options.rates or options.default_rates) if "product" in options.parts else ():
        yield ({"part": "product", "size": options.size, "rate": rate}, PRODUCT_COLUMNS,
               lambda rate=rate: measure_product(rate, options))


def run(options):
    """Print the tables; yield a cell of the file of figures after each."""
    part = None
    for facts, columns, measure in cells_of(options):
        names = [name for name in facts if name != "part"]
        if facts["part"] != part:
            part = facts["part"]
            print_head((names[0], 12), *((name, 5) for name in names[1:]), ("method", -12), columns=columns)
        speed, figures = measure()
        for method, own in figures.items():
            print_row((str(facts[names[0]]), 12), *((f"{facts[name]:g}", 5) for name in names[1:]),
                      (method, -12), columns=columns, figures=own)
        yield {**facts, "gflop_per_second": speed, "methods": figures}


# -- the command ---------------------------------------------------------------------------------------------
def options_of(arguments=None):
    """Return the options."""
    parser = bench_cpu.options_of(__doc__, 1, f"of {', '.join(METHODS)} (default all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default all")
    parser.add_argument("--nets", nargs="+", metavar="NAME[:BATCH]", help=f"default {' '.join(FULL['nets'])}")
    parser.add_argument("--rates", nargs="+", type=float,
                        help="default 0.1 0.3 0.5 0.7, of gpt_small 0.2 as well")
    parser.add_argument("--steps", nargs="+", type=int, help="of attention alone "
                        f"(default {' '.join(map(str, FULL['steps']))})")
    parser.add_argument("--batch", type=int, help=f"of attention alone (default {FULL['batch']})")
    parser.add_argument("--size", type=int, help=f"of the product (default {FULL['size']})")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--threads", type=int, default=threads.COUNT,
                        help=f"of every process (default {threads.COUNT})")
    parser.add_argument("--quick", action="store_true", help="gpt_small at 0.5, short turns")
    options = parser.parse_args(arguments)
    default = FULL | QUICK if options.quick else FULL
    options.default_rates = default["rates"]
    for name in ("nets", "steps", "batch", "size"):
        setattr(options, name, default[name] if getattr(options, name) is None else getattr(options, name))
    for name in ("blocks", "block_seconds"):
        if options.quick and getattr(options, name) == parser.get_default(name):
            setattr(options, name, default[name])
    options.methods = list(dict.fromkeys(options.methods or METHODS))
    _check(parser, options)
    return options


def _check(parser, options):
    """End with the mistake where options do not fit."""
    for name in options.methods:
        if name not in METHODS:
            parser.error(f"argument --methods: unknown {name!r}{nearest(name, METHODS)} (known: "
                         f"{', '.join(METHODS)})")
    try:
        for name in options.nets:
            find_net(name)
    except ConfigError as error:
        parser.error(f"argument --nets: {error}")
    for rate in options.rates or ():
        if not 0 < rate < 1:
            parser.error(f"argument --rates: expected numbers above 0 and below 1, got {rate:g}")
    for flag in ("batch", "size", "threads", "blocks"):
        if getattr(options, flag) < 1:
            parser.error(f"argument --{flag}: expected at least 1, got {getattr(options, flag)}")
    if min(options.steps) < 1:
        parser.error(f"argument --steps: expected at least 1, got {min(options.steps)}")
    if options.peer:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit("--peer torch needs PyTorch: pip install 'minidrop[peers]'") from None


def main():
    options = options_of()
    os.environ.update(dict.fromkeys(THREADS, str(options.threads)))     # of the workers
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: others use this machine (load {load:.1f}); threads that wait for each other, as "
              f"PyTorch's do most of all, then take far too long", file=sys.stderr)
    options.peers, reason = [options.peer] if options.peer else [], ""
    if options.peer and not options.no_compile and "nets" in options.parts:
        reason = why_not_compiled()
        if reason:
            print(f"torch.compile is left out: {reason}", flush=True)
        else:
            options.peers.append("compiled")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; threads {options.threads}, "
          f"float32; ms are medians", flush=True)
    done = []
    for cell in run(options):
        done.append(cell)
        if options.json:                                    # after each cell: the next may take long
            with open(options.json, "w") as file:
                json.dump({"cores": os.cpu_count(), "machine": platform.platform(), "load_before": load,
                           "threads": options.threads, "without_compile": reason, "cells": done}, file,
                          indent=1)


if __name__ == "__main__":
    main()
