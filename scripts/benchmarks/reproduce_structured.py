#!/usr/bin/env python
"""Reproduce the three tasks of Structured in Space, Randomized in Time (Sarma et al., arXiv 2106.12089).

    python scripts/benchmarks/reproduce_structured.py --quick  # minutes: small nets on made data
    python scripts/download_data.py ptb
    python scripts/benchmarks/reproduce_structured.py          # the whole, days; the same command resumes it

Tasks: a language model on words of the Penn Treebank, translation of Multi30k, and names in CoNLL-2003 and
WNUT-17, models of models/ whose README says where the data are from. A task whose data are not there is left
out; of the language model other texts may take the place. Methods (drop_methods.py): conventional dropout; NR
on the inputs of layers, NR+RH on the recurrent state as well; each with a pattern for each step (STEP), one
for five steps, or one for the whole sequence.

Two stages: `speed`, whole training steps, all methods of a task taking turns with nothing beside them; and
`training`, which may run elsewhere and several at a time (--stage, --jobs). A step of translation and tagging
reads its sentences. Every finished run is a line of OUT/results.jsonl, and none that stands there is made
again; a training that was interrupted goes on from its last snapshot. OUT/table.md and OUT/figure.png are
made of what is there.
"""

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import text_training
from bench_models import MODELS, batches_per_pass, find_model
from paper import CONVENTIONAL, STRUCTURED
from reproduction import Cell, ListOf, Store, command, make_runs, split_methods
from reproduction_report import (
    draw_losses,
    markdown,
    relative,
    report,
    rows_of,
    seconds,
    signed,
    spread,
)
from text_training import LENGTHS, default_text

import minidrop as md
from minidrop.apps.translation import Bleu, Translator
from minidrop.config import NetConfig
from minidrop.data import find_source, read_lines
from minidrop.data.made_tags import MADE
from minidrop.data.sentences import is_made

STAGES = ("speed", "training")
TASKS = {"ptb_small": "language model", "ptb_medium": "language model", "quick_lm": "language model",
         "nmt_multi30k": "translation", "nmt_tiny": "translation", "ner_conll2003": "tagging",
         "ner_wnut17": "tagging", "ner_tiny": "tagging"}
# The sentences that BLEU is taken of, and their translations.
PAIRS = {"nmt_multi30k": tuple(f"multi30k/test_2016_flickr.lc.norm.tok.{language}.xz"
                               for language in ("de", "en")),
         "nmt_tiny": ("made-dates/test.words", "made-dates/test.digits")}
METHODS = ("conventional", "NR STEP", "NR 5", "NR", "NR+RH STEP", "NR+RH 5", "NR+RH SEQUENCE")
FULL = {"tasks": ("ptb_medium", "nmt_multi30k", "ner_conll2003", "ner_wnut17"),
        "timing": {"blocks": 8, "block_seconds": 1.0, "parts": 3}, "out": Path("runs/reproduce_structured")}
QUICK = {"tasks": ("quick_lm", "nmt_tiny", "ner_tiny"),
         "timing": {"blocks": 2, "block_seconds": 0.2, "parts": 2},
         "out": Path("runs/reproduce_structured_quick")}


# -- one training --------------------------------------------------------------------------------------------
def train(key, folder=None):
    """Make one training, as text_training.py does; of a translation model also its BLEU."""
    return text_training.train(key, folder, (lambda solver: bleu(solver, *PAIRS[key["net"]]))
                               if key["net"] in PAIRS else None)


def bleu(solver, source, target):
    """Return {"bleu": of what the trained net writes, the likeliest word each time}; {} without sacrebleu."""
    try:
        metric = Bleu()
    except md.ConfigError:
        return {}
    sentences, references = sentences_of(source), sentences_of(target)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trained.h5"
        solver.snapshot(path)
        translator = Translator(NetConfig(solver.settings.net_param), path, device="cpu")
    try:
        return {"bleu": metric.of(list(translator.translate(sentences)), references).score}
    finally:
        translator.close()


def sentences_of(name):
    """Return the sentences of a text file or of a made text, of words with blanks in between."""
    lines = read_lines(name if is_made(name) else find_source(name, kind="text"))
    words = iter(lines.numbers)
    return [" ".join(lines.words[number] for number in islice(words, int(length)))
            for length in lines.lengths]


# -- table and figure ----------------------------------------------------------------------------------------
def measure_of(row):
    """Return the name of what tells how good the nets of a row's task are."""
    task = TASKS[row.cell.net]
    if task == "translation":
        return "bleu" if row.runs and all("bleu" in run for run in row.runs) else "accuracy"
    return "f1" if task == "tagging" else "perplexity"


def to_conventional(row):
    """Return how the mean differs from that of conventional dropout: perplexity in %, others in points."""
    name = measure_of(row)
    if name == "perplexity":
        return relative(row)
    both = row.to_base(name) if row.base is None or measure_of(row.base) == name else None
    return "-" if both is None else signed(both[0] - both[1])


def published(row):
    """Return what is published of a row's net or method."""
    if row.method != "conventional":
        return f"{STRUCTURED[0]:g} to {STRUCTURED[1]:g}x"
    return f"{CONVENTIONAL[row.cell.net][0]:g}" if row.cell.net in CONVENTIONAL else "-"


def _ms(name):
    return lambda row: f"{row.speed[name]:.2f}" if name in row.speed else "-"


def _epoch(row):
    if "ms" not in row.speed:
        return "-"
    return f"{row.speed['ms'] / 1e3 * row.cell.training['batches']:.1f}"


NAMES = {"bleu": "BLEU", "f1": "F1 %", "accuracy": "accuracy %", "perplexity": "perplexity"}


def text_of(rows):
    """Return the table as Markdown."""
    values = f"""
Times are of this machine. Speed-up: a whole training step, conventional dropout over the method, in one run.
Step: its milliseconds; forward, backward (with the gradients of weights) and update are its shares in steps
that were taken apart. Bound: what the operations of the products allow. Epoch: seconds, from the step.
Seconds: of the training, without tests. Value: of the test part at its end, mean and deviation of the seeds.
Published: trainings of three tasks {STRUCTURED[0]:g} to {STRUCTURED[1]:g} times faster at equal metrics
(arXiv 2106.12089, which has other nets and a GPU); of ordinary dropout: """
    values += "; ".join(f"{net} {value:g} ({who})" for net, (value, who) in CONVENTIONAL.items())
    return f"{' '.join(values.split())}.\n\n" + markdown(
        rows, ("task", lambda row: TASKS[row.cell.net]), "net", "p", "method", "speed-up", "bound",
        ("step ms", _ms("ms")), ("forward", _ms("forward_ms")), ("backward", _ms("backward_ms")),
        ("update", _ms("update_ms")), ("epoch s", _epoch),
        ("iterations", lambda row: str(row.cell.training["iterations"])),
        ("seconds", lambda row: seconds(row) if row.runs else "-"),
        ("measure", lambda row: NAMES[measure_of(row)]), ("value", lambda row: spread(row, measure_of(row))),
        ("to conventional", to_conventional), ("published", published)) + "\n"


def draw(rows, path):
    """Draw the test loss against seconds of training, a panel for each task; see `draw_losses`."""
    return draw_losses(rows, path, "test loss")


# -- command line --------------------------------------------------------------------------------------------
def a_task(text):
    if text not in TASKS:
        raise ValueError(f"expected one of {', '.join(TASKS)}, got {text}")
    return text


def find_sentences(model):
    """Raise DataError where sentences that a translation or tagging model reads are missing."""
    for layer in model.layers("ParallelTextData", "TaggedTextData"):
        settings = (layer.parallel_text_data_param if layer.type == "ParallelTextData" else
                    layer.tagged_text_data_param)
        for name in (settings.source, getattr(settings, "target", "")):
            if name and not is_made(name) and name not in MADE:
                find_source(name, kind="text")


def make_cells(tasks, rates, methods, text, iterations, seeds, timing):
    """Return the cells of what the command line asks for. DataError where the data of a task are missing."""
    cells = []
    for task in tasks:
        model, training = find_model(task), {"stage": "training"}
        if task in MODELS:
            training["text"] = text or default_text(task)
        else:
            find_sentences(model)
        own_rates = rates or (model.rate,)
        try:
            model.check(methods, own_rates)
        except md.ConfigError as error:
            raise click.BadParameter(str(error), param_hint="--methods") from None
        net = model.net("conventional", own_rates[0], training.get("text"))
        batches_per_pass(net, "TEST")           # what is wrong with them is said now
        training |= {"batches": batches_per_pass(net, "TRAIN"),
                     "iterations": iterations or LENGTHS.get(task) or model.file_solver.max_iter}
        cells += [Cell(task, rate, methods, training, timing, seeds, TASKS[task]) for rate in own_rates]
    return cells


@command(train, STAGES, {
    "--rates": "Dropout rates [default: the model files'].",
    "--methods": f"See drop_methods.py [default: {','.join(METHODS)}].",
    "--seeds": "Trainings of each setting, seeds 1, 2, ... [default: 1].",
    "--iterations": "Of each training; the learning rate falls at the same shares of them "
                    "[default: ptb_medium 17251, others the solver file's].",
    "--out": f"Folder of the results [default: {FULL['out']}].",
    "--jobs": "Trainings at a time; they divide the cores: seconds compare only with the same number.",
    "--quick": "Small nets on made sentences, short timings."})
@click.option("--tasks", type=ListOf("TASK,...", a_task),
              help=f"Of {', '.join(TASKS)} [default: {','.join(FULL['tasks'])}, where the data are there].")
@click.option("--text", metavar="TEXT",
              help="Of language models: ptb, python-stdlib or a text file [default: ptb if it is there, else "
                   "python-stdlib].")
def main(tasks, text, rates, methods, stages, iterations, seeds, out, jobs, quick, only_report):
    """Compare structured with conventional dropout in language models, translation and tagging."""
    asked, stages = QUICK if quick else FULL, stages or STAGES
    out, cells = out or asked["out"], []
    methods = split_methods(methods, r"\s*,\s*") if methods else METHODS
    methods = tuple(dict.fromkeys(("conventional", *methods)))
    for task in tasks or asked["tasks"]:
        try:
            cells += make_cells((task,), rates, methods, text, iterations, seeds or 1, asked["timing"])
        except md.DataError as error:
            if tasks:
                raise
            click.echo(f"{task} is left out: {error}", err=True)
    if not cells:
        raise md.DataError("the data of no task are there; README.md of each of models/ says where to get "
                           "them, and --quick needs none")
    if not only_report:
        make_runs(__file__, cells, stages, out, jobs)
    store = Store(out / "results.jsonl")
    report(rows_of(cells, store), store, text_of, draw)


if __name__ == "__main__":
    main()
