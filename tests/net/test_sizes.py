"""Arrays that no memory holds are a mistake of the layer that asks for them, and `check` makes none."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import decimal, parse_net
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
