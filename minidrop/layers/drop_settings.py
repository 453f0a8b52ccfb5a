"""Converts an ApproxDropoutParameter into a DropSite."""

from typing import Any

from google.protobuf.message import Message

from minidrop.config import decimal
from minidrop.errors import ConfigError, ShapeError
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
    if settings.time == settings.STEP:
        if site.family.drops != "units":
            raise ConfigError(f"time STEP needs a pattern of units, got {site.family.name}, which drops "
                              f"{site.family.drops}; remove time, or set pattern to PERIODIC")
        if site.settings.scale != "RATE":
            raise ConfigError("time STEP has one scale for all steps, RATE; remove scale")
    return site


def shape_site(site: DropSite, settings: Any, shape: Any, axis: int) -> None:
    """Give a site the shape it drops from: the entries of `axis`, separately for each step with time STEP.

    Raises ConfigError if the shape does not allow that.
    """
    steps = None
    if settings.time == settings.STEP:
        if len(shape) != 3:
            raise ConfigError(f"time STEP is for sequences (steps, streams, units), but the bottom has "
                              f"{len(shape)} axes")
        steps = shape[0]
    site.shape(shape[axis], steps, settings.heads, settings.whole_heads)


def check_steps(site: DropSite, steps: int) -> None:
    """Raise ShapeError if a batch has other steps than those that a site with time STEP draws for."""
    if site.steps not in (None, steps):
        raise ShapeError(f"time STEP draws for sequences of {site.steps} steps, but this batch has {steps}; "
                         f"where the length differs from batch to batch, take time: SEQUENCE")
