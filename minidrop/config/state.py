"""filter_state: applies include and exclude rules for a phase, level and stages."""

import logging
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from minidrop.config import minidrop_pb2
from minidrop.config.assign import assign
from minidrop.config.load import NetConfig
from minidrop.errors import ConfigError, nearest, visible_name

log = logging.getLogger(__name__)


def filter_state(config: NetConfig, phase: Any, level: Any = 0, stages: Any = (),
                 mistakes: list[ConfigError] | None = None) -> NetConfig:
    """Return a new NetConfig with only the layers that the state includes; `config` is unchanged.

    A layer with include rules is included if any of them holds, one with exclude rules if none holds. A rule
    holds if all its conditions do. Raises ConfigError if a layer has both kinds; with a list `mistakes` it is
    added there instead, and the include rules apply. The result's `message.state` is the state. Logs a
    warning for a stage or level that no rule asks for, and for a rule that no state meets.
    """
    state = net_state(phase, level, stages)
    if not config.is_part:
        _warn_of_idle(config, state)
        _warn_of_impossible(config)
    net = minidrop_pb2.NetParameter()
    net.CopyFrom(config.message)
    net.ClearField("layer")
    net.state.CopyFrom(state)
    problems, origins = [], []
    for i, layer in enumerate(config.message.layer):
        if layer.include and layer.exclude:
            problems.append(f"{config.where(i, 'exclude')}: layer '{layer.name}' has include and exclude "
                            "rules; keep one kind")
        if is_in(layer, state):
            net.layer.add().CopyFrom(layer)
            origins.append(config.origins[i])
    if problems and mistakes is None:
        raise ConfigError.of(problems)
    if problems and mistakes is not None:
        mistakes.append(ConfigError.of(problems))
    return NetConfig(net, config.path, config.source, origins, is_part=True, told=config.told)


def _warn_of_idle(config, state):
    """Log a warning for each stage, and for a level, that no rule of the description asks for: a misspelt one
    would change nothing. Where a rule says not_stage, another name, unlike all, may be that of the rest."""
    rules = [rule for layer in config.message.layer for rule in (*layer.include, *layer.exclude)]
    known = {stage for rule in rules for stage in (*rule.stage, *rule.not_stage)}
    has_rest = any(rule.not_stage for rule in rules)
    idle = [(f"stage {stage!r}", f"{nearest(stage, known)} (stages: {', '.join(sorted(known)) or 'none'})")
            for stage in state.stage if stage not in known and (nearest(stage, known) or not has_rest)]
    if state.level and not any(rule.HasField("min_level") or rule.HasField("max_level") for rule in rules):
        idle.append((f"level {state.level}", ""))
    for what, more in idle:
        if what not in config.told:
            config.told.add(what)
            log.warning("%s: %s has no effect: no include or exclude rule asks for it%s", config.where(),
                        visible_name(what), visible_name(more))


def _warn_of_impossible(config):
    """Log a warning for each rule whose conditions contradict each other."""
    for i, layer in enumerate(config.message.layer):
        for kind in ("include", "exclude"):
            for j, rule in enumerate(getattr(layer, kind)):
                why, place = _contradiction(rule), (i, (kind, j))
                if why and place not in config.told:
                    config.told.add(place)
                    log.warning("%s: layer %r: this %s rule never holds: %s", config.where(*place),
                                layer.name, kind, why)


def _contradiction(rule):
    """Return why no state meets a rule, "" where one may."""
    if rule.HasField("min_level") and rule.HasField("max_level") and rule.min_level > rule.max_level:
        return f"min_level {rule.min_level} is above max_level {rule.max_level}"
    both = [stage for stage in rule.stage if stage in rule.not_stage]
    return f"stage {visible_name(repr(both[0]))} is a not_stage too" if both else ""


def net_state(phase: Any, level: Any = 0, stages: Any = ()) -> Message:
    """Return the NetState; raises ConfigError for a level that is no 32-bit number, or stages of no text."""
    state = minidrop_pb2.NetState(phase=phase)
    assign(state, "level", level, "the state of the net")
    assign(state, "stage", as_stages(stages), "the state of the net")
    return state


def as_stages(stages: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of stages as a tuple; a string is the name of one, not of one for each letter."""
    return (stages,) if isinstance(stages, str) and stages else tuple(stages)


def is_in(layer: Any, state: Any) -> bool:
    """Return whether the rules of a LayerParameter include it in a NetState."""
    if layer.include:
        return any(holds(rule, state) for rule in layer.include)
    return not any(holds(rule, state) for rule in layer.exclude)


def holds(rule: Message, state: Any) -> bool:
    """Return whether all conditions of a NetStateRule hold for a NetState."""
    return not ((rule.HasField("phase") and rule.phase != state.phase)
                or (rule.HasField("min_level") and state.level < rule.min_level)
                or (rule.HasField("max_level") and state.level > rule.max_level)
                or any(stage not in state.stage for stage in rule.stage)
                or any(stage in state.stage for stage in rule.not_stage))
