"""What a snapshot records of the patterns of each drop, to warn a run that resumes with others.

The description of the net is not enough: a later version may choose other defaults.
"""

import json
import logging
import math
import re
from dataclasses import replace
from os import PathLike

from minidrop.errors import ConfigError, SnapshotError
from minidrop.net import Net
from minidrop.patterns import get_family

log = logging.getLogger(__name__)

_LONGEST_TEXT = 200
_TOLERANCE = 1e-6       # the last digits of a searched distribution may differ between machines
_REPRODUCING = ("step", "max_period")       # settings whose value describe() shows
_MOST_SHOWN = 6
_WITH_GROUPS = re.compile(r"(.*?)(?: in (\d{1,6}) ([A-Z]+) groups)?", re.DOTALL)


def drop_record(net: Net) -> str:
    """Return the JSON text {drop layer: {"family", "choices", "probabilities"}} of a Net."""
    return json.dumps({name: _described(site.family) for name, site in net.drop_sites.items()})


def _described(family):
    return {"family": _as_short_text(family.name),
            "choices": [_as_short_text(family.describe(choice) + _groups(family))
                        for choice in family.distribution.choices],
            "probabilities": family.distribution.probabilities.tolist()}


def _groups(family):
    """What is said of groups: nothing of a single one, as in records of versions that knew of no others."""
    count = family.groups
    return "" if count == 1 else f" in {count} {family.settings.grouping} groups"


def _as_short_text(text):
    """Return a text that `_is_short_text` accepts; families may be the user's own."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:_LONGEST_TEXT])


def read_record(path: str | PathLike, text: str) -> dict[str, dict]:
    """Return the text of `drop_record` as a dict; raises SnapshotError for anything else."""
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(map(_is_description, record.values())):
        raise SnapshotError(f"{path}: refused as a snapshot: expected patterns to describe the drops of a "
                            f"net (family, choices and probabilities), got {str(text)[:80]!r}")
    return record


def _is_description(one):
    if not isinstance(one, dict) or set(one) != {"family", "choices", "probabilities"}:
        return False
    family, choices, probabilities = one["family"], one["choices"], one["probabilities"]
    return (_is_short_text(family) and isinstance(choices, list) and isinstance(probabilities, list)
            and 0 < len(choices) == len(probabilities) and all(map(_is_short_text, choices))
            and all(isinstance(p, float) and 0 <= p <= 1 + _TOLERANCE for p in probabilities))


def _is_short_text(text):
    """Whether a value may be shown on a terminal."""
    return isinstance(text, str) and len(text) <= _LONGEST_TEXT and text.isprintable()


def warn_of_other_patterns(path: str | PathLike, record: dict[str, dict] | None, net: Net) -> None:
    """Log a warning for every drop whose patterns differ from the record; None: the snapshot has none."""
    if record is None:
        if net.drop_sites:
            log.warning("%s has no record of its patterns (it was written by an earlier version): they "
                        "cannot be compared with those of %s now", path, ", ".join(net.drop_sites))
        return
    for name, site in net.drop_sites.items():
        old, new = record.get(name), _described(site.family)
        if old is None or _equal(old, new):
            continue        # a new drop is one more layer, which the net's description shows
        both = old["family"] != new["family"]
        log.warning("the patterns of %s are not what they were: %s; now %s%s", name, _shown(old, both),
                    _shown(new, both), _advice(old, site))


def _equal(old, new):
    pairs = zip(old["probabilities"], new["probabilities"], strict=True)
    return (old["family"], old["choices"]) == (new["family"], new["choices"]) and all(
        math.isclose(p, q, abs_tol=_TOLERANCE) for p, q in pairs)


def _shown(one, with_family):
    parts = list(one["choices"])
    if len(parts) > 1:
        parts = [f"{choice} ({p:.6g})" for choice, p in zip(parts, one["probabilities"], strict=True)]
    if len(parts) > _MOST_SHOWN:
        parts[_MOST_SHOWN - 2:-1] = ["..."]
    return f"{one['family']} " * with_family + ", ".join(parts)


def _advice(old, site):
    """Return "; set FIELD: VALUE to go on as before" if such a setting restores the old patterns, else ""."""
    family, settings = site.family, site.settings
    if old["family"] != family.name:
        return ""
    choice, groups, grouping = _WITH_GROUPS.fullmatch(old["choices"][-1]).groups()
    same = {"groups": int(groups or 1), "grouping": grouping or settings.grouping}
    base = {name: value for name, value in same.items()
            if name in family.uses and value != (family.groups if name == "groups" else settings.grouping)}
    ways = [{}, *({field: int(value)} for field in _REPRODUCING if field in family.uses
                  for value in re.findall(r"(?<!\d)\d{1,5}(?!\d)", choice)[-2:])]
    for way in ways:
        wanted = {**way, **base}
        try:
            other = get_family(replace(settings, **wanted)).fitted(site.entries, even=site.heads > 1)
        except ConfigError:
            continue
        if wanted and _equal(old, _described(other)):
            said = ", ".join(f"{name}: {value}" for name, value in wanted.items())
            return f"; set {said} to go on as before"
    return ""
