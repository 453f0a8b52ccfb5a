"""Time the whole training step of LSTM language models: ordinary dropout, compacted dropout, and PyTorch.

    python scripts/bench_lstm.py --peer torch --json lstm.json
    python scripts/bench_lstm.py --models ptb_medium --methods NR "NR ROW" "RH STEP" "RH STEP dense"
    python scripts/bench_lstm.py --quick

One training step of a net of models/: forward, backward, gradients clipped to a norm, the update rule of its
solver file, float32, random tokens, the state carried from batch to batch. scripts/lstm_models.py says how
methods are written. Every method runs in a process of its own, and the processes take turns in short blocks
while the others sleep: machine noise hits all of them alike, no thread pool spins beside another, and each
has its own peak memory. Times are medians; where a drawn pattern keeps more or less (ROW), of a robust line
through time against kept share, at the mean share. "bound" is what the step would gain if it were nothing but
its products: their operations, all over expected ones.
"""

import argparse
import json
import os
import platform
from statistics import mean

import bench_workers
from bench_workers import Worker, serve
from drop_methods import product_operations
from lstm_models import (
    DROPS,
    INPUTS,
    MODELS,
    check_methods,
    language_model,
    make_solver,
    parse_method,
    solver_settings,
)

DEFAULT_MODELS = ("ptb_small", "ptb_medium", "caption_lm_2", "caption_lm_3")
METHODS = ("NR", "NR ROW", "NR STEP", "NR STEP always", "RH CONVENTIONAL STEP", "RH STEP dense", "RH STEP",
           "RH STEP always", "NR+RH STEP", "NR+RH SEQUENCE")
CAPTION_METHODS = ("NR", "NR ROW", "NR TILE", "NR+RH SEQUENCE")
# others: the files'
RATES = {"ptb_small": (0.5,), "caption_lm_2": (0.3, 0.5, 0.7), "caption_lm_3": (0.3, 0.5, 0.7)}
RATE = 1e-3         # a low learning rate: the tokens are noise, and nothing here may diverge
BATCHES = 8


def token_batches(model):
    """Return BATCHES random batches as (data, label, cont) arrays, each (steps, streams); no stream ever
    ends."""
    import numpy as np
    rng, shape = np.random.default_rng(0), (model.text.steps, model.text.batch_size)
    words = model.layers("Embed")[0].embed_param.input_dim
    return [(rng.integers(words, size=shape), rng.integers(words, size=shape), np.ones(shape))
            for _ in range(BATCHES)]


# -- one method, in its own process --------------------------------------------------------------------------
class MinidropSteps:
    """Steps of a minidrop Solver. Created in the worker: minidrop must be loaded before NumPy."""

    def __init__(self, model, method, rate):
        net = language_model(model, method, rate)
        self.solver = make_solver(solver_settings(model, net, 10**9, base_lr=RATE, lr_policy="fixed",
                                                  random_seed=0), method)
        backend, dtype = self.solver.net.backend, self.solver.net.dtype
        self.batches = [dict(zip(INPUTS, (backend.asarray(array, dtype) for array in batch), strict=True))
                        for batch in token_batches(model)]
        self.drops = self.solver.net.plan.drops

    def step(self):
        """Run one step; returns the mean share that its patterns keep, on which its cost depends."""
        self.solver.net.layers["text"].give(self.batches[self.solver.iteration % BATCHES])
        self.solver.step()
        drawn = [pattern for draw in self.solver.net.draws.values()
                 for pattern in getattr(draw, "patterns", [draw.pattern])]
        return float(mean(1 - pattern.rate for pattern in drawn)) if drawn else 1.0

    def weights(self):
        """The mean of what `step` returns, over all that is ever drawn."""
        sizes = [(drop, drop.site.steps or 1) for drop in self.drops]      # patterns a step each, or one
        total = sum(size for _, size in sizes)
        return float(sum(size * drop.kept_share for drop, size in sizes) / total) if total else 1.0


class TorchSteps:
    """Steps of the same model in PyTorch as its users write it."""

    def __init__(self, model, method, rate):
        import torch
        from torch import nn

        from minidrop.config import decimal
        self.torch = torch
        torch.manual_seed(0)
        embed, recurrent = model.layers("Embed")[0].embed_param, [layer.recurrent_param
                                                                  for layer in model.layers("LSTM")]
        self.embed = nn.Embedding(embed.input_dim, embed.num_output)
        self.lstm = nn.LSTM(embed.num_output, recurrent[0].num_output, len(recurrent), dropout=rate)
        self.scores = nn.Linear(recurrent[0].num_output, embed.input_dim)
        self.drop = nn.Dropout(rate)
        self.first_drop = self.drop if len(model.layers(*DROPS)) > len(recurrent) else nn.Identity()
        self.parameters = [p for layer in (self.embed, self.lstm, self.scores) for p in layer.parameters()]
        for parameter in self.parameters:
            nn.init.uniform_(parameter, -0.1, 0.1)
        fused = True if method == "torch fused" else None
        solver = model.solver
        if solver.type == "Adam":
            self.optimizer = torch.optim.Adam(self.parameters, lr=RATE, fused=fused)
        else:
            self.optimizer = torch.optim.SGD(self.parameters, lr=RATE, momentum=decimal(solver.momentum),
                                             fused=fused)
        self.clip = decimal(solver.clip_gradients)
        self.batches = [(torch.from_numpy(data), torch.from_numpy(label))
                        for data, label, _ in token_batches(model)]
        zeros = torch.zeros(len(recurrent), model.text.batch_size, recurrent[0].num_output)
        self.state, self.count = (zeros, zeros), 0

    def step(self):
        data, label = self.batches[self.count % BATCHES]
        self.count += 1
        self.optimizer.zero_grad()
        h, self.state = self.lstm(self.first_drop(self.embed(data)),
                                  tuple(part.detach() for part in self.state))
        scores = self.scores(self.drop(h))
        loss = self.torch.nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten())
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return 1.0

    def weights(self):
        return 1.0


def worker(method, name, rate):
    """Be the process of a method."""
    if method.startswith("torch"):
        serve(TorchSteps(MODELS[name], method, rate))
        return
    steps = MinidropSteps(MODELS[name], method, rate)
    serve(steps, operations=lambda count: product_operations(steps.solver.net))


# -- all methods of one cell, in turn ------------------------------------------------------------------------
def measure(name, rate, methods, blocks, block_seconds):
    """Return {method: {"ms", "memory_mib", ...}} for one model and rate."""
    workers = {method: Worker(__file__, method, name, rate) for method in methods}
    results = bench_workers.measure(workers, blocks, block_seconds, warm_up=2, estimate=3, wake=1, least=2)
    for method, process in workers.items():
        # Where masks are multiplied by on purpose there is nothing to reach.
        if not method.startswith("torch") and parse_method(method).how != "dense":
            dense, expected = process.ask("operations")
            results[method] |= {"bound": dense / expected, "gflop": expected / 1e9,
                                "gflop_per_second": expected / 1e6 / results[method]["ms"]}
        process.close()
    return results


def cells(models, rates, methods):
    """Return (model, rate, methods) for all that is asked for; what is not given are the defaults of each
    model."""
    found = []
    for name in models:
        for rate in rates or RATES.get(name) or (MODELS[name].rate,):
            own = methods or (CAPTION_METHODS if name.startswith("caption_lm") else METHODS)
            found.append((name, rate, list(dict.fromkeys(("Dropout", *own)))))
    return found


def print_cell(name, rate, results, width):
    peer = results.get("torch", {}).get("ms")
    own = results["Dropout"]["ms"]
    for method, r in results.items():
        columns = [f"{name:>12}", f"{rate:4g}", f"{method:<{width}}", f"{r['ms']:9.2f}",
                   f"{own / r['ms']:9.2f}x", f"{r['bound']:5.2f}x" if "bound" in r else " " * 6,
                   f"{peer / r['ms']:8.2f}x" if peer else " " * 9, f"{r['gflop']:8.2f} "
                   f"{r['gflop_per_second']:8.0f}" if "gflop" in r else " " * 17, f"{r['memory_mib']:7.0f}"]
        print(" ".join(columns), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", choices=["torch"], help="measure PyTorch beside")
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, choices=MODELS, metavar="MODEL",
                        help=f"of {', '.join(MODELS)} (default {' '.join(DEFAULT_MODELS)})")
    parser.add_argument("--methods", nargs="+", metavar="METHOD",
                        help=f"as in scripts/lstm_models.py; Dropout is always measured (default "
                        f"{', '.join(METHODS)}; "
                             f"caption_lm {', '.join(CAPTION_METHODS)})")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--rates", nargs="+", type=float,
                        help="dropout rates (default the model files'; ptb_small 0.5, caption_lm 0.3 0.5 "
                        "0.7)")
    parser.add_argument("--blocks", type=int, default=8, help="turns of each method (default 8)")
    parser.add_argument("--block-seconds", type=float, default=1, help="length of a turn (default 1)")
    parser.add_argument("--quick", action="store_true", help="ptb_small only, short turns")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], options.worker[1], float(options.worker[2]))
        return
    if options.quick:
        options.models, options.blocks, options.block_seconds = ["ptb_small"], 3, 0.5
    for rate in options.rates or ():
        if not 0 < rate < 1:
            parser.error(f"argument --rates: expected numbers above 0 and below 1, got {rate:g}")
    table = cells(options.models, options.rates, options.methods)
    from minidrop.errors import ConfigError
    try:
        for _, rate, methods in table:
            check_methods(methods, [rate])
    except ConfigError as error:
        parser.error(str(error))
    if options.peer:
        try:
            import torch  # noqa: F401
        except ImportError:
            raise SystemExit("--peer torch needs PyTorch: pip install 'minidrop[peers]'") from None
        table = [(name, rate, ["torch", "torch fused", *methods]) for name, rate, methods in table]
    width = max(len(method) for _, _, methods in table for method in methods)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; float32; ms are medians\n"
          f"{'model':>12} {'p':>4} {'method':<{width}} {'ms/step':>9} {'/Dropout':>10} {'bound':>6} "
          f"{'/torch':>9} {'GFLOP':>8} {'GFLOP/s':>8} {'MiB':>7}", flush=True)
    done = []
    for name, rate, methods in table:
        results = measure(name, rate, methods, options.blocks, options.block_seconds)
        print_cell(name, rate, results, width)
        done.append({"model": name, "rate": rate, "methods": results})
        if options.json:                                    # after each cell: the next may take half an hour
            with open(options.json, "w") as file:
                json.dump({"cores": os.cpu_count(), "machine": platform.platform(), "cells": done}, file,
                          indent=1)


if __name__ == "__main__":
    main()
