"""AttentionDecoder: the decoder of a translation model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.errors import ConfigError, ShapeError
from minidrop.functions.decoder import decode, mean_of_places, zero_state
from minidrop.functions.hidden_drop import gate_rows
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import OWN, Product
from minidrop.layers.hidden_dropout import HiddenDropout

if TYPE_CHECKING:
    from minidrop.config import LayerParameter
    from minidrop.layers.base import Context


@register_layer("AttentionDecoder")
class AttentionDecoder(Layer):
    """y_t = tanh(Wm context_t + Wo h_t): states h of an LSTM, and what they find in a memory.

    Bottoms: x (steps, streams, ...), memory (places, streams, entries), mask (places, streams), 0 where the
    memory is padding. Tops: y (steps, streams, num_output) [, the weights (steps, streams, places)]. Every
    batch holds whole sequences; steps behind the end of one change nothing before it. See functions.decode.

    Drops above x and above the memory make its products smaller. hidden_dropout drops h as in an LSTM; with
    time SEQUENCE, y and the scores lack those units too, y itself is complete. A drop of y makes its products
    smaller only if input_feeding is false: otherwise the next step reads all of y.

    With `continues` the states are carried from batch to batch: one step at a time gives what all steps at
    once give. They begin anew after `Net.reset_states`.
    """

    type = "AttentionDecoder"
    bottoms = (3, 3)
    tops = (1, 2)
    along = 0
    stream = "hidden dropout"
    draws_by_place = True
    capturable = False          # the host slices batches whose lengths differ

    def __init__(self, config: LayerParameter, context: Context):
        self.hidden = HiddenDropout(config.name, config.decoder_param, context.seed)
        self.site = self.hidden.site
        super().__init__(config, context)

    # -- shapes ----------------------------------------------------------------------------------------------
    def setup(self, x: tuple[int, ...], memory: tuple[int, ...], mask: tuple[int, ...]) -> list[tuple]:
        settings = self.settings
        if not settings.num_output:
            raise ConfigError("decoder_param needs num_output, at least 1")
        if len(x) < 3 or len(memory) != 3 or memory[1] != x[1] or tuple(mask) != tuple(memory[:2]):
            raise ShapeError(f"expected x (steps, streams, inputs), memory (places, streams, entries) and "
                             f"mask (places, streams), got {tuple(x)}, {tuple(memory)} and {tuple(mask)}")
        self.score, self.feeds = settings.Score.Name(settings.score), settings.input_feeding
        self.steps, self.streams, self.units = x[0], x[1], settings.num_output
        self.inputs, self.flattens = math.prod(x[2:]), len(x) != 3
        self.places, self.entries = memory[0], memory[2]
        if self.score == "DOT" and self.entries != self.units:
            raise ShapeError(f"score: DOT needs a memory of {self.units} entries, one for each unit, got "
                             f"{self.entries}; set score: GENERAL, or num_output: {self.entries}")
        if settings.continues and self.training:
            raise ConfigError("continues is for phase TEST: a training batch holds whole sequences")
        self.hidden.shape((*x[:2], self.units))
        return [(*x[:2], self.units), (*x[:2], self.places)][:len(self.config.top)]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings, units, entries = self.settings, self.units, self.entries
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (4 * units, self.inputs), "bias": (4 * units,), "recurrent_weight": (4 * units, units),
            "context_weight": (units, entries), "output_weight": (units, units)}
        if self.feeds:
            shapes["feeding_weight"] = (4 * units, units)
        if self.score != "DOT":
            shapes["memory_weight"] = (units, entries)
        if self.score == "ADDITIVE":
            shapes |= {"query_weight": (units, units), "score_weight": (1, units)}
        if settings.bridge:
            for state in ("h", "c"):
                shapes |= {f"bridge_{state}_weight": (units, entries), f"bridge_{state}_bias": (units,)}
        fillers = {"weight": settings.weight_filler, "bias": settings.bias_filler}
        return [ParameterSpec(name, shape, fillers[name.rpartition("_")[2]],
                              f"{name.rpartition('_')[2]}_filler") for name, shape in shapes.items()]

    def state_shapes(self) -> dict[str, tuple[int, int]]:
        states = ("h", "c", *("fed",) * self.feeds)
        shapes = {name: (self.streams, self.units) for name in states}
        return {**shapes, "begun": (self.streams, 1)} if self.settings.continues else {}

    def flow(self, shapes: list[tuple[int, ...]]) -> list:
        places, looked, units, entries = (self.steps * self.streams, self.places * self.streams, self.units,
                                          self.entries)
        whole = 2 if self.hidden.whole else None
        out: dict[str, Any] = {"top": OWN, "out_axis": whole, "kinds": ("units", "groups", "blocks")}
        own: dict[str, Any] = {"kinds": ("units", "groups"), "bottom": OWN, "calls": self.steps}
        # Drops of blocks know the first bottom only; and DOT compares all of the memory with states.
        memory: dict[str, Any] = {"kinds": ("units", "groups"), "bottom": 1,
                                  "in_axis": None if self.score == "DOT" else 2}
        # What the next step reads has to be complete.
        result: dict[str, Any] = {"out_axis": None if self.feeds else 2}
        facts: list[Any] = [
            Product("weight", places, self.inputs, 4 * units, in_axis=2, in_spread=math.prod(shapes[0][3:]),
                    **out),
            Product("recurrent_weight", places, units, 4 * units, bottom=OWN, in_axis=2, calls=self.steps,
                    **out),
            Product("context_weight", places, entries, units, **memory, **result),
            Product("output_weight", places, units, units, in_axis=whole, **own, **result)]
        if self.feeds:
            facts.append(Product("feeding_weight", places, units, 4 * units, bottom=OWN, calls=self.steps,
                                 **out))
        if self.score != "DOT":
            compared = whole if self.score == "GENERAL" else None
            facts.append(Product("memory_weight", looked, entries, units, top=OWN, out_axis=compared,
                                 **memory))
        if self.score == "ADDITIVE":
            facts.append(Product("query_weight", places, units, units, in_axis=whole, top=OWN, **own))
        if self.settings.bridge:
            facts += [Product(f"bridge_{state}_weight", self.streams, entries, units, top=OWN, out_axis=whole,
                              biases=(f"bridge_{state}_bias",), **memory) for state in ("h", "c")]
        return facts + self.hidden.facts(OWN)

    # -- running ---------------------------------------------------------------------------------------------
    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Any:
        parameter, drop = self.params, self.hidden.of(x, self.drawn, self.plan.skips)
        if self.flattens:
            x = functions.flatten(x, 2)
        gates = functions.linear(x, parameter["weight"], parameter["bias"], gate_rows(drop.units, 4),
                                 inputs=self.drawn.inputs)
        names = {"Wh": "recurrent_weight"}
        if self.feeds:
            names |= {"Wf": "feeding_weight", "Wm": "context_weight", "Wo": "output_weight"}
        if self.score == "ADDITIVE":
            names["Wq"] = "query_weight"
        weights: dict[str, Tensor] = {name: parameter[own] for name, own in names.items()}
        if self.score == "ADDITIVE":
            weights["v"] = functions.reshape(parameter["score_weight"], (self.units,))
        found = decode(gates, memory, self._keys(memory, drop), mask, weights,
                       self._states(x, memory, mask, drop), self.score, self.feeds, drop)
        if self.settings.continues:
            self.state = {name: found[name].data for name in self.state if name != "begun"}
            self.state["begun"] = x.backend.xp.ones((x.shape[1], 1), x.dtype)
        y = found["y"] if self.feeds else self._result(found["context"], found["state"])
        return y if len(self.config.top) == 1 else (y, found["weights"])

    def _keys(self, memory, drop):
        """Return what the scores compare states with."""
        if self.score == "DOT":
            return memory if drop.units is None else functions.take(memory, drop.units, 2)
        return functions.linear(memory, self.params["memory_weight"], None,
                                drop.units if self.score == "GENERAL" else None)

    def _states(self, x, memory, mask, drop):
        """Return the states before the first step, without the units that are absent."""
        states = {name: zero_state(x, self.units, drop.units) for name in ("h", "c")}
        if self.feeds:
            states["fed"] = zero_state(x, self.units)
        if self.settings.bridge:
            mean = mean_of_places(memory, mask)
            for name in ("h", "c"):
                states[name] = functions.linear(mean, self.params[f"bridge_{name}_weight"],
                                                self.params[f"bridge_{name}_bias"], drop.units,
                                                activation="tanh")
        if not self.settings.continues:
            return states
        begun = self.state["begun"]
        return {name: Tensor(begun * self.state[name] + (1 - begun) * state.data, backend=x.backend)
                for name, state in states.items()}

    def _result(self, context, state):
        """Return y for all steps at once, without what a drop below leaves out."""
        below = self.drawn.outputs
        parts = [functions.linear(part, self.params[name], None, below)
                 for part, name in ((context, "context_weight"), (state, "output_weight"))]
        return functions.tanh(functions.add(*parts))
