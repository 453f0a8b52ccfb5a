"""What drops save: the products of a step are counted and equal what the drawn masks leave, for every family
and product.

And the mean over a whole block of iterations is what `minidrop check` announces.
"""

import numpy as np
import pytest

from minidrop.config import parse_net
from minidrop.net import Net
from minidrop.net.costs import costs, drop_savings
from minidrop.patterns import BLOCK_LENGTH, known_families

# inputs, outputs: 30 divides what drops
ROWS, WIDTHS = 12, {"ip1": (40, 60), "ip2": (60, 120), "ip3": (120, 10)}
SETTINGS = {"TILE": "tile_size: 4", "BLOCK": "block_samples: 4"}
INPUTS = ('layer { name: "in" type: "Input" top: "data" top: "label" '
          'input_param { shape { dim: 12 dim: 40 } shape { dim: 12 } } }')


def make_net(first, second, rate=0.5):
    layers, bottom = [INPUTS], "data"
    for number, family in ((1, first), (2, second), (3, "")):
        layers.append(f'layer {{ name: "ip{number}" type: "InnerProduct" bottom: "{bottom}" top: '
                      f'"ip{number}" inner_product_param '
                      f'{{ num_output: {WIDTHS[f"ip{number}"][1]} weight_filler {{ type: "msra" }} }} }}')
        bottom = f"drop{number}"
        if family:
            settings = f'dropout_ratio: {rate} pattern: "{family}" {SETTINGS.get(family, "")}'
            layers.append(f'layer {{ name: "{bottom}" type: "ApproxDropout" bottom: "ip{number}" top: '
                          f'"{bottom}" approx_dropout_param {{ {settings} }} }}')
    layers.append('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }')
    return Net(parse_net("\n".join(layers)), device="cpu", dtype="float64")


def batch():
    rng = np.random.default_rng(0)
    return {"data": rng.standard_normal((ROWS, 40)), "label": rng.integers(0, 10, ROWS)}


def families_of(net):
    return [site.family.name for site in net.drop_sites.values()]


def left_by_the_masks(net):
    """{product: multiplications of one pass that the drawn masks leave}, counted entry by entry.

    A product that leaves out weights reads all of its input; one that serves a drop of units or blocks reads
    what the drop above keeps only where both drop the same.
    """
    masks = {name: mask != 0 for name, mask in net.masks().items()}
    kinds = {drop.node.name: drop.kind for drop in net.plan.drops}
    left = {}
    for number, (name, (inputs, outputs)) in enumerate(WIDTHS.items(), 1):
        above, below = kinds.get(f"drop{number - 1}", "whole"), kinds.get(f"drop{number}", "whole")
        if below == "weights":
            left[name] = ROWS * int(masks[f"drop{number}"].sum())
            continue
        read, written = np.full(ROWS, inputs), np.full(ROWS, outputs)
        if below != "whole":
            written = np.broadcast_to(masks[f"drop{number}"].sum(axis=1), ROWS)
        if above in ("units", "blocks") and below in (above, "whole"):
            read = np.broadcast_to(masks[f"drop{number - 1}"].sum(axis=1), ROWS)
        left[name] = int((read * written).sum())
    return left


@pytest.fixture
def counted(monkeypatch):
    """counted(net, iteration) -> multiplications in (forward products, input gradients, weight gradients) of
    one step."""
    def run(net, iteration):
        calls = []
        gemm = type(net.backend).gemm

        def counting(self, a, b, trans_a=False, trans_b=False, out=None):
            y = gemm(self, a, b, trans_a, trans_b, out)
            calls.append((trans_a, y.shape[0] * (a.shape[0] if trans_a else a.shape[1]) * y.shape[1]))
            return y

        with monkeypatch.context() as patch:
            patch.setattr(type(net.backend), "gemm", counting)
            net.clear_grads()
            net.draw_patterns(iteration)
            net.forward(**batch())
            forward = len(calls)
            net.backward()
        assert not any(trans_a for trans_a, _ in calls[:forward])
        return (sum(count for _, count in calls[:forward]),
                sum(count for trans_a, count in calls[forward:] if not trans_a),
                sum(count for trans_a, count in calls[forward:] if trans_a))
    return run


@pytest.mark.parametrize("rate", [0, 0.5, 0.7])
@pytest.mark.parametrize("first, second", [(family, family) for family in known_families()] + [
    ("PERIODIC", "TILE"), ("TILE", "PERIODIC"), ("BLOCK", "UNIT"), ("SLICE", "BLOCK"), ("TILE", "BLOCK")])
def test_every_product_of_a_step_has_the_size_of_what_is_left(counted, first, second, rate):
    net = make_net(first, second, rate)
    seen = set()
    for iteration in range(12):
        forward, inputs, weights = counted(net, iteration)
        left = left_by_the_masks(net)
        assert forward == sum(left.values())
        assert weights == sum(left.values())
        assert inputs == left["ip2"] + left["ip3"]         # nothing below ip1 is trained
        seen.add(forward)
    dense = sum(ROWS * a * b for a, b in WIDTHS.values())
    assert max(seen) <= dense and (min(seen) < dense) == (rate > 0)


def drawn(net):
    return [(site, net.patterns[name]) for name, site in net.drop_sites.items()]


def test_the_products_are_the_formula_of_each_family(counted):
    """By hand, from the numbers that were drawn: units multiply, tiles and blocks add up."""
    dense = {name: ROWS * a * b for name, (a, b) in WIDTHS.items()}
    for family in ("UNIT", "SLICE", "PERIODIC"):
        assert counted(make_net(family, family),
                       3)[0] == dense["ip1"] / 2 + dense["ip2"] / 4 + dense["ip3"] / 2
    net = make_net("ROW", "ROW")
    for iteration in range(5):
        forward = counted(net, iteration)[0]
        a, b = (len(range(pattern.start, site.total, pattern.step)) for site, pattern in drawn(net))
        assert forward == ROWS * (40 * a + a * b + b * 10)
    net = make_net("TILE", "TILE")
    for iteration in range(5):
        forward = counted(net, iteration)[0]
        tiles = [sum(number % pattern.period == pattern.offset
                     for row in range(rows) for number in range(row * stride(columns, pattern.period),
                                                                row * stride(columns, pattern.period)
                                                                + columns))
                 for (_, pattern), rows, columns in zip(drawn(net), (15, 30), (10, 15), strict=True)]
        assert forward == ROWS * (16 * tiles[0] + 16 * tiles[1] + 120 * 10)
    net = make_net("BLOCK", "BLOCK")
    for iteration in range(5):
        forward = counted(net, iteration)[0]
        a, b = ([kept.count for _, _, kept in draw.groups(ROWS)] for draw in net.draws.values())
        assert len(a) == len(b) == 3
        assert forward == sum(4 * (40 * i + i * j + j * 10) for i, j in zip(a, b, strict=True))


def stride(columns, period):
    """The tiles of a row, and those that are counted though they do not exist: no common divisor with the
    period."""
    return next(n for n in range(columns, columns + period + 1) if np.gcd(n, period) == 1)


# How far the mean over a block of 1000 iterations may be from the one announced, relative to it. Every
# pattern of the first three has one size; TILE and ROW keep quotas, and ROW's two drops meet by chance in
# ip2; BLOCK is chance altogether.
TOLERANCE = {"UNIT": 1e-12, "SLICE": 1e-12, "PERIODIC": 1e-12, "TILE": 0.001, "ROW": 0.01, "BLOCK": 0.02}


@pytest.mark.parametrize("family, rate", [
    pytest.param(family, rate, marks=pytest.mark.full if (rate == 0.7) == (i % 2 == 0) else ())
    for i, family in enumerate(known_families()) for rate in (0.5, 0.7)])
def test_the_mean_is_what_check_announces(family, rate):
    net = make_net(family, family, rate)
    sums = dict.fromkeys(WIDTHS, 0)
    for iteration in range(BLOCK_LENGTH):
        net.draw_patterns(iteration)
        for name, count in left_by_the_masks(net).items():
            sums[name] += count
    rows = {row.node.name: row for row in costs(net) if row.dense}
    for name, (inputs, outputs) in WIDTHS.items():
        passes = 2 if name == "ip1" else 3
        assert rows[name].dense == 2 * passes * ROWS * inputs * outputs
        assert 2 * passes * sums[name] / BLOCK_LENGTH == pytest.approx(rows[name].expected,
                                                                       rel=TOLERANCE.get(family, 0.05))


def test_expected_shares_are_exact():
    """Each drop leaves 1 - rate of a side, of the weights, or of the blocks; so ip2 keeps the square, but for
    TILE."""
    for family in known_families():
        rows = {row.node.name: row.expected / row.dense for row in costs(make_net(family, family, 0.7))
                if row.dense}
        tiles = family == "TILE"
        assert rows == {"ip1": pytest.approx(0.3), "ip2": pytest.approx(0.3 if tiles else 0.09),
                        "ip3": pytest.approx(1 if tiles else 0.3)}


def test_what_one_drop_saves():
    """The operations that come back if it alone dropped nothing."""
    dense = {name: 2 * ROWS * a * b * (2 if name == "ip1" else 3) for name, (a, b) in WIDTHS.items()}
    saved = {drop.node.name: count for drop, count in drop_savings(make_net("UNIT", "TILE"))}
    assert saved == {"drop1": pytest.approx(dense["ip1"] / 2), "drop2": pytest.approx(dense["ip2"] / 2)}
    saved = {drop.node.name: count for drop, count in drop_savings(make_net("BLOCK", "BLOCK"))}
    assert saved == {"drop1": pytest.approx(dense["ip1"] / 2 + dense["ip2"] / 4),
                     "drop2": pytest.approx(dense["ip2"] / 4 + dense["ip3"] / 2)}


def test_weights_that_are_not_trained_have_no_gradient():
    """Also where the bias beside them is trained."""
    fixed = "param { lr_mult: 0 } param { lr_mult: 1 }"
    text = (f'{INPUTS} layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
            f'inner_product_param {{ num_output: 10 }} PARAM }} '
            f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}')
    forward = 2.0 * ROWS * 40 * 10
    for param, passes in (("", 2), (fixed, 1)):
        net = Net(parse_net(text.replace("PARAM", param)), device="cpu")
        assert {row.node.name: row.dense for row in costs(net)}["ip"] == passes * forward
