"""Records of one's own: a class with len and read, a layer of a few lines; read ahead, shuffled, resumed."""

import threading

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.data import Batches, Records
from minidrop.layers import base
from minidrop.net import Net

FED = '''layer { name: "rings" type: "Rings" top: "data" top: "label" }'''
NET = FED + '''
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 16 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1" }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }'''
SOLVER = ("base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 14 random_seed: 3 solver_mode: CPU "
          "snapshot: 5")


class RingRecords(Records):
    """Points on three rings, computed from their number."""

    def __init__(self, count=50, classes=3):
        self.count, self.classes, self.readers = count, classes, set()

    def __len__(self):
        return self.count

    def read(self, indices):
        self.readers.add(threading.current_thread().name)
        angle, label = indices.astype(np.float32), indices % self.classes
        return {"data": np.stack([np.cos(angle), np.sin(angle)], 1) * (1 + label[:, None]).astype(np.float32),
                "label": label, "number": indices}


class Rings(md.DataLayer):
    """The whole of a layer for them."""

    prefetch = 2

    def setup(self):
        self.records = RingRecords()
        return self.feed(self.records, batch_size=8, shuffle=True)


@pytest.fixture(autouse=True)
def registered():
    with base._types.forgetting():
        md.register_layer("Rings")(Rings)
        yield


def batches(net, count, *names):
    """What the tops of a net are in its next batches."""
    got = []
    for _ in range(count):
        net.forward()
        got.append(np.concatenate([net.blobs[name].numpy().reshape(8, -1) for name in names], 1))
    return np.stack(got)


def test_the_tops_have_the_shapes_of_the_records_and_the_type_of_the_net(dtype):
    net = Net(parse_net(FED), device="cpu", dtype=dtype)
    net.forward()
    assert net.graph.shapes == {("data", 0): (8, 2), ("label", 0): (8,)}
    assert net.blobs["data"].dtype == net.blobs["label"].dtype == dtype
    net.close()


def test_a_thread_reads_ahead_and_ends():
    net = Net(parse_net(FED), device="cpu")
    batches(net, 3, "label")
    assert net.layers["rings"].records.readers >= {"minidrop-prefetch"}
    assert threading.current_thread().name not in net.layers["rings"].records.readers - {"MainThread"}
    thread = net.layers["rings"].reader._state.thread
    net.close()
    assert not thread.is_alive() and net.layers["rings"].reader is None
    assert batches(net, 1, "label").shape == (1, 8, 1) and net.positions == {"rings": 4}
    net.close()


def test_every_epoch_has_each_record_once_in_an_order_of_its_own():
    config = parse_net(FED.replace('"label"', '"number"'))
    net = Net(config, device="cpu", seed=7)
    numbers = batches(net, 25, "number").reshape(4, 50)
    net.close()
    assert (np.sort(numbers) == np.arange(50)).all()
    assert len({tuple(epoch) for epoch in numbers}) == 4
    again, other = (Net(config, device="cpu", seed=seed) for seed in (7, 8))
    np.testing.assert_array_equal(batches(again, 25, "number").reshape(4, 50), numbers)
    assert (batches(other, 25, "number").reshape(4, 50) != numbers).any()
    again.close(), other.close()


def test_batch_n_depends_on_the_seed_and_n_alone():
    net = Net(parse_net(FED), device="cpu", seed=7)
    expected = batches(net, 20, "data", "label")
    for position in (13, 2, 0):
        net.seek(position)
        np.testing.assert_array_equal(batches(net, 3, "data", "label"), expected[position:position + 3])
    net.close()


def test_records_are_transformed_without_a_warning(caplog):
    plain, scaled = (Net(parse_net(FED.replace(" }", more + " }")), device="cpu", seed=7) for more in (
        "", " transform_param { scale: 4 }"))
    np.testing.assert_array_equal(4 * batches(plain, 3, "data"), batches(scaled, 3, "data"))
    assert not caplog.messages
    plain.close(), scaled.close()


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def solver(folder):
        (tmp_path / folder).mkdir()
        config = parse_solver(f"{SOLVER} net_param {{ {NET} }}")
        return md.Solver(config, snapshot_prefix=f"{tmp_path / folder}/run")
    whole, rest = solver("whole"), solver("rest")
    whole.solve()
    rest.restore(tmp_path / "whole" / "run_iter_5.h5")
    assert rest.net.positions == {"rings": 5}
    rest.solve()
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_array_equal(parameter.data, rest.net.parameters()[name].data, err_msg=name)
    assert whole.net.positions == rest.net.positions
    whole.close(), rest.close()


def test_an_error_about_a_record_says_which():
    text = NET.replace("num_output: 3", "num_output: 2")
    net = Net(parse_net(text), device="cpu", seed=1)
    with pytest.raises(md.DataError, match=r"label 2 at place \d of the batch .*: record \d+$") as caught:
        net.forward()
    assert int(str(caught.value).split()[-1]) % 3 == 2
    net.close()


def test_a_top_that_the_records_have_not():
    with pytest.raises(md.ConfigError) as caught:
        Net(parse_net(FED.replace('"label"', '"lable"')), device="cpu")
    assert str(caught.value).endswith("RingRecords: expected an array 'lable', got none of that name (a "
                                      "record has 'data', 'label', 'number'); did you mean 'label'?")


def test_records_must_be_alike_and_there_must_be_some():
    class Growing(RingRecords):
        def read(self, indices):
            return {"data": np.zeros((len(indices), 1 + indices.max()))}
    with pytest.raises(md.DataError) as caught:
        Batches(Growing(), 10).batch(0)
    assert str(caught.value) == ("Growing: record 0 and 49 more: expected 'data' as float64 of shape "
                                 "(50, 1), got float64 of shape (50, 50); all records must be alike")
    with pytest.raises(md.DataError, match="^layer 'rings': expected at least one record, got none; name "):
        Batches(RingRecords(0), 10, layer_name="rings")
