"""LoaderBatches: the batches of a loader by their numbers in a run; and the loader's own place."""

import threading

import numpy as np
import pytest
from cases import in_turn

from minidrop.data import ArrayDataset, DataLoader, GeneratorDataset, LoaderBatches
from minidrop.errors import DataError

COUNT, SIZE = 11, 4


def numbers(epoch):
    yield from range(COUNT - epoch % 3)


def loader(kind, **options):
    if kind == "arrays":
        return DataLoader(ArrayDataset(np.arange(COUNT)), SIZE, shuffle=True, seed=3, **options)
    length = COUNT if kind == "length" else None
    dataset = GeneratorDataset(numbers if length is None else lambda: range(COUNT), length, 5,
                               per_epoch=length is None)
    return DataLoader(dataset, SIZE, shuffle=True, seed=3, **options)


def in_order(kind, count, **options):
    """The first batches of a run, and the place of each, by the loader's own iterators."""
    own = loader(kind, **options)
    found = []
    while len(found) < count:
        found += [(own.epoch, i, batch[0].tolist()) for i, batch in enumerate(own)]
    return found


@in_turn("kind, options", [("arrays", {}), ("arrays", {"workers": 2}), ("arrays", {"drop_last": True}),
                           ("length", {}), ("length", {"workers": 1}), ("none", {}),
                           ("none", {"drop_last": True})])
def test_a_batch_depends_on_its_number_alone(kind, options):
    expected, threads = in_order(kind, 10, **options), threading.active_count()
    for order in (range(10), range(9, -1, -1), [7, 8, 9, 2, 3, 0, 5, 4, 6, 1]):
        own = loader(kind, **options)
        batches = LoaderBatches(own, ["x"])
        places = {}
        for n in order:
            got = batches.batch(n)["x"].tolist()
            places[n] = batches.place(n)
            assert (*places[n], got) == expected[n], (order, n)
        assert all(batches.number(*place) == n for n, place in places.items())
        batches.close()
        assert own.state_dict()["epoch"] == own.state_dict()["batch"] == 0      # it stays where it was
    assert threading.active_count() <= threads


@in_turn("kind", ["arrays", "length", "none"])
def test_one_pass_has_each_record_once(kind):
    batches = LoaderBatches(loader(kind), ["x"])
    batches.batch(5)
    whole = batches.one_pass()
    found = [whole.batch(n)["x"] for n in range(whole.batches_per_pass)]
    assert sorted(np.concatenate(found).tolist()) == list(range(COUNT))
    assert [whole.share(n) for n in range(3)] == [1, 1, 0.75]
    assert LoaderBatches(loader(kind)).last_records == {"none": None}.get(kind, 3)
    assert LoaderBatches(loader(kind, drop_last=True)).last_records == SIZE


def test_an_error_costs_nothing():
    """The same batch can be asked for again, and an unfinished stream is not counted anew."""
    fails, begun = [True], []

    def records():
        begun.append(1)
        for number in range(9):
            if number == 5 and fails:
                fails.clear()
                raise OSError("gone")
            yield number
    batches = LoaderBatches(DataLoader(GeneratorDataset(records), 3), ["x"])
    assert batches.batch(0)["x"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="record 5 of the generator records in epoch 0: OSError: gone"):
        batches.batch(1)
    assert batches.place(1) == (0, 1)
    assert batches.batch(1)["x"].tolist() == [3, 4, 5]
    assert len(begun) == 3          # for the shapes, and twice


def test_batches_of_other_shapes():
    sizes = iter([(3, 2), (3, 2), (2, 2), (3, 3), (4, 2)])
    batches = LoaderBatches(DataLoader(ArrayDataset(np.arange(20)), 3, collate=lambda _: (
        np.zeros(next(sizes)),)), ["x"])
    assert batches.batch(0)["x"].shape == (3, 2) and batches.batch(1)["x"].shape == (2, 2)
    for n in (2, 3):
        with pytest.raises(DataError, match=rf"batch {n} of epoch 0: expected x of shape \(3, 2\), as in "
                           "the first batch"):
            batches.batch(n)
    two = iter([(np.zeros(3),), (np.zeros(3), np.zeros(3))])
    batches = LoaderBatches(DataLoader(ArrayDataset(np.arange(20)), 3, collate=lambda _: next(two)), ["x"])
    with pytest.raises(DataError, match=r"expected batches of 1 arrays \(x\), as the first one is, got 2"):
        batches.batch(0)


def test_where_a_record_is_from():
    for kind in ("arrays", "none"):
        batches = LoaderBatches(loader(kind), ["x"])
        number = batches.batch(4)["x"][1]
        assert batches.where(4, 1) == (f"record {number} of the ArrayDataset" if kind == "arrays" else "")
    plain = LoaderBatches(DataLoader(GeneratorDataset(lambda: range(6)), 2))
    assert plain.where(1, 1).startswith("record 3 of the generator")


def test_seek_and_iterate():
    own = loader("arrays")
    expected = [batch[0].tolist() for _ in range(3) for batch in own]
    own.seek(1, 2)
    assert [batch[0].tolist() for batch in own] == expected[5:6]
    assert own.epoch == 2
    assert [batch[0].tolist() for batch in own.iterate(0, 1)] == expected[1:3]
    assert own.epoch == 2 and [batch[0].tolist() for batch in own] == expected[6:]
