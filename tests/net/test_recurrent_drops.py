"""Dropout around and inside recurrent layers: the compacted net equals the dense one with masks; plans,
costs, states.

Embed, a drop, one or two recurrent layers, each with a drop behind it (NR, the last before the projection)
and hidden_dropout (RH), InnerProduct and SoftmaxWithLoss over axis 2.
"""

import numpy as np
import pytest
from cases import every_pair, every_value, in_turn
from recurrent_nets import (
    KINDS,
    OF_UNITS,
    STEPS,
    STREAMS,
    WIDTH,
    batch,
    check,
    drop_settings,
    net_of,
    text,
)

import minidrop as md
from minidrop.autograd import no_grad
from minidrop.backend import Backend
from minidrop.config import parse_net
from minidrop.net import planner
from minidrop.net.costs import costs
from minidrop.patterns import known_families
from minidrop.solver import run_test
from minidrop.testing import assert_matches_masked_dense, run_once

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(params=[False, True], ids=["few streams", "streams that pay"])
def pays(request, monkeypatch):
    """With few streams products stay whole where each step drops something else; here both ways."""
    monkeypatch.setattr(Backend, "pays", lambda *_: request.param)
    return request.param


# -- the contract --------------------------------------------------------------------------------------------
GROUPS = {"2": "groups: 2", "3": "groups: 3", "more than streams": "groups: 5",
          "2, each drawn": "groups: 2 grouping: INDEPENDENT"}


@every_pair(("kind", KINDS), ("family", OF_UNITS), ("groups", list(GROUPS)), ("time", ["SEQUENCE", "STEP"]))
def test_groups_of_streams_around_and_inside(kind, family, groups, time, monkeypatch):
    """With an uneven number of units: the groups keep more and fewer of them."""
    monkeypatch.setattr(Backend, "pays", lambda *_: True)
    settings = f"{drop_settings(family, time=time)} {GROUPS[groups]}"
    for both in (False, True):
        check(net_of(kind, nr=settings, rh=settings, both=both, units=11, width=9))


@every_value(("kind", KINDS), ("nr, rh", [
    ("groups: 2", ""), ("", "groups: 2"), ("groups: 2", "groups: 3"),
    ("groups: 3 time: STEP", "groups: 2 time: STEP"), ("groups: 2", "groups: 1"),
    ("groups: 1 time: STEP", "groups: 3")]))
def test_different_groups_meet(kind, nr, rh):
    check(net_of(kind, 2, nr, rh, streams=4, units=13), streams=4)


@every_value(("rate", [0, 0.3, 0.5, 0.7, 0.9]), ("family", known_families()))
def test_every_family_and_rate_around_an_lstm(family, rate):
    check(net_of("LSTM", 2, drop_settings(family, rate)))


@pytest.mark.parametrize("family", known_families())
@in_turn("kind", ["GRU", "RNN"])
def test_every_family_around_the_others(kind, family):
    check(net_of(kind, 1, drop_settings(family)))


@every_value(("rate", [0, 0.3, 0.7, 0.9]), ("family", OF_UNITS))
def test_every_family_and_rate_by_steps(family, rate, pays):
    check(net_of("LSTM", 1, drop_settings(family, rate, "STEP")))


@pytest.mark.parametrize("period", [2, 4])
@every_kind
def test_steps_that_drop_the_same(kind, period, pays):
    """Five steps share two or four patterns, in any order."""
    nr = drop_settings("PERIODIC", 0.5, "STEP") + f" step: {period}"
    net = check(net_of(kind, nr=nr, rh=nr), 4)
    assert len({kept for _, _, kept in net.draws["drop0"].groups(STEPS * STREAMS)}) < STEPS


@pytest.mark.parametrize("time", ["SEQUENCE", "STEP"])
@every_value(("rate", [0, 0.3, 0.5, 0.9]), ("family", OF_UNITS))
def test_every_family_and_rate_of_the_state(time, family, rate, monkeypatch):
    """Units are few: some draws keep none."""
    pays = Backend.pays
    monkeypatch.setattr(Backend, "pays", lambda self, rows, share, calls=1, *_: calls > 1
                        or pays(self, rows, share))
    check(net_of("LSTM", rh=drop_settings(family, rate, time)), 4)


@every_pair(("kind", KINDS), ("nr", ["", "SEQUENCE", "STEP"]), ("rh", ["SEQUENCE", "STEP"]),
            ("both", [False, True]))
def test_drops_of_inputs_and_state_together(kind, nr, rh, both, pays):
    net = net_of(kind, 2, nr and drop_settings("UNIT", 0.5, nr),
                 drop_settings("PERIODIC", 0.5, rh) + " step: 4", both=both, units=13, width=9)
    check(net, 2)


@every_pair(("nr", ["TILE", "BLOCK", "SLICE"]), ("rh", ["SEQUENCE", "STEP"]), ("both", [False, True]))
def test_a_layer_with_drops_of_another_kind_around_it(nr, rh, both):
    check(net_of("LSTM", 2, drop_settings(nr), drop_settings("ROW", 0.5, rh) + " max_period: 4", both=both),
          2)


@every_value(("sizes", [(1, 1), (1, 4), (7, 1), (6, 5)]), ("kind", KINDS))
def test_other_sizes(kind, sizes, pays):
    size = dict(zip(("steps", "streams"), sizes, strict=True))
    for time in ("SEQUENCE", "STEP"):
        net = net_of(kind, 1, drop_settings("UNIT", 0.5, time), drop_settings("UNIT", 0.5, time), units=5,
                     **size)
        check(net, 2, **size)


def test_dropped_sets_really_drop():
    """What the checks above compare: half of the units, in every place, another half in the next
    iteration."""
    net = net_of("LSTM", 2, drop_settings("UNIT", 0.5, "STEP"), drop_settings("UNIT"))
    masks = []
    for iteration in range(3):
        net.draw_patterns(iteration)
        masks.append(net.masks())
    assert {name: mask.shape for name, mask in masks[0].items()} == {
        "drop0": (STEPS, STREAMS, WIDTH), "r1": (1, STREAMS, 12), "drop1": (STEPS, STREAMS, 12),
        "r2": (1, STREAMS, 12),
        "drop2": (STEPS, STREAMS, 12)}
    for name in masks[0]:
        assert all((mask[name] != 0).mean() == 0.5 for mask in masks)
        assert any((mask[name] != masks[0][name]).any() for mask in masks)
    step = masks[0]["drop0"]
    assert (step[:, 1] == step[:, 2]).all() and any((step[t] != step[0]).any() for t in range(STEPS))
    assert ((step[:, 0] != 0) != (step[:, 1] != 0)).all()       # two groups: stream 0, and streams 1 and 2
    assert (masks[0]["r1"] != masks[0]["r2"]).any()


def test_float32():
    net = net_of("LSTM", 2, drop_settings("UNIT"), drop_settings("UNIT"), dtype="float32")
    for iteration in range(2):
        assert_matches_masked_dense(net, iteration, batch(iteration), tolerance=2e-5)


# -- the carried state of a dropped unit ---------------------------------------------------------------------
@every_kind
def test_the_carried_state_of_a_dropped_unit_stays_or_becomes_zero(kind):
    """SEQUENCE: it stays as it was, bit for bit, through the batches that drop the unit; 0 where a sequence
    begins."""
    net = net_of(kind, rh=f"{drop_settings('UNIT')} groups: 1")
    net.set_dropping(False)
    net.forward(**batch(9, whole=True))
    net.set_dropping(True)
    seen = set()
    for iteration in range(6):
        before, inputs = net.states, batch(iteration, whole=iteration < 4)
        net.draw_patterns(iteration)
        net.forward(**inputs)
        absent = net.masks()["r1"].reshape(-1) == 0
        assert absent.sum() == 6 and net.blobs["r1"].numpy()[:, :, absent].any() == (kind == "RNN")
        goes_on = inputs["cont"].all(axis=0)[:, None]
        for key, array in net.states.items():
            np.testing.assert_array_equal(array[:, absent], before[key][:, absent] * goes_on)
            assert (array[:, ~absent] != before[key][:, ~absent]).all()
        seen.update(np.flatnonzero(absent))
    assert len(seen) > 6


@every_kind
def test_by_steps_every_unit_goes_on(kind, pays):
    """STEP: only what the gates read is dropped: all states move and the top is whole."""
    net = net_of(kind, rh=drop_settings("UNIT", 0.5, "STEP"))
    for iteration in range(2):
        before = net.states
        net.draw_patterns(iteration)
        net.forward(**batch(iteration, whole=True))
        assert net.blobs["r1"].kept is None and (net.blobs["r1"].numpy() != 0).all()
        if kind != "RNN":
            np.testing.assert_array_equal(net.states["r1", "h"], net.blobs["r1"].numpy()[-1])
        assert all((array != before[key]).all() for key, array in net.states.items())


def test_the_carried_state_is_not_scaled():
    """A unit that is kept hands on what it computed; the gates and the top get it scaled."""
    net = net_of("LSTM", rh=f"{drop_settings('UNIT')} groups: 1")
    net.draw_patterns(0)
    net.forward(**batch(0))
    kept = net.masks()["r1"].reshape(-1) != 0
    np.testing.assert_allclose(net.blobs["r1"].numpy()[-1][:, kept], 2 * net.states["r1", "h"][:, kept],
                               rtol=1e-14)


# -- the plan ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nr, rh, both, expected", [
    ("UNIT", "", False, ["embed computes only the units kept by drop0",
                         "r1 reads only the units kept by drop0",
                         "drop1 gathers: blob r1 is written by r1 (LSTM), which computes all of it",
                         "scores reads only the units kept by drop1"]),
    ("", "SEQUENCE", False, ["r1 computes only the units kept by its hidden_dropout",
                             "scores reads only the units kept by r1"]),
    ("", "SEQUENCE", True, ["r1 computes only the units kept by its hidden_dropout",
                            "scores reads only the units kept by r1"]),
    ("", "STEP", False, ["r1 reads of its own top only what its hidden_dropout keeps"]),
    ("BLOCK", "SEQUENCE", False, [
        "drop0 multiplies by a mask: embed (Embed) can leave out no blocks",
        "r1 reads all of drop0: it serves its own hidden_dropout, which drops units",
        "drop0 saves nothing: no product computes or reads its blocks",
        "r1 computes only the units kept by its hidden_dropout",
        "drop1 multiplies by a mask: r1 does not compute the dropped axis as its outputs",
        "scores reads only the blocks kept by drop1"]),
    ("BLOCK", "STEP", False, [
        "drop0 multiplies by a mask: embed (Embed) can leave out no blocks",
        "r1 reads only the blocks kept by drop0",
        "r1 reads of its own top only what its hidden_dropout keeps",
        "drop1 multiplies by a mask: blob r1 is written by r1 (LSTM), which computes all of it",
        "scores reads only the blocks kept by drop1"]),
])
def test_what_the_plan_says(nr, rh, both, expected):
    net = net_of("LSTM", nr=nr and drop_settings(nr), rh=rh and drop_settings("UNIT", 0.5, rh), both=both,
                 streams=64)
    assert list(net.plan.lines()) == expected


@pytest.mark.parametrize("nr, rh, both, expected", [
    ("UNIT", "", False, ["r1 reads only the units kept by drop0",
                         "r1 computes only the units kept by drop1"]),
    ("UNIT", "", True, ["r1 reads only the units kept by drop0",
                        "drop1 gathers: blob r1 is written by r1 (RNN), which computes all of it"]),
    ("UNIT", "SEQUENCE", False, ["r1 reads only the units kept by drop0",
                                 "r1 computes only the units kept by its hidden_dropout",
                                 "r1 computes only the units kept by drop1"]),
    ("", "STEP", False, ["r1 reads of its own top only what its hidden_dropout keeps"]),
    ("BLOCK", "SEQUENCE", False, [
        "r1 reads all of drop0: it serves its own hidden_dropout, which drops units",
        "r1 computes only the units kept by its hidden_dropout",
        "drop1 multiplies by a mask: r1 serves its own hidden_dropout, which drops units"]),
])
def test_what_the_plan_says_of_an_output_product(nr, rh, both, expected):
    net = net_of("RNN", nr=nr and drop_settings(nr), rh=rh and drop_settings("UNIT", 0.5, rh), both=both,
                 streams=64)
    assert [line for line in net.plan.lines() if "r1" in line] == expected


def test_by_steps_few_streams_are_read_whole(pays):
    net = net_of("RNN", nr=drop_settings("UNIT", 0.5, "STEP"))
    lines = list(net.plan.lines())
    for reader, drop in (("r1", "drop0"), ("scores", "drop1")):
        assert (f"{reader} reads only the blocks kept by {drop}" in lines) == pays
        assert (f"{reader} reads all of {drop}: {planner.TOO_FEW_ROWS}" in lines) == (not pays)
    assert all(drop.saves == pays for drop in net.plan.drops)


def test_conventional_hidden_dropout_has_no_place_in_the_plan():
    net = net_of("LSTM", rh="dropout_ratio: 0.5", type_="CONVENTIONAL")
    assert net.plan.drops == [] and list(net.drop_layers) == ["r1"]
    assert [fact.reason for node in net.graph.nodes for fact in node.drops] == [
        "hidden_dropout_type CONVENTIONAL drops every unit of every stream on its own"]


# -- costs ---------------------------------------------------------------------------------------------------
def counted(net, monkeypatch, iteration, inputs):
    """Multiplications in all products of one forward and backward pass."""
    total = []

    def counting(original, a, b, y):
        inner = a.size * b.size / max(1, y.size)
        total.append(y.size * round(inner**0.5))
        return y

    kind = type(net.backend)
    gemm, thin = kind.gemm, kind.thin_gemm
    with monkeypatch.context() as patch:
        patch.setattr(kind, "gemm", lambda self, a, b, trans_a=False, trans_b=False, out=None: counting(
            gemm, a, b, gemm(self, a, b, trans_a, trans_b, out)))
        patch.setattr(kind, "thin_gemm", lambda self, a, b,
                      trans_b=False: counting(thin, a, b, thin(self, a, b, trans_b)))
        net.clear_grads()
        net.draw_patterns(iteration)
        net.forward(**inputs)
        net.backward()
    return sum(total)


@every_pair(("nr, rh", [("", ""), ("SEQUENCE", ""), ("STEP", ""), ("", "SEQUENCE"), ("", "STEP"),
                        ("SEQUENCE", "SEQUENCE"), ("SEQUENCE", "STEP"), ("STEP", "STEP")]),
            ("kind", KINDS), ("both", [False, True]))
def test_check_announces_what_is_multiplied(kind, nr, rh, both, monkeypatch):
    """Every pattern of UNIT has one size here: each iteration costs exactly the mean."""
    monkeypatch.setattr(Backend, "pays", lambda *_: True)
    size = {"steps": 6, "streams": 8}
    net = net_of(kind, 2, nr and drop_settings("UNIT", 0.5, nr), rh and drop_settings("UNIT", 0.5, rh),
                 both=both, units=12, **size)
    rows = costs(net)
    for iteration in range(2):
        assert 2 * counted(net, monkeypatch, iteration, batch(iteration, **size)) == pytest.approx(
            sum(row.expected for row in rows), rel=1e-12)
    assert (sum(row.expected for row in rows) < sum(row.dense for row in rows)) == bool(nr or rh)
    net.set_dropping(False)
    assert 2 * counted(net, monkeypatch, 0,
                       batch(0, **size)) == pytest.approx(sum(row.dense for row in rows), rel=1e-12)


@pytest.mark.parametrize("rh", ["", "SEQUENCE", "STEP"])
@pytest.mark.parametrize("frozen", ["r1", "r1 and embed"])
def test_of_weights_that_are_not_trained_no_gradient_is_announced(frozen, rh, monkeypatch):
    """The gradient goes on through the state if something above is trained."""
    pays = Backend.pays
    monkeypatch.setattr(Backend, "pays", lambda self, rows, share, calls=1, *_: calls > 1
                        or pays(self, rows, share))
    fixed = "param { lr_mult: 0 } " * 3
    description = text(rh=rh and drop_settings("UNIT", 0.5, rh)).replace('type: "LSTM"', f'type: "LSTM" '
                                                                         f'{fixed}')
    if "embed" in frozen:
        description = description.replace('type: "Embed"', f'type: "Embed" {fixed[:len(fixed) // 3 * 2]}')
    net = md.Net(parse_net(description), device="cpu", dtype="float64")
    got, row = counted(net, monkeypatch, 0, batch(0)), {row.node.name: row for row in costs(net)}
    assert 2 * got == pytest.approx(sum(one.expected for one in row.values()), rel=1e-12)
    passes, state, outside = (1 if "embed" in frozen
                              else 2), 2 * STEPS * STREAMS * 12 * 48, 2 * STEPS * STREAMS * WIDTH * 48
    assert row["r1"].dense == passes * (state + outside)
    factor = {"": (1, 1), "SEQUENCE": (0.25, 0.5), "STEP": (0.5, 1)}[rh]
    assert row["r1"].expected == passes * (factor[0] * state + factor[1] * outside)


def test_costs_by_hand():
    """SEQUENCE: gates x units falls to a quarter; STEP: two of the three products to a half."""
    state = 2 * STEPS * 64 * 12 * 48
    outside = 3 * 2 * STEPS * 64 * WIDTH * 48
    for time, expected in (("SEQUENCE", 3 * state / 4 + outside / 2),
                           ("STEP", 2 * state / 2 + state + outside)):
        row = {row.node.name: row
               for row in costs(net_of("LSTM", rh=drop_settings("UNIT", 0.5, time), streams=64))}["r1"]
        assert (row.dense, row.expected) == (3 * state + outside, pytest.approx(expected))


# -- a net as it was -----------------------------------------------------------------------------------------
def state_copies(net):
    return {key: array.copy() for key, array in net.states.items()}


def assert_states(net, expected):
    assert set(net.states) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(net.states[key], array)


RESTING = [("UNIT", "SEQUENCE", "APPROX"), ("UNIT", "STEP", "APPROX"), ("UNIT", "SEQUENCE", "CONVENTIONAL")]


@pytest.mark.parametrize("family, time, type_", RESTING)
@every_kind
def test_rerun_begins_where_the_pass_without_drops_began(kind, family, time, type_):
    net = net_of(kind, 2, drop_settings("UNIT"), drop_settings(family, 0.5, time), type_, phase="TEST")
    net.forward(**batch(0, whole=True))
    begin = net.states
    with no_grad():
        net.set_dropping(False)
        net.forward(**batch(1, whole=True))
        after = state_copies(net)
        net.set_dropping(True)
        again = []
        for iteration in (0, 1, 0):
            net.draw_patterns(iteration)
            again.append(net.rerun()["loss"].numpy())
            assert_states(net, after)
        for iteration, got in enumerate(again[:2]):
            net.set_states(begin)
            net.draw_patterns(iteration)
            np.testing.assert_allclose(net.forward(**batch(1, whole=True))["loss"].numpy(), got, rtol=1e-14)
    assert again[0] == again[2] != again[1]


@pytest.mark.parametrize("family, time, type_", RESTING)
def test_monte_carlo_leaves_the_states_as_they_were(family, time, type_):
    net = net_of("LSTM", 1, "", drop_settings(family, 0.5, time), type_, phase="TEST")
    net.forward(**batch(0, whole=True))
    before = state_copies(net)
    result = md.monte_carlo(net, 4, ["scores"], **batch(1, whole=True))
    assert_states(net, before)
    scores = []
    with no_grad(), net.restored():
        net.set_dropping(True)
        for iteration in range(4):
            net.set_states(before)
            net.draw_patterns(iteration)
            net.forward(**batch(1, whole=True))
            scores.append(net.blobs["scores"].numpy())
    np.testing.assert_allclose(result.blobs["scores"].mean, np.mean(scores, axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.blobs["scores"].std, np.std(scores, axis=0, ddof=1), rtol=0, atol=1e-13)
    assert result.blobs["scores"].std.min() >= 0 and result.blobs["scores"].std.max() > 0


def test_restored_puts_states_back_also_after_an_error():
    net = net_of("LSTM", 2, phase="TEST")
    net.forward(**batch(0, whole=True))
    before = state_copies(net)
    with net.restored():
        net.forward(**batch(1))
        assert (net.states["r1", "h"] != before["r1", "h"]).any()
    assert_states(net, before)
    with pytest.raises(ZeroDivisionError), net.restored():
        net.reset_states()
        1 / 0       # noqa: B018
    assert_states(net, before)


def test_the_contract_does_not_move_the_states():
    net = net_of("LSTM", 1, rh=drop_settings("UNIT"))
    net.forward(**batch(0, whole=True))
    before = state_copies(net)
    run_once(net, 0, batch(1))
    assert_matches_masked_dense(net, 1, batch(1))
    assert_states(net, before)


CONSTANT = ('layer { name: "in" type: "DummyData" top: "data" top: "label" top: "cont" dummy_data_param { '
            + f"shape {{ dim: {STEPS} dim: {STREAMS} }} " * 3
            + 'data_filler { type: "constant" value: 2 } data_filler { type: "constant" value: 3 } '
              'data_filler { type: "constant" value: 1 } } }')


def test_a_test_begins_with_all_states_zero():
    """The same batch twice is not the same, since the state goes on; but every test begins anew."""
    net = net_of("LSTM", 1, source=CONSTANT, phase="TEST")
    first, second = run_test(net, 1), run_test(net, 2)
    assert run_test(net, 1) == first and run_test(net, 2) == second and first["loss"] != second["loss"]
    assert np.any(net.states["r1", "h"])


def test_monte_carlo_over_batches_begins_with_all_states_zero():
    net = net_of("LSTM", 1, "", drop_settings("UNIT"), source=CONSTANT, phase="TEST")
    first = md.evaluate_monte_carlo(net, 2, 3)
    assert not any(array.any() for array in net.states.values())
    net.set_dropping(False)
    assert first.outputs["loss"].deterministic == pytest.approx(run_test(net, 2)["loss"], rel=1e-12)
    before = state_copies(net)
    again = md.evaluate_monte_carlo(net, 2, 3)
    assert_states(net, before)
    for part in ("deterministic", "mean", "std"):
        np.testing.assert_array_equal(getattr(again.outputs["loss"], part),
                                      getattr(first.outputs["loss"], part))


# -- when leaving out by steps pays --------------------------------------------------------------------------
@pytest.mark.parametrize("groups", [1, 2])
@in_turn("streams, rate, steps, pays",
         [(32, 0.5, 20, True), (31, 0.5, 20, False), (100, 0, 20, False), (100, 0.5, 3, False),
          (10, 0.75, 20, False), (11, 0.75, 20, True)])
def test_when_the_gates_skip_what_a_step_drops(streams, rate, steps, pays, groups):
    """As many streams for each group."""
    settings = f'{drop_settings("UNIT", rate, "STEP")} groups: {groups}'
    net = net_of("LSTM", rh=settings, streams=groups * streams, steps=steps, units=24)
    assert net.layers["r1"].plan.skips == pays
    line = "r1 reads of its own top only what its hidden_dropout keeps" if pays else (
        f"r1 multiplies what its hidden_dropout drops by a mask: {planner.TOO_FEW_ROWS}")
    assert line in list(net.plan.lines())
    state = next(row for row in costs(net) if row.node.name == "r1")
    assert (state.expected < state.dense) == pays


@pytest.mark.parametrize("family, streams, pays", [("UNIT", 399, False), ("UNIT", 400, True),
                                                   ("PERIODIC", 100, False), ("ROW", 120, True)])
@pytest.mark.parametrize("groups", [1, 2])
def test_when_products_skip_what_a_step_drops(family, streams, pays, groups):
    """Rows with one pattern: UNIT never draws one twice, PERIODIC has one a unit, ROW up to 3 has 6."""
    streams *= groups if family == "UNIT" else 1
    settings = f'{drop_settings(family, 0.5, "STEP")} groups: {groups}'
    net = net_of("LSTM", nr=settings, streams=streams, steps=20)
    drop = next(drop for drop in net.plan.drops if drop.node.name == "drop0")
    assert bool(drop.consumers) == pays
    assert pays or (drop.unread[0][0].name, drop.unread[0][1]) == ("r1", planner.TOO_FEW_ROWS)
