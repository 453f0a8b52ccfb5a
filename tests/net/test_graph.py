"""Every mistake in a network is found before any work, all in one report, each with layer and place."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import ConfigError, Net, load
from minidrop.config import parse_net
from minidrop.layers import Context, known_layers
from minidrop.net.graph import build_graph

DATA = '''layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 6 } shape { dim: 4 } } }
'''


def ip(name, bottom, top, settings="num_output: 3", more=""):
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {more} ' \
           f'inner_product_param {{ {settings} }} }}\n'


def report(text):
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(text, "net.prototxt"), device="cpu")
    return str(caught.value).split("\n")


KNOWN = f"(known types: {', '.join(known_layers())})"
MISTAKES = {
    "unknown type": (
        'layer { name: "r" type: "Relu" bottom: "data" top: "r" }',
        f"net.prototxt:3:19: layer 'r': unknown layer type 'Relu'; did you mean 'ReLU' or 'PReLU' or 'ELU'? "
        f"{KNOWN}"),
    "no type at all": (
        'layer { name: "r" bottom: "data" top: "r" }', f"net.prototxt:3:1: layer 'r': unknown layer type '' "
        f"{KNOWN}"),
    "settings of another type": (
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" power_param { scale: 2 } }',
        "net.prototxt:3:56: layer 'r' (ReLU): power_param belongs to another layer type; it reads "
        "relu_param"),
    "settings of another type, where two are read": (
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "r" dropout_param { } '
        '}', "net.prototxt:3:83: layer 'l' (SoftmaxWithLoss): dropout_param belongs to another layer type; "
        "it reads softmax_param and loss_param"),
    "settings of a type that has none": (
        'layer { name: "s" type: "Silence" bottom: "data" relu_param { } }',
        "net.prototxt:3:50: layer 's' (Silence): relu_param belongs to another layer type; it has no "
        "settings"),
    "missing bottom": (
        'layer { name: "r" type: "ReLU" bottom: "dota" top: "r" }',
        "net.prototxt:3:32: layer 'r' (ReLU): bottom 'dota' is written by no layer; did you mean 'data'? "
        "(the blobs written so far end with 'data', 'label')"),
    "two writers": (
        'layer { name: "a" type: "ReLU" bottom: "data" top: "y" }\n'
        'layer { name: "b" type: "ReLU" bottom: "data" top: "y" }',
        "net.prototxt:4:47: layer 'b' (ReLU): top 'y' is written already, by layer 'a' at net.prototxt:3:1; "
        "give it another name, or read it as bottom too to work in place"),
    "one top twice": (
        'layer { name: "s" type: "Split" bottom: "data" top: "y" top: "y" }',
        "net.prototxt:3:57: layer 's' (Split): top 'y' is named twice"),
    "a cycle": (
        'layer { name: "a" type: "ReLU" bottom: "z" top: "y" }\nlayer { name: "b" type: "ReLU" bottom: "y" '
        'top: "z" }', "net.prototxt:3:32: layer 'a' (ReLU): bottom 'z' is written only below, by layer 'b': "
        "the layers form a cycle or stand in the wrong order"),
    "a layer that feeds itself": (
        'layer { name: "a" type: "ReLU" bottom: "y" top: "y" }',
        "net.prototxt:3:32: layer 'a' (ReLU): bottom 'y' is written by this layer alone: the layer would "
        "feed itself"),
    "shapes that do not fit": (
        'layer { name: "l" type: "EuclideanLoss" bottom: "data" bottom: "label" top: "l" }',
        "net.prototxt:3:1: layer 'l' (EuclideanLoss): expected bottoms with one batch size and as many "
        "values, got (4, 6) and (4,) "
        "[bottoms: data (4, 6), label (4,)]"),
    "more params than parameters": (
        ip("i", "data", "i", "num_output: 2 bias_term: false", "param { } param { lr_mult: 2 }"),
        "net.prototxt:3:74: layer 'i' (InnerProduct): 2 `param` entries, but the layer has 1 parameter "
        "(weight)"),
    "params of a layer without parameters": (
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" param { } }',
        "net.prototxt:3:56: layer 'r' (ReLU): 1 `param` entries, but the layer has 0 parameters (none)"),
    "one name twice": (
        'layer { name: "in" type: "InnerProduct" bottom: "data" top: "r" '
        'inner_product_param { num_output: 3 } }',
        "net.prototxt:3:9: layer 'in_2' (InnerProduct): there is a layer 'in' already, at net.prototxt:1:1; "
        "give a layer with parameters a name of its own"),
    "no name": (
        'layer { type: "InnerProduct" bottom: "data" top: "r" inner_product_param { num_output: 3 } }',
        "net.prototxt:3:1: layer 'InnerProduct' (InnerProduct): the layer has no name; give a layer with "
        "parameters a name of its own"),
    "too few bottoms": (
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "data" top: "l" }',
        "net.prototxt:3:1: layer 'l' (SoftmaxWithLoss): expected 2 bottoms, got 1"),
    "too many bottoms": (
        'layer { name: "r" type: "ReLU" bottom: "data" bottom: "label" top: "r" }',
        "net.prototxt:3:1: layer 'r' (ReLU): expected 1 bottom, got 2"),
    "no bottom": (
        'layer { name: "c" type: "Concat" top: "c" }',
        "net.prototxt:3:1: layer 'c' (Concat): expected at least 1 bottom, got 0"),
    "no top": (
        'layer { name: "r" type: "ReLU" bottom: "data" }', "net.prototxt:3:1: layer 'r' (ReLU): expected 1 "
        "top, got 0"),
    "too many tops": (
        'layer { name: "a" type: "Accuracy" bottom: "data" bottom: "label" top: "a" top: "b" top: "c" }',
        "net.prototxt:3:1: layer 'a' (Accuracy): expected 1 to 2 tops, got 3"),
    "loss weights": (
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" loss_weight: 1 loss_weight: 2 }',
        "net.prototxt:3:56: layer 'r' (ReLU): expected no loss_weight, or one for each of the 1 tops, got 2"),
    "propagate_down": (
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" propagate_down: true propagate_down: true }',
        "net.prototxt:3:56: layer 'r' (ReLU): expected no propagate_down, or one for each of the 1 bottoms, "
        "got 2"),
    "pattern": (
        'layer { name: "d" type: "ApproxDropout" bottom: "data" top: "d" approx_dropout_param { pattern: '
        '"PERIODICAL" } }', "net.prototxt:3:65: layer 'd' (ApproxDropout): unknown pattern 'PERIODICAL'; did "
        "you mean 'PERIODIC'? (known patterns: BLOCK, PERIODIC, ROW, SLICE, TILE, UNIT)"),
    "dropout ratio": (
        'layer { name: "d" type: "ApproxDropout" bottom: "data" top: "d" approx_dropout_param { '
        'dropout_ratio: 1 } }', "net.prototxt:3:65: layer 'd' (ApproxDropout): rate (dropout_ratio) must lie "
        "in [0, 1), got 1.0; it is the share of units to drop: 0 drops nothing, 0.5 every other one"),
}


@in_turn("name", MISTAKES)
def test_mistake(name):
    text, message = MISTAKES[name]
    assert report(DATA + text) == [message]


def test_all_mistakes_are_in_one_report():
    """Each text above, in one file: as many lines, in the order of the passes, each at its own place."""
    texts, expected = [], []
    line = 3
    for number, (text, message) in enumerate(MISTAKES.values()):
        if "top 'y'" in message or "'z'" in message or "'y'" in message:
            continue                         # those share blob names
        for old in ("name: \"r\"", "name: \"s\"", "name: \"l\"", "name: \"i\"", "name: \"c\"", "name: \"a\"",
                    "name: \"d\""):
            text = text.replace(old, f'name: "n{number}"')
        for old in ("r", "s", "l", "i", "c", "a", "b", "d"):
            text = text.replace(f'top: "{old}"', f'top: "{old}{number}"')
        texts.append(text.rstrip("\n"))
        expected.append(line)
        line += 1
    lines = report(DATA + "\n".join(texts))
    assert sorted(int(found.split(":")[1]) for found in lines) == expected
    assert all(found.startswith("net.prototxt:") and ": layer '" in found for found in lines)


def test_a_layer_that_gives_a_top_for_each_bottom_needs_as_many():
    text = ('layer { name: "in" type: "Input" top: "x" '
            'input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }\n'
            'layer { name: "c" type: "Convolution" bottom: "x" bottom: "x" top: "y" '
            'convolution_param { num_output: 2 kernel_size: 3 } }')
    assert report(text) == ["net.prototxt:2:72: layer 'c' (Convolution): gives 2 tops for 2 bottoms, got 1; "
                            "name as many [bottoms: x (1, 2, 8, 8), x (1, 2, 8, 8)]"]


def test_a_layer_without_parameters_may_have_the_name_of_another(caplog):
    config = parse_net(DATA + """
layer { name: "in" type: "ReLU" bottom: "data" top: "r" }
layer { name: "in_2" type: "ReLU" bottom: "r" top: "s" }
layer { name: "in" type: "ReLU" bottom: "s" top: "t" }""", "net.prototxt")
    net = Net(config, device="cpu")
    assert list(net.layers)[-3:] == ["in_3", "in_2", "in_4"]
    assert caplog.messages[0] == ("net.prototxt:4:9: there is a layer 'in' already, at net.prototxt:1:1; "
                                  "this one is called 'in_3' here")
    told = len(caplog.messages)
    Net(config, "TEST", device="cpu", share=net)        # is not told again of each phase
    assert len(caplog.messages) == told


def test_a_layer_without_parameters_needs_no_name(caplog):
    net = Net(parse_net(DATA + """
layer { type: "ReLU" bottom: "data" top: "r" }
layer { name: "ReLU_2" type: "ReLU" bottom: "r" top: "r" }
layer { type: "ReLU" bottom: "r" top: "s" }""", "net.prototxt"), device="cpu")
    assert list(net.layers)[-3:] == ["ReLU", "ReLU_2", "ReLU_3"]
    assert caplog.messages == ["net.prototxt:4:1: the layer has no name; it is called 'ReLU' here",
                               "net.prototxt:6:1: the layer has no name; it is called 'ReLU_3' here"]


def test_what_follows_from_a_mistake_is_not_reported_too():
    lines = report(DATA + ip("ip1", "data", "a", "") + ip("ip2", "a", "b")
                   + ip("ip3", "b", "c", "num_output: 0"))
    assert lines == ["net.prototxt:3:67: layer 'ip1' (InnerProduct): inner_product_param needs num_output, "
                     "at least 1 [bottoms: data (4, 6)]"]


def test_a_net_without_layers():
    assert report('name: "empty"') == ["net.prototxt:1:1: the net has no layers in phase TRAIN"]
    assert report('layer { name: "d" type: "DummyData" top: "x" include { phase: TEST } }')[0].endswith(
        "the net has no layers in phase TRAIN")


def test_positions_stay_right_when_rules_take_layers_out():
    text = DATA + ('layer { name: "t" type: "Silence" bottom: "label" include { phase: TEST } }\n'
                   'layer { name: "r" type: "Relu" bottom: "data" top: "r" }')
    assert report(text)[0].startswith("net.prototxt:4:19: layer 'r': unknown layer type 'Relu'")


def graph_of(text):
    return build_graph(parse_net(text), Context("TRAIN", 0, "float32", None))


def test_versions_of_a_blob():
    """In-place layers write new versions: who reads what has one answer."""
    graph = graph_of(DATA + ip("ip", "data", "h") + 'layer { name: "r" type: "ReLU" bottom: "h" top: "h" }\n'
                     'layer { name: "t" type: "TanH" bottom: "h" top: "h" }\n' + ip("out", "h", "y"))
    assert graph.nodes[2].bottoms == [("h", 0)] and graph.nodes[2].tops == [("h", 1)]
    assert [node.name for node, _ in graph.readers["h", 1]] == ["t"]
    assert graph.writer["h", 2].name == "t" and graph.nodes[4].bottoms == [("h", 2)]
    assert graph.outputs == [("label", 0), ("y", 0)]
    assert graph.shapes["h", 2] == (4, 3)


def test_parameter_count_counts_shared_ones_once():
    shared = 'param { name: "W" } param { name: "b" }'
    text = DATA + ip("a", "data", "a", more=shared) + ip("b", "data", "b", more=shared) + ip("c", "data", "c")
    assert graph_of(text).parameter_count == 2 * (3 * 6 + 3)


def test_transform_param_of_a_data_layer_that_transforms_nothing(caplog):
    text = ('layer { name: "in" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 } }\n'
            'transform_param { scale: 0.5 } }')
    assert Net(parse_net(text, "net.prototxt"), device="cpu").layers.keys() == {"in"}
    assert caplog.messages == ["net.prototxt:2:1: layer 'in': transform_param has no effect, DummyData "
                               "transforms nothing"]
    found = report(DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" transform_param { } }')
    assert "transform_param belongs to another layer type" in found[0]


def test_predict_transforms_what_the_net_transforms(tmp_path):
    """DummyData is not transformed: neither are the records that stand in for it."""
    text = ('layer { name: "in" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 } '
            'data_filler { value: 1 } } transform_param { scale: 10 } }'
            + ip("h", "data", "h", 'num_output: 3 weight_filler { type: "xavier" }'))
    net = Net(parse_net(text), "TEST", device="cpu")
    found = net.forward()["h"].numpy()
    assert np.ptp(found[0]) > 0
    np.testing.assert_array_equal(net.predict(np.ones((2, 3), np.float32)), found)
    net.save(tmp_path / "net.h5")
    np.testing.assert_array_equal(load(tmp_path / "net.h5").predict(np.ones((2, 3), np.float32)), found)


def test_many_layers_of_one_name_get_names_in_order_and_few_warnings(caplog):
    net = Net(parse_net(DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "data" }\n' * 2000
                        + 'layer { name: "r_3" type: "ReLU" bottom: "data" top: "data" }'), device="cpu")
    names = list(net.layers)[1:]
    assert names[:4] == ["r", "r_2", "r_4", "r_5"] and names[-2:] == ["r_2001", "r_3"]
    assert len(caplog.messages) == 101
    assert caplog.messages[-1] == "... and 1899 more layers without a name of their own"
