"""CIFAR-10 from its binary files, the archive of them, and JPEG copies; and what damage does."""

import io
import os
import sys
import tarfile

import h5py
import numpy as np
import pytest
from programs import run_minidrop

from minidrop.data import cifar10
from minidrop.data.mean_file import read_mean
from minidrop.errors import DataError

FILES = [name for names in cifar10.BINARY.values() for name in names]


def write_binary(folder, records):
    """Write the six binary files, of random bytes and so many records; return {name: (images, labels)}."""
    rng, expected = np.random.default_rng(0), {}
    for name in FILES:
        written = rng.integers(0, 256, (records, 3073), dtype=np.uint8)
        written[:, 0] %= 10
        written.tofile(folder / name)
        expected[name] = written[:, 1:].reshape(-1, 3, 32, 32), written[:, 0]
    return expected


@pytest.fixture
def binary(tmp_path_factory, monkeypatch):
    """Small files, which are then those of the set: folder, {name: (images, labels)}."""
    monkeypatch.setattr(cifar10, "_FILE_BYTES", 300 * 3073)
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 1500, "test": 300})
    folder = tmp_path_factory.mktemp("binary")
    return folder, write_binary(folder, 300)


def archive(path, members):
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def check(parts, expected):
    for part, names in cifar10.BINARY.items():
        images, labels = parts[part]
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        assert (images == np.concatenate([expected[name][0] for name in names])).all()
        assert (labels == np.concatenate([expected[name][1] for name in names])).all()


@pytest.mark.full
def test_binary_files(tmp_path):
    """As large as those of the set."""
    expected = write_binary(tmp_path, 10000)
    check(cifar10.read_cifar10_binary(tmp_path), expected)


def test_the_archive(binary, tmp_path):
    """Read by name alone: what else is in it, a way out of the folder too, is passed over."""
    folder, expected = binary
    members = {"../outside": b"x", f"{cifar10.FOLDER}/readme.html": b"y"}
    members |= {f"{cifar10.FOLDER}/{name}": (folder / name).read_bytes() for name in FILES}
    check(cifar10.read_cifar10_tar(archive(tmp_path / "a.tar.gz", members)), expected)
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz"] and not (tmp_path.parent / "outside").exists()


def linked(name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize("members, message", [
    ({}, "got no data_batch_1.bin"),
    ({f"{cifar10.FOLDER}/test_batch.bin": b"abc"}, "expected 30730000 bytes, 10000 records of 3073, got 3"),
    ({"data_batch_1.bin": b"abc"}, "got no data_batch_1.bin"),
    ({"x": linked(f"{cifar10.FOLDER}/data_batch_1.bin")}, "got no data_batch_1.bin"),
])
def test_archives_that_lack_something(tmp_path, members, message):
    path = archive(tmp_path / "a.tar.gz", members)
    with pytest.raises(DataError, match=f"^{path}: .*{message}"):
        cifar10.read_cifar10_tar(path)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_damaged_archives(tmp_path, content):
    path = archive(tmp_path / "a.tar.gz", {"a": np.random.default_rng(0).bytes(100_000)})
    path.write_bytes(path.read_bytes()[:50_000] if content is None else content)
    with pytest.raises(DataError, match=r"expected a whole \.tar\.gz archive, got a damaged one"):
        cifar10.read_cifar10_tar(path)


def test_damaged_binary_files(binary, tmp_path):
    folder, _ = binary
    for name in FILES:
        (tmp_path / name).symlink_to(folder / name)
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    for content, message in ((whole[:-1], "got 921899"), (whole + b"x", "got more"),
                             (b"\x0a" + whole[1:], r"expected labels 0\.\.9, got 10")):
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"^{path}: .*{message}"):
            cifar10.read_cifar10_binary(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"^{path}: cannot be read"):
        cifar10.read_cifar10_binary(tmp_path)


class TestJpeg:
    @pytest.fixture(autouse=True)
    def counts(self, monkeypatch):
        pytest.importorskip("PIL", reason="Pillow (pip install 'minidrop[images]') is not installed")
        monkeypatch.setattr(cifar10, "COUNTS", {"train": 6, "test": 3})

    def write(self, folder, size=(32, 32), **changes):
        from PIL import Image
        made = []
        for name in ("jpeg-train-0", "jpeg-train-1", "jpeg-test"):
            files = []
            for color in range(3):
                buffer = io.BytesIO()
                pixel = tuple(200 if c == color else 10 for c in range(3))
                Image.new("RGB", size, pixel).save(buffer, "JPEG")
                files.append(buffer.getvalue())
            arrays = {"jpeg": np.frombuffer(b"".join(files), np.uint8), "label": np.arange(3, dtype=np.uint8),
                      "offset": np.cumsum([0, *map(len, files)])}
            np.savez_compressed(folder / f"{name}.npz", **arrays | changes)
            made.append(arrays)
        return made

    def test_colors_are_red_green_blue(self, tmp_path):
        self.write(tmp_path)
        parts = cifar10.read_cifar10_jpeg(tmp_path)
        for part, times in (("train", 2), ("test", 1)):
            images, labels = parts[part]
            assert images.shape == (3 * times, 3, 32, 32) and images.dtype == np.uint8
            assert labels.tolist() == [0, 1, 2] * times
            expected = np.full((3, 3), 10) + 190 * np.eye(3, dtype=int)
            assert np.abs(images.mean(axis=(2, 3)) - np.tile(expected, (times, 1))).max() < 5

    @pytest.mark.parametrize("changes, message", [
        ({"jpeg": np.zeros(5000, np.uint8)}, "image 0: expected a JPEG file, got another or a damaged one"),
        ({"size": (33, 32)}, "image 0: expected 32 x 32 pixels, got 33 x 32"),
        ({"size": (2000, 2000)}, "image 0: expected 32 x 32 pixels"),
        ({"offset": np.array([0, 5, 4, 6])}, r"expected jpeg \(bytes\), offset"),
        ({"offset": np.array([0, 5, 9, 10**9])}, r"expected jpeg \(bytes\), offset"),
        ({"offset": np.array([0, 5])}, r"expected jpeg \(bytes\), offset"),
        ({"offset": np.array([], np.int64), "label": np.array([], np.uint8)}, r"expected jpeg \(bytes\)"),
        ({"label": np.array([0, 1, 12])}, r"expected labels 0\.\.9, got 12"),
        ({"label": np.array([{}, 1, 2], object)}, "label: expected a .npy file of numbers, got entries of "
         "object"),
    ])
    def test_damaged_copies(self, tmp_path, changes, message):
        self.write(tmp_path, **changes)
        with pytest.raises(DataError, match=f"jpeg-train-0.npz: {message}"):
            cifar10.read_cifar10_jpeg(tmp_path)

    def test_damaged_archives(self, tmp_path):
        self.write(tmp_path)
        path = tmp_path / "jpeg-test.npz"
        whole = path.read_bytes()
        rng = np.random.default_rng(1)
        refused = 0
        for number in range(200):
            content = bytearray(whole[:rng.integers(len(whole))] if number % 2 else whole)
            if not number % 2:
                content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(content)
            try:
                cifar10.read_cifar10_jpeg(tmp_path)
            except DataError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
                refused += 1
        assert refused > 150
        path.unlink()
        with pytest.raises(DataError, match="jpeg-test.npz: expected a whole .npz file"):
            cifar10.read_cifar10_jpeg(tmp_path)

    def test_without_pillow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(DataError, match=r'expected Pillow, which decodes them, got no such package; run: '
                           r'python -m pip install "minidrop\[images\]"'):
            cifar10.read_cifar10_jpeg(tmp_path)


# -- the command ---------------------------------------------------------------------------------------------
def fetch(*arguments, cache, data=""):
    environment = {**os.environ, "MINIDROP_CACHE": str(cache), "MINIDROP_DATA": str(data)}
    return run_minidrop("data", *arguments, environment=environment)


@pytest.mark.parametrize("way", ["from", "subfolder", "environment"])
def test_the_command_converts_binary_files(binary, tmp_path, way):
    folder, expected = binary
    place = tmp_path / {"from": "given", "subfolder": f"given/{cifar10.FOLDER}",
                        "environment": "data/cifar10"}[way]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(folder)
    arguments = () if way == "environment" else ("--from", tmp_path / "given")
    done = fetch("cifar10", *arguments, cache=tmp_path / "cache", data=tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    made = tmp_path / "cache" / "cifar10"
    assert sorted(os.listdir(made)) == ["mean.binaryproto", "test.h5", "test.txt", "train.h5", "train.txt"]
    with h5py.File(made / "test.h5") as test, h5py.File(made / "train.h5") as train:
        assert train["data"].shape == (1500, 3, 32, 32) and train["data"].dtype == np.uint8
        assert (test["data"][:] == expected["test_batch.bin"][0]).all()
        assert (test["label"][:] == expected["test_batch.bin"][1]).all()
        np.testing.assert_allclose(read_mean(made / "mean.binaryproto"), train["data"][:].mean(axis=0),
                                   rtol=1e-6)
    assert "JPEG" not in done.stdout and 'mean_file "cifar10/mean.binaryproto"' in done.stdout
    again = fetch("cifar10", cache=tmp_path / "cache")
    assert again.returncode == 0 and "already in" in again.stdout
    if way != "environment":        # it would do the same again
        return
    (made / "mean.binaryproto").write_bytes(b"")
    again = fetch("cifar10", *arguments, cache=tmp_path / "cache", data=tmp_path / "data")
    assert again.returncode == 0 and read_mean(made / "mean.binaryproto").shape == (3, 32, 32)


def test_what_the_command_refuses(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x80\x03")
    done = fetch("cifar10", "--from", tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for part in (cifar10.TAR, "data_batch_5.bin", "jpeg-test.npz", "is a pickle, which is never read"):
        assert part in done.stderr
    (tmp_path / cifar10.TAR).write_bytes(b"other")
    done = fetch("cifar10", "--from", tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 1 and "expected the md5 c32a1d4ab5d03f1284b67883e8d87530" in done.stderr


def first_copies(source, folder, count):
    """Write the first JPEG copies of each file into a folder; returns it."""
    folder.mkdir(parents=True)
    for name in (name for names in cifar10.JPEG.values() for name in names):
        with np.load(source / name) as file:
            offset, label = file["offset"][:count + 1], file["label"][:count]
            np.savez(folder / name, jpeg=file["jpeg"][:offset[-1]], offset=offset, label=label)
    return folder


@pytest.mark.parametrize("count", [600, pytest.param(None, marks=pytest.mark.full)])
def test_real_copies(data_folder, tmp_path, monkeypatch, count):
    """Of each file the first images, or all."""
    if not (data_folder / "cifar10" / "jpeg-test.npz").is_file():
        pytest.skip(f"no JPEG copies in {data_folder / 'cifar10'}")
    pytest.importorskip("PIL", reason="Pillow (pip install 'minidrop[images]') is not installed")
    if count:
        monkeypatch.setattr(cifar10, "COUNTS", {part: count * len(files)
                                                for part, files in cifar10.JPEG.items()})
        data_folder = first_copies(data_folder / "cifar10", tmp_path / "data" / "cifar10", count).parent
    done = fetch("cifar10", cache=tmp_path, data=data_folder)
    assert done.returncode == 0, done.stderr
    assert "these are not the original pixels; name results CIFAR-10-JPEG" in done.stdout
    with h5py.File(tmp_path / "cifar10/train.h5") as train, h5py.File(tmp_path / "cifar10/test.h5") as test:
        if not count:
            assert np.bincount(train["label"][:]).tolist() == [5000] * 10
            assert np.bincount(test["label"][:]).tolist() == [1000] * 10
        assert train["data"].shape == (2 * count if count else 50000, 3, 32, 32)
        assert train["label"][:5].tolist() == [6, 9, 9, 4, 1]
    mean = read_mean(tmp_path / "cifar10/mean.binaryproto").mean(axis=(1, 2))
    # of the originals, to a tenth; of a sample, to three deviations of the mean of an image, which are 30
    assert mean == pytest.approx([125.3, 123.0, 113.9], abs=90 / (2 * count) ** 0.5 if count else 0.1)
