"""minidrop translate: from stdin to stdout, BLEU, progress, and what is refused without a traceback."""

import gzip

import pytest
from click.testing import CliRunner

import minidrop as md
from minidrop.cli import run
from minidrop.config import parse_net

NET = """
layer { name: "pairs" type: "ParallelTextData" top: "s" top: "m" top: "t" top: "l" top: "sc"
        parallel_text_data_param { source: "source.txt" target: "target.txt" batch_size: 2 source_steps: 6
                                   target_steps: 6 } }
layer { name: "se" type: "Embed" bottom: "s" top: "se" embed_param { input_dim: 7 num_output: 4
        weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "enc" type: "LSTM" bottom: "se" bottom: "sc" top: "enc" recurrent_param { num_output: 3
        bidirectional: true weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "te" type: "Embed" bottom: "t" top: "te" embed_param { input_dim: 7 num_output: 4
        weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "dec" type: "AttentionDecoder" bottom: "te" bottom: "enc" bottom: "m" top: "dec" decoder_param {
        num_output: 6 weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "scores" type: "InnerProduct" bottom: "dec" top: "scores" inner_product_param { axis: 2
        num_output: 7 weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "l" top: "loss"
        softmax_param { axis: 2 } loss_param { ignore_label: -1 } }
"""
INPUT = "a b c\n\nb q\nc c a\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "source.txt").write_text("a b c\nb c\n")
    (tmp_path / "target.txt").write_text("x y z\ny z\n")
    md.Net(parse_net(NET), "TEST", "cpu").save(tmp_path / "weights.caffemodel")
    return tmp_path


@pytest.fixture
def translate(files, capfd, monkeypatch):
    """translate(input, *options) -> (exit code, stdout, stderr)."""
    import io
    import sys

    def command(text, *options):
        stream = io.TextIOWrapper(io.BytesIO(text if isinstance(text, bytes) else text.encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        code = run(["translate", "--model", "net.prototxt", "--weights", "weights.caffemodel",
                    "--device", "cpu", *options])
        return (code, *capfd.readouterr())
    return command


def test_a_line_for_each_line(translate, files):
    code, out, _ = translate(INPUT)
    lines = out.split("\n")
    assert code == 0 and len(lines) == 5 and lines[1] == lines[4] == ""
    assert all(set(line.split()) <= set("x y z a b c q".split()) for line in lines)
    (files / "in.gz").write_bytes(gzip.compress(INPUT.encode()))
    for options in (["--input", "in.gz"], ["--batch-size", "1"]):
        assert translate(INPUT if "--input" not in options else "", *options)[1] == out
    assert translate(INPUT, "--beam", "3", "--length-penalty", "2", "--max-length", "2")[1].count("\n") == 4


def test_bleu_and_progress(translate, files):
    pytest.importorskip("sacrebleu", reason="sacrebleu (the extra `bleu`) computes BLEU")
    out = translate(INPUT)[1]
    (files / "reference.txt").write_text(out)
    code, again, err = translate(INPUT, "--bleu", "reference.txt", "--progress")
    assert code == 0 and again == out and "BLEU = " in err and "sentence" in err
    (files / "reference.txt").write_text("x\n")
    code, _, err = translate(INPUT, "--bleu", "reference.txt")
    assert code == 1 and "expected a reference for each of the 4 translations, got 1" in err


def test_mistakes(translate, files, monkeypatch):
    for text, options, message in (
            (b"a b\na \xff\n", [], "stdin:2: expected text in UTF-8, got the byte 0xFF"),
            (b"a " * (1 << 20), [], "stdin:1: expected a line of at most 1048576 bytes"),
            ("", ["--input", "nothing.txt"], "nothing.txt"),
            ("", ["--bleu", "nothing.txt"], "nothing.txt"),
            ("", ["--weights", "nothing.h5"], "nothing.h5")):
        code, _, err = translate(text, *options)
        assert code == 1 and message in err and "Traceback" not in err
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    code, _, err = translate("a\n", "--bleu", "source.txt")
    assert code == 1 and 'pip install "minidrop[bleu]"' in err


def test_help_names_it():
    from minidrop.cli import commands
    assert "translate" in CliRunner().invoke(commands, ["--help"]).output
