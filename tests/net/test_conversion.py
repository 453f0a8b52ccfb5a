"""--dropout: drop layers of another kind, and of another family of patterns, out of unchanged files."""

import itertools
import logging

import h5py
import numpy as np
import pytest

import minidrop as md
from minidrop.config import decimal, load_net, parse_net
from minidrop.errors import ConfigError
from minidrop.net import Net
from minidrop.net.conversion import convert_dropout, dropout_kind, prepare_nets
from minidrop.patterns import known_families

DROPS = """layer { name: "a" type: "Dropout" dropout_param { dropout_ratio: 0.3 } }
layer { name: "b" type: "ApproxDropout"
        approx_dropout_param { dropout_ratio: 0.7 pattern: "ROW" max_period: 4 } }
layer { name: "c" type: "Dropout" } layer { name: "d" type: "ReLU" }"""


def converted(kind):
    message = parse_net(DROPS).message
    convert_dropout(message, kind)
    return message.layer


def test_conventional():
    a, b, c, d = converted("conventional")
    assert [layer.type for layer in (a, b, c, d)] == ["Dropout", "Dropout", "Dropout", "ReLU"]
    assert [decimal(layer.dropout_param.dropout_ratio) for layer in (a, b, c)] == [0.3, 0.7, 0.5]
    assert not b.HasField("approx_dropout_param")


def test_approx():
    a, b, c, d = converted("approx")
    assert [layer.type for layer in (a, b, c, d)] == ["ApproxDropout"] * 3 + ["ReLU"]
    assert [decimal(layer.approx_dropout_param.dropout_ratio) for layer in (a, b, c)] == [0.3, 0.7, 0.5]
    assert [layer.approx_dropout_param.pattern for layer in (a, b, c)] == ["PERIODIC", "ROW", "PERIODIC"]
    assert b.approx_dropout_param.max_period == 4
    assert not a.HasField("dropout_param")


def test_conversions_drop_what_only_the_old_type_has():
    """`axes` and `shared` mean nothing to ApproxDropout; layers that drop otherwise stay what they are."""
    message = parse_net("""
        layer { name: "a" type: "Dropout" dropout_param { dropout_ratio: 0.3 axes: 2 axes: 3 shared: true } }
        layer { name: "b" type: "DropConnect" inner_product_param { num_output: 3 }
          dropout_param { dropout_ratio: 0.3 } }
        layer { name: "c" type: "GaussianDropout" dropout_param { dropout_ratio: 0.3 } }""").message
    before = [str(layer) for layer in message.layer[1:]]
    convert_dropout(message, "approx:ROW")
    first, *others = message.layer
    assert (first.type, first.approx_dropout_param.pattern) == ("ApproxDropout", "ROW")
    assert decimal(first.approx_dropout_param.dropout_ratio) == 0.3
    assert not first.HasField("dropout_param")
    assert [str(layer) for layer in others] == before
    convert_dropout(message, "conventional")
    assert (first.type, list(first.dropout_param.axes), first.dropout_param.shared) == ("Dropout", [], False)
    assert [str(layer) for layer in others] == before


def test_approx_with_a_family():
    a, b, c, _ = converted("approx:ROW")
    assert [layer.approx_dropout_param.pattern for layer in (a, b, c)] == ["ROW"] * 3


@pytest.mark.parametrize("kind", ["", "all", "none:ROW", "approx:", "conventional:ROW", "Approx"])
def test_unknown_kind(kind):
    with pytest.raises(ConfigError) as caught:
        converted(kind)
    assert str(caught.value) == (f"--dropout {kind}: expected none, conventional, approx or approx:FAMILY "
                                 "(as approx:ROW)")


# Every setting that a family reads, none at its default, and both scales where it has both.
OWN = {"PERIODIC": "step: 6 scale: PATTERN", "ROW": "max_period: 8 search: SGD scale: PATTERN",
       "TILE": "max_period: 6 search: SGD tile_size: 4 scale: PATTERN", "BLOCK": "block_samples: 2 "
       "block_units: 4", "UNIT": "scale: PATTERN", "SLICE": "scale: PATTERN"}
FIELDS = {"PERIODIC": {"step", "scale"}, "ROW": {"max_period", "search", "scale"}, "UNIT": {"scale"},
          "SLICE": {"scale"}, "TILE": {"max_period", "search", "tile_size", "scale"},
          "BLOCK": {"block_samples", "block_units"}}
MORE = "dropout_ratio: 0.3 reshuffle_interval: 5"


def net_of(settings):
    return parse_net(f"""
      layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ dim: 6 dim: 24 }} }} }}
      layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 24 }} }}
      layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
        approx_dropout_param {{ {settings} }} }}
      layer {{ name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
        inner_product_param {{ num_output: 3 }} }}""")


def test_the_tables_here_know_all_families():
    assert set(OWN) == set(FIELDS) == set(known_families())


@pytest.mark.parametrize("old, new", list(itertools.product(OWN, OWN)))
def test_a_file_with_the_settings_of_any_family_takes_any_other(old, new, caplog):
    """What both read stays; what the new one does not read goes, and is named."""
    config = net_of(f'pattern: "{old}" {OWN[old]} {MORE}')
    md.Net(config, device="cpu")
    before = config.message.layer[2].approx_dropout_param
    stays, goes = FIELDS[old] & FIELDS[new], FIELDS[old] - FIELDS[new]
    with caplog.at_level(logging.INFO, "minidrop"):
        convert_dropout(config.message, f"approx:{new.lower()}")
    after = config.message.layer[2].approx_dropout_param
    assert (after.pattern, decimal(after.dropout_ratio), after.reshuffle_interval) == (new, 0.3, 5)
    for name in stays:
        assert after.HasField(name) and getattr(after, name) == getattr(before, name)
    for name in goes - {"scale"}:
        assert not after.HasField(name)
    if "scale" in goes:
        assert after.scale == after.RATE
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(goes)
    for line in lines:
        start, _, cleared = line.partition("; cleared what it does not read: ")
        assert start == f"layer drop1: pattern {new} instead of {old}"
        assert {part.split(":")[0] for part in cleared.split(", ")} == goes
        assert all(part in OWN[old] for part in cleared.split(", "))
    net = md.Net(config, device="cpu")
    assert net.drop_sites["drop1"].family.name == new and net.drop_sites["drop1"].settings.rate == 0.3


@pytest.mark.parametrize("family, settings, message", [
    ("PERIODIC", "max_period: 8", "pattern PERIODIC has no max_period, got max_period: 8; remove it"),
    ("BLOCK", "scale: PATTERN", "pattern BLOCK has no scale PATTERN"),
])
def test_what_a_family_of_the_file_does_not_read_stays_a_mistake(family, settings, message, caplog):
    """Only where the family changes were the settings meant for another."""
    config = net_of(f'pattern: "{family}" {settings}')
    with caplog.at_level(logging.INFO, "minidrop"):
        convert_dropout(config.message, f"approx:{family}")
    assert caplog.text == ""
    with pytest.raises(ConfigError, match=message):
        md.Net(config, device="cpu")


def test_no_family_clears_nothing():
    config = net_of(f'pattern: "ROW" {OWN["ROW"]}')
    before = str(config.message)
    convert_dropout(config.message, "approx")
    assert str(config.message) == before


@pytest.mark.parametrize("kind, expected", [("approx:row", "approx:ROW"), ("approx:Tile", "approx:TILE"),
                                            ("approx", "approx"), ("conventional", "conventional")])
def test_kinds_have_one_spelling(kind, expected):
    assert dropout_kind(kind) == expected


KNOWN = "(known patterns: BLOCK, PERIODIC, ROW, SLICE, TILE, UNIT)"


@pytest.mark.parametrize("name, message", [
    ("tiles", f"--dropout approx:tiles: unknown pattern 'tiles'; did you mean 'TILE'? {KNOWN}"),
    ("XYZ", f"--dropout approx:XYZ: unknown pattern 'XYZ' {KNOWN}"),
    (" ROW", f"--dropout approx: ROW: unknown pattern ' ROW'; did you mean 'ROW'? {KNOWN}"),
])
def test_unknown_family(name, message):
    """Said of the option, not of a line of the file, and before anything is changed."""
    config = net_of(f'pattern: "ROW" {OWN["ROW"]}')
    before = str(config.message)
    with pytest.raises(ConfigError) as caught:
        convert_dropout(config.message, f"approx:{name}")
    assert str(caught.value) == message
    assert str(config.message) == before


# -- sequences -----------------------------------------------------------------------------------------------
def recurrent(hidden="dropout_ratio: 0.5", time="", kind="APPROX"):
    """A drop of (T, N, F), and an LSTM with hidden_dropout."""
    return parse_net(f"""
      layer {{ name: "in" type: "Input" top: "x" top: "cont"
              input_param {{ shape {{ dim: 3 dim: 2 dim: 24 }} shape {{ dim: 3 dim: 2 }} }} }}
      layer {{ name: "drop" type: "ApproxDropout" bottom: "x" top: "drop" approx_dropout_param {{ {time} }} }}
      layer {{ name: "lstm" type: "LSTM" bottom: "drop" bottom: "cont" top: "h"
        recurrent_param {{ num_output: 24
              hidden_dropout {{ {hidden} }} hidden_dropout_type: {kind} }} }}""")


def converted_lines(config, kind, caplog):
    with caplog.at_level(logging.INFO, "minidrop"):
        convert_dropout(config.message, kind)
    md.Net(config, device="cpu")
    return [record.getMessage() for record in caplog.records], config.message.layer[2].recurrent_param


@pytest.mark.parametrize("kind, expected", [("conventional", 1), ("approx", 0), ("approx:ROW", 0),
                                            ("approx:TILE", 0)])
@pytest.mark.parametrize("before", ["APPROX", "CONVENTIONAL"])
def test_hidden_dropout_is_of_one_type_with_the_others(before, kind, expected, caplog):
    _, settings = converted_lines(recurrent("dropout_ratio: 0.3 time: STEP", kind=before), kind, caplog)
    assert settings.hidden_dropout_type == expected
    assert decimal(settings.hidden_dropout.dropout_ratio) == 0.3 and settings.hidden_dropout.time == 1


def test_hidden_dropout_takes_a_family_of_units(caplog):
    lines, settings = converted_lines(recurrent("dropout_ratio: 0.3 step: 6"), "approx:unit", caplog)
    assert (settings.hidden_dropout.pattern, settings.hidden_dropout.HasField("step")) == ("UNIT", False)
    assert lines == ["layer lstm: hidden_dropout: pattern UNIT instead of PERIODIC; cleared what it does not "
                     "read: step: 6"]


@pytest.mark.parametrize("family, drops", [("TILE", "weights"), ("BLOCK", "blocks")])
def test_hidden_dropout_keeps_its_family_where_the_new_one_drops_no_units(family, drops, caplog):
    lines, settings = converted_lines(recurrent('pattern: "ROW" max_period: 6'), f"approx:{family}", caplog)
    assert (settings.hidden_dropout.pattern, settings.hidden_dropout.max_period) == ("ROW", 6)
    assert lines == [f"layer lstm: hidden_dropout: pattern ROW stays; {family} drops {drops}, a state has "
                     f"units only"]


@pytest.mark.parametrize("family", known_families())
def test_a_pattern_for_every_step_becomes_one_for_all_where_a_family_has_no_such(family, caplog):
    config = recurrent(time='pattern: "SLICE" time: STEP')
    lines, _ = converted_lines(config, f"approx:{family}", caplog)
    refused = family in ("TILE", "BLOCK")
    settings = config.message.layer[1].approx_dropout_param
    assert (settings.pattern, settings.HasField("time")) == (family, not refused)
    expected = f"layer drop: pattern {family} instead of SLICE; cleared what it does not read: time: STEP"
    assert (expected in lines) == refused


def test_recurrent_layers_without_hidden_dropout_stay_what_they_are():
    message = parse_net('layer { name: "l" type: "LSTM" recurrent_param { num_output: 3 } }').message
    before = str(message)
    for kind in ("conventional", "approx", "approx:ROW", "approx:TILE"):
        convert_dropout(message, kind)
        assert str(message) == before


@pytest.mark.parametrize("overrides, expected", [
    (["layer.l.recurrent_param.hidden_dropout.dropout_ratio=0.5"], "CONVENTIONAL"),
    (["layer.l.recurrent_param.hidden_dropout.dropout_ratio=0.5",
      "layer.l.recurrent_param.hidden_dropout_type=APPROX"], "APPROX"),
])
def test_a_hidden_dropout_that_an_override_adds_is_turned_too(overrides, expected):
    config = parse_net('layer { name: "l" type: "LSTM" recurrent_param { num_output: 3 } }')
    prepare_nets([config], "conventional", overrides)
    settings = config.message.layer[0].recurrent_param
    assert settings.DropoutType.Name(settings.hidden_dropout_type) == expected
    prepare_nets([config], None, [])
    assert settings.DropoutType.Name(settings.hidden_dropout_type) == expected


@pytest.mark.parametrize("layer, warned", [
    ('type: "DropConnect" dropout_param { dropout_ratio: 0.5 }', True), ('type: "Dropout"', False),
    ('type: "ApproxDropout"', False), ('type: "LSTM" recurrent_param { hidden_dropout { } }', False)])
def test_a_kind_without_a_layer_to_turn_is_told(layer, warned, caplog):
    prepare_nets([parse_net(f'layer {{ name: "z" {layer} }}')], "approx:row", [])
    assert [line for line in caplog.messages if "no effect" in line] == [
        "--dropout approx:row has no effect: there is no layer of type Dropout or ApproxDropout and no "
        "hidden_dropout"] * warned


@pytest.mark.parametrize("layer", ['type: "DropConnect" dropout_param { dropout_ratio: 0.5 }', 'type: "ReLU"',
                                   'type: "Attention" attention_param { dropout_ratio: 0.5 }'])
def test_a_net_that_drops_nothing_is_what_none_asks_for(layer, caplog):
    prepare_nets([parse_net(f'layer {{ name: "z" {layer} }}')], "none", [])
    assert caplog.messages == []


IMAGES_NET = '''
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "values" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "channels" type: "Dropout" bottom: "conv" top: "conv"
        dropout_param { dropout_ratio: 0.3 axes: -1 axes: 2 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: AVE global_pooling: true } }
layer { name: "points" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 6 } }
layer { name: "units" type: "Dropout" bottom: "ip" top: "ip" }
'''


def test_behind_images_only_drops_of_whole_channels_are_converted(caplog):
    """A Dropout drops single values there, which no regular pattern does: it stays, and the log says so."""
    message = parse_net(IMAGES_NET).message
    with caplog.at_level("INFO"):
        convert_dropout(message, "approx")
    kinds = {layer.name: layer.type for layer in message.layer}
    assert [kinds[name] for name in ("values", "channels", "points", "units")] == [
        "Dropout", "ApproxDropout", "ApproxDropout", "ApproxDropout"]
    assert [record.message for record in caplog.records] == [
        "layer values: Dropout stays: it drops single values of images, and an ApproxDropout would drop "
        "whole channels; write one if that is meant"]
    convert_dropout(message, "conventional")
    back = {layer.name: layer.dropout_param for layer in message.layer}
    assert {layer.type for layer in message.layer if layer.name in back} >= {"Dropout"}
    assert list(back["channels"].axes) == [2, 3] and back["channels"].dropout_ratio == pytest.approx(0.3)
    assert not back["points"].axes and not back["units"].axes and not back["values"].axes


@pytest.mark.parametrize("settings", ["axes: [2, 3] shared: true", "axes: [0, 2, 3]"])
def test_one_mask_of_channels_for_all_samples_is_one_of_channels(settings):
    message = parse_net(IMAGES_NET.replace('name: "values" type: "Dropout"', 'name: "values" type: "Dropout" '
                                           f'dropout_param {{ {settings} }}')).message
    layer = next(one for one in message.layer if one.name == "values")
    convert_dropout(message, "approx")
    assert layer.type == "ApproxDropout" and not layer.approx_dropout_param.HasField("axis")


@pytest.mark.parametrize("shape, settings, axes", [
    ((2, 3, 8, 8), "", [2, 3]), ((2, 3, 8, 8), "axis: 1", [2, 3]), ((2, 3, 8, 8), "axis: -2", [1, 3]),
    ((2, 3, 16), "axis: 1", [2]), ((2, 3, 16), "", [1]), ((2, 3, 8, 8, 8), "", [2, 3, 4]),
])
def test_the_other_axes_are_shared_and_back(shape, settings, axes):
    """Lines and volumes too: what one of the kinds means, the other means as well."""
    dims = " ".join(f"dim: {length}" for length in shape)
    text = f'''
    layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}
    layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
             convolution_param {{ num_output: 6 kernel_size: 3 }} }}
    layer {{ name: "drop" type: "ApproxDropout" bottom: "conv" top: "drop"
             approx_dropout_param {{ {settings} }} }}'''
    config = parse_net(text)
    message = config.message
    convert_dropout(message, "conventional")
    assert list(message.layer[2].dropout_param.axes) == axes
    Net(config, device="cpu")                # it can be built
    convert_dropout(message, "approx")
    own = [axis for axis in range(1, len(shape)) if axis not in axes][0]
    converted = message.layer[2]
    assert converted.type == "ApproxDropout"
    usual = 2 if len(shape) == 3 else 1
    assert (converted.approx_dropout_param.axis if converted.approx_dropout_param.HasField("axis")
            else usual) == own


DROP = 'layer { name: "drop" type: "%s" bottom: "%s" top: "drop" }'
CONV = ('layer { name: "conv" type: "Convolution" bottom: "%s" top: "conv" '
        'convolution_param { num_output: 6 kernel_size: 1 } }')
PATCHES = ('layer { name: "patches" type: "Patches" bottom: "data" top: "patches" '
           'patches_param { patch_size: 2 } }')
RESHAPE = ('layer { name: "reshape" type: "Reshape" bottom: "data" top: "reshape" '
           'reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 2 } } }')


@pytest.mark.parametrize("record, layers, approx, conventional", [
    ((2, 6, 4), DROP % ("{}", "data"), "Dropout", [2, 3]), ((8,), DROP % ("{}", "data"), "ApproxDropout", []),
    ((8, 1, 1), DROP % ("{}", "data"), "ApproxDropout", []),
    ((2, 6, 4, 2), DROP % ("{}", "data"), "Dropout", [2, 3, 4]),
    ((2, 6, 4), CONV % "data" + DROP % ("{}", "conv"), "Dropout", [2, 3]),
    ((2, 6, 4, 2), CONV % "data" + DROP % ("{}", "conv"), "Dropout", [2, 3, 4]),
    ((2, 6), CONV % "data" + DROP % ("{}", "conv"), "Dropout", [1]),
    ((2, 6, 4), PATCHES + DROP % ("{}", "patches"), "ApproxDropout", []),
    ((16,), RESHAPE + DROP % ("{}", "reshape"), "Dropout", [2, 3]),
    ((16,), RESHAPE + CONV % "reshape" + DROP % ("{}", "conv"), "Dropout", [2, 3])])
def test_what_files_and_reshapes_give_is_images_too(tmp_path, record, layers, approx, conventional):
    """A Dropout of their single values stays one; an ApproxDropout becomes a Dropout of the same entries."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros((4, *record), np.float32)
    (tmp_path / "list.txt").write_text("x.h5\n")
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "HDF5Data" top: "data" '
        'hdf5_data_param { source: "list.txt" batch_size: 2 } }' + layers.replace("{}", "Dropout"))
    for before, kind, wanted, axes in (("Dropout", "approx", approx, []),
                                       ("ApproxDropout", "conventional", "Dropout", conventional)):
        config = load_net(tmp_path / "net.prototxt")
        config.message.layer[-1].type = before
        prepare_nets([config], kind, [])
        drop = config.message.layer[-1]
        assert (drop.type, list(drop.dropout_param.axes)) == (wanted, axes)
        Net(config, device="cpu").close()


def test_a_file_that_is_not_there_is_told_when_the_net_is_built(tmp_path):
    config = parse_net('layer { name: "x" type: "HDF5Data" top: "data" hdf5_data_param { source: "no.txt" '
                       'batch_size: 2 } }' + DROP % ("Dropout", "data"))
    prepare_nets([config], "approx", [])
    assert config.message.layer[1].type == "ApproxDropout"
    with pytest.raises(ConfigError, match=r"no\.txt"):
        Net(config, device="cpu")


def test_none_drops_nothing_anywhere():
    message = parse_net('''
        layer { name: "a" type: "Dropout" bottom: "x" top: "a" dropout_param { dropout_ratio: 0.3 } }
        layer { name: "b" type: "ApproxDropout" bottom: "a" top: "b"
                approx_dropout_param { dropout_ratio: 0.3 step: 12 } }
        layer { name: "c" type: "DropConnect" bottom: "b" top: "c" inner_product_param { num_output: 3 }
                dropout_param { dropout_ratio: 0.3 } }
        layer { name: "d" type: "LSTM" bottom: "c" bottom: "k" top: "d"
                recurrent_param { num_output: 3 hidden_dropout { dropout_ratio: 0.3 } } }
        layer { name: "e" type: "Attention" bottom: "d" bottom: "d" bottom: "d" top: "e"
                attention_param { dropout_ratio: 0.3 } }
        layer { name: "f" type: "InnerProduct" bottom: "e" top: "f" inner_product_param { num_output: 3 } }
    ''', "net.prototxt").message
    convert_dropout(message, "none")
    a, b, c, d, e, f = message.layer
    ratios = [a.dropout_param, b.approx_dropout_param, c.dropout_param, d.recurrent_param.hidden_dropout,
              e.attention_param]
    assert [one.dropout_ratio for one in ratios] == [0] * 5
    assert [layer.type for layer in message.layer[:2]] == ["Dropout", "ApproxDropout"]
    assert not f.HasField("dropout_param")


def test_a_family_that_drops_no_units_knows_no_heads(caplog):
    message = parse_net('layer { name: "b" type: "ApproxDropout" bottom: "a" top: "b" '
                        'approx_dropout_param { heads: 4 whole_heads: true } }', "net.prototxt").message
    with caplog.at_level("INFO"):
        convert_dropout(message, "approx:BLOCK")
    settings = message.layer[0].approx_dropout_param
    assert (settings.pattern, settings.heads, settings.whole_heads) == ("BLOCK", 1, False)
    assert "heads: 4, whole_heads: True" in caplog.text
