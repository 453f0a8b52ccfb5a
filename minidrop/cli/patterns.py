"""minidrop patterns: what the settings of a drop mean for a layer of so many units."""

import json
from dataclasses import replace

import click

from minidrop.errors import ConfigError, nearest
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.patterns.base import SCALES, SEARCHES
from minidrop.patterns.report import report

_OWN = {"max_period": 0, "step": 0, "search": "EXACT"}     # settings that not every family reads


@click.command()
@click.option("--rate", type=float, default=0.5, show_default=True, help="Expected share of dropped units.")
@click.option("--units", type=int, default=2048, show_default=True, help="Units of the layer (num_output).")
@click.option("--family", default="all", show_default=True, metavar="all|NAME", help="A pattern's name, in any case.")
@click.option("--max-period", type=int, default=0, help="Longest period; 0: the family's choice.")
@click.option("--step", type=int, default=0, help="Length of the repeated piece; 0: the family's choice.")
@click.option("--scale", type=click.Choice(SCALES, case_sensitive=False), default="RATE", show_default=True,
              help="Scale what is kept by the expected rate, or by the drawn pattern.")
@click.option("--search", type=click.Choice(SEARCHES, case_sensitive=False), default="EXACT", show_default=True,
              help="How the probabilities of several periods are found.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, per-unit rates included, as JSON.")
def patterns(rate, units, family, max_period, step, scale, search, as_json):
    """Show what a pattern does: distribution, rates, products left."""
    wanted = PatternSettings(rate, max_period=max_period, step=step, scale=scale, search=search)
    reports = {settings.family: report(settings, units) for settings in _each_family(wanted, family)}
    if as_json:
        click.echo(json.dumps(reports, indent=1))
        return
    for i, one in enumerate(reports.values()):
        click.echo("\n" * (i > 0) + _table(one))


def _each_family(wanted, family):
    if family.lower() != "all":
        by_name = {name.lower(): name for name in known_families()}
        if family.lower() not in by_name:
            raise ConfigError(f"unknown pattern {family!r}{nearest(family, by_name.values())} "
                              f"(known patterns: {', '.join(by_name.values())}, or all)")
        return [replace(wanted, family=by_name[family.lower()])]
    # Beside others a family leaves out what it does not read; asked for alone, it objects.
    uses = {name: get_family(PatternSettings(family=name)).uses for name in known_families()}
    return [replace(wanted, family=name, **{field: default for field, default in _OWN.items() if field not in uses[name]})
            for name in known_families()]


def _table(one):
    kept, unit, share = one["kept"], one["unit_rate"], one["gemm_share"]
    lines = [f"{one['settings']['family']}  rate {one['rate']:g}, {one['units']} units",
             f"  {'keeps':<12} {'probability':>11} {'drops':>8} {'scale':>8} {'units kept':>11}"]
    lines += [f"  {row['choice']:<12} {row['probability']:>11.4f} {row['rate']:>8.4f} {row['scale']:>8.4f} "
              f"{row['mean_kept']:>11.1f}" for row in one["distribution"]]
    lines += [f"  rate reached     {one['rate_reached']:.6f}  (deviation between iterations {one['rate_deviation']:.4f})",
              f"  each unit's rate {unit['min']:.6f} to {unit['max']:.6f}",
              f"  units kept       {kept['min']} to {kept['max']}, mean {kept['mean']:.1f}",
              f"  products left    {share['one_side']:.1%} with one side dropped, {share['both_sides']:.1%} with both"]
    return "\n".join(lines)
