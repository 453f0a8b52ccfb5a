import gc
import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.data import Sentences, TextStreams, Vocabulary, read_text, read_vocabulary, text
from minidrop.data.text import stdlib_files, unpacked
from minidrop.errors import DataError

LINES = "the cat sat\non the mat\n\nthe <unk> sat\n"


@pytest.fixture
def make(tmp_path):
    """make(content, name="a.txt") -> the path of a file with this content, text or bytes."""
    def write(content, name="a.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return write


def real(*names):
    """The paths of real data, else a skip that says what is absent."""
    folder = os.environ.get("MINIDROP_DATA")
    paths = [Path(folder or ".") / name for name in names]
    if not folder or not all(path.is_file() for path in paths):
        pytest.skip(f"$MINIDROP_DATA/{names[0]} is absent")
    return paths


class TestVocabulary:
    def test_special_tokens_then_the_most_frequent_then_the_first(self):
        vocabulary = Vocabulary.build("b a c a <eos> c d".split())
        assert vocabulary.tokens == ("<unk>", "<eos>", "a", "c", "b", "d")
        assert (vocabulary.unk, vocabulary.eos, len(vocabulary), vocabulary[2]) == (0, 1, 6, "a")
        assert "a" in vocabulary and "x" not in vocabulary and vocabulary.index("x") == 0

    def test_size_keeps_the_most_frequent(self):
        words = "b a c a <unk> <unk> <unk> c d".split()
        assert Vocabulary.build(words, 4).tokens == ("<unk>", "<eos>", "a", "c")
        assert Vocabulary.build(words,
                                100).tokens == Vocabulary.build(words).tokens == ("<unk>", "<eos>", "a", "c",
                                                                                  "b", "d")
        assert Vocabulary.build("hello", 3, "CHARACTER").tokens == ("<unk>", "l", "h")

    @pytest.mark.parametrize("level, size", [("WORD", 1), ("WORD", 2), ("CHARACTER", 1)])
    def test_a_size_without_room_for_a_word(self, level, size):
        with pytest.raises(DataError, match=f"more than {size if level == 'CHARACTER' else 2} .* got "
                           f"{size}$"):
            Vocabulary.build("ab", size, level)

    def test_words(self):
        vocabulary = Vocabulary("<unk> <eos> a b".split())
        encoded = vocabulary.encode(" a  b\tx\n\nb")
        assert encoded.dtype == np.int32 and encoded.tolist() == [2, 3, 0, 1, 1, 3]
        assert vocabulary.decode(encoded) == "a b <unk>\n\nb"
        assert vocabulary.decode(np.array([[2.0], [1.0]])) == "a\n"
        assert vocabulary.encode("").shape == (0,) and vocabulary.decode([]) == ""

    def test_characters(self):
        vocabulary = Vocabulary(["<unk>", "a", "\n", " ", "\N{GRINNING FACE}"], "CHARACTER")
        assert vocabulary.encode("a \na<\N{GRINNING FACE}").tolist() == [1, 3, 2, 1, 0, 4]
        assert vocabulary.decode([4, 0, 2, 1]) == "\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}\na"
        assert vocabulary.eos is None

    def test_equal_if_tokens_and_level_are(self):
        tokens = ["<unk>", "<eos>", "a"]
        assert (Vocabulary(tokens) == Vocabulary(iter(tokens))
                and hash(Vocabulary(tokens)) == hash(Vocabulary(tokens)))
        assert Vocabulary(tokens) != Vocabulary(tokens[::-1]) and Vocabulary(tokens) != tokens
        assert Vocabulary(["<unk>"], "CHARACTER") != Vocabulary(["<unk>", "a"], "CHARACTER")

    @pytest.mark.parametrize("indices", [[0, 3], [-1, 0]])
    def test_indices_of_another_vocabulary(self, indices):
        with pytest.raises(DataError, match=r"expected indices within 0..2, the vocabulary's, got"):
            Vocabulary(["<unk>", "<eos>", "a"]).decode(indices)

    @pytest.mark.parametrize("tokens, level, message", [
        (["<unk>", "a", "<eos>", "a"], "WORD",
         r"token 3: expected different tokens, got 'a' again, as token 1"),
        (["<eos>", "a"], "WORD", "token 2: expected <unk> among the tokens, got none"),
        (["<unk>", "a"], "WORD", "token 2: expected <eos> among the tokens, got none"),
        ([], "CHARACTER", "token 0: expected <unk> among"),
        (["<unk>", "<eos>", "a b"], "WORD", "token 2: expected a word without white space, got 'a b'"),
        (["<unk>", "ab"], "CHARACTER", "token 1: expected one character, got 'ab'"),
    ])
    def test_what_is_no_vocabulary(self, tokens, level, message):
        with pytest.raises(DataError, match=message):
            Vocabulary(tokens, level)

    def test_an_unknown_level(self):
        with pytest.raises(ValueError, match="'LETTER'"):
            Vocabulary(["<unk>"], "LETTER")

    @settings(max_examples=50, deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=30), st.sampled_from(["WORD", "CHARACTER"]))
    def test_a_file_gives_the_same_back(self, tmp_path_factory, content, level):
        path = tmp_path_factory.mktemp("v") / "a.vocabulary"
        tokens = content if level == "CHARACTER" else content.split()
        vocabulary = Vocabulary.build(tokens, level=level)
        vocabulary.save(path)
        assert Vocabulary.load(path) == vocabulary
        assert os.listdir(path.parent) == [path.name]
        known = vocabulary.encode(content)
        assert (known != vocabulary.unk).all() or "<unk>" in content
        assert vocabulary.encode(vocabulary.decode(known)).tolist() == known.tolist()

    def test_the_file(self, tmp_path):
        Vocabulary(["<unk>", "\n", "\\", " ", "\t", "\r", "ä"], "CHARACTER").save(tmp_path / "v")
        assert (tmp_path / "v").read_bytes() == "<unk>\n\\n\n\\\\\n\\s\n\\t\n\\r\nä\n".encode()

    def test_files_of_others(self, make):
        assert Vocabulary.load(make(b"\xef\xbb\xbfa\r\n<unk>\r\n<eos>")).tokens == ("a", "<unk>", "<eos>")

    @pytest.mark.parametrize("content, line, message", [
        ("<unk>\na\nb\na\n", 4, "expected different tokens, got 'a' again, as token 1"),
        ("a\nb\n", 3, "expected <unk> among the tokens, got none; add it"),
        ("<unk>\nab\n", 2, "expected one character, got 'ab'; correct it (a vocabulary of words holds <eos>"),
        ("<unk>\n\na\n", 2, "expected a token, got an empty line"),
        ("<unk>\na\\q\n", 2, "expected \\\\ or \\n or \\r or \\t or \\s, got \\q in 'a\\\\q'; write a "
         "backslash as \\\\"),
        ("<unk>\na\\\n", 2, "got \\ in"),
        ("<eos>\n<unk>\na\\sb\n", 3, "expected a word without white space, got 'a b'"),
        (b"<unk>\na\n\xff\n", 3, "expected text in UTF-8, got the byte 0xFF"),
        ("", 1, "expected <unk>"),
    ])
    def test_damaged_files(self, make, content, line, message):
        path = make(content, "a.vocabulary")
        with pytest.raises(DataError) as caught:
            Vocabulary.load(path)
        assert str(caught.value).startswith(f"{path}:{line}: ") and message in str(caught.value)

    def test_files_that_cannot_be_read_or_written(self, tmp_path):
        with pytest.raises(DataError, match="nothing: the vocabulary cannot be read .No such file"):
            Vocabulary.load(tmp_path / "nothing")
        with pytest.raises(DataError, match="cannot be written"):
            Vocabulary(["<unk>"], "CHARACTER").save(tmp_path / "no" / "folder")


class TestReadText:
    @pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
    def test_words(self, make, pack):
        got = read_text(make(pack(LINES.encode()), "text"))
        assert got.vocabulary.tokens == ("<unk>", "<eos>", "the", "sat", "cat", "on", "mat")
        assert got.indices.tolist() == [2, 4, 3, 1, 5, 2, 6, 1, 1, 2, 0, 3, 1]
        assert got.indices.dtype == np.int32 and not got.indices.flags.writeable
        assert got.vocabulary.decode(got.indices) == LINES

    def test_characters_as_they_stand(self, make):
        content = "ab\r\nä\u2028a <unk>"
        got = read_text(make(content), "CHARACTER")
        assert len(got.indices) == len(content) and got.vocabulary.decode(got.indices) == content
        assert set(got.vocabulary.tokens) == {"<unk>", *content}

    @pytest.mark.parametrize("content, tokens", [("a b", "a b <eos>"), ("a b\n", "a b <eos>"),
                                                 ("a\r\nb\r\n", "a <eos> b <eos>"), ("\n\n", "<eos> <eos>"),
                                                 ("\ufeffa\n", "a <eos>"), (" ", "<eos>")])
    def test_one_eos_a_line(self, make, content, tokens):
        got = read_text(make(content))
        assert [got.vocabulary[i] for i in got.indices] == tokens.split()

    def test_the_size_of_a_piece_does_not_matter(self, make, monkeypatch):
        path = make(LINES * 3 + "ends without ä line end ä")
        results = []
        for piece in (1, 2, 3, 7, 64, 1 << 20):
            monkeypatch.setattr(text, "PIECE", piece)
            got = [read_text(path, level) for level in ("WORD", "CHARACTER")]
            results.append([(one.vocabulary.tokens, one.indices.tolist()) for one in got])
            del got
            gc.collect()
        assert all(result == results[0] for result in results)

    def test_rare_words_become_unk(self, make):
        got = read_text(make(LINES), size=4)
        assert got.vocabulary.tokens == ("<unk>", "<eos>", "the", "sat")
        assert got.vocabulary.decode(got.indices[:8]) == "the <unk> sat\n<unk> the <unk>\n"

    def test_the_vocabulary_of_another_text_or_a_file(self, make, tmp_path):
        train, test = make(LINES), make("a cat\n", "b.txt")
        vocabulary = read_vocabulary(train)
        vocabulary.save(tmp_path / "train.vocabulary")
        for source in (train, tmp_path / "train.vocabulary"):
            got = read_text(test, vocabulary=source)
            assert got.vocabulary == vocabulary == read_vocabulary(source) and got.indices.tolist() == [0, 4,
                                                                                                        1]
        assert read_text(test, vocabulary=tmp_path / "train.vocabulary", size=7).vocabulary == vocabulary
        with pytest.raises(DataError, match="expected 5 tokens, the vocabulary_size, got 7"):
            read_text(test, vocabulary=tmp_path / "train.vocabulary", size=5)
        with pytest.raises(DataError, match="expected a vocabulary of level CHARACTER, got one of level "
                           "WORD"):
            read_text(test, "CHARACTER", tmp_path / "train.vocabulary")

    def test_a_text_in_use_is_read_once(self, make, monkeypatch):
        opened = []
        monkeypatch.setattr(text, "unpacked", lambda path: opened.append(Path(path).name) or unpacked(path))
        train, test = make(LINES), make("a cat\n", "b.txt")
        first = read_text(train, vocabulary=train)
        again, other = read_text(train), read_text(test, vocabulary=train)
        assert again is first and other.vocabulary is first.vocabulary and opened == ["a.txt", "b.txt"]
        read_text(train, "CHARACTER")
        assert opened[2:] == ["a.txt"]
        make(LINES + "more\n")
        assert len(read_text(train).indices) == len(first.indices) + 2
        del first, again, other
        gc.collect()
        read_text(test)
        assert opened[3:] == ["a.txt", "b.txt"]

    def test_the_standard_library(self):
        got = read_text("python-stdlib", "CHARACTER", size=80)
        files = stdlib_files()
        names = [path.name for path in files]
        assert names == sorted(names) and {"abc.py", "os.py", "textwrap.py"} <= set(names)
        begin = files[0].read_bytes().decode("utf-8", "replace")
        assert len(got.vocabulary) == 80 and len(got.indices) > 1_000_000
        decoded = got.vocabulary.decode(got.indices[:len(begin)])
        assert all(a in (b, "\N{REPLACEMENT CHARACTER}") for a, b in zip(decoded, begin, strict=True))
        indices = got.indices.copy()
        del got
        gc.collect()
        np.testing.assert_array_equal(read_text("python-stdlib", "CHARACTER", size=80).indices, indices)

    def test_a_python_without_sources(self, monkeypatch, tmp_path):
        monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
        with pytest.raises(DataError, match=f"python-stdlib: expected the sources .* in {tmp_path}, got "
                           f"none"):
            read_text("python-stdlib")

    @pytest.mark.parametrize("content, message", [
        (b"", "a.txt: expected a text, got an empty file"),
        (b"a\nb \xe4 c\n", "a.txt:2: expected text in UTF-8, got the byte 0xE4; convert the file"),
        (b"a\n" * 70 + b"b \xc3", "a.txt:71: expected text in UTF-8, got the byte 0xC3"),
        (gzip.compress(LINES.encode(), mtime=0)[:-3], "a.txt: expected a whole gzip file, got a damaged one"),
        (gzip.compress(bytes(1000), mtime=0)[:12] + b"\xff" * 9, "a.txt: expected a whole gzip file, got a "
         "damaged one"),
        (lzma.compress(LINES.encode())[:-3], "a.txt: expected a whole xz file, got a damaged one"),
    ])
    def test_damaged_files(self, make, monkeypatch, content, message):
        monkeypatch.setattr(text, "PIECE", 16)
        path = make(content)
        for level in ("WORD", "CHARACTER"):
            with pytest.raises(DataError) as caught:
                read_text(path, level)
            assert message in str(caught.value) and str(caught.value).startswith(str(path))

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
    def test_a_text_must_end(self, make, monkeypatch, pack):
        monkeypatch.setattr(text, "SIZE_LIMIT", 1 << 20)
        path = make(pack(b"a" * ((1 << 20) + 1)))
        with pytest.raises(DataError, match="expected a text of at most 1 MiB, got more"):
            read_text(path, "CHARACTER")

    def test_files_that_cannot_be_read(self, tmp_path):
        for path, reason in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
            with pytest.raises(DataError, match=f"cannot be read .{reason}.*; check the path"):
                read_text(path)

    def test_penn_treebank(self):
        paths = real(*(f"ptb/ptb.{part}.txt.xz" for part in ("train", "valid", "test")))
        texts = [read_text(path, vocabulary=paths[0]) for path in paths]
        assert [len(one.indices) for one in texts] == [929_589, 73_760, 82_430]
        assert all(len(one.vocabulary) == 10_000 for one in texts)
        assert texts[0].vocabulary.tokens[:5] == ("<unk>", "<eos>", "the", "N", "of")
        assert [int((one.indices == 0).sum()) for one in texts] == [45_020, 3_485, 4_794]
        # Without a size, all words are known: the vocabulary was made for these 10000.
        assert sorted(np.unique(texts[0].indices)) == list(range(10_000))
        assert TextStreams(texts[0].indices, 20, 20).batches_per_pass == 2323

    def test_tiny_shakespeare(self):
        got = read_text(*real("tinyshakespeare/input.txt.xz"), "CHARACTER")
        assert (len(got.indices) == 1_115_394 and len(got.vocabulary) == 65 + 1
                and (got.indices != got.vocabulary.unk).all())
        assert got.vocabulary.decode(got.indices[:14]) == "First Citizen:"


def by_hand(tokens, streams, steps, n):
    """Batch n of a list, as one would write it down."""
    length = len(tokens) // streams
    n %= (length - 1) // steps
    step = range(n * steps, n * steps + steps)
    return {"data": [[tokens[s * length + t] for s in range(streams)] for t in step],
            "label": [[tokens[s * length + t + 1] for s in range(streams)] for t in step],
            "cont": [[int(t > 0)] * streams for t in step]}


def lists(batch):
    return {name: array.tolist() for name, array in batch.items()}


class TestTextStreams:
    def test_an_example(self):
        streams = TextStreams(np.arange(100, 123), 3, 2)          # 7 tokens a stream, 2 remain
        assert (streams.length, streams.batches_per_pass) == (7, 3)
        assert lists(streams.batch(0)) == {"data": [[100, 107, 114], [101, 108, 115]],
                                           "label": [[101, 108, 115], [102, 109, 116]],
                                           "cont": [[0, 0, 0], [1, 1, 1]]}
        assert lists(streams.batch(2)) == {"data": [[104, 111, 118], [105, 112, 119]],
                                           "label": [[105, 112, 119], [106, 113, 120]],
                                           "cont": [[1, 1, 1], [1, 1, 1]]}
        assert lists(streams.batch(3)) == lists(streams.batch(0))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 60),
           st.lists(st.integers(0, 99), min_size=1, max_size=5))
    def test_against_the_straightforward_way(self, count, steps, more, numbers):
        tokens = np.random.default_rng(more).integers(0, 50, count * (steps + 1) + more)
        streams = TextStreams(tokens, count, steps)
        for n in numbers:
            batch = streams.batch(n)
            assert lists(batch) == by_hand(tokens.tolist(), count, steps, n)
            assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in batch.values())

    def test_changing_a_batch_does_not_change_the_next_reading_of_it(self):
        streams = TextStreams(np.arange(9), 1, 4)
        for array in streams.batch(0).values():
            array[:] = -7
        assert lists(streams.batch(0)) == by_hand(list(range(9)), 1, 4, 0)

    def test_parts_neither_overlap_nor_gape(self):
        tokens = np.arange(1000)
        for middle in (0.29, 0.5, 0.9):
            first, second = (TextStreams(tokens, 1, 1, *part) for part in ((0, middle), (middle, 1)))
            assert (first.length, second.length) == (1000 * middle, 1000 - 1000 * middle)
            assert second.batch(0)["data"].item() == first.length
        assert TextStreams(tokens, 1, 9, 0.25, 0.35).batch(0)["data"][:, 0].tolist() == list(range(250, 259))

    @pytest.mark.parametrize("count, fits", [(23, False), (24, True)])
    def test_the_shortest_text(self, count, fits):
        if fits:
            assert TextStreams(np.arange(count), 4, 5).batches_per_pass == 1
        else:
            with pytest.raises(DataError,
                               match=r"^x.txt: expected at least 24 tokens for 4 streams of 5 steps, got 23; "
                               r"use"):
                TextStreams(np.arange(count), 4, 5, name="x.txt")

    def test_an_empty_part(self):
        with pytest.raises(DataError, match="got 0"):
            TextStreams(np.arange(50), 1, 1, 0.5, 0.5)

    def test_where(self):
        streams = TextStreams(np.arange(100, 123), 3, 2, name="x.txt")
        assert streams.where(2, 4) == streams.where(5, 4) == "token 5 of stream 1 of x.txt"
        assert streams.batch(2)["data"].reshape(-1)[4] == 100 + 7 * 1 + 5

    def test_numbers_begin_at_0(self):
        with pytest.raises(ValueError, match="begin at 0"):
            TextStreams(np.arange(50), 1, 1).batch(-1)


class TestSentences:
    TOKENS = [5, 6, 0, 0, 7, 0, 8, 9, 10, 11, 0]          # <eos> is 0; lines 5 6 | (empty) | 7 | 8 9 10 11

    def test_an_example(self):
        sentences = Sentences(self.TOKENS, 0, 3, 4)
        assert len(sentences) == 3 and sentences.batches_per_pass == 1
        assert lists(sentences.batch(0)) == {"data": [[0, 0, 0], [5, 7, 8], [6, 0, 9], [0, 0, 10]],
                                             "label": [[5, 7, 8], [6, 0, 9], [0, -1, 10], [-1, -1, 11]],
                                             "cont": [[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 0, 1]]}
        long = Sentences(self.TOKENS[:-1], 0, 3, 5).batch(0)       # the last line has no <eos>
        assert long["label"][:, 2].tolist() == [8, 9, 10, 11,
                                                0] and long["data"][:, 2].tolist() == [0, 8, 9, 10, 11]

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_a_batch_far_beyond_what_int64_counts(self, shuffle):
        sentences = Sentences(self.TOKENS, 0, 6, 4, shuffle)
        batch = sentences.batch(2**62)
        assert sorted(batch["data"][1]) == [5, 5, 7, 7, 8, 8]       # two passes of three lines
        assert sentences.where(2**62, 0).startswith("token 0 of line ")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any), st.integers(1, 5),
           st.integers(1, 8), st.booleans(), st.integers(0, 20))
    def test_against_the_straightforward_way(self, lengths, streams, steps, shuffle, n):
        tokens, known = [], []
        for line, length in enumerate(lengths):
            words = list(range(10 * line + 1, 10 * line + 1 + length))
            tokens += [*words, 0]
            known += [words] * bool(words)
        sentences = Sentences(tokens, 0, streams, steps, shuffle, 3, "data")
        batch = sentences.batch(n)
        passes = {}
        for stream in range(streams):
            number, place = divmod(n * streams + stream, len(known))
            if number not in passes:
                passes[number] = [sentence_of(sentences, known, number * len(known) + i)
                                  for i in range(len(known))]
                assert sorted(passes[number]) == list(range(len(known)))
            chosen = known[passes[number][place]] if shuffle else known[place]
            data, label = [0, *chosen], [*chosen, 0]
            pad = max(0, steps - len(data))
            assert batch["data"][:, stream].tolist() == (data + [0] * pad)[:steps]
            assert batch["label"][:, stream].tolist() == (label + [-1] * pad)[:steps]
            assert batch["cont"][:, stream].tolist() == ([0] + [1] * len(chosen) + [0] * pad)[:steps]

    def test_each_pass_seed_and_layer_has_its_own_order(self):
        tokens = [x for i in range(1, 41) for x in (i, 0)]
        orders = [Sentences(tokens, 0, 40, 1, True, seed, name).batch(n)["label"][0].tolist()
                  for seed, name, n in ((0, "a", 0), (0, "a", 1), (1, "a", 0), (0, "b", 0))]
        assert len(set(map(tuple, orders))) == 4
        assert all(sorted(order) == list(range(1, 41)) and order != sorted(order) for order in orders)
        assert Sentences(tokens, 0, 40, 1, True, 0, "a").batch(1)["label"][0].tolist() == orders[1]

    def test_batch_n_depends_on_n_alone(self):
        tokens = [x for i in range(1, 12) for x in (i, 0)]
        in_order, jumping = (Sentences(tokens, 0, 4, 2, True) for _ in range(2))
        sequence = [lists(in_order.batch(n)) for n in range(12)]
        for n in (11, 2, 3, 0, 7, 2):
            assert lists(jumping.batch(n)) == sequence[n]

    def test_a_part(self):
        tokens = [x for i in range(1, 11) for x in (i, 0)]
        assert Sentences(tokens, 0, 3, 1, begin=0.2, end=0.5).batch(0)["label"].tolist() == [[3, 4, 5]]

    def test_where_names_the_line(self):
        sentences = Sentences(self.TOKENS, 0, 2, 4, name="x.txt")
        assert sentences.where(0, 3) == "token 1 of line 3 of x.txt"
        assert sentences.where(1, 0) == "token 0 of line 4 of x.txt"

    @pytest.mark.parametrize("tokens", [[], [0, 0]])
    def test_no_sentence(self, tokens):
        with pytest.raises(DataError, match="x.txt: expected at least one sentence"):
            Sentences(tokens, 0, 2, 4, name="x.txt")


def sentence_of(sentences, known, position):
    """Which of the known sentences a one-stream reader with the same seed and name takes at `position`."""
    one = Sentences(sentences.indices, 0, 1, 1, sentences.shuffle, sentences.seed, sentences.layer_name)
    first = int(one.batch(position)["label"][0, 0])
    return next(i for i, words in enumerate(known) if words[0] == first)
