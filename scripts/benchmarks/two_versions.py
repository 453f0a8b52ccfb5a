"""How long a training step takes in another checkout than in this one, the two in turn.

    git worktree add --detach ../before COMMIT
    python scripts/benchmarks/two_versions.py ../before conv_worker.py net dense lenet 0.5
    python scripts/benchmarks/two_versions.py ../before bench_cpu.py PERIODIC 1024x1024 0.5
    python scripts/benchmarks/two_versions.py ../before transformer_worker.py net approx gpt_small 0.2

The words after the checkout are the worker script of a benchmark and its arguments, see there. Each checkout
runs its own script in a process of its own, and both take turns.
"""

import argparse
from pathlib import Path
from statistics import median

from in_turn import Worker, step_time

HERE = Path(__file__).resolve().parents[2]


def compared(before, script, arguments, rounds, seconds):
    """Return (milliseconds of a step before, now, the ratio now / before of each round)."""
    workers = [Worker(tree / "scripts" / "benchmarks" / script, *arguments,
                      environment={"PYTHONPATH": str(tree)}) for tree in (before, HERE)]
    counts, times = [], ([], [])
    for worker in workers:
        worker.ask("steps", 3)
        counts.append(max(2, round(seconds / median(t for _, t in worker.ask("steps", 3)))))
    for turn in range(rounds):
        for i in ((0, 1), (1, 0))[turn % 2]:
            workers[i].ask("steps", 2)      # wakes caches and thread pools up again
            times[i].append(step_time(workers[i].ask("steps", max(counts)), workers[i].ask("weights"))[0])
    for worker in workers:
        worker.close()
    return (*(1e3 * median(own) for own in times), [now / then for then, now in zip(*times, strict=True)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("script", help="of scripts/benchmarks/: conv_worker.py, bench_cpu.py, ...")
    parser.add_argument("arguments", nargs="*", help="what the script is told")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    options = parser.parse_args()
    then, now, ratios = compared(options.before.resolve(), options.script, options.arguments, options.rounds,
                                 options.seconds)
    print(f"{' '.join(options.arguments)}: {then:.3f} ms before, {now:.3f} ms now; now / before "
          f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
