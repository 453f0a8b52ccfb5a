"""Turn the drop layers of a net into another kind without editing its file: --dropout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidrop.config import apply_overrides, decimal
from minidrop.errors import ConfigError
from minidrop.patterns.base import OWN_SETTINGS, find_family

if TYPE_CHECKING:
    from minidrop.config import NetParameter
    from minidrop.config.load import NetConfig

log = logging.getLogger(__name__)


def dropout_kind(kind: str) -> str:
    """Return a kind as `convert_dropout` knows it, its family spelt as it is registered. Raises
    ConfigError."""
    return _parsed(kind)[0]


def prepare_nets(configs: list[NetConfig], kind: str | None, overrides: Sequence[str]) -> None:
    """Turn the drop layers of some NetConfigs into a kind (None: leave them), then apply overrides, which
    name the new types.

    A hidden_dropout that an override adds is turned too, unless hidden_dropout_type is given with it.
    """
    for config in configs:
        if kind:
            convert_dropout(config.message, kind)
    layers = [layer for config in configs for layer in config.message.layer]
    without = [not layer.recurrent_param.HasField("hidden_dropout") for layer in layers]
    apply_overrides(configs, overrides)
    for layer, is_new in zip(layers, without, strict=True):
        settings = layer.recurrent_param
        if (kind and is_new and settings.HasField("hidden_dropout")
                and not settings.HasField("hidden_dropout_type")):
            _convert_hidden(layer, *_parsed(kind))
    if kind and configs and not any(layer.type in ("Dropout", "ApproxDropout")
                                    or layer.recurrent_param.HasField("hidden_dropout") for layer in layers):
        log.warning("--dropout %s has no effect: there is no layer of type Dropout or ApproxDropout and no "
                    "hidden_dropout", kind)


def convert_dropout(message: NetParameter, kind: str) -> None:
    """Turn the drop layers of a NetParameter into one kind, in place, each with its dropout_ratio.

    "conventional" makes every ApproxDropout a Dropout; "approx" the reverse; "approx:FAMILY" the reverse, and
    gives all of them that family of patterns, whose name may be in any case. Settings that only the old type
    has are dropped: patterns one way, `axes` and `shared` the other; so are those of another family that
    FAMILY does not read, which is logged. DropConnect and GaussianDropout stay what they are. The
    hidden_dropout of a recurrent layer changes its type and its family alike, but keeps a family of units,
    which is logged too. ConfigError for another kind.
    """
    kind, family = _parsed(kind)
    for layer in message.layer:
        if layer.recurrent_param.HasField("hidden_dropout"):
            _convert_hidden(layer, kind, family)
        if kind == "conventional" and layer.type == "ApproxDropout":
            _move_ratio(layer.approx_dropout_param, layer.dropout_param)
            layer.type = "Dropout"
            layer.ClearField("approx_dropout_param")
        elif kind != "conventional" and layer.type == "Dropout":
            _move_ratio(layer.dropout_param, layer.approx_dropout_param)
            layer.type = "ApproxDropout"
            layer.ClearField("dropout_param")
        if family is not None and layer.type == "ApproxDropout":
            _set_family(f"layer {layer.name}", layer.approx_dropout_param, family)


def _convert_hidden(layer, kind, family):
    """Turn the hidden_dropout of a recurrent layer into a kind."""
    settings, before = layer.recurrent_param, layer.recurrent_param.hidden_dropout.pattern
    settings.hidden_dropout_type = settings.CONVENTIONAL if kind == "conventional" else settings.APPROX
    if family is None:
        return
    if family.drops == "units":
        _set_family(f"layer {layer.name}: hidden_dropout", settings.hidden_dropout, family)
    else:
        log.info("layer %s: hidden_dropout: pattern %s stays; %s drops %s, a state has units only",
                 layer.name, before, family.name, family.drops)


def _parsed(kind):
    """Return (kind, family class or None)."""
    name, colon, family = str(kind).partition(":")
    if name not in ("conventional", "approx") or (colon and (name == "conventional" or not family)):
        raise ConfigError(f"--dropout {kind}: expected conventional, approx or approx:FAMILY (as approx:ROW)")
    if not colon:
        return name, None
    try:
        found = find_family(family)
    except ConfigError as error:
        raise ConfigError(f"--dropout {kind}: {error}") from None
    return f"{name}:{found.name}", found


def _set_family(where, settings, family):
    """Give an ApproxDropoutParameter a family. Of its settings stay those that both families read: the file
    is another's."""
    before = settings.pattern
    settings.pattern = family.name
    if before == family.name:
        return              # its settings were meant for it: what it does not read is a mistake of the file
    cleared = []
    for name in OWN_SETTINGS:
        if name not in family.uses and settings.HasField(name):
            value = settings.Search.Name(settings.search) if name == "search" else getattr(settings, name)
            cleared.append(f"{name}: {value}")
            settings.ClearField(name)
    scale = settings.Scale.Name(settings.scale)
    if scale not in family.scales:
        cleared += [f"scale: {scale}"] * settings.HasField("scale")
        settings.scale = settings.Scale.Value(family.scales[0])
    if settings.time == settings.STEP and family.drops != "units":
        cleared.append("time: STEP")
        settings.ClearField("time")
    if cleared:
        log.info("%s: pattern %s instead of %s; cleared what it does not read: %s", where, family.name,
                 before, ", ".join(cleared))


def _move_ratio(old, new):
    if old.HasField("dropout_ratio"):
        new.dropout_ratio = decimal(old.dropout_ratio)
