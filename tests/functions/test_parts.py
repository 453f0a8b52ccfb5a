"""What is drawn for a part of a batch is what is drawn for these samples of the whole."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import functions
from minidrop.autograd import Tensor, check_gradients
from minidrop.backend import get_backend
from minidrop.kept import Kept, KeptByGroup
from minidrop.patterns.part import Part

BACKEND = get_backend("cpu")
RNG = np.random.default_rng(0)


def both(function, shape, axis, rank=1, ranks=3):
    """(y, gx) of the whole batch, of which the part is taken, and those of the part."""
    x, gy = RNG.standard_normal(shape), RNG.standard_normal(shape)
    part = Part(rank, ranks, shape[axis], axis)
    found = []
    for array, gradient, own in ((x, gy, None), (part.take(x), part.take(gy), part)):
        tensor = Tensor(np.ascontiguousarray(array), True, BACKEND)
        y = function(tensor, own)
        y.backward(np.ascontiguousarray(gradient))
        found.append((y.numpy(), tensor.grad))
    (y, gx), own = found
    return (part.take(y), part.take(gx)), own


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 0), ((6, 2, 3, 3), 0), ((4, 6, 5), 1), ((2, 12), 1)])
def test_noise_of_a_part(shape, axis):
    for function in (lambda x, part: functions.dropout(x, 0.4, 17, part=part),
                     lambda x, part: functions.dropout(x, 0.4, 17, axes=(-1,), part=part),
                     lambda x, part: functions.dropout(x, 0.4, 17, axes=(0,), part=part),
                     lambda x, part: functions.gaussian_dropout(x, 0.4, 17, part)):
        for rank in range(3):
            whole, own = both(function, shape, axis, rank)
            for expected, found in zip(whole, own, strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_drops_probabilities_by_sample(heads):
    def attention(x, part):
        return functions.attention(x, x, x, heads, True, rate=0.4, key=5, first=part.first if part else 0)
    whole, own = both(attention, (5, 6, 4), 1)
    for expected, found in zip(whole, own, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_gradients_of_a_part():
    part = Part(1, 2, 8)
    for function in (functions.dropout, functions.gaussian_dropout):
        check_gradients(lambda x, function=function: function(x, 0.3, 5, part=part),
                        RNG.standard_normal((4, 3)))


def test_places_of_a_part():
    """Also where the axis holds the batches of several steps, one after the other."""
    part, x = Part(1, 3, 6), np.arange(24)
    assert (part.first, part.count) == (2, 2) and part.whole_shape((2, 5)) == (6, 5)
    assert part.take(x).tolist() == [2, 3, 8, 9, 14, 15, 20, 21]
    assert [part.place(i) for i in range(8)] == part.take(x).tolist()
    shape, begin, strides = part.along(1).window((4, 2, 5))
    whole = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    index = begin + sum(np.arange(n).reshape(-1, *[1] * (2 - i)) * stride
                        for i, (n, stride) in enumerate(zip(shape, (*strides, 1), strict=True)))
    np.testing.assert_array_equal(index.reshape(4, 2, 5), part.along(1).take(whole))


def test_noise_behind_a_filter_is_that_of_the_first_places_of_each_rank():
    """However many records passed there: no two ranks draw the same numbers."""
    def drawn(function, part, length):
        return function(Tensor(np.ones((length, 5))), part).numpy()
    for function in (lambda x, part: functions.dropout(x, 0.4, 17, part=part),
                     lambda x, part: functions.gaussian_dropout(x, 0.4, 17, part)):
        whole = drawn(function, None, 16)
        for rank, length in enumerate((4, 3, 0, 2)):
            np.testing.assert_array_equal(drawn(function, Part(rank, 4, 16), length),
                                          whole[4 * rank:4 * rank + length])


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5])
@in_turn("ranks", [1, 2, 3, 4, 6, 12])
def test_groups_of_a_part(groups, ranks):
    every = KeptByGroup(Kept.of(np.array([i]), groups) for i in range(groups))
    whole, size = every.mask(12), 12 // ranks
    for first in range(0, 12, size):
        own = every.between(first, first + size, 12)
        if isinstance(own, Kept):
            found = np.tile(own.mask(), (size, 1))
        else:
            found = own.mask(size)
            assert len(own.sets) <= size
        np.testing.assert_array_equal(found, whole[first:first + size])
        if groups % ranks == 0 or ranks % groups == 0:      # whole groups, or parts of one
            assert isinstance(own, Kept) or len(own.sets) == groups // ranks
