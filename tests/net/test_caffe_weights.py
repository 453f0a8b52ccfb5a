"""Real weights of Caffe's users: outputs equal OpenCV's, loaded and saved again."""

import gzip

import numpy as np
import pytest

from minidrop.net import Net

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
NETS = {"det1.prototxt": ("det1.caffemodel", (2, 3, 12, 12)),
        "lenet_bvlc_deploy.prototxt": ("lenet_nandahkrishna.caffemodel", (64, 1, 28, 28))}


@pytest.fixture
def files(data_folder):
    folder = data_folder / "caffe/weights"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def by_opencv(model, weights, x, outputs):
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no files of Caffe's; one below version 5 does")
    net = cv2.dnn.readNetFromCaffe(str(model), str(weights))
    net.setInput(x)
    return dict(zip(outputs, net.forward(outputs), strict=True))


@pytest.mark.parametrize("name", NETS)
def test_outputs_equal_opencvs(tmp_path, files, name):
    weights, shape = NETS[name]
    text = (files / name).read_text().replace("input_dim: 1\n", f"input_dim: {shape[0]}\n", 1)
    (tmp_path / name).write_text(text)
    net = Net.from_file(tmp_path / name, phase="TEST", device="cpu")
    report = net.load_weights(files / weights)
    assert report.copied == list(net.parameters()) and report.left == []
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    ours = {key: value.numpy() for key, value in net.forward(data=x).items()}
    net.save(tmp_path / "again.caffemodel")
    for path in (files / weights, tmp_path / "again.caffemodel"):
        for key, value in by_opencv(tmp_path / name, path, x, list(ours)).items():
            np.testing.assert_allclose(ours[key], value, atol=1e-5, err_msg=key)
    net.save(tmp_path / "again.caffemodel.h5")
    for path in (tmp_path / "again.caffemodel", tmp_path / "again.caffemodel.h5"):
        other = Net.from_file(tmp_path / name, phase="TEST", device="cpu", seed=5)
        other.load_weights(path)
        for key, parameter in net.parameters().items():
            np.testing.assert_array_equal(parameter.data, other.parameters()[key].data, err_msg=key)


SMALL = {
    "BatchNorm": "", "Scale": "scale_param { bias_term: true }", "PReLU": "",
    "PReLU shared": "prelu_param { channel_shared: true }",
    "Convolution": "convolution_param { num_output: 6 kernel_size: 3 group: 3 }",
    "Deconvolution": "convolution_param { num_output: 6 kernel_size: 3 group: 3 }",
    "InnerProduct": "inner_product_param { num_output: 6 axis: 2 }"}


@pytest.mark.parametrize("name", SMALL)
def test_opencv_reads_what_is_saved(tmp_path, name):
    text = ('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } '
            f'}} layer {{ name: "y" type: "{name.split()[0]}" bottom: "x" top: "y" {SMALL[name]} }}')
    (tmp_path / "net.prototxt").write_text(text)
    net, rng = Net.from_file(tmp_path / "net.prototxt", phase="TEST", device="cpu"), np.random.default_rng(0)
    for parameter in net.parameters().values():
        parameter.data[...] = rng.uniform(0.5, 1.5, parameter.shape)
    net.save(tmp_path / "w.caffemodel")
    x = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    theirs = by_opencv(tmp_path / "net.prototxt", tmp_path / "w.caffemodel", x, ["y"])["y"]
    np.testing.assert_allclose(net.forward(x=x)["y"].numpy(), theirs, atol=1e-5)


def test_a_net_with_our_own_drop_is_read_by_opencv(tmp_path, files):
    """The layer is a Dropout in the file, its settings of our own skipped; weights are found by name."""
    text = (files / "lenet_bvlc_deploy.prototxt").read_text()
    at = text.index('layer {\n  name: "ip2"')
    (tmp_path / "drop.prototxt").write_text(
        text[:at] + 'layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" '
        'approx_dropout_param { dropout_ratio: 0.5 } }\n' + text[at:])
    net = Net.from_file(tmp_path / "drop.prototxt", phase="TEST", device="cpu")
    net.load_weights(files / "lenet_nandahkrishna.caffemodel")
    net.save(tmp_path / "drop.caffemodel")
    x = np.random.default_rng(1).uniform(0, 1, (64, 1, 28, 28)).astype(np.float32)
    ours = net.forward(data=x)["prob"].numpy()
    theirs = by_opencv(files / "lenet_bvlc_deploy.prototxt", tmp_path / "drop.caffemodel", x, ["prob"])
    np.testing.assert_allclose(ours, theirs["prob"], atol=1e-5)


def test_the_lenet_knows_its_digits(files, data_folder):
    """Of the whole test set it knows 99.05 %, as OpenCV says; here the first 1,280, scaled by 1/256."""
    images, labels = (data_folder / f"mnist/t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    if not images.is_file():
        pytest.skip(f"no {images}")
    x = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8)[16:16 + 1280 * 784]
    x = x.reshape(20, 64, 1, 28, 28).astype(np.float32) / 256
    y = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8)[8:8 + 1280].reshape(20, 64)
    net = Net.from_file(files / "lenet_bvlc_deploy.prototxt", phase="TEST", device="cpu")
    net.load_weights(files / "lenet_nandahkrishna.caffemodel")
    found = np.stack([net.forward(data=part)["prob"].numpy() for part in x])
    model, weights = files / "lenet_bvlc_deploy.prototxt", files / "lenet_nandahkrishna.caffemodel"
    theirs = np.stack([by_opencv(model, weights, part, ["prob"])["prob"] for part in x])
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert (found.argmax(axis=2) == y).mean() == (theirs.argmax(axis=2) == y).mean() > 0.98
