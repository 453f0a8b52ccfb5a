"""share_mode PERMISSIVE: layers that share one array in two shapes."""

import copy

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.errors import ConfigError, ShapeError

LAYERS = """
layer { name: "x" type: "MemoryData" top: "x" top: "label"
        memory_data_param { batch_size: 5 channels: 3 height: 2 width: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { lr_mult: 2 }
        inner_product_param { num_output: 4 weight_filler { type: "msra" } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "b" param { %s share_mode: PERMISSIVE }
        convolution_param { num_output: 4 kernel_size: 2 weight_filler { type: "msra" } } }
layer { name: "flat" type: "Flatten" bottom: "b" top: "c" }
layer { name: "two" type: "InnerProduct" bottom: "x" top: "d" param { %s share_mode: PERMISSIVE }
        inner_product_param { num_output: 2 axis: 2 weight_filler { type: "msra" } } }
layer { name: "dflat" type: "Flatten" bottom: "d" top: "e" }
layer { name: "all" type: "Concat" bottom: "a" bottom: "c" bottom: "e" top: "all" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "all" bottom: "label" top: "loss" }
"""
SHARED, APART = LAYERS % ('name: "w"', 'name: "v"'), LAYERS % ("", 'name: "v"')


def make(text, **more):
    solver = md.Solver(parse_solver(f"net_param {{ {text} }} base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 "
                                    "lr_policy: 'fixed' max_iter: 9 random_seed: 1"), device="cpu", **more)
    rng = np.random.default_rng(0)
    solver.net.set_input_arrays(rng.normal(size=(10, 3, 2, 2)), rng.integers(0, 10, 10))
    return solver


def test_gradients_and_updates_are_those_of_one_array():
    shared, apart = make(SHARED, dtype="float64"), make(APART, dtype="float64")
    whole = shared.net.params["ip"]["weight"]
    for layer in ("ip", "conv", "two"):
        for name, own in apart.net.params[layer].items():
            own.data[...] = shared.net.params[layer][name].data
    assert shared.net.params["conv"]["weight"].shape == (4, 3, 2, 2)
    assert len(shared.net.parameters()) == 5 and len(apart.net.parameters()) == 6
    for solver in (shared, apart):
        solver.net.forward()
        solver.net.clear_grads()
        solver.net.backward()
    own = apart.net.params["ip"]["weight"].grad + apart.net.params["conv"]["weight"].grad.reshape(4, 12)
    np.testing.assert_allclose(whole.grad, own, rtol=1e-12)
    np.testing.assert_array_equal(shared.net.params["conv"]["weight"].grad.reshape(4, 12), whole.grad)
    before = whole.data.copy()
    shared.step(1)
    assert (whole.data != before).all()
    np.testing.assert_array_equal(shared.net.params["conv"]["weight"].data.reshape(4, 12), whole.data)


def test_files_and_copies_keep_it_one(tmp_path):
    solver = make(SHARED)
    solver.step(2)
    path = solver.snapshot(tmp_path / "s.h5")
    copied = copy.deepcopy(solver.net)
    for name in ("x.caffemodel", "x.caffemodel.h5"):
        solver.net.save(tmp_path / name)
        net = md.Net(parse_net(SHARED), "TRAIN", device="cpu", seed=5)
        net.load_weights(tmp_path / name)
        for layer, own in solver.net.params.items():
            for key, parameter in own.items():
                np.testing.assert_array_equal(net.params[layer][key].data, parameter.data)
                np.testing.assert_array_equal(copied.params[layer][key].data, parameter.data)
    assert np.shares_memory(copied.params["conv"]["weight"].data, copied.params["ip"]["weight"].data)
    again = make(SHARED)
    again.restore(path)
    for one in (solver, again):
        one.step(2)
    for layer in ("ip", "conv"):
        np.testing.assert_array_equal(*(one.net.params[layer]["weight"].data for one in (solver, again)))


def test_what_cannot_be_one():
    with pytest.raises(ConfigError, match=r"'w' has shape \(4, 12\), but is needed as \(2, 4\)"):
        make(LAYERS % ('name: "w"', 'name: "w"'))
    with pytest.raises(ConfigError, match=r"'w' has shape \(4, 12\), but is needed as \(4, 3, 2, 2\)"):
        make(SHARED.replace("share_mode: PERMISSIVE", ""))


def test_both_are_one_for_whoever_changes_one():
    params = make(SHARED).net.params
    whole, other = params["ip"]["weight"], params["conv"]["weight"]
    other.lr_mult, other.decay_mult = 3.0, 0.5
    assert (whole.lr_mult, whole.decay_mult) == (3.0, 0.5) == (other.lr_mult, other.decay_mult)
    for attribute, said in (("data", "its data are numbers"), ("grad", "its gradient is an array")):
        with pytest.raises(ShapeError, match=rf"^conv.weight: {said} of shape \(4, 3, 2, 2\), got .*4, 12"):
            setattr(other, attribute, np.ones((4, 12)))
        setattr(other, attribute, np.full((4, 3, 2, 2), 2.0))
        assert getattr(whole, attribute).shape == (4, 12) and (getattr(whole, attribute) == 2).all()
    copied = copy.deepcopy(params)
    assert copied["conv"]["weight"].whole is copied["ip"]["weight"] is not whole
    assert copied["two"]["weight"].shape == params["two"]["weight"].shape
