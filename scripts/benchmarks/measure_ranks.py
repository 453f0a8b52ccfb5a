#!/usr/bin/env python
"""Time the steps of a perceptron that several ranks train, dense and compact, and what they are made of.

    mpiexec -n 2 python scripts/benchmarks/measure_ranks.py --json ranks.json
    sh scripts/benchmarks/two_hosts.sh 1gbit python scripts/benchmarks/measure_ranks.py

784-h-h-10 by SGD with momentum, a drop behind each hidden layer; each rank has batch / n of the samples.
"dense" is ordinary Dropout, "compact" is ApproxDropout with one group of samples, so that gradients travel
compactly. Blocks of steps of both take turns. "local" is the same step with what others send replaced by
what the rank itself has: all that a rank does, and nothing of the network. "predicted" is that and what
simulate_ranks.py says of a link as measured at the same time.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
from simulate_ranks import exchange_seconds, small_seconds

from minidrop.apps.link import measure_link
from minidrop.config import parse_solver
from minidrop.solver import Solver
from minidrop.solver.communicator import Alone
from minidrop.solver.mpi import world
from minidrop.solver.ranks import Ranks

METHODS = {"dense": 'type: "Dropout" dropout_param { dropout_ratio: %g }',
           "compact": 'type: "ApproxDropout" approx_dropout_param { dropout_ratio: %g groups: 1 }'}
SETTINGS = ('base_lr: 1e-4 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 1000000 '
            'random_seed: 0 net_param { %s }')
BLOCK = 3       # steps in turn


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, metavar="H")
    parser.add_argument("--batch", type=int, default=128, help="of all ranks together")
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    communicator = world()
    found = measure(communicator, options)
    if communicator.rank == 0:
        for line in lines(found):
            print(line)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(communicator, options):
    """Return what was measured; all ranks call it."""
    ranks = Ranks(communicator)
    link = measure_link(ranks) if ranks.size > 1 else None
    steps = {(method, place): Steps(solver_of(method, options, to)) for method in METHODS
             for place, to in (("together", communicator), ("local", Echo(communicator)))}
    for one in steps.values():
        one.block()         # warms up
    times = {key: [] for key in steps}
    for _ in range(options.blocks):
        for key, one in steps.items():
            ranks.any(False)        # all begin together
            times[key] += one.block()
    found = {"ranks": ranks.size, "size": options.size, "batch": options.batch, "rate": options.rate,
             "link": link, "methods": {}}
    for method in METHODS:
        together, local = steps[method, "together"], steps[method, "local"]
        one = {"step": median(times[method, "together"]), "local": median(times[method, "local"]),
               "bytes": together.solver.gradient_sum.entries * 4,
               "whole": together.solver.gradient_sum.whole_entries * 4,
               "small": local.solver.ranks.communicator.small / len(local.times)}
        one["predicted"] = one["local"] + (0 if link is None else (
            exchange_seconds("direct", one["bytes"], ranks.size, link)
            + small_seconds(one["small"], ranks.size, link)))
        found["methods"][method] = one
    return found


def lines(found):
    """Yield the lines of a table."""
    link = found["link"]
    if link:
        yield (f"{found['ranks']} ranks; a message takes {1e6 * link[0]:.0f} us and its bytes at "
               f"{8e-9 * link[1]:.3g} Gbit/s")
    yield f"{'':9}{'MB':>8}{'local ms':>10}{'step ms':>10}{'predicted':>11}{'off by':>8}"
    for name, one in found["methods"].items():
        yield (f"{name:9}{1e-6 * one['bytes']:8.1f}{1e3 * one['local']:10.1f}{1e3 * one['step']:10.1f}"
               f"{1e3 * one['predicted']:11.1f}{one['predicted'] / one['step'] - 1:+8.0%}")
    dense, compact = (found["methods"][name] for name in ("dense", "compact"))
    yield (f"compact is {dense['step'] / compact['step']:.2f} times as fast as dense (predicted "
           f"{dense['predicted'] / compact['predicted']:.2f}; without the network "
           f"{dense['local'] / compact['local']:.2f})")


class Echo(Alone):
    """A Communicator whose other ranks answer at once what this one sent. `small`: calls of few bytes."""

    def __init__(self, like):
        self.size, self.host, self.local_size, self.small = like.size, like.host, like.local_size, 0

    def start(self, parts, found, tag):
        for part, place in zip(parts[1:], found[1:], strict=True):
            same = min(len(part), len(place))
            place[:same], place[same:] = part[:same], 0
        return Alone().start(parts, found, tag)

    def gather(self, array):
        self.small += array.nbytes < 1024
        return np.repeat(array[None], self.size, axis=0)

    def abort(self):
        raise SystemExit(1)


class Steps:
    """Steps of a Solver. `times`: seconds of each."""

    def __init__(self, solver):
        self.solver, self.times = solver, []
        if isinstance(solver.ranks.communicator, Echo):
            solver.ranks.communicator.small = 0

    def block(self):
        """Run some steps; returns the seconds of each."""
        taken = []
        for _ in range(BLOCK):
            begin = time.perf_counter()
            self.solver.step()
            taken.append(time.perf_counter() - begin)
        self.times += taken
        return taken


def solver_of(method, options, communicator):
    """Return the Solver of a method, whose data are noise."""
    net = [f'layer {{ name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param {{ '
           f'batch_size: {options.batch} channels: 784 height: 1 width: 1 }} }}']
    bottom = "data"
    for i, outputs in enumerate((options.size, options.size, 10), 1):
        net.append(f'layer {{ name: "ip{i}" type: "InnerProduct" bottom: "{bottom}" top: "ip{i}" '
                   f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "msra" }} }} }}')
        bottom = f"ip{i}"
        if outputs == options.size:
            net.append(f'layer {{ name: "relu{i}" type: "ReLU" bottom: "{bottom}" top: "{bottom}" }}')
            net.append(f'layer {{ name: "drop{i}" {METHODS[method] % options.rate} bottom: "{bottom}" '
                       f'top: "{bottom}" }}')
    net.append(f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{bottom}" bottom: "label" '
               f'top: "loss" }}')
    solver = Solver(parse_solver(SETTINGS % "\n".join(net), "solver.prototxt"), device="cpu",
                    communicator=communicator)
    rng = np.random.default_rng(0)
    solver.net.set_input_arrays(rng.random((4 * options.batch, 784, 1, 1), np.float32),
                                rng.integers(0, 10, 4 * options.batch), "data")
    return solver


if __name__ == "__main__":
    main()
