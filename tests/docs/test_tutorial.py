"""The tutorial, followed from top to bottom with shorter trainings, and the commands of how-to pages; what
`check` and `patterns` print is what the page says."""

import os
import re
import shlex
from pathlib import Path

import pytest
from pages import ROOT, blocks, blocks_of, run_block
from programs import run_here, run_minidrop

PAGE = ROOT / "docs" / "tutorial.md"
SHORT = [       # (what a command begins with, what is added to shorten it)
    ("data digits", ""), ("check models/lenet", None), ("check", ""), ("patterns", ""),
    ("test ", "--iterations 1 --mc 2"),
    ("train --solver models/digits_mlp/solver.prototxt --out runs/digits --resume",
     "--set max_iter=12 --set test_interval=6"),
    ("train --solver models/digits_mlp/solver.prototxt --out", "--set max_iter=6 --set test_interval=6"),
    ("train --solver models/digits_mlp/solver.prototxt --set", "--set max_iter=2 --set test_interval=0"),
    ("find-lr", "--iterations 10"), ("report", ""),
    ("train --solver models/char_lstm/solver.prototxt --out",
     "--set max_iter=1 --set test_interval=1 --set test_iter=1"),
    ("train --solver models/char_lstm/solver.prototxt --dropout", "--set max_iter=1 --set test_interval=0"),
    ("train --solver mine", "--set max_iter=2 --set test_iter=1 --set test_interval=1"),
    ("generate", ""), ("devices", ""),
    ("train --solver models/lenet", None),      # None: needs MNIST; or takes times, and is in tests/cli
    ("time", None), ("compare", None),
]
SAYS = ("check", "patterns")                    # commands that print the same on every machine


def is_said(expected, got):
    """Whether `got` is `expected`, where "..." stands for anything, also for lines."""
    pattern = re.escape(expected.rstrip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, got.strip("\n").rstrip(), re.S) is not None


def test_what_dots_stand_for():
    assert is_said("a\n...\nd\n", "a\nb\nc\nd\n\n") and is_said("a (b, ...)\n", "a (b, c)\n")
    assert not is_said("a\nb\n", "a\nc\n") and not is_said("a\n...\nd\n", "a\nb\n")


def followed(page, command, output):
    """Run a command of the page, shortened; compare what it prints where that is the same everywhere."""
    begin = next((text for text, _ in SHORT if command.startswith(text)), "")
    assert begin, f"{page.name}: how is `minidrop {command}` shortened?"
    more = dict(SHORT)[begin]       # None: not run
    if more is None:
        return
    done = run_minidrop(*shlex.split(f"{command} {more}"))
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert done.returncode == (1 if output and "mistakes" in output else 0), f"{command}: {printed}"
    if output and command.split()[0] in SAYS:
        assert is_said(output, printed), f"minidrop {command} printed:\n{printed}"


def test_tutorial(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path / "cache"))
    os.symlink(ROOT / "models", "models")
    os.mkdir("mine")
    text, programs = PAGE.read_text(encoding="utf-8"), {}
    lines = text.split("\n")
    for block in blocks(text):
        before = "\n".join(lines[:block.line - 1])
        own = re.findall(r"`(mine/[\w.]+)`", before)
        if block.kind == "prototxt" and own and own[-1].endswith(".prototxt") and not Path(own[-1]).exists():
            Path(own[-1]).write_text(block.code)
        elif block.kind == "python" and own and own[-1] not in programs and own[-1].endswith(".py"):
            programs[own[-1]] = Path(own[-1]).write_text(block.code)
        elif block.kind == "python":
            run_block(PAGE, block, {})
        elif block.kind == "sh":
            for line in block.code.replace("\\\n", "").strip().split("\n"):
                if line.startswith("python mine/"):
                    done = run_here(line.split()[1])
                    assert done.returncode == 0, done.stderr
                elif line.startswith("minidrop "):
                    followed(PAGE, line.removeprefix("minidrop ").split("  #")[0], block.output)
        if block.output and "2 mistakes" in block.output:       # the page says how to mend them
            net = Path("mine/net.prototxt")
            net.write_text(net.read_text().replace("Relu", "ReLU").replace("drp1", "drop1"))
    assert set(programs) == {"mine/make_data.py", "mine/sure.py"}
    assert {path.name for path in Path("runs").iterdir()} >= {"digits", "mine", "mine_conventional", "char"}
    losses = re.compile(r"\bIteration 0, loss = ([\d.]+),")             # the first: no rounding has added up
    logs = [Path("runs", run, "train.log").read_text() for run in ("digits", "mine")]
    printed = [float(losses.search(log)[1]) for log in logs]
    assert [float(loss) for loss in losses.findall(text)] == pytest.approx(printed, rel=1e-4)


@pytest.mark.parametrize("name", ["tune", "resume"])
def test_commands_of_how_to_pages(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path / "cache"))
    os.symlink(ROOT / "models", "models")
    assert run_minidrop("data", "digits").returncode == 0
    page, lines = ROOT / "docs" / "how_to" / f"{name}.md", []
    for block in blocks_of(page, "sh"):
        lines += block.code.strip().split("\n")
    for line in lines:
        followed(page, line.removeprefix("minidrop "), None)
    assert len(lines) == {"tune": 4, "resume": 2}[name]
    if name == "tune":
        assert "lr_0.05" in Path("report.html").read_text()
    else:       # "without a snapshot it begins anew", and goes on from a whole one
        begun = run_minidrop(*"train --solver models/digits_mlp/solver.prototxt --out runs/new --resume auto "
                              "--set max_iter=1 --set test_interval=0".split())
        assert begun.returncode == 0 and "going on" not in begun.stdout + begun.stderr
        assert list(Path("runs/digits/snapshots").glob("*_iter_12.h5"))


@pytest.mark.parametrize("line", ["minidrop patterns --rate 0.5 --units 1024 --family ROW",
                                  pytest.param("minidrop patterns --search-table", marks=pytest.mark.full)])
def test_what_patterns_prints(line):
    block, = [block for block in blocks_of(ROOT / "docs" / "patterns.md", "sh") if line in block.code]
    done = run_minidrop(*line.split()[1:])
    assert done.returncode == 0 and is_said(block.output, done.stdout), done.stdout
