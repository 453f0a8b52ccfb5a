"""What tensors, layers, nets and solvers show of themselves: short, cheap, and never an error."""

import re

import numpy as np
import pytest
from nets import IMAGES, LOSS, drop, images, ip, net_of

import minidrop as md
from minidrop import Kept, Net, Solver, Tensor, functions
from minidrop.backend import Backend
from minidrop.config import parse_solver
from minidrop.kept import KeptByGroup

NET = (IMAGES, ip("ip1", "data", 16), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")


@pytest.mark.parametrize("x, text", [
    (Tensor(np.float32([[1, 2], [3, 4]]), True),
     "Tensor([[1., 2.],\n        [3., 4.]],\n       shape=(2, 2), float32, cpu, requires_grad=True)"),
    (Tensor(2.5), "Tensor(2.5, shape=(), float32, cpu)"),
    (Tensor([1, 2]), "Tensor([1, 2], shape=(2,), int64, cpu)"),
    (Tensor(np.zeros((0, 3))), "Tensor([], shape=(0, 3), float64, cpu)"),
    (functions.take(Tensor(np.float32([[1, 2, 3]])), Kept(0, 2, 1, 3)),
     "Tensor([[1., 0., 3.]], shape=(1, 3), float32, cpu, axis 1 Kept(2 of 3: 1 of every 2 from 0))"),
    (md.Parameter(np.float32([1]), name="ip1.bias"),
     "Parameter(ip1.bias, [1.], shape=(1,), float32, cpu, requires_grad=True)")])
def test_a_tensor(x, text):
    assert repr(x) == text


class Counting(Backend):
    """A device that counts the entries that are read from it."""

    name, read = "counting", 0

    def to_host(self, x):
        self.read += x.size
        return super().to_host(x)


@pytest.mark.parametrize("kept", [None, Kept(0, 2, 1, 500)])
def test_a_large_tensor_shows_its_corners_and_reads_no_more(kept):
    x = np.arange(1000 * 500.0).reshape(1000, 500)
    backend = Counting()
    array = x if kept is None else x[:, kept.index]
    text = repr(Tensor(array, backend=backend, kept=kept))
    shown = x * (1 if kept is None else kept.mask(float))
    with np.printoptions(threshold=10, edgeitems=3, linewidth=200):
        expected = np.array2string(shown, separator=", ")
    assert re.sub(r"\s+", "", text[7:]).startswith(re.sub(r"\s+", "", expected))
    assert "shape=(1000, 500)" in text and len(text) < 800 and backend.read <= 7 * 500


def test_a_tensor_that_no_corner_can_be_taken_of():
    groups = KeptByGroup([Kept(0, 2, 1, 6), Kept(1, 3, 1, 6)])
    for rows, found in ((4, "[1., 0., 1.,"), (10_000, "...")):
        x = functions.take(Tensor(np.ones((rows, 6))), groups)
        assert repr(x).replace("[[", "[")[7:].startswith(found)


def test_what_cannot_be_read_is_said():
    class Broken(Backend):
        name = "broken"

        def to_host(self, x):
            raise RuntimeError("the device is lost")

    backend = Broken()
    assert repr(Tensor([1.0], backend=backend)) == ("Tensor(values cannot be read, shape=(1,), float32, "
                                                    "broken)")
    with backend.as_captured(np.zeros(1, np.int32)):
        assert "values not computed yet" in repr(Tensor([1.0], backend=backend))


def test_a_net_is_a_table():
    net = net_of(*NET)
    lines = repr(net).split("\n")
    assert lines[0] == "Net(phase TRAIN, float64, cpu: 5 layers, 343 parameters)"
    assert [line.split() for line in lines[1:]] == [
        ["layer", "type", "output", "parameters"], ["in", "Input", "data", "6x13,", "label", "6"],
        ["ip1", "InnerProduct", "ip1", "6x16", "224"], ["drop1", "ApproxDropout", "drop1", "6x16"],
        ["ip2", "InnerProduct", "ip2", "6x7", "119"], ["loss", "SoftmaxWithLoss", "loss", "scalar"]]
    net.forward(**images())
    assert repr(net).split("\n") == lines
    assert repr(object.__new__(Net)) == "Net(not built)"


def test_a_very_deep_net_is_cut_in_the_middle():
    net = net_of(IMAGES, *(f'layer {{ name: "r{i}" type: "ReLU" bottom: "data" top: "data" }}'
                           for i in range(400)))
    text = repr(net)
    assert len(text.split("\n")) < 210 and "... 202 more" in text and "r399" in text


def test_layers():
    net = net_of(*NET)
    assert [repr(layer) for layer in net.layers.values()] == [
        "Input('in': -> data, label)", "InnerProduct('ip1': data -> ip1; weight 16x13; bias 16)",
        "ApproxDropout('drop1': ip1 -> drop1)", "InnerProduct('ip2': drop1 -> ip2; weight 7x16; bias 7)",
        "SoftmaxWithLoss('loss': ip2, label -> loss)"]
    for layer in net.layers.values():
        assert repr(object.__new__(type(layer))) == f"{layer.type}('': not built)"


def test_a_solver_says_what_it_trains_and_where_it_is():
    solver = Solver(parse_solver(f'type: "Nesterov" momentum: 0.9 base_lr: 0.02 lr_policy: "step" gamma: 0.5 '
                                 f'stepsize: 2 max_iter: 5 net_param {{ {" ".join(NET)} }}'), device="cpu")
    solver.net.set_inputs(**images())
    solver.step(2)
    assert repr(solver) == ("Solver(Nesterov, iteration 2 of 5, lr 0.01, 0 test nets, trains phase TRAIN, "
                            "float32, cpu: 5 layers, 343 parameters)")
    assert repr(object.__new__(Solver)) == "Solver(not built)"
