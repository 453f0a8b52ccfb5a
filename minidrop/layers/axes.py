"""Axes that settings name: those that Scale and Bias cover, and one that has an older name."""

from __future__ import annotations

from google.protobuf.message import Message

from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import checked_axis


def covered_axes(settings: Message, shape: tuple[int, ...],
                 second: tuple[int, ...] | None) -> tuple[int, tuple[int, ...]]:
    """Return (first axis, shape) of the factor or bias for a bottom of `shape`: the second bottom's, if any.

    A learned one covers num_axes axes. Raises ConfigError or ShapeError if the bottom has no such axes.
    """
    if second is None:
        axis, count = checked_axis(settings.axis, len(shape)), settings.num_axes
        if count < -1:
            raise ConfigError(f"num_axes must be -1 (all from axis {axis} on), 0 or more, got {count}")
        end = len(shape) if count == -1 else axis + count
        if end > len(shape):
            raise ConfigError(f"num_axes {count} from axis {axis} on leaves the bottom's {len(shape)} axes")
        return axis, tuple(shape[axis:end])
    if not second:          # a single number; Caffe ignores the axis
        return 0, ()
    axis = checked_axis(settings.axis, len(shape))
    if tuple(shape[axis:axis + len(second)]) != tuple(second):
        raise ShapeError(f"the second bottom, of shape {tuple(second)}, must be shaped as the first from "
                         f"axis {axis} on, which is {tuple(shape[axis:])}")
    return axis, tuple(second)


def axis_with_alias(settings: Message, old_name: str, ndim: int) -> int:
    """Return the axis of a message (Concat, Slice) that also has an older name for it."""
    if settings.HasField(old_name):
        if settings.HasField("axis"):
            raise ConfigError(f"axis and {old_name} are both given; keep axis")
        return checked_axis(getattr(settings, old_name), ndim, old_name)
    return checked_axis(settings.axis, ndim)
