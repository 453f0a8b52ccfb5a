"""Orders: each record once an epoch, as an explicit permutation says; across files, in blocks and pools."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.data import Batches, HDF5Records, orders
from minidrop.data.orders import BlockOrder, Order
from minidrop.rng import generator


def places(order, epoch, begin=0, end=None):
    runs = list(order.runs(epoch, begin, len(order) if end is None else end))
    assert all(run.dtype == np.int64 and len(run) for run in runs)
    return np.concatenate(runs).tolist() if runs else []


def caffes(parts, seed, name, epoch):
    """What Order documents, written out."""
    files = list(range(len(parts)))
    if len(parts) > 1:
        files = generator(seed, "hdf5 files", name, epoch).permutation(len(parts))
    return [sum(parts[:file]) + row for file in files
            for row in generator(seed, "hdf5 rows", name, epoch, int(file)).permutation(parts[file])]


def mixed(parts, block, pool, seed, name, epoch):
    """What BlockOrder documents, written out: blocks of all files, drawn and pooled until a pool is full."""
    blocks = [range(sum(parts[:part]) + begin, sum(parts[:part]) + min(begin + block, count))
              for part, count in enumerate(parts) for begin in range(0, count, block)]
    drawn = [blocks[i] for i in generator(seed, "hdf5 blocks", name, epoch).permutation(len(blocks))]
    pools, taken = {}, 0
    for one in drawn:
        pools.setdefault(taken // pool, []).extend(one)
        taken += len(one)
    return [index for number, records in enumerate(pools.values())
            for index in generator(seed, "hdf5 pools", name, epoch, number).permutation(records)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(orders, "BLOCK_BYTES", 30)
    monkeypatch.setattr(orders, "POOL_BYTES", 100)


PARTS = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_caffes_order_is_the_one_written_out(parts, seed, epoch):
    assert places(Order(parts), epoch) == list(range(sum(parts)))
    assert places(Order(parts, True, seed, "data"), epoch) == caffes(parts, seed, "data", epoch)


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, record_bytes=st.sampled_from([1, 10, 29, 60, 1000]), epoch=st.integers(0, 3),
       run=st.sampled_from([1, 1, 2, 4, 7]))
def test_the_mixed_order_is_the_one_written_out(parts, record_bytes, epoch, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "BLOCK_BYTES", 30)
        patch.setattr(orders, "POOL_BYTES", 100)
        got = places(BlockOrder(parts, record_bytes, 5, "data", run), epoch)
    block = max(1, 30 // record_bytes)
    if run > block and run <= 4 * block:
        block = run
    elif run <= block:
        block = run * (block // run)        # whole runs
    assert got == mixed(parts, block, max(block, 100 // record_bytes), 5, "data", epoch)
    assert sorted(got) == list(range(sum(parts)))


def test_any_places_at_any_time(small_blocks):
    for order in (Order([7, 0, 9]), Order([7, 0, 9], True, 1), BlockOrder([7, 0, 9], 10, 1)):
        whole = [places(order, epoch) for epoch in range(2)]
        for begin in range(17):
            for end in range(begin, 17):
                epoch = (begin + end) % 2
                assert places(order, epoch, begin, end) == whole[epoch][begin:end]


def test_what_fits_into_a_pool_is_uniformly_mixed():
    """Over 400 epochs each of six records of three files is at each place about as often as any other."""
    order = BlockOrder([2, 3, 1], 1000)
    counts = np.zeros((6, 6))
    for epoch in range(400):
        counts[places(order, epoch), range(6)] += 1
    assert abs(counts - 400 / 6).max() < 40      # 5.4 standard deviations


def test_more_than_a_pool_is_mixed_across_files(small_blocks):
    """Ten-byte records: blocks of 3, pools of 10 to 12. Neighbours share a pool; a pool has several files."""
    parts = [30, 30, 30]
    order = places(BlockOrder(parts, 10), 0)
    place = np.argsort(order)
    for first in range(0, 90, 3):
        assert np.ptp(place[first:first + 3]) < 12
    files = [{index // 30 for index in order[begin:begin + 12]} for begin in range(0, 84, 12)]
    assert max(map(len, files)) == 3 and sum(map(len, files)) > 12


def make(folder, *counts):
    first = 0
    for number, count in enumerate(counts):
        with h5py.File(folder / f"{number}.h5", "w") as h5:
            h5["id"] = np.arange(first, first + count, dtype=np.int32)
            h5["data"] = (np.arange(first, first + count)[:, None] * [1, -1]).astype(np.float32)
        first += count
    return HDF5Records([folder / f"{number}.h5" for number in range(len(counts))], ("data", "id"))


def test_batches_across_files_are_a_function_of_their_number(tmp_path, small_blocks):
    records = make(tmp_path, 11, 1, 20)
    batches = Batches(records, 5, True, 3, "data", across=True)
    in_order = [batches.batch(n)["id"].tolist() for n in range(30)]
    reference = [index for epoch in range(5) for index in mixed([11, 1, 20], 2, 8, 3, "data", epoch)]
    assert sum(in_order, []) == reference[:150]
    for n in (29, 0, 13, 12, 6):
        again = Batches(records, 5, True, 3, "data", window_bytes=60, across=True)
        got = again.batch(n)
        assert got["id"].tolist() == in_order[n]
        assert got["data"].tolist() == [[i, -i] for i in in_order[n]]
        file, row = again.where(n, 2).split(": record ")
        assert in_order[n][2] == int(row) + {"0": 0, "1": 11, "2": 12}[file[-4]]


def test_each_block_is_read_at_most_twice_an_epoch(tmp_path, monkeypatch):
    """A window as large as a pool meets two pools at most, so the files are read twice an epoch at most."""
    monkeypatch.setattr(orders, "BLOCK_BYTES", 12 * 4)
    monkeypatch.setattr(orders, "POOL_BYTES", 12 * 32)
    records = make(tmp_path, 100, 200, 100)
    touched, read_into = [], HDF5Records.read_into
    monkeypatch.setattr(HDF5Records, "read_into", lambda self, out, indices: touched.append(
        {index // 4 for index in indices.tolist()}) or read_into(self, out, indices))
    batches = Batches(records, 8, True, window_bytes=12 * 32, across=True)
    for n in range(50):
        batches.batch(n)
    assert batches.window_batches == 4
    assert 100 <= sum(map(len, touched)) <= 200


def test_blocks_are_whole_chunks_of_compressed_files(tmp_path, monkeypatch):
    """Chunks of 5 records of 12 bytes: a block, of at most 50 bytes, is one chunk, not 4 records."""
    monkeypatch.setattr(orders, "BLOCK_BYTES", 50)
    monkeypatch.setattr(orders, "POOL_BYTES", 130)
    for options, run in (({"chunks": (5, 2), "compression": "gzip"}, 5), ({"chunks": (5, 2)}, 1),
                         ({"chunks": (17, 2), "compression": "gzip"}, 17)):
        with h5py.File(tmp_path / "a.h5", "w") as h5:
            h5.create_dataset("data", data=np.zeros((20, 2), np.float32), **options)
            h5.create_dataset("id", data=np.arange(20, dtype=np.int32), chunks=(2,), compression="gzip")
        records = HDF5Records([tmp_path / "a.h5"], ("data", "id"))
        assert records.run == (run if "compression" in options else 2)
        if run == 17:       # more than four blocks: a pool would be one chunk
            expected = mixed([20], 4, 10, 0, "", 0)
        else:
            expected = mixed([20], 5 if run == 5 else 4, 10, 0, "", 0)
        assert Batches(records, 20, True, across=True).batch(0)["id"].tolist() == expected
