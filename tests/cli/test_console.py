"""What comes from files is shown, never obeyed by the terminal; and no encoding breaks what is printed."""

import io
import logging
import shlex
import subprocess
import sys

import pytest

from minidrop.cli.console import RunLog, console, echo
from minidrop.errors import visible, visible_name

EVIL = r"\033]0;PWNED\007\033[2J\302\2332J"
SHOWN = r"\x1b]0;PWNED\x07\x1b[2J\x9b2J"


@pytest.mark.parametrize("text, expected", [
    ("a\x1b[2J", r"a\x1b[2J"), ("\x9b\x7f\r\b", r"\x9b\x7f\r\x08"), ("é 日本\tx\n", "é 日本\tx\n"),
    ("\u202eabc\u2066", r"\u202eabc\u2066"), ("plain \\n", "plain \\n"),
    ("\udcff", r"\udcff"),
])
def test_control_characters_are_escapes(text, expected):
    assert visible(text) == expected


def test_a_name_stays_on_its_line():
    assert visible_name("a\nb\tc") == r"a\nb\tc"


@pytest.fixture
def evil(tiny):
    """`tiny`, with names that clear the screen, and a drop, whose plan names them."""
    text = (tiny.folder / "net.prototxt").read_text()
    for name in ("ip1", "drop1", "accuracy", "loss"):
        text = text.replace(f'"{name}"', f'"{name}{EVIL}"')
    (tiny.folder / "net.prototxt").write_text(text)
    return tiny


def test_names_are_shown_by_every_command(evil, minidrop):
    weights = ["--weights", "out/snapshots/task_iter_10.h5"]
    train = ["train", "--solver", evil.solver, "--set", "max_iter=10", "--out", "out"]
    for arguments in (["check", evil.net], train,
                      ["test", "--model", evil.net, "--iterations", "1", *weights],
                      ["time", "--solver", evil.solver, "--iterations", "1"],
                      ["check", evil.net, "--set", r"layer.ip2.bottom=\x1b[2J"]):
        result = minidrop(*arguments)
        text = result.out + result.err
        assert not set(text) & {"\x1b", "\x07", "\x9b"} and (SHOWN in text or result.code)
    log = (evil.path / "out" / "train.log").read_text(encoding="utf-8")
    assert SHOWN in log and "\x1b" not in log


def test_a_stream_that_cannot_encode_a_name(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    echo("é \udcff")
    console.emit(logging.LogRecord("minidrop", logging.INFO, "", 0, "%s", ("é \udcff",), None))
    stream.flush()
    assert stream.buffer.getvalue() == rb"\xe9 \udcff" + b"\n" + rb"\xe9 \udcff" + b"\n"


@pytest.mark.parametrize("closed, shown", [(">&-", False), ("2>&-", True), ("<&- >&- 2>&-", False)])
def test_what_a_closed_stream_would_show_is_lost(tiny, closed, shown):
    command = f"{shlex.quote(sys.executable)} -m minidrop check {tiny.net} {closed}; echo code $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tiny.path)
    assert ("ip1" in done.stdout) == shown and done.stdout.endswith("code 0\n") and done.stderr == ""


def test_the_log_file_takes_names_that_are_no_text(tmp_path, monkeypatch):
    # What pytest captures goes from process to process, as text.
    monkeypatch.setattr(logging.getLogger("minidrop"), "propagate", False)
    with RunLog() as log:
        logging.getLogger("minidrop").info("é \udcff")
        log.open(tmp_path / "train.log")
    assert (tmp_path / "train.log").read_text(encoding="utf-8").endswith("é \\udcff\n")


@pytest.mark.parametrize("arguments, option", [
    (["train", "--solver", "s", "--resume", ""], "--resume"),
    (["train", "--solver", "s", "--out", ""], "--out"),
    (["train", "--solver", "s", "--weights", ""], "--weights"), (["train", "--solver", ""], "--solver"),
    (["train", "--solver", "s", "--dropout", ""], "--dropout"), (["check", "n", "--stage", ""], "--stage"),
    (["check", "n", "--set", ""], "--set"), (["time", "--model", "n", "--compare", ""], "--compare"),
    (["patterns", "--png", ""], "--png"), (["devices", "--gpu", ""], "--gpu"),
])
def test_an_empty_option_is_wrong_usage(arguments, option, minidrop):
    result = minidrop(*arguments)
    assert result.code == 2 and f"{option} is empty (a shell variable that is not set?)" in result.err


def test_an_empty_prompt_is_none(minidrop):
    assert "is empty" not in minidrop("generate", "--model", "n", "--prompt", "").err
