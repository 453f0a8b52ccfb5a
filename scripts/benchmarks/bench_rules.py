"""What the update rules cost: a step of a 784-h-h-10 perceptron with each, compact and dense.

    python scripts/benchmarks/bench_rules.py [--units 2048] [--rate 0.5] [--iterations 40]

"dense" is the generic path (Backend.rule_update): the whole gradient is written, and the formula goes over
whole arrays. Both take turns in one process, and give the same bits. SGD has a kernel of its own and no dense
form here.
"""

import argparse

from bench_models import Perceptron
from bench_steps import MinidropSteps

from minidrop.apps.timing import measure_steps
from minidrop.solver.rules import known_rules


def rule_steps(rule, sizes, rate, compiled):
    """Return steps with a rule; without `compiled` it takes the generic path."""
    momentum = 0 if rule in ("AdaGrad", "RMSProp") else 0.9
    steps = MinidropSteps(Perceptron(sizes), "PERIODIC", rate, type=rule, momentum=momentum)
    steps.solver.updater.rule.compiled = compiled
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2048, help="units of both hidden layers")
    parser.add_argument("--rate", type=float, default=0.5, help="dropout_ratio")
    parser.add_argument("--iterations", type=int, default=40, help="timed steps of each")
    options = parser.parse_args()
    print("| rule | dense ms | compact ms | ratio |\n|---|---|---|---|")
    for rule in known_rules():
        ways = {compiled: rule_steps(rule, (options.units,) * 2, options.rate, compiled)
                for compiled in ((True,) if rule == "SGD" else (True, False))}
        timings = measure_steps({way: steps.step for way, steps in ways.items()}, options.iterations)
        compact, dense = (timings[way].median * 1e3 if way in timings else None for way in (True, False))
        before, ratio = (f"{dense:.1f}", f"{dense / compact:.2f}x") if dense else ("-", "-")
        print(f"| {rule} | {before} | {compact:.1f} | {ratio} |", flush=True)
        for steps in ways.values():
            steps.close()


if __name__ == "__main__":
    main()
