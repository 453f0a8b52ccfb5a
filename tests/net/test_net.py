"""Net: what a program that embeds it relies on."""

import copy
import re

import h5py
import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.autograd import no_grad
from minidrop.config import parse_net
from minidrop.layers import base
from minidrop.patterns import PatternSettings
from minidrop.patterns.drop_site import DropSite

TEXT = '''
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 6 } shape { dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 8
        weight_filler { type: "xavier" } bias_filler { type: "uniform" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1" approx_dropout_param { step: 4 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2" inner_product_param { num_output: 3
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"
  include { phase: TRAIN } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
'''
X, LABEL = np.random.default_rng(0).standard_normal((4, 6)), np.array([0, 2, 1, 1])


def net_of(text, **options):
    return md.Net(parse_net(text, "net.prototxt"), **{"device": "cpu", "dtype": "float64", **options})


def ip(name, bottom, more="", outputs=6):
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more} '
            f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}\n')


INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 6 } } }\n'


def summed(bottom, weight=1):
    return (f'layer {{ name: "s_{bottom}" type: "Power" bottom: "{bottom}" top: "s_{bottom}" loss_weight: '
            f'{weight} }}\n')


class TestSurface:
    def test_from_file(self, tmp_path):
        (tmp_path / "net.prototxt").write_text(TEXT)
        net = md.Net.from_file(str(tmp_path / "net.prototxt"), phase="TRAIN", device="cpu", dtype="float64",
                               seed=0)
        assert net.params["ip1"]["weight"].data.shape == (8,
                                                          6) and net.params["ip1"]["bias"].data.shape == (8,)
        assert net.params["ip1"]["weight"].grad is None
        assert list(net.params) == ["ip1", "ip2"] and list(net.layers)[:3] == ["in", "ip1", "relu1"]
        assert list(net.parameters()) == ["ip1/weight", "ip1/bias", "ip2/weight", "ip2/bias"]
        net.draw_patterns(3)
        mask = net.masks()["drop1"]
        assert mask.shape == (4, 8)         # two groups of two samples
        assert net.patterns["drop1"].kept(8).mask().tolist() == (mask[0] != 0).tolist()
        assert (mask[0] == mask[1]).all() and (mask[2] == mask[3]).all() and (mask[1] != mask[2]).any()
        out = net.forward(data=X, label=LABEL)
        assert list(out) == net.outputs == ["loss"] and float(out["loss"]) == net.loss
        net.backward()
        # Dense code with the mask, by hand.
        h = np.maximum(X @ net.params["ip1"]["weight"].data.T + net.params["ip1"]["bias"].data, 0)
        np.testing.assert_allclose(net.blobs["drop1"].numpy(), h * mask, rtol=1e-12)
        scores = h * mask @ net.params["ip2"]["weight"].data.T
        np.testing.assert_allclose(net.blobs["ip2"].numpy(), scores, rtol=1e-12)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        assert net.loss == pytest.approx(-np.log(p[np.arange(4), LABEL]).mean())
        g = (p - np.eye(3)[LABEL]) / 4
        np.testing.assert_allclose(net.params["ip2"]["weight"].grad, g.T @ (h * mask), rtol=1e-9, atol=1e-15)
        assert not net.params["ip1"]["weight"].grad[~mask.any(axis=0)].any()

    def test_blobs_are_the_last_version(self):
        net = net_of(TEXT)
        net.forward(data=X, label=LABEL)
        assert (net.blobs["ip1"].numpy() >= 0).all() and net.blobs["ip1"].shape == (4, 8)

    def test_phases_and_a_shared_test_net(self):
        train = net_of(TEXT, seed=1)
        test = net_of(TEXT, phase="TEST", seed=2, share=train)
        assert test.params["ip1"]["weight"] is train.params["ip1"]["weight"]
        assert list(test.forward(data=X, label=LABEL)) == ["accuracy"]
        before = test.blobs["ip2"].numpy()
        train.params["ip2"]["weight"].data[...] *= 2
        test.forward(data=X, label=LABEL)
        np.testing.assert_allclose(test.blobs["ip2"].numpy(), 2 * before)

    def test_parameters_given_by_name(self, caplog):
        train = net_of(TEXT, seed=1)
        given = {"ip1": dict(train.params["ip1"])}
        other = net_of(TEXT, seed=2, share=given)
        assert other.params["ip1"]["weight"] is train.params["ip1"]["weight"]
        assert other.params["ip2"]["weight"] is not train.params["ip2"]["weight"]
        assert not caplog.records
        new = copy.deepcopy(other)
        assert new.params["ip1"]["weight"] is not other.params["ip1"]["weight"]
        np.testing.assert_array_equal(new.params["ip1"]["weight"].data, other.params["ip1"]["weight"].data)

    def test_a_shared_net_of_another_shape(self):
        with pytest.raises(md.ConfigError) as caught:
            net_of(TEXT.replace("num_output: 8", "num_output: 9"), share=net_of(TEXT))
        end = "in the net it is shared with"
        assert str(caught.value).split("\n") == [
            f"net.prototxt:4:1: layer 'ip1' (InnerProduct): weight has shape (9, 6) here, but (8, 6) {end}",
            f"net.prototxt:4:1: layer 'ip1' (InnerProduct): bias has shape (9,) here, but (8,) {end}",
            f"net.prototxt:8:1: layer 'ip2' (InnerProduct): weight has shape (3, 9) here, but (3, 8) {end}"]

    @pytest.mark.parametrize("source", [lambda spec: spec, lambda spec: spec.to_proto()])
    def test_from_python(self, source):
        spec = md.NetSpec("small")
        spec.data = md.L.Input(shape=[4, 6])
        spec.ip = md.L.InnerProduct(spec.data, num_output=2)
        assert md.Net(source(spec), device="cpu").forward(data=X)["ip"].shape == (4, 2)

    @pytest.mark.parametrize("options, message", [
        ({"phase": "TRIAN"}, "unknown phase 'TRIAN': expected TRAIN or TEST"),
        ({"dtype": "float16"}, "unknown dtype 'float16': expected float32 or float64"),
    ])
    def test_wrong_options(self, options, message):
        with pytest.raises(md.ConfigError, match=f"^{message}$"):
            net_of(TEXT, **options)

    def test_wrong_source(self):
        with pytest.raises(md.ConfigError, match="^a net is built from a NetConfig, NetParameter, NetSpec or "
                           "path, got int$"):
            md.Net(3)

    def test_the_seed_says_everything(self):
        def run(seed):
            net = net_of(TEXT, seed=seed)
            net.draw_patterns(7)
            net.forward(data=X, label=LABEL)
            return net.loss
        assert run(1) == run(1) != run(2)


class TestBackward:
    def test_before_forward(self):
        net = net_of(TEXT)
        with pytest.raises(md.DataError, match="^backward needs a forward pass first$"):
            net.backward()
        with pytest.raises(md.DataError, match="^loss needs a forward pass first$"):
            net.loss  # noqa: B018

    def test_twice(self):
        net = net_of(TEXT)
        net.forward(data=X, label=LABEL)
        net.backward()
        with pytest.raises(md.DataError, match="run forward again"):
            net.backward()

    def test_without_a_loss(self):
        net = net_of(INPUT + ip("ip", "data"))
        net.forward(data=X)
        assert net.loss == 0
        with pytest.raises(md.ConfigError, match="backward needs a loss, but no layer is one and no "
                           "loss_weight is set$"):
            net.backward()

    def test_gradients_add_up_until_cleared(self):
        net = net_of(TEXT)
        net.draw_patterns(0)
        gradients = []
        for _ in range(3):
            net.forward(data=X, label=LABEL)
            net.backward()
            gradients.append(net.params["ip1"]["weight"].grad.copy())
        np.testing.assert_allclose(gradients[2], 3 * gradients[0])
        net.clear_grads()
        assert net.params["ip1"]["weight"].grad is None

    def test_loss_weights(self):
        """0.5 * sum(data) + 3 * sum(ip): weights of any layer, and 0 switches a loss layer off."""
        net = net_of(INPUT + ip("ip", "data") + summed("ip", 3) + summed("data", 0.5))
        net.forward(data=X)
        W = net.params["ip"]["weight"]
        assert net.loss == pytest.approx(3 * (X @ W.data.T).sum() + 0.5 * X.sum())
        net.backward()
        np.testing.assert_allclose(W.grad, np.tile(3 * X.sum(axis=0), (6, 1)))
        off = net_of(TEXT.replace('top: "loss"', 'top: "loss" loss_weight: 0'))
        off.forward(data=X, label=LABEL)
        assert off.losses == [] and off.loss == 0

    def test_a_weight_on_the_second_top(self):
        net = net_of(TEXT.replace('top: "loss"', 'top: "loss" top: "p" loss_weight: 0 loss_weight: 1'))
        net.forward(data=X, label=LABEL)
        assert net.loss == pytest.approx(4)        # probabilities of four records

    def test_propagate_down(self):
        text = INPUT + ip("one", "data") + ip("two", "one", "propagate_down: "
                                              "false") + ip("three", "one") + summed("two")
        net = net_of(text + summed("three"))
        net.forward(data=X)
        net.backward()
        only_three = net_of(text.replace("propagate_down: false", "") + summed("three"))
        for name, own in only_three.params.items():
            own["weight"].data[...] = net.params[name]["weight"].data
        only_three.losses = only_three.losses[1:]
        only_three.forward(data=X)
        only_three.backward()
        assert net.params["two"]["weight"].grad is not None
        np.testing.assert_allclose(net.params["one"]["weight"].grad, only_three.params["one"]["weight"].grad)

    def test_frozen_parameters_cost_nothing(self):
        frozen = "param { lr_mult: 0 } param { lr_mult: 2 decay_mult: 0.1 }"
        net = net_of(INPUT + ip("one", "data", "param { lr_mult: 0 } param { lr_mult: 0 }")
                     + ip("two", "one", frozen) + summed("two"))
        net.forward(data=X)
        assert net.blobs["one"].creator is None
        net.backward()
        assert net.params["two"]["weight"].grad is None and net.params["one"]["bias"].grad is None
        assert net.params["two"]["bias"].grad.tolist() == [4] * 6
        assert (net.params["two"]["bias"].lr_mult, net.params["two"]["bias"].decay_mult) == (2, 0.1)

    def test_no_grad(self):
        net = net_of(TEXT)
        with no_grad():
            net.forward(data=X, label=LABEL)
        assert net.blobs["ip2"].creator is None


class TestSharedParameters:
    TEXT = (INPUT + ip("one", "data", 'param { name: "W" } param { name: "b" }')
            + ip("two", "one", 'param { name: "W" } param { name: "b" }') + summed("two"))

    def test_one_parameter_under_two_names(self):
        net = net_of(self.TEXT)
        assert net.params["one"]["weight"] is net.params["two"]["weight"]
        assert list(net.parameters()) == ["one/weight", "one/bias"]

    def test_gradients_of_all_users_add_up(self):
        net = net_of(self.TEXT)
        net.forward(data=X)
        net.backward()
        W = net.params["one"]["weight"].data
        h, ones = X @ W.T, np.ones((4, 6))
        np.testing.assert_allclose(net.params["one"]["weight"].grad, ones.T @ h + (ones @ W).T @ X)
        np.testing.assert_allclose(net.params["one"]["bias"].grad, ones.sum(axis=0) + (ones @ W).sum(axis=0))

    def test_another_shape(self):
        text = INPUT + ip("one", "data", 'param { name: "W" }') + ip("two", "one", 'param { name: "W" }', 5)
        message = (r"^net.prototxt:3:\d+: layer 'two' \(InnerProduct\): the shared parameter 'W' has shape "
                   r"\(6, 6\), but is needed as \(5, 6\)$")
        with pytest.raises(md.ConfigError, match=message):
            net_of(text)

    def test_another_lr_mult(self):
        text = (INPUT + ip("one", "data", 'param { name: "W" lr_mult: 1 }')
                + ip("two", "one", 'param { name: "W" lr_mult: 2 }'))
        with pytest.raises(md.ConfigError,
                           match=r"^net.prototxt:3:\d+: layer 'two' \(InnerProduct\): the shared parameter "
                                                 r"'W' has lr_mult 1 already; give one value$"):
            net_of(text)

    def test_an_lr_mult_given_once_counts_for_all(self):
        text = INPUT + ip("one", "data", 'param { name: "W" '
                          '}') + ip("two", "one", 'param { name: "W" lr_mult: 2 }')
        assert net_of(text).params["one"]["weight"].lr_mult == 2


class TestFirstNonfinite:
    def test_names_layer_and_blob(self):
        net = net_of(TEXT)
        net.forward(data=X, label=LABEL)
        assert net.first_nonfinite() is None
        net.params["ip2"]["bias"].data[1] = np.inf
        with np.errstate(invalid="ignore"):
            net.forward(data=X, label=LABEL)
        assert net.first_nonfinite() == ("ip2", "ip2")

    def test_in_place_layers_are_told_apart(self):
        net = net_of(INPUT + ip("ip", "data") + 'layer { name: "pow" type: "Power" bottom: "ip" top: "ip" '
                                                'power_param { power: -1 } }')
        net.params["ip"]["weight"].data[...] = 0
        with np.errstate(divide="ignore"):
            net.forward(data=X)
        assert net.first_nonfinite() == ("pow", "ip")
        x = X.copy()
        x[0, 0] = np.nan
        with np.errstate(divide="ignore"):
            net.forward(data=x)
        assert net.first_nonfinite() == ("in", "data")


class TestLabelErrors:
    def test_input(self):
        net = net_of(TEXT)
        with pytest.raises(md.DataError) as caught:
            net.forward(data=X, label=[0, 1, 7, 0])
        assert str(caught.value) == ("layer 'loss' (SoftmaxWithLoss): label 7 at place 2 of the batch is out "
                                     "of range: expected a whole number of 0..2 (the scores have 3 classes)")

    LOSS = ip("ip", "data", outputs=3) + ('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: '
                                          '"label" top: "loss" %s }')

    def test_memory_data(self):
        net = net_of('layer { name: "m" type: "MemoryData" top: "data" top: "label" '
                     'memory_data_param { batch_size: 2 channels: 6 height: 1 width: 1 } }' + self.LOSS % "")
        net.set_input_arrays(np.zeros((5, 6, 1, 1)), [0, 1, 2, -4, 0])
        net.forward()
        message = (r"^layer 'loss' \(SoftmaxWithLoss\): label -4 at place 1 of the batch is out of range: "
                   r".*: record 3 of the arrays set$")
        with pytest.raises(md.DataError, match=message):
            net.forward()

    @pytest.fixture
    def source(self, tmp_path):
        for number in range(2):
            with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
                h5["data"] = np.zeros((3, 6))
                h5["label"] = np.array([0, 1, 9 if number else 2])
                h5["map"] = np.array([[[0, 0]], [[0, 0]], [[0, 9 if number else 0]]])
                h5["scores"] = np.zeros((3, 3, 1, 2))
        (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
        return tmp_path

    def test_hdf5_data(self, source):
        net = net_of(f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ '
                     f'source: "{source}/list.txt" batch_size: 4 }} }}' + self.LOSS % "")
        net.forward()
        with pytest.raises(md.DataError) as caught:
            net.forward()
        assert str(caught.value) == (
            f"layer 'loss' (SoftmaxWithLoss): label 9 at place 1 of the batch is out of range: expected a "
            f"whole number of 0..2 (the scores have 3 classes): {source}/1.h5: record 2")
        net.close()

    def test_a_record_with_many_labels(self, source):
        """The place counts labels, the record number records."""
        net = net_of(f'layer {{ name: "h" type: "HDF5Data" top: "scores" top: "map" hdf5_data_param {{ '
                     f'source: "{source}/list.txt" batch_size: 4 }} }}'
                     'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "map" top: '
                     '"loss" }')
        net.forward()
        with pytest.raises(md.DataError,
                           match=rf"label 9 at place 3 of the batch .*: {source}/1.h5: record 2$"):
            net.forward()
        net.close()


def test_products_are_reported_to_who_counts_them():
    net = net_of(TEXT)
    nodes = {node.name: node for node in net.graph.nodes}
    assert [(one.rows, one.inputs, one.outputs) for one in nodes["ip1"].products] == [(4, 6, 8)]
    assert nodes["relu1"].products == []


def test_force_backward_gives_the_data_a_gradient():
    net = net_of("force_backward: true " + INPUT + ip("one", "data") + summed("one"))
    net.forward(data=X)
    net.backward()
    expected = np.ones((4, 6)) @ net.params["one"]["weight"].data
    np.testing.assert_allclose(net.blobs["data"].grad, expected)


def test_the_gradient_of_constant_data_is_that_of_the_last_iteration():
    net = net_of('force_backward: true layer { name: "d" type: "DummyData" top: "data" dummy_data_param { '
                 'shape { dim: 4 dim: 5 } data_filler { type: "constant" value: 2 } } '
                 '}' + ip("one", "data") + summed("one"))
    for _ in range(3):
        net.forward()
        net.backward()
        assert (net.blobs["data"].data == 2).all()
    expected = np.ones((4, 6)) @ net.params["one"]["weight"].data
    np.testing.assert_allclose(net.blobs["data"].grad, expected)


def test_parameters_that_do_not_fit_into_memory_name_their_layer():
    with pytest.raises(md.BackendError,
                       match=r"layer 'one': weight of shape \(4000000000, 6\) does not fit into memory"):
        net_of(INPUT + ip("one", "data", outputs=4_000_000_000))


def test_backward_with_nothing_to_do_says_so():
    """Also where the only loss is one of a layer without a gradient."""
    net, metric = net_of(TEXT), net_of(phase="TEST", text="""
        layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: 2 dim: 3 }
          shape { dim: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4 } }
        layer { name: "right" type: "Accuracy" bottom: "ip" bottom: "label" top: "right" loss_weight: 1 }""")
    with no_grad():
        net.forward(data=X, label=LABEL)
    metric.forward(x=np.ones((2, 3)), label=np.ones(2))
    for one in (net, metric):
        with pytest.raises(md.DataError, match="no_grad, every parameter is frozen or has an lr_mult of 0"):
            one.backward()


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), "float32"])
def test_dtype_may_be_a_name_or_a_type(dtype):
    assert net_of(TEXT, dtype=dtype).dtype == "float32"


class TestInputs:
    TEXT = 'layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }'

    def test_one_left_out_is_refused_and_not_that_of_the_last_batch(self):
        net = md.Net(parse_net(self.TEXT), device="cpu")
        net.forward(a=np.ones((2, 3)), b=np.ones((2, 3)))
        for given, missing in (({"a": np.ones((2, 3))}, "b"), ({}, "a")):
            message = (f"^layer 'in' .Input.: no value for input '{missing}' in this pass; "
                       f".*_inputs.{missing}=")
            with pytest.raises(md.DataError, match=message):
                net.forward(**given)
        with pytest.raises(md.DataError, match="no value for input 'a'"):
            net.read()

    def test_one_that_is_set_stays_and_may_be_given_another_value_for_one_pass(self):
        net = md.Net(parse_net(self.TEXT), device="cpu")
        net.set_inputs(b=np.full((2, 3), 7))
        for b in (None, 5, None):
            more = {} if b is None else {"b": np.full((2, 3), b)}
            outputs = net.forward(a=np.ones((2, 3)), **more)
            assert outputs["b"].numpy().tolist() == [[b or 7] * 3] * 2
        with pytest.raises(md.ShapeError, match="the net has no input 'c'"):
            net.set_inputs(c=1)


DROPPING = """layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 8 } } }
  layer { name: "d" type: "ApproxDropout" bottom: "x" top: "d" approx_dropout_param { pattern: "UNIT" } }"""


def test_passes_by_hand_draw_as_forward_does():
    """Nobody called draw_patterns: compute draws, and so drops, the units of passes 0, 1, ..."""
    net, other = (md.Net(parse_net(DROPPING), device="cpu") for _ in range(2))
    for _ in range(3):
        net.compute(net.read())
        other.forward()
        assert net.patterns == other.patterns and net.blobs["d"].kept == other.blobs["d"].kept is not None
        assert net.masks()["d"].tolist() == other.masks()["d"].tolist()


def test_a_site_that_nobody_would_draw_is_refused():
    with base._types.forgetting():
        @md.register_layer("Forgetful")
        class Forgetful(md.Layer):
            def setup(self, shape):
                self.site = DropSite(self.name, PatternSettings(), 0, shape[1])
                return [shape]

        text = DROPPING.split("approx_dropout_param")[0].replace("ApproxDropout", "Forgetful") + "}"
        with pytest.raises(md.ConfigError, match="layer 'd'.*the DropSite site is never drawn.*: flow"):
            md.Net(parse_net(text), device="cpu")


@in_turn("setup, forward, message", [
    (lambda shape: None, None, "setup should return a list with the shape of each top, such as [(4, 6)], "
     "got None"),
    (lambda shape: shape, None, "setup should return a list with the shape of each top, such as [(4, 6)], "
     "got (2, 8)"),
    (lambda shape: [8], None, "setup should return a list with the shape of each top, such as [(4, 6)], "
     "got [8]"),
    (lambda shape: ["ab"], None, "setup should return a list with the shape of each top, such as [(4, 6)], "
     "got ['ab']"),
    (lambda shape: [shape] * 2, None, "gives 2 tops for 1 bottoms, got 1"),
    (None, lambda x: x.data, "forward should return a Tensor for each top, 1 in all .*, got ndarray"),
    (None, lambda x: None, "forward should return a Tensor for each top, .*, got NoneType"),
    (None, lambda x: (x, x), "forward should return a Tensor for each top, .*, got Tensor, Tensor"),
])
def test_what_a_layer_of_a_users_own_returns(setup, forward, message):
    """The message names the layer, not the next one, which cannot read what it is given."""
    with base._types.forgetting():
        @md.register_layer("Returns")
        class Returns(md.Layer):
            def setup(self, shape):
                return setup(shape) if setup else [shape]

            def forward(self, x):
                return forward(x)

        words = re.escape(message).replace(r"\.\*", ".*")
        with pytest.raises(md.ConfigError, match=rf"layer 'd' \(Returns\): {words}"):
            text = DROPPING.split("approx_dropout_param")[0].replace("ApproxDropout", "Returns")
            md.Net(parse_net(text + "}"), device="cpu").forward()


@in_turn("setup", [lambda shape: [np.array(shape)], lambda shape: np.array([shape]),
                   lambda shape: {"y": shape}.values(), lambda shape: (list(shape),)])
def test_a_layer_of_a_users_own_may_compute_its_shape_with_numpy(setup):
    with base._types.forgetting():
        @md.register_layer("Returns")
        class Returns(md.Layer):
            def setup(self, shape):
                return setup(shape)

            def forward(self, x):
                return x

        text = DROPPING.split("approx_dropout_param")[0].replace("ApproxDropout", "Returns")
        net = md.Net(parse_net(text + "}"), device="cpu")
        shape = net.graph.shapes[net.graph.nodes[-1].tops[0]]
        assert shape == (2, 8) and all(type(length) is int for length in shape)


def test_parameters_are_not_exchanged():
    """A layer would compute with the other one, and no solver would train it."""
    net = net_of(TEXT)
    weight = net.params["ip1"]["weight"]
    for value in (np.zeros(weight.shape), md.Parameter(np.zeros(weight.shape))):
        with pytest.raises(md.ConfigError, match="got 'weight' to be set: to change values, write to net"):
            net.params["ip1"]["weight"] = value
    with pytest.raises(md.ConfigError, match="got 'ip1' to be set"):
        net.params["ip1"] = {}
    with pytest.raises(md.ConfigError, match="got 'bias' to be removed"):
        del net.params["ip1"]["bias"]
    weight.data[...] = 0
    assert net.params["ip1"]["weight"] is weight is net.layers["ip1"].params["weight"]
    assert list(net.params["ip1"]) == ["weight", "bias"]
