"""Small nets whose captured iterations are compared, and what trains and compares them."""

import nets
import numpy as np

import minidrop as md
from minidrop.config import parse_solver

FILLER = 'weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: .5 }'
MEMORY = ('layer { name: "in" type: "MemoryData" top: "data" top: "label" '
          'memory_data_param { batch_size: 6 channels: 13 height: 1 width: 1 } }')
INPUT = ('layer { name: "in" type: "Input" top: "data" top: "label" '
         'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }')
DATA = np.random.default_rng(7).standard_normal((22, 13, 1, 1)), np.random.default_rng(8).integers(0, 5, 22)


def ip(name, bottom, outputs):
    return nets.ip(name, bottom, outputs, fillers=FILLER)


def drop(name, bottom, kind, more=""):
    return nets.drop(name, bottom, kind, bottom, f"dropout_ratio: 0.5 {more}")


def mlp(kind, more="", middle="ReLU"):
    return "\n".join([
        MEMORY, ip("ip1", "data", 45), f'layer {{ name: "act1" type: "{middle}" bottom: "ip1" top: "ip1" }}',
        drop("drop1", "ip1", kind, more), ip("ip2", "ip1", 37), 'layer { name: "act2" type: "TanH" bottom: '
        '"ip2" top: "ip2" }', drop("drop2", "ip2", kind, more), ip("ip3", "ip2", 5),
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }'])


def small(kind, second=""):
    """One drop between two products: what an update does with a compact gradient needs no more."""
    return "\n".join([
        MEMORY, ip("ip1", "data", 45), drop("drop1", "ip1", kind),
        ip("ip2", "ip1", 5).replace('name: "ip2"', f'name: "ip2" {second}'),
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }'])


def solver(device, net, more="", data=DATA, **options):
    text = (f"base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 15 momentum: 0.9 weight_decay: 0.01 "
            f"max_iter: 99 random_seed: 4 {more} net_param {{ {net} }}")
    made = md.Solver(parse_solver(text), device=device, **{"dtype": "float64", **options})
    made.net.set_input_arrays(*data)
    return made


def run(made, iterations=16):
    """Train; return {what: arrays} of all that a snapshot would keep."""
    losses = []
    for _ in range(iterations):
        made.step()
        losses.append(made.net.loss)
    found = {name: p.numpy() for name, p in made.net.parameters().items()}
    found |= {f"history {name}": np.stack([made.net.backend.to_host(array).copy() for array in history])
              for name, history in made.updater.history.items()}
    return {**found, "losses": np.array(losses)}


def compare(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if tolerance:
            np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def language_model(tmp_path, kind="ROW", hidden=""):
    text = tmp_path / "text.txt"
    words = np.random.default_rng(3).choice(list("abcdefgh"), 600)
    text.write_text(" ".join(words) + "\n")
    lstm = f'recurrent_param {{ num_output: 24 {FILLER} {hidden} }}'
    return "\n".join([
        'layer { name: "text" type: "TextData" top: "data" top: "label" top: "cont" text_data_param { '
        f'source: "{text}" batch_size: 3 steps: 5 }} }}',
        'layer { name: "embed" type: "Embed" bottom: "data" top: "embed" '
        f'embed_param {{ input_dim: 12 num_output: 26 bias_term: false {FILLER} }} }}',
        drop("drop1", "embed", kind),
        f'layer {{ name: "lstm" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm" {lstm} }}',
        drop("drop2", "lstm", kind), 'layer { name: "ip" type: "InnerProduct" bottom: "lstm" top: "ip" '
        f'inner_product_param {{ num_output: 12 axis: 2 {FILLER} }} }}',
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" softmax_param '
        '{ axis: 2 } }'])


def text_solver(device, net):
    return md.Solver(parse_solver(f"base_lr: 0.5 lr_policy: 'fixed' clip_gradients: 1 momentum: 0.5 "
                                  f"max_iter: 99 random_seed: 4 net_param {{ {net} }}"), device=device,
                     dtype="float64")
