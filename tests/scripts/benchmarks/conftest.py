"""The modules of scripts/benchmarks."""

import importlib
import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

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
    names = [path.stem for path in FOLDER.glob("*.py")]
    return SimpleNamespace(folder=FOLDER, **{name: importlib.import_module(name) for name in names})


@pytest.fixture
def workers_here(scripts, monkeypatch):
    """The workers that take turns are in this process, where PyTorch and minidrop are loaded already."""
    starts = {"conv_worker": (scripts.conv_worker, "main"), "bench_cpu": (scripts.bench_cpu, "worker")}
    serve = scripts.in_turn.serve

    class Here:
        def __init__(self, script, *arguments):
            module, start = starts[Path(script).stem]
            monkeypatch.setattr(module, "serve", self.keep)
            getattr(module, start)(*map(str, arguments))

        def keep(self, steps, **commands):
            self.steps, self.commands = steps, commands

        def ask(self, command, count=0):
            asked, answer = io.StringIO(f"{command} {count}\n"), io.StringIO()
            with mock.patch.object(sys, "stdin", asked), redirect_stdout(answer):
                serve(self.steps, **self.commands)
            return json.loads(answer.getvalue())

        def close(self):
            pass

    for module in (scripts.in_turn, scripts.bench_cpu):
        monkeypatch.setattr(module, "Worker", Here)
    monkeypatch.setattr(scripts.conv_worker, "PRODUCT_SIZE", 128)
    monkeypatch.setattr("minidrop.kernels.threads.COUNT", 1)        # PyTorch's threads would wait for others
