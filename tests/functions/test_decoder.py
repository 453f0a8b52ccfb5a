"""The LSTM decoder with attention: against PyTorch, central differences, padding, and one step at a time."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions
from minidrop.functions.decoder import decode, mean_of_places
from minidrop.functions.hidden_drop import HiddenDrop, gate_rows
from minidrop.kept import KeptByGroup

STEPS, STREAMS, PLACES, UNITS, ENTRIES = 4, 3, 5, 4, 6
MASK = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0.0]])
KINDS = [(score, feeds) for score in ("GENERAL", "DOT", "ADDITIVE") for feeds in (True, False)]
UNIT_SETS = {"none": None, "half": Kept(0, 2, 1, UNITS), "list": Kept.of([1, 2, 3], UNITS),
             "groups": KeptByGroup([Kept(0, 2, 1, UNITS), Kept(1, 2, 1, UNITS)])}
ENTRY_SETS = {"none": None, "half": Kept(1, 2, 1, ENTRIES),
              "groups": KeptByGroup([Kept(0, 2, 1, ENTRIES), Kept(1, 2, 1, ENTRIES)])}
every_kind = pytest.mark.parametrize("score, feeds", KINDS)


def numbers(*shape, seed=0):
    return 0.6 * np.random.default_rng([seed, *shape]).standard_normal(shape)


def operands(score, feeds):
    """Return {name: array} of x (T, N, I), memory, weights and states; DOT has a memory like the states."""
    entries = UNITS if score == "DOT" else ENTRIES
    found = {"x": numbers(STEPS, STREAMS, 3), "memory": numbers(PLACES, STREAMS, entries, seed=1),
             "Wx": numbers(4 * UNITS, 3), "b": numbers(4 * UNITS), "Wh": numbers(4 * UNITS, UNITS),
             "h": numbers(STREAMS, UNITS, seed=2), "c": numbers(STREAMS, UNITS, seed=3),
             "Wm": numbers(UNITS, entries, seed=4), "Wo": numbers(UNITS, UNITS, seed=5)}
    if score != "DOT":
        found["Wk"] = numbers(UNITS, entries, seed=6)
    if score == "ADDITIVE":
        found |= {"Wq": numbers(UNITS, UNITS, seed=7), "v": numbers(UNITS, seed=8)}
    if feeds:
        found |= {"Wf": numbers(4 * UNITS, UNITS, seed=9), "fed": numbers(STREAMS, UNITS, seed=10)}
    return found


def ours(score, feeds, names, units=None, entries=None, mask=MASK, drop=None):
    """The decoder as a function of Tensors of these names: y, the weights, and the last states."""
    def run(*tensors):
        given = dict(zip(names, tensors, strict=True))
        own = drop if drop is not None else HiddenDrop(units=units, scale=1.0 if units is None else 1.7,
                                                         whole=units is not None)
        memory = given["memory"] if entries is None else functions.take(given["memory"], entries, 2)
        keys = memory if score == "DOT" else functions.linear(memory, given["Wk"], None,
                                                              units if score == "GENERAL" else None)
        if score == "DOT" and units is not None:
            keys = functions.take(memory, units, 2)
        gates = functions.linear(given["x"], given["Wx"], given["b"], gate_rows(units, 4))
        weights = {name: given[name] for name in ("Wh", "Wq", "v", "Wf", *("Wm", "Wo") * feeds)
                   if name in given}
        states = {name: given[name] for name in ("h", "c", "fed") if name in given}
        if units is not None:
            states |= {name: functions.take(states[name], units, 1) for name in ("h", "c")}
        backend = given["x"].backend
        found = decode(gates, memory, keys, Tensor(backend.asarray(mask, given["x"].dtype), backend=backend),
                       weights, states, score, feeds, own)
        y = found.get("y")
        if y is None:
            y = functions.tanh(functions.add(functions.linear(found["context"], given["Wm"]),
                                             functions.linear(found["state"], given["Wo"])))
        last = [functions.expand(found[name]) for name in ("h", "c")]
        return (y, found["weights"], *last)
    return run


def torchs(torch, score, feeds, names, units=None, entries=None, mask=MASK):
    """The same with PyTorch's LSTMCell, units and entries left out by masks."""
    alive = torch.tensor(np.ones(UNITS) if units is None else units.mask(STREAMS, float)
                         if isinstance(units, KeptByGroup) else units.mask(float))
    present = torch.tensor(np.ones(1) if entries is None else entries.mask(STREAMS, float)
                           if isinstance(entries, KeptByGroup) else entries.mask(float))

    def run(*tensors):
        given = {name: value.double() for name, value in zip(names, tensors, strict=True)}
        order = [*range(2 * UNITS), *range(3 * UNITS, 4 * UNITS), *range(2 * UNITS, 3 * UNITS)]
        Wf = given.get("Wf", torch.zeros(4 * UNITS, UNITS, dtype=torch.float64))
        memory = given["memory"] * present
        h, c = given["h"] * alive, given["c"] * alive
        fed = given.get("fed", torch.zeros(STREAMS, UNITS, dtype=torch.float64))
        read_by_scores, hidden = 1.7 if units is not None else 1.0, torch.tensor(mask.T) == 0
        made, weights = [], []
        for step in given["x"]:
            inputs = torch.cat([step, fed if feeds else torch.zeros_like(fed)], 1)
            W = torch.cat([given["Wx"], Wf], 1)
            cell = torch.nn.LSTMCell(inputs.shape[1], UNITS, dtype=torch.float64)
            parameters = {"weight_ih": W[order], "weight_hh": given["Wh"][order],
                          "bias_ih": given["b"][order],
                          "bias_hh": torch.zeros(4 * UNITS, dtype=torch.float64)}
            scale = 1.7 if units is not None else 1.0
            h, c = torch.func.functional_call(cell, parameters, (inputs, (h * alive * scale, c)))
            h, c = h * alive, c * alive
            read = h * read_by_scores
            if score == "ADDITIVE":
                scores = torch.tanh(memory @ given["Wk"].T + read @ given["Wq"].T) @ given["v"]
            else:
                keys = memory if score == "DOT" else memory @ given["Wk"].T
                scores = (keys * read).sum(2)
            a = torch.softmax(scores.T.masked_fill(hidden, -torch.inf), 1)
            context = torch.einsum("ns,snm->nm", a, memory)
            fed = torch.tanh(context @ given["Wm"].T + read @ given["Wo"].T)
            made.append(fed)
            weights.append(a)
        return torch.stack(made), torch.stack(weights), h, c
    return run


@every_kind
def test_against_torch(agrees_with_torch, score, feeds):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    given = operands(score, feeds)
    agrees_with_torch(ours(score, feeds, given), torchs(torch, score, feeds, given), *given.values())


@in_turn("units, entries", [("half", "half"), ("list", "none"), ("groups", "half"), ("none", "groups"),
                            ("groups", "groups")])
@every_kind
def test_units_and_entries_that_are_left_out(agrees_with_torch, score, feeds, units, entries):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    units, entries = UNIT_SETS[units], ENTRY_SETS[entries]
    if score == "DOT":
        entries = None          # all of the memory is compared with states
    given = operands(score, feeds)
    agrees_with_torch(ours(score, feeds, given, units, entries),
                      torchs(torch, score, feeds, given, units, entries), *given.values())


@every_kind
def test_gradients(score, feeds):
    given = operands(score, feeds)
    check_gradients(ours(score, feeds, given), *given.values())


@every_kind
def test_padding_changes_nothing(forward_backward, score, feeds):
    """Steps behind the end, and places of the memory that the mask hides, whatever they hold."""
    given = operands(score, feeds)
    given["memory"][MASK == 0] = 0
    want = [x.data for x in ours(score, feeds, given)(*map(Tensor, given.values()))]
    longer = dict(given)
    longer["memory"] = np.concatenate([given["memory"] + (MASK == 0)[:, :, None] * 50,
                                       np.full((2, *given["memory"].shape[1:]), 70.0)])
    longer["x"] = np.concatenate([given["x"], np.full((3, STREAMS, 3), 9.0)])
    mask = np.concatenate([MASK, np.zeros((2, STREAMS))])
    got = [x.data for x in ours(score, feeds, longer, mask=mask)(*map(Tensor, longer.values()))]
    np.testing.assert_array_equal(got[0][:STEPS], want[0])
    np.testing.assert_array_equal(got[1][:STEPS, :, :PLACES], want[1])
    assert not got[1][:, :, PLACES:].any()


@every_kind
def test_step_by_step_is_all_at_once(score, feeds):
    given = operands(score, feeds)
    tensors = {name: Tensor(value) for name, value in given.items()}
    mask = Tensor(MASK)
    keys = (tensors["memory"] if score == "DOT" else functions.linear(tensors["memory"], tensors["Wk"]))
    weights = {name: tensors[name] for name in ("Wh", "Wq", "v", "Wf", *("Wm", "Wo") * feeds)
               if name in tensors}
    states = {name: tensors[name] for name in ("h", "c", "fed") if name in tensors}
    gates = functions.linear(tensors["x"], tensors["Wx"], tensors["b"]).data
    name = "y" if feeds else "state"
    whole = decode(Tensor(gates), tensors["memory"], keys, mask, weights, states, score, feeds)
    parts = []
    for t in range(STEPS):
        found = decode(Tensor(gates[t:t + 1]), tensors["memory"], keys, mask, weights, states, score, feeds)
        states = {own: found[own] for own in states}
        parts.append(found[name].data)
    np.testing.assert_array_equal(np.concatenate(parts), whole[name].data)


def test_a_stream_without_a_place_has_no_context():
    given = operands("GENERAL", True)
    mask = MASK.copy()
    mask[:, 1] = 0
    y, weights, *_ = ours("GENERAL", True, given, mask=mask)(*map(Tensor, given.values()))
    assert not weights.data[:, 1].any() and np.isfinite(y.data).all()


def test_mean_of_places(agrees_with_torch):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    mask = torch.tensor(MASK)[:, :, None]
    agrees_with_torch(lambda memory: mean_of_places(memory, MASK),
                      lambda memory: (memory.double() * mask).sum(0) / mask.sum(0), numbers(PLACES, STREAMS,
                                                                                            ENTRIES))


@in_turn("change, message", [
    ({"memory": numbers(PLACES, 2, ENTRIES)}, "decoder: expected a memory (places, streams, entries) of 3 "
                                              "streams"),
    ({"Wk": numbers(2, ENTRIES)}, "decoder: expected keys (5, 3, 4), got (5, 3, 2)"),
    ({"Wf": numbers(4 * UNITS, 2)}, "decoder: expected Wf (16, 4), got (16, 2)"),
    ({"Wo": numbers(UNITS, 5)}, "decoder: expected Wo (4, 4), got (4, 5)")])
def test_shapes_that_do_not_fit(change, message):
    given = {**operands("GENERAL", True), **change}
    with pytest.raises(ShapeError) as error:
        ours("GENERAL", True, given)(*map(Tensor, given.values()))
    assert message in str(error.value)
