"""Converts an ApproxDropoutParameter into a DropSite."""

from typing import Any

from google.protobuf.message import Message

from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.patterns import DropSite, PatternSettings


def pattern_settings(settings: Message) -> PatternSettings:
    """Return the PatternSettings of an ApproxDropoutParameter."""
    return PatternSettings(rate=decimal(settings.dropout_ratio), family=settings.pattern,
                           max_period=settings.max_period, step=settings.step,
                           scale=settings.Scale.Name(settings.scale),
                           search=settings.Search.Name(settings.search), tile_size=settings.tile_size,
                           block_samples=settings.block_samples, block_units=settings.block_units,
                           groups=settings.groups, grouping=settings.Grouping.Name(settings.grouping))


def drop_site(name: str, settings: Message, seed: int) -> DropSite:
    """Return the DropSite of a layer; raises ConfigError for settings that contradict each other."""
    site = DropSite(name, pattern_settings(settings), seed)
    if asked := _asked(settings):
        if site.family.drops != "units":
            raise ConfigError(f"{asked} needs a pattern of units, got {site.family.name}, which drops "
                              f"{site.family.drops}; remove {asked.split()[0].rstrip(':')}, or set pattern "
                              f"to PERIODIC")
        if site.settings.scale != "RATE":
            raise ConfigError(f"{asked} has one scale for all steps, RATE; remove scale")
    return site


def shape_site(site: DropSite, settings: Any, shape: Any, axis: int, of_state: bool = False) -> None:
    """Give a site the shape it drops from: the entries of `axis`, separately for each run of steps.

    A single run is the whole batch, as with time SEQUENCE; but not `of_state`, where that means more.
    Raises ConfigError if the shape does not allow that.
    """
    held = steps_held(settings, shape)
    if held >= shape[0] and not of_state and settings.time != settings.STEP:
        held = 0
    site.shape(shape[axis], shape[0] if held else None, settings.heads, settings.whole_heads, held or 1)


def steps_held(settings: Any, shape: Any) -> int:
    """Return for how many steps of a sequence a pattern holds; 0: for all of them.

    settings: an ApproxDropoutParameter; shape: of the sequence. Raises ConfigError if the settings contradict
    each other, or the shape is none of a sequence.
    """
    held, asked = settings.steps_per_pattern, _asked(settings)
    if not asked:
        return 0
    if len(shape) != 3:
        raise ConfigError(f"{asked} is for sequences (steps, streams, units), but the bottom has "
                          f"{len(shape)} axes")
    if settings.time == settings.STEP:
        if held > 1:
            raise ConfigError(f"time STEP and steps_per_pattern: {held} contradict each other: a pattern "
                              f"holds for 1 step or for {held}; remove one of them")
        return 1
    if settings.HasField("time"):
        if held < shape[0]:
            raise ConfigError(f"time SEQUENCE and steps_per_pattern: {held} contradict each other: a pattern "
                              f"holds for all {shape[0]} steps or for {held}; remove one of them")
        return 0
    return held


def _asked(settings):
    """Return the setting that gives steps patterns of their own, as a user writes it; "" if there is none."""
    if settings.time == settings.STEP:
        return "time STEP"
    return f"steps_per_pattern: {settings.steps_per_pattern}" if settings.steps_per_pattern else ""
