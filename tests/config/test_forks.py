"""Fields and layer types of forks of Caffe: named with their fork, or passed over with a warning each."""

import logging

import pytest
from cases import in_turn

from minidrop import layers  # noqa: F401  registers the layer types
from minidrop.config import layer_types, load_net, load_solver, minidrop_pb2, parse_net, solver_nets
from minidrop.config.forks import FIELDS, FOREIGN_TYPES
from minidrop.errors import ConfigError

NET = """default_forward_type: FLOAT16
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" forward_type: FLOAT
        inner_product_param { num_output: 4 bogus { a: 1 b { c: [1, 2] } d: "}" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2" forward_type: FLOAT
        inner_product_param { num_output: 5 } }
"""
PLAIN = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2" inner_product_param { num_output: 5 } }
"""


def test_the_table_names_messages_of_the_schema_and_only_what_it_lacks():
    for message, field in FIELDS:
        assert field not in getattr(minidrop_pb2, message).DESCRIPTOR.fields_by_name, (message, field)
    assert not [kind for kind in FOREIGN_TYPES if kind in layer_types]
    assert all(found.fork and found.without for found in (*FIELDS.values(), *FOREIGN_TYPES.values()))


def test_a_field_of_a_fork_is_named_with_it_and_what_happens_without():
    with pytest.raises(ConfigError) as error:
        parse_net(NET, "net.prototxt")
    lines = str(error.value).split("\n")
    assert len(lines) == 4
    assert lines[0] == ("net.prototxt:1:1: NetParameter has no field 'default_forward_type': it is of a fork "
                        "of Caffe, NVCaffe (NVIDIA/caffe); without it numbers stay float32; --precision "
                        "float16 is minidrop's way; delete it, or ignore such fields with --ignore-unknown")
    assert lines[2].startswith("net.prototxt:4:45: InnerProductParameter has no field 'bogus'")
    assert "fork" not in lines[2]


def test_a_layer_type_of_a_fork_is_named_with_it_everywhere():
    text = PLAIN.replace('type: "InnerProduct" bottom: "ip"', 'type: "DepthwiseConvolution" bottom: "ip"')
    expected = ("unknown layer type 'DepthwiseConvolution': it is of a fork of Caffe, MobileNet's (depthwise "
                "convolution), and minidrop has none; write type: \"Convolution\" with group: as large as "
                "num_output, which is the same")
    from minidrop.net import Net
    with pytest.raises(ConfigError) as error:
        Net(parse_net(text, "n"), device="cpu")
    assert expected in str(error.value)
    with pytest.raises(ConfigError) as error:       # its own settings are no mistakes of their own
        parse_net(text.replace("inner_product_param { num_output: 5", "prior_box_param { order: 5"), "n")
    assert str(error.value) == f"n:3:27: layer 'ip2': {expected}"


def test_a_type_that_no_fork_has_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown layer type 'Relu'; did you mean 'ReLU'"):
        parse_net(PLAIN.replace('"ip2" type: "InnerProduct"', '"ip2" type: "Relu"') + "bogus: 1")


def test_unknown_fields_are_passed_over_with_one_warning_each(tmp_path, caplog):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    with caplog.at_level(logging.WARNING, "minidrop"):
        config = load_net(path, ignore_unknown=True)
    assert config.message == parse_net(PLAIN).message
    assert config.where(2, "bottom").endswith(":5:42")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{path}:1:1: 'default_forward_type' of NetParameter is ignored: it is of a fork of Caffe, NVCaffe "
        f"(NVIDIA/caffe); without it numbers stay float32; --precision float16 is minidrop's way",
        f"{path}:3:66: 'forward_type' of LayerParameter is ignored: it is of a fork of Caffe, NVCaffe "
        f"(NVIDIA/caffe); without it numbers stay float32; --precision float16 is minidrop's way (also in "
        f"line 5)",
        f"{path}:4:45: 'bogus' of InnerProductParameter is ignored: no known fork of Caffe has this field; "
        f"what it would change is not known"]


def test_a_field_in_very_many_places_is_one_line(caplog):
    text = "\n".join(f'layer {{ name: "l{i}" type: "ReLU" device: 1 }}' for i in range(500))
    with caplog.at_level(logging.WARNING, "minidrop"):
        parse_net(text, "n", ignore_unknown=True)
    assert [record.getMessage()[-42:] for record in caplog.records] == [
        "(also in lines 2, 3, 4, 5, 6 and 494 more)"]


def test_very_many_unknown_fields_are_counted(caplog):
    with caplog.at_level(logging.WARNING, "minidrop"):
        parse_net("\n".join(f"field_{i}: 1" for i in range(150)), "n", ignore_unknown=True)
    assert len(caplog.records) == 101
    assert caplog.records[-1].getMessage() == "n: ... and 50 more fields are ignored"


@pytest.mark.parametrize("text, message", [
    (PLAIN + "base_lr: 0.1", "belongs to a solver file"),                     # swapped files are no fork's
    (PLAIN.replace("num_output: 5", "num_output: five forked: 1"), "'num_output' takes"),
    (PLAIN.replace('"InnerProduct" bottom: "ip"',
                   '"PriorBox" bottom: "ip" forked: 1 prior_box_param { a: 0 }'),
     "unknown layer type 'PriorBox': it is of a fork of Caffe, SSD"),
])
def test_other_mistakes_stay_mistakes(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_net(text, "n", ignore_unknown=True)


def test_a_solver_passes_over_fields_of_its_own_and_of_its_nets(tmp_path, caplog):
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "net.prototxt"\nrampup_interval: 5\nbase_lr: 0.1 lr_policy: "fixed"\n')
    with caplog.at_level(logging.WARNING, "minidrop"):
        train, _ = solver_nets(load_solver(path, ignore_unknown=True))
    assert len(train.config.message.layer) == 3
    assert [record.getMessage().split(" of ")[0].split(": ")[1] for record in caplog.records] == [
        "'rampup_interval'", "'default_forward_type'", "'forward_type'", "'bogus'"]
    with pytest.raises(ConfigError, match="without a ramp"):
        load_solver(path)


def test_an_engine_of_a_fork_is_named_or_passed_over(caplog):
    text = PLAIN + 'layer { name: "r" type: "ReLU" bottom: "ip2" top: "r" relu_param { engine: %s } }\n'
    with pytest.raises(ConfigError, match=r"Intel's Caffe \(intel/caffe\) has it: leave it out, or i"):
        parse_net(text % "MKL2017")
    two = text % "MKL2017" + 'layer { name: "é" type: "TanH" bottom: "r" top: "é" tanh_param { engine: 7 } }'
    found = parse_net(two, "n", ignore_unknown=True).message
    assert found.layer[:-1] == parse_net(text % "DEFAULT").message.layer
    assert found.layer[-1].tanh_param.engine == 0
    assert [record.getMessage() for record in caplog.records] == [
        "n:4:76: engine: MKL2017 of ReLUParameter is ignored: it is of a fork of Caffe, Intel's Caffe "
        "(intel/caffe); without it only speed changes",
        "n:5:74: engine: 7 of TanHParameter is ignored: no known fork of Caffe has this value; only speed "
        "changes"]


@in_turn("value", [
    ": inf", ": -nan", ": 0x1F", ": 1.5f", ": -7", ": 1e400", ": \"a\" 'b'", " < a: 1 >", ": { }", ": []",
    ": [1, 2]", ": [{ a: 1 }, < >]", ": WORD", ": 017", " { a" * 90 + ": 1" + " }" * 90, ": true;", ": 1,"])
def test_whatever_an_unknown_field_holds_is_passed_over(value):
    assert parse_net(f"bogus{value}\n{PLAIN}", ignore_unknown=True).message == parse_net(PLAIN).message


@pytest.mark.parametrize("kind, fork, advice", [
    ("BN", "SegNet, PSPNet and others with a BN layer", "write a BatchNorm layer and behind it a Scale"),
    ("Upsample", "SegNet (alexgkendall/caffe-segnet)", "where the mask, the Pooling's second top, says"),
    ("Interp", "DeepLab (deeplab-public)", "which does not put corners on corners"),
])
def test_no_other_layer_is_advised_as_the_same_where_it_is_not(kind, fork, advice):
    from minidrop.net import Net
    with pytest.raises(ConfigError) as error:
        Net(parse_net(PLAIN + f'layer {{ name: "a" type: "{kind}" bottom: "ip2" top: "y" }}'), device="cpu")
    assert f"of a fork of Caffe, {fork}, and minidrop has none; write" in str(error.value)
    assert advice in str(error.value)


def test_what_segnet_weighs_classes_by_has_a_field_here():
    with pytest.raises(ConfigError, match="every class counts the same; class_weight can weigh them"):
        parse_net('layer { name: "l" type: "SoftmaxWithLoss" loss_param: { class_weighting: 0.25 } }')


def test_video_and_text_nets_are_told_what_to_write():
    for kind, fork, advice in (
            ("Convolution3D", "C3D", "without 3D, with kernel_size, stride and pad given once"),
            ("Pooling3D", "C3D", "Python"), ("Lstm", "caffe-lstm", "write an LSTM with recurrent_param"),
            ("ContinuationIndicator", "recognition of text", 'write type: "Fill"')):
        assert FOREIGN_TYPES[kind].fork.startswith(fork) and advice in FOREIGN_TYPES[kind].without
    with pytest.raises(ConfigError, match="CONVOLUTION3D: it is of a fork of Caffe, C3D"):
        parse_net('layers { name: "conv1a" type: CONVOLUTION3D convolution_param { num_output: 2 } }')


def test_what_stands_for_a_continuation_indicator_begins_each_sequence_at_its_first_step():
    from minidrop.net import Net
    net = Net(parse_net('layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } } '
                        'layer { name: "c" type: "Fill" bottom: "x" top: "cont" fill_param { '
                        'shape { dim: 3 dim: 2 } value: 1 first: 0 } }'), device="cpu")
    assert net.forward(x=[[0] * 2] * 3)["cont"].numpy().tolist() == [[0, 0], [1, 1], [1, 1]]


def test_settings_of_a_v1_layer_of_a_fork_are_no_mistakes_of_their_own():
    with pytest.raises(ConfigError) as error:
        parse_net('layers { name: "i" type: INTERP bottom: "x" top: "y" interp_param { zoom: 8 } }', "n")
    assert str(error.value).startswith("n:1:26: unknown layer type INTERP: it is of a fork of Caffe, DeepLab")
    assert len(str(error.value).split("\n")) == 1
    for kind in ("4", "CONVOLUTION"):
        with pytest.raises(ConfigError, match="has no field 'interp_param': it is of a fork of Caffe"):
            parse_net(f'layers {{ name: "i" type: {kind} interp_param {{ zoom_factor: 8 }} }}')
    with pytest.raises(ConfigError, match="'type' takes one of"):
        parse_net('layers { name: "i" type: "CONVOLUTION" interp_param { zoom_factor: 8 } }')


def test_a_field_that_caffe_has_by_another_name_is_to_be_written_so():
    with pytest.raises(ConfigError) as error:
        parse_net('layers { type: CONVOLUTION strict_dim: false convolution_param { hole: 2 } }', "n")
    fork = "it is of a fork of Caffe, DeepLab (deeplab-public); without it"
    assert str(error.value).split("\n") == [
        f"n:1:28: V1LayerParameter has no field 'strict_dim': {fork} weights are read where their shapes "
        f"are equal; delete it, or ignore such fields with --ignore-unknown",
        f"n:1:66: ConvolutionParameter has no field 'hole': {fork} the kernel has no holes; write dilation "
        f"in its place"]
