"""What tests share that compare a backend's methods with the generic ones."""

import functools
import inspect

import numpy as np

from minidrop.backend import Backend

GENERIC = Backend()
LAYOUTS = ("contiguous", "transposed", "strided")


def memory(test):
    """Give a test every `layout` in turn, all in one case: setting cases up would take longer than what most
    of them do."""
    @functools.wraps(test)
    def in_turn(**given):
        for layout in LAYOUTS:
            try:
                test(layout=layout, **given)
            except Exception as error:
                raise AssertionError(f"{layout} arrays: {error}") from error
    signature = inspect.signature(test)
    in_turn.__signature__ = signature.replace(parameters=[p for p in signature.parameters.values()
                                                          if p.name != "layout"])
    return in_turn


def same(backend, got, expected):
    """Moving and scaling is exact: not one bit may differ."""
    got = backend.to_host(got)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
