"""Every error a user can mend has one base, and unknown names get a hint."""

import numpy as np
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


def test_any_value_is_shown_on_one_short_line():
    shown = errors.in_short
    assert [shown(value) for value in (-1, "a\nb", None, [1, 2], int)] == [
        "-1", r"'a\nb'", "None", "[1, 2]", "the class int"]
    assert shown(np.ones((4, 6))) == "an array of shape (4, 6)" and shown(np.float32(2)) == "np.float32(2.0)"
    assert shown(10**400) == f"1{'0' * 56}..." and shown(10**5000) == "int"


def test_an_error_says_one_line_unless_it_is_made_of_several():
    assert errors.ConfigError("a\nb").said == () and errors.ConfigError("a\nb").lines == ["a\nb"]
    error = errors.SnapshotError.saying(["a\nb", "c"])
    assert (error.said, str(error)) == (("a\nb", "c"), "a\nb\nc")
    together = errors.ConfigError.together([errors.ConfigError("a\nb"), errors.ConfigError.of(["c", "d"])])
    assert together.lines == ["a\nb", "c", "d"]


def test_mistakes_in_one_report_each_once():
    assert str(errors.ConfigError.of(["b", "a", "b"])) == "b\na"
    error = errors.ConfigError.of([f"line {i}" for i in range(101)])
    assert str(error).split("\n")[99:] == ["line 99", "... and 1 more mistake"]
    assert error.lines == [f"line {i}" for i in range(100)] and error.hidden == 1
    assert str(errors.ConfigError.of(["a"], 7)) == "a\n... and 7 more mistakes"
