"""The contract: the compacted net equals the dense net with the explicit mask, in float64 to 1e-9.

Over all pattern families, rates, chains, fan-out, odd totals and elementwise layers on both sides of a drop.
"""

import numpy as np
import pytest

from minidrop.config import parse_net
from minidrop.net import Net
from minidrop.patterns import known_families
from minidrop.testing import assert_matches_masked_dense, run_once

RATES = (0, 0.3, 0.5, 0.7, 0.9)
INPUTS = ('layer { name: "in" type: "Input" top: "data" top: "label" '
          'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%s" bottom: "label" top: "loss" }'


def ip(name, bottom, outputs, extra=""):
    filler = 'weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1 max: 1 }'
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f'inner_product_param {{ num_output: {outputs} {filler} {extra} }} }}')


def layer(kind, name, bottom, top=None, extra=""):
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}" {extra} }}'


def drop(name, bottom, top=None, rate=0.5, family="PERIODIC", extra=""):
    return layer("ApproxDropout", name, bottom, top,
                 f'approx_dropout_param {{ dropout_ratio: {rate} pattern: "{family}" {extra} }}')


def make_net(*layers, backend="cpu", seed=0):
    return Net(parse_net("\n".join((INPUTS, *layers))), device=backend, dtype="float64", seed=seed)


def batch(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    return {"data": rng.standard_normal((rows, 13)), "label": rng.integers(0, 7, rows)}


def check(net, iterations=12):
    for iteration in range(iterations):
        assert_matches_masked_dense(net, iteration, batch())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("family", known_families())
class TestEveryFamilyAndRate:
    def test_chain_of_two_drops(self, family, rate, backend):
        net = make_net(ip("ip1", "data", 29), layer("ReLU", "relu1", "ip1", "ip1"), drop("drop1", "ip1", None, rate, family),
                       ip("ip2", "drop1", 31), layer("ReLU", "relu2", "ip2", "ip2"),
                       drop("drop2", "ip2", "ip2", rate, family), ip("ip3", "ip2", 7), LOSS % "ip3", backend=backend)
        assert [d.producer.name for d in net.plan.drops] == ["ip1", "ip2"]
        check(net)

    def test_axis_shorter_than_the_period(self, family, rate, backend):
        """Some draws keep no unit at all."""
        net = make_net(ip("ip1", "data", 3), drop("drop1", "ip1", None, rate, family), ip("ip2", "drop1", 7), LOSS % "ip2",
                       backend=backend)
        check(net, 40)


@pytest.mark.parametrize("family", known_families())
@pytest.mark.parametrize("scale", ["RATE", "PATTERN"])
def test_both_scales(family, scale):
    check(make_net(ip("ip1", "data", 29), drop("drop1", "ip1", None, 0.6, family, f"scale: {scale}"),
                   ip("ip2", "drop1", 7), LOSS % "ip2"))


ELEMENTWISE = {
    "ReLU": "", "leaky": "relu_param { negative_slope: 0.1 }", "TanH": "", "Sigmoid": "",
    "scaling": "power_param { scale: 3 }", "shifting": "power_param { shift: 2 }",
}


@pytest.mark.parametrize("kind", ELEMENTWISE)
class TestElementwiseLayers:
    def type_of(self, kind):
        return {"leaky": "ReLU", "scaling": "Power", "shifting": "Power"}.get(kind, kind)

    def test_above_a_drop_any_may_be_crossed(self, kind):
        net = make_net(ip("ip1", "data", 29), layer(self.type_of(kind), "act", "ip1", None, ELEMENTWISE[kind]),
                       drop("drop1", "act"), ip("ip2", "drop1", 7), LOSS % "ip2")
        assert net.plan.drops[0].producer.name == "ip1"
        check(net)

    def test_below_a_drop_only_zero_preserving_ones_carry(self, kind):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1"),
                       layer(self.type_of(kind), "act", "drop1", None, ELEMENTWISE[kind]), ip("ip2", "act", 7), LOSS % "ip2")
        carries = kind not in ("Sigmoid", "shifting")
        assert [n.name for n in net.plan.drops[0].carriers] == (["act"] if carries else [])
        assert [n.name for n in net.plan.drops[0].consumers] == (["ip2"] if carries else [])
        check(net)


def test_fan_out_above_the_drop_gathers():
    net = make_net(ip("ip1", "data", 29), layer("ReLU", "relu1", "ip1"), drop("drop1", "relu1"), ip("ip2", "drop1", 7),
                   ip("other", "relu1", 7), LOSS % "ip2",
                   'layer { name: "loss2" type: "EuclideanLoss" bottom: "other" bottom: "ip2" top: "loss2" }')
    assert "drop1 gathers: blob relu1 has 2 readers" in list(net.plan.lines())
    check(net)


def test_fan_out_below_the_drop_feeds_both():
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1"), ip("a", "drop1", 7), ip("b", "drop1", 7),
                   'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }', LOSS % "sum")
    assert [n.name for n in net.plan.drops[0].consumers] == ["a", "b"]
    check(net)


def test_split_below_the_drop_carries_on():
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1"),
                   'layer { name: "split" type: "Split" bottom: "drop1" top: "s1" top: "s2" }',
                   ip("a", "s1", 7), ip("b", "s2", 7),
                   'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }', LOSS % "sum")
    assert [n.name for n in net.plan.drops[0].consumers] == ["a", "b"]
    check(net)


def test_drop_on_the_data():
    net = make_net(drop("drop0", "data", rate=0.2), ip("ip1", "drop0", 29), LOSS % "ip1")
    assert "drop0 gathers: blob data is written by in (Input), which computes all of it" in list(net.plan.lines())
    assert [n.name for n in net.plan.drops[0].consumers] == ["ip1"]
    check(net)


def test_two_drops_in_a_row():
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1"), drop("drop2", "drop1", rate=0.3), ip("ip2", "drop2", 7),
                   LOSS % "ip2")
    check(net)


def test_drop_that_nothing_can_use_still_drops():
    net = make_net(ip("ip1", "data", 29), layer("Softmax", "soft", "ip1"), drop("drop1", "soft"),
                   layer("Sigmoid", "sig", "drop1"), ip("ip2", "sig", 7), LOSS % "ip2")
    assert "drop1 saves nothing: no product computes or reads its units" in list(net.plan.lines())
    check(net)


def test_drop_before_a_loss_that_needs_every_unit():
    net = make_net(ip("ip1", "data", 7), drop("drop1", "ip1", rate=0.3), LOSS % "drop1")
    assert [n.name for n in net.plan.drops[0].expanders] == ["loss"]
    check(net)


def test_drop_whose_top_is_an_output_of_the_net():
    net = make_net(ip("ip1", "data", 7), drop("drop1", "ip1"), ip("ip2", "data", 7), LOSS % "ip2")
    check(net)
    assert net.forward(**batch())["drop1"].shape == (6, 7)


def test_weight_shared_by_two_sites():
    """One weight, two drops: a site belongs to a layer, and the gradients of both places add up."""
    share = 'param { name: "w" } param { name: "b" }'
    first, second = ip("ip1", "data", 13), ip("ip2", "drop1", 13)
    first, second = (text[:-1] + share + " }" for text in (first, second))
    net = make_net(first, drop("drop1", "ip1"), second, drop("drop2", "ip2", rate=0.3), ip("ip3", "drop2", 7), LOSS % "ip3")
    assert net.params["ip1"]["weight"] is net.params["ip2"]["weight"]
    check(net)


def test_transposed_weight():
    check(make_net(ip("ip1", "data", 29, "transpose: true"), drop("drop1", "ip1"), ip("ip2", "drop1", 7, "transpose: true"),
                   LOSS % "ip2"))


def test_no_bias():
    check(make_net(ip("ip1", "data", 29, "bias_term: false"), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2"))


def test_reshaped_activations_are_not_carried():
    net = make_net(ip("ip1", "data", 28), layer("Reshape", "shaped", "ip1", None,
                                                "reshape_param { shape { dim: 0 dim: 4 dim: 7 } }"),
                   drop("drop1", "shaped"), ip("ip2", "drop1", 7), LOSS % "ip2")
    assert net.plan.drops[0].producer is None
    check(net)


def test_sequences_drop_on_the_last_axis():
    shape = 'layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 3 dim: 2 dim: 13 } '
    text = "\n".join((shape + "shape { dim: 3 dim: 2 } } }", ip("ip1", "data", 29, "axis: 2"), drop("drop1", "ip1"),
                      ip("ip2", "drop1", 7, "axis: 2"),
                      'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" '
                      'softmax_param { axis: 2 } }'))
    net = Net(parse_net(text), device="cpu", dtype="float64")
    assert net.plan.drops[0].producer.name == "ip1" and [n.name for n in net.plan.drops[0].consumers] == ["ip2"]
    rng = np.random.default_rng(0)
    for iteration in range(12):
        assert_matches_masked_dense(net, iteration, {"data": rng.standard_normal((3, 2, 13)),
                                                     "label": rng.integers(0, 7, (3, 2))})


def test_ordinary_dropout_beside_it():
    check(make_net(ip("ip1", "data", 29), drop("drop1", "ip1"), ip("ip2", "drop1", 31), layer("Dropout", "drop2", "ip2"),
                   ip("ip3", "drop2", 7), LOSS % "ip3"))


def test_concat_below_a_drop_expands():
    check(make_net(ip("ip1", "data", 29), drop("drop1", "ip1"),
                   'layer { name: "cat" type: "Concat" bottom: "drop1" bottom: "data" top: "cat" }',
                   ip("ip2", "cat", 7), LOSS % "ip2"))


def test_phase_test_keeps_everything():
    net = Net(parse_net("\n".join((INPUTS, ip("ip1", "data", 29), drop("drop1", "ip1"), ip("ip2", "drop1", 7),
                                   LOSS % "ip2"))), phase="TEST", device="cpu", dtype="float64")
    net.draw_patterns(3)
    net.forward(**batch())
    assert net.blobs["drop1"].kept is None
    np.testing.assert_array_equal(net.blobs["drop1"].numpy(), net.blobs["ip1"].numpy())
    np.testing.assert_array_equal(net.masks()["drop1"], np.ones((1, 29)))


def test_masks_are_what_dense_code_multiplies_by():
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", rate=0.3), ip("ip2", "drop1", 7), LOSS % "ip2")
    net.draw_patterns(5)
    net.forward(**batch())
    x, W, b = batch()["data"], net.params["ip1"]["weight"].data, net.params["ip1"]["bias"].data
    mask = net.masks()["drop1"]
    assert mask.shape == (1, 29) and set(np.unique(mask.round(12))) == {0, round(1 / 0.7, 12)}
    np.testing.assert_allclose(net.blobs["drop1"].numpy(), (x @ W.T + b) * mask, atol=1e-12)


def test_the_products_are_really_smaller(monkeypatch):
    """Every product of a step has the compact size, forward, input gradient and weight gradient."""
    net = make_net(ip("ip1", "data", 40), drop("drop1", "ip1"), ip("ip2", "drop1", 60), drop("drop2", "ip2"),
                   ip("ip3", "drop2", 7), LOSS % "ip3")
    sizes = []
    gemm = type(net.backend).gemm

    def counted(self, a, b, trans_a=False, trans_b=False):
        y = gemm(self, a, b, trans_a, trans_b)
        sizes.append((y.shape[0], a.shape[0] if trans_a else a.shape[1], y.shape[1]))
        return y

    monkeypatch.setattr(type(net.backend), "gemm", counted)
    run_once(net, 0, {"data": batch()["data"].astype(np.float64), "label": batch()["label"]})
    assert sizes == [(6, 13, 20), (6, 20, 30), (6, 30, 7),                       # forward: rows, inputs, outputs
                     (6, 7, 30), (7, 6, 30), (6, 30, 20), (30, 6, 20), (6, 20, 13), (20, 6, 13)]


def test_without_draw_patterns_every_forward_draws():
    net = make_net(ip("ip1", "data", 40), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")
    drawn = []
    for _ in range(8):
        net.forward(**batch())
        drawn.append(net.patterns["drop1"])
    assert len(set(drawn)) > 1
    net.draw_patterns(3)
    pinned = [net.forward(**batch()) and net.patterns["drop1"] for _ in range(3)]
    assert len(set(pinned)) == 1


def test_a_wrong_scale_is_caught(monkeypatch):
    """The oracle can fail: it notices a compact path that forgets the scale."""
    from minidrop import functions
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")
    right = functions.approx_dropout
    monkeypatch.setattr(functions, "approx_dropout",
                        lambda x, site, axis: right(x, site, axis) if site.masked else x)
    with pytest.raises(AssertionError, match="output loss|gradient"):
        assert_matches_masked_dense(net, 0, batch())


@pytest.mark.parametrize("crossed", ["ip1", "relu1"])
def test_a_blob_that_counts_in_the_loss_is_computed_whole(crossed):
    """A loss_weight reads the blob as surely as a layer does, though no layer is seen to read it."""
    loss_weight = dict.fromkeys(("ip1", "relu1"), "") | {crossed: "loss_weight: 0.5"}
    first = ip("ip1", "data", 29).replace('bottom: "data"', f'bottom: "data" {loss_weight["ip1"]}')
    net = make_net(first, layer("ReLU", "relu1", "ip1", None, loss_weight["relu1"]), drop("drop1", "relu1"),
                   ip("ip2", "drop1", 7), LOSS % "ip2")
    assert net.plan.drops[0].producer is None
    assert f"drop1 gathers: blob {crossed} counts in the loss" in net.plan.lines()
    check(net)
