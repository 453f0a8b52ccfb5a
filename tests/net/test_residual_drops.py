"""A drop on a branch before a sum: the branch computes kept units only, and the sum puts them in place."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.autograd.gradcheck import check_gradients
from minidrop.errors import ConfigError, ShapeError
from minidrop.kept import Kept, KeptByGroup
from minidrop.testing import assert_matches_masked_dense
from tests.nets import IMAGES as IN
from tests.nets import LOSS, drop, images, inputs, ip, layer, net_of, numbers

PATTERNS = ("PERIODIC groups: 1", "PERIODIC groups: 2", "ROW", "UNIT", "SLICE", "BLOCK", "TILE")


def residual(pattern, settings="", coeff=""):
    return net_of(IN, ip("ip1", "data", 24), ip("branch", "ip1", 24),
                  drop("d", "branch", pattern, "branch", f"dropout_ratio: 0.5 {settings}"),
                  layer("Eltwise", "sum", "ip1 branch", more=f"eltwise_param {{ {coeff} }}"),
                  ip("ip2", "sum", 7), LOSS % "ip2", phase="TRAIN")


@pytest.mark.parametrize("coeff", ["", "coeff: 1 coeff: -0.5"])
@in_turn("pattern", PATTERNS)
def test_the_sum_equals_the_masked_dense_one(pattern, coeff):
    net = residual(pattern, coeff=coeff)
    [plan] = net.plan.drops
    assert plan.producer.name == "branch" and not plan.expanders
    if plan.kind == "units":
        assert [node.name for node in plan.adders] == ["sum"]
        assert "sum adds the units kept by d to its other bottoms" in net.plan.lines()
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, images())


def test_other_operations_get_all_units():
    for operation in ("PROD", "MAX"):
        [plan] = residual("UNIT", coeff=f"operation: {operation}").plan.drops
        assert not plan.adders and [node.name for node in plan.expanders] == ["sum"]


def test_two_branches_that_drop_other_units():
    net = net_of(IN, ip("a", "data", 24), drop("da", "a", "UNIT"), ip("b", "data", 24),
                 drop("db", "b", "UNIT"),
                 layer("Eltwise", "sum", "da db"), ip("ip2", "sum", 7), LOSS % "ip2", phase="TRAIN")
    assert [[node.name for node in plan.adders] for plan in net.plan.drops] == [["sum"], ["sum"]]
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, images())


def test_branches_that_drop_the_same_by_chance_are_put_in_place_all_the_same():
    """The layers below a sum were promised all units: Sigmoid would make 0 of what is missing, not 1/2."""
    drops = [drop(f"d{name}", name, "PERIODIC groups: 1 step: 2", settings="dropout_ratio: 0.5")
             for name in "ab"]
    net = net_of(IN, ip("a", "data", 24), drops[0], ip("b", "data", 24), drops[1],
                 layer("Eltwise", "sum", "da db"), layer("Sigmoid", "act", "sum"), ip("ip2", "act", 7),
                 LOSS % "ip2", phase="TRAIN")
    alike = set()
    for iteration in range(8):
        assert_matches_masked_dense(net, iteration, images())
        assert net.blobs["sum"].kept is None
        alike.add(net.draws["da"].kept == net.draws["db"].kept)
    assert alike == {True, False}


@pytest.mark.parametrize("axis", [1, 2])
def test_sums_of_compact_and_dense_arrays(axis):
    kept = {1: Kept.of([0, 2], 4), 2: KeptByGroup([Kept(1, 2, 1, 5), Kept.of([0, 1, 4], 5)])}[axis]
    x, y = numbers(3, 4, 5), numbers(3, 4, 5, seed=1)
    mask = np.zeros((3, 4, 5))
    if axis == 1:
        mask[:, [0, 2]] = 1
    else:
        mask[:, :2, [1, 3]] = mask[:, 2:, [0, 1, 4]] = 1

    def add(x, y):
        return functions.weighted_sum((x, functions.take(y, kept, axis), x), (1, 2, 0.5))
    got = add(Tensor(x, requires_grad=True), Tensor(y, requires_grad=True))
    np.testing.assert_allclose(got.numpy(), 1.5 * x + 2 * y * mask, atol=1e-12)
    check_gradients(add, x, y)
    own = functions.add(functions.take(Tensor(y), kept, axis), functions.take(Tensor(x), kept, axis))
    assert own.kept == kept          # the same entries of all: nothing is expanded
    with pytest.raises(ShapeError, match="tensors of one shape"):
        functions.weighted_sum([functions.take(Tensor(y), kept, axis), Tensor(x[:2])])


HEADS = ("PERIODIC groups: 1", "PERIODIC groups: 2", "ROW groups: 1", "UNIT groups: 2", "SLICE groups: 1")


@pytest.mark.parametrize("whole", [False, True])
@in_turn("pattern", HEADS)
def test_heads_keep_the_same_entries_or_live_and_die_as_wholes(pattern, whole):
    net = residual(pattern, f"heads: 4 whole_heads: {str(whole).lower()}")
    shares = set()
    for iteration in range(6):
        assert_matches_masked_dense(net, iteration, images())
        by_head = (net.masks()["d"] != 0).reshape(-1, 4, 6)
        same = by_head if whole else by_head.transpose(0, 2, 1)
        assert (same == same[:, :, :1]).all()
        assert by_head.any(axis=(1, 2)).all()
        shares.add(float(by_head.mean()))
    assert min(shares) < 1


def test_a_default_period_divides_the_size_of_a_head():
    [plan] = net_of(inputs((2, 128)), ip("ip1", "a", 128), drop("d", "ip1", "PERIODIC groups: 1",
                    settings="heads: 4"), ip("ip2", "d", 3)).plan.drops
    assert plan.site.draw(0).kept.regular is not None and plan.site.draw(0).kept.regular[1] == 32


@pytest.mark.parametrize(("settings", "message"), [
    ("heads: 5", "no whole number of heads, got heads: 5"),
    ("heads: 0", "no whole number of heads, got heads: 0"),
    ("whole_heads: true", "layer 'd' .*: whole_heads drops some of several heads, got heads: 1; set"),
    ("heads: 1 whole_heads: true", "layer 'd' .*: whole_heads drops some of several heads"),
])
def test_heads_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        residual("PERIODIC", settings)
    with pytest.raises(ConfigError, match="heads needs a pattern of units, got TILE"):
        residual("TILE", "heads: 2")
