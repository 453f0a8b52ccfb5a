"""caffe.coord_map: offsets as in the published fully convolutional nets, and by the layers themselves."""

import numpy as np
import pytest

import minidrop.caffe as caffe
from minidrop.caffe import layers as L
from minidrop.caffe.coord_map import coord_map, coord_map_from_to, crop
from minidrop.errors import ConfigError


def conv(bottom, kernel_size=3, pad=1, **settings):
    return L.ReLU(L.Convolution(bottom, kernel_size=kernel_size, pad=pad, num_output=1, **settings),
                  in_place=True)


def pool(bottom):
    return L.Pooling(bottom, kernel_size=2, stride=2)


def up(bottom, factor):
    return L.Deconvolution(bottom, convolution_param={"kernel_size": 2 * factor, "stride": factor,
                                                      "num_output": 1})


def vgg():
    """Pools 3 and 4 and the scores of VGG16 made convolutional, with a pad of 100 at first."""
    data = L.Input(shape=[1, 3, 64, 64])
    pools, x = [], data
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for i in range(count):
            x = conv(x, pad=100 if stage == i == 0 else 1)
        pools.append(x := pool(x))
    fc7 = conv(L.Dropout(conv(x, 7, 0), in_place=True), 1, 0)
    return data, pools[2], pools[3], L.Convolution(fc7, kernel_size=1, num_output=1)


def offset(top):
    assert top.layer.type == "Crop" and top.layer.settings["axis"] == 2
    return top.layer.settings["offset"]


def test_the_offsets_of_the_published_nets():
    data, pool3, pool4, score = vgg()
    assert offset(crop(up(score, 32), data)) == [19]
    twice = up(score, 2)
    cut4 = crop(L.Convolution(pool4, kernel_size=1, num_output=1), twice)
    assert offset(cut4) == [5]
    sum4 = L.Eltwise(twice, cut4)
    assert offset(crop(up(sum4, 16), data)) == [27]
    twice = up(sum4, 2)
    cut3 = crop(L.Convolution(pool3, kernel_size=1, num_output=1), twice)
    assert offset(cut3) == [9]
    assert offset(crop(up(L.Eltwise(twice, cut3), 8), data)) == [31]


def test_what_is_cut_is_what_the_layer_saw():
    """A pad of 3 and a kernel of 1 put zeros around the image: Crop takes the image out of them again."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=[1, 1, 4, 5])
    n.wide = L.Convolution(n.data, kernel_size=1, pad_h=3, pad_w=2, num_output=1, bias_term=False,
                           weight_filler={"type": "constant", "value": 1})
    n.cut = crop(n.wide, n.data)
    assert offset(n.cut) == [3, 2]
    net = caffe.Net(n.to_proto(), caffe.TEST)
    image = np.random.default_rng(0).random((1, 1, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(net.forward(data=image)["cut"], image)


def test_maps():
    x = L.Input(shape=[1, 1, 9, 9])
    axis, scale, shift = coord_map(L.Convolution(x, kernel_size=3, dilation=2, stride=2, pad=1).layer)
    assert (axis, *scale, *shift) == (1, 1 / 2, -1 / 2)
    assert coord_map(L.Softmax(x).layer) is None
    cut = L.Crop(x, x, axis=2, offset=[1, 2])
    axis, scale, shift = coord_map_from_to(x, L.ReLU(cut))
    assert (axis, *scale, *shift) == (1, 1, 1, -1, -2)
    assert offset(crop(L.ReLU("data"), L.TanH("data"))) == [0]


@pytest.mark.parametrize("first, second, what", [
    (lambda x: pool(x), lambda x: x, "scale 2"), (lambda x: conv(x, 2, 0), lambda x: x, "-1/2 pixels"),
    (lambda x: conv(x, 3, 0), lambda x: x, "-1 pixels before"),
    (lambda x: L.Softmax(x), lambda x: x, "a Softmax's and a Input's"),
    (lambda x: L.Pooling(x, global_pooling=True), lambda x: x, "needs kernel_size"),
    (lambda x: conv(conv(x, axis=2)), lambda x: x, "axes 2 and 1"),
    (lambda x: conv(x, stride=0), lambda x: x, "stride"),
])
def test_what_cannot_be_aligned(first, second, what):
    x = L.Input(shape=[1, 1, 9, 9])
    with pytest.raises(ConfigError, match=what):
        crop(first(x), second(x))
