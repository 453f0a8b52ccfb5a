"""The tiles of attention, as every backend computes them, equal the generic ones."""

import numpy as np
import pytest
from agreement import GENERIC, memory
from cases import in_turn


@pytest.fixture
def backend(any_backend):
    return any_backend


SHAPES = {      # pairs, queries, keys, entries of q and k, of v
    "one": (1, 1, 1, 1, 1), "small": (3, 5, 7, 3, 2), "tile": (2, 64, 64, 32, 32), "wide": (2, 9, 70, 33, 65),
    "several pairs": (5, 33, 17, 8, 4), "no pair": (0, 3, 4, 2, 2), "no entry of v": (2, 3, 4, 2, 0)}
SCALES = 0.7, 1 / (1 - 0.4)


def exactly(q, k, v, bias, reads, keep, gy):
    """y, the largest scores and 1 / the sums, and the gradients of q, k and v, in float64, of all keys."""
    q, k, v, gy = (x.astype(float) for x in (q, k, v, gy))
    (_, queries, _), keys = q.shape, k.shape[1]
    seen = np.arange(keys) < (keys if reads is None else reads + np.arange(queries)[:, None])
    scores = SCALES[0] * q @ k.transpose(0, 2, 1) + (0 if bias is None else bias[:, None])
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=2, keepdims=True)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=2, keepdims=True)
    factor = 1 / np.where(total == 0, 1, total)
    p = e * factor
    dropped = p * SCALES[1] * (1 if keep is None else keep)
    gp = gy @ v.transpose(0, 2, 1) * SCALES[1] * (1 if keep is None else keep)
    gs = SCALES[0] * p * (gp - (gp * p).sum(axis=2, keepdims=True))
    return dropped @ v, top, factor, (gs @ k, gs.transpose(0, 2, 1) @ q, dropped.transpose(0, 2, 1) @ gy)


@in_turn("name", SHAPES)
@in_turn("reads", [None, 1, -2])
@in_turn("masked", [False, True])
@in_turn("block_keys", [1000, 4])
def test_attend(backend, array, close, dtype, name, reads, masked, block_keys):
    """A tile, or several one after the other, whose numerators are stored or made once more."""
    pairs, queries, keys, size, width = SHAPES[name]
    # As those of heads: rows are contiguous, rows of neighbours far apart.
    q, k, v, gy = (array((rows, pairs, columns)).transpose(1, 0, 2) for rows, columns in (
        (queries, size), (keys, size), (keys, width), (queries, width)))
    bias = np.where(array((pairs, keys)) > 1, -np.inf, 0).astype(dtype) if masked else None
    keep = array((pairs, queries, keys)) > -0.3 if masked else None
    y, top, factor, gradients = exactly(q, k, v, bias, reads, keep, gy)
    for on, stores in ((backend, True), (backend, False), (GENERIC, True), (GENERIC, False)):
        mine = [on.asarray(x) for x in (q, k, v)]
        rows = [on.asarray(np.full((pairs, queries + 1, 1), 7, dtype))[:, :queries] for _ in range(2)]
        got = on.asarray(np.full((pairs, queries, width), np.nan, dtype))
        into = [on.asarray(np.full(x.shape, np.nan, dtype)) for x in (q, k, v)]
        blocks, tiles = [slice(i, min(keys, i + block_keys)) for i in range(0, keys, block_keys)], []
        stores = stores and len(blocks) == 1
        for i, own in enumerate(blocks):
            masks = [None if x is None else on.asarray(np.ascontiguousarray(x[..., own]))
                     for x in (bias, keep)]
            tile = ((mine[0], mine[1][:, own], mine[2][:, own]), masks[0],
                    None if reads is None else reads - own.start, masks[1], SCALES, *rows, got)
            tiles.append((tile, on.attend(*tile, i == 0, i == len(blocks) - 1, stores)))
            assert stores or tiles[-1][1] is None
        for i, (own, (tile, e)) in enumerate(zip(blocks, tiles, strict=True)):
            on.attend_gradient(*tile, on.asarray(gy), e, (into[0], into[1][:, own], into[2][:, own]), i > 0,
                               False)
        close(on.to_host(got), y)
        np.testing.assert_allclose(on.to_host(rows[0]), top, rtol=1e-4, atol=1e-5)
        close(on.to_host(rows[1]), factor)
        for one, other in zip(into, gradients, strict=True):
            close(on.to_host(one), other)


@pytest.mark.parametrize("wanted", range(3))
def test_gradients_are_added_or_left_out(backend, array, close, dtype, wanted):
    q, k, v, gy = (array((3, 5, 4)) for _ in range(4))
    expected = exactly(q, k, v, None, None, None, gy)[3][wanted]
    for on in (backend, GENERIC):
        rows = [on.asarray(np.empty((3, 5, 1), dtype)) for _ in range(2)]
        y = on.asarray(np.empty((3, 5, 4), dtype))
        tile = tuple(on.asarray(x) for x in (q, k, v)), None, None, None, SCALES, *rows, y
        on.attend(*tile)
        into = [None] * 3
        into[wanted] = on.asarray(np.ones((3, 5, 4), dtype))
        on.attend_gradient(*tile, on.asarray(gy), None, tuple(into), True, True)
        close(on.to_host(into[wanted]), 1 + expected)


@pytest.mark.parametrize("reads", [None, 2])
def test_attend_what_is_not_a_number(backend, array, dtype, reads):
    """A training that diverges is noticed: the query's y is no number, and others keep theirs."""
    q, k, v = (array((1, 40, 4)) for _ in range(3))
    q[0, 3, 1] = np.nan
    for on in (backend, GENERIC):
        rows = [on.asarray(np.empty((1, 40, 1), dtype)) for _ in range(2)]
        y = on.asarray(np.empty((1, 40, 4), dtype))
        on.attend(tuple(on.asarray(x) for x in (q, k, v)), None, reads, None, SCALES, *rows, y)
        assert np.isnan(on.to_host(y)).any(axis=2).nonzero()[1].tolist() == [3]


@memory
@in_turn("reads", [None, 1, 3, -2])
@in_turn("given", ["", "top", "shift"])
@in_turn("shape", [(1, 1, 1), (3, 5, 7), (2, 4, 70), (2, 3, 64), (1, 2, 131), (0, 3, 4)])
def test_numerators(backend, array, close, shape, given, reads, layout):
    scores, (_, queries, keys) = 3 * array(shape, layout), shape
    seen = np.arange(keys) < (keys if reads is None else reads + np.arange(queries)[:, None])
    exact = np.where(seen, scores.astype(float), -np.inf)
    largest = exact.max(axis=2, keepdims=True)
    bound = np.maximum(largest, 0.5).astype(scores.dtype) if given == "shift" else np.full(
        largest.shape, 0.5, scores.dtype)
    largest = np.maximum(largest, bound) if given else largest
    expected = np.exp(exact - np.where(largest == -np.inf, 0, largest))
    for on in (backend, GENERIC):
        mine = on.asarray(scores.copy(order="K"))
        top, sums = on.numerators(mine, reads, **({given: on.asarray(bound)} if given else {}))
        close(on.to_host(mine), expected)
        assert not on.to_host(mine)[~np.broadcast_to(seen, shape)].any()
        if given == "shift":
            assert top is sums is None
        else:
            np.testing.assert_array_equal(on.to_host(top), largest)
            close(on.to_host(sums), expected.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("reads", [None, 2])
def test_numerators_of_what_is_not_a_number(backend, dtype, reads):
    """A training that diverges is noticed; padding is no number either, and gives 0."""
    scores = np.zeros((1, 2, 40), dtype)
    scores[0, 0, 1], scores[0, 1] = np.nan, -np.inf
    for on in (backend, GENERIC):
        mine = on.asarray(scores.copy())
        _, sums = on.numerators(mine, reads)
        assert np.isnan(on.to_host(sums)[0, 0, 0]) and not on.to_host(mine)[0, 1].any()


@memory
@in_turn("shape", [(1, 1, 1), (3, 5, 7), (2, 4, 70), (0, 3, 4)])
@in_turn("masked", [False, True])
def test_score_gradient(backend, array, close, shape, masked, layout):
    scores, e, d = array(shape, layout), array(shape, layout), array((*shape[:2], 1), layout)
    keep = array(shape) > 0 if masked else None
    expected = -0.3 * e.astype(float) * ((1.0 if keep is None else keep) * scores.astype(float) - d)
    for on in (backend, GENERIC):
        mine = on.asarray(scores.copy())
        kept = None if keep is None else on.asarray(keep)
        on.score_gradient(mine, on.asarray(e), on.asarray(d), kept, -0.3)
        close(on.to_host(mine), expected)


@memory
@in_turn("shape", [(1, 1, 1), (3, 5, 7), (2, 4, 70), (0, 3, 4)])
def test_row_products(backend, array, close, shape, layout):
    a, b = array(shape, layout), array(shape, layout)
    for on in (backend, GENERIC):
        got = on.row_products(on.asarray(a), on.asarray(b))
        assert got.dtype == a.dtype
        close(on.to_host(got), (a.astype(float) * b).sum(axis=2, keepdims=True))
