"""What a training step costs besides its arithmetic: a perceptron whose products take next to nothing.

    OPENBLAS_NUM_THREADS=1 MINIDROP_THREADS=1 python scripts/benchmarks/bench_overhead.py [--sizes 60x60]

784-h1-h2-10, PERIODIC with one group and SGD with momentum, on one thread. Of each part of a step the time
that a tenth of the steps stay below, so that what else runs on the machine hardly counts. "backend" is what
calls of the backend take, kernels, gathers and BLAS with the Python around them: what a step would still cost
if its calls were listed once and then only repeated. The rest builds the graph and goes through layers.
"""

import argparse
from time import perf_counter

from bench_models import Perceptron
from bench_steps import MinidropSteps

PARTS = (("drawing", "net", "draw_patterns"), ("forward", "net", "forward"), ("backward", "net", "backward"),
         ("update", "updater", "apply"))
NO_WORK = ("active", "refuse")      # methods of a backend


class Clock:
    """Adds up what calls take, by name, within its context; one within another of its name counts once."""

    def __init__(self):
        self.spent, self.calls, self.inside, self.watched = {}, {}, set(), []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for owner, method in self.watched:
            delattr(owner, method)      # the class has the method itself

    def watch(self, owner, method, name):
        """Let the calls of a method of `owner` count as `name`."""
        function = getattr(owner, method)

        def timed(*arguments, **options):
            if name in self.inside:
                return function(*arguments, **options)
            self.inside.add(name)
            begin = perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + perf_counter() - begin
                self.calls[name] = self.calls.get(name, 0) + 1
                self.inside.discard(name)

        setattr(owner, method, timed)
        self.watched.append((owner, method))

    def of(self, step):
        """Return ({name: seconds}, {name: calls}) of one step, "step" among them."""
        self.spent, self.calls = {}, {}
        begin = perf_counter()
        step()
        return {"step": perf_counter() - begin, **self.spent}, self.calls


def tenth(found):
    """Return the number that a tenth of a list stays below."""
    return sorted(found)[len(found) // 10]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="60x60", metavar="H1xH2")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--method", default="PERIODIC:groups=1")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    model = Perceptron(tuple(map(int, options.sizes.split("x"))), options.batch)
    steps = MinidropSteps(model, options.method, 0.5)
    for _ in range(50):
        steps.step()
    alone = 1e6 * tenth([Clock().of(steps.step)[0]["step"] for _ in range(options.steps)])
    with Clock() as clock:
        for name, owner, method in PARTS:
            clock.watch(getattr(steps.solver, owner), method, name)
        parts = [clock.of(steps.step)[0] for _ in range(options.steps)]
    with Clock() as clock:      # apart from the parts: to look at the clock so often takes a share itself
        for method in dir(steps.backend):
            if method[0] != "_" and method not in NO_WORK and callable(getattr(steps.backend, method)):
                clock.watch(steps.backend, method, "backend")
        counted = [clock.of(steps.step) for _ in range(options.steps)]
    net = f"784-{options.sizes.replace('x', '-')}-10"
    print(f"{net}, batch {options.batch}, {options.method}: {alone:.0f} us")
    for name, *_ in PARTS:
        print(f"    {name:<10} {1e6 * tenth([part[name] for part in parts]):7.1f}")
    print(f"    {'backend':<10} {1e6 * tenth([spent['backend'] for spent, _ in counted]):7.1f}   in "
          f"{counted[-1][1]['backend']} calls")


if __name__ == "__main__":
    main()
