"""LSTM, GRU and RNN over sequences: against PyTorch's cells, central differences, and the dense net with a mask."""

import numpy as np
import pytest

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions

STEPS, STREAMS, INPUTS, UNITS = 5, 3, 7, 4
KEPT = {"one in three": Kept(1, 3, 1, INPUTS), "wrapped": Kept(-1, 4, 2, INPUTS), "list": Kept.of([0, 5], INPUTS),
        "none kept": Kept(9, 9, 1, INPUTS)}
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
    return numbers(steps, streams, inputs), weights, [numbers(streams, units, seed=3 + i) for i in range(states)]


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

    @pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
    def test_kept_inputs(self, agrees_with_torch, kind, cont, kept):
        torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
        x, weights, states = operands(kind)
        mask, theirs = torch.tensor(kept.mask(float)), torch_sequence(torch, kind, cont)
        agrees_with_torch(ours(kind, cont, kept), lambda x, *rest: theirs(x * mask, *rest), x, *weights, *states)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 2, 3, 5), (2, 6, 9, 1), (4, 1, 2, 8)])
@pytest.mark.parametrize("kind", KINDS)
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
    np.testing.assert_allclose(np.concatenate([first[0].numpy(), second[0].numpy()]), whole[0].numpy(), rtol=1e-6, atol=1e-7)
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
    from minidrop import Parameter
    Wx = Parameter(weights[0])
    h, *_ = ours(kind, CONT["one sequence"], kept)(Tensor(x), Wx, *[Tensor(w) for w in weights[1:]])
    h.backward()
    block, = Wx.blocks
    assert (block.rows, block.cols) == (None, kept) and block.data.shape == (len(weights[0]), kept.count)


@pytest.mark.parametrize("change, message", [
    ({"x": numbers(5, 3)}, "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 3) and (5, 3)"),
    ({"x": numbers(5, 2, 7)}, "expected x (steps, streams, inputs) and cont (steps, streams), got (5, 2, 7) and (5, 3)"),
    ({"x": numbers(5, 3, 6)}, "expected Wx (4, 6) and Wh (4, 4) for x with 6 inputs, got (4, 7) and (4, 4)"),
    ({"Wh": numbers(5, 4)}, "expected Wx (4, 7) and Wh (4, 4) for x with 7 inputs, got (4, 7) and (5, 4)"),
])
def test_what_does_not_fit_is_refused(change, message):
    x, (Wx, b, Wh), _ = operands("rnn")
    given = {"x": x, "Wx": Wx, "b": b, "Wh": Wh, **change}
    with pytest.raises(ShapeError) as caught:
        functions.rnn(Tensor(given["x"]), Tensor(CONT["one sequence"]), *[Tensor(given[name]) for name in ("Wx", "b", "Wh")])
    assert str(caught.value) == message


def test_a_kept_set_on_another_axis_is_refused():
    x, weights, _ = operands("rnn")
    with pytest.raises(ShapeError, match="carries a kept set on axis 1; only the last axis can"):
        functions.rnn(functions.take(Tensor(x), Kept(0, 2, 1, STREAMS), 1), Tensor(np.ones((STEPS, 2))),
                      *[Tensor(w) for w in weights])
