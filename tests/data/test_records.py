"""ArrayRecords, and Batches of them: the arrays themselves where they can be, copies where not."""

import numpy as np

from minidrop.data import ArrayRecords, Batches


def records(count=7):
    arrays = {"data": np.arange(2.0 * count).reshape(count, 2), "id": np.arange(count)}
    return ArrayRecords(arrays, "some arrays")


def test_what_they_are():
    some = records()
    assert (len(some), some.shapes("data"), some.dtypes("data")) == (7, (2,), np.float64)
    assert some.record_bytes == 24
    assert some.where(4) == "record 4 of some arrays" and some.parts == (7,)
    assert {name: array.shape for name, array in some.empty(3).items()} == {"data": (3, 2), "id": (3,)}


def test_neighbours_are_views():
    some = records()
    assert np.shares_memory(some.read(np.array([2, 3, 4]))["data"], some.arrays["data"])
    picked = some.read(np.array([4, 3, 4]))
    assert picked["id"].tolist() == [4, 3, 4] and not np.shares_memory(picked["data"], some.arrays["data"])


def test_batches_go_round_and_see_changes():
    some = records()
    batches = Batches(some, 3)
    assert [batches.batch(n)["id"].tolist() for n in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]
    assert Batches(some, 16).batch(0)["id"].tolist() == [*range(7), *range(7), 0, 1]
    assert batches.where(2, 1) == "record 0 of some arrays"
    some.arrays["id"][1] = 9
    assert batches.batch(2)["id"].tolist() == [6, 0, 9]


def test_shuffled():
    batches = Batches(records(), 7, True, seed=2)
    epochs = [batches.batch(n)["id"].tolist() for n in range(5)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(map(tuple, epochs))) == 5
    said = [batches.where(3, place) for place in range(7)]
    assert said == [f"record {i} of some arrays" for i in epochs[3]]
