"""The modules of scripts/benchmarks."""

import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "scripts" / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The modules of the benchmarks by name, imported as they import each other; `folder` is where they
    are."""
    for folder in (ROOT / "scripts", FOLDER):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    names = ("download_data", *(path.stem for path in FOLDER.glob("*.py")))
    return SimpleNamespace(folder=FOLDER, **{name: importlib.import_module(name) for name in names})
