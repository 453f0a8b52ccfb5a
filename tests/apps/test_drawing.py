"""Drawings of nets: cards and arrows from the description, the layout, SVG and DOT of hostile names."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from minidrop.apps.drawing import drawing_of
from minidrop.apps.layout import layered
from minidrop.apps.pictures import DIRECTIONS, as_dot, as_svg
from minidrop.config import layer_types, load_net, parse_net
from minidrop.config.minidrop_pb2 import FillerParameter
from minidrop.layers import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Drops, Pass, Product
from tests.nets import drop, inputs, ip, layer

ROOT = Path(__file__).resolve().parents[2]
MISSING = ('layer { name: "d" type: "HDF5Data" top: "x" top: "label" PHASE '
           'hdf5_data_param { source: "no" batch_size: 2 } }')
SVG = "{http://www.w3.org/2000/svg}"


def drawing(*layers, **options):
    return drawing_of(parse_net("\n".join(layers), "n.prototxt"), **options)


def rows(drawn):
    return [[row.name for row in card.rows] for card in drawn.cards]


def lines_of(drawn, name):
    return next(row.lines for card in drawn.cards for row in card.rows if row.name == name)


def test_shapes_windows_and_what_drops_save():
    drawn, reason = drawing(
        inputs((4, 3, 9, 9)),
        layer("Convolution", "conv", "a", more="convolution_param { num_output: 6 kernel_h: 3 kernel_w: 1 "
              "stride: 2 pad: 1 group: 3 }"),
        layer("Pooling", "pool", "conv", more="pooling_param { pool: AVE global_pooling: true }"),
        ip("ip1", "pool", 64), layer("ReLU", "relu", "ip1", "ip1"),
        drop("drop", "ip1", settings="dropout_ratio: 0.5"), ip("ip2", "drop", 5), phase="TRAIN")
    assert reason == ""
    assert rows(drawn) == [["in_a"], ["conv"], ["pool"], ["ip1", "relu"], ["drop"], ["ip2"]]
    assert drawn.arrows == [(0, 1, "a"), (1, 2, ""), (2, 3, ""), (3, 4, ""), (4, 5, "")]
    assert lines_of(drawn, "conv") == ["6 outputs, 3x1, stride 2, pad 1, group 3", "4x6x5x6"]
    assert lines_of(drawn, "pool") == ["AVE, global", "4x6x1x1"]
    assert lines_of(drawn, "ip1")[:2] == ["64 outputs", "4x64"]
    assert lines_of(drawn, "ip1")[2].startswith("50.0% of ")
    assert lines_of(drawn, "drop")[:3] == ["PERIODIC, ratio 0.5", "4x64", "keeps 50.0% of the units"]
    assert lines_of(drawn, "drop")[3].startswith("saves ")
    assert lines_of(drawn, "drop")[3].endswith("% in ip1, ip2")


def test_a_net_without_its_data_is_drawn():
    drawn, reason = drawing(MISSING.replace("PHASE", ""), ip("ip", "x", 3), layer("Silence", "s", "label"))
    assert "no such file" in reason
    assert rows(drawn) == [["d"], ["ip"], ["s"]]
    assert drawn.arrows == [(0, 1, "x"), (0, 2, "label")]


def test_unknown_types_and_blobs_that_nobody_writes_are_drawn():
    drawn, reason = drawing(inputs((2, 3)), layer("Bogus", "b", "a nowhere"), ip("ip", "b", 2))
    assert "bottom 'nowhere' is written by no layer" in reason
    assert [card.title for card in drawn.cards] == ["", "nowhere", "", ""]
    assert drawn.arrows == [(0, 2, "a"), (1, 2, ""), (2, 3, "")]
    assert lines_of(drawn, "in_a") == ["2x3"]           # as far as shapes are known


def test_phases_are_drawn_apart_or_together():
    text = [MISSING.replace("PHASE", "include { phase: TRAIN }"),
            MISSING.replace("PHASE", "include { phase: TEST }").replace('"d"', '"t"'), ip("ip", "x", 2),
            layer("Accuracy", "acc", "ip label", more="include { phase: TEST }")]
    assert rows(drawing(*text, phase="TRAIN")[0]) == [["d"], ["ip"]]
    assert rows(drawing(*text, phase="TEST")[0]) == [["t"], ["ip"], ["acc"]]
    both = drawing(*text)[0]
    assert rows(both) == [["d"], ["t"], ["ip"], ["acc"]]
    assert both.arrows == [(0, 2, "x"), (1, 2, "x"), (2, 3, ""), (1, 3, "label")]


def test_what_works_in_place_joins_the_card_of_its_blob_unless_others_read_that():
    relu = layer("ReLU", "r", "ip", "ip")
    joined = drawing(inputs((2, 3)), ip("ip", "a", 3), relu, layer("TanH", "t", "ip", "ip"))[0]
    assert rows(joined) == [["in_a"], ["ip", "r", "t"]]
    apart = drawing(inputs((2, 3)), ip("ip", "a", 3), layer("TanH", "t", "ip"), relu)[0]
    assert rows(apart) == [["in_a"], ["ip"], ["t"], ["r"]]
    assert (1, 3, "") in apart.arrows


class Own(Layer):
    """A layer type of a user: its top has the shape of its bottom, and in it a place for what differs."""

    facts = ()

    def setup(self, *shapes):
        return [() if self.is_loss else shapes[0] if shapes else (2, 3)]

    def parameter_specs(self):
        return [ParameterSpec(fact.parameter, (3, 3), FillerParameter()) for fact in self.facts
                if isinstance(fact, Product)]

    def flow(self, shapes):
        return list(self.facts)


def test_types_of_a_user_get_a_colour_by_what_they_are_and_their_settings():
    kinds = {"data": {"is_data": True, "bottoms": (0, 0)}, "other": {}, "result": {"is_loss": True},
             "product": {"facts": (Product("w", 2, 3, 3, in_axis=1, out_axis=1),)},
             "activation": {"facts": (Pass(activation="relu"),)},
             "drop": {"facts": (Pass(), Drops(reason="it is a test"))}}
    text = [layer(f"Own{kind}", kind, "" if kind == "data" else "data", more="param_str: '{\"size\": 3}'")
            for kind in kinds]
    with layer_types.forgetting():
        for kind, facts in kinds.items():
            register_layer(f"Own{kind}")(type(f"Own{kind}", (Own,), facts))
        drawn, reason = drawing(*text)
    assert reason == ""
    assert [row.group for card in drawn.cards for row in card.rows] == list(kinds)
    assert lines_of(drawn, "other") == ['{"size": 3}', "2x3"]


def test_a_type_of_a_user_has_the_colour_of_its_class_where_shapes_are_missing():
    with layer_types.forgetting():
        register_layer("Fed")(type("Fed", (Own,), {"is_data": True}))
        drawn, reason = drawing(layer("Fed", "d", "nowhere"), layer("NoSuchLoss", "l", "d"))
    assert reason
    assert [row.group for card in drawn.cards for row in card.rows] == ["data", "result"]


def test_settings_as_the_file_states_them():
    text = (inputs((4, 6, 2)),
            layer("Power", "p", "a", more="power_param { scale: 0.1 power: 2 }"),
            layer("Slice", "s", "p", more="slice_param { slice_point: 2 axis: 1 }"),
            layer("Reduction", "r", "s", more="reduction_param { operation: MEAN }"),
            layer("Python", "own", "s", more='python_param { module: "m" layer: "L" '
                                            'share_in_parallel: true }'))
    drawn = drawing(*text)[0]
    assert lines_of(drawn, "p")[0] == "power 2, scale 0.1"
    assert lines_of(drawn, "s")[0] == "slice_point 2, axis 1"
    assert lines_of(drawn, "r")[0] == "operation MEAN"
    assert lines_of(drawn, "own") == ["module m, layer L, share_in_parallel true"]
    drawn = drawing(MISSING.replace("PHASE", ""))[0]
    assert lines_of(drawn, "d") == ["batch_size 2"]             # but not the path


def test_multipliers_are_shown_when_asked_for():
    text = inputs((2, 3)), ip("ip", "a", 2, more="param { lr_mult: 1 } param { lr_mult: 0.1 }")
    assert lines_of(drawing(*text, multipliers=True)[0], "ip")[-1] == "lr_mult 1, 0.1"
    assert not any("lr_mult" in line for line in lines_of(drawing(*text)[0], "ip"))


HOSTILE = ['</text><script>alert(1)</script>', 'a"];x[label="', "\\N\\", "&lt;&#10;",
           "tab\tline\nbell\a\uffff", "漢字"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_are_text_and_nothing_else(name):
    config = parse_net(inputs((2, 3)) + ip("ip", "a", 2))
    config.message.layer[1].name = config.message.layer[1].top[0] = name
    config.message.name = name
    drawn, _ = drawing_of(config)
    root = ElementTree.fromstring(as_svg(drawn).encode())
    shown = "".join(c if c > "\x1f" and c != "\uffff" else " " if c in "\t\n" else "?" for c in name)
    assert f"{shown} (InnerProduct)" in [text.text for text in root.iter(f"{SVG}text")]
    assert {element.tag for element in root.iter()} <= {SVG + tag for tag in (
        "svg", "title", "defs", "marker", "path", "rect", "text", "ellipse")}
    dot = as_dot(drawn)
    line = next(line for line in dot.splitlines() if line.startswith("  n1 ["))
    written = shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    assert line.startswith(f'  n1 [label="{written} (InnerProduct)\\n')
    assert dot.count("\n") == 8


def overlaps(sizes, centres):
    for i, (a, (x, y)) in enumerate(zip(sizes, centres, strict=True)):
        for b, (u, v) in zip(sizes[:i], centres[:i], strict=True):
            yield abs(x - u) < (a[0] + b[0]) / 2 and abs(y - v) < (a[1] + b[1]) / 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_boxes_do_not_overlap_and_arrows_go_one_way(direction):
    sizes = [(60 + 17 * i % 90, 20 + 7 * i % 40) for i in range(30)]
    edges = [(i, j) for i in range(30) for j in range(i + 1, 30) if (i * 7 + j * 3) % 11 == 0]
    placed = layered(sizes, edges, direction)
    assert not any(overlaps(sizes, placed.centres))
    axis, sign = direction in ("TB", "BT"), 1 if direction in ("TB", "LR") else -1
    for (source, target), route in zip(edges, placed.routes, strict=True):
        along = [sign * point[axis] for point in route]
        assert along == sorted(along)
        for node, end, side in ((source, 0, 1), (target, -1, -1)):
            assert route[end][1 - axis] == pytest.approx(placed.centres[node][1 - axis])
            assert sign * (route[end][axis] - placed.centres[node][axis]) == pytest.approx(
                side * sizes[node][axis] / 2)
    assert all(0 <= x <= placed.width and 0 <= y <= placed.height
               for points in (placed.centres, *placed.routes) for x, y in points)


def test_a_chain_is_a_straight_line():
    placed = layered([(40, 20)] * 5, [(i, i + 1) for i in range(4)], "TB")
    assert len({x for x, _ in placed.centres}) == 1
    assert [y for _, y in placed.centres] == sorted(y for _, y in placed.centres)


def test_a_crossing_that_can_be_avoided_is():
    placed = layered([(40, 20)] * 4, [(0, 3), (1, 2)], "TB")
    (a, _), (b, _), (c, _), (d, _) = placed.centres
    assert (a < b) == (d < c)


def test_nothing_and_very_many_arrows_are_drawn():
    assert layered([], []).routes == []
    sizes, edges = [(10, 10)] * 400, [(i, j) for i in range(400) for j in range(i + 1, 400, 3)]
    assert len(layered(sizes, edges).routes) == len(edges)      # far more bends than are allowed
    assert "<svg" in as_svg(drawing("", phase="TRAIN")[0])


@pytest.mark.parametrize("direction", ["LR", "RL"])
def test_labels_of_arrows_have_room_between_the_boxes(direction):
    text = inputs((4, 3), (4,), names=["a_rather_long_name", "label"]) + "\n".join([
        ip("y", "a_rather_long_name", 5), layer("SoftmaxWithLoss", "loss", "y label")])
    root = ElementTree.fromstring(as_svg(drawing_of(parse_net(text))[0], direction).encode())
    labels = [text for text in root.iter(f"{SVG}text") if text.get("font-size") == "9"]
    boxes = [[float(box.get(name)) for name in ("x", "width")] for box in list(root.iter(f"{SVG}rect"))[1:]]
    for label in labels:
        half = len(label.text) * 6.7 * 9 / 11 / 2
        assert label.get("text-anchor") == "middle"
        assert not any(x < float(label.get("x")) + half and float(label.get("x")) - half < x + width
                       for x, width in boxes), label.text
    assert {label.text for label in labels} <= {"a_rather_long_name", "label"} and labels


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_labels_of_arrows_do_not_cover_each_other(direction):
    """Two data layers, for training and for tests, have tops that go to the same layers."""
    net = load_net(ROOT / "models" / "nmt_tiny" / "train_val.prototxt")
    root = ElementTree.fromstring(as_svg(drawing_of(net)[0], direction).encode())
    places = []
    for label in (text for text in root.iter(f"{SVG}text") if text.get("font-size") == "9"):
        x, y, width = float(label.get("x")), float(label.get("y")), len(label.text) * 6.7 * 9 / 11
        left = x - width / 2 if label.get("text-anchor") == "middle" else x
        assert not any(left <= end and begin <= left + width and abs(y - other) < 9
                       for begin, end, other in places), label.text
        places.append((left, left + width, y))
    assert len(places) == 10
