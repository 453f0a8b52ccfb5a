"""minidrop test --mc: uncertainty, as text and as JSON."""

import json
import re

import numpy as np
import pytest


@pytest.fixture
def trained(tiny, minidrop):
    """The arguments of `minidrop test` for the small net, trained a little."""
    assert minidrop("train", "-solver", tiny.solver, "--out", "o").code == 0
    return ["test", "-model", tiny.net, "-weights", "o/snapshots/task_iter_40.h5", "-iterations", "3"]


@pytest.mark.parametrize("more", [(), ("--dropout", "conventional"), ("--dropout", "approx:ROW")])
def test_json_has_both_sides(trained, minidrop, more):
    result = minidrop(*trained, "--mc", "6", "--json", "--dtype", "float64", *more)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["iterations"], found["passes"]) == (3, 6)
    assert set(found["seconds"]) == {"deterministic", "passes"}
    plain = json.loads(minidrop(*trained, "--json", "--dtype", "float64").out)["values"]
    assert set(found["values"]) == set(plain) == {"accuracy", "loss"}
    for name, value in plain.items():
        assert found["values"][name]["deterministic"] == pytest.approx(value, rel=1e-12)
        assert found["values"][name]["std"] > 0
    ip2 = found["predictions"]["ip2"]
    assert ip2["places"] == 30
    assert ip2["deterministic"]["accuracy"] == pytest.approx(plain["accuracy"])
    assert ip2["deterministic"]["negative_log_likelihood"] == pytest.approx(plain["loss"])
    assert 0 < ip2["monte_carlo"]["mutual_information"] < ip2["monte_carlo"]["entropy"] < np.log(3)
    # The mean of the passes is at least as likely as a pass on average (the logarithm is concave).
    assert ip2["monte_carlo"]["negative_log_likelihood"] < found["values"]["loss"]["mean"]
    for side in ("deterministic", "monte_carlo"):
        bins = ip2[side]["reliability"]
        assert len(bins) == 15 and sum(one["count"] for one in bins) == 30
        assert all((one["accuracy"] is None) == (one["count"] == 0) for one in bins)
        full = [one for one in bins if one["count"]]
        assert ip2[side]["calibration_error"] == pytest.approx(
            sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in full) / 30)


def test_text_says_the_same(trained, minidrop):
    found = json.loads(minidrop(*trained, "--mc", "6", "--json").out)
    out = minidrop(*trained, "--mc", "6").out
    assert "3 batches on cpu, 6 passes with drops:\n" in out
    for name, value in found["values"].items():
        assert f"  {name} = {value['mean']:.6g} +- {value['std']:.6g}\n" in out
    ip2 = found["predictions"]["ip2"]
    assert re.search(r"^30 predictions, ip2 +without drops +mean of passes$", out, re.M)
    for title, field in (("accuracy", "accuracy"), ("negative log-likelihood", "negative_log_likelihood"),
                         ("expected calibration error", "calibration_error"), ("entropy, mean", "entropy")):
        left, right = (f"{ip2[side][field]:.6g}" for side in ("deterministic", "monte_carlo"))
        assert re.search(rf"^  {title} +{re.escape(left)} +{re.escape(right)}$", out, re.M), out
    assert re.search(rf"^  mutual information, mean +{ip2['monte_carlo']['mutual_information']:.6g}$", out,
                     re.M)
    assert re.search(r"^forward passes: [\d.]+ s for the 18 with drops, [\d.]+ s for the 3 without$", out,
                     re.M)


def test_outputs_that_are_no_single_number(trained, tiny, minidrop):
    net = tiny.folder / "net.prototxt"
    net.write_text(re.sub('layer { name: "(accuracy|loss)".*\n(  include.*\n)?', "", net.read_text())
                   + 'layer { name: "p" type: "Softmax" bottom: "ip2" top: "p" }\n'
                   + 'layer { name: "quiet" type: "Silence" bottom: "label" }\n')
    out = minidrop(*trained, "--mc", "4").out
    assert re.search(r"^  p = 10x3 values, \+- 0\.\d+ \(root mean square\)$", out, re.M), out
    assert "accuracy" not in out and "entropy, mean" in out
    values = json.loads(minidrop(*trained, "--mc", "4", "--json").out)["values"]["p"]
    assert np.shape(values["mean"]) == np.shape(values["std"]) == (10, 3)


def test_the_seed_chooses_the_drops(trained, minidrop):
    """Not the batches: the values without drops stay."""
    found = [json.loads(minidrop(*trained, "--mc", "3", "--json", *seed).out)["values"]["loss"]
             for seed in ((), ("--seed", "0"), ("--seed", "7"), ("--seed", "7"))]
    assert found[0] == found[1] and found[2] == found[3]
    assert found[0]["deterministic"] == found[2]["deterministic"] and found[0]["mean"] != found[2]["mean"]
    result = minidrop(*trained, "--seed", "-1")
    assert result.code == 2 and "--seed" in result.err


def test_rate_0_changes_nothing(trained, minidrop):
    found = json.loads(minidrop(*trained, "--mc", "3", "--json", "--set",
                                "layer.drop1.approx_dropout_param.dropout_ratio=0").out)
    for value in found["values"].values():
        assert value["mean"] == value["deterministic"] and value["std"] == 0
    assert found["predictions"]["ip2"]["monte_carlo"]["mutual_information"] == 0


def test_wrong_use(trained, tiny, minidrop):
    result = minidrop(*trained, "--mc", "1")
    assert result.code == 2 and "1 is not in the range 2<=x<=1000000" in result.err
    net = tiny.folder / "net.prototxt"
    net.write_text(net.read_text().replace('layer { name: "drop1"', 'layer { include { phase: TRAIN } name: '
                                           '"drop1"')
                   .replace('bottom: "ip1" top: "drop1"', 'bottom: "ip1" top: "ip1"')
                   .replace('bottom: "drop1"', 'bottom: "ip1"'))
    result = minidrop(*trained, "--mc", "3")
    assert result.code == 1
    assert "nothing is random: the net has no drop layer in phase TEST" in result.err
