#!/usr/bin/env python
"""What a step of N ranks takes, from what it takes one rank and one link: which way to add pays, and how far.

    mpiexec -n 2 python scripts/benchmarks/measure_ranks.py --json ranks.json
    python scripts/benchmarks/simulate_ranks.py --measured ranks.json --plot ranks.png
    python scripts/benchmarks/simulate_ranks.py --work 0.1 --fixed 0.01 --megabytes 23.3 --share 0.32 \\
        --compact-work 0.05 --compact-fixed 0.006 --gigabits 1 --latency 5e-5

A message of m bytes takes a + m / B seconds, with the latency a and the bandwidth B of a rank's link, which
sends and receives at once and is shared with no other rank (Hockney, "The communication challenge for MPP",
Parallel Computing 20, 1994). To add a row of m bytes over n ranks, so that all have the sum, takes

    direct   2 (n-1) (a + m / (n B))                  each rank adds a part for all: what minidrop does
    ring     2 (n-1) (a + m / (n B))                  [1]
    halving  2 ceil(log2 n) a + 2 (n-1) m / (n B)     recursive halving and doubling [2]
    tree     2 ceil(log2 n) (a + m / B)               to one rank along a binomial tree, and back [2]

    [1] Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal of
        Parallel and Distributed Computing 69, 2009
    [2] Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
        International Journal of High Performance Computing Applications 19, 2005

with the additions themselves left out, which are the same for all but the tree. Direct and ring cost the
same; a ring adds each part beginning with another rank. A rank computes for `fixed` + `work` / n seconds: the
update is that of the whole net on every rank, the passes are of n-th parts of the batch (--weak: batches as
large as that of one rank on each, `fixed` + `work`). A step is

    in turn      fixed + work / n + sum(bucket)
    overlapped   backward is 2/3 of the work, and yields the buckets evenly; bucket k is sent once it is ready
                 and the one before has been sent: end(k) = max(ready(k), end(k-1)) + bucket; then the update

and some exchanges of few bytes (--small), of ceil(log2 n) a each. "gain" is how many times as fast the
compact step is as the dense one.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from minidrop.apps.link import Link

RANKS = tuple(2**i for i in range(11))
BACKWARD = 2 / 3        # of the passes: two products of three
BUCKETS = 8             # when overlapped
ALGORITHMS = ("direct", "ring", "halving", "tree")


@dataclass(frozen=True)
class Load:
    """What a rank computes and sends: seconds of `work` that is divided and `fixed` ones, and `bytes`.

    `small`: exchanges of few bytes in a step.
    """

    work: float
    fixed: float
    bytes: float
    small: float = 0


def exchange_seconds(algorithm, size, ranks, link):
    """Return the seconds that adding a row of `size` bytes over the ranks takes, see above."""
    latency, bandwidth = link
    rounds = math.ceil(math.log2(ranks))
    if algorithm in ("direct", "ring"):
        return 2 * (ranks - 1) * (latency + size / ranks / bandwidth)
    if algorithm == "halving":
        return 2 * rounds * latency + 2 * (ranks - 1) * size / ranks / bandwidth
    if algorithm == "tree":
        return 2 * rounds * (latency + size / bandwidth)
    raise ValueError(f"an algorithm is one of {', '.join(ALGORITHMS)}; got {algorithm!r}")


def small_seconds(count, ranks, link):
    """Return the seconds of some exchanges of few bytes."""
    return count * math.ceil(math.log2(ranks)) * link[0]


def step_seconds(load, ranks, link, algorithm="direct", overlap=False, weak=False, buckets=BUCKETS):
    """Return the seconds of a step, see above."""
    work = load.work if weak else load.work / ranks
    rest = load.fixed + small_seconds(load.small, ranks, link)
    if not overlap:
        return rest + work + exchange_seconds(algorithm, load.bytes, ranks, link)
    bucket = exchange_seconds(algorithm, load.bytes / buckets, ranks, link)
    end = 0.0
    for k in range(1, buckets + 1):
        end = max(work * (1 - BACKWARD + BACKWARD * k / buckets), end) + bucket
    return rest + end


def rows(dense, compact, link, counts=RANKS, weak=False, overlaps=(False, True), algorithms=ALGORITHMS):
    """Return {(algorithm, overlap): [(ranks, dense seconds, compact seconds)]}."""
    return {(algorithm, overlap): [(n, *(step_seconds(load, n, link, algorithm, overlap, weak)
                                         for load in (dense, compact))) for n in counts]
            for algorithm in algorithms for overlap in overlaps}


def lines(found):
    """Yield the lines of the tables."""
    for (algorithm, overlap), table in found.items():
        yield f"{algorithm}, {'overlapped' if overlap else 'in turn'}"
        yield f"{'ranks':>6}{'dense ms':>11}{'compact ms':>12}{'gain':>7}"
        for n, dense, compact in table:
            yield f"{n:6}{1e3 * dense:11.2f}{1e3 * compact:12.2f}{dense / compact:7.2f}"


def plot(found, path):
    """Draw the steps over the number of ranks; needs Matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, overlap in zip(axes, (False, True), strict=True):
        for (algorithm, overlapped), table in found.items():
            if overlapped == overlap and algorithm != "ring":       # as direct
                counts, dense, compact = zip(*table, strict=True)
                line, = axis.loglog(counts, [1e3 * one for one in dense], "--", base=2)
                axis.loglog(counts, [1e3 * one for one in compact], color=line.get_color(), label=algorithm,
                            base=2)
        axis.set(title="overlapped" if overlap else "in turn", xlabel="ranks")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a step (dashed: dense)")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def loads_of(found, single):
    """Return the dense and the compact Load of what measure_ranks.py found with n ranks and with one."""
    n, loads = found["ranks"], []
    if n < 2 or single["ranks"] != 1:
        raise SystemExit("--measured needs measurements of several ranks, --single one of a single rank")
    for name in ("dense", "compact"):
        several, one = found["methods"][name], single["methods"][name]
        work = max(0.0, (one["local"] - several["local"]) / (1 - 1 / n))
        loads.append(Load(work, one["local"] - work, several["bytes"], several["small"]))
    return loads


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, help="what measure_ranks.py --json wrote with several ranks")
    parser.add_argument("--single", type=Path, help="and with one")
    parser.add_argument("--work", type=float, help="seconds of a dense step that are divided")
    parser.add_argument("--fixed", type=float, default=0.0, help="and those that are not")
    parser.add_argument("--megabytes", type=float, help="of dense gradients")
    parser.add_argument("--share", type=float, default=0.32, help="of them that travels compactly")
    parser.add_argument("--compact-work", type=float, help="[default: as dense]")
    parser.add_argument("--compact-fixed", type=float)
    parser.add_argument("--small", type=float, default=3, help="exchanges of few bytes in a step")
    parser.add_argument("--gigabits", type=float, help="of a rank's link in a second")
    parser.add_argument("--latency", type=float, help="seconds")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--weak", action="store_true", help="every rank has a batch as large as that of one")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    link = Link(5e-5, 1.25e8)
    if options.measured:
        if not options.single:
            parser.error("--measured needs --single")
        several = json.loads(options.measured.read_text())
        dense, compact = loads_of(several, json.loads(options.single.read_text()))
        link = Link(*several["link"])
    elif options.work is None or options.megabytes is None:
        parser.error("give --measured and --single, or at least --work and --megabytes")
    else:
        dense = Load(options.work, options.fixed, 1e6 * options.megabytes, options.small)
        compact = Load(dense.work if options.compact_work is None else options.compact_work,
                       dense.fixed if options.compact_fixed is None else options.compact_fixed,
                       dense.bytes * options.share, options.small)
    link = Link(link.latency if options.latency is None else options.latency,
                link.bandwidth if options.gigabits is None else 1.25e8 * options.gigabits)
    found = rows(dense, compact, link, options.ranks, options.weak, algorithms=options.algorithms)
    for line in lines(found):
        print(line)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
