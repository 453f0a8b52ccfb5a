"""Layers of minidrop are captured; one of a user's own only if its very class says that it can be."""

import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.layers import base, known_layers, layer_class
from minidrop.layers.dummy_data import DummyData
from minidrop.layers.tanh import TanH
from minidrop.solver.capturable import problem_of

SOLVER = """base_lr: 0.1 lr_policy: "fixed" max_iter: 9 net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 2 dim: 5 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 5 } }
  layer { name: "it" type: "KIND" bottom: "ip" top: "it" }
  layer { name: "loss" type: "EuclideanLoss" bottom: "it" bottom: "y" top: "loss" } }"""


def problem(kind):
    return problem_of(md.Solver(parse_solver(SOLVER.replace("KIND", kind)), device="cpu"))


@pytest.fixture
def own_types():
    with base._types.forgetting():
        yield


# How many records Filter passes on depends on values, how many steps AttentionDecoder does on the batch; F1,
# Python and HDF5Output work on the host, and a Lambda may.
NOT_CAPTURABLE = {"AttentionDecoder", "F1", "Filter", "HDF5Output", "Lambda", "Python"}


def test_all_other_layers_of_minidrop_say_so():
    kinds = [layer_class(name) for name in known_layers()]
    assert NOT_CAPTURABLE == {kind.type for kind in kinds if kind.__module__.startswith("minidrop.")
                              and not vars(kind)["capturable"]}
    assert problem("ReLU") == ""


def test_batches_that_differ_in_shape_are_not_captured(monkeypatch):
    assert not DummyData.varies
    monkeypatch.setattr(DummyData, "varies", True)
    assert problem("ReLU") == "the batches of layer 'data' (DummyData) differ in shape"


def test_a_subclass_has_to_say_so_itself(own_types):
    @md.register_layer("Own")
    class Own(TanH):
        pass

    @md.register_layer("OwnOfOwn")
    class OwnOfOwn(Own):
        pass
    assert problem("Own") == "layer 'it' (Own) does not say that it is capturable"
    Own.capturable = True
    assert problem("Own") == ""
    assert problem("OwnOfOwn") == "layer 'it' (OwnOfOwn) does not say that it is capturable"
