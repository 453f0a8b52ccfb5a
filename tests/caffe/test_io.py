"""caffe.io, Classifier and Detector."""

from pathlib import Path

import numpy as np
import pytest

import minidrop.caffe as caffe
from minidrop.errors import ConfigError, DataError, ShapeError

io = caffe.io
NET = """layer { name: "data" type: "Input" top: "data" input_param {
  shape { dim: 10 dim: 3 dim: 4 dim: 4 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {
  num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }"""


def files():
    Path("deploy.prototxt").write_text(NET)
    caffe.Net("deploy.prototxt", caffe.TEST).save("w.caffemodel")
    return "deploy.prototxt", "w.caffemodel"


def picture(height=6, width=7, seed=0):
    return np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)


def test_arrays_through_messages():
    array = np.random.default_rng(0).standard_normal((2, 3, 1)).astype(np.float32)
    blob = io.array_to_blobproto(array, array + 1)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), array + 1)
    old = caffe.proto.caffe_pb2.BlobProto(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
    np.testing.assert_array_equal(io.blobproto_to_array(old), [[[[1, 2]], [[3, 4]]]])
    double = caffe.proto.caffe_pb2.BlobProto(double_data=[1 / 3])
    double.shape.dim.append(1)
    assert io.blobproto_to_array(double)[0] == 1 / 3
    text = io.arraylist_to_blobprotovector_str([array, array[:1]])
    assert text == io.arraylist_to_blobprotovecor_str([array, array[:1]])
    first, second = io.blobprotovector_str_to_arraylist(text)
    np.testing.assert_array_equal(first, array)
    assert second.shape == (1, 3, 1)


def test_datums():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    datum = io.array_to_datum(pixels, label=4)
    assert datum.label == 4 and datum.data == pixels.tobytes()
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels)
    numbers = io.array_to_datum(pixels / 8)
    assert not numbers.HasField("label") and list(numbers.float_data)[:2] == [0, 0.125]
    np.testing.assert_array_equal(io.datum_to_array(numbers), pixels / 8)


@pytest.mark.parametrize("call, error, what", [
    (lambda: io.array_to_blobproto(np.zeros(2), np.zeros(3)), ShapeError, "a diff of the array's shape"),
    (lambda: io.blobproto_to_array(caffe.proto.caffe_pb2.BlobProto(num=2, data=[1])), DataError,
     "as many values"),
    (lambda: io.blobprotovector_str_to_arraylist(b"\xff\xff"), DataError, "serialized BlobProtoVector"),
    (lambda: io.array_to_datum(np.zeros((2, 2))), ShapeError, "channels, height, width"),
    (lambda: io.datum_to_array(caffe.proto.caffe_pb2.Datum(channels=1, height=2, width=2, data=b"x")),
     DataError, "as many values"),
    (lambda: io.datum_to_array(caffe.proto.caffe_pb2.Datum(channels=-1, height=2, width=-2)), DataError,
     "as many values"),
    (lambda: io.datum_to_array(caffe.proto.caffe_pb2.Datum(data=b"x", encoded=True)), DataError, "encoded"),
])
def test_what_is_no_array(call, error, what):
    with pytest.raises(error, match=what):
        call()


def transformer(shape=(1, 3, 4, 4)):
    made = io.Transformer({"data": shape})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 0, 1))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([100.0, 110.0, 120.0]))
    made.set_input_scale("data", 0.5)
    return made


def test_a_transformer_by_hand_and_back():
    image = picture(4, 4)
    got = transformer().preprocess("data", image)
    expected = (image.transpose(2, 0, 1)[[2, 0, 1]] * 255 - np.reshape([100, 110, 120], (3, 1, 1))) * 0.5
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(transformer().deprocess("data", got[None]), image, atol=1e-5)
    assert image.max() <= 1         # the image stays as it was
    resized = transformer().preprocess("data", picture(8, 9))
    assert resized.shape == (3, 4, 4)
    grey = io.Transformer({"data": (1, 1, 4, 4)})
    grey.set_mean("data", np.ones((4, 4)))
    grey.set_transpose("data", (2, 0, 1))
    np.testing.assert_array_equal(grey.deprocess("data", np.zeros((1, 1, 4, 4)))[:, :, 0], np.ones((4, 4)))


def test_a_mean_is_resized_to_the_input():
    mean = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    made = io.Transformer({"data": (1, 3, 4, 4)})
    made.set_transpose("data", (2, 0, 1))
    made.set_mean("data", mean)
    expected = mean.reshape(3, 4, 2, 4, 2).mean((2, 4))     # at half the size: the mean of two by two
    np.testing.assert_array_equal(made.preprocess("data", np.zeros((4, 4, 3))), -expected)
    np.testing.assert_array_equal(made.deprocess("data", np.zeros((3, 4, 4))), expected.transpose(1, 2, 0))
    net = caffe.Classifier(*files(), mean=mean[None])
    np.testing.assert_array_equal(net.transformer.mean["data"], expected)


def test_an_input_is_not_the_image_itself():
    image = np.zeros((3, 4, 4), np.float32)
    made = io.Transformer({"data": (1, 4, 3, 4)})
    made.preprocess("data", image)[...] = 1
    assert not image.any()


@pytest.mark.parametrize("call, error", [
    (lambda t: t.set_mean("date", 0), ConfigError), (lambda t: t.preprocess("x", picture()), ConfigError),
    (lambda t: t.set_transpose("data", (0, 1)), ShapeError),
    (lambda t: t.set_channel_swap("data", (0, 1, 1)), ShapeError),
    (lambda t: t.set_mean("data", np.zeros(2)), ShapeError),
    (lambda t: t.set_mean("data", np.zeros((4, 4))), ShapeError),
    (lambda t: t.set_mean("data", np.zeros((2, 4, 4))), ShapeError),
    (lambda t: t.preprocess("data", np.zeros(3)), ShapeError),
])
def test_what_a_transformer_refuses(call, error):
    with pytest.raises(error):
        call(transformer())


def test_a_classifier_averages_ten_crops():
    net = caffe.Classifier(*files(), image_dims=(5, 6), mean=np.array([0.1, 0.2, 0.3]), raw_scale=2,
                           channel_swap=(2, 1, 0))
    images = [picture(), picture(8, 5, seed=1)]
    got = net.predict(images)
    crops = io.oversample([io.resize_image(image, (5, 6)) for image in images], (4, 4))
    inputs = np.stack([net.transformer.preprocess("data", crop) for crop in crops])
    expected = net.forward_all(data=inputs)["prob"].reshape(2, 10, 3).mean(1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    centre = net.predict(images[:1], oversample=False)
    crop = io.resize_image(images[0], (5, 6))[0:4, 1:5]
    np.testing.assert_allclose(centre, net.forward_all(data=net(crop)[None])["prob"], rtol=1e-5)


def test_a_detector_runs_windows():
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    Image.fromarray((picture(12, 14) * 255).astype(np.uint8)).save("a.png")
    image = io.load_image("a.png")
    net = caffe.Detector(*files(), raw_scale=255)
    windows = np.array([[0, 0, 6, 7], [3, 2, 12, 14]])
    found = net.detect_windows([("a.png", windows), ("a.png", [])])
    assert [one["filename"] for one in found] == ["a.png"] * 2
    assert found[1]["window"].tolist() == [3, 2, 12, 14]
    single = net.forward_all(data=net(image[3:12, 2:14])[None])["prob"]
    np.testing.assert_allclose(found[1]["prediction"], single[0], rtol=1e-5)
    with pytest.raises(ShapeError, match="within the image of 12 x 14"):
        net.detect_windows([("a.png", [[0, 0, 13, 4]])])


def test_a_window_with_context():
    net = caffe.Detector(*files(), mean=np.array([1.0, 2.0, 3.0]), context_pad=1)
    image = np.tile(np.arange(8.0, dtype=np.float32)[None, :, None], (8, 1, 3))
    middle = net.crop(image, (3, 3, 5, 5))        # Caffe sees 3 pixels, and as many again around them
    np.testing.assert_array_equal(middle, io.resize_image(image[2:8, 2:8], (4, 4)))
    corner = net.crop(image, (0, 0, 2, 2))        # beyond the image is the mean
    np.testing.assert_array_equal(corner[1:, 1:], io.resize_image(image[:4, :4], (3, 3)))
    np.testing.assert_array_equal(corner[0], np.tile([1, 2, 3], (4, 1)))
    with pytest.raises(ConfigError, match="less than half"):
        caffe.Detector("deploy.prototxt", "w.caffemodel", context_pad=2)
