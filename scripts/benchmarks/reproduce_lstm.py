#!/usr/bin/env python
"""Reproduce language models of Approximate Random Dropout and of Structured in Space, Randomized in Time.

    minidrop data ptb                                   # else the sources of Python's library are read
    python scripts/benchmarks/reproduce_lstm.py --quick  # minutes: small nets, a taste of everything
    python scripts/benchmarks/reproduce_lstm.py          # the whole, days; the same command resumes it

    table2  arXiv 1805.08939: 2 and 3 LSTM layers of 1000, rates 0.3, 0.5, 0.7, conventional dropout against
            families of patterns on the inputs of the layers: speed-up, word accuracy, perplexity, and loss
            against time (its Figure 6)
    cases   arXiv 2106.12089: conventional dropout; patterns shared by the batch and new at each step (NR
            STEP); the same on the recurrent state too (NR+RH STEP); one pattern for the whole sequence (NR+RH
            SEQUENCE); and NR, one pattern for the sequence on the inputs alone

Each in two stages: `speed`, a whole training step, all methods of a cell taking turns (bench_lstm.py); and
`training`. bench_models.py has the models, and drop_methods.py says how methods are written. Every finished
run is a line of OUT/results.jsonl, and no run that stands there is made again; one that was interrupted goes
on from its last snapshot. OUT/table.md and OUT/figure.png are made of what is there.
"""

from itertools import product
from pathlib import Path

import click
from bench_models import MODELS, batches_per_pass
from paper import LANGUAGE_MODELS
from reproduction import Cell, ListOf, Store, command, make_runs, split_methods
from reproduction_report import draw_losses, markdown, relative, report, rows_of, seconds, spread, times
from text_training import LENGTHS, default_text, train

import minidrop as md

PARTS, STAGES = ("table2", "cases"), ("speed", "training")
TABLE_METHODS = ("conventional", "NR ROW", "NR TILE", "NR")
CASE_METHODS = ("conventional", "NR", "NR STEP", "NR+RH STEP", "NR+RH SEQUENCE")
FULL = {"table2": ("caption_lm_2", "caption_lm_3"), "cases": ("ptb_small", "ptb_medium"),
        "rates": (0.3, 0.5, 0.7), "timing": {"blocks": 8, "block_seconds": 1.0},
        "out": Path("runs/reproduce_lstm")}
QUICK = {"table2": ("quick_lm",), "cases": ("quick_lm",), "rates": (0.5, 0.7),
         "timing": {"blocks": 2, "block_seconds": 0.2}, "out": Path("runs/reproduce_lstm_quick")}


# -- tables and figure ---------------------------------------------------------------------------------------
TITLES = {
    "table2": "Table 2 of arXiv 1805.08939: 110000 iterations of Caffe there; word accuracy 47.6 -> 46.8 % "
              "with ROW at p = 0.3, 46.2 -> 44.7 % at 0.7.",
    "cases": "The cases of arXiv 2106.12089, whose trainings ran 1.23 to 1.64 times faster at equal metrics."}


def paper(row):
    """Return the paper's speed-up, or None."""
    if row.method.partition(":")[0] in ("NR ROW", "NR TILE"):
        return LANGUAGE_MODELS.get((row.cell.net, row.cell.rate))
    return None


def text_of(rows):
    """Return the tables as Markdown, one for each part."""
    texts = []
    for part in dict.fromkeys(row.cell.part for row in rows):
        own = [row for row in rows if row.cell.part == part]
        names = ", ".join(dict.fromkeys(row.cell.training["text"] for row in own))
        texts += [f"{TITLES[part]}\nHere: text {names}. Speed-up: a whole training step, conventional "
                  "dropout over the method, in one run. Bound: the same for the operations of the "
                  "products.\nSeconds: of the training, without tests; perplexity and accuracy on the test "
                  "part at its end, compared with conventional dropout.",
                  markdown(own, "net", "p", "method", "speed-up", "bound",
                           ("paper", lambda row: times(paper(row))),
                           ("iterations", lambda row: str(row.cell.training["iterations"])),
                           ("seconds", seconds), ("perplexity", lambda row: spread(row, "perplexity")),
                           ("to conventional", relative), ("accuracy %", lambda row: spread(row, "accuracy")),
                           "difference")]
    return "\n\n".join(texts) + "\n"


def draw(rows, path):
    """Draw the test loss against seconds of training; see `draw_losses`."""
    return draw_losses(rows, path, "test loss a token")


# -- command line --------------------------------------------------------------------------------------------
def a_net(text):
    if text not in MODELS:
        raise ValueError(f"expected one of {', '.join(MODELS)}, got {text}")
    return text


def make_cells(parts, nets, rates, methods, text, iterations, seeds, asked):
    """Return the cells of what the command line asks for."""
    cells = []
    for part in parts:
        own_methods = methods or (TABLE_METHODS if part == "table2" else CASE_METHODS)
        own_methods = tuple(dict.fromkeys(("conventional", *own_methods)))
        for net in nets or asked[part]:
            # What --rates does not say: table2 has a row of rates, the cases have the files'.
            own_rates = rates or (asked["rates"] if part == "table2" else (MODELS[net].rate,))
            MODELS[net].check(own_methods, own_rates)
            training = {"stage": "training", "text": text or default_text(net),
                        "iterations": iterations or LENGTHS.get(net) or MODELS[net].file_solver.max_iter}
            cells += [Cell(net, rate, own_methods, training, asked["timing"], seeds, part)
                      for rate in own_rates]
    return cells


@command(train, STAGES, {
    "--rates": "Dropout rates [default: table2 0.3,0.5,0.7; cases the model files'].",
    "--methods": f"See drop_methods.py [default: table2 {','.join(TABLE_METHODS)}; "
                 f"cases {','.join(CASE_METHODS)}].",
    "--seeds": "Trainings of each setting, seeds 1, 2, ... [default: 1].",
    "--iterations": "Of each training; the learning rate falls at the same shares of them "
                    "[default: caption_lm 2000, ptb_medium 17251, others the solver file's].",
    "--out": f"Folder of the results [default: {FULL['out']}].",
    "--jobs": "Trainings at a time; they divide the cores: seconds compare only with the same number.",
    "--quick": "Small nets, 300 iterations, short timings."})
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True,
              help="Only this one; may be repeated [default: both].")
@click.option("--nets", type=ListOf("NET,...", a_net),
              help=f"Of {', '.join(MODELS)} [default: table2 {','.join(FULL['table2'])}; "
                   f"cases {','.join(FULL['cases'])}].")
@click.option("--text", metavar="TEXT",
              help="ptb, python-stdlib or a text file [default: ptb if it is there, tinyshakespeare for "
                   "char_lstm; else python-stdlib].")
def main(parts, stages, nets, rates, methods, text, iterations, seeds, out, jobs, quick, only_report):
    """Compare approximate with conventional dropout in LSTM language models: speed, perplexity, accuracy."""
    asked, stages = QUICK if quick else FULL, stages or STAGES
    out = out or asked["out"]
    try:
        cells = make_cells(parts or PARTS, nets, rates, methods and split_methods(methods, r"\s*,\s*"), text,
                           iterations, seeds or 1, asked)
    except md.ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--methods") from None
    if not only_report:
        run(cells, stages, out, jobs)
    store = Store(out / "results.jsonl")
    report(rows_of(cells, store), store, text_of, draw)


def run(cells, stages, out, jobs):
    """Make all runs of the stages that are missing."""
    if "training" in stages:
        for cell, phase in product(cells, ("TRAIN", "TEST")):      # a text that is not there says so now
            batches_per_pass(MODELS[cell.net].net("conventional", cell.rate, cell.training["text"]), phase)
    make_runs(__file__, cells, stages, out, jobs)


if __name__ == "__main__":
    main()
