"""Initial values of parameters, by Caffe's names: constant, uniform, gaussian, positive_unitball, xavier,
msra, bilinear."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.registry import Registry

if TYPE_CHECKING:
    from minidrop.config import FillerParameter

_fillers: Registry[Callable] = Registry("filler")
# What each reads besides `type`; of fillers that others register it is not known.
_READS: dict[str, tuple[str, ...]] = {
    "constant": ("value",), "uniform": ("min", "max"), "gaussian": ("mean", "std", "sparse"),
    "xavier": ("variance_norm",), "msra": ("variance_norm",), "positive_unitball": (), "bilinear": ()}
_BY_CONNECTIONS = ("xavier", "msra", "positive_unitball")


def register_filler(name: str) -> Callable:
    """Return a decorator for a filler: f(settings, shape, rng) -> float64 array, `settings` a
    FillerParameter."""
    return _fillers.register(name)


def fill(settings: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a float64 array of `shape` filled as the FillerParameter `settings` says, from the Generator
    `rng`."""
    return _fillers.get(settings.type)(settings, tuple(shape), rng)


def check_filler(settings: FillerParameter, shape: tuple[int, ...]) -> None:
    """Raise ConfigError where `settings` names no known filler or cannot fill `shape`."""
    if settings.type not in _fillers:
        raise _fillers.unknown(settings.type)
    if settings.type in _BY_CONNECTIONS and not math.prod(shape or (0,)):
        raise ConfigError(f"filler {settings.type!r} scales by numbers of connections, which shape "
                          f"{tuple(shape)} has not; use constant, uniform or gaussian")
    if settings.sparse >= 0 and settings.type != "gaussian":
        raise ConfigError(f"filler {settings.type!r} has no `sparse`; only gaussian has")
    if settings.sparse >= 0 and len(shape) != 2:
        raise ConfigError(f"a sparse gaussian filler needs a matrix, got shape {tuple(shape)}")
    if settings.type == "bilinear" and (len(shape) != 4 or shape[2] != shape[3] or not shape[3]):
        raise ConfigError(f"a bilinear filler needs square kernels (outputs, inputs, side, side), got shape "
                          f"{tuple(shape)}")
    if settings.type == "uniform" and settings.min > settings.max:
        raise ConfigError(f"uniform filler: min {settings.min:g} is above max {settings.max:g}")
    if settings.std < 0:
        raise ConfigError(f"filler: std must not be negative, got {settings.std:g}")


def unread_settings(settings: FillerParameter) -> list[str]:
    """Return the fields of a FillerParameter that are given, and that a filler of its type does not read."""
    reads = _READS.get(settings.type)
    return [] if reads is None else [field.name for field, value in settings.ListFields()
                                     if field.name not in ("type", *reads) and value != field.default_value]


def fan(settings: FillerParameter, shape: tuple[int, int]) -> float:
    """Return the n of xavier and msra: FAN_IN = size / outputs, FAN_OUT = size / inputs, or their AVERAGE
    (Caffe)."""
    size = math.prod(shape)
    fan_in = size / shape[0]
    fan_out = size / shape[1] if len(shape) > 1 else size
    average = (fan_in + fan_out) / 2
    return {settings.FAN_IN: fan_in, settings.FAN_OUT: fan_out}.get(settings.variance_norm, average)


@register_filler("constant")
def constant(settings: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """`value` everywhere."""
    return np.full(shape, decimal(settings.value))


@register_filler("uniform")
def uniform(settings: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """U(min, max)."""
    return rng.uniform(decimal(settings.min), decimal(settings.max), shape)


@register_filler("gaussian")
def gaussian(settings: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """N(mean, std^2); with `sparse` = s an input feeds s units on average (an entry stays with probability s
    / outputs)."""
    values = rng.normal(decimal(settings.mean), decimal(settings.std), shape)
    if settings.sparse >= 0:
        values *= rng.random(shape) < settings.sparse / shape[0]
    return values


@register_filler("positive_unitball")
def positive_unitball(settings: FillerParameter, shape: Any, rng: np.random.Generator) -> Any:
    """U(0, 1), then every row divided by its sum."""
    values = rng.random(shape)
    return values / values.reshape(shape[0], -1).sum(axis=1).reshape((-1,) + (1,) * (len(shape) - 1))


@register_filler("xavier")
def xavier(settings: FillerParameter, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """U(-a, a), a = sqrt(3 / n) (Glorot and Bengio 2010); n from `fan`."""
    bound = math.sqrt(3 / fan(settings, shape))
    return rng.uniform(-bound, bound, shape)


@register_filler("msra")
def msra(settings: FillerParameter, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """N(0, 2 / n) (He et al. 2015); n from `fan`."""
    return rng.normal(0, math.sqrt(2 / fan(settings, shape)), shape)


@register_filler("bilinear")
def bilinear(settings: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Kernels with which a Deconvolution interpolates: w[i, j] = t(i) t(j), t(i) = 1 - |i / f - c|, with
    f = ceil(side / 2) and c = (side - 1) / (2 f) (Caffe)."""
    side = shape[-1]
    f = math.ceil(side / 2)
    tent = 1 - abs(np.arange(side) / f - (side - 1) / (2 * f))
    return np.broadcast_to(np.outer(tent, tent), shape).copy()
