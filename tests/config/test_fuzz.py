"""Any text gives a configuration or a ConfigError, and whatever protobuf writes is read back."""

from google.protobuf import text_format
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minidrop.config import (
    NetConfig,
    NetParameter,
    SolverConfig,
    SolverParameter,
    parse_net,
    parse_solver,
)
from minidrop.config.check import is_repeated
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


def survives(text):
    for parse, kind in ((parse_net, NetConfig), (parse_solver, SolverConfig)):
        try:
            assert isinstance(parse(text), kind)
        except ConfigError as error:
            assert str(error).startswith("<string>")


PIECES = st.sampled_from([
    "{", "}", "<", ">", "[", "]", ":", ",", ";", "#", "\n", '"', "'", "\\", "\0", "\r", "-", ".", "layer {",
    "param {", "input_shape {", "layer", "name", "type", "include", "phase", "TEST", "net_param",
    "loss_weight", "relu_param", "input_dim", "dim: 5", "0x", "1e9", "07", "1_0", "1f", "0b1", "9" * 30,
    "inf", "nan", "true", "t", "\"x\"", "'\\377'", "\"\\u12\"", "é", "\u2028", "\x1c",
])
SPACED = st.lists(PIECES | st.characters(codec=None), max_size=40).map(" ".join)
JOINED = st.lists(PIECES, max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_survives(text):
    survives(text)


@settings(max_examples=200, deadline=None)
@given(SPACED | JOINED)
@example("layer: []")
@example("zzz: []")
@example("name: 'a' \"b\"")
@example("name: 't' '")
def test_any_pieces_survive(text):
    survives(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(NET)), st.integers(0, 12), PIECES | st.text(max_size=3), st.booleans())
def test_mutated_text_survives(at, cut, piece, solver):
    text = NET[:at] + piece + NET[at + cut:]
    survives("net_param {" + text + "}" if solver else text)


@st.composite
def messages(draw, message_class):
    """Any message of a class, each field set or not."""
    message = message_class()
    for field in message.DESCRIPTOR.fields:
        if field.name in ("input", "input_shape", "input_dim", "solver_type", "layers"):
            continue                        # the old forms, which loading changes
        for _ in range(draw(st.sampled_from([0, 0, 1, 2] if is_repeated(field) else [0, 0, 1]))):
            if field.message_type is not None:
                value = draw(messages(field.message_type._concrete_class))
                target = getattr(message, field.name)
                if is_repeated(field):
                    target.append(value)
                else:
                    target.CopyFrom(value)
                    target.SetInParent()
                continue
            value = draw(SCALARS[field.type] if field.enum_type is None
                         else st.sampled_from([v.number for v in field.enum_type.values]))
            if is_repeated(field):
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


FORMS = [{}, {"as_one_line": True}, {"pointy_brackets": True}, {"as_utf8": True},
         {"use_short_repeated_primitives": True}]
FIELDS = NetParameter.DESCRIPTOR.fields_by_name["name"]
SCALARS = {
    FIELDS.TYPE_BOOL: st.booleans(), FIELDS.TYPE_INT32: st.integers(-2**31, 2**31 - 1),
    FIELDS.TYPE_INT64: st.integers(-2**63, 2**63 - 1), FIELDS.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FIELDS.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FIELDS.TYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    FIELDS.TYPE_STRING: st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
}


@settings(max_examples=25, deadline=None)
@given(messages(NetParameter), st.sampled_from(FORMS))
def test_every_net_that_protobuf_writes_is_read_back(message, form):
    assert parse_net(text_format.MessageToString(message, **form)).message == message


@settings(max_examples=10, deadline=None)
@given(messages(SolverParameter))
def test_every_solver_that_protobuf_writes_is_read_back(message):
    assert parse_solver(text_format.MessageToString(message)).message == message
