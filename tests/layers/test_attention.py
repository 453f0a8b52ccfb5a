"""The layer Attention: against PyTorch's module, its dropout, its cache, what it says of mistakes."""

import re

import numpy as np
import pytest
from cases import in_turn
from nets import inputs, ip, layer, net_of, numbers
from products import attended

from minidrop import ConfigError, DataError
from minidrop.net.costs import costs
from minidrop.testing import assert_matches_masked_dense, run_once

STEPS, SAMPLES, UNITS, HEADS = 5, 3, 8, 2


def attention(settings="", bottoms="a b c", name="att"):
    bottoms = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return (f'layer {{ name: "{name}" type: "Attention" {bottoms} top: "{name}" attention_param {{ '
            f'num_heads: {HEADS} {settings} }} }}')


def block(settings="", steps=STEPS, phase="TRAIN", **options):
    """Self-attention between products, from the blob a to the blob out."""
    return net_of(inputs((steps, SAMPLES, UNITS)), *(ip(name, "a", UNITS, "axis: 2") for name in "qkv"),
                  attention(settings, "q k v"), ip("out", "att", UNITS, "axis: 2", "loss_weight: 1"),
                  phase=phase, **options)


def outputs(net, **given):
    return {name: tensor.numpy() for name, tensor in net.forward(**given).items()}


def test_against_torchs_module():
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    net, x = block(), numbers(STEPS, SAMPLES, UNITS)
    module = torch.nn.MultiheadAttention(UNITS, HEADS, dtype=torch.float64)
    own = {name: [torch.from_numpy(net.params[name][key].data) for key in ("weight", "bias")]
           for name in ("q", "k", "v", "out")}
    with torch.no_grad():
        for i, name in enumerate("qkv"):
            module.in_proj_weight[i * UNITS:][:UNITS] = own[name][0]
            module.in_proj_bias[i * UNITS:][:UNITS] = own[name][1]
        module.out_proj.weight.copy_(own["out"][0])
        module.out_proj.bias.copy_(own["out"][1])
    given = torch.tensor(x)
    np.testing.assert_allclose(outputs(net, a=x)["out"], module(given, given, given)[0].detach().numpy(),
                               rtol=0, atol=1e-9)


def test_a_mask_of_the_keys_hides_padding():
    """What stands in padded steps, and that they are there, changes nothing."""
    q, k, v = (numbers(n, SAMPLES, UNITS, seed=n) for n in (4, 7, 7))
    k[5:], v[5:] = 1e6, -1e6
    mask = np.ones((7, SAMPLES))
    mask[5:] = 0
    net = net_of(inputs(q.shape, k.shape, v.shape, mask.shape), attention(bottoms="a b c d"))
    short = net_of(inputs(q.shape, (5, SAMPLES, UNITS), (5, SAMPLES, UNITS)), attention())
    np.testing.assert_allclose(outputs(net, a=q, b=k, c=v, d=mask)["att"],
                               outputs(short, a=q, b=k[:5], c=v[:5])["att"], rtol=0, atol=1e-12)
    mask[2, 1] = 0.5
    with pytest.raises(DataError, match="the mask of the keys is 0.5 at place 7 of the batch; expected 0 wh"):
        net.forward(a=q, b=k, c=v, d=mask)


# -- dropout -------------------------------------------------------------------------------------------------
def test_dropout_acts_in_training_and_belongs_to_the_iteration():
    x = {"a": numbers(STEPS, SAMPLES, UNITS)}
    net, plain = block("dropout_ratio: 0.5"), block()
    first, second = (run_once(net, iteration, x)[0]["out"] for iteration in (1, 2))
    assert abs(first - second).max() > 0.1 < abs(first - run_once(plain, 1, x)[0]["out"]).max()
    np.testing.assert_array_equal(run_once(net, 1, x)[0]["out"], first)
    np.testing.assert_array_equal(run_once(block("dropout_ratio: 0.5 block_keys: 5"), 1, x)[0]["out"], first)
    blocked = run_once(block("dropout_ratio: 0.5 block_keys: 2"), 1, x)[0]["out"]
    np.testing.assert_allclose(blocked, first, rtol=0, atol=1e-12)
    testing = block("dropout_ratio: 0.5", phase="TEST")
    np.testing.assert_array_equal(outputs(testing, **x)["out"], outputs(block(phase="TEST"), **x)["out"])


def test_the_mean_over_masks_is_what_is_computed_without():
    x = {"a": numbers(STEPS, SAMPLES, UNITS)}
    net = block("dropout_ratio: 0.3")
    mean = sum(run_once(net, i, x)[0]["out"] for i in range(400)) / 400
    expected = run_once(block(), 0, x)[0]["out"]
    assert abs(mean - expected).max() < 0.25 * abs(run_once(net, 0, x)[0]["out"] - expected).max()


# -- cache ---------------------------------------------------------------------------------------------------
CACHE = "causal: true cache: 6"


@in_turn("parts", [(1,) * 6, (2, 1, 3), (6,), (4, 1)])
def test_step_by_step_is_the_whole_sequence(parts):
    x = numbers(6, SAMPLES, UNITS)
    expected = outputs(block("causal: true", steps=6, phase="TEST"), a=x)["out"]
    nets = {n: block(CACHE, steps=n, phase="TEST") for n in set(parts)}
    states, first = nets[parts[0]].states, 0
    for n in parts:
        nets[n].set_states(states)
        got = outputs(nets[n], a=x[first:first + n])["out"]
        np.testing.assert_allclose(got, expected[first:first + n], rtol=0, atol=1e-12)
        states, first = nets[n].states, first + n


def test_states_before_a_pass_stay_as_they_were():
    net, x = block(CACHE, steps=1, phase="TEST"), numbers(3, SAMPLES, UNITS)
    before = net.states
    one = outputs(net, a=x[:1])["out"]
    between = net.states
    two = outputs(net, a=x[1:2])["out"]
    net.set_states(between)
    np.testing.assert_array_equal(outputs(net, a=x[1:2])["out"], two)
    net.set_states(before)
    np.testing.assert_array_equal(outputs(net, a=x[:1])["out"], one)
    net.reset_states()
    np.testing.assert_array_equal(outputs(net, a=x[:1])["out"], one)


def test_a_full_cache_says_what_to_do():
    net, x = block(CACHE, steps=4, phase="TEST"), numbers(4, SAMPLES, UNITS)
    net.forward(a=x)
    with pytest.raises(DataError, match="the cache has room for 6 steps; 4 are in it, and this pass has 4 "
                                        "more. Raise attention_param.cache, or begin a new sequence with"):
        net.forward(a=x)


def test_the_cache_is_of_phase_test_alone():
    net = block(CACHE, steps=9)
    assert net.states == {}
    assert {key: array.shape for key, array in block(CACHE, phase="TEST").states.items()} == {
        ("att", "keys"): (6, SAMPLES, UNITS), ("att", "values"): (6, SAMPLES, UNITS),
        ("att", "position"): (1,)}


# -- mistakes ------------------------------------------------------------------------------------------------
Q, K, V = (5, 3, 8), (7, 3, 8), (7, 3, 4)
MISTAKES = [
    ("num_heads: 0", [Q, K, V], "num_heads must be at least 1, got 0"),
    ("num_heads: 3", [Q, K, V], "num_heads: 3 does not divide the 8 units of q and k"),
    ("num_heads: 8", [Q, K, V], "num_heads: 8 does not divide the 4 units of v"),
    ("", [Q, (7, 3, 6), V], "q and k need as many units (axis 2), got (5, 3, 8) and (7, 3, 6); change the "
     "num_output of the layer that computes one of them"),
    ("", [Q, K, (6, 3, 4)], "k and v need as many steps (axis 0), got (7, 3, 8) and (6, 3, 4)"),
    ("", [Q, (7, 2, 8), V], "q, k and v need as many samples (axis 1), got (5, 3, 8), (7, 2, 8) and (7, 3, "
     "4)"),
    ("", [(3, 8), K, V], "expected q, k and v as (steps, samples, units), got (3, 8), (7, 3, 8) and (7, 3, "
     "4)"),
    ("", [(0, 3, 8), K, V], "q and k need at least one step (axis 0), got (0, 3, 8) and (7, 3, 8)"),
    ("", [Q, K, V, (3, 7)], "expected the mask of the keys as (steps, samples) of k, (7, 3), got (3, 7)"),
    ("dropout_ratio: 1", [Q, K, V], "dropout_ratio must lie in [0, 1), got 1"),
    ("cache: 9", [Q, K, V], "cache is for causal attention, which reads no later step; set causal: true, or "
     "remove cache"),
    ("cache: 9 causal: true", [Q, K, V, (7, 3)], "cache and a mask of the keys do not go together; remove "
     "one of them"),
    ("cache: 9 causal: true", [Q, K, V], "cache: expected q and k of as many steps, and at most 9 of them, "
     "got 5 and 7"),
    ("cache: 4 causal: true", [Q, Q, Q], "cache: expected q and k of as many steps, and at most 4 of them, "
     "got 5 and 5")]


@in_turn("settings, shapes, message", MISTAKES, ids=[message[:60] for _, _, message in MISTAKES])
def test_mistake(settings, shapes, message):
    bottoms = " ".join("abcd"[:len(shapes)])
    with pytest.raises(ConfigError) as caught:
        net_of(inputs(*shapes), layer("Attention", "l", bottoms, more=f"attention_param {{ {settings} }}"),
               phase="TEST")
    found = re.fullmatch(r"net\.prototxt:(\d+):\d+: layer 'l' \(Attention\): (.*?)(?: \[bottoms: .*\])?",
                         str(caught.value))
    assert found and found[2] == message, str(caught.value)


# -- drops of units ------------------------------------------------------------------------------------------
LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "b" top: "loss" }'
FAMILIES = ("PERIODIC", "ROW", "UNIT", "SLICE")


def dropped(pattern, settings="", units=UNITS, steps=STEPS):
    drop = f'approx_dropout_param {{ dropout_ratio: 0.5 pattern: {pattern} }}'
    return net_of(inputs((steps, SAMPLES, UNITS), (steps, SAMPLES, UNITS)),
                  *(ip(name, "a", UNITS if name in "qk" else units, "axis: 2") for name in "qkv"),
                  attention(settings, "q k v"),
                  layer("ApproxDropout", "drop", "att", "att", drop.replace("}", "axis: 2 }")),
                  ip("out", "att", UNITS, "axis: 2"), LOSS)


def assert_matches(net, iterations=4):
    data = {"a": numbers(STEPS, SAMPLES, UNITS), "b": numbers(STEPS, SAMPLES, UNITS, seed=1)}
    for iteration in range(iterations):
        assert_matches_masked_dense(net, iteration, data)


@in_turn("family", FAMILIES)
@in_turn("more", ["", "groups: 2", "heads: 2", "heads: 2 groups: 3"])
@in_turn("settings", ["causal: true", "dropout_ratio: 0.3 block_keys: 2"])
def test_a_drop_behind_attention_shrinks_v(family, more, settings):
    net = dropped(f'"{family}" {more}', settings, units=12)
    assert net.plan.drops[0].producers == [net.graph.nodes[4]] and net.graph.nodes[4].name == "v"
    assert_matches(net)


@in_turn("more", ["", "groups: 2"])
@in_turn("settings", ["causal: true", "dropout_ratio: 0.3 block_keys: 2"])
def test_whole_heads_are_not_computed_at_all(more, settings):
    net = dropped(f'"UNIT" heads: 2 whole_heads: true {more}', settings)
    assert [node.name for node in net.plan.drops[0].producers] == ["v", "q", "k"]
    assert_matches(net)


@in_turn("pattern, settings", [
    (None, "causal: true"), (None, "block_keys: 130"), ('"UNIT" heads: 2', "causal: true"),
    ('"UNIT" heads: 2 whole_heads: true', "causal: true")])
def test_check_counts_the_products_that_are_computed(pattern, settings, monkeypatch):
    """Forward and both gradients of scores, and of probabilities times v; causal: what the tiles cover."""
    net = dropped(pattern or '"UNIT"', settings, steps=130)
    net.set_dropping(pattern is not None)
    terms = attended(monkeypatch, net.backend)
    data = {name: numbers(130, SAMPLES, UNITS) for name in "ab"}
    run_once(net, 0, data)
    [row] = [row for row in costs(net) if row.node.name == "att"]
    assert 2 * sum(terms) == (row.dense if pattern is None else row.expected)
    scores = {"causal: true": 64 * 64 + 64 * 128 + 2 * 130}.get(settings, 130 * 130)
    assert row.dense == 6 * SAMPLES * scores * UNITS * 2


def test_units_of_heads_cannot_change_places():
    with pytest.raises(ConfigError, match=r"reshuffle_interval cannot permute the units above: blob att is "
                                          r"written by att \(Attention\) at .*, whose heads allow no other"):
        dropped('"PERIODIC" reshuffle_interval: 3')
