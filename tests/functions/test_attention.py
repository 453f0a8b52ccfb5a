"""Attention: against PyTorch, in blocks, with dropout, with kept sets; its gradients and its memory."""

import tracemalloc

import numpy as np
import pytest
from cases import in_turn
from products import attended

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions
from minidrop.backend import get_backend
from minidrop.functions.attention import computed_scores
from minidrop.kept import KeptByGroup
from minidrop.kernels import threads, vectors


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def operands(Tq, Tk, N=2, C=12, Cv=None):
    return numbers(Tq, N, C), numbers(Tk, N, C, seed=1), numbers(Tk, N, Cv or C, seed=2)


def run(arrays, *settings, gy=None, dtype=np.float64, kept=None, **more):
    """Return (y, gradients of q, k and v), dense; kept: what each of q, k and v keeps of its last axis."""
    leaves = [Tensor(x.astype(dtype), requires_grad=True, backend=get_backend("cpu")) for x in arrays]
    read = [x if own is None else functions.take(x, own, 2)
            for x, own in zip(leaves, kept or [None] * 3, strict=True)]
    y = functions.attention(*read, *settings, **more)
    dense = functions.expand(y)
    dense.backward(numbers(*y.shape, seed=9) if gy is None else gy)
    return y, [dense.data, *(x.grad for x in leaves)]


def assert_close(got, expected, tolerance=1e-9):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, abs(other).max(initial=0)))


def padding(Tk, N=2):
    """A key mask in which the last sample has no key at all."""
    mask = (np.random.default_rng(5).random((Tk, N)) > 0.4).astype(float)
    mask[0] = 1
    mask[:, -1] = 0
    return mask


# -- against PyTorch -----------------------------------------------------------------------------------------
def theirs(torch, arrays, heads, causal, mask, gy, dtype, scale):
    """Return what `run` does, by PyTorch, with each query's keys as an explicit mask."""
    leaves = [torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True) for x in arrays]
    (Tq, N, _), Tk = arrays[0].shape, len(arrays[1])
    q, k, v = (x.reshape(len(x), N, heads, -1).permute(1, 2, 0, 3) for x in leaves)
    reads = torch.ones(N, 1, Tq, Tk, dtype=torch.bool)
    if causal:
        reads &= torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq)
    if mask is not None:
        reads &= torch.tensor(mask).T[:, None, None] != 0
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=reads, scale=scale)
    # What it gives a query without keys has changed from version to version.
    y = torch.where(reads.any(-1, keepdim=True), y, torch.zeros_like(y))
    y = y.permute(2, 0, 1, 3).reshape(Tq, N, -1)
    y.backward(torch.tensor(gy, dtype=y.dtype))
    return [y.detach().numpy(), *(x.grad.numpy() for x in leaves)]


SIZES = {"square": (5, 5), "odd": (67, 67), "one token": (1, 1), "cross": (9, 70), "last query": (1, 33),
         "several tiles": (130, 130)}


@in_turn("causal, masked", [(False, False), (True, False), (False, True), (True, True)])
@in_turn("name", SIZES)
@in_turn("dtype, block_keys", [("float64", 0), ("float64", 32), ("float32", 0)])
def test_against_torch(name, causal, masked, dtype, block_keys):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    (Tq, Tk), heads, scale = SIZES[name], 3, 0.3 if causal else None
    arrays, mask = operands(Tq, Tk, Cv=6), None
    if masked:      # each query keeps a key, whose absence PyTorch's gradient answers with NaN
        mask = padding(Tk)
        mask[:, -1] = mask[:, 0]
    gy = numbers(Tq, 2, 6, seed=9)
    _, got = run(arrays, heads, causal, scale, mask, block_keys=block_keys, gy=gy, dtype=dtype)
    assert all(one.dtype == dtype for one in got)
    assert_close(got, theirs(torch, arrays, heads, causal, mask, gy, dtype, scale),
                 {"float64": 1e-9, "float32": 2e-5}[dtype])


def test_queries_without_keys_give_zeros():
    """Of causal attention with fewer keys than queries, and of a sample that is nothing but padding."""
    for mask, block_keys in ((None, 0), (padding(60), 0), (padding(60), 16)):
        arrays = operands(140, 60)
        with np.errstate(all="raise", under="ignore"):
            _, (y, gq, gk, gv) = run(arrays, 2, True, None, mask, block_keys=block_keys)
        assert all(np.isfinite(one).all() for one in (y, gq, gk, gv))
        assert not y[:80].any() and not gq[:80].any() and y[80:, 0].any()
        if mask is not None:
            assert not y[:, 1].any() and not any(g[:, 1].any() for g in (gq, gk, gv))


def test_large_scores_do_not_overflow():
    q, k, v = operands(40, 40)
    for block_keys in (0, 8):
        _, got = run((300 * q, 300 * k - 1000, v), 2, True, block_keys=block_keys, dtype=np.float32)
        assert all(np.isfinite(one).all() for one in got)


# -- gradients -----------------------------------------------------------------------------------------------
@in_turn("causal", [False, True])
@in_turn("block_keys", [0, 2])
@in_turn("rate", [0.0, 0.4])
@in_turn("masked", [False, True])
def test_gradients(causal, block_keys, rate, masked):
    mask = padding(4) if masked else None
    check_gradients(lambda q, k, v: functions.attention(q, k, v, 2, causal, None, mask, rate, 7, block_keys),
                    *operands(3, 4, C=4, Cv=2))


def test_gradients_that_nobody_wants():
    arrays = operands(4, 5, C=4)
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        check_gradients(lambda *x: functions.attention(*x, 2, True), *arrays, wanted=wanted)


# -- dropout -------------------------------------------------------------------------------------------------
@in_turn("Tq, Tk, causal", [(70, 70, True), (70, 70, False), (5, 83, True)])
@in_turn("masked", [False, True])
def test_blocks_drop_the_same_probabilities(Tq, Tk, causal, masked):
    arrays, mask = operands(Tq, Tk), padding(Tk) if masked else None
    whole, *blocked = (run(arrays, 3, causal, None, mask, 0.3, 2**40 + 5, block_keys)[1]
                       for block_keys in (0, 16, 33))
    for one in blocked:
        assert_close(one, whole)
    assert abs(whole[0] - run(arrays, 3, causal, None, mask)[1][0]).max() > 0.1


def test_dropout_is_that_of_all_probabilities_at_once():
    """Probability (sample, head, i, j) is dropped with element (sample, head, i, j) of one large array."""
    (q, k, v), heads, rate, key = operands(66, 70), 3, 0.4, 11
    y, _ = run((q, k, v), heads, rate=rate, key=key, block_keys=16)
    split = [x.reshape(len(x), 2, heads, -1).transpose(1, 2, 0, 3) for x in (q, k, v)]
    scores = split[0] @ split[1].swapaxes(2, 3) / np.sqrt(12 / heads)
    p = np.exp(scores - scores.max(axis=3, keepdims=True))
    p /= p.sum(axis=3, keepdims=True)
    dropped = get_backend("cpu").dropout(p, rate, 1 / (1 - rate), key)[0]
    assert_close([y.data], [(dropped @ split[2]).transpose(2, 0, 1, 3).reshape(66, 2, 12)], 1e-12)


# -- kept sets -----------------------------------------------------------------------------------------------
TOTAL, HEADS = 12, 3        # entries of v; four for each head
V_SETS = {"regular": Kept(1, 2, 1, TOTAL), "runs": Kept(-1, 4, 2, TOTAL),
          "other numbers": Kept(2, 5, 2, TOTAL), "list": Kept.of([0, 4, 8], TOTAL),
          "a head of nothing": Kept.of([0, 1, 10], TOTAL), "nothing": Kept(99, 99, 1, TOTAL),
          "all": Kept.all(TOTAL),
          "groups": KeptByGroup([Kept(0, 2, 1, TOTAL), Kept(1, 2, 1, TOTAL)]),
          "uneven groups": KeptByGroup([Kept(0, 3, 1, TOTAL), Kept.of([2, 3, 11], TOTAL), Kept.all(TOTAL)])}


def mask_of(kept, samples):
    return kept.mask(samples, float) if isinstance(kept, KeptByGroup) else kept.mask(float)


@in_turn("name", V_SETS)
@in_turn("rate, block_keys", [(0.0, 0), (0.4, 0), (0.4, 3)])
def test_v_without_some_entries(name, rate, block_keys):
    """y lacks the same entries, and is what the masked v gives."""
    kept, (q, k, v) = V_SETS[name], operands(6, 7, N=5, C=6, Cv=TOTAL)
    settings = (HEADS, True, None, None, rate, 3, block_keys)
    y, got = run((q, k, v), *settings, kept=[None, None, kept])
    assert y.kept == kept and y.kept_axis == 2 and y.data.shape == (6, 5, kept.count)
    mask = mask_of(kept, 5)
    gy = numbers(6, 5, TOTAL, seed=9) * mask
    _, (y, gq, gk, gv) = run((q, k, v * mask), *settings, gy=gy)
    assert_close(got, [y, gq, gk, gv * mask], 1e-12)


WHOLE = {"one": Kept(4, 99, 4, TOTAL), "two": Kept.of([0, 1, 2, 3, 8, 9, 10, 11], TOTAL),
         "none": Kept(99, 99, 4, TOTAL),
         "groups": KeptByGroup([Kept(0, 99, 4, TOTAL), Kept(8, 99, 4, TOTAL)]),
         "uneven groups": KeptByGroup([Kept(0, 99, 4, TOTAL), Kept(0, 99, 8, TOTAL), Kept.all(TOTAL)])}


@in_turn("name", WHOLE)
@in_turn("rate, block_keys", [(0.0, 0), (0.4, 3)])
def test_whole_heads(name, rate, block_keys, monkeypatch):
    """Scores of heads that q, k and v lack are not computed."""
    kept, arrays = WHOLE[name], operands(6, 7, N=5, C=TOTAL)
    settings, mask = (HEADS, True, None, None, rate, 3, block_keys), mask_of(WHOLE[name], 5)
    gy = numbers(6, 5, TOTAL, seed=9) * mask
    _, (y, *gradients) = run(arrays, *settings, gy=gy)
    terms = attended(monkeypatch, get_backend("cpu"))
    found, got = run(arrays, *settings, kept=[kept] * 3)
    assert found.kept == kept
    assert_close(got, [y * mask, *(g * mask for g in gradients)], 1e-12)
    compact = sum(terms)
    terms.clear()
    run(arrays, *settings)
    left = mask.sum() / np.broadcast_to(mask, mask.shape).size
    assert compact == pytest.approx(left * sum(terms)) and terms


def test_kept_sets_that_are_not_heads_are_expanded():
    kept, (q, k, v) = Kept(0, 2, 1, TOTAL), operands(4, 4, C=TOTAL)
    for own in ([kept, kept, None], [kept, None, kept], [WHOLE["one"], WHOLE["one"], None], [kept] * 3):
        mask = [1 if one is None else one.mask(float) for one in own]
        _, got = run((q, k, v), HEADS, kept=own)
        gy = numbers(4, 2, TOTAL, seed=9) * mask[2]
        _, expected = run((q * mask[0], k * mask[1], v * mask[2]), HEADS, gy=gy)
        assert_close(got, [expected[0], *(g * m for g, m in zip(expected[1:], mask, strict=True))], 1e-12)


@in_turn("kept", [None, [None, None, V_SETS["list"]]])
def test_threads_share_the_heads(kept, monkeypatch):
    """However many there are, and whatever shares they take: what they have stored is found again."""
    arrays, found = operands(130, 130, N=8, Cv=TOTAL), []
    for count in (1, 3):
        monkeypatch.setattr(threads, "COUNT", count)
        for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
            monkeypatch.setattr(threads, least, 1000)
        found.append(run(arrays, HEADS, True, rate=0.3, key=5, kept=kept)[1])
    assert_close(*found, 1e-12)


# -- vectors of each width, and none -------------------------------------------------------------------------
WIDTHS = [bits for bits in (256, 512) if bits <= vectors.BITS]


def compiled_for(bits, monkeypatch, *args, **more):
    monkeypatch.setattr(vectors, "BITS", bits)
    return run(*args, **more)[1]


@in_turn("Tq, Tk, width", [(5, 5, 12), (67, 67, 12), (70, 9, 10), (9, 70, 150), (130, 130, 6)])
@in_turn("causal, masked, rate, block_keys", [(False, False, 0.0, 0), (True, True, 0.4, 0),
                                              (True, False, 0.4, 32), (False, True, 0.0, 32)])
@in_turn("dtype, tolerance", [("float64", 1e-12), ("float32", 3e-6)])
def test_wide_vectors(Tq, Tk, width, causal, masked, rate, block_keys, dtype, tolerance, monkeypatch):
    """What is compiled for vectors, the machine's or narrower ones, gives what is computed without."""
    arrays, mask = operands(Tq, Tk, C=width, Cv=2 * width), padding(Tk) if masked else None
    widths = WIDTHS if dtype == "float32" else WIDTHS[-1:]      # each is compiled for itself
    expected, *found = (compiled_for(bits, monkeypatch, arrays, 2, causal, None, mask, rate, 3, block_keys,
                                     dtype=dtype) for bits in (0, *widths))
    for one in found:
        assert_close(one, expected, tolerance)


@in_turn("bits", [0, *WIDTHS])
@in_turn("causal, block_keys", [(False, 0), (True, 0), (True, 32)])
def test_what_is_not_finite_stays_in_its_sample_and_head(bits, causal, block_keys, monkeypatch):
    """A training that diverges is noticed, and the numbers of others are not touched."""
    with np.errstate(all="ignore"):
        arrays = operands(70, 70, N=3)
        expected = compiled_for(bits, monkeypatch, arrays, 2, causal, block_keys=block_keys, dtype="float32")
        others = np.ones((3, 12), bool)
        others[1, :6] = False
        for place in range(3):
            for value in (np.nan, np.inf, -np.inf):
                other = [x.copy() for x in arrays]
                other[place][5, 1, 3] = value
                found = compiled_for(bits, monkeypatch, other, 2, causal, block_keys=block_keys,
                                     dtype="float32")
                assert not np.isfinite(found[0][:, 1, :6]).all()
                for one, whole in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(one[:, others], whole[:, others])


# -- work and memory -----------------------------------------------------------------------------------------
def test_what_nobody_reads_is_not_computed():
    assert computed_scores(64, 64, True) == 64 * 64 and computed_scores(5, 7, False) == 35
    assert computed_scores(512, 512, True) == 64 * 64 * 36
    assert computed_scores(1024, 1024, True) == 64 * 64 * 136
    assert computed_scores(100, 30, True) == 36 * 30 and computed_scores(100, 90, True) == 64 * 54 + 36 * 90
    assert computed_scores(64 << 40, 64 << 40, True) == 64 * 64 * (1 << 39) * ((1 << 40) + 1)  # at once
    assert computed_scores(1, 1000, True) == 1000


def peak(steps):
    q, k, v = (numbers(steps, 1, 4, seed=i).astype(np.float32) for i in range(3))
    leaves = [Tensor(x, requires_grad=True) for x in (q, k, v)]
    get_backend("cpu").trim()
    tracemalloc.start()
    try:
        functions.attention(*leaves, 2, True, rate=0.1, key=3).backward(np.ones_like(v))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_the_steps_not_with_their_square():
    peak(600)           # compiles
    one, two = peak(2048), peak(4096)
    assert two < 2.3 * one and two < 4096 * 4096


# -- mistakes ------------------------------------------------------------------------------------------------
@in_turn("shapes, heads, message", [
    (((3, 2), (3, 2, 4), (3, 2, 4)), 1, "expected q, k and v as"),
    (((3, 2, 4), (3, 1, 4), (3, 2, 4)), 1, "need the same samples"),
    (((3, 2, 4), (3, 2, 4), (4, 2, 4)), 1, "need the same steps"),
    (((3, 2, 4), (3, 2, 5), (3, 2, 4)), 1, "need the same steps"),
    (((3, 2, 4), (3, 2, 4), (3, 2, 6)), 4, "4 heads do not divide the 4 entries of q and k and the 6 of v"),
    (((3, 2, 4), (3, 2, 4), (3, 2, 4)), 0, "0 heads do not divide")])
def test_mistakes(shapes, heads, message):
    with pytest.raises(ShapeError, match=message):
        functions.attention(*(Tensor(numbers(*shape)) for shape in shapes), heads)


def test_a_mask_of_another_shape():
    with pytest.raises(ShapeError, match=r"expected key_mask as .* of k, \(5, 2\), got \(2, 5\)"):
        functions.attention(*map(Tensor, operands(3, 5)), 2, key_mask=np.ones((2, 5)))


@in_turn("Tq, Tk, N, C", [(0, 3, 2, 4), (3, 0, 2, 4), (3, 3, 0, 4), (3, 3, 2, 0)])
def test_nothing_to_do(Tq, Tk, N, C):
    _, (y, *gradients) = run(operands(Tq, Tk, N, C) if C else (numbers(3, 2, 0),) * 3, 2)
    assert not y.any() and not any(g.any() for g in gradients)
