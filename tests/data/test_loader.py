"""DataLoader: orders, epochs, last batches, resuming, threads, generators, closing."""

import gc
import json
import threading
import time
from functools import partial

import h5py
import numpy as np
import pytest
from cases import in_turn
from loader_records import arrays, ids, numbers

from minidrop.data import (
    ArrayDataset,
    ArrayRecords,
    Batches,
    DataLoader,
    GeneratorDataset,
    HDF5Dataset,
    SequenceDataset,
    Subset,
    pad_sequences,
)
from minidrop.errors import DataError


@pytest.fixture
def files(tmp_path):
    for file, part in enumerate(np.split(np.arange(23), [9, 10])):
        with h5py.File(tmp_path / f"{file}.h5", "w") as h5:
            h5["data"], h5["label"] = part[:, None] * np.ones(3), part
    return [tmp_path / f"{file}.h5" for file in range(3)]


SOURCES = {
    "arrays": lambda files: arrays(),
    "list": lambda files: list(zip(*arrays().arrays, strict=True)),
    "mapped": lambda files: arrays().map(lambda x, y: (x * 2, y)),
    "subset": lambda files: Subset(arrays(40), range(1, 24)),
    "files": HDF5Dataset,
    "files in turn": lambda files: HDF5Dataset(files, across_files=False),
    "generator": lambda files: GeneratorDataset(numbers, buffer=7),
    "mapped generator": lambda files: GeneratorDataset(numbers, buffer=7).map(lambda x, y: (x, y)),
}


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "minidrop-prefetch"]


# -- what the batches are ------------------------------------------------------------------------------------
def test_in_order_the_last_batch_is_what_is_left():
    loader = DataLoader(arrays(7), 3)
    for _ in range(2):
        assert ids(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3
    x, y = next(iter(loader))
    assert isinstance(x, np.ndarray) and x.dtype == np.float64 and x.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_drop_last():
    loader = DataLoader(arrays(7), 3, drop_last=True)
    assert ids(loader) == [[0, 1, 2], [3, 4, 5]] and len(loader) == 2
    assert len(DataLoader(arrays(6), 3, drop_last=True)) == len(DataLoader(arrays(6), 3)) == 2
    assert ids(DataLoader(GeneratorDataset(lambda: numbers(7)), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]


def test_the_shuffled_order_is_that_of_data_layers():
    dataset = arrays()
    batches = Batches(ArrayRecords({"id": np.arange(23)}), 23, True, seed=5)
    loader = DataLoader(dataset, 4, shuffle=True, seed=5)
    for epoch in range(3):
        assert loader.epoch == epoch
        assert sum(ids(loader), []) == batches.batch(epoch)["id"].tolist()
    assert sum(ids(DataLoader(dataset, 4, shuffle=True, seed=6)), []) != batches.batch(0)["id"].tolist()


@in_turn("source", SOURCES)
def test_each_epoch_has_every_record_once_in_an_order_of_its_own(source, files):
    loader = DataLoader(SOURCES[source](files), 5, shuffle=True)
    epochs = [sum(ids(loader), []) for _ in range(4)]
    first = int(source == "subset")
    assert all(sorted(epoch) == list(range(first, 23 + first)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert sum(ids(DataLoader(SOURCES[source](files), 5, shuffle=True)), []) == epochs[0]


def test_batches_are_the_callers_own():
    dataset = arrays(6)
    for shuffle in (False, True):
        for x, _ in DataLoader(dataset, 3, shuffle=shuffle):
            x[:] = -1
    assert dataset.arrays[0].min() == 0


def test_one_gather_a_batch_and_no_other_copy(monkeypatch):
    """What the loop gets are the very arrays that reading the records made."""
    made = []

    class Kept(ArrayDataset):
        def read(self, indices):
            made.append(super().read(indices))
            return made[-1]

    got = list(DataLoader(Kept(np.ones((20, 3))), 8, shuffle=True))
    assert all(mine[0].base is theirs[0] or mine[0] is theirs[0] for mine, theirs in
               zip(got, made, strict=True))


# -- resuming ------------------------------------------------------------------------------------------------
@in_turn("source", SOURCES)
def test_a_resumed_loader_goes_on_bit_for_bit_from_every_place(source, files):
    for shuffle, workers in ((True, 0), (True, 2), (False, 0)):
        def loader(shuffle=shuffle, workers=workers):
            return DataLoader(SOURCES[source](files), 5, shuffle=shuffle, seed=3, workers=workers)

        whole, states, running = [], [], loader()
        for _ in range(2):
            epoch = iter(running)
            while True:
                states.append((len(whole), json.dumps(running.state_dict())))
                try:
                    whole.append(next(epoch))
                except StopIteration:
                    break
        assert len(whole) == 10 and running.epoch == 2
        for passed, state in states:
            again = loader()
            again.load_state_dict(json.loads(state))
            rest = [*again, *again] if passed < 5 or again.epoch == 0 else list(again)
            assert len(rest) == 10 - passed
            for mine, theirs in zip(rest, whole[passed:], strict=True):
                assert all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in
                           zip(mine, theirs, strict=True))
            assert again.epoch == 2


def test_a_loop_that_is_left_begins_a_new_epoch_but_its_state_goes_on():
    loader = DataLoader(arrays(8), 2, shuffle=True, seed=1)
    epochs = [ids(loader), ids(loader)]
    loader = DataLoader(arrays(8), 2, shuffle=True, seed=1)
    for _ in loader:
        break
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 1) and ids(loader) == epochs[1]
    loader.load_state_dict(state)
    assert ids(loader) == epochs[0][1:] and ids(loader) == epochs[1]


def test_the_state_is_about_the_newest_iterator():
    loader = DataLoader(arrays(8), 2)
    old, new = iter(loader), iter(loader)
    next(new), next(old), next(old), next(old)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 1)
    loader.load_state_dict({**loader.state_dict(), "epoch": 5})
    next(new)
    assert (loader.epoch, loader.state_dict()["batch"]) == (5, 1)


@in_turn("change, message", [
    ({"batch_size": 4}, "saved with, batch_size 4, got batch_size 5; make the loader as it was"),
    ({"seed": 1, "order": 3}, "saved with, seed 1, order 3, got seed 0, order"),
    ({"records": 22}, "records 22, got records 23"),
    ({"epoch": -1}, "epoch in the state: .*at least 0, got -1"),
    ({"batch": 6}, "a state within 5 batches, got batch 6"), ({"batch": "1"}, "a whole number .* got '1'"),
    ({"batch": True}, "got True"), ({"more": 1}, "expected a state of epoch, batch, .*got 'epoch'")])
def test_states_of_something_else(change, message):
    loader = DataLoader(arrays(), 5, shuffle=True)
    with pytest.raises(DataError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(DataError, match="got list"):
        loader.load_state_dict([1])
    with pytest.raises(DataError, match="got nothing; is it"):
        loader.load_state_dict({})


def test_a_state_of_files_of_other_sizes(files):
    state = DataLoader(HDF5Dataset(files), 5, shuffle=True).state_dict()
    for other in (HDF5Dataset(files[::-1]), HDF5Dataset(files, across_files=False)):
        with pytest.raises(DataError, match="order"):
            DataLoader(other, 5, shuffle=True).load_state_dict(state)


def test_a_generator_that_became_shorter_cannot_be_resumed():
    long, short = (GeneratorDataset(lambda count=count: numbers(count)) for count in (23, 12))
    state = {**DataLoader(long, 5).state_dict(), "batch": 4}
    loader = DataLoader(short, 5)
    loader.load_state_dict(state)
    with pytest.raises(DataError, match="expected 16 records or more before batch 4 of epoch 0.*got 12"):
        next(iter(loader))


# -- threads -------------------------------------------------------------------------------------------------
@in_turn("source", SOURCES)
def test_workers_change_nothing(source, files):
    def batches(workers, prefetch):
        loader = DataLoader(SOURCES[source](files), 4, True, seed=2, workers=workers, prefetch=prefetch)
        return [[array.tolist() for array in batch] for _ in range(2) for batch in loader]

    expected = batches(0, 2)
    assert len(expected) == 12
    for workers, prefetch in ((1, 1), (1, 5), (3, 1), (3, 4), (9, 2)):
        assert batches(workers, prefetch) == expected


def test_workers_of_different_speed_keep_the_order():
    def slow(x, y):
        time.sleep(0.02 * (y % 5 == 0))
        return x, y

    loader = DataLoader(arrays(20).map(slow), 2, workers=3)
    assert ids(loader) == ids(DataLoader(arrays(20), 2))


def test_workers_work_at_the_same_time():
    """Two threads must be in the function at once: it waits for the other."""
    both = threading.Barrier(2, timeout=10)

    def meet(x, y):
        both.wait()
        return x, y

    assert len(list(DataLoader(arrays(8).map(meet), 1, workers=2))) == 8


def test_two_iterators_at_once_are_two_epochs():
    loader = DataLoader(arrays(), 5, shuffle=True, workers=2)
    epochs = [ids(loader), ids(loader)]
    loader = DataLoader(arrays(), 5, shuffle=True, workers=2)
    pairs = list(zip(loader, loader, strict=True))
    assert [ids(part) for part in zip(*pairs, strict=True)] == epochs


def test_threads_end_with_the_epoch_with_the_iterator_and_with_close():
    before = len(threads())
    loader = DataLoader(arrays(), 2, workers=3)
    list(loader)
    assert len(threads()) == before
    running = iter(loader)
    next(running)
    assert len(threads()) > before
    del running
    gc.collect()
    assert len(threads()) == before
    for _ in loader:
        break
    assert len(threads()) == before
    with loader:
        left = iter(loader)
        next(left)
    assert len(threads()) == before
    with pytest.raises(DataError, match="got one that has been closed; make a new one"):
        next(left)
    loader.close()
    assert len(ids(loader)) == 12


def test_an_ended_iterator_stays_ended():
    running = iter(DataLoader(arrays(4), 2, workers=1))
    assert len(list(running)) == 2 and list(running) == [] and iter(running) is running


# -- generators ----------------------------------------------------------------------------------------------
def test_the_length_of_a_generator():
    loader = DataLoader(GeneratorDataset(numbers, length=23), 5)
    assert len(loader) == len(list(loader)) == 5
    with pytest.raises(TypeError, match="the generator numbers has no length"):
        len(DataLoader(GeneratorDataset(numbers), 5))


@in_turn("length, batches, message", [
    (30, 4, "expected 30 records, its length, got 23 in epoch 0; it ended early, or the length is wrong"),
    (12, 2, "expected 12 records, its length, got more in epoch 0; correct the length")])
def test_a_generator_of_another_length_than_it_says(length, batches, message):
    for workers in (0, 2):
        got = []
        with pytest.raises(DataError, match=message):
            for batch in DataLoader(GeneratorDataset(numbers, length), 5, workers=workers):
                got.append(batch)
        assert len(got) == batches


def test_a_generator_without_a_record_or_a_whole_batch():
    with pytest.raises(DataError, match="expected records, got none in epoch 0"):
        list(DataLoader(GeneratorDataset(lambda: iter(())), 5))
    with pytest.raises(DataError, match="at least 30 records, for one batch, got 23"):
        list(DataLoader(GeneratorDataset(numbers), 30, drop_last=True))


def test_a_generator_of_the_epoch():
    def counted(epoch):
        yield from range(10 * epoch, 10 * epoch + 3)

    loader = DataLoader(GeneratorDataset(counted, per_epoch=True), 2)
    assert [ids(loader), ids(loader)] == [[[0, 1], [2]], [[10, 11], [12]]]


def test_the_buffer_is_the_one_written_out():
    from minidrop.rng import generator
    rng, rest, expected = generator(4, "shuffle buffer", 0), list(range(7)), []
    for number in range(7, 23):
        place = rng.integers(7)
        expected.append(rest[place])
        rest[place] = number
    expected += [rest[place] for place in rng.permutation(7)]
    loader = DataLoader(GeneratorDataset(numbers, buffer=7), 23, shuffle=True, seed=4)
    assert ids(loader) == [expected]
    assert sorted(expected) == list(range(23))


def test_a_generator_is_read_once_and_closed():
    begun, ended = [], []

    def watched():
        begun.append(1)
        try:
            yield from numbers()
        finally:
            ended.append(1)

    for workers in (0, 1):
        list(DataLoader(GeneratorDataset(watched), 5, workers=workers))
        running = iter(DataLoader(GeneratorDataset(watched), 5, workers=workers))
        next(running)
        running.close()
        gc.collect()
    assert len(begun) == len(ended) == 4


# -- collate, augment ----------------------------------------------------------------------------------------
def padded(records):
    words, labels = zip(*records, strict=True)
    return *pad_sequences(words), np.array(labels)


def test_sequences_of_unequal_lengths():
    records = [(np.arange(1, 2 + number % 3), number) for number in range(5)]
    for source in (records, GeneratorDataset(lambda: iter(records))):
        for workers in (0, 2):
            batches = list(DataLoader(source, 3, collate=padded, workers=workers))
            assert batches[0][0].tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]]
            assert batches[0][1].tolist() == [1, 2, 3] and batches[0][2].tolist() == [0, 1, 2]
            assert batches[1][0].tolist() == [[1, 0], [1, 2]]
    with pytest.raises(DataError, match=r"^record 1 of the list: expected int64 \(1,\) and int64 \(\), as"):
        next(iter(DataLoader(records, 3)))


def test_sequences_are_filled_up_by_pad_sequences_itself():
    """The first array of each record; what follows is stacked."""
    words = [np.arange(1, 2 + number % 3) for number in range(5)]
    pairs = [(one, 7 * place) for place, one in enumerate(words)]
    for records, label in ((pairs, [0, 7, 14]), (words, None)):
        filled, lengths, *labels = next(iter(DataLoader(records, 3, collate=pad_sequences)))
        assert filled.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]] and lengths.tolist() == [1, 2, 3]
        assert [one.tolist() for one in labels] == ([] if label is None else [label])
    wide = partial(pad_sequences, value=-1, steps=4, time_first=True)
    filled, lengths = next(iter(DataLoader([words[0], words[3]], 2, collate=wide)))     # of equal lengths
    assert filled.tolist() == [[1, 1], [-1, -1], [-1, -1], [-1, -1]] and lengths.tolist() == [1, 1]
    for others, got in (((words[1],), r"int64 \(2,\)"), ((), "nothing")):
        records = [(words[0], words[0]), (words[1], *others)]
        with pytest.raises(DataError, match="pad_sequences: behind the first array of each record: record 1 "
                                            rf"of the batch: expected int64 .*got {got}; join them in a"):
            next(iter(DataLoader(records, 2, collate=pad_sequences)))
    array, lengths = pad_sequences([(np.ones(2), np.ones(2)), (np.ones(2),)])           # tuples of vectors
    assert array.shape == (2, 2, 2) and lengths.tolist() == [2, 1]


def test_an_error_of_collate_names_the_batch():
    with pytest.raises(DataError, match="^collate of record 0 of the ArrayDataset and 1 more: ValueError"):
        next(iter(DataLoader(arrays(), 2, collate=lambda records: np.zeros(2).reshape(3))))


def test_augmenting_is_random_but_the_same_for_any_workers_and_after_resuming():
    def noisy(rng, x, y):
        return x + rng.normal(size=2), y

    def loader(workers=0, seed=1):
        return DataLoader(arrays(), 4, True, seed=seed, workers=workers, augment=noisy)

    first = loader()
    epochs = [np.concatenate([x for x, _ in first]) for _ in range(2)]
    for workers in (1, 3):
        again = loader(workers)
        for epoch in epochs:
            assert np.concatenate([x for x, _ in again]).tobytes() == epoch.tobytes()
    resumed = loader()
    resumed.load_state_dict({**resumed.state_dict(), "batch": 3})
    assert np.concatenate([x for x, _ in resumed]).tobytes() == epochs[0][12:].tobytes()
    noise = np.sort(np.concatenate(epochs)[:, 0])
    assert len(set(noise.tolist())) == 46
    assert next(iter(loader(seed=2)))[0].tobytes() != epochs[0][:4].tobytes()


def test_the_loader_of_another_library_s_dataset():
    torch = pytest.importorskip("torch")
    theirs = torch.utils.data.TensorDataset(torch.arange(10.).reshape(5, 2), torch.arange(5))
    assert [[part.tolist() for part in batch] for batch in DataLoader(theirs, 3)] == [
        [part.tolist() for part in batch] for batch in torch.utils.data.DataLoader(theirs, 3)]
    assert SequenceDataset(theirs)[3][0].tolist() == [6, 7]
