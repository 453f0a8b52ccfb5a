"""The layers LSTM, GRU and RNN: their states, bottoms and settings."""

import numpy as np
import pytest
from cases import in_turn
from recurrent_layers import (
    INPUTS,
    STEPS,
    STREAMS,
    UNITS,
    every_kind,
    forward,
    inputs_text,
    net_of,
    numbers,
    ones,
    recurrent,
)

import minidrop as md
from minidrop import ConfigError, ShapeError
from minidrop.config import parse_net
from minidrop.testing import run_once


# -- states --------------------------------------------------------------------------------------------------
@every_kind
def test_carried_batches_equal_one_long_sequence(kind):
    x, cont = numbers(12, STREAMS, INPUTS), np.ones((12, STREAMS))
    cont[3, 1] = cont[7, 0] = cont[8, 2] = 0
    whole = forward(net_of(recurrent(kind), x=x.shape), x=x, cont=cont)["r"]
    net = net_of(recurrent(kind), x=(4, STREAMS, INPUTS))
    parts = [forward(net, x=x[i:i + 4], cont=cont[i:i + 4])["r"] for i in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-14)
    net.reset_states()
    np.testing.assert_array_equal(forward(net, x=x[:4], cont=cont[:4])["r"], parts[0])


@every_kind
def test_states_are_those_of_the_last_step(kind):
    net = net_of(recurrent(kind))
    names = ("h", "c") if kind == "LSTM" else ("h",)
    assert {key: array.tolist() for key, array in net.states.items()} == {
        ("r", name): np.zeros((STREAMS, UNITS)).tolist() for name in names}
    h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"]
    np.testing.assert_array_equal(net.states["r", "h"], h[-1])
    before = net.states
    kept = {key: array.copy() for key, array in before.items()}
    net.forward(x=numbers(STEPS, STREAMS, INPUTS), cont=ones())
    for key, array in before.items():           # a pass makes new arrays
        np.testing.assert_array_equal(array, kept[key])
        assert (net.states[key] != array).any()


@every_kind
def test_where_cont_is_0_a_stream_begins_anew(kind):
    x, cont = numbers(STEPS, STREAMS, INPUTS), ones()
    cont[0] = [0, 1, 1]
    cont[2, 1] = 0
    net = net_of(recurrent(kind))
    net.forward(x=numbers(STEPS, STREAMS, INPUTS, seed=1), cont=ones())
    carried = net.states
    h = forward(net, x=x, cont=cont)["r"]
    fresh = forward(net_of(recurrent(kind)), x=x, cont=ones())["r"]
    np.testing.assert_allclose(h[:, 0], fresh[:, 0], rtol=0, atol=1e-14)
    later = forward(net_of(recurrent(kind), x=(3, STREAMS, INPUTS)), x=x[2:], cont=ones(3))["r"]
    np.testing.assert_allclose(h[2:, 1], later[:, 1], rtol=0, atol=1e-14)
    other = net_of(recurrent(kind))
    other.set_states(carried)
    np.testing.assert_array_equal(forward(other, x=x, cont=ones())["r"][:, 2], h[:, 2])
    assert (h[0, 1:] != fresh[0, 1:]).all()


@every_kind
def test_no_gradient_goes_back_into_the_batch_before(kind):
    """Truncated: the second batch's gradients are those of a net whose states were set as constants."""
    layers = [recurrent(kind), 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: '
              '"loss" }']
    data = {"cont": ones(), "t": numbers(STEPS, STREAMS, UNITS)}
    net, other = (net_of(*layers, t=data["t"].shape) for _ in range(2))
    net.forward(x=numbers(STEPS, STREAMS, INPUTS, seed=1), **data)
    net.backward()
    other.set_states(net.states)
    second = {"x": numbers(STEPS, STREAMS, INPUTS, seed=2), **data}
    for got, wanted in zip(run_once(net, 0, second), run_once(other, 0, second), strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


@every_kind
def test_exposed_states_equal_carrying_by_hand(kind):
    names = ("h", "c") if kind == "LSTM" else ("h",)
    shapes = {f"{name}0": (1, STREAMS, UNITS) for name in names}
    exposed = net_of(recurrent(kind, bottoms=("x", "cont", *shapes),
                               tops=("r", *[f"{name}T" for name in names]), settings="expose_hidden: true"),
                     **shapes)
    carrying = net_of(recurrent(kind))
    assert exposed.states == {}
    states = {name: np.zeros(shape) for name, shape in shapes.items()}
    for batch in range(3):
        given = {"x": numbers(STEPS, STREAMS, INPUTS, seed=batch), "cont": ones()}
        given["cont"][batch, 0] = 0
        outputs = forward(exposed, **given, **states)
        np.testing.assert_array_equal(outputs["r"], forward(carrying, **given)["r"])
        states = {f"{name}0": outputs[f"{name}T"] for name in names}
        for name in names:
            assert outputs[f"{name}T"].shape == (1, STREAMS, UNITS)
            np.testing.assert_array_equal(outputs[f"{name}T"][0], carrying.states["r", name])


@every_kind
def test_the_tops_of_exposed_states_may_be_left_out(kind):
    names = ("h0", "c0")[:1 + (kind == "LSTM")]
    shapes = dict.fromkeys(names, (1, STREAMS, UNITS))
    net = net_of(recurrent(kind, bottoms=("x", "cont", *names), settings="expose_hidden: true"), **shapes)
    given = {name: numbers(*shape, seed=4) for name, shape in shapes.items()}
    h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones(), **given)["r"]
    other = net_of(recurrent(kind))
    other.set_states({("r", name[0]): array[0] for name, array in given.items()})
    np.testing.assert_array_equal(h, forward(other, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"])


def test_what_reads_both_ways_carries_nothing():
    net = net_of(recurrent("LSTM", settings="bidirectional: true"))
    assert net.states == {}
    given = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones()}
    np.testing.assert_array_equal(forward(net, **given)["r"], forward(net, **given)["r"])


@every_kind
def test_backward_in_time_a_sequence_ends_where_the_next_begins(kind):
    """Two sequences in one stream equal two batches of one, in both directions."""
    x, cont = numbers(6, 1, INPUTS), ones(6, 1)
    cont[[0, 2]] = 0
    whole = forward(net_of(recurrent(kind, settings="bidirectional: true"), x=x.shape), x=x, cont=cont)["r"]
    for part in (slice(0, 2), slice(2, 6)):
        alone = forward(net_of(recurrent(kind, settings="bidirectional: true"), x=x[part].shape), x=x[part],
                        cont=cont[part])
        np.testing.assert_allclose(whole[part], alone["r"], rtol=0, atol=1e-14)


# -- bottoms -------------------------------------------------------------------------------------------------
@in_turn("static", [(STREAMS, 2), (STREAMS,), (STREAMS, 2, 3)])
@in_turn("settings", ["", "bidirectional: true"])
@every_kind
def test_a_static_input_equals_one_concatenated_to_every_step(kind, settings, static):
    s, x = numbers(*static, seed=1), numbers(STEPS, STREAMS, INPUTS)
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: "loss" }'
    t = numbers(STEPS, STREAMS, UNITS * (2 if settings else 1), seed=2)
    net = net_of(recurrent(kind, bottoms=("x", "cont", "s"), settings=settings), loss, s=static, t=t.shape)
    flat = s.reshape(STREAMS, -1)
    joined = np.concatenate([x, np.broadcast_to(flat, (STEPS, *flat.shape))], axis=2)
    other = net_of(recurrent(kind, settings=settings), loss, x=joined.shape, t=t.shape)
    for name, parameter in other.params["r"].items():
        parameter.data[...] = (net.params["r"][name].data if not name.endswith("weight")
                               or "recurrent" in name else np.concatenate([net.params["r"][name].data,
                                               net.params["r"][name.replace("weight", "static_weight")].data],
                                                                          axis=1))
    (got, gradients), (wanted, expected) = (run_once(net, 0, {"x": x, "cont": ones(), "s": s, "t": t}),
                                            run_once(other, 0, {"x": joined, "cont": ones(), "t": t}))
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(got["loss"], wanted["loss"], **close)
    np.testing.assert_allclose(gradients["input/x"], expected["input/x"][:, :, :INPUTS], **close)
    np.testing.assert_allclose(gradients["input/s"].reshape(STREAMS, -1),
                               expected["input/x"][:, :, INPUTS:].sum(axis=0), **close)
    for prefix in ("", "reverse_") if settings else ("",):
        weight = expected[f"r/{prefix}weight"]
        np.testing.assert_allclose(gradients[f"r/{prefix}weight"], weight[:, :INPUTS], **close)
        np.testing.assert_allclose(gradients[f"r/{prefix}static_weight"], weight[:, INPUTS:], **close)
        np.testing.assert_allclose(gradients[f"r/{prefix}recurrent_weight"],
                                   expected[f"r/{prefix}recurrent_weight"], **close)


@every_kind
def test_images_at_every_step_are_flattened(kind):
    x = numbers(STEPS, STREAMS, 2, 3, 4)
    net, flat = net_of(recurrent(kind), x=x.shape), net_of(recurrent(kind), x=(STEPS, STREAMS, 24))
    np.testing.assert_array_equal(forward(net, x=x, cont=ones())["r"],
                                  forward(flat, x=x.reshape(STEPS, STREAMS, 24), cont=ones())["r"])
    for one, spread in ((net, 12), (flat, 1)):
        assert next(node.products[0].in_spread for node in one.graph.nodes if node.name == "r") == spread


@every_kind
def test_what_a_drop_above_leaves_out_is_not_read(kind):
    drop = ('layer { name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param { pattern: '
            '"UNIT" } }')
    net = net_of(drop, recurrent(kind, bottoms=("d", "cont")))
    assert list(net.plan.lines())[-1] == "r reads only the units kept by d"
    images = net_of(drop, recurrent(kind, bottoms=("d", "cont")), x=(STEPS, STREAMS, 2, 3, 4))
    assert list(images.plan.lines())[1] == f"the units dropped by d are put back as zeros before r ({kind})"
    net.forward(x=numbers(STEPS, STREAMS, INPUTS), cont=ones())
    assert net.blobs["d"].kept.count == 3 and net.blobs["r"].kept is None


def test_a_file_that_says_nothing_of_the_output_product_means_caffes():
    plain = recurrent("RNN", settings="output_product: true").replace("output_product: true", "")
    assert "output_weight" in net_of(plain).params["r"]
    assert "output_weight" not in net_of(recurrent("RNN")).params["r"]
    assert "output_product is a setting of RNN; GRU has none" in error_of(
        recurrent("GRU", settings="output_product: false"), x=X3, cont=CONT2)


# -- settings ------------------------------------------------------------------------------------------------
X3, CONT2 = (STEPS, STREAMS, INPUTS), (STEPS, STREAMS)


def error_of(text, **shapes):
    with pytest.raises((ConfigError, ShapeError)) as caught:
        md.Net(parse_net("\n".join([inputs_text(**shapes), text]), "net.prototxt"), device="cpu")
    return str(caught.value)


@in_turn("settings, shapes, tops, message", [
    ("", {"x": (5, 3), "cont": (5, 3)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3) and (5, 3)"),
    ("", {"x": X3, "cont": (5, 2)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3, 6) and (5, 2)"),
    ("", {"x": X3, "cont": (5, 3, 1)}, 1,
     "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3, 6) and (5, 3, 1)"),
    ("expose_hidden: true bidirectional: true", {"x": X3, "cont": CONT2}, 1,
     "expose_hidden and bidirectional are both true; a state that goes on in time has one direction"),
    ("", {"x": X3, "cont": CONT2, "s": (3, 2), "more": (3, 2)}, 1,
     "expected the bottoms x, cont, at most one static input, got 4"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2}, 1, "expected the bottoms x, cont, then 2 states "
     "(expose_hidden), got 2"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4)}, 1,
     "expected the bottoms x, cont, then 2 states (expose_hidden), got 3"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4), "c": (3, 4)}, 1,
     "expected the state c as (1, 3, 4), got (3, 4)"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 5), "c": (1, 3, 4)}, 1,
     "expected the state h as (1, 3, 4), got (1, 3, 5)"),
    ("", {"x": X3, "cont": CONT2, "s": (5, 2)}, 1, "expected a static input for 3 streams, got shape (5, 2)"),
    ("", {"x": X3, "cont": CONT2}, 2, "expected 1 top, got 2"),
    ("expose_hidden: true", {"x": X3, "cont": CONT2, "h": (1, 3, 4), "c": (1, 3, 4)}, 2, "expected 1 top or "
     "3, got 2"),
    ("hidden_dropout { dropout_ratio: 0.5 reshuffle_interval: 3 }", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: the units of a recurrent layer cannot be permuted; remove reshuffle_interval"),
    ("hidden_dropout { axis: 1 }", {"x": X3, "cont": CONT2}, 1, "hidden_dropout drops units of the state, "
     "which are axis 2 of (steps, streams, units), got axis: 1; remove axis"),
    ('hidden_dropout { pattern: "TILE" }', {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout needs a pattern of units, got TILE, which drops weights; set pattern to PERIODIC"),
    ('hidden_dropout { pattern: "BLOCK" }', {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout needs a pattern of units, got BLOCK, which drops blocks; set pattern to PERIODIC"),
    ('hidden_dropout { time: STEP scale: PATTERN }', {"x": X3, "cont": CONT2}, 1,
     "time STEP has one scale for all steps, RATE; remove scale"),
    ("hidden_dropout { dropout_ratio: 1 } hidden_dropout_type: CONVENTIONAL", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: dropout_ratio must lie in [0, 1), got 1"),
    ("hidden_dropout { dropout_ratio: -0.5 } hidden_dropout_type: CONVENTIONAL", {"x": X3, "cont": CONT2}, 1,
     "hidden_dropout: dropout_ratio must lie in [0, 1), got -0.5"),
])
def test_what_is_refused(settings, shapes, tops, message):
    told = error_of(recurrent("LSTM", bottoms=tuple(shapes), tops=("a", "b", "c")[:tops], settings=settings),
                    **shapes)
    assert (told.startswith("net.prototxt:") and "layer 'r' (LSTM): " in told and message in told
            and "\n" not in told)


def test_num_output_is_needed():
    told = error_of('layer { name: "r" type: "GRU" bottom: "x" bottom: "cont" top: "r" }', x=X3, cont=CONT2)
    assert "layer 'r' (GRU): recurrent_param needs num_output, at least 1" in told


@pytest.mark.parametrize("settings, message", [
    ('pattern: "TILE" time: STEP', "time STEP needs a pattern of units, got TILE, which drops weights; "
     "remove time"),
    ('pattern: "BLOCK" time: STEP', "time STEP needs a pattern of units, got BLOCK, which drops blocks; "
     "remove time"),
    ("time: STEP scale: PATTERN", "time STEP has one scale for all steps, RATE; remove scale"),
])
def test_drops_by_steps_that_are_refused(settings, message):
    drop = (f'layer {{ name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param {{ '
            f'{settings} }} }}')
    assert message in error_of(drop, x=X3)


def test_a_drop_by_steps_is_for_sequences():
    drop = ('layer { name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param { time: STEP '
            '} }')
    assert "time STEP is for sequences (steps, streams, units), but the bottom has 2 axes" in error_of(drop,
                                                                                                       x=(5,
                                                                                                          6))


@pytest.mark.parametrize("wrong", [0.5, 37, -1, np.nan])
def test_a_cont_that_is_neither_0_nor_1_is_refused(wrong):
    net = net_of(recurrent("RNN"), x=(5, 3, 6))
    cont = np.ones((5, 3))
    cont[1, 2] = wrong
    with pytest.raises(md.DataError,
                       match=r"layer 'r' \(RNN\): cont is .* at place 5 of the batch; expected 0"):
        net.forward(x=np.zeros((5, 3, 6)), cont=cont)


def test_fill_follows_the_shape_of_its_bottom():
    """cont of as many steps and streams as x has: a sequence begins at the first step."""
    def fill(settings):
        return f'layer {{ name: "fill" type: "Fill" bottom: "x" top: "y" fill_param {{ {settings} }} }}'

    net = net_of(fill("shape { dim: 0 dim: 0 dim: 2 } value: 1 first: -3"))
    for steps in (STEPS, 2):
        y = net.forward(x=np.ones((steps, STREAMS, INPUTS)), cont=np.ones((steps, STREAMS)))["y"]
        assert y.shape == (steps, STREAMS, 2) and y.dtype == np.float64 and not y.requires_grad
        assert (y.numpy()[0] == -3).all() and (y.numpy()[1:] == 1).all()
    for settings, message in (("shape { dim: -1 }", "must not be negative, got -1"),
                              ("shape { dim: 0 dim: 0 dim: 0 dim: 0 }", "copies axis 3, but the bottom"),
                              ("first: 1", "first needs a shape with an axis")):
        with pytest.raises(ConfigError, match=message):
            net_of(fill(settings))


@every_kind
def test_a_batch_with_another_number_of_streams_begins_anew(kind):
    """As the last one of an epoch; what follows it goes on from zeros, and states of others go on nowhere."""
    turned = [f'layer {{ name: "{blob}" type: "Permute" bottom: "in_{blob}" top: "{blob}" permute_param {{ '
              f'order: {order} }} }}' for blob, order in (("x", [1, 0, 2]), ("cont", [1, 0]))]
    text = [inputs_text(in_x=(STREAMS, STEPS, INPUTS), in_cont=(STREAMS, STEPS)), *turned, recurrent(kind)]
    net = md.Net(parse_net("\n".join(text)), device="cpu", dtype="float64")
    x, begins = numbers(STREAMS, STEPS, INPUTS), ones(STREAMS, STEPS)
    forward(net, in_x=x, in_cont=begins)
    begins[:, 0] = 0
    first = forward(net, in_x=x, in_cont=begins)["r"]
    with pytest.raises(ShapeError, match="layer 'r' .*: the states of 3 streams cannot go on in a batch of "
                       "2; make all batches alike .* begin at step 0 .cont 0."):
        net.forward(in_x=x[:2], in_cont=ones(2, STEPS))
    np.testing.assert_allclose(forward(net, in_x=x[:2], in_cont=begins[:2])["r"], first[:, :2], atol=1e-15)
    np.testing.assert_array_equal(forward(net, in_x=x, in_cont=ones(STREAMS, STEPS))["r"], first)
