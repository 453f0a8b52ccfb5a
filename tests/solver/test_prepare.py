"""Mistakes of a solver's fields, of how it names its nets, and of all these nets are one report."""

import pytest

import minidrop as md
from minidrop.config import parse_solver

SOLVER = """base_lr: -1 lr_policy: "fixed" max_iter: 0 test_interval: 5
train_net_param {
  layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 8 } } }
  layer { name: "lost" type: "ReLU" bottom: "nowhere" top: "lost" } }
test_net_param {
  layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 8 } } }
  layer { name: "odd" type: "ReLu" bottom: "data" top: "odd" } }
test_iter: 0
"""


def report(text):
    with pytest.raises(md.ConfigError) as caught:
        md.Solver(parse_solver(text, "s"), device="cpu")
    return str(caught.value).split("\n")


def places(text):
    return [int(line.split(":")[1]) for line in report(text)]


def test_all_mistakes_of_a_solver_and_its_nets():
    assert places(SOLVER) == [1, 1, 8, 4, 7]


def test_a_net_file_that_is_missing_hides_no_other_mistake():
    lines = report(SOLVER.replace(
        "test_iter: 0", 'test_net: "missing.prototxt" test_iter: [1, 1, 1] test_state { }'))
    assert [int(line.split(":")[1]) for line in lines] == [1, 1, 8, 8, 8, 4, 7]
    assert [words in line for words, line in zip(
        ("base_lr", "max_iter", "test_iter for each", "test_state, or one", "missing.prototxt", "nowhere",
         "ReLu"), lines, strict=True)] == [True] * 7


def test_a_net_of_the_solver_with_a_flood_of_mistakes():
    flood = "".join(f'layer {{ name: "n{i}" type: "ReLU" bottom: "x{i}" top: "y{i}" }}\n' for i in range(120))
    lines = report(f'base_lr: -1 lr_policy: "fixed" max_iter: 1 net_param {{ {flood} }} test_iter: 1 '
                   f'test_interval: 1')
    assert len(lines) == 101 and lines[0].startswith("s:1:1: base_lr")
    assert lines[-1] == "... and 21 more mistakes"
