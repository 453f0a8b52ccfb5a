"""log_gradient_norm: the norm in events, of gradients in blocks that overlap, and in files."""

import json
import math

import nets
import numpy as np
import pytest

import minidrop as md
from minidrop.cli import run
from minidrop.config import parse_solver
from minidrop.errors import NonFiniteError

NET = "\n".join([nets.IMAGES, nets.ip("ip1", "data", 24), nets.drop("drop1", "ip1", "PERIODIC groups: 3"),
                 nets.ip("ip2", "drop1", 7), nets.LOSS % "ip2"])


def solver(more="", net=NET, dtype="float64", device="cpu"):
    made = md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 50 "
                                  f"random_seed: 3 {more} net_param {{ {net} }}"), dtype=dtype, device=device)
    made.net.set_inputs(**nets.images())
    return made


@pytest.mark.parametrize("more", ["", "clip_gradients: 0.01", "clip_gradients: 0.01 iter_size: 2"])
def test_it_is_that_of_the_dense_gradients_before_they_are_clipped(more):
    made, expected, several = solver(f"log_gradient_norm: true display: 2 {more}"), [], []

    def keep(parameters):
        expected.append(math.sqrt(sum(float(np.square(p.dense_grad()).sum()) for p in parameters.values())))
        several.append(max(len(p.blocks) for p in parameters.values()))
    made.after_backward.append(keep)
    seen = {"step": [], "display": []}
    made.add_callback(lambda event: seen[event.kind].append(event.values["gradient_norm"]))
    made.step(6)
    assert max(expected) > 0.01 and (max(several) > 1 or "iter_size" in more)
    np.testing.assert_allclose(seen["step"], expected, rtol=1e-12)
    assert seen["display"] == seen["step"][::2]


def test_it_changes_nothing_and_is_absent_otherwise():
    one, other, kinds = solver("log_gradient_norm: true"), solver(), []
    other.add_callback(lambda event: kinds.append("gradient_norm" in event.values))
    for made in (one, other):
        made.step(4)
    assert kinds == [False] * 4
    for name, parameter in one.net.parameters().items():
        assert np.array_equal(parameter.data, other.net.parameters()[name].data)


def test_gradients_that_are_not_finite_are_refused_as_ever():
    made = solver("log_gradient_norm: true")
    made.after_backward.append(lambda parameters: parameters["ip1/weight"].scale_grad(math.nan))
    with pytest.raises(NonFiniteError, match="the gradient of ip1/weight is not"):
        made.step()


def test_metrics_of_a_run_hold_it(tmp_path):
    net = NET.replace(nets.IMAGES, 'layer { name: "in" type: "DummyData" top: "data" top: "label" '
                                   'dummy_data_param { shape { dim: 6 dim: 13 } shape { dim: 6 } '
                                   'data_filler { type: "gaussian" } data_filler { type: "constant" } } }')
    (tmp_path / "solver.prototxt").write_text(
        f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 3 random_seed: 3 display: 1 log_gradient_norm: true "
        f"net_param {{ {net} }}")
    out = tmp_path / "run"
    assert run(["train", "--solver", str(tmp_path / "solver.prototxt"), "--out", str(out), "--device",
                "cpu"]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["values"]["gradient_norm"] > 0 for line in lines[:3]) and len(lines) >= 3
    assert "gradient_norm = " in (out / "train.log").read_text()
