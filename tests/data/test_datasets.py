"""Datasets in memory: indexing, subsets, splits, map; what a record is; sequences filled up."""

import numpy as np
import pytest
from cases import in_turn

from minidrop.data import (
    ArrayDataset,
    ArrayRecords,
    DataLoader,
    RecordsDataset,
    SequenceDataset,
    Subset,
    pad_sequences,
    random_split,
    stack,
)
from minidrop.errors import DataError


def arrays(count=7):
    return ArrayDataset(np.arange(2.0 * count).reshape(count, 2), np.arange(count))


DATASETS = {
    "arrays": arrays(),
    "sequence": SequenceDataset([(np.array([2.0 * i, 2 * i + 1]), i) for i in range(7)]),
    "mapped": arrays().map(lambda x, y: (x, y)),
    "subset": Subset(arrays(9), slice(7)),
    "records": RecordsDataset(ArrayRecords(dict(zip("xy", arrays().arrays, strict=True))), ("x", "y")),
}


@in_turn("name", DATASETS)
def test_indices_slices_lists_and_masks(name):
    dataset = DATASETS[name]
    assert len(dataset) == 7
    for index, expected in ((3, 3), (-1, 6), (np.int64(-7), 0)):
        x, y = dataset[index]
        assert (np.asarray(x).tolist(), int(y)) == ([2 * expected, 2 * expected + 1], expected)
    for index, expected in ((slice(2, 5), [2, 3, 4]), (slice(None, None, -3), [6, 3, 0]),
                            ([4, 0, -1], [4, 0, 6]),
                            (np.arange(7) % 3 == 0, [0, 3, 6]), (slice(2, 2), []), ([], [])):
        x, y = dataset[index]
        assert y.tolist() == expected and x.shape == (len(expected), 2) and x.dtype == np.float64
        assert x.tolist() == [[2 * i, 2 * i + 1] for i in expected]
    assert [int(y) for _, y in dataset] == list(range(7))
    for wrong, message in ((7, r"within -7\.\.6, got 7"), (-8, "got -8"), ([0, 7], r"got 0\.\.7"),
                           ([True] * 6, "a mask of 7 booleans"), ("a", "expected an integer, a slice"),
                           ([[1]], "expected an integer, a slice"), ([0.5], "expected an integer, a slice")):
        with pytest.raises(IndexError, match=message):
            dataset[wrong]


def test_array_datasets_share_their_arrays_and_give_copies(tmp_path):
    x = np.arange(6)
    dataset = ArrayDataset(x)
    x[2] = 50
    assert dataset[2][0] == 50 and dataset[1:4][0].tolist() == [1, 50, 3]
    dataset[1:4][0][:] = 9
    dataset[[1, 3]][0][:] = 9
    assert x.tolist() == [0, 1, 50, 3, 4, 5] and np.shares_memory(dataset.arrays[0], x)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(ArrayDataset(mapped).arrays[0], mapped)
    assert ArrayDataset(mapped)[[5, 0]][0].tolist() == [5, 0]


@in_turn("given, message", [
    ((), "expected at least one array, got none"),
    ((np.zeros(3), np.zeros(4)), "of the same length, got lengths 3, 4; the first axis counts the records"),
    ((np.zeros(3), 5), "array 1: expected records along the first axis, got a single number"),
    ((["a", "b"],), "array 0: expected an array of numbers, got list of dtype <U1; convert it"),
    (([[1], [1, 2]],), "array 0: expected an array of numbers, got list"),
    (([None],), "array 0: expected an array of numbers, got list of dtype object"),
    ((np.zeros(3), np.ma.masked_equal([1, 9, 1], 9)), "array 1: entries are masked; fill them first"),
])
def test_wrong_arrays(given, message):
    with pytest.raises(DataError, match=message):
        ArrayDataset(*given)


def test_map_and_its_errors():
    dataset = arrays().map(lambda x, y: (x[::-1] / 2, y, x.sum()))
    x, y, total = dataset[1:3]
    assert (x.tolist(), y.tolist(), total.tolist()) == ([[1.5, 1], [2.5, 2]], [1, 2], [5, 9])
    assert arrays().map(lambda x, y: y * y).map(lambda square: square + 1)[:][0].tolist() == [
        1, 2, 5, 10, 17, 26, 37]
    with pytest.raises(DataError, match="^record 2 of the ArrayDataset: TypeError: .*1 positional") as caught:
        arrays().map(lambda x: x)[2]
    assert isinstance(caught.value.__cause__, TypeError)


def test_subsets_of_subsets():
    subset = Subset(Subset(arrays(), [5, 1, 3]), [2, 0])
    assert subset[:][1].tolist() == [3, 5] and subset.where(1) == "record 5 of the ArrayDataset"
    assert len(Subset(arrays(), [])) == 0 and Subset(arrays(), [])[:][0].shape == (0, 2)
    with pytest.raises(DataError, match=r"Subset: expected indices within -7\.\.6, got 2\.\.9"):
        Subset(arrays(), [2, 9])


def test_random_splits():
    for lengths, counts in (((5, 2), [5, 2]), ((7,), [7]), ((0, 7), [0, 7]), ((0.7, 0.3), [5, 2]),
                            ((0.5, 0.25, 0.25), [4, 1, 2]), ((1 / 3, 1 / 3, 1 / 3), [2, 3, 2])):
        parts = random_split(arrays(), lengths, seed=3)
        assert [len(part) for part in parts] == counts
        assert sorted(sum((part[:][1].tolist() for part in parts), [])) == list(range(7))
        again = random_split(arrays(), lengths, seed=3)
        assert [part.indices.tolist() for part in parts] == [part.indices.tolist() for part in again]
        assert all((np.diff(part.indices) > 0).all() for part in parts)
    assert len({tuple(random_split(arrays(), (3, 4), seed)[0].indices) for seed in range(20)}) > 10
    for lengths in ((5, 3), (-1, 8), (), (0.5, 0.4), (1.5, -0.5)):
        with pytest.raises(DataError, match="random_split: expected (lengths|shares) that add up to"):
            random_split(arrays(), lengths)


def test_records_of_other_readers():
    records = ArrayRecords({"x": np.zeros((3, 2)), "y": np.arange(3)}, "some arrays")
    assert RecordsDataset(records, ["y"])[:][0].tolist() == [0, 1, 2] and len(RecordsDataset(records)[0]) == 2
    with pytest.raises(DataError, match="some arrays: expected an array 'z', got none of that name"):
        RecordsDataset(records, ["z"])


def test_one_array_is_a_dataset_of_its_rows():
    assert [batch[0].tolist() for batch in DataLoader(np.arange(5), 3)] == [[0, 1, 2], [3, 4]]


def test_stack():
    assert [part.tolist() for part in stack([(np.ones(2), np.int64(3)), (np.zeros(2), np.int64(4))])] == [
        [[1, 1], [0, 0]], [3, 4]]
    with pytest.raises(DataError, match="at least one record"):
        stack([])
    with pytest.raises(DataError, match=r"^record 1 of the batch: expected float64 \(2,\), as of record 0"):
        stack([(np.ones(2),), (np.ones(2), np.ones(2))])


# -- sequences -----------------------------------------------------------------------------------------------
def test_sequences_are_filled_up():
    array, lengths = pad_sequences(
        [np.array([1, 2, 3]), np.array([4]), np.array([], int)], -1)
    assert array.tolist() == [[1, 2, 3], [4, -1, -1], [-1, -1, -1]] and lengths.tolist() == [3, 1, 0]
    assert lengths.dtype == np.int32 and array.dtype == np.int64
    vectors = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    array, _ = pad_sequences(vectors, float("nan"), steps=4, time_first=True)
    assert array.shape == (4, 2, 3) and array.dtype == np.float32 and array.flags.c_contiguous
    assert np.isnan(array[1, 1]).all() and np.isnan(array[2:]).all() and (array[:2, 0] == 1).all()


def test_filled_up_as_another_library_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(length, 2)) for length in (3, 1, 4)]
    for time_first in (False, True):
        theirs = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in sequences],
                                                 batch_first=not time_first, padding_value=7)
        np.testing.assert_array_equal(pad_sequences(sequences, 7, time_first=time_first)[0], theirs.numpy())


@in_turn("sequences, settings, message", [
    ([], {}, "expected at least one sequence, got none"),
    ([np.zeros(2), np.zeros(2, int)], {}, r"sequence 1: expected float64 \(length\) .* got int64 \(2,\)"),
    ([np.zeros((2, 3)), np.zeros((2, 4))], {}, r"sequence 1: expected float64 \(length, 3\)"),
    ([np.zeros(2), np.zeros(5)], {"steps": 4}, r"sequence 1: .* of at most 4, got float64 \(5,\); cut"),
    ([3, 4], {}, "sequence 0: expected"), ([["a"]], {}, "sequence 0: expected an array of numbers"),
    ([np.zeros(2, int)], {"value": 0.5}, "a value that int64 can hold, got 0.5"),
    ([np.zeros(2, "u1")], {"value": -1}, "a value that uint8 can hold, got -1"),
    ([np.zeros(2, int)], {"value": float("nan")}, "a value that int64 can hold, got nan"),
])
def test_wrong_sequences(sequences, settings, message):
    with pytest.raises(DataError, match=message):
        pad_sequences(sequences, **settings)
