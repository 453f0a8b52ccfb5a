"""Transformers in PyTorch as its users write them, from the description that makes those of minidrop.

    shape = Transformer(width=128, heads=4, blocks=4, causal=True, drops={"hidden": 0.2})
    model = gpt(shape, vocabulary=65, steps=64)
    copy_weights(model, net)
    model.loss(tokens, following).backward()            # each (streams, steps)

A drop is nn.Dropout, whatever its pattern: on probabilities that of scaled_dot_product_attention, on whole
heads nn.Dropout2d. Modules are called as minidrop's layers: `block1.attention.out` is block1_attention_out,
so that weights are copied by name. The three products of attention are one, `qkv`, unless the inputs of one
of them are dropped by themselves.

PyTorch is imported where it is used, so that this module can be loaded without it.
"""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace

from minidrop.errors import ConfigError, nearest


def gpt(shape, vocabulary, steps):
    """Return the nn.Module of what `Transformer(...)` describes between tokens and their scores."""
    return classes().GPT(shape, vocabulary, steps)


def vit(shape, patch, side, channels=3, outputs=10, normed_patches=False):
    """Return the nn.Module of a vision transformer for square images, as make_transformer.py's `vit`."""
    return classes().ViT(shape, patch, side, channels, outputs, normed_patches)


def rate_of(shape, place):
    """Return the rate at which a Transformer drops in a place."""
    own = shape.drops.get(place, 0)
    return own.get("dropout_ratio", 0) if isinstance(own, Mapping) else own


def views(model, gradients=False):
    """Return {minidrop's "layer/parameter": the tensor of the model, or the gradient of it}."""
    found = {}
    for name, parameter in model.named_parameters():
        *path, own = name.split(".")
        layer, tensor = "_".join(path), parameter.grad if gradients else parameter.data
        if layer.endswith("_qkv"):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer.removesuffix('qkv')}{part}/{own}"] = rows
        else:
            found[f"{layer}/{own}"] = tensor
    return found


def copy_weights(model, net):
    """Take over the parameters of a minidrop Net by name. Raises ConfigError where a name has no fellow."""
    import torch
    own, theirs = views(model), net.parameters()
    if own.keys() != theirs.keys():
        raise ConfigError(f"PyTorch's net and minidrop's have different parameters: "
                          f"{', '.join(sorted(own.keys() ^ theirs.keys()))}")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(theirs[name].numpy()).reshape(tensor.shape))


def turned(x, base=10000.0):
    """Return x (..., steps, size) with pairs of entries turned by angles that grow with the step."""
    import torch
    steps, half = x.shape[-2], x.shape[-1] // 2
    powers = torch.arange(half, dtype=torch.float64) / max(1, half)
    angles = torch.arange(steps, dtype=torch.float64)[:, None] / base ** powers
    cosine, sine = (f(angles).to(x) for f in (torch.cos, torch.sin))
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


@cache
def classes():
    """Return GPT, ViT and the Block of both; they are made with the first net, as PyTorch is needed then."""
    from torch import nn
    from torch.nn import functional

    activations = {"GELU": nn.GELU, "ReLU": nn.ReLU, "SiLU": nn.SiLU, "Sigmoid": nn.Sigmoid, "TanH": nn.Tanh}

    def norm(shape):
        if shape.norm == "RMSNorm":
            return nn.RMSNorm(shape.width, eps=1e-6)
        return nn.LayerNorm(shape.width, bias=shape.bias)

    def drop(shape, place, kind=nn.Dropout):
        return kind(rate_of(shape, place))

    class Attention(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.shape, width = shape, shape.width
            self.apart = any(rate_of(shape, part) for part in "qkv")
            for part in "qkv" if self.apart else ():
                self.add_module(part, nn.Linear(width, width, bias=shape.bias))
                self.add_module(f"{part}_drop", drop(shape, part))
            if not self.apart:
                self.qkv = nn.Linear(width, 3 * width, bias=shape.bias)
            self.out = nn.Linear(width, width, bias=shape.bias)
            self.qkv_drop, self.out_drop = drop(shape, "qkv"), drop(shape, "attention")
            self.heads_drop = drop(shape, "heads", nn.Dropout2d)

        def forward(self, x, mask):
            shape = self.shape
            streams, steps, width = x.shape
            x = self.qkv_drop(x)
            if self.apart:
                parts = [self.q(self.q_drop(x)), self.k(self.k_drop(x)), self.v(self.v_drop(x))]
            else:
                parts = self.qkv(x).chunk(3, 2)
            q, k, v = (part.view(streams, steps, shape.heads, -1).transpose(1, 2) for part in parts)
            if shape.rotary:
                q, k = turned(q), turned(k)
            causal = shape.causal
            if mask is not None:
                mask = mask[:, None, None, :].expand(-1, -1, steps, -1)
                if causal:
                    mask, causal = mask & mask.new_ones(steps, steps).tril(), False
            y = functional.scaled_dot_product_attention(
                q, k, v, mask, rate_of(shape, "probabilities") if self.training else 0.0, causal)
            y = self.heads_drop(y) if rate_of(shape, "heads") else y
            return self.out(self.out_drop(y.transpose(1, 2).reshape(streams, steps, width)))

    class MLP(nn.Module):
        def __init__(self, shape):
            super().__init__()
            if shape.activation not in activations:
                raise ConfigError(f"activation {shape.activation!r} has no translation to PyTorch here"
                                  f"{nearest(shape.activation, activations)} (known: "
                                  f"{', '.join(activations)})")
            hidden = shape.hidden or 4 * shape.width
            self.fc1_drop, self.hidden_drop = drop(shape, "fc1"), drop(shape, "hidden")
            self.fc1 = nn.Linear(shape.width, hidden, bias=shape.bias)
            self.act = activations[shape.activation]()
            self.fc2 = nn.Linear(hidden, shape.width, bias=shape.bias)

        def forward(self, x):
            return self.fc2(self.hidden_drop(self.act(self.fc1(self.fc1_drop(x)))))

    class Block(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.norm_first = shape.norm_first
            self.attention_norm, self.attention = norm(shape), Attention(shape)
            self.mlp_norm, self.mlp = norm(shape), MLP(shape)
            self.attention_branch = drop(shape, "attention_branch")
            self.mlp_branch = drop(shape, "mlp_branch")

        def forward(self, x, mask=None):
            if self.norm_first:
                x = x + self.attention_branch(self.attention(self.attention_norm(x), mask))
                return x + self.mlp_branch(self.mlp(self.mlp_norm(x)))
            x = self.attention_norm(x + self.attention_branch(self.attention(x, mask)))
            return self.mlp_norm(x + self.mlp_branch(self.mlp(x)))

    class Encoder(nn.Module):
        def __init__(self, shape, steps):
            super().__init__()
            self.shape = shape
            if not shape.rotary:
                self.position = nn.Embedding(steps, shape.width)
            self.embedding_drop = drop(shape, "embedding")
            for i in range(1, shape.blocks + 1):
                self.add_module(f"block{i}", Block(shape))
            if shape.norm_first:
                self.norm = norm(shape)

        def encode(self, x, mask=None):
            if not self.shape.rotary:
                x = x + self.position.weight[:x.shape[1]]
            x = self.embedding_drop(x)
            for i in range(1, self.shape.blocks + 1):
                x = self.get_submodule(f"block{i}")(x, mask)
            return self.norm(x) if self.shape.norm_first else x

        def start(self):
            """Begin as GPT-2 does: whatever PyTorch's modules do by themselves is too large for these."""
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=self.shape.deviation)

        def loss(self, x, label, mask=None):
            return functional.cross_entropy(self(x, mask).flatten(0, -2), label.flatten())

    class GPT(Encoder):
        def __init__(self, shape, vocabulary, steps):
            super().__init__(shape, steps)
            self.embed = nn.Embedding(vocabulary, shape.width)
            self.scores = nn.Linear(shape.width, vocabulary, bias=shape.bias and not shape.tied)
            if shape.tied:
                self.scores.weight = self.embed.weight
            self.start()

        def forward(self, tokens, mask=None):
            return self.scores(self.encode(self.embed(tokens), mask))

    class ViT(Encoder):
        def __init__(self, shape, patch, side, channels, outputs, normed_patches):
            super().__init__(shape, (side // patch) ** 2)
            values, self.normed_patches = channels * patch ** 2, normed_patches
            self.patches = nn.Unfold(patch, stride=patch)
            if normed_patches:
                self.patch_norm, self.embed_norm = nn.LayerNorm(values), nn.LayerNorm(shape.width)
            self.embed = nn.Linear(values, shape.width, bias=shape.bias)
            self.scores = nn.Linear(shape.width, outputs, bias=shape.bias)
            self.start()

        def forward(self, images, mask=None):
            x = self.patches(images).transpose(1, 2)
            x = self.embed_norm(self.embed(self.patch_norm(x))) if self.normed_patches else self.embed(x)
            return self.scores(self.encode(x, mask).mean(1))

    return SimpleNamespace(Block=Block, GPT=GPT, ViT=ViT)
