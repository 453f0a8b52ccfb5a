"""debug_info logs mean absolute values of what an iteration computes, with each display, and changes none."""

import logging
import re

import h5py
import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.solver.capturable import problem_of

NET = """layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 6 dim: 5 }
  shape { dim: 6 dim: 3 } data_filler { type: "gaussian" std: 1 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "ip1"
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param { pattern: "ROW" } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip2" bottom: "y" top: "loss" }
"""
SOLVER = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 9 random_seed: 4 '


def solver_of(settings, net=NET):
    return md.Solver(parse_solver(f"{SOLVER} {settings} net_param {{ {net} }}"), device="cpu")


def lines_of(caplog):
    return dict(line.strip().rsplit(": ", 1) for line in caplog.messages
                if re.match(r"    \[(Forward|Backward)\] Layer", line))


TEST_NET = """layer { name: "data" type: "HDF5Data" top: "x" top: "y"
  hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "constant" value: -0.5 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Three batches of two records, of which the entries are all 1, all 2, all 3."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["x"] = np.repeat([1, 1, 2, 2, 3, 3], 5).reshape(6, 5).astype(np.float32)
        file["y"] = np.zeros((6, 3), np.float32)
    (tmp_path / "list.txt").write_text("a.h5\n")


TESTED = [f"    [Forward] Layer {line}" for i in (1, 2, 3) for line in (
    f"data, top blob x data: {i}", "data, top blob y data: 0", f"ip, top blob ip data: {2.5 * i:g}",
    "ip, param blob weight data: 0.5", "ip, param blob bias data: 0",
    f"loss, top blob loss data: {2 * 3 * (2.5 * i)**2 / 4:g}")]


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO, "minidrop")


def test_the_values_are_those_of_the_iteration(caplog):
    solver = solver_of("debug_info: true display: 1")
    gradients, weights = {}, {}

    def keep(parameters):
        gradients.update({name: np.abs(p.dense_grad()).mean() for name, p in parameters.items()})
        weights.update({name: p.data.copy() for name, p in parameters.items()})
    solver.after_backward.append(keep)
    solver.step()
    found = lines_of(caplog)
    for node in solver.net.graph.nodes:
        for ref in node.tops:
            said = float(found[f"[Forward] Layer {node.name}, top blob {ref.name} data"])
            assert said == pytest.approx(np.abs(solver.net.tensor(ref).numpy()).mean(), 1e-4)
    for name, mean in gradients.items():
        layer, own = name.split("/")
        assert float(found[f"[Backward] Layer {layer}, param blob {own} diff"]) == pytest.approx(mean, 1e-4)
        assert float(found[f"[Forward] Layer {layer}, param blob {own} data"]) == pytest.approx(
            np.abs(weights[name]).mean(), 1e-4)
    error = solver.net.blobs["ip2"].numpy() - solver.net.blobs["y"].numpy()
    assert float(found["[Backward] Layer loss, bottom blob ip2 diff"]) == pytest.approx(
        np.abs(error / 6).mean(), 1e-4)
    assert not any("bottom blob x" in line or "bottom blob y" in line for line in found)
    update = {line.split(": ")[0]: line for line in caplog.messages if "[Update]" in line}
    data, diff = map(float, re.findall(r": ([\d.e-]+)", update["    [Update] Layer ip2, param weight data"]))
    after = solver.net.params["ip2"]["weight"].data
    assert data == pytest.approx(np.abs(after).mean(), 1e-4)
    assert diff == pytest.approx(np.abs(after - weights["ip2/weight"]).mean(), 1e-4)


def test_norms_of_all_parameters(caplog):
    solver = solver_of("debug_info: true display: 1")
    values = np.concatenate([p.data.reshape(-1) for p in solver.net.parameters().values()])
    solver.step()
    line = next(line for line in caplog.messages if "All net params" in line)
    l1, _, l2, _ = map(float, re.findall(r"[\d.e+-]+(?=[,)])", line.split("L1")[1]))
    assert [l1, l2] == pytest.approx([np.abs(values).sum(), np.linalg.norm(values)], 1e-4)


@pytest.mark.parametrize("settings, net", [("debug_info: true", NET), ("", "debug_info: true " + NET)])
def test_with_each_display_alone_and_without_a_trace_in_the_weights(settings, net, caplog):
    told, plain = solver_of(f"{settings} display: 2", net), solver_of("display: 2")
    for count in (1, 1, 2, 2, 3):
        told.step()
        plain.step()
        assert sum("All net params" in line for line in caplog.messages) == count
    for one, other in zip(told.net.parameters().values(), plain.net.parameters().values(), strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_iterations_with_it_are_not_captured():
    assert problem_of(solver_of("debug_info: true")) == "debug_info reads every blob and gradient"
    assert problem_of(solver_of("", "debug_info: true " + NET)) == "debug_info reads every blob and gradient"
    assert not problem_of(solver_of(""))


@pytest.mark.parametrize("own, wanted", [("debug_info: true", TESTED), ("", [])])
def test_a_test_net_tells_every_batch_by_its_own_setting(own, wanted, batches, caplog):
    """The solver's is of the train net alone, as in Caffe."""
    solver = solver_of(f"debug_info: true display: 1 test_net_param {{ {own} {TEST_NET} }} test_iter: 3 "
                       f"test_interval: 9")
    solver.test()
    assert [line for line in caplog.messages if line.startswith("    [")] == wanted
