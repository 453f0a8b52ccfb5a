"""What tests share that compare a backend's methods with the generic ones."""

import functools
import inspect

import numpy as np
from cases import in_turn

from minidrop.backend import Backend
from minidrop.kept import Kept

GENERIC = Backend()
LAYOUTS = ("contiguous", "transposed", "strided")
TOTAL = 23
KEPT = {
    "None": None,
    "all": Kept.all(TOTAL),
    "empty": Kept(30, 40, 3, TOTAL),
    "one in three": Kept(1, 3, 1, TOTAL),
    "runs": Kept(2, 7, 4, TOTAL),
    "one run": Kept(5, 40, 9, TOTAL),
    "wrapped": Kept(-3, 10, 5, TOTAL),
    "list": Kept.of([0, 1, 7, 20, 22], TOTAL),
}
kept_sets = in_turn("kept", KEPT.values(), KEPT.keys())


def memory(test):
    """Give a test every `layout` in turn, all in one case: setting cases up would take longer than what most
    of them do."""
    @functools.wraps(test)
    def each(**given):
        for layout in LAYOUTS:
            try:
                test(layout=layout, **given)
            except Exception as error:
                raise AssertionError(f"{layout} arrays: {error}") from error
    signature = inspect.signature(test)
    each.__signature__ = signature.replace(parameters=[p for p in signature.parameters.values()
                                                       if p.name != "layout"])
    return each


def same(backend, got, expected):
    """Moving and scaling is exact: not one bit may differ."""
    got = backend.to_host(got)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
