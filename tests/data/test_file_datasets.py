"""Datasets of files: HDF5, idx and MNIST, folders of images, texts."""

import gzip
import struct

import h5py
import numpy as np
import pytest
from cases import in_turn

from minidrop.data import MNIST, DataLoader, HDF5Dataset, IDXDataset, ImageFolder, TextDataset, orders
from minidrop.data.images import encode
from minidrop.errors import DataError


# -- HDF5 ----------------------------------------------------------------------------------------------------
@pytest.fixture
def hdf5(tmp_path):
    """Three files whose records are numbered through: 9, 1, 13."""
    for file, part in enumerate(np.split(np.arange(23, dtype=np.int32), [9, 10])):
        with h5py.File(tmp_path / f"{file}.h5", "w") as h5:
            h5["data"] = np.repeat(part[:, None], 3, axis=1).astype(np.float32)
            h5["label"], h5["more"] = part, -part
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n2.h5\n")
    return tmp_path


def test_one_file_several_or_a_list(hdf5):
    paths = [hdf5 / f"{number}.h5" for number in range(3)]
    for source in (paths, tuple(map(str, paths)), hdf5 / "list.txt", str(hdf5 / "list.txt")):
        dataset = HDF5Dataset(source)
        assert len(dataset) == 23
        x, y = dataset[[10, 3, 22]]
        assert (x.tolist(), y.tolist()) == ([[10] * 3, [3] * 3, [22] * 3], [10, 3, 22])
    assert HDF5Dataset(paths[2])[:][1].tolist() == list(range(10, 23))
    assert [part.tolist() for part in HDF5Dataset(paths, ["more"])[2:4]] == [[-2, -3]]
    assert HDF5Dataset(paths).where(10) == f"{paths[2]}: record 0"


@in_turn("source, message", [
    ("none.h5", "none.h5: the list file cannot be read"), ([], "expected at least one path, got none"),
    (["0.h5", "none.h5"], "none.h5: expected a readable HDF5 file")])
def test_files_that_are_not_there(hdf5, source, message):
    names = hdf5 / source if isinstance(source, str) else [hdf5 / name for name in source]
    with pytest.raises(DataError, match=message):
        HDF5Dataset(names)


def test_files_are_mixed_or_not(hdf5):
    def changes(across):
        loader = DataLoader(HDF5Dataset(hdf5 / "list.txt", across_files=across), 4, shuffle=True)
        labels = np.concatenate([y for _, y in loader])
        assert sorted(labels) == list(range(23))
        return int((np.diff(labels >= 10) != 0).sum())

    assert changes(False) <= 2 < changes(True)


def test_batches_of_a_window_are_read_together(hdf5, monkeypatch):
    """The same batches whatever the window, and as few reads as fit."""
    monkeypatch.setattr(orders, "POOL_BYTES", 100)
    monkeypatch.setattr(orders, "BLOCK_BYTES", 32)
    dataset, reads = HDF5Dataset(hdf5 / "list.txt"), []
    read = dataset.records.read
    monkeypatch.setattr(dataset.records, "read", lambda indices: reads.append(len(indices)) or read(indices))
    got = []
    for window_bytes, expected in ((0, [4, 4, 4, 4, 4, 3]), (200, [12, 11]), (1 << 20, [23])):
        dataset.window_bytes = window_bytes
        loader = DataLoader(dataset, 4, shuffle=True, workers=2)
        reads.clear()
        got.append([y.tolist() for _, y in loader])
        assert sorted(reads) == sorted(expected)
    assert got[0] == got[1] == got[2] and len(got[0]) == 6


def test_windows_change_no_random_numbers_and_no_resumed_epoch(hdf5):
    dataset, got = HDF5Dataset(hdf5 / "list.txt"), []
    for window_bytes, workers in ((0, 0), (150, 0), (150, 3), (1 << 20, 1)):
        dataset.window_bytes = window_bytes
        loader = DataLoader(dataset, 4, shuffle=True, workers=workers,
                            augment=lambda rng, x, y: (x + rng.random(), y))
        got.append(np.concatenate([x for x, _ in loader]).tolist())
        for batch in range(7):
            loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": batch})
            rest = [x.tolist() for x, _ in loader]
            assert sum(rest, []) == got[0][4 * batch:]
    assert got[0] == got[1] == got[2] == got[3]


# -- idx -----------------------------------------------------------------------------------------------------
def write_idx(path, array):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_mnist(tmp_path):
    images = np.arange(5 * 28 * 28).reshape(5, 28, 28).astype(np.uint8)
    labels = np.array([3, 1, 4, 1, 5], np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images[:2])
    train = MNIST(tmp_path)
    x, y = train[:]
    np.testing.assert_array_equal(x, images)
    assert y.tolist() == labels.tolist() and x.dtype == y.dtype == np.uint8
    assert train.where(3) == f"record 3 of {tmp_path}/train-images-idx3-ubyte"
    with pytest.raises(DataError, match="expected the file t10k-labels-idx1-ubyte or t10k-.*, got none"):
        MNIST(tmp_path, train=False)
    with pytest.raises(DataError, match="train-labels-.*gz: expected 2 records, as in .*t10k.*got 5"):
        IDXDataset(tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match="at least one path"):
        IDXDataset()
    write_idx(tmp_path / "t10k-labels.idx1-ubyte", labels[:2])
    assert MNIST(tmp_path, train=False)[:][1].tolist() == [3, 1]


# -- images --------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    """cat: 2 images, one of them deeper; dog: 1; of one colour each, and of different sizes."""
    pytest.importorskip("PIL", reason="images need Pillow")
    sizes = {"cat/b.png": (4, 6), "cat/a/z.PNG": (4, 6), "dog/c.bmp": (8, 6)}
    for number, (name, size) in enumerate(sizes.items()):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((3, *size), 10 * number, np.uint8)
        image[2] += 1
        path.write_bytes(encode(image, path.suffix))
    for name in ("readme.txt", "cat/notes", "cat/.hidden.png", ".cache/x.png"):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).write_text("no image")
    return tmp_path / "root"


def test_a_folder_of_classes(folder):
    data = ImageFolder(folder, size=(4, 6))
    assert (data.classes, data.labels.tolist(), len(data)) == (["cat", "dog"], [0, 0, 1], 3)
    assert sorted(data.left_out) == [str(folder / "cat/notes"), str(folder / "readme.txt")]
    x, y = data[:]
    assert x.shape == (3, 3, 4, 6) and x.dtype == np.uint8 and y.dtype == np.int32
    # Sorted by path.
    assert x[:, 0, 0, 0].tolist() == [10, 0, 20] and x[:, 2, 3, 5].tolist() == [11, 1, 21]
    assert y.tolist() == [0, 0, 1]
    assert ImageFolder(folder, size=2)[0][0].shape == (3, 2, 2)
    assert ImageFolder(folder, size=2, color=False)[:][0].shape == (3, 1, 2, 2)


def test_images_of_different_sizes(folder):
    data = ImageFolder(folder)
    assert [data[i][0].shape for i in range(3)] == [(3, 4, 6), (3, 4, 6), (3, 8, 6)]
    with pytest.raises(DataError, match=r"dog/c.bmp'?: .*3 x 4 x 6 .*got 3 x 8 x 6; give ImageFolder a"):
        next(iter(DataLoader(data, 3)))
    for workers in (0, 2):
        cut = DataLoader(data, 3, augment=lambda rng, x, y: (x[:, :2, :2], y), workers=workers)
        assert next(iter(cut))[0].shape == (3, 3, 2, 2)
        lists = DataLoader(data, 3, collate=lambda records: [x.shape for x, _ in records], workers=workers)
        assert next(iter(lists)) == [(3, 4, 6), (3, 4, 6), (3, 8, 6)]


def test_a_damaged_image_is_named(folder):
    (folder / "cat/c.png").write_bytes(b"no image")
    for workers in (0, 2):
        with pytest.raises(DataError, match="cat/c.png'?: expected an image, .*leave out the file$"):
            list(DataLoader(ImageFolder(folder, size=2), 1, workers=workers))


def test_folders_without_classes_or_images(folder, tmp_path):
    for root, message in ((folder / "cat/a", "a: expected one folder for each class, got none; name the"),
                          (folder / "none", "none: expected a folder with one folder for each class"),
                          (folder / "readme.txt", "readme.txt: expected a folder with one folder for each")):
        with pytest.raises(DataError, match=message):
            ImageFolder(root)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected images .jpg, .*, got none; add some, or remove the"):
        ImageFolder(folder)
    for size in (0, (1, 2, 3)):
        with pytest.raises(DataError, match="a size of at least 1, or .height, width."):
            ImageFolder(folder, size=size)


# -- texts ---------------------------------------------------------------------------------------------------
def test_windows_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghij")
    data = TextDataset(tmp_path / "a.txt", 3, level="CHARACTER")
    x, y = data[:]
    letters = [data.vocabulary.decode(row) for row in x], [data.vocabulary.decode(row) for row in y]
    assert letters == (["abc", "def", "ghi"], ["bcd", "efg", "hij"])
    assert x.dtype == y.dtype == np.int32
    assert data.where(1) == f"window 1 of {tmp_path}/a.txt, from token 3 on"
    overlapping = TextDataset(tmp_path / "a.txt", 3, level="CHARACTER", stride=2)
    assert [data.vocabulary.decode(row) for row in overlapping[:][0]] == ["abc", "cde", "efg", "ghi"]
    assert [data.vocabulary.decode(row) for row in overlapping[:][1]] == ["bcd", "def", "fgh", "hij"]
    assert len(TextDataset(tmp_path / "a.txt", 9, level="CHARACTER")) == 1
    shuffled = np.concatenate([x for x, _ in DataLoader(overlapping, 3, shuffle=True)])
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, overlapping[:][0]))


def test_words_with_the_vocabulary_of_another_text(tmp_path):
    (tmp_path / "train.txt").write_text("the cat saw the dog\n")
    (tmp_path / "test.txt").write_text("the dog saw a cat\n")
    train = TextDataset(tmp_path / "train.txt", 2)
    test = TextDataset(tmp_path / "test.txt", 2, vocabulary=tmp_path / "train.txt")
    assert test.vocabulary == train.vocabulary and test.vocabulary.decode(test[0][0]) == "the dog"
    assert test[1][1].tolist()[0] == train.vocabulary.unk


def test_texts_that_are_too_short(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghij")
    with pytest.raises(DataError, match="a.txt: expected at least 11 tokens, for one window .*, got 10"):
        TextDataset(tmp_path / "a.txt", 10, level="CHARACTER")
    for steps, stride in ((0, None), (3, 0)):
        with pytest.raises(DataError, match="steps and a stride of at least 1"):
            TextDataset(tmp_path / "a.txt", steps, stride=stride)
