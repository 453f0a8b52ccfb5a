"""Small nets as text, layer by layer, and batches that feed them: what many tests build."""

import numpy as np

from minidrop.config import parse_net
from minidrop.net import Net

FILLERS = 'weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1 max: 1 }'
IMAGES = ('layer { name: "in" type: "Input" top: "data" top: "label" '
          'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%s" bottom: "label" top: "loss" }'
SMALL = {"TILE": "tile_size: 4", "BLOCK": "block_samples: 2"}
"""Settings under which even these nets have several tiles, and several groups of samples."""


def layer(kind, name, bottoms, top=None, more=""):
    """A layer of some bottoms, separated by spaces, and one top: its name, unless another is given."""
    bottoms = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top or name}" {more} }}'


def ip(name, bottom, outputs, settings="", more="", fillers=FILLERS):
    """An InnerProduct; `settings` go into inner_product_param."""
    if "bias_term" in settings:
        fillers = fillers.split("bias_filler")[0]
    return layer("InnerProduct", name, bottom, more=(
        f"inner_product_param {{ num_output: {outputs} {fillers} {settings} }} {more}"))


def drop(name, bottom, family="PERIODIC", top=None, settings="", more=""):
    """An ApproxDropout of a family with its SMALL settings, or a layer of the type Dropout.

    A family may bring settings of its own: "PERIODIC groups: 2".
    """
    family, _, own = family.partition(" ")
    if family in ("Dropout", "GaussianDropout"):
        return layer(family, name, bottom, top)
    settings = f'pattern: "{family}" {SMALL.get(family, "")} {own} {settings}'
    return layer("ApproxDropout", name, bottom, top, f"approx_dropout_param {{ {settings} }} {more}")


def net_of(*layers, **options):
    """A Net of layers as text, in float64 on the CPU unless the options say otherwise."""
    options = {"device": "cpu", "dtype": "float64", **options}
    return Net(parse_net("\n".join(layers), "net.prototxt"), **options)


def images(rows=6, seed=0):
    """A batch for IMAGES, with labels of seven classes."""
    rng = np.random.default_rng(seed)
    return {"data": rng.standard_normal((rows, 13)), "label": rng.integers(0, 7, rows)}


def unlike_draws(net, iterations, most=3):
    """Yield (iteration, its masks, whether they are among the first `most` that are unlike those before).

    A draw that comes again shows nothing new of a pass over the same numbers.
    """
    seen = set()
    for iteration in range(iterations):
        net.draw_patterns(iteration)
        masks = net.masks()
        drawn = tuple((name, mask.tobytes()) for name, mask in masks.items())
        new = drawn not in seen and len(seen) < most
        if new:
            seen.add(drawn)
        yield iteration, masks, new


def inputs(*shapes, names="abcdef"):
    """Input layers of blobs with these shapes, one a line."""
    return "".join(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                   f'{" ".join(f"dim: {length}" for length in shape)} }} }} }}\n'
                   for name, shape in zip(names, shapes, strict=False))


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    """An array that belongs to its shape and the seed."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)
