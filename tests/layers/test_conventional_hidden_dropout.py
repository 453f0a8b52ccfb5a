"""hidden_dropout_type CONVENTIONAL: a mask of its own for each unit of each stream of the state."""

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
    net_of,
    numbers,
    ones,
    recurrent,
)

from minidrop.testing import run_once


def conventional(kind="LSTM", time="SEQUENCE", rate=0.3, units=UNITS, **options):
    settings = f"hidden_dropout {{ dropout_ratio: {rate} time: {time} }} hidden_dropout_type: CONVENTIONAL"
    return net_of(recurrent(kind, units=units, settings=settings), **options)


def hidden_mask(net, iteration):
    """What the layer multiplies its state by in this iteration, as it is."""
    from minidrop.autograd import Tensor
    net.draw_patterns(iteration)
    layer = net.layers["r"]
    return layer.hidden.of(Tensor(numbers(STEPS, STREAMS, INPUTS)), layer.drawn, layer.plan.skips).mask


@every_kind
def test_sequence_masks_units_of_streams_for_all_steps(kind):
    """The dropped units of a stream are zero in every step of the top, the others are scaled; each batch
    draws anew."""
    net, seen = conventional(kind, rate=0.5, units=50), []
    for iteration in range(4):
        net.draw_patterns(iteration)
        h = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"]
        zero = h == 0
        assert (zero == zero[0]).all() and (zero[0, 0] != zero[0, 1]).any()
        seen.append(zero[0])
        mask = hidden_mask(net, iteration)
        assert mask.shape == (1, STREAMS,
                              50) and ((mask == 0) == zero[:1]).all() and set(np.unique(mask)) == {0.0, 2.0}
    assert all((a != b).any() for a, b in zip(seen, seen[1:], strict=False))


@every_kind
def test_step_masks_only_what_the_gates_read(kind):
    net = conventional(kind, "STEP", 0.5, units=50)
    mask = hidden_mask(net, 3)
    assert mask.shape == (STEPS, STREAMS, 50) and set(np.unique(mask)) == {0.0, 2.0}
    assert all((mask[t] != mask[t + 1]).any() for t in range(STEPS - 1))
    x = numbers(STEPS, STREAMS, INPUTS)
    h = forward(net, x=x, cont=ones())["r"]
    assert (h != 0).all()
    plain = forward(net_of(recurrent(kind, units=50)), x=x, cont=ones())["r"]
    # the state before the first step is 0
    np.testing.assert_allclose(h[0], plain[0], rtol=0, atol=1e-14)
    assert (h[1:] != plain[1:]).any()


@pytest.mark.parametrize("time", ["SEQUENCE", "STEP"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_conventional_masks_drop_at_the_rate(time, rate):
    net = conventional("RNN", time, rate, units=800)
    masks = np.stack([hidden_mask(net, iteration) for iteration in range(40)])
    dropped, count = (masks == 0).mean(), masks.size
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
    assert np.unique(masks).tolist() == pytest.approx([0, 1 / (1 - rate)])
    for axis in range(masks.ndim):              # neighbours on every axis are independent
        if masks.shape[axis] > 1:
            a, b = (np.take(masks == 0, range(i, masks.shape[axis] - 1 + i), axis) for i in (0, 1))
            both = (a & b).mean()
            assert abs(both - rate**2) < 5 * rate * (1 - rate) / np.sqrt(a.size) + 5 * 2 * rate * np.sqrt(
                rate * (1 - rate) / count)


@pytest.mark.parametrize("time", ["SEQUENCE", "STEP"])
def test_conventional_masks_follow_from_seed_layer_and_iteration(time):
    a, b, other = conventional(time=time), conventional(time=time), conventional(time=time, seed=1)
    for iteration in (5, 0, 7):
        np.testing.assert_array_equal(hidden_mask(a, iteration), hidden_mask(b, iteration))
    assert any((hidden_mask(a, i) != hidden_mask(other, i)).any() for i in range(4))
    assert any((hidden_mask(a, i) != hidden_mask(a, i + 1)).any() for i in range(4))


@in_turn("type_", ["APPROX", "CONVENTIONAL"])
@in_turn("time", ["SEQUENCE", "STEP"])
@every_kind
def test_nothing_is_dropped_in_a_test(kind, time, type_):
    settings = f"hidden_dropout {{ dropout_ratio: 0.5 time: {time} }} hidden_dropout_type: {type_}"
    data = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones()}
    plain = forward(net_of(recurrent(kind)), **data)["r"]
    net = net_of(recurrent(kind, settings=settings), phase="TEST")
    np.testing.assert_array_equal(forward(net, **data)["r"], plain)
    net.set_dropping(True)
    net.reset_states()
    assert (forward(net, **data)["r"] != plain).any()
    resting = net_of(recurrent(kind, settings=settings))
    resting.set_dropping(False)
    np.testing.assert_array_equal(forward(resting, **data)["r"], plain)


@pytest.mark.parametrize("settings, shares", [("", False), ("bidirectional: true", True)])
def test_conventional_gradients(settings, shares):
    """Central differences of the loss in some weights, the masks held fixed by the iteration."""
    drop = "hidden_dropout { dropout_ratio: 0.4 time: STEP } hidden_dropout_type: CONVENTIONAL"
    t = numbers(STEPS, STREAMS, UNITS * (1 + shares), seed=2)
    net = net_of(recurrent("LSTM", settings=f"{drop} {settings}"),
                 'layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "t" top: "loss" }',
                 t=t.shape)
    data = {"x": numbers(STEPS, STREAMS, INPUTS), "cont": ones(), "t": t}
    _, gradients = run_once(net, 3, data)
    for name, parameter in net.params["r"].items():
        place = tuple(n // 2 for n in parameter.shape)
        values = []
        for step in (1e-5, -1e-5):
            parameter.data[place] += step
            values.append(run_once(net, 3, data)[0]["loss"])
            parameter.data[place] -= step
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradients[f"r/{name}"][place], rel=1e-5,
                                                               abs=1e-8), name


@pytest.mark.parametrize("type_", ["APPROX", "CONVENTIONAL"])
def test_both_directions_drop_alike(type_):
    settings = f"hidden_dropout {{ dropout_ratio: 0.5 }} hidden_dropout_type: {type_} bidirectional: true"
    net = net_of(recurrent("GRU", units=30, settings=settings))
    net.draw_patterns(2)
    zero = forward(net, x=numbers(STEPS, STREAMS, INPUTS), cont=ones())["r"] == 0
    assert (zero[:, :, :30] == zero[:, :, 30:]).all() and zero.any() and not zero.all()
