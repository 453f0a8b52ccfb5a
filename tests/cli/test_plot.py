"""minidrop plot: what is read of runs and logs, charts of characters, pictures; and shell completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidrop.apps.curves import Curves, read_curves
from minidrop.cli.curve_plots import text_curves
from minidrop.errors import DataError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two run folders: a loss that falls from 4 to 1 and an accuracy that rises, 100 iterations."""
    monkeypatch.chdir(tmp_path)
    for name, scale in (("first", 1), ("second", 2)):
        Path(name).mkdir()
        lines = []
        for i in range(0, 101, 10):
            lines.append({"iteration": i, "phase": "TRAIN",
                          "values": {"loss": scale * (4 - 0.03 * i), "lr": 0.1}})
            if i % 50 == 0:
                lines.append({"iteration": i, "phase": "TEST", "net": 0,
                              "values": {"loss": scale * 2.0, "accuracy": i / 100, "each": [0.25, None]}})
        Path(name, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_what_is_read_of_a_run(runs):
    curves = read_curves("first")
    assert curves.name == "first" and list(curves.points) == ["loss", "lr", "accuracy", "each[0]", "each[1]"]
    assert curves.points["accuracy"] == {"test": [(0, 0.0), (50, 0.5), (100, 1.0)]}
    assert len(curves.points["loss"]["train"]) == 11 and np.isnan(curves.points["each[1]"]["test"][0][1])
    assert read_curves("first/metrics.jsonl") == curves
    with open("first/metrics.jsonl", "a") as file:
        file.write('{"iteration": 1')        # a training writes it right now
    assert read_curves("first") == curves


def test_a_real_run_and_its_log_say_the_same(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu").code == 0
    run, log = read_curves("run"), read_curves("run/train.log")
    assert set(run.points) == set(log.points) == {"loss", "lr", "accuracy"}
    for name in run.points:
        for phase, points in run.points[name].items():
            np.testing.assert_allclose(log.points[name][phase], points, rtol=1e-5)


@pytest.mark.parametrize("content, message", [
    ("", "nothing is recorded yet"), ("[]\n", ":1: expected a line such as"),
    ('{"iteration": 1, "phase": "DEV", "values": {}}\n', "another phase"),
    ('{"iteration": 1, "phase": "TEST", "values": {"a": "b"}}\n', ":1: expected a line such as")])
def test_other_files(tmp_path, content, message):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_curves(tmp_path)


def test_files_that_are_not_there(runs, minidrop):
    for arguments, message in ((["nowhere"], "nowhere"), (["."], "metrics.jsonl: cannot be read"),
                               (["first", "--metric", "los"], "did you mean 'loss'?")):
        done = minidrop("plot", *arguments)
        assert done.code == 1 and message in done.err and done.out == ""


@pytest.mark.parametrize("columns", [70, 100])
def test_charts_in_the_terminal(runs, minidrop, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    charts = minidrop("plot", "first", "second").out.rstrip("\n").split("\n\n")
    assert [chart.split()[0] for chart in charts] == ["loss", "accuracy", "each[0]", "each[1]:", "lr"]
    assert max(len(line) for chart in charts for line in chart.split("\n")) <= columns
    assert charts[3] == "  each[1]: no finite value"
    loss = charts[0].split("\n")
    assert loss[1].split()[0] == "8" and loss[11].split()[0] == "1" and loss[6].split()[0] == "4.5"
    assert [line.strip() for line in loss[-4:]] == [
        "█ first, train 1 at the end", "▓ first, test 2 at the end", "▒ second, train 2 at the end",
        "░ second, test 4 at the end"]
    alone = minidrop("plot", "first", "--metric", "accuracy").out.split("\n")
    assert alone[0] == "  accuracy  █ test 1 at the end"
    # A straight line: every column has a mark, and they rise from the lowest row to the highest.
    body = [line.partition("┤")[2] for line in alone[1:12]]
    width = max(map(len, body))
    rows = [[y for y, line in enumerate(body) if line[x:x + 1].strip()] for x in range(width)]
    assert all(rows) and rows[0] == [10] and rows[-1][0] == 0
    assert [min(one) for one in rows] == sorted((min(one) for one in rows), reverse=True)


def test_plain_characters_where_the_encoding_lacks_others(runs):
    done = subprocess.run([sys.executable, "-m", "minidrop", "plot", "first", "--metric", "loss"],
                          capture_output=True, env={
                              **os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "70",
                              "PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "\\u" not in text and "# train 1 at the end" in text and "      +----" in text


def test_a_scale_of_logarithms_and_odd_values():
    curves = Curves("c", {"loss": {"train": [(0, 100.0), (1, 1.0), (2, -1.0), (3, np.nan), (4, 0.01)]},
                          "flat": {"train": [(5, 2.0), (5, 2.0)]}})
    lines = text_curves([curves], "loss", True, 60).split("\n")
    assert [lines[i].split()[0] for i in (1, 6, 11)] == ["100", "1", "0.01"]
    assert text_curves([curves], "flat", width=60).count("█") == 2       # the point, and the legend
    assert max(map(len, text_curves([curves], "flat", width=10).split("\n"))) <= 40


@pytest.mark.parametrize("name", ["p.png", "p.svg"])
def test_pictures(runs, minidrop, name):
    pytest.importorskip("matplotlib", reason="matplotlib (pip install 'minidrop[plot]') is not installed")
    done = minidrop("plot", "first", "second", "--metric", "loss", "--out", name, "--log")
    assert (done.code, done.out) == (0, f"wrote {name}\n"), done.err
    content = Path(name).read_bytes()
    assert content.startswith(b"\x89PNG" if name == "p.png" else b"<?xml") and len(content) > 10000
    both = minidrop("plot", "first", "--out", name, "--terminal", "--metric", "lr").out
    assert both.startswith("  lr") and both.endswith(f"wrote {name}\n")


def test_pictures_that_cannot_be_drawn(runs, minidrop, monkeypatch):
    done = minidrop("plot", "first", "--out", "p.gif")
    assert done.code == 1 and "expected a name that ends with .png, .pdf, .svg" in done.err
    monkeypatch.setattr("minidrop.cli.plots.find_spec", lambda name: None)
    done = minidrop("plot", "first", "--out", "p.png")
    assert done.code == 1 and "--out draws with matplotlib, which is not installed" in done.err
    line = {"iteration": 0, "phase": "TEST", "values": {"each": [0.5] * 21}}
    Path("first/metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert "there are 21 quantities, and a picture shows at most 20" in minidrop("plot", "first").err


@pytest.mark.parametrize("words, expected", [
    ("minidrop pr", {"predict"}), ("minidrop p", {"plot", "predict", "patterns", "parse_log"}),
    ("minidrop predict --top", {"--top-k"}), ("minidrop data mn", {"mnist"}),
    ("minidrop compare --dev", {"--device"}), ("minidrop nonsense --x", set())])
def test_shells_complete_commands(words, expected):
    """As the script of `_MINIDROP_COMPLETE=bash_source minidrop` asks."""
    from programs import run_minidrop
    asked = {**os.environ, "_MINIDROP_COMPLETE": "bash_complete", "COMP_WORDS": words,
             "COMP_CWORD": str(len(words.split()) - 1)}
    done = run_minidrop(environment=asked)
    assert {line.partition(",")[2] for line in done.stdout.splitlines() if line} == expected
    assert "Traceback" not in done.stderr and done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_shells(shell):
    from programs import run_minidrop
    done = run_minidrop(environment={**os.environ, "_MINIDROP_COMPLETE": f"{shell}_source"})
    assert "_MINIDROP_COMPLETE" in done.stdout and "minidrop" in done.stdout
