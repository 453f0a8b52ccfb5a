"""Caffe's tools as commands: what they make, how their flags are spelled, and what they refuse."""

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minidrop.config import parse_net
from minidrop.data.binaryproto import read_blob
from minidrop.data.databases import open_database
from minidrop.data.datum import parse_datum, read_datum
from minidrop.data.images import decode, encode, resize
from minidrop.net import Net

pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that writes such databases")
ROOT = Path(__file__).resolve().parents[2]
PICTURES = [np.random.default_rng(n).integers(0, 256, (3, 10 + n, 12), np.uint8) for n in range(5)]


def records(path, kind="LMDB"):
    """[(key, value)] of a database."""
    database = open_database(path, kind)
    found = list(database.walk())
    database.close()
    return found


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The working folder, with pictures/N.png and list.txt, whose third image is missing, and fourth none."""
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")
    (tmp_path / "pictures").mkdir()
    for n, image in enumerate(PICTURES):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(encode(image, "png"))
    (tmp_path / "pictures" / "broken.png").write_text("no image")
    (tmp_path / "list.txt").write_text("0.png 4\n1.png 3\nnone.png 9\nbroken.png 8\n4.png 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def idx(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = head + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 4, 5), np.uint8), rng.integers(0, 3, 30).astype(np.uint8)
    idx(tmp_path / "images.gz", images)
    idx(tmp_path / "labels", labels)
    return images, labels


class TestConvertImageset:
    def test_pixels(self, minidrop, pictures):
        done = minidrop("convert_imageset", "pictures/", "list.txt", "db")
        assert done.code == 0 and done.out == "A total of 5 images.\ndb: 3 records; 2 images left out\n"
        lines = done.err.splitlines()
        assert len(lines) == 2 and all(line.startswith("warning: list.txt:") for line in lines)
        assert "list.txt:3: image 'pictures/none.png': pictures/none.png: cannot be read" in lines[0]
        assert "list.txt:4: image 'pictures/broken.png': expected an image, got no image" in lines[1]
        found = records("db")
        assert [key for key, _ in found] == [b"00000000_0.png", b"00000001_1.png", b"00000004_4.png"]
        for (_, value), number, label in zip(found, (0, 1, 4), (4, 3, 0), strict=True):
            image, got = read_datum(value)
            assert (image == PICTURES[number]).all() and got == label

    @pytest.mark.parametrize("flags", [
        ("--resize_height=6", "--resize_width=7", "--gray"),
        ("-resize_height", "6", "-resize-width", "7", "-gray=true"),
        ("--gray=false", "--gray", "--resize_width", "7", "--resize_height", "6", "--noshuffle",
         "--check_size")])
    def test_flags_as_gflags_takes_them(self, minidrop, pictures, flags):
        assert minidrop("convert_imageset", *flags[:1], "pictures/", *flags[1:], "list.txt", "db",
                        "--nogray=x").code == 2
        assert minidrop("convert-imageset", *flags, "pictures/", "list.txt", "db").code == 0
        image, _ = read_datum(records("db")[0][1])
        assert (image == resize(decode(encode(PICTURES[0], "png"), False), 6, 7)).all()

    def test_nogray_and_the_last_word(self, minidrop, pictures):
        for n, flags in enumerate((["--gray", "--nogray"], ["--gray", "--gray=0"])):
            assert minidrop("convert_imageset", *flags, "pictures/", "list.txt", f"db{n}").code == 0
            assert read_datum(records(f"db{n}")[0][1])[0].shape == (3, 10, 12)

    def test_encoded(self, minidrop, pictures):
        def stored(*flags):
            assert minidrop("convert_imageset", *flags, "pictures/", "list.txt", f"db{flags}").code == 0
            datum = parse_datum(records(f"db{flags}")[0][1])
            assert datum.encoded and datum.label == 4
            return datum.data
        as_it_is = (pictures / "pictures/0.png").read_bytes()
        assert stored("--encoded") == stored("--encode_type", "png") == as_it_is
        assert stored("--encoded", "--encode_type=jpg")[:2] == b"\xff\xd8"
        assert decode(stored("--encoded", "--gray")).shape == (1, 10, 12)
        assert decode(stored("--encoded", "--resize_width=3", "--resize_height=4")).shape == (3, 4, 3)

    def test_shuffled_the_same_way_for_a_seed(self, minidrop, pictures):
        (pictures / "all.txt").write_text("".join(f"{n}.png {n}\n" for n in range(5)))
        orders = []
        for n, seed in enumerate((0, 0, 1, 2)):
            assert minidrop("convert_imageset", "--shuffle", "--seed", seed, "pictures/", "all.txt",
                            f"db{n}").code == 0
            orders.append([parse_datum(value).label for _, value in records(f"db{n}")])
        assert orders[0] == orders[1] and len(set(map(tuple, orders))) > 1
        assert all(sorted(order) == list(range(5)) for order in orders)
        assert records("db0")[0][0] == b"00000000_%d.png" % orders[0][0]

    def test_leveldb(self, minidrop, pictures):
        pytest.importorskip("plyvel", reason="the package (the extra `leveldb`) that writes such databases")
        assert minidrop("convert_imageset", "-backend=leveldb", "pictures/", "list.txt", "db").code == 0
        assert len(records("db", "LEVELDB")) == 3

    def test_what_it_refuses(self, minidrop, pictures):
        (pictures / "there").mkdir()
        for arguments, code, message in [
                (("pictures/", "list.txt", "there"), 1,
                 "error: there: expected the name of a new database, got one that exists; delete it, or "
                 "choose another name"),
                (("pictures/", "none.txt", "db"), 1,
                 "error: none.txt: the list of images cannot be read (No such file"),
                (("--check_size", "pictures/", "list.txt", "db"), 1,
                 "error: list.txt:2: image 'pictures/1.png': expected channels x height x width of 3 x 10 x "
                 "12 as of the first image, got 3 x 11 x 12; give --resize_height and --resize_width, or "
                 "leave out --check_size"),
                (("none/", "list.txt", "db"), 1,
                 "error: db: expected records to write, got none; it is not made"),
                (("--resize_width=3", "pictures/", "list.txt", "db"), 2, "go together: give both or neither"),
                (("--encode_type=gif", "pictures/", "list.txt", "db"), 2,
                 "--encode_type: expected one of jpg, jpeg, png"),
                (("--backend=sql", "pictures/", "list.txt", "db"), 2,
                 "'sql' is not one of 'lmdb', 'leveldb'")]:
            done = minidrop("convert_imageset", *arguments)
            assert done.code == code and message in done.err
            assert sorted(os.listdir()) == ["list.txt", "pictures", "there"]

    @pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
    def test_a_run_that_is_killed_leaves_no_database(self, minidrop, pictures, number):
        (pictures / "long.txt").write_text("0.png 1\n" * 200000)
        run = subprocess.Popen([sys.executable, "-m", "minidrop", "convert_imageset", "pictures/",
                                "long.txt", "db"],
                               stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert run.stdout.readline() == b"A total of 200000 images.\n"
        run.stdout.readline()           # Processed 1000 files.
        run.send_signal(getattr(signal, number))
        assert run.wait(30) in (130, -9) and not (pictures / "db").exists()
        run.stdout.close()
        left = [name for name in os.listdir() if name.startswith(".minidrop")]
        assert len(left) == (number == "SIGKILL")
        # The next database made in this folder sweeps away what nobody has written to for long.
        for name in left:
            for path in (*Path(name).iterdir(), Path(name)):
                os.utime(path, (time.time() - 10**6,) * 2)
        assert minidrop("convert_imageset", "pictures/", "list.txt", "db").code == 0
        assert sorted(os.listdir()) == ["db", "list.txt", "long.txt", "pictures"]


class TestComputeImageMean:
    def test_it_prints_and_writes(self, minidrop, pictures):
        assert minidrop("convert_imageset", "--resize_width=5", "--resize_height=4", "pictures/", "list.txt",
                        "db").code == 0
        done = minidrop("compute_image_mean", "db", "mean.binaryproto")
        mean = np.mean([resize(PICTURES[n], 4, 5) for n in (0, 1, 4)], axis=0)
        assert done.code == 0 and done.out.splitlines() == [
            "Processed 3 files.", "Write to mean.binaryproto", "Number of channels: 3",
            *(f"mean_value channel [{c}]: {value:g}" for c, value in enumerate(mean.mean(axis=(1, 2))))]
        np.testing.assert_allclose(read_blob("mean.binaryproto"), mean[None], rtol=1e-6)
        assert "Write" not in minidrop("compute_image_mean", "--backend=lmdb", "db").out

    def test_what_it_refuses(self, minidrop, pictures):
        minidrop("convert_imageset", "pictures/", "list.txt", "db")
        done = minidrop("compute_image_mean", "db")
        assert done.code == 1 and "db: record 1 (key '00000001_1.png'): expected 3 x 10 x 12" in done.err
        done = minidrop("compute_image_mean", "db", "--backend", "leveldb")
        assert done.code == 1 and "write backend: LMDB (--backend lmdb)" in done.err
        assert "source 'none': no such folder" in minidrop("compute_image_mean", "none").err


class TestDataSets:
    def test_mnist(self, minidrop, mnist):
        images, labels = mnist
        done = minidrop("convert_mnist_data", "images.gz", "labels", "db", "--backend=lmdb")
        assert done.code == 0 and done.out == "A total of 30 items.\nRows: 4 Cols: 5\ndb: 30 records\n"
        found = records("db")
        assert found[7][0] == b"00000007" and len(found) == 30
        for (_, value), image, label in zip(found, images, labels, strict=True):
            array, got = read_datum(value)
            assert (array == image[None]).all() and got == label

    def test_a_layer_reads_it(self, minidrop, mnist):
        images, labels = mnist
        minidrop("convert_mnist_data", "images.gz", "labels", "mnist_train_lmdb")
        net = Net(parse_net('layer { name: "d" type: "Data" top: "data" top: "label" transform_param { '
                            'scale: 0.5 } '
                            'data_param { source: "mnist_train_lmdb" batch_size: 30 backend: LMDB } }'),
                            device="cpu")
        net.forward()
        assert (net.blobs["data"].numpy()[:, 0] == images * 0.5).all()
        assert (net.blobs["label"].numpy() == labels).all()
        net.close()

    @pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
    def test_siamese(self, minidrop, mnist, backend):
        images, labels = mnist
        pytest.importorskip("plyvel" if backend == "leveldb" else "lmdb", reason="it writes such databases")
        flags = ["--backend", "lmdb"] if backend == "lmdb" else []
        assert minidrop("convert_mnist_siamese_data", "images.gz", "labels", "db", *flags).code == 0
        known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
        found = [read_datum(value) for _, value in records("db", backend.upper())]
        assert len(found) == 30 and {label for _, label in found} == {0, 1}
        for array, label in found:
            one, other = (known[image.tobytes()] for image in array)
            assert array.shape == (2, 4, 5) and label == (one == other)

    def test_cifar(self, minidrop, tmp_path, monkeypatch):
        monkeypatch.setattr("minidrop.data.cifar10._FILE_BYTES", 4 * 3073)
        monkeypatch.setattr("minidrop.data.cifar10.COUNTS", {"train": 20, "test": 4})
        content = np.random.default_rng(0).integers(0, 10, (6, 4, 3073), np.uint8)
        for name, part in zip([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"], content,
                              strict=True):
            (tmp_path / name).write_bytes(part.tobytes())
        (tmp_path / "out").mkdir()
        done = minidrop("convert_cifar_data", tmp_path, tmp_path / "out", "lmdb")
        assert done.code == 0
        assert sorted(os.listdir(tmp_path / "out")) == ["cifar10_test_lmdb", "cifar10_train_lmdb"]
        found = records(tmp_path / "out" / "cifar10_train_lmdb")
        assert [key for key, _ in found] == [b"%05d" % n for n in range(20)]
        array, label = read_datum(found[6][1])
        assert label == content[1, 2, 0] and array.shape == (3, 32, 32)
        assert (array.ravel() == content[1, 2, 1:]).all()
        assert "one that exists" in minidrop("convert_cifar_data", tmp_path, tmp_path / "out", "lmdb").err

    def test_what_they_refuse(self, minidrop, mnist, tmp_path):
        idx(tmp_path / "few", np.zeros(3, np.uint8))
        for arguments, message in [
                (("labels", "labels"), "error: labels: expected an idx file of images, bytes on 3 axes, got "
                                       "uint8 of shape (30,); name the other file"),
                (("images.gz", "few"), "error: few: expected 30 labels, one for each image in images.gz, got "
                                       "3; take both"),
                (("none", "few"), "error: none: cannot be read")]:
            done = minidrop("convert_mnist_data", *arguments, "db")
            assert done.code == 1 and message in done.err and not Path("db").exists()
