"""Small nets with images as text, and the contract of their drops: what several tests build."""

import numpy as np
from nets import FILLERS, drop, inputs, layer, net_of, unlike_draws

from minidrop.testing import assert_matches_masked_dense

SAMPLES, SHAPE = 5, (4, 6, 5)
PATTERNS = ("PERIODIC groups: 1", "PERIODIC groups: 2", "PERIODIC groups: 3", "ROW groups: 1",
            "ROW groups: 3", "UNIT groups: 1", "UNIT groups: 2", "SLICE groups: 1", "SLICE groups: 9",
            "PERIODIC", "TILE", "BLOCK")


def conv(name, bottom, outputs, window="kernel_size: 3 pad: 1", kind="Convolution", more=""):
    """A Convolution; its name is that of its top."""
    fillers = FILLERS.split("bias_filler")[0] if "bias_term" in window else FILLERS
    settings = f"convolution_param {{ num_output: {outputs} {window} {fillers} }}"
    return layer(kind, name, bottom, None, f"{settings} {more}")


def deconv(name, bottom, outputs, window="kernel_size: 3 stride: 2"):
    return conv(name, bottom, outputs, window, "Deconvolution")


def dropped(name, bottom, pattern, rate=0.5, top=None, settings=""):
    """An ApproxDropout of one of PATTERNS."""
    return drop(name, bottom, pattern, top, f"dropout_ratio: {rate} {settings}")


def make(*layers, shape=SHAPE, **options):
    """A Net of the blobs data, images of this shape, and label."""
    given = inputs((SAMPLES, *shape), (SAMPLES,), names=("data", "label")).rstrip()
    return net_of(given, *layers, **options)


def batch(shape=SHAPE):
    rng = np.random.default_rng(0)
    return {"data": rng.standard_normal((SAMPLES, *shape)), "label": rng.integers(0, 7, SAMPLES)}


def check(net, iterations=4):
    """The contract holds for unlike draws, each drop drops something, and what the plan says is left out is
    not there."""
    given = batch(net.graph.shapes[net.graph.nodes[0].tops[0]][1:])
    shares = {one.node.name: [] for one in net.plan.drops}
    for iteration, masks, new in unlike_draws(net, iterations):
        if new:
            assert_matches_masked_dense(net, iteration, given)
        for name, mask in masks.items():
            shares[name].append((mask != 0).mean())
    net.draw_patterns(iterations - 1)
    net.forward(**given)
    assert not net.broken_promises
    for one in net.plan.drops:
        assert min(shares[one.node.name]) < 1 or not one.site.settings.rate
        if one.kind != "units" or net.draws[one.node.name].kept is None:
            continue
        if one.producer is not None:
            assert net.run.tensors[one.producer.tops[0]].kept is not None
        for node in [*one.consumers, *one.expanders, *one.carriers]:
            assert any(net.run.tensors[ref].kept is not None for ref in node.bottoms)


def plan(net):
    """What the planner says, apart from epilogues."""
    return [line for line in net.plan.lines() if " applies " not in line]


def kind_of(pattern):
    """What a pattern drops below a product."""
    return {"TILE": "weights", "BLOCK": "blocks"}.get(pattern.split()[0], "units")
