"""Language models with dropout around and inside recurrent layers, their batches, and the contract."""

import numpy as np

import minidrop as md
from minidrop.config import parse_net
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.testing import assert_matches_masked_dense

STEPS, STREAMS, WORDS, WIDTH = 5, 3, 7, 10
KINDS = ("LSTM", "GRU", "RNN", "ELMAN")        # an RNN with its output product, and one without
OF_UNITS = [name for name in known_families() if get_family(PatternSettings(family=name)).drops == "units"]
UNIFORM = 'weight_filler { type: "uniform" min: -0.6 max: 0.6 }'
SETTINGS = {"TILE": "tile_size: 3", "BLOCK": "block_samples: 4 block_units: 2"}


def drop_settings(family, rate=0.5, time="SEQUENCE"):
    settings = SETTINGS.get(family, "")
    if rate > 0.8 and family in ("TILE", "BLOCK"):      # so much of so little needs the smallest pieces
        settings = "tile_size: 1" if family == "TILE" else "block_samples: 4 block_units: 1"
    return f'dropout_ratio: {rate} pattern: "{family}" time: {time} {settings}'


def text(kind="LSTM", layers=1, nr="", rh="", type_="APPROX", both=False, units=12, steps=STEPS,
         streams=STREAMS, width=WIDTH, source=None, words=WORDS):
    """A language model; `nr` and `rh` are settings of drops, "" for none."""
    lines = [source
             or f'layer {{ name: "in" type: "Input" top: "data" top: "label" top: "cont" input_param {{ '
             f'shape {{ dim: {steps} dim: {streams} }} shape {{ dim: {steps} dim: {streams} }} '
             f'shape {{ dim: {steps} dim: {streams} }} }} }}',
             f'layer {{ name: "embed" type: "Embed" bottom: "data" top: "embed" embed_param {{ num_output: '
             f'{width} ' f'input_dim: {words} {UNIFORM} }} }}']

    def drop(name, blob):
        if nr:
            lines.append(f'layer {{ name: "{name}" type: "ApproxDropout" bottom: "{blob}" top: "{name}" '
                         f'approx_dropout_param {{ {nr} }} }}')
        return name if nr else blob

    product = "output_product: false" if kind == "ELMAN" else ""
    kind = "RNN" if product else kind
    blob = drop("drop0", "embed")
    for i in range(1, layers + 1):
        hidden = f"hidden_dropout {{ {rh} }} hidden_dropout_type: {type_}" if rh else ""
        lines.append(f'layer {{ name: "r{i}" type: "{kind}" bottom: "{blob}" bottom: "cont" top: "r{i}" '
                     f'recurrent_param {{ num_output: {units} {UNIFORM} bias_filler {{ type: "uniform" }} '
                     f'bidirectional: {str(both).lower()} {hidden} {product} }} }}')
        blob = drop(f"drop{i}", f"r{i}")
    lines.append(f'layer {{ name: "scores" type: "InnerProduct" bottom: "{blob}" top: "scores" '
                 f'inner_product_param {{ num_output: {words} axis: 2 {UNIFORM} }} }}')
    lines.append('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" '
                 'softmax_param { axis: 2 } }')
    return "\n".join(lines)


def net_of(*args, phase="TRAIN", seed=0, dtype="float64", **options):
    return md.Net(parse_net(text(*args, **options)), phase, "cpu", dtype, seed)


def batch(seed, steps=STEPS, streams=STREAMS, whole=False):
    rng = np.random.default_rng(seed)
    cont = np.ones((steps, streams)) if whole else (rng.random((steps, streams)) > 0.2).astype(float)
    return {"data": rng.integers(0, WORDS, (steps, streams)).astype(float),
            "label": rng.integers(0, WORDS, (steps, streams)).astype(float), "cont": cont}


def check(net, iterations=2, **sizes):
    """The contract, on no states and on those that the iteration before left; returns the net."""
    for iteration in range(iterations):
        inputs = batch(iteration, **sizes)
        assert_matches_masked_dense(net, iteration, inputs)
        states = []
        for masked in (True, False):
            before = net.states
            net.run_masked_dense(masked)
            net.draw_patterns(iteration)
            net.forward(**inputs)
            states.append(net.states)
            if masked:
                net.set_states(before)
        for key, array in states[1].items():
            np.testing.assert_allclose(array, states[0][key], rtol=0, atol=1e-12, err_msg=str(key))
    return net
