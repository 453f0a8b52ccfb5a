"""Patterns: which units, weights or blocks one iteration drops, and how often each pattern is drawn.

Every module of this folder is imported here, so a family is registered by being a file in it.
"""

from importlib import import_module
from pkgutil import iter_modules

from minidrop.patterns.base import (
    Pattern,
    PatternDistribution,
    PatternFamily,
    PatternSettings,
    RegularPattern,
    get_family,
    known_families,
    register_pattern,
)
from minidrop.patterns.draw import NOTHING, Draw
from minidrop.patterns.drop_site import DropSite
from minidrop.patterns.sequence import BLOCK_LENGTH, PatternSequence

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BLOCK_LENGTH",
    "NOTHING",
    "Draw",
    "DropSite",
    "Pattern",
    "PatternDistribution",
    "PatternFamily",
    "PatternSequence",
    "PatternSettings",
    "RegularPattern",
    "get_family",
    "known_families",
    "register_pattern",
]
