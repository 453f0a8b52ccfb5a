"""What all commands have in common: help, exit codes, JSON, broken pipes, signals, and no screen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import minidrop.cli
from minidrop import Net
from minidrop.cli.values import as_json

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = minidrop.cli.commands.commands
PRINTING = {        # a quick call of each command that prints by itself, where the tiny net is
    "check": ["check", "NET"], "compare": ["compare", "SOLVER", "--iterations", "2", "--device", "cpu"],
    "data": ["data", "list"], "devices": ["devices"],
    "find_lr": ["find_lr", "--solver", "SOLVER", "--iterations", "10", "--device", "cpu"],
    "init": ["init"], "patterns": ["patterns", "--family", "row", "--units", "16", "--iterations", "10"],
    "predict": ["predict", "--model", "NET", "--weights", "w.h5", "--device", "cpu", "task/train.h5"],
    "summary": ["summary", "NET"],
    "test": ["test", "--model", "NET", "--weights", "w.h5", "--device", "cpu"],
    "time": ["time", "--model", "NET", "--iterations", "2", "--device", "cpu"],
}
WITH_JSON = sorted(name for name, command in COMMANDS.items()
                   if any("--json" in option.opts for option in command.params))


@pytest.fixture
def called(tiny, minidrop):
    """Call a command by its name in PRINTING, with more arguments."""
    net = Net.from_file(tiny.net, phase="TEST", device="cpu", seed=1)
    net.save("w.h5")
    net.close()

    def call(name, *more):
        words = {"NET": tiny.net, "SOLVER": tiny.solver}
        return minidrop(*[words.get(word, word) for word in PRINTING[name]], *more)
    return call


def test_every_command_that_prints_a_table_for_programs_has_json():
    assert WITH_JSON == sorted({"check", "compare", "data", "devices", "find_lr", "init", "patterns",
                                "summary", "test", "time"})


@pytest.mark.parametrize("columns", [70, 200])
def test_help_of_every_command_fits_the_screen(minidrop, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("", *COMMANDS):
        done = minidrop(*[name] * bool(name), "--help")
        assert (done.code, done.err) == (0, ""), name
        wide = [line for line in done.out.splitlines() if len(line) > min(columns, 110)]
        assert wide == [], name


@pytest.mark.parametrize("arguments, expected", [
    (["check", "NET", "--set", "layer.drop1.approx_dropout_param.dropout_ratio=a\nb"], 1),
    (["check", "NET", "--set", "layer.a\nb.x=1"], 1), (["check", "NET", "--dropout", "approx\n"], 1),
    (["check", "no\nfile"], 1), (["time", "--model", "no\nfile"], 1), (["no\ncommand"], 2),
    (["time", "--model", "NET", "--gpu", "a\nb"], 2), (["check", "NET", "--level", "1\n2\x1b[2J"], 2)])
def test_a_line_end_in_a_value_ends_no_line_of_the_error(tiny, minidrop, arguments, expected):
    done = minidrop(*[tiny.net if word == "NET" else word for word in arguments])
    errors = [line for line in done.err.splitlines() if line.lower().startswith("error: ")]
    rest = done.err[done.err.index(errors[0]) + len(errors[0]):].splitlines()[1:]
    assert done.code == expected and len(errors) == 1 and rest in ([], ["1 mistake"]), done.err
    assert "\\n" in errors[0] and "\x1b" not in done.err


def test_wrong_usage_of_every_command(minidrop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS:
        done = minidrop(name, "--no-such-option")
        assert done.code == 2 and done.out == "" and "no-such-option" in done.err, name
        needed = [option for option in COMMANDS[name].params if option.required]
        if needed:
            done = minidrop(name)
            assert done.code == 2 and done.out == "" and "Missing" in done.err, name
    assert list(tmp_path.iterdir()) == []


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("name", WITH_JSON)
def test_json_is_all_that_is_on_stdout(called, name):
    done = called(name, "--json")
    assert done.code == 0
    found = json.loads(done.out, parse_constant=refuse)
    assert found
    if name == "check":
        assert [net["title"] for net in found[0]["nets"]] == ["phase TRAIN", "phase TEST"]
        assert found[0]["mistakes"] == [] and "drop1" in " ".join(found[0]["nets"][0]["plan"])
    elif name == "devices":
        assert found["cpu"]["cores"] >= 1 and isinstance(found["gpus"], list)


def test_json_of_mistakes_and_of_losses_that_are_no_numbers(tiny, minidrop):
    done = minidrop("check", tiny.net, "none.prototxt", "--json")
    good, bad = json.loads(done.out)
    assert done.code == 1 and good["mistakes"] == [] and bad["nets"] == []
    assert "none.prototxt: there is no such file" in bad["mistakes"][0]
    losses = {"losses": (1.0, float("nan")), "best": [float("inf")]}
    assert json.loads(as_json(losses), parse_constant=refuse) == {"losses": [1.0, None], "best": [None]}
    assert minidrop("devices", "--mpi", "--json").code == 2


@pytest.mark.parametrize("name", PRINTING)
def test_output_that_is_no_screen_has_no_codes_and_no_bar(called, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    done = called(name)
    assert done.code == 0 and done.out.endswith("\n")
    assert not {"\r", "\x1b", "\b"} & set(done.out + done.err), name


@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_that_leaves_is_no_error_to_report(called, name, monkeypatch, capsys):
    """As with `| head -1`: exit code 1, not a word, and no traceback."""
    called("init")          # nothing is imported or compiled for the first time below
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as caught:
            called(name)
        monkeypatch.undo()
        assert caught.value.code == 1 and capsys.readouterr().err == ""
        with pytest.raises(BrokenPipeError):
            closed.flush()
            closed.write("x")
            closed.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)        # so that it can be closed


LONG = {
    "find_lr": ["find_lr", "--solver", "task/solver.prototxt", "--set", "iter_size=100000000"],
    "predict": ["predict", "--model", "lm.prototxt", "--weights", "lm.h5", "-", "--out", "p.csv"],
}
READY = ("import sys; from minidrop.cli import main; print('ready', flush=True); sys.argv[0] = 'minidrop'; "
         "main()")
LM = """
layer { name: "text" type: "TextData" top: "data" top: "label" text_data_param { source: "text.txt"
        batch_size: 2 steps: 3 } }
layer { name: "embed" type: "Embed" bottom: "data" top: "x" embed_param { input_dim: 9 num_output: 4 } }
layer { name: "scores" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 9
        axis: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss"
        softmax_param { axis: 2 } }
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("name, number", [
    ("find_lr", "SIGINT"), ("predict", "SIGTERM"),
    pytest.param("find_lr", "SIGTERM", marks=pytest.mark.full),
    pytest.param("predict", "SIGINT", marks=pytest.mark.full)])
def test_a_signal_ends_it_with_one_line(tiny, name, number):
    """And what is done of a file is not left under its name, where an older one stays."""
    (tiny.path / "text.txt").write_text("a b c d e f g\n" * 9)
    (tiny.path / "lm.prototxt").write_text(LM)
    Net.from_file("lm.prototxt", phase="TEST", device="cpu").save("lm.h5")
    (tiny.path / "p.csv").write_text("old")
    child = subprocess.Popen(
        [sys.executable, "-c", READY, *LONG[name], "--device", "cpu"], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MINIDROP_THREADS": "1", "OMP_NUM_THREADS": "1"})
    assert child.stdout.readline() == "ready\n"
    if name == "predict":
        child.stdin.write("a b\n" * 300)
        child.stdin.flush()
        end = time.monotonic() + 120
        while not list(tiny.path.glob(".minidrop-*.part")):
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    else:
        time.sleep(1)
    assert child.poll() is None
    child.send_signal(getattr(signal, number))
    out, err = child.communicate(timeout=120)
    lost = "; not written: p.csv" if name == "predict" else ""
    assert (child.returncode, out, err) == (128 + getattr(signal, number), "", f"stopped by {number}{lost}\n")
    assert (tiny.path / "p.csv").read_text() == "old" and not list(tiny.path.glob(".minidrop-*"))


def test_help_says_what_every_command_does():
    for name, command in COMMANDS.items():
        assert isinstance(command, click.Command) and command.help, name
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.help, f"{name} {option.opts[0]}"


def test_a_count_has_an_end(called, minidrop):
    """A mistyped number is refused at once; without an end it would run for years."""
    for command, option in (("compare", "--seeds"), ("compare", "--block"), ("time", "--iterations"),
                            ("find_lr", "--iterations"), ("test", "--mc"), ("test", "--seed"),
                            ("patterns", "--iterations"), ("predict", "--top-k"), ("test", "--iterations")):
        done = called(command, option, "9" * 25)
        assert done.code == 2 and f"{'9' * 25} is not in the range" in done.err, (command, option)
        assert "<=" in done.err.splitlines()[-1]        # what the range of --help, x>=0, leaves out
    assert called("predict", "--columns", "9" * 5000).code == 2
    done = minidrop("train", "--solver", "x", "--gpu", "9" * 5000)
    assert done.code == 2 and "expected the number of a GPU, or all" in done.err


def test_time_names_the_network_file_that_it_cannot_read(minidrop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = minidrop("time", "--model", "no_such.prototxt")
    assert (done.code, done.err) == (1, "error: no_such.prototxt: there is no such file\n")
    Path(os.fsdecode(b"\xff.prototxt")).write_text('name: "a"')
    done = minidrop("time", "--model", os.fsdecode(b"\xff.prototxt"))
    assert done.code == 1 and "\\udcff.prototxt: the name of a network file should be text" in done.err


@pytest.mark.parametrize("arguments, named", [
    (["find_lr", "--solver", "SOLVER", "--ema"], "--ema: says how --weights is read"),
    (["train", "--solver", "SOLVER", "--ema"], "--ema: says how --weights is read"),
    (["train", "--solver", "SOLVER", "--resume", "x.h5", "--skip-mismatched"],
     "--skip-mismatched: a snapshot to go on from must fit"),
    (["patterns", "--search-table", "--png", "p.png"], "--png: the table of --search-table has rates"),
    (["patterns", "--search-table", "--rate", "0.3"], "--rate: the table of --search-table has rates"),
    (["devices", "--mpi", "--gpu", "0"], "--gpu: is for the devices of this machine"),
    (["export", "--model", "NET", "--weights", "w.h5", "--onnx", "o.onnx", "--fixed-batch", "--batch", "N"],
     "--batch: with --fixed-batch that axis has a length and no name"),
    (["translate", "--model", "NET", "--weights", "w.h5", "--bleu-tokenize", "13a"],
     "--bleu-tokenize: says how --bleu takes sentences apart"),
    (["predict", "PREDICT", "--columns", "2-5"], "--columns: is for .csv and .tsv files"),
    (["predict", "PREDICT", "--channels", "rgb"], "--channels: is for images"),
    (["predict", "PREDICT", "--size", "4,4"], "--size: is for images"),
    (["predict", "PICTURES", "--shape", "3,4,4"], "--shape: is for numbers in a row")])
def test_an_option_that_would_do_nothing_is_refused(called, minidrop, tiny, arguments, named):
    (tiny.path / "pictures").mkdir()
    words = {"NET": [tiny.net], "SOLVER": [tiny.solver], "PREDICT": PRINTING["predict"][1:],
             "PICTURES": ["--model", "NET", "--weights", "w.h5", "pictures"]}
    spelled = [tiny.net if part == "NET" else part for word in arguments for part in words.get(word, [word])]
    done = minidrop(*spelled)
    assert (done.code, done.out) == (2, "") and named in done.err
