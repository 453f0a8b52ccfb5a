"""Which layers are in, and which networks a solver means."""

import pytest
from cases import in_turn

from minidrop.config import (
    NetChoice,
    apply_overrides,
    filter_state,
    load_solver,
    parse_net,
    parse_solver,
    solver_nets,
)
from minidrop.errors import ConfigError
from minidrop.solver.prepare import prepared_nets

NET = """layer { name: "both" }
layer { name: "train" include { phase: TRAIN } }
layer { name: "test" include { phase: TEST } }
layer { name: "deep" include { min_level: 2 max_level: 3 } }
layer { name: "staged" include { stage: "a" not_stage: "b" } }
layer { name: "either" include { phase: TEST } include { stage: "a" } }
layer { name: "not_test" exclude { phase: TEST } }
layer { name: "not_a_b" exclude { stage: "a" stage: "b" } }
layer { name: "not_c_d" exclude { stage: "c" } exclude { stage: "d" } }
"""


def names(config):
    return " ".join(layer.name for layer in config.message.layer)


@in_turn("state, expected", [
    (("TRAIN",), "both train not_test not_a_b not_c_d"),
    (("TEST",), "both test either not_a_b not_c_d"),
    (("TRAIN", 1), "both train not_test not_a_b not_c_d"),
    (("TRAIN", 2), "both train deep not_test not_a_b not_c_d"),
    (("TRAIN", 3), "both train deep not_test not_a_b not_c_d"),
    (("TRAIN", 4), "both train not_test not_a_b not_c_d"),
    (("TRAIN", 0, ["a"]), "both train staged either not_test not_a_b not_c_d"),
    (("TRAIN", 0, "a"), "both train staged either not_test not_a_b not_c_d"),
    (("TRAIN", 0, "ab"), "both train not_test not_a_b not_c_d"),
    (("TRAIN", 0, ""), "both train not_test not_a_b not_c_d"),
    (("TRAIN", 0, ["a", "b"]), "both train either not_test not_c_d"),
    (("TRAIN", 0, ["d"]), "both train not_test not_a_b"),
])
def test_rules(state, expected):
    assert names(filter_state(parse_net(NET), *state)) == expected


@in_turn("net, state, warnings", [
    (NET, ("TRAIN", 2, ["a", "b", "d"]), []),
    (NET, ("TRAIN", 0, ["cc"]), ["stage 'cc' has no effect: no include or exclude rule asks for it; did you "
                                 "mean 'c'? (stages: a, b, c, d)"]),
    (NET, ("TRAIN", 0, ["others"]), []),        # all but those of a not_stage
    ('layer { name: "a" include { stage: "test" } }', ("TRAIN", 0, ["valid"]), [
        "stage 'valid' has no effect: no include or exclude rule asks for it (stages: test)"]),
    ('layer { name: "a" include { phase: TEST } }', ("TRAIN", 3, ["deploy"]), [
        "stage 'deploy' has no effect: no include or exclude rule asks for it (stages: none)",
        "level 3 has no effect: no include or exclude rule asks for it"])])
def test_a_state_that_no_rule_asks_for_is_told_once(caplog, net, state, warnings):
    """A misspelt --stage selected nothing, and nobody was told."""
    caplog.clear()
    config = parse_net(net, "n.prototxt")
    filter_state(filter_state(config, *state), *state)      # what rules left has no rules of others
    filter_state(config, "TEST", *state[1:])
    assert caplog.messages == [f"n.prototxt:1:1: {warning}" for warning in warnings]


def test_filtering_keeps_positions_and_the_original():
    config = parse_net(NET, "n.prototxt")
    filtered = filter_state(config, "TEST", 5, ["x"])
    assert [filtered.where(i, "name") for i in range(2)] == ["n.prototxt:1:9", "n.prototxt:3:9"]
    assert (filtered.message.state.phase, filtered.message.state.level,
            list(filtered.message.state.stage)) == (1, 5, ["x"])
    assert len(config.message.layer) == 9
    twice = filter_state(filtered, "TEST", 5)
    assert twice.where(1, "name") == "n.prototxt:3:9"


def test_nothing_left_is_an_empty_net():
    config = filter_state(parse_net('layer { include { phase: TEST } }'), "TRAIN")
    assert len(config.message.layer) == 0 and config.origins == []


def test_include_and_exclude_on_one_layer():
    text = 'layer { name: "x"\n  include { phase: TEST }\n  exclude { stage: "a" } }\n' * 2
    with pytest.raises(ConfigError) as caught:
        filter_state(parse_net(text, "n.prototxt"), "TRAIN")
    assert str(caught.value).splitlines() == [
        "n.prototxt:3:3: layer 'x' has include and exclude rules; keep one kind",
        "n.prototxt:6:3: layer 'x' has include and exclude rules; keep one kind"]


# The networks of a solver.

def choices(text, **options):
    train, tests = solver_nets(parse_solver(text, "s.prototxt"), **options)
    return [train, *tests]


INLINE = 'net_param { name: "n" layer { name: "in_test" include { phase: TEST } } layer { name: "b" } }\n'


def test_one_net_for_both_phases():
    train, test = choices(INLINE + "test_iter: 7 test_interval: 10")
    assert (names(train.filtered()), names(test.filtered())) == ("b", "in_test b")
    assert (train.iterations, test.iterations) == (None, 7)


def test_no_test_iter_no_test():
    assert len(choices(INLINE)) == 1


def test_several_test_nets_in_caffes_order():
    train, *tests = choices(
        'net_param { name: "common" } test_net_param { name: "t0" } test_net_param { name: "t1" }\n'
        'test_iter: [1, 2, 3, 4] test_interval: 10\n'
        'test_state { } test_state { stage: "s" } test_state { level: 4 } test_state { phase: TRAIN }')
    assert train.config.message.name == "common"
    assert [(t.config.message.name, t.iterations, t.state.phase, t.state.level,
             list(t.state.stage)) for t in tests] == [
        ("t0", 1, 1, 0, []), ("t1", 2, 1, 0, ["s"]), ("common", 3, 1, 4, []), ("common", 4, 0, 0, [])]
    assert tests[2].config is train.config


def test_state_precedence():
    text = 'net_param { state { level: 1 stage: "own" } } train_state { level: 2 stage: "solver" }'
    train, = choices(text)
    assert (train.state.level, list(train.state.stage)) == (2, ["own", "solver"])
    train, = choices(text, level=3, stages=["line", "own"])
    assert (train.state.phase, train.state.level) == (0, 3)
    assert list(train.state.stage) == ["own", "solver", "line"]


def test_files_are_found_beside_the_solver_file(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.prototxt").write_text('name: "a"')
    (tmp_path / "models/solver.prototxt").write_text('net: "a.prototxt" test_iter: 1 test_interval: 1')
    monkeypatch.chdir(tmp_path)
    train, (test,) = solver_nets(load_solver("models/solver.prototxt"))
    assert train.config.path == "models/a.prototxt"
    assert isinstance(train, NetChoice) and test.config is train.config
    (tmp_path / "a.prototxt").write_text('name: "another\'s"')
    assert solver_nets(load_solver("models/solver.prototxt"))[0].config.message.name == "a"
    # A name with a folder is one of the working folder's first, as in Caffe.
    (tmp_path / "models/models").mkdir()
    (tmp_path / "models/models/a.prototxt").write_text('name: "farther"')
    (tmp_path / "models/solver.prototxt").write_text('net: "models/a.prototxt"')
    assert solver_nets(load_solver("models/solver.prototxt"))[0].config.message.name == "a"


def test_tests_can_be_turned_off():
    solver = parse_solver(INLINE + "test_iter: 7 test_interval: 10")
    apply_overrides(solver, ["test_interval=0"])
    assert len(solver_nets(solver)[1]) == 1


@pytest.mark.parametrize("text, expected", [
    ('base_lr: 1', "s.prototxt:1:1: no network to train; give one of net, train_net, net_param, "
                   "train_net_param"),
    ('net: "a"\ntrain_net: "b"',
     "s.prototxt:1:1: train_net and net both give the network to train; keep one"),
    ('\n  net: "no.prototxt"', "s.prototxt:2:3: network file not found as 'no.prototxt'"),
    ('net_param { } test_net_param { } test_interval: 1',
     "s.prototxt:1:1: expected one test_iter for each test network, 1 in all, got 0"),
    ('train_net_param { } test_iter: 5',
     "s.prototxt:1:21: expected one test_iter for each test network, 0 in all, got 1"),
    ('net_param { } test_iter: 5',
     "s.prototxt:1:15: 1 test networks but no test_interval; add one (0 never tests), or remove test_iter"),
    ('net_param { } test_iter: [5, 0] test_interval: 1',
     "s.prototxt:1:30: 'test_iter' must be at least 1, or -1 for every record once, got 0"),
    ('net_param { } test_iter: [5, 6] test_interval: 1 test_state { }',
     "s.prototxt:1:50: expected no test_state, or one for each test network, 2 in all, got 1"),
])
def test_mistakes(text, expected):
    with pytest.raises(ConfigError) as caught:
        choices(text)
    assert str(caught.value) == expected


def test_rules_that_never_hold_are_told_once(caplog):
    net = parse_net("""layer { name: "a" type: "ReLU" include { min_level: 3 max_level: 1 }
          include { stage: "b" stage: "s" not_stage: "s" } include { min_level: 1 max_level: 1 } }
        layer { name: "b" type: "ReLU" exclude { phase: TEST stage: "s" not_stage: "s" } }""", "n.prototxt")
    for phase in ("TRAIN", "TEST"):
        filter_state(filter_state(net, phase), phase)
    assert caplog.messages == [
        "n.prototxt:1:32: layer 'a': this include rule never holds: min_level 3 is above max_level 1",
        "n.prototxt:2:11: layer 'a': this include rule never holds: stage 's' is a not_stage too",
        "n.prototxt:3:40: layer 'b': this exclude rule never holds: stage 's' is a not_stage too"]


def test_a_string_is_the_name_of_one_stage_for_a_solver_too():
    config = parse_solver("net_param { }")
    train, _ = solver_nets(config, stages="deploy")
    assert list(train.state.stage) == ["deploy"]
    assert list(prepared_nets(config, (), None, None, None, "deploy", [])[0].state.stage) == ["deploy"]
