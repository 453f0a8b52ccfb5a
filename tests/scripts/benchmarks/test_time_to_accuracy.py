"""time_to_accuracy.py: curves of all methods from one short run on real records."""

import json
import os

import pytest
from programs import run_here, run_minidrop


@pytest.mark.skipif(not os.environ.get("MINIDROP_DATA"), reason="MINIDROP_DATA is not set: no real data here")
def test_every_method_gets_a_curve_and_a_line(scripts, tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is one of the curves here")
    environment = {**os.environ, "MINIDROP_CACHE": str(tmp_path)}
    made = run_minidrop("data", "mnist", environment=environment)
    assert made.returncode == 0, made.stderr
    done = run_here(scripts.folder / "time_to_accuracy.py", "--units", "16", "--iterations", "4", "--stretch",
                    "2", "--json", tmp_path / "curves.json", "--png", tmp_path / "curves.png",
                    environment=environment)
    assert done.returncode == 0, done.stderr
    names = ["PyTorch, Dropout", "Dropout", "one mask", "two groups", "four groups"]
    assert [line[:18].strip() for line in done.stdout.splitlines()[1:]] == names
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert [[iterations for iterations, *_ in curve] for curve in curves.values()] == [[2, 4]] * 5
    assert all(0 < curve[0][1] < curve[1][1] for curve in curves.values())
    assert (tmp_path / "curves.png").stat().st_size > 10000
