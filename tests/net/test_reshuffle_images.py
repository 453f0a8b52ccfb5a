"""reshuffle_interval with channels: what moves, that the net stays the same function, and every refusal."""

import numpy as np
import pytest
from cases import in_turn
from image_nets import batch, conv, deconv, make
from nets import FILLERS, LOSS, ip, layer

import minidrop as md
from minidrop.testing import assert_matches_masked_dense

C1, C2 = conv("c1", "data", 12), conv("c2", "d", 9)
END = (ip("ip", "c2", 7), LOSS % "ip")
W1, B1, W2 = ("c1", "weight", 0), ("c1", "bias", 0), ("c2", "weight", 1)


def drop(bottom, settings="groups: 1"):
    return layer("ApproxDropout", "d", bottom, None,
                 f"approx_dropout_param {{ reshuffle_interval: 3 {settings} }}")


def pool(bottom, settings="kernel_size: 3 stride: 2 pad: 1"):
    return layer("Pooling", "pool", bottom, None, f"pooling_param {{ {settings} }}")


NETS = {
    "plain": ((C1, layer("ReLU", "relu", "c1", "c1"), drop("c1"), C2, *END), (W1, B1, W2)),
    "groups of samples": ((C1, drop("c1", 'groups: 3 pattern: "UNIT"'), C2, *END), (W1, B1, W2)),
    "no bias": ((conv("c1", "data", 12, "kernel_size: 3 bias_term: false"), drop("c1"), C2, *END), (W1, W2)),
    "pooling on both sides": (
        (C1, pool("c1"), drop("pool"), layer("LRN", "lrn", "d", None,
                                             "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }"),
         conv("c2", "lrn", 9), *END), (W1, B1, W2)),
    "Deconvolution": ((deconv("c1", "data", 12), drop("c1"), deconv("c2", "d", 9), *END),
                      (("c1", "weight", 1), B1, ("c2", "weight", 0))),
    "InnerProduct below the whole image": (
        (C1, drop("c1"), pool("d", "pool: AVE global_pooling: true"), ip("c2", "pool", 7), LOSS % "c2"),
        (W1, B1, W2)),
    "two readers": ((C1, drop("c1"), C2, conv("c3", "d", 9), layer("Eltwise", "sum", "c2 c3"),
                     ip("ip", "sum", 7), LOSS % "ip"), (W1, B1, W2, ("c3", "weight", 1))),
}


@pytest.mark.parametrize("name", NETS)
def test_what_moves_and_that_nothing_else_changes(name):
    layers, moves = NETS[name]
    net = make(*layers)
    test = make(*layers, phase="TEST", share=net)
    assert [sorted(one.moves) for one in net.reshuffles] == [sorted(moves)]
    assert net.reshuffles[0].units == 12
    before = float(test.forward(**batch())["loss"])
    weights = {key: p.data.copy() for key, p in net.parameters().items()}
    order = net.reshuffles[0].order(net.seed, 6)
    for parameter, axis, due in net.due_permutations(6):
        np.testing.assert_array_equal(due, order)
        parameter.data[...] = np.take(parameter.data, due, axis=axis)
    assert float(test.forward(**batch())["loss"]) == pytest.approx(before, abs=1e-12)
    for key, p in net.parameters().items():
        axis = {f"{one}/{parameter}": axis for one, parameter, axis in moves}.get(key)
        np.testing.assert_array_equal(p.data, weights[key] if axis is None
                                      else np.take(weights[key], order, axis=axis))
    for iteration in range(3):
        assert_matches_masked_dense(net, iteration, batch())


def test_volumes_and_a_told_axis():
    for shape in ((4, 3, 4, 3), (4, 7)):
        net = make(conv("c1", "data", 12, "kernel_size: 2"), drop("c1", "groups: 1 axis: 1"),
                   conv("c2", "d", 9, "kernel_size: 2"), *END, shape=shape)
        assert sorted(net.reshuffles[0].moves) == sorted((W1, B1, W2))


READ = "blob {} is read by {} at net.prototxt:{}:1, whose result would change with their order"
TWO = f'top: "z" convolution_param {{ num_output: 12 kernel_size: 3 pad: 1 {FILLERS} }}'
REFUSED = {
    "groups above": ((conv("c1", "data", 12, "kernel_size: 3 group: 2"), drop("c1"), C2, *END),
                     "blob c1 is written by c1 (Convolution) at net.prototxt:3:1, whose groups of channels "
                     "allow no other order"),
    "groups below": ((C1, drop("c1"), conv("c2", "d", 9, "kernel_size: 3 group: 3"), *END),
                     READ.format("d", "c2 (Convolution)", 5)),
    "each channel above": ((C1, conv("own", "c1", 12, "kernel_size: 3 group: 12"), drop("own"), C2, *END),
                           "blob own is written by own (Convolution) at net.prototxt:4:1, whose groups of "
                           "channels allow no other order"),
    "each channel below": ((C1, drop("c1"), conv("own", "d", 12, "kernel_size: 3 group: 12"),
                            conv("c2", "own", 9), *END), READ.format("d", "own (Convolution)", 5)),
    "InnerProduct of places": ((C1, drop("c1"), ip("ip", "d", 7), LOSS % "ip"),
                               READ.format("d", "ip (InnerProduct)", 5)),
    "Flatten": ((C1, drop("c1"), layer("Flatten", "flat", "d"), ip("ip", "flat", 7), LOSS % "ip"),
                READ.format("d", "flat (Flatten)", 5)),
    "Im2col": ((C1, drop("c1"), layer("Im2col", "cols", "d", None, "convolution_param { kernel_size: 2 }"),
                conv("c2", "cols", 9, "kernel_size: 1"), *END), READ.format("d", "cols (Im2col)", 5)),
    "BatchNorm": ((C1, drop("c1"), layer("BatchNorm", "bn", "d"), conv("c2", "bn", 9), *END),
                  READ.format("d", "bn (BatchNorm)", 5)),
    "LRN over channels": ((C1, drop("c1"), layer("LRN", "lrn", "d"), conv("c2", "lrn", 9), *END),
                          READ.format("d", "lrn (LRN)", 5)),
    "several tops above": (
        (conv("c0", "data", 4), layer("Convolution", "y", "data c0", None, TWO), drop("y"), C2,
         conv("c3", "z", 9), layer("Eltwise", "sum", "c2 c3"), ip("ip", "sum", 7), LOSS % "ip"),
        "y (Convolution) at net.prototxt:4:1 uses its weight for several bottoms"),
    "several bottoms below": (
        (conv("c0", "data", 12), C1, drop("c1"), layer("Convolution", "c2", "d c0", None, TWO),
         layer("Eltwise", "sum", "c2 z"), ip("ip", "sum", 7), LOSS % "ip"),
        "c2 (Convolution) at net.prototxt:6:1 uses its weight for several bottoms"),
}


@in_turn("name", REFUSED)
def test_refused(name):
    layers, reason = REFUSED[name]
    with pytest.raises(md.ConfigError) as caught:
        make(*layers)
    line, = str(caught.value).splitlines()
    assert line.split(": ", 1)[1] == (f"layer 'd' (ApproxDropout): reshuffle_interval cannot permute the "
                                      f"units above: {reason}; remove reshuffle_interval")
    make(*(text.replace("reshuffle_interval: 3", "") for text in layers))
