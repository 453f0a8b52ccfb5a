"""Dropout around and inside a translation net: the compacted net equals the dense one with masks; padding
and shorter batches change nothing."""

import numpy as np
import pytest
from cases import every_pair, in_turn

import minidrop as md
from minidrop import ConfigError, ShapeError
from minidrop.backend import Backend
from minidrop.config import minidrop_pb2 as pb
from minidrop.config import parse_net
from minidrop.net.conversion import prepare_nets
from minidrop.testing import assert_matches_masked_dense

PLACES, STEPS, STREAMS, WORDS, UNITS = 6, 5, 4, 9, 8
UNIFORM = ('weight_filler { type: "uniform" min: -0.6 max: 0.6 } '
           'bias_filler { type: "uniform" min: -0.5 max: 0.5 }')
SHAPES = {"source": PLACES, "source_mask": PLACES, "cont": PLACES, "target": STEPS, "label": STEPS}


def text(drops=("", "", "", ""), hidden="", settings="", places=PLACES, steps=STEPS, streams=STREAMS,
         units=UNITS):
    """An encoder and a decoder; `drops` are the settings of those of both embeddings, of the memory and of
    the top, `hidden` is of the decoder's state."""
    lines = [f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: '
             f'{places if length == PLACES else steps} dim: {streams} }} }} }}'
             for name, length in SHAPES.items()]

    def drop(number, blob):
        if drops[number]:
            lines.append(f'layer {{ name: "drop{number}" type: "ApproxDropout" bottom: "{blob}" top: '
                         f'"drop{number}" approx_dropout_param {{ {drops[number]} }} }}')
        return f"drop{number}" if drops[number] else blob

    def embed(name, number):
        lines.append(f'layer {{ name: "e_{name}" type: "Embed" bottom: "{name}" top: "e_{name}" embed_param '
                     f'{{ num_output: 6 input_dim: {WORDS} {UNIFORM} }} }}')
        return drop(number, f"e_{name}")

    lines.append(f'layer {{ name: "encoder" type: "LSTM" bottom: "{embed("source", 0)}" bottom: "cont" top: '
                 f'"encoder" recurrent_param {{ num_output: {units // 2} bidirectional: true {UNIFORM} }} }}')
    memory = drop(2, "encoder")
    hidden = f"hidden_dropout {{ {hidden} }}" if hidden else ""
    lines.append(f'layer {{ name: "decoder" type: "AttentionDecoder" bottom: "{embed("target", 1)}" bottom: '
                 f'"{memory}" bottom: "source_mask" top: "decoder" decoder_param {{ num_output: {units} '
                 f'{UNIFORM} {hidden} {settings} }} }}')
    lines.append(f'layer {{ name: "scores" type: "InnerProduct" bottom: "{drop(3, "decoder")}" top: "scores" '
                 f'inner_product_param {{ num_output: {WORDS} axis: 2 {UNIFORM} }} }}')
    lines.append('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" '
                 'softmax_param { axis: 2 } loss_param { ignore_label: -1 } }')
    return "\n".join(lines)


def net_of(*args, phase="TRAIN", **options):
    return md.Net(parse_net(text(*args, **options)), phase, "cpu", "float64", 0)


def batch(seed, places=PLACES, steps=STEPS, streams=STREAMS):
    """Sentences of different lengths, the first of each as long as they may be, padded with other numbers."""
    rng = np.random.default_rng(seed)
    lengths = [np.r_[most, rng.integers(1, most + 1, streams - 1)] for most in (places, steps)]
    mask, inside = (np.arange(most)[:, None] < own for most, own in zip((places, steps), lengths,
                                                                        strict=True))
    cont = mask.astype(float)
    cont[0] = 0
    found = {"source": rng.integers(0, WORDS, (places, streams)), "source_mask": mask, "cont": cont,
             "target": rng.integers(0, WORDS, (steps, streams)),
             "label": np.where(inside, rng.integers(0, WORDS, (steps, streams)), -1)}
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def check(net, iterations=(0, 1), **sizes):
    for iteration in iterations:
        assert_matches_masked_dense(net, iteration, batch(iteration, **sizes))
    return net


SCORES = [f"score: {score} input_feeding: {feeds}" for score in ("GENERAL", "DOT", "ADDITIVE")
          for feeds in ("true", "false")]
RATE = "dropout_ratio: 0.5 groups: 1"


@in_turn("rate", (0, 0.3, 0.5, 0.7, 0.9))
@pytest.mark.parametrize("settings", SCORES)
def test_every_place_drops(settings, rate):
    first = 1 if rate in (0, 0.7) else 2
    for groups, time in ((first, "SEQUENCE"), (3 - first, "STEP")):
        own = f"dropout_ratio: {rate} groups: {groups}"
        check(net_of((own,) * 4, f"{own} time: {time}", settings), [groups])


@every_pair(("settings", SCORES), ("held", (1, 2, 3, STEPS, STEPS + 2)), ("groups", (1, 2)),
            ("pays", (False, True)))
def test_patterns_held_for_some_steps(settings, held, groups, pays, monkeypatch):
    """steps_per_pattern, of the state and around: on whole batches and on shorter ones."""
    monkeypatch.setattr(Backend, "pays", lambda *_: pays)
    own = f'dropout_ratio: 0.5 pattern: "UNIT" groups: {groups} steps_per_pattern: {held}'
    net = check(net_of(("", own, "", own), own, settings), [0])
    assert net.layers["decoder"].plan.skips == pays
    check(net, [1], places=4, steps=3)


def test_one_step_of_the_state_is_time_step_and_a_longer_batch_is_refused():
    nets = [net_of(hidden=f"{RATE} {own}") for own in ("time: STEP", "steps_per_pattern: 1")]
    for inputs in (batch(0), batch(0, steps=3)):
        losses = []
        for net in nets:
            net.draw_patterns(2)
            net.forward(**inputs)
            losses.append(net.loss)
        assert losses[0] == losses[1]
    with pytest.raises(ShapeError, match="draws patterns for at most 5 steps, but the batch has 6"):
        nets[0].forward(**batch(0, steps=6))


@in_turn("family", ["ROW", "PERIODIC", "UNIT", "SLICE"])
@in_turn("time", ["SEQUENCE", "STEP"])
def test_families_of_units(family, time):
    own = f'dropout_ratio: 0.5 pattern: "{family}"'
    for settings in SCORES[:2]:
        check(net_of((own,) * 4, f"{own} time: {time}", settings))


@in_turn("number", range(4))
@in_turn("family", ["TILE tile_size: 2", "BLOCK block_samples: 2 block_units: 2"])
def test_weights_and_blocks(number, family):
    name, _, more = family.partition(" ")
    drops = [""] * 4
    drops[number] = f'dropout_ratio: 0.5 pattern: "{name}" {more}'
    for settings in SCORES[:2]:
        check(net_of(drops, "", settings))


@in_turn("groups", [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_groups_that_differ(groups):
    memory, hidden = (f"dropout_ratio: 0.5 groups: {count}" for count in groups)
    check(net_of(("", "", memory, ""), hidden))
    check(net_of(("", "", memory, ""), f"{hidden} time: STEP"))


def test_conventional_dropout_of_the_state_runs_and_draws_anew():
    net = net_of(("",) * 4, "dropout_ratio: 0.5", "hidden_dropout_type: CONVENTIONAL")
    losses = []
    for iteration in (0, 0, 1):
        net.draw_patterns(iteration)
        net.forward(**batch(0))
        losses.append(net.loss)
    assert losses[0] == losses[1] != losses[2]


@in_turn("kind, type_, rate", [("conventional", "CONVENTIONAL", 0.5), ("approx:ROW", "APPROX", 0.5),
                               ("none", "APPROX", 0)])
def test_the_option_dropout_reaches_the_state(kind, type_, rate):
    config = parse_net(text((RATE,) * 4, RATE))
    prepare_nets([config], kind, ())
    [settings] = [layer.decoder_param for layer in config.message.layer if layer.type == "AttentionDecoder"]
    assert settings.hidden_dropout_type == pb.RecurrentParameter.DropoutType.Value(type_)
    assert settings.hidden_dropout.dropout_ratio == rate
    net = md.Net(config, device="cpu")
    net.forward(**batch(0))
    assert np.isfinite(net.loss)


@in_turn("settings", SCORES)
def test_the_plan_leaves_products_out(settings):
    net = net_of((RATE,) * 4, RATE, settings)
    found = {drop.node.name: drop for drop in net.plan.drops}
    consumers = {name: [node.name for node in drop.consumers] for name, drop in found.items()}
    assert consumers["drop0"] == ["encoder"] and consumers["drop1"] == ["decoder"]
    assert consumers["drop2"] == ([] if "DOT" in settings else ["decoder"])
    assert consumers["drop3"] == ["scores"]
    assert found["decoder"].producer.name == "decoder"
    producer = found["drop3"].producer
    assert (producer is None) == ("input_feeding: true" in settings)


@in_turn("settings", SCORES)
def test_shorter_batches_in_a_net_built_for_longer_ones(settings):
    """Fewer places and steps than declared: the same as a net that is built for them."""
    for own in ("", RATE, f"{RATE} time: STEP"):
        drops = ("", f"{own} groups: 2" if "STEP" not in own and own else own, "", own)
        drops = tuple(drop.replace("groups: 1 groups: 2", "groups: 2") for drop in drops)
        sizes = {"places": 4, "steps": 3}
        large, small = net_of(drops, own, settings), net_of(drops, own, settings, **sizes)
        check(large, **sizes)
        if "STEP" in own:
            continue            # a net for fewer steps draws other patterns
        for net in (large, small):
            net.draw_patterns(1)
            net.forward(**batch(1, **sizes))
        assert large.loss == pytest.approx(small.loss, rel=1e-12)


@in_turn("settings", SCORES)
def test_padding_changes_nothing(settings):
    net = net_of(settings=settings, phase="TEST")
    for seed in range(3):
        inputs = batch(seed, places=4, steps=3)
        net.forward(**inputs)
        before = net.loss
        longer = {}
        for name, array in inputs.items():
            filler = {"label": -1, "source": 5, "target": 6}.get(name, 0)
            longer[name] = np.concatenate([array, np.full((2, STREAMS), filler)])
        other = dict(longer)
        other["source"] = np.where(longer["source_mask"] == 0, 7, longer["source"])
        for padded in (longer, other):
            net.forward(**padded)
            assert net.loss == pytest.approx(before, rel=1e-12)


@in_turn("settings", SCORES)
def test_continuing_step_by_step(settings):
    """With `continues` a net that gets one step at a time gives what all steps give at once."""
    whole = net_of(settings=settings, phase="TEST")
    inputs = batch(0)
    whole.forward(**inputs)
    single = md.Net(parse_net(text(settings=f"{settings} continues: true")), "TEST", "cpu", "float64",
                    share=whole)
    found = []
    for t in range(STEPS):
        step = {name: array[t:t + 1] if name in ("target", "label") else array for name,
                array in inputs.items()}
        single.forward(**step)
        found.append(single.blobs["scores"].numpy())
    np.testing.assert_allclose(np.concatenate(found), whole.blobs["scores"].numpy(), rtol=1e-12, atol=1e-14)
    single.reset_states()
    single.forward(**step)
    assert np.abs(single.blobs["scores"].numpy() - found[-1]).max() > 1e-3


@in_turn("settings, message", [
    ("score: DOT num_output: 5", "score: DOT needs a memory of 5 entries, one for each unit, got 8"),
    ("continues: true", "continues is for phase TEST"),
    ("hidden_dropout_type: CONVENTIONAL", "hidden_dropout_type is given, but no hidden_dropout"),
    ("num_output: 0", "decoder_param needs num_output")])
def test_settings_that_are_refused(settings, message):
    lines = text(settings=settings)
    if "num_output" in settings:
        lines = lines.replace(f"decoder_param {{ num_output: {UNITS}", "decoder_param {")
    with pytest.raises(ConfigError) as error:
        md.Net(parse_net(lines), device="cpu")
    assert message in str(error.value)
