"""minidrop patterns: what the settings of a drop mean for a layer of a given size."""

from dataclasses import replace
from typing import Any

import click

from minidrop.cli.console import echo
from minidrop.cli.options import Command, Count, refuse_idle, seed_type
from minidrop.cli.plots import check_picture, draw_png, text_plots
from minidrop.cli.values import print_json
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.patterns.base import GROUPINGS, OWN_SETTINGS, SCALES, SEARCHES, find_family
from minidrop.patterns.report import first_patterns, report, search_table

_CHOICES = 24       # a longer distribution is shortened in the middle
_MOST_ITERATIONS = 10**6
_DISTANCES = (*range(1, 17), 32, 64, 128, 256, 512, 1024)


@click.command(cls=Command)
@click.option("--rate", type=float, default=0.5, show_default=True, help="Expected share of what is dropped.")
@click.option("--units", type=Count(0), default=2048, show_default=True,
              help="Units of the layer (num_output).")
@click.option("--inputs", type=Count(0),
              help="TILE: inputs of the product above the drop; as many as units by default.")
@click.option("--family", default="all", show_default=True, metavar="all|NAME",
              help="A pattern's name, in any case.")
@click.option("--max-period", type=Count(0), default=0,
              help="ROW, TILE: longest period; 0: the family's choice.")
@click.option("--step", type=Count(0), default=0,
              help="PERIODIC: length of the repeated piece; 0: the family's choice.")
@click.option("--tile-size", type=Count(0), default=0,
              help="TILE: weights along the side of a tile; 0: 32, or fewer on short sides.")
@click.option("--block-samples", type=Count(0), default=0, help="BLOCK: samples of a block; 0: 128.")
@click.option("--block-units", type=Count(0), default=0,
              help="BLOCK: units of a block; 0: 128, or fewer on a short axis.")
@click.option("--groups", type=Count(0), default=0,
              help="Families of units: groups of samples with a pattern each; 0: the family's choice.")
@click.option("--grouping", type=click.Choice(GROUPINGS, case_sensitive=False), default="STRATIFIED",
              show_default=True, help="Whether the groups' patterns start equally far apart or anywhere.")
@click.option("--scale", type=click.Choice(SCALES, case_sensitive=False), default="RATE", show_default=True,
              help="Scale what is kept by the expected rate, or by the drawn pattern.")
@click.option("--search", type=click.Choice(SEARCHES, case_sensitive=False), default="EXACT",
              show_default=True, help="How the probabilities of several periods are found.")
@click.option("--iterations", type=Count(0, _MOST_ITERATIONS), default=10000, show_default=True,
              help="Length of the sequence to look at.")
@click.option("--seed", type=seed_type, default=0, show_default=True,
              help="The sequence's random_seed.")
@click.option("--layer", default="drop1", show_default=True, metavar="NAME", help="The sequence's layer.")
@click.option("--plot", is_flag=True, help="Draw with characters as well.")
@click.option("--png", metavar="FILE", help="Draw into a file; needs matplotlib.")
@click.option("--search-table", "table", is_flag=True,
              help="Compare the paper's search of a distribution with the exact one instead.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, per-unit figures included, as JSON.")
def patterns(rate: float, units: int, inputs: int, family: Any, iterations: int, seed: int, layer: Any,
             plot: Any, png: Any, table: list[list[str]], as_json: Any, **fields: Any) -> None:
    """Show what a pattern does: distribution, rates, sub-models, products left, and real draws."""
    if table:
        others = set(click.get_current_context().params) - {"table", "max_period", "as_json"}
        refuse_idle(others, "the table of --search-table has rates and periods of its own; leave it out")
        rows = search_table(max_period=fields["max_period"])
        if as_json:
            print_json(rows)
        else:
            echo(_search_table(rows))
        return
    if png:
        check_picture(png)
    wanted = _each_family(PatternSettings(rate, **fields), family)
    reports = {one.family: report(one, units, inputs, iterations, seed, layer) for one in wanted}
    if as_json:
        print_json(reports)
    else:
        for i, one in enumerate(reports.values()):
            echo("\n" * (i > 0) + _table(one) + ("\n\n" + text_plots(one) if plot else ""))
    if png:
        draw_png(png, [(one, first_patterns(settings, units, inputs, seed, layer))
                       for settings, one in zip(wanted, reports.values(), strict=True)])
        echo(f"drawn into {png}", err=as_json)


def _each_family(wanted, family):
    if family.lower() != "all":
        return [replace(wanted, family=find_family(family).name)]
    # Among all, a family ignores settings that it does not read; alone, it raises an error for them.
    each = []
    for name in known_families():
        other = get_family(PatternSettings(family=name))
        unread = {field: default for field, default in OWN_SETTINGS.items() if field not in other.uses}
        if wanted.scale not in other.scales:
            unread["scale"] = other.scales[0]
        each.append(replace(wanted, family=name, **unread))
    return each


def _table(one):
    sites, kept, unit, share, drawn = (one["sites"], one["kept"], one["unit_rate"], one["gemm_share"],
                                       one["sequence"])
    what = sites["what"]
    entries = "weights" if sites["drops"] == "weights" else "units"
    rows = one["distribution"]
    shown = rows if len(rows) <= _CHOICES else rows[:_CHOICES - 4] + [None] + rows[-3:]
    by, seen = ("", "") if one["exact"] else (", by symmetry", f", seen in {drawn['iterations']} iterations")
    lines = [f"{one['settings']['family']}  rate {one['rate']:g}, {_axis(one)}",
             f"  {'keeps':<17} {'probability':>11} {'drops':>8} {'scale':>8} {entries + ' kept':>13}"]
    lines += ["  ..." if row is None else f"  {row['choice']:<17} {row['probability']:>11.4f} "
              f"{row['rate']:>8.4f} {row['scale']:>8.4f} {row['mean_kept']:>13.1f}" for row in shown]
    deviation = f"deviation between iterations {one['rate_deviation']:.4f}{seen}"
    lines += [f"  rate reached      {one['rate_reached']:.6f}  ({deviation})",
              f"  each {what[:-1] + chr(39) + 's rate':<12} {unit['min']:.6f} to {unit['max']:.6f}{by}",
              f"  {entries + ' kept':<17} {kept['min']} to {kept['max']}{seen}; mean {kept['mean']:.1f}",
              f"  products left     {share['one_side']:.1%} with one side dropped, {share['both_sides']:.1%} "
              f"with both" if share["both_sides"] is not None else f"  products left     "
              f"{share['one_side']:.1%} of the product above"]
    if one["submodels"] is not None:
        nats = one["pattern_entropy"]
        lines.append(f"  sub-models        "
                     f"{one['submodels']}" + (f"; entropy {nats:.4g} nats" if nats is not None else "")
                     + (f", {one['entropy']:.4g} of them the choice's" if len(rows) > 1 else ""))
    lines += _joint(one, seen) + _groups(one)
    drops, chi = drawn["drops"], drawn["chi_square"]
    distinct = f"{drawn['distinct']} different sub-model{'s' * (drawn['distinct'] != 1)}"
    if drawn["iterations"] < drawn["asked"]:
        lines.append(f"  only {drawn['iterations']} of {drawn['asked']} iterations are looked at: more would "
                     f"need too much " "memory at this size")
    lines += [f"  {drawn['iterations']} iterations of layer {drawn['layer']!r}, seed {drawn['seed']}: mean "
              f"rate {drawn['rate']:.6f}, {distinct},",
              f"    each {what[:-1]} dropped {drops['min']} to {drops['max']} times, mean "
              f"{drops['mean']:.1f}"]
    if chi:
        lines.append(f"    chi-square against Bernoulli {chi['value']:.1f}; expected {chi['bernoulli']} if "
                     f"all were independent, {chi['expected']:.1f} here ({chi['freedom']:.1f} degrees of "
                     f"freedom): p = {chi['p_value']:.3f}")
    return "\n".join(lines)


def _groups(one):
    groups = one["groups"]
    if groups is None or groups["count"] == 1:
        return []
    shown = ", ".join(f"{share:.3f}" for share in groups["joint_keep"][:6])
    more = ", ..." if len(groups["joint_keep"]) > 6 else ""
    title = f"{groups['count']} groups"
    share = 1 - one["rate_reached"]
    return [f"  {title:<17} {groups['grouping'].lower()}; a unit lives in {share:.3f} of them, deviation "
            f"{groups['spread']:.3f};",
            f"{'':20}in a group and the next, next but one, ...: {shown}{more}; "
            f"{one['joint_keep']['independent']:.3f} if independent"]


def _axis(one):
    sites, units = one["sites"], one["units"]
    pieces = f" in {sites['count']} {sites['what'][:-1 if sites['count'] == 1 else None]}"
    if sites["drops"] == "weights":
        return f"{units} x {one['inputs']} weights" + pieces * (sites["what"] != "weights")
    return f"{units} units" + pieces * (sites["what"] != "units")


def _joint(one, seen):
    found = one["joint_keep"]["by_distance"]
    near = [d for d in _DISTANCES if d <= len(found)]
    if not near:
        return []
    seen += f", among {one['joint_keep']['sites']} of them" * (one["joint_keep"]["sites"]
                                                               < one["sites"]["count"])
    lines = [f"  both live         at a distance of d {one['sites']['what']}{seen}; "
             f"{one['joint_keep']['independent']:.3f} if independent"]
    for first in range(0, len(near), 11):
        part = near[first:first + 11]
        lines += [f"    {'d':<16}" + "".join(f"{d:>6}" for d in part),
                  f"    {'P':<16}" + "".join(f"{found[d - 1]:>6.3f}" for d in part)]
    return lines


def _search_table(rows):
    lines = ["The search of Song and Jiang (gradient descent, lambda1 = 1 - lambda2) against the exact one "
             "(EXACT always", "reaches the rate). N: periods 1 .. N; entropies in nats.",
             f"  {'rate':>5} {'N':>4} {'lambda2':>8} {'reached':>9} {'miss':>9} {'entropy':>9} "
             f"{'exact entropy':>14}"]
    for i, row in enumerate(rows):
        if i and row["rate"] != rows[i - 1]["rate"]:
            lines.append("")
        miss = round(row["miss"], 4) + 0.0      # no -0.0000
        lines.append(f"  {row['rate']:>5g} {row['periods']:>4} {row['lambda2']:>8g} {row['reached']:>9.4f} "
                     f"{miss:>+9.4f} {row['entropy']:>9.4f} {row['exact_entropy']:>14.4f}")
    return "\n".join(lines)
