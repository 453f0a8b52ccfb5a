"""The linear-chain CRF against enumeration, differences and PyTorch; and the state after a sequence."""

import itertools

import numpy as np
import pytest

from minidrop import DataError, ShapeError, Tensor, check_gradients, functions
from minidrop.autograd import backward

STEPS, STREAMS, KINDS = 5, 4, 3
LENGTHS = (5, 3, 0, 1)
RNG = np.random.default_rng(1)
X = RNG.normal(size=(STEPS, STREAMS, KINDS)) * 2
W, START, END = RNG.normal(size=(KINDS, KINDS)), RNG.normal(size=KINDS), RNG.normal(size=KINDS)
TAGS = np.where(np.arange(STEPS)[:, None] < LENGTHS, RNG.integers(0, KINDS, (STEPS, STREAMS)), -1)


def score(x, path, W=W, start=START, end=END):
    return (start[path[0]] + end[path[-1]] + sum(x[t, tag] for t, tag in enumerate(path))
            + sum(W[a, b] for a, b in itertools.pairwise(path)))


def by_enumeration():
    """Return (the sum of the losses, the best paths) over all sequences of tags."""
    loss, best = 0.0, np.full(TAGS.shape, -1)
    for n, length in enumerate(LENGTHS):
        if not length:
            continue
        paths = list(itertools.product(range(KINDS), repeat=length))
        scores = np.array([score(X[:, n], path) for path in paths])
        loss += np.log(np.exp(scores).sum()) - score(X[:, n], TAGS[:length, n])
        best[:length, n] = paths[int(scores.argmax())]
    return loss, best


def value(x=X, tags=TAGS, normalization="NONE", **others):
    return float(functions.crf(*map(Tensor, (x, tags, others.get("W", W), START, END)), normalization).data)


def test_all_sequences_enumerated():
    loss, best = by_enumeration()
    assert value() == pytest.approx(loss, abs=1e-12)
    assert value(normalization="VALID") == pytest.approx(loss / 3, abs=1e-12)
    assert value(normalization="FULL") == pytest.approx(loss / 4, abs=1e-12)
    found = functions.best_tags(*map(Tensor, (X, TAGS, W, START, END)))
    assert found.data.tolist() == best.tolist()


@pytest.mark.parametrize("normalization", ["NONE", "VALID", "FULL"])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_gradients(normalization, steps):
    tags = TAGS[:steps]
    check_gradients(lambda x, *others: functions.crf(x, tags, *others, normalization), X[:steps], W, START,
                    END)


def test_against_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    leaves = [torch.tensor(one, requires_grad=True) for one in (X, W, START, END)]
    x, w, start, end = leaves
    loss = 0.0
    for n, length in enumerate(LENGTHS):
        if not length:
            continue
        alpha = start + x[0, n]
        for t in range(1, length):
            alpha = torch.logsumexp(alpha[:, None] + w, 0) + x[t, n]
        loss = loss + torch.logsumexp(alpha + end, 0) - score(x[:, n], TAGS[:length, n].tolist(), w, start,
                                                              end)
    loss.backward()
    ours = [Tensor(one, requires_grad=True) for one in (X, W, START, END)]
    y = functions.crf(ours[0], TAGS, *ours[1:], "NONE")
    backward([(y, np.ones(()))])
    assert float(y.data) == pytest.approx(loss.item(), abs=1e-9)
    for got, wanted in zip(ours, leaves, strict=True):
        np.testing.assert_allclose(got.grad, wanted.grad.numpy(), rtol=0, atol=1e-9)


def results(x, tags):
    leaves = [Tensor(one, requires_grad=True) for one in (x, W, START, END)]
    y = functions.crf(leaves[0], tags, *leaves[1:])
    backward([(y, np.ones(()))])
    path = functions.best_tags(leaves[0], tags, *leaves[1:]).data
    return [y.data, path[:STEPS], leaves[0].grad[:STEPS], *(one.grad for one in leaves[1:])]


def test_padding_changes_nothing():
    more = np.concatenate([X, np.full((2, STREAMS, KINDS), 1e3)])
    tags = np.concatenate([TAGS, np.full((2, STREAMS), -1)])
    for got, wanted in zip(results(more, tags), results(X, TAGS), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)
    values = np.where((TAGS < 0)[:, :, None], 77.0, X)      # what stands at padding is not read
    for got, wanted in zip(results(values, TAGS), results(X, TAGS), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_large_scores_and_impossible_pairs():
    far = np.float32(X * 1e4)
    assert np.isfinite(value(far)) and value(far) > 0
    never = W.copy()
    never[0, 1] = -np.inf
    tags = np.array([[0], [2]])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(value(X[:2, :1], tags, W=never))
    assert value(X[:2, :1], np.array([[0], [1]]), W=never) == np.inf


@pytest.mark.parametrize("tags, message", [
    (np.where(TAGS == -1, -2, TAGS), r"label"),
    (np.full((STEPS, STREAMS), KINDS), r"label"),
    (np.array([[0], [-1], [1]]), r"the tag at place 2 of the batch stands behind padding \(-1\)")])
def test_wrong_tags(tags, message):
    with pytest.raises(DataError, match=message):
        value(X[:len(tags), :tags.shape[1]], tags)


def test_wrong_shapes():
    with pytest.raises(ShapeError, match="expected scores"):
        value(X, TAGS[:-1])
    with pytest.raises(ShapeError, match=r"last_state needs x \(steps, streams, features\)"):
        functions.last_state(Tensor(X), Tensor(np.ones((2, 2))))


# Streams of 5, 3, 1 and 1 or no steps.
CONT = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])


def test_last_states():
    y = functions.last_state(Tensor(X), CONT).data
    assert y.tolist() == [X[4, 0].tolist(), X[2, 1].tolist(), X[0, 2].tolist(), X[0, 3].tolist()]
    x = RNG.normal(size=(STEPS, STREAMS, 6))
    both = functions.last_state(Tensor(x), CONT, True).data
    assert both[1].tolist() == [*x[2, 1, :3], *x[0, 1, 3:]]
    for own in (False, True):
        check_gradients(lambda x, own=own: functions.last_state(x, CONT, own), x)
    longer = np.concatenate([x, np.full((3, STREAMS, 6), 9.0)]), np.pad(CONT, ((0, 3), (0, 0)))
    np.testing.assert_array_equal(functions.last_state(Tensor(longer[0]), longer[1], True).data, both)
