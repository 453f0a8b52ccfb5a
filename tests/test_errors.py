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


def test_nearest_looks_closely_at_a_few_of_very_many(monkeypatch):
    compared, real = [], errors.difflib.get_close_matches

    def counted(name, known, **options):
        compared.append(len(known))
        return real(name, known, **options)
    monkeypatch.setattr(errors.difflib, "get_close_matches", counted)
    known = [f"drop{i}" for i in range(5000)]
    assert errors.nearest("drp4321", known, count=1) == "; did you mean 'drop4321'?"
    assert compared == [200]


def test_nearest_leaves_very_long_names_alone():
    assert errors.nearest("a" * 100_000, ["a" * 99_999, "b"]) == ""
    assert errors.nearest("ab", ["a" * 100_000, "abc"]) == "; did you mean 'abc'?"


def test_mistakes_in_one_report_each_once():
    assert str(errors.ConfigError.of(["b", "a", "b"])) == "b\na"
    error = errors.ConfigError.of([f"line {i}" for i in range(101)])
    assert str(error).split("\n")[99:] == ["line 99", "... and 1 more mistake"]
    assert error.lines == [f"line {i}" for i in range(100)] and error.hidden == 1
    assert str(errors.ConfigError.of(["a"], 7)) == "a\n... and 7 more mistakes"
