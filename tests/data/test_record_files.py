"""Files of records, a batch at a time; and what damage says."""

import zipfile

import h5py
import numpy as np
import pytest

from minidrop.data.npy import parse_npy
from minidrop.data.record_files import Reading, open_records
from minidrop.errors import DataError


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)


def read(path, size=3, inputs=("data",), **reading):
    """Return (names, {input: array}) of all batches of a file put together, and how many there were."""
    names, parts, count = [], [], 0
    for file in open_records([path], inputs, Reading(**reading)):
        for own, batch in file.batches(size):
            names += own
            parts.append(batch)
            assert len(own) <= size
        assert file.count in (None, len(names) - count)
        count = len(names)
    return names, {name: np.concatenate([part[name] for part in parts]) for name in inputs}, len(parts)


def write(kind, path, x):
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez_compressed(path, data=x)
    elif kind == "other.npz":
        np.savez(path, anything=x)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["data"] = x
    elif kind == "txt":
        write("h5", path.with_name("a.h5"), x[:4])
        write("h5", path.with_name("b.h5"), x[4:])
        path.write_text("a.h5\nb.h5\n")
    else:
        delimiter = {"csv": ",", "tsv": "\t"}[kind]
        np.savetxt(path, x.reshape(len(x), -1), "%.9g", delimiter)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("kind", ["npy", "npz", "other.npz", "h5", "txt", "csv", "tsv"])
def test_every_kind_gives_the_records_in_order(tmp_path, x, kind, size):
    path = tmp_path / f"x.{kind}"
    write(kind, path, x)
    names, found, batches = read(path, size, shape=(2, 3))
    np.testing.assert_array_equal(found["data"].astype(np.float32), x)
    assert names == [str(i) for i in range(7)] and batches >= -(-7 // size)


def test_several_inputs_by_name(tmp_path, x):
    np.savez(tmp_path / "x.npz", a=x, b=x[:, 0], unused=x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = x, x[:, 0]
    for name in ("x.npz", "x.h5"):
        _, found, _ = read(tmp_path / name, inputs=("a", "b"))
        assert (found["a"] == x).all() and (found["b"] == x[:, 0]).all()
    write("csv", tmp_path / "x.csv", x)
    with pytest.raises(DataError, match=r"an array for each of the inputs a, b; give them in one \.h5"):
        read(tmp_path / "x.csv", inputs=("a", "b"))
    with pytest.raises(DataError, match=r"got no 'c' \(the file holds 'a', 'b', 'unused'\)"):
        read(tmp_path / "x.npz", inputs=("a", "c"))


def test_columns_and_names_of_a_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("label,p0,p1\r\ncat,1,2.5\r\n\ndog,-3e2,nan")
    _, found, _ = read(path, columns=(1, None))
    np.testing.assert_array_equal(found["data"], [[1, 2.5], [-300, np.nan]])
    _, found, _ = read(path, columns=(2, 3))
    assert found["data"].shape == (2, 1)


@pytest.mark.parametrize("text, message", [
    ("a,b\n1,2\n3\n", r"x\.csv:3: expected 2 columns as before, got 1"),
    ("1,\n3,4\n", r"x\.csv:1: expected numbers, or names of columns alone, got ''"),
    ("0.5,n/a\n3,4\n", r"x\.csv:1: expected numbers, or names of columns alone, got 'n/a'"),
    ("1,2\n3,x\n", r"x\.csv:2: expected numbers, got 'x'; leave out other columns with --columns"),
    ("", "expected lines of numbers, got none"),
    ("a,b\n", "expected lines of numbers, got none")])
def test_wrong_lines(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.csv")


def test_columns_that_are_not_there(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(DataError, match="expected the columns from 6 on, got 2 in all"):
        read(tmp_path / "x.csv", columns=(5, None))


@pytest.mark.parametrize("case, message", [
    ("cut", "the file is cut short"), ("other", "another kind of file"), ("object", "numbers"),
    ("fortran", "Fortran order"), ("empty", "got the shape"), ("scalar", "got the shape"),
    ("shape", "expected records of 4 numbers for the shape")])
def test_damaged_arrays(tmp_path, x, case, message):
    path = tmp_path / "x.npy"
    np.save(path, {"fortran": np.asfortranarray(x), "empty": x[:0], "scalar": x[0, 0, 0],
                   "object": np.array(["a", "b"])}.get(case, x))
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    if case == "other":
        path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=message):
        read(path, shape=(4,) if case == "shape" else None)


def test_damaged_archives(tmp_path, x):
    path = tmp_path / "x.npz"
    np.savez(path, data=x, more=x[:3])
    with pytest.raises(DataError, match="as many records of each input"):
        read(path, inputs=("data", "more"))
    content = path.read_bytes()
    at = content.index(x.tobytes()[:16])
    path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8:])
    with pytest.raises(DataError, match="damaged"):
        read(path)
    np.savez(path, data=x)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1         # encrypted, it says
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", b"no array")
    with pytest.raises(DataError, match="x.npz: data: expected a .npy file of numbers"):
        read(path)


def test_records_too_large_for_a_batch(tmp_path, x, monkeypatch):
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("minidrop.data.record_files.BATCH_BYTES", 50)
    assert read(tmp_path / "x.npy", size=2)[2] == 4
    with pytest.raises(DataError, match="use a smaller --batch-size"):
        read(tmp_path / "x.npy", size=3)


def test_images(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    (tmp_path / "all").mkdir()
    for i, one in enumerate(pixels):
        image.fromarray(one).save(tmp_path / "all" / f"{2 - i}.png")
    (tmp_path / "all" / "notes.md").write_text("")
    names, found, _ = read(tmp_path / "all", size=2)
    assert names == [str(tmp_path / "all" / f"{i}.png") for i in range(3)]
    assert (found["data"] == pixels[::-1].transpose(0, 3, 1, 2)[:, ::-1]).all()
    _, found, _ = read(tmp_path / "all" / "0.png", channels="rgb")
    assert (found["data"][0] == pixels[2].transpose(2, 0, 1)).all()
    assert read(tmp_path / "all", channels="gray", size=5)[1]["data"].shape == (3, 1, 4, 5)
    image.fromarray(pixels[0, :2]).save(tmp_path / "all" / "3.png")
    with pytest.raises(DataError, match="scale all images to one size with --size"):
        read(tmp_path / "all", size=4)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(DataError, match="broken.png: expected an image"):
        read(tmp_path / "broken.png")


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("x.h5", "there is no such file"), ("x.png", "there is no such file"),
                          ("x.mat", "got another ending"), ("empty", "expected images in the folder")):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("shape", ["(True,)", f"({'1, ' * 33})", f"(0, {1 << 70})", f"(0, {1 << 62}, 2)"])
def test_shapes_that_no_array_has(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(4 * ("0" not in shape))
    (tmp_path / "x.npy").write_bytes(content)
    for read_it in (lambda: read(tmp_path / "x.npy"), lambda: parse_npy(content, "x.npy")):
        with pytest.raises(DataError, match=r"x.npy: expected the lengths of at most 32 axes, got \("):
            read_it()
