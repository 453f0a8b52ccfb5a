"""Blocks of transformers: what PyTorch computes with the same weights, and what drops leave out."""

from itertools import product

import numpy as np
import pytest
from cases import in_turn

from minidrop.config.spec import NetSpec
from minidrop.config.transformer import PLACES, Transformer
from minidrop.errors import ConfigError
from minidrop.net import Net
from minidrop.testing import assert_matches_masked_dense
from minidrop.testing.masked_dense import run_once
from tests.nets import numbers

WIDTH, HEADS, STREAMS = 12, 3, 4


def block_net(steps, shape, streams=STREAMS, mask=False, tokens=0):
    """A Net of the blocks of a shape and a loss; its inputs are x or tokens, target and, perhaps, a mask."""
    spec = NetSpec("blocks")
    first = [steps, streams] if tokens else [steps, streams, shape.width]
    names = ["x", "target", *["mask"] * mask]
    shapes = [first, [steps, streams] if tokens else first, [steps, streams]]
    spec.add("Input", "in", top=names, shape=shapes[:len(names)])
    x = shape.embedding(spec, "x", tokens, steps) if tokens else "x"
    y = shape.encoder(spec, x, "mask" if mask else None)
    if tokens:
        spec.add("SoftmaxWithLoss", "loss", [shape.scores(spec, y, tokens), "target"], axis=2)
    else:
        spec.add("EuclideanLoss", "loss", [y, "target"])
    net = Net(spec.to_proto(), "TRAIN", "cpu", dtype="float64", seed=3)
    for i, parameter in enumerate(net.parameters().values()):       # no bias is 0, no weight of a norm 1
        parameter.data[...] = numbers(*parameter.shape, seed=i, low=-0.7, high=0.7)
    return net


def batch(steps, streams=STREAMS, width=WIDTH):
    return {"x": numbers(steps, streams, width), "target": numbers(steps, streams, width, seed=1)}


# -- PyTorch -------------------------------------------------------------------------------------------------
def encoder_layer(torch, net, norm_first, activation):
    """An nn.TransformerEncoderLayer with the weights of block1, and {our name: (its parameter, rows)}."""
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, activation, norm_first=norm_first,
                                             dtype=torch.float64)
    names = {}
    for own in "weight", "bias":
        for part, rows in zip("qkv", range(0, 3 * WIDTH, WIDTH), strict=True):
            names[f"block1_attention_{part}/{own}"] = (getattr(layer.self_attn, f"in_proj_{own}"),
                                                       slice(rows, rows + WIDTH))
        for name, module in (("attention_out", layer.self_attn.out_proj), ("attention_norm", layer.norm1),
                             ("mlp_norm", layer.norm2), ("mlp_fc1", layer.linear1),
                             ("mlp_fc2", layer.linear2)):
            names[f"block1_{name}/{own}"] = getattr(module, own), slice(None)
    with torch.no_grad():
        for name, (parameter, rows) in names.items():
            parameter[rows] = torch.from_numpy(net.parameters()[name].numpy())
    return layer, names


@pytest.mark.filterwarnings("ignore:.*nested tensor")
@in_turn("norm_first, activation, causal, steps, padded", [
    *product((True, False), ("GELU",), (True, False), (7,), (False, True)),
    *product((True, False), ("ReLU",), (True,), (1, 4), (False,))])
def test_a_block_is_that_of_pytorch(norm_first, activation, causal, steps, padded):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    shape = Transformer(WIDTH, HEADS, norm_first=norm_first, activation=activation, causal=causal)
    net = block_net(steps, shape, mask=padded)
    layer, names = encoder_layer(torch, net, norm_first, activation.lower())
    own, mask = batch(steps), np.ones((steps, STREAMS))
    for stream in range(STREAMS):                       # the first step is there, or some would read nothing
        mask[max(1, steps - stream):, stream] = 0
    x = torch.tensor(own["x"], requires_grad=True)
    later = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    y = layer(x, later if causal else None, torch.from_numpy(mask.T == 0) if padded else None)
    if norm_first:          # the encoder has a norm more
        final = net.params["norm"]
        y = torch.nn.functional.layer_norm(y, (WIDTH,), *(torch.from_numpy(final[own].numpy())
                                                          for own in ("weight", "bias")))
    loss = ((y - torch.from_numpy(own["target"])) ** 2).sum() / (2 * steps)
    loss.backward()
    results, gradients = run_once(net, 0, own | ({"mask": mask} if padded else {}))
    assert results["loss"] == pytest.approx(loss.item(), rel=1e-9)
    expected = {"input/x": x.grad} | {name: parameter.grad[rows] for name, (parameter, rows) in names.items()}
    assert {name for name in gradients if name.startswith("block1")} == names.keys()
    for name, theirs in expected.items():
        np.testing.assert_allclose(gradients[name], theirs.numpy(), rtol=0,
                                   atol=1e-9 * max(1, theirs.abs().max().item()), err_msg=name)


# -- what is left out ----------------------------------------------------------------------------------------
PATTERNS = {"PERIODIC 1": {"pattern": "PERIODIC", "groups": 1},
            "PERIODIC 2": {"pattern": "PERIODIC", "groups": 2},
            "ROW": {"pattern": "ROW"}, "UNIT": {"pattern": "UNIT"}, "SLICE": {"pattern": "SLICE"},
            "BLOCK": {"pattern": "BLOCK", "block_samples": 2, "block_units": 3}}


def drops_of(places, pattern, rate=0.5):
    """A Transformer's drops; those of probabilities have no pattern."""
    own = {"dropout_ratio": rate, **PATTERNS[pattern]}
    return {place: rate if place == "probabilities" else own for place in places}


def fits(place, pattern):
    """Blocks are no whole heads."""
    return (place, pattern) != ("heads", "BLOCK")


def check_drops(places, pattern, steps=5, iterations=2, **settings):
    shape = Transformer(WIDTH, HEADS, drops=drops_of(places, pattern), **settings)
    tokens = 9
    net = block_net(steps, shape, tokens=tokens)
    rng = np.random.default_rng(0)
    own = {name: rng.integers(0, tokens, (steps, STREAMS)) for name in ("x", "target")}
    for iteration in range(iterations):
        assert_matches_masked_dense(net, iteration, own)
    return net


@in_turn("place, pattern", [pair for pair in product(PLACES, PATTERNS) if fits(*pair)])
def test_a_drop_in_each_place_is_an_explicit_mask(place, pattern):
    check_drops([place], pattern, norm_first=len(pattern) % 2 == 0)


@in_turn("pattern, settings", [*product(PATTERNS, (
    {"causal": True}, {"causal": True, "norm_first": False},
    {"bias": False, "norm": "RMSNorm", "rotary": True},
    {"tied": False, "activation": "ReLU", "blocks": 2}))])
def test_drops_everywhere_at_once_are_explicit_masks(pattern, settings):
    places = [place for place in PLACES if fits(place, pattern)]
    check_drops(places, pattern, **settings)


def test_one_token_and_one_stream():
    for steps, streams in ((1, STREAMS), (3, 1)):
        shape = Transformer(WIDTH, HEADS, causal=True, drops=drops_of(PLACES, "PERIODIC 1"))
        net = block_net(steps, shape, streams=streams)
        for iteration in range(3):
            assert_matches_masked_dense(net, iteration, batch(steps, streams))


# -- the plan ------------------------------------------------------------------------------------------------
NORM = "which computes all of it"
PLANS = {
    "embedding": ["embed computes only", "block1_attention_sum adds", "put back as zeros before "
                  "block1_attention_norm (LayerNorm)"],
    "qkv": [NORM, *(f"block1_attention_{part} reads only" for part in "qkv")],
    "q": ["has 3 readers", "block1_attention_q reads only"],
    "k": ["has 3 readers", "block1_attention_k reads only"],
    "v": ["has 3 readers", "block1_attention_v reads only"],
    "probabilities": [],
    "attention": ["block1_attention_v computes only", "block1_attention_out reads only"],
    "heads": [*(f"block1_attention_{part} computes only" for part in "vqk"),
              "block1_attention_out reads only"],
    "attention_branch": ["block1_attention_out computes only", "block1_attention_sum adds",
                         "block1_attention_out applies the scale of block1_attention_branch_drop"],
    "fc1": [NORM, "block1_mlp_fc1 reads only"],
    "hidden": ["block1_mlp_fc1 computes only", "block1_mlp_fc2 reads only"],
    "mlp_branch": ["block1_mlp_fc2 computes only", "block1_mlp_sum adds",
                   "block1_mlp_fc2 applies the scale of block1_mlp_branch_drop"]}


@in_turn("place", PLACES)
def test_what_the_plan_of_a_block_says(place):
    """Every product beside a drop is smaller, and a sum adds what a branch keeps without expanding it."""
    shape = Transformer(WIDTH, HEADS, causal=True, drops=drops_of([place], "PERIODIC 1"))
    lines = list(block_net(5, shape, tokens=9).plan.lines())
    assert len(lines) == len(PLANS[place])
    for line, part in zip(lines, PLANS[place], strict=True):
        assert part in line


def test_blocks_are_computed_and_read_only_but_for_what_crosses_steps():
    """Attention reads all steps of v, of which blocks drop some: there it has to compute all."""
    places = ("qkv", "attention", "fc1", "hidden", "mlp_branch")
    shape = Transformer(WIDTH, HEADS, causal=True, drops=drops_of(places, "BLOCK"))
    lines = list(block_net(5, shape, tokens=9).plan.lines())
    assert [line for line in lines if "only" in line] == [
        *(f"block1_attention_{part} reads only the blocks kept by block1_attention_qkv_drop"
          for part in "qkv"),
        "block1_attention_out reads only the blocks kept by block1_attention_drop",
        "block1_mlp_fc1 reads only the blocks kept by block1_mlp_in_drop",
        "block1_mlp_fc1 computes only the blocks kept by block1_mlp_hidden_drop",
        "block1_mlp_fc2 reads only the blocks kept by block1_mlp_hidden_drop",
        "block1_mlp_fc2 computes only the blocks kept by block1_mlp_branch_drop"]
    assert ("block1_attention_drop multiplies by a mask: block1_attention (Attention) reads other steps too, "
            "so that steps cannot differ in it") in lines


def test_a_pattern_a_step_does_not_cross_attention():
    own = {"dropout_ratio": 0.5, "pattern": "UNIT", "time": "STEP", "groups": 1}
    shape = Transformer(WIDTH, HEADS, drops={"attention": own, "hidden": own})
    net = block_net(5, shape)
    for iteration in range(2):
        assert_matches_masked_dense(net, iteration, batch(5))


def test_sums_in_a_row_take_what_every_branch_keeps():
    """Behind the first block the sum is dense, so the branches of the second add theirs to it as well."""
    shape = Transformer(WIDTH, HEADS, 3, drops=drops_of(("attention_branch", "mlp_branch"), "UNIT"))
    plan = block_net(5, shape).plan
    assert [node.name for drop in plan.drops for node in drop.adders] == [
        f"block{i}_{part}_sum" for i in (1, 2, 3) for part in ("attention", "mlp")]
    assert not any(drop.expanders or drop.unread for drop in plan.drops)


def test_a_place_that_is_none():
    with pytest.raises(ConfigError, match="drops 'hiden'; did you mean 'hidden'"):
        Transformer(WIDTH, HEADS, drops={"hiden": 0.5})


def test_blocks_are_no_whole_heads():
    with pytest.raises(ConfigError, match="heads needs a pattern of units, got BLOCK, which drops blocks"):
        block_net(5, Transformer(WIDTH, HEADS, drops=drops_of(["heads"], "BLOCK")))
