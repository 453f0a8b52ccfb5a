"""minidrop predict: what comes out, in each format, and mistakes."""

import csv
import io
import json
import os
import sys
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from minidrop import Net


@pytest.fixture
def net(tiny):
    """The tiny net with its weights in w.caffemodel: `expected` is what it predicts for task/train.h5."""
    net = Net.from_file(tiny.net, phase="TEST", device="cpu", seed=5)
    net.save("w.caffemodel")
    with h5py.File("task/train.h5") as file:
        tiny.x = file["data"][:]
    tiny.expected = net.predict(tiny.x)
    net.close()
    return tiny


@pytest.fixture
def predict(net, minidrop):
    def call(*arguments):
        return minidrop("predict", "--model", net.net, "--weights", "w.caffemodel", "--device", "cpu",
                        *arguments)
    return call


def table(text):
    head, *rows = csv.reader(io.StringIO(text))
    return head, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


def test_csv_to_stdout(net, predict):
    done = predict("task/train.h5")
    head, names, values = table(done.out)
    assert (done.code, done.err) == (0, "")
    assert head == ["record", "ip2_prob_0", "ip2_prob_1", "ip2_prob_2"]
    assert names == [str(i) for i in range(50)]
    np.testing.assert_allclose(values, net.expected, rtol=1e-6)
    assert predict("task/train.txt", "--batch-size", "50").out.count("\n") == 51


def test_every_format_in_a_file(net, predict):
    (net.path / "names.txt").write_text("cat\ndog\na, b\n")
    for name in ("p.csv", "p.jsonl", "p.npz"):
        done = predict("task/train.h5", "--out", name)
        assert (done.code, done.out) == (0, f"{name}: 50 predictions of ip2_prob\n"), done.err
    values = table((net.path / "p.csv").read_text())[2]
    lines = [json.loads(line) for line in (net.path / "p.jsonl").read_text().splitlines()]
    with np.load("p.npz") as arrays:
        assert arrays.files == ["ip2_prob"] and arrays["ip2_prob"].dtype == np.float32
        np.testing.assert_allclose(arrays["ip2_prob"], net.expected, rtol=1e-6)
    np.testing.assert_allclose(values, net.expected, rtol=1e-6)
    np.testing.assert_allclose([line["ip2_prob"] for line in lines], net.expected, rtol=1e-6)
    assert [line["record"] for line in lines] == [str(i) for i in range(50)]
    assert predict("task/train.h5", "--classes", "names.txt").out.splitlines()[0] == 'record,cat,dog,"a, b"'


def test_top_k_with_names(net, predict):
    (net.path / "names.txt").write_text("cat\ndog\nfox\n")
    best = np.argsort(-net.expected, axis=1, kind="stable")[:, :2]
    text = predict("task/train.h5", "--top-k", "2", "--classes", "names.txt").out
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["record", "class_1", "value_1", "class_2", "value_2"]
    assert [row[1] for row in rows] == [["cat", "dog", "fox"][place] for place in best[:, 0]]
    lines = predict("task/train.h5", "--classes", "names.txt", "--format", "jsonl").out.splitlines()
    for line, expected in zip(lines, net.expected, strict=True):
        found = json.loads(line)["ip2_prob"]
        assert [one["class"] for one in found] == ["cat", "dog", "fox"]
        np.testing.assert_allclose([one["value"] for one in found], expected, rtol=1e-6)
    lines = predict("task/train.h5", "--top-k", "2", "--format", "jsonl").out.splitlines()
    assert [[one["class"] for one in json.loads(line)["top"]] for line in lines] == best.tolist()
    predict("task/train.h5", "--top-k", "2", "--out", "p.npz")
    with np.load("p.npz") as arrays:
        assert (arrays["classes"] == best).all()
        np.testing.assert_allclose(arrays["values"], np.take_along_axis(net.expected, best, 1), rtol=1e-6)


def test_several_files_and_other_blobs(net, predict):
    np.save("a.npy", net.x[:4])
    np.savetxt("b.csv", net.x[4:7], delimiter=",")
    done = predict("a.npy", "b.csv", "--output", "ip2", "--output", "ip1", "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["record"] for line in lines] == [*(f"a.npy:{i}" for i in range(4)),
                                                  *(f"b.csv:{i}" for i in range(3))]
    assert all(set(line) == {"record", "ip2", "ip1"} and len(line["ip1"]) == 20 for line in lines)


def test_pictures(net, minidrop, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    text = (net.folder / "net.prototxt").read_text()
    (net.folder / "pictures.prototxt").write_text(text.replace(
        'hdf5_data_param { source: "train.txt" batch_size: 10 }',
        'transform_param { scale: 0.1 } hdf5_data_param { source: "train.txt" batch_size: 10 }'))
    (tmp_path / "all").mkdir()
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for i, one in enumerate(pixels):
        image.fromarray(one, "L").save(tmp_path / "all" / f"{i}.png")
    arguments = ("predict", "--model", "task/pictures.prototxt", "--weights", "w.caffemodel", "all")
    done = minidrop(*arguments)
    assert done.code == 1 and "does not say what the channels of images are" in done.err
    done = minidrop(*arguments, "--channels", "gray", "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["record"] for line in lines] == ["all/0.png", "all/1.png"]
    whole = Net.from_file("task/pictures.prototxt", phase="TEST", device="cpu")
    whole.load_weights("w.caffemodel")
    np.testing.assert_allclose([line["ip2_prob"] for line in lines], whole.predict(pixels[:, None]),
                               rtol=1e-5)
    assert minidrop(*arguments, "--channels", "gray", "--out", "p.npz").code == 0
    with np.load("p.npz") as arrays:
        assert arrays["record"].tolist() == ["all/0.png", "all/1.png"]


def test_pictures_are_cropped_as_arrays_are(tmp_path, minidrop, monkeypatch):
    """The shape of an Input is that behind crop_size: nothing is scaled to it."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.prototxt").write_text('''
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } }
        transform_param { crop_size: 4 scale: 0.1 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }''')
    net = Net.from_file("n.prototxt", phase="TEST", device="cpu", seed=1)
    net.save("n.caffemodel")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 3)).astype(np.uint8)
    image.fromarray(pixels, "RGB").save("a.png")
    records = pixels.transpose(2, 0, 1)[None, ::-1]
    np.save("a.npy", records)
    for name in ("a.png", "a.npy"):
        done = minidrop("predict", "--model", "n.prototxt", "--weights", "n.caffemodel", name)
        np.testing.assert_allclose(table(done.out)[2], net.predict(records), rtol=1e-5, err_msg=done.err)
    net.close()


@pytest.mark.parametrize("arguments, code, message", [
    (["task/train.h5", "--format", "npz"], 2, "stdout takes csv or jsonl"),
    (["task/train.h5", "--out", "p.txt"], 1, "expected a name that ends with .csv, .jsonl, .npz"),
    (["task/train.h5", "--out", "no/p.csv"], 1, "--out no/p.csv: cannot be written: No such file"),
    (["none.npy"], 1, "there is no such file"),
    (["x.npy"], 1, "ip1"),
    (["task/train.h5", "--output", "ip"], 1, "no blob 'ip' to predict; did you mean"),
    (["task/train.h5", "--classes", "two.txt"], 1, "expected 3, one for each value of 'ip2_prob', got 2"),
    (["task/train.h5", "--classes", "none.txt"], 1, "none.txt: cannot be read"),
    (["task/train.h5", "--classes", "two.txt", "--out", "p.npz"], 2, "names are for csv and jsonl"),
    (["task/train.h5", "--shape", "1,x"], 2, "expected integers with commas"),
    (["task/train.h5", "--columns", "0-3"], 2, "expected columns as in 2-65"),
    (["task/train.h5", "--output", "ip1", "--output", "ip2", "--top-k", "1"], 1, "expected one output"),
    ([], 2, "Missing argument"),
])
def test_mistakes(net, predict, arguments, code, message):
    np.save("x.npy", net.x[:, :5])
    (net.path / "two.txt").write_text("a\nb\n")
    done = predict(*arguments)
    assert done.code == code and message in done.err and done.out == "", done.err
    assert not (net.path / "p.npz").exists() and not (net.path / "p.csv").exists()


def test_weights_that_lack_a_layer(net, minidrop):
    text = (net.folder / "net.prototxt").read_text()
    (net.folder / "other.prototxt").write_text(text.replace('"ip2"', '"fc"'))
    done = minidrop("predict", "--model", "task/other.prototxt", "--weights", "w.caffemodel", "task/train.h5")
    assert done.code == 1 and "no weights for fc/weight, fc/bias; was it written by another net?" in done.err
    assert minidrop("predict", "--model", net.net, "task/train.h5").code == 2


def test_values_that_are_not_finite(net, predict):
    net.x[3] = np.nan
    np.save("x.npy", net.x)
    done = predict("x.npy", "--format", "jsonl")
    assert json.loads(done.out.splitlines()[3])["ip2_prob"] == [None] * 3
    assert done.err.startswith("warning: 1 of 50 predictions hold a NaN or infinity")


def test_a_disk_that_fills_up(net, predict, monkeypatch):
    """What takes a part at a time is given the rest; what takes nothing more is an error, and no file."""
    command = sys.modules["minidrop.cli.predict"]      # whose name in minidrop.cli is the command's
    real = command.replacing

    class Slow(io.FileIO):
        left = 10**9

        def write(self, content):
            if not self.left:
                raise OSError(28, "No space left on device")
            part = bytes(content)[:min(100, self.left)]
            self.left -= len(part)
            return super().write(part)

    @contextmanager
    def slow(path, left):
        with real(path) as file, Slow(os.dup(file.fileno()), "wb") as raw:
            raw.left = left
            yield raw
    monkeypatch.setattr(command, "replacing", lambda path: slow(path, 10**9))
    for name in ("p.csv", "p.npz"):
        assert predict("task/train.h5", "--out", name).code == 0
    assert len((net.path / "p.csv").read_text().splitlines()) == 51
    with np.load("p.npz") as arrays:
        np.testing.assert_allclose(arrays["ip2_prob"], net.expected, rtol=1e-6)
    monkeypatch.setattr(command, "replacing", lambda path: slow(path, 500))
    for name in ("q.csv", "q.npz"):
        done = predict("task/train.h5", "--out", name)
        assert done.code == 1 and "No space left on device" in done.err
        assert not (net.path / name).exists()
