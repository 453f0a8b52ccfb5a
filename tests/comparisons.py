"""NumPy's comparisons of arrays, asked only where a quick look finds a difference: what they take for arrays
that agree is a tenth of many tests."""

import functools

import numpy as np

NUMBERS = "biuf"


def of_numbers(*arrays):
    """Whether these are plain arrays of numbers of one shape."""
    return (all(type(array) is np.ndarray and array.dtype.kind in NUMBERS for array in arrays)
            and len({array.shape for array in arrays}) == 1)


def equal(actual, desired, err_msg="", verbose=True):
    return of_numbers(actual, desired) and (actual == desired).all()


def close(actual, desired, rtol=1e-7, atol=0, err_msg="", verbose=True):
    if (not of_numbers(actual, desired) or actual.dtype.kind != "f" or desired.dtype.kind not in "if"
            or np.ndim(rtol) or np.ndim(atol)):
        return False
    with np.errstate(all="ignore"):
        apart = np.abs(actual - desired)
        return (apart <= atol + rtol * np.abs(desired)).all() and apart.max(initial=0) < np.inf


def quicker(assertion, holds):
    """Return an assertion of NumPy's that first looks whether all `holds`; of what it does not know, and of
    what differs, the assertion itself says what there is to say."""
    @functools.wraps(assertion)
    def compare(*arrays, **options):
        __tracebackhide__ = True
        if len(arrays) != 2 or not options.keys() <= {"rtol", "atol", "err_msg", "verbose"} or not holds(
                *arrays, **options):
            assertion(*arrays, **options)
    return compare


def install():
    """Let np.testing.assert_allclose and assert_array_equal look first."""
    for name, holds in (("assert_allclose", close), ("assert_array_equal", equal)):
        setattr(np.testing, name, quicker(getattr(np.testing, name), holds))
