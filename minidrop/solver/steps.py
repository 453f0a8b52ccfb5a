"""EagerSteps: iterations run layer by layer: forward, backward, update."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Tensor, no_grad
from minidrop.errors import NonFiniteError
from minidrop.solver.averages import average
from minidrop.solver.debug_info import DebugInfo, wants_debug_info
from minidrop.solver.evaluation import joined_outputs

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

Show = Callable[[Mapping, dict[str, Tensor]], None]


class EagerSteps:
    """Runs the iterations of a Solver layer by layer. CapturedSteps has the same interface.

    `losses`: the last `average_loss` losses. `gradient_norm`: of the last iteration, with log_gradient_norm.
    """

    def __init__(self, solver: Solver):
        self.solver = solver
        self.gradient_norm = math.nan
        self.losses: deque[float] = deque(maxlen=max(1, solver.settings.average_loss))

    @property
    def uncaptured(self) -> EagerSteps:
        """The steps that run layer by layer: these."""
        return self

    def step(self, lr: float, show: Show) -> Mapping:
        """Run the solver's current iteration, and return its values by name, those of a "step" event.

        show(values, {output name: Tensor}) is called before the update. Raises NonFiniteError.
        """
        solver = self.solver
        shown = solver.settings.display and solver.iteration % solver.settings.display == 0
        debug = DebugInfo(solver) if shown and wants_debug_info(solver) else None
        outputs = self.forward_backward(debug)
        self.after_backward()
        if debug:
            debug.backward()
        scale, norm = solver.loss_scale, None
        values = {"loss": self.smoothed_loss, "lr": lr, **(scale.values if scale is not None else {})}
        if solver.settings.log_gradient_norm:
            norm = solver.updater.norm()
            self.gradient_norm = values["gradient_norm"] = norm / (scale.value if scale is not None else 1)
        if shown:
            outputs = joined_outputs(solver.net, outputs, solver.ranks)
        show(values, outputs)
        if solver.local_steps.active:       # a gradient that is broken on one rank alone updates none
            norm = solver.ranks.together(lambda: self._checked_norm(norm))
        solver.local_steps.update(lambda: self.update(lr, norm))
        if debug:
            debug.update()
        return values

    def forward_backward(self, debug: DebugInfo | None = None) -> dict[str, Tensor]:
        """Run iter_size passes forward and backward, and return the outputs of the last, which `debug` logs.

        Losses and gradients equal those of one batch made of all passes: if labels are ignored, each loss
        weights a pass by the labels that count in it.
        """
        ranks = self.solver.ranks
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):     # losses are checked
            passes = _Passes(self, debug)
            if not ranks.agreed(passes.run):
                # The losses weight the passes differently, by shares of totals that are not known yet.
                passes = _Passes(self, debug, passes.look_ahead())
                ranks.agreed(passes.run)
            passes.join()
        self.losses.append(passes.loss)
        return passes.outputs

    def after_backward(self) -> None:
        """Call the solver's `after_backward` hooks."""
        for function in self.solver.after_backward:
            function(self.solver.updater.parameters)

    def update(self, lr: float, norm: float | None = None) -> None:
        """Update by the gradients of `forward_backward`, whose norm is this, if known.

        Raises NonFiniteError if one is not finite.
        """
        solver = self.solver
        iteration, iter_size, loss_scale = solver.iteration, solver.settings.iter_size, solver.loss_scale
        if loss_scale is None:
            if broken := solver.updater.apply(iteration, lr, iter_size, norm):
                raise self._nonfinite_gradient(broken)
            average(solver)
            return
        scale = loss_scale.value
        finite = solver.updater.apply_if_finite(iteration, lr, iter_size, scale, norm)
        if not loss_scale.note(finite):
            raise NonFiniteError(f"iteration {iteration}: in float16 the gradients are not finite even "
                                 f"unscaled. Try a smaller base_lr (now {lr:g}), or precision: \"bfloat16\"")
        if finite:
            average(solver)
        else:
            log.info("Iteration %d, gradients are not finite at a loss scale of %g: no update, the scale is "
                     "now %g", iteration, scale, loss_scale.value)

    def nonfinite(self, loss: float) -> NonFiniteError:
        """Return the error for a loss that is not finite: which blob or which record is the first."""
        solver = self.solver
        found = solver.net.first_nonfinite()
        record = solver.net.run.nonfinite_record()
        if found is not None and record:
            return NonFiniteError(f"iteration {solver.iteration}: the loss is {loss}, because the data hold "
                                  f"a NaN or infinity: {record} (blob {found[1]!r} of layer {found[0]!r}); "
                                  f"leave that record out, or mend it")
        place = "every output of the net is finite: the sum of the losses overflows" if found is None else (
            f"the first output that is not finite is blob {found[1]!r} of layer {found[0]!r}")
        return NonFiniteError(f"iteration {solver.iteration}: the loss is {loss}; {place}. Try a smaller "
                              f"base_lr (now {solver.learning_rate:g}) or clip_gradients"
                              f"{solver.written.advice()}")

    def _checked_norm(self, norm):
        norm = self.solver.updater.norm() if norm is None else norm
        if broken := self.solver.updater.nonfinite(norm):
            raise self._nonfinite_gradient(broken)
        return norm

    def _nonfinite_gradient(self, name: str) -> NonFiniteError:
        solver = self.solver
        return NonFiniteError(f"iteration {solver.iteration}: the loss is finite, but the gradient of {name} "
                              f"is not; nothing was updated. A division or a square root at 0 does that, or "
                              f"a base_lr that is too large (now {solver.learning_rate:g})"
                              f"{solver.written.advice()}")

    @property
    def smoothed_loss(self) -> float:
        """The mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    def settle(self) -> None:
        """Do nothing: no iteration is pending."""

    def look(self) -> None:
        """Do nothing: every loss is recorded already."""

    def look_behind(self) -> None:
        """Do nothing: every loss is recorded already."""

    def close(self) -> None:
        """Do nothing: the device holds nothing for later iterations."""


class _Passes:
    """The iter_size passes of one iteration.

    factors: (passes, losses), by which each loss of each pass is multiplied. None: each pass is weighted as a
    whole, with a division at the end; all losses must then agree on how much of a pass counts.

    On several ranks each runs its passes, and `join` adds up what they found, as if all were passes of one;
    but losses that are sums over the samples of a batch (`Parts.adds_up`) are not averaged over ranks.
    """

    def __init__(self, steps: EagerSteps, debug: DebugInfo | None, factors: np.ndarray | None = None):
        self.steps, self.solver, self.net = steps, steps.solver, steps.solver.net
        self.size = self.solver.settings.iter_size
        self.debug, self.factors = debug, factors
        self.ranks = self.solver.ranks
        self.several = self.size > 1 or not self.ranks.alone
        self.begin = (self.net.positions, self.net.states) if self.several else None
        # Those of a pass count once, also where the passes have to be run again.
        again = self.several and len(self.net.losses) > 1
        self.statistics = [(one, one.data.copy()) for one in self.net.statistics()] if again else []
        self.times = [self.ranks.size if ref in self.net.parts.adds_up else 1 for ref, _ in self.net.losses]
        self.outputs: dict[str, Tensor] = {}
        self.last: list[float] = []     # what each loss of the last pass is multiplied by
        self.loss = self.total = 0.0        # total: how much counts, of all passes

    def run(self) -> bool:
        """Add up gradients and losses, but for the last pass backward, which `join` makes.

        Returns False, with unusable results, if the losses do not agree.
        """
        net, loss_scale = self.net, self.solver.loss_scale
        scale = loss_scale.value if loss_scale else 1.0
        net.clear_grads()
        for part in range(self.size):
            losses = self._forward(part)
            weights = self._weights(part)
            if weights is None:
                return False
            self.last = [scale * weight for weight in weights]
            if part < self.size - 1:
                net.backward(self.last)
            else:
                if self.debug:
                    self.debug.forward()
                for function in self.solver.after_forward:
                    function()
            self.loss += sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / self.size
        return True

    def join(self) -> None:
        """Run the last pass backward, and add up gradients and losses over ranks, divided by how much counts
        in all passes."""
        if not self.ranks.alone:
            self.total, self.loss = self.ranks.total([self.total, self.loss]).tolist()
        passes = 1.0 if self.factors is not None or not self.total else self.size / self.total
        self.loss *= passes
        if self.ranks.alone or self.solver.local_steps.active:
            self.ranks.together(lambda: self.net.backward(self.last))
            own = passes * self.ranks.size      # the mean over ranks is the gradient of the whole batch
            for parameter in self.solver.updater.parameters.values() if own != 1 else ():
                parameter.scale_grad(own)
        else:
            self._add_up(passes)

    def _add_up(self, passes):
        total, error = self.solver.gradient_sum, None
        reduction = total.begin(self.solver.updater.parameters, passes)
        try:
            self.net.backward(self.last, reduction if total.early else None)
        except Exception as raised:     # raised by `finish`, on all ranks
            error = raised
        reduction.finish(error)

    def _weights(self, part):
        """What each loss of a pass is multiplied by; None where they do not agree on how much counts."""
        if self.factors is not None:
            self.total += 1
            return (self.factors[part] * self.times).tolist()
        counts = self.net.run.loss_counts if self.several else []
        if len(set(counts)) > 1:
            return None
        self.total += counts[0] if counts else 1
        if not counts:
            return [1.0] * len(self.net.losses)
        return [count * times for count, times in zip(counts, self.times, strict=True)]

    def look_ahead(self) -> np.ndarray:
        """Run all passes forward only and go back to where they began; returns their `factors`.

        Each is what counts in a loss of a pass, divided by the mean over the passes, and by the number of
        ranks; 0 where nothing counts.
        """
        counts = self.ranks.together(self._all_counts)
        self._forget_statistics()
        total = self.ranks.total(counts.sum(axis=0))
        return counts * self.size / np.where(total == 0, 1, total)

    def _forget_statistics(self):
        for parameter, before in self.statistics:
            parameter.data[...] = before

    def _all_counts(self):
        net = self.net
        positions, states = self.begin
        net.seek(positions)
        net.set_states(states)
        with net.restored(), no_grad():
            return np.array([self._counts(part) for part in range(self.size)], np.float64)

    def _counts(self, part):
        self._forward(part)
        return self.net.run.loss_counts

    def _forward(self, part):
        """Run one pass forward; returns its losses."""
        net = self.net
        net.draw_patterns(self.solver.iteration * self.size + part)
        self.outputs = net.forward()
        losses = net.run.losses
        if not math.isfinite(sum(losses)):
            raise self.steps.nonfinite(sum(losses))
        return losses
