"""Dropout and ApproxDropout as layers; layers in place."""

import numpy as np
import pytest
from cases import in_turn

from minidrop.patterns import BLOCK_LENGTH, PatternSettings, get_family, known_families

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 100 dim: 200 } } }\n'
DROPOUT = (INPUT + 'layer { name: "drop" type: "Dropout" bottom: "x" top: "y" dropout_param { dropout_ratio: '
           '0.3 } }')
ONES = np.ones((100, 200))


def output(net, iteration):
    net.draw_patterns(iteration)
    return net.forward(x=ONES)["y"].numpy()


class TestDropout:
    def test_statistics(self, make_net, dtype):
        y = output(make_net(DROPOUT), 0)
        assert set(np.unique(y)) == {0, np.dtype(dtype).type(1 / 0.7)}
        assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)
        for axis in (0, 1):         # neither units nor records are preferred
            spread = (y == 0).mean(axis=axis).std() * np.sqrt(y.shape[axis] / 0.21)
            assert 0.8 < spread < 1.2

    def test_the_iteration_says_everything(self, make_net):
        net = make_net(DROPOUT, seed=4)
        first, second = output(net, 0), output(net, 1)
        assert (first != second).any()
        assert (output(net, 0) == first).all() and (output(make_net(DROPOUT, seed=4), 1) == second).all()
        assert (output(make_net(DROPOUT, seed=5), 0) != first).any()
        assert (output(make_net(DROPOUT.replace('"drop"', '"other"'), seed=4), 0) != first).any()

    def test_all_dtypes_see_one_mask(self, make_net):
        single, double = (output(make_net(DROPOUT, dtype=dtype), 3) for dtype in ("float32", "float64"))
        assert ((single == 0) == (double == 0)).all()

    def test_phase_of_the_net_and_of_the_layer(self, make_net):
        assert (output(make_net(DROPOUT, phase="TEST"), 0) == 1).all()
        assert (output(make_net(DROPOUT.replace('bottom: "x"', 'bottom: "x" phase: TEST')), 0) == 1).all()

    def test_nothing_dropped(self, make_net):
        assert (output(make_net(DROPOUT.replace("0.3", "0")), 0) == 1).all()


@pytest.mark.parametrize("family", known_families())
class TestApproxDropout:
    TEXT = INPUT + '''layer { name: "drop" type: "ApproxDropout" bottom: "x" top: "y"
                              approx_dropout_param { dropout_ratio: 0.5 pattern: "%s" %s } }'''

    @staticmethod
    def settings_of(family):
        """One group of samples, where a family knows of several."""
        one = get_family(PatternSettings(family=family)).groups > 1
        return family, "groups: 1" if one else ""

    def test_units_live_or_die_for_the_whole_batch(self, make_net, family):
        net = make_net(self.TEXT % self.settings_of(family))
        for iteration in range(20):
            y = output(net, iteration)
            assert (y == y[0]).all()
            np.testing.assert_allclose(y, np.broadcast_to(net.masks()["drop"], y.shape), rtol=1e-6)
            assert set(np.unique(y)) <= {0, 2}
            assert (y[0] != 0).tolist() == net.patterns["drop"].kept(200).mask().tolist()

    def test_rate(self, make_net, family):
        net = make_net(self.TEXT % self.settings_of(family))
        rates = []
        for iteration in range(BLOCK_LENGTH):      # the quotas hold over whole blocks
            net.draw_patterns(iteration)
            rates.append((net.masks()["drop"] == 0).mean())
        assert np.mean(rates) == pytest.approx(0.5, abs=0.01)

    def test_test_phase(self, make_net, family):
        net = make_net(self.TEXT % self.settings_of(family), phase="TEST")
        assert (output(net, 0) == 1).all() and (net.masks()["drop"] == 1).all()
        text = self.TEXT % self.settings_of(family)
        net = make_net(text.replace('bottom: "x"', 'bottom: "x" phase: TEST'))
        assert (output(net, 0) == 1).all()

    @in_turn("shape, axis", [("dim: 4 dim: 20", 1), ("dim: 4 dim: 3 dim: 20", 2),
                             ("dim: 4 dim: 20 dim: 3 dim: 2", 1)])
    def test_the_axis_of_features(self, make_net, family, shape, axis):
        text = (self.TEXT % self.settings_of(family)).replace("dim: 100 dim: 200", shape)
        net = make_net(text)
        x = np.ones(net.graph.shapes["x", 0])
        for iteration in range(5):
            net.draw_patterns(iteration)
            y = net.forward(x=x)["y"].numpy()
            expected = np.broadcast_to(net.masks()["drop"], x.shape)
            np.testing.assert_allclose(y, expected, rtol=1e-6)
            # a mask of blocks has an entry for every sample too
            is_whole = net.plan.drops[0].kind == "blocks"
            assert net.masks()["drop"].size == (np.prod(x.shape[:axis + 1]) if is_whole else 20)

    def test_images_into_a_product_over_the_width_alone(self, make_net, close, family):
        """The kept set is on the channels; a product over the last axis cannot read that, and must get it
        dense."""
        text = self.TEXT % self.settings_of(family)
        text = text.replace("dim: 100 dim: 200", "dim: 2 dim: 8 dim: 3 dim: 5") + '''
            layer { name: "ip" type: "InnerProduct" bottom: "y" top: "z"
                    inner_product_param { num_output: 4 axis: 3 weight_filler { type: "xavier" } } }'''
        net, x = make_net(text), np.random.default_rng(0).standard_normal((2, 8, 3, 5))
        net.draw_patterns(1)
        z = net.forward(x=x)["z"].numpy()
        W = net.backend.to_host(net.params["ip"]["weight"].data).astype(float)
        close(z, (x * net.masks()["drop"]) @ W.T)


IN_PLACE = '''
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "h" inner_product_param { num_output: 30
            weight_filler { type: "gaussian" } bias_filler { type: "uniform" min: -1 } } }
    layer { name: "relu" type: "ReLU" bottom: "h" top: "%s" }
    layer { name: "scale" type: "Power" bottom: "%s" top: "%s" power_param { scale: 3 } }
    layer { name: "drop" type: "%s" bottom: "%s" top: "%s" }
    layer { name: "tanh" type: "TanH" bottom: "%s" top: "%s" loss_weight: 1 }'''


@pytest.mark.parametrize("kind", ["Dropout", "ApproxDropout"])
def test_in_place_is_the_same_net(make_net, close, kind):
    """Blobs of one name, or each of its own: the same outputs and gradients."""
    x = np.random.default_rng(0).standard_normal((3, 4))
    results = []
    for names in ("hhhhhhh", "abbccdd"):
        a, b, c, d, e, f, g = names
        net = make_net(IN_PLACE % (a, a, b, kind, b, d, d, "out") if names == "hhhhhhh" else
                       IN_PLACE % ("a", "a", "b", kind, "b", "c", "c", "out"), seed=2)
        net.draw_patterns(1)
        y = net.forward(x=x)["out"].numpy()
        net.backward()
        results.append((y, net.params["ip"]["weight"].grad, net.params["ip"]["bias"].grad))
        assert net.outputs == ["out"]
    for one, other in zip(*results, strict=True):
        close(net.backend.to_host(one), net.backend.to_host(other))
    assert abs(net.backend.to_host(results[0][1])).max() > 0
