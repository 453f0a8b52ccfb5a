"""Iterations layer by layer: forward, backward, update."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import NonFiniteError
from minidrop.solver.debug_info import DebugInfo, wants_debug_info

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

Show = Callable[[Mapping, dict[str, Tensor]], None]


class EagerSteps:
    """Runs the iterations of a Solver layer by layer. CapturedSteps has the same interface.

    `losses`: the last `average_loss` losses.
    """

    def __init__(self, solver: Solver):
        self.solver = solver
        self.losses: deque[float] = deque(maxlen=max(1, solver.settings.average_loss))

    @property
    def uncaptured(self) -> EagerSteps:
        """The steps that run layer by layer: these."""
        return self

    def step(self, lr: float, show: Show) -> Mapping:
        """Do the solver's current iteration; returns its values by name, those of a "step" event.

        show(values, {output name: Tensor}) is called before the update. Raises NonFiniteError.
        """
        solver = self.solver
        shown = solver.settings.display and solver.iteration % solver.settings.display == 0
        debug = DebugInfo(solver) if shown and wants_debug_info(solver) else None
        outputs = self.forward_backward(debug)
        self.after_backward()
        if debug:
            debug.backward()
        scale = solver.loss_scale
        values = {"loss": self.smoothed_loss, "lr": lr, **(scale.values if scale is not None else {})}
        show(values, outputs)
        self._update(lr)
        if debug:
            debug.update()
        return values

    def forward_backward(self, debug: DebugInfo | None = None) -> dict[str, Tensor]:
        """Run forward and backward iter_size times; returns the net's outputs of the last pass, which `debug`
        is shown."""
        solver = self.solver
        net, iter_size = solver.net, solver.settings.iter_size
        net.clear_grads()
        loss = 0.0
        for part in range(iter_size):
            net.draw_patterns(solver.iteration * iter_size + part)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):     # the loss is checked
                outputs = net.forward()
                part_loss = net.loss
                if not math.isfinite(part_loss):
                    raise self._nonfinite(part_loss)
                if debug and part == iter_size - 1:
                    debug.forward()
                net.backward(solver.loss_scale.value if solver.loss_scale else 1.0)
            loss += part_loss / iter_size
        self.losses.append(loss)
        return outputs

    def after_backward(self) -> None:
        """Call the solver's hooks for the gradients of an iteration."""
        for function in self.solver.after_backward:
            function(self.solver.updater.parameters)

    def _update(self, lr: float) -> None:
        solver = self.solver
        iteration, iter_size, loss_scale = solver.iteration, solver.settings.iter_size, solver.loss_scale
        if loss_scale is None:
            if broken := solver.updater.apply(iteration, lr, iter_size):
                raise self._nonfinite_gradient(broken)
            return
        scale = loss_scale.value
        finite = solver.updater.apply_if_finite(iteration, lr, iter_size, scale)
        if not loss_scale.note(finite):
            raise NonFiniteError(f"iteration {iteration}: in float16 the gradients are not finite even "
                                 f"unscaled. Try a smaller base_lr (now {lr:g}), or precision: \"bfloat16\"")
        if not finite:
            log.info("Iteration %d, gradients are not finite at a loss scale of %g: no update, the scale is "
                     "now %g", iteration, scale, loss_scale.value)

    def _nonfinite(self, loss: float) -> NonFiniteError:
        solver = self.solver
        found = solver.net.first_nonfinite()
        record = solver.net.run.nonfinite_record()
        if found is not None and record:
            return NonFiniteError(f"iteration {solver.iteration}: the loss is {loss}, because the data hold "
                                  f"a NaN or infinity: {record} (blob {found[1]!r} of layer {found[0]!r}); "
                                  f"leave that record out, or mend it")
        place = "every output of the net is finite: the sum of the losses overflows" if found is None else (
            f"the first output that is not finite is blob {found[1]!r} of layer {found[0]!r}")
        last = f"; the last snapshot is {solver.last_snapshot}" if solver.last_snapshot else ""
        return NonFiniteError(f"iteration {solver.iteration}: the loss is {loss}; {place}. Try a smaller "
                              f"base_lr (now {solver.learning_rate:g}) or clip_gradients{last}")

    def _nonfinite_gradient(self, name: str) -> NonFiniteError:
        solver = self.solver
        last = f"; the last snapshot is {solver.last_snapshot}" if solver.last_snapshot else ""
        return NonFiniteError(f"iteration {solver.iteration}: the loss is finite, but the gradient of {name} "
                              f"is not; nothing was updated. A division or a square root at 0 does that, or "
                              f"a base_lr that is too large (now {solver.learning_rate:g}){last}")

    @property
    def smoothed_loss(self) -> float:
        """The mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    def settle(self) -> None:
        """Wait for all iterations given to the device. Nothing to do here."""

    def look_behind(self) -> None:
        """Take over the losses that the device has computed by now. Nothing to do here."""

    def close(self) -> None:
        """Free what the device holds for iterations. Nothing to do here."""
