"""A small file does not fill the memory, and each message says how to allow more."""

import gzip
import lzma
import struct

import h5py
import numpy as np
import pytest

from minidrop.data import (
    HDF5Records,
    SentenceVocabulary,
    Vocabulary,
    hdf5,
    limits,
    read_idx,
    read_text,
    text,
    vocabulary,
)
from minidrop.errors import DataError


@pytest.fixture
def small(monkeypatch):
    """Limits that a test can reach."""
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 10_000)
    monkeypatch.setattr(vocabulary, "TOKENS_LIMIT", 100)
    monkeypatch.setattr(hdf5, "BATCH_BYTES_LIMIT", 1000)


@pytest.fixture
def refused(monkeypatch):
    """refused(read, message): `read` is refused with this message, and works where all limits are raised."""
    def check(read, message):
        with pytest.raises(DataError, match=f"{message}.*if it is yours, MINIDROP_LIMITS=10 allows"):
            read()
        monkeypatch.setenv("MINIDROP_LIMITS", "100")
        return read()
    return check


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_text_that_unfolds_without_end(tmp_path, small, refused, pack):
    (tmp_path / "a.txt").write_bytes(pack(b"a b c\n" * 5000))
    got = refused(lambda: read_text(tmp_path / "a.txt"), "at most 100 times as large, got one of .* bytes")
    assert len(got.indices) == 20_000


def test_an_honest_packed_text_may_be_large(tmp_path, small):
    words = np.random.default_rng(0).integers(0, 90, 20_000)
    (tmp_path / "a.txt").write_bytes(gzip.compress(" ".join(map(str, words)).encode()))
    assert len(read_text(tmp_path / "a.txt").indices) == 20_001


def test_a_packed_idx_file_that_unfolds_without_end(tmp_path, small, refused):
    (tmp_path / "a").write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 20_000) + bytes(20_000)))
    assert refused(lambda: read_idx(tmp_path / "a"), "becomes 20000 or more").shape == (20_000,)


def test_a_text_of_too_many_different_words(tmp_path, small, refused):
    (tmp_path / "a.txt").write_text(" ".join(map(str, range(101))))
    got = refused(lambda: read_text(tmp_path / "a.txt"), "at most 100 different tokens, got 101")
    assert len(got.vocabulary) == 103


def test_a_vocabulary_of_too_many_bytes(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(vocabulary, "FILE_LIMIT", 20)
    for made, advice in ((Vocabulary(["<unk>", "<eos>", "a" * 20]), "is this a text"),
                         (SentenceVocabulary(["<pad>", "<unk>", "<s>", "</s>", "a"]), "")):
        made.save(tmp_path / "a.vocabulary")
        got = refused(lambda made=made: type(made).load(tmp_path / "a.vocabulary"),
                      f"a.vocabulary: expected a vocabulary of at most 0 MiB, got more; {advice}")
        assert got.tokens == made.tokens
        monkeypatch.delenv("MINIDROP_LIMITS")


def test_a_vocabulary_of_too_many_words(tmp_path, small, refused):
    path = tmp_path / "a.vocabulary"
    Vocabulary(["<unk>", "<eos>", *map(str, range(99))]).save(path)
    assert len(refused(lambda: Vocabulary.load(path), "at most 100 different tokens, got 101")) == 101


def test_a_text_that_is_one_long_line_has_the_same_tokens(tmp_path, monkeypatch):
    content = "a b\u3000c\x1cd\te <eos> a " * 10
    (tmp_path / "a.txt").write_text(content)
    expected = read_text(tmp_path / "a.txt").indices.tolist()
    monkeypatch.setattr(text, "PIECE", 4)
    assert read_text(tmp_path / "a.txt").indices.tolist() == expected
    assert len(expected) == 71


def test_a_batch_of_compressed_records(tmp_path, small, refused):
    for name, packing in (("packed", "gzip"), ("plain", None)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as h5:
            h5.create_dataset("data", data=np.zeros((20, 100), "u1"), compression=packing)
        (tmp_path / f"{name}.txt").write_text(f"{name}.h5")
    records = HDF5Records(tmp_path / "packed.txt", ["data"])
    assert records.empty(10)["data"].shape == (10, 100)
    got = refused(lambda: records.empty(11), "batches of at most 0 MiB .* got 11 records of 100 bytes")
    assert got["data"].shape == (11, 100)
    assert HDF5Records(tmp_path / "plain.txt", ["data"]).empty(20)["data"].shape == (20, 100)


@pytest.mark.parametrize("factor", ["0.5", "many", "nan", "-1", "1e9"])
def test_a_factor_that_is_none(monkeypatch, factor):
    monkeypatch.setenv("MINIDROP_LIMITS", factor)
    with pytest.raises(DataError, match=f"MINIDROP_LIMITS: expected a number of 1 to .* got '{factor}'"):
        limits.raised(1)
