"""Scale, Bias, PReLU, BatchNorm, MVN and LRN: against PyTorch, and in nets whose drops cross them."""

import re

import nets
import numpy as np
import pytest
from cases import every_value, in_turn
from nets import LOSS, drop, ip, net_of

from minidrop import ConfigError, Tensor
from minidrop.config import parse_net, parse_solver
from minidrop.net import Net
from minidrop.solver import Solver
from minidrop.testing import assert_matches_masked_dense

UNIFORM = 'filler { type: "uniform" min: -1 max: 1 }'
BOTH = f"{UNIFORM} bias_term: true bias_{UNIFORM}"
MATRIX, IMAGES, ONE = (5, 4), (3, 4, 5, 2), (1, 3, 7, 5)


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def inputs(*shapes):
    return "\n".join(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                     f'{" ".join(f"dim: {n}" for n in shape)} }} }} }}'
                     for name, shape in zip("abc", shapes, strict=False))


def layer(type_and_settings, bottoms="a"):
    """The text of a layer: layer('type: "MVN"')."""
    blobs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "l" {blobs} top: "y" {type_and_settings} }}'


def along(axis, x, parameter):
    """A parameter in the shape that broadcasts along the axes of x from `axis` on."""
    return parameter.reshape((1,) * axis + tuple(parameter.shape) + (1,) * (x.ndim - axis - parameter.ndim))


# -- Scale, Bias, PReLU --------------------------------------------------------------------------------------
@in_turn("axes, axis, covered", [
    ("", 1, (4,)), ("axis: 0", 0, (3,)), ("axis: -1", 3, (2,)), ("axis: 1 num_axes: 2", 1, (4, 5)),
    ("axis: 1 num_axes: -1", 1, (4, 5, 2)), ("axis: 0 num_axes: -1", 0, IMAGES), ("num_axes: 0", 1, ()),
])
def test_learned_along_axes(agrees, make_net, axes, axis, covered):
    agrees(f'type: "Scale" scale_param {{ {axes} {BOTH} }}',
           lambda x, factor, bias: x * along(axis, x, factor) + along(axis, x, bias), IMAGES)
    agrees(f'type: "Scale" scale_param {{ {axes} {UNIFORM} }}',
           lambda x, factor: x * along(axis, x, factor), IMAGES)
    agrees(f'type: "Bias" bias_param {{ {axes} {UNIFORM} }}',
           lambda x, bias: x + along(axis, x, bias), IMAGES)
    for kind, names in (("Scale", ["factor", "bias"]), ("Bias", ["bias"])):
        bias_term = "bias_term: true" * (kind == "Scale")
        net = make_net("\n".join((inputs(IMAGES), layer(f'type: "{kind}" {kind.lower()}_param {{ {axes} '
                                                        f'{bias_term} }}'))))
        assert [(name, p.shape) for name, p in net.params["l"].items()] == [(name, covered) for name in names]
        assert [float(p.numpy().min()) for p in net.params["l"].values()] == [1.0, 0.0][-len(names):]


@in_turn("axes, axis, second", [
    ("", 1, (4,)), ("", 1, (4, 5)), ("axis: 0", 0, (3, 4)), ("axis: -2", 2, (5, 2)), ("axis: 0", 0, IMAGES),
    ("axis: 7", 0, ()),
])
def test_of_the_second_bottom(agrees, axes, axis, second):
    """num_axes counts for learned ones alone."""
    agrees(f'type: "Scale" scale_param {{ {axes} num_axes: 9 }}',
           lambda x, factor: x * along(axis, x, factor), IMAGES, second)
    agrees(f'type: "Scale" scale_param {{ {axes} bias_term: true bias_{UNIFORM} }}',
           lambda x, factor, bias: x * along(axis, x, factor) + along(axis, x, bias), IMAGES, second)
    agrees(f'type: "Bias" bias_param {{ {axes} num_axes: 9 }}', lambda x, bias: x + along(axis, x, bias),
           IMAGES, second)


@pytest.mark.parametrize("shape", [MATRIX, IMAGES, ONE, (2, 3, 4)])
def test_prelu(agrees, F, make_net, shape):
    agrees(f'type: "PReLU" prelu_param {{ {UNIFORM} }}', F.prelu, shape)
    agrees(f'type: "PReLU" prelu_param {{ channel_shared: true {UNIFORM} }}',
           lambda x, slope: F.prelu(x, slope.reshape(1)), shape)
    for settings, expected in (("", (shape[1],)), ("prelu_param { channel_shared: true }", ())):
        slope = make_net("\n".join((inputs(shape), layer(f'type: "PReLU" {settings}')))).params["l"]["slope"]
        assert slope.shape == expected and (slope.numpy() == 0.25).all()


def test_the_gradient_of_prelu_at_zero_is_that_of_the_negative_side(make_net):
    net = make_net("\n".join((inputs((1, 2)), layer('type: "PReLU"'))))
    x = Tensor(net.backend.zeros((1, 2), net.dtype), requires_grad=True, backend=net.backend)
    net.forward(a=x)["y"].backward(np.ones((1, 2)))
    assert net.backend.to_host(x.grad).tolist() == [[0.25, 0.25]]


# -- LRN, MVN ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings, size, alpha, beta, k", [
    ("", 5, 1, 0.75, 1), ("local_size: 3 alpha: 5e-2 beta: 0.5 k: 2", 3, 5e-2, 0.5, 2),
    ("local_size: 1 alpha: 0.3 beta: 1", 1, 0.3, 1, 1), ("local_size: 15 alpha: 2 beta: 0.3", 15, 2, 0.3, 1),
])
@pytest.mark.parametrize("shape", [IMAGES, ONE, (2, 6, 1, 1), (2, 9, 3)])
def test_lrn(agrees, F, settings, size, alpha, beta, k, shape):
    agrees(f'type: "LRN" lrn_param {{ {settings} }}',
           lambda x: F.local_response_norm(x, size, alpha, beta, k), shape)
    if len(shape) == 4:
        agrees(f'type: "LRN" lrn_param {{ {settings} norm_region: WITHIN_CHANNEL }}',
               lambda x: x * (1 + alpha * F.avg_pool2d(x * x, size, 1, size // 2)) ** -beta, shape)


def mvn(x, across=False, scaled=True, eps=1e-9):
    axes = tuple(range(1 if across else 2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred / ((centred ** 2).mean(axes, keepdim=True).sqrt() + eps) if scaled else centred


@pytest.mark.parametrize("shape", [IMAGES, ONE, (2, 3, 7)])
def test_mvn(agrees, shape):
    agrees('type: "MVN"', mvn, shape)
    agrees('type: "MVN" mvn_param { across_channels: true }', lambda x: mvn(x, True), shape)
    agrees('type: "MVN" mvn_param { normalize_variance: false }', lambda x: mvn(x, scaled=False), shape)
    agrees('type: "MVN" mvn_param { eps: 0.5 across_channels: true }', lambda x: mvn(x, True, eps=0.5), shape)


def test_mvn_of_single_places_is_zero(make_net):
    net = make_net("\n".join((inputs(MATRIX), layer('type: "MVN"'))))
    x = Tensor(net.backend.asarray(numbers(*MATRIX), net.dtype), requires_grad=True, backend=net.backend)
    y = net.forward(a=x)["y"]
    y.backward(np.ones(MATRIX))
    assert not y.numpy().any() and not net.backend.to_host(x.grad).any()


# -- BatchNorm -----------------------------------------------------------------------------------------------
STORED = {"mean": numbers(4, seed=1) * 2.5, "variance": 2.5 * numbers(4, seed=2) ** 2, "scale_factor": [2.5]}


def of_channels(x):
    """x as PyTorch wants it: for Caffe a vector is one channel."""
    return x if x.ndim > 1 else x[:, None]


@in_turn("shape", [MATRIX, IMAGES, (1, 4, 7, 5), (2, 4, 3), (2, 4, 2, 2, 2), (6,)])
@in_turn("settings, eps", [("", 1e-5), ("eps: 0.1", 0.1)])
def test_batch_norm(agrees, F, settings, eps, shape):
    """With the batch's statistics and with stored ones, in both phases."""
    stored = {name: np.asarray(value)[:shape[1] if len(shape) > 1 else 1] for name, value in STORED.items()}

    def batch(x, *stored):
        return F.batch_norm(of_channels(x), None, None, training=True, eps=eps).reshape(x.shape)

    def fixed(x, mean, variance, weight):
        return F.batch_norm(of_channels(x), mean / weight, variance / weight, eps=eps).reshape(x.shape)

    for function, phase, which in ((batch, "TRAIN", ""), (batch, "TEST", "use_global_stats: false"),
                                   (fixed, "TEST", ""), (fixed, "TRAIN", "use_global_stats: true")):
        agrees(f'type: "BatchNorm" batch_norm_param {{ {settings} {which} }}', function, shape, phase=phase,
               values=stored)


@in_turn("shape", [MATRIX, IMAGES, (1, 4, 7, 5), (6,)])
@in_turn("fraction", [0.999, 0.9, 0.0])
def test_running_statistics(make_net, close, F, fraction, shape):
    """Those of PyTorch for a momentum of 1 / scale_factor; tests read them and leave them as they are."""
    import torch
    text = "\n".join((inputs(shape), layer(f'type: "BatchNorm" batch_norm_param {{ moving_average_fraction: '
                                           f'{fraction} }}')))
    train = make_net(text)
    test = make_net(text, phase="TEST", share=train)
    parameters, weight = train.params["l"], 0.0
    channels = shape[1] if len(shape) > 1 else 1
    assert [(name, p.shape) for name, p in parameters.items()] == [
        ("mean", (channels,)), ("variance", (channels,)), ("scale_factor", (1,))]
    assert not any(p.numpy().any() or p.requires_grad for p in parameters.values())
    mean, variance = torch.zeros(channels, dtype=float), torch.zeros(channels, dtype=float)
    for seed in range(4):
        x = numbers(*shape, seed=seed)
        weight = fraction * weight + 1
        train.forward(a=x)
        F.batch_norm(of_channels(torch.tensor(x)), mean, variance, training=True, momentum=1 / weight)
        close(parameters["scale_factor"].numpy(), [weight])
        close(parameters["mean"].numpy() / weight, mean.numpy())
        close(parameters["variance"].numpy() / weight, variance.numpy())
        before = [p.numpy().copy() for p in parameters.values()]
        y = test.forward(a=x)["y"].numpy()
        close(y, F.batch_norm(of_channels(torch.tensor(x)), mean, variance).numpy().reshape(shape))
        assert all((p.numpy() == old).all() for p, old in zip(parameters.values(), before, strict=True))


# -- in nets -------------------------------------------------------------------------------------------------
def solver_of(*layers):
    return Solver(parse_solver("base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.5 max_iter: 9 "
                               f"random_seed: 1 net_param {{ {' '.join(layers)} }}"), device="cpu")


@pytest.mark.parametrize("given", ["", "param { lr_mult: 1 decay_mult: 1 } " * 3, "param { lr_mult: 2 }"])
def test_no_solver_trains_the_statistics(given):
    """Whatever the file says of their multipliers: old ones say 1, or nothing."""
    solver = solver_of(nets.IMAGES, ip("ip1", "data", 4), nets.layer("BatchNorm", "bn", "ip1", None, given),
                       ip("ip2", "bn", 7), LOSS % "ip2")
    statistics = solver.net.params["bn"].values()
    assert all((p.lr_mult, p.decay_mult, p.requires_grad) == (0, 0, False) for p in statistics)
    assert not any(name.startswith("bn/") for name in solver.updater.history)
    assert solver.net.graph.parameter_count == 13 * 4 + 4 + 4 * 7 + 7
    solver.net.forward(**nets.images())
    before = [p.numpy().copy() for p in statistics]
    solver.net.backward()
    solver.updater.apply(0, 0.1)
    assert all((p.numpy() == old).all() for p, old in zip(statistics, before, strict=True))


def test_a_snapshot_holds_the_statistics(tmp_path):
    layers = (nets.IMAGES, ip("ip1", "data", 4), nets.layer("BatchNorm", "bn", "ip1"),
              nets.layer("Scale", "scale", "bn", None, "scale_param { bias_term: true num_axes: 0 }"),
              nets.layer("PReLU", "prelu", "scale", None, "prelu_param { channel_shared: true }"),
              ip("ip2", "prelu", 7), LOSS % "ip2")
    first, second = solver_of(*layers), solver_of(*layers)
    for _ in range(2):
        first.net.forward(**nets.images())
        first.net.backward()
        first.updater.apply(0, 0.1)
    second.restore(first.snapshot(tmp_path / "net.h5"))
    found = second.net.parameters()
    assert {"bn/mean", "bn/variance", "bn/scale_factor", "scale/factor", "scale/bias",
            "prelu/slope"} < set(found)
    for name, p in first.net.parameters().items():
        assert p.numpy().any()
        np.testing.assert_array_equal(found[name].numpy(), p.numpy())


TYPES = {
    "Scale": f"scale_param {{ {UNIFORM} }}", "Scale and bias": f"scale_param {{ {BOTH} }}",
    "Scale of all": f"scale_param {{ num_axes: -1 {UNIFORM} }}", "Bias": f"bias_param {{ {UNIFORM} }}",
    "PReLU": f"prelu_param {{ {UNIFORM} }}", "PReLU of one slope": "prelu_param { channel_shared: true }",
    "BatchNorm": "batch_norm_param { eps: 0.01 }",
    "BatchNorm, stored": "batch_norm_param { use_global_stats: true }",
    "MVN": "mvn_param { eps: 0.1 }", "MVN across": "mvn_param { eps: 0.1 across_channels: true }",
    "LRN": "", "LRN within": "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }",
}
CROSSED = {"Scale", "Scale and bias", "Scale of all", "Bias", "PReLU", "PReLU of one slope", "BatchNorm",
           "BatchNorm, stored", "MVN"}
CARRIES = CROSSED - {"Scale and bias", "Bias", "BatchNorm", "BatchNorm, stored"} | {"LRN within"}
FAMILIES = {"units": "PERIODIC groups: 1", "groups": "UNIT groups: 4", "weights": "TILE", "blocks": "BLOCK"}
INPUT = ('layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 6 %s } '
         'shape { dim: 6 } } }')


def of_type(name, bottom):
    return nets.layer(re.split(" |,", name)[0], "l", bottom, None, TYPES[name])


def check(net, shape):
    """The contract, with statistics that are no zeros."""
    for name, parameter in net.params.get("l", {}).items():
        if not parameter.requires_grad:
            parameter.data[...] = 1 if name == "scale_factor" else 1 + numbers(*parameter.shape) ** 2
    for iteration, _, new in nets.unlike_draws(net, 6):
        if new:
            labels = np.random.default_rng(iteration).integers(0, 7, 6)
            assert_matches_masked_dense(net, iteration, {"data": numbers(6, *shape), "label": labels})


@every_value(("name", [name for name in TYPES if name != "LRN within"]), ("family", list(FAMILIES)))
class TestDropsOfMatrices:
    def test_above(self, name, family):
        net = net_of(nets.IMAGES, ip("ip1", "data", 29), of_type(name, "ip1"),
                     drop("d", "l", FAMILIES[family]), ip("ip2", "d", 7), LOSS % "ip2")
        one, = net.plan.drops
        mixes = name == "BatchNorm" and family in ("groups", "blocks")
        assert (one.producer is not None) == (name in CROSSED and not mixes)
        if mixes:
            assert one.reason == ("l (BatchNorm) takes its means over all samples, so that groups of samples "
                                  "cannot differ in it" + "; try groups: 1" * (family == "groups"))
        check(net, (13,))

    def test_below(self, name, family):
        net = net_of(nets.IMAGES, ip("ip1", "data", 29), drop("d", "ip1", FAMILIES[family]),
                     of_type(name, "d"), ip("ip2", "l", 7), LOSS % "ip2")
        one, = net.plan.drops
        carries = name in CARRIES and family != "weights"
        assert [node.name for node in one.carriers] == ["l"] * carries
        assert [node.name for node in one.consumers] == ["ip2"] * carries
        check(net, (13,))

    def test_between(self, name, family):
        net = net_of(nets.IMAGES, ip("ip1", "data", 29), drop("d1", "ip1", FAMILIES[family]),
                     of_type(name, "d1"), drop("d2", "l", FAMILIES[family]), ip("ip2", "d2", 7), LOSS % "ip2")
        check(net, (13,))


@in_turn("family", FAMILIES)
@in_turn("name", TYPES)
def test_drops_of_channels_of_images(name, family):
    net = net_of(INPUT % "dim: 9 dim: 3 dim: 2", drop("d", "data", FAMILIES[family]), of_type(name, "d"),
                 ip("ip", "l", 7), LOSS % "ip")
    carries = name in CARRIES and family != "blocks"
    assert [node.name for node in net.plan.drops[0].carriers if node.name == "l"] == ["l"] * (name in CARRIES)
    assert [node.name for node in net.plan.drops[0].consumers] == ["ip"] * carries
    check(net, (9, 3, 2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_drops_of_either_bottom(kind, family):
    """The second one is read whole, and so is its drop's result."""
    net = net_of(nets.IMAGES, ip("ip1", "data", 29), drop("d1", "ip1", FAMILIES[family]),
                 ip("ip2", "data", 29), drop("d2", "ip2", FAMILIES[family]),
                 nets.layer(kind, "l", "d1 d2", None, f"{kind.lower()}_param {{ axis: 0 }}"),
                 ip("ip3", "l", 7), LOSS % "ip3")
    check(net, (13,))


def test_in_place_behind_one_another():
    """As in residual nets: BatchNorm, Scale and an activation in place, and a drop in place behind them."""
    blocks = [nets.layer("BatchNorm", "bn", "ip1", "ip1"),
              nets.layer("Scale", "scale", "ip1", "ip1", "scale_param { bias_term: true }"),
              nets.layer("ReLU", "relu", "ip1", "ip1"), drop("d", "ip1", "PERIODIC groups: 1", "ip1")]
    net = net_of(nets.IMAGES, ip("ip1", "data", 29), *blocks, ip("ip2", "ip1", 7), LOSS % "ip2")
    one, = net.plan.drops
    assert (one.producer.name, [node.name for node in one.crossed]) == ("ip1", ["relu", "scale", "bn"])
    check(net, (13,))


# -- mistakes ------------------------------------------------------------------------------------------------
@in_turn("text, shapes, message", [
    ('type: "Scale" scale_param { axis: 2 }', [MATRIX], "axis 2 does not exist: the bottom has 2 axes"),
    ('type: "Scale" scale_param { num_axes: 2 }', [MATRIX],
     "num_axes 2 from axis 1 on leaves the bottom's 2 axes"),
    ('type: "Scale" scale_param { num_axes: -2 }', [MATRIX],
     "num_axes must be -1 (all from axis 1 on), 0 or more, got -2"),
    ('type: "Scale"', [IMAGES, (5,)], "the second bottom, of shape (5,), must be shaped as the first from "
     "axis 1 on, which is (4, 5, 2)"),
    ('type: "Bias"', [MATRIX, (4, 1)], "the second bottom, of shape (4, 1), must be shaped as the first from "
     "axis 1 on, which is (4,)"),
    ('type: "Bias" bias_param { axis: -3 }', [MATRIX, (4,)], "axis -3 does not exist: the bottom has 2 axes"),
    ('type: "Bias" bias_param { filler { type: "constat" } }', [MATRIX],
     "filler: unknown filler 'constat'; did you mean 'constant'? (known fillers: bilinear, constant, "
     "gaussian, msra, positive_unitball, uniform, xavier)"),
    ('type: "Scale" scale_param { bias_term: true bias_filler { type: "uniform" min: 2 } }', [MATRIX],
     "bias_filler: uniform filler: min 2 is above max 1"),
    ('type: "PReLU"', [(4,)], "expected a bottom with channels on axis 1, got shape (4,)"),
    ('type: "PReLU" prelu_param { channel_shared: true filler { type: "xavier" } }', [MATRIX],
     "filler: filler 'xavier' scales by numbers of connections, which shape () has not; use constant, "
     "uniform or gaussian"),
    ('type: "BatchNorm"', [()], "expected a bottom with samples on axis 0, got a single number"),
    ('type: "BatchNorm" batch_norm_param { eps: -1 }', [MATRIX], "eps must not be negative, got -1"),
    ('type: "BatchNorm" batch_norm_param { moving_average_fraction: 1.5 }', [MATRIX],
     "moving_average_fraction must lie in [0, 1], got 1.5"),
    ('type: "BatchNorm" param { } param { } param { } param { }', [MATRIX],
     "4 `param` entries, but the layer has 3 parameters (mean, variance, scale_factor)"),
    ('type: "MVN"', [()], "expected a bottom with samples on axis 0, got a single number"),
    ('type: "MVN" mvn_param { eps: -1e-3 }', [MATRIX], "eps must not be negative, got -0.001"),
    ('type: "LRN" lrn_param { local_size: 4 }', [IMAGES], "local_size must be odd, got 4"),
    ('type: "LRN" lrn_param { local_size: 0 }', [IMAGES], "local_size must be odd, got 0"),
    ('type: "LRN"', [(4,)], "expected a bottom of shape (samples, channels, ...), got (4,)"),
    ('type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL }', [(2, 3, 4)],
     "expected a bottom of shape (samples, channels, height, width), got (2, 3, 4)"),
])
def test_mistake(text, shapes, message):
    with pytest.raises(ConfigError) as caught:
        Net(parse_net("\n".join((inputs(*shapes), layer(text, "abc"[:len(shapes)])))), device="cpu")
    found = re.search(r"layer 'l' \(\w+\): (.*?)(?: \[bottoms: .*\])?$", str(caught.value))
    assert found and found[1] == message
