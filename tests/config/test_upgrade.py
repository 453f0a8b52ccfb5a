"""Files of Caffe's earlier years: V0 and V1 layers, old data settings, old BatchNorm, inputs."""

import pytest
from cases import in_turn
from google.protobuf import text_format

from minidrop import Net
from minidrop.config import NetConfig, NetParameter, layer_types, minidrop_pb2, parse_net, parse_solver
from minidrop.config.fields import TYPES_OF_V1
from minidrop.errors import ConfigError


def upgraded(text):
    return parse_net(text, "old.prototxt").message


def same(text, expected):
    wanted = NetParameter()
    text_format.Parse(expected, wanted)
    assert upgraded(text) == wanted, text_format.MessageToString(upgraded(text))


V0_LENET = """
name: "old"
layers { layer { name: "data" type: "data" source: "db" batchsize: 4 cropsize: 5 mirror: true meanfile: "mean"
                 scale: 0.5 rand_skip: 7 } top: "data" top: "label" }
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 3 kernelsize: 5 stride: 1 group: 1 biasterm: false
                 weight_filler { type: "xavier" } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 }
         bottom: "pad1" top: "conv1" }
layers { layer { name: "relu" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "conv1" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool" top: "norm" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.25 } bottom: "norm" top: "norm" }
layers { layer { name: "ip" type: "innerproduct" num_output: 10 bias_filler { value: 1 } }
         bottom: "norm" top: "ip" }
layers { layer { name: "loss" type: "softmax_loss" } bottom: "ip" bottom: "label" }
"""
V2_LENET = """
name: "old"
layer { name: "data" type: "Data" top: "data" top: "label"
        data_param { source: "db" batch_size: 4 rand_skip: 7 }
        transform_param { crop_size: 5 mirror: true mean_file: "mean" scale: 0.5 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 3 kernel_size: 5 stride: 1 pad: 2 group: 1 bias_term: false
                            weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool"
        pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 } }
layer { name: "drop" type: "Dropout" bottom: "norm" top: "norm" dropout_param { dropout_ratio: 0.25 } }
layer { name: "ip" type: "InnerProduct" bottom: "norm" top: "ip"
        inner_product_param { num_output: 10 bias_filler { value: 1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_net_of_v0_layers():
    same(V0_LENET, V2_LENET)


def test_a_loss_without_a_top_gets_one_of_its_name():
    net = upgraded('layer { name: "x" type: "EuclideanLoss" bottom: "x" bottom: "y" } '
                   'layer { name: "l" type: "HingeLoss" bottom: "x" bottom: "y" } '
                   'layer { name: "a" type: "Accuracy" bottom: "x" bottom: "y" }')
    assert [list(layer.top) for layer in net.layer] == [["x_top"], ["l"], []]


def test_a_loss_with_neither_name_nor_top_has_that_of_its_type():
    net = upgraded('layer { type: "EuclideanLoss" bottom: "x" bottom: "y" } ' * 2 +
                   'layer { type: "HingeLoss" bottom: "x" bottom: "HingeLoss" }')
    assert [list(layer.top) for layer in net.layer] == [["EuclideanLoss"], ["EuclideanLoss_2"],
                                                        ["HingeLoss_top"]]


@pytest.mark.parametrize("rules, expected", [
    (("", ""), ["a", "a_2"]), (("", "", ""), ["a", "a_2", "a_3"]),
    (("include { phase: TRAIN }", "include { phase: TEST }"), ["a", "a"]),
    (("exclude { phase: TEST }", "exclude { phase: TRAIN }"), ["a", "a"]),
    (("include { phase: TRAIN }", "include { phase: TEST }", ""), ["a", "a", "a_2"]),
    (("include { phase: TRAIN stage: 's' }", "include { phase: TEST } include { stage: 't' }"), ["a", "a_2"]),
    (("include { phase: TEST }", "exclude { phase: TEST stage: 's' }"), ["a", "a_2"])])
def test_losses_of_one_name_without_a_top(rules, expected):
    net = upgraded("".join(f'layer {{ name: "a" type: "SoftmaxWithLoss" bottom: "x" bottom: "l" {rule} }}'
                           for rule in rules))
    assert [layer.top[0] for layer in net.layer] == expected


def test_a_top_for_a_loss_is_no_other_blob():
    net = upgraded('layer { name: "x" type: "ReLU" bottom: "a_2" top: "a" } '
                   'layer { name: "a" type: "HingeLoss" bottom: "a_2" bottom: "l" } '
                   'layer { name: "a" type: "HingeLoss" bottom: "a_top_2" }')
    assert [layer.top[0] for layer in net.layer] == ["a", "a_top", "a_top_3"]


def test_other_data_layers_of_v0():
    same("""
layers { layer { name: "i" type: "images" source: "list" batchsize: 2 shuffle_images: true new_height: 8
                 new_width: 9 } top: "i" }
layers { layer { name: "w" type: "window_data" source: "w" batchsize: 2 det_fg_threshold: 0.7
                 det_bg_threshold: 0.2 det_fg_fraction: 0.5 det_context_pad: 3 det_crop_mode: "square" }
         top: "w" }
layers { layer { name: "h" type: "hdf5_data" source: "h" batchsize: 2 } top: "h" }
layers { layer { name: "c" type: "concat" concat_dim: 0 } bottom: "i" bottom: "w" top: "c" }
layers { layer { name: "o" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "c" }
""", """
layer { name: "i" type: "ImageData" top: "i"
        image_data_param { source: "list" batch_size: 2 shuffle: true new_height: 8 new_width: 9 } }
layer { name: "w" type: "WindowData" top: "w" window_data_param { source: "w" batch_size: 2 fg_threshold: 0.7
        bg_threshold: 0.2 fg_fraction: 0.5 context_pad: 3 crop_mode: "square" } }
layer { name: "h" type: "HDF5Data" top: "h" hdf5_data_param { source: "h" batch_size: 2 } }
layer { name: "c" type: "Concat" bottom: "i" bottom: "w" top: "c" concat_param { concat_dim: 0 } }
layer { name: "o" type: "HDF5Output" bottom: "c" hdf5_output_param { file_name: "f" } }
""")


def test_padding_goes_to_all_that_read_it_until_its_name_is_written_anew():
    net = upgraded("""
layers { layer { name: "p" type: "padding" pad: 3 } bottom: "x" top: "p" }
layers { layer { name: "a" type: "conv" kernelsize: 3 num_output: 1 } bottom: "p" top: "a" }
layers { layer { name: "b" type: "pool" kernelsize: 3 pad: 9 } bottom: "p" top: "p" }
layers { layer { name: "c" type: "conv" kernelsize: 3 num_output: 1 } bottom: "p" top: "c" }
""")
    a, b, c = net.layer
    assert (list(a.convolution_param.pad), a.bottom) == ([3], ["x"])
    assert (b.pooling_param.pad, b.bottom) == (3, ["x"])
    assert (list(c.convolution_param.pad), c.bottom) == ([], ["p"])


def test_a_net_of_v1_layers():
    same("""
layers { name: "d" type: DATA top: "d" data_param { source: "db" backend: LMDB scale: 0.25 mirror: true }
         include { phase: TRAIN } }
layers { name: "ip" type: INNER_PRODUCT bottom: "d" top: "ip" blobs_lr: 0 blobs_lr: 2 weight_decay: 0.5
         param: "w" param: "b" blob_share_mode: PERMISSIVE inner_product_param { num_output: 2 } }
layers { name: "l" type: EUCLIDEAN_LOSS bottom: "ip" bottom: "d" top: "l" loss_weight: 3
         loss_param { normalize: false } exclude { stage: "x" } }
""", """
layer { name: "d" type: "Data" top: "d" data_param { source: "db" backend: LMDB }
        transform_param { scale: 0.25 mirror: true } include { phase: TRAIN } }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 2 }
        param { name: "w" share_mode: PERMISSIVE lr_mult: 0 decay_mult: 0.5 } param { name: "b" lr_mult: 2 } }
layer { name: "l" type: "EuclideanLoss" bottom: "ip" bottom: "d" top: "l" loss_weight: 3
        loss_param { normalize: false } exclude { stage: "x" } }
""")


@in_turn("old", sorted(TYPES_OF_V1))
def test_every_type_of_v1_is_a_type_of_today(old):
    [layer] = upgraded(f'layers {{ name: "x" type: {old} }}').layer
    assert layer.type == TYPES_OF_V1[old]
    assert layer.type in layer_types or old == "NONE"


def test_the_types_are_all_those_of_the_schema():
    assert TYPES_OF_V1.keys() == minidrop_pb2.V1LayerParameter.LayerType.keys() & TYPES_OF_V1.keys()
    assert set(minidrop_pb2.V1LayerParameter.LayerType.keys()) == TYPES_OF_V1.keys()


def test_a_v1_net_computes():
    net = Net(parse_net("""
input: "x" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1
layers { name: "ip" type: INNER_PRODUCT bottom: "x" top: "ip"
         inner_product_param { num_output: 2 weight_filler { value: 1 } } }
"""))
    assert net.forward(x=[[[[1.0]], [[2.0]], [[3.0]]]] * 2)["ip"].numpy().tolist() == [[6, 6], [6, 6]]


def test_a_v1_net_inside_a_solver_file_and_in_a_message():
    text = 'layers { name: "a" type: RELU bottom: "x" top: "x" }'
    inline = parse_solver(f"net_param {{ {text} }}", "s").inline_net("net_param")
    message = text_format.Parse(text, NetParameter())
    assert inline.message == NetConfig.of(message).message == upgraded(text)
    assert inline.where(0, "bottom") == "s:1:43"


def test_positions_are_those_of_the_file():
    config = parse_net(V0_LENET, "old")
    assert [config.where(i) for i in range(3)] == ["old:3:1", "old:6:1", "old:9:1"]


def test_statistics_of_an_old_batch_norm_are_not_trained_but_may_be_shared():
    text = 'layer { name: "b" type: "BatchNorm" %s }'
    [plain] = upgraded(text % "param { lr_mult: 1 } param { lr_mult: 1 } param { decay_mult: 0 }").layer
    assert not plain.param
    [named] = upgraded(text % 'param { name: "m" lr_mult: 1 } param { name: "v" } param { name: "f" }').layer
    assert [(p.name, p.HasField("lr_mult")) for p in named.param] == [(name, False) for name in "mvf"]


def test_text_in_a_binary_that_is_none():
    content = NetParameter(layers=[{"name": "one", "bottom": ["two"]}]).SerializeToString()
    for name in (b"one", b"two"):
        broken = NetParameter.FromString(content.replace(name, b"\xff" + name[1:]))
        with pytest.raises(ConfigError, match="<network>: .* holds b.* is no UTF-8 text; is the file whole"):
            NetConfig.of(broken)


@pytest.mark.parametrize("text, expected", [
    ('layers { layer { name: "a" type: "relu" num_output: 3 } bottom: "x" top: "x" }',
     "old.prototxt:1:1: layer 'a': a layer of type 'relu' has no setting 'num_output'"),
    ('layers { layer { name: "a" type: "conf" } }',
     "old.prototxt:1:1: layer 'a': 'conf' is no type of a layer of Caffe's oldest form; did you mean 'conv' "
     "or 'concat'?"),
    ('layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }\n'
     'layers { layer { name: "r" type: "relu" } bottom: "p" top: "p" }',
     "old.prototxt:2:1: layer 'r': expected a conv or pool layer behind a padding layer, got 'relu'"),
    ('layers { layer { name: "p" type: "padding" pad: 1 } top: "p" }',
     "old.prototxt:1:1: layer 'p': expected one bottom and one top of a padding layer, got 0 and 1"),
    ('layer { name: "d" type: "DummyData" top: "d" } layers { name: "a" type: RELU bottom: "d" top: "d" }',
     "old.prototxt:1:48: 'layers' is Caffe's old (V1) form of 'layer', and both are given; write `layer { "
     "type: \"InnerProduct\" ... }` for `layers { type: INNER_PRODUCT ... }`"),
    ('layers { name: "d" type: DATA top: "d" data_param { mirror: true } transform_param { mirror: false } }',
     "old.prototxt:1:53: layer 'd': mirror is given in data_param and in transform_param; keep that in "
     "transform_param"),
])
def test_what_has_no_meaning_today(text, expected):
    with pytest.raises(ConfigError) as error:
        upgraded(text)
    assert str(error.value) == expected
