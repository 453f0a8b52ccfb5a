"""Pieces of words: tokenizers of the tokenizers package as vocabularies, and random streams of tokens."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.config import parse_net
from minidrop.data import RandomStreams, read_text, read_vocabulary
from minidrop.data.pieces import Pieces, in_runs
from minidrop.errors import ConfigError, DataError
from minidrop.net import Net

TEXT = "the cat sat on the mat\n\nthe hat, the caf\N{LATIN SMALL LETTER E WITH ACUTE} and the cat\n" * 8


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE tokenizer, as GPT-2's, of a tiny text."""
    kit = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    made = kit.Tokenizer(kit.models.BPE())
    made.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = kit.decoders.ByteLevel()
    made.train_from_iterator([TEXT], kit.trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=kit.pre_tokenizers.ByteLevel.alphabet()))
    return made


@pytest.fixture
def files(tokenizer, tmp_path, monkeypatch):
    """A folder, the cache, with a tokenizer and a text."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    tokenizer.save(str(tmp_path / "pieces.json"))
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_a_text_is_encoded_as_the_tokenizer_does_and_read_once(files, tokenizer):
    got = read_text(files / "a.txt", "PIECE", files / "pieces.json")
    assert got.indices.tolist() == tokenizer.encode(TEXT).ids and got.indices.dtype == np.int32
    assert not got.indices.flags.writeable and got.indices.size < len(TEXT) / 2
    assert got.vocabulary.decode(got.indices) == TEXT
    assert read_text(files / "a.txt", "PIECE", files / "pieces.json") is got
    assert read_vocabulary(files / "pieces.json", "PIECE") is got.vocabulary
    assert len(got.vocabulary) == tokenizer.get_vocab_size() and got.vocabulary.level == "PIECE"
    assert got.vocabulary.unknown("\N{SNOWMAN}") == [] and got.vocabulary.encode("").tolist() == []
    assert read_text(files / "a.txt", "CHARACTER").indices.size == len(TEXT)


def test_a_saved_tokenizer_is_the_same(files):
    first = Pieces.load(files / "pieces.json")
    first.save(files / "other.json")
    second = Pieces.load(files / "other.json")
    assert second == first and second.fingerprint == first.fingerprint
    assert second.encode(TEXT).tolist() == first.encode(TEXT).tolist()


def test_a_long_text_is_encoded_in_runs_without_a_trace(tokenizer, files):
    pieces = Pieces.load(files / "pieces.json")
    for size in (30, 50, 100):
        runs = list(in_runs([TEXT[:101], TEXT[101:]], size))
        assert len(runs) > 3 and "".join(runs) == TEXT and max(map(len, runs)) <= size
        assert np.concatenate([*map(pieces.encode, runs)]).tolist() == tokenizer.encode(TEXT).ids


@given(st.lists(st.text("a \n", max_size=30), max_size=5), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_runs_are_the_text(parts, size):
    runs = list(in_runs(parts, size))
    assert "".join(runs) == "".join(parts)
    assert all(0 < len(run) <= size for run in runs)


def test_unknown_pieces_and_numbers_without_a_token():
    kit = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    words = kit.Tokenizer(kit.models.WordLevel({"[UNK]": 0, "a": 1, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = kit.pre_tokenizers.Whitespace()
    words.enable_truncation(2)
    words.enable_padding(length=9)
    pieces = Pieces(words)
    assert pieces.encode("a x b y x").tolist() == [1, 0, 3, 0, 0]     # neither cut nor padded
    assert pieces.unknown("a x b y x") == ["x", "y"]
    assert pieces.tokens == ("[UNK]", "a", "", "b") and (pieces.unk, pieces.index("z")) == (0, 0)
    with pytest.raises(DataError, match=r"expected indices within 0\.\.3"):
        pieces.decode([4])


def test_random_merges_are_refused():
    kit = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    with pytest.raises(DataError, match=r"in the same way every time, got one with a dropout of 0\.5"):
        Pieces(kit.Tokenizer(kit.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5)))


MODEL = ('{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": %s, '
         '"unk_token": "u"}}')


@pytest.mark.parametrize("content, message", [
    (b"", "expected a tokenizer.json of the tokenizers package, got: EOF"),
    (b"hello", "expected a tokenizer.json"), (b"[" * 5000, "expected a tokenizer.json"),
    (b"{}", "expected a tokenizer.json"), (b"\xff", "pieces.json:1: expected text in UTF-8"),
    ((MODEL % "{}").encode(), "expected a tokenizer with tokens, got one without"),
    ((MODEL % '{"a": 4000000000}').encode(), "expected at most 4194304 different tokens"),
    ((MODEL % '{"a": 0}').encode(), "expected a tokenizer for any text, got: WordLevel error: Missing"),
])
def test_what_is_no_tokenizer(files, content, message):
    (files / "pieces.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(files / "a.txt", "PIECE", files / "pieces.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_package(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r'got none; run: python -m pip install "minidrop\[text\]"'):
        Pieces.load(files / "pieces.json")


def test_a_net_reads_pieces(files, tokenizer):
    text = ('layer { name: "text" type: "TextData" top: "data" top: "label" text_data_param { '
            'source: "a.txt" batch_size: 2 steps: 5 level: PIECE vocabulary: "%s" } }')
    net = Net(parse_net(text % "pieces.json"), device="cpu")
    ids = tokenizer.encode(TEXT).ids
    assert net.forward()["data"].numpy()[:, 0].tolist() == ids[:5]
    assert net.blobs["label"].numpy()[:, 1].tolist() == ids[len(ids) // 2 + 1:][:5]
    with pytest.raises(ConfigError, match="a.txt: expected a tokenizer.json"):
        Net(parse_net(text % "a.txt"), device="cpu")


class TestRandomStreams:
    def test_every_stream_is_a_window_of_the_text(self):
        streams = RandomStreams(np.arange(100, 150), 64, 3, 1, "text", 0.2, 0.8, "x.txt")
        starts = set()
        for n in (0, 1, 7, 2**70):
            batch = streams.batch(n)
            assert all(array.shape == (3, 64) and array.dtype == np.int32 for array in batch.values())
            np.testing.assert_array_equal(batch["data"], batch["data"][0] + np.arange(3)[:, None])
            np.testing.assert_array_equal(batch["label"], batch["data"] + 1)
            np.testing.assert_array_equal(batch["cont"], [[0] * 64, [1] * 64, [1] * 64])
            assert streams.where(n, 64 + 5) == f"token {batch['data'][1, 5] - 100} of x.txt"
            starts.update(batch["data"][0].tolist())
        assert starts == set(range(110, 137))           # the last has a label: 139, the last token

    def test_a_batch_depends_on_seed_name_and_number_alone(self):
        tokens = np.arange(1000)
        first, again = (RandomStreams(tokens, 4, 2, 3, "a") for _ in range(2))
        wanted = [first.batch(n)["data"].tolist() for n in range(6)]
        assert [again.batch(n)["data"].tolist() for n in (5, 0, 3)] == [wanted[n] for n in (5, 0, 3)]
        assert len({str(one) for one in wanted}) == 6
        for seed, name in ((4, "a"), (3, "b")):
            assert RandomStreams(tokens, 4, 2, seed, name).batch(0)["data"].tolist() != wanted[0]

    def test_too_short_and_before_the_first(self):
        assert RandomStreams(np.arange(5), 2, 4).batch(0)["data"].T.tolist() == [[0, 1, 2, 3]] * 2
        with pytest.raises(DataError, match="x.txt: expected at least 5 tokens for 4 steps, got 4"):
            RandomStreams(np.arange(4), 2, 4, name="x.txt")
        with pytest.raises(ValueError, match="batch numbers begin at 0"):
            RandomStreams(np.arange(5), 2, 4).batch(-1)
