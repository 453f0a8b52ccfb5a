"""What snapshots say about the patterns of drops: a run that goes on with others is told so."""

import json
import logging

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.patterns import get_family, periodic
from minidrop.snapshot import read_snapshot, write_snapshot
from minidrop.solver.drop_record import drop_record

NET = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: 8 dim: 6 }} shape {{ dim: 8 }}
  data_filler {{ type: "gaussian" }} data_filler {{ type: "constant" value: 2 }} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 40 weight_filler {{ type: "msra" }} }} }}
{drop}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
DROP = ('layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param {{ {} }} '
        '}}')


def solver(settings, tmp_path="/nonexistent"):
    """A Solver whose drop1 has some settings, one group unless they say otherwise; None: no drop layer."""
    if settings is not None and not any(word in settings for word in ("groups", "TILE", "BLOCK")):
        settings += " groups: 1"
    net = NET.format(drop="" if settings is None else DROP.format(settings))
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: "
                                  f"CPU net_param {{ {net} }}"), snapshot_prefix=f"{tmp_path}/x")


def written(settings, tmp_path, **attrs):
    """The path of a snapshot of such a solver, with other attributes; None removes one."""
    path = solver(settings, tmp_path).snapshot()
    snapshot = read_snapshot(path)
    snapshot.attrs.update(attrs)
    snapshot.attrs = {name: value for name, value in snapshot.attrs.items() if value is not None}
    write_snapshot(path, snapshot)
    return path


def warnings_of(settings, path, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "minidrop"):
        solver(settings).restore(path)
    return [record.getMessage() for record in caplog.records]


ROW = 'pattern: "ROW"'


def test_the_record(tmp_path):
    record = json.loads(read_snapshot(written("dropout_ratio: 0.25 step: 10", tmp_path)).attrs["patterns"])
    assert record == {"drop1": {"family": "PERIODIC", "choices": ["7 of 10", "8 of 10"],
                                "probabilities": [0.5, 0.5]}}
    assert read_snapshot(written(None, tmp_path)).attrs["patterns"] == "{}"


@pytest.mark.parametrize("settings", ["", "step: 10", ROW, f"{ROW} search: SGD max_period: 300",
                                      'pattern: "TILE"', 'pattern: "BLOCK"', 'pattern: "UNIT"',
                                      'pattern: "SLICE"', "dropout_ratio: 0", None])
def test_the_same_patterns_warn_of_nothing(tmp_path, caplog, settings):
    assert warnings_of(settings, written(settings, tmp_path), caplog) == []


@pytest.mark.parametrize("old, new, message", [
    ("step: 10", "", "5 of 10; now 15 of 30; set step: 10 to go on as before"),
    ("dropout_ratio: 0.25 step: 10", "dropout_ratio: 0.25",
     "7 of 10 (0.5), 8 of 10 (0.5); now 22 of 30 (0.5), 23 of 30 (0.5); set step: 10 to go on as before"),
    ("dropout_ratio: 0.7", "dropout_ratio: 0.5", "9 of 30; now 15 of 30"),
    ("", "groups: 2", "15 of 30; now 20 of 40 in 2 STRATIFIED groups; set groups: 1 to go on as before"),
    ("groups: 3 grouping: INDEPENDENT step: 10", "groups: 2", "5 of 10 in 3 INDEPENDENT groups; now 20 of 40 "
     "in 2 STRATIFIED groups; set step: 10, groups: 3, grouping: INDEPENDENT to go on as before"),
    (ROW, "", "ROW 1 of 1 (0.159248), 1 of 2 (0.363007), 1 of 3 (0.477745); now PERIODIC 15 of 30"),
])
def test_other_patterns_are_named(tmp_path, caplog, old, new, message):
    """The advice is given only where it holds."""
    assert warnings_of(new, written(old, tmp_path), caplog) == [f"the patterns of drop1 are not what they "
                                                                f"were: {message}"]


def test_a_long_distribution_is_shortened_and_its_setting_found(tmp_path, caplog):
    (line,) = warnings_of(ROW, written(f"{ROW} max_period: 8", tmp_path), caplog)
    assert line.count("1 of ") == 5 + 3 and ", 1 of 4 (" in line and ", ..., 1 of 8 (" in line
    assert line.endswith("; set max_period: 8 to go on as before")


def test_another_search_is_another_distribution(tmp_path, caplog):
    """The same choices at other probabilities."""
    (line,) = warnings_of(f"{ROW} max_period: 8", written(f"{ROW} max_period: 8 search: SGD", tmp_path),
                          caplog)
    assert line.startswith("the patterns of drop1 are not what they were: 1 of 1 "
                           "(") and "to go on" not in line


def test_the_advice_makes_it_the_same_run(tmp_path, caplog, monkeypatch):
    """An unchanged file after a default has changed: it warns, and with the setting advised the patterns are
    the old ones."""
    monkeypatch.setattr(periodic, "DEFAULT_STEP", 10)
    get_family.cache_clear()
    old = solver("", tmp_path)
    path = old.snapshot()
    old.step(4)
    monkeypatch.undo()
    get_family.cache_clear()
    assert warnings_of("", path, caplog) == [
        "the patterns of drop1 are not what they were: 5 of 10; now 15 of 30; set step: 10 to go on as "
        "before"]
    assert warnings_of("step: 10", path, caplog) == []
    ends = []
    for settings in ("step: 10", ""):
        resumed = solver(settings)
        resumed.restore(path)
        resumed.step(4)
        ends.append(resumed.net.parameters()["ip1/weight"].data)
    np.testing.assert_array_equal(ends[0], old.net.parameters()["ip1/weight"].data)
    assert (ends[1] != ends[0]).any()


def test_an_older_snapshot_loads_and_says_that_it_cannot_be_compared(tmp_path, caplog):
    path = written("", tmp_path, patterns=None)
    assert warnings_of("", path, caplog) == [
        f"{path} has no record of its patterns (it was written by an earlier version): they cannot be "
        f"compared with those of drop1 now"]
    assert warnings_of(None, path, caplog) == []


def test_drops_that_only_one_side_has_are_no_change_of_patterns(tmp_path, caplog):
    """They are a change of the net, which is said elsewhere."""
    assert warnings_of("", written(None, tmp_path), caplog) == []
    assert warnings_of(None, written("", tmp_path), caplog) == []


def forged(**parts):
    return json.dumps({"drop1": {"family": "PERIODIC", "choices": ["5 of 10"], "probabilities": [1.0],
                                 **parts}})


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "[" * 100_000, 7, 1.5, json.dumps({"drop1": None}), json.dumps({"drop1": {}}),
    forged(more=1), forged(family=3), forged(family="\x1b[2J"), forged(family="F" * 201), forged(choices=[]),
    forged(choices="5"), forged(choices=[["5"]]), forged(choices=["a\nb"]), forged(choices=["1", "2"]),
    forged(choices=[], probabilities=[]), forged(probabilities=["1"]), forged(probabilities=[float("nan")]),
    forged(probabilities=[-0.5]), forged(probabilities=[1.5]), forged(probabilities=[float("inf")]),
    forged(probabilities=[True]), forged(probabilities=None), forged().replace("1.0", "1" * 10_000)],
                         ids=lambda text: str(text)[:40])
def test_a_forged_record_is_refused_and_changes_nothing(tmp_path, text):
    path = written("", tmp_path, patterns=text)
    other = solver("")
    other.step(2)
    before = {name: p.data.copy() for name, p in other.net.parameters().items()}
    with pytest.raises(md.SnapshotError, match="refused as a snapshot: expected patterns to describe the "
                       "drops of a net"):
        other.restore(path)
    assert other.iteration == 2
    for name, value in before.items():
        np.testing.assert_array_equal(value, other.net.parameters()[name].data)


@pytest.mark.parametrize("choice", ["99999 of 99999", "0 of 0", "5 of 123456789", "٣ of ٤", ""])
def test_a_forged_choice_gives_no_advice(tmp_path, caplog, choice):
    (line,) = warnings_of("", written("", tmp_path, patterns=forged(choices=[choice])), caplog)
    assert line == f"the patterns of drop1 are not what they were: {choice}; now 15 of 30"


def test_a_family_that_describes_itself_strangely_can_be_read_again(tmp_path, caplog, monkeypatch):
    """Families may be the user's own."""
    monkeypatch.setattr(periodic.PeriodicFamily, "describe", lambda self, choice: "a\n" + "b" * 300)
    assert json.loads(drop_record(solver("").net))["drop1"]["choices"] == ["a?" + "b" * 198]
    assert warnings_of("", written("", tmp_path), caplog) == []
