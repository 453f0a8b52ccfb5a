"""A pattern family is one file: the worked example in docs/examples, used like any other family."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prepared import run_apart

from minidrop import Net
from minidrop.cli import run
from minidrop.config import parse_net
from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, base, get_family
from minidrop.snapshot import read_snapshot
from minidrop.testing import assert_matches_masked_dense

FILE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "aligned_family.py"
NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 4 dim: 9 } shape { dim: 4 dim: 3 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "ip1"
        inner_product_param { num_output: 100 weight_filler { type: "msra" } } }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
        approx_dropout_param { pattern: "ALIGNED" dropout_ratio: 0.3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip2" bottom: "y" top: "loss" }
"""


@pytest.fixture
def aligned():
    """The example's module; its family is registered during the test alone."""
    spec = importlib.util.spec_from_file_location("aligned_family", FILE)
    module = importlib.util.module_from_spec(spec)
    with base._families.forgetting():
        spec.loader.exec_module(module)
        yield module
    base.get_family.cache_clear()


@pytest.fixture
def minidrop(tmp_path, monkeypatch, capsys):
    """minidrop("check", ...) -> a command line in this process, in tmp_path; what it imports is forgotten."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        before = set(sys.modules)
        with base._families.forgetting():
            code = run([str(argument) for argument in arguments])
        base.get_family.cache_clear()
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent in (tmp_path, FILE.parent):
                del sys.modules[name]
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)
    return call


@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 0.7, 0.9])
def test_every_unit_lives_as_often_as_it_should(aligned, rate):
    family = get_family(PatternSettings(rate, "ALIGNED"))
    lives = np.zeros(100)
    for choice, probability in zip(family.distribution.choices, family.distribution.probabilities,
                                   strict=True):
        for offset in range(family.offsets(choice)):
            kept = family.pattern(choice, offset).kept(100)
            lives += probability / family.offsets(choice) * kept.mask(float)
            assert all(i % 8 == 0 for i in kept.indices if i - 1 not in kept.indices)
    assert lives == pytest.approx(np.full(100, 1 - rate), abs=1e-12)


def test_the_planner_and_the_oracle_know_it(aligned):
    net = Net(parse_net(NET), device="cpu", dtype="float64")
    assert list(net.plan.lines()) == ["ip1 computes only the units kept by drop1", "ip2 reads only the units "
                                      "kept by drop1"]
    rng = np.random.default_rng(0)
    for iteration in range(10):
        assert_matches_masked_dense(net, iteration,
                                    {"x": rng.standard_normal((4, 9)), "y": rng.standard_normal((4, 3))})


def test_its_mistakes_are_explained(aligned):
    with pytest.raises(ConfigError, match="step must be a multiple of 8 for pattern ALIGNED, got 12; try 80"):
        get_family(PatternSettings(0.5, "ALIGNED", step=12))
    with pytest.raises(ConfigError, match=r"step 80 is too short for rate 0\.95"):
        get_family(PatternSettings(0.95, "ALIGNED"))


def test_the_file_runs():
    result = subprocess.run([sys.executable, FILE], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "40 of 80 with probability 1" in result.stdout
    assert "ip1 computes only the units kept by drop1" in result.stdout


@pytest.mark.parametrize("command", [["patterns", "--family", "ALIGNED", "--units", "160"],
                                     ["check", "{net}"]])
def test_the_command_line_imports_it(minidrop, command, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    arguments = [part.format(net=tmp_path / "net.prototxt") for part in command]
    result = minidrop("--import", FILE, *arguments)
    assert result.returncode == 0, result.stderr
    assert "ALIGNED" in result.stdout
    without = minidrop(*arguments)
    assert without.returncode == 1 and "unknown pattern 'ALIGNED'" in without.stderr


def test_training_goes_on_from_a_snapshot(minidrop, tmp_path):
    net = NET.replace('layer { name: "in" type: "Input" top: "x" top: "y"\n  input_param {',
                      'layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param { '
                      'data_filler { type: "gaussian" std: 1 }')
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" '
                                              'momentum: 0.9 max_iter: 6 snapshot: 3 random_seed: 1 '
                                              'solver_mode: CPU display: 1')

    def train(*more, imports=("--import", FILE), how=minidrop):
        return how(*imports, "train", "--solver", "solver.prototxt", *more)

    def arrays_of(run):
        snapshot, = (tmp_path / run / "snapshots").glob("*_iter_6.h5")
        return read_snapshot(snapshot).arrays

    for how, *arguments in ((minidrop, "--out", "whole"), (minidrop, "--out", "parts", "--set", "max_iter=3"),
                            (partial(run_apart, folder=tmp_path), "--out", "parts", "--resume", "auto")):
        result = train(*arguments, how=how)
        assert result.returncode == 0, result.stderr
    assert "going on at iteration 3" in result.stdout
    whole, parts = arrays_of("whole"), arrays_of("parts")
    assert len(whole) >= 4 and whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    result = train("--out", "parts", "--resume", "auto", imports=())
    assert result.returncode == 1 and "unknown pattern 'ALIGNED'" in result.stderr


@pytest.mark.parametrize("name, message", [
    ("nowhere.py", "--import nowhere.py: there is no such file"),
    ("no_such_module_here", "--import no_such_module_here: ModuleNotFoundError: No module named"),
])
def test_what_cannot_be_imported(minidrop, name, message):
    result = minidrop("--import", name, "devices")
    assert (result.returncode == 1 and result.stderr.startswith(f"error: {message}")
            and "Traceback" not in result.stderr)


@pytest.mark.parametrize("code, message", [("def", "own.py: SyntaxError: "),
                                           ("x = 1\n1 / 0", "own.py:2: ZeroDivisionError: "),
                                           ("import no_such_module_here", "own.py:1: ModuleNotFoundError: ")])
def test_what_fails_in_imported_code(minidrop, code, message, tmp_path):
    (tmp_path / "own.py").write_text(code)
    result = minidrop("--import", "own.py", "devices")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: --import {message}")


def test_imported_code_comes_once_before_or_after_caffes_flags_and_hides_no_module(tmp_path):
    (tmp_path / "copy.py").write_text("print('imported')")
    (tmp_path / "net.prototxt").write_text(NET.replace("ALIGNED", "ROW"))
    (tmp_path / "bin").mkdir()      # where Python looks first, as for the command: -m would look here
    (tmp_path / "bin" / "run.py").write_text("from minidrop.cli import main\nmain()")
    imports = ["--import", "copy.py", "--import=./copy.py"]
    for arguments in ([*imports, "-phase=TRAIN", "check"], ["-phase", "TRAIN", *imports, "check"]):
        result = subprocess.run([sys.executable, "bin/run.py", *arguments, "net.prototxt"],
                                capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("imported") == 1 and "phase TRAIN" in result.stdout
