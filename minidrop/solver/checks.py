"""Checks of a solver file: mistakes in its fields, and fields that have no effect."""

import logging
from collections.abc import Sequence

from minidrop.config import SolverConfig, decimal
from minidrop.net import Net
from minidrop.solver.averages import ema_problems
from minidrop.solver.local_steps import local_problems
from minidrop.solver.lr_policy import check_lr_policy, unread_shaping
from minidrop.solver.rules import check_rule, unread_settings
from minidrop.solver.wire import wire_problems

log = logging.getLogger(__name__)

_IGNORED = {"snapshot_diff": "snapshots hold no gradients"}


def solver_problems(config: SolverConfig) -> list[str]:
    """Return every mistake in the solver's own fields, as "file:line:column: what"."""
    settings = config.message
    found = check_lr_policy(settings) + check_rule(settings) + ema_problems(settings)
    found += wire_problems(settings) + local_problems(settings)
    if not (settings.HasField("max_iter") or config.is_stepped):
        found.append(("max_iter", "max_iter is missing, the number of iterations to train"))
    for field, least in (("max_iter", 1), ("iter_size", 1), ("average_loss", 1), ("reduce_bucket", 1),
                         ("display", 0), ("snapshot", 0), ("test_interval", 0)):
        if settings.HasField(field) and getattr(settings, field) < least:
            found.append((field, f"{field} must be at least {least}, got {getattr(settings, field)}"))
    if settings.HasField("clip_gradients") and settings.clip_gradients == 0:
        found.append(("clip_gradients", "clip_gradients: 0 makes every gradient 0, so nothing would be "
                                        "trained; remove it to clip nothing"))
    if settings.regularization_type not in ("L1", "L2"):
        found.append(("regularization_type",
                      f"regularization_type must be L1 or L2, got {settings.regularization_type!r}"))
    if decimal(settings.weight_decay) < 0:
        found.append(("weight_decay",
                      f"weight_decay must not be negative, got {decimal(settings.weight_decay):g}"))
    return [f"{config.where(field)}: {problem}" for field, problem in dict.fromkeys(found)]


def warn_of_best(config: SolverConfig, test_nets: Sequence[Net]) -> None:
    """Log a warning where snapshot_best would keep the snapshot of the greatest loss or perplexity."""
    name = config.message.snapshot_best
    writers = [net.graph.writer[ref] for net in test_nets for ref in net.graph.outputs if ref.name == name]
    if any(node.layer.is_loss or node.config.type == "Perplexity" for node in writers):
        log.warning("%s: snapshot_best keeps the snapshot where %s is highest, which is the worst; \"-%s\" "
                    "asks for the lowest", config.where("snapshot_best"), name, name)


def warn_of_ignored(config: SolverConfig) -> None:
    """Log a warning for every field of the file that has no effect in minidrop."""
    settings = config.message
    for field, reason in _IGNORED.items():
        if settings.HasField(field) and getattr(settings, field):
            log.warning("%s: %s has no effect: %s", config.where(field), field, reason)
    if settings.snapshot_best and not settings.snapshot and not settings.snapshot_after_train:
        log.warning("%s: snapshot_best has no effect: snapshots are off (snapshot is 0, snapshot_after_train "
                    "false)", config.where("snapshot_best"))
    for what, value, unread in (("lr_policy", settings.lr_policy, unread_shaping(settings)),
                                ("type", settings.type, unread_settings(settings))):
        for field, readers in unread:
            *others, last = readers
            names = f"{', '.join(others)} and {last} do" if others else f"{last} does"
            log.warning("%s: %s has no effect: %s %r does not read it, %s", config.where(field), field, what,
                        value, names)
    for field in ("ema_warmup", "ema_test"):
        if settings.HasField(field) and not settings.ema_decay:
            log.warning("%s: %s has no effect: ema_decay is 0", config.where(field), field)
    if settings.HasField("early_stopping") and not settings.test_interval:
        log.warning("%s: early_stopping has no effect: test_interval is 0", config.where("early_stopping"))
    for field in ("decay_axes", "regularization_type"):
        if getattr(settings, field) != getattr(type(settings)(), field) and not settings.weight_decay:
            log.warning("%s: %s has no effect: weight_decay is 0", config.where(field), field)
    if settings.test_interval and not (settings.test_iter or settings.test_net or settings.test_net_param):
        log.warning("%s: test_interval has no effect: there is no network to test; give test_iter, and where "
                    "the network is not in `net`, a test_net", config.where("test_interval"))
    if settings.wire and settings.average_interval:
        log.warning("%s: wire has no effect with average_interval: no gradients travel, and weights travel "
                    "as they are", config.where("wire"))
    if settings.debug_info and not settings.display:
        log.warning("%s: debug_info has no effect while display is 0: it is logged with each display",
                    config.where("debug_info"))
