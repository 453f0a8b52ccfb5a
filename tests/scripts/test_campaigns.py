"""Some damaged files of each kind are read or refused; the campaign sees crashes, hangs and tracebacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).resolve().parents[2] / "scripts" / "campaigns" / "mutants.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the campaign watches a process as POSIX has it")


def run(folder, *arguments, **environment):
    return subprocess.run([sys.executable, MUTANTS, "--keep", folder / "kept", *arguments], timeout=120,
                          capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("kind", ["config", "hdf5", "snapshot", "text"])
def test_a_short_campaign_finds_no_fault(tmp_path, kind):
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
