"""Time the whole training step of nets of LSTMs: ordinary dropout, compacted dropout, and peers.

    python scripts/benchmarks/bench_lstm.py --peer torch --json lstm.json
    python scripts/benchmarks/bench_lstm.py --peer torch handmade compile --models ptb_medium
    python scripts/benchmarks/bench_lstm.py --models ptb_medium --methods NR "RH STEP" "RH STEP dense"
    python scripts/benchmarks/bench_lstm.py --models ptb_medium --methods "NR 5" "NR 7" "NR+RH 7" "NR+RH 12"
    python scripts/benchmarks/bench_lstm.py --peer torch --models nmt_multi30k ner_conll2003
    python scripts/benchmarks/bench_lstm.py --quick

One training step of a net of models/: forward, backward, gradients clipped to a norm, the update rule of its
solver file, float32. Language models get random tokens, their state carried from batch to batch; translation
and tagging models read their own sentences, all methods the same. drop_methods.py says how methods are
written. Every method runs in a process of its own, and the processes take turns (in_turn.py). Times are
medians; where a drawn pattern keeps more or less (ROW), of a robust line through time against kept share, at
the mean share. "bound" is what the step would gain if it were nothing but its products: their operations, all
over expected ones. "/torch" and the like: how many times as long that peer takes (see peers.py).
"""

import bench_cpu
from bench_models import MODELS, SENTENCE_MODELS, find_model

DEFAULT_MODELS = ("ptb_small", "ptb_medium", "caption_lm_2", "caption_lm_3")
METHODS = ("NR", "NR ROW", "NR STEP", "NR STEP always", "RH CONVENTIONAL STEP", "RH STEP dense", "RH STEP",
           "RH STEP always", "NR+RH STEP", "NR+RH SEQUENCE")
CAPTION_METHODS = ("NR", "NR ROW", "NR TILE", "NR+RH SEQUENCE")
SENTENCE_METHODS = ("NR", "NR PERIODIC:groups=1", "NR+RH 5", "NR+RH SEQUENCE")
# others: the files'
RATES = {"ptb_small": (0.5,), "caption_lm_2": (0.3, 0.5, 0.7), "caption_lm_3": (0.3, 0.5, 0.7)}


def methods_of(name):
    """Return the methods that a model is measured with unless some are given."""
    if name in SENTENCE_MODELS:
        return SENTENCE_METHODS
    return CAPTION_METHODS if name.startswith("caption_lm") else METHODS


def main():
    known = (*MODELS, *SENTENCE_MODELS)
    parser = bench_cpu.options_of(__doc__, 1, f"as in drop_methods.py; Dropout is always measured (default "
                                              f"{', '.join(METHODS)}; "
                                              f"caption_lm {', '.join(CAPTION_METHODS)}; "
                                              f"of sentences {', '.join(SENTENCE_METHODS)})",
                                  several=("torch", "handmade", "compile"))
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, choices=known, metavar="MODEL",
                        help=f"of {', '.join(known)} (default {' '.join(DEFAULT_MODELS)})")
    parser.add_argument("--rates", nargs="+", type=float,
                        help="default the model files'; ptb_small 0.5, caption_lm 0.3 0.5 0.7")
    parser.add_argument("--quick", action="store_true", help="ptb_small only, short turns")
    options = parser.parse_args()
    if options.quick:
        options.models, options.blocks, options.block_seconds = ["ptb_small"], 3, 0.5
    cells = [(name, rate, options.methods or methods_of(name)) for name in options.models
             for rate in options.rates or RATES.get(name) or (find_model(name).rate,)]
    bench_cpu.run(parser, options, "model", cells)


if __name__ == "__main__":
    main()
