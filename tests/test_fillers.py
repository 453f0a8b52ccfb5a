"""Fillers: moments and bounds, counts of connections, determinism."""

import math

import numpy as np
import pytest

from minidrop import ConfigError
from minidrop.config import FillerParameter
from minidrop.fillers import check_filler, fan, fill
from minidrop.rng import generator

SHAPE = (300, 200)      # outputs, inputs


def filled(shape=SHAPE, seed=0, **settings):
    settings = FillerParameter(**settings)
    check_filler(settings, shape)
    return fill(settings, shape, generator(seed, "filler"))


def test_constant():
    assert (filled(value=0.1) == 0.1).all()          # the decimal that was written, not its float32 neighbour
    assert (filled(type="constant") == 0).all()


def test_uniform():
    x = filled(type="uniform", min=-1, max=3)
    assert -1 <= x.min() < -0.99 and 2.99 < x.max() < 3
    assert x.mean() == pytest.approx(1, abs=0.03) and x.std() == pytest.approx(4 / math.sqrt(12), rel=0.01)


def test_gaussian():
    x = filled(type="gaussian", mean=2, std=0.5)
    assert x.mean() == pytest.approx(2, abs=0.01) and x.std() == pytest.approx(0.5, rel=0.01)
    assert abs(x - 2).max() > 1.5 and (abs(x - 2) < 0.5).mean() == pytest.approx(0.683, abs=0.01)


def test_sparse_gaussian():
    """Of 300 outputs an input feeds 15 on average; what is there is a plain gaussian."""
    x = filled(type="gaussian", std=2, sparse=15)
    assert (x != 0).sum(axis=0).mean() == pytest.approx(15, rel=0.05)
    assert x[x != 0].std() == pytest.approx(2, rel=0.05)
    assert not filled(type="gaussian", sparse=0).any()


NORMS = [("FAN_IN", 200), ("FAN_OUT", 300), ("AVERAGE", 250)]


@pytest.mark.parametrize("norm, n", NORMS)
def test_xavier(norm, n):
    x = filled(type="xavier", variance_norm=norm)
    bound = math.sqrt(3 / n)
    assert 0.99 * bound < abs(x).max() <= bound
    assert x.mean() == pytest.approx(0, abs=0.01 * bound * 2) and x.var() == pytest.approx(1 / n, rel=0.02)


@pytest.mark.parametrize("norm, n", NORMS)
def test_msra(norm, n):
    x = filled(type="msra", variance_norm=norm)
    assert x.var() == pytest.approx(2 / n, rel=0.02) and abs(x).max() > 3 * math.sqrt(2 / n)


@pytest.mark.parametrize("norm, n", [("FAN_IN", 27), ("FAN_OUT", 72), ("AVERAGE", 49.5)])
def test_connections_of_an_image_filter(norm, n):
    """(8 outputs, 3 inputs, 3 x 3): 27 into one output, 72 out of one input."""
    assert fan(FillerParameter(variance_norm=norm), (8, 3, 3, 3)) == n


def test_positive_unitball():
    x = filled(type="positive_unitball")
    assert (x > 0).all()
    np.testing.assert_allclose(x.sum(axis=1), 1)
    np.testing.assert_allclose(filled((4, 2, 3), type="positive_unitball").sum(axis=(1, 2)), 1)


def test_bilinear():
    """Of side 4, with which images double in size: 1/4, 3/4, 3/4, 1/4 along both axes."""
    x = filled((2, 3, 4, 4), type="bilinear")
    np.testing.assert_allclose(x[1, 2], np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]))
    assert (x == x[0, 0]).all() and x.flags.writeable
    np.testing.assert_allclose(filled((1, 1, 3, 3), type="bilinear")[0, 0, 1], [0.5, 1, 0.5])
    assert filled((2, 1, 1, 1), type="bilinear").tolist() == [[[[1]]]] * 2


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (2, 3, 4), (1, 2, 3, 3, 3), (2, 3, 0, 0)])
def test_bilinear_needs_square_kernels(shape):
    with pytest.raises(ConfigError, match=r"^a bilinear filler needs square kernels \(outputs, inputs, side, "
                                          r"side\), got shape \("):
        filled(shape, type="bilinear")


@pytest.mark.parametrize("type", ["uniform", "gaussian", "xavier", "msra", "positive_unitball"])
def test_the_seed_says_everything(type):
    assert (filled(type=type) == filled(type=type)).all()
    assert (filled(type=type) != filled(type=type, seed=1)).any()
    assert filled((5,), type=type).shape == (5,) and filled((2, 3, 4), type=type).shape == (2, 3, 4)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
@pytest.mark.parametrize("type", ["xavier", "msra", "positive_unitball"])
def test_shapes_without_connections(shape, type):
    with pytest.raises(ConfigError, match=f"^filler '{type}' scales by numbers of connections"):
        filled(shape, type=type)


def test_each_parameter_has_its_own_numbers(make_net):
    """Two layers of one shape differ; the dtype only rounds; another seed gives others."""
    text = "".join(f'''layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}"
        inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} bias_filler {{
          type: "uniform" }} }} }}
        ''' for name in ("one", "two"))
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }' + text
    weights = {(dtype, seed, layer): net.backend.to_host(own["weight"].data)
               for dtype in ("float32", "float64") for seed in (0, 1)
               for net in [make_net(text, dtype=dtype, seed=seed)] for layer, own in net.params.items()}
    assert (weights["float64", 0, "one"].astype(np.float32) == weights["float32", 0, "one"]).all()
    assert (weights["float64", 0, "one"] != weights["float64", 0, "two"]).all()
    assert (weights["float64", 0, "one"] != weights["float64", 1, "one"]).all()
