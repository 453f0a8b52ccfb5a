"""Every error a user can mend has one base, and unknown names get a hint."""

import pytest

from minidrop import errors


@pytest.mark.parametrize("name", ["ConfigError", "ShapeError", "DataError", "SnapshotError", "BackendError"])
def test_one_base(name):
    with pytest.raises(errors.MinidropError, match="^where: what$"):
        raise getattr(errors, name)("where: what")


@pytest.mark.parametrize("name, known, expected", [
    ("InerProduct", ["InnerProduct", "ReLU"], "; did you mean 'InnerProduct'?"),
    ("relu", ["InnerProduct", "ReLU"], "; did you mean 'ReLU'?"),
    ("drop3", ["drop1", "drop2", "ip"], "; did you mean 'drop2' or 'drop1'?"),
    ("convolution", ["InnerProduct", "ReLU"], ""),
    ("x", [], ""),
    ("", ["ReLU"], ""),
    (5000, [5001], "; did you mean '5001'?"),
])
def test_nearest(name, known, expected):
    assert errors.nearest(name, known) == expected


def test_nearest_lists_no_more_than_asked():
    known = [f"drop{i}" for i in range(9)]
    assert errors.nearest("drop", known).count(" or ") == 2
    assert errors.nearest("drop", known, count=1).count(" or ") == 0
