"""Snapshots know the vocabulary that a net was trained on: weights that meet another one are not silently
used."""

import logging

import h5py
import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.data import ArrayRecords, Vocabulary
from minidrop.data.database_writer import new_database
from minidrop.data.datum import write_datum
from minidrop.data.images import encode
from minidrop.errors import ConfigError
from minidrop.layers.base import _types as layer_types
from minidrop.snapshot import read_snapshot, write_snapshot

NET = """
layer {{ name: "text" type: "TextData" top: "data" top: "label" top: "cont"
  text_data_param {{ source: "{source}" level: CHARACTER vocabulary_size: 5 batch_size: 2 steps: 3 }} }}
layer {{ name: "embed" type: "Embed" bottom: "data" top: "embed"
  embed_param {{ num_output: 4 input_dim: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "embed" top: "scores"
  inner_product_param {{ num_output: 5 axis: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
  softmax_param {{ axis: 2 }} }}
"""


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "one.txt").write_text("abababaabcabab" * 3)
    (tmp_path / "other.txt").write_text("bababacbabbabb" * 3)
    return tmp_path


def solver(source):
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: "
                                  f"CPU net_param {{ {NET.format(source=source)} }}"),
                     snapshot_prefix=f"{source}.run")


def warnings(caplog, act):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "minidrop"):
        act()
    return [record.getMessage() for record in caplog.records]


def test_a_vocabulary_has_a_fingerprint():
    one = Vocabulary.build("abcab", level="CHARACTER")
    assert one.fingerprint == Vocabulary.build("abcba", level="CHARACTER").fingerprint
    assert one.fingerprint != Vocabulary.build("bacab"[::-1] + "bb", level="CHARACTER").fingerprint
    first, second = (Vocabulary(["<unk>", *two], "CHARACTER") for two in ("a\n", "\na"))
    assert first.fingerprint != second.fingerprint


def test_the_same_vocabulary_passes_and_another_is_told(texts, caplog):
    path = solver(texts / "one.txt").snapshot()
    for act in (lambda s: s.restore(path), lambda s: md.load_weights(s.net, path)):
        assert warnings(caplog, lambda act=act: act(solver(texts / "one.txt"))) == []
        assert warnings(caplog, lambda act=act: act(solver(texts / "other.txt"))) == [
            f"{path}: its net was trained on another vocabulary than that of text: the tokens have other "
            f"indices now. Name the same text, or the .vocabulary file that was saved of it"]


def test_text_that_is_generated_is_told_too(texts, caplog):
    path = solver(texts / "one.txt").snapshot()
    for name, count in (("one", 0), ("other", 1)):
        model = texts / "net.prototxt"
        model.write_text(NET.format(source=texts / f"{name}.txt"))
        assert len(warnings(caplog, lambda model=model: md.TextModel(str(model), path))) == count


@pytest.mark.parametrize("record", ["", "no json", "[1]", '{"text": 3}', "[" * 100000, 7, None])
def test_what_is_no_record_counts_as_none(texts, caplog, record):
    path = solver(texts / "one.txt").snapshot()
    snapshot = read_snapshot(path)
    snapshot.attrs["vocabularies"] = record
    snapshot.attrs = {name: value for name, value in snapshot.attrs.items() if value is not None}
    write_snapshot(path, snapshot)
    assert warnings(caplog, lambda: solver(texts / "other.txt").restore(path)) == []


PHASES = """
layer {{ name: "text" type: "TextData" top: "data" top: "label" include {{ phase: TRAIN }}
  text_data_param {{ source: "one.txt" level: CHARACTER batch_size: 2 steps: 3 }} }}
layer {{ name: "{name}" type: "TextData" top: "data" top: "label" include {{ phase: TEST }}
  text_data_param {{ {settings} level: {level} batch_size: 2 steps: 3 }} }}
layer {{ name: "embed" type: "Embed" bottom: "data" top: "scores"
  embed_param {{ num_output: 9 input_dim: 9 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
  softmax_param {{ axis: 2 }} }}
"""


def with_test_net(settings, name="text", level="CHARACTER", extra=""):
    net = PHASES.format(settings=settings, name=name, level=level)
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 test_iter: 1 test_interval: "
                                  f"5 {extra} solver_mode: CPU net_param {{ {net} }}"))


@pytest.mark.parametrize("settings, level, tokens, remedy", [
    ('source: "other.txt"', "CHARACTER", 4, 'vocabulary: "one.txt"'),
    ('source: "more.txt"', "CHARACTER", 6, 'vocabulary: "one.txt"'),
    ('source: "one.txt" vocabulary_size: 3', "CHARACTER", 3, "vocabulary_size: 0"),
    ('source: "other.txt" vocabulary_size: 3', "CHARACTER", 3, 'vocabulary: "one.txt" vocabulary_size: 0'),
    ('source: "one.txt"', "WORD", 5, "level: CHARACTER"),
])
def test_a_test_net_with_another_vocabulary(texts, monkeypatch, settings, level, tokens, remedy):
    monkeypatch.setenv("MINIDROP_CACHE", str(texts))
    (texts / "more.txt").write_text("abcde" * 9)
    # 7 tokens: <unk>, a, b, blank, c, x, y
    (texts / "one.txt").write_text("abababaabcabab " * 30 + "x y ")
    for name in ("text", "another_name"):
        with pytest.raises(ConfigError) as caught:
            with_test_net(settings, name, level, "snapshot_best: 'nothing'")
        first, second = str(caught.value).split("\n")
        assert "the test nets have no output 'nothing'" in first
        assert second.split(": ", 1)[1] == (
            f"test net 0: layer {name!r} has another vocabulary ({tokens} tokens) than the training net's (7 "
            f"tokens): set {remedy} in its text_data_param")


@pytest.mark.parametrize("settings", ['source: "one.txt"', 'source: "other.txt" vocabulary: "one.txt"'])
def test_a_test_net_with_the_same_vocabulary(texts, monkeypatch, settings):
    monkeypatch.setenv("MINIDROP_CACHE", str(texts))
    with_test_net(settings).close()


def resized(source, text):
    """The solver above, its TextData with other settings."""
    changed = NET.format(source=source).replace("batch_size: 2 steps: 3", text)
    assert text in changed
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: "
                                  f"CPU net_param {{ {changed} }}"), snapshot_prefix=f"{source}.run")


@pytest.mark.parametrize("text, before, now", [
    ("batch_size: 4 steps: 3", "batch_size: 2", "batch_size: 4"),
    ("batch_size: 2 steps: 5", "steps: 3", "steps: 5"),
    ("batch_size: 1 steps: 2 end: 0.5", "batch_size: 2, steps: 3, end: 1.0", "batch_size: 1, steps: 2, end: "
     "0.5"),
    ("batch_size: 2 steps: 3 begin: 0.25", "begin: 0.0", "begin: 0.25"),
])
def test_a_place_in_the_text_that_moves_is_told(texts, caplog, text, before, now):
    source = texts / "one.txt"
    path = solver(source).snapshot()
    assert warnings(caplog, lambda: solver(source).restore(path)) == []
    assert warnings(caplog, lambda: md.load_weights(resized(source, text).net, path)) == []
    assert warnings(caplog, lambda: resized(source, text).restore(path)) == [
        f"{path}: was written when text had {before}; now it has {now}. The place in the data moves: the run "
        f"goes on from the same batch number, which is elsewhere now"]


@pytest.mark.parametrize("record", [None, "", "[1]", '{"text": 3}', '{"text": {"batch_size": "2", "steps": '
                                    '[1]}}'])
def test_what_is_no_record_of_places_counts_as_none(texts, caplog, record):
    path = solver(texts / "one.txt").snapshot()
    snapshot = read_snapshot(path)
    snapshot.attrs.pop("texts")
    if record is not None:
        snapshot.attrs["texts"] = record
    write_snapshot(path, snapshot)
    assert warnings(caplog, lambda: resized(texts / "one.txt", "batch_size: 4 steps: 3").restore(path)) == []


def images(folder, names, settings=""):
    """A solver that reads the images of these names."""
    (folder / "list.txt").write_text("".join(f"{name}.png 0\n" for name in names))
    layers = f"""
layer {{ name: "images" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "{folder}/list.txt" batch_size: 2 {settings} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }}"""
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: "
                                  f"CPU net_param {{ {layers} }}"), snapshot_prefix=folder / "run")


def test_a_list_of_images_that_has_changed_is_told(tmp_path, caplog):
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(np.zeros((3, 2, 2), np.uint8), "png"))
    path = images(tmp_path, "abc").snapshot()
    assert warnings(caplog, lambda: images(tmp_path, "abc").restore(path)) == []
    for names, settings, before, now in (("ab", "", "records: 3", "records: 2"),
                                         ("abc", "shuffle: true", "shuffle: false", "shuffle: true")):
        assert warnings(caplog, lambda names=names, settings=settings:
                        images(tmp_path, names, settings).restore(path)) == [
            f"{path}: was written when images had {before}; now it has {now}. The place in the data moves: "
            f"the run goes on from the same batch number, which is elsewhere now"]


def test_a_database_that_has_grown_is_told(tmp_path, caplog):
    pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that reads such databases")

    def of(count):
        with new_database(tmp_path / f"db{count}", "LMDB") as put:
            for n in range(count):
                put(b"%d" % n, write_datum(np.zeros((1, 2, 2), np.uint8), 0))
        return md.Solver(parse_solver(f"""base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1
solver_mode: CPU net_param {{
layer {{ name: "digits" type: "Data" top: "data" top: "label"
  data_param {{ source: "{tmp_path}/db{count}" backend: LMDB batch_size: 2 }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }} }}"""),
                         snapshot_prefix=tmp_path / "run")

    path = of(4).snapshot()
    told, = warnings(caplog, lambda: of(5).restore(path))
    assert "was written when digits had records: 4; now it has records: 5" in told


GROWING = {
    "tokens": ("text", """layer { name: "text" type: "TextData" top: "x" top: "y" text_data_param {
        source: "F" vocabulary: "F.vocabulary" level: CHARACTER
        batch_size: 2 steps: 3 } }""", "ab" * 9, "abc"),
    "sentences": ("tags", """layer { name: "tags" type: "TaggedTextData" top: "x" top: "y"
        tagged_text_data_param { source: "F" batch_size: 2 } }""", "a O\n\nb O\n\n", "a O\n\n"),
    "pairs": ("pairs", """layer { name: "pairs" type: "ParallelTextData" top: "x" top: "m" top: "t" top: "y"
        parallel_text_data_param { source: "F" target: "F" batch_size: 2 source_steps: 3 target_steps: 3 } }
        layer { name: "quiet" type: "Silence" bottom: "m" bottom: "t" }""", "a b\nb\n", "a b\n"),
    "windows": ("windows", """layer { name: "windows" type: "WindowData" top: "x" top: "y"
        window_data_param { source: "F" batch_size: 2 } transform_param { crop_size: 2 } }""",
                "# 0\na.png\n3\n4\n4\n2\n1 1 0 0 3 3\n0 0 0 0 1 1\n",
                "# 1\na.png\n3\n4\n4\n1\n0 0 0 0 2 2\n")}


@pytest.mark.parametrize("counted", GROWING)
def test_a_text_that_has_grown_is_told(counted, tmp_path, caplog, monkeypatch):
    """The vocabulary stays the same: batch n is elsewhere in the text all the same."""
    monkeypatch.chdir(tmp_path)
    name, layer, text, more = GROWING[counted]
    Vocabulary(["<unk>", *"abc"], "CHARACTER").save("F.vocabulary")

    def of(content):
        (tmp_path / "F").write_text(content)
        return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 "
                                      f"solver_mode: CPU net_param {{ {layer} layer {{ name: 'all' type: "
                                      f"'Silence' bottom: 'x' bottom: 'y' }} }}"),
                         snapshot_prefix=tmp_path / "run")

    made = of(text)
    before = made.net.layers[name].place_settings()[counted]
    path = made.snapshot()
    assert warnings(caplog, lambda: of(text).restore(path)) == []
    told = [line for line in warnings(caplog, lambda: of(text + more).restore(path)) if "The place" in line]
    now = of(text + more).net.layers[name].place_settings()[counted]
    assert now > before
    assert told == [f"{path}: was written when {name} had {counted}: {before}; now it has {counted}: {now}. "
                    f"The place in the data moves: the run goes on from the same batch number, which is "
                    f"elsewhere now"]


class Letters(md.DataLayer):
    """Tokens of a user's own, no TextData: it has a vocabulary, and says where its batches begin."""

    token_tops = (0, 1)

    def setup(self):
        options = self.options(letters=str, batch_size=4)
        self.vocabulary = Vocabulary(["<unk>", *options["letters"]], "CHARACTER")
        indices = np.arange(24, dtype=np.float32) % len(self.vocabulary)
        return self.feed(ArrayRecords({"data": indices, "label": indices}, "letters"), options["batch_size"])

    def place_settings(self):
        return {"batch_size": self.batches.batch_size}


LETTERS = """
layer { name: "letters" type: "Letters" top: "data" top: "label"
  param_str: '{"letters": "%s", "batch_size": %d}' }
layer { name: "embed" type: "Embed" bottom: "data" top: "scores"
  embed_param { num_output: 4 input_dim: %d weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""


def letters(tmp_path, text="abc", size=4, rows=4, tests=""):
    base = "base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: CPU"
    return md.Solver(parse_solver(f"{base} train_net_param {{ {LETTERS % (text, size, rows)} }} {tests}"),
                     snapshot_prefix=tmp_path / "run")


def test_data_of_a_users_own_answers_as_a_text_does(tmp_path, caplog):
    with layer_types.forgetting():
        md.register_layer("Letters")(Letters)
        path = letters(tmp_path).snapshot()
        assert warnings(caplog, lambda: letters(tmp_path).restore(path)) == []
        vocabulary, places = warnings(caplog, lambda: letters(tmp_path, "bac", 6).restore(path))
        assert "another vocabulary than that of letters" in vocabulary
        assert "was written when letters had batch_size: 4; now it has batch_size: 6" in places
        with pytest.raises(ConfigError, match="the vocabulary of .letters. has 4 tokens; set input_dim: 4$"):
            letters(tmp_path, rows=3)
        with pytest.raises(ConfigError, match=r"test net 0: layer 'letters' has another vocabulary \(4 "
                           r"tokens\) than the "
                                              r"training net's \(4 tokens\): set the same vocabulary"):
            letters(tmp_path, tests=f"test_iter: 1 test_interval: 9 test_net_param {{ "
                    f"{LETTERS % ('cba', 4, 4)} }}")


def test_hdf5_files_mixed_or_not(tmp_path, caplog):
    """Resumed, a run equals one that was not; with other settings it is told."""
    def solver(settings):
        layers = f"""
layer {{ name: "files" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "{tmp_path}/list.txt" batch_size: 3 shuffle: true {settings} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }}"""
        return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 "
                                      f"solver_mode: CPU net_param {{ {layers} }}"),
                         snapshot_prefix=tmp_path / "run")

    def weights(one):
        return one.net.params["scores"]["weight"].data.copy()

    for number, count in enumerate((4, 7)):
        with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
            h5["data"] = np.random.default_rng(number).normal(size=(count, 3))
            h5["label"] = np.full(count, number)
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
    mixed = "shuffle_across_files: true"
    whole, first, again, other = solver(mixed), solver(mixed), solver(mixed), solver("")
    whole.step(9)
    first.step(5)
    path = first.snapshot()
    assert warnings(caplog, lambda: again.restore(path)) == []
    again.step(4)
    other.step(9)
    assert (weights(again) == weights(whole)).all() and (weights(other) != weights(whole)).any()
    assert warnings(caplog, lambda: solver("").restore(path)) == [
        f"{path}: was written when files had shuffle_across_files: true; now it has shuffle_across_files: "
        f"false. The place in the data moves: the run goes on from the same batch number, which is elsewhere "
        f"now"]
