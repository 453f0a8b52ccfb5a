"""Input, MemoryData, DummyData, HDF5Data: what they feed, where they go on, and what they refuse."""

import h5py
import numpy as np
import pytest
from cases import in_turn

from minidrop import ConfigError, DataError, ShapeError, Tensor
from minidrop.config import parse_net
from minidrop.net import Net


def batches(net, count, *names):
    """The blobs of some forward passes, as lists."""
    result = []
    for _ in range(count):
        net.forward()
        result.append([net.blobs[name].numpy().tolist() for name in names])
    return [values[0] for values in result] if len(names) == 1 else result


class TestInput:
    TEXT = '''layer { name: "in" type: "Input" top: "data" top: "label"
                      input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
              layer { name: "p" type: "Power" bottom: "data" top: "y" power_param { scale: 2 } }'''

    def test_any_batch_size(self, make_net, dtype):
        net = make_net(self.TEXT)
        for rows in (4, 7, 1, 0):
            out = net.forward(data=np.ones((rows, 3)), label=np.zeros(rows, int))
            assert out["y"].shape == (rows, 3) and out["y"].dtype == dtype == out["label"].dtype
        assert net.inputs == ["data", "label"] and net.outputs == ["label", "y"]

    def test_values_stay_until_others_come(self, make_net):
        net = make_net(self.TEXT)
        net.set_inputs(data=np.ones((2, 3)), label=[0, 1])
        net.set_inputs(data=[[5, 6, 7], [8, 9, 1]])
        assert net.forward()["y"].numpy().tolist() == [[10, 12, 14], [16, 18, 2]]
        assert net.forward()["label"].numpy().tolist() == [0, 1]

    def test_a_tensor_that_wants_its_gradient(self, make_net, dtype, backend):
        net = make_net(self.TEXT.replace('top: "y"', 'top: "y" loss_weight: 3'))
        x = Tensor(backend.asarray(np.ones((2, 3), dtype)), requires_grad=True)
        net.forward(data=x, label=[0, 0])
        net.backward()
        assert backend.to_host(x.grad).tolist() == [[6, 6, 6]] * 2

    @in_turn("inputs, error, message", [
        ({"data": np.zeros((2, 4))}, ShapeError,
         "layer 'in': input 'data' should have shape (4, 3) (any batch size), got (2, 4)"),
        ({"data": np.zeros(3)}, ShapeError, "layer 'in': input 'data' should have shape (4, 3) (any batch "
         "size), got (3,)"),
        ({"dta": 1}, ShapeError, "the net has no input 'dta'; did you mean 'data'? (inputs: data, label)"),
        ({"data": np.zeros((2, 3))}, DataError,
         "layer 'in' (Input): no value for input 'label' in this pass; call net.forward(data=..., "
         "label=...), or net.set_inputs(label=...) for all passes"),
        ({"data": np.zeros((2, 3)), "label": np.zeros(3)}, ShapeError,
         "layer 'in' (Input): inputs of one batch expected, got [2, 3] records"),
        ({"data": [["a", "b", "c"]]}, DataError,
         "layer 'in': input 'data' is no array of numbers (its dtype is <U1; convert it)"),
        ({"data": np.ma.masked_less(np.arange(6.0).reshape(2, 3), 2)}, DataError,
         "layer 'in': input 'data' is no array of numbers (entries are masked; fill them first)"),
        ({"data": np.full((2, 3), 1 + 2j)}, DataError,
         "layer 'in': input 'data' is no array of numbers (its dtype is complex128; convert it)"),
        ({"data": np.full((2, 3), None)}, DataError,
         "layer 'in': input 'data' is no array of numbers (its dtype is object; convert it)"),
        ({"data": [[1, 2, 3], [1, 2]]}, DataError, "layer 'in': input 'data' is no array of numbers (setting "
         "an array"),
    ])
    def test_what_does_not_fit(self, inputs, error, message):
        net = Net(parse_net(self.TEXT), device="cpu")
        with pytest.raises(error) as caught:
            net.forward(**inputs)
        assert str(caught.value).startswith(message)

    def test_a_net_without_inputs(self, make_net):
        net = make_net('layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } }')
        with pytest.raises(ShapeError,
                           match=r"^the net has no input 'data' \(inputs: none, its data layers feed it\)$"):
            net.forward(data=1)


class TestMemoryData:
    TEXT = '''layer { name: "m" type: "MemoryData" top: "data" top: "label"
                      memory_data_param { batch_size: 2 channels: 2 height: 1 width: 1 } %s }'''
    DATA = np.arange(6.0).reshape(3, 2, 1, 1)

    def test_round_and_round(self, make_net):
        net = make_net(self.TEXT % "")
        net.set_input_arrays(self.DATA, [7, 8, 9])
        assert batches(net, 3, "label") == [[7, 8], [9, 7], [8, 9]]
        assert net.blobs["data"].numpy().reshape(2, 2).tolist() == [[2, 3], [4, 5]]
        assert net.positions == {"m": 3}
        net.seek(1)
        assert batches(net, 1, "label") == [[9, 7]]
        net.set_input_arrays(self.DATA)
        assert batches(net, 1, "label") == [[0, 0]] and net.positions == {"m": 1}

    def test_transform(self, make_net, dtype):
        """(x - mean of its channel) * scale, of bytes too."""
        net = make_net(self.TEXT % "transform_param { scale: 0.5 mean_value: 1 mean_value: 3 }")
        net.set_input_arrays(self.DATA.astype(np.uint8))
        assert batches(net, 1, "data") == [[[[[-0.5]], [[-1.0]]], [[[0.5]], [[0.0]]]]]
        assert net.blobs["data"].dtype == dtype

    @pytest.mark.parametrize("arrays, message", [
        ((np.zeros((3, 2)),), "layer 'm': data should have shape (records, 2, 1, 1), got (3, 2)"),
        ((np.zeros((3, 2, 1, 1)), [1, 2]),
         "layer 'm': expected as many labels as records, at least one; got 3 records and 2 labels"),
        ((np.zeros((0, 2, 1, 1)),), "layer 'm': expected as many labels as records, at least one; got 0 "
         "records and 0 labels"),
    ])
    def test_what_does_not_fit(self, arrays, message):
        net = Net(parse_net(self.TEXT % ""), device="cpu")
        with pytest.raises(ShapeError) as caught:
            net.set_input_arrays(*arrays)
        assert str(caught.value) == message

    @pytest.mark.parametrize("arrays, message", [
        ((np.full((3, 2, 1, 1), 1j),), "data is no array of numbers (its dtype is complex128; convert it)"),
        ((np.ma.masked_equal(DATA, 3),), "data is no array of numbers (entries are masked; fill them first)"),
        ((DATA, [1, None, 2]), "labels is no array of numbers (its dtype is object; convert it)"),
        (([[[[1]], [[2]]], [[[1]]]],), "data is no array of numbers (setting an array"),
    ])
    def test_what_is_no_numbers(self, arrays, message):
        """Where NumPy would leave out the imaginary part or the mask, or make NaN of None."""
        net = Net(parse_net(self.TEXT % ""), device="cpu")
        with pytest.raises(DataError) as caught:
            net.set_input_arrays(*arrays)
        assert str(caught.value).startswith(f"layer 'm': {message}")

    def test_a_mask_that_hides_nothing(self, make_net):
        net = make_net(self.TEXT % "")
        net.set_input_arrays(np.ma.array(self.DATA), [7, 8, 9])
        assert batches(net, 1, "label") == [[7, 8]]

    def test_no_data(self, make_net):
        net = make_net(self.TEXT % "")
        with pytest.raises(DataError) as caught:
            net.forward()
        assert (str(caught.value) == "layer 'm' (MemoryData): no data; call net.set_input_arrays(data, "
                "labels) first")
        assert net.layers["m"].record_of(0) == ""       # none has been read
        with pytest.raises(DataError, match="^expected one MemoryData layer called 'x', the net has 0$"):
            net.set_input_arrays(self.DATA, layer="x")


class TestDummyData:
    TEXT = '''layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param {
                shape { dim: 2 dim: 3 } shape { dim: 4 }
                data_filler { type: "constant" value: 0.1 } data_filler { type: "gaussian" } } }'''

    def test_constants_stay_and_random_ones_change(self, make_net, dtype):
        net = make_net(self.TEXT, seed=3)
        (a1, b1), (a2, b2) = batches(net, 2, "a", "b")
        assert a1 == a2 == np.full((2, 3), 0.1, dtype).tolist() and b1 != b2
        net.seek({"d": 1})
        assert batches(net, 1, "b") == [b2]
        assert batches(make_net(self.TEXT, seed=3), 2, "b") == [b1, b2]
        assert batches(make_net(self.TEXT, seed=4), 1, "b") != [b1]
        assert net.blobs["a"].dtype == net.blobs["b"].dtype == dtype

    def test_one_filler_and_the_old_shape(self, make_net):
        net = make_net('layer { name: "d" type: "DummyData" top: "a" top: "b" '
                       'dummy_data_param { num: 2 channels: 1 height: 3 width: 4 } }')
        net.forward()
        assert net.blobs["a"].shape == net.blobs["b"].shape == (2, 1, 3,
                                                                4) and not net.blobs["b"].numpy().any()


class TestHDF5Data:
    @pytest.fixture
    def source(self, tmp_path):
        """Two files of 4 and 3 records; label = number of the record, data = (label, label * 10) in bytes."""
        for number, records in enumerate((range(4), range(4, 7))):
            with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
                h5["label"] = np.array(records)
                h5["data"] = np.array([[i, 10 * i] for i in records], np.uint8)
        (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
        return tmp_path / "list.txt"

    def text(self, source, settings="", transform="", tops='top: "data" top: "label"'):
        return (f'layer {{ name: "h" type: "HDF5Data" {tops} {transform} '
                f'hdf5_data_param {{ source: "{source}" batch_size: 3 {settings} }} }}')

    def test_in_order_and_round_again(self, make_net, source, dtype):
        net = make_net(self.text(source))
        assert batches(net, 3, "label") == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
        assert net.blobs["data"].numpy().tolist() == [[6, 60], [0, 0], [1, 10]]
        assert net.blobs["data"].dtype == net.blobs["label"].dtype == dtype

    def test_tops_are_found_by_name(self, make_net, source):
        net = make_net(self.text(source, tops='top: "label"'))
        assert net.graph.shapes == {("label", 0): (3,)} and batches(net, 1, "label") == [[0, 1, 2]]

    def test_transform_of_the_first_top_only(self, make_net, source):
        net = make_net(self.text(source, transform="transform_param { mean_value: 1 scale: 0.5 }"))
        assert batches(net, 1, "data", "label") == [[[[-0.5, -0.5], [0, 4.5], [0.5, 9.5]], [0, 1, 2]]]

    @pytest.mark.parametrize("prefetch", [0, 1, 4])
    def test_seek(self, make_net, source, prefetch):
        net = make_net(self.text(source, f"shuffle: true prefetch: {prefetch}"), seed=5)
        expected = batches(net, 9, "label")
        assert net.positions == {"h": 9}
        for position in (2, 7, 0):
            net.seek(position)
            assert batches(net, 2, "label") == expected[position:position + 2]
        fresh = make_net(self.text(source, "shuffle: true"), seed=5)
        fresh.seek({"h": 4})
        assert batches(fresh, 2, "label") == expected[4:6]

    def test_shuffle(self, make_net, source):
        """Every epoch holds each record once, and none is in order; another seed gives another order."""
        net = make_net(self.text(source, "shuffle: true"), seed=1)
        seen = [int(i) for batch in batches(net, 21, "label") for i in batch]
        epochs = [seen[i:i + 7] for i in range(0, 63, 7)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 5
        other = make_net(self.text(source, "shuffle: true"), seed=2)
        assert [int(i) for batch in batches(other, 21, "label") for i in batch] != seen

    def test_shuffle_across_files(self, make_net, source):
        """Batches mix the files, each epoch has every record once, and it goes on anywhere."""
        net = make_net(self.text(source, "shuffle: true shuffle_across_files: true"), seed=1)
        seen = batches(net, 21, "label")
        flat = [int(i) for batch in seen for i in batch]
        epochs = [flat[i:i + 7] for i in range(0, 63, 7)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        changes = [sum((a < 4) != (b < 4) for a, b in zip(epoch, epoch[1:], strict=False))
                   for epoch in epochs]
        assert max(changes) > 2         # file after file would be 1
        for position in (5, 0, 20):
            fresh = make_net(self.text(source, "shuffle: true shuffle_across_files: true"), seed=1)
            fresh.seek(position)
            assert batches(fresh, 1, "label") == seen[position:position + 1]

    def test_shuffle_across_files_needs_shuffle(self, source):
        with pytest.raises(ConfigError, match="shuffle_across_files says how to shuffle; set shuffle: true"):
            Net(parse_net(self.text(source, "shuffle_across_files: true")), device="cpu")

    def test_a_closed_net_can_go_on(self, make_net, source):
        net = make_net(self.text(source))
        batches(net, 1, "label")
        net.close()
        assert batches(net, 1, "label") == [[3, 4, 5]]

    def test_a_dataset_that_is_not_there(self, source):
        with pytest.raises(ConfigError, match=r"^<string>:1:\d+: layer 'h' \(HDF5Data\): .*0\.h5.*'lable'"):
            Net(parse_net(self.text(source, tops='top: "data" top: "lable"')), device="cpu")

    def test_beside_the_config_file(self, source, tmp_path, monkeypatch):
        (tmp_path / "net.prototxt").write_text(self.text("list.txt"))
        monkeypatch.chdir("/")
        net = Net.from_file(tmp_path / "net.prototxt", device="cpu")
        assert batches(net, 1, "label") == [[0, 1, 2]]
        net.close()
