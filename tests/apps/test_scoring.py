"""LineScorer and `minidrop predict` of language models: against the model read token by token."""

import csv
import io
import json
import sys

import numpy as np
import pytest

import minidrop as md
from minidrop.apps.scoring import LineScorer
from minidrop.config import parse_net
from minidrop.errors import ConfigError, NonFiniteError
from minidrop.solver import run_test

TEXT = "abac\nabad ca\n" * 30
DATA = """layer { name: "text" type: "TextData" top: "data" top: "label" %s
  text_data_param { source: "text.txt" level: %s batch_size: 3 steps: %d %s } }
layer { name: "embed" type: "Embed" bottom: "data" top: "x" embed_param { input_dim: 20 num_output: 8
        weight_filler { type: "gaussian" std: 1 } } }
"""
LSTM = """layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
        recurrent_param { num_output: 8 weight_filler { type: "gaussian" std: 0.5 } } }
"""
ATTENTION = """
layer { name: "position" type: "Position" bottom: "x" top: "p" position_param {
        weight_filler { type: "gaussian" std: 1 } } }
layer { name: "attention" type: "Attention" bottom: "p" bottom: "p" bottom: "p" top: "h"
        attention_param { num_heads: 2 causal: true dropout_ratio: 0.5 } }
"""
HEAD = """layer { name: "scores" type: "InnerProduct" bottom: "h" top: "scores" inner_product_param {
        num_output: 20 axis: 2 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
        softmax_param { axis: 2 } }
layer { name: "perplexity" type: "Perplexity" bottom: "scores" bottom: "label" top: "perplexity"
        softmax_param { axis: 2 } include { phase: TEST } }
"""
NETS = {"characters": DATA % ('top: "cont"', "CHARACTER", 5, "") + LSTM + HEAD,
        "words": DATA % ('top: "cont"', "WORD", 5, "") + LSTM + HEAD,
        "sentences": DATA % ('top: "cont"', "WORD", 5, "sentences: true") + LSTM + HEAD,
        "attention": DATA % ("", "CHARACTER", 6, "") + ATTENTION + HEAD}
LINES = ["abac", "", "abad ca", "a", "abacabadabacabadabacabad", "xyz a", "ca abad abac"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def model_of(name):
    return md.TextModel(parse_net(NETS[name], "lm.prototxt"), (), "cpu", "float64")


def by_hand(model, line):
    """The log-probability of a line by the model itself, which reads one token after the other."""
    *tokens, = model.vocabulary.encode(line + "\n").tolist()
    last, memory, total = tokens[-1], None, 0.0
    for token in tokens:
        scores, memory = scores_of(model, last, memory)
        total += scores[token] - np.log(np.exp(scores).sum())
        last = token
    return len(tokens), total


def scores_of(model, token, memory):
    """All classes' scores behind a token: those beyond the vocabulary belong to the softmax, too."""
    _, memory = model._read([token], memory)
    return model.net.blobs["scores"].numpy().reshape(-1, 20)[-1].astype(np.float64), memory


@pytest.mark.parametrize("name", NETS)
def test_against_the_model_token_by_token(here, name):
    model = model_of(name)
    wanted = [by_hand(model, line) for line in LINES]
    for streams, window in ((1, 0), (3, 0), (16, 0), (2, 1)):
        scorer = LineScorer(model, streams)
        found = list(scorer.scores(LINES, window))
        assert [one.tokens for one in found] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([one.log_probability for one in found], [total for _, total in wanted],
                                   rtol=1e-9)
        np.testing.assert_allclose(found[0].perplexity, np.exp(-wanted[0][1] / wanted[0][0]), rtol=1e-9)
        scorer.close()
    assert found[5].unknown == (3 if model.vocabulary.level == "CHARACTER" else 2)
    assert len(LINES[4]) > 3 * model.context > 0 or name != "attention"
    model.close()


def test_perplexity_is_that_of_the_layer(here):
    """Sentences of one text, each in a stream of its own: the metric of the test net says the same."""
    text = NETS["sentences"].replace("softmax_param", "loss_param { ignore_label: -1 } softmax_param")
    net = md.Net(parse_net(text, "lm.prototxt"), "TEST", "cpu", "float64", seed=0)
    model = model_of("sentences")
    net.share_weights(model.net)
    with net.one_pass() as batches:
        wanted = run_test(net, batches)["perplexity"]
    found = list(LineScorer(model).scores(TEXT.splitlines()))
    assert sum(one.tokens for one in found) == len(TEXT.replace("\n", " . ").split())
    total = sum(one.log_probability for one in found) / sum(one.tokens for one in found)
    np.testing.assert_allclose(np.exp(-total), wanted, rtol=1e-9)


def test_mistakes(here):
    model = model_of("words")
    with pytest.raises(ConfigError, match="streams must be at least 1"):
        LineScorer(model, 0)
    scorer = LineScorer(model)
    model.net.params["scores"]["bias"].data[3] = np.nan
    with pytest.raises(NonFiniteError, match="hold a NaN"):
        list(scorer.scores(["a b"]))


# -- the command ---------------------------------------------------------------------------------------------
@pytest.fixture
def predict(here, capsys):
    from minidrop.cli import run
    (here / "lm.prototxt").write_text(NETS["words"])
    net = md.Net.from_file("lm.prototxt", phase="TEST", device="cpu", seed=1)
    net.save("lm.h5")
    (here / "lines.txt").write_text("\n".join(LINES) + "\n")

    def call(*arguments, model="lm.prototxt", weights="lm.h5"):
        code = run(["predict", "--model", model, "--weights", weights, "--device", "cpu",
                    *map(str, arguments)])
        return (code, *capsys.readouterr())
    return call


def test_lines_of_files_and_of_stdin(here, predict, monkeypatch):
    code, out, err = predict("lines.txt")
    head, *rows = csv.reader(io.StringIO(out))
    assert (code, err) == (0, "") and head == ["record", "tokens", "unknown", "log_probability", "perplexity"]
    assert [row[0] for row in rows] == [str(i) for i in range(1, len(LINES) + 1)]
    assert [int(row[1]) for row in rows] == [len(line.split()) + 1 for line in LINES]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((here / "lines.txt").read_bytes())))
    assert predict("-") == (code, out, err)
    _, both, _ = predict("lines.txt", "lines.txt", "--format", "jsonl", "--batch-size", 2)
    both = [json.loads(line) for line in both.splitlines()]
    assert [one["record"] for one in both[::len(LINES)]] == ["lines.txt:1"] * 2
    np.testing.assert_allclose([one["log_probability"] for one in both[:len(LINES)]],
                               [float(row[3]) for row in rows], rtol=1e-5)
    code, out, err = predict("lines.txt", "--out", "p.npz")
    tokens = sum(len(line.split()) + 1 for line in LINES)
    assert code == 0 and out.startswith(f"p.npz: {len(LINES)} lines of {tokens} tokens, perplexity ")
    with np.load("p.npz") as arrays:
        assert sorted(arrays.files) == ["log_probability", "perplexity", "tokens", "unknown"]
        of_all = np.exp(-arrays["log_probability"].sum() / arrays["tokens"].sum())
    assert out.split()[-1] == f"{of_all:.6g}"


def test_what_does_not_fit_text(here, predict):
    for option, value in (("--top-k", 2), ("--shape", "3,2"), ("--output", "scores"), ("--columns", "2-3"),
                          ("--channels", "rgb"), ("--size", "2,2")):
        code, out, err = predict("lines.txt", option, value)
        assert code == 2 and f"{option}: the net reads text" in err and out == ""
    (here / "empty.txt").write_text("")
    code, _, err = predict("empty.txt", "--out", "p.csv")
    assert code == 1 and "expected at least one line of text" in err and not (here / "p.csv").exists()
    code, _, err = predict("none.txt")
    assert code == 1 and "none.txt" in err and err.count("\n") == 1
    (here / "binary.txt").write_bytes(b"abc\n\xff\xfe\n")
    code, _, err = predict("binary.txt")
    assert code == 1 and "binary.txt:2: expected text in UTF-8" in err


@pytest.mark.parametrize("kind, tops, command", [
    ("TaggedTextData", ("data", "label", "cont"), "`minidrop tag`"),
    ("ParallelTextData", ("source", "mask", "target", "label"), "`minidrop translate`")])
def test_nets_of_other_texts_name_their_command(here, predict, kind, tops, command):
    tops = " ".join(f'top: "{top}"' for top in tops)
    (here / "net.prototxt").write_text(f'layer {{ name: "t" type: "{kind}" {tops} }}')
    code, _, err = predict("lines.txt", model="net.prototxt")
    assert code == 1 and err.count("\n") == 1
    assert f"layer 't' ({kind}) reads texts, no records of numbers; use {command}" in err
