"""TextData: what it feeds, where it goes on, and what it refuses."""

import re

import numpy as np
import pytest
from cases import in_turn

from minidrop import ConfigError, DataError
from minidrop.config import parse_net
from minidrop.data import RandomStreams, Sentences, TextStreams, read_text
from minidrop.net import Net

TOPS = ("data", "label", "cont")
# 120 tokens, 43 different ones with <unk> and <eos>
WORDS = "".join(f"w{i} w{i + 1}\n" for i in range(40))


def net_text(settings, tops=TOPS):
    names = " ".join(f"top: {top!r}" for top in tops)
    return f'layer {{ name: "text" type: "TextData" {names} text_data_param {{ {settings} }} }}'


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A text file "words.txt" in the cache."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return path


def batches(net, count):
    """The tops of some forward passes, as lists."""
    result = []
    for _ in range(count):
        net.forward()
        result.append({name: net.blobs[name].numpy().tolist() for name in net.blobs})
    return result


def expected(reader, numbers):
    return [{name: array.tolist() for name, array in reader.batch(n).items()} for n in numbers]


def test_streams(source, make_net, dtype):
    net = make_net(net_text('source: "words.txt" batch_size: 3 steps: 4'))
    assert net.forward()["data"].shape == (4, 3)
    net.seek(0)
    reader = TextStreams(read_text(source).indices, 3, 4)
    assert reader.batches_per_pass == 9
    assert batches(net, 20) == expected(reader, range(20))        # through the end of the text, twice
    assert all(net.blobs[name].dtype == dtype for name in TOPS)
    # batch 27 = 3 * 9
    assert [row["cont"][0] for row in batches(net, 8)] == [[1.0] * 3] * 7 + [[0.0] * 3]
    assert net.layers["text"].vocabulary == read_text(source).vocabulary


def test_random_places_in_training_and_in_order_in_tests(source, make_net):
    text = net_text('source: "words.txt" batch_size: 3 steps: 4 begin: 0.25 shuffle: true')
    indices = read_text(source).indices
    reader = RandomStreams(indices, 3, 4, 7, "text", 0.25, name=source)
    net = make_net(text, seed=7)
    assert batches(net, 9) == expected(reader, range(9))
    assert batches(make_net(text, seed=8), 9) != expected(reader, range(9))
    in_order = TextStreams(indices, 3, 4, 0.25)
    assert batches(make_net(text, phase="TEST", seed=7), 9) == expected(in_order, range(9))
    assert net.layers["text"].record_of(5) == reader.where(8, 5)


def test_two_tops(source, make_net):
    net = make_net(net_text('source: "words.txt" batch_size: 3 steps: 4', ("x", "y")))
    (got,) = batches(net, 1)
    (wanted,) = expected(TextStreams(read_text(source).indices, 3, 4), [0])
    assert got == {"x": wanted["data"], "y": wanted["label"]}


@pytest.mark.parametrize("settings", ["", "shuffle: true", "sentences: true",
                                      "sentences: true shuffle: true"])
def test_resuming_at_any_batch(source, make_net, settings):
    """A new net that seeks goes on to the token where another one stopped."""
    text = net_text(f'source: "words.txt" batch_size: 3 steps: 4 {settings}')
    in_order = batches(make_net(text, seed=5), 40)
    net = make_net(text, seed=5)
    for n in (7, 38, 0, 20):
        net.seek(n)
        assert batches(net, 2) == in_order[n:n + 2] and net.positions == {"text": n + 2}
    for n in (0, 17):
        fresh = make_net(text, seed=5)
        fresh.seek(n)
        assert batches(fresh, 1) == [in_order[n]]


def test_sentences(source, make_net):
    settings = 'source: "words.txt" batch_size: 3 steps: 4 sentences: true'
    indices, eos = read_text(source).indices, 1
    assert batches(make_net(net_text(settings)), 15) == expected(Sentences(indices, eos, 3, 4), range(15))
    shuffled = make_net(net_text(settings + " shuffle: true"), seed=9)
    assert batches(shuffled, 15) == expected(Sentences(indices, eos, 3, 4, True, 9, "text"), range(15))
    (first,) = batches(make_net(net_text(settings)), 1)
    vocabulary = shuffled.layers["text"].vocabulary
    assert [vocabulary[int(row[1])] if row[1] >= 0 else None
            for row in first["label"]] == ["w1", "w2", "<eos>", None]
    assert first["cont"] == [[0] * 3, [1] * 3, [1] * 3, [0] * 3]


def test_train_and_test_share_the_vocabulary_and_divide_the_text(source, make_net):
    nets = [make_net(net_text(f'source: "words.txt" batch_size: 1 steps: 5 {part}'))
            for part in ("end: 0.9", "begin: 0.9")]
    layers = [net.layers["text"] for net in nets]
    assert layers[0].text is layers[1].text
    assert [layer.batches.length for layer in layers] == [108, 12]
    assert batches(nets[1], 1)[0]["data"] == read_text(source).indices[108:113, None].tolist()


def test_characters_and_the_vocabulary_of_another_file(source, make_net):
    (source.parent / "more.txt").write_text("w0 \N{SNOWMAN}\n")
    settings = 'source: "more.txt" vocabulary: "words.txt" batch_size: 1 steps: 4'
    net = make_net(net_text(settings + " level: CHARACTER", TOPS[:2]))
    vocabulary = net.layers["text"].vocabulary
    assert vocabulary.decode(np.array(batches(net, 1)[0]["label"])) == "0 \N{REPLACEMENT CHARACTER}\n"
    assert vocabulary == read_text(source, "CHARACTER").vocabulary and len(vocabulary) == 14
    vocabulary.save(source.parent / "words.vocabulary")
    again = make_net(net_text(settings.replace("words.txt", "words.vocabulary") + " level: CHARACTER",
                              TOPS[:2]))
    assert again.layers["text"].vocabulary == vocabulary and batches(again, 1) == [
        {"data": vocabulary.encode("w0 x")[:, None].tolist(),
         "label": vocabulary.encode("0 x\n")[:, None].tolist()}]


def test_the_size_of_the_vocabulary(source, make_net):
    net = make_net(net_text('source: "words.txt" batch_size: 3 steps: 4 vocabulary_size: 10'))
    assert len(net.layers["text"].vocabulary) == 10
    assert max(max(map(max, batch["data"])) for batch in batches(net, 9)) == 9


def test_the_standard_library(make_net):
    net = make_net(net_text('source: "python-stdlib" batch_size: 2 steps: 30 level: CHARACTER '
                            'vocabulary_size: 90'))
    layer = net.layers["text"]
    (first,) = batches(net, 1)
    text = read_text("python-stdlib", "CHARACTER", size=90)
    assert layer.text is text and [row[0] for row in first["data"]] == text.indices[:30].tolist()


def test_a_wrong_label_is_found_in_the_text(source):
    """An index that the scores have no column for: the message says which token of which stream it is."""
    net = Net(parse_net(net_text('source: "words.txt" batch_size: 3 steps: 4') + '''
        layer { name: "scores" type: "DummyData" top: "scores"
          dummy_data_param { shape { dim: 12 dim: 43 } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label"
          top: "loss" }'''), device="cpu")
    net.seek(1)
    # A net with fewer classes than tokens is refused: let the tokens have other indices instead.
    reader = net.layers["text"].batches = TextStreams(read_text(source).indices + 33, 3, 4, name=source)
    labels = reader.batch(1)["label"].reshape(-1)
    place = int(np.argmax(labels >= 43))
    with pytest.raises(DataError,
                       match=rf"token {4 + place // 3} of stream {place % 3} of {source}") as caught:
        net.forward()
    assert str(int(labels[place])) in str(caught.value)


def test_record_of_sentences(source, make_net):
    net = make_net(net_text('source: "words.txt" batch_size: 3 steps: 4 sentences: true'))
    net.seek(1)
    net.forward()
    assert net.layers["text"].record_of(5) == f"token 1 of line 6 of {source}"
    assert net.layers["text"].record_of(8) == f"token 2 of line 6 of {source}"          # <eos>
    assert net.layers["text"].record_of(11).startswith(f"padding after line 6 of {source}")


@pytest.mark.parametrize("judge, ignore", [
    ("SoftmaxWithLoss", "loss_param"), ("Perplexity", "loss_param"), ("Accuracy", "accuracy_param")])
def test_padding_without_ignore_label_explains_itself(source, judge, ignore):
    net = net_text('source: "words.txt" batch_size: 3 steps: 4 sentences: true') + f'''
        layer {{ name: "scores" type: "DummyData" top: "scores"
          dummy_data_param {{ shape {{ dim: 12 dim: 43 }} }} }}
        layer {{ name: "judge" type: "{judge}" bottom: "scores" bottom: "label" top: "judge" %s }}'''
    with pytest.raises(DataError) as caught:
        Net(parse_net(net % ""), device="cpu").forward()
    assert str(caught.value).endswith(
        f"padding after line 1 of {source}, labelled -1: set loss_param {{ ignore_label: -1 }}, of Accuracy "
        f"accuracy_param {{ ignore_label: -1 }}")
    Net(parse_net(net % f"{ignore} {{ ignore_label: -1 }}"), device="cpu").forward()        # which is right


ENOUGH = 'source: "words.txt" batch_size: 2 steps: 3'


@in_turn("settings, message", [
    ("batch_size: 2 steps: 3", "text_data_param needs a source, a text file or 'python-stdlib'"),
    ('source: "words.txt"', "text_data_param needs batch_size and steps, at least 1"),
    ('source: "words.txt" batch_size: 2', "text_data_param needs steps, at least 1"),
    (ENOUGH + " begin: 0.5 end: 0.5", "begin and end must be shares of the text, 0 <= begin < end <= 1, got "
     "0.5 and 0.5"),
    (ENOUGH + " end: 1.1", "begin and end must be shares of the text, 0 <= begin < end <= 1, got 0 and 1.1"),
    (ENOUGH + " begin: -0.1", "begin and end must be shares of the text, 0 <= begin < end <= 1, got -0.1 and "
     "1"),
    (ENOUGH + " sentences: true level: CHARACTER", "sentences needs level: WORD; characters have no <eos>"),
    (ENOUGH + " sentences: true level: PIECE", "sentences needs level: WORD; pieces of words have no <eos>"),
    (ENOUGH + " level: PIECE", "level: PIECE needs a vocabulary, the .json file of a tokenizer"),
    (ENOUGH + ' level: PIECE vocabulary: "words.txt" vocabulary_size: 9', "leave it out (got 9)"),
    ('source: "words.txt" batch_size: 2 steps: 120 shuffle: true',
     "words.txt: expected at least 121 tokens for 120 steps, got 120; use fewer steps or a longer text"),
    (ENOUGH + " vocabulary_size: 2", "vocabulary_size must be more than 2 (<unk>, <eos>) or 0, which takes "
     "all tokens, got 2"),
    (ENOUGH + " level: CHARACTER vocabulary_size: 1",
     "vocabulary_size must be more than 1 (<unk>) or 0, which takes all tokens, got 1"),
    ('source: "words.txt" batch_size: 30 steps: 4',
     "words.txt: expected at least 150 tokens for 30 streams of 4 steps, got 120; use fewer streams, fewer "
     "steps or a longer text"),
    (ENOUGH + ' vocabulary: "nothing.txt"', "source 'nothing.txt': no such file"),
    ('source: "bad.txt" batch_size: 2 steps: 3', "bad.txt:2: expected text in UTF-8, got the byte 0xFF"),
    ('source: "." batch_size: 2 steps: 3', "source '.': expected a text file, got the folder"),
    ('source: "ptb/train.txt" batch_size: 2 steps: 3', "make it with: minidrop data ptb"),
    ('source: "tinyshakespeare/input.txt" batch_size: 2 steps: 3', "minidrop data "
     "tinyshakespeare"),
])
def test_mistakes(source, settings, message):
    (source.parent / "bad.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(net_text(settings), "net.prototxt"), device="cpu")
    text = str(caught.value)
    assert re.match(r"net\.prototxt:1:\d+: layer 'text' \(TextData\): ",
                    text) and message in text and "\n" not in text


@pytest.mark.parametrize("tops", [("data",), ("data", "label", "cont", "more")])
def test_number_of_tops(source, tops):
    with pytest.raises(ConfigError, match=r"2 to 3|2\.\.3|2 or 3|between 2 and 3"):
        Net(parse_net(net_text(ENOUGH, tops), "net.prototxt"), device="cpu")
