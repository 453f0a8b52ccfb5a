"""Time a training step of several ranks of one thread against one process of as many threads.

    python scripts/benchmarks/bench_ranks.py --json ranks.json
    python scripts/benchmarks/bench_ranks.py --batches 128 --groups 1 --rounds 2

784-2048-2048-10 with a drop of rate 0.5 behind both hidden layers, SGD with momentum 0.9 and weight decay
0.0005, float32; the batch is that of all ranks together. The methods take turns: "process" is one process
with a thread for each rank; "overlap" are the ranks, whose gradients travel while backward runs; "at the end"
the same without (layer_wise_reduce: false); "small" is "overlap" with a bucket for each parameter, bfloat16
with that wire. All make the same iterations, and so draw the same patterns; a speed is the ratio of all
seconds of the process to those of a method, and in brackets stand the extremes of that ratio over rounds.
Ranks wait for each other, and rank 0 is timed.
"""

import argparse
import json
import shutil
import sys
import time
from itertools import product
from pathlib import Path

from in_turn import Worker

METHODS = {"overlap": "", "at the end": "layer_wise_reduce: false", "small": "reduce_bucket: 1",
           "bfloat16": 'wire: "bfloat16"'}
NET = """
base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 random_seed: 1 max_iter: 100000 {settings}
net_param {{
  layer {{ name: "data" type: "MemoryData" top: "data" top: "label"
          memory_data_param {{ batch_size: {batch} channels: 784 height: 1 width: 1 }} }}
  {layers}
  layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }}
}}"""
HIDDEN = """
  layer {{ name: "ip{i}" type: "InnerProduct" bottom: "{bottom}" top: "ip{i}"
          inner_product_param {{ num_output: {outputs} weight_filler {{ type: "msra" }} }} }}"""
DROP = """
  layer {{ name: "relu{i}" type: "ReLU" bottom: "ip{i}" top: "ip{i}" }}
  layer {{ name: "drop{i}" type: "ApproxDropout" bottom: "ip{i}" top: "ip{i}"
          approx_dropout_param {{ dropout_ratio: 0.5 {groups} }} }}"""


def solver_of(batch, groups, settings, communicator):
    """Return the Solver of a method, whose data are random."""
    import numpy as np

    from minidrop.config import parse_solver
    from minidrop.solver import Solver
    layers = "".join(HIDDEN.format(i=i, bottom=bottom, outputs=outputs)
                     + (DROP.format(i=i, groups=f"groups: {groups}" if groups else "") if i < 3 else "")
                     for i, bottom, outputs in ((1, "data", 2048), (2, "ip1", 2048), (3, "ip2", 10)))
    solver = Solver(parse_solver(NET.format(settings=settings, batch=batch, layers=layers), "bench"),
                    device="cpu", communicator=communicator)
    rng = np.random.default_rng(0)
    solver.net.set_input_arrays(rng.standard_normal((4 * batch, 784, 1, 1), np.float32),
                                rng.integers(0, 10, 4 * batch))
    return solver


def serve(batch, groups):
    """Make steps of the methods that rank 0 is asked for on its standard input."""
    from minidrop.solver.mpi import world
    from minidrop.solver.ranks import Ranks
    communicator = world()
    ranks = Ranks(communicator)
    solvers = {name: solver_of(batch, groups, settings, communicator) for name, settings in METHODS.items()}
    while True:
        line = ranks.of_root(sys.stdin.readline() if ranks.is_root else "")
        if not line:
            return
        name, count = line.rsplit(" ", 1)
        solver = solvers[name]
        begin = time.perf_counter()
        solver.step(int(count))
        if ranks.is_root:
            total = solver.gradient_sum
            print(json.dumps([time.perf_counter() - begin, total.entries, total.sent]), flush=True)


def measure(ranks, batch, groups, rounds, seconds):
    """Return the results of one net."""
    launcher = (shutil.which("mpiexec", path=f"{Path(sys.executable).parent}") or "mpiexec", "-n", str(ranks))
    threads = {"one": str(ranks), "several": "1"}
    environments = {name: {"OMP_NUM_THREADS": count, "MINIDROP_THREADS": count}
                    for name, count in threads.items()}
    one = Worker(__file__, "--serve", batch, groups, environment=environments["one"])
    several = Worker(__file__, "--serve", batch, groups, launcher=launcher,
                     environment=environments["several"])
    # In one process nothing travels, whatever the settings.
    ways = {"process": (one, "overlap"), **{name: (several, name) for name in METHODS}}
    for worker, name in ways.values():
        worker.ask(name, 5)                                 # compiles, allocates
    count = max(4, round(seconds / (one.ask("overlap", 5)[0] / 5)))
    for name in METHODS:
        several.ask(name, 5)
    times = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[::1 if turn % 2 else -1]:
            worker, method = ways[name]
            times[name].append(worker.ask(method, count))
    one.close()
    several.close()
    found = {"ranks": ranks, "batch": batch, "groups": groups or "default", "steps": count * rounds,
             "methods": {}}
    for name, own in times.items():
        ratios = [process[0] / mine[0] for process, mine in zip(times["process"], own, strict=True)]
        found["methods"][name] = {
            "ms": 1e3 * sum(one[0] for one in own) / (count * rounds),
            "speed": sum(one[0] for one in times["process"]) / sum(one[0] for one in own),
            "apart": [min(ratios), max(ratios)],
            "sent_MB": own[-1][2] / 1e6}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", nargs=2, type=int, metavar=("BATCH", "GROUPS"), help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 0], help="0: the default of the pattern")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn of one process")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    results = []
    for batch, groups in product(options.batches, options.groups):
        found = measure(options.ranks, batch, groups, options.rounds, options.seconds)
        results.append(found)
        print(f"{found['ranks']} ranks, batch {batch}, groups {found['groups']}, {found['steps']} steps",
              flush=True)
        for name, own in found["methods"].items():
            print(f"  {name:10} {own['ms']:8.2f} ms  {own['speed']:.3f} x the process "
                  f"({own['apart'][0]:.2f} to {own['apart'][1]:.2f}), last step {own['sent_MB']:.1f} MB",
                  flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))
    return None


if __name__ == "__main__":
    main()
