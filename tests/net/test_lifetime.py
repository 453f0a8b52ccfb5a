"""What outlasts the passes of a net: copies, and who may use it."""

import copy
import pickle
import threading

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_net

HEAD = """
layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 3 dim: 2 }
  data_filler { value: 1 } } }
layer { name: "r" type: "LSTM" bottom: "x" bottom: "cont" top: "r" recurrent_param { num_output: 4
  weight_filler { type: "xavier" } } }
layer { name: "drop" type: "ApproxDropout" bottom: "r" top: "drop" approx_dropout_param { pattern: "UNIT" } }
layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip" inner_product_param { num_output: 1
  axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
SOURCES = {
    "hdf5": """layer { name: "d" type: "HDF5Data" top: "x" top: "y"
      hdf5_data_param { source: "%s" batch_size: 3 shuffle: true } }""",
    "arrays": """
      layer { name: "d" type: "MemoryData" top: "data"
        memory_data_param { batch_size: 3 channels: 2 height: 4 width: 1 } }
      layer { name: "s" type: "Slice" bottom: "data" top: "x" top: "z"
        slice_param { axis: 2 slice_point: 3 } }
      layer { name: "f" type: "Reshape" bottom: "z" top: "y"
        reshape_param { shape { dim: 0 dim: 2 dim: 1 } } }""",
    "inputs": """layer { name: "d" type: "Input" top: "x" top: "y"
      input_param { shape { dim: 3 dim: 2 dim: 5 } shape { dim: 3 dim: 2 dim: 1 } } }"""}


@pytest.fixture(params=SOURCES)
def net(request, tmp_path):
    h5py, rng = pytest.importorskip("h5py"), np.random.default_rng(0)
    x, y = rng.standard_normal((9, 2, 5)), rng.standard_normal((9, 2, 1))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"], file["y"] = x, y
    (tmp_path / "list.txt").write_text(str(tmp_path / "data.h5"))
    source = SOURCES[request.param].replace("%s", str(tmp_path / "list.txt"))
    net = md.Net(parse_net(source + HEAD), device="cpu", dtype="float64", seed=4)
    if request.param == "arrays":
        net.set_input_arrays(rng.standard_normal((9, 2, 4, 1)))
    elif request.param == "inputs":
        net.set_inputs(x=x[:3], y=y[:3])
    yield net
    net.close()


def run(net):
    net.clear_grads()
    loss = net.forward()["loss"].numpy().tolist()
    net.backward()
    return loss, {name: p.grad.tolist() for name, p in net.parameters().items()}, net.positions, net.patterns


def test_a_copy_goes_on_from_where_the_net_is_and_on_its_own(net):
    net.parameters()["ip/weight"].data += 1
    run(net)
    other = copy.deepcopy(net)
    assert {name: p.grad.tolist() for name, p in other.parameters().items()} == {
        name: p.grad.tolist() for name, p in net.parameters().items()}
    expected = [run(net) for _ in range(4)]
    net.parameters()["ip/weight"].data[...] = 0
    assert [run(other) for _ in range(4)] == expected
    other.close()


def test_copies_of_nets_that_share_weights_share_them(net):
    test = md.Net(net.config, "TEST", "cpu", "float64", share=net)
    train, again = copy.deepcopy([net, test])
    for name, parameter in train.parameters().items():
        assert parameter is again.parameters()[name] is not net.parameters()[name]


def test_a_net_is_not_pickled(net):
    with pytest.raises(md.SnapshotError, match="a Net cannot be pickled: .* load a snapshot .*copy.deepcopy"):
        pickle.dumps(net)
    with pytest.raises(md.SnapshotError, match="a Net cannot be pickled"):
        copy.copy(net)


def in_a_thread(function):
    """Run function() in a thread; returns its DataError as text, "" without one."""
    found = []

    def work():
        try:
            function()
            found.append("")
        except md.DataError as error:
            found.append(str(error))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def test_a_second_thread_within_a_pass_is_refused(net):
    layer, texts = net.layers["ip"], []

    def disturbed(x):
        texts.extend(map(in_a_thread, (net.forward, net.read)))
        return type(layer).forward(layer, x)

    layer.forward = disturbed
    run(net)
    assert len(texts) == 2 and all("another thread runs this net: a Net serves one" in t for t in texts)


def test_what_belongs_to_another_threads_pass_is_refused(net):
    net.forward()
    assert in_a_thread(lambda: net.loss) == ""          # it has run none of its own
    assert in_a_thread(net.forward) == ""
    for mine in (net.backward, lambda: net.loss):
        with pytest.raises(md.DataError, match="another thread runs this net"):
            mine()
    run(net)
