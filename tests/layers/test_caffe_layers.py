"""Layer types of Caffe: against PyTorch or formulas, above and below drops, and what they say of mistakes."""

import re

import numpy as np
import pytest
from cases import every_value, in_turn
from nets import IMAGES as VECTORS
from nets import LOSS, SMALL, images, ip, layer, net_of

from minidrop import ConfigError, DataError, Net, ShapeError, Tensor
from minidrop.config import parse_net
from minidrop.patterns import known_families
from minidrop.testing import assert_matches_masked_dense

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None        # the fixture agrees_with_torch skips then


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


def labels(*shape, classes=5):
    return np.random.default_rng(1).integers(0, classes, shape)


def text(kind, settings="", bottoms="a", tops="y"):
    blobs = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
    return f'layer {{ name: "l" type: "{kind}" {blobs} {settings} }}'


def given(*shapes):
    """Input layers of the blobs a, b, ..., one a line."""
    return "".join(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                   f'{" ".join(f"dim: {length}" for length in shape)} }} }} }}\n'
                   for name, shape in zip("abcdef", shapes, strict=False))


X, IMAGES = numbers(3, 4), numbers(2, 3, 4, 5)

# -- one bottom ----------------------------------------------------------------------------------------------
ELEMENTWISE = {
    text("AbsVal"): lambda x: x.abs(),
    text("BNLL"): lambda x: F.softplus(x),
    text("Clip", "clip_param { min: -0.5 max: 1.25 }"): lambda x: x.clamp(-0.5, 1.25),
    text("ELU"): lambda x: F.elu(x),
    text("ELU", "elu_param { alpha: 0.3 }"): lambda x: F.elu(x, 0.3),
    text("Exp"): lambda x: x.exp(),
    text("Exp", "exp_param { base: 2 scale: -0.5 shift: 3 }"): lambda x: 2 ** (3 - 0.5 * x),
    text("Exp", "exp_param { shift: 1 }"): lambda x: (1 + x).exp(),
    text("Exp", "exp_param { base: 1 }"): lambda x: x * 0 + 1,
    text("Log", "log_param { shift: 3 }"): lambda x: (3 + x).log(),
    text("Log", "log_param { base: 10 scale: -0.5 shift: 2 }"): lambda x: (2 - 0.5 * x).log10(),
    text("Log", "log_param { base: 0.5 shift: 2.5 }"): lambda x: -(2.5 + x).log2(),
    text("Swish"): lambda x: F.silu(x),
    text("Swish", "swish_param { beta: 2.5 }"): lambda x: x * torch.sigmoid(2.5 * x),
}


@in_turn("x", [X, IMAGES, numbers(1, 3), numbers(5), numbers()], ids=np.shape)
@in_turn("layer", ELEMENTWISE)
def test_elementwise(agrees_with_torch, layer_function, layer, x):
    agrees_with_torch(layer_function(layer, x), ELEMENTWISE[layer], x)


def test_threshold(make_net):
    net = make_net(given(X.shape) + text("Threshold", "threshold_param { threshold: 0.5 }"))
    y = net.forward(a=Tensor(net.backend.asarray(X, net.dtype), requires_grad=True))["y"]
    np.testing.assert_array_equal(y.numpy(), X > 0.5)
    assert not y.requires_grad and y.dtype == net.dtype


@in_turn("x", [X, IMAGES, numbers(1, 3, 2)], ids=np.shape)
@in_turn("settings, reference", [
    ("", lambda x: x.sum()),
    ("operation: MEAN", lambda x: x.mean()),
    ("operation: ASUM coeff: -2", lambda x: -2 * x.abs().sum()),
    ("operation: SUMSQ axis: -1", lambda x: (x ** 2).sum(-1)),
    ("operation: MEAN axis: 1 coeff: 3", lambda x: 3 * x.flatten(1).mean(1)),
    ("operation: SUM axis: 1 coeff: 0.5", lambda x: 0.5 * x.flatten(1).sum(1)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_reduction(agrees_with_torch, layer_function, settings, reference, x):
    agrees_with_torch(layer_function(text("Reduction", f"reduction_param {{ {settings} }}"), x), reference, x)


@in_turn("x", [X, IMAGES, numbers(1, 3, 2)], ids=np.shape)
@in_turn("settings, tiles, axis", [
    ("tiles: 3", 3, 1), ("tiles: 2 axis: 0", 2, 0), ("tiles: 1 axis: -1", 1, -1),
    ("tiles: 4 axis: -1", 4, -1)])
def test_tile(agrees_with_torch, layer_function, settings, tiles, axis, x):
    agrees_with_torch(layer_function(text("Tile", f"tile_param {{ {settings} }}"), x),
                      lambda x: torch.cat([x] * tiles, axis), x)


@in_turn("settings, a, b, place", [
    ("", IMAGES, (2, 3, 2, 4), np.s_[:, :, :2, :4]),
    ("offset: 1", IMAGES, (9, 9, 2, 4), np.s_[:, :, 1:3, 1:5]),                 # axes before are not compared
    ("offset: 2 offset: 0", IMAGES, (1, 1, 1, 5), np.s_[:, :, 2:3, :]),
    ("axis: 1 offset: 1 offset: 0 offset: 2", IMAGES, (2, 2, 4, 3), np.s_[:, 1:3, :, 2:5]),
    ("axis: -1 offset: 3", IMAGES, (2, 3, 4, 2), np.s_[..., 3:]),
    ("axis: 0", X, (2, 3), np.s_[:2, :3]),
    ("axis: 0 offset: 1", X, (2, 3, 7), np.s_[1:3, 1:4]),                       # nor are further ones
    ("axis: 0", numbers(1), (1,), np.s_[:]),
])
def test_crop(agrees_with_torch, layer_function, settings, a, b, place):
    reference = numbers(*b)
    function = layer_function(text("Crop", f"crop_param {{ {settings} }}", "ab"), a, reference)
    agrees_with_torch(lambda a: function(a, reference)[0], lambda a: a[place] * 1, a)


def test_crop_follows_the_batch(make_net):
    """The lengths are those of this pass, not those that the net was built for."""
    net = make_net(given((5, 3), (4, 2)) + text("Crop", "crop_param { axis: 0 offset: 1 offset: 0 }", "ab"))
    a = numbers(9, 3).astype(net.dtype)
    np.testing.assert_array_equal(net.forward(a=a, b=numbers(7, 2))["y"].numpy(), a[1:8, :2])
    with pytest.raises(ShapeError, match=r"^layer 'l' \(Crop\): crop: lengths \(9, 2\) from offsets \(1, 0\) "
                                         r"on do not fit into shape \(9, 3\) from axis 0 on$"):
        net.forward(a=a, b=numbers(9, 2))


# -- selections ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("x, index", [(X, [2, 0, 0, 1, 2]), (IMAGES, [1]), (numbers(4), [3, 3]), (X, [])])
def test_batch_reindex(agrees_with_torch, layer_function, x, index):
    index = np.array(index, np.int64)
    agrees_with_torch(layer_function(text("BatchReindex", "", "ab"), x, index), lambda x, index: x[index], x,
                      index)


@in_turn("settings, shape, y_shape", [
    ("", (3, 4), (3, 1, 1)), ("top_k: 2", (3, 4), (3, 1, 2)),
    ("top_k: 20", (2, 3, 4, 5), (2, 1, 20, 1)), ("out_max_val: true top_k: 3", (2, 3, 4, 5), (2, 2, 3, 1)),
    ("axis: 1", (2, 3, 4, 5), (2, 1, 4, 5)), ("axis: -1 top_k: 3", (1, 3, 4), (1, 3, 3)),
    ("axis: 0 top_k: 2 out_max_val: true", (3, 4), (2, 4)), ("out_max_val: true", (1, 1), (1, 2, 1)),
])
def test_arg_max(make_net, settings, shape, y_shape):
    """Of equal entries the later one first, as Caffe's sort of (value, index) in descending order has it."""
    net = make_net(given(shape) + text("ArgMax", f"argmax_param {{ {settings} }}"))
    assert next(reversed(net.graph.shapes.values())) == y_shape
    x = np.random.default_rng(2).integers(-2, 2, shape)
    y = net.forward(a=x)["y"]
    assert y.shape == y_shape and y.dtype == net.dtype and not y.requires_grad
    own = net.layers["l"].settings
    axis = own.axis if own.HasField("axis") else 1
    rows = np.moveaxis(x, axis, -1) if own.HasField("axis") else x.reshape(shape[0], -1)
    order = np.lexsort((np.broadcast_to(np.arange(rows.shape[-1]), rows.shape), rows))
    order = order[..., ::-1][..., :own.top_k]
    values = np.take_along_axis(rows, order, -1)
    if own.HasField("axis"):
        expected = np.moveaxis(values if own.out_max_val else order, -1, axis)
    else:
        expected = np.stack([order, values] if own.out_max_val else [order], 1).reshape(y_shape)
    np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("selector", [[1, 0, 0.5, -1], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
def test_filter(make_net, selector):
    net = make_net(given((4, 3), (4, 2, 2), (4, 1)) + text("Filter", "", "abc", "yz"))
    chosen = np.flatnonzero(selector)
    a, b = (Tensor(net.backend.asarray(numbers(*shape), net.dtype), requires_grad=True)
            for shape in ((4, 3), (4, 2, 2)))
    tops = net.forward(a=a, b=b, c=np.array(selector)[:, None])
    for x, y in ((a, tops["y"]), (b, tops["z"])):
        np.testing.assert_array_equal(y.numpy(), x.numpy()[chosen])
        gy = numbers(*y.shape, seed=3)
        y.backward(gy)
        expected = np.zeros(x.shape)
        expected[chosen] = gy
        np.testing.assert_allclose(net.backend.to_host(x.grad), expected, rtol=1e-6)


@pytest.mark.parametrize("selector", [[1, 0, 1, 0, 0, 1], [0] * 6])
def test_what_a_filter_leaves_is_trained_on(selector):
    """Batches of other sizes reach the layers below; of no record at all the loss and gradients are 0."""
    net = net_of(VECTORS, 'layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 6 } } }',
                 ip("ip1", "data", 8), text("Filter", "", ["ip1", "label", "s"], ["some", "theirs"]),
                 layer("ReLU", "relu", "some"), ip("ip2", "relu", 7),
                 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "theirs" top: "loss" }')
    batch = images()
    net.forward(**batch, s=np.array(selector))
    net.backward()
    found = {name: p.grad for name, p in net.parameters().items()}, net.loss
    chosen = np.flatnonzero(selector)
    net.clear_grads()
    net.forward(data=batch["data"][chosen], label=batch["label"][chosen], s=np.ones(len(chosen)))
    net.backward()
    assert found[1] == pytest.approx(net.loss) and (net.loss == 0) == (not len(chosen))
    for name, p in net.parameters().items():
        np.testing.assert_allclose(found[0][name], p.grad, atol=1e-12)


def test_parameter(make_net):
    """A blob of zeros that is trained: by a loss (p - x)^2 / 2 of one record its gradient is p - x."""
    net = make_net(given((1, 3)) + text("Parameter", "param { lr_mult: 2 } parameter_param { shape { dim: 1 "
                                                     "dim: 3 } }", "", "p")
                   + 'layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "a" top: "loss" }')
    x = numbers(1, 3)
    net.forward(a=x)
    net.backward()
    parameter, = net.parameters().values()
    assert net.blobs["p"].numpy().tolist() == [[0, 0, 0]] and parameter.lr_mult == 2
    np.testing.assert_allclose(net.backend.to_host(parameter.grad), -x, rtol=1e-6)
    parameter.data[...] = net.backend.asarray(x, net.dtype)
    net.forward(a=x)
    assert net.loss == 0


# -- losses --------------------------------------------------------------------------------------------------
def hinge(x, label, power):
    x = x.flatten(1)
    sign = 1 - 2 * F.one_hot(label.flatten(), x.shape[1])
    return ((1 + sign * x).clamp(min=0) ** power).sum() / len(x)


@in_turn("x, label", [(numbers(4, 5), labels(4)), (numbers(1, 3), labels(1, 1, classes=3)),
                      (IMAGES, labels(2, 1, 1, 1, classes=60))])
@in_turn("settings, power", [("", 1), ("norm: L1", 1), ("norm: L2", 2)])
def test_hinge_loss(agrees_with_torch, layer_function, settings, power, x, label):
    agrees_with_torch(layer_function(text("HingeLoss", f"hinge_loss_param {{ {settings} }}", "ab"), x, label),
                      lambda x, label: hinge(x, label, power), x, label)


@pytest.mark.parametrize("p, label", [(numbers(4, 5, low=0.1), labels(4)),
                                      (numbers(1, 3, 2, low=0.1), labels(1, classes=6))])
def test_multinomial_logistic_loss(agrees_with_torch, layer_function, p, label):
    agrees_with_torch(layer_function(text("MultinomialLogisticLoss", "", "ab"), p, label),
                      lambda p, label: F.nll_loss(p.flatten(1).log(), label), p, label)


@in_turn("shape", [(4, 5), (1, 3), (3, 2, 1, 1), (3,)])
@in_turn("settings, margin, legacy", [("", 1, False), ("margin: 2.5", 2.5, False),
                                      ("margin: 9.5 legacy_version: true", 9.5, True)])
def test_contrastive_loss(backend, dtype, close, layer_function, settings, margin, legacy, shape):
    a, b, similar = numbers(*shape), numbers(*shape, seed=1), np.arange(shape[0]) % 2
    settings = f"contrastive_loss_param {{ {settings} }}"
    function = layer_function(text("ContrastiveLoss", settings, "abc"), a, b, similar)
    tensors = [Tensor(backend.asarray(x, dtype), requires_grad=True) for x in (a, b)]
    loss, = function(*tensors, similar)
    loss.backward()
    n, apart = shape[0], (a - b).reshape(shape[0], -1)
    squares = (apart ** 2).sum(1)
    d = np.sqrt(squares)
    short = np.maximum(margin - (squares if legacy else d), 0)
    close(loss.numpy(), np.where(similar, squares, short if legacy else short ** 2).sum() / (2 * n))
    slope = np.where(similar, 1, np.where(short > 0, -1, 0) if legacy else -short / (d + 1e-4))
    g = (apart * slope[:, None]).reshape(shape) / n
    for x, expected in zip(tensors, (g, -g), strict=True):
        assert x.grad.dtype == dtype
        close(backend.to_host(x.grad), expected)


H = numbers(3, 3, seed=5)
LABEL = np.array([[1, 0], [2, 2], [0, 1]])


def infogain(x, label, H, axis, ignore, divisor):
    log_p = torch.log_softmax(torch.movedim(x, axis, -1), -1)
    weights = torch.as_tensor(H)[label]
    if ignore is not None:
        weights = weights * (label != ignore)[..., None]
    return -(weights * log_p).sum() / divisor, torch.softmax(x, axis)


@in_turn("settings, ignore, divisor", [
    ("", None, 6), ("normalization: FULL", None, 6), ("normalization: BATCH_SIZE", None, "outer"),
    ("normalization: NONE", None, 1), ("ignore_label: 2", 2, 4),
    ("ignore_label: 2 normalization: FULL", 2, 6),
])
@in_turn("axis", [1, 2])
def test_infogain_loss(agrees_with_torch, layer_function, settings, ignore, divisor, axis):
    x = numbers(3, 3, 2) if axis == 1 else numbers(3, 2, 3)
    divisor = {1: 3, 2: 6}[axis] if divisor == "outer" else divisor
    settings = f"infogain_loss_param {{ axis: {axis} }} loss_param {{ {settings} }}"
    with_two = layer_function(text("InfogainLoss", settings, "abc", "yz"), x, LABEL, H)
    agrees_with_torch(lambda x, label: with_two(x, label, H),
                      lambda x, label: infogain(x, label, H, axis, ignore, divisor), x, LABEL)
    with_one = layer_function(text("InfogainLoss", settings, "abc"), x, LABEL, H)
    agrees_with_torch(lambda x, label: with_one(x, label, H),
                      lambda x, label: infogain(x, label, H, axis, ignore, divisor)[0], x, LABEL)


def test_infogain_of_the_identity_is_the_softmax_loss(agrees_with_torch, layer_function, tmp_path):
    """From a file: beside the network file or anywhere else."""
    np.save(tmp_path / "matrix.npy", np.eye(5))
    settings = f'infogain_loss_param {{ source: "{tmp_path / "matrix.npy"}" }}'
    x, label = numbers(4, 5), labels(4)
    agrees_with_torch(layer_function(text("InfogainLoss", settings, "ab"), x, label),
                      lambda x, label: F.cross_entropy(x, label), x, label)


def test_the_weight_of_a_batch_is_the_share_of_labels_that_count(make_net):
    net = make_net(given((3, 3, 2), (3, 2), (3, 3))
                   + text("InfogainLoss", "loss_param { ignore_label: 2 }", "abc"))
    net.forward(a=numbers(3, 3, 2), b=LABEL, c=H)
    assert net.layers["l"].batch_weight == pytest.approx(4 / 6)


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss", "InfogainLoss"])
def test_labels_out_of_range_are_named(make_net, kind):
    net = make_net(given((3, 4), (3,), (4, 4)) + text(kind, "", "abc" if kind == "InfogainLoss" else "ab"))
    with pytest.raises(DataError, match=rf"^layer 'l' \({kind}\): label 4 at place 1 of the batch is out of "
                                        r"range: expected a whole number of 0..3 \(the scores have 4 class"):
        net.forward(a=X, b=np.array([0, 4, 1]), c=np.eye(4))


# -- above and below drops -----------------------------------------------------------------------------------
# layer: (whether zeros stay zero, whether it is finite everywhere)
BESIDE_DROPS = {
    text("AbsVal"): (True, True), text("BNLL"): (False, True),
    text("Clip", "clip_param { min: -0.5 max: 0 }"): (True, True),
    text("Clip", "clip_param { min: 0.5 max: 1 }"): (False, True),
    text("ELU"): (True, True), text("Exp", "exp_param { scale: 0.1 }"): (False, False),
    text("Log", "log_param { scale: 0.01 shift: 1 }"): (True, False),
    text("Log", "log_param { scale: 0.01 shift: 2 }"): (False, False),
    text("Swish"): (True, True), text("Threshold"): (True, True),
    text("Threshold", "threshold_param { threshold: -0.1 }"): (False, True),
}


def drop(name, bottom, family):
    return layer("ApproxDropout", name, bottom, more=f'approx_dropout_param {{ pattern: "{family}" '
                                                     f'{SMALL.get(family, "")} }}')


def between(layer, bottom, top):
    return layer.replace('bottom: "a"', f'bottom: "{bottom}"').replace('top: "y"', f'top: "{top}"')


def names(nodes):
    return [node.name for node in nodes]


@every_value(("layer", list(BESIDE_DROPS)), ("family", known_families()))
class TestElementwiseBesideDrops:
    def test_above(self, layer, family):
        """Any may be crossed; where blocks are not computed only those that are finite everywhere."""
        net = net_of(VECTORS, ip("ip1", "data", 29), between(layer, "ip1", "act"),
                     drop("drop", "act", family), ip("ip2", "drop", 7), LOSS % "ip2")
        plan, = net.plan.drops
        crossed = BESIDE_DROPS[layer][1] or family != "BLOCK"
        assert plan.producer is (net.graph.nodes[1] if crossed else None)
        assert names(plan.crossed) == (["l"] if crossed else [])
        for iteration in range(4):
            assert_matches_masked_dense(net, iteration, images())

    def test_below(self, layer, family):
        """Those that keep zeros carry a kept set on; before the others it is expanded."""
        net = net_of(VECTORS, ip("ip1", "data", 29), drop("drop", "ip1", family),
                     between(layer, "drop", "act"), ip("ip2", "act", 7), LOSS % "ip2")
        plan, = net.plan.drops
        carries = BESIDE_DROPS[layer][0] and family != "TILE"
        assert names(plan.carriers) == (["l"] if carries else [])
        assert names(plan.consumers) == (["ip2"] if carries else [])
        for iteration in range(4):
            assert_matches_masked_dense(net, iteration, images())


@in_turn("family", known_families())
@in_turn("layer, carries", [
    (text("Crop", "crop_param { offset: 1 }", ["drop", "b"], ["act"]), True),
    (text("Tile", "tile_param { tiles: 2 axis: 3 }", ["drop"], ["act"]), True),
    (text("Tile", "tile_param { tiles: 2 }", ["drop"], ["act"]), False),
    (text("Reduction", "reduction_param { operation: SUMSQ axis: 2 coeff: 0.1 }", ["drop"], ["act"]), True),
])
def test_dropped_channels_stay_dropped(layer, carries, family):
    net = net_of(given((6, 9, 4, 3), (1, 1, 2, 2), (6,)), drop("drop", "a", family), layer,
                 ip("ip", "act", 7), LOSS.replace("label", "c") % "ip")
    plan, = net.plan.drops
    assert names(plan.carriers) == (["l"] if carries else [])
    if family != "BLOCK":       # a product whose inputs are several entries of a channel leaves out no blocks
        assert names(plan.consumers) == (["ip"] if carries else [])
    inputs = {"a": numbers(6, 9, 4, 3), "b": numbers(1, 1, 2, 2), "c": labels(6, classes=7)}
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, inputs)


# -- mistakes ------------------------------------------------------------------------------------------------
M, PICTURES = (3, 4), (2, 3, 4, 5)
MISTAKES = [
    (text("Clip"), [M], "clip_param needs min and max"),
    (text("Clip", "clip_param { min: 1 }"), [M], "clip_param needs min and max"),
    (text("Clip", "clip_param { min: 1 max: 0 }"), [M], "clip_param: min 1 is above max 0"),
    (text("Exp", "exp_param { base: 0 }"), [M], "base must be above 0, or -1 for e, got 0"),
    (text("Log", "log_param { base: -2 }"), [M], "base must be above 0, or -1 for e, got -2"),
    (text("Log", "log_param { base: 1 }"), [M], "log_param: no logarithm has the base 1"),
    (text("Crop", "", "ab"), [M, M], "axis 2 does not exist: the bottom has 2 axes"),
    (text("Crop", "crop_param { axis: 1 offset: 1 offset: 1 }", "ab"), [PICTURES, PICTURES],
     "expected no offset, one, or one for each of the 3 axes from axis 1 on, got 2"),
    (text("Crop", "", "ab"), [PICTURES, M], "expected a second bottom of at least 4 axes, got (3, 4)"),
    (text("Crop", "crop_param { offset: 1 }", "ab"), [PICTURES, (2, 3, 4, 4)],
     "axis 2 has 4 entries, too few for 4 from number 1 on"),
    (text("Tile"), [M], "tile_param needs tiles, at least 1"),
    (text("Tile", "tile_param { tiles: -2 }"), [M], "tile_param needs tiles, at least 1"),
    (text("Tile", "tile_param { tiles: 2 axis: 2 }"), [M], "axis 2 does not exist: the bottom has 2 axes"),
    (text("Reduction", "reduction_param { axis: -3 }"), [M], "axis -3 does not exist: the bottom has 2 axes"),
    (text("ArgMax", "argmax_param { axis: 2 }"), [M], "axis 2 does not exist: the bottom has 2 axes"),
    (text("ArgMax", "argmax_param { top_k: 0 }"), [M],
     "top_k must lie in 1..4, the number of entries that are searched, got 0"),
    (text("ArgMax", "argmax_param { top_k: 4 axis: 0 }"), [M],
     "top_k must lie in 1..3, the number of entries that are searched, got 4"),
    (text("ArgMax"), [()], "expected a bottom with a batch axis, got a single number"),
    (text("ArgMax"), [(1, 2 ** 13, 2 ** 12)],
     "the number of entries that are searched is 33554432, but float32 tells indices apart only up to "
     "16777216; use dtype float64 (--dtype float64)"),
    (text("BatchReindex", "", "ab"), [M, M],
     "expected records and a vector of indices, got (3, 4) and (3, 4)"),
    (text("Filter", "", "ab", "yz"), [M, (3,)], "1 bottoms and a selector need 1 tops, got 2"),
    (text("Filter", "", "ab"), [M, M], "expected a selector with one entry for each record, got (3, 4)"),
    (text("Filter", "", "ab"), [M, (4,)],
     "expected 4 records in every bottom, as in the selector, got (3, 4)"),
    (text("Parameter", "", ""), [], "parameter_param needs a shape with sizes of 1 or more, got ()"),
    (text("Parameter", "parameter_param { shape { dim: 2 dim: 0 } }", ""), [],
     "parameter_param needs a shape with sizes of 1 or more, got (2, 0)"),
    (text("HingeLoss", "", "ab"), [M, M],
     "a first bottom of shape (3, 4) needs one label for each record, but the label blob has shape (3, 4)"),
    (text("MultinomialLogisticLoss", "", "ab"), [M, (4,)],
     "a first bottom of shape (3, 4) needs one label for each record, but the label blob has shape (4,)"),
    (text("ContrastiveLoss", "", "abc"), [M, (3, 5), (3,)],
     "expected bottoms with one batch size and as many values, got (3, 4) and (3, 5)"),
    (text("ContrastiveLoss", "", "abc"), [M, M, (2,)],
     "a first bottom of shape (3, 4) needs one label for each record, but the label blob has shape (2,)"),
    (text("InfogainLoss", "", "ab"), [M, (3,)],
     "infogain_loss_param needs a source, the file of the matrix, or the layer a third bottom"),
    (text("InfogainLoss", "", "abc"), [M, (3,), (3, 4)],
     "expected an infogain matrix of 4 x 4 entries, for the classes on axis 1, got one of shape (3, 4)"),
    (text("InfogainLoss", "infogain_loss_param { axis: 2 }", "abc"), [M, (3,), (4, 4)],
     "axis 2 does not exist: the bottom has 2 axes"),
    (text("InfogainLoss", "", "abc"), [M, (4,), (4, 4)],
     "scores of shape (3, 4) (classes on axis 1) need 3 labels, but the label blob has shape (4,)"),
]


@in_turn("layer, shapes, message", MISTAKES, ids=[message[:60] for _, _, message in MISTAKES])
def test_mistake(layer, shapes, message):
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(given(*shapes) + layer, "net.prototxt"), device="cpu")
    line, kind = len(shapes) + 1, re.search(r'type: "(\w+)"', layer)[1]
    found = re.fullmatch(rf"net\.prototxt:{line}:\d+: layer 'l' \({kind}\): (.*?)(?: \[bottoms: .*\])?",
                         str(caught.value))
    assert found and found[1] == message, str(caught.value)


@pytest.mark.parametrize("name, content, message", [
    ("no.npy", None, "source .*no.npy': no such file"),
    ("bad.npy", b"x" * 9, "expected a .npy file of numbers, got another kind of file; make it again"),
    ("bad.binaryproto", b"\x2a\xff\x01",
     "expected a .binaryproto file, a serialized BlobProto of Caffe, got one that ends within a field"),
])
def test_a_bad_matrix_names_its_file(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"layer 'l' \(InfogainLoss\): .*{name}.*") as caught:
        settings = f'infogain_loss_param {{ source: "{tmp_path / name}" }}'
        Net(parse_net(given((3, 4), (3,)) + text("InfogainLoss", settings, "ab")), device="cpu")
    assert re.search(message, str(caught.value))
