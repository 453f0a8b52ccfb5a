"""Snapshots know the vocabulary that a net was trained on: weights that meet another one are not silently used."""

import logging

import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.data import Vocabulary
from minidrop.snapshot import read_snapshot, write_snapshot

NET = """
layer {{ name: "text" type: "TextData" top: "data" top: "label" top: "cont"
  text_data_param {{ source: "{source}" level: CHARACTER vocabulary_size: 5 batch_size: 2 steps: 3 }} }}
layer {{ name: "embed" type: "Embed" bottom: "data" top: "embed"
  embed_param {{ num_output: 4 input_dim: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "embed" top: "scores"
  inner_product_param {{ num_output: 5 axis: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" softmax_param {{ axis: 2 }} }}
"""


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "one.txt").write_text("abababaabcabab" * 3)
    (tmp_path / "other.txt").write_text("bababacbabbabb" * 3)
    return tmp_path


def solver(source):
    return md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' max_iter: 9 random_seed: 1 solver_mode: CPU "
                                  f"net_param {{ {NET.format(source=source)} }}"), snapshot_prefix=f"{source}.run")


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
            f"{path}: its net was trained on another vocabulary than that of text: the tokens have other indices now. Name "
            f"the same text, or the .vocabulary file that was saved of it"]


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
