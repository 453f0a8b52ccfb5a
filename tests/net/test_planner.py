"""What the planner decides for drops of units, weights and blocks, and what it says."""

import nets
import pytest

from minidrop.config import parse_net
from minidrop.errors import ConfigError
from minidrop.layers import layer_class
from minidrop.layers.flow import Pass
from minidrop.net import Net
from minidrop.patterns.draw import NOTHING, Masked

INPUT = ('layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 6 %s } shape { dim: '
         '6 dim: 8 } } }')
FAMILIES = {"units": "PERIODIC", "weights": "TILE", "blocks": "BLOCK"}
every_kind = pytest.mark.parametrize("kind", FAMILIES)


def ip(name, bottom, outputs=8, extra="", more=""):
    return nets.ip(name, bottom, outputs, extra, more, fillers="")


def layer(kind, name, bottoms, extra=""):
    return nets.layer(kind, name, bottoms, more=extra)


def drop(name, bottom, kind):
    return layer("ApproxDropout", name, bottom, f'approx_dropout_param {{ pattern: "{FAMILIES[kind]}" }}')


def plan_of(*layers, shape=(13,)):
    inputs = INPUT % " ".join(f"dim: {length}" for length in shape)
    return Net(parse_net("\n".join((inputs, *layers))), device="cpu").plan


def names(nodes):
    return [node.name for node in nodes]


@pytest.mark.parametrize("kind, lines", [
    ("units", ["ip1 computes only the units kept by d", "ip2 reads only the units kept by d"]),
    ("weights", ["ip1 multiplies only the weights kept by d"]),
    ("blocks", ["ip1 computes only the blocks kept by d", "ip2 reads only the blocks kept by d"]),
])
def test_between_two_products(kind, lines):
    plan = plan_of(ip("ip1", "x"), layer("Sigmoid", "sig", "ip1"), drop("d", "sig", kind),
                   layer("TanH", "tanh", "d"), ip("ip2", "tanh"))
    assert list(plan.lines()) == lines
    one, = plan.drops
    assert (one.producer.name, names(one.crossed), one.reason, one.unread) == ("ip1", ["sig"], "", [])
    assert names(one.carriers) == ([] if kind == "weights" else ["tanh"])
    assert one.kind == kind and one.kept_share == 0.5
    draw = one.site.draw(0)
    given = plan.node_draws({one.node.index: draw})
    assert given[one.producer.index] == (draw, NOTHING, NOTHING)
    assert given.get(one.node.index) == (None if kind == "weights" else (NOTHING, NOTHING, draw))
    for node in one.consumers:
        assert given.get(node.index) == ((NOTHING, draw, NOTHING) if kind == "blocks" else None)
    masked = plan.node_draws({one.node.index: draw}, masked=True)
    assert masked == ({one.producer.index: (Masked(draw), NOTHING, NOTHING)} if kind == "weights" else
                      {one.node.index: (NOTHING, NOTHING, Masked(draw))})


HOW = {"units": "gathers", "weights": "gathers runs of units, and drops no weights",
       "blocks": "multiplies by a mask"}


@every_kind
@pytest.mark.parametrize("above, reason, shape", [
    ([], "blob x is written by in (Input), which computes all of it", (13,)),
    ([ip("ip1", "x"), layer("ReLU", "x1", "ip1"), ip("other", "ip1")], "blob ip1 has 2 readers", (13,)),
    ([ip("ip1", "x", more="loss_weight: 1"), layer("ReLU", "x1", "ip1")], "blob ip1 counts in the loss",
     (13,)),
    ([ip("x1", "x", extra="axis: 3")], "x1 does not compute the dropped axis as its outputs", (5, 3, 4)),
    ([ip("ip1", "x"), layer("Softmax", "x1", "ip1")], "blob x1 is written by x1 (Softmax), which computes "
     "all of it", (13,)),
    ([ip("ip1", "x"), drop("x1", "ip1", "units")], "blob x1 comes from another drop, x1", (13,)),
    ([layer("DropConnect", "x1", "x", "inner_product_param { num_output: 8 }")],
     "blob x1 is written by x1 (DropConnect), which computes all of it", (13,)),
])
def test_why_the_product_above_is_whole(kind, above, reason, shape):
    plan = plan_of(*above, drop("d", "x1" if above else "x", kind), shape=shape)
    one = plan.drops[-1]
    kind_here = "units" if kind == "weights" else kind         # weights of no product are units
    assert (one.producer, one.reason, one.kind) == (None, reason, kind_here)
    assert list(plan.lines())[-2:] == [f"d {HOW[kind]}: {reason}",
                                       f"d saves nothing: no product computes or reads its {kind_here}"]


@pytest.mark.parametrize("below, units, blocks", [
    ([layer("Sigmoid", "sig", "d"), ip("ip2", "sig")],
     ["the units dropped by d are put back as zeros before sig (Sigmoid)"],
     ["sig reads all of d: it cannot leave anything out"]),
    ([layer("Reshape", "r", "d", "reshape_param { shape { dim: 0 dim: 4 dim: 2 } }"), ip("ip2", "r")],
     ["the units dropped by d are put back as zeros before r (Reshape)"],
     ["r reads all of d: it cannot leave anything out"]),
    ([layer("EuclideanLoss", "loss", "d t")],
     ["the units dropped by d are put back as zeros before loss (EuclideanLoss)"],
     ["loss reads all of d: it cannot leave anything out"]),
    ([layer("Dropout", "other", "d")],
     ["the units dropped by d are put back as zeros before other (Dropout)"],
     ["other reads all of d: it cannot leave anything out"]),
])
def test_what_reads_all_of_it(below, units, blocks):
    for kind, expected in (("units", units), ("blocks", blocks), ("weights", [])):
        plan = plan_of(ip("ip1", "x"), drop("d", "ip1", kind), *below)
        assert list(plan.lines())[1:] == expected
        assert bool(plan.expand) == bool(plan.drops[0].expanders) == (kind == "units")
        assert plan.drops[0].consumers == []


def test_a_product_that_flattens_images_reads_the_places_of_the_kept_channels():
    for kind, line, saves in (("units", "ip1 reads only the units kept by d", True),
                              ("blocks", "ip1 reads all of d: it cannot leave anything out", False)):
        for above in ([], [layer("Flatten", "flat", "d")]):
            plan = plan_of(drop("d", "x", kind), *above, ip("ip1", "flat" if above else "d"), shape=(5, 3, 4))
            assert (kind == "blocks" and above) or line in plan.lines()
            assert plan.drops[0].saves == saves


KINDS = list(FAMILIES)


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_a_product_between_two_drops_serves_one_kind(first, second):
    plan = plan_of(ip("ip1", "x"), drop("d1", "ip1", first), ip("ip2", "d1"), drop("d2", "ip2", second),
                   ip("ip3", "d2"))
    computes = {"units": "computes only the units", "weights": "multiplies only the weights",
                "blocks": "computes only the blocks"}
    expected = [f"ip1 {computes[first]} kept by d1"]
    if first == second and first != "weights":
        expected.append(f"ip2 reads only the {first} kept by d1")
    elif first != "weights":
        expected += ["the units dropped by d1 are put back as zeros before ip2 "
                     "(InnerProduct)"] * (first == "units")
        expected.append(f"ip2 reads all of d1: it serves the drop below it, which drops {second}")
    expected.append(f"ip2 {computes[second]} kept by d2")
    if second != "weights":
        expected.append(f"ip3 reads only the {second} kept by d2")
    assert list(plan.lines()) == expected
    assert all(one.saves for one in plan.drops)


def test_a_product_beside_such_a_one_still_reads_less():
    plan = plan_of(ip("ip1", "x"), drop("d1", "ip1", "units"), ip("a", "d1"), drop("d2", "a", "weights"),
                   ip("b", "d1"))
    one = plan.drops[0]
    assert (names(one.consumers), names(one.expanders)) == (["b"], ["a"])
    assert [(node.name, why) for node, why in one.unread] == [("a", "it serves the drop below it, which "
                                                               "drops weights")]


def test_weights_of_no_product_let_the_product_above_another_drop_be():
    """TILE on the data drops units, and so agrees with a drop of units below the product."""
    plan = plan_of(drop("d1", "x", "weights"), ip("ip1", "d1"), drop("d2", "ip1", "units"), ip("ip2", "d2"))
    assert list(plan.lines()) == [
        "d1 gathers runs of units, and drops no weights: blob x is written by in (Input), which computes all "
        "of it", "ip1 reads only the units kept by d1", "ip1 computes only the units kept by d2",
        "ip2 reads only the units kept by d2"]


@pytest.mark.parametrize("power, crossed", [(-1, False), (0.5, False), (2, True)])
def test_blocks_do_not_pass_where_numbers_without_a_meaning_could_become_nan(power, crossed):
    """A block that was not computed holds the bias alone, and 0 times infinity is no 0."""
    power_layer = layer("Power", "pow", "ip1", f"power_param {{ power: {power} }}")
    plan = plan_of(ip("ip1", "x"), power_layer, drop("d", "pow", "blocks"))
    one, = plan.drops
    assert (one.producer is not None) == crossed
    if not crossed:
        assert one.reason == "pow (Power) is not finite everywhere, so it has to see real values"
    assert plan_of(ip("ip1", "x"), power_layer, drop("d", "pow", "units")).drops[0].producer is not None


MIXES = "takes its means over all samples, so that groups of samples cannot differ in it"


@pytest.mark.parametrize("pattern, hint", [("PERIODIC", "; try groups: 1"), ("UNIT", "; try groups: 1"),
                                           ("BLOCK", "")])
def test_what_differs_between_samples_does_not_pass_where_they_are_mixed(monkeypatch, pattern, hint):
    """Not upward; nor downward, though zeros would stay zeros."""
    mixing = Pass(axis=1, keeps_zero=True, mixes_samples=True)
    monkeypatch.setattr(layer_class("BatchNorm"), "flow", lambda self, shapes: [mixing])
    groups = "groups: 4" if pattern == "UNIT" else ""
    settings = f'approx_dropout_param {{ pattern: "{pattern}" {groups} }}'
    above, = plan_of(ip("ip1", "x"), layer("BatchNorm", "bn", "ip1"),
                     layer("ApproxDropout", "d", "bn", settings)).drops
    assert (above.producer, above.reason) == (None, f"bn (BatchNorm) {MIXES}{hint}")
    below, = plan_of(ip("ip1", "x"), layer("ApproxDropout", "d", "ip1", settings),
                     layer("BatchNorm", "bn", "d"), ip("ip2", "bn")).drops
    assert (below.carriers, below.consumers) == ([], [])
    if pattern == "BLOCK":
        assert [(node.name, why) for node, why in below.unread] == [("bn", f"it {MIXES}")]
    else:
        assert names(below.expanders) == ["bn"]


def test_what_is_the_same_for_all_samples_passes_where_they_are_mixed(monkeypatch):
    mixing = Pass(axis=1, keeps_zero=True, mixes_samples=True)
    monkeypatch.setattr(layer_class("BatchNorm"), "flow", lambda self, shapes: [mixing])
    units = layer("ApproxDropout", "d", "bn1", "approx_dropout_param { groups: 1 }")
    one, = plan_of(ip("ip1", "x"), layer("BatchNorm", "bn1", "ip1"), units, layer("BatchNorm", "bn2", "d"),
                   ip("ip2", "bn2")).drops
    assert (names(one.crossed), names(one.carriers), names(one.consumers)) == (["bn1"], ["bn2"], ["ip2"])
    weights = plan_of(ip("ip1", "x"), layer("BatchNorm", "bn", "ip1"), drop("d", "bn", "weights")).drops[0]
    assert weights.producer.name == "ip1"


@pytest.mark.parametrize("size, inputs, told",
                         [(32, 64, "cuts 64 inputs into 2 tiles, but one of up to 3 is kept"),
                                                (40, 30, "cuts 30 inputs into 1 tile, but one of up to 3 is "
                                                 "kept")])
def test_tiles_too_large_for_a_product_are_refused(size, inputs, told):
    tiles = layer("ApproxDropout", "d", "ip1", f'approx_dropout_param '
                  f'{{ pattern: "TILE" tile_size: {size} }}')
    with pytest.raises(ConfigError) as caught:
        plan_of(ip("ip1", "x", 100), tiles, shape=(inputs,))
    assert (str(caught.value).startswith("<string>:3:") and "layer 'd' (ApproxDropout): "
            "tile_size" in str(caught.value))
    assert told in str(caught.value) and str(caught.value).endswith("or remove it (the weights of ip1)")
    plan_of(ip("ip1", "x", 100), tiles.replace(f"tile_size: {size}", f"tile_size: {inputs // 3}"),
            shape=(inputs,))
