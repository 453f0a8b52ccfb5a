"""minidrop test: the mean of a net's outputs in phase TEST, with --mc also their uncertainty."""

from contextlib import nullcontext
from typing import Any

import click

from minidrop.apps.uncertainty import evaluate_monte_carlo
from minidrop.cli import values as shown
from minidrop.cli.console import echo, informed
from minidrop.cli.options import (
    Command,
    Count,
    device_options,
    ema_option,
    ignore_unknown_option,
    net_options,
    seed_type,
    skip_option,
    trained_net,
    weights_option,
)
from minidrop.net import Net
from minidrop.solver import run_test


class BatchCount(Count):
    """A number of batches, at least 1, or `all`: None."""

    def convert(self, value: Any, param: Any, context: Any) -> Any:
        return None if value == "all" else super().convert(value, param, context)


_MOST_PASSES = 10**6


@click.command(cls=Command)
@click.option("--model", required=True, metavar="FILE", help="The network file.")
@weights_option
@skip_option
@ema_option
@click.option("--iterations", type=BatchCount(), default="all", show_default=True,
              help="Number of batches; all: every record once.")
@click.option("--mc", "passes", type=Count(2, _MOST_PASSES),
              help="Monte-Carlo dropout: run each batch N times with drops on, and print mean, spread and "
              "calibration.")
@click.option("--seed", type=seed_type, default=0, show_default=True,
              help="Seed of the random numbers: with --mc, of the drops of every pass.")
@net_options
@ignore_unknown_option
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print the values as JSON.")
def test(weights: Any, skip_mismatched: bool, ema: bool, iterations: int | None, passes: int, seed: int,
         as_json: Any, **options: Any) -> None:
    """Print the mean of each output of a trained net, in phase TEST."""
    config, settings = trained_net(weights=weights, **options)
    net = Net(config, "TEST", seed=seed, **settings)
    try:
        report = net.load_weights(weights, skip_mismatched, ema=ema)
        echo(str(report) if report.left else report.summary, err=as_json)
        with net.one_pass() if iterations is None else nullcontext(iterations) as batches:
            if passes:
                evaluation = evaluate_monte_carlo(net, batches, passes)
            else:
                with nullcontext() if as_json else informed():      # of debug_info
                    values = run_test(net, batches)
                if len(net.losses) < 2:         # then it is one of the outputs, or 0
                    values.pop("total_loss")
    finally:
        net.close()
    if passes:
        echo(shown.as_json(evaluation.as_dict()) if as_json else _table(evaluation, net.backend.name))
    elif as_json:
        echo(shown.as_json({"iterations": batches, "values": values}))
    else:
        echo(f"{batches} batches on {net.backend.name}: {shown.as_text(values)}")


def _table(evaluation, device):
    """Return the text of an Evaluation."""
    lines = [f"{evaluation.iterations} batches on {device}, {evaluation.passes} passes with drops:"]
    lines += [f"  {name} = {_spread(spread)}" for name, spread in evaluation.outputs.items()]
    for name, quality in evaluation.predictions.items():
        lines += [f"{f'{quality.places} predictions, {name}':<34}{'without drops':>14}{'mean of passes':>16}"]
        rows = [(title, [getattr(side, field) for side in quality.calibration.values()]) for title, field in (
            ("accuracy", "accuracy"), ("negative log-likelihood", "negative_log_likelihood"),
            ("expected calibration error", "calibration_error")) if quality.calibration]
        rows.append(("entropy, mean", list(quality.entropy.values())))
        lines += [f"  {title:<32}{shown.number(plain):>14}{shown.number(mean):>16}"
                  for title, (plain, mean) in rows]
        lines.append(f"  {'mutual information, mean':<46}{shown.number(quality.mutual_information):>16}")
    lines.append(f"forward passes: {evaluation.seconds['passes']:.3f} s for the "
                 f"{evaluation.passes * evaluation.iterations} with drops, "
                 f"{evaluation.seconds['deterministic']:.3f} s for the {evaluation.iterations} without")
    return "\n".join(lines)


def _spread(spread):
    if spread.mean.size == 1:
        return (f"{shown.number(float(spread.mean.reshape(())))} +- "
                f"{shown.number(float(spread.std.reshape(())))}")
    shape = "x".join(map(str, spread.mean.shape))
    return f"{shape} values, +- {shown.number(float((spread.std**2).mean()**0.5))} (root mean square)"
