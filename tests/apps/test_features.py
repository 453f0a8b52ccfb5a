"""extract_features: the records that it writes, read with the databases' own libraries."""

import h5py
import numpy as np
import pytest

from minidrop.apps.features import check_features, extract_features, samples
from minidrop.config.minidrop_pb2 import Datum
from minidrop.errors import ConfigError, DataError
from tests.nets import ip, layer, net_of

pytest.importorskip("lmdb")


@pytest.fixture
def net(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.random.default_rng(0).normal(size=(10, 2, 6, 5)).astype(np.float32)
    (tmp_path / "x.txt").write_text(f"{tmp_path}/x.h5\n")
    data = (f'layer {{ name: "d" type: "HDF5Data" top: "x" hdf5_data_param {{ source: "{tmp_path}/x.txt" '
            f'batch_size: 4 }} }}')
    made = net_of(data, layer("Pooling", "pool", "x", more="pooling_param { kernel_size: 3 stride: 2 }"),
                  ip("ip", "pool", 3), layer("ReLU", "relu", "ip", "ip"),
                  layer("Reduction", "sum", "ip"), phase="TEST", dtype="float32")
    yield made
    made.close()


def lmdb_records(path):
    import lmdb
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [(bytes(key), Datum.FromString(value)) for key, value in transaction.cursor()]


def leveldb_records(path):
    plyvel = pytest.importorskip("plyvel")
    database = plyvel.DB(str(path))
    try:
        return [(key, Datum.FromString(value)) for key, value in database]
    finally:
        database.close()


@pytest.mark.parametrize("kind, read", [("lmdb", lmdb_records), ("leveldb", leveldb_records)])
def test_every_sample_is_a_record(net, tmp_path, kind, read):
    if kind == "leveldb":
        pytest.importorskip("plyvel")
    net.forward()               # where the data stood before counts for nothing
    paths = [str(tmp_path / name) for name in ("a", "b", "c")]
    assert extract_features(net, ["pool", "ip", "sum"], paths, 3, kind) == [12, 12, 3]
    net.seek(0)
    expected = [[], [], []]
    for _ in range(3):
        net.forward()
        for rows, name in zip(expected, ("pool", "ip", "sum"), strict=True):
            rows.extend(samples(net.blobs[name].numpy()))
    for path, rows, shape in zip(paths, expected, ((2, 3, 2), (3, 1, 1), (1, 1, 1)), strict=True):
        found = read(path)
        assert [key for key, _ in found] == [b"%010d" % i for i in range(len(rows))]
        assert {(datum.channels, datum.height, datum.width) for _, datum in found} == {shape}
        assert not any(datum.data or datum.encoded for _, datum in found)
        np.testing.assert_array_equal([datum.float_data for _, datum in found],
                                      [row.reshape(-1) for row in rows])


def test_axes_of_samples():
    assert samples(np.zeros((4, 2, 3, 5, 6))).shape == (4, 2, 90, 1)
    assert samples(np.float64(3)).shape == (1, 1, 1, 1)
    with pytest.raises(DataError, match="holds no numbers"):
        samples(np.zeros((0, 3)))


def test_what_does_not_fit_is_refused_before_anything_is_written(net, tmp_path):
    new, old = str(tmp_path / "new"), str(tmp_path / "x.txt")
    for blobs, paths, error, message in (
            (["ipp"], [new], ConfigError, "no blob 'ipp' in phase TEST; did you mean 'ip'"),
            (["ip", "x"], [new], ConfigError, "expected a database for each blob"),
            (["ip", "x"], [new, new], ConfigError, "a database of its own for each blob"),
            (["ip"], [old], DataError, "got one that exists"),
            (["ip"], [str(tmp_path / "no/new")], DataError, "in a folder that exists")):
        with pytest.raises(error, match=message):
            check_features(net, blobs, paths)
    with pytest.raises(ConfigError, match="unknown kind of database 'sqlite'"):
        extract_features(net, ["ip"], [new], 1, "sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5", "x.txt"]


def test_a_run_that_fails_leaves_no_database(net, tmp_path):
    def fail(**inputs):
        raise DataError("the data end here")
    net.forward = fail
    with pytest.raises(DataError, match="the data end here"):
        extract_features(net, ["ip"], [str(tmp_path / "new")], 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5", "x.txt"]
