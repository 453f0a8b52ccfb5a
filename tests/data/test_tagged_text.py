"""Tagged texts: schemes, files, vocabularies, batches."""

import gzip
import lzma
import re

import numpy as np
import pytest

from minidrop import DataError
from minidrop.data import Encoded, TaggedSentences, TaggedVocabulary, read_tagged
from minidrop.data.made_tags import MADE
from minidrop.data.tag_schemes import TagSet, chunks, fault, in_scheme, split_tag
from minidrop.data.tagged_text import kinds_of, tag_names

COLUMNS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
Brussels NNP I-NP B-PER
1996 CD I-NP I-LOC
"""
NAMES = ["S-ORG", "O", "S-MISC", "B-PER", "E-PER", "S-PER", "S-LOC"]


@pytest.fixture
def written(tmp_path):
    """written(text) -> the path of a file with it."""
    def write(text, name="text.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path
    return write


def split(tags):
    return [split_tag(tag) for tag in tags.split()]


@pytest.mark.parametrize("tags", ["O B-A I-A O B-A B-A I-B O", "O I-A I-A O I-A B-A I-B O",
                                  "O B-A E-A O S-A S-A S-B O", "O B-A L-A O U-A U-A U-B O"])
def test_every_scheme_is_read(tags):
    """IOB2, IOB1, IOBES and BILOU of the same chunks."""
    found = chunks(split(tags))
    assert found == [("A", 1, 2), ("A", 4, 4), ("A", 5, 5), ("B", 6, 6)]
    assert in_scheme(found, 8, "IOB2") == "O B-A I-A O B-A B-A B-B O".split()
    assert in_scheme(found, 8, "IOBES") == "O B-A E-A O S-A S-A S-B O".split()


@pytest.mark.parametrize("tags, place, what", [
    ("B-A O", 1, "expected I-A or E-A to go on, but O stands there"),
    ("O B-A", 1, "expected I-A or E-A to go on, but the sentence ends"),
    ("B-A E-B", 1, "expected I-A or E-A to go on, but E-B stands there"),
    ("S-A E-A", 1, "expected B-A or S-A to begin a chunk, got E-A"),
    ("I-A E-A", 0, "expected B-A or S-A to begin a chunk, got I-A")])
def test_rules_of_iobes(tags, place, what):
    assert fault(split(tags)) == (place, what)
    assert fault(split("B-A I-A E-A S-B B-B E-B O")) is None


def test_numbers_of_tags():
    tags = TagSet(("LOC", "PER"), "IOBES")
    assert tags.names == ("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-PER", "I-PER", "E-PER", "S-PER")
    assert tags.as_written([0, 5, 7, 4]) == ["O", "B-PER", "I-PER", "B-LOC"]
    assert TagSet(("NN", "VB"), "NONE").as_written([1, 0]) == ["VB", "NN"]
    with pytest.raises(DataError, match="got 'S-POR'; did you mean 'S-PER'"):
        tags.index("S-POR")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("change", [lambda text: text, lambda text: text.replace(" ", "\t"),
                                    lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_a_file(written, pack, change):
    text = read_tagged(written(pack(change(COLUMNS).encode())))
    assert len(text) == 2 and text.starts.tolist() == [0, 3, 7]
    assert [text.words[i] for i in text.word] == ["EU", "rejects", "German", "Peter", "Blackburn", "Brussels",
                                                   "1996"]
    assert text.lines.tolist() == [3, 4, 5, 7, 8, 9, 10]
    assert tag_names(text, "IOBES") == NAMES and kinds_of(text, "IOBES") == ["LOC", "MISC", "ORG", "PER"]


def test_other_columns(written):
    path = written(COLUMNS)
    assert set(read_tagged(path, 0, 1).tags) == {"NNP", "VBZ", "JJ", "CD"}
    assert read_tagged(path) is read_tagged(path)       # as long as one of them is in use
    assert kinds_of(read_tagged(path, tag_column=1), "NONE") == ["CD", "JJ", "NNP", "VBZ"]


@pytest.mark.parametrize("content, message", [
    ("a O\nb O O\n", ":2: expected 2 columns as in the lines before, got 3"),
    ("a\n", ":1: expected a token and its tag in columns of at least 2, got 1 ('a')"),
    ("", ": expected a token and its tag in each line, got no token"),
    ("\n\n-DOCSTART- O\n", ": expected a token and its tag in each line, got no token"),
    (b"a O\n\xff O\n", ":2: expected text in UTF-8, got the byte 0xFF"),
    (b"a" * 70000, ":1: expected the columns of one token, got a line of more than 65536 bytes"),
    ("a O\n" * 5000, ":4097: expected a sentence of at most 4096 tokens, got a longer one"),
    ("a O\nb PER\n", ":2: expected O, or B-, I-, E- or S- before a kind, as in B-PER, got 'PER'"),
    ("a O\nb X-A\n", ":2: expected O, or B-, I-, E- or S- before a kind, as in B-PER, got 'X-A'"),
    ("a B-A\nb O\n\nc S-A\n", ":2: expected I-A or E-A to go on, but O stands there"),
    (lzma.compress(b"a O\n")[:-9], ": expected a whole xz file, got a damaged one")])
def test_wrong_files(written, content, message):
    path = written(content)
    with pytest.raises(DataError, match=re.escape(f"{path}{message}")):
        tag_names(read_tagged(path), "IOBES")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no.txt: cannot be read"):
        read_tagged(tmp_path / "no.txt")


def test_vocabulary(written):
    text = read_tagged(written("The S-A\ncat O\nthe O\n9cats O\n\n8cats O\ncat O\n"))
    words = TaggedVocabulary.of(text)
    assert words.words.tokens == ("<pad>", "<unk>", "cat", "The", "the", "9cats", "8cats")
    assert words.once.tolist() == [False, False, False, True, True, True, True]
    assert TaggedVocabulary.of(text, minimum_count=2).words.tokens == ("<pad>", "<unk>", "cat")
    other = TaggedVocabulary.of(text, digits_to_zero=True, lower_case=True)
    assert other.words.tokens == ("<pad>", "<unk>", "the", "cat", "0cats")
    assert (other.as_word("The7"), other.as_spelled("The7")) == ("the0", "The0")
    assert other.characters.index("T") > 1 and other.characters.index("5") == other.characters.unk
    assert len({one.fingerprint for one in (words, other, TaggedVocabulary.of(text, "IOB2"))}) == 3


def test_a_word_called_as_the_padding_is_unknown(written):
    """It was read as the padding, with which it shared its row of an Embed; and where it stood once, padding
    was read as <unk> in a share of its places."""
    text = read_tagged(written("<pad> O\n<unk> O\ncat O\n"))
    vocabulary = TaggedVocabulary.of(text)
    assert vocabulary.words.tokens == ("<pad>", "<unk>", "cat")
    assert vocabulary.once.tolist() == [False, False, True]
    assert Encoded.of_text(vocabulary, text).word.tolist() == [1, 1, 2]


def test_unknown_tag(written):
    vocabulary = TaggedVocabulary.of(read_tagged(written("a B-PER\n")))
    path = written("b O\nc B-PRE\n", "test.txt")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: expected a tag of the training text, got "
                                                  "'S-PRE'; did you mean 'S-PER'")):
        Encoded.of_text(vocabulary, read_tagged(path))


@pytest.fixture
def encoded(written):
    rng = np.random.default_rng(0)
    lines = ["".join(f"w{rng.integers(30)} {rng.choice(['O', 'B-A'])}\n" for _ in range(rng.integers(1, 9)))
             for _ in range(23)]
    text = read_tagged(written("\n".join(lines)))
    return Encoded.of_text(TaggedVocabulary.of(text), text)


def read_back(batch, vocabulary):
    """Return [(words, tags, characters)] of the streams of a batch, and check all that is padding."""
    steps, streams = batch["words"].shape
    found = []
    for n in range(streams):
        length = int((batch["tags"][:, n] >= 0).sum())
        assert (batch["tags"][length:, n] == -1).all() and not batch["words"][length:, n].any()
        assert batch["cont"][:, n].tolist() == [0, *[1] * (length - 1), *[0] * (steps - max(1, length))]
        words = [vocabulary.words.tokens[i] for i in batch["words"][:length, n]]
        for t in range(steps):
            column = batch["characters"][:, t * streams + n]
            letters = batch["character_mask"][:, t * streams + n]
            spelled = "".join(vocabulary.characters.tokens[i] for i in column[letters == 1])
            assert spelled == (words[t] if t < length else "")
            own = [0, *[1] * (len(spelled) - 1)] + [0] * len(column)
            assert batch["character_cont"][:, t * streams + n].tolist() == own[:len(column)]
        found.append((words, [vocabulary.tags.names[i] for i in batch["tags"][:length, n]]))
    assert int((batch["tags"] >= 0).sum(axis=0).max()) == steps
    return found


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_has_each_sentence_once(encoded, shuffle):
    batches = TaggedSentences(encoded, 4, shuffle, 3, "text")
    assert batches.batches_per_pass == 6
    passes = []
    for first in (0, 6):
        found = [one for n in range(first, first + 6) for one in read_back(batches.batch(n),
                                                                           encoded.vocabulary)]
        passes.append([one for one in found if one[0]])
    words = encoded.vocabulary.words.tokens
    wanted = [[words[i] for i in encoded.word[first:end]]
              for first, end in zip(encoded.starts, encoded.starts[1:], strict=False)]
    if not shuffle:
        assert [one[0] for one in passes[0]] == wanted
    assert (passes[0] == passes[1]) != shuffle
    assert all(sorted(one[0] for one in own) == sorted(wanted) for own in passes)


def test_batches_depend_on_their_number_alone(encoded):
    one, other = (TaggedSentences(encoded, 4, True, 3, "text", 0.5) for _ in range(2))
    for n in (9, 2, 3, 9):
        for name, array in one.batch(n).items():
            np.testing.assert_array_equal(array, other.batch(n)[name])
    assert one.batch(0)["words"].tolist() != TaggedSentences(encoded, 4, True, 4, "text").batch(0)[
        "words"].tolist()
    spans = [int(np.ptp(encoded.lengths[one.chosen(n)])) for n in range(6)]
    assert max(spans) <= 3      # the lengths, 1 to 8, are sorted


def test_rare_words_are_read_as_unknown_now_and_then(encoded):
    unk, once = encoded.vocabulary.words.unk, encoded.vocabulary.once
    plain, always = (TaggedSentences(encoded, 4, unknown_rate=rate).batch(0)["words"] for rate in (0, 1))
    assert always.tolist() == np.where(once[plain], unk, plain).tolist()
    assert TaggedSentences(encoded, 4, steps=2).batch(0)["words"].shape == (2, 4)


def test_where(written):
    text = read_tagged(written("a O\nb O\n\nc O\n"))
    batches = TaggedSentences(Encoded.of_text(TaggedVocabulary.of(text), text), 3, text=text)
    assert batches.where(0, 0) == f"the token of {text.name}:1"
    assert batches.where(0, 4) == f"padding after the token of {text.name}:4"
    assert batches.where(0, 6) == f"the token of {text.name}:1"       # of its second character
    assert batches.where(0, 5) == "padding"


@pytest.mark.parametrize("source", MADE)
def test_made_texts(source):
    text = read_tagged(source)
    assert len(text) == MADE[source] and kinds_of(text, "IOBES") == ["LOC", "ORG", "PER"]


def test_real_texts(data_folder):
    counts = {"conll2003/eng.testa.xz": (3250, 5942), "wnut17/emerging.dev.conll.xz": (1009, 836)}
    for name, wanted in counts.items():
        text = read_tagged(data_folder / name)
        assert (len(text), sum(tag[0] in "BS" for tag in tag_names(text, "IOBES"))) == wanted


def test_a_vocabulary_in_a_file(written, tmp_path):
    text = read_tagged(written(COLUMNS))
    for options in ({}, {"scheme": "IOB2", "digits_to_zero": True, "lower_case": True}):
        vocabulary, path = TaggedVocabulary.of(text, **options), tmp_path / "text.vocabulary"
        vocabulary.save(path)
        loaded = TaggedVocabulary.load(path)
        assert loaded.fingerprint == vocabulary.fingerprint
        assert loaded.once.tolist() == vocabulary.once.tolist()
        assert (loaded.as_word("A1"), loaded.tags.names) == (vocabulary.as_word("A1"), vocabulary.tags.names)


@pytest.mark.parametrize("old, new, message", [
    ("tagged vocabulary 1", "something", "got another file"), ("{", "[", "got another file"),
    ('"scheme": "IOBES"', '"scheme": 5', "got the scheme '5'"),
    ('"lower_case": false', '"lower_case": 0', "got no true or false as lower_case"),
    ('"EU"', "7", "got no list of texts as words"), ('"EU"', '"German"', "got one of its words twice"),
    ('"once": [', '"once": [-1,', "got no list of the numbers of words as once"),
    ('"once": [', '"once": [1e300,', "got no list of the numbers of words as once")])
def test_wrong_vocabularies(written, tmp_path, old, new, message):
    path = tmp_path / "text.vocabulary"
    TaggedVocabulary.of(read_tagged(written(COLUMNS))).save(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        TaggedVocabulary.load(path)
    with pytest.raises(DataError, match="no.vocabulary: the vocabulary cannot be read"):
        TaggedVocabulary.load(tmp_path / "no.vocabulary")
