"""minidrop time: measures a training step by layer, and against the same net with another dropout."""

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import click

from minidrop.apps.timing import measure_steps, profile_steps
from minidrop.autograd import no_grad
from minidrop.cli.console import echo
from minidrop.cli.options import (
    Command,
    Count,
    chosen_device,
    device_options,
    ignore_unknown_option,
    net_options,
    stated,
)
from minidrop.cli.values import print_json
from minidrop.config import SolverConfig, SolverParameter, load_net, load_solver
from minidrop.config.check import is_character
from minidrop.data.hdf5_output import discarding
from minidrop.errors import ConfigError, visible_name
from minidrop.net import Net
from minidrop.net.conversion import dropout_kind, prepare_nets
from minidrop.solver import Solver
from minidrop.solver.lr_policy import SHAPING

# Run only the step itself, with a learning rate that is defined for any number of steps.
_STEPS_ALONE = ["test_interval=0", "display=0", "snapshot=0", "lr_policy=fixed"]
_PROFILED = 20
_MOST_STEPS = 10**6
_WARM_UP = {False: 5, True: 300}      # steps; True: if captured, enough for every form of the patterns


@click.command(cls=Command)
@click.option("--solver", metavar="FILE", help="The solver file.")
@click.option("--model", metavar="FILE",
              help="A network file instead, trained by SGD with momentum and weight decay.")
@click.option("--compare", metavar="KIND", help="Also measure the net with this dropout: "
              "conventional, approx, approx:FAMILY.")
@click.option("--iterations", type=Count(most=_MOST_STEPS), default=50, show_default=True,
              help="Steps to measure of each net.")
@click.option("--phase", type=click.Choice(["TRAIN", "TEST"], case_sensitive=False), default="TRAIN",
              show_default=True, help="TRAIN: whole training steps. TEST: forward passes (with --model).")
@net_options
@ignore_unknown_option
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers, in seconds, as JSON.")
def time(solver: Any, model: Any, compare: Any, iterations: int, phase: Any, overrides: tuple,
         dropout: str | None, level: int, stages: list, ignore_unknown: bool, device: str, gpu: str | None,
         dtype: Any, precision: str, as_json: Any) -> None:
    """Measure a training step: how long, where, and against another dropout.

    Both nets run in turn in the same process, in short blocks, every step with another drawn pattern.
    """
    if (solver is None) == (model is None):
        raise click.UsageError("give either --solver or --model")
    if phase == "TEST" and model is None:
        raise click.UsageError("--phase TEST measures a network file: give --model")
    kinds = {dropout or "as written": dropout}
    if compare:
        if compare in kinds:
            raise click.UsageError(f"--compare {compare}: that is what --dropout asks for already")
        kinds[compare] = dropout_kind(compare, "--compare")
    device = chosen_device(device, gpu)
    runs = {}
    try:
        for name, kind in kinds.items():
            make = _forward if phase == "TEST" else _training
            runs[name] = make(solver, model, ignore_unknown, overrides, kind, level, stages, device, dtype,
                              precision)
        nets = {name: net for name, (net, *_) in runs.items()}
        backend = next(iter(nets.values())).backend
        with discarding():
            timings = measure_steps({name: step for name, (_, step, *_) in runs.items()}, iterations,
                                    _WARM_UP[backend.captures], synchronize=backend.synchronize)
            profiles = {}
            for name, (net, step, rule, uncaptured) in runs.items():
                with uncaptured():
                    profiles[name] = profile_steps(net, step, min(iterations, _PROFILED), rule)
    finally:
        for net, *_ in runs.values():
            net.close()
    result = {"device": backend.describe(), "dtype": dtype, "precision": backend.precision, "phase": phase,
              "iterations": iterations,
              "steps": {name: asdict(timing) for name, timing in timings.items()},
              "where": {name: profile.as_dict() for name, profile in profiles.items()}}
    if compare:
        first, second = timings.values()
        result["speed_up"] = {"mean": second.mean / first.mean, "median": second.median / first.median}
    if as_json:
        print_json(result)
    else:
        echo(_table(result))


def _training(solver, model, ignore_unknown, overrides, dropout, level, stages, device, dtype, precision):
    """Return (net, a whole training step, update rule, a context in which steps run layer by layer)."""
    if solver:
        source = load_solver(solver, ignore_unknown)
        for field in SHAPING:
            source.message.ClearField(field)
    else:
        load_net(model, ignore_unknown)         # its mistakes, under its own name
        if not all(map(is_character, model)):
            raise ConfigError(f"{model}: the name of a network file should be text; rename it")
        settings = SolverParameter(net=model, base_lr=0.001, lr_policy="fixed", momentum=0.9, max_iter=1,
                                   weight_decay=0.0005, random_seed=0)
        source = SolverConfig.of(settings, ignore_unknown=ignore_unknown)
    made = Solver(source, [*overrides, *_STEPS_ALONE], dropout, device, dtype, level, stages,
                  precision=precision)
    if not made.net.losses:
        raise ConfigError(f"{made.net.config.where()}: a training step needs a loss, but no layer is one; "
                          f"measure forward passes with --phase TEST")
    _feed_zeros(made.net)
    return made.net, made.step, made.updater.rule, made.uncaptured


def _forward(_solver, model, ignore_unknown, overrides, dropout, level, stages, device, dtype, precision):
    """Return (net, a forward pass, None, a context), like `_training`."""
    config = load_net(model, ignore_unknown)
    prepare_nets([config], dropout, overrides)
    net = Net(config, "TEST", device, dtype, 0, *stated(config, level, stages), precision=precision
              or "float32")
    _feed_zeros(net)

    def forward():
        with no_grad():
            net.forward()
    return net, forward, None, nullcontext


def _feed_zeros(net):
    """Give every Input layer zeros of its declared shape: times do not depend on values."""
    for node in net.graph.nodes:
        if node.config.type == "Input":
            node.layer.give({ref.name: net.backend.zeros(net.graph.shapes[ref], net.dtype)
                             for ref in node.tops}, stay=True)


def _table(result):
    lines = [f"{result['phase']} step on {result['device']}, {result['dtype']}, {result['iterations']} of "
             f"each"]
    for name, step in result["steps"].items():
        lines.append(f"  {name:<16} {_ms(step['median'])} median {_ms(step['mean'])} mean "
                     f"{_ms(step['p10'])} to {_ms(step['p90'])} (10 % to 90 %)")
    if "speed_up" in result:
        first, second = result["steps"]
        lines.append(f"  {first} is {result['speed_up']['mean']:.2f} times as fast as {second} by the means, "
                     f"{result['speed_up']['median']:.2f} by the medians")
    for name, profile in result["where"].items():
        lines += ["", f"where, {name}   (ms a step; taking these times slows the step a little)",
                  f"  {'layer':<16} {'forward':>9} {'backward':>9} {'update':>9} {'share':>7}"]
        layers = profile["layers"]
        total = {part: sum(parts[part] for parts in layers.values())
                 for part in ("forward", "backward", "update")}
        lines += [_row(layer, parts, profile["step"])
                  for layer, parts in {**layers, "(all layers)": total}.items()]
        rest = profile["step"] - sum(total.values())
        lines.append(f"  {'(all else)':<16} {rest * 1e3:>29.3f} {rest / profile['step']:>7.1%}")
        lines.append(f"  products of matrices: {_ms(profile['gemm']).strip()}, {profile['gemm_share']:.1%} "
                     f"of the step")
    return "\n".join(lines)


def _row(name, parts, step):
    return (f"  {visible_name(name):<16} {parts['forward'] * 1e3:>9.3f} {parts['backward'] * 1e3:>9.3f} "
            f"{parts['update'] * 1e3:>9.3f} {sum(parts.values()) / step:>7.1%}")


def _ms(seconds):
    return f"{seconds * 1e3:>9.3f} ms"
