"""Pairs of sentences: vocabularies, files and what is wrong with them, batches, orders, and made dates."""

import gzip
import lzma

import numpy as np
import pytest
from cases import in_turn

from minidrop import DataError
from minidrop.data import ParallelBatches, SentenceVocabulary, VocabularyPair, read_lines
from minidrop.data.made_dates import NAMES, made_lines
from minidrop.data.parallel import check_pair

SOURCE = ["a b c", "a", "b b", "c a b d", "d"]
TARGET = ["x y", "x", "y z w", "w", "z z z z"]


def lines(tmp_path, name, rows):
    (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
    return read_lines(tmp_path / name)


def batches(tmp_path, streams=2, most=(9, 9), source=SOURCE, target=TARGET, **options):
    one, other = lines(tmp_path, "source.txt", source), lines(tmp_path, "target.txt", target)
    return ParallelBatches(one, other, VocabularyPair(one.vocabulary(), other.vocabulary()), streams, most,
                           **options)


def sentences(made, batch):
    """The pairs of a batch as text."""
    both = made.vocabularies.source, made.vocabularies.target
    found = []
    for stream in range(batch["source"].shape[1]):
        source = [both[0][i] for i in batch["source"][:, stream][batch["source_mask"][:, stream] == 1]]
        label = [both[1][i] for i in batch["label"][:, stream][batch["label"][:, stream] >= 0]]
        assert label[-1] == "</s>"
        found.append((" ".join(source), " ".join(label[:-1])))
    return found


class TestVocabulary:
    def test_the_frequent_come_first_and_the_rare_are_unknown(self, tmp_path):
        found = lines(tmp_path, "text.txt", ["b a a", "c b a", "<s> <pad> d"])
        assert found.vocabulary().tokens == ("<pad>", "<unk>", "<s>", "</s>", "a", "b", "c", "d")
        least = found.vocabulary(2)
        assert least.tokens[4:] == ("a", "b")
        assert least.indices("a zz <s> </s> <pad> <unk>".split()).tolist() == [4, 1, 1, 1, 1, 1]
        assert "a" in least and "<s>" not in least and len(least) == 6 and least[4] == "a"

    def test_it_comes_back_from_a_file(self, tmp_path):
        made = lines(tmp_path, "text.txt", SOURCE).vocabulary()
        made.save(tmp_path / "source.vocabulary")
        again = SentenceVocabulary.load(tmp_path / "source.vocabulary")
        assert again.tokens == made.tokens and again.fingerprint == made.fingerprint
        other = made.of(["q"], np.ones(1))
        assert VocabularyPair(made, other).fingerprint != VocabularyPair(other, made).fingerprint

    @in_turn("text, message", [
        ("<pad>\n<unk>\n<s>\nword\n", ":4: expected </s>, got 'word'"),
        ("", ":1: expected <pad>, got ''"),
        ("<pad>\n<unk>\n", ":3: expected <s>, got none"),
        ("<pad>\n<unk>\n<s>\n</s>\na\nb\na\n", ":7: expected different words, got 'a' again, as in line 5"),
        ("<pad>\n<unk>\n<s>\n</s>\na b\n", ":5: expected a word without white space, got 'a b'"),
        ("<pad>\n<unk>\n<s>\n</s>\n\xe9\n", ":5: expected text in UTF-8, got the byte 0xE9")])
    def test_files_that_hold_none(self, tmp_path, text, message):
        path = tmp_path / "bad.vocabulary"
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(DataError) as error:
            SentenceVocabulary.load(path)
        assert f"{path}{message}" in str(error.value)


class TestFiles:
    def test_packed_ones_are_read_too(self, tmp_path):
        text = "".join(f"{row}\n" for row in SOURCE).encode()
        plain = lines(tmp_path, "plain.txt", SOURCE)
        (tmp_path / "a.gz").write_bytes(gzip.compress(text))
        (tmp_path / "a.xz").write_bytes(lzma.compress(text[:-1]))        # the last line needs no end
        for name in ("a.gz", "a.xz"):
            found = read_lines(tmp_path / name)
            assert found.words == plain.words and (found.numbers == plain.numbers).all()
            assert found.lengths.tolist() == [3, 1, 2, 4, 1]

    @in_turn("content, message", [
        (b"a\nb\n\nc\n", ":3: expected a sentence, got an empty line"),
        (b"a\n   \t\n", ":2: expected a sentence, got an empty line"),
        (b"", ": expected sentences, a line for each, got an empty file"),
        (b"a\nb \xff\n", ":2: expected text in UTF-8, got the byte 0xFF"),
        (b"\x1f\x8bgarbage", "expected a whole gzip file, got a damaged one")])
    def test_files_that_are_refused(self, tmp_path, content, message):
        path = tmp_path / "bad.txt"
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            read_lines(path)
        assert message in str(error.value) and str(path) in str(error.value)

    def test_lines_without_a_partner(self, tmp_path):
        one, other = lines(tmp_path, "one.txt", SOURCE), lines(tmp_path, "other.txt", TARGET[:3])
        for pair in ((one, other), (other, one)):
            with pytest.raises(DataError, match=r"one\.txt:4: expected the end of the file, as .*other\.txt "
                                                 "has 3"):
                check_pair(*pair)


class TestBatches:
    def test_what_a_batch_holds(self, tmp_path):
        made = batches(tmp_path)
        batch = made.batch(0)
        source, target = made.vocabularies.source, made.vocabularies.target
        a, b, c = source.indices("abc")
        x, y = target.indices("xy")
        assert batch["source"].tolist() == [[a, a], [b, 0], [c, 0]]
        assert batch["source_mask"].tolist() == [[1, 1], [1, 0], [1, 0]]
        assert batch["source_cont"].tolist() == [[0, 0], [1, 0], [1, 0]]
        assert batch["target"].tolist() == [[2, 2], [x, x], [y, 0]]
        assert batch["label"].tolist() == [[x, x], [y, 3], [3, -1]]
        assert batch["target_cont"].tolist() == [[0, 0], [1, 1], [1, 0]]
        assert all(array.dtype == np.int32 for array in batch.values())

    def test_in_the_order_of_the_files_pass_after_pass(self, tmp_path):
        made = batches(tmp_path)
        found = [pair for n in range(5) for pair in sentences(made, made.batch(n))]
        assert found == list(zip(SOURCE, TARGET, strict=True)) * 2
        assert made.where(2, 3) == made.where(2, 1)
        assert made.where(1, 0).startswith(f"line 3 of {tmp_path}/source.txt and {tmp_path}/target.txt")

    def test_longer_pairs_are_cut_or_left_out(self, tmp_path):
        cut = batches(tmp_path, streams=5, most=(2, 3))
        assert sentences(cut, cut.batch(0)) == [("a b", "x y"), ("a", "x"), ("b b", "y z"), ("c a", "w"),
                                                ("d", "z z")]
        kept = batches(tmp_path, streams=2, most=(2, 4), leave_out=True)
        assert (len(kept), kept.left_out) == (2, 3)
        assert sentences(kept, kept.batch(0)) == [("a", "x"), ("b b", "y z w")]
        assert kept.where(0, 1).startswith("line 3 of")
        with pytest.raises(DataError, match="expected a pair of at most 9 and 0 words, got only longer ones"):
            batches(tmp_path, most=(9, 1), leave_out=True)

    @in_turn("pool", [1, 3, 100])
    def test_shuffled_passes_hold_every_pair_once(self, tmp_path, pool):
        rows = [" ".join(["w"] * (1 + i % 7)) + f" n{i}" for i in range(30)]
        made = batches(tmp_path, streams=3, source=rows, target=rows, shuffle=True, pool=pool, most=(9, 9))
        found = [pair for n in range(300) for pair in sentences(made, made.batch(n))]
        assert {found.count(pair) for pair in set(found)} == {30} and len(set(found)) == 30
        if pool == 1:
            for first in range(0, 900, 30):
                assert len(set(found[first:first + 30])) == 30
        assert found[:30] != found[30:60] and found[:30] != list(zip(rows, rows, strict=True))

    def test_batches_of_a_pool_are_of_similar_length(self, tmp_path):
        rng = np.random.default_rng(0)
        rows = [" ".join(["w"] * int(n)) for n in rng.integers(1, 20, 400)]
        padding = {}
        for pool in (1, 20):
            made = batches(tmp_path, 10, (30, 30), rows, rows, shuffle=True, pool=pool)
            padding[pool] = sum(1 - made.batch(n)["source_mask"].mean() for n in range(40))
        assert padding[20] < padding[1] / 5

    def test_a_batch_depends_on_its_number_and_the_seed_alone(self, tmp_path):
        rows = [f"n{i}" for i in range(23)]
        one, other, third = (batches(tmp_path, streams=4, source=rows, target=rows, shuffle=True, pool=3,
                                     seed=seed) for seed in (1, 1, 2))
        expected = [one.batch(n)["source"].tolist() for n in range(20)]
        places = (7, 19, 0, 7)
        assert [other.batch(n)["source"].tolist() for n in places] == [expected[n] for n in places]
        assert [third.batch(n)["source"].tolist() for n in range(20)] != expected
        far = 10**15        # what a snapshot holds may be any number
        assert one.batch(far)["source"].shape == (1, 4)


def test_made_dates():
    words, digits = (list(made_lines(f"made-dates/test.{kind}")) for kind in ("words", "digits"))
    assert len(words) == len(digits) == 1000
    assert words[0].split()[0] == "january" and digits[0] == "1 9 9 9 - 0 1 - 2 6"
    train = set(made_lines("made-dates/train.digits"))
    assert len(train) > 15000 and not train & set(digits)
    assert read_lines("made-dates/test.words").lengths.max() <= 10
    with pytest.raises(DataError, match=f"did you mean '{NAMES[0]}'"):
        list(made_lines("made-dates/train.word"))
