"""minidrop predict: what a trained net says of records."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import click
import numpy as np

from minidrop.apps.classify import read_labels
from minidrop.apps.generation import TextModel
from minidrop.apps.prediction import predictor_of, reading_of
from minidrop.apps.prediction_files import FORMATS, Arrays, Lines, format_of
from minidrop.apps.scoring import STREAMS as LINES
from minidrop.apps.scoring import WINDOW, LineScore, LineScorer
from minidrop.apps.text_nets import text_kind
from minidrop.cli.console import STREAMS, echo
from minidrop.cli.options import (
    Command,
    Count,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    numbers,
    refuse_idle,
    skip_option,
    trained_net,
    weights_option,
)
from minidrop.cli.progress import wants_bar
from minidrop.cli.sentences import lines_of_file, lines_of_stdin
from minidrop.cli.values import number
from minidrop.data.images import ENCODINGS
from minidrop.data.record_files import CHANNELS, TABLES, RecordFile, open_records
from minidrop.errors import ConfigError, DataError, visible_name
from minidrop.files import replacing


def _columns(_context, _option, value):
    """Return (first, behind the last) of columns such as 2-65, 2- or 5, which count from 1."""
    if value is None:
        return 0, None
    first, dash, last = value.partition("-")
    if len(value) > 20 or not (first.isdecimal() and int(first)
                               and (not last or last.isdecimal() and int(last) >= int(first))):
        raise click.BadParameter(f"expected columns as in 2-65, 2- or 5, the first is 1, got {value!r}")
    return int(first) - 1, (int(last) if last else None if dash else int(first))


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", required=True, metavar="FILE", help="The network file: a train_val or a deploy one.")
@weights_option
@skip_option
@ema_option
@click.option("-o", "--out", metavar="FILE", help="Where predictions go.  [default: stdout]")
@click.option("--format", "kind", type=click.Choice(FORMATS), help="CSV, JSON lines, or arrays. "
              " [default: by the ending of --out, else csv]")
@click.option("--output", "outputs", multiple=True, metavar="BLOB",
              help="Predict this blob. Repeatable.  [default: what losses judge, by probabilities]")
@click.option("--top-k", type=Count(),
              help="Write only the K greatest values of each record, with their classes.")
@click.option("--classes", metavar="FILE", help="The names of the classes, one a line.")
@click.option("--batch-size", type=Count(),
              help="Records at a time.  [default: as the network file says]")
@click.option("--shape", callback=numbers(), metavar="1,28,28",
              help="Shape of a record, where the file has its numbers in a row.")
@click.option("--columns", callback=_columns, metavar="2-65", help="The columns of a CSV to read, from 1 on.")
@click.option("--channels", type=click.Choice(CHANNELS),
              help="What the channels of images are.  [default: as the data layer reads them]")
@click.option("--size", callback=numbers(2), metavar="HEIGHT,WIDTH",
              help="Scale images to this size.  [default: as the data layer does]")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar.  [default: on a terminal]")
@net_options
@ignore_unknown_option
@device_options
def predict(paths: tuple[str, ...], weights: Any, skip_mismatched: bool, ema: bool, out: str | None,
            kind: str | None, outputs: tuple[str, ...], top_k: int | None, classes: str | None,
            batch_size: int | None, shape: Any, columns: Any, channels: str | None, size: Any,
            progress: bool | None, **options: Any) -> None:
    """Predict the records of files with a trained net.

    INPUT is a .h5, .npz, .npy, .csv or .tsv file, a .txt list of HDF5 files, an image or a folder of images.
    Of a language model, whose TextData layer reads text, it is a text, or - for stdin: of each line its
    tokens, those read as <unk>, the natural logarithm of its probability, and its perplexity are written.

    The net is that of phase TEST without what reads labels: records are given to it in place of its data, and
    go through the data layer's transform_param (scale, mean, the crop in the middle). The scores that a
    SoftmaxWithLoss reads are written as probabilities.
    """
    kind = format_of(out, kind)
    if kind == "npz" and out is None:
        raise click.UsageError("--format npz: stdout takes csv or jsonl; give --out FILE.npz")
    if kind == "npz" and classes:
        raise click.UsageError("--classes: an .npz has the numbers of classes; names are for csv and jsonl")
    names = read_labels(classes) if classes else []
    config, settings = trained_net(weights=weights, **options)
    if text_kind(config, settings["level"], settings["stages"]) == "TextData":
        for option, value in {"--output": outputs, "--top-k": top_k, "--classes": classes, "--shape": shape,
                              "--columns": columns != (0, None), "--channels": channels, "--size": size
                              }.items():
            if value:
                raise click.UsageError(f"{option}: the net reads text, and predicts how likely each line is; "
                                       f"leave it out")
        model = TextModel(config, weights, skip_mismatched=skip_mismatched, ema=ema, **settings)
        _score(paths, model, out, kind, batch_size or LINES, progress)
        return
    predictor = predictor_of(config, weights, outputs, skip_mismatched=skip_mismatched, ema=ema,
                             **settings)
    inputs = predictor.deployed.inputs
    images = [path for path in paths if _is_image(path)]
    _check_files(paths, images)
    given = next(iter(inputs.values()))
    files = open_records(paths, list(inputs), reading_of(given, shape, columns, channels, size, bool(images)))
    with ExitStack() as stack:
        stack.callback(predictor.close)
        sink = stack.enter_context(_sink(out, kind, top_k or 0, names))
        count = sum(file.count or 0 for file in files) if all(file.count for file in files) else None
        bar = stack.enter_context(_bar(count, progress, out))
        records: list[list[str]] = []
        batches = _batches(files, batch_size or predictor.deployed.batch_size, records)
        total = odd = 0
        for found in predictor.batches(batches):
            own = records.pop(0)
            sink.add(own, found)
            total += len(own)
            odd += len(own) - int(np.logical_and.reduce(
                [np.isfinite(array).reshape(len(own), -1).all(axis=1) for array in found.values()]).sum())
            bar(len(own))
        sink.close()
    if odd:
        echo(f"warning: {odd} of {total} predictions hold a NaN or infinity; was the training healthy, and "
             f"are the records whole?", err=True)
    if out is not None:
        echo(f"{visible_name(out)}: {total} predictions of {', '.join(predictor.deployed.outputs)}")


def _check_files(paths, images):
    """Raise UsageError for an option that would do nothing for any of the files."""
    if not any(path.lower().endswith(TABLES) for path in paths):
        refuse_idle(["columns"], f"is for {' and '.join(TABLES)} files, and there is none; leave it out")
    if not images:
        refuse_idle(["channels", "size"], "is for images, and there is none; leave it out")
    if len(images) == len(paths):
        refuse_idle(["shape"], "is for numbers in a row; images have their own, and --size scales them")


def _score(paths, model, out, kind, streams, progress):
    """Write the LineScores of the lines of texts; a window of lines is in memory at a time."""
    scorer = None
    try:
        scorer = LineScorer(model, streams)
        waiting: deque[str] = deque()
        lines, tokens, total = 0, 0, 0.0
        window = 1 if "-" in paths and sys.stdin.isatty() else WINDOW * streams
        with _sink(out, kind, 0, ()) as sink, _bar(None, progress, out, "line") as bar:
            scores = scorer.scores(_lines(paths, waiting), window)
            while found := list(islice(scores, window)):
                sink.add([waiting.popleft() for _ in found], {
                    "tokens": np.array([score.tokens for score in found]),
                    "unknown": np.array([score.unknown for score in found]),
                    "log_probability": np.array([score.log_probability for score in found]),
                    "perplexity": np.array([score.perplexity for score in found])})
                lines, tokens = lines + len(found), tokens + sum(score.tokens for score in found)
                total += sum(score.log_probability for score in found)
                bar(len(found))
            if not lines:
                raise DataError(f"{', '.join(paths)}: expected at least one line of text, got none")
            sink.close()
        if out is not None:
            of_all = LineScore(tokens, 0, total).perplexity
            echo(f"{visible_name(out)}: {lines} lines of {tokens} tokens, perplexity {number(of_all)}")
    finally:
        if scorer is not None:
            scorer.close()
        model.close()


def _lines(paths, waiting):
    """Yield the lines of texts, and note in `waiting` what they are called."""
    for path in paths:
        lines = (line for _, line in lines_of_stdin()) if path == "-" else lines_of_file(path)
        for place, line in enumerate(lines, 1):
            waiting.append(visible_name(str(place) if len(paths) == 1 else f"{path}:{place}"))
            yield line


def _batches(files: list[RecordFile], size: int, records: list) -> Iterator[dict[str, Any]]:
    """Yield the batches of files, and note in `records` what their records are called."""
    for file in files:
        for names, batch in file.batches(size):
            prefix = "" if len(files) == 1 or not names[0].isdecimal() else f"{file.name}:"
            records.append([visible_name(f"{prefix}{name}") for name in names])
            yield batch


@contextmanager
def _sink(out, kind, top_k, classes):
    """Give what predictions are written to; a file takes its name at the end."""
    if out is None:
        yield Lines(_Stdout(), kind, top_k, classes)
        return
    try:
        with replacing(out) as raw:
            # A raw file may take a part of what it is given where the disk is nearly full.
            file = io.BufferedWriter(raw)
            yield (Arrays(file, os.path.dirname(out) or ".", top_k) if kind == "npz"
                   else Lines(file, kind, top_k, classes))
            file.flush()
    except OSError as error:
        if error.filename != str(out):
            raise
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}; give another "
                          f"name") from None


class _Stdout:
    def write(self, content: bytes) -> None:
        echo(content.decode(), nl=False)
        sys.stdout.flush()


@contextmanager
def _bar(count, progress, out, unit="record"):
    """Give a function that is told how many records are done."""
    if not wants_bar(progress if progress is not None or out or not sys.stdout.isatty() else False):
        yield lambda done: None
        return
    from tqdm import tqdm
    with tqdm(total=count, unit=unit, file=STREAMS[True], dynamic_ncols=True) as bar:
        yield bar.update


def _is_image(path):
    return os.path.isdir(path) or os.path.splitext(path)[1].lower().lstrip(".") in ENCODINGS
