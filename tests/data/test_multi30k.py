"""Real sentences: what the model of Multi30k is built on, where $MINIDROP_DATA has them."""

from minidrop.data import ParallelBatches, VocabularyPair, read_lines


def test_multi30k(data_folder):
    folder = data_folder / "multi30k"
    sides = [read_lines(folder / f"train.lc.norm.tok.{language}.xz") for language in ("de", "en")]
    vocabularies = [side.vocabulary(2) for side in sides]
    assert [len(side.lengths) for side in sides] == [29000, 29000]
    assert [len(vocabulary) for vocabulary in vocabularies] == [7859, 5921]
    batches = ParallelBatches(*sides, VocabularyPair(*vocabularies), 96, (50, 51), shuffle=True, pool=20)
    assert batches.batches_per_pass == 303 and batches.left_out == 0
    # Sorted by the target, whose steps cost most.
    filled = [float((batches.batch(n)["label"] >= 0).mean()) for n in range(40)]
    assert sum(filled) / 40 > 0.9
