"""Embed as a layer of nets: its table, its gradient, and compact against masked-dense."""

import numpy as np
import pytest
from cases import in_turn

from minidrop import DataError, Net
from minidrop.config import parse_net
from minidrop.patterns import known_families
from minidrop.testing import assert_matches_masked_dense

STEPS, STREAMS, ROWS, COLUMNS, CLASSES = 5, 3, 11, 29, 7
SMALL = {"TILE": "tile_size: 4", "BLOCK": "block_samples: 2"}


def inputs(*names):
    tops = " ".join(f'top: "{name}"' for name in names)
    return (f'layer {{ name: "in" type: "Input" {tops} input_param {{ shape {{ dim: {STEPS} dim: {STREAMS} '
            f'}} }} }}')


def embed(name, bottom, settings="", more=""):
    filler = 'type: "uniform" min: -1 max: 1'
    return (f'layer {{ name: "{name}" type: "Embed" bottom: "{bottom}" top: "{name}" {more} embed_param '
            f'{{ num_output: {COLUMNS} input_dim: {ROWS} weight_filler {{ {filler} }} bias_filler {{ '
            f'{filler} }} {settings} }} }}')


def drop(bottom, pattern="PERIODIC"):
    return (f'layer {{ name: "drop" type: "ApproxDropout" bottom: "{bottom}" top: "drop" '
            f'approx_dropout_param {{ dropout_ratio: 0.5 pattern: "{pattern}" {SMALL.get(pattern, "")} }} }}')


HEAD = '''
    layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
            inner_product_param { num_output: 7 axis: 2 weight_filler { type: "msra" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss"
      softmax_param { axis: 2 } }'''
TANH = 'layer { name: "act" type: "TanH" bottom: "emb" top: "act" }'


def net_of(backend, *layers):
    return Net(parse_net("\n".join(layers)), device=backend.name, dtype="float64")


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.integers(0, ROWS, (STEPS, STREAMS)).astype(float),
            "t": rng.integers(0, CLASSES, (STEPS, STREAMS))}


@in_turn("bias", ["", "bias_term: false"])
@in_turn("between", [(), (TANH,)], ids=["at once", "behind tanh"])
@in_turn("pattern", known_families())
def test_compact_equals_masked_dense(backend, pattern, between, bias):
    dropped = drop("act" if between else "emb", pattern)
    net = net_of(backend, inputs("x", "t"), embed("emb", "x", bias), *between, dropped, HEAD)
    plan, = net.plan.drops
    kind = {"TILE": "weights", "BLOCK": "blocks"}.get(pattern)
    if kind is None:
        assert (plan.producer.name, plan.reason) == ("emb", "")
    else:
        assert (plan.producer, plan.reason) == (None, f"emb (Embed) can leave out no {kind}")
    assert [node.name for node in plan.consumers] == ["ip"]
    shares = []
    for iteration in range(10):
        assert_matches_masked_dense(net, iteration, batch())
        shares.append((net.masks()["drop"] != 0).mean())
    assert min(shares) < 1


def test_only_kept_columns_are_read_and_have_a_gradient(backend):
    net = net_of(backend, inputs("x", "t"), embed("emb", "x"),
                 drop("emb").replace("dropout_ratio", "groups: 1 dropout_ratio"), HEAD)
    iteration = next(i for i in range(20) if net.draw_patterns(i) or net.draws["drop"].kept is not None)
    net.draw_patterns(iteration)
    net.forward(**batch())
    net.backward()
    kept = net.draws["drop"].kept
    assert net.blobs["emb"].data.shape == (STEPS, STREAMS,
                                           kept.count) and net.blobs["emb"].shape[-1] == COLUMNS
    (block,), (bias,) = (net.params["emb"][name].blocks for name in ("weight", "bias"))
    assert block.cols == kept and block.data.shape == (block.rows.count,
                                                       kept.count) and bias.data.shape == (kept.count,)
    with_gradient = backend.to_host(net.params["emb"]["weight"].grad).any(axis=1)
    assert np.flatnonzero(with_gradient).tolist() == sorted(set(batch()["x"].ravel()))
    if backend.name == "cpu":       # a GPU has a row for each place
        assert block.rows.count == with_gradient.sum()


def test_a_drop_of_another_axis_is_not_left_out(backend):
    """A drop of a blob with four axes is one of channels, axis 1."""
    net = net_of(backend, 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 '
                 'dim: 4 } } }', embed("emb", "x"), drop("emb"))
    assert net.plan.drops[0].producer is None
    assert net.plan.drops[0].reason == "emb does not compute the dropped axis as its outputs"


def test_two_readers_of_one_table(backend):
    """Gradients of a shared table add up, whichever rows each reader names."""
    share = 'param { name: "W" } param { name: "b" }'
    net = net_of(backend, inputs("x", "y"), embed("e1", "x", more=share), embed("e2", "y", more=share),
                 'layer { name: "loss" type: "EuclideanLoss" bottom: "e1" bottom: "e2" top: "loss" }')
    assert net.params["e1"]["weight"] is net.params["e2"]["weight"]
    x, y = batch(1)["x"], batch(2)["x"]
    net.forward(x=x, y=y)
    net.backward()
    W = net.backend.to_host(net.params["e1"]["weight"].data)
    expected = np.zeros_like(W)
    for i, j in zip(x.astype(int).ravel(), y.astype(int).ravel(), strict=True):
        expected[i] += (W[i] - W[j]) / STEPS
        expected[j] -= (W[i] - W[j]) / STEPS
    np.testing.assert_allclose(net.backend.to_host(net.params["e1"]["weight"].grad), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (5,), (5, 3), (2, 3, 4)])
def test_reads_rows_and_adds_the_bias(make_net, shape):
    dims = " ".join(f"dim: {length}" for length in shape)
    net = make_net(f'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'
                   + embed("emb", "x"))
    W, b = (net.backend.to_host(net.params["emb"][name].data) for name in ("weight", "bias"))
    assert W.shape == (ROWS, COLUMNS) and b.shape == (COLUMNS,)
    x = np.random.default_rng(0).integers(0, ROWS, shape)
    np.testing.assert_array_equal(net.forward(x=x)["emb"].numpy(), W[x] + b)


def test_an_index_out_of_range_names_the_layer(make_net):
    net = make_net(inputs("x") + embed("emb", "x"))
    x = batch()["x"]
    x[1, 2] = 11
    with pytest.raises(DataError) as caught:
        net.forward(x=x)
    assert str(caught.value) == ("layer 'emb' (Embed): index 11 at place 5 of the batch is out of range: "
                                 "expected a whole number of 0..10 (the table has 11 rows)")
