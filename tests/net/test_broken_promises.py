"""A layer of a user's own whose flow promises more than its function can: it gets every unit, and says so."""

import logging

import nets
import numpy as np
import pytest
from nets import IMAGES, LOSS, drop, ip, layer

from minidrop import Function
from minidrop.config.fields import layer_types
from minidrop.layers import Layer, register_layer
from minidrop.layers.flow import Pass
from minidrop.testing import assert_matches_masked_dense


class CubeFunction(Function):
    """y = x^3, for inputs that hold every unit: nobody thought of `kept_rule`."""

    def forward(self, backend, x):
        self.x = x
        return x ** 3

    def backward(self, backend, gy, wanted):
        return 3 * self.x ** 2 * gy


class Cube(Layer):
    def setup(self, x):
        return [x]

    def flow(self, shapes):
        return [Pass(keeps_zero=True)]

    def forward(self, x):
        return CubeFunction().apply(x)


@pytest.fixture
def cube():
    with layer_types.forgetting():
        register_layer("Cube")(Cube)
        yield


@pytest.mark.parametrize("family", ["PERIODIC", "TILE", "BLOCK"])
def test_it_works_and_is_said_once(cube, caplog, family):
    net = nets.net_of(IMAGES, ip("ip1", "data", 40), drop("drop1", "ip1", family),
                      layer("Cube", "cube", "drop1"), ip("ip2", "cube", 7), LOSS % "ip2")
    with caplog.at_level(logging.WARNING):
        for iteration in range(3):
            assert_matches_masked_dense(net, iteration, nets.images())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (family == "PERIODIC") and all(
        line.startswith("layer 'cube' (Cube): its flow says that it can work on the kept units alone, but "
                        "CubeFunction needs every unit") for line in told)
    assert np.isfinite(net.params["ip1"]["weight"].grad).all()
