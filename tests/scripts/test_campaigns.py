"""Some damaged files of each kind are read or refused, some kills are survived; the campaigns see faults."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidrop.snapshot import Snapshot, read_snapshot, write_snapshot

CAMPAIGNS = Path(__file__).resolve().parents[2] / "scripts" / "campaigns"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the campaign watches a process as POSIX has it")


def run(folder, *arguments, **environment):
    return subprocess.run([sys.executable, CAMPAIGNS / "mutants.py", "--keep", folder / "kept", *arguments],
                          timeout=120, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("kind", [
    "config", "snapshot", "databases", "weights",
    *(pytest.param(kind, marks=pytest.mark.full) for kind in ("hdf5", "text", "old nets", "datums"))])
def test_a_short_campaign_finds_no_fault(tmp_path, kind):
    for package in {"datums": ["PIL"], "databases": ["PIL", "lmdb", "plyvel"]}.get(kind, []):
        pytest.importorskip(package, reason=f"{package}, which makes or reads the files, is not installed")
    done = run(tmp_path, "--kind", kind, "--count", "30")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert sum(map(int, re.findall(r"(\d+) (?:read|refused)", done.stdout))) == 30
    assert not (tmp_path / "kept").exists()


FAULTY = """
import os, signal

class MinidropError(Exception):
    pass

class Kind:
    def __init__(self, folder):
        pass

    def mutant(self, rng):
        return {"a": str(rng.random()).encode()}

    def read(self, folder):
        quarter = int(4 * float((folder / "a").read_text()))
        if quarter == 1:
            raise MinidropError("a: expected something else")
        if quarter == 2:
            raise ValueError("no error of ours")
        if quarter == 3:
            os.kill(os.getpid(), signal.SIGSEGV)

class Endless(Kind):
    def read(self, folder):
        while True:
            pass

KINDS = {"faulty": Kind, "endless": Endless}
"""


SEED = "178"      # of which mutants 0 to 3 are in the four quarters


def test_a_fault_is_found_and_its_mutant_kept(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTY)
    done = run(tmp_path, "--kind", "faulty", "--kinds", "faults", "--count", "4", "--seed", SEED,
               PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "faulty 2: ValueError, kept in" in done.stdout and "no error of ours" in done.stdout
    assert "faulty 3: crash, kept in" in done.stdout
    assert "1 ValueError, 1 crash, 1 read, 1 refused" in done.stdout
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == [f"faulty_{SEED}_2", f"faulty_{SEED}_3"]
    assert float((tmp_path / f"kept/faulty_{SEED}_3/a").read_text()) > 0.75


def test_a_hang_is_found(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTY)
    done = run(tmp_path, "--kind", "endless", "--kinds", "faults", "--count", "1", "--seconds", "0.1",
               PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "endless 0: hang, kept in" in done.stdout


# -- kills ---------------------------------------------------------------------------------------------------
@pytest.fixture
def kills(monkeypatch):
    """The module kills.py."""
    return loaded("kills", monkeypatch)


def loaded(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])       # to which it adds
    monkeypatch.setenv("MINIDROP_TRUST_DATA", "1")      # as its main does
    spec = importlib.util.spec_from_file_location(name, CAMPAIGNS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_few_kills_change_nothing_and_a_change_is_found(kills, tmp_path, capsys):
    """Shuffling, reading ahead, Adam and iter_size, on a net of the long campaign."""
    task = kills.Task(tmp_path / "mlp", "mlp", ["max_iter=60", "snapshot=5", "test_interval=20"])
    options = SimpleNamespace(count=2, seed=1, keep=tmp_path / "kept")
    assert kills.campaign(options, [task], "kill") == 0
    told = capsys.readouterr().out
    assert sum(map(int, re.findall(r"(\d+) (?:while \w+|too late)", told))) == 2
    assert int(re.search(r"(\d+) snapshots compared; 0 faults", told)[1]) >= 12

    shutil.copytree(task.peace, task.hit, dirs_exist_ok=True)
    with (task.hit / "metrics.jsonl").open("a") as metrics:
        metrics.write("{}\n")
    with pytest.raises(kills.Fault, match="metrics.jsonl is not what it is in peace"):
        task.after(0)
    path = task.hit / "snapshots" / "run_iter_10.h5"
    snapshot = read_snapshot(path)
    weight = snapshot.arrays["data/ip3/weight"].copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    write_snapshot(path, Snapshot({**snapshot.arrays, "data/ip3/weight": weight}, snapshot.attrs))
    with pytest.raises(kills.Fault, match="run_iter_10.h5 is not what it is in peace"):
        task.after(-9)


def test_ranks_that_are_killed_change_nothing(tmp_path, monkeypatch, capsys):
    """SIGKILL, and data that are gone; tests/cli/test_mpi.py stops ranks and sends signals."""
    pytest.importorskip("mpi4py", reason="mpi4py (the extra `mpi`) moves gradients between processes")
    ranks = loaded("rank_kills", monkeypatch)
    if ranks.mpiexec() is None:
        pytest.skip("there is no mpiexec (the extra `mpi` brings one)")
    task = ranks.RankTask(tmp_path / "mlp", 2, ["max_iter=40", "test_interval=0"])
    options = SimpleNamespace(kinds="kill,data", first=0, count=2, seed=1, seconds=60,
                              results=None, keep=tmp_path / "kept")
    assert ranks.campaign(options, task) == 0, capsys.readouterr().out
    assert "2 hits of seed 1 on 2 ranks" in capsys.readouterr().out and task.compared >= 3
