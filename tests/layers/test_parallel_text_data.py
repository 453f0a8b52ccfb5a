"""ParallelTextData: shapes, settings, vocabularies, checks of the net, resuming, what snapshots record."""

import json

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import ConfigError, DataError, MinidropError
from minidrop.config import parse_net, parse_solver

ROWS = [("a b c", "x y"), ("a", "x"), ("b b", "y z w"), ("c a b d", "w"), ("d", "z z z z"), ("b c", "w x")]
TEXT = 'source: "train.source" target: "train.target" batch_size: 2 source_steps: 6 target_steps: 7'


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, rows):
        (tmp_path / f"{name}.source").write_text("".join(f"{source}\n" for source, _ in rows))
        (tmp_path / f"{name}.target").write_text("".join(f"{target}\n" for _, target in rows))
    write("train", ROWS)
    return write


def data(settings=TEXT, tops=5, phase=""):
    names = ("source", "mask", "target", "label", "cont", "tcont")[:tops]
    return (f'layer {{ name: "pairs" type: "ParallelTextData" {" ".join(f"top: {name!r}" for name in names)} '
            f'{phase} parallel_text_data_param {{ {settings} }} }}')


def net_of(settings=TEXT, tops=5, phase="TRAIN", more="", **options):
    return md.Net(parse_net(data(settings, tops) + more, "net.prototxt"), phase, "cpu", **options)


def test_shapes_are_the_largest_and_batches_as_long_as_they_need(files):
    net = net_of(phase="TEST", tops=6)
    shapes = {ref.name: shape for ref, shape in net.graph.shapes.items()}
    assert shapes == {"source": (6, 2), "mask": (6, 2), "cont": (6, 2), "target": (7, 2), "label": (7, 2),
                      "tcont": (7, 2)}
    net.forward()
    assert {name: tensor.shape for name, tensor in net.blobs.items()} == {
        "source": (3, 2), "mask": (3, 2), "cont": (3, 2), "target": (3, 2), "label": (3, 2), "tcont": (3, 2)}
    net.forward()
    assert net.blobs["source"].shape == (4, 2) and net.blobs["label"].shape == (4, 2)


def test_a_test_net_reads_in_order_and_a_train_net_shuffles(files):
    test, train = net_of(phase="TEST"), net_of()
    for net in (test, train):
        net.forward()
    assert test.layers["pairs"].record_of(1).startswith("line 2 of")
    seen = []
    train.seek({"pairs": 0})
    for _ in range(3 * 20):
        train.forward()
        seen.append(train.blobs["source"].numpy().tolist())
    assert seen[:3] != seen[3:6]


def test_a_run_that_is_resumed_goes_on_to_the_sentence(files):
    first, second = net_of(seed=4), net_of(seed=4)
    for _ in range(5):
        first.forward()
    second.seek(first.positions)
    for _ in range(4):
        for net in (first, second):
            net.forward()
        for name in first.blobs:
            np.testing.assert_array_equal(first.blobs[name].numpy(), second.blobs[name].numpy())


def test_vocabularies_of_the_training_files(files, tmp_path):
    files("test", [("a zz", "qq x")])
    own = TEXT.replace("train.", "test.")
    net = net_of(f'{own} source_vocabulary: "train.source" target_vocabulary: "train.target"', phase="TEST")
    train = net_of()
    assert net.layers["pairs"].vocabulary.fingerprint == train.layers["pairs"].vocabulary.fingerprint
    net.forward()
    vocabulary = train.layers["pairs"].vocabulary
    assert net.blobs["source"].numpy()[:, 0].tolist() == [vocabulary.source.indices("a")[0], 1]
    least = net_of(f"{TEXT} source_min_count: 3 target_min_count: 4")
    assert least.layers["pairs"].vocabulary.source.tokens[4:] == ("b", "a", "c")
    assert least.layers["pairs"].vocabulary.target.tokens[4:] == ("z",)
    vocabulary.source.save(tmp_path / "source.vocabulary")
    named = net_of(f'{TEXT} source_vocabulary: "source.vocabulary"')
    assert named.layers["pairs"].vocabulary.source.tokens == vocabulary.source.tokens


SMALL_EMBED = ('layer {{ name: "e" type: "Embed" bottom: "{}" top: "e" '
               'embed_param {{ num_output: 2 input_dim: 5 }} }}')


@in_turn("blob, tokens", [("source", 8), ("target", 8)])
def test_an_embed_with_too_few_rows(files, blob, tokens):
    with pytest.raises(ConfigError) as error:
        net_of(more=SMALL_EMBED.format(blob))
    assert f"input_dim is 5, but the vocabulary of 'pairs' has {tokens} tokens" in str(error.value)


@in_turn("settings, message", [
    ("", "parallel_text_data_param needs source, target, batch_size, source_steps, target_steps"),
    (TEXT.replace("target_steps: 7", "target_steps: 1"), "target_steps must be at least 2"),
    (f"{TEXT} source_min_count: 0", "source_min_count must be at least 1"),
    (TEXT.replace("train.target", "none.target"), "target 'none.target': no such file"),
    (f'{TEXT} target_vocabulary: "none.txt"', "target_vocabulary 'none.txt': no such file"),
    (TEXT.replace("train.source", "made-dates/nothing"), "there are no such made sentences")])
def test_settings_that_are_refused(files, settings, message):
    with pytest.raises(MinidropError) as error:
        net_of(settings)
    assert message in str(error.value) and "net.prototxt:1" in str(error.value)


@in_turn("side", ["source", "target"])
def test_a_vocabulary_file_says_not_how_often_words_occur(files, side):
    """Beside one source_min_count did nothing."""
    getattr(net_of().layers["pairs"].vocabulary, side).save("own.vocabulary")
    read = f'{TEXT} {side}_vocabulary: "own.vocabulary" {side}_min_count:'
    net_of(f"{read} 1")
    with pytest.raises(ConfigError, match=r"own.vocabulary: holds words without their counts.* 3 times;"):
        net_of(f"{read} 3")


def test_files_of_different_lengths(files, tmp_path):
    (tmp_path / "train.target").write_text("x\n")
    with pytest.raises((DataError, ConfigError), match=r"train\.source:2: expected the end of the file"):
        net_of()


def test_a_test_net_with_another_vocabulary_is_refused(files):
    files("test", [("zz b a", "x")])
    both = (data(phase="include { phase: TRAIN }") + data(TEXT.replace("train.", "test."),
                                                          phase="include { phase: TEST }")
            + SMALL_EMBED.format("source").replace("input_dim: 5", "input_dim: 9")
            + 'layer { name: "s" type: "Silence" bottom: "e" }')
    with pytest.raises(ConfigError) as error:
        md.Solver(parse_solver(f"net_param {{ {both} }} test_iter: 1 test_interval: 1 base_lr: 1 "
                               f'lr_policy: "fixed" max_iter: 1'), device="cpu")
    assert ('source_vocabulary: "train.source" target_vocabulary: "train.target" in its '
            'parallel_text_data_param') in str(error.value)


def test_place_settings_are_recorded(files):
    settings = net_of().layers["pairs"].place_settings()
    assert json.loads(json.dumps(settings))["pool"] == 20 and settings["batch_size"] == 2
