"""From a wheel alone, in a folder far from the checkout: data, a model, training, predictions, curves."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("minidrop", "models", "minidrop_command.py", "setup.py", "setup.cfg", "pyproject.toml",
              "README.md", "LICENSE")

DAY = """
import sys
import minidrop
from minidrop.cli import run

print(minidrop.__file__)
for line in sys.stdin.read().splitlines():
    print("$ minidrop", line)
    sys.stdout.flush()
    if code := run(line.split()):
        sys.exit(f"minidrop {line}: exit code {code}")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installed wheel, built from a copy of the checkout."""
    # The first that builds wheels by itself; a new environment of Python 3.11 has an older one.
    pytest.importorskip("setuptools", "70.1", reason="setuptools 70.1, which builds it, is not installed")
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True,
                          timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, = wheels.glob("minidrop-*.whl")
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_holds_all_that_is_used(installed):
    def files(folder, pattern):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)
                if path.is_file() and "__pycache__" not in path.parts}
    assert files(installed / "minidrop" / "models", "*") == files(ROOT / "models", "*")
    for pattern in ("*.py", "*.cu", "*.cuh", "*.css", "*.proto", "py.typed"):
        assert files(installed / "minidrop", pattern) == files(ROOT / "minidrop", pattern)


def test_the_metadata_stand_alone(installed):
    metadata, = installed.glob("minidrop-*.dist-info/METADATA")
    head, _, text = metadata.read_text(encoding="utf-8").partition("\n\n")
    assert "Author: minidrop developers" in head and "Description-Content-Type: text/markdown" in head
    assert text.lstrip().startswith("# minidrop")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith(("https://", "http://", "#")) for link in links), links


def test_a_day_with_it(installed, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    commands = [
        "data list", "data digits", "init", "init digits_mlp",
        "summary digits_mlp/train_val.prototxt",
        "train --solver digits_mlp/solver.prototxt --set max_iter=40 --set display=10 --out run --device cpu",
        "predict --model digits_mlp/train_val.prototxt --weights run/snapshots/digits_mlp_iter_40.h5 "
        "cache/digits/test.h5 --top-k 1 --out digits.jsonl --device cpu",
        "plot run --terminal"]
    environment = {name: value for name, value in os.environ.items() if name != "MINIDROP_DATA"}
    environment |= {"PYTHONPATH": str(installed), "MINIDROP_CACHE": str(tmp_path / "cache"), "COLUMNS": "70",
                    "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", DAY], input="\n".join(commands), cwd=tmp_path, timeout=240,
                          capture_output=True, env=environment, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(installed / "minidrop" / "__init__.py"))
    predicted = [json.loads(line)["top"][0]["class"] for line in (tmp_path / "digits.jsonl").open()]
    import h5py
    with h5py.File(tmp_path / "cache" / "digits" / "test.h5") as file:
        right = (file["label"][:] == predicted).mean()
    shown = float(done.stdout.rpartition("Testing net (#0): accuracy = ")[2].partition(",")[0])
    assert right == pytest.approx(shown, abs=1e-5) and right > 0.5
    assert "accuracy  █ test" in done.stdout
