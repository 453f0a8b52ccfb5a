"""Products that apply the activation and the scale below them: what is decided, what the user sees, and the
same bits."""

import nets
import numpy as np
import pytest
from cases import every_pair, every_value, in_turn

import minidrop as md
from minidrop.autograd import no_grad
from minidrop.config import parse_net, parse_solver
from minidrop.config.minidrop_pb2 import InnerProductParameter
from minidrop.layers import base, register_layer
from minidrop.layers.inner_product import InnerProduct
from minidrop.layers.tanh import TanH
from minidrop.net import Net
from minidrop.net.drops import Mode
from minidrop.patterns import known_families
from minidrop.solver.updater import Updater
from minidrop.testing import assert_matches_masked_dense, run_once

UNITS = ("PERIODIC", "ROW", "UNIT", "SLICE")
BATCH = nets.images()


def ip(name, bottom, outputs=24, extra="", more=""):
    return nets.ip(name, bottom, outputs, extra, more)


def layer(kind, name, bottom, top=None, extra=""):
    """A layer that works in place, unless it has a top."""
    return nets.layer(kind, name, bottom, top or bottom, extra)


def drop(name, bottom, family="PERIODIC", rate=0.5, top=None, extra=""):
    return nets.drop(name, bottom, family, top or bottom, f"dropout_ratio: {rate} {extra}")


def net_of(*layers, **options):
    return nets.net_of(nets.IMAGES, *layers, **{"seed": 3, **options})


def mlp(family="PERIODIC", rate=0.5, extra="", bias=""):
    """Two products that apply ReLU and scale, one that applies the sigmoid, and one that applies nothing."""
    return [ip("ip1", "data", 29, bias), layer("ReLU", "relu1", "ip1"),
            drop("drop1", "ip1", family, rate, extra=extra), ip("ip2", "ip1", 31, bias),
            layer("ReLU", "relu2", "ip2"), drop("drop2", "ip2", family, rate, extra=extra),
            ip("ip3", "ip2", 18), layer("Sigmoid", "sigmoid3", "ip3"), ip("ip4", "ip3", 7), nets.LOSS % "ip4"]


def applied(*layers):
    return [line for line in net_of(*layers).plan.lines() if " applies " in line]


# -- decisions -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["Dropout", *known_families()])
def test_what_products_apply(family):
    scale = " and the scale of drop{}" if family in UNITS else ""
    assert applied(*mlp(family)) == ["ip1 applies relu1" + scale.format(1),
                                     "ip2 applies relu2" + scale.format(2), "ip3 applies sigmoid3"]


@pytest.mark.parametrize("chain, lines", [
    # whose gradient needs y / scale
    ([layer("TanH", "t", "ip1"), drop("d", "ip1")], ["ip1 applies t"]),
    ([layer("Sigmoid", "s", "ip1"), drop("d", "ip1")], ["ip1 applies s"]),
    ([drop("d", "ip1")], ["ip1 applies the scale of d"]),
    ([drop("d", "ip1"), layer("ReLU", "r", "ip1")], ["ip1 applies the scale of d"]),
    ([layer("ReLU", "r", "ip1"), layer("TanH", "t", "ip1"), drop("d", "ip1")], ["ip1 applies r"]),
    ([layer("Power", "p", "ip1"), layer("ReLU", "r", "ip1")], []),
    ([layer("ReLU", "r", "ip1", extra="relu_param { negative_slope: 0.1 }"), drop("d", "ip1")], []),
])
def test_only_what_a_product_can_do_in_one_pass(chain, lines):
    assert applied(ip("ip1", "data"), *chain, ip("ip2", "ip1", 7), nets.LOSS % "ip2") == lines


@pytest.mark.parametrize("layers, lines", [
    # Tops of their own are what a user may look at.
    ([ip("ip1", "data"), layer("ReLU", "r", "ip1", "r"), drop("d", "r"), ip("ip2", "r", 7)], []),
    ([ip("ip1", "data"), layer("ReLU", "r", "ip1"), drop("d", "ip1", top="d"), ip("ip2", "d", 7)],
     ["ip1 applies r"]),
    # A second reader, here of what the product writes before the rectifier overwrites it.
    ([ip("ip1", "data"), layer("Silence", "look", "ip1").replace(' top: "ip1"', ""),
      layer("ReLU", "r", "ip1"), drop("d", "ip1"), ip("ip2", "ip1", 7)], []),
    ([ip("ip1", "data"), layer("ReLU", "r", "ip1"),
      layer("Silence", "look", "ip1").replace(' top: "ip1"', ""), drop("d", "ip1"), ip("ip2", "ip1", 7)],
     ["ip1 applies r"]),
    ([ip("ip1", "data", more="loss_weight: 1"), layer("ReLU", "r", "ip1"), drop("d", "ip1"),
      ip("ip2", "ip1", 7)], []),
    ([ip("ip1", "data"), layer("ReLU", "r", "ip1", extra="loss_weight: 1"), drop("d", "ip1"),
      ip("ip2", "ip1", 7)],
     ["ip1 applies r"]),
    ([ip("ip1", "data"), layer("ReLU", "r", "ip1"), drop("d", "ip1", extra=""),
      ip("ip2", "ip1", 7, more="loss_weight: 1")],
     ["ip1 applies r and the scale of d"]),
    ([layer("DropConnect", "ip1", "data", "ip1", f"inner_product_param {{ num_output: 24 {nets.FILLERS} }}"),
      layer("ReLU", "r", "ip1"), drop("d", "ip1"), ip("ip2", "ip1", 7)], ["ip1 applies r"]),
])
def test_only_what_nobody_sees_is_left_out(layers, lines):
    net = net_of(*layers, nets.LOSS % "ip2")
    assert [line for line in net.plan.lines() if " applies " in line] == lines
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, BATCH)
        fused, apart = (looked_at(net, iteration, on) for on in (True, False))
        assert fused.keys() == apart.keys()
        for name, value in apart.items():
            np.testing.assert_array_equal(fused[name], value, err_msg=name)


SCALE = layer("Scale", "s", "ip1", extra="scale_param { bias_term: true }")
NORM = layer("BatchNorm", "n", "ip1")
RELU = layer("ReLU", "r", "ip1")


@pytest.mark.parametrize("chain, lines", [
    ([NORM, SCALE, RELU], ["n applies s and r"]),
    ([NORM, layer("Scale", "s", "ip1"), layer("TanH", "t", "ip1")], ["n applies s"]),
    ([NORM, SCALE, RELU, drop("d", "ip1", extra="groups: 1")], ["n applies s, r and the scale of d"]),
    ([NORM, SCALE, drop("d", "ip1", "UNIT", 0.3, extra="groups: 1")], ["n applies s and the scale of d"]),
    ([NORM, SCALE, drop("d", "ip1", "ROW", extra="groups: 1"), RELU], ["n applies s and the scale of d"]),
    ([NORM, SCALE, RELU, drop("d", "ip1", "ROW", 0.7, "up", "groups: 1"), drop("ip1", "up", rate=0)],
     ["n applies s and r"]),
    ([NORM, SCALE, RELU, drop("d", "ip1")], ["n applies s and r"]),     # groups keep other channels each
    ([NORM, SCALE, RELU, drop("d", "ip1", "BLOCK")], ["n applies s and r"]),
    ([NORM, SCALE, layer("ReLU", "r", "ip1", extra="relu_param { negative_slope: 0.1 }")], ["n applies s"]),
    ([NORM, RELU, SCALE], []),
    ([NORM, layer("Scale", "s", "ip1", extra="loss_weight: 1"), RELU], ["n applies s"]),
    ([layer("BatchNorm", "n", "ip1", extra="loss_weight: 1"), SCALE, RELU], []),
    ([layer("BatchNorm", "n", "ip1", extra="propagate_down: false"), SCALE, RELU], ["n applies s and r"]),
    ([NORM, layer("Scale", "s", "ip1", extra="propagate_down: false"), RELU], []),
    ([NORM, SCALE, layer("ReLU", "r", "ip1", extra="propagate_down: false")], ["n applies s and r"]),
    ([NORM, layer("Silence", "look", "ip1").replace(' top: "ip1"', ""), SCALE, RELU], []),
    ([NORM, layer("Scale", "s", "ip1", extra="scale_param { axis: 0 num_axes: 2 }"), RELU], []),
    ([layer("BatchNorm", "n", "ip1", extra="batch_norm_param { use_global_stats: true }"), SCALE, RELU], []),
])
def test_a_normalization_applies_what_scales_it(chain, lines):
    net = net_of(ip("ip1", "data"), *chain, ip("ip2", "ip1", 7), nets.LOSS % "ip2", dtype="float64")
    check_applied(net, lines)


@in_turn("family, rate", [("ROW", 0.5), ("UNIT", 0.3), ("PERIODIC", 0.7)])
@in_turn("dtype", ["float32", "float64"])
def test_gradients_of_a_scaled_normalization_have_the_same_bits(family, rate, dtype):
    """In images, whose channels are computed by loops, and in rows, whose are not."""
    image = ('layer { name: "in" type: "Input" top: "data" top: "t" input_param { shape { dim: 3 dim: 2 '
             'dim: 9 dim: 9 } shape { dim: 3 dim: 4 } } }')
    conv = layer("Convolution", "c", "data", "ip1", "convolution_param { num_output: 10 kernel_size: 2 }")
    chain = [NORM, SCALE, RELU, drop("d", "ip1", family, rate, extra="groups: 1")]
    end = [ip("ip2", "ip1", 4), layer("EuclideanLoss", "loss", "ip2 t", "loss")]
    x = np.random.default_rng(1)
    batch = {"data": x.standard_normal((3, 2, 9, 9)), "t": x.standard_normal((3, 4))}
    rows = [nets.IMAGES, ip("ip1", "data"), *chain, ip("ip2", "ip1", 7), nets.LOSS % "ip2"]
    for layers, inputs in (([image, conv, *chain, *end], batch), (rows, BATCH)):
        found = []
        for fused in (True, False):
            net = Net(parse_net("\n".join(layers)), device="cpu", dtype=dtype, seed=3)
            net.mode = Mode(fused=fused)
            for iteration in range(4):
                net.draw_patterns(iteration)
                net.forward(**inputs)
                net.backward()
            found.append({name: p.dense_grad().tobytes() for name, p in net.parameters().items()
                          if p.grad is not None})
        assert net.plan.epilogues[0].drop.name == "d" and len(found[0]) == 6 and found[0] == found[1]


def added(extra=""):
    return layer("Eltwise", "sum", "ip1 ip0", "sum", extra)


ABOVE = layer("ReLU", "r", "sum")


@pytest.mark.parametrize("branch, chain, lines", [
    ([], [added(), ABOVE], ["sum applies r"]),
    ([], [added("eltwise_param { coeff: 0.5 coeff: -2 }"), ABOVE], ["sum applies r"]),
    ([drop("d", "ip1")], [added(), ABOVE], ["ip1 applies the scale of d", "sum applies r"]),
    ([], [added(), ABOVE, drop("d", "sum")], ["sum applies r"]),
    ([], [added(), layer("ReLU", "r", "sum", extra="propagate_down: false")], ["sum applies r"]),
    ([], [added("propagate_down: [true, false]"), ABOVE], ["sum applies r"]),
    ([], [added(), layer("TanH", "t", "sum")], []),
    ([], [added(), layer("ReLU", "r", "sum", extra="relu_param { negative_slope: 0.1 }")], []),
    ([], [added("eltwise_param { operation: MAX }"), ABOVE], []),
    ([], [added("loss_weight: 1"), ABOVE], []),
    ([], [added(), layer("Silence", "look", "sum").replace(' top: "sum"', ""), ABOVE], []),
])
def test_a_sum_applies_its_rectifier(branch, chain, lines):
    net = net_of(ip("ip0", "data"), ip("ip1", "data"), *branch, *chain, ip("ip2", "sum", 7),
                 nets.LOSS % "ip2", dtype="float64")
    check_applied(net, lines)


def check_applied(net, lines):
    """Check what layers apply, the contract, and that every blob has the bits that it has without."""
    assert [line for line in net.plan.lines() if " applies " in line] == lines
    for iteration in range(3):
        assert_matches_masked_dense(net, iteration, BATCH)
    fused, apart = (looked_at(net, 0, on) for on in (True, False))
    for name, value in apart.items():
        np.testing.assert_array_equal(fused[name], value, err_msg=name)


def looked_at(net, iteration, fused):
    """Every blob of one pass."""
    net.draw_patterns(iteration)
    net.mode = Mode(fused=fused)
    try:
        net.forward(**BATCH)
        return {name: tensor.numpy() for name, tensor in net.blobs.items()}
    finally:
        net.mode = Mode()


@pytest.fixture
def own_types():
    """Layer types that are registered within a test are forgotten after it."""
    with base._types.forgetting():
        yield


def test_a_subclass_promises_nothing(own_types):
    """Its forward may know of no epilogue: it computes as if there were none."""
    @register_layer("PlainProduct")
    class PlainProduct(InnerProduct):
        settings = InnerProductParameter(num_output=7, bias_filler={"type": "uniform"})

        def forward(self, x):
            return md.functions.linear(x, self.params["weight"] + md.Tensor(np.ones((7, 13))),
                                       self.params["bias"])

    @register_layer("PlainTanH")
    class PlainTanH(TanH):
        def forward(self, x):
            return md.functions.tanh(x)

    def net(product, activation):
        product = layer(PlainProduct.type, "ip", "data",
                        "ip") if product is PlainProduct else ip("ip", "data", 7)
        return net_of(product, layer(activation.type, "f", "ip"), nets.LOSS % "ip")

    for product, activation in ((InnerProduct, TanH), (InnerProduct, PlainTanH), (PlainProduct, TanH)):
        one = net(product, activation)
        assert len(one.plan.epilogues) == ((product, activation) == (InnerProduct, TanH))
        one.forward(**BATCH)
        W, b = (one.params["ip"][name].data for name in ("weight", "bias"))
        y = np.tanh(BATCH["data"] @ (W + (product is PlainProduct)).T + b)
        np.testing.assert_allclose(one.blobs["ip"].numpy(), y, atol=1e-14)


# -- values --------------------------------------------------------------------------------------------------
@every_value(("rate", [0, 0.3, 0.5, 0.7, 0.9]), ("family", known_families()))
def test_the_contract_holds(family, rate, backend):
    net = net_of(*mlp(family if rate < 0.9 or family != "TILE" else "ROW", rate), device=backend.name)
    for iteration in range(8):
        assert_matches_masked_dense(net, iteration, BATCH)


@pytest.mark.parametrize("family, extra", [("ROW", ""), ("ROW", "time: STEP"), ("TILE", ""), ("BLOCK", "")])
def test_the_contract_holds_in_sequences(family, extra):
    inputs = ('layer { name: "in" type: "Input" top: "data" top: "t" '
              'input_param { shape { dim: 4 dim: 3 dim: 10 } shape { dim: 4 dim: 3 dim: 5 } } }')
    x = np.random.default_rng(0)
    text = "\n".join((inputs, ip("ip1", "data", 16, "axis: 2"), layer("ReLU", "relu1", "ip1"),
                      drop("drop1", "ip1", family, extra=extra), ip("ip2", "ip1", 5, "axis: 2"),
                      layer("TanH", "tanh2", "ip2"),
                      layer("EuclideanLoss", "loss", "ip2 t", "loss")))
    net = Net(parse_net(text), device="cpu", dtype="float64", seed=3)
    scale = " and the scale of drop1" if family == "ROW" and not extra else ""
    assert [line for line in net.plan.lines() if " applies " in line] == ["ip1 applies relu1" + scale,
                                                                          "ip2 applies tanh2"]
    for iteration in range(6):
        assert_matches_masked_dense(net, iteration,
                                    {"data": x.standard_normal((4, 3, 10)),
                                     "t": x.standard_normal((4, 3, 5))})


def trained(family, dtype, fused, extra, bias):
    """Everything that some steps of training leave, to the last bit."""
    net = net_of(*mlp(family, extra=extra, bias=bias), dtype=dtype)
    net.mode = Mode(fused=fused)
    updater, found = Updater(parse_solver("momentum: 0.9 weight_decay: 0.01").message, net), []
    for iteration in range(8):
        net.draw_patterns(iteration)
        net.forward(**BATCH)
        net.backward()
        found += [net.loss, *(p.dense_grad().tobytes() for p in net.parameters().values())]
        found += [(name, tensor.numpy().tobytes()) for name, tensor in net.blobs.items()]
        updater.apply(iteration, 0.1)
    return found


@every_pair(("family, extra", [*((family, "") for family in ("Dropout", *known_families())),
                               ("ROW", "scale: PATTERN"), ("ROW", "max_period: 3")]),
            ("bias", ["", "bias_term: false"]), ("dtype", ["float32", "float64"]))
def test_the_same_bits_as_one_layer_after_the_other(family, extra, bias, dtype):
    """ROW draws now and then the pattern that keeps everything, whose scale is then not 1, but with
    PATTERN."""
    assert trained(family, dtype, True, extra, bias) == trained(family, dtype, False, extra, bias)


def test_patterns_that_keep_everything_are_among_these():
    net = net_of(*mlp("ROW"))
    kept = [net.draw_patterns(i) or (net.draws["drop1"].kept is None, net.draws["drop1"].scale)
            for i in range(8)]
    assert {(True, 2.0), (False, 2.0)} == set(kept)


def test_the_oracle_fuses_nothing():
    net = net_of(*mlp())
    calls = []
    activate = net.backend.activate
    net.backend.activate = lambda *args, **options: calls.append(args[2]) or activate(*args, **options)
    try:
        run_once(net, 1, BATCH, masked=True)
        assert calls == ["sigmoid"]          # of the layer itself; two rectifiers go through `relu`
        calls.clear()
        run_once(net, 1, BATCH)
        groups = net.drop_sites["drop1"].family.groups
        assert groups == 2 and calls == ["relu"] * 2 * groups + ["sigmoid"]
    finally:
        del net.backend.activate


@pytest.mark.parametrize("family", UNITS)
def test_at_rest_nothing_is_scaled(family):
    train, test = (net_of(*mlp(family), phase=phase) for phase in ("TRAIN", "TEST"))
    train.set_dropping(False)
    blobs = []
    for net in (train, test):
        net.draw_patterns(5)
        net.forward(**BATCH)
        blobs.append(net.blobs)
    W, b = (train.params["ip1"][name].data for name in ("weight", "bias"))
    for found in blobs:
        np.testing.assert_allclose(found["ip1"].numpy(), np.maximum(BATCH["data"] @ W.T + b, 0), atol=1e-14)
    np.testing.assert_array_equal(blobs[0]["ip4"].numpy(), blobs[1]["ip4"].numpy())


@pytest.mark.parametrize("family", ["Dropout", *known_families()])
def test_a_rerun_equals_a_whole_pass(family):
    """The product above the first drop is not run again, and its output is not scaled: the drop has to do
    that."""
    net = net_of(*mlp(family), phase="TEST")
    with no_grad():
        net.set_dropping(False)
        net.forward(**BATCH)
        net.set_dropping(True)
        for number in range(6):
            net.set_dropping(True)
            net.draw_patterns(number)
            net.rerun()
            again = {name: tensor.numpy() for name, tensor in net.blobs.items()}
            with net.restored():
                other = net_of(*mlp(family), phase="TEST", share=net)
                other.set_dropping(True)
                other.draw_patterns(number)
                other.forward(**BATCH)
            for name, tensor in other.blobs.items():
                np.testing.assert_allclose(again[name], tensor.numpy(), rtol=0, atol=1e-12, err_msg=name)


def test_monte_carlo_equals_that_of_layers_apart():
    fused, apart = (net_of(*mlp("ROW"), phase="TEST") for _ in range(2))
    apart.mode = Mode(fused=False)
    means = [md.monte_carlo(net, 8, ["ip4"], **BATCH).blobs["ip4"].mean for net in (fused, apart)]
    np.testing.assert_array_equal(*means)
    for net in (fused, apart):
        before = net.mode.fused
        with net.restored():
            net.run_masked_dense(before)
            assert net.mode.fused is not before
        assert net.mode.fused is before


def test_units_that_change_places():
    """A reshuffle moves rows of ip1 with the columns of ip2: the same net, fused or not."""
    def run(fused):
        net = net_of(*mlp("PERIODIC", extra="reshuffle_interval: 2"))
        assert [reshuffle.interval for reshuffle in net.reshuffles] == [2, 2]
        net.mode = Mode(fused=fused)
        losses = []
        for iteration in range(6):
            for parameter, axis, order in net.due_permutations(iteration):
                parameter.data = np.take(parameter.data, np.argsort(order), axis)
            net.draw_patterns(iteration)
            net.forward(**BATCH)
            net.backward()
            losses.append(net.loss)
        return losses
    assert run(True) == run(False)


def test_a_bottom_that_passes_no_gradient_down():
    text = layer("ReLU", "r", "ip1", extra="propagate_down: false")
    net = net_of(ip("ip1", "data"), text, drop("d", "ip1"), ip("ip2", "ip1", 7), nets.LOSS % "ip2")
    assert "ip1 applies r and the scale of d" in net.plan.lines()
    net.draw_patterns(0)
    net.forward(**BATCH)
    net.backward()
    assert net.params["ip1"]["weight"].grad is None and net.params["ip2"]["weight"].grad.any()


def test_what_diverges_is_found():
    net = net_of(*mlp())
    net.params["ip2"]["bias"].data[:] = np.nan
    net.draw_patterns(0)
    net.forward(**BATCH)
    assert net.first_nonfinite() == ("ip2", "ip2")


# -- launches ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["Dropout", *known_families()])
def test_on_the_gpu_each_product_is_followed_by_one_launch(emulated, family):
    """Activation kernels: one forward and one backward for each product, one forward for the last, which has
    a bias alone. (With groups of samples one forward for each group.)"""
    family += " groups: 1" * (family in UNITS)
    reference = run_once(net_of(*mlp(family)), 1, BATCH)
    cuda = net_of(*mlp(family), device=emulated)
    emulated.kernels.launches.clear()
    results, gradients = run_once(cuda, 1, BATCH)
    launches = [name for name in emulated.kernels.launches if name.startswith("activate")]
    assert launches == ["activate"] * 4 + ["activate_gradient"] * 3
    for expected, found in zip(reference, (results, gradients), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-12, err_msg=name)
