"""PERIODIC: a run of `width` units of every `step`."""

import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, get_family


def periodic(rate, **more):
    return get_family(PatternSettings(rate, "PERIODIC", **more))


def test_which_units_live():
    family = periodic(0.5, step=10)
    assert family.pattern(5, 0).kept(12).indices.tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert family.pattern(5, 5).kept(12).indices.tolist() == [5, 6, 7, 8, 9]
    assert family.pattern(5, 8).kept(14).indices.tolist() == [0, 1, 2, 8, 9, 10, 11, 12]


def test_which_units_live_by_the_definition():
    family = periodic(0.3, step=10)
    for start in range(10):
        kept = family.pattern(7, start).kept(33)
        assert kept.indices.tolist() == [i for i in range(33) if (i - start) % 10 < 7]
    for start in range(30):
        kept = periodic(0.3).pattern(21, start).kept(99)
        assert kept.indices.tolist() == [i for i in range(99) if (i - start) % 30 < 21]


@in_turn("rate, step, choices, probabilities", [
    (0, 30, (30,), [1]),
    (0.5, 30, (15,), [1]),
    (0.3, 30, (21,), [1]),
    (0.9, 30, (3,), [1]),
    (0.25, 30, (22, 23), [0.5, 0.5]),
    (0.65, 30, (10, 11), [0.5, 0.5]),
    (1 / 3, 30, (20,), [1]),                  # the float is a little less than a third: no 21, once in 10^15
    (0.92, 30, (2, 3), [0.6, 0.4]),
    (0.95, 30, (1, 2), [0.5, 0.5]),
    (0.97, 34, (1, 2), [0.98, 0.02]),
    (0.98, 50, (1,), [1]),
])
def test_widths(rate, step, choices, probabilities):
    family = periodic(rate)
    assert family.step == step
    assert family.distribution.choices == choices
    assert family.distribution.probabilities == pytest.approx(probabilities, abs=1e-12)


@in_turn("rate, step, choices, probabilities", [
    (0, 10, (10,), [1]),
    (0.5, 10, (5,), [1]),
    (0.3, 10, (7,), [1]),
    (0.9, 10, (1,), [1]),
    (0.25, 10, (7, 8), [0.5, 0.5]),
    (0.65, 10, (3, 4), [0.5, 0.5]),
    (1 / 3, 10, (6, 7), [1 / 3, 2 / 3]),
    (0.92, 13, (1, 2), [0.96, 0.04]),
    (0.95, 20, (1,), [1]),
    (0.98, 50, (1,), [1]),
])
def test_widths_of_a_step_of_the_user(rate, step, choices, probabilities):
    family = periodic(rate, step=step)
    assert family.step == step
    assert family.distribution.choices == choices
    assert family.distribution.probabilities == pytest.approx(probabilities, abs=1e-12)


def test_a_step_of_the_user():
    assert periodic(0.5, step=4).distribution.choices == (2,)
    assert periodic(0.7, step=4).distribution.choices == (1, 2)
    assert periodic(0.7, step=4).distribution.probabilities == pytest.approx([0.8, 0.2], abs=1e-12)
    assert periodic(0.5, step=2048).pattern(1024, 100).kept(2048).index == slice(100, 1124)


@in_turn("rate", [i / 200 for i in range(200)] + [0.999, 1e-9])
def test_no_iteration_drops_everything(rate):
    assert min(periodic(rate).distribution.choices) >= 1


def test_scales():
    family = periodic(0.25, step=10)
    assert family.pattern(7, 0).scale == family.pattern(8, 0).scale == 1 / 0.75
    assert periodic(0.25, step=10, scale="PATTERN").pattern(8, 0).scale == 10 / 8
    assert family.pattern(8, 0).rate == 0.2


@pytest.mark.parametrize("rate, step, least", [(0.5, 2, 2), (0.7, 3, 4), (0.95, 10, 20), (0.9, 9, 10)])
def test_a_step_that_cannot_keep_one_unit(rate, step, least):
    if step < least:
        with pytest.raises(ConfigError, match=f"step {step} is too small for rate {rate}: .* "
                                              f"set step to at least {least}, or remove it"):
            periodic(rate, step=step)
    assert periodic(rate, step=least).distribution.rate == rate


def test_limits():
    with pytest.raises(ConfigError, match="steps up to 65536; got step: 65537; lower it"):
        periodic(0.5, step=65537)
    with pytest.raises(ConfigError, match="steps up to 65536; rate 0.99999 needs 100000; lower it"):
        periodic(0.99999)


def test_describe():
    assert periodic(0.3, step=10).describe(7) == "7 of 10" and periodic(0.3).describe(21) == "21 of 30"
