"""RecurrentLayer: the base class of LSTM, GRU and RNN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.functions.hidden_drop import gate_rows
from minidrop.functions.recurrent import Recurrent, recur
from minidrop.layers.base import Layer, ParameterSpec
from minidrop.layers.flow import OWN, Product
from minidrop.layers.hidden_dropout import HiddenDropout

if TYPE_CHECKING:
    from minidrop.config import LayerParameter
    from minidrop.layers.base import Context


class RecurrentLayer(Layer):
    """A recurrent network over x (T, N, inputs...); cont (T, N) is 0 where a sequence begins, else 1.

    Bottoms: x, cont [, static (N, ...): an input that is the same at every step] [, with expose_hidden the
    states before the first step, (1, N, H) each]. Tops: h (T, N, H), of both directions (T, N, 2 H) [, with
    expose_hidden the states after the last step]. Without expose_hidden the states are carried from batch to
    batch without a gradient (truncated backpropagation through time). With `bidirectional` nothing is
    carried: a batch holds whole sequences. Padding has cont 0 at each of its steps, so that neither direction
    carries it into a sequence. A batch may have fewer steps than the net was built for.

    hidden_dropout drops h between steps. With time STEP the gates of each step read another subset of h, and
    the top is complete; with steps_per_pattern a subset is read by so many steps, be it all of them. With
    time SEQUENCE some units are absent from all steps of the batch: from gates, weights and top. Their
    carried state stays as it was, or becomes 0 where a sequence begins (CONVENTIONAL: it is computed as
    usual). Both directions drop the same units. The states themselves are never scaled. If the top is a
    product of h (RNN), that product reads what would otherwise be the top, and is computed in full.
    """

    bottoms = (2, 5)
    tops = (1, 3)
    along = 0
    stream = "hidden dropout"
    draws_by_place = True
    cell: type[Recurrent]                    # one of functions.recurrent
    state_names: tuple[str, ...] = ("h",)
    state_biases: tuple[str, ...] = ()       # further biases, each with an entry per gate and unit
    projects = False                         # whether the top is a product of h instead of h

    def __init__(self, config: LayerParameter, context: Context):
        self.hidden = HiddenDropout(config.name, config.recurrent_param, context.seed)
        self.site = self.hidden.site
        super().__init__(config, context)

    # -- shapes ----------------------------------------------------------------------------------------------
    def setup(self, x: tuple[int, ...], cont: tuple[int, int], *others: Any) -> list[tuple[int, ...]]:
        settings = self.settings
        if not settings.num_output:
            raise ConfigError("recurrent_param needs num_output, at least 1")
        if settings.HasField("output_product") and self.type != "RNN":
            raise ConfigError(f"output_product is a setting of RNN; {self.type} has none, remove it")
        if len(x) < 3 or tuple(cont) != tuple(x[:2]):
            raise ShapeError(f"expected x (steps, streams, inputs) and cont (steps, streams), got {tuple(x)} "
                             f"and {tuple(cont)}")
        self.exposed, self.both = settings.expose_hidden, settings.bidirectional
        if self.exposed and self.both:
            raise ConfigError("expose_hidden and bidirectional are both true; a state that goes on in time "
                              "has one direction")
        self.steps, self.streams, self.units = x[0], x[1], settings.num_output
        self.inputs, self.flattens = math.prod(x[2:]), len(x) != 3
        count = len(self.state_names) * self.exposed
        states, statics = others[len(others) - count:], others[:len(others) - count]
        if len(others) < count or len(statics) > 1:
            raise ConfigError(f"expected the bottoms x, "
                              f"cont{', at most one static input' if not count else ''}" + f", then {count} "
                              f"states (expose_hidden)" * bool(count) + f", got {2 + len(others)}")
        for name, state in zip(self.state_names, states, strict=False):
            if tuple(state) != (1, self.streams, self.units):
                raise ShapeError(f"expected the state {name} as (1, {self.streams}, {self.units}), got "
                                 f"{tuple(state)}")
        if statics and (not statics[0] or statics[0][0] != self.streams):
            raise ShapeError(f"expected a static input for {self.streams} streams, got shape "
                             f"{tuple(statics[0])}")
        self.static = math.prod(statics[0][1:]) if statics else None
        if len(self.config.top) not in (1, 1 + count):
            raise ConfigError(f"expected 1 top{f' or {1 + count}' * bool(count)}, got {len(self.config.top)}")
        self.hidden.shape((*x[:2], self.units))
        tops = [(*x[:2], self.units * (1 + self.both))] + [(1, self.streams, self.units)] * count
        return tops[:len(self.config.top)]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings, rows = self.settings, self.cell.gates * self.units
        specs = []
        for prefix in self._prefixes():
            specs += [ParameterSpec(f"{prefix}weight", (rows, self.inputs), settings.weight_filler),
                      ParameterSpec(f"{prefix}bias", (rows,), settings.bias_filler)]
            if self.static is not None:
                specs.append(ParameterSpec(f"{prefix}static_weight", (rows, self.static),
                                           settings.weight_filler))
            specs.append(ParameterSpec(f"{prefix}recurrent_weight", (rows, self.units),
                                       settings.weight_filler))
            specs += [ParameterSpec(f"{prefix}{name}", (rows,), settings.bias_filler)
                      for name in self.state_biases]
            if self.projects:
                specs += [ParameterSpec(f"{prefix}output_weight", (self.units,) * 2, settings.weight_filler),
                          ParameterSpec(f"{prefix}output_bias", (self.units,), settings.bias_filler)]
        return specs

    def _prefixes(self):
        return ("", "reverse_") if self.both else ("",)

    def state_shapes(self) -> dict[str, tuple[int, int]]:
        carried = not (self.exposed or self.both)
        return {name: (self.streams, self.units) for name in self.state_names if carried}

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Product]:
        places, gates = self.steps * self.streams, self.cell.gates * self.units
        # Each gate of a unit is a separate output, so only the layer's own drop can leave units out.
        whole = self.hidden.whole
        h = OWN if self.projects else 0
        kinds = ("units", "groups", "blocks")
        units: dict[str, Any] = {"top": h, "out_axis": 2 if whole else None, "kinds": kinds}
        facts: list[Any] = []
        for prefix in self._prefixes():
            facts.append(Product(f"{prefix}weight", places, self.inputs, gates, in_axis=2,
                                 in_spread=math.prod(shapes[0][3:]), **units))
            if self.static is not None:
                facts.append(Product(f"{prefix}static_weight", self.streams, self.static, gates, bottom=2,
                                     **units))
            facts.append(Product(f"{prefix}recurrent_weight", places, self.units, gates, bottom=OWN,
                                 in_axis=2, calls=self.steps, **units))
            if self.projects:
                facts.append(Product(f"{prefix}output_weight", places, self.units, self.units, bottom=OWN,
                                     in_axis=2 if whole else None, out_axis=None if self.both else 2,
                                     kinds=kinds, biases=(f"{prefix}output_bias",)))
        facts += self.hidden.facts(h if whole else OWN)
        return facts

    # -- running ---------------------------------------------------------------------------------------------
    def forward(self, x: Tensor, cont: Tensor, *others: Any) -> Any:
        self._check_cont(cont)
        if self.flattens:
            x = functions.flatten(x, 2)
        static = others[0] if self.static is not None else None
        states = [functions.reshape(state, state.shape[1:]) for state in others[self.static is not None:]]
        if carries := bool(self.state_shapes()):
            states = self._carried(x, cont)
        drop = self.hidden.of(x, self.drawn, self.plan.skips)
        h, *last = self._direction("", x, cont, static, states or None, drop)
        if self.both:
            back, *_ = self._direction("reverse_", x, cont, static, None, drop)
            h = functions.concat([h, back], 2)
        if carries and x.shape[1] == self.streams:
            self.state = {name: state.data for name, state in zip(self.state_names, last, strict=True)}
        if len(self.config.top) == 1:
            return h
        return h, *[functions.reshape(state, (1, *state.shape)) for state in last]

    def _carried(self, x, cont):
        """Return the states before the first step; a batch of another number of streams must begin anew.

        What follows such a batch goes on from zeros.
        """
        streams = x.shape[1]
        if streams == self.streams:
            return [Tensor(self.state[name], backend=x.backend) for name in self.state_names]
        if x.backend.to_host((cont.data[0] != 0).any()):
            raise ShapeError(f"the states of {self.streams} streams cannot go on in a batch of {streams}; "
                             f"make all batches alike (drop_last leaves out a smaller last batch), or let "
                             f"all sequences begin at step 0 (cont 0)")
        zeros = x.backend.zeros
        self.state = {name: zeros(shape, x.dtype) for name, shape in self.state_shapes().items()}
        return [Tensor(zeros((streams, self.units), x.dtype), backend=x.backend) for _ in self.state_names]

    def _check_cont(self, cont):
        """Raise DataError if an entry of cont is neither 0 nor 1."""
        flat = cont.data.reshape(-1)
        wrong = (flat != 0) & (flat != 1)

        def error():
            place = int(wrong.argmax())
            return DataError(f"cont is {float(flat[place]):g} at place {place} of the batch; expected 0 "
                             f"where a sequence begins, else 1. It is the second bottom, as the third top "
                             f"of TextData", place)

        cont.backend.refuse(wrong, error)

    def _direction(self, prefix, x, cont, static, states, drop):
        parameter = {name.removeprefix(prefix): value for name, value in self.params.items()
                     if name.startswith("reverse_") == bool(prefix)}
        rows = gate_rows(drop.units, self.cell.gates)
        gates = functions.linear(x, parameter["weight"], parameter["bias"], rows, inputs=self.drawn.inputs)
        if static is not None:
            flat = functions.reshape(functions.expand(static), (x.shape[1], self.static))
            gates = functions.add_to_steps(gates,
                                           functions.linear(flat, parameter["static_weight"], None, rows))
        weights = [parameter[name] for name in ("recurrent_weight", *self.state_biases)]
        if not prefix:
            h, *last = recur(self.cell, gates, cont, weights, states, drop)
            return self._projected(h, parameter), *last
        # In reverse, step t continues from step t + 1 if step t + 1 continued from step t.
        joined = x.backend.empty(cont.data.shape, cont.data.dtype)
        joined[:1], joined[1:] = 0, cont.data[1:][::-1]
        turned = Tensor(joined, backend=x.backend)
        h, *last = recur(self.cell, functions.reverse_steps(gates), turned, weights, states, drop)
        return self._projected(functions.reverse_steps(h), parameter), *last

    def _projected(self, h, parameter):
        """Return the top: h, or its product."""
        if not self.projects:
            return h
        return functions.linear(h, parameter["output_weight"], parameter["output_bias"],
                                self.drawn.outputs, activation="tanh")
