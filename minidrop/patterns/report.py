"""What settings mean for a layer: all their patterns, if those can be listed, and an actual sequence."""

from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from math import log10
from typing import Any

import numpy as np

from minidrop.errors import ConfigError
from minidrop.patterns.base import PatternSettings, get_family
from minidrop.patterns.search import entropy, exact_search, sgd_search
from minidrop.patterns.sequence import PatternSequence, moved
from minidrop.patterns.statistics import chi_square, column_sums, deviation, joint_keep, row_counts

LISTED = 10 ** 8        # most patterns x sites to list, a byte each; beyond (ROW, 1000 periods) we sample
DRAWN = 2 * 10 ** 8     # the same for a sequence, which ends early where it would need more
MOST_SITES = 10 ** 7
SHOWN = 2 ** 16         # most sites that have a figure each
GROUPED = 1000          # iterations of a sequence that the groups are compared in
STRETCHES, STRETCH = 4, 2 ** 11     # joint_keep of more sites than these have is taken over these alone


def report(settings: PatternSettings, units: int, inputs: Any = None, iterations: int = 10000, seed: int = 0,
           layer: str = "drop1") -> Any:
    """Return what `settings` do to an axis of `units` units, as numbers, strings and lists ready for JSON.

    inputs: of the product whose weights TILE drops, by default as many as units. iterations, seed, layer: the
    sequence to examine, the one that a layer of that name draws under that random_seed. Raises ConfigError.

    settings, units, inputs: as given, resolved; inputs is None where it does not matter.
    sites: {"what", "drops", "count"}, what is dropped or kept as one, see `Sites`.
    exact: True if all patterns were listed. Otherwise formulas are still exact (rates by symmetry: every site
        is treated alike), and what "sampled" names is estimated from the sequence.
    distribution: one {"choice", "probability", "rate", "scale", "mean_kept"} per choice.
    rate, rate_reached: the rate asked for, and the expected one.
    rate_deviation: standard deviation of the dropped share from iteration to iteration.
    entropy, pattern_entropy: of the choices, and of the patterns (choices and offsets), in nats.
    submodels: number of different ones, as text "10^X" above 10^15; None if unknown.
    iteration_rate: [[share dropped, probability], ...] of an iteration, rounded to 0.001.
    kept: {"min", "mean", "max", "of"}, units or weights kept in an iteration.
    unit_rate: {"min", "mean", "max", "all"}, probability that a site is dropped; "all": of the first SHOWN.
    joint_keep: {"independent", "by_distance", "sites"}, P(i and i + d both live) for d = 1, 2, ... over
        "sites" sites: all, or STRETCHES x STRETCH from the first to the last; see `statistics.joint_keep`.
    gemm_share: {"one_side", "both_sides"}, expected share of a dense GEMM's work: the kept share if this drop
        shrinks one side of it, its square if an independent drop with equal settings shrinks the other side
        too. A drop of weights has one product and no other side: None.
    groups: None for a family that drops no units; else {"count", "grouping", "joint_keep", "spread"}.
        joint_keep: for d = 1 .. count - 1, P(a unit lives in group g and in group g + d), the mean over units
        and groups; spread: the standard deviation of the share of groups in which a unit lives. Both over all
        patterns, or over the first GROUPED iterations of the sequence where that is not possible.
    sequence: {"iterations", "asked", "seed", "layer", "rate", "drops", "distinct", "chi_square",
        "joint_keep"}: iterations examined (fewer than asked if they need too much memory, see DRAWN), mean
        rate, how often each site was dropped ("min", "mean", "max", "all"), number of different sub-models,
        and what `statistics` computes.
    """
    units = _checked("units", units, "give a layer's num_output")
    inputs = (units if inputs is None
              else _checked("inputs", inputs, "give how many inputs the product above has"))
    iterations = _checked("iterations", iterations, "10000 tells much")
    family = get_family(settings)
    family.check_total(units)
    family = family.fitted(units)
    if family.drops == "weights":
        family.check_weights(units, inputs)
    sites = family.sites(units, inputs)
    if sites.count > MOST_SITES:
        raise ConfigError(f"{sites.count} {sites.what} are too many to look at, {MOST_SITES} are possible; "
                          f"give fewer units" + (" or inputs" if sites.drops == "weights" else ""))
    distribution = family.distribution
    sequence = _sequence(PatternSequence(family, seed, layer), sites, iterations)
    law = _law(family, sites)
    drawn_weights = sequence["counts"] / sequence["iterations"]
    live, weights = law or (sequence["live"], drawn_weights)
    total, share = sites.total, 1 - distribution.rate
    counts = row_counts(live, sites.sizes)
    possible = counts[weights > 0]
    unit_rate = 1 - column_sums(live, weights) if law else np.full(sites.count, distribution.rate)
    joint = _joint(live, weights)
    drawn_share = float(drawn_weights @ row_counts(sequence["live"], sites.sizes)) / total
    rows = []
    for choice, probability in zip(distribution.choices, distribution.probabilities.tolist(), strict=True):
        pattern = family.pattern(choice, 0)
        rows.append({"choice": family.describe(choice), "probability": probability, "rate": pattern.rate,
                     "scale": pattern.scale, "mean_kept": total * (1 - pattern.rate)})
    return {
        "settings": asdict(settings),
        "units": units,
        "inputs": inputs if sites.drops == "weights" else None,
        "sites": {"what": sites.what, "drops": sites.drops, "count": sites.count},
        "exact": law is not None,
        "sampled": [] if law else ["rate_deviation", "kept.min", "kept.max", "iteration_rate", "joint_keep"],
        "distribution": rows,
        "rate": settings.rate,
        "rate_reached": distribution.rate,
        "rate_deviation": deviation(counts / total, weights),
        "iteration_rate": _histogram(1 - counts / total, weights),
        "entropy": entropy(distribution.probabilities),
        "pattern_entropy": family.pattern_entropy(units),
        "submodels": _readable(_submodels(family, sites, law)),
        "kept": {"min": int(possible.min()), "mean": total * share, "max": int(possible.max()), "of": total},
        "unit_rate": _summary(unit_rate),
        "joint_keep": {"independent": share ** 2, "by_distance": joint,
                       "sites": min(sites.count, STRETCHES * STRETCH)},
        "groups": _groups(family, sites, PatternSequence(family, seed, layer), iterations, law),
        "gemm_share": {"one_side": share, "both_sides": None if sites.drops == "weights" else share ** 2},
        "sequence": {
            "iterations": sequence["iterations"], "asked": iterations, "seed": int(seed), "layer": layer,
            "rate": 1 - drawn_share, "drops": _summary(sequence["drops"]),
            "distinct": sequence["distinct"],
            "chi_square": chi_square(sequence["live"], sequence["counts"], sequence["rates"],
                                     distribution.rate),
            "joint_keep": _joint(sequence["live"], drawn_weights) if law else joint,
        },
    }


def first_patterns(settings: PatternSettings, units: int, inputs: Any = None, seed: Any = 0,
                   layer: str = "drop1", count: Any = 40) -> Any:
    """Return a bool array (count, sites): what lives in the first iterations, of at most SHOWN sites."""
    family = get_family(settings).fitted(units)
    sites, sequence = family.sites(units, inputs), PatternSequence(family, seed, layer)
    return np.array([family.live(sequence.at(i), sites)[:SHOWN] for i in range(count)])


def search_table(rates: Any = (0.3, 0.5, 0.7, 0.9), lambdas: Any = (0.5, 0.1, 0.01, 0.001),
                 max_period: Any = 0) -> Any:
    """Return what the paper's search finds for each rate and lambda2, beside the exact solution.

    lambda1 = 1 - lambda2. One {"rate", "periods", "lambda2", "reached", "miss", "entropy", "exact_entropy"}
    each; periods is N, by default 8, or as many as the rate needs: 11 for 0.9. Entropies in nats. Raises
    ConfigError.
    """
    rows = []
    for rate in rates:
        least = len(get_family(PatternSettings(rate, "ROW", max_period)).distribution.choices)
        periods = range(1, (max_period or max(8, least)) + 1)
        u = np.array([(dp - 1) / dp for dp in periods])
        best = entropy(exact_search(u, rate))
        for lambda2 in lambdas:
            d = sgd_search(u, rate, 1 - lambda2, lambda2)
            rows.append({"rate": rate, "periods": len(periods), "lambda2": lambda2, "reached": float(d @ u),
                         "miss": float(d @ u) - rate, "entropy": entropy(d), "exact_entropy": best})
    return rows


def _checked(name, value, advice):
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}; {advice}")
    return int(value)


def _groups(family, sites, sequence, iterations, law):
    """Return what the patterns of the groups of samples have to do with one another."""
    if family.drops != "units":
        return None
    count, grouping, distribution = family.groups, family.settings.grouping, family.distribution
    if law and grouping == "STRATIFIED":
        drawn = [(probability / family.offsets(choice), moved(family.pattern(choice, offset), count))
                 for choice, probability in zip(distribution.choices, distribution.probabilities, strict=True)
                 for offset in range(family.offsets(choice))]
    else:
        length = min(iterations, GROUPED)
        drawn = [(1 / length, sequence.groups_at(i)) for i in range(length)]
    joint, mean, square = np.zeros(count - 1), 0.0, 0.0
    for probability, patterns in drawn:
        live = np.array([family.live(pattern, sites) for pattern in patterns], np.float64)
        joint += [probability * (live[:-d] * live[d:]).mean() for d in range(1, count)]
        share = live.mean(axis=0)
        mean, square = mean + probability * share.mean(), square + probability * (share ** 2).mean()
    return {"count": count, "grouping": grouping, "joint_keep": joint.tolist(),
            "spread": float(np.sqrt(max(0.0, square - mean ** 2)))}


def _law(family, sites):
    """Return every pattern as (live, probability), or None if there are too many to list."""
    choices = [(choice, probability, family.offsets(choice)) for choice, probability
               in zip(family.distribution.choices, family.distribution.probabilities.tolist(), strict=True)]
    if sum(offsets for _, _, offsets in choices) * sites.count > LISTED:
        return None
    live = np.empty((sum(offsets for _, _, offsets in choices), sites.count), bool)
    for row, (choice, offset) in enumerate((choice, offset) for choice, _, offsets in choices
                                           for offset in range(offsets)):
        live[row] = family.live(family.pattern(choice, offset), sites)
    return live, np.concatenate([np.full(offsets, q / offsets) for _, q, offsets in choices])


def _sequence(sequence, sites, iterations):
    """Return the different patterns of a sequence: what lives, how often each was drawn, its choice's rate.

    It ends before the first pattern for which DRAWN leaves no room.
    """
    @lru_cache(maxsize=64)
    def row(pattern):
        return pattern.rate, np.packbits(np.asarray(sequence.family.live(pattern, sites), bool)).tobytes()

    table, most = Counter(), DRAWN // sites.count
    for i in range(iterations):
        found = row(sequence.at(i))
        if len(table) >= most and found not in table:
            iterations = i
            break
        table[found] += 1
    packed = np.frombuffer(b"".join(bits for _, bits in table), np.uint8).reshape(len(table), -1)
    live = np.unpackbits(packed, axis=1, count=sites.count).view(bool)
    counts = np.array(list(table.values()), dtype=np.int64)
    return {"live": live, "counts": counts, "rates": np.array([rate for rate, _ in table]),
            "iterations": iterations,
            "drops": iterations - np.rint(column_sums(live, counts)).astype(np.int64),
            "distinct": len({bits for _, bits in table})}


def _summary(values):
    return {"min": values.min().item(), "mean": float(values.mean()), "max": values.max().item(),
            "all": values[:SHOWN].tolist()}


def _joint(live, weights):
    n = live.shape[1]
    if n <= STRETCHES * STRETCH:
        return joint_keep(live, weights).tolist()
    starts = np.linspace(0, n - STRETCH, STRETCHES).astype(int)
    return np.mean([joint_keep(live[:, first:first + STRETCH], weights) for first in starts], axis=0).tolist()


def _histogram(rates, weights):
    values, where = np.unique(np.abs(rates).round(3), return_inverse=True)
    sums = np.bincount(where.ravel(), weights)
    return [[value, weight] for value, weight in zip(values.tolist(), sums.tolist(), strict=True)
            if weight > 0]


def _submodels(family, sites, law):
    if sites.drops != "weights":
        return family.submodels(sites.units)
    if law is None:
        return None
    return len({np.packbits(row).tobytes() for row, probability in zip(*law, strict=True) if probability > 0})


def _readable(number):
    return f"10^{log10(number):.0f}" if number is not None and number > 10 ** 15 else number
