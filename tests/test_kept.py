"""Kept against the plain definition: a list of the indices that survive."""

import itertools

import numpy as np
import pytest
from cases import in_turn
from hypothesis import given
from hypothesis import strategies as st

from minidrop.backend.device_sets import MovingKept
from minidrop.errors import CaptureError
from minidrop.kept import Kept, are_disjoint, are_family


@st.composite
def regular(draw):
    step = draw(st.integers(1, 12))
    width = draw(st.integers(1, step))
    return draw(st.integers(1 - width, 20)), step, width, draw(st.integers(0, 40))


def survivors(start, step, width, total):
    return [i for i in range(total) if i >= start and (i - start) % step < width]


@given(regular())
def test_regular_form_is_its_definition(numbers):
    kept = Kept(*numbers)
    expected = survivors(*numbers)
    assert kept.indices.tolist() == expected
    assert kept.count == len(kept) == len(expected)
    assert kept.is_all == (len(expected) == numbers[-1])
    assert np.arange(numbers[-1])[kept.index].tolist() == expected
    assert np.flatnonzero(kept.mask()).tolist() == expected
    runs = [range(begin, end) for begin, end in zip(*kept.run_ends, strict=True)]
    assert all(runs) and [i for run in runs for i in run] == expected
    assert kept.places.tolist() == [expected.index(i) if i in expected else -1 for i in range(numbers[-1])]


@given(regular())
def test_the_formula_of_the_docstring(numbers):
    start, step, width, _ = numbers
    skip = max(0, -start)
    units = [start + (j + skip) // width * step + (j + skip) % width for j in range(Kept(*numbers).count)]
    assert units == Kept(*numbers).indices.tolist()


@given(regular(), regular())
def test_equal_means_the_same_set_of_the_same_axis_in_any_form(one, other):
    a, b = Kept(*one), Kept(*other)
    listed = Kept.of(survivors(*one), one[-1])
    assert a == listed and listed == a and hash(a) == hash(listed)
    assert (a == b) == (one[-1] == other[-1] and survivors(*one) == survivors(*other))
    if a == b:
        assert hash(a) == hash(b)


def test_known_sets():
    assert Kept(1, 3, 1, 8).indices.tolist() == [1, 4, 7]
    assert Kept(-2, 10, 5, 14).indices.tolist() == [0, 1, 2, 8, 9, 10, 11, 12]
    assert Kept(8, 10, 5, 12).indices.tolist() == [8, 9, 10, 11]
    assert Kept.of([0, 5, 6], 7).indices.tolist() == [0, 5, 6]
    assert Kept(0, 2, 1, 4).mask(np.float32).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert Kept(0, 2, 1, 4).mask(np.float32).dtype == np.float32


def test_a_slice_wherever_one_describes_the_set():
    assert Kept(1, 3, 1, 8).index == slice(1, 8, 3)
    assert Kept(2, 10, 4, 9).index == slice(2, 6)
    assert Kept(0, 10, 10, 25).index == slice(None)
    assert Kept(0, 10, 5, 25).index.tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24]


@pytest.mark.parametrize("total", [0, 1, 7])
def test_all(total):
    kept = Kept.all(total)
    assert kept.is_all and kept.count == total and kept.mask().all()


@pytest.mark.parametrize("empty", [Kept(7, 8, 1, 3), Kept(7, 8, 2, 3), Kept.of([], 3)])
def test_nothing_kept_is_legal(empty):
    assert empty.count == 0 and not empty.is_all
    assert empty.indices.tolist() == [] and np.arange(3)[empty.index].size == 0
    assert not empty.mask().any()
    assert empty == Kept.of([], 3) and empty != Kept.of([], 4)


def test_unequal():
    assert Kept(0, 2, 1, 8) != Kept(1, 2, 1, 8)
    assert Kept(0, 2, 1, 8) != Kept(0, 2, 1, 9)
    assert Kept.of([0, 2, 5], 6) != Kept.of([0, 3, 5], 6)
    assert Kept(0, 2, 1, 8) != "kept"


@pytest.mark.parametrize("numbers", [(0, 0, 1, 8), (0, 2, 0, 8), (0, 2, 3, 8), (-2, 5, 2, 8), (0, 2, 1, -1)])
def test_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="Kept needs 0 < width <= step"):
        Kept(*numbers)


@pytest.mark.parametrize("indices", [[-1, 2], [2, 2], [3, 1], [4], [[1, 2]]])
def test_impossible_indices(indices):
    with pytest.raises(ValueError, match=r"strictly increasing indices within 0\.\.3"):
        Kept.of(indices, 4)


@pytest.mark.parametrize("indices", [[], [0], [3], [0, 1, 3], [0, 2, 3], [1, 2], [0, 1, 2, 3]])
def test_runs_of_a_list(indices):
    begins, ends = Kept.of(indices, 4).run_ends
    assert [i for run in zip(begins, ends, strict=True) for i in range(*run)] == indices
    assert (ends[:-1] < begins[1:]).all()


def test_sets_do_not_change():
    mine = np.array([1, 2, 5])
    kept = Kept.of(mine, 6)
    mine[0] = 0
    assert kept.indices.tolist() == [1, 2, 5]
    for indices in (kept.indices, Kept(0, 10, 5, 25).indices):
        with pytest.raises(ValueError, match="read-only"):
            indices[0] = 3


@in_turn("total", range(1, 12))
def test_runs_are_the_set_where_there_are_few(total):
    for step in range(1, 14):
        for width in range(1, step + 1):
            for start in range(1 - width, total + 2):
                kept = Kept(start, step, width, total)
                ends = 1 + np.count_nonzero(np.diff(kept.indices) > 1) if kept.count else 0
                if kept.runs is None:
                    assert start + 2 * step < total
                else:
                    indices = [i for run in kept.runs for i in range(run.start, run.stop)]
                    assert indices == kept.indices.tolist() and ends <= len(kept.runs) <= 2
    assert Kept.all(total).runs == (slice(0, total),)


def test_one_run_that_wraps_is_two():
    assert Kept(-3, 10, 5, 10).runs == (slice(0, 2), slice(7, 10))
    assert Kept(2, 10, 5, 10).runs == (slice(2, 7),)
    assert Kept(0, 3, 1, 9).runs is None and Kept.of([1, 2, 3], 9).runs is None


def test_repr_says_which():
    assert repr(Kept(1, 3, 1, 8)) == "Kept(3 of 8: 1 of every 3 from 1)"
    assert repr(Kept.of([0, 5], 7)) == "Kept(2 of 7)"


# -- joined --------------------------------------------------------------------------------------------------
@st.composite
def any_kept(draw):
    numbers = draw(regular())
    return Kept(*numbers) if draw(st.booleans()) else Kept.of(survivors(*numbers), numbers[-1])


def check_joined(parts):
    joined = Kept.joined(parts)
    masks = np.concatenate([part.mask() for part in parts])
    assert joined.total == len(masks) and joined.count == masks.sum()
    assert joined.mask().tolist() == masks.tolist()
    assert joined == Kept.of(np.flatnonzero(masks), len(masks))
    return joined


@given(st.lists(any_kept(), min_size=1, max_size=5))
def test_joined_is_the_axes_one_after_the_other(parts):
    check_joined(parts)


@given(any_kept(), st.integers(1, 5))
def test_joined_with_itself(kept, count):
    """As the gates of a recurrent network are: regular where the period goes on over the seams."""
    joined = check_joined([kept] * count)
    if kept.regular is None:
        assert joined.regular is None


def test_joined_stays_regular_where_it_can():
    assert Kept.joined([Kept(1, 4, 2, 12)] * 3).regular == (1, 4, 2)
    assert Kept.joined([Kept(3, 6, 3, 6)] * 4).regular == (3, 6, 3)
    # the period does not divide the axis
    assert Kept.joined([Kept(1, 4, 2, 13)] * 3).regular is None
    assert Kept.joined([Kept(-1, 4, 2, 12)] * 2).indices.tolist() == [0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20,
                                                                      23]
    assert Kept.joined([Kept(3, 4, 2, 12)] * 2).indices.tolist() == [3, 4, 7, 8, 11, 15, 16, 19, 20, 23]
    assert Kept.joined([Kept.all(5)] * 4).is_all and Kept.joined([Kept(9, 9, 1, 3)] * 4).count == 0


def test_what_moves_has_room_for_every_start():
    for step, total in itertools.product(range(1, 8), range(25)):
        for width in range(1, step + 1):
            counts = [Kept(start, step, width, total).count for start in range(1 - width, step)]
            moving = MovingKept(Kept(0, step, width, total), np.zeros(1, np.int32))
            assert (moving.count, moving.total, moving.is_all) == (max(counts), total, False)


def test_what_moves_is_disjoint_where_it_is_a_whole_family():
    def family(members, of):
        return [MovingKept(Kept(i, 3, 1, 10), np.zeros(1, np.int32), ("tiles", of)) for i in range(members)]

    assert are_disjoint(family(3, 3), 10) and are_family(family(3, 3))
    assert not are_disjoint(family(2, 3), 10)
    assert not are_disjoint([*family(2, 2), Kept(0, 3, 1, 10)], 10)
    assert not are_disjoint([MovingKept(Kept(i, 3, 1, 10), np.zeros(1, np.int32)) for i in range(2)], 10)
    assert are_disjoint(family(1, 3), 10) and not are_family(family(1, 3))


def test_what_moves_is_joined_with_itself_alone():
    one, other = (MovingKept(Kept(1, 3, 1, 10), np.zeros(1, np.int32)) for _ in range(2))
    joined = Kept.joined([one] * 4)
    assert (joined.count, joined.total, joined.part, joined.times) == (16, 40, one, 4)
    assert joined is Kept.joined([one] * 4) and joined != one and joined != Kept.joined([one] * 3)
    for parts in ([one, other], [one, Kept(1, 3, 1, 10)], [Kept(1, 3, 1, 10), one]):
        with pytest.raises(CaptureError, match="one after the other, are known to the device alone"):
            Kept.joined(parts)
    with pytest.raises(CaptureError):
        joined.spread(2)


@pytest.mark.parametrize("kept", [Kept(1, 3, 2, 11), Kept(-1, 4, 3, 10), Kept.of([0, 4, 5], 7),
                                  Kept.of([], 4), Kept.all(5), Kept(9, 9, 1, 6)])
@in_turn("factor", [1, 2, 6])
def test_spread_makes_a_run_of_every_entry(kept, factor):
    spread = kept.spread(factor)
    assert (spread.total, spread.count) == (kept.total * factor, kept.count * factor)
    assert spread.indices.tolist() == [i * factor + j for i in kept.indices for j in range(factor)]
    assert spread.mask().tolist() == kept.mask().repeat(factor).tolist()
