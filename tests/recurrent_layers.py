"""Nets of a recurrent layer or two, as text, and their passes."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_net

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}          # gates
TYPES = {"LSTM": 'type: "LSTM"', "GRU": 'type: "GRU"', "RNN": 'type: "RNN"'}
every_kind = pytest.mark.parametrize("kind", KINDS)
FILLERS = ('weight_filler { type: "uniform" min: -0.4 max: 0.4 } bias_filler { type: "uniform" min: -0.5 '
           'max: 0.5 }')
STEPS, STREAMS, INPUTS, UNITS = 5, 3, 6, 4


def inputs_text(**shapes):
    """An Input layer for every blob."""
    return "\n".join(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                     f'{" ".join(f"dim: {length}" for length in shape)} }} }} }}'
                     for name, shape in shapes.items())


def recurrent(kind, name="r", bottoms=("x", "cont"), tops=None, units=UNITS, settings=""):
    blobs = " ".join([*(f'bottom: "{blob}"' for blob in bottoms), *(f'top: "{blob}"' for blob in tops
                                                                    or (name,))])
    if kind == "RNN" and "output_product" not in settings:
        settings += " output_product: false"        # PyTorch's
    return (f'layer {{ name: "{name}" {TYPES[kind]} {blobs} recurrent_param {{ num_output: {units} {FILLERS} '
            f'{settings} }} }}')


def net_of(*layers, x=(STEPS, STREAMS, INPUTS), phase="TRAIN", dtype="float64", seed=0, **shapes):
    return md.Net(parse_net("\n".join([inputs_text(x=x, cont=x[:2], **shapes), *layers]), "net.prototxt"),
                  phase, "cpu", dtype, seed)


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def ones(steps=STEPS, streams=STREAMS):
    return np.ones((steps, streams))


def forward(net, **inputs):
    return {name: tensor.numpy() for name, tensor in net.forward(**inputs).items()}
