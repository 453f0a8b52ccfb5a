"""The quick comparisons pass what NumPy's pass, and nothing else."""

import inspect
import itertools

import comparisons
import numpy as np
import pytest

NAN, INF = np.nan, np.inf
NUMBERS = [*(np.array(values, "f4") for values in (
               [1.0, 2.0], [1.0, 2.0009765625], [1.0, 2.25], [NAN, 2.0], [INF, 2.0], [-INF, 2.0])),
           np.array([1.0, 2.0009765625]), np.array([6e4, -6e4], "f2"), np.array([1, 2])]
OTHERS = [np.array([], "f4"), np.array([1.0]), np.array(1.0), np.array([[1.0, 2.0]]),
          np.array([-6e4, -6e4], "f2"), np.array([1, 2], np.uint8), np.array([2, 1], np.uint8),
          np.array([True, False]), np.array(["1", "2"]), np.array([1, 2], object), np.array([1 + 0j, 2]),
          np.ma.array([1.0, 2.0], mask=[0, 1]), 1.0, [1.0, 2.0]]


def outcome(assertion, *arrays, **options):
    """What an assertion says, but for the line that names it."""
    try:
        assertion(*arrays, **options)
    except (AssertionError, TypeError) as error:
        return type(error), str(error)
    return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name, holds, settings", [
    ("assert_array_equal", comparisons.equal, [{}, {"strict": True}, {"err_msg": "what"}]),
    ("assert_allclose", comparisons.close, [
        {}, {"rtol": 1e-3}, {"rtol": 0, "atol": 1e-2}, {"rtol": 0.2, "atol": 0.1}, {"atol": INF},
        {"rtol": np.float64(1e-3), "atol": np.array([0, 1.0])}, {"equal_nan": False}, {"strict": True}])])
def test_they_pass_and_say_what_numpys_do(name, holds, settings):
    original = inspect.unwrap(getattr(np.testing, name))
    quick = comparisons.quicker(original, holds)
    cases = [*itertools.product(NUMBERS, NUMBERS, settings),
             *itertools.product(OTHERS, [*NUMBERS, *OTHERS], settings[:1])]
    for actual, desired, options in cases:
        assert outcome(quick, actual, desired, **options) == outcome(original, actual, desired, **options), (
            actual, desired, options)


def test_arrays_that_agree_are_not_compared_again():
    def never(*arrays, **options):
        raise NotImplementedError
    x = np.array([1.0, 2.0])
    comparisons.quicker(never, comparisons.equal)(x, x.copy(), err_msg="what")
    comparisons.quicker(never, comparisons.close)(x, x + 1e-9)
    with pytest.raises(NotImplementedError):
        comparisons.quicker(never, comparisons.close)(x, x + 1e-6)


def test_the_tests_use_them():
    for name in ("assert_allclose", "assert_array_equal"):
        assert getattr(np.testing, name).__wrapped__.__module__.startswith("numpy")
