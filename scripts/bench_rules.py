"""What the update rules cost: a step of a 784-h-h-10 perceptron with each rule, compact in one pass and dense
in several.

    python scripts/bench_rules.py [--units 2048] [--rate 0.5] [--iterations 40]

"dense" is the generic path (Backend.rule_update): the whole gradient is written, and the formula goes over
whole arrays. Both take turns in one process, and give the same bits. SGD has a kernel of its own and no dense
form here.
"""

import argparse

import minidrop as md

# isort: split
import numpy as np
from bench_mlp import BATCH, DECAY, INPUTS, mlp

from minidrop.apps.timing import measure_steps
from minidrop.config import SolverParameter
from minidrop.solver.rules import known_rules


def make_solver(rule, sizes, rate, compiled):
    """Return a Solver on data in memory; without `compiled` its rule takes the generic path."""
    momentum = {} if rule in ("AdaGrad", "RMSProp") else {"momentum": 0.9}
    settings = SolverParameter(type=rule, base_lr=1e-4, lr_policy="fixed", weight_decay=DECAY, max_iter=10**9,
                               random_seed=0, net_param=mlp("PERIODIC", sizes, rate), solver_mode="CPU",
                               **momentum)
    solver = md.Solver(settings)
    solver.updater.rule.compiled = compiled
    rng = np.random.default_rng(0)
    solver.net.set_input_arrays(rng.random((8 * BATCH, INPUTS, 1, 1), np.float32),
                                rng.integers(0, 10, 8 * BATCH))
    return solver


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2048, help="units of both hidden layers")
    parser.add_argument("--rate", type=float, default=0.5, help="dropout_ratio")
    parser.add_argument("--iterations", type=int, default=40, help="timed steps of each")
    options = parser.parse_args()
    sizes = (options.units,) * 2
    print("| rule | dense ms | compact ms | ratio |\n|---|---|---|---|")
    for rule in known_rules():
        ways = {True: make_solver(rule, sizes, options.rate, True)}
        if rule != "SGD":
            ways[False] = make_solver(rule, sizes, options.rate, False)
        timings = measure_steps({way: solver.step for way, solver in ways.items()}, options.iterations)
        compact, dense = (timings[way].median * 1e3 if way in timings else None for way in (True, False))
        before, ratio = (f"{dense:.1f}", f"{dense / compact:.2f}x") if dense else ("-", "-")
        print(f"| {rule} | {before} | {compact:.1f} | {ratio} |", flush=True)
        for solver in ways.values():
            solver.close()


if __name__ == "__main__":
    main()
