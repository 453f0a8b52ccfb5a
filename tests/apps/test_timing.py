"""Measuring steps in turn, and the profile of one."""

import time

import numpy as np
import pytest

import minidrop as md
from minidrop.apps.timing import Timing, measure_steps, profile_steps


def test_steps_take_turns_and_the_first_of_a_block_is_not_counted():
    calls = []
    timings = measure_steps({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, iterations=5,
                            warmup=1, block=3)
    assert "".join(calls) == "ab" + "aaaa" "bbbb" + "bbb" "aaa"
    assert timings["a"].count == timings["b"].count == 5


def test_timing_sums_up():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (timing.median, timing.mean, timing.count) == (3.0, 4.0, 5)
    assert timing.p10 == pytest.approx(1.4) and timing.p90 == pytest.approx(7.6)


def test_the_device_is_waited_for_within_the_measured_time():
    timings = measure_steps({"a": lambda: None}, iterations=2, warmup=0, synchronize=lambda: time.sleep(0.01))
    assert timings["a"].median >= 0.01


def test_a_profile_adds_up_and_leaves_the_net_as_it_was():
    n = md.NetSpec("net")
    n.data, n.label = md.L.DummyData(shape=[{"dim": [16, 8]}, {"dim": [16]}], ntop=2,
                                     data_filler=[{"type": "gaussian"}, {"type": "constant"}])
    n.ip1 = md.L.InnerProduct(n.data, num_output=32, weight_filler={"type": "xavier"})
    n.drop1 = md.L.ApproxDropout(n.ip1, dropout_ratio=0.5)
    n.ip2 = md.L.InnerProduct(n.drop1, num_output=4, weight_filler={"type": "xavier"})
    n.loss = md.L.SoftmaxWithLoss(n.ip2, n.label)
    net = md.Net(n.to_proto(), device="cpu")

    def step():
        net.forward()
        net.backward()
        net.clear_grads()

    profile = profile_steps(net, step, 5)
    assert not any("forward" in vars(node.layer)
                   for node in net.graph.nodes) and "gemm" not in vars(net.backend)
    inside = sum(part for layer in profile.layers.values() for part in layer.values())
    assert 0 < profile.gemm < inside < profile.step
    assert list(profile.layers) == [node.name for node in net.graph.nodes]
    for name, parts in profile.layers.items():
        assert parts["forward"] > 0 and parts["update"] == 0
        assert (parts["backward"] > 0) == (name in ("ip1", "drop1", "ip2", "loss"))


class Slow:
    """A clock that moves on by a second in every product, however it is asked for."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("minidrop.apps.timing.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("minidrop.kernels.products.np", self)

    def __getattr__(self, name):
        return getattr(np, name)

    def dot(self, *args, **keywords):
        self.now += 1
        return np.dot(*args, **keywords)

    def matmul(self, *args, **keywords):
        self.now += 1
        return np.matmul(*args, **keywords)


@pytest.mark.parametrize("kind, batch", [("LSTM", 2), ("LSTM", 40), ("GRU", 2), ("RNN", 2)])
def test_every_product_of_a_recurrent_layer_counts(kind, batch, monkeypatch):
    """The steps of a small batch are thin products, which are no calls of gemm."""
    n = md.NetSpec("net")
    n.x, n.cont = md.L.DummyData(shape=[{"dim": [3, batch, 8]}, {"dim": [3, batch]}], ntop=2,
                                 data_filler=[{"type": "gaussian"}, {"type": "constant", "value": 1}])
    n.it = getattr(md.L, kind)(n.x, n.cont, num_output=5, weight_filler={"type": "xavier"}, loss_weight=1)
    net = md.Net(n.to_proto(), device="cpu")
    clock = Slow(monkeypatch)

    def step():
        net.forward()
        net.backward()
        net.clear_grads()
    step()
    once, clock.now = clock.now, 0.0
    profile = profile_steps(net, step, 2)
    assert once > 4 and profile.gemm == once == profile.step
    assert not {"gemm", "thin_gemm"} & set(vars(net.backend))
