"""debug_info: Caffe's mean absolute values of blobs, parameters and their gradients."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from minidrop.autograd import Tensor

if TYPE_CHECKING:
    from minidrop.net import Net
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)


def wants_debug_info(solver: Solver) -> bool:
    """Whether the solver file or the train net asks for debug_info."""
    return solver.settings.debug_info or solver.net.config.message.debug_info


class DebugInfo:
    """Logs mean |x| of one iteration in [Forward], [Backward] and [Update] lines, as Caffe's Net does.

    Dropped entries count as 0, in both directions. Gradients of blobs are those of the last of iter_size
    passes, those of parameters of all passes. For a blob with several readers the total gradient is shown.
    """

    def __init__(self, solver: Solver):
        self.solver, self.net = solver, solver.net
        # The sum of absolute values by (id of the function, number of its output).
        self.gradients: dict[tuple[int, int], float] = {}
        self.functions: dict[int, Any] = {}                 # watched; kept alive so that no id recurs
        self.before: dict[str, Any] = {}

    def forward(self) -> None:
        """Log the blobs and parameters of a forward pass, and watch its functions for `backward`."""
        log_forward(self.net)
        for tensor in self.net.run.tensors.values():
            self._watch(tensor.creator)

    def _watch(self, function):
        if function is None or id(function) in self.functions:
            return
        self.functions[id(function)] = function

        def watch(backward):
            def watched(backend, gy, wanted):
                places = function.output_kept
                for i, gradient in enumerate(gy if isinstance(gy, tuple) else (gy,)):
                    if gradient is not None:
                        place = places[i] if isinstance(places, list) else places
                        self.gradients[id(function), i] = self._sum(
                            Tensor(gradient, False, backend, *place).entries)
                return backward(backend, gy, wanted)
            return watched
        function.watch_backward(watch)

    def backward(self) -> None:
        """Log the gradients of blobs and parameters, and the norms of all parameters and gradients."""
        for node in reversed(self.net.graph.nodes):
            for ref in node.bottoms:
                tensor = self.net.tensor(ref)
                key = id(tensor.creator), tensor.output_index
                if key in self.gradients:
                    log.info("    [Backward] Layer %s, bottom blob %s diff: %g", node.name, ref.name,
                             self.gradients[key] / max(math.prod(tensor.shape), 1) / self._scale)
            for name, parameter in node.layer.params.items():
                if parameter.requires_grad:
                    _say(self.net, "Backward", node.name, f"param blob {name} diff", parameter.dense_grad(),
                         parameter.shape, self._scale)
        trained = self.solver.updater.parameters
        data, diff = [p.data for p in trained.values()], [p.dense_grad() for p in trained.values()]
        log.info("    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)",
                 sum(map(self._sum, data)), sum(map(self._sum, diff)) / self._scale,
                 self._length(data), self._length(diff) / self._scale)
        self.before = {name: parameter.data.copy() for name, parameter in trained.items()}

    def update(self) -> None:
        """Log the parameters after an update, and the size of the change."""
        for name, parameter in self.solver.updater.parameters.items():
            layer, _, own = name.rpartition("/")
            log.info("    [Update] Layer %s, param %s data: %g; diff: %g", layer, own,
                     _mean(self.net, parameter.data, parameter.shape),
                     _mean(self.net, parameter.data - self.before[name], parameter.shape))

    @property
    def _scale(self):
        """The factor on the gradients, which is 1 except in float16."""
        return self.solver.loss_scale.value if self.solver.loss_scale is not None else 1.0

    def _sum(self, array):
        return _sum(self.net, array)

    def _length(self, arrays):
        return math.sqrt(self.net.backend.sum_of_squares(*arrays))


def log_forward(net: Net) -> None:
    """Log the blobs and parameters of the last forward pass of a net, mean |x| each."""
    for node in net.graph.nodes:
        for ref in node.tops:
            tensor = net.tensor(ref)
            _say(net, "Forward", node.name, f"top blob {ref.name} data", tensor.entries, tensor.shape)
        for name, parameter in node.layer.params.items():
            _say(net, "Forward", node.name, f"param blob {name} data", parameter.data, parameter.shape)


def _sum(net, array):
    """The sum of absolute values."""
    return float(net.backend.to_host(abs(array).sum(dtype="float64")))


def _mean(net, array, shape):
    """The mean of absolute values; what is dropped of `shape` is 0."""
    return _sum(net, array) / max(math.prod(shape), 1)


def _say(net, way, layer, what, array, shape, scale=1.0):
    log.info("    [%s] Layer %s, %s: %g", way, layer, what, _mean(net, array, shape) / scale)
