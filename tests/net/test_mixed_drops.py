"""Drops of different kinds in one net, drops that train, and old files turned into each family: the contract
holds."""

import numpy as np
import pytest
from cases import every_pair
from nets import images, unlike_draws

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.net.conversion import convert_dropout
from minidrop.patterns import known_families
from minidrop.testing import assert_matches_masked_dense

SETTINGS = {"TILE": "tile_size: 4", "BLOCK": "block_samples: 2", "BLOCK 4": "block_samples: 4 block_units: 3",
            "BLOCK 3": "block_samples: 3"}


def mlp(*drops, more="", width=20):
    """A net of 6 x 13 inputs: InnerProduct, ReLU and a drop of each pattern in `drops` in turn, and ip at the
    end."""
    layers = ['layer { name: "in" type: "Input" top: "data" top: "label" '
              'input_param { shape { dim: 6 dim: 13 } shape { dim: 6 } } }']
    bottom = "data"
    for i, pattern in enumerate(drops, 1):
        if pattern != "none":
            layers += [product(f"ip{i}", bottom, width + i, more),
                       f'layer {{ name: "relu{i}" type: "ReLU" bottom: "ip{i}" ' f'top: "ip{i}" }}',
                       drop(f"drop{i}", f"ip{i}", pattern)]
            bottom = f"drop{i}"
    layers += [product("ip", bottom, 7, more),
               'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }']
    return "\n".join(layers)


def product(name, bottom, outputs, more=""):
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "msra" }} bias_filler {{ '
            f'type: "uniform" }} {more} }} }}')


def drop(name, bottom, pattern):
    return (f'layer {{ name: "{name}" type: "ApproxDropout" bottom: "{bottom}" top: "{name}" '
            f'approx_dropout_param {{ pattern: "{pattern.split()[0]}" {SETTINGS.get(pattern, "")} }} }}')


def check(text, iterations=6, device="cpu", most=3):
    net = md.Net(parse_net(text), device=device, dtype="float64")
    for iteration, _, new in unlike_draws(net, iterations, most):
        if new:
            assert_matches_masked_dense(net, iteration, images(iteration))
    return net


@every_pair(("first", [*known_families(), "BLOCK 4", "BLOCK 3"]), ("second", [*known_families(), "BLOCK 4"]),
            ("transpose", ["", "transpose: true"]))
def test_any_two_kinds_around_one_product(first, second, transpose, backend):
    """ip2 lies between the drops: it reads what the first keeps only if the second does not bid it to drop
    another kind."""
    net = check(mlp(first, second, more=transpose), device=backend.name)
    above, below = net.plan.drops
    kinds = [{"TILE": "weights", "BLOCK": "blocks"}.get(name.split()[0], "units") for name in (first, second)]
    assert (above.producer.name, below.producer.name) == ("ip1", "ip2")
    clash = kinds[0] != kinds[1] and kinds[0] != "weights"
    assert [node.name for node in above.consumers] == ([] if clash or kinds[0] == "weights" else ["ip2"])
    assert above.unread == ([(net.graph.nodes[4], f"it serves the drop below it, which drops {kinds[1]}")]
                            if clash else [])
    assert [node.name for node in above.expanders] == (["ip2"] if clash and kinds[0] == "units" else [])


def test_all_kinds_in_one_net(backend):
    check(mlp("PERIODIC", "TILE", "BLOCK", "UNIT", "BLOCK 4", "SLICE", "TILE", "ROW"), 20, backend.name, 20)


def test_one_blob_dropped_in_three_kinds(backend):
    """Three drops read one blob, and a product reads the sum of theirs."""
    sums = "".join(f' bottom: "{name}"' for name in ("a", "b", "c"))
    check("\n".join([mlp("none").split("\n")[0], product("ip1", "data", 21), drop("a", "ip1", "PERIODIC"),
                     drop("b", "ip1", "TILE"), drop("c", "ip1", "BLOCK"), product("ip2", "a", 9),
                     product("ip3", "c", 9), f'layer {{ name: "sum" type: "Eltwise" {sums} top: "sum" }}',
                     product("ip", "sum", 9), 'layer { name: "all" type: "Eltwise" bottom: "ip" bottom: '
                     '"ip2" bottom: "ip3" top: "all" }', 'layer { name: "loss" type: "SoftmaxWithLoss" '
                     'bottom: "all" bottom: "label" top: "loss" }']),
          device=backend.name, most=6)


def test_weights_that_are_not_trained(backend):
    """With lr_mult 0 a product still passes on the gradient of its input, in pieces."""
    for pattern in ("TILE", "BLOCK", "UNIT"):
        text = mlp(pattern, pattern).replace('top: "ip2" inner', 'top: "ip2" param { lr_mult: 0 } param { '
                                             'lr_mult: 0 } inner')
        net = check(text, 4, backend.name)
        assert net.params["ip2"]["weight"].grad is None and net.params["ip1"]["weight"].grad is not None


# -- training ------------------------------------------------------------------------------------------------
def solver(net, settings, dtype):
    data = ('layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 6 '
            'dim: 13 } shape { dim: 6 } data_filler { type: "gaussian" } data_filler { type: "constant" '
            'value: 2 } } }')
    text = "\n".join([data, *net.split("\n")[1:]])
    return md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' max_iter: 99 random_seed: 3 momentum: "
                                  f"0.9 weight_decay: 0.01 solver_mode: CPU {settings} net_param "
                                  f"{{ {text} }}"), dtype=dtype)


@every_pair(("pattern", [*known_families(), "BLOCK 4"]), ("transpose", ["", "transpose: true"]),
            ("settings", ["", "iter_size: 2", "iter_size: 3 clip_gradients: 0.3 regularization_type: 'L1'"]),
            ("dtype", ["float32", "float64"]))
def test_training_equals_masked_dense_training(pattern, settings, transpose, dtype):
    """Gradients of several passes, drawn anew in each, add up; tiles and blocks update what dense gradients
    would.

    One layer has two tiles of units only: then some classes of tiles are empty.
    """
    text = mlp(pattern, pattern, more=transpose).replace("num_output: 22", "num_output: 6")
    compact, dense = (solver(text, settings, dtype) for _ in range(2))
    dense.net.run_masked_dense()
    compact.step(6)
    dense.step(6)
    for name, parameter in compact.net.parameters().items():
        np.testing.assert_allclose(parameter.data, dense.net.parameters()[name].data, rtol=0,
                                   atol={"float64": 1e-10, "float32": 2e-5}[dtype], err_msg=name)


# -- old files -----------------------------------------------------------------------------------------------
CAFFE = """
name: "as it came"
layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 6 dim: 13 } shape { dim: 6 } data_filler { type: "gaussian" } data_filler { type: "constant"
    value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 64 weight_filler { type: "xavier" } bias_filler { type: "constant" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 48
  weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "ip2" top: "ip2" }
layer { name: "drop2" type: "Dropout" bottom: "ip2" top: "ip2" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3" inner_product_param { num_output: 7
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("family", known_families())
def test_an_unchanged_file_with_dropout_layers(family):
    """In-place Dropout, as Caffe's files have it, becomes every family by the command line's option alone."""
    config = parse_net(CAFFE)
    convert_dropout(config.message, f"approx:{family}")
    net = md.Net(config, device="cpu", dtype="float64")
    assert {name: (site.family.name, site.settings.rate) for name, site in net.drop_sites.items()} == {
        "drop1": (family, 0.5), "drop2": (family, 0.3)}
    for iteration in range(8):
        assert_matches_masked_dense(net, iteration)
    one = md.Solver(parse_solver(f"base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 3 random_seed: 1 "
                                 f"solver_mode: CPU snapshot_after_train: false net_param {{ {CAFFE} }}"),
                    dropout=f"approx:{family}")
    before = {name: parameter.data.copy() for name, parameter in one.net.parameters().items()}
    one.solve()
    assert one.iteration == 3 and np.isfinite(one.smoothed_loss)
    for name, parameter in one.net.parameters().items():
        assert (parameter.data != before[name]).any(), name
