"""--set."""

import pytest
from cases import in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.config import (
    apply_overrides,
    decimal,
    parse_net,
    parse_solver,
    split_overrides,
)
from minidrop.errors import ConfigError

NET = """name: "n"
layer { name: "ip1" type: "InnerProduct" param { lr_mult: 1 } inner_product_param { num_output: 5 } }
layer { name: "drop1" type: "ApproxDropout" approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "a/b.c" type: "ReLU" }
layer { name: "a/b" type: "ReLU" }
layer { name: "a/b" type: "ReLU" include { phase: TEST } }
"""


def changed(*assignments):
    config = parse_net(NET)
    apply_overrides(config, assignments)
    return config.message.layer


def solver(*assignments):
    config = parse_solver("base_lr: 0.1 stepvalue: [10, 20] test_iter: 3")
    apply_overrides(config, assignments)
    return config.message


def test_solver_fields():
    message = solver("base_lr=0.05", "max_iter = 100", "type=Adam", "solver_mode=CPU",
                     "test_initialization=false",
                     'lr_policy="step"', "train_state.level=3", "snapshot_best=-loss=x")
    assert decimal(message.base_lr) == 0.05
    assert (message.max_iter, message.type, message.solver_mode) == (100, "Adam", 0)
    assert (message.test_initialization, message.lr_policy) == (False, "step")
    assert (message.train_state.level, message.snapshot_best) == (3, "-loss=x")


@pytest.mark.parametrize("assignment, expected", [
    ("stepvalue=5", [5]), ("stepvalue=[1, 2,3]", [1, 2, 3]), ("stepvalue=[]", []),
    ("stepvalue[1]=7", [10, 7]), ("stepvalue[2]=7", [10, 20, 7]),
])
def test_repeated_fields(assignment, expected):
    assert list(solver(assignment).stepvalue) == expected


def test_a_mapping_does_as_well():
    config = parse_solver("")
    apply_overrides(config, {"max_iter": 100, "base_lr": 0.05, "test_initialization": False,
                             "stepvalue": [1, 2], "type": "Adam"})
    message = config.message
    assert (message.max_iter, message.test_initialization, list(message.stepvalue)) == (100, False, [1, 2])
    assert (decimal(message.base_lr), message.type) == (0.05, "Adam")


def test_layer_fields():
    layers = changed("layer.drop1.approx_dropout_param.dropout_ratio=0.3",
                     "layer.drop1.approx_dropout_param.pattern=ROW",
                     "layer.ip1.param[0].lr_mult=2", "layer.ip1.param[1].decay_mult=0", "layer.ip1.bottom=x")
    assert decimal(layers[1].approx_dropout_param.dropout_ratio) == 0.3
    assert layers[1].approx_dropout_param.pattern == "ROW"
    assert [(p.lr_mult, p.decay_mult) for p in layers[0].param] == [(2, 1), (1, 0)]
    assert list(layers[0].bottom) == ["x"]


def test_the_longest_layer_name_wins_and_every_layer_of_it_changes():
    layers = changed("layer.a/b.c.relu_param.negative_slope=0.5", "layer.a/b.relu_param.negative_slope=2")
    assert [layer.relu_param.negative_slope for layer in layers[2:]] == [0.5, 2, 2]


def test_several_configurations_at_once():
    config, one, other = parse_solver(""), parse_net(NET), parse_net('layer { name: "only_here" }')
    apply_overrides([config, one, other], ["max_iter=3", "layer.only_here.type=ReLU", "layer.ip1.type=X"])
    assert config.message.max_iter == 3
    assert (other.message.layer[0].type, one.message.layer[0].type) == ("ReLU", "X")


def test_split():
    assert split_overrides(["a=1", "layer.x.y=2"]) == (["a=1"], ["layer.x.y=2"])
    assert split_overrides({"max_iter": 1}) == (["max_iter=1"], [])


@in_turn("assignment, expected", [
    ("base_lr", "expected FIELD=VALUE, such as base_lr=0.05"),
    ("=3", "expected FIELD=VALUE, such as base_lr=0.05"),
    ("bas_lr=1", "SolverParameter has no field 'bas_lr'; did you mean 'base_lr' or 'max_lr'?"),
    ("base_lr=high", "'base_lr' takes a number, got 'high'"),
    ("base_lr=nan", "'base_lr' takes a finite 32-bit number, got 'nan'"),
    ("base_lr=", "'base_lr' takes a number, got ''"),
    ("max_iter=1.5", "'max_iter' takes an integer (32-bit), got '1.5'"),
    ("test_initialization=maybe", "'test_initialization' takes true or false, got 'maybe'"),
    ("solver_mode=TPU", "'solver_mode' has no value 'TPU'; its values are CPU, GPU; did you mean 'GPU' or "
                        "'CPU'?"),
    ("stepvalue[3]=1", "'stepvalue' has 2 elements; expected an index from 0 to 2, got 3"),
    ("base_lr[0]=1", "'base_lr' holds one value; leave out [0]"),
    ("base_lr.x=1", "'base_lr' takes a number; it has no fields of its own"),
    ("train_state=1", "'train_state' is a message; set one of its fields: phase, level, stage"),
    ("train_state.levle=1", "NetState has no field 'levle'; did you mean 'level'?"),
    ("train_state.=1", "'' is no field name; expected NAME or NAME[INDEX]"),
    ("test_state.level=1", "'test_state' is repeated; say which one: test_state[0]"),
    ("relu_param.engine=CPU", "SolverParameter has no field 'relu_param'; a layer's field is set with "
                              "layer.NAME.relu_param.engine=..."),
])
def test_mistakes_in_solver_fields(assignment, expected):
    with pytest.raises(ConfigError) as caught:
        solver(assignment)
    assert str(caught.value) == f"--set {assignment}: {expected}"


@pytest.mark.parametrize("assignment, expected", [
    ("layer.drp1.approx_dropout_param.dropout_ratio=0.3", "no layer is called 'drp1'; did you mean 'drop1'?"),
    ("layer.zzz.type=x", "no layer is called 'zzz'"),
    ("layer.ip1.inner_product_param.num_outputs=3",
     "InnerProductParameter has no field 'num_outputs'; did you mean 'num_output'?"),
    ("layer.ip1.inner_product_param.num_output=-3",
     "'num_output' takes an integer from 0 to 4294967295, got '-3'"),
    ("layer.ip1.param.lr_mult=3", "'param' is repeated; say which one: param[0]"),
])
def test_mistakes_in_layer_fields(assignment, expected):
    with pytest.raises(ConfigError) as caught:
        changed(assignment)
    assert str(caught.value) == f"--set {assignment}: {expected}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["layer.", "ip1", ".", "=", "[", "]", "0", "9" * 40, "param", "lr_mult",
                                 "base_lr", "\0",
                                 "stepvalue", "type", "name", "\ud800", "inf", "-1",
                                 ","]) | st.text(max_size=2),
                max_size=9).map("".join))
def test_any_assignment_works_or_is_a_config_error(text):
    try:
        apply_overrides([parse_solver("stepvalue: 1"), parse_net(NET)], [text])
    except ConfigError:
        pass
