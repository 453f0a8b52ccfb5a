"""Functions of tensors whose samples keep other units in each group: values and gradients against masks."""

import numpy as np
import pytest
from cases import every_pair, in_turn

from minidrop import Kept, Tensor, check_gradients, functions
from minidrop.errors import ShapeError
from minidrop.functions.groups import JoinGroups, SplitGroups
from minidrop.kept import KeptByGroup
from minidrop.patterns import DropSite, PatternSettings

TOTAL = 7
SETS = {"even": KeptByGroup([Kept(0, 2, 1, 6), Kept(1, 2, 1, 6)]),
        "uneven": KeptByGroup([Kept(0, 3, 2, TOTAL), Kept(2, 3, 1, TOTAL), Kept.of([0, 6], TOTAL)]),
        "one keeps all": KeptByGroup([Kept.all(TOTAL), Kept(1, 3, 1, TOTAL)]),
        "one keeps nothing": KeptByGroup([Kept(9, 9, 2, TOTAL), Kept(0, 2, 1, TOTAL)]),
        "more than samples": KeptByGroup([Kept(i, 7, 2, TOTAL) for i in range(6)])}
every_set = pytest.mark.parametrize("kept", SETS.values(), ids=SETS.keys())
LEADS = [(4,), (3, 5)]      # samples; steps and samples


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def mask(kept, lead):
    return kept.mask(lead[-1], np.float64)      # broadcasts over steps


@every_set
@in_turn("lead", LEADS)
def test_take_and_expand(kept, lead):
    x = numbers(*lead, kept.total)
    y = functions.take(Tensor(x), kept, len(lead))
    assert y.kept == kept and y.shape == x.shape and y.data.shape == (*lead, kept.count)
    np.testing.assert_array_equal(y.numpy(), x * mask(kept, lead))
    np.testing.assert_array_equal(functions.expand(y).data, x * mask(kept, lead))
    check_gradients(lambda x: functions.expand(functions.tanh(functions.take(x, kept, len(lead)))), x)


def test_channels_of_images():
    kept, x = SETS["uneven"], numbers(5, TOTAL, 2, 3)
    y = functions.take(Tensor(x), kept, 1)
    np.testing.assert_array_equal(y.numpy(), x * mask(kept, (5,))[:, :, None, None])
    flat = functions.flatten(y)
    assert flat.kept == kept.spread(6)
    np.testing.assert_array_equal(flat.numpy(), y.numpy().reshape(5, -1))


@every_pair(("name", list(SETS)), ("transpose", [False, True]), ("lead", LEADS),
            ("sides", ["outputs", "inputs", "both", "outputs and one set of inputs",
                       "other groups of inputs"]))
def test_linear(name, lead, transpose, sides):
    """A compact product for each group: value, and all three gradients, of the masked product."""
    kept = SETS[name]
    others = {"inputs": kept, "both": kept, "outputs and one set of inputs": Kept(1, 2, 1, 5),
              "other groups of inputs": KeptByGroup([Kept(i, 4, 2, 5) for i in range(4)])}
    inputs, outputs = others.get(sides), None if sides == "inputs" else kept
    x = numbers(*lead, 5 if inputs is None else inputs.total)
    count = 3 if outputs is None else outputs.total
    W, b = numbers(count, x.shape[-1], seed=1), numbers(count)
    W = np.ascontiguousarray(W.T) if transpose else W

    def compact(x, W, b, activation="none", scale=1.0):
        x = x if inputs is None else functions.take(x, inputs, len(lead))
        return functions.expand(functions.linear(x, W, b, outputs, transpose, activation, scale))

    masked = x if inputs is None else x * (mask(inputs, lead) if isinstance(inputs, KeptByGroup)
                                           else inputs.mask(float))
    dense = masked @ (W if transpose else W.T) + b
    alive = 1 if outputs is None else mask(outputs, lead)
    np.testing.assert_allclose(compact(*map(Tensor, (x, W, b))).numpy(), dense * alive, rtol=0, atol=1e-12)
    np.testing.assert_allclose(compact(*map(Tensor, (x, W, b)), "relu", 1.5).numpy(),
                               1.5 * np.maximum(dense, 0) * alive, rtol=0, atol=1e-12)
    check_gradients(compact, x, W, b)
    check_gradients(lambda *arrays: compact(*arrays, "tanh", 2.0), x, W, b)


@every_set
@in_turn("ids", [np.array([1, 3, 0, 1]), np.array([[2, 1, 1], [0, 3, 1]])])
def test_embed(kept, ids):
    W, b = numbers(4, kept.total), numbers(kept.total)
    y = functions.embed(Tensor(ids), Tensor(W), Tensor(b), kept)
    assert y.kept == kept
    np.testing.assert_allclose(y.numpy(), (W[ids] + b) * mask(kept, ids.shape), rtol=0, atol=1e-12)
    check_gradients(lambda W, b: functions.expand(functions.embed(Tensor(ids), W, b, kept)), W, b)


@every_set
def test_concat(kept):
    """With groups, with the same units for all samples, and with other groups: then densely."""
    xs = [numbers(6, kept.total), numbers(6, 5), numbers(6, kept.total, seed=1)]
    sets = [kept, Kept(0, 2, 1, 5), kept]

    def joined(*xs):
        return functions.concat([functions.take(x, own) for x, own in zip(xs, sets, strict=True)])

    alive = mask(kept, (6,))
    expected = np.concatenate([xs[0] * alive, xs[1] * sets[1].mask(float), xs[2] * alive], axis=1)
    assert isinstance(joined(*map(Tensor, xs)).kept, KeptByGroup)
    np.testing.assert_array_equal(joined(*map(Tensor, xs)).numpy(), expected)
    check_gradients(lambda *xs: functions.expand(joined(*xs)), *xs)
    sets[1] = KeptByGroup([Kept(i, 8, 2, 5) for i in range(7)])
    expected[:, kept.total:kept.total + 5] = xs[1] * mask(sets[1], (6,))
    np.testing.assert_array_equal(joined(*map(Tensor, xs)).numpy(), expected)


@in_turn("samples", [0, 1, 5])
@every_set
def test_split_and_join(kept, samples):
    x = numbers(2, samples, kept.total)

    def there_and_back(x):
        parts = SplitGroups(len(kept.sets), 1).apply(functions.take(x, kept, 2))
        return functions.expand(JoinGroups(kept, 1, samples).apply(*parts))

    np.testing.assert_array_equal(there_and_back(Tensor(x)).numpy(), x * mask(kept, (2, samples)))
    check_gradients(there_and_back, x)


def test_a_drop_that_nobody_prepared_gathers_group_by_group():
    draw = DropSite("drop", PatternSettings(0.5, groups=2), seed=3, total=10).draw(0)
    x = numbers(5, 10)
    y = functions.approx_dropout(Tensor(x), draw)
    assert y.kept == draw.kept
    np.testing.assert_allclose(y.numpy(), x * draw.mask((5, 10), 1), rtol=0, atol=1e-12)


def test_a_set_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="does not fit W"):
        functions.linear(Tensor(numbers(4, 3)), Tensor(numbers(5, 3)), None, SETS["uneven"])


@pytest.mark.parametrize("cell", [functions.lstm, functions.gru, functions.rnn])
@pytest.mark.parametrize("streams", [0, 1, 4])
def test_recurrent_networks_of_few_or_no_streams(cell, streams):
    kept, gates = KeptByGroup([Kept(i, 2, 1, 4) for i in range(2)]), {"lstm": 4, "gru": 3, "rnn": 1}
    rows = gates[cell.__name__] * 4
    x, cont = numbers(3, streams, 5), np.ones((3, streams))
    weights = [numbers(rows, 5), numbers(rows), numbers(rows, 4)] + [numbers(rows)] * (cell is functions.gru)
    h, *last = cell(Tensor(x), Tensor(cont), *map(Tensor, weights), drop=functions.HiddenDrop(units=kept))
    assert h.shape == (3, streams, 4) and h.kept_axis == 2
    assert all(state.shape == (streams, 4) for state in last)


def test_what_a_group_does_not_use_is_no_entry():
    """After a layer with f(0) != 0 it holds something; sums and searches for NaN do not see it."""
    kept = SETS["uneven"]
    with np.errstate(divide="ignore"):
        y = functions.power(functions.take(Tensor(abs(numbers(6, TOTAL)) + 1), kept), -1.0, carry=True)
    assert not np.isfinite(y.data).all() and np.isfinite(y.entries).all()
    np.testing.assert_array_equal(y.entries, y.numpy())


def test_what_has_no_samples_is_refused():
    with pytest.raises(ShapeError, match="no groups of samples"):
        functions.linear(Tensor(numbers(3)), Tensor(numbers(TOTAL, 3)), None, SETS["uneven"])
    with pytest.raises(ShapeError, match="before the kept one"):
        functions.take(Tensor(numbers(TOTAL, 2)), SETS["uneven"], 0)
    x = functions.take(Tensor(numbers(4, TOTAL)), SETS["uneven"])
    with pytest.raises(ShapeError, match="functions.expand"):
        functions.concat([x, x], 0)
