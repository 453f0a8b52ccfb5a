"""Reading files: what comes out, and one test for each mistake with its whole message."""

import os
import threading

import pytest
from cases import in_turn

from minidrop.config import (
    NetConfig,
    NetParameter,
    SolverConfig,
    decimal,
    load_net,
    load_solver,
    parse_net,
    parse_solver,
)
from minidrop.config.load import MAX_BYTES, is_text
from minidrop.errors import ConfigError

NET = """# a comment { with a brace
name: "mlp"
layer {
  name: "ip1"  type: 'Inner' "Product"
  bottom: "data" bottom: "more"
  top: ["a", "b"]
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param <
    num_output: 10; weight_filler: { type: "xavier" },
  >
}
layer: [{ name: "u" }, { name: "v" type: "ReLU"
  relu_param { negative_slope: 0.1 } }]
"""


def message_of(text, parse=parse_net):
    with pytest.raises(ConfigError) as caught:
        parse(text, "net.prototxt")
    return str(caught.value)


def test_parses_what_caffe_writes():
    net = parse_net(NET).message
    assert [layer.name for layer in net.layer] == ["ip1", "u", "v"]
    assert net.layer[0].type == "InnerProduct"
    assert list(net.layer[0].top) == ["a", "b"]
    assert net.layer[0].inner_product_param.num_output == 10
    assert net.layer[0].inner_product_param.weight_filler.type == "xavier"
    assert [p.lr_mult for p in net.layer[0].param] == [1, 2]


@in_turn("path, place", [
    ((), "1:1"), ((None, "name"), "2:1"), ((0,), "3:1"), ((0, "type"), "4:16"), ((0, ("bottom", 1)), "5:18"),
    ((0, ("top", 1)), "6:14"), ((0, ("param", 1), "decay_mult"), "7:43"), ((0, "inner_product_param"), "8:3"),
    ((0, "inner_product_param", "num_output"), "9:5"),
    ((0, "inner_product_param", "weight_filler", "type"), "9:38"), ((1,), "12:1"), ((2,), "12:24"),
    ((2, "relu_param", "negative_slope"), "13:16"),
    ((0, "inner_product_param", "axis"), "8:3"), ((0, ("bottom", 7)), "3:1"), ((None, "state"), "1:1"),
])
def test_where(path, place):
    assert parse_net(NET, "models/mlp.prototxt").where(*path) == f"models/mlp.prototxt:{place}"


def test_where_of_a_net_built_in_memory_is_its_name():
    message = NetParameter()
    message.layer.add(name="ip1")
    assert NetConfig.of(message, "<spec>").where(0, "name") == "<spec>"


def test_lines_end_as_windows_ends_them_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'\xef\xbb\xbfname: "x"\r\nlayer {\r\n  name: "\xc3\xa9"\r\n}\r\n')
    config = load_net(path)
    assert config.message.layer[0].name == "é"
    assert config.where(0, "name") == f"{path}:3:3"
    assert config.path == str(path)


def test_solver():
    config = parse_solver('net: "a.prototxt"\nbase_lr: 0.1 # x\ntest_iter: 3 test_iter: 4\n',
                          "solver.prototxt")
    assert isinstance(config, SolverConfig)
    assert list(config.message.test_iter) == [3, 4]
    assert config.where("base_lr") == "solver.prototxt:2:1"
    assert config.where(("test_iter", 1)) == "solver.prototxt:3:14"


def test_net_inside_a_solver_keeps_its_places():
    solver = parse_solver('base_lr: 1\ntest_net_param { }\ntest_net_param {\n  layer { name: "x" } }',
                          "s.prototxt")
    net = solver.inline_net("test_net_param", 1)
    assert net.message.layer[0].name == "x"
    assert net.where(0, "name") == "s.prototxt:4:11"
    assert net.where() == "s.prototxt:3:1"


@pytest.mark.parametrize("written", ["0.1", "0.05", "0.0005", "1e-8", "0.999", "3", "1.5e10"])
def test_decimal_is_what_was_written(written):
    assert decimal(parse_solver(f"base_lr: {written}").message.base_lr) == float(written)


def test_decimal_is_needed():
    assert parse_solver("base_lr: 0.1").message.base_lr != 0.1


# Each mistake, with its message.

@in_turn("text, expected", [
    ('nmae: "x"', "1:1: NetParameter has no field 'nmae'; did you mean 'name'?"),
    ('layer {\n  inner_product_param {\n    num_outputs: 10 } }',
     "3:5: InnerProductParameter has no field 'num_outputs'; did you mean 'num_output'?"),
    ('layer { num_output: 10 }',
     "1:9: LayerParameter has no field 'num_output'; it belongs inside decoder_param { } or "
     "convolution_param { } or embed_param { } or inner_product_param { } or recurrent_param { }"),
    ('layer { zzz: 10 }', "1:9: LayerParameter has no field 'zzz'"),
    ('base_lr: 0.1',
     "1:1: 'base_lr' belongs to a solver file, and this is read as a network file; are the two swapped?"),
    ('layer { name: "a"\n  name: "b" }', "2:3: 'name' is given twice; the first is in line 1"),
    ('layer { relu_param { } relu_param { } }', "1:24: 'relu_param' is given twice; the first is in line 1"),
    ('layer { approx_dropout_param { pattern: ROW } }',
     "1:41: 'pattern' takes text in quotes: write pattern: \"ROW\""),
    ('layer { type: 5 }', "1:15: 'type' takes text in quotes: write type: \"5\""),
    ('layer { eltwise_param { operation: SUMM } }',
     "1:36: 'operation' has no value 'SUMM'; its values are PROD, SUM, MAX; did you mean 'SUM'?"),
    ('layer { eltwise_param { operation: 7 } }',
     "1:36: 'operation' has no value '7'; its values are PROD, SUM, MAX"),
    ('layer { phase: "TEST" }', "1:16: 'phase' takes one of TRAIN, TEST without quotes, got '\"TEST\"'"),
    ('layer { inner_product_param { num_output: -5 } }',
     "1:43: 'num_output' takes an integer from 0 to 4294967295, got '-5'"),
    ('layer { inner_product_param { num_output: 1.5 } }',
     "1:43: 'num_output' takes an integer from 0 to 4294967295, got '1.5'"),
    ('layer { inner_product_param { num_output: 4294967296 } }',
     "1:43: 'num_output' takes an integer from 0 to 4294967295, got '4294967296'"),
    ('layer { inner_product_param { num_output: "10" } }',
     "1:43: 'num_output' takes an integer from 0 to 4294967295 without quotes, got '\"10\"'"),
    ('layer { inner_product_param { axis: 99999999999 } }',
     "1:37: 'axis' takes an integer (32-bit), got '99999999999'"),
    ('layer { inner_product_param { bias_term: yes } }', "1:42: 'bias_term' takes true or false, got 'yes'"),
    ('layer { loss_weight: high }', "1:22: 'loss_weight' takes a number, got 'high'"),
    ('layer { loss_weight: 1e39 }', "1:22: 'loss_weight' takes a finite 32-bit number, got '1e39'"),
    ('layer { loss_weight: nan }', "1:22: 'loss_weight' takes a finite 32-bit number, got 'nan'"),
    ('layer { loss_weight: -inf }', "1:22: 'loss_weight' takes a finite 32-bit number, got '-inf'"),
    ('layer { name: ["a", "b"] }', "1:9: 'name' takes one value, not a list"),
    ('layer { name { } }', "1:14: 'name' takes text in quotes, not a message in braces"),
    ('layer: "ip1"', "1:8: 'layer' is a message; write `layer { ... }`"),
    ('layers { name: "x" type: RELU } layer { name: "y" type: "ReLU" }',
     "1:1: 'layers' is Caffe's old (V1) form of 'layer', and both are given; write `layer { type: "
     "\"InnerProduct\" ... }` for `layers { type: INNER_PRODUCT ... }`"),
    ('layers { type: CROP }', "1:16: 'layers' has no type CROP, which is younger than this form; take this "
     "layer out, let `minidrop upgrade` write the file anew, and add layer { type: \"Crop\" ... }; it found "
     "by itself where to cut, and has to be told now: crop_param { axis: 2 offset: N }"),
    ('layers { type: PRELU }', "1:16: 'layers' has no type PRELU, which is younger than this form; take this "
     "layer out, let `minidrop upgrade` write the file anew, and add layer { type: \"PReLU\" ... }"),
    *((f'layers {{ type: {wrong} }}', f"1:16: 'layers' has no type {wrong}; this form calls it {right}: "
       f"write type: {right}") for wrong, right in (
        ("ReLU", "RELU"), ("Convolution", "CONVOLUTION"), ("InnerProduct", "INNER_PRODUCT"),
        ("SoftmaxWithLoss", "SOFTMAX_LOSS"), ("INNERPRODUCT", "INNER_PRODUCT"))),
    ('layers { type: IMAGE_SEG_DATA }', "1:16: unknown layer type IMAGE_SEG_DATA: it is of a fork of Caffe, "
     "DeepLab (deeplab-public), and minidrop has none; write HDF5Data or Data layers, one of images and one "
     "of labels"),
    ('layer { blobs_lr: 1 }', "1:9: 'blobs_lr' is of the old `layers { }`; in `layer { }` write param { "
     "lr_mult: ... }"),
    ('name: "a\\0b"', "1:7: 'name' may not hold a NUL character"),
    ('layer {\n  relu_param {\n}', "1:1: 'layer' opened here is never closed; put '}' where it ends"),
    ('layer { relu_param < }', "1:22: expected '>' to close 'relu_param' (line 1), got '}'"),
    ('layer { }\n}', "2:1: '}' closes nothing; remove it, or look for one too many above"),
    ('layer { name "x" }', "1:14: expected ':' and a value, or '{', after 'name', got '\"x\"'"),
    ('layer { name: }', "1:15: expected a value for 'name', got '}'"),
    ('name:', "1:6: expected a value for 'name', got the end of the file"),
    ('name: "x', "1:7: expected a value for 'name', got a string without its closing quote on the same line"),
    ('3: "x"', "1:1: expected a field name, got '3'"),
    ('[a.b]: 3', "1:1: expected a field name, got '['"),
    ('name: "x" \x00', "1:11: expected a field name, got '\\x00'"),
    ('name: "\ud800"', "1:8: holds a lone surrogate, which is no character"),
    ('layer: [{ } { }]', "1:13: expected ',' or ']' in the list of 'layer', got '{'"),
    ('layer: [{ }, 3]', "1:14: expected '{' for the next 'layer' of the list, got '3'"),
    ('input_dim: [1 2]', "1:15: expected ',' or ']' in the list of 'input_dim', got '2'"),
    ('input: "x"', "1:1: input 'x' has no shape; add `input_shape { dim: ... }`"),
    ('input: "x" input_dim: 1', "1:12: expected 4 input_dim for each input, 4 in all, got 1"),
    ('input: "x" input_shape { } input_shape { }',
     "1:12: expected one input_shape for each input, 1 in all, got 2"),
    ('input: "x" input_shape { } input_dim: 1',
     "1:28: input_shape and input_dim are both given; keep input_shape"),
])
def test_mistake_in_a_net(text, expected):
    assert message_of(text) == f"net.prototxt:{expected}"


@pytest.mark.parametrize("text, expected", [
    ('bas_lr: 0.1', "1:1: SolverParameter has no field 'bas_lr'; did you mean 'base_lr' or 'max_lr'?"),
    ('layer { }', "1:1: 'layer' belongs to a network file, and this is read as a solver file; are the two "
                  "swapped?"),
    ('solver_mode: TPU', "1:14: 'solver_mode' has no value 'TPU'; its values are CPU, GPU; did you mean "
                         "'GPU' or 'CPU'?"),
    ('type: "SGD" solver_type: ADAM', "1:13: type and solver_type are both given; keep type"),
])
def test_mistake_in_a_solver(text, expected):
    assert message_of(text, parse_solver) == f"net.prototxt:{expected}"


@pytest.mark.parametrize("escape", ["\\xff", "\\q", "\\777", "\\u00e9", "\\U0001F600", "\\x"])
def test_escapes_that_stand_for_nothing(escape):
    literal = f'"a{escape}"'
    assert message_of(f"name: {literal}") == (
        "net.prototxt:1:7: 'name' holds an escape that stands for no character; write the character itself, "
        "got "
        f"{literal!r}")


@pytest.mark.parametrize("literal, expected", [
    ('"a\\"b"', 'a"b'), ("'a\\'b'", "a'b"), ('"\\t\\n\\\\"', "\t\n\\"), ('"\\303\\251"', "é"),
                                               ('"\\xc3\\xa9"', "é"),
    ('"\\1234"', "S4"), ('"#"', "#"), ('""', ""),
])
def test_escapes(literal, expected):
    assert parse_net(f"name: {literal}").message.name == expected


def test_all_mistakes_in_one_report_in_the_files_order():
    assert message_of('nmae: "x"\nlayer { phase: TRIAN\n  typ: "x" }').splitlines() == [
        "net.prototxt:1:1: NetParameter has no field 'nmae'; did you mean 'name'?",
        "net.prototxt:2:16: 'phase' has no value 'TRIAN'; its values are TRAIN, TEST; did you mean 'TRAIN'?",
        "net.prototxt:3:3: LayerParameter has no field 'typ'; did you mean 'type' or 'top'?",
    ]


def test_a_flood_of_mistakes_is_cut():
    lines = message_of("x: 1\n" * 1000).splitlines()
    assert len(lines) == 101
    assert lines[99].startswith("net.prototxt:100:1: ")
    assert lines[-1] == "... and 900 more mistakes"


def test_of_a_flood_only_what_is_shown_is_searched_for(monkeypatch):
    asked = []
    monkeypatch.setattr("minidrop.config.check.nearest", lambda name, known: asked.append(name) or "")
    message_of("".join(f"x{i}: 1\n" for i in range(1000)))
    assert asked == [f"x{i}" for i in range(100)]


def test_a_field_is_found_without_a_look_at_every_other_one():
    source = parse_net("layer { }\n" * 50).source
    index = source.entries.by_name
    assert [source.position(("layer", i)) for i in range(50)] == [(i + 1, 1) for i in range(50)]
    assert source.entries.by_name is index and set(index) == {"layer"}


def test_deep_nesting_is_no_crash():
    assert message_of("layer {" * 100_000) == "net.prototxt:1:701: 'layer' is nested more than 100 deep"


@pytest.mark.parametrize("number", ["9" * 100_000, "0x" + "f" * 100_000, "-" + "1" * 5000, "1e" + "9" * 1000])
def test_huge_numbers_are_no_crash(number):
    for field in ("num_output", "axis"):
        assert "takes an integer" in message_of(f"layer {{ inner_product_param {{ {field}: {number} }} }}")
    assert "'lr_mult' takes a " in message_of(f"layer {{ param {{ lr_mult: {number} }} }}")


def test_bytes_are_no_text():
    assert message_of(b"name: 'x'") == "net.prototxt: expected text (str), got bytes"


# Files.

def test_missing_file(tmp_path):
    (tmp_path / "solver.prototxt").write_text("")
    path = tmp_path / "slover.prototxt"
    with pytest.raises(ConfigError) as caught:
        load_solver(path)
    assert str(caught.value) == f"{path}: there is no such file; did you mean '{tmp_path}/solver.prototxt'?"


def test_missing_folder(tmp_path):
    path = tmp_path / "models" / "a.prototxt"
    with pytest.raises(ConfigError) as caught:
        load_net(path)
    assert str(caught.value) == f"{path}: there is no such file; there is no folder " \
        f"'{tmp_path}/models' either"


def test_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_net(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder, expected a text file"


def test_unreadable_path():
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_net("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_file(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_net(path)


def test_not_utf8(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'name: "x"\nlayer { name: "caf\xe9" }')
    with pytest.raises(ConfigError) as caught:
        load_net(path)
    assert str(caught.value) == (f"{path}:2:19: byte 0xe9 is not UTF-8 text; is this a network or solver "
                                 f"file? "
                                 "Save it as UTF-8")


def test_huge_file(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError) as caught:
        load_net(path)
    assert str(caught.value) == (f"{path}: is larger than 4 MiB, expected a network or solver file; is it "
                                 f"data or a file "
                                 "of weights?")


# Old forms.

def test_old_inputs_become_an_input_layer():
    config = parse_net('layer { name: "ip" }\ninput: "data" input: "label"\n'
                       'input_dim: [8, 3, 4, 4, 8, 1, 1, 1]', "d.prototxt")
    net = config.message
    assert [layer.type for layer in net.layer] == ["Input", ""]
    assert net.layer[0].name == "input"
    assert list(net.layer[0].top) == ["data", "label"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[8, 3, 4, 4], [8, 1, 1, 1]]
    assert not net.input and not net.input_dim
    assert config.where(0) == "d.prototxt:2:1"
    assert config.where(1, "name") == "d.prototxt:1:9"


def test_old_input_shapes_and_a_taken_name():
    net = parse_net('input: "x" input_shape { dim: 5 dim: 2 } layer { name: "input" }').message
    assert [layer.name for layer in net.layer] == ["input_0", "input"]
    assert list(net.layer[0].input_param.shape[0].dim) == [5, 2]


@pytest.mark.parametrize("old, new", [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"),
                                      ("RMSPROP", "RMSProp"), ("ADADELTA", "AdaDelta"), ("ADAM", "Adam")])
def test_old_solver_type(old, new):
    solver = parse_solver(f"solver_type: {old}").message
    assert solver.type == new
    assert not solver.HasField("solver_type")


def test_a_thousand_layers_load():
    text = "\n".join(NET.replace("ip1", f"ip{i}") for i in range(334)).replace('name: "mlp"\n', "")
    config = parse_net(text)
    assert len(config.message.layer) == 1002
    assert config.where(1001) == "<string>:4340:24"


UNKNOWN = """layer { name: "quux1" type: "Quux" top: "quux1" quux_param { num_output: 20 } }
layer { name: "mangled" type: "Mangle" bottom: "quux1" top: "mangled" }
layer { name: "ip" type: "InnerProdct" bottom: "mangled" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "lost" type: "ReLU" quux_param { } }
"""


def test_a_layer_type_that_nobody_knows_is_named_before_its_settings():
    """Of all layers of the file, and a known type's unknown settings beside them."""
    types, settings = "unknown layer type", "LayerParameter has no field 'quux_param'"
    lines = message_of(UNKNOWN).splitlines()
    for line, start in zip(lines, (f"1:29: layer 'quux1': {types} 'Quux' (known",
                                   f"2:31: layer 'mangled': {types} 'Mangle'",
                                   f"3:26: layer 'ip': {types} 'InnerProdct'; did you mean 'InnerProduct'?",
                                   f"4:35: {settings}"), strict=True):
        assert line.startswith(f"net.prototxt:{start}")
    assert message_of(UNKNOWN.splitlines()[0]).startswith(f"net.prototxt:1:29: layer 'quux1': {types}")


def test_a_file_that_can_be_read_leaves_unknown_types_to_the_net():
    assert parse_net(UNKNOWN.splitlines()[1]).message.layer[0].type == "Mangle"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_to_its_end_if_someone_writes_to_it(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="pipe: is a pipe that nobody writes to, or that has been r"):
        load_net(pipe)
    beginning = os.open(pipe, os.O_RDWR)        # a writer that has written nothing yet
    writer = threading.Timer(0.05, lambda: (os.write(beginning, NET.encode()), os.close(beginning)))
    writer.start()
    assert load_net(pipe).message == parse_net(NET).message
    writer.join()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_a_terminal_is_waited_for():
    master, terminal = os.openpty()
    writer = threading.Timer(0.05, os.write, (master, NET.encode() + b"\n\4"))
    writer.start()
    assert load_net(os.ttyname(terminal)).message == parse_net(NET).message
    writer.join()
    os.close(master)
    os.close(terminal)


def test_comments_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "net.prototxt"
    text = '# \u5b66\u4e60\nname: "a # b" # "\u7387\r\nlayer { name: "x" } # \u672b'
    path.write_bytes(text.encode("gbk"))
    assert load_net(path).message == parse_net('name: "a # b" layer { name: "x" }').message
    assert is_text(path.read_bytes()) and not is_text(b"\x0a\x02" + path.read_bytes())
    latin = b"# \xe9t\xe9\n" + b" " * 8 + "\u7387".encode()
    assert all(is_text(latin[:end]) for end in range(len(latin) + 1))   # perhaps within a character
    path.write_bytes(text.replace("a #", "\u7387").encode("gbk"))
    with pytest.raises(ConfigError, match=r"net.prototxt:2:8: byte 0xc2 is not UTF-8 text"):
        load_net(path)


def test_a_file_of_the_other_kind_is_one_mistake():
    with pytest.raises(ConfigError) as caught:
        parse_net('base_lr: 0.1\nmax_iter: 9\nnmae: "x"\nmomentum: 0.9')
    swapped, other = str(caught.value).split("\n")
    assert swapped.endswith("1:1: 'base_lr' belongs to a solver file, and this is read as a network file; "
                            "are the two swapped?")
    assert other.endswith("3:1: NetParameter has no field 'nmae'; did you mean 'name'?")
