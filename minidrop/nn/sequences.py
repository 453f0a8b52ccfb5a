"""Modules over sequences (steps, streams, units): recurrent nets and attention.

Their weights begin as Caffe's `xavier` makes them, uniform with variance 1 / inputs (Glorot and Bengio 2010),
and biases as zeros.
"""

from __future__ import annotations

from typing import Any

from minidrop.config.numbers import truth
from minidrop.errors import ConfigError, ShapeError
from minidrop.nn.layer import Layer
from minidrop.nn.module import Module
from minidrop.nn.products import Linear
from minidrop.nn.symbol import Symbol


class Recurrent(Layer):
    """What LSTM, GRU and RNN have in common: input_size entries a step -> hidden_size units a step.

    Called with x (steps, streams, inputs) and perhaps `cont` (steps, streams): 0 where a sequence begins,
    else 1; by default no step begins one. Each call begins with states of zero. With `stateful` it goes on
    from the states that the call before left, one set in training and another out of it, without a gradient
    between calls (truncated backpropagation through time); `reset_states` of any module above begins anew. It
    takes no states, and returns none then.

    `state`: states to begin with, (1, streams, units) each, through which gradients flow: then it returns
    (h, states after the last step) in place of h. An LSTM has two, (h, c), the others one, (h,).
    `return_state=True` does the same with zeros to begin with. Further settings are those of recurrent_param:
    bidirectional, hidden_dropout={"dropout_ratio": 0.5}, ...

    Raises ShapeError for an x of other axes or inputs, and for another number of states; ConfigError for
    `stateful` with `bidirectional`.
    """

    kind, states = "", 1

    def __init__(self, input_size: int, hidden_size: int, *, stateful: bool = False,
                 weight_filler: Any = "xavier", bias_filler: Any = None, name: str | None = None,
                 **settings: Any):
        super().__init__(self.kind, inputs=[(1, 1, input_size), (1, 1)], num_output=hidden_size,
                         stateful=stateful, weight_filler=weight_filler, bias_filler=bias_filler, name=name,
                         **settings)
        self.input_size, self.hidden_size = input_size, hidden_size

    def forward(self, x: Symbol, cont: Symbol | None = None, state: Any = None,
                return_state: bool = False) -> Any:
        if self.trace.checked(x).ndim != 3 or x.shape[2] != self.input_size:
            raise ShapeError(f"{self.describe()}: expected x (steps, streams, {self.input_size}), got "
                             f"{x.shape}")
        if isinstance(cont, tuple | list) or isinstance(cont, Symbol) and cont.ndim == 3:
            names = "(h, c)" if self.states == 2 else "(h,)"
            raise ConfigError(f"{self.describe()}: behind x stands `cont`, which says where sequences begin; "
                              f"states are given by name, state={names}")
        return_state = truth(f"{self.describe()}: return_state", return_state)
        if self.stateful and (state is not None or return_state):
            given = "return_state" if state is None else "state"
            raise ConfigError(f"{self.describe()}: stateful=True carries the states on by itself, so it "
                              f"takes and returns none: leave out {given}, or stateful")
        trace = self.trace
        if cont is None:
            goes_on = self.stateful or return_state or state is not None
            anew: dict[str, Any] = {} if goes_on else {"first": 0.0}
            cont = trace.add("Fill", [x], name="cont", shape={"dim": (0, 0)}, value=1.0, **anew)
        if state is None and not return_state:
            return trace.apply(self, [x, cont])
        if state is None:
            zeros = {"dim": (1, 0, self.hidden_size)}
            state = [trace.add("Fill", [x], name=f"state{i}", shape=zeros) for i in range(self.states)]
        begin = [state] if isinstance(state, Symbol) else list(state)
        if len(begin) != self.states:
            raise ShapeError(f"{self.describe()}: expected {self.states} states to begin with, got "
                             f"{len(begin)}")
        h, *last = trace.apply(self, [x, cont, *begin], 1 + self.states, expose_hidden=True)
        return h, tuple(last)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); see Recurrent."""

    kind, states = "LSTM", 2


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014); see Recurrent."""

    kind = "GRU"


class RNN(Recurrent):
    """The plain recurrent net, h[t] = tanh(W x[t] + R h[t-1] + b); see Recurrent.

    output_product: it returns tanh(W_o h + b_o) in place of h, as Caffe's.
    """

    kind = "RNN"

    def __init__(self, input_size: int, hidden_size: int, *, output_product: bool = False, **settings: Any):
        super().__init__(input_size, hidden_size, output_product=output_product, **settings)


class Attention(Layer):
    """softmax(scale q k^T) v for each head of q, k, v (steps, streams, heads * size).

    Called with q, k, v and perhaps a mask of the keys (steps, streams): 0 where a key is padding, else 1.
    causal: a step reads no later one. dropout: share of the probabilities that is dropped, each on its own.
    """

    def __init__(self, heads: int = 1, causal: bool = False, dropout: float = 0.0, *, name: str | None = None,
                 **settings: Any):
        super().__init__("Attention", num_heads=heads, causal=causal, dropout_ratio=dropout or None,
                         name=name, **settings)

    def forward(self, q: Symbol, k: Symbol, v: Symbol, key_mask: Symbol | None = None) -> Any:
        return super().forward(*([q, k, v] if key_mask is None else [q, k, v, key_mask]))


class Rotary(Layer):
    """Turns pairs of each head by angles that grow with the step, as in GPT-NeoX and Llama."""

    def __init__(self, heads: int = 1, base: float = 10000.0, *, name: str | None = None, **settings: Any):
        super().__init__("Rotary", num_heads=heads, base=base, name=name, **settings)


class MultiHeadAttention(Module):
    """Attention between products: q, k and v of `width` units each, and `out` of what the heads found.

    Called with x, or with x and `memory`, which k and v then read, and perhaps a mask of the keys.
    Sequences are (steps, streams, width). Raises ConfigError for heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int, causal: bool = False, dropout: float = 0.0, bias: bool = True,
                 memory_width: int | None = None, weight_filler: Any = "xavier"):
        read = memory_width or width
        self.q = Linear(width, width, bias, weight_filler=weight_filler)
        self.k = Linear(read, width, bias, weight_filler=weight_filler)
        self.v = Linear(read, width, bias, weight_filler=weight_filler)
        self.attention = Attention(heads, causal, dropout)
        if width % heads:
            raise ConfigError(f"MultiHeadAttention: {heads} heads do not divide the width, {width}")
        self.out = Linear(width, width, bias, weight_filler=weight_filler)

    def forward(self, x: Symbol, memory: Symbol | None = None, key_mask: Symbol | None = None) -> Any:
        read = x if memory is None else memory
        return self.out(self.attention(self.q(x), self.k(read), self.v(read), key_mask))
