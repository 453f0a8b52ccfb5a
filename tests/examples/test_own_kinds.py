"""Families of one's own that drop weights or blocks: a class, and everything else follows."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from minidrop import Net, register_pattern
from minidrop.cli import run
from minidrop.config import parse_net
from minidrop.kept import Kept
from minidrop.patterns import Pattern, PatternDistribution, PatternFamily, PatternSettings, base, get_family
from minidrop.patterns.report import first_patterns, report
from minidrop.testing import assert_matches_masked_dense

NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 7 dim: 9 } shape { dim: 7 dim: 3 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "ip1"
        inner_product_param { num_output: 12 weight_filler { type: "msra" } } }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
        approx_dropout_param { pattern: "%s" dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip2" bottom: "y" top: "loss" }
"""


@dataclass(frozen=True)
class ChessPattern(Pattern):
    """The weights of one colour of a chess board."""

    parity: int

    def kept(self, total):
        return Kept(self.parity, 2, 1, total)

    def tiles(self, outputs, inputs):
        return tuple((Kept((self.parity + side) % 2, 2, 1, outputs), Kept(side, 2, 1, inputs))
                     for side in (0, 1))

    def weight_mask(self, outputs, inputs):
        return (np.arange(outputs)[:, None] + np.arange(inputs)) % 2 == self.parity


@dataclass(frozen=True)
class HalvesPattern(Pattern):
    """The first 4 samples keep one half of the units, the next 4 the other half, and so on."""

    side: int

    def kept(self, total):
        return Kept(self.side * (total // 2), total, total // 2, total)

    def groups(self, samples, total):
        return tuple((first, min(first + 4, samples),
                      HalvesPattern(0.5, 2.0, (self.side + first // 4) % 2).kept(total))
                     for first in range(0, samples, 4))


class Halving(PatternFamily):
    """Two patterns, as likely, for rate 0.5."""

    def build_distribution(self):
        return PatternDistribution(("half",), [1.0], 0.5)

    def offsets(self, choice):
        return 2

    def pattern(self, choice, offset):
        return self.one(0.5, self.scale_of(0.5), offset, drops=self.drops)

    def describe(self, choice):
        return "one half"


@pytest.fixture(params=["CHESS", "HALVES"])
def name(request):
    """The name of a family that is registered during the test alone."""
    with base._families.forgetting():
        register_pattern("CHESS")(type("Chess", (Halving,), {"drops": "weights", "one": ChessPattern}))
        register_pattern("HALVES")(type("Halves", (Halving,), {"drops": "blocks", "one": HalvesPattern}))
        yield request.param
    base.get_family.cache_clear()


def test_what_its_sites_are(name):
    family = get_family(PatternSettings(0.5, name))
    sites = family.sites(6, 4)
    live = family.live(family.pattern("half", 1), sites)
    if name == "CHESS":
        assert (sites.what, sites.drops, sites.count, sites.total,
                sites.sizes) == ("weights", "weights", 24, 24, None)
        assert live.reshape(6, 4).astype(int).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]] * 3
    else:
        assert (sites.what, sites.drops, sites.count, sites.total,
                sites.sizes) == ("units", "blocks", 6, 6, None)
        assert live.astype(int).tolist() == [0, 0, 0, 1, 1, 1]


def test_the_report(name):
    found = report(PatternSettings(0.5, name), 12, inputs=8, iterations=200)
    count = 96 if name == "CHESS" else 12
    assert found["exact"] and found["sites"]["count"] == count and found["submodels"] == 2
    assert found["inputs"] == (8 if name == "CHESS" else None)
    assert found["unit_rate"]["all"] == pytest.approx([0.5] * count)
    assert found["kept"] == {"min": count // 2, "mean": count / 2, "max": count // 2, "of": count}
    assert found["gemm_share"] == {"one_side": 0.5, "both_sides": None if name == "CHESS" else 0.25}
    # of a board with rows of 8, weight 8 has another colour than weight 7
    near = found["joint_keep"]["by_distance"][0]
    assert near == pytest.approx(0.5 * 11 / 95 if name == "CHESS" else 0.5 * 10 / 11)
    live = first_patterns(PatternSettings(0.5, name), 12, 8, count=200)
    assert (~live).sum(0).tolist() == found["sequence"]["drops"]["all"]


def test_the_planner_and_the_oracle_know_it(name):
    net = Net(parse_net(NET % name), device="cpu", dtype="float64")
    rng = np.random.default_rng(0)
    for iteration in range(6):
        assert_matches_masked_dense(net, iteration,
                                    {"x": rng.standard_normal((7, 9)), "y": rng.standard_normal((7, 3))})
    kind = "ip1 multiplies only the weights" if name == "CHESS" else "ip1 computes only the blocks"
    assert next(net.plan.lines()) == f"{kind} kept by drop1"


def test_the_command_line(name, capsys, tmp_path):
    for more in ([], ["--plot"], ["--json"]):
        assert run(["patterns", "--family", name, "--units", "12", "--inputs", "8", "--iterations", "50",
                    *more]) == 0
    out = capsys.readouterr().out
    size, site = ("12 x 8 weights", "weight") if name == "CHESS" else ("12 units", "unit")
    assert out.startswith(f"{name}  rate 0.5, {size}\n")
    assert f"  each {site + chr(39) + 's rate':<12} 0.500000 to 0.500000\n" in out
    assert f"each {site} dropped " in out and f"probability that two {site}s both live" in out
    assert json.loads(out[out.rindex("\n{"):])[name]["sites"]["what"] == site + "s"
    (tmp_path / "net.prototxt").write_text(NET % name)
    assert run(["check", str(tmp_path / "net.prototxt")]) == 0
    assert f"{name}" in capsys.readouterr().out
