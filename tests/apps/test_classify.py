"""Classification: what images become before the net sees them, and what becomes of its scores."""

import numpy as np
import pytest

from minidrop.apps.classify import Preprocessing, best, classify, find_images, images_of, read_labels
from minidrop.data.image_arrays import resize_image
from minidrop.errors import ConfigError, DataError, ShapeError
from tests.nets import inputs, ip, layer, net_of

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 6, 5)


def net(more="", last='layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }'):
    return net_of(inputs(SHAPE), layer("Convolution", "conv", "a", more="convolution_param { num_output: 4 "
                  'kernel_size: 3 weight_filler { type: "xavier" } }'),
                  layer("Dropout", "drop", "conv", "conv"), ip("ip", "conv", 7), last + more, phase="TEST",
                  dtype="float32")


def test_an_image_becomes_the_nets_input():
    image = RNG.random((6, 5, 3), np.float32)
    mean = RNG.random((3, 6, 5), np.float32)
    y = Preprocessing(SHAPE, mean, 0.5, 255, (2, 1, 0))(image)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, (image[:, :, ::-1].transpose(2, 0, 1) * 255 - mean) * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(Preprocessing(SHAPE)(image), image.transpose(2, 0, 1))
    np.testing.assert_allclose(Preprocessing(SHAPE, np.arange(3))(image)[2], image[:, :, 2] - 2, rtol=1e-6)
    large = RNG.random((9, 9, 3), np.float32)
    np.testing.assert_array_equal(Preprocessing(SHAPE)(large), resize_image(large, (6, 5)).transpose(2, 0, 1))
    wide = np.repeat(np.arange(8, dtype=np.float32), 10).reshape(1, 1, 8, 10)
    assert Preprocessing((1, 1, 8, 5), wide)(np.zeros((8, 5, 1)))[0, 3, 2] == -3     # a mean is resized


def by_hand(made, images, dims, oversampled):
    """Caffe's Classifier.predict, written anew: all crops of all images at once."""
    crops = []
    for image in images:
        image = resize_image(image, dims)
        (height, width), (rows, columns) = dims, SHAPE[2:]
        if oversampled:
            places = [(i, j) for i in (0, height - rows) for j in (0, width - columns)]
            places.append((int(height / 2 - rows / 2), int(width / 2 - columns / 2)))
            ten = [image[i:i + rows, j:j + columns] for i, j in places]
            crops += ten + [crop[:, ::-1] for crop in ten]
        else:
            top, left = int(height / 2 - rows / 2), int(width / 2 - columns / 2)
            crops.append(image[top:top + rows, left:left + columns])
    scores = made.forward(a=np.stack(crops).transpose(0, 3, 1, 2))["prob"].numpy()
    return scores.reshape(len(images), -1, 7).mean(axis=1)


@pytest.mark.parametrize("with_crops", [True, False])
@pytest.mark.parametrize("dims", [(6, 5), (9, 8), (10, 10)])
def test_scores_are_those_of_caffes_classifier(with_crops, dims):
    made = net()
    images = [RNG.random((height, 12, 3), np.float32) for height in (6, 11, 20)]
    scores = classify(made, images, Preprocessing(SHAPE), dims, with_crops)
    assert scores.shape == (3, 7)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_hand(made, images, dims, with_crops), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_many_images_are_run_in_batches():
    images = [RNG.random((6, 5, 3), np.float32) for _ in range(23)]
    made, seen = net(), []
    forward, made.forward = made.forward, lambda **x: seen.append(len(x["a"])) or forward(**x)
    scores = classify(made, iter(images), Preprocessing(SHAPE), with_crops=False)
    assert seen == [10, 10, 3]
    np.testing.assert_allclose(scores, by_hand(net(), images, (6, 5), False), rtol=1e-5)


@pytest.mark.parametrize("arguments, error, message", [
    ({"channel_swap": (2, 1)}, ConfigError, "channel_swap: expected the numbers 0 to 2, each once, got 2, 1"),
    ({"channel_swap": (0, 0, 1)}, ConfigError, "each once, got 0, 0, 1"),
    ({"mean": np.zeros(4)}, ShapeError, "mean: expected 3 numbers or an array"),
    ({"mean": np.zeros((6, 5))}, ShapeError, "got shape \\(6, 5\\)"),
    ({"shape": (2, 3)}, ShapeError, "takes images \\(batch, channels, height, width\\)"),
])
def test_settings_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Preprocessing(**{"shape": SHAPE, **arguments})


def test_what_cannot_be_classified_is_refused():
    gray, image = np.zeros((6, 5, 1), np.float32), np.zeros((6, 5, 3), np.float32)
    with pytest.raises(ShapeError, match="the net's input has 3 channels, got shape"):
        classify(net(), [gray], Preprocessing(SHAPE))
    with pytest.raises(ShapeError, match="at least 6,5, the size of the net's input.*got 5,5"):
        classify(net(), [image], Preprocessing(SHAPE), (5, 5))
    with pytest.raises(ShapeError, match="at most 16384"):
        classify(net(), [image], Preprocessing(SHAPE), (6, 10**6))
    with pytest.raises(DataError, match="at least one image"):
        classify(net(), [], Preprocessing(SHAPE))
    with pytest.raises(ShapeError, match="output 'sum': expected a row for each image"):
        classify(net(last='layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" }'), [image],
                 Preprocessing(SHAPE))
    two = net_of(inputs(SHAPE, (2,)), layer("Silence", "s", "a b").replace('top: "s"', ""), phase="TEST")
    with pytest.raises(ConfigError, match="needs a net with one input.*it has 2: a, b"):
        classify(two, [image], Preprocessing(SHAPE))


def test_images_of_files_folders_and_arrays(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    for name in ("b.png", "a.png", "c.jpeg"):
        image_module.fromarray(pixels).save(tmp_path / name)
    names, images = images_of(tmp_path, 3, "png")
    assert names == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    np.testing.assert_allclose(next(images), pixels / np.float32(255), rtol=1e-6)
    assert next(images_of(tmp_path / "a.png", 1)[1]).shape == (4, 5, 1)
    np.save(tmp_path / "x.npy", pixels)
    names, images = images_of(tmp_path / "x.npy", 3)
    assert names == [f"{tmp_path / 'x.npy'}[0]"]
    np.testing.assert_array_equal(next(images), pixels)
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(DataError, match="flat.npy: expected images"):
        images_of(tmp_path / "flat.npy", 3)
    with pytest.raises(DataError, match="expected images that end with .gif, got none"):
        find_images(tmp_path, ".gif")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(DataError, match="bad.png: cannot be read as an image, it is no image"):
        next(images_of(tmp_path / "bad.png", 3)[1])


def test_labels_and_the_best(tmp_path):
    path = tmp_path / "labels"
    for text in ("n01 cat\nn02 dog\n", "\ufeffn01 cat\r\nn02 dog"):    # the second as Windows writes it
        path.write_text(text, encoding="utf-8", newline="")
        assert read_labels(path, 2) == ["n01 cat", "n02 dog"]
    for name, count, message in (("labels", 3, "expected 3 labels"), ("none", 2, "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_labels(tmp_path / name, count)
    assert best(np.array([0.25, 0.5, 0.25, 0], np.float32), 3) == [(1, 0.5), (0, 0.25), (2, 0.25)]
