"""Formulas of update rules as C: what it computes is what NumPy does, and what C has not is left to NumPy."""

import numpy as np
import pytest
from cases import in_turn

from minidrop.autograd import Block
from minidrop.backend import Backend
from minidrop.kernels.formulas import MOST_NUMBERS, in_c
from minidrop.solver.rules import UpdateRule

SPECIAL = np.array([0.0, -0.0, 1.5, -2.0, np.nan, np.inf, -np.inf])


def swapping(w, g, a, b, rate):
    return w - rate * g, b, a


def amsgrad(w, g, a, b, rate):
    b = np.maximum(b, np.square(g))
    return w - rate * np.minimum(a, g) / (1 + np.sqrt(b)), -a, b


def signs(w, g, a, rate):
    return abs(w) - np.sign(g) * rate, 1 - np.abs(g)


@pytest.mark.parametrize("formula", [swapping, amsgrad, signs])
def test_what_it_computes(emulated, formula):
    """Bit for bit, of every pair of special numbers: their signs, and NaN where NumPy has it."""
    w, g = (x.reshape(len(SPECIAL), -1).copy() for x in np.meshgrid(SPECIAL, SPECIAL))
    rule = type("Own", (UpdateRule,), {"formula": staticmethod(formula), "slots": 1 + (formula is not signs)})
    found = []
    for on in (emulated, Backend()):
        arrays = [w.copy(), *(factor * w for factor in (2, 3)[:rule.slots])]
        with np.errstate(invalid="ignore"):
            on.rule_update(arrays[0], arrays[1:], [Block(g)], rule, (0.25,), 0.0, False, 1.0)
        found.append(arrays)
    assert emulated.kernels.launches[-1] == "rule_update"
    for got, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(got, expected)
        there = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got)[there], np.signbit(expected)[there])


@in_turn("formula", [
    lambda w, g, a, rate: (np.where(g > 0, w, a), a), lambda w, g, a, rate: (w if g else a, a),
    lambda w, g, a, rate: (w - g ** 2, a), lambda w, g, a, rate: (w - np.float64(2) * g, a),
    lambda w, g, a, rate: (w - np.exp(g), a), lambda w, g, a, rate: (w.copy(), a),
    lambda w, g, a, rate: (np.add(w, g, out=w), a), lambda w, g, a, rate: (np.add.reduce(w), a),
    lambda w, g, a, rate: (w - g * float("nan"), a), lambda w, g, a, rate: (w,),
    lambda w, g, a, rate: (w - rate * np.nan_to_num(g), a), lambda w, g, a, rate: (w, np.asarray(a) * 2)])
def test_what_c_has_not(formula):
    assert in_c(formula, 1, 1) is None


def test_more_than_there_is_room_for():
    assert in_c(lambda w, g, a, b, c: (w, a, b, c), 3, 0) is None
    assert in_c(lambda w, g, a, *numbers: (w, a), 1, MOST_NUMBERS) == "W = w; A = a;"
    assert in_c(lambda w, g, a, *numbers: (w, a), 1, MOST_NUMBERS + 1) is None


def test_a_formula_that_c_has_not_is_that_of_arrays(emulated):
    """And so is one of a rule that says that it is no loop over entries."""
    for formula, compiled in ((lambda w, g, a, rate: (w - rate * g ** 2, a), True),
                              (lambda w, g, a, rate: (w - rate * g, a), False)):
        rule = type("Own", (UpdateRule,), {"formula": staticmethod(formula), "compiled": compiled})
        w, before = np.ones((2, 3)), len(emulated.kernels.launches)
        emulated.rule_update(w, [np.ones((2, 3))], [Block(np.full((2, 3), 3.0))], rule, (0.5,), 0.0, False,
                             1.0)
        np.testing.assert_array_equal(w, 1 - 0.5 * 3 ** (1 + compiled))
        assert "rule_update" not in emulated.kernels.launches[before:]
