"""minidrop translate: translates sentences with a trained model."""

from __future__ import annotations

from typing import Any

import click

from minidrop.apps.translation import MOST_BEAMS, Bleu, Translator
from minidrop.cli.console import echo
from minidrop.cli.generate import write_text
from minidrop.cli.options import (
    Command,
    Count,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    refuse_idle,
    skip_option,
    trained_net,
    weights_option,
)
from minidrop.cli.sentences import counted, lines_of_file, lines_of_stdin, progress_option


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
@click.option("--max-length", type=Count(0), default=0, metavar="WORDS",
              help="Most words of a translation.  [default: as in training]")
@click.option("--batch-size", type=Count(), default=32, show_default=True,
              help="Sentences that are translated together.")
@click.option("--keep-unknown", is_flag=True,
              help="Leave <unk> in translations; otherwise the word of the source stands there that the "
                   "decoder looks at most.")
@click.option("--bleu", "reference", metavar="FILE",
              help="Compare with these translations, one a line, and say the BLEU score on stderr.")
@click.option("--bleu-tokenize", type=click.Choice(Bleu.TOKENIZERS), default="none", show_default=True,
              help="How sacrebleu takes sentences apart; none: at blanks.")
@progress_option
@net_options
@ignore_unknown_option
@device_options
def translate(weights: Any, skip_mismatched: bool, ema: bool, source: str | None, beam: int,
              length_penalty: float, max_length: int, batch_size: int, keep_unknown: bool,
              reference: str | None, bleu_tokenize: str, progress: bool | None, **options: Any) -> None:
    """Translate sentences, one a line, from stdin to stdout."""
    if not reference:
        refuse_idle(["bleu_tokenize"], "says how --bleu takes sentences apart; give both")
    config, settings = trained_net(weights=weights, **options)
    # Before the work: that it is there, and so are they.
    references = list(lines_of_file(reference)) if reference else []
    metric = Bleu(bleu_tokenize) if reference else None
    translator = Translator(config, weights, beam, length_penalty, batch_size, max_length, not keep_unknown,
                            skip_mismatched=skip_mismatched, ema=ema, **settings)
    made = []
    try:
        lines = lines_of_file(source) if source else (line for _, line in lines_of_stdin())
        for text in counted(translator.translate(lines), progress):
            if metric is not None:
                made.append(text)
            write_text(f"{text}\n")
    finally:
        translator.close()
    if metric is not None:
        echo(str(metric.of(made, references)), err=True)
