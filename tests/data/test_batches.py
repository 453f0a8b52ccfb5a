import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.data import Batches, HDF5Records, Prefetcher
from minidrop.errors import DataError


def make(folder, *counts):
    """Files of the given numbers of records; `id` numbers them through, `data` repeats the id 3 times."""
    first = 0
    for number, count in enumerate(counts):
        with h5py.File(folder / f"{number}.h5", "w") as h5:
            h5["id"] = np.arange(first, first + count)
            h5["data"] = np.repeat(np.arange(first, first + count, dtype=np.float32), 3).reshape(count, 3)
        first += count
    (folder / "list.txt").write_text("".join(f"{number}.h5\n" for number in range(len(counts))))
    return HDF5Records(folder / "list.txt", ("data", "id"))


def ids(batches, numbers):
    return np.concatenate([batches.batch(n)["id"] for n in numbers]).tolist()


def test_without_shuffle_the_files_are_read_in_order_and_wrap_around(tmp_path):
    batches = Batches(make(tmp_path, 4, 3), 5)
    assert [batches.batch(n)["id"].tolist() for n in range(3)] == [[0, 1, 2, 3, 4], [5, 6, 0, 1, 2],
                                                                  [3, 4, 5, 6, 0]]
    assert batches.batch(0)["data"].tolist() == [[i, i, i] for i in range(5)]


def test_a_batch_larger_than_an_epoch_wraps_more_than_once(tmp_path):
    assert Batches(make(tmp_path, 2, 1), 8).batch(1)["id"].tolist() == [2, 0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("shuffle", [False, True])
def test_records_that_are_skipped(tmp_path, shuffle):
    """Only those at the very beginning; all that follow are as without."""
    records = make(tmp_path, 4, 3)
    whole = ids(Batches(records, 1, shuffle, 5), range(40))
    for skip in (0, 3, 9):
        batches = Batches(records, 2, shuffle, 5, window_bytes=60, skip=skip)
        assert ids(batches, range(15)) == whole[skip:skip + 30]
        assert batches.where(1, 1) == Batches(records, 1, shuffle, 5).where(3 + skip, 0)


@settings(max_examples=8, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), batch_size=st.integers(1, 12),
       window_bytes=st.sampled_from([1, 100, 10**6]),
       numbers=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_batch_n_depends_on_n_alone(tmp_path_factory, counts, batch_size, window_bytes, numbers):
    records = make(tmp_path_factory.mktemp("batches"), *counts)
    total = sum(counts)
    for shuffle in (False, True):
        in_order = Batches(records, batch_size, shuffle, 7, "data")
        sequence = ids(in_order, range(41))
        jumping = Batches(records, batch_size, shuffle, 7, "data", window_bytes)
        for n in numbers:
            assert jumping.batch(n)["id"].tolist() == sequence[n * batch_size:(n + 1) * batch_size]
            assert jumping.where(n, 0) == in_order.where(n, 0)
        for epoch in range(len(sequence) // total):
            assert sorted(sequence[epoch * total:(epoch + 1) * total]) == list(range(total))


def test_shuffling_keeps_files_together_and_differs_by_epoch_seed_and_layer(tmp_path):
    records = make(tmp_path, 20, 20, 20)
    epochs = [ids(Batches(records, 60, True, 0, "data"), [n]) for n in range(6)]
    file_orders = []
    for epoch in epochs:
        thirds = [epoch[start:start + 20] for start in (0, 20, 40)]
        files = [{i // 20 for i in third} for third in thirds]
        assert sorted(map(sorted, files)) == [[0], [1], [2]]
        assert all(third != sorted(third) for third in thirds)
        file_orders.append(tuple(min(file) for file in files))
    assert len(set(map(tuple, epochs))) == 6 and len(set(file_orders)) > 1
    assert ids(Batches(records, 60, True, 1, "data"), [0]) != epochs[0]
    assert ids(Batches(records, 60, True, 0, "other"), [0]) != epochs[0]


def test_where_names_the_file_and_the_record(tmp_path):
    records = make(tmp_path, 4, 3)
    assert Batches(records, 5).where(1, 1) == f"{tmp_path}/1.h5: record 2"
    shuffled = Batches(records, 5, True)
    file, row = shuffled.where(3, 2).split(": record ")
    assert shuffled.batch(3)["id"][2] == int(row) + 4 * file.endswith("1.h5")


def test_changing_a_batch_does_not_change_the_next_reading_of_it(tmp_path):
    batches = Batches(make(tmp_path, 6), 3)
    batches.batch(0)["data"][:] = -1
    assert batches.batch(0)["data"].tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_the_window_is_bounded(tmp_path):
    records = make(tmp_path, 100)       # 20 bytes a record
    assert Batches(records, 5, window_bytes=1000).window_batches == 10
    assert Batches(records, 5, window_bytes=1).window_batches == 1
    assert Batches(records, 5).window_batches == 20


def test_wrong_numbers(tmp_path):
    records = make(tmp_path, 4)
    with pytest.raises(DataError, match="layer 'data': expected a batch_size of at least 1, got 0"):
        Batches(records, 0, layer_name="data")
    with pytest.raises(DataError, match="do not fit into memory; use a smaller batch_size"):
        Batches(records, 2**52).batch(0)
    with pytest.raises(ValueError, match="begin at 0"):
        Batches(records, 2).batch(-1)


def test_together_with_a_prefetcher(tmp_path):
    batches = Batches(make(tmp_path, 30, 11), 7, True)
    with Prefetcher(batches.batch, 3) as prefetcher:
        got = [prefetcher.get()["id"].tolist() for _ in range(20)]
    assert got == [batches.batch(n)["id"].tolist() for n in range(20)]


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_file_much_larger_than_the_window_is_never_in_memory_as_a_whole(tmp_path):
    rows = 120_000      # x 1000 bytes = 120 MB, sparse work for the disk: one value everywhere
    with h5py.File(tmp_path / "big.h5", "w") as h5:
        dataset = h5.create_dataset("data", (rows, 1000), "u1", chunks=(1000, 1000), compression="lzf")
        for start in range(0, rows, 5_000):
            dataset[start:start + 5_000] = np.full((5_000, 1000), start // 5_000, np.uint8)
    (tmp_path / "list.txt").write_text("big.h5\n")
    code = ("import resource, sys, h5py; from minidrop.data import HDF5Records, Batches\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            f"records = HDF5Records({str(tmp_path / 'list.txt')!r}, ['data']); before = peak()\n"
            "batches = Batches(records, 128, True)\n"
            "print(len(set(batches.batch(0)['data'][:, 0].tolist())), peak() - before)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds, kib = map(int, result.stdout.split())
    assert kinds > 15           # the batch comes from all over the file
    assert kib < 80 * 1024      # 32 MiB of window, the orders, two blocks
