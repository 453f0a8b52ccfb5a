"""Net.predict, and what a net is without its data, labels and judges."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import NetConfig, load_net
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.net.deploy import deployment
from minidrop.net.prediction import Predictor

DATA = """layer { name: "data" type: "MemoryData" top: "data" top: "label" transform_param { scale: 0.5 }
  memory_data_param { batch_size: 4 channels: 3 height: 1 width: 1 } }"""
BODY = """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }\n'
ACCURACY = ('layer { name: "acc" type: "Accuracy" bottom: "ip2" bottom: "label" top: "acc" '
            'include { phase: TEST } }\n')


def config(tmp_path, text) -> NetConfig:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return load_net(path)


def made(tmp_path, text, phase="TRAIN", **options):
    return md.Net(config(tmp_path, text), phase, "cpu", **options)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(10, 3, 1, 1)).astype(np.float32)


def by_hand(net, x):
    """softmax(ip2) of the dense net, in NumPy."""
    w1, b1 = (net.params["ip1"][name].data for name in ("weight", "bias"))
    w2, b2 = (net.params["ip2"][name].data for name in ("weight", "bias"))
    scores = np.maximum(x.reshape(len(x), -1) * 0.5 @ w1.T + b1, 0) @ w2.T + b2
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores, odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_probabilities_of_a_net_with_data(tmp_path, x, phase):
    net = made(tmp_path, DATA + BODY + LOSS + ACCURACY, phase, dtype="float64")
    scores, odds = by_hand(net, x)
    for size in (0, 1, 3, 10, 64):
        np.testing.assert_allclose(net.predict(x, size), odds, rtol=1e-12)
    np.testing.assert_allclose(net.predict(x, outputs="ip2"), scores, rtol=1e-12)
    both = net.predict({"data": x.reshape(10, 3, 1, 1)}, outputs=["ip2", "ip1"])
    np.testing.assert_allclose(net.predict(x, outputs=["ip2_prob", "ip2_prob"]), odds, rtol=1e-12)
    assert both["ip1"].shape == (10, 8) and both["ip1"].min() == 0
    np.testing.assert_allclose(net.predict(x.tolist()), odds, rtol=1e-12)


def test_nothing_of_the_net_changes(tmp_path, x):
    first, second = (made(tmp_path, DATA + BODY + LOSS, seed=3) for _ in range(2))
    for net in (first, second):
        net.set_input_arrays(x[:8], np.arange(8) % 3)
        net.forward()
    blob = first.blobs["ip2"].numpy().copy()
    first.predict(x)
    assert first.positions == second.positions and (first.blobs["ip2"].numpy() == blob).all()
    first.backward()        # of the pass before
    losses = [net.forward()["loss"].numpy() for net in (first, second)]
    assert losses[0] == losses[1] and first.draws["drop1"].kept == second.draws["drop1"].kept


def test_new_weights_count_at_once(tmp_path, x):
    net = made(tmp_path, DATA + BODY + LOSS)
    before = net.predict(x)
    net.params["ip2"]["bias"].data[0] += 5
    after = net.predict(x)
    np.testing.assert_allclose(after, by_hand(net, x)[1], rtol=1e-5)
    assert (after[:, 0] > before[:, 0]).all()


def test_what_is_left_of_a_description(tmp_path):
    def left(text, *outputs):
        found = deployment(config(tmp_path, text), outputs)
        layers = found.with_shapes(dict.fromkeys(found.inputs, (2, 3))).message.layer
        return [layer.name for layer in layers], list(found.inputs), found.outputs

    start = ["data", "ip1", "relu1", "drop1", "ip2"]
    assert left(DATA + BODY + LOSS + ACCURACY) == ([*start, "loss"], ["data"], ["ip2_prob"])
    assert left(DATA + BODY + ACCURACY) == (start, ["data"], ["ip2"])
    prob = 'layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" include { phase: TEST } }'
    assert left(DATA + BODY + prob + LOSS) == ([*start, "prob"], ["data"], ["prob"])
    assert left(DATA + BODY + LOSS, "ip1") == (start[:-1], ["data"], ["ip1"])
    # An autoencoder is judged by what it was given.
    auto = 'layer { name: "error" type: "EuclideanLoss" bottom: "{}" bottom: "{}" top: "error" }'
    for pair in (("ip2", "data"), ("data", "ip2")):
        text = auto.replace("{}", "%s") % pair
        assert left(DATA + BODY + text) == (start, ["data"], ["ip2"])
    # What is computed from labels goes, too; a sigmoid is put in place of its loss.
    text = ('layer { name: "half" type: "Power" bottom: "label" top: "half" power_param { scale: 0.5 } }'
            'layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "ip2" bottom: "half" top: "loss" }')
    assert left(DATA + BODY + text) == ([*start, "loss"], ["data"], ["ip2_prob"])
    deploy = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 5 dim: 3 } } }' + BODY
    assert left(deploy) == (["data", *start[1:]], ["data"], ["ip2"])
    assert deployment(config(tmp_path, deploy)).batch_size == 5


def test_several_inputs(tmp_path):
    text = """layer { name: "data" type: "HDF5Data" top: "a" top: "b" top: "label"
                      hdf5_data_param { source: "nowhere.txt" batch_size: 7 } }
    layer { name: "both" type: "Concat" bottom: "a" bottom: "b" top: "data" }""" + BODY + LOSS
    found = deployment(config(tmp_path, text))
    assert (list(found.inputs), found.batch_size) == (["a", "b"], 7)
    net = md.Net(found.with_shapes({"a": (2, 1), "b": (2, 2)}), "TEST", "cpu")
    a, b = np.ones((5, 1)), np.zeros((5, 2))
    assert net.predict({"a": a, "b": b}).shape == (5, 3)
    for wrong, error, message in (
            (a, DataError, "has the inputs 'a', 'b'"), ({"a": a}, DataError, "expected arrays for 'a', 'b'"),
            ({"a": a, "c": b}, DataError, "got 'a', 'c'"),
            ({"a": a[:3], "b": b}, ShapeError, "as many records")):
        with pytest.raises(error, match=message):
            net.predict(wrong)


def test_mistakes(tmp_path, x):
    net = made(tmp_path, DATA + BODY + LOSS)
    for call, error, message in (
            (lambda: net.predict(x[:, :2]), md.ConfigError, r"weight has shape \(8, 2\) here"),
            (lambda: net.predict(x[:0]), DataError, "expected at least one record"),
            (lambda: net.predict(3.0), ShapeError, "got a single number"),
            (lambda: net.predict(x.astype(str)), DataError, "expected numbers"),
            (lambda: net.predict(x, -1), ConfigError, "batch_size must be at least 1"),
            (lambda: net.predict(x, outputs="ip3"), ConfigError, "no blob 'ip3' to predict; did you mean")):
        with pytest.raises(error, match=message):
            call()
    memory = 'layer { name: "lstm" type: "LSTM" bottom: "ip1" bottom: "label" top: "lstm" ' \
             'recurrent_param { num_output: 3 weight_filler { type: "xavier" } } }'
    recurrent = config(tmp_path, DATA + BODY.replace("ip2", "ip9") + memory)
    recurrent = deployment(recurrent, ["lstm"])
    assert list(recurrent.inputs) == ["data", "label"]
    text = """layer { name: "text" type: "TextData" top: "data" top: "label" text_data_param {
              source: "a.txt" batch_size: 2 steps: 3 } }""" + BODY + LOSS
    with pytest.raises(ConfigError, match=r"reads texts.*`minidrop generate`"):
        deployment(config(tmp_path, text))
    with pytest.raises(ConfigError, match="reads no data"):
        deployment(config(tmp_path, BODY.replace('bottom: "data"', "")))


def test_a_layer_that_mixes_or_remembers_records_is_refused(tmp_path, x):
    norm = """layer { name: "bn" type: "BatchNorm" bottom: "ip2" top: "bn"
                      batch_norm_param { use_global_stats: false } }"""
    net = made(tmp_path, DATA + BODY + norm)
    with pytest.raises(ConfigError, match=r"layer 'bn' \(BatchNorm\) mixes the records of a batch"):
        net.predict(x)
    assert made(tmp_path, DATA + BODY + norm.replace("false", "true")).predict(x).shape == (10, 3)


def test_pictures_go_through_the_transform(tmp_path):
    """The crop in the middle, the mean off, and no mirror."""
    text = """layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param {
        crop_size: 2 mirror: true mean_value: 1 mean_value: 2 mean_value: 3 scale: 2 }
      image_data_param { source: "x" batch_size: 2 } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 1
      kernel_size: 1 bias_term: false weight_filler { type: "constant" value: 1 } } }"""
    deployed = deployment(config(tmp_path, text))
    net = md.Net(deployed.with_shapes({"data": (2, 3, 2, 2)}), "TEST", "cpu")
    images = [np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4), np.full((3, 2, 2), 9, np.uint8)]
    predictor = Predictor(deployed, lambda description: net)
    one, = predictor.batches([{"data": images}])
    for image, got in zip(images, one["conv"], strict=True):
        middle = image[:, 1:3, 1:3] if len(image[0]) == 4 else image
        np.testing.assert_allclose(got[0], (middle - np.arange(1.0, 4)[:, None, None]).sum(0) * 2)


def test_of_windows_no_middle_is_cut_out(tmp_path):
    """WindowData scales windows to crop_size; of larger images predict took the middle."""
    deployed = deployment(config(tmp_path, """
      layer { name: "data" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 4
        mean_value: 1 scale: 2 } window_data_param { source: "x" batch_size: 2 } }
      layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE
        global_pooling: true } }
      layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 1
        bias_term: false weight_filler { type: "constant" value: 1 } } }"""))
    windows = np.random.default_rng(0).integers(256, size=(3, 3, 4, 4), dtype=np.uint8)
    predictor = Predictor(deployed, lambda description: md.Net(description, "TEST", "cpu"))
    found, = predictor.batches([{"data": windows}])
    np.testing.assert_allclose(found["ip"].ravel(), (windows.mean((2, 3)) - 1).sum(1) * 2, rtol=1e-5)
    for larger in (np.zeros((2, 3, 5, 6), np.uint8), [windows[0], np.zeros((3, 4, 6), np.uint8)]):
        with pytest.raises(ShapeError, match="gives windows of images, scaled to 4 x 4, got . x 6; cut"):
            list(predictor.batches([{"data": larger}]))
