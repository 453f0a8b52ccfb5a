"""What detectors' scripts do: Python layers, used from outside, whose tops change their shapes each pass."""

from pathlib import Path

import numpy as np
import pytest

import minidrop.caffe as caffe
from minidrop.errors import ConfigError

LAYERS = """
import numpy as np
import minidrop.caffe as caffe


class Images(caffe.Layer):
    def set_roidb(self, roidb):
        self.roidb, self.at = roidb, 0

    def setup(self, bottom, top):
        top[0].reshape(1, 1, 4, 4)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        image = self.roidb[self.at % len(self.roidb)]
        self.at += 1
        top[0].reshape(*image.shape)
        top[0].data[...] = image


class Proposals(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(1, 5)
        if len(top) > 1:
            top[1].reshape(1, 1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        assert str(self.phase) in ("TRAIN", "TEST")
        count = bottom[0].data.shape[2] - 1
        top[0].reshape(count, 5)
        top[0].data[...] = np.arange(count)[:, None]
        if len(top) > 1:
            top[1].reshape(count)
            top[1].data[...] = np.arange(count) % 3

    def backward(self, top, propagate_down, bottom):
        pass


class Crops(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 2

    def reshape(self, bottom, top):
        top[0].reshape(bottom[1].data.shape[0], bottom[0].data.shape[1])

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * (bottom[0].data.sum((2, 3)) + bottom[1].data[:, :1])

    def backward(self, top, propagate_down, bottom):
        pass
"""
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "proposal" type: "Python" bottom: "conv" TOPS
  python_param { module: "userlayers" layer: "Proposals" } }
layer { name: "pool" type: "Python" bottom: "conv" bottom: "rois" top: "pool"
  python_param { module: "userlayers" layer: "Crops" } }
layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score" inner_product_param {
  num_output: 3 weight_filler { type: "xavier" } } }
"""
TRAIN = ('layer { name: "input-data" type: "Python" top: "data" python_param { module: "userlayers" '
         'layer: "Images" } }' + BODY.replace("TOPS", 'top: "rois" top: "labels"')
         + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "labels" top: "loss" }')
DEPLOY = ('input: "data" input_shape { dim: 1 dim: 1 dim: 4 dim: 4 }' + BODY.replace("TOPS", 'top: "rois"')
          + 'layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }')
SOLVER = 'train_net: "train.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 random_seed: 1 '


@pytest.fixture(autouse=True)
def _files():
    for name, text in (("userlayers.py", LAYERS), ("train.prototxt", TRAIN), ("test.prototxt", DEPLOY),
                       ("solver.prototxt", SOLVER)):
        Path(name).write_text(text)


def test_a_python_layer_is_reached_through_the_net_of_a_solver_without_max_iter():
    solver = caffe.SGDSolver("solver.prototxt")
    data = solver.net.layers[0]
    assert type(data).__name__ == "Images" and solver.net.layer_dict["input-data"] is data
    assert (data.type, data.name, list(solver.net.params)) == ("Python", "input-data",
                                                               ["conv", "pool", "score"])
    data.set_roidb([np.ones((1, 1, size, 5), np.float32) for size in (4, 7)])
    for iteration, count in ((1, 3), (2, 6), (3, 3)):
        solver.step(1)
        assert (solver.iter, solver.net.blobs["rois"].shape) == (iteration, (count, 5))
        assert solver.net.blobs["score"].data.shape == (count, 3)
    with pytest.raises(ConfigError, match=r"solver.prototxt:1:1: max_iter is missing"):
        solver.solve()
    with pytest.raises(ConfigError, match=r"max_iter must be at least 1, got -1"):
        Path("solver.prototxt").write_text(SOLVER + "max_iter: -1")
        caffe.SGDSolver("solver.prototxt")


def test_the_blobs_of_a_python_layer_are_those_of_the_net():
    net = caffe.Net("test.prototxt", caffe.TEST)
    layer = net.layer_dict["pool"]
    assert layer.blobs[0].data is net.params["pool"][0].data and layer.blobs[0].data.tolist() == [2]
    layer.blobs[0].data[...] = 5
    net.params["conv"][0].data[...] = net.params["score"][0].data[...] = 1
    out = net.forward(data=np.ones((1, 1, 4, 4), np.float32), blobs=["pool"])
    np.testing.assert_array_equal(out["pool"][:, 0], [5 * 16, 5 * 17, 5 * 18])


def test_what_setup_gave_the_tops_is_there_after_a_reshape():
    net = caffe.Net("test.prototxt", caffe.TEST)
    for height, width in ((4, 4), (6, 3), (3, 5), (6, 3)):
        x = np.ones((1, 1, height, width), np.float32)
        net.blobs["data"].reshape(*x.shape)
        out = net.forward(data=x)
        assert out["prob"].shape == (height - 1, 3) and net.blobs["rois"].data.shape == (height - 1, 5)
    net.blobs["data"].reshape(1, 1, 9, 2)
    net.reshape()                       # before a pass its blobs have the shapes that they had last
    assert net.blobs["rois"].shape == (5, 5)


def test_the_phase_is_a_number_with_a_name():
    for phase, name in ((caffe.TRAIN, "TRAIN"), (caffe.TEST, "TEST")):
        layer = caffe.Net("test.prototxt", phase).layer_dict["proposal"]
        assert layer.phase == phase and str(layer.phase) == name


def test_messages_are_found_in_io_as_well():
    assert caffe.io.caffe_pb2 is not None
    datum = caffe.io.caffe_pb2.Datum(channels=1, height=1, width=2, data=b"ab")
    assert caffe.io.datum_to_array(datum).tolist() == [[[97, 98]]]
