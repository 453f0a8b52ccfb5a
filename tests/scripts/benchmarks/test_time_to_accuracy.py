"""time_to_accuracy.py: curves of all methods from one short run on real records."""

import json
import os
from xml.etree import ElementTree

import pytest
from programs import run_here, run_minidrop


@pytest.mark.skipif(not os.environ.get("MINIDROP_DATA"), reason="MINIDROP_DATA is not set: no real data here")
def test_every_method_gets_a_curve_and_a_line(scripts, tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is one of the curves here")
    environment = {**os.environ, "MINIDROP_CACHE": str(tmp_path)}
    made = run_minidrop("data", "mnist", environment=environment)
    assert made.returncode == 0, made.stderr
    done = run_here(scripts.folder / "time_to_accuracy.py", "--units", "16", "--iterations", "4", "--stretch",
                    "2", "--json", tmp_path / "curves.json", "--svg", tmp_path / "curves.svg",
                    environment=environment)
    assert done.returncode == 0, done.stderr
    names = ["PyTorch, Dropout", "Dropout", "one mask", "two groups", "four groups"]
    assert [line[:18].strip() for line in done.stdout.splitlines()[1:]] == names
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert [[iterations for iterations, *_ in curve] for curve in curves.values()] == [[2, 4]] * 5
    assert all(0 < curve[0][1] < curve[1][1] for curve in curves.values())
    assert (tmp_path / "curves.svg").read_text().count("<polyline") == 10


def test_a_picture_of_curves_that_were_measured_before(scripts, tmp_path):
    """Every curve is drawn within the picture, whose text is escaped; nothing is measured."""
    curves = {name: [[100 * i, 3.0 * i * (k + 1), 0.97 + 0.001 * i] for i in range(1, 6)]
              for k, name in enumerate(["PyTorch, Dropout", "one <mask>", "two groups"])}
    (tmp_path / "curves.json").write_text(json.dumps(curves))
    done = run_here(scripts.folder / "time_to_accuracy.py", "--drawn", tmp_path / "curves.json", "--svg",
                    tmp_path / "curves.svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["PyTorch,", "Dropout", "3.0", "s", "-", "-", "15.0", "s",
                                                   "97.50%"]
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    _, _, width, height = map(float, root.get("viewBox").split())
    lines = [[tuple(map(float, point.split(","))) for point in one.get("points").split()]
             for one in root.iter(f"{space}polyline")]
    assert [len(line) for line in lines] == [5, 2] * 3
    assert all(0 <= x <= width and 0 <= y <= height for line in lines for x, y in line)
    assert "one <mask> (97.50 %)" in [one.text for one in root.iter(f"{space}text")]
    assert (tmp_path / "curves.svg").stat().st_size < 20_000
