"""Transformers of make_transformer.py for bench_transformer.py, with data in memory in place of data layers.

Methods:

    none            nothing is dropped
    conventional    ordinary dropout where drops pay most: what the sums and the second products read
    approx          ApproxDropout in the same places
    inputs          ordinary dropout before each product, which is where SparseDrop drops
    BLOCK           blocks of 128 samples x 128 units in the same places, as SparseDrop's
"""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import minidrop as md

# isort: split
import numpy as np
import torch_transformer
from bench_models import BATCHES, Model
from drop_methods import Method

from minidrop.config import TRAIN, NetConfig, SolverParameter, filter_state
from minidrop.config.assign import assign
from minidrop.config.transformer import Transformer
from minidrop.errors import ConfigError, nearest
from minidrop.net.conversion import convert_dropout

sys.path.append(str(Path(__file__).resolve().parents[1]))

from make_transformer import GPT_SPARSEDROP, MODELS, PAYING, VIT_SPARSEDROP, gpt  # noqa: E402

METHODS = ("none", "conventional", "approx", "inputs", "BLOCK")
PEERS = {"approx": "conventional", "BLOCK": "inputs"}       # what PyTorch has in their place
DIFFERENT = 2           # batches; the images of more would not fit into a cache either


@dataclass(frozen=True)
class TransformerNet(Model):
    """A model of make_transformer.py, and how many records a batch has; batch 0 leaves the model's."""

    model: str
    batch: int = 0
    small: Transformer | None = None        # other sizes than the model's, to try what is written here
    by_share, parse = False, staticmethod(Method)

    def check(self, methods, rates):
        """Raise ConfigError for an unknown method."""
        for method in methods:
            if method not in METHODS:
                raise ConfigError(f"unknown method {method!r}{nearest(method, METHODS)} (methods: "
                                  f"{', '.join(METHODS)})")

    @property
    def is_text(self):
        """Whether it reads tokens, else images."""
        return MODELS[self.model][1] is gpt

    @property
    def sizes(self):
        """The settings of the model's net beside its shape."""
        return MODELS[self.model][3] | ({"steps": 8} if self.small and self.is_text else {})

    @cached_property
    def samples(self):
        """The batch size."""
        return self.batch or (self.sizes["batch"] if self.is_text else self.sizes["batches"][0])

    def shape(self, method, rate):
        """Return the Transformer that drops as a method says."""
        places = PAYING if method in ("conventional", "approx") else (GPT_SPARSEDROP if self.is_text
                                                                      else VIT_SPARSEDROP)
        own, model = {"dropout_ratio": rate}, MODELS[self.model][2]
        if method == "BLOCK":
            own["pattern"] = "BLOCK"
        elif isinstance(given := model.drops.get(places[0]), dict) and "groups" in given:
            own["groups"] = given["groups"]         # the model's file has one group of samples
        drops = {} if method == "none" else dict.fromkeys(places, own)
        return replace(self.small or model, drops=drops)

    @cached_property
    def inputs(self):
        """The shapes of data and label."""
        if self.is_text:
            return [[self.sizes["steps"], self.samples]] * 2
        return [[self.samples, 3, self.sizes["side"], self.sizes["side"]], [self.samples]]

    def net(self, method, rate=0.5):
        """Return the NetParameter in phase TRAIN."""
        whole = MODELS[self.model][1](self.model, self.shape(method, rate), **self.sizes).to_proto()
        layers = filter_state(NetConfig.of(whole), TRAIN).message.layer
        inputs = md.NetSpec(self.model)
        inputs.add("Input", layers[0].name, top=list(layers[0].top), shape=self.inputs)
        net = inputs.to_proto()
        net.layer.extend(layers[1:])
        if method in ("conventional", "inputs"):
            convert_dropout(net, "conventional")
        return net

    def torch_net(self, method, rate=0.5):
        """Return the nn.Module of the same net with nn.Dropout in the same places."""
        shape = self.shape(method, rate)
        if self.is_text:
            return torch_transformer.gpt(shape, self.outputs, self.sizes["steps"])
        return torch_transformer.vit(shape, self.sizes["patch"], self.sizes["side"],
                                     normed_patches=self.sizes.get("normed_patches", False))

    @cached_property
    def outputs(self):
        """The number of tokens or classes."""
        layers = {layer.name: layer for layer in self.net("none").layer}
        return layers["embed"].embed_param.input_dim or layers["scores"].inner_product_param.num_output

    def settings(self, method, rate=0.5, **changes):
        """Return the SolverParameter: AdamW as for GPT-2; a low rate, as labels are noise."""
        settings = SolverParameter(net_param=self.net(method, rate))
        for name, value in {"type": "AdamW", "base_lr": 1e-5, "lr_policy": "fixed", "momentum": 0.9,
                            "momentum2": 0.999, "weight_decay": 0.1, "decay_axes": 2, "max_iter": 10**9,
                            "random_seed": 0, **changes}.items():
            assign(settings, name, value)
        return settings

    def batches(self):
        """Return random batches, {top: array}; two take turns."""
        rng = np.random.default_rng(0)
        data, label = self.inputs

        def some(shape, many):
            return rng.integers(0, many, shape)
        different = [{"data": some(data, self.outputs) if self.is_text
                      else rng.standard_normal(data, np.float32), "label": some(label, self.outputs)}
                     for _ in range(DIFFERENT)]
        return different * (BATCHES // DIFFERENT)


TINY = Transformer(16, 2, 1, causal=True, bias=False)
NETS = {"gpt_small": TransformerNet("gpt_shakespeare"), "gpt_1024": TransformerNet("gpt_sparsedrop", 8),
        "vit_1024": TransformerNet("vit_sparsedrop", 8),
        "gpt_tiny": TransformerNet("gpt_shakespeare", 2, TINY),
        "vit_tiny": TransformerNet("vit_cifar10", 2, replace(TINY, causal=False, bias=True))}


def find_net(text):
    """Return the TransformerNet of NAME or NAME:BATCH. Raises ConfigError."""
    name, colon, batch = text.partition(":")
    if name not in NETS:
        raise ConfigError(f"unknown net {name!r}{nearest(name, NETS)} (nets: {', '.join(NETS)})")
    if colon and not (batch.isdecimal() and int(batch)):
        raise ConfigError(f"net {text!r}: expected NAME or NAME:BATCH, got the batch {batch!r}")
    return replace(NETS[name], batch=int(batch)) if colon else NETS[name]
