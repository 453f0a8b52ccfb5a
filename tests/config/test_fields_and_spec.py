"""Which *_param a type reads, and building a network in Python."""

import copy

import numpy as np
import pytest
from cases import in_turn
from google.protobuf import text_format

from minidrop.config import NetSpec, all_param_fields, layers, param_fields, params, parse_net, to_proto
from minidrop.errors import ConfigError
from minidrop.layers import known_layers


@in_turn("layer_type, expected", [
    ("InnerProduct", ("inner_product_param",)), ("ReLU", ("relu_param",)), ("TanH", ("tanh_param",)),
    ("HDF5Data", ("hdf5_data_param", "transform_param")),
    ("MemoryData", ("memory_data_param", "transform_param")),
    ("DummyData", ("dummy_data_param",)), ("ApproxDropout", ("approx_dropout_param",)),
    ("Dropout", ("dropout_param",)), ("GaussianDropout", ("dropout_param",)),
    ("DropConnect", ("inner_product_param", "dropout_param")),
    ("SoftmaxWithLoss", ("softmax_param", "loss_param")), ("Softmax", ("softmax_param",)),
    ("EuclideanLoss", ("loss_param",)), ("SigmoidCrossEntropyLoss", ("loss_param",)),
    ("Accuracy", ("accuracy_param",)),
    ("Split", ()), ("Silence", ()), ("NoSuchType", ()),
])
def test_param_fields(layer_type, expected):
    assert param_fields(layer_type) == expected


def test_every_param_field_belongs_to_some_type():
    read = {name for layer_type in known_layers() for name in param_fields(layer_type)}
    assert read == set(all_param_fields())


EXPECTED = """
name: "mlp"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { scale: 0.5 } hdf5_data_param { source: "x.txt" batch_size: 8 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { lr_mult: 1 } param { lr_mult: 2 }
        inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" relu_param { negative_slope: 0.25 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "label" top: "loss" loss_weight: 2
        loss_param { normalization: FULL } softmax_param { axis: 1 } }
"""


def test_attributes():
    n = NetSpec("mlp")
    n.data, n.label = layers.HDF5Data(ntop=2, source="x.txt", batch_size=8, include={"phase": "TRAIN"},
                                      transform_param={"scale": 0.5})
    n.ip1 = layers.InnerProduct(n.data, num_output=5, weight_filler={"type": "msra"},
                                param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n.relu1 = layers.ReLU(n.ip1, in_place=True, negative_slope=0.25)
    n.loss = layers.SoftmaxWithLoss(n.relu1, n.label, loss_weight=2, normalization="FULL", axis=1)
    assert n.to_proto() == parse_net(EXPECTED).message


def test_add_makes_the_same():
    n = NetSpec("mlp")
    n.add("HDF5Data", "data", top=["data", "label"], source="x.txt", batch_size=8, include=[{"phase": 0}],
          scale=0.5)
    n.add("InnerProduct", "ip1", "data", num_output=5, weight_filler={"type": "msra"},
          param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n.add("ReLU", "relu1", bottom="ip1", top="ip1", negative_slope=0.25)
    n.add("SoftmaxWithLoss", name="loss", bottom=["ip1", "label"], loss_weight=[2], normalization=0, axis=1)
    assert n.to_proto() == parse_net(EXPECTED).message


def test_what_it_makes_is_a_file_that_loads():
    n = NetSpec("x")
    n.add("Input", "data", shape=[8, 3])
    assert parse_net(text_format.MessageToString(n.to_proto())).message == n.to_proto()


@pytest.mark.parametrize("shape, expected", [
    ([8, 3], [[8, 3]]), ([[8, 3], [8]], [[8, 3], [8]]), ({"dim": [8]}, [[8]]), ([{"dim": 8}], [[8]]),
    ((8, 3), [[8, 3]]), ([[]], [[]]),
])
def test_shapes(shape, expected):
    n = NetSpec()
    n.add("Input", "data", shape=shape)
    assert [list(one.dim) for one in n.to_proto().layer[0].input_param.shape] == expected


def test_layers_without_a_name_come_before_their_readers():
    n = NetSpec()
    n.out = layers.ReLU(layers.InnerProduct("data", num_output=3))
    net = n.to_proto()
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer] == [
        ("InnerProduct1", ["data"], ["InnerProduct1"]), ("out", ["InnerProduct1"], ["out"])]


def test_a_layer_without_tops():
    n = NetSpec()
    assert n.add("Silence", "quiet", bottom=["a", "b"], top=[]) == ()
    layer = n.to_proto().layer[0]
    assert (layer.name, list(layer.bottom), list(layer.top)) == ("quiet", ["a", "b"], [])


def test_a_blob_written_in_place_keeps_its_name():
    n = NetSpec()
    n.add("InnerProduct", "ip1", "data", top="hidden", num_output=3)
    n.add("ReLU", "relu1", "hidden", top="hidden")
    n.add("Sigmoid", "s", n.hidden, top="out")
    assert [(list(layer.bottom), list(layer.top)) for layer in n.to_proto().layer] == [
        (["data"], ["hidden"]), (["hidden"], ["hidden"]), (["hidden"], ["out"])]


def spec_error(build):
    n = NetSpec()
    with pytest.raises(ConfigError) as caught:
        build(n)
        n.to_proto()
    return str(caught.value)


@in_turn("settings, expected", [
    ({"num_outputs": 3}, "has no setting 'num_outputs'; did you mean 'num_output'?"),
    ({"num_output": -3}, "'num_output' takes an integer from 0 to 4294967295, got -3"),
    ({"num_output": "3"}, "'num_output' takes an integer from 0 to 4294967295, got '3'"),
    ({"num_output": 3.5}, "'num_output' takes an integer from 0 to 4294967295, got 3.5"),
    ({"bias_term": "yes"}, "'bias_term' takes true or false, got 'yes'"),
    ({"weight_filler": "xavier"}, "'weight_filler' takes a dict of FillerParameter's fields, got 'xavier'"),
    ({"weight_filler": {"typ": "xavier"}}, "FillerParameter has no field 'typ'; did you mean 'type'?"),
    ({"weight_filler": {"variance_norm": "FAN"}},
     "'variance_norm' takes one of FAN_IN, FAN_OUT, AVERAGE, got 'FAN'"),
    ({"weight_filler": {"std": float("nan")}}, "'std' takes a number, got nan"),
    ({"type_": 3}, "has no setting 'type_'; did you mean 'type'?"),
    ({"loss_weight": "a"}, "'loss_weight' takes a number, got 'a'"),
    ({"param": [1]}, "'param' takes a dict of ParamSpec's fields, got 1"),
])
def test_mistakes_in_settings(settings, expected):
    text = spec_error(lambda n: n.add("InnerProduct", "ip1", "data", **settings))
    assert text.startswith("layer 'ip1' (InnerProduct): ")
    assert text.removeprefix("layer 'ip1' (InnerProduct): ") == expected


@pytest.mark.parametrize("name", ["\0", "\ud800", 3])
def test_names_are_text(name):
    assert spec_error(lambda n: n.add("ReLU", name, "data", top="x")) == (
        f"layer {name!r} (ReLU): 'name' takes text, got {name!r}")


def test_other_mistakes():
    assert spec_error(lambda n: setattr(n, "a", 3)) == (
        "NetSpec.a: expected what layers.TYPE(...) returns, got int")
    assert spec_error(lambda n: setattr(n, "b", layers.ReLU(layers.Input(ntop=2)))) == (
        "a ReLU layer's blobs are given as layers or as names, got tuple; a layer with several tops gives a "
        "tuple: take one "
        "of it")
    assert spec_error(lambda n: layers.ReLU("a", "b", in_place=True)) == (
        "a ReLU layer in place takes one bottom and one top, got 2 and 1")
    with pytest.raises(AttributeError, match="the network has no blob 'dta'; did you mean 'data'?"):
        n = NetSpec()
        n.data = layers.Input(shape=[1])
        _ = n.dta


# -- as pycaffe writes them ----------------------------------------------------------------------------------
def test_values_of_enums():
    assert (params.Pooling.AVE, params.Data.LMDB) == (1, 1)
    assert params.Pooling(kernel_size=2).kernel_size == 2 and "AVE" in dir(copy.deepcopy(params.Pooling))
    n = NetSpec()
    n.pool = layers.Pooling("data", kernel_size=2, pool=params.Pooling.AVE)
    assert n.to_proto().layer[0].pooling_param.pool == 1
    with pytest.raises(AttributeError, match="no message NoSuchParameter"):
        params.NoSuch  # noqa: B018
    with pytest.raises(AttributeError, match="no message PoolinParameter; did you mean 'Pooling'"):
        params.Poolin.MAX  # noqa: B018
    with pytest.raises(AttributeError, match="PoolingParameter has no value 'MAXX'; did you mean 'MAX'"):
        params.Pooling.MAXX  # noqa: B018
    with pytest.raises(AttributeError, match=r"InputParameter has no value 'MAX' \(values: none\)"):
        params.Input.MAX  # noqa: B018


def test_tops_to_proto_names_what_has_no_name():
    data = layers.Input(shape=[2, 3])
    ip = layers.InnerProduct(data, num_output=2)
    net = to_proto(ip, layers.Softmax(ip))
    assert [layer.type for layer in net.layer] == ["Input", "InnerProduct", "Softmax"]
    assert list(net.layer[2].bottom) == list(net.layer[1].top)
    assert ip.to_proto() == to_proto(ip) and len(ip.to_proto().layer) == 2


def test_a_layer_without_tops_gets_its_name_from_the_attribute():
    n = NetSpec()
    n.a = layers.Input(shape=[2, 3])
    n.quiet = layers.Silence(n.a, ntop=0)
    layer = n.to_proto().layer[1]
    assert (layer.name, list(layer.bottom), list(layer.top)) == ("quiet", ["a"], [])


def test_tops_by_name_and_later_settings():
    n = NetSpec()
    n.a = layers.Input(shape=[2, 3])
    n.__setattr__("ip", layers.InnerProduct(n.a, num_output=2))
    n["s"] = layers.Softmax(n["ip"])
    n.update("ip", {"num_output": 5})
    assert n.keys() == list(n.tops) == ["a", "ip", "s"] and n.vals()[1] is n["ip"] is n.tops["ip"]
    assert n.to_proto().layer[1].inner_product_param.num_output == 5


def test_the_text_of_a_python_layer_is_in_its_own_message():
    n = NetSpec()
    n.a, n.b = layers.Python(module="m", layer="L", ntop=2, param_str="text")
    layer = n.to_proto().layer[0]
    assert (layer.python_param.param_str, layer.python_param.layer) == ("text", "L")
    assert not layer.HasField("param_str")


def made(n):
    """Return (type, name, bottoms, tops) of each layer of a NetSpec."""
    return [(one.type, one.name, list(one.bottom), list(one.top)) for one in n.to_proto().layer]


def test_a_name_set_again_is_that_of_the_last_and_the_layers_before_are_counted():
    n = NetSpec()
    n.data = layers.Input(shape=[1, 3, 8, 8])
    n.x = layers.Convolution(n.data, num_output=3, kernel_size=3)
    n.x = layers.ReLU(n.x)
    n.x = layers.Convolution(n.x, num_output=2, kernel_size=3)
    assert made(n) == [("Input", "data", [], ["data"]),
                       ("Convolution", "Convolution1", ["data"], ["Convolution1"]),
                       ("ReLU", "ReLU1", ["Convolution1"], ["ReLU1"]), ("Convolution", "x", ["ReLU1"], ["x"])]


def test_what_no_name_reaches_is_dropped_unless_it_was_added():
    n = NetSpec()
    n.data = layers.Input(shape=[1, 3])
    n.a = layers.ReLU(n.data)
    n.a = layers.Sigmoid(n.data)
    n.b = layers.TanH(n.data)
    del n.tops["b"]
    assert [one[:2] for one in made(n)] == [("Input", "data"), ("Sigmoid", "a")]
    n.add("ReLU", "in_place", "a", top="a")
    n.add("Silence", "quiet", "a", top=[])
    assert [one[0] for one in made(n)] == ["Input", "Sigmoid", "ReLU", "Silence"]


def test_tops_can_be_set():
    n = NetSpec()
    n.data = layers.Input(shape=[1, 3])
    n.tops["z"] = layers.ReLU(n.data)
    n.tops.update(y=layers.Silence(n.z, ntop=0))
    assert made(n)[1:] == [("ReLU", "z", ["data"], ["z"]), ("Silence", "y", ["z"], [])]
    with pytest.raises(ConfigError, match="NetSpec.w: expected what layers.TYPE"):
        n.tops["w"] = 3


def test_layers_without_a_name_are_counted_by_type():
    data, label = layers.DummyData(ntop=2, shape=[[2, 3], [2]])
    net = layers.InnerProduct(layers.ReLU(layers.InnerProduct(data), in_place=True))
    made_of = [(one.name, list(one.top)) for one in layers.EuclideanLoss(net, label).to_proto().layer]
    assert made_of == [("DummyData1", ["DummyData1", "DummyData2"]), ("InnerProduct1", ["InnerProduct1"]),
                       ("ReLU1", ["InnerProduct1"]), ("InnerProduct2", ["InnerProduct2"]),
                       ("EuclideanLoss1", ["EuclideanLoss1"])]
    n = NetSpec()
    n.TanH1 = layers.TanH(layers.TanH("data"))
    assert [one[1] for one in made(n)] == ["TanH2", "TanH1"]        # a name in use is left out
    n = NetSpec()
    n.sum = layers.Eltwise(layers.ReLU("a"), layers.Sigmoid("b"))
    assert [one[1] for one in made(n)] == ["ReLU1", "Sigmoid1", "sum"]


def test_a_setting_of_an_unknown_type():
    with pytest.raises(ConfigError, match="unknown layer type 'InnerProdct'; did you mean 'InnerProduct'"):
        layers.InnerProdct("x", num_output=3).to_proto()


def test_numbers_and_arrays_of_numpy():
    n = NetSpec()
    n.data = layers.Input(shape={"dim": np.array([1, 3, 8, 8])})
    n.more = layers.Input(shape=np.array([4, 2]))
    n.c = layers.Convolution(n.data, num_output=np.int64(3), kernel_size=np.array([3, 2]), pad=np.uint8(1),
                             bias_term=np.False_)
    n.p = layers.Power(n.c, scale=np.float32(0.5), loss_weight=np.array([0.25]))
    data, more, convolution, power = n.to_proto().layer
    assert list(data.input_param.shape[0].dim) == [1, 3, 8, 8]
    assert list(more.input_param.shape[0].dim) == [4, 2]
    settings = convolution.convolution_param
    assert (settings.num_output, list(settings.kernel_size), list(settings.pad)) == (3, [3, 2], [1])
    assert settings.HasField("bias_term") and not settings.bias_term
    assert (power.power_param.scale, list(power.loss_weight)) == (0.5, [0.25])
    with pytest.raises(ConfigError, match="'dim' takes an integer"):
        layers.Input(shape={"dim": np.array([0.5])}).to_proto()
    with pytest.raises(ConfigError, match="'num_output' takes an integer"):
        layers.InnerProduct("x", num_output=np.zeros((2, 2))).to_proto()
