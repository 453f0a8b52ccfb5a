"""minidrop check: reports every mistake of a file, or its nets and what each drop saves."""

from typing import Any

import click

from minidrop.apps.summary import summarise
from minidrop.cli.console import echo
from minidrop.cli.net_table import drop_lines, layer_table
from minidrop.cli.options import Command, ignore_unknown_option, net_options, stated
from minidrop.cli.values import print_json
from minidrop.config import NetParameter, SolverParameter, parse_net, parse_solver
from minidrop.config.load import read_text
from minidrop.config.source_map import scan
from minidrop.errors import ConfigError, MinidropError, visible_name
from minidrop.net import Net
from minidrop.net.conversion import prepare_nets
from minidrop.solver import Solver
from minidrop.solver.communicator import Alone
from minidrop.solver.prepare import described_nets

PHASES = ("TRAIN", "TEST")


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="MODEL_OR_SOLVER...")
@click.option("--phase", type=click.Choice(PHASES, case_sensitive=False),
              help="Look at one phase of a network file only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of each file its mistakes, or its nets.")
@net_options
@ignore_unknown_option
@click.pass_context
def check(context: Any, files: tuple[str, ...], phase: Any, as_json: bool, overrides: tuple,
          dropout: str | None, level: int, stages: list, ignore_unknown: bool) -> None:
    """Report all mistakes of files, or show shapes, parameters and costs.

    A solver file is checked together with the networks that it names. Nothing is trained.
    """
    wrong = 0
    found: list[dict[str, Any]] = []
    for path in files:
        nets: list[tuple[str, Net]] = []
        lines: list[str] = []
        try:
            nets = _nets(path, phase, overrides, dropout, level, stages, ignore_unknown)
        except MinidropError as error:
            lines = list(error.said) or [str(error)]
            hidden = getattr(error, "hidden", 0)
            wrong += len(lines) + (hidden and hidden - 1)       # the last line counts the hidden ones
            echo("\n".join(f"error: {visible_name(line)}" for line in lines), err=True)
        found.append({"file": path, "mistakes": lines,
                      "nets": [{"title": title, **_facts(net)} for title, net in nets if as_json]})
        for title, net in nets:
            if not as_json:
                echo("\n".join([f"{path}: {title}", *_report(net), ""]))
            net.close()
    if as_json:
        print_json(found)
    if wrong:
        echo(f"{wrong} mistake{'s' * (wrong != 1)}", err=True)
        context.exit(1)


def _nets(path, phase, overrides, dropout, level, stages, ignore_unknown):
    """Return [(title, Net)] of a file; raises ConfigError with all its mistakes."""
    text = read_text(path)      # once: of a pipe there is no second time
    if _is_solver(text, path):
        config = parse_solver(text, path, ignore_unknown)
        config.path = path
        if config.message.weights or any(text.startswith("weights") for text in overrides):
            # The weights have to fit as well.
            solver = Solver(config, overrides, dropout, "cpu", level=level, stages=stages,
                            communicator=Alone())
            train, tests = solver.net, solver.test_nets
        else:
            train, *tests = described_nets(config, overrides, dropout, level, stages)
        return [("phase TRAIN", train), *((f"test net {i}, phase TEST", net) for i, net in enumerate(tests))]
    config = parse_net(text, path, ignore_unknown)
    config.path = path
    prepare_nets([config], dropout, overrides)
    nets, problems, hidden = {}, {}, 0
    phases = [phase] if phase else PHASES
    for name in phases:
        try:
            nets[name] = Net(config, name, "cpu", "float32", 0, *stated(config, level, stages),
                             share=nets.get("TRAIN"), fills=False)
        except MinidropError as error:
            problems[name] = getattr(error, "lines", None) or list(error.said) or [str(error)]
            hidden = max(hidden, getattr(error, "hidden", 0))
    if problems:
        for net in nets.values():
            net.close()
        raise ConfigError.of(_merged(problems, phases), hidden)
    return [(f"phase {name}", net) for name, net in nets.items()]


def _merged(problems, phases):
    """Return the mistakes of all phases, each once; those not in every phase name theirs."""
    return list(dict.fromkeys(
        line if all(line in problems.get(other, ()) for other in phases) else f"{line} (phase {name})"
        for name, lines in problems.items() for line in lines))


def _is_solver(text, path):
    """Return whether a text has more fields of a solver file than of a network file."""
    names = [entry.name for entry in scan(text, path).entries]
    score = {kind: sum(name in kind.DESCRIPTOR.fields_by_name for name in names)
             for kind in (SolverParameter, NetParameter)}
    return score[SolverParameter] > score[NetParameter]


def _facts(net):
    """Return what `_report` says, as plain values."""
    plan = (*net.plan.lines(), *(reshuffle.line for reshuffle in net.reshuffles))
    return {**summarise(net).as_dict(), "plan": list(plan) if net.phase == "TRAIN" else [],
            "vocabularies": {name: len(layer.vocabulary) for name, layer in net.data_layers.items()
                             if layer.vocabulary is not None}}


def _report(net):
    found = summarise(net)
    yield from layer_table(found)
    for name, layer in net.data_layers.items():
        if layer.vocabulary is not None:
            yield f"  {name}: {len(layer.vocabulary):,} tokens in the vocabulary"
    if net.phase == "TRAIN":
        yield from (f"  {drop.node.name} {drop.site.adapted}" for drop in net.plan.drops if drop.site.adapted)
        for line in (*net.plan.lines(), *(reshuffle.line for reshuffle in net.reshuffles)):
            yield f"  {line}"
        yield from drop_lines(found.drops)
