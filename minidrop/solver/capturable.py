"""problem_of: whether the iterations of a Solver can be captured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.layers import Layer
from minidrop.layers.lambda_function import Lambda
from minidrop.solver.debug_info import wants_debug_info
from minidrop.solver.engines import DeviceEngine

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


def problem_of(solver: Solver) -> str:
    """Return why the iterations of a solver cannot be captured, "" if they can."""
    settings, net = solver.settings, solver.net
    # A MovingKept may have more entries than kept units; they hold f(0), which would count in the norm.
    unclear = sorted({node.name for drop in net.plan.drops for node in drop.crossed
                      if not all(fact.keeps_zero for fact in node.passes)})
    # Not inherited: a subclass may behave differently, so it has to declare capturable itself.
    foreign = [f"layer {name!r} ({layer.type})" for name, layer in net.layers.items()
               if not vars(type(layer)).get("capturable", False) and not layer.is_data
               and not (isinstance(layer, Lambda) and layer.captures())]
    varying = [f"layer {name!r} ({layer.type})" for name, layer in net.data_layers.items() if layer.varies]
    several = not solver.ranks.alone
    losses = {node.name: node.layer for node in (net.graph.writer[ref] for ref, _ in net.losses)}
    weighed = [f"{name!r} ({layer.type})" for name, layer in losses.items() if _weighs_by_labels(layer)]
    reasons = [
        (settings.iter_size != 1, f"iter_size is {settings.iter_size}"),
        (solver.loss_scale is not None,
         "in float16 the host looks after every backward pass whether gradients are finite"),
        (net.config.message.force_backward, "force_backward is set"),
        (bool(unclear) and (solver.updater.clip >= 0 or settings.log_gradient_norm),
         f"{'clip_gradients' if solver.updater.clip >= 0 else 'log_gradient_norm'} with layer "
         f"{', '.join(unclear)}, whose f(0) is not 0"),
        (wants_debug_info(solver), "debug_info reads every blob and gradient"),
        (not net.losses, "the net has no loss"),
        (bool(varying), f"the batches of {', '.join(varying)} differ in shape"),
        (bool(foreign), f"{', '.join(foreign)} does not say that it is capturable"),
        (several and not isinstance(solver.gradient_sum.engine, DeviceEngine),
         "gradients of other ranks come through the host"),
        (solver.local_steps.active, "average_interval is set"),
        (several and bool(weighed),
         f"how much a rank's batch weighs in loss {', '.join(weighed)} depends on its labels"),
    ]
    return next((reason for holds, reason in reasons if holds), "")


def _weighs_by_labels(layer):
    """Whether what a batch weighs in a loss is read from labels."""
    own = type(layer)
    if own.batch_weight is Layer.batch_weight and own.weight_of is Layer.weight_of:
        return False
    return getattr(layer, "ignore_label", 0) is not None or getattr(layer, "class_weight", None) is not None
