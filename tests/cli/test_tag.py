"""minidrop tag and Tagger: what a net has learnt of a text, for sentences in lines and in columns."""

import importlib
import io
import re
from types import SimpleNamespace

import pytest

import minidrop as md
from minidrop.apps import tagging
from minidrop.cli import sentences
from minidrop.errors import ConfigError, DataError, SnapshotError

command = importlib.import_module("minidrop.cli.tag")      # its command has the same name
SENTENCES = (("Ann met Bob .", "B-PER O B-PER O"), ("Old Rome fell .", "B-LOC I-LOC O O"),
             ("they left Rome", "O O B-LOC"), ("Bob", "B-PER"))
NET = """
layer { name: "text" type: "TaggedTextData" top: "words" top: "tags" top: "cont"
        tagged_text_data_param { source: "SOURCE" vocabulary: "train.txt" batch_size: 2 } }
layer { name: "embed" type: "Embed" bottom: "words" top: "embed" embed_param { input_dim: 20 num_output: 12
        weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm" recurrent_param { num_output: 8
        bidirectional: true weight_filler { type: "xavier" } } }
layer { name: "scores" type: "InnerProduct" bottom: "lstm" top: "scores"
        inner_product_param { num_output: 9 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "CRF" bottom: "scores" bottom: "tags" top: "loss" top: "path" }
"""
SOLVER = """net: "net.prototxt" type: "Adam" base_lr: 0.03 lr_policy: "fixed" momentum: 0.9 max_iter: 60
random_seed: 1 snapshot_after_train: false"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net that has learnt four sentences: folder/{net.prototxt,weights.h5}."""
    folder = tmp_path_factory.mktemp("tagger")
    lines = ["\n".join(f"{word} {tag}" for word, tag in zip(words.split(), tags.split(), strict=True))
             for words, tags in SENTENCES]
    (folder / "train.txt").write_text("\n\n".join(lines) + "\n")
    (folder / "net.prototxt").write_text(NET.replace("SOURCE", "train.txt"))
    (folder / "solver.prototxt").write_text(SOLVER)
    solver = md.Solver.from_file(folder / "solver.prototxt", device="cpu")
    solver.solve()
    solver.snapshot(folder / "weights.h5")
    solver.net.layers["text"].vocabulary.save(folder / "words.vocabulary")
    # Tagging reads the vocabulary's text alone.
    (folder / "net.prototxt").write_text(NET.replace("SOURCE", "there-is-none.txt"))
    return folder


@pytest.fixture
def tagged(folder, minidrop, monkeypatch):
    """tagged(input, option, ...) -> code, out, err of `minidrop tag`."""
    def call(text, *arguments):
        source = io.BytesIO(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=source, isatty=lambda: False))
        return minidrop("tag", "--model", folder / "net.prototxt", "--weights", folder / "weights.h5",
                        "--device", "cpu", *arguments)
    return call


def test_lines(tagged):
    text = "".join(f"{words}\n" for words, _ in SENTENCES)
    tags = "".join(f"{tags}\n" for _, tags in SENTENCES)
    result = tagged(text)
    assert (result.code, result.out, result.err) == (0, tags, "")
    # an empty line, and a last one without end
    assert tagged("\n" + text.rstrip("\n")).out == "\n" + tags
    assert tagged("").out == ""


def test_columns(tagged):
    text = "-DOCSTART- -X-\n\nBob NNP\n\n\nOld\tJJ\r\nRome\tNNP\nfell\tVB\n.\t.\n"
    result = tagged(text, "--format", "columns")
    assert result.out == ("-DOCSTART- -X-\n\nBob NNP B-PER\n\n\nOld\tJJ\tB-LOC\nRome\tNNP\tI-LOC\n"
                          "fell\tVB\tO\n.\t.\tO\n")
    assert tagged("\n\n", "--format", "columns").out == "\n\n"
    assert tagged("Bob\n\n", "--format", "columns").out == "Bob B-PER\n\n"


@pytest.mark.parametrize("column, text, expected", [
    (1, "1\tBob\n2\tmet\n3\tAnn\n", "B-PER O B-PER"), (-1, "x Bob\nx met\nx Ann\n", "B-PER O B-PER"),
    (-2, "Bob x\nmet x\nAnn x\n", "B-PER O B-PER"), (1, "Bob\nmet\nAnn\n", "B-PER O B-PER")])
def test_the_token_is_in_the_column_that_the_net_reads(tagged, column, text, expected):
    tag_column = 0 if column == -1 else -1
    settings = f"word_column={column}", f"tag_column={tag_column}", "vocabulary=words.vocabulary"
    result = tagged(text, "--format", "columns", *(
        part for one in settings for part in ("--set", f"layer.text.tagged_text_data_param.{one}")))
    assert [line.split()[-1] for line in result.out.splitlines()] == expected.split(), result.err
    assert [line.split()[:-1] for line in result.out.splitlines()] == [line.split()
                                                                       for line in text.splitlines()]


def test_a_line_without_that_column(tagged):
    result = tagged("1 2 Bob\n1 met\n", "--format", "columns", "--set",
                    "layer.text.tagged_text_data_param.word_column=2", "--set",
                    "layer.text.tagged_text_data_param.vocabulary=words.vocabulary")
    assert result.code == 1 and result.err == ("error: stdin:2: expected the token in column 2, the "
                                               "word_column of the net, got 2 columns\n")


def test_a_mark_at_the_beginning_and_other_spaces_are_read_as_in_training(tagged):
    """Blanks and tabs separate tokens of a text to train on; a no-break space is part of one."""
    for mark in ("", "\ufeff"):
        assert tagged(f"{mark}Bob met Ann\n").out == "B-PER O B-PER\n"
        assert tagged(f"{mark}Bob\nmet\n", "--format", "columns").out == "Bob B-PER\nmet O\n"
    assert len(tagged("Bob\u00a0met\tAnn\u2028.  Rome\u3000x\n").out.split()) == 3


def test_a_bar(tagged):
    result = tagged("Bob\n", "--progress")
    assert result.out == "B-PER\n" and "1sentence" in result.err


def test_tags_depend_on_the_sentence_alone(folder):
    tagger = md.Tagger(folder / "net.prototxt", folder / "weights.h5", device="cpu")
    sentences = [words.split() for words, _ in SENTENCES] * 3 + [["who", "met", "Rome"] * 7, []]
    together = list(tagger.tag(sentences))
    assert together == [tags for one in sentences for tags in tagger.tag([one])]
    assert together == list(tagger.tag(iter(sentences), window=5))
    assert [" ".join(tags) for tags in together[:4]] == [tags for _, tags in SENTENCES]
    read = []
    first = next(tagger.tag((read.append(one) or one for one in sentences), window=2))
    assert first == together[0] and len(read) == 2      # no more is read than what a window holds
    for wrong, message in (("Bob met", "expected several sentences"), (["Bob met"], "as a list of tokens"),
                           ([["Bob", 1]], "as a list of tokens")):
        with pytest.raises(md.DataError, match=message):
            list(tagger.tag(wrong))
    tagger.close()


@pytest.mark.parametrize("text, message", [
    (b"Bob\n\xff\n", "stdin:2: expected text in UTF-8, got the byte 0xFF"),
    (b"x" * 2000, "stdin:1: expected a line of at most 1000 bytes, got a longer one"),
    (b"x " * 400, "expected a sentence of at most 300 tokens, got one of 400 that begins with 'x x x x x'")])
def test_wrong_input(tagged, monkeypatch, text, message):
    monkeypatch.setattr(sentences, "LONGEST_LINE", 1000)
    monkeypatch.setattr(tagging, "LONGEST", 300)
    result = tagged(text)
    assert result.code == 1 and result.err.startswith(f"error: {message}")


def test_a_column_text_without_tokens(tagged, monkeypatch):
    monkeypatch.setattr(command, "PENDING", 10)
    result = tagged("\n" * 50, "--format", "columns")
    assert result.code == 1 and "stdin:12: expected a token, got 10 lines without one" in result.err


def test_other_nets_and_weights(folder, tmp_path, minidrop):
    text = (folder / "net.prototxt").read_text()

    def refused(text, error, message, weights=()):
        (tmp_path / "net.prototxt").write_text(text)
        (tmp_path / "train.txt").write_text((folder / "train.txt").read_text())
        with pytest.raises(error, match=re.escape(message)):
            md.Tagger(tmp_path / "net.prototxt", weights, device="cpu")
    refused(text.replace('top: "path"', ""), ConfigError, "expected one CRF layer with two tops")
    refused(text.replace('name: "text"', 'name: "text" include { phase: TRAIN }'), ConfigError,
            "the net has no TaggedTextData layer in phase TEST")
    refused(text.replace("num_output: 9", "num_output: 10"), ConfigError, "tells 10 tags apart, but the "
            "vocabulary has 9; set num_output: 9")
    refused(text.replace('vocabulary: "train.txt"', 'vocabulary: "none.txt"'), (ConfigError, DataError),
            "'none.txt': no such file")
    refused(text.replace('name: "lstm"', 'name: "other"'), SnapshotError, "no weights for other",
            folder / "weights.h5")
    assert minidrop("tag", "--model", folder / "net.prototxt").code == 2


def test_a_vocabulary_in_a_file_replaces_the_text(folder, tmp_path):
    tagger = md.Tagger(folder / "net.prototxt", folder / "weights.h5", device="cpu")
    tagger.vocabulary.save(tmp_path / "train.vocabulary")
    text = (folder / "net.prototxt").read_text().replace("train.txt", "train.vocabulary")
    (tmp_path / "net.prototxt").write_text(text)
    other = md.Tagger(tmp_path / "net.prototxt", folder / "weights.h5", device="cpu")
    for words, tags in SENTENCES:
        assert " ".join(*other.tag([words.split()])) == tags
    (tmp_path / "net.prototxt").write_text(text.replace("batch_size", "lower_case: true batch_size"))
    with pytest.raises(DataError, match="was made with lower_case: False, but the layer has True"):
        md.Tagger(tmp_path / "net.prototxt", device="cpu")
