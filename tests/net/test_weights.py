"""Net.load_weights and Net.save: what is copied, the order of every layer's arrays, round trips, refusals."""

import errno
import logging

import h5py
import numpy as np
import pytest
from caffe_nets import FORMS, NET, fill, message, values
from cases import in_turn
from nets import inputs, layer, net_of

from minidrop.config import NetConfig, layer_types, parse_net
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError, SnapshotError
from minidrop.layers import layer_class
from minidrop.layers.base import Layer
from minidrop.net import Net

CONV = "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"
LSTM = "recurrent_param { num_output: 5 %s }"
# type: (settings, shapes of the bottoms, names in the order of Caffe's blobs with their shapes)
LAYERS = {
    "InnerProduct": ("inner_product_param { num_output: 5 }", [(2, 3, 2)], {"weight": (5, 6), "bias": (5,)}),
    "InnerProduct transposed": ("inner_product_param { num_output: 5 transpose: true }", [(2, 6)],
                                {"weight": (6, 5), "bias": (5,)}),
    "InnerProduct without bias": ("inner_product_param { num_output: 5 bias_term: false }", [(2, 6)],
                                  {"weight": (5, 6)}),
    "Convolution": (CONV, [(2, 6, 5, 5)], {"weight": (4, 3, 3, 3), "bias": (4,)}),
    "Deconvolution": (CONV, [(2, 6, 5, 5)], {"weight": (6, 2, 3, 3), "bias": (4,)}),
    "BatchNorm": ("", [(4, 3, 2, 2)], {"mean": (3,), "variance": (3,), "scale_factor": (1,)}),
    "Scale": ("scale_param { bias_term: true }", [(2, 3, 4)], {"factor": (3,), "bias": (3,)}),
    "Scale of two bottoms": ("scale_param { bias_term: true axis: 0 }", [(2, 3, 4), (2, 3)],
                             {"bias": (2, 3)}),
    "Bias": ("bias_param { axis: 1 num_axes: 2 }", [(2, 3, 4)], {"bias": (3, 4)}),
    "PReLU": ("", [(2, 3, 4)], {"slope": (3,)}),
    "PReLU shared": ("prelu_param { channel_shared: true }", [(2, 3, 4)], {"slope": ()}),
    "Embed": ("embed_param { input_dim: 7 num_output: 3 bias_term: true }", [(2, 2)],
              {"weight": (7, 3), "bias": (3,)}),
    "Parameter": ("parameter_param { shape { dim: 2 dim: 3 } }", [], {"weight": (2, 3)}),
    # gates i, f, o, g; the static input between the two others
    "LSTM": (LSTM % "", [(3, 2, 4), (3, 2), (2, 6)], {
        "weight": (20, 4), "bias": (20,), "static_weight": (20, 6), "recurrent_weight": (20, 5)}),
    "RNN": (LSTM % "", [(3, 2, 4), (3, 2), (2, 6)], {
        "weight": (5, 4), "bias": (5,), "static_weight": (5, 6), "recurrent_weight": (5, 5),
        "output_weight": (5, 5), "output_bias": (5,)}),
}
# Those that Caffe has not: only round trips matter.
OWN = {"CRF": ("", [(3, 2, 4), (3, 2)]), "GRU": (LSTM % "", [(3, 2, 4), (3, 2)]),
       "LSTM of two directions": (LSTM % "bidirectional: true", [(3, 2, 4), (3, 2)]),
       "AttentionDecoder": ("decoder_param { num_output: 5 }", [(3, 2, 4), (4, 2, 6), (4, 2)]),
       "AttentionDecoder of another kind": ("decoder_param { num_output: 5 score: ADDITIVE bridge: false }",
                                            [(3, 2, 4), (4, 2, 6), (4, 2)]),
       "LayerNorm": ("layer_norm_param { axis: 1 }", [(2, 3, 4)]),
       "LayerNorm without bias": ("layer_norm_param { bias_term: false }", [(2, 3, 4)]),
       "RMSNorm": ("", [(2, 3, 4)]), "Position": ("position_param { max_steps: 7 }", [(2, 3, 4)]),
       "DropConnect": ("inner_product_param { num_output: 5 }", [(2, 6)])}


def net_with(name, seed=0, dtype="float32"):
    settings, shapes = (LAYERS.get(name) or OWN[name])[:2]
    bottoms = " ".join("abcdef"[:len(shapes)])
    return net_of(inputs(*shapes), layer(name.split()[0], "a/layer", bottoms, "top", settings), seed=seed,
                  dtype=dtype)


def randomised(net, seed=0):
    rng = np.random.default_rng(seed)
    for parameter in net.parameters().values():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    return net


def assert_equal(a, b):
    for name, parameter in a.parameters().items():
        np.testing.assert_array_equal(parameter.data, b.parameters()[name].data, err_msg=name)


@in_turn("name", LAYERS)
def test_parameters_are_in_the_order_of_caffes_blobs(name):
    found = {key: parameter.shape for key, parameter in net_with(name).params["a/layer"].items()}
    assert list(found.items()) == list(LAYERS[name][2].items())


def test_every_type_with_parameters_is_tried_here():
    own = [(name, layer_class(name)) for name in layer_types.names()
           if layer_class(name).__module__.startswith("minidrop.layers")]
    kinds = {name for name, kind in own if kind.parameter_specs is not Layer.parameter_specs}
    kinds.remove("Python")          # whose parameters are those of a user's class: tests/caffe has one
    assert kinds == {name.split()[0] for name in (*LAYERS, *OWN)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
def test_every_layer_comes_back_bit_for_bit(tmp_path, ending, dtype):
    for name in (*LAYERS, *OWN):
        net, other = randomised(net_with(name, dtype=dtype)), net_with(name, 5, dtype)
        net.save(tmp_path / f"w.{ending}")
        report = other.load_weights(tmp_path / f"w.{ending}")
        assert report.copied == list(net.parameters()) and not report.left
        assert_equal(net, other)


def test_a_saved_net_is_a_message_of_caffes(tmp_path):
    net = randomised(Net(parse_net(NET + '''
        layer { name: "drop" type: "ApproxDropout" bottom: "y" top: "y"
                approx_dropout_param { dropout_ratio: 0.3 pattern: "ROW" } }
        layer { name: "noise" type: "GaussianDropout" bottom: "y" top: "y"
                dropout_param { dropout_ratio: 0.2 } }
        layer { name: "test" type: "Silence" bottom: "y" include { phase: TEST } }
        layer { name: "ipc" type: "DropConnect" bottom: "y" top: "z" dropout_param { dropout_ratio: 0.2 }
                inner_product_param { num_output: 2 } }'''), device="cpu"))
    net.save(tmp_path / "w.caffemodel")
    saved = pb.NetParameter()
    saved.ParseFromString((tmp_path / "w.caffemodel").read_bytes())
    assert [one.name for one in saved.layer] == [one for one in net.layers] and "test" not in net.layers
    kinds = {one.name: one for one in saved.layer}
    assert kinds["drop"].type == "Dropout" and not kinds["drop"].HasField("approx_dropout_param")
    assert kinds["drop"].dropout_param.dropout_ratio == pytest.approx(0.3)
    assert kinds["noise"].type == "Dropout" and kinds["ipc"].type == "InnerProduct"
    assert not kinds["ipc"].HasField("dropout_param")
    assert net.layers["drop"].type == "ApproxDropout"               # the net itself is as it was
    assert list(kinds["conv"].blobs[0].shape.dim) == [4, 3, 3, 3]
    again = Net(NetConfig.of(saved), "TEST", device="cpu")          # its blobs are its initial values
    assert_equal(net, again)


def test_gradients_are_saved_where_they_are_wanted(tmp_path):
    net = randomised(net_with("InnerProduct"))
    net.params["a/layer"]["bias"].grad = np.arange(5, dtype=np.float32)
    net.save(tmp_path / "w.caffemodel", diffs=True)
    net.save(tmp_path / "w.caffemodel.h5", diffs=True)
    saved = pb.NetParameter()
    saved.ParseFromString((tmp_path / "w.caffemodel").read_bytes())
    assert list(saved.layer[-1].blobs[1].diff) == [0, 1, 2, 3, 4] and not any(saved.layer[-1].blobs[0].diff)
    with h5py.File(tmp_path / "w.caffemodel.h5") as file:
        assert file["diff/a/layer/1"][...].tolist() == [0, 1, 2, 3, 4] and list(file["data"]) == ["a", "in_a"]
    for ending in ("caffemodel", "caffemodel.h5"):
        other = net_with("InnerProduct", 3)
        other.load_weights(tmp_path / f"w.{ending}")
        assert_equal(net, other)


SHARED = ('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }' + "".join(
    f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" param {{ name: "w" }} '
    f'param {{ name: "b_{name}" }} inner_product_param {{ num_output: 3 '
    f'weight_filler {{ type: "msra" }} }} }}'
    for name in "ab"))


@pytest.mark.parametrize("ending, stored", [("caffemodel", 2), ("caffemodel.h5", 1)])
def test_shared_parameters(tmp_path, ending, stored):
    net, other = randomised(net_of(SHARED)), net_of(SHARED, seed=5)
    net.save(tmp_path / f"w.{ending}")
    report = other.load_weights(tmp_path / f"w.{ending}")
    assert report.copied == ["a/weight", "a/bias", "b/bias"] and report.total == 3 and not report.left
    assert_equal(net, other)
    if ending == "caffemodel.h5":
        with h5py.File(tmp_path / f"w.{ending}", "a") as file:
            assert list(file["data/b"]) == ["1"]
            del file["data/a/0"]
        with pytest.raises(SnapshotError, match=r"a has the arrays \(3,\), this net expects the arrays "
                                                r"\(3, 4\), \(3,\)"):
            other.load_weights(tmp_path / f"w.{ending}")


OTHER = NET.replace('name: "ip"', 'name: "fc"')
WIDER = NET.replace("num_output: 5", "num_output: 6").replace("kernel_size: 3", "kernel_size: 2")


@pytest.mark.parametrize("form", FORMS)
def test_the_report(tmp_path, form, caplog):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(message(form).SerializeToString())
    net = Net(parse_net(OTHER), device="cpu")
    report = net.load_weights(str(path))
    assert report.copied == ["conv/weight", "conv/bias"] and report.left_out == ["ip"]
    assert report.unchanged == ["fc/weight", "fc/bias"] and report.mismatched == []
    table = str(report).split("\n")
    assert table[0] == f"{path}: 2 of 4 parameters copied"
    assert [line.split()[:2] for line in table[1:]] == [
        ["conv/weight", "copied"], ["conv/bias", "copied"], ["fc/weight", "unchanged"],
        ["fc/bias", "unchanged"], ["ip", "left"]]
    assert "not copied: fc/weight (not in the file)" in caplog.text
    np.testing.assert_array_equal(net.params["conv"]["weight"].data, values("conv", 0))


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(message().SerializeToString())
    net = Net(parse_net(WIDER), device="cpu")
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    with pytest.raises(SnapshotError) as caught:
        net.load_weights(path)
    lines = str(caught.value).split("\n")
    assert [line.split(": ", 1)[1][:60] for line in lines] == [
        "conv/weight has shape (4, 3, 3, 3), this net expects (4, 3, "[:60],
        "ip/weight has shape (5, 16), this net expects (6, 36)"[:60],
        "ip/bias has shape (5,), this net expects (6,). Did num_output of that"[:60]]
    assert "--skip-mismatched" in str(caught.value)
    assert all((before[name] == p.data).all() for name, p in net.parameters().items())
    report = net.load_weights(path, skip_mismatched=True)
    assert report.copied == ["conv/bias"] and report.unchanged == [] and report.left_out == []
    assert report.mismatched == [("conv/weight", (4, 3, 3, 3), (4, 3, 2, 2)), ("ip/weight", (5, 16), (6, 36)),
                                 ("ip/bias", (5,), (6,))]
    assert "ip/bias      mismatched  (5,) in the file, (6,) in the net" in str(report)
    np.testing.assert_array_equal(net.params["conv"]["bias"].data, values("conv", 1))
    assert (net.params["ip"]["weight"].data == before["ip/weight"]).all()


@pytest.mark.parametrize("change, text", [
    ("bias_term: false", r"ip has the arrays \(5, 16\), \(5,\), this net expects the arrays \(5, 16\)"),
    ("", None)])
def test_another_number_of_arrays(tmp_path, change, text):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(message().SerializeToString())
    net = Net(parse_net(NET.replace("num_output: 5", f"num_output: 5 {change}")), device="cpu")
    if text is None:
        assert len(net.load_weights(path).copied) == 4
        return
    with pytest.raises(SnapshotError, match=text):
        net.load_weights(path)
    assert net.load_weights(path, skip_mismatched=True).mismatched == [("ip", [(5, 16), (5,)], [(5, 16)])]
    swapped = NET.replace('"relu"', '"r"').replace('"ip"', '"relu"').replace('"r"', '"ip"')
    named = Net(parse_net(swapped), device="cpu")
    with pytest.raises(SnapshotError, match=r"relu has no arrays, this net expects the arrays \(5, 16\), "):
        named.load_weights(path)        # the file's layer of that name has no arrays, as in Caffe


def test_several_files(tmp_path):
    net = randomised(Net(parse_net(NET), device="cpu"), 1)
    net.save(tmp_path / "a.caffemodel.h5")
    first = net.params["ip"]["bias"].data.copy()
    only = message()
    del only.layer[2]
    (tmp_path / "b.caffemodel").write_bytes(only.SerializeToString())
    for paths in (f"{tmp_path}/a.caffemodel.h5, {tmp_path}/b.caffemodel",
                  [tmp_path / "a.caffemodel.h5", f"{tmp_path}/b.caffemodel"]):
        other = Net(parse_net(NET), device="cpu", seed=7)
        assert len(other.load_weights(paths).copied) == 4
        np.testing.assert_array_equal(other.params["conv"]["bias"].data, values("conv", 1))
        np.testing.assert_array_equal(other.params["ip"]["bias"].data, first)
    (tmp_path / "b,c.caffemodel").write_bytes(message().SerializeToString())
    assert len(other.load_weights(str(tmp_path / "b,c.caffemodel")).copied) == 4
    before = other.params["conv"]["bias"].data.copy()
    with pytest.raises(SnapshotError, match="nowhere"):
        other.load_weights([tmp_path / "a.caffemodel.h5", tmp_path / "nowhere"])
    np.testing.assert_array_equal(other.params["conv"]["bias"].data, before)
    for nothing in ("", ",", []):
        with pytest.raises(SnapshotError, match="expected the name"):
            other.load_weights(nothing)


@pytest.mark.parametrize("number, dtype, fits", [
    (np.nan, "float32", False), (1e300, "float32", False), (1e300, "float64", True)])
def test_numbers_that_are_none(tmp_path, number, dtype, fits):
    weights = message(double=True)
    weights.layer[0].blobs[1].double_data[2] = number
    (tmp_path / "w").write_bytes(weights.SerializeToString())
    net = Net(parse_net(NET), device="cpu", dtype=dtype)
    if fits:
        net.load_weights(tmp_path / "w")
        assert net.params["conv"]["bias"].data[2] == 1e300
        return
    with pytest.raises(SnapshotError, match="conv/bias has a NaN, an infinity or a number too large for fl"):
        net.load_weights(tmp_path / "w")


def test_snapshots_as_well(tmp_path, caplog):
    from minidrop.snapshot import Snapshot, write_snapshot
    caplog.set_level(logging.WARNING)
    arrays = {"data/ip/bias": np.arange(5.0), "data/other/weight": np.ones(2)}
    write_snapshot(tmp_path / "a.h5", Snapshot(arrays))
    net = Net(parse_net(NET), device="cpu")
    report = net.load_weights(tmp_path / "a.h5")
    assert report.copied == ["ip/bias"] and report.left_out == ["other/weight"]
    assert report.unchanged == ["conv/weight", "conv/bias", "ip/weight"]


def test_a_file_of_another_net(tmp_path):
    (tmp_path / "w").write_bytes(message().SerializeToString())
    with pytest.raises(SnapshotError, match=r"holds no parameter of this net \(it has conv, ip; the net has"):
        net_with("PReLU").load_weights(tmp_path / "w")


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_files_are_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    net = randomised(Net(parse_net(NET), device="cpu"))
    for ending in ("caffemodel", "caffemodel.h5"):
        path = tmp_path / f"w.{ending}"
        path.write_bytes(b"before")
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", full_disk)
            with pytest.raises(SnapshotError, match="the file of weights was not written: the disk is full.*"
                                                    "free some space, or name another folder$"):
                net.save(path)
        assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1
        path.unlink()
    for name in ("w.txt", "w", "w.caffemodel.gz"):
        with pytest.raises(SnapshotError, match="expected a name that ends in .caffemodel, .h5 or "
                                                ".safetensors, which chooses the format, or one of these"):
            net.save(tmp_path / name)


def test_two_gibibytes_are_not_written(tmp_path):
    net = Net(parse_net(NET.replace("num_output: 5", "num_output: 40000000")), device="cpu", fills=False)
    with pytest.raises(SnapshotError, match="2 GiB or more; save it as .caffemodel.h5"):
        net.save(tmp_path / "w.caffemodel")
    assert list(tmp_path.iterdir()) == []


# -- blobs in a network file ---------------------------------------------------------------------------------
BLOBS = ('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
         'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 '
         '}\n'
         '  blobs { num: 1 channels: 1 height: 2 width: 3 data: [1, 2, 3, 4, 5, 6] }\n'
         '  blobs { shape { dim: 2 } data: 7 data: 8 } }\n')


def test_blobs_in_a_file_are_initial_values():
    net = net_of(BLOBS)
    assert net.params["ip"]["weight"].data.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert net.params["ip"]["bias"].data.tolist() == [7, 8] and net.params["ip"]["bias"].data.flags.writeable
    assert not net.config.message.layer[1].blobs        # a description needs no values
    source = NetConfig.of(pb.NetParameter(layer=parse_net(BLOBS).message.layer))
    for _ in range(2):                                  # which the source keeps
        assert Net(source, device="cpu").params["ip"]["bias"].data.tolist() == [7, 8]
    assert net_of(BLOBS, share=net, phase="TEST").params["ip"]["bias"] is net.params["ip"]["bias"]


@pytest.mark.parametrize("old, new, text", [
    ("dim: 2 } data: 7", "dim: 2 dim: 1 } data: 7",
     r"net.prototxt:4:3: layer .ip. \(InnerProduct\): the array for bias has shape \(2, 1\), expected "),
    ("height: 2 width: 3", "height: 3 width: 2",
     r"net.prototxt:3:3: layer 'ip' .*weight has shape \(1, 1, 3, 2\), expected \(2, 3\)"),
    ("data: 7 data: 8", "data: 7",
     r"net.prototxt:4:3: .* the array for bias has 4 bytes of values for the shape \(2,\)"),
    ("data: 7 data: 8", "double_data: 7 double_data: 1e300",
     "net.prototxt:4:3: .*bias has a NaN, an infinity or a number too large for float32"),
    ("  blobs { shape { dim: 2 } data: 7 data: 8 }", "",
     r"net.prototxt:3:3: .*1 `blobs` for 2 parameters \(weight \(2, 3\), bias \(2,\)\); give one for each")])
def test_blobs_that_do_not_fit(old, new, text):
    with pytest.raises(ConfigError, match=text):
        net_of(BLOBS.replace(old, new), dtype="float32")


def test_blobs_in_a_layer_without_parameters():
    relu = pb.LayerParameter(name="r", type="ReLU", bottom=["x"], top=["x"])
    fill(relu.blobs.add(), np.ones(2))
    source = parse_net(BLOBS).message
    source.layer.append(relu)
    with pytest.raises(ConfigError, match=r"layer 'r' \(ReLU\): 1 `blobs` for 0 parameters \(none\)"):
        Net(NetConfig.of(source), device="cpu")
