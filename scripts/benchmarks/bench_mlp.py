"""Time the whole training step of 784-h1-h2-10 networks: ordinary dropout, compacted dropout, and peers.

    python scripts/benchmarks/bench_mlp.py --peer torch --json mlp.json
    python scripts/benchmarks/bench_mlp.py --peer torch handmade compile jax --sizes 2048x2048 --rates 0.5
    python scripts/benchmarks/bench_mlp.py --floor --sizes 2048x2048 --rates 0.5
    python scripts/benchmarks/bench_mlp.py --methods ROW TILE PERIODIC:step=20,reshuffle_interval=500
    python scripts/benchmarks/bench_mlp.py --quick

One training step: batch of 128, forward, backward, SGD with momentum 0.9 and weight decay 0.0005, float32.
Every method runs in a process of its own, and the processes take turns (in_turn.py). A step of a pattern
family costs what its drawn pattern costs, so its time is the median for each choice (say each period),
weighted by how often the choice is drawn. The permutation of reshuffle_interval, once in many steps, does not
show in a median. "bound" is what the step would gain if it were nothing but its products: their operations,
all over expected ones; "products ms" those alone, and their share. "/torch" and the like: how many times as
long that peer takes (see peers.py). --floor: the bytes that a step moves, kernel by kernel, and
the time that it cannot do without (see step_floor.py).
"""

from itertools import product

import bench_cpu
import peers
from bench_models import Perceptron

SIZES = ("1024x1024", "2048x2048", "4096x4096", "1024x64")


def main():
    parser = bench_cpu.options_of(__doc__, 0.5, "pattern families, with settings as in ROW:max_period=3; "
                                  "Dropout is always "
                                                "measured (default PERIODIC ROW)", several=tuple(peers.PEERS))
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="H1xH2")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--quick", action="store_true", help="2048x2048 at 0.5 and 0.7 only")
    parser.add_argument("--floor", action="store_true", help="print what a step moves, and its floor")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rates = ["2048x2048"], [0.5, 0.7]
    cells = product(options.sizes, options.rates, [options.methods or ("PERIODIC", "ROW")])
    bench_cpu.run(parser, options, "network", cells, options.floor, batch=Perceptron.batch)


if __name__ == "__main__":
    main()
