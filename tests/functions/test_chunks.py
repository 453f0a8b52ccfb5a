"""Counting chunks, against the definition in words and against seqeval."""

import numpy as np
import pytest

from minidrop import DataError, ShapeError
from minidrop.data.tag_schemes import TagSet, chunks, split_tag
from minidrop.functions import count_chunks

SETS = {scheme: TagSet(("LOC", "PER"), scheme) for scheme in ("IOBES", "IOB2")}


def random_tags(scheme, seed):
    """Return (found, wanted) (T, N) of any tags in any order, so that most rules of the scheme are broken."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 6)
    wanted = rng.integers(0, len(SETS[scheme]), (8, 6))
    found = np.where(rng.random((8, 6)) < 0.6, wanted, rng.integers(0, len(SETS[scheme]), (8, 6)))
    padding = np.arange(8)[:, None] >= lengths
    return np.where(padding, -1, found), np.where(padding, -1, wanted)


def sentences(tags, scheme):
    return [[SETS[scheme].names[tag] for tag in column if tag >= 0] for column in tags.T.tolist()]


@pytest.mark.parametrize("scheme", SETS)
def test_the_same_chunks_one_by_one(scheme):
    for seed in range(20):
        found, wanted = random_tags(scheme, seed)
        counts = count_chunks(found, wanted, scheme)
        spans = [{(n, *chunk) for n, own in enumerate(sentences(tags, scheme))
                  for chunk in chunks([split_tag(tag) for tag in own])} for tags in (found, wanted)]
        assert (counts.right, counts.found, counts.wanted) == (len(spans[0] & spans[1]), *map(len, spans))
        assert counts.tokens == (wanted >= 0).sum()
        assert counts.right_tokens == ((found == wanted) & (wanted >= 0)).sum()


@pytest.mark.parametrize("scheme", SETS)
def test_what_seqeval_says(scheme):
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is the reference here")
    for seed in range(5):
        found, wanted = random_tags(scheme, seed)
        counts = count_chunks(found, wanted, scheme)
        told = [sentences(tags, scheme) for tags in (wanted, found)]
        assert 2 * counts.right / (counts.found + counts.wanted) == pytest.approx(seqeval.f1_score(*told))


def test_wrong_arrays():
    with pytest.raises(ShapeError, match="of one shape"):
        count_chunks(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(DataError, match="whole numbers from 0 on, got 0.5"):
        count_chunks(np.full((2, 3), 0.5), np.zeros((2, 3)))
