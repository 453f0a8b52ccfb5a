#!/usr/bin/env python
"""Write the network files of models/gpt_* and models/vit_*: transformers of any size that drop in any places.

python scripts/make_transformer.py gpt_shakespeare prints its train_val.prototxt; --drop hidden=0.5 (several
times) replaces the model's own drops, --set width=256 a number.
"""

from dataclasses import replace
from typing import get_type_hints

import click
from google.protobuf import text_format

from minidrop.config.check import is_repeated
from minidrop.config.spec import NetSpec
from minidrop.config.transformer import PLACES, Transformer

WIDTH = 120
PAYING = ("attention", "attention_branch", "hidden", "mlp_branch")
SPARSEDROP = {"pattern": "BLOCK", "block_samples": 128, "block_units": 128}
GPT_SPARSEDROP = ("q", "k", "v", "attention", "fc1", "hidden")
VIT_SPARSEDROP = ("qkv", "attention", "fc1", "hidden")


def everywhere(rate, **settings):
    return dict.fromkeys(PAYING, {"dropout_ratio": rate, **settings} if settings else rate)


def sparsedrop(places, rate):
    return {place: {"dropout_ratio": rate, **SPARSEDROP} for place in places}


def gpt(name, shape, steps, batch):
    """Return the NetSpec of a language model of the characters of tinyshakespeare; its last 10 % test it."""
    net, vocabulary = NetSpec(name), 66       # <unk> and 65 characters
    for phase, part in (("TRAIN", {"batch_size": batch, "shuffle": True, "end": 0.9}),
                        ("TEST", {"batch_size": 16, "begin": 0.9})):
        data, label = net.add("TextData", "text", top=["data", "label"], include={"phase": phase},
                              source="tinyshakespeare/input.txt", level="CHARACTER", steps=steps, **part)
    x = shape.encoder(net, shape.embedding(net, data, vocabulary, steps))
    scores = shape.scores(net, x, vocabulary)
    net.add("SoftmaxWithLoss", "loss", [scores, label], axis=2)
    net.add("Accuracy", "accuracy", [scores, label], include={"phase": "TEST"}, axis=2)
    return net


def vit(name, shape, data_set, patch, side, batches, scale, mirror=False, normed_patches=False):
    """Return the NetSpec of a vision transformer: square patches, learned positions, the mean of steps."""
    net, classes = NetSpec(name), 10
    for phase, part, batch in (("TRAIN", "train", batches[0]), ("TEST", "test", batches[1])):
        more = {"shuffle": True} if phase == "TRAIN" else {}
        transform = {"scale": scale, "mirror": True} if mirror and phase == "TRAIN" else {"scale": scale}
        if data_set == "cifar10":
            transform["mean_file"] = "cifar10/mean.binaryproto"
        data, label = net.add("HDF5Data", data_set, top=["data", "label"], include={"phase": phase},
                              transform_param=transform, source=f"{data_set}/{part}.txt",
                              batch_size=batch, **more)
    x = net.add("Patches", "patches", data, patch_size=patch)
    if normed_patches:
        x = net.add("LayerNorm", "patch_norm", x)
    x = net.add("InnerProduct", "embed", x, num_output=shape.width, axis=2, weight_filler={"type": "xavier"},
                bias_term=shape.bias)
    if normed_patches:
        x = net.add("LayerNorm", "embed_norm", x)
    x = shape.encoder(net, shape.positioned(net, x, (side // patch) ** 2))
    x = net.add("Permute", "by_record", x, order=[1, 2, 0])
    x = net.add("Reduction", "pool", x, operation="MEAN", axis=2)
    scores = net.add("InnerProduct", "scores", x, num_output=classes, weight_filler={"type": "xavier"},
                     bias_term=shape.bias)
    net.add("SoftmaxWithLoss", "loss", [scores, label])
    net.add("Accuracy", "accuracy", [scores, label], include={"phase": "TEST"})
    return net


MODELS = {
    "gpt_shakespeare": ("nanoGPT's recipe for characters, its size for CPUs: 4 blocks of 128, 64 steps.", gpt,
                        Transformer(128, 4, 4, causal=True, bias=False, drops=everywhere(0.2, groups=1)),
                        {"steps": 64, "batch": 12}),
    "gpt_shakespeare_full": ("nanoGPT's recipe for characters: 6 blocks of 384, 256 steps.", gpt,
                             Transformer(384, 6, 6, causal=True, bias=False, drops=everywhere(0.2)),
                             {"steps": 256, "batch": 64}),
    "gpt_sparsedrop": ("SparseDrop's GPT: 4 blocks of 1024, 128 steps; BLOCK before each product.", gpt,
                       Transformer(1024, 8, 4, causal=True, bias=False, tied=False,
                                   drops=sparsedrop(GPT_SPARSEDROP, 0.5)), {"steps": 128, "batch": 32}),
    "vit_sparsedrop": ("SparseDrop's ViT on CIFAR-10: 2 blocks of 1024, patches of 2x2.", vit,
                       Transformer(1024, 8, 2, bias=False, drops=sparsedrop(VIT_SPARSEDROP, 0.4)),
                       {"data_set": "cifar10", "patch": 2, "side": 32, "batches": (64, 100), "scale": 1 / 64,
                        "normed_patches": True}),
    "vit_cifar10": ("A ViT for CIFAR-10 trained from nothing: 6 blocks of 256, patches of 4x4.", vit,
                    Transformer(256, 8, 6, hidden=512, drops=everywhere(0.1)),
                    {"data_set": "cifar10", "patch": 4, "side": 32, "batches": (128, 100), "scale": 1 / 64,
                     "mirror": True}),
    "vit_tiny": ("A ViT for two cores and a minute, on the digits of scikit-learn: 4 blocks of 64.", vit,
                 Transformer(64, 4, 4, hidden=256, drops=everywhere(0.1, groups=1)),
                 {"data_set": "digits", "patch": 2, "side": 8, "batches": (64, 71), "scale": 1 / 16}),
}


def text_of(model, drops=None, changes=None):
    """Return the text of a model's network file; drops and changes replace its own, see Transformer."""
    about, build, shape, settings = MODELS[model]
    shape = replace(shape, **changes or {}, **({} if drops is None else {"drops": drops}))
    message = build(model.removesuffix("_full"), shape, **settings).to_proto()
    lines = [f"# {about}", f"# Made by scripts/make_transformer.py {model}.", f'name: "{message.name}"']
    for layer in message.layer:
        one = f"layer {{ {_line(layer)} }}"
        parts = [one] if len(one) <= WIDTH else ["layer {", *(f"  {part}" for part in _parts(layer)), "}"]
        lines += parts
    return "\n".join(lines) + "\n"


def _parts(message):
    """Yield each field of a message, as one line."""
    for field, value in message.ListFields():
        for own in value if is_repeated(field) else [value]:
            one = type(message)()
            if field.message_type is not None:
                target = getattr(one, field.name)
                (target.add() if own is not value else target).CopyFrom(own)
            elif own is not value:
                getattr(one, field.name).append(own)
            else:
                setattr(one, field.name, own)
            yield _line(one)


def _line(message):
    return text_format.MessageToString(message, as_one_line=True)


def _pairs(context, parameter, values):
    pairs = dict(value.partition("=")[::2] for value in values)
    numbers = [name for name, kind in get_type_hints(Transformer).items() if kind in (int, float)]
    known = PLACES if parameter.name == "drops" else numbers
    for name, value in pairs.items():
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(sorted(known))}")
        try:
            pairs[name] = float(value) if parameter.name == "drops" or name == "deviation" else int(value)
        except ValueError:
            raise click.BadParameter(f"{name}: {value!r} is no number") from None
    return pairs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Choice(MODELS))
@click.option("--drop", "drops", metavar="PLACE=RATE", multiple=True, callback=_pairs,
              help=f"Drop here alone: {', '.join(PLACES)}.")
@click.option("--set", "changes", metavar="NAME=NUMBER", multiple=True, callback=_pairs,
              help="Another width, heads, blocks, hidden or deviation.")
def main(model, drops, changes):
    """Print the network file of MODEL."""
    click.echo(text_of(model, drops or None, changes), nl=False)


if __name__ == "__main__":
    main()
