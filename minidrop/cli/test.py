"""minidrop test: the mean of a net's outputs in phase TEST."""

import click

from minidrop.cli import values as shown
from minidrop.cli.options import chosen_device, device_options, net_options, stated, weights_option
from minidrop.config import apply_overrides, convert_dropout, load_net
from minidrop.net import Net
from minidrop.solver import load_weights, run_test


@click.command()
@click.option("--model", required=True, metavar="FILE", help="The network file.")
@weights_option
@click.option("--iterations", type=click.IntRange(1), default=50, show_default=True, help="Number of batches.")
@net_options
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print the values as JSON.")
def test(model, weights, iterations, overrides, dropout, level, stages, device, gpu, dtype, as_json):
    """Print the mean of each output of a trained net, in phase TEST."""
    if not weights:
        raise click.UsageError("give --weights, a snapshot of the net")
    config = load_net(model)
    if dropout:
        convert_dropout(config.message, dropout)
    apply_overrides(config, overrides)
    net = Net(config, "TEST", chosen_device(device, gpu), dtype, 0, *stated(config, level, stages))
    try:
        for path in weights:
            copied, _ = load_weights(net, path)
            click.echo(f"{path}: {len(copied)} of {len(net.parameters())} parameters copied", err=as_json)
        values = run_test(net, iterations)
        if len(net.losses) < 2:         # then it is one of the outputs, or 0
            values.pop("total_loss")
    finally:
        net.close()
    if as_json:
        click.echo(shown.as_json({"iterations": iterations, "values": values}))
    else:
        click.echo(f"{iterations} batches on {net.backend.name}: {shown.as_text(values)}")
