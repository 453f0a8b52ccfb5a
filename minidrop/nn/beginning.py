"""Recurrent states that begin anew with each batch, also in the net that a file holds of a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minidrop.layers import layer_class
from minidrop.layers.recurrent import RecurrentLayer
from minidrop.nn.symbol import Symbol, TraceError

if TYPE_CHECKING:
    from minidrop.layers import Layer as LayerType
    from minidrop.nn.layer import Layer
    from minidrop.nn.trace import Trace


def carries_states(kind: type[LayerType], settings: Mapping[str, Any]) -> bool:
    """Whether a layer of this class and with these settings is recurrent and carries its states on."""
    return issubclass(kind, RecurrentLayer) and not (settings.get("expose_hidden")
                                                     or settings.get("bidirectional"))


def beginning(trace: Trace, module: Layer, bottoms: Sequence[Symbol],
              settings: Mapping[str, Any]) -> Sequence[Symbol]:
    """Return the bottoms of a layer, of which `cont` says that sequences begin with the first step.

    cont' = cont * m,  m = 0 at step 0, else 1

    Only for layers that carry states, and a cont that does not say so by itself; others get their bottoms as
    they are.
    """
    if (not carries_states(layer_class(module.type), settings) or len(bottoms) < 2
            or len(bottoms[1].shape) != 2):
        return bottoms
    x, cont, *others = bottoms
    maker = next((layer for layer in trace.message.layer if cont.blob in layer.top), None)
    if maker is not None and maker.type == "Fill" and maker.fill_param.HasField("first"):
        return bottoms
    begins = trace.add("Fill", [cont], name="begins", shape={"dim": (0, 0)}, value=1.0, first=0.0)
    return [x, trace.add("Eltwise", [cont, begins], operation="PROD"), *others]


def check_begins(module: Layer, layer: LayerType) -> None:
    """Raise TraceError for a layer that carries states, cannot be told to begin anew, and should."""
    if layer.state_shapes() and not module.stateful and not isinstance(layer, RecurrentLayer):
        raise TraceError(f"{module.describe()}: a {module.type} layer would carry its states on from batch "
                         f"to batch in the net of a Solver; make it stateful=True, or write the loop by hand")
