"""What these tests change in the process is undone after each."""

import sys

import pytest

import minidrop.caffe as caffe
from minidrop.layers import allow_python


@pytest.fixture(autouse=True)
def _as_before(tmp_path, monkeypatch):
    """Run in a folder of its own; Python layers are allowed meanwhile, and modules of the test forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    modules, before = set(sys.modules), allow_python()
    yield
    allow_python(before)
    caffe.set_mode_cpu()
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("caffe", "userlayers", "pyloss"):
            del sys.modules[name]
