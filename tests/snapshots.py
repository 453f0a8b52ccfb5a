"""A snapshot for tests, and what compares, seals and refuses files of them."""

from pathlib import Path

import numpy as np
import pytest

from minidrop.errors import SnapshotError
from minidrop.snapshot import Snapshot, read_header, read_snapshot, seal

ROOT = Path(__file__).parent.parent
NET = 'name: "mlp"\nlayer { name: "ip1" }  # größer\n'


def example(iteration=7, size=20):
    rng = np.random.default_rng(iteration)
    return Snapshot({"data/ip1/weight": rng.normal(size=(size, 3)).astype("f4"),
                     "data/ip1/bias": np.zeros(size, "f4"),
                     "solver/history/ip1/weight/0": rng.normal(size=(size, 3))},
                    {"iteration": iteration, "seed": 2**63 + 5, "net": NET, "rate": 0.1, "empty": "",
                     "low": -3})


def assert_same(a, b):
    assert {k: (v, type(v)) for k, v in a.attrs.items()} == {k: (v, type(v)) for k, v in b.attrs.items()}
    assert sorted(a.arrays) == sorted(b.arrays)
    for key, array in a.arrays.items():
        assert b.arrays[key].dtype == array.dtype and b.arrays[key].shape == array.shape
        assert b.arrays[key].tobytes() == array.tobytes()


def reseal(path):
    """Give a file that was changed behind the seal a right seal again, as someone who means harm would."""
    with open(path, "r+b", buffering=0) as file:
        seal.write_seal(file, 7)


def refuse(path, message):
    for read in (read_snapshot, read_header):
        with pytest.raises(SnapshotError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
