"""What some settings mean for a layer of so many units, by enumerating every pattern they can draw."""

from dataclasses import asdict
from math import sqrt

import numpy as np

from minidrop.errors import ConfigError
from minidrop.patterns.base import get_family
from minidrop.patterns.search import entropy


def report(settings, units):
    """Return what `settings` do to an axis of `units` units, as numbers, strings and lists ready for JSON.

    settings: the resolved settings, by name
    units: as given
    distribution: one {"choice", "probability", "rate", "scale", "mean_kept"} per choice
    rate, rate_reached: wished for, and the expected one
    rate_deviation: standard deviation of the share dropped from iteration to iteration
    entropy: of the distribution, in nats
    kept: {"min", "mean", "max"} number of units kept in an iteration; min may be 0 on a very short axis
    unit_rate: {"min", "mean", "max", "all"} probability of each unit to be dropped, exact
    gemm_share: {"one_side", "both_sides"} expected share of a dense GEMM's work: E[count] / units where this
    drop shrinks one side of it; the square where an independent drop, set alike, shrinks the other side too

    Raises ConfigError.
    """
    if isinstance(units, bool) or not isinstance(units, int | np.integer) or units < 1:
        raise ConfigError(f"units must be an integer of at least 1, got {units!r}; give a layer's num_output")
    units = int(units)
    family = get_family(settings)
    distribution = family.distribution
    kept_probability = np.zeros(units)
    share_squared = 0.0
    counts, rows = [], []
    for choice, probability in zip(distribution.choices, distribution.probabilities.tolist(), strict=True):
        offsets = family.offsets(choice)
        patterns = [family.pattern(choice, offset) for offset in range(offsets)]
        times_kept = np.zeros(units)
        choice_counts = []
        for pattern in patterns:
            kept = pattern.kept(units)
            times_kept[kept.index] += 1
            choice_counts.append(kept.count)
        kept_probability += probability * times_kept / offsets
        share_squared += probability * sum((count / units) ** 2 for count in choice_counts) / offsets
        if probability > 0:
            counts += choice_counts
        rows.append({"choice": family.describe(choice), "probability": probability, "rate": patterns[0].rate,
                     "scale": patterns[0].scale, "mean_kept": sum(choice_counts) / offsets})
    mean_kept = sum(row["probability"] * row["mean_kept"] for row in rows)
    share = mean_kept / units
    unit_rate = 1 - kept_probability
    return {
        "settings": asdict(settings),
        "units": units,
        "distribution": rows,
        "rate": settings.rate,
        "rate_reached": distribution.rate,
        "rate_deviation": sqrt(max(0.0, share_squared - share ** 2)),
        "entropy": entropy(distribution.probabilities),
        "kept": {"min": min(counts), "mean": mean_kept, "max": max(counts)},
        "unit_rate": {"min": float(unit_rate.min()), "mean": float(unit_rate.mean()),
                      "max": float(unit_rate.max()), "all": unit_rate.tolist()},
        "gemm_share": {"one_side": share, "both_sides": share ** 2},
    }
