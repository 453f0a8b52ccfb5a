"""LSTM, GRU and RNN over sequences: against PyTorch's cells, central differences, and the dense net with a
mask."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, Parameter, ShapeError, Tensor, check_gradients, functions
from minidrop.functions import recurrent
from minidrop.functions.recurrent import HiddenDrop, gate_rows, recur
from minidrop.functions.steps import add_to_steps, reverse_steps

STEPS, STREAMS, INPUTS, UNITS = 5, 3, 7, 4
KEPT = {"one in three": Kept(1, 3, 1, INPUTS), "wrapped": Kept(-1, 4, 2, INPUTS),
        "list": Kept.of([0, 5], INPUTS), "none kept": Kept(9, 9, 1, INPUTS)}
KINDS = {"lstm": (4, 1, 2), "gru": (3, 2, 1), "rnn": (1, 1, 1)}        # gates, biases, states
CONT = {"one sequence": np.ones((STEPS, STREAMS)),
        "sequences begin anywhere": np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1.0]])}


def numbers(*shape, seed=0):
    return 0.5 * np.random.default_rng([seed, *shape]).standard_normal(shape)


def operands(kind, steps=STEPS, streams=STREAMS, inputs=INPUTS, units=UNITS):
    """Return (x, weights, states) of a kind, as arrays."""
    gates, biases, states = KINDS[kind]
    weights = [numbers(gates * units, inputs), numbers(gates * units, seed=1), numbers(gates * units, units)]
    weights += [numbers(gates * units, seed=2)] * (biases == 2)
    return numbers(steps, streams, inputs), weights, [numbers(streams, units, seed=3 + i)
                                                      for i in range(states)]


def torch_sequence(torch, kind, cont):
    """Return the same as a function of torch tensors, by PyTorch's cells, one step at a time."""
    def run(x, *rest):
        count = 3 + (kind == "gru")
        Wx, b, Wh, *more = rest[:count]
        state, outputs = list(rest[count:]), []
        if kind == "lstm":          # PyTorch's order is i f g o
            units = Wh.shape[1]
            order = [*range(2 * units), *range(3 * units, 4 * units), *range(2 * units, 3 * units)]
            Wx, b, Wh = Wx[order], b[order], Wh[order]
        other = more[0] if more else torch.zeros_like(b)
        for t in range(len(x)):
            state = [s * torch.tensor(cont[t])[:, None].to(s.dtype) for s in state]
            if kind == "lstm":
                state = list(torch.lstm_cell(x[t], state, Wx, Wh, b, other))
            else:
                cell = torch.gru_cell if kind == "gru" else torch.rnn_tanh_cell
                state = [cell(x[t], state[0], Wx, Wh, b, other)]
            outputs.append(state[0])
        return (torch.stack(outputs), *state)
    return run


def ours(kind, cont, kept=None):
    function = getattr(functions, kind)

    def run(x, *rest):
        x = x if kept is None else functions.take(x, kept, 2)
        return function(x, Tensor(np.asarray(cont, x.dtype), backend=x.backend), *rest)
    return run


@pytest.mark.parametrize("cont", CONT.values(), ids=CONT)
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstTorch:
    def test_values_and_gradients(self, agrees_with_torch, kind, cont):
        torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
        x, weights, states = operands(kind)
        agrees_with_torch(ours(kind, cont), torch_sequence(torch, kind, cont), x, *weights, *states)

    @in_turn("kept", KEPT.values(), ids=KEPT)
    def test_kept_inputs(self, agrees_with_torch, kind, cont, kept):
        torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
        x, weights, states = operands(kind)
        mask, theirs = torch.tensor(kept.mask(float)), torch_sequence(torch, kind, cont)
        agrees_with_torch(ours(kind, cont, kept), lambda x, *rest: theirs(x * mask, *rest), x, *weights,
                          *states)


@in_turn("sizes", [(1, 1, 1, 1), (7, 2, 3, 5), (2, 6, 9, 1), (4, 1, 2, 8)])
@in_turn("kind", KINDS)
def test_other_shapes(agrees_with_torch, kind, sizes):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    x, weights, states = operands(kind, *sizes)
    cont = np.ones(sizes[:2])
    agrees_with_torch(ours(kind, cont), torch_sequence(torch, kind, cont), x, *weights, *states)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    x, weights, states = operands(kind)
    check_gradients(ours(kind, CONT["sequences begin anywhere"]), x, *weights, *states)
    check_gradients(ours(kind, CONT["one sequence"], KEPT["wrapped"]), x, *weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_given_is_zero_and_one_carried_on_continues(kind):
    x, weights, states = operands(kind, steps=6)
    cont = np.ones((6, STREAMS))
    tensors = [Tensor(w) for w in weights]
    whole = ours(kind, cont)(Tensor(x), *tensors)
    zeros = ours(kind, cont)(Tensor(x), *tensors, *[Tensor(np.zeros_like(s)) for s in states])
    first = ours(kind, cont[:2])(Tensor(x[:2]), *tensors)
    second = ours(kind, cont[2:])(Tensor(x[2:]), *tensors, *first[1:])
    np.testing.assert_array_equal(whole[0].numpy(), zeros[0].numpy())
    np.testing.assert_allclose(np.concatenate([first[0].numpy(), second[0].numpy()]), whole[0].numpy(),
                               rtol=1e-6, atol=1e-7)
    for carried, last in zip(second[1:], whole[1:], strict=True):
        np.testing.assert_allclose(carried.numpy(), last.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_that_begins_forgets(kind):
    """Where cont is 0 nothing of before comes through, forward or backward."""
    x, weights, states = operands(kind)
    cont = CONT["one sequence"].copy()
    cont[3] = 0
    tensors, before = [Tensor(w) for w in weights], Tensor(x, requires_grad=True)
    h, *_ = ours(kind, cont)(before, *tensors, *[Tensor(s) for s in states])
    alone, *_ = ours(kind, CONT["one sequence"][3:])(Tensor(x[3:]), *tensors)
    np.testing.assert_allclose(h.numpy()[3:], alone.numpy(), rtol=1e-6, atol=1e-7)
    gy = np.zeros_like(h.data)
    gy[3:] = 1
    h.backward(gy)
    assert not before.grad[:3].any() and before.grad[3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kept_columns_of_the_weight_get_a_gradient(kind):
    kept = KEPT["one in three"]
    x, weights, _ = operands(kind)
    Wx = Parameter(weights[0])
    h, *_ = ours(kind, CONT["one sequence"], kept)(Tensor(x), Wx, *[Tensor(w) for w in weights[1:]])
    h.backward(np.ones(h.data.shape))
    block, = Wx.blocks
    assert (block.rows, block.cols) == (None, kept) and block.data.shape == (len(weights[0]), kept.count)


@pytest.mark.parametrize("change, message", [
    ({"x": numbers(5, 3)}, "linear: x has 3 features, but W of shape (4, 7) expects 7"),
    ({"x": numbers(5, 3, 6)}, "linear: x has 6 features, but W of shape (4, 7) expects 7"),
    ({"x": numbers(5, 2, 7)}, "the gates' share from outside, x Wx^T + b: expected shape (5, 3, 4) with all "
     "units on the last "
                              "axis, got (5, 2, 4) with all units on axis 2"),
    ({"x": numbers(5, 3, 1, 7)}, "the gates' share from outside, x Wx^T + b: expected shape (5, 3, 4) with "
     "all units on the "
                                 "last axis, got (5, 3, 1, 4) with all units on axis 3"),
    ({"cont": np.ones(5)}, "cont of a recurrent network: expected shape (steps, streams), got (5,)"),
    ({"Wh": numbers(5, 4)}, "expected Wh (4, 4), 1 blocks of units x units, got (5, 4)"),
    ({"h0": numbers(2, 4)}, "a state of a recurrent network: expected shape (3, 4) with all units on the "
     "last axis, "
                            "got (2, 4) with all units on axis 1"),
])
def test_what_does_not_fit_is_refused(change, message):
    x, (Wx, b, Wh), (h0,) = operands("rnn")
    given = {"x": x, "cont": CONT["one sequence"], "Wx": Wx, "b": b, "Wh": Wh, "h0": h0, **change}
    with pytest.raises(ShapeError) as caught:
        functions.rnn(*[Tensor(array) for array in given.values()])
    assert str(caught.value) == message


def test_a_kept_set_on_another_axis_is_refused():
    x, weights, _ = operands("rnn")
    with pytest.raises(ShapeError, match="carries a kept set on axis 1; only the last axis can"):
        functions.rnn(functions.take(Tensor(x), Kept(0, 2, 1, STREAMS), 1), Tensor(np.ones((STEPS, 2))),
                      *[Tensor(w) for w in weights])


# -- what is dropped of the state ----------------------------------------------------------------------------
UNIT_SETS = {"every other": Kept(0, 2, 1, UNITS), "runs": Kept(1, 2, 2, UNITS),
             "list": Kept.of([0, 3], UNITS), "one": Kept.of([2], UNITS), "none kept": Kept.of([], UNITS),
             "all": Kept.all(UNITS)}
every_cont = pytest.mark.parametrize("cont", CONT.values(), ids=CONT)
TIGHT = {"rtol": 0, "atol": 1e-12}


def dropped(kind, cont, drop, kept=None):
    """As `ours`, with a HiddenDrop; returns everything whole."""
    function = getattr(functions, kind)

    def run(x, *rest):
        x = x if kept is None else functions.take(x, kept, 2)
        h, *last = function(x, Tensor(np.asarray(cont, x.dtype), backend=x.backend), *rest, drop=drop)
        return functions.expand(h), *last
    return run


def values_and_gradients(function, arrays):
    from minidrop.autograd import backward
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    outputs = function(*tensors)
    backward([(y, np.random.default_rng(i).uniform(0.5, 1.5, y.shape)) for i, y in enumerate(outputs)])
    return [y.numpy() for y in outputs] + [x.grad if x.grad is not None else np.zeros(x.shape)
                                           for x in tensors]


def assert_same(kind, one, other, arrays=None):
    """Two ways to compute agree in float64 to 1e-12: h, last states, gradients of x, weights and first
    states."""
    x, weights, states = operands(kind)
    arrays = arrays or [x, *weights, *states]
    results = [values_and_gradients(way, arrays) for way in (one, other)]
    for i, (got, wanted) in enumerate(zip(*results, strict=True)):
        np.testing.assert_allclose(got, wanted, **TIGHT, err_msg=f"number {i} of h, states, gradients")
    return results[0]


@every_cont
@pytest.mark.parametrize("units", UNIT_SETS.values(), ids=UNIT_SETS)
@pytest.mark.parametrize("kind", KINDS)
class TestAbsentUnits:
    def test_equal_the_mask(self, kind, units, cont):
        for scale in (1, 2):
            mask = (units.mask(float) * scale)[None, None]
            compact = HiddenDrop(units=units, scale=scale, whole=True)
            dense = HiddenDrop(mask=mask, moving=units, whole=True)
            assert_same(kind, dropped(kind, cont, compact), dropped(kind, cont, dense))
            assert_same(kind, dropped(kind, cont, compact, KEPT["wrapped"]),
                        dropped(kind, cont, dense, KEPT["wrapped"]))

    def test_their_state_stays_or_becomes_zero_where_a_sequence_begins(self, kind, units, cont):
        x, weights, states = operands(kind)
        h, *last = dropped(kind, cont,
                           HiddenDrop(units=units, whole=True))(*map(Tensor, (x, *weights, *states)))
        absent = ~units.mask()
        stays = cont.all(axis=0)[:, None]
        assert not h.numpy()[:, :, absent].any()
        for before, after in zip(states, last, strict=True):
            np.testing.assert_array_equal(after.numpy()[:, absent], (before * stays)[:, absent])

    def test_they_are_a_smaller_network(self, kind, units, cont):
        """Of the others nothing is computed or read: a network of the kept units alone gives the same."""
        x, (Wx, *rest), states = operands(kind)
        b, Wh, *more = rest
        rows = np.concatenate([units.indices + k * UNITS for k in range(KINDS[kind][0])])
        small = [Wx[rows], b[rows], Wh[rows][:, units.indices], *[bias[rows] for bias in more]]
        h, *last = dropped(kind, cont, HiddenDrop(units=units))(*map(Tensor, (x, Wx, *rest, *states)))
        if not units.count:
            assert not h.numpy().any()
            return
        expected, *expected_last = ours(kind,
                                        cont)(*map(Tensor,
                                                   (x, *small, *[s[:, units.indices] for s in states])))
        np.testing.assert_allclose(h.numpy()[:, :, units.indices], expected.numpy(), **TIGHT)
        for got, wanted in zip(last, expected_last, strict=True):
            np.testing.assert_allclose(got.numpy()[:, units.indices], wanted.numpy(), **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_units_touch_only_their_part_of_the_weights(kind):
    units, (x, weights, _) = UNIT_SETS["list"], operands(kind)
    parameters = [Parameter(w) for w in weights]
    gates = KINDS[kind][0]
    h, *_ = getattr(functions, kind)(Tensor(x), Tensor(CONT["one sequence"]), *parameters,
                                     drop=HiddenDrop(units=units))
    assert (h.kept, h.kept_axis, h.data.shape) == (units, 2, (STEPS, STREAMS, 2))
    h.backward(np.ones(h.data.shape))
    rows = gate_rows(units, gates)
    (Wx,), (b,), (Wh,) = (parameter.blocks for parameter in parameters[:3])
    assert (Wx.rows, Wx.cols, Wx.data.shape) == (rows, None, (2 * gates, INPUTS))
    assert (b.rows, b.data.shape) == (rows, (2 * gates,))
    assert (Wh.rows, Wh.cols, Wh.data.shape) == (rows, units, (2 * gates, 2))


STEP_SETS = {"units, all, none": (Kept(0, 2, 1, UNITS), None, Kept.of([], UNITS), Kept.of([1, 2, 3], UNITS),
                                  Kept.of([3], UNITS)),
             "one each": tuple(Kept.of([t % UNITS], UNITS) for t in range(STEPS)), "all": (None,) * STEPS}


@every_cont
@in_turn("steps", STEP_SETS.values(), ids=STEP_SETS)
@in_turn("kind", KINDS)
def test_steps_equal_the_mask(kind, steps, cont):
    """Each step has its own small product; the states are whole, h is not masked."""
    mask = 2.0 * np.stack([np.ones(UNITS) if kept is None else kept.mask(float) for kept in steps])[:, None]
    assert_same(kind, dropped(kind, cont, HiddenDrop(steps=steps, scale=2.0)),
                dropped(kind, cont, HiddenDrop(mask=mask)))


A, B = Kept(0, 2, 1, UNITS), Kept.of([1, 2, 3], UNITS)
RUN_SETS = {"A A B B A": (A, A, B, B, A), "A none all": (A, A, Kept.of([], UNITS), None, None),
            "A": (A,) * STEPS, "none": (Kept.of([], UNITS),) * STEPS, "one each": STEP_SETS["one each"]}


@in_turn("cont", CONT.values(), ids=CONT)
@in_turn("steps", RUN_SETS.values(), ids=RUN_SETS)
@in_turn("kind", KINDS)
def test_runs_of_steps_equal_the_mask(kind, steps, cont):
    """The gradient of the weights is a product for each pattern."""
    mask = 2.0 * np.stack([np.ones(UNITS) if kept is None else kept.mask(float) for kept in steps])[:, None]
    assert_same(kind, dropped(kind, cont, HiddenDrop(steps=steps, scale=2.0, parts_gradient=True)),
                dropped(kind, cont, HiddenDrop(mask=mask)))


def test_the_gradient_of_a_pattern_has_its_columns():
    x, weights, states = operands("lstm")
    for steps, cols in ((RUN_SETS["A"], [A]), (RUN_SETS["none"], [])):
        Wh = Parameter(weights[2])
        h, *_ = dropped("lstm", CONT["one sequence"], HiddenDrop(steps=steps, parts_gradient=True))(
            *map(Tensor, (x, *weights[:2])), Wh, *map(Tensor, states))
        h.backward(np.ones(h.data.shape))
        assert [(block.rows, block.cols) for block in Wh.blocks] == [(None, kept) for kept in cols]


def test_the_products_of_steps_have_the_size_of_what_is_kept(monkeypatch):
    x, weights, states = operands("lstm")
    backend, inner = Tensor(x).backend, []
    thin = type(backend).thin_gemm
    monkeypatch.setattr(type(backend), "thin_gemm",
                        lambda self, a, b, trans_b=False: inner.append(a.shape[1])
                        or thin(self, a, b, trans_b))
    steps = STEP_SETS["units, all, none"]
    dropped("lstm", CONT["one sequence"], HiddenDrop(steps=steps))(*map(Tensor, (x, *weights, *states)))
    assert inner == [2, 4, 0, 3, 1]


@every_cont
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_single_elements_is_that_of_what_the_gates_read(kind, cont):
    """Against one step after the other, the state masked by hand in between."""
    x, weights, states = operands(kind)
    mask = np.random.default_rng(1).integers(0, 2, (STEPS, STREAMS, UNITS)) * 1.5
    if kind == "gru":       # z carries the whole h on, so a mask of the carried state is another network
        mask = np.ones_like(mask)
    whole, *last = dropped(kind, cont, HiddenDrop(mask=mask))(*map(Tensor, (x, *weights, *states)))
    state, outputs = [Tensor(s) for s in states], []
    for t in range(STEPS):
        state[0] = functions.multiply_mask(state[0], mask[t])
        h, *state = ours(kind, cont[t:t + 1])(*map(Tensor, (x[t:t + 1], *weights)), *state)
        outputs.append(h.numpy()[0])
    np.testing.assert_allclose(whole.numpy(), np.stack(outputs), **TIGHT)
    for got, wanted in zip(last, state, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), **TIGHT)


def test_of_a_dropped_state_a_gru_carries_all():
    """z alone decides what goes on: with z = 1 the state stays, whatever the gates read of it."""
    x, (Wx, bx, Wh, bh), (h0,) = operands("gru")
    bx = bx.copy()
    bx[UNITS:2 * UNITS] = 1e3
    _, last = dropped("gru", CONT["one sequence"], HiddenDrop(mask=np.zeros((1, 1, UNITS))))(
        *map(Tensor, (x, Wx, bx, Wh, bh, h0)))
    np.testing.assert_allclose(last.numpy(), h0, **TIGHT)


@pytest.mark.parametrize("drop", [HiddenDrop(units=UNIT_SETS["list"], scale=2.0, whole=True),
                                  HiddenDrop(steps=STEP_SETS["units, all, none"], scale=2.0),
                                  HiddenDrop(steps=RUN_SETS["A A B B A"], scale=2.0, parts_gradient=True),
                                  HiddenDrop(mask=np.array([[[0, 2.0, 0, 2.0]]]),
                                             moving=Kept.of([1, 3], UNITS), whole=True)],
                         ids=["units", "steps", "runs of steps", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_drops(kind, drop):
    x, weights, states = operands(kind)
    check_gradients(dropped(kind, CONT["sequences begin anywhere"], drop), x, *weights, *states)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_share_with_another_kept_set_is_refused(kind):
    x, weights, _ = operands(kind)
    cell, gates = {"lstm": (recurrent.LSTM, 4), "gru": (recurrent.GRU, 3), "rnn": (recurrent.RNN, 1)}[kind]
    share = functions.linear(Tensor(x), Tensor(weights[0]), Tensor(weights[1]),
                             gate_rows(UNIT_SETS["list"], gates))
    told = (r"the gates' share from outside, x Wx\^T \+ b: expected shape \(5, 3, .*"
            r"got .*with Kept\(\d+ of \d+")
    with pytest.raises(ShapeError, match=told):
        recur(cell, share, Tensor(CONT["one sequence"]), [Tensor(w) for w in weights[2:]],
              drop=HiddenDrop(units=UNIT_SETS["every other"]))


# -- small functions -----------------------------------------------------------------------------------------
@in_turn("units", UNIT_SETS.values(), ids=UNIT_SETS)
@in_turn("gates", [1, 3, 4])
def test_gate_rows(units, gates):
    assert gate_rows(units, gates).mask().tolist() == list(units.mask()) * gates
    assert gate_rows(None, gates) is None


def test_reverse_steps():
    x = numbers(*(STEPS, STREAMS, UNITS))
    np.testing.assert_array_equal(reverse_steps(Tensor(x)).numpy(), x[::-1])
    kept = reverse_steps(functions.take(Tensor(x), UNIT_SETS["list"], 2))
    assert (kept.kept, kept.kept_axis) == (UNIT_SETS["list"], 2)
    np.testing.assert_array_equal(kept.data, x[::-1][:, :, [0, 3]])
    check_gradients(reverse_steps, x)
    check_gradients(lambda x: functions.expand(reverse_steps(functions.take(x, UNIT_SETS["list"], 2))), x)


def test_add_to_steps():
    x, s, units = numbers(STEPS, STREAMS, UNITS), numbers(STREAMS, UNITS), UNIT_SETS["list"]
    np.testing.assert_array_equal(add_to_steps(Tensor(x), Tensor(s)).numpy(), x + s)
    check_gradients(add_to_steps, x, s)

    def on_kept(x, s):
        y = add_to_steps(functions.take(x, units, 2), functions.take(s, units, 1))
        assert (y.kept, y.kept_axis) == (units, 2)
        return functions.expand(y)
    np.testing.assert_array_equal(on_kept(Tensor(x), Tensor(s)).numpy(), (x + s) * units.mask())
    check_gradients(on_kept, x, s)


def test_add_to_steps_of_other_kept_sets_is_refused():
    x, s = Tensor(numbers(STEPS, STREAMS, UNITS)), Tensor(numbers(STREAMS, UNITS))
    one, other = UNIT_SETS["list"], UNIT_SETS["every other"]
    for xs in ((functions.take(x, one, 2), functions.take(s, other, 1)), (functions.take(x, one, 2), s),
               (x, functions.take(s, one, 1))):
        with pytest.raises(ShapeError, match="add_to_steps"):
            add_to_steps(*xs)


# -- concat of kept sets -------------------------------------------------------------------------------------
def test_concat_of_kept_sets():
    a, b, c = (numbers(2, 3, n) for n in (4, 7, 1))
    sets = UNIT_SETS["list"], KEPT["wrapped"], Kept.of([], 1)

    def join(*xs):
        return functions.concat([functions.take(x, kept, 2) for x, kept in zip(xs, sets, strict=True)], 2)
    y = join(*map(Tensor, (a, b, c)))
    mask = np.concatenate([kept.mask() for kept in sets])
    assert (y.kept, y.kept_axis, y.shape) == (Kept.of(np.flatnonzero(mask), 12), 2, (2, 3, 12))
    np.testing.assert_array_equal(y.numpy(), np.concatenate([a, b, c], 2) * mask)
    check_gradients(lambda *xs: functions.expand(join(*xs)), a, b, c)


@pytest.mark.parametrize("axes, concat_axis", [((2, None), 2), ((1, 1), 2), ((2, 2), 1), ((1, 2), 1)])
def test_concat_of_kept_sets_that_do_not_fit_is_refused(axes, concat_axis):
    kept = Kept.of([0, 2], 4)
    xs = [Tensor(numbers(2, 4, 4)) if axis is None else functions.take(Tensor(numbers(2, 4, 4)), kept, axis)
          for axis in axes]
    with pytest.raises(ShapeError) as caught:
        functions.concat(xs, concat_axis)
    got = ", ".join("None" if axis is None else "Kept(2 of 4)" for axis in axes)
    assert str(caught.value) == (f"concat on axis {concat_axis} needs inputs that are all dense, or all with "
                                 f"a kept set on it, got {got}; call functions.expand on them first")
