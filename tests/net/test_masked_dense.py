"""The contract: the compacted net equals the dense net with the explicit mask, in float64 to 1e-9.

Over all pattern families, rates, chains, fan-out, odd totals and elementwise layers on both sides of a drop.
"""

from dataclasses import replace

import numpy as np
import pytest
from cases import every_pair, every_value
from nets import IMAGES, LOSS, SMALL, images, ip, layer, net_of, unlike_draws

from minidrop.config import parse_net
from minidrop.net import Net
from minidrop.net.plan import Plan
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.patterns.draw import NOTHING
from minidrop.testing import assert_matches_masked_dense

RATES = (0, 0.3, 0.5, 0.7, 0.9)
PATTERNS = {family: (family, SMALL.get(family, "")) for family in known_families()} | {
    "TILE of 3": ("TILE", "tile_size: 3"), "TILE of all": ("TILE", ""), "TILE of 1": ("TILE", "tile_size: 1"),
    "BLOCK 4 x 2": ("BLOCK", "block_samples: 4 block_units: 2"),      # 6 samples: a whole group and a rest
    "BLOCK of all samples": ("BLOCK", ""),
    "PERIODIC by 1": ("PERIODIC", "groups: 1"), "PERIODIC by 2": ("PERIODIC", "groups: 2"),
    "ROW by 3": ("ROW", "groups: 3"),
    "UNIT by 4": ("UNIT", "groups: 4"),                               # 6 samples: groups of 1, 2, 1 and 2
    "SLICE by 9": ("SLICE", "groups: 9"),                             # some without any sample
    "PERIODIC by 4, each drawn": ("PERIODIC", "groups: 4 grouping: INDEPENDENT"),
    "UNIT by 2, each drawn": ("UNIT", "groups: 2 grouping: INDEPENDENT")}
ALWAYS = (*known_families(), "TILE of 3", "BLOCK 4 x 2", "PERIODIC by 2", "UNIT by 4")
every_pattern = pytest.mark.parametrize("pattern", [
    pytest.param(pattern, marks=() if pattern in ALWAYS else pytest.mark.full) for pattern in PATTERNS])


SUM = 'layer { name: "sum" type: "Eltwise" bottom: "%s" bottom: "%s" top: "sum" }'


def drop(name, bottom, top=None, rate=0.5, pattern="PERIODIC", extra=""):
    family, settings = PATTERNS[pattern]
    if rate > 0.8 and "tile_size" in settings:      # one tile of up to eleven lives, and larger ones are
                                                    # refused here
        settings = "tile_size: 1"
    return layer("ApproxDropout", name, bottom, top,
                 f'approx_dropout_param {{ dropout_ratio: {rate} pattern: "{family}" {settings} {extra} }}')


def make_net(*layers, backend="cpu", seed=0):
    return net_of(IMAGES, *layers, device=getattr(backend, "name", backend), seed=seed)


def check(net, iterations=5):
    """The contract holds for unlike draws, and over these iterations each drop really drops something of what
    it drops."""
    shares = {name: [] for name in net.drop_sites}
    for iteration, masks, new in unlike_draws(net, iterations):
        if new:
            assert_matches_masked_dense(net, iteration, images())
        for name, mask in masks.items():
            shares[name].append((mask != 0).mean())
    assert all(min(found) < 1 or not net.drop_sites[name].settings.rate for name, found in shares.items())


def kind_of(pattern):
    """What a pattern drops below a product: units, weights or blocks."""
    return "blocks" if pattern.startswith("BLOCK") else "weights" if pattern.startswith("TILE") else "units"


def names(nodes):
    return [node.name for node in nodes]


@every_value(("pattern", list(PATTERNS)), ("rate", RATES))
class TestEveryFamilyAndRate:
    def test_chain_of_two_drops(self, pattern, rate, backend):
        net = make_net(ip("ip1", "data", 29), layer("ReLU", "relu1", "ip1", "ip1"),
                       drop("drop1", "ip1", None, rate, pattern), ip("ip2", "drop1", 31),
                       layer("ReLU", "relu2", "ip2", "ip2"), drop("drop2", "ip2", "ip2", rate, pattern),
                       ip("ip3", "ip2", 7), LOSS % "ip3", backend=backend)
        assert [d.producer.name for d in net.plan.drops] == ["ip1", "ip2"]
        assert [names(d.consumers) for d in net.plan.drops] == ([[], []] if kind_of(pattern) == "weights"
                                                                else [["ip2"], ["ip3"]])
        check(net, 8)

    def test_axis_shorter_than_the_period(self, pattern, rate, backend):
        """Some draws keep no unit, tile or block at all."""
        if pattern == "BLOCK 4 x 2" and rate > 0.5:
            pytest.skip("refused: an axis of two blocks cannot drop more than half of them")
        net = make_net(ip("ip1", "data", 3), drop("drop1", "ip1", None, rate, pattern), ip("ip2", "drop1", 7),
                       LOSS % "ip2", backend=backend)
        for iteration in range(8):
            assert_matches_masked_dense(net, iteration, images())


@every_pair(("pattern", list(PATTERNS)), ("scale", ["RATE", "PATTERN"]), ("bias", ["", "bias_term: false"]),
            ("transpose", ["", "transpose: true"]))
def test_both_scales_stored_either_way_with_and_without_bias(pattern, scale, bias, transpose):
    if scale not in get_family(PatternSettings(family=PATTERNS[pattern][0])).scales:
        pytest.skip("refused: this family has no such scale")
    check(make_net(ip("ip1", "data", 29, f"{bias} {transpose}"),
                   drop("drop1", "ip1", None, 0.6, pattern, f"scale: {scale}"),
                   ip("ip2", "drop1", 7, transpose), LOSS % "ip2"))


ELEMENTWISE = {
    "ReLU": "", "leaky": "relu_param { negative_slope: 0.1 }", "TanH": "", "Sigmoid": "",
    "scaling": "power_param { scale: 3 }", "shifting": "power_param { shift: 2 }",
}


@every_value(("pattern", list(PATTERNS)), ("kind", list(ELEMENTWISE)))
class TestElementwiseLayers:
    def type_of(self, kind):
        return {"leaky": "ReLU", "scaling": "Power", "shifting": "Power"}.get(kind, kind)

    def test_above_a_drop_any_may_be_crossed(self, kind, pattern):
        net = make_net(ip("ip1", "data", 29), layer(self.type_of(kind), "act", "ip1", None,
                                                    ELEMENTWISE[kind]),
                       drop("drop1", "act", pattern=pattern), ip("ip2", "drop1", 7), LOSS % "ip2")
        assert net.plan.drops[0].producer.name == "ip1" and names(net.plan.drops[0].crossed) == ["act"]
        check(net, 6)

    def test_below_a_drop_only_zero_preserving_ones_carry(self, kind, pattern):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern),
                       layer(self.type_of(kind), "act", "drop1", None, ELEMENTWISE[kind]),
                       ip("ip2", "act", 7), LOSS % "ip2")
        carries = kind not in ("Sigmoid", "shifting") and kind_of(pattern) != "weights"
        assert names(net.plan.drops[0].carriers) == (["act"] if carries else [])
        assert names(net.plan.drops[0].consumers) == (["ip2"] if carries else [])
        assert names(net.plan.drops[0].expanders) == ([] if carries or kind_of(pattern) != "units"
                                                      else ["act"])
        check(net, 6)


@every_pattern
class TestStructures:
    def test_fan_out_above_the_drop(self, pattern):
        """The product above cannot leave anything out: units are gathered, blocks multiplied by their
        mask."""
        net = make_net(ip("ip1", "data", 29), layer("ReLU", "relu1", "ip1"),
                       drop("drop1", "relu1", pattern=pattern), ip("ip2", "drop1", 7),
                       ip("other", "relu1", 7), LOSS % "ip2", 'layer { name: "loss2" type: "EuclideanLoss" '
                       'bottom: "other" bottom: "ip2" top: "loss2" }')
        plan = net.plan.drops[0]
        assert (plan.producer, plan.reason, names(plan.consumers)) == (None, "blob relu1 has 2 readers",
                                                                       ["ip2"])
        check(net)

    def test_fan_out_below_the_drop_feeds_both(self, pattern):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern), ip("a", "drop1", 7),
                       ip("b", "drop1", 7), SUM % ("a", "b"), LOSS % "sum")
        assert names(net.plan.drops[0].consumers) == ([] if kind_of(pattern) == "weights" else ["a", "b"])
        check(net)

    def test_split_below_the_drop_carries_on(self, pattern):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern),
                       'layer { name: "split" type: "Split" bottom: "drop1" top: "s1" top: "s2" }',
                       ip("a", "s1", 7), ip("b", "s2", 7), SUM % ("a", "b"), LOSS % "sum")
        assert names(net.plan.drops[0].consumers) == ([] if kind_of(pattern) == "weights" else ["a", "b"])
        check(net)

    def test_a_sum_with_something_whole_is_read_whole(self, pattern):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern), ip("whole", "data", 29),
                       SUM % ("drop1", "whole"), ip("ip2", "sum", 7), LOSS % "ip2")
        assert names(net.plan.drops[0].consumers) == []
        check(net)

    def test_drop_on_the_data(self, pattern):
        net = make_net(drop("drop0", "data", rate=0.2, pattern=pattern), ip("ip1", "drop0", 29), LOSS % "ip1")
        assert net.plan.drops[0].reason == "blob data is written by in (Input), which computes all of it"
        assert names(net.plan.drops[0].consumers) == ["ip1"]
        check(net)

    @pytest.mark.parametrize("second", ["PERIODIC", "TILE", "BLOCK", "BLOCK 4 x 2"])
    def test_two_drops_in_a_row(self, pattern, second):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern),
                       drop("drop2", "drop1", rate=0.3, pattern=second), ip("ip2", "drop2", 7), LOSS % "ip2")
        assert net.plan.drops[0].producer.name == "ip1" and net.plan.drops[1].producer is None
        check(net)

    def test_drop_that_nothing_can_use_still_drops(self, pattern):
        net = make_net(ip("ip1", "data", 29), layer("Softmax", "soft", "ip1"),
                       drop("drop1", "soft", pattern=pattern), layer("Sigmoid", "sig", "drop1"),
                       ip("ip2", "sig", 7), LOSS % "ip2")
        assert not net.plan.drops[0].saves
        check(net)

    def test_drop_before_a_loss_that_needs_every_unit(self, pattern):
        net = make_net(ip("ip1", "data", 7), drop("drop1", "ip1", rate=0.3, pattern=pattern), LOSS % "drop1")
        assert names(net.plan.drops[0].expanders) == (["loss"] if kind_of(pattern) == "units" else [])
        check(net, 12)

    def test_drop_whose_top_is_an_output_of_the_net(self, pattern):
        net = make_net(ip("ip1", "data", 7), drop("drop1", "ip1", pattern=pattern), ip("ip2", "data", 7),
                       LOSS % "ip2")
        check(net)
        assert net.forward(**images())["drop1"].shape == (6, 7)

    @pytest.mark.parametrize("transpose", ["", "transpose: true"])
    def test_weight_shared_by_two_sites(self, pattern, transpose):
        """One weight, two drops: a site belongs to a layer, and the gradients of both places add up."""
        share = 'param { name: "w" } param { name: "b" }'
        net = make_net(ip("ip1", "data", 13, transpose, share), drop("drop1", "ip1", pattern=pattern),
                       ip("ip2", "drop1", 13, transpose, share),
                       drop("drop2", "ip2", rate=0.6, pattern=pattern), ip("ip3", "drop2", 7), LOSS % "ip3")
        assert net.params["ip1"]["weight"] is net.params["ip2"]["weight"]
        check(net)

    def test_reshaped_activations_are_not_carried(self, pattern):
        net = make_net(ip("ip1", "data", 28), layer("Reshape", "shaped", "ip1", None,
                                                    "reshape_param { shape { dim: 0 dim: 4 dim: 7 } }"),
                       drop("drop1", "shaped", pattern=pattern), ip("ip2", "drop1", 7), LOSS % "ip2")
        assert net.plan.drops[0].producer is None and net.plan.drops[0].consumers == []
        check(net)

    def test_sequences_drop_on_the_last_axis(self, pattern):
        """Shape (T, N, I): every step of every record is a sample of its own, in blocks of samples too."""
        inputs = ('layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 3 '
                  'dim: 2 dim: 13 } ')
        text = "\n".join((inputs + "shape { dim: 3 dim: 2 } } }", ip("ip1", "data", 29, "axis: 2"),
                          drop("drop1", "ip1", pattern=pattern), ip("ip2", "drop1", 7, "axis: 2"),
                          'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: '
                          '"loss" softmax_param { axis: 2 } }'))
        net = Net(parse_net(text), device="cpu", dtype="float64")
        assert net.plan.drops[0].producer.name == "ip1"
        assert names(net.plan.drops[0].consumers) == ([] if kind_of(pattern) == "weights" else ["ip2"])
        rng = np.random.default_rng(0)
        for iteration in range(4):
            assert_matches_masked_dense(net, iteration, {"data": rng.standard_normal((3, 2, 13)),
                                                         "label": rng.integers(0, 7, (3, 2))})

    def test_images_drop_channels(self, pattern):
        inputs = ('layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: 6 dim: '
                  '9 dim: 2 dim: 3 } ')
        net = Net(parse_net("\n".join((inputs + "shape { dim: 6 } } }", drop("drop1", "x", pattern=pattern),
                                       layer("ReLU", "relu", "drop1"), ip("ip1", "relu", 7), LOSS % "ip1"))),
                  device="cpu", dtype="float64")
        assert net.plan.drops[0].producer is None
        assert names(net.plan.drops[0].consumers) == ([] if kind_of(pattern) == "blocks" else ["ip1"])
        rng = np.random.default_rng(0)
        for iteration in range(4):
            assert_matches_masked_dense(net, iteration,
                                        {"x": rng.standard_normal((6, 9, 2, 3)), "label": images()["label"]})

    def test_ordinary_dropout_beside_it(self, pattern):
        check(make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern), ip("ip2", "drop1", 31),
                       layer("Dropout", "drop2", "ip2"), ip("ip3", "drop2", 7), LOSS % "ip3"))

    def test_concat_below_a_drop_expands(self, pattern):
        check(make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern),
                       'layer { name: "cat" type: "Concat" bottom: "drop1" bottom: "data" top: "cat" }',
                       ip("ip2", "cat", 7), LOSS % "ip2"))

    def test_phase_test_keeps_everything(self, pattern):
        net = Net(parse_net("\n".join((IMAGES, ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern),
                                       ip("ip2", "drop1", 7), LOSS % "ip2"))), phase="TEST", device="cpu",
                  dtype="float64")
        net.draw_patterns(3)
        net.forward(**images())
        x, W, b = images()["data"], net.params["ip1"]["weight"].data, net.params["ip1"]["bias"].data
        assert net.blobs["drop1"].kept is None
        np.testing.assert_allclose(net.blobs["drop1"].numpy(), x @ W.T + b, atol=1e-12)
        assert (net.masks()["drop1"] == 1).all()

    @pytest.mark.parametrize("crossed", ["ip1", "relu1"])
    def test_a_blob_that_counts_in_the_loss_is_computed_whole(self, pattern, crossed):
        """A loss_weight reads the blob as surely as a layer does, though no layer is seen to read it."""
        loss_weight = dict.fromkeys(("ip1", "relu1"), "") | {crossed: "loss_weight: 0.5"}
        net = make_net(ip("ip1", "data", 29, "", loss_weight["ip1"]),
                       layer("ReLU", "relu1", "ip1", None, loss_weight["relu1"]),
                       drop("drop1", "relu1", pattern=pattern), ip("ip2", "drop1", 7), LOSS % "ip2")
        assert net.plan.drops[0].producer is None
        assert net.plan.drops[0].reason == f"blob {crossed} counts in the loss"
        check(net)


class TestMasks:
    """`masks` are what dense code multiplies by, computed here by hand from a forward pass."""

    def forward(self, pattern):
        net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", rate=0.3, pattern=pattern),
                       ip("ip2", "drop1", 7), LOSS % "ip2")
        iteration = next(i for i in range(20) if net.draw_patterns(i) or not net.masks()["drop1"].all())
        net.draw_patterns(iteration)
        net.forward(**images())
        mask = net.masks()["drop1"]
        assert set(np.unique(mask.round(12))) == {0, round(1 / 0.7, 12)}
        x, W, b = images()["data"], net.params["ip1"]["weight"].data, net.params["ip1"]["bias"].data
        return net.blobs["drop1"].numpy(), mask, x, W, b

    @pytest.mark.parametrize("pattern, shape", [("PERIODIC by 1", (1, 29)), ("UNIT by 4", (6, 29)),
                                                ("BLOCK", (6, 29)), ("BLOCK 4 x 2", (6, 29))])
    def test_of_activations(self, pattern, shape):
        y, mask, x, W, b = self.forward(pattern)
        assert mask.shape == shape
        np.testing.assert_allclose(y, (x @ W.T + b) * mask, atol=1e-12)

    def test_of_weights(self):
        y, mask, x, W, b = self.forward("TILE of 1")
        assert mask.shape == (29, 13)
        np.testing.assert_allclose(y, x @ (W * mask).T + b, atol=1e-12)


def test_without_draw_patterns_every_forward_draws():
    net = make_net(ip("ip1", "data", 40), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")
    drawn = []
    for _ in range(8):
        net.forward(**images())
        drawn.append(net.patterns["drop1"])
    assert len(set(drawn)) > 1
    net.draw_patterns(3)
    pinned = [net.forward(**images()) and net.patterns["drop1"] for _ in range(3)]
    assert len(set(pinned)) == 1


@every_pattern
def test_a_wrong_scale_is_caught(monkeypatch, pattern):
    """The oracle can fail: it notices a compact path that forgets the scale."""
    net = make_net(ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern), ip("ip2", "drop1", 7),
                   LOSS % "ip2")
    right = Plan.node_draws

    def unscaled(plan, draws, masked=False):
        plain = {i: draw if draw is NOTHING else replace(draw, scale=1.0) for i, draw in draws.items()}
        return right(plan, draws if masked else plain, masked)

    monkeypatch.setattr(Plan, "node_draws", unscaled)
    with pytest.raises(AssertionError, match="output loss|gradient"):
        for iteration in range(8):
            assert_matches_masked_dense(net, iteration, images())


@every_value(("pattern", list(PATTERNS)), ("operation", ["SUM", "PROD", "MAX"]))
def test_eltwise_carries_what_all_of_its_bottoms_lack(operation, pattern):
    """Two branches of one drop meet again: nothing is put back. With another branch it is, unless it is added
    in its place."""
    branches = (ip("ip1", "data", 29), drop("drop1", "ip1", pattern=pattern), layer("ReLU", "a", "drop1"),
                layer("TanH", "b", "drop1"))
    how = f"eltwise_param {{ operation: {operation} }}"
    net = make_net(*branches, layer("Eltwise", "both", "a b", None, how), ip("ip2", "both", 7), LOSS % "ip2")
    plan = net.plan.drops[0]
    if kind_of(pattern) != "weights":
        assert names(plan.carriers) == ["a", "b", "both"] and names(plan.consumers) == ["ip2"]
    check(net)
    net = make_net(*branches, ip("whole", "data", 29), layer("Eltwise", "both", "a whole", None, how),
                   ip("ip2", "both", 7), LOSS % "ip2")
    plan = net.plan.drops[0]
    found = plan.adders if operation == "SUM" else plan.expanders
    assert names(found) == ["both"] * (kind_of(pattern) == "units")
    check(net)
