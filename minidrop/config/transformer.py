"""Transformers in a NetSpec: twelve blocks are a loop, and the net that they make is a normal file.

    n = NetSpec("gpt")
    n.data, n.label = layers.TextData(ntop=2, source="input.txt", level="CHARACTER", steps=64, batch_size=12)
    gpt = Transformer(width=128, heads=4, blocks=4, causal=True, drops={"hidden": 0.2})
    x = gpt.embedding(n, n.data, vocabulary=65, steps=64)
    n.loss = layers.SoftmaxWithLoss(gpt.scores(n, gpt.encoder(n, x), vocabulary=65), n.label, axis=2)

Sequences are (steps, streams, width), as everywhere here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from minidrop.config.spec import NetSpec
from minidrop.errors import ConfigError, nearest

PLACES = ("embedding", "qkv", "q", "k", "v", "probabilities", "attention", "heads", "attention_branch", "fc1",
          "hidden", "mlp_branch")
WITHOUT_UNITS = ("BLOCK", "TILE")


@dataclass(frozen=True)
class Transformer:
    """The sizes of a transformer, and where it drops; its methods add layers to a NetSpec.

    width: units of a step. heads: of each attention. hidden: units between fc1 and fc2, 0: four times the
    width. causal: no step sees a later one. norm_first: norms stand before attention and perceptron, and one
    after the last block; otherwise after each sum. norm: LayerNorm or RMSNorm. activation: a layer type.
    bias: of products and norms. rotary: positions turn q and k, in place of vectors that are added. tied: the
    scores are products with the embedding's own vectors. deviation: of the initial weights; those before a
    sum have 1 / sqrt(2 blocks) of it (Radford et al. 2019).

    drops: {place: rate, or a dict of an ApproxDropout layer's settings}. The places are
        embedding           the sum of vectors and positions
        qkv, q, k, v        what all three products read, or one of them
        probabilities       of attention, each by itself, as ordinary dropout does
        attention, heads    what its projection reads: the same entries of every head, or whole heads
        attention_branch, mlp_branch    what is added to the sum
        fc1, hidden         what fc1 reads, and what fc2 reads
    Raises ConfigError for another.
    """

    width: int
    heads: int
    blocks: int = 1
    hidden: int = 0
    causal: bool = False
    norm_first: bool = True
    norm: str = "LayerNorm"
    activation: str = "GELU"
    bias: bool = True
    rotary: bool = False
    tied: bool = True
    deviation: float = 0.02
    drops: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for place in self.drops:
            if place not in PLACES:
                raise ConfigError(f"no transformer drops {place!r}{nearest(place, PLACES)}; it has: "
                                  f"{', '.join(PLACES)}")

    def embedding(self, net: NetSpec, data: Any, vocabulary: int, steps: int, name: str = "embed") -> Any:
        """Return vectors for the tokens of `data` (steps, streams), with learned positions up to `steps`."""
        x = net.add("Embed", name, data, input_dim=vocabulary, num_output=self.width, bias_term=False,
                    weight_filler=self._gaussian(), param={"name": f"{name}_weight"} if self.tied else [])
        return self.positioned(net, x, steps)

    def positioned(self, net: NetSpec, x: Any, steps: int) -> Any:
        """Return x with what its steps' places are, unless they turn q and k; dropped as "embedding" says."""
        if not self.rotary:
            x = net.add("Position", "position", x, max_steps=steps, weight_filler=self._gaussian())
        return self._dropped(net, "embedding", "position", x)

    def encoder(self, net: NetSpec, x: Any, mask: Any = None) -> Any:
        """Return x after all blocks; mask (steps, streams): 0 for steps that nobody reads."""
        for i in range(self.blocks):
            x = self.block(net, f"block{i + 1}", x, mask)
        return self._normed(net, "norm", x) if self.norm_first else x

    def scores(self, net: NetSpec, x: Any, vocabulary: int, name: str = "scores") -> Any:
        """Return the scores of all tokens at each step."""
        if not self.tied:
            return self._product(net, name, x, vocabulary)
        return net.add("InnerProduct", name, x, num_output=vocabulary, axis=2, bias_term=False,
                       weight_filler=self._gaussian(), param={"name": "embed_weight"})

    def block(self, net: NetSpec, name: str, x: Any, mask: Any = None) -> Any:
        """Return x after one block: attention and a perceptron, each added to what it reads."""
        for part, branch in (("attention", self._attention), ("mlp", self._mlp)):
            y = self._normed(net, f"{name}_{part}_norm", x) if self.norm_first else x
            y = branch(net, f"{name}_{part}", y, mask)
            y = self._dropped(net, f"{part}_branch", f"{name}_{part}_branch", y)
            x = net.add("Eltwise", f"{name}_{part}_sum", [x, y])
            if not self.norm_first:
                x = self._normed(net, f"{name}_{part}_norm", x)
        return x

    def _attention(self, net, name, x, mask):
        x = self._dropped(net, "qkv", f"{name}_qkv", x, shared=not self.norm_first)
        parts = []
        for part in "qkv":
            own = self._dropped(net, part, f"{name}_{part}_in", x, shared=True)
            y = self._product(net, f"{name}_{part}", own, self.width)
            if self.rotary and part in "qk":
                y = net.add("Rotary", f"{name}_{part}_turned", y, num_heads=self.heads)
            parts.append(y)
        rate = self.drops.get("probabilities", 0)
        settings = {"dropout_ratio": rate} if rate else {}
        y = net.add("Attention", name, parts + [mask] * (mask is not None), num_heads=self.heads,
                    causal=self.causal, **settings)
        y = self._dropped(net, "attention", name, y, heads=self.heads)
        y = self._dropped(net, "heads", name, y, heads=self.heads, whole_heads=True)
        return self._product(net, f"{name}_out", y, self.width, self.deviation / sqrt(2 * self.blocks))

    def _mlp(self, net, name, x, mask):
        x = self._dropped(net, "fc1", f"{name}_in", x, shared=not self.norm_first)
        y = self._product(net, f"{name}_fc1", x, self.hidden or 4 * self.width)
        net.add(self.activation, f"{name}_act", y, top=_blob(y))
        y = self._dropped(net, "hidden", f"{name}_hidden", _blob(y))
        return self._product(net, f"{name}_fc2", y, self.width, self.deviation / sqrt(2 * self.blocks))

    def _normed(self, net, name, x):
        settings = {} if self.bias or self.norm != "LayerNorm" else {"bias_term": False}
        return net.add(self.norm, name, x, **settings)

    def _product(self, net, name, x, outputs, deviation=None):
        return net.add("InnerProduct", name, x, num_output=outputs, axis=2, bias_term=self.bias,
                       weight_filler=self._gaussian(deviation))

    def _dropped(self, net, place, name, x, shared=False, **settings):
        """Return x with the drop of a place; in place, unless other layers read x as well."""
        own = self.drops.get(place, 0)
        own = dict(own) if isinstance(own, Mapping) else {"dropout_ratio": own}
        if not own.get("dropout_ratio"):
            return x
        if own.get("pattern") in WITHOUT_UNITS and place != "heads":
            settings.pop("heads", None)     # what these drop belongs to no unit, and so to no head
        name = f"{name}_drop" if place != "heads" else f"{name}_heads_drop"
        return net.add("ApproxDropout", name, _blob(x), top=name if shared else _blob(x), **settings | own)

    def _gaussian(self, deviation=None):
        return {"type": "gaussian", "std": self.deviation if deviation is None else deviation}


def _blob(x):
    """Return the name of a blob: what a layer writes in place has its bottom's."""
    return x if isinstance(x, str) else x.name
