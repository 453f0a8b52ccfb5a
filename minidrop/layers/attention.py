"""Attention."""

from __future__ import annotations

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.config import decimal
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.functions.attention import computed_scores
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Drops, Pass, Product


@register_layer("Attention")
class Attention(Layer):
    """softmax(scale q k^T) v for each head: q (Tq, N, C), k (Tk, N, C), v (Tk, N, Cv) -> (Tq, N, Cv).

    Bottoms: q, k, v [, key_mask (Tk, N): 0 where a key is padding, else 1]. Steps lie on axis 0, samples on
    axis 1; the last axis is `num_heads` runs. `causal`: a query reads the keys up to its own, the last one
    all of them. dropout_ratio drops probabilities, each on its own. A drop of units below is passed on to
    what computes v, one of whole heads to what computes q, k and v.

    cache: in phase TEST the keys and values of earlier passes are kept, so that a net of a single step, run
    again and again, computes what one of the whole sequence does. They are constants: no gradient flows into
    earlier passes. Net.reset_states begins a new sequence.
    """

    bottoms = (3, 4)
    along = 0

    def read_settings(self) -> None:
        settings = self.settings
        self.heads, self.causal = settings.num_heads, settings.causal
        self.rate = decimal(settings.dropout_ratio)
        self.scale = decimal(settings.scale) if settings.HasField("scale") else None
        self.cache = 0 if self.training else settings.cache
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout_ratio must lie in [0, 1), got {self.rate:g}")
        if settings.cache and not self.causal:
            raise ConfigError("cache is for causal attention, which reads no later step; set causal: true, "
                              "or remove cache")
        if not self.heads:
            raise ConfigError("num_heads must be at least 1, got 0")

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        q, k, v = shapes[:3]
        if self.settings.cache and len(shapes) > 3:
            raise ConfigError("cache and a mask of the keys do not go together; remove one of them")
        if any(len(shape) != 3 for shape in (q, k, v)):
            raise ShapeError(f"expected q, k and v as (steps, samples, units), got {q}, {k} and {v}")
        if not (q[0] and k[0]):
            raise ShapeError(f"q and k need at least one step (axis 0), got {q} and {k}")
        if not q[1] == k[1] == v[1]:
            raise ShapeError(f"q, k and v need as many samples (axis 1), got {q}, {k} and {v}")
        if k[0] != v[0]:
            raise ShapeError(f"k and v need as many steps (axis 0), got {k} and {v}")
        if q[2] != k[2]:
            raise ShapeError(f"q and k need as many units (axis 2), got {q} and {k}; change the num_output "
                             f"of the layer that computes one of them")
        for what, shape in (("q and k", q), ("v", v)):
            if shape[2] % self.heads or not shape[2]:
                raise ConfigError(f"num_heads: {self.heads} does not divide the {shape[2]} units of {what}")
        if len(shapes) > 3 and tuple(shapes[3]) != tuple(k[:2]):
            raise ShapeError(f"expected the mask of the keys as (steps, samples) of k, {tuple(k[:2])}, got "
                             f"{tuple(shapes[3])}")
        if self.cache and (q[0] != k[0] or self.cache < k[0]):
            raise ConfigError(f"cache: expected q and k of as many steps, and at most {self.cache} of them, "
                              f"got {q[0]} and {k[0]}")
        self.of_a_step = k[1:], v[1:]
        self.stream, self.draws_by_place = "attention" if self.rate else None, True
        return [(*q[:2], v[2])]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass | Product | Drops]:
        (queries, samples, units), (keys, _, _), (_, _, values) = shapes[:3]
        size, width, pairs = units // self.heads, values // self.heads, samples * self.heads
        scores = computed_scores(queries, keys, self.causal)
        facts: list[Pass | Product | Drops] = [
            Pass(bottom=2, axis=2, keeps_zero=True, mixes_steps=True),
            Product("", pairs, size, scores, bottom=0, factor=1, out_axis=2, weight_axes=None),
            Product("", pairs, scores, width, bottom=2, factor=0, out_axis=2, weight_axes=None)]
        if units == values and size > 1:        # heads of one size, or one set could not name them for all
            facts += [Pass(bottom=bottom, axis=2, keeps_zero=True, runs=size, mixes_steps=True)
                      for bottom in (0, 1)]
        if self.rate:
            facts.append(Drops(axis=2, reason="dropout_ratio drops every probability on its own"))
        return facts

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        if not self.cache:
            return {}
        k, v = self.of_a_step
        return {"keys": (self.cache, *k), "values": (self.cache, *v), "position": (1,)}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        if self.cache:
            k, v = self._with_earlier(k, v)
        if key_mask is not None:
            key_mask = functions.expand(key_mask)
            _check_mask(key_mask)
        return functions.attention(q, k, v, self.heads, self.causal, self.scale,
                                   key_mask, self.rate if self.drawn.dropping else 0.0, self.drawn.key,
                                   self.settings.block_keys, self.drawn.part.first if self.drawn.part else 0)

    def _with_earlier(self, k, v):
        """Return k and v behind those of earlier passes, all of which become the new state."""
        backend, steps = k.backend, k.shape[0]
        first = int(backend.to_host(self.state["position"])[0])
        if first + steps > self.cache:
            raise DataError(f"the cache has room for {self.cache} steps; {first} are in it, and this pass "
                            f"has {steps} more. Raise attention_param.cache, or begin a new sequence with "
                            f"Net.reset_states")
        whole = []
        for name, x in (("keys", k), ("values", v)):
            state = self.state[name].copy()         # who holds the state before this pass can go back to it
            state[first:first + steps] = functions.expand(x).data
            self.state[name] = state
            whole.append(Tensor(state[:first + steps], backend=backend))
        self.state["position"] = self.state["position"] + steps
        return whole


def _check_mask(key_mask: Tensor) -> None:
    """Raise DataError if an entry is neither 0 nor 1."""
    flat = key_mask.data.reshape(-1)
    wrong = (flat != 0) & (flat != 1)

    def error():
        place = int(wrong.argmax())
        return DataError(f"the mask of the keys is {float(flat[place]):g} at place {place} of the batch; "
                         f"expected 0 where a key is padding, else 1", place)

    key_mask.backend.refuse(wrong, error)
