"""Arrays that no memory holds are a mistake of the layer that asks for them, and `check` makes none."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import decimal, parse_net, parse_solver
from minidrop.net import parameters

DATA = ('layer { name: "in" type: "Input" top: "x" top: "c" input_param { shape { dim: 2 dim: 3 dim: 4 } '
        'shape { dim: 2 dim: 3 } } }\n')


def net(text, **options):
    return md.Net(parse_net(text, "n.prototxt"), device="cpu", **options)


@pytest.mark.parametrize("layer, what", [
    ('type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 dim: 4611686018427387904 } }',
     r"top 'y' of shape \(2, 4611686018427387904\)"),
    ('type: "DummyData" top: "y" dummy_data_param { shape { dim: 0 dim: 4611686018427387904 } }', r"top 'y'"),
    ('type: "Input" top: "y" input_param { shape { dim: 4611686018427387904 } }', r"top 'y'"),
    ('type: "MemoryData" top: "y" top: "z" memory_data_param { batch_size: 2147483647 channels: 2147483647 '
     'height: 1 width: 1 }', r"top 'y'"),
    ('type: "LSTM" bottom: "x" bottom: "c" top: "y" recurrent_param { num_output: 2147483647 }',
     r"recurrent_weight of shape \(8589934588, 2147483647\)"),
])
def test_what_no_memory_holds_is_refused_before_anything_is_made(layer, what):
    below = 'layer { name: "next" type: "ReLU" bottom: "y" top: "r" }'
    with pytest.raises(md.ConfigError, match=rf"^n.prototxt:2:\d+: layer 'big' \(\w+\): {what}.* which no "
                                             rf"memory holds; make it smaller[^\n]*$"):
        net(DATA + f'layer {{ name: "big" {layer} }}\n{below}')


def no_memory(*_):
    raise MemoryError("Unable to allocate 9 TiB")


@pytest.mark.parametrize("layer, owner, method", [
    ('type: "LSTM" bottom: "x" bottom: "c" top: "y" recurrent_param { num_output: 3 }', "backend", "zeros"),
    ('type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 }', "parameters", "fill"),
])
def test_a_lack_of_memory_when_a_net_is_built_names_the_layer(layer, owner, method, monkeypatch):
    place = parameters if owner == "parameters" else type(net(DATA).backend)
    monkeypatch.setattr(place, method, no_memory)
    with pytest.raises(md.BackendError, match=r"^n.prototxt:2:1: layer 'big': .*fit into memory; .*9 TiB"):
        net(DATA + f'layer {{ name: "big" {layer} }}')


def test_a_lack_of_memory_in_a_pass_names_the_layer(monkeypatch):
    found = net('layer { name: "big" type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 } } }')
    monkeypatch.setattr(type(found.layers["big"]), "forward", no_memory)
    with pytest.raises(md.BackendError, match=r"^layer 'big' \(DummyData\): .* not fit into memory.*9 TiB"):
        found.forward()


NET = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 4 } }
layer { name: "shape" type: "Reshape" bottom: "a" top: "b" reshape_param { shape { dim: 2 dim: 4 } } }
layer { name: "relu" type: "ReLU" bottom: "b" top: "b" }
layer { name: "two" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 2 } }
layer { name: "tanh" type: "TanH" bottom: "c" top: "loss" loss_weight: 1 }
"""


@pytest.mark.parametrize("layer", ["one", "relu", "two", "tanh"])
@pytest.mark.parametrize("error", [MemoryError("9 TiB"), md.BackendError("cuda:0 is out of memory: 9 TiB")])
def test_a_lack_of_memory_in_backward_names_the_layer(layer, error):
    found = net(NET)
    found.forward(x=np.ones((2, 3), np.float32))
    node = next(node for node in found.graph.nodes if node.name == layer)

    def fail(*_):
        raise error
    found.tensor(node.tops[0]).creator.watch_backward(lambda backward: fail)
    with pytest.raises(md.BackendError, match=rf"^layer '{layer}' \({node.config.type}\): .*memory.*9 TiB"):
        found.backward()


def test_a_gradient_that_does_not_fit_into_memory_names_the_layer_that_wrote_it(monkeypatch):
    found = net(NET)
    found.forward(x=np.ones((2, 3), np.float32))
    monkeypatch.setattr(type(found.params["two"]["weight"]), "accumulate", no_memory)
    with pytest.raises(md.BackendError, match=r"^layer 'two' \(InnerProduct\): .* fit into memory.*9 TiB"):
        found.backward()


@pytest.mark.parametrize("place, says", [
    ("after_backward", "iteration 0: what it computes"), ("rule", "two/weight: its update"),
    ("history", "one/weight: what the solver keeps of it"),
])
def test_a_lack_of_memory_elsewhere_in_an_iteration_says_where(place, says, monkeypatch):
    text = f'net_param {{ {NET} }} base_lr: 0.1 lr_policy: "fixed" max_iter: 3 momentum: 0.9'

    def failing():
        if place == "history":
            monkeypatch.setattr(np, "zeros_like", no_memory)
        solver = md.Solver(parse_solver(text), device="cpu")
        solver.net.set_inputs(x=np.ones((2, 3), np.float32))
        if place == "rule":
            update, two = solver.updater.rule.update, solver.net.params["two"]["weight"]
            solver.updater.rule.update = lambda backend, parameter, *more: (
                no_memory() if parameter is two else update(backend, parameter, *more))
        if place == "after_backward":
            solver.after_backward.append(no_memory)
        solver.solve()
    with pytest.raises(md.BackendError, match=f"^{says} does not fit into memory; make it .*9 TiB"):
        failing()


def test_a_net_that_is_looked_at_makes_no_parameters(monkeypatch):
    monkeypatch.setattr(parameters, "fill", no_memory)
    seen = net(DATA + 'layer { name: "big" type: "LSTM" bottom: "x" bottom: "c" top: "y" '
                      'recurrent_param { num_output: 1000000 } }', fills=False)
    weight = seen.params["big"]["recurrent_weight"]
    assert weight.shape == (4_000_000, 1_000_000) and weight.data.strides == (0, 0) and not seen.states


def test_minus_zero_is_zero():
    assert str(decimal(np.float32(-0.0))) == "0.0"
    text = ('layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 3 } '
            'data_filler { type: "gaussian" mean: 2 std: -0.0 } } }')
    found = net(text)
    found.forward()
    np.testing.assert_array_equal(found.blobs["x"].numpy(), [2, 2, 2])


@pytest.mark.parametrize("text", ['type: "Fill" fill_param', 'type: "Reshape" reshape_param'])
def test_more_axes_than_an_array_has(text):
    one = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    with pytest.raises(md.ConfigError, match="'many' .*top 'y' would have 33 axes; at most 32 are possible"):
        net(f'{one} layer {{ name: "many" bottom: "x" top: "y" {text} {{ shape {{ {"dim: 1 " * 33} }} }} }}')
