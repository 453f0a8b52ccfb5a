"""Passes layer by layer: equal to whole passes, and what only they can do."""

import numpy as np
import pytest
from nets import IMAGES, LOSS, drop, images, inputs, ip, layer, net_of

from minidrop.config import parse_net
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.net import Layerwise, Net

# A blob that two layers read, one written in place, a metric beside the loss, a blob without a gradient.
NET = (IMAGES, ip("ip1", "data", 8), layer("TanH", "tanh1", "ip1", "ip1"), ip("ip2", "ip1", 8),
       layer("Eltwise", "sum", "ip2 ip1"), ip("ip3", "sum", 7), LOSS % "ip3",
       layer("Accuracy", "accuracy", "ip3 label"))


def pair(*layers, **options):
    """The same net twice, one run as a whole and one layer by layer, with the same inputs."""
    whole, net = net_of(*layers, **options), net_of(*layers, **options)
    steps = Layerwise(net)
    whole.set_inputs(**images())
    for name, array in images().items():
        steps.value(name).data[...] = array
    return whole, net, steps


def gradients(net):
    return {name: parameter.dense_grad() for name, parameter in net.parameters().items()}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-10, atol=1e-12, err_msg=name)


def forward_backward(net):
    net.forward()
    net.backward()
    return gradients(net)


def test_a_pass_equals_a_whole_pass():
    whole, net, steps = pair(*NET)
    expected = forward_backward(whole)
    steps.forward()
    assert_same({name: steps.value(name).data for name in whole.blobs},
                {name: tensor.data for name, tensor in whole.blobs.items()})
    assert net.loss == pytest.approx(whole.loss)
    steps.backward()
    assert_same(gradients(net), expected)
    assert steps.gradient("loss") == 1


@pytest.mark.parametrize("family", ["PERIODIC", "TILE", "BLOCK", "Dropout"])
def test_drops_drop_the_same_units(family):
    layers = (IMAGES, ip("ip1", "data", 24), drop("drop1", "ip1", family, settings="dropout_ratio: 0.5" if (
        family != "Dropout") else ""), ip("ip2", "drop1", 7), LOSS % "ip2")
    whole, net, steps = pair(*layers)
    expected = forward_backward(whole)
    steps.forward()
    steps.backward()
    assert_same(gradients(net), expected)
    assert steps.value("ip1").shape == (6, 24) and steps.value("ip1").data.all()
    assert family == "TILE" or not steps.value("drop1").data.all()      # tiles drop weights


def test_blobs_have_the_gradients_that_differences_show():
    _, _, steps = pair(*NET)
    steps.forward()
    steps.backward()
    got = {name: steps.gradient(name).copy() for name in ("sum", "ip3")}
    assert not steps.gradient("accuracy").any() and not steps.gradient("data").any()
    for name, after in (("sum", "ip3"), ("ip3", "loss")):
        value = steps.value(name).data
        for place in [(0, 0), (5, 3)]:
            losses = []
            for step in (1e-5, -2e-5, 1e-5):
                value[place] += step
                steps.forward(start=after)
                losses.append(float(steps.value("loss")))
            assert got[name][place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_in_place_the_blob_has_the_gradient_before_the_activation():
    _, net, steps = pair(*NET)
    steps.forward()
    steps.backward()
    data = images()["data"]
    np.testing.assert_allclose(steps.gradient("ip1").T @ data, net.params["ip1"]["weight"].grad, rtol=1e-9)


def test_in_place_a_layer_may_change_the_shape():
    whole, net, steps = pair(IMAGES, ip("ip1", "data", 8), layer("Reshape", "r", "ip1", "ip1", more=(
        "reshape_param { shape { dim: 0 dim: 2 dim: 4 } }")), ip("ip2", "ip1", 7), LOSS % "ip2")
    expected = forward_backward(whole)
    steps.forward()
    steps.backward()
    assert_same(gradients(net), expected)
    assert steps.gradient("ip1").shape == (6, 2, 4)
    with pytest.raises(DataError, match=r"blob 'ip1' has shape \(6, 2, 4\) and not \(6, 8\)"):
        steps.backward(start="ip1")


def test_parts_make_a_whole():
    whole, net, steps = pair(*NET)
    expected = forward_backward(whole)
    steps.forward(end="ip1")
    before = steps.value("ip1").data.copy()
    steps.forward(start="tanh1", end="ip2")
    np.testing.assert_allclose(steps.value("ip1").data, np.tanh(before))
    steps.forward(start="sum")
    steps.backward(end="ip3")
    assert net.params["ip2"]["weight"].grad is None
    steps.backward(start="sum")
    assert_same(gradients(net), expected)


def test_backward_again_adds_the_same_to_the_parameters():
    whole, net, steps = pair(*NET)
    expected = forward_backward(whole)
    steps.forward()
    steps.backward()
    first = steps.gradient("ip1").copy()
    steps.backward()
    np.testing.assert_array_equal(steps.gradient("ip1"), first)
    assert_same(gradients(net), {name: 2 * array for name, array in expected.items()})


def test_backward_begins_with_what_the_gradient_holds():
    _, net, steps = pair(*NET[:6])        # no loss
    steps.forward()
    steps.backward()
    assert not net.params["ip3"]["weight"].grad.any()
    steps.gradient("ip3")[:, 2] = 1
    steps.backward()
    np.testing.assert_allclose(net.params["ip3"]["bias"].grad, [0, 0, 6, 0, 0, 0, 0])
    steps.gradient("ip2")[...] = 1
    net.clear_grads()
    steps.backward(start="ip2")
    assert net.params["ip3"]["weight"].grad is None and net.params["ip2"]["weight"].grad.any()


def test_force_backward_reaches_the_data():
    config = parse_net("force_backward: true\n" + "\n".join(NET))
    steps = Layerwise(Net(config, device="cpu", dtype="float64"))
    for name, array in images().items():
        steps.value(name).data[...] = array
    steps.forward()
    steps.backward()
    assert steps.gradient("data").any()


def test_blobs_are_there_before_any_pass_and_may_be_fed_anywhere():
    _, net, steps = pair(*NET)
    assert steps.shape("sum") == (6, 8) and not steps.value("sum").data.any()
    steps.value("sum").data[...] = 2
    steps.forward(start="ip3")
    weight, bias = net.params["ip3"]["weight"].data, net.params["ip3"]["bias"].data
    np.testing.assert_allclose(steps.value("ip3").data[0], 2 * weight.sum(1) + bias)
    steps.backward(end="ip3")
    assert steps.gradient("sum").any()
    zeros = steps.value("ip1")
    steps.backward()        # the layers above it run on what their blobs hold
    assert steps.value("ip1") is zeros and not zeros.data.any()
    np.testing.assert_allclose(steps.gradient("ip1"), steps.gradient("sum") + steps.gradient("ip2")
                               @ net.params["ip2"]["weight"].data, rtol=1e-12)


def test_backward_after_a_pass_that_began_behind_the_data():
    whole, net, steps = pair(*NET)
    expected = forward_backward(whole)
    steps.forward(start="ip1")
    steps.backward()
    assert_same(gradients(net), expected)


def test_a_changed_blob_stays_for_the_layers_below():
    _, _, steps = pair(*NET)
    steps.forward()
    before = steps.value("ip3").data.copy()
    steps.value("ip1").data[...] = 0
    steps.forward(start="ip2")
    assert not np.allclose(steps.value("ip3").data, before)


def test_inputs_serve_the_passes_of_the_net_too():
    _, net, steps = pair(*NET)
    steps.forward()
    loss = float(steps.value("loss"))
    assert float(net.forward()["loss"]) == pytest.approx(loss)
    steps.value("data").data[...] = 0
    net.forward()
    assert float(steps.value("loss")) == net.loss != pytest.approx(loss)


@pytest.mark.parametrize("family", ["", "PERIODIC", "Dropout"])
def test_backward_after_a_pass_of_the_net_itself(family):
    layers = (IMAGES, ip("ip1", "data", 24), layer("TanH", "tanh", "ip1", "ip1"),
              *([drop("drop", "ip1", family, settings="dropout_ratio: 0.5" if family == "PERIODIC" else "")]
                if family else []), ip("ip2", "drop" if family else "ip1", 7), LOSS % "ip2")
    whole, net, steps = pair(*layers)
    expected = forward_backward(whole)
    net.forward()
    values = {name: steps.value(name).data.copy() for name in ("ip2", "loss")}
    steps.backward()
    assert_same(gradients(net), expected)
    assert_same({name: steps.value(name).data for name in values}, values)


def test_data_that_are_changed_leave_their_source():
    text = """layer { name: "d" type: "MemoryData" top: "data" top: "label" memory_data_param {
    batch_size: 2 channels: 1 height: 1 width: 3 } }""" + ip("ip", "data", 2)
    net = net_of(text)
    source = np.arange(12.0).reshape(4, 1, 1, 3)
    net.set_input_arrays(source, np.arange(4.0))
    steps = Layerwise(net)
    steps.forward()
    steps.value("data").data[...] = -1
    net.forward()
    steps.value("data").data[...] = -1
    assert source.min() == 0
    steps.forward(start="ip")
    assert net.positions == {"d": 2}
    np.testing.assert_array_equal(steps.value("label").data, [2, 3])


def test_reshape_keeps_parameters_and_fits_all_shapes():
    net = net_of(IMAGES, ip("ip1", "data", 8), drop("drop", "ip1", "Dropout"))
    steps, weight = Layerwise(net), net.params["ip1"]["weight"]
    steps.reshape_input("data", (4, 13))
    assert steps.shape("ip1") == (6, 8)
    steps.reshape_input("label", (4,))
    steps.reshape()
    assert steps.shape("ip1") == (4, 8) and net.params["ip1"]["weight"] is weight
    steps.value("data").data[...] = 1
    steps.forward()
    expected = weight.data.sum(1) + net.params["ip1"]["bias"].data
    np.testing.assert_allclose(steps.value("ip1").data[3], expected)
    steps.reshape_input("data", (4, 12))
    with pytest.raises(ConfigError, match=r"reshaped to \('data' from \(4, 13\) to \(4, 12\)\): (?s:.*)"
                                          r"weight has shape \(8, 12\) here, but \(8, 13\)"):
        steps.forward()
    with pytest.raises(ShapeError, match="written by layer 'ip1'.*only inputs can be reshaped"):
        steps.reshape_input("ip1", (4, 8))


def test_a_pass_to_a_layer_needs_only_the_layers_up_to_it_to_fit():
    """As Deep Dream runs a net on octaves of an image, though its classifier takes one size alone."""
    convolution = 'convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }'
    text = "force_backward: true\n" + "\n".join((
        inputs((1, 1, 5, 5)), layer("Convolution", "c", "a", more=convolution), layer("ReLU", "r", "c", "c"),
        ip("fc", "c", 2), inputs((1, 2), names=["late"])))
    net = Net(parse_net(text), device="cpu", dtype="float64")
    steps, rng = Layerwise(net), np.random.default_rng(0)
    steps.value("late").data[...] = 3
    for size in (8, 7):
        steps.reshape_input("a", (1, 1, size, size))
        steps.value("a").data[...] = x = rng.standard_normal((1, 1, size, size))
        for _ in range(2):
            steps.forward(end="c")
        weight = net.params["c"]["weight"]
        assert steps.shape("c") == (1, 2, size - 2, size - 2) and steps.shape("fc") == (1, 2)
        expected = (x[0, 0, 1:4, :3] * weight.data[1, 0]).sum()
        assert steps.value("c").data[0, 1, 1, 0] == pytest.approx(expected, rel=1e-12)
        steps.gradient("c")[0, 1, 1, 0] = 1
        weight.clear_grad()
        steps.backward(start="c")
        np.testing.assert_allclose(steps.gradient("a")[0, 0, 1:4, :3], weight.data[1, 0], rtol=1e-12)
        np.testing.assert_allclose(weight.grad[1, 0], x[0, 0, 1:4, :3], rtol=1e-12)
    steps.forward(end="r")
    for run in (steps.forward, steps.reshape, lambda: steps.forward(end="fc")):
        with pytest.raises(ConfigError, match=r"'a' from \(1, 1, 5, 5\) to \(1, 1, 7, 7\)"):
            run()
    assert steps.value("late").data.tolist() == [[3, 3]]
    steps.reshape_input("a", (1, 1, 5, 5))
    steps.value("a").data[...] = 1
    steps.forward()
    assert steps.shape("fc") == (1, 2) and steps.value("late").data.tolist() == [[3, 3]]
    sums = np.maximum(weight.data.sum((1, 2, 3)), 0).repeat(9)
    weight, bias = net.params["fc"]["weight"].data, net.params["fc"]["bias"].data
    np.testing.assert_allclose(steps.value("fc").data[0], weight @ sums + bias, rtol=1e-12)


def test_a_pass_after_a_reshape_draws_on():
    net = net_of(IMAGES, drop("drop", "data", "Dropout"))
    steps = Layerwise(net)
    masks = []
    for _ in range(2):
        steps.reshape_input("data", (7 + len(masks), 13))
        steps.value("data").data[...] = 1
        steps.forward()
        masks.append(steps.value("drop").data[:6].copy())
    assert not np.array_equal(*masks)


def test_unknown_names():
    _, _, steps = pair(*NET)
    with pytest.raises(ConfigError, match="no layer 'tanh'; did you mean 'tanh1'"):
        steps.forward(start="tanh")
    for look in (steps.value, steps.shape, steps.gradient):
        with pytest.raises(ConfigError, match="no blob 'lable'; did you mean 'label'"):
            look("lable")


def test_backward_again_leaves_statistics_states_and_draws():
    """Layers then run forward once more: nothing that a pass leaves may change by that."""
    recurrent = 'recurrent_param { num_output: 2 weight_filler { type: "xavier" } }'
    net = net_of(inputs((3, 4, 5), (3, 4), names=["x", "cont"]), layer("BatchNorm", "norm", "x"),
                 layer("Dropout", "drop", "norm"), layer("LSTM", "lstm", "drop cont", more=recurrent),
                 ip("ip", "lstm", 1), layer("Reduction", "loss", "ip", more="loss_weight: 1"))
    steps = Layerwise(net)
    steps.value("x").data[...] = np.random.default_rng(0).standard_normal((3, 4, 5))
    steps.value("cont").data[...] = 1
    for _ in range(2):
        steps.forward()
    steps.backward()
    first = gradients(net)
    statistics = {name: array.copy() for name, array in ((p, q.data) for p, q in net.params["norm"].items())}
    states = {place: array.copy() for place, array in net.states.items()}
    net.draw_patterns(9)        # the layers hold another draw than the pass had
    steps.backward()
    assert_same(gradients(net), {name: 2 * array for name, array in first.items()})
    for name, array in statistics.items():
        np.testing.assert_array_equal(net.params["norm"][name].data, array)
    assert any(array.any() for array in states.values())
    for place, array in states.items():
        np.testing.assert_array_equal(net.states[place], array)


def test_backward_again_drops_what_the_pass_dropped():
    net = net_of(IMAGES, ip("ip1", "data", 24), layer("Dropout", "drop", "ip1"), ip("ip2", "drop", 1),
                 layer("Reduction", "loss", "ip2", more="loss_weight: 1"))
    steps = Layerwise(net)
    steps.value("data").data[...] = images()["data"]
    steps.forward()
    steps.backward()
    first = steps.gradient("ip1").copy()
    assert first.any() and not first.all()
    net.draw_patterns(9)
    drawn = net.layers["drop"].drawn
    steps.backward()
    np.testing.assert_array_equal(steps.gradient("ip1"), first)
    assert net.layers["drop"].drawn == drawn


def test_a_layer_that_fails_has_nothing_to_run_backward_on():
    _, _, steps = pair(*NET)
    steps.forward()
    steps.value("label").data[0] = 99
    with pytest.raises(DataError, match="layer 'loss'"):
        steps.forward(start="loss")
    with pytest.raises(DataError, match="layer 'loss'.*99"):
        steps.backward()
    steps.value("label").data[0] = 0
    steps.forward(start="loss")
    steps.backward()


def test_parameters_stand_in_the_order_of_the_layer_also_where_shared():
    first = ip("a", "data", 8, more='param { name: "w" } param { name: "b" }')
    second = ip("c", "a", 8, more='param { name: "own" } param { name: "b" }')
    net = net_of(IMAGES, first, second)
    assert list(net.params["c"]) == ["weight", "bias"]
    assert net.params["c"]["bias"] is net.params["a"]["bias"]


def test_arrays_that_are_held_show_a_pass_that_ends_before_their_readers():
    _, net, steps = pair(*NET)
    steps.forward()
    held = {name: steps.array(name) for name in ("ip2", "sum")}
    steps.value("data").data[...] *= 2
    steps.forward(end="sum")
    other = net_of(*NET)
    other.set_inputs(**images())
    other.forward(data=2 * images()["data"])
    for name, array in held.items():
        np.testing.assert_allclose(array, other.blobs[name].data, rtol=1e-12)
        assert steps.array(name) is array
    before = steps.value("ip3").data.copy()
    net.clear_grads()
    steps.backward("ip3", "ip3")        # the layer behind has read what its bottom holds now
    np.testing.assert_array_equal(steps.value("ip3").data, before)
    seed = steps.gradient("ip3")
    np.testing.assert_allclose(net.params["ip3"]["weight"].grad, seed.T @ held["sum"].reshape(len(seed), -1))
