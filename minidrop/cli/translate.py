"""minidrop translate: translates sentences with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from minidrop.apps.translation import MOST_BEAMS, Bleu, Translator
from minidrop.cli.console import STREAMS, echo
from minidrop.cli.generate import write_text
from minidrop.cli.options import (
    Command,
    chosen_device,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    skip_option,
    stated,
    weights_option,
)
from minidrop.cli.progress import wants_bar
from minidrop.config import load_net
from minidrop.data.text import whole_lines
from minidrop.data.vocabulary import decoded
from minidrop.errors import DataError
from minidrop.net.conversion import prepare_nets

LONGEST_LINE = 1 << 20      # bytes


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE",
              help="The network file; it has a ParallelTextData and an AttentionDecoder layer.")
@weights_option
@skip_option
@ema_option
@click.option("--input", "source", metavar="FILE",
              help="The sentences, one a line: a text, plain or packed with gzip or xz.  [default: stdin]")
@click.option("--beam", type=click.IntRange(1, MOST_BEAMS), default=1, show_default=True,
              help="How many unfinished translations of a sentence go on; 1 takes the likeliest word each "
                   "time.")
@click.option("--length-penalty", type=click.FloatRange(0), default=1.0, show_default=True,
              help="With a beam, log p is divided by ((5 + length) / 6) to this power: more favours longer "
                   "ones.")
@click.option("--max-length", type=click.IntRange(0), default=0, metavar="WORDS",
              help="Most words of a translation.  [default: as in training]")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True,
              help="Sentences that are translated together.")
@click.option("--keep-unknown", is_flag=True,
              help="Leave <unk> in translations; otherwise the word of the source stands there that the "
                   "decoder "
              "looks at most.")
@click.option("--bleu", "reference", metavar="FILE",
              help="Compare with these translations, one a line, and say the BLEU score on stderr.")
@click.option("--bleu-tokenize", type=click.Choice(Bleu.TOKENIZERS), default="none", show_default=True,
              help="How sacrebleu takes sentences apart; none: at blanks.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar.  [default: on a terminal]")
@net_options
@ignore_unknown_option
@device_options
def translate(model: str, weights: Any, skip_mismatched: bool, ema: bool, source: str | None, beam: int,
              length_penalty: float, max_length: int, batch_size: int, keep_unknown: bool,
              reference: str | None, bleu_tokenize: str, progress: bool | None, overrides: tuple,
              dropout: str | None, level: int, stages: list, ignore_unknown: bool, device: str,
              gpu: str | None, dtype: str, precision: str) -> None:
    """Translate sentences, one a line, from stdin to stdout."""
    if not weights:
        raise click.UsageError("give --weights, a snapshot of the net")
    config = load_net(model, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    # Before the work: that it is there, and so are they.
    references = list(_of_file(reference)) if reference else []
    metric = Bleu(bleu_tokenize) if reference else None
    translator = Translator(config, weights, beam, length_penalty, batch_size, max_length, not keep_unknown,
                            chosen_device(device, gpu), dtype, *stated(config, level, stages),
                            precision=precision or "float32", skip_mismatched=skip_mismatched, ema=ema)
    made = []
    try:
        lines = _of_file(source) if source else _of_stdin()
        for text in _counted(translator.translate(lines), progress):
            if metric is not None:
                made.append(text)
            write_text(f"{text}\n")
    finally:
        translator.close()
    if metric is not None:
        echo(str(metric.of(made, references)), err=True)


def _counted(texts, progress):
    """Yield texts, counted by a progress bar on stderr unless they themselves stand on the terminal."""
    if not wants_bar(progress if progress is not None or not sys.stdout.isatty() else False):
        yield from texts
        return
    from tqdm import tqdm
    with tqdm(unit="sentence", file=STREAMS[True], dynamic_ncols=True) as bar:
        for text in texts:
            bar.update(1)
            yield text


def _of_file(path):
    """Yield the lines of a text, plain or packed."""
    for text in whole_lines(path):
        if text:
            yield from (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))


def _of_stdin() -> Iterator[str]:
    """Yield the lines of stdin, as they come. Raises DataError with the line for one that is no text."""
    number = 0
    while line := sys.stdin.buffer.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"stdin:{number + 1}: expected a sentence of at most {LONGEST_LINE >> 20} MiB, "
                            f"got a longer line; write a sentence a line")
        yield decoded(line, "stdin", number).rstrip("\r\n")
        number += 1
