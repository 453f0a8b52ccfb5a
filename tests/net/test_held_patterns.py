"""Patterns held for some steps (steps_per_pattern), around and inside recurrent layers: the compacted net
equals the dense one with masks; which patterns, products, costs, plans."""

import numpy as np
import pytest
from cases import every_pair, in_turn
from recurrent_nets import KINDS, OF_UNITS, batch, check, drop_settings, net_of, text

import minidrop as md
from minidrop import ConfigError, ShapeError
from minidrop.backend import Backend
from minidrop.backend.numpy.backend import NumpyBackend
from minidrop.config import parse_net
from minidrop.layers import base
from minidrop.layers.data_layer import DataLayer
from minidrop.net import planner
from minidrop.net.costs import costs
from minidrop.testing import assert_matches_masked_dense, run_once

STEPS, STREAMS = 7, 4
SIZE = {"steps": STEPS, "streams": STREAMS}
HELD = (1, 2, 3, 5, STEPS, STEPS + 3)       # 7 is a multiple of none but 1 and itself


def held(steps, family="PERIODIC", more="groups: 1", rate=0.5):
    return f'dropout_ratio: {rate} pattern: "{family}" steps_per_pattern: {steps} {more}'


@pytest.fixture
def pays(monkeypatch):
    """These nets are so small that no product of them would be taken apart."""
    monkeypatch.setattr(Backend, "pays", lambda *_: True)


# -- the contract --------------------------------------------------------------------------------------------
@every_pair(("kind", KINDS), ("steps", HELD), ("family", OF_UNITS), ("groups", ["groups: 1", "groups: 2"]),
            ("places", ["NR", "RH", "NR+RH"]), ("both", [False, True]))
def test_every_family_and_place(kind, steps, family, groups, places, both, pays):
    settings = held(steps, family, groups)
    nr, rh = (settings if place in places else "" for place in ("NR", "RH"))
    check(net_of(kind, nr=nr, rh=rh, both=both, units=11, width=9, **SIZE), 2, **SIZE)


@in_turn("steps", HELD)
@pytest.mark.parametrize("rate", [0, 0.3, 0.7, 0.9])
def test_rates_and_two_layers(rate, steps, pays):
    """Units are few: some patterns keep none, of rate 0 all."""
    check(net_of("LSTM", 2, held(steps, "UNIT", rate=rate), held(3, "PERIODIC", "groups: 2", rate), units=5,
                 width=5, **SIZE), 2, **SIZE)


@in_turn("nr, rh", [(held(2), held(3)), (held(3), "time: STEP"), ("time: STEP", held(2)),
                    ("time: SEQUENCE", held(5)), (held(5), "time: SEQUENCE"),
                    (held(2, "UNIT", "groups: 3"), held(3, "UNIT", "groups: 2")),
                    ('pattern: "BLOCK" block_samples: 4 block_units: 2', held(3)),
                    (held(4) + " step: 2", held(2) + " step: 2")])
def test_unlike_drops_meet(nr, rh, pays):
    """Also: patterns of two kinds, so that runs that do not touch share one."""
    check(net_of("GRU", 2, nr, rh, units=12, width=10, **SIZE), 2, **SIZE)


@in_turn("steps", HELD)
def test_where_it_does_not_pay(steps):
    check(net_of("LSTM", nr=held(steps), rh=held(steps, more="groups: 2"), **SIZE), 2, **SIZE)


FAN_OUT = """
layer {{ name: "in" type: "Input" top: "x" top: "cont" top: "t" input_param {{
         shape {{ dim: 7 dim: 4 dim: 9 }} shape {{ dim: 7 dim: 4 }} shape {{ dim: 7 dim: 4 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {{ num_output: 10 axis: 2
         weight_filler {{ type: "uniform" min: -0.6 max: 0.6 }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "ip" top: "ip" }}
layer {{ name: "drop" type: "ApproxDropout" bottom: "ip" top: "drop" approx_dropout_param {{ {0} }} }}
layer {{ name: "r" type: "LSTM" bottom: "drop" bottom: "cont" top: "r" recurrent_param {{ num_output: 6
         weight_filler {{ type: "uniform" min: -0.6 max: 0.6 }} hidden_dropout {{ {0} }} }} }}
layer {{ name: "straight" type: "InnerProduct" bottom: "drop" top: "straight" inner_product_param {{
         num_output: 6 axis: 2 weight_filler {{ type: "uniform" min: -0.6 max: 0.6 }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "r" bottom: "straight" top: "sum" }}
layer {{ name: "out" type: "InnerProduct" bottom: "sum" top: "out" inner_product_param {{
         num_output: 3 axis: 2 weight_filler {{ type: "uniform" min: -0.6 max: 0.6 }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "t" top: "loss" }}
"""


@in_turn("steps", HELD)
@pytest.mark.parametrize("groups", [1, 2])
def test_fan_out(groups, steps, pays):
    """A product computes only what the drop keeps; a recurrent layer and a product read it."""
    net = md.Net(parse_net(FAN_OUT.format(held(steps, "PERIODIC", f"groups: {groups}"))), "TRAIN", "cpu",
                 "float64")
    drop = net.plan.drops[0]
    assert drop.producer.name == "ip" and [node.name for node in drop.consumers] == ["r", "straight"]
    rng = np.random.default_rng(0)
    for iteration in range(2):
        assert_matches_masked_dense(net, iteration, {
            "x": rng.standard_normal((STEPS, STREAMS, 9)), "t": rng.standard_normal((STEPS, STREAMS, 3)),
            "cont": (rng.random((STEPS, STREAMS)) > 0.2).astype(float)})


# -- which patterns ------------------------------------------------------------------------------------------
def assert_same_runs(one, other, size=SIZE):
    for iteration in range(2):
        for got, wanted in zip(run_once(one, iteration, batch(iteration, **size)),
                               run_once(other, iteration, batch(iteration, **size)), strict=True):
            assert got.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_array_equal(got[name], wanted[name])


@in_turn("kind, groups", [("LSTM", 1), ("GRU", 2), ("RNN", 2)])
def test_one_step_is_time_step_bit_for_bit(kind, groups, pays):
    step, one = (drop_settings("PERIODIC", 0.5, "STEP") + f" groups: {groups} {more}"
                 for more in ("", "steps_per_pattern: 1"))
    alone = held(1, more=f"groups: {groups}")
    for settings in (one, alone):
        assert_same_runs(net_of(kind, nr=settings, rh=settings, **SIZE),
                         net_of(kind, nr=step, rh=step, **SIZE))


@in_turn("steps", [STEPS, STEPS + 3])
def test_all_steps_between_layers_are_time_sequence_bit_for_bit(steps):
    nets = [net_of("LSTM", nr=nr, **SIZE)
            for nr in (held(steps), "groups: 1", held(steps) + " time: SEQUENCE")]
    assert_same_runs(nets[0], nets[1])
    assert_same_runs(nets[2], nets[1])
    assert list(nets[0].plan.lines()) == list(nets[1].plan.lines())


def test_a_state_is_read_in_part_for_all_steps_or_has_units_absent():
    """One pattern for the gates of every step leaves the top whole; with time SEQUENCE that is not so."""
    for settings, whole in ((held(STEPS + 3), True), (held(STEPS + 3) + " time: SEQUENCE", False)):
        net = net_of("LSTM", rh=settings, **SIZE)
        net.draw_patterns(0)
        net.forward(**batch(0, **SIZE))
        assert (net.blobs["r1"].kept is None) == whole


@in_turn("steps", HELD)
def test_the_batches_steps_are_counted_on(steps):
    """The patterns are those of the sequence, in order, over the borders of batches."""
    net = net_of("LSTM", nr=held(steps, "UNIT"), rh=held(steps, "UNIT"), **SIZE)
    site, runs = net.layers["r1"].site, -(-STEPS // steps)
    for iteration in (0, 1, 5):
        net.draw_patterns(iteration)
        masks = net.masks()
        expected = [site.sequence.at(iteration * runs + t // steps).kept(12).mask() for t in range(STEPS)]
        np.testing.assert_array_equal(masks["r1"][:, 0] != 0, expected)
        inputs = np.broadcast_to(masks["drop0"], (STEPS, 1, 10)) if runs == 1 else masks["drop0"]
        assert all((inputs[t] == inputs[t // steps * steps]).all() for t in range(STEPS))


def test_a_drawing_depends_on_nothing_but_the_iteration():
    nets = [net_of("LSTM", nr=held(3, more="groups: 2"), rh=held(2, more="groups: 2"), **SIZE)
            for _ in range(2)]
    for iteration in range(4):
        nets[0].draw_patterns(iteration)
    nets[1].draw_patterns(3)
    assert nets[0].draws == nets[1].draws


@pytest.mark.parametrize("time", ["steps_per_pattern: 3", "steps_per_pattern: 9", "time: STEP"])
def test_conventional(time):
    """Every unit of every stream by itself, anew after three steps."""
    net = net_of("LSTM", rh=f"dropout_ratio: 0.5 {time}", type_="CONVENTIONAL", units=40, **SIZE)
    layer = net.layers["r1"]
    net.draw_patterns(0)
    from minidrop.autograd import Tensor
    drop = layer.hidden.of(Tensor(np.zeros((STEPS, STREAMS, 10))), layer.drawn, layer.plan.skips)
    assert drop.mask.shape == (STEPS, STREAMS, 40) and not drop.whole
    length = layer.hidden.held
    for t in range(1, STEPS):
        assert (drop.mask[t] == drop.mask[t - 1]).all() == (t % length != 0)


# -- batches shorter than declared ---------------------------------------------------------------------------
@in_turn("steps", HELD)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "ELMAN"])
def test_shorter_batches(kind, groups, steps, pays):
    """Of fewer steps, and in the same net of all; a run that begins holds for what there is of it."""
    settings = held(steps, "UNIT", f"groups: {groups}")
    net = net_of(kind, 2, settings, settings, **SIZE)
    for iteration, length in enumerate((4, STEPS, 1, 5)):
        assert_matches_masked_dense(net, iteration, batch(iteration, length, STREAMS))


class Unlike:
    """Batches that differ in their numbers of steps and of streams."""

    sizes = ((STEPS, STREAMS), (5, 6), (3, 2), (STEPS, 1))

    def batch(self, n):
        return batch(n, *self.sizes[n])

    def where(self, n, place):
        return ""


@pytest.fixture
def unlike():
    with base._types.forgetting():
        @md.register_layer("Unlike")
        class _(DataLayer):
            tops = (3, 3)
            varies = True

            def setup(self):
                self.batches = Unlike()
                return [Unlike.sizes[0]] * 3
        yield 'layer { name: "in" type: "Unlike" top: "data" top: "label" top: "cont" }'


@in_turn("groups", [1, 2])
@pytest.mark.parametrize("apart", [False, True])
def test_batches_of_other_streams_too(apart, groups, unlike, monkeypatch):
    """Where a run ends depends on the steps of a batch, not on its number of samples."""
    monkeypatch.setattr(Backend, "pays", lambda *_: apart)
    settings = held(3, "UNIT", f"groups: {groups}")
    net = net_of("LSTM", 2, settings, settings, both=True, source=unlike, **SIZE)
    for n, (steps, streams) in enumerate(Unlike.sizes):
        net.seek({"in": n})
        assert_matches_masked_dense(net, n)
        net.forward()
        lives = net.blobs["drop0"].numpy() != 0
        assert lives.shape[:2] == (steps, streams) and not lives.all()
        assert all((lives[t] == lives[t // 3 * 3]).all() for t in range(steps))
        if groups == 1:
            assert (lives == lives[:, :1]).all()


@in_turn("steps", HELD)
def test_shorter_batches_count_as_whole_ones(steps):
    """The patterns of a batch are those of the first steps of a whole one, whatever came before."""
    net = net_of("LSTM", nr=held(steps, "UNIT"), rh=held(steps, "UNIT"), **SIZE)
    inputs = batch(0, whole=True, **SIZE)
    found = []
    for length in (STEPS, 4):
        net.reset_states()
        net.draw_patterns(3)
        net.forward(**{name: array[:length] for name, array in inputs.items()})
        found.append(net.blobs["r1"].numpy())
    np.testing.assert_allclose(found[1], found[0][:4], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", ["nr", "rh"])
@in_turn("settings", ["time: STEP", held(3), held(STEPS + 3)])
def test_a_longer_batch_is_refused_where_steps_differ(settings, place):
    net = net_of("LSTM", **{place: settings}, **SIZE)
    net.draw_patterns(0)
    inputs = batch(0, STEPS + 1, STREAMS)
    if place == "nr" and settings == held(STEPS + 3):
        net.forward(**inputs)       # between layers, that is one pattern for the whole batch
        return
    with pytest.raises(ShapeError, match="draws patterns for at most 7 steps, but the batch has 8; build the "
                                         "net for its longest batch"):
        net.forward(**inputs)


@pytest.mark.parametrize("length", [4, 7])
def test_conventional_masks_of_a_shorter_batch_are_the_first(length):
    from minidrop.autograd import Tensor
    net = net_of("LSTM", rh="dropout_ratio: 0.5 steps_per_pattern: 3", type_="CONVENTIONAL", **SIZE)
    layer = net.layers["r1"]
    net.draw_patterns(0)
    masks = [layer.hidden.of(Tensor(np.zeros((steps, STREAMS, 10))), layer.drawn, False).mask
             for steps in (STEPS, length)]
    np.testing.assert_array_equal(masks[1], masks[0][:length])


# -- the products --------------------------------------------------------------------------------------------
def products(net, monkeypatch, iteration=0, size=SIZE):
    """The (rows, inner, columns) of all products of one pass forward and back, those by a state apart."""
    kind, made, thin = type(net.backend), [], []
    gemm, thin_gemm, inside = kind.gemm, kind.thin_gemm, []

    def any_gemm(self, a, b, trans_a=False, trans_b=False, out=None):
        y = gemm(self, a, b, trans_a, trans_b, out)
        if not inside:
            made.append((y.shape[0], a.shape[0 if trans_a else 1], y.shape[1]))
        return y

    def any_thin(self, a, b, trans_b=False):
        inside.append(1)
        y = thin_gemm(self, a, b, trans_b)
        inside.pop()
        thin.append((y.shape[0], a.shape[1], y.shape[1]))
        return y

    with monkeypatch.context() as patch:
        patch.setattr(kind, "gemm", any_gemm)
        patch.setattr(kind, "thin_gemm", any_thin)
        net.clear_grads()
        net.draw_patterns(iteration)
        net.forward(**batch(0, **size))
        net.backward()
    return made, thin


@in_turn("steps", [2, 3, 5, 7])
@pytest.mark.parametrize("groups", [1, 2])
def test_neighbouring_steps_with_one_pattern_are_one_product(groups, steps, monkeypatch, pays):
    """UNIT draws no pattern twice here: a product for each run of steps and group, of that run's rows."""
    net = net_of("LSTM", nr=held(steps, "UNIT", f"groups: {groups}"), rh=held(steps, "UNIT",
                 f"groups: {groups}"), units=60, width=40, **SIZE)
    made, thin = products(net, monkeypatch)
    rows = [min(steps, STEPS - t) * STREAMS // groups for t in range(0, STEPS, steps)] * groups
    if len(rows) > groups:                                      # else between layers it is time SEQUENCE
        assert sorted(one[0] for one in made if one[1:] == (20, 240)) == sorted(rows)       # x W^T
        assert sorted(one[1] for one in made if one[::2] == (240, 20)) == sorted(rows)      # its gradient
    assert sorted(one[1] for one in made if one[::2] == (240, 30)) == sorted(rows)          # of the state
    streams = STREAMS // groups
    assert sorted(thin) == sorted([(streams, 30, 240), (streams, 240, 30)] * STEPS * groups)


def test_the_weights_of_a_pattern_are_gathered_once(monkeypatch, pays):
    gathered = []
    kind, submatrix = NumpyBackend, NumpyBackend.submatrix
    monkeypatch.setattr(kind, "submatrix", lambda self, W, rows, cols: gathered.append(
        W.shape == (12, 36) and rows is not None) or submatrix(self, W, rows, cols))
    for steps in (1, 2, 3, 7):
        net = net_of("GRU", rh=held(steps, "UNIT"), **SIZE)
        net.draw_patterns(0)
        net.forward(**batch(0, **SIZE))
        forward = sum(gathered)
        net.backward()
        runs = -(-STEPS // steps)
        # Back through the last run first, whose weights are there still.
        assert (forward, sum(gathered) - forward) == (runs, runs - 1)
        gathered.clear()


@in_turn("steps", [2, 3, 5, 7])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "ELMAN"])
@pytest.mark.parametrize("both", [False, True])
def test_check_announces_what_is_multiplied(kind, both, steps, monkeypatch, pays):
    """Every pattern of UNIT has one size here: each iteration costs exactly the mean."""
    size = {"steps": 7, "streams": 4}
    net = net_of(kind, 2, held(steps, "UNIT"), held(steps, "UNIT"), both=both, units=12, **size)
    expected = sum(row.expected for row in costs(net))
    for iteration in range(2):
        made, thin = products(net, monkeypatch, iteration, size)
        assert 2 * sum(a * b * c for a, b, c in (*made, *thin)) == pytest.approx(expected, rel=1e-12)


def test_costs_of_a_state_by_hand(monkeypatch):
    """All three products fall to a half; where a product for each pattern does not pay, two of them."""
    for apart, gradient in ((True, 0.5), (False, 1)):
        monkeypatch.setattr(Backend, "pays",
                            lambda self, rows, share, calls, held, split, apart=apart: calls > 1 or apart)
        row = {row.node.name: row for row in costs(net_of("LSTM", rh=held(3), **SIZE))}["r1"]
        state, outside = 2 * 28 * 12 * 48, 3 * 2 * 28 * 10 * 48
        assert row.dense == 3 * state + outside
        assert row.expected == pytest.approx((1 + gradient) * state + outside)


# -- when it pays --------------------------------------------------------------------------------------------
@in_turn("steps, streams, pays", [(1, 20, False), (1, 32, True), (2, 16, True), (2, 15, False), (5, 7, True),
                                  (5, 6, False), (20, 2, True), (20, 1, False), (30, 2, True),
                                  (7, 5, True), (7, 4, False)])     # 7, 7, 6: 6.67 in the mean
def test_when_the_gates_skip_what_a_pattern_drops(steps, streams, pays):
    """Streams times steps of a pattern: 32 rows at rate 0.5."""
    net = net_of("LSTM", rh=held(steps), streams=streams, steps=20)
    assert net.layers["r1"].plan.skips == pays


@in_turn("steps, streams, pays", [(1, 32, True), (1, 31, False), (2, 32, True), (2, 31, False), (5, 32, True),
                                  (5, 31, False), (20, 32, True), (20, 31, False)])
@pytest.mark.parametrize("groups", [2, 3])
def test_when_the_gates_skip_what_groups_drop(groups, steps, streams, pays):
    """As many rows for each group, which also has 32 streams of its own: its products are no thinner."""
    net = net_of("LSTM", rh=held(steps, more=f"groups: {groups}"), streams=groups * streams, steps=20)
    assert net.layers["r1"].plan.skips == pays


@in_turn("steps, streams, pays", [(1, 399, False), (1, 400, True), (2, 128, True), (2, 127, False),
                                  (5, 52, True), (5, 51, False), (10, 26, True), (10, 25, False),
                                  (20, 1, True), (7, 39, True), (7, 38, False)])     # 7, 7, 6: mean 6.67
@pytest.mark.parametrize("groups", [1, 2])
def test_when_products_skip_what_a_pattern_drops(groups, steps, streams, pays):
    """Rows of a pattern: 400 of single steps at rate 0.5, else 256; UNIT never draws one twice. A single one
    always pays."""
    net = net_of("LSTM", nr=held(steps, "UNIT", f"groups: {groups}"), streams=groups * streams, steps=20)
    drop = next(drop for drop in net.plan.drops if drop.node.name == "drop0")
    assert bool(drop.consumers) == pays
    assert pays or (drop.unread[0][0].name, drop.unread[0][1]) == ("r1", planner.TOO_FEW_ROWS)


@in_turn("steps, streams, parts", [(1, 400, False), (20, 2, True), (10, 26, True), (10, 25, False)])
@pytest.mark.parametrize("groups", [1, 2])
def test_when_the_gradient_of_the_gates_is_a_product_for_each_pattern(groups, steps, streams, parts):
    net = net_of("LSTM", rh=held(steps, "UNIT", f"groups: {groups}"), streams=groups * streams, steps=20)
    site = net.layers["r1"].site
    assert site.parts_gradient(net.backend, 20 * groups * streams) == parts


# -- mistakes ------------------------------------------------------------------------------------------------
MISTAKES = [
    ("time: STEP steps_per_pattern: 3", "time STEP and steps_per_pattern: 3 contradict each other: a pattern "
     "holds for 1 step or for 3; remove one of them"),
    ("time: SEQUENCE steps_per_pattern: 3", "time SEQUENCE and steps_per_pattern: 3 contradict each other: a "
     "pattern holds for all 7 steps or for 3; remove one of them"),
    ('pattern: "TILE" steps_per_pattern: 3', "steps_per_pattern: 3 needs a pattern of units, got TILE, which "
     "drops weights; remove steps_per_pattern, or set pattern to PERIODIC"),
    ("scale: PATTERN steps_per_pattern: 3", "steps_per_pattern: 3 has one scale for all steps, RATE; remove "
     "scale"),
]


@in_turn("settings, message", MISTAKES)
@pytest.mark.parametrize("place", ["nr", "rh"])
def test_what_contradicts_is_refused(place, settings, message):
    with pytest.raises(ConfigError) as caught:
        net_of("LSTM", **{place: settings}, **SIZE)
    told = str(caught.value)
    assert message in told
    assert "layer 'drop0'" in told or "layer 'r1'" in told


@in_turn("time", ["time: STEP", "time: SEQUENCE"])
def test_conventional_refuses_what_contradicts(time):
    with pytest.raises(ConfigError, match="steps_per_pattern: 3 contradict each other"):
        net_of("LSTM", rh=f"{time} steps_per_pattern: 3", type_="CONVENTIONAL", **SIZE)


def test_it_is_for_sequences():
    description = ('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } } '
                   'layer { name: "d" type: "ApproxDropout" bottom: "x" top: "y" approx_dropout_param { '
                   'steps_per_pattern: 2 } }')
    with pytest.raises(ConfigError, match=r"steps_per_pattern: 2 is for sequences \(steps, streams, units\), "
                                          "but the bottom has 2 axes"):
        md.Net(parse_net(description), device="cpu")


def test_another_family_clears_it(caplog):
    from minidrop.net.conversion import convert_dropout
    message = parse_net(text(nr=held(3))).message
    caplog.set_level("INFO", logger="minidrop.net.conversion")
    convert_dropout(message, "approx:TILE")
    assert not any(layer.approx_dropout_param.HasField("steps_per_pattern") for layer in message.layer)
    assert "steps_per_pattern: 3" in caplog.text
