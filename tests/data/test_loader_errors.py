"""What a DataLoader says of records that cannot be read, and of settings that do not fit."""

import numpy as np
import pytest
from cases import in_turn
from loader_records import arrays, ids, numbers

from minidrop.data import (
    ArrayDataset,
    DataLoader,
    Dataset,
    GeneratorDataset,
    Subset,
)
from minidrop.errors import DataError


class Broken(Dataset):
    """Reads whole batches, of which record 13 fails, or any two together."""

    def __init__(self, alone=True):
        self.alone = alone

    def __len__(self):
        return 20

    def read(self, indices):
        if 13 in indices if self.alone else len(indices) > 1:
            raise KeyError("lost")
        return (indices,)


def at_13(x, y):
    if y == 13:
        raise ZeroDivisionError("no")
    return x, y


def generate():
    for number, (x, y) in enumerate(numbers()):
        if number == 13:
            raise OSError("gone")
        yield x, y


class Failing(list):
    def __getitem__(self, index):
        return list.__getitem__(self, index) if index != 13 else {}["x"]


@in_turn("dataset, message", [
    (Broken(), "^record 13 of the Broken: KeyError: 'lost'$"),
    (arrays().map(at_13), "^record 13 of the ArrayDataset: ZeroDivisionError: no$"),
    (Subset(arrays(40), range(1, 30)).map(at_13), "^record 13 of the ArrayDataset: ZeroDivisionError: no$"),
    (Failing(range(20)), "^record 13 of the Failing: KeyError: 'x'$"),
    (GeneratorDataset(generate), "^record 13 of the generator generate in epoch 0: OSError: gone$"),
    (GeneratorDataset(numbers).map(at_13), "^record 13 of the generator numbers in epoch 0: ZeroDivis"),
    ([0] * 13 + ["text"] + [0] * 6, "^record 13 of the list: array 0 of the record: .* got str of dtype <U4"),
    ([0] * 13 + [[1, [2, 3]]] + [0] * 6, "^record 13 of the list: array 0 of the record: .* got list"),
    ([0] * 13 + [()] + [0] * 6, "^record 13 of the list: expected a record of at least one array"),
    ([0] * 13 + [[0, 1]] + [0] * 6, r"^record 13 of the list: expected int64 \(\), as of record 12 of the "
     r"list, got int64 \(2,\); make all alike, or give the DataLoader a collate"),
    ([0] * 13 + [1.5] + [0] * 6, r"^record 13 of the list: expected int64 \(\).*got float64 \(\)"),
])
def test_an_error_names_the_record_after_the_batches_before_it(dataset, message):
    for workers in (0, 1, 3):
        loader = DataLoader(dataset, 3, workers=workers)
        running, got = iter(loader), []
        with pytest.raises(DataError, match=message):
            for batch in running:
                got.append(batch)
        assert len(got) == loader.state_dict()["batch"] == 4
        with pytest.raises(DataError, match=message):       # and again, as nothing was skipped
            next(running)
        running.close()


def test_an_error_that_no_record_has_alone():
    with pytest.raises(DataError, match="^record 0 of the Broken and 2 more: KeyError: 'lost'$") as caught:
        next(iter(DataLoader(Broken(alone=False), 3)))
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_passes_can_be_tried_again():
    """A file that is not there for a moment."""
    fails = [True]

    def once(x, y):
        if y == 5 and fails:
            raise OSError(f"away {fails.pop()}")
        return x, y

    for workers in (0, 2):
        fails[:] = [True]
        running, got = iter(DataLoader(arrays(8).map(once), 2, workers=workers)), []
        with pytest.raises(DataError, match="record 5 .* away"):
            for _, y in running:
                got.append(y.tolist())
        assert (got, ids(running)) == ([[0, 1], [2, 3]], [[4, 5], [6, 7]])


def test_a_read_that_returns_something_else():
    class Wrong(Broken):
        def read(self, indices):
            return self.returned

    dataset = Wrong()
    for dataset.returned, got in ((np.zeros(2), r"\(2,\)"), ((np.zeros(3), [1, 2, 3]), "list"),
                                  ((np.zeros((4, 3)),), r"\(4, 3\)")):
        with pytest.raises(DataError, match=f"Wrong.read: expected .* of 3 records, .* got {got}"):
            next(iter(DataLoader(dataset, 3)))


@in_turn("make, message", [
    (lambda: DataLoader(arrays(), 0), "batch_size: expected a whole number of at least 1, got 0"),
    (lambda: DataLoader(arrays(), 2.5), "batch_size: expected a whole number .* got 2.5"),
    (lambda: DataLoader(arrays(), True), "got True"),
    (lambda: DataLoader(arrays(), 2, workers=-1), "workers: .* at least 0, got -1"),
    (lambda: DataLoader(arrays(), 2, prefetch=0), "prefetch: .* at least 1, got 0"),
    (lambda: DataLoader(arrays(), 2, seed="a"), "seed: expected a whole number, got 'a'"),
    (lambda: DataLoader(5, 2), "expected a Dataset, or an object with __len__ and __getitem__, got int"),
    (lambda: DataLoader(numbers(), 2), "got generator"),
    (lambda: DataLoader((np.zeros(3), np.zeros(3)), 2), r"a tuple, .* give arrays as ArrayDataset\(x, y\)"),
    (lambda: DataLoader([], 2), "a length of at least 1, got 0"),
    (lambda: DataLoader(ArrayDataset(np.zeros((0, 3))), 2), "a length of at least 1, got 0"),
    (lambda: DataLoader(arrays(3), 4, drop_last=True), "at least 4, for one batch, .*, got 3"),
    (lambda: DataLoader(GeneratorDataset(numbers), 2, shuffle=True), "the generator numbers: .* give the "
     "dataset a buffer, e.g. of 1000 records"),
    (lambda: DataLoader(GeneratorDataset(numbers, buffer=-1), 2), "a buffer of at least 0, got -1"),
    (lambda: DataLoader(GeneratorDataset(numbers, length=1.5), 2), "a length of at least 1, got 1.5"),
    (lambda: GeneratorDataset(numbers()), "give the generator function itself"),
    (lambda: DataLoader(arrays(), 2).seek(1.5), "seek: epoch: expected a whole number .*, got 1.5"),
    (lambda: DataLoader(arrays(), 2).seek(0, -1), "seek: batch: expected a whole number .*, got -1"),
])
def test_wrong_settings(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_what_gives_the_batches_is_said_where_a_loader_is_made():
    """A change afterwards did nothing, or made its state one of other batches."""
    own = DataLoader(arrays(6), 2, shuffle=True, seed=1)
    for name in ("batch_size", "shuffle", "seed", "drop_last", "dataset", "collate", "augment", "collate_fn"):
        with pytest.raises(DataError, match=f"DataLoader: {name} is said where the loader is made"):
            setattr(own, name, 3)
    own.workers, own.note = 2, "mine"
    assert own.batch_size == 2 and len(list(own)) == 3 and own.sample(4)[0].shape[0] == 4
