"""Net by pycaffe's names."""

import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import minidrop.caffe as caffe
from minidrop.caffe import layers as L
from minidrop.errors import ConfigError, DataError, ShapeError, SnapshotError

DEPLOY = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {
  pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param {
  num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
CONVOLVED = DEPLOY[:DEPLOY.index('layer { name: "fc"')] + """
layer { name: "fc-conv" type: "Convolution" bottom: "pool" top: "fc-conv" convolution_param {
  num_output: 5 kernel_size: 3 } }
layer { name: "prob" type: "Softmax" bottom: "fc-conv" top: "prob" }
"""


def net_of(text=DEPLOY, *arguments, **options):
    Path("net.prototxt").write_text(text)
    return caffe.Net("net.prototxt", *(arguments or (caffe.TEST,)), **options)


def image(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_what_a_net_has():
    net = net_of()
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    assert list(net.blobs) == ["data", "conv", "pool", "fc", "prob"]
    assert net._layer_names == ["data", "conv", "relu", "pool", "fc", "prob"] == list(net.layer_dict)
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["conv"]
    assert [layer.type for layer in net.layers][:3] == ["Input", "Convolution", "ReLU"]
    assert [(name, [blob.data.shape for blob in blobs]) for name, blobs in net.params.items()] == [
        ("conv", [(4, 3, 3, 3), (4,)]), ("fc", [(5, 36), (5,)])]
    assert net.layer_dict["fc"].blobs[1].data is net.params["fc"][1].data
    assert net.blob_loss_weights == dict.fromkeys(net.blobs, 0.0)
    blob = net.blobs["conv"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 4, 6, 6, 288)
    assert blob.shape == blob.data.shape == blob.diff.shape == (2, 4, 6, 6)
    assert (net.blobs["fc"].num, net.blobs["fc"].channels, net.blobs["fc"].height) == (2, 5, 1)


def test_a_net_is_walked_by_the_numbers_of_blobs():
    net = net_of()
    assert [net._blob_names[i] for i in (*net._inputs, *net._outputs)] == ["data", "prob"]
    assert [[[net._blob_names[i] for i in ids(layer)] for ids in (net._bottom_ids, net._top_ids)]
            for layer in range(len(net.layers))] == [
        [[], ["data"]], [["data"], ["conv"]], [["conv"], ["conv"]], [["conv"], ["pool"]], [["pool"], ["fc"]],
        [["fc"], ["prob"]]]
    assert [blob.shape for blob in net._blobs] == [blob.shape for blob in net.blobs.values()]


def test_the_ways_to_make_one():
    first = net_of()
    first.params["fc"][1].data[...] = [1, 2, 3, 4, 5]
    first.save("w.caffemodel")
    for net in (caffe.Net("net.prototxt", "w.caffemodel", caffe.TEST),
                caffe.Net("net.prototxt", caffe.TEST, weights="w.caffemodel"),
                caffe.Net(network_file="net.prototxt", phase=1, weights="w.caffemodel")):
        np.testing.assert_array_equal(net.params["fc"][1].data, [1, 2, 3, 4, 5])
        assert net.core.phase == "TEST"
    for net in (caffe.Net("net.prototxt", None, caffe.TEST),
                caffe.Net("net.prototxt", caffe.TEST, weights=None)):
        assert net.core.phase == "TEST" and not net.params["fc"][1].data.any()
    for arguments in ((), ("w.caffemodel",), (caffe.TEST, caffe.TRAIN), ("w.caffemodel", "v.caffemodel", 1),
                      (2,), ([],), (caffe.TEST, ["w.caffemodel"]), (None,)):
        with pytest.raises(ConfigError, match="phase"):
            caffe.Net("net.prototxt", *arguments)
    with pytest.raises(SnapshotError, match="missing"):
        caffe.Net("net.prototxt", "missing.caffemodel", caffe.TEST)


def test_data_written_to_the_input_is_what_runs():
    net = net_of()
    x = image(2, 3, 8, 8)
    net.blobs["data"].data[...] = x
    out = net.forward()
    assert list(out) == ["prob"]
    again = net_of().forward(data=x, blobs=["fc"])
    assert set(again) == {"prob", "fc"}
    np.testing.assert_array_equal(again["prob"], out["prob"])
    np.testing.assert_allclose(out["prob"].sum(1), 1, rtol=1e-6)
    net.blobs["data"].data[0] = 0
    assert (net.forward()["prob"] != out["prob"])[0].all()


def test_a_captioner_gives_words_as_rows_to_inputs_of_more_axes():
    text = """input: "word" input_shape { dim: 1 dim: 1 } input: "cont" input_shape { dim: 1 dim: 1 }
        layer { name: "e" type: "Embed" bottom: "word" top: "e" embed_param { input_dim: 9 num_output: 4
          bias_term: false weight_filler { type: "uniform" min: -1 } } }
        layer { name: "lstm" type: "LSTM" bottom: "e" bottom: "cont" top: "h" recurrent_param {
          num_output: 3 weight_filler { type: "uniform" min: -1 } } }"""
    net = net_of(text)
    net.save("w.caffemodel")
    words = [0, 5, 7]
    found = [net.forward(word=np.array([word]), cont=np.array([word > 0]))["h"][0, 0].copy()
             for word in words]
    whole = net_of(text.replace("dim: 1 dim: 1", "dim: 3 dim: 1"), "w.caffemodel", caffe.TEST).forward(
        word=np.array(words)[:, None], cont=np.array([[0], [1], [1]]))["h"]
    np.testing.assert_allclose(found, whole[:, 0], rtol=1e-4)


def test_weights_written_are_what_runs():
    net = net_of()
    for blob in net.params["fc"]:
        blob.data[...] = 0
    net.params["fc"][1].data.flat = [0, 0, np.log(4), 0, 0]
    np.testing.assert_allclose(net.forward()["prob"][0], [1 / 8, 1 / 8, 1 / 2, 1 / 8, 1 / 8], rtol=1e-6)


def test_a_pass_goes_on_from_a_blob():
    net = net_of()
    net.blobs["pool"].data[...] = image(2, 4, 3, 3)
    out = net.forward(start="fc", end="fc")
    weight, bias = (blob.data for blob in net.params["fc"])
    np.testing.assert_allclose(out["fc"], image(2, 4, 3, 3).reshape(2, -1) @ weight.T + bias, rtol=1e-5,
                               atol=1e-6)
    assert not net.blobs["prob"].data.any()


def test_backward_from_a_class_and_from_a_layer():
    net = net_of("force_backward: true\n" + DEPLOY)
    x = image(2, 3, 8, 8)
    net.forward(data=x)
    gradients = []
    for label in (1, 2):        # one forward pass, several backward
        seed = np.zeros((2, 5), np.float32)
        seed[:, label] = 1
        gradients.append(net.backward(prob=seed, diffs=["conv"])["data"].copy())
    before = net.forward(data=x)["prob"][0, 2]
    step = 0.01 * gradients[1] / np.abs(gradients[1]).max()
    after = net.forward(data=x + step)["prob"][0, 2]
    assert after - before == pytest.approx(float((step[0] * gradients[1][0]).sum()), rel=0.05)
    net.blobs["conv"].diff[...] = net.blobs["conv"].data
    out = net.backward(start="relu", end="conv")
    assert list(out) == ["data"] and out["data"].any()


def test_backward_of_a_layer_that_has_not_run():
    net = net_of("force_backward: true\n" + DEPLOY)
    net.blobs["fc"].diff[...] = seed = image(2, 5)
    out = net.backward(start="fc", end="fc")
    weight = net.params["fc"][0].data
    np.testing.assert_allclose(out["pool"].reshape(2, -1), seed @ weight, rtol=1e-5)
    assert not net.blobs["fc"].data.any()
    assert not net.params["fc"][0].diff.any() and net.params["fc"][1].diff.any()      # pool is zeros
    net.backward()


def test_gradients_of_parameters_add_up_until_they_are_cleared():
    net = net_of()
    net.forward(data=image(2, 3, 8, 8))
    seed = np.zeros((2, 5), np.float32)
    seed[:, 0] = 1
    net.backward(prob=seed)
    once = net.params["fc"][1].diff.copy()
    assert once.any()
    net.backward(prob=seed)
    np.testing.assert_allclose(net.params["fc"][1].diff, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert not net.params["fc"][1].diff.any()
    net.params["fc"][1].diff[...] = 3
    assert net.params["fc"][1].diff.tolist() == [3] * 5 == net.core.params["fc"]["bias"].grad.tolist()


def test_reshape_keeps_the_weights():
    net = net_of(CONVOLVED)
    weight = net.params["conv"][0].data
    net.blobs["data"].reshape(1, 3, 16, 12)
    net.reshape()
    assert net.blobs["prob"].shape == (1, 5, 5, 3) and net.params["conv"][0].data is weight
    net.blobs["data"].reshape(1, 3, 8, 8)
    net.blobs["data"].data[...] = image(1, 3, 8, 8)
    assert net.forward()["prob"].shape == (1, 5, 1, 1)
    with pytest.raises(ShapeError, match="only inputs can be reshaped"):
        net.blobs["conv"].reshape(1, 4, 6, 6)
    for shape in ((-1, 3), ("a",)):
        with pytest.raises(ShapeError, match="lengths of 0 or more"):
            net.blobs["data"].reshape(*shape)


def test_deep_dream_on_another_size_than_the_classifier_takes():
    net = net_of("force_backward: true\n" + DEPLOY)
    src = net.blobs["data"]
    src.reshape(1, 3, 12, 10)
    src.data[0] = image(3, 12, 10)
    net.forward(end="pool")
    dst = net.blobs["pool"]
    assert dst.shape == (1, 4, 5, 4) and (dst.data > 0).any()
    dst.diff[:] = dst.data
    net.backward(start="pool")
    assert src.diff.shape == src.data.shape == (1, 3, 12, 10) and src.diff.any()
    with pytest.raises(ConfigError, match=r"'data' from \(2, 3, 8, 8\) to \(1, 3, 12, 10\).*\n?.*'fc'"):
        net.forward()


def test_net_surgery_makes_a_classifier_convolutional():
    net = net_of()
    net.save("w.caffemodel")
    Path("conv.prototxt").write_text(CONVOLVED)
    full = caffe.Net("conv.prototxt", "w.caffemodel", caffe.TEST)
    for place in (0, 1):
        full.params["fc-conv"][place].data.flat = net.params["fc"][place].data.flat
    x = image(1, 3, 12, 12)
    full.blobs["data"].reshape(*x.shape)
    heat = full.forward_all(data=x)["prob"]
    assert heat.shape == (1, 5, 3, 3)
    part = net.forward_all(data=x[:, :, 2:10, 4:12])["prob"]      # where the map has its row 1, column 2
    np.testing.assert_allclose(heat[0, :, 1, 2], part[0], rtol=1e-4)


def test_forward_all_in_batches_of_the_net():
    net = net_of()
    x = image(5, 3, 8, 8)
    out = net.forward_all(data=x, blobs=["fc"])
    assert out["prob"].shape == (5, 5) and out["fc"].shape == (5, 5)
    np.testing.assert_allclose(out["prob"][4], net.forward(data=np.stack([x[4], x[4]]))["prob"][0], rtol=1e-6)
    forced = net_of("force_backward: true\n" + DEPLOY)
    blobs, diffs = forced.forward_backward_all(data=x, prob=np.eye(5, dtype=np.float32), diffs=["fc"])
    np.testing.assert_allclose(blobs["prob"], out["prob"], rtol=1e-6)
    assert diffs["data"].shape == x.shape and diffs["fc"].shape == (5, 5) and diffs["data"].any()


@pytest.mark.parametrize("call, error, what", [
    (lambda net: net.forward(date=1), DataError, "inputs of the net or for none: data; got date"),
    (lambda net: net.forward(data=image(1, 3, 8, 8)), ShapeError, r"has shape \(2, 3, 8, 8\)"),
    (lambda net: net.forward(data=np.ones((2, 8, 8))), ShapeError, r"has shape \(2, 3, 8, 8\)"),
    (lambda net: net.forward(data=np.ones(())), ShapeError, r"has shape \(2, 3, 8, 8\)"),
    (lambda net: net.forward(start="no"), ConfigError, "no layer 'no'"),
    (lambda net: net.forward(blobs=["no"]), ConfigError, "no blob 'no'"),
    (lambda net: net.forward_all(data=np.float32(1)), ShapeError, "one number of records"),
    (lambda net: net.core.save("w.txt"), SnapshotError, "caffemodel"),
    (lambda net: net.core.save("w.h5", format="hdf5"), SnapshotError, "format: expected .caffemodel, .h5 or"),
])
def test_mistakes(call, error, what):
    with pytest.raises(error, match=what):
        call(net_of())


def test_weights_through_hdf5_and_between_nets():
    net, other = net_of(), net_of()
    net.params["fc"][0].data[...] = 7
    net.save_hdf5("w.h5")
    other.load_hdf5("w.h5")
    assert (other.params["fc"][0].data == 7).all()
    other.share_with(net)
    net.params["fc"][0].data[...] = 8
    assert (other.params["fc"][0].data == 8).all()
    other.forward(data=image(2, 3, 8, 8))
    other.backward(prob=np.eye(5, dtype=np.float32)[:2])
    assert other.params["fc"][0].diff.any() and not net.params["fc"][0].diff.any()
    smaller = net_of(DEPLOY.replace("num_output: 5", "num_output: 6"))
    with pytest.raises(ShapeError, match="layer 'fc': expected weights"):
        smaller.share_with(net)


@pytest.mark.parametrize("name", ["w", "w.caffemodel", "w.h5", "w.weights"])
def test_the_call_and_not_the_name_chooses_the_format(name):
    net, other = net_of(), net_of()
    for value, save in enumerate((net.save, net.save_hdf5)):
        net.params["fc"][0].data[...] = value
        save(name)
        assert (Path(name).read_bytes()[:8] == b"\x89HDF\r\n\x1a\n") == (save == net.save_hdf5)
        other.copy_from(name)
        assert (other.params["fc"][0].data == value).all()


def test_memory_data():
    net = net_of("""layer { name: "d" type: "MemoryData" top: "data" top: "label" memory_data_param {
        batch_size: 2 channels: 1 height: 1 width: 2 } }""")
    net.set_input_arrays(np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2),
                         np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1))
    net.forward()
    np.testing.assert_array_equal(net.forward()["label"], [2, 3])
    assert net.inputs == []


def test_the_second_multilabel_notebook_builds_its_net():
    n = caffe.NetSpec()
    n.data, n.label = L.Python(module="userlayers", layer="Multi", ntop=2, param_str=str({"batch_size": 4}))
    n.score = L.InnerProduct(n.data, num_output=3, weight_filler=dict(type="xavier"))
    n.loss = L.SigmoidCrossEntropyLoss(n.score, n.label)
    Path("userlayers.py").write_text(MULTI)
    text = str(n.to_proto())
    assert 'python_param {' in text and "batch_size" in text.split("python_param")[1].split("}")[0] + "}"
    net = net_of(text, caffe.TRAIN)
    assert net.blobs["data"].data.shape == (4, 2)
    net.forward()
    np.testing.assert_array_equal(net.blobs["label"].data.sum(1), [1, 1, 1, 1])
    first = net.blobs["data"].data.copy()
    net.forward()
    assert (net.blobs["data"].data == first + 4).all()


MULTI = """
import numpy as np
import minidrop.caffe as caffe


class Multi(caffe.Layer):
    def setup(self, bottom, top):
        self.batch_size = eval(self.param_str)["batch_size"]
        self.at = 0
        top[0].reshape(self.batch_size, 2)
        top[1].reshape(self.batch_size, 3)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        for i in range(self.batch_size):
            top[0].data[i, ...] = self.at
            top[1].data[i, ...] = np.arange(3) == self.at % 3
            self.at += 1

    def backward(self, top, propagate_down, bottom):
        pass
"""


def test_the_messages_are_protobufs():
    message = caffe.proto.caffe_pb2.NetParameter()
    text_format.Merge(DEPLOY, message)
    assert message.layer[1].convolution_param.num_output == 4
    solver = caffe.proto.caffe_pb2.SolverParameter(base_lr=0.5)
    assert "base_lr: 0.5" in str(solver)
    assert caffe.Net(message, caffe.TEST).outputs == ["prob"]


def test_other_names(tmp_path):
    assert "Convolution" in caffe.layer_type_list() and "Python" in caffe.layer_type_list()
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    caffe.set_mode_gpu()        # here or not, it runs
    caffe.set_device(0)
    assert net_of().forward()["prob"].shape == (2, 5)


def test_seeds():
    try:
        nets = []
        for seed in (3, 3, 4):
            caffe.set_random_seed(seed)
            nets.append(net_of().params["fc"][0].data)
        np.testing.assert_array_equal(nets[0], nets[1])
        assert (nets[0] != nets[2]).any()
    finally:
        caffe.mode._chosen.seed = None


def test_real_weights_on_an_image_of_another_size():
    data = os.environ.get("MINIDROP_DATA")
    path = Path(data or "", "caffe/weights/det1.prototxt")
    if not data or not path.is_file():
        pytest.skip("needs Caffe's files in $MINIDROP_DATA")
    net = caffe.Net(str(path), str(path.with_suffix(".caffemodel")), caffe.TEST)
    small = image(1, 3, 12, 12)
    expected = net.forward(data=small)["prob1"].copy()
    x = image(1, 3, 20, 24, seed=1)
    x[:, :, 4:16, 6:18] = small        # the net's stride is 2
    net.blobs["data"].reshape(*x.shape)
    net.blobs["data"].data[...] = x
    out = net.forward()
    assert out["prob1"].shape == (1, 2, 5, 7)
    np.testing.assert_allclose(out["prob1"][0, :, 2, 3], expected[0, :, 0, 0], rtol=1e-4, atol=1e-6)
