"""Pooling and SPP: against PyTorch or formulas, what is drawn, and what they say of mistakes."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from cases import every_pair, in_turn
from nets import inputs, numbers

from minidrop import Net, Tensor
from minidrop.config import parse_net
from minidrop.errors import ConfigError, ShapeError

LINES, IMAGES, VOLUMES = (2, 4, 9), (2, 4, 7, 6), (2, 4, 4, 5, 3)


def text(kind, settings="", tops="y"):
    blobs = " ".join(f'top: "{t}"' for t in tops)
    return f'layer {{ name: "l" type: "{kind}" bottom: "a" {blobs} {kind.lower()}_param {{ {settings} }} }}'


# -- Pooling -------------------------------------------------------------------------------------------------
POOLS = {
    "kernel_size: 2 stride: 2": {"kernel_size": 2, "stride": 2},
    "kernel_size: 3": {"kernel_size": 3, "stride": 1},
    "kernel_size: 3 stride: 2": {"kernel_size": 3, "stride": 2},
    "kernel_size: 3 stride: 2 pad: 1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "kernel_size: 2 stride: 3 pad: 1": {"kernel_size": 2, "stride": 3, "padding": 1},
    "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 1":
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 1)},
    "kernel_size: 3 stride_w: 2 pad_h: 1": {"kernel_size": 3, "stride": (1, 2), "padding": (1, 0)},
    # Windows further apart than they are wide: one that would begin behind the image is left out.
    "kernel_size: 2 stride: 4 engine: CUDNN": {"kernel_size": 2, "stride": 4},
    "kernel_size: 2 stride: 5": {"kernel_size": 2, "stride": 5},
    "kernel_size: 1 stride: 6": {"kernel_size": 1, "stride": 6},
}
ROUNDED = {"": True, "round_mode: CEIL": True, "round_mode: FLOOR": False, "ceil_mode: false": False,
           "ceil_mode: true": True, "round_mode: FLOOR ceil_mode: false": False}


@every_pair(("settings", list(POOLS)), ("rounding", list(ROUNDED)), ("dtype", ["float32", "float64"]))
def test_largest_entries_and_means(agrees, F, settings, rounding):
    named = POOLS[settings] | {"ceil_mode": ROUNDED[rounding]}
    for shape in (IMAGES, (1, 3, 8, 9)):
        agrees(f'type: "Pooling" pooling_param {{ {settings} {rounding} }}',
               lambda x: F.max_pool2d(x, **named), shape)
        agrees(f'type: "Pooling" pooling_param {{ pool: AVE {settings} {rounding} }}',
               lambda x: F.avg_pool2d(x, **named), shape)


def test_the_whole_image(agrees):
    agrees('type: "Pooling" pooling_param { global_pooling: true }', lambda x: x.amax((2, 3), keepdim=True),
           IMAGES)
    agrees('type: "Pooling" pooling_param { pool: AVE global_pooling: true stride: 1 pad: 0 }',
           lambda x: x.mean((2, 3), keepdim=True), IMAGES)


@pytest.mark.parametrize("settings", ["kernel_size: 3 stride: 2 pad: 1", "kernel_size: 2 stride: 2"])
def test_the_second_top_is_the_place_of_the_largest(make_net, F, settings):
    import torch
    net = make_net(inputs(IMAGES) + text("Pooling", settings, tops=("y", "place")))
    x = numbers(*IMAGES)
    found = net.forward(a=x)
    expected = F.max_pool2d(torch.tensor(x), return_indices=True, ceil_mode=True, **POOLS[settings])
    np.testing.assert_allclose(found["y"].numpy(), expected[0].numpy(), rtol=1e-6)
    np.testing.assert_array_equal(found["place"].numpy(), expected[1].numpy())
    assert found["place"].dtype == net.dtype


def windows(x, size, stride):
    """The windows of x (N, C, H, W) at all places, a step or more each: (N, C, places, places, entries)."""
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return found.reshape(*found.shape[:4], size * size)


def test_stochastic_pooling_in_a_test_is_the_mean_weighted_by_the_values(make_net, close):
    x = numbers(2, 3, 6, 8, low=0)
    x[0, 0, :2, :2] = 0         # a window of zeros
    for settings, size in (("kernel_size: 2 stride: 2", 2), ("kernel_size: 3", 3)):
        net = make_net(inputs(x.shape) + text("Pooling", f"pool: STOCHASTIC {settings}"), phase="TEST")
        own = windows(x, size, 2 if size == 2 else 1)
        total = own.sum(-1)
        expected = (own ** 2).sum(-1) / np.where(total > 0, total, 1)
        y = net.forward(a=x)["y"]
        close(y.numpy(), expected)
        close(net.forward(a=x)["y"].numpy(), expected)      # no chance in it
        assert y.shape == net.graph.shapes[net.graph.nodes[-1].tops[0]]


def test_stochastic_pooling_takes_an_entry_and_sends_the_gradient_there(make_net):
    x = numbers(2, 3, 6, 8, low=0).astype(np.float32)
    net = make_net(inputs(x.shape) + text("Pooling", "pool: STOCHASTIC kernel_size: 2 stride: 2",
                                         tops=("y", "place")))
    net.draw_patterns(4)
    a = Tensor(net.backend.asarray(x, net.dtype), True, net.backend)
    found = net.forward(a=a)
    y, place = found["y"].numpy(), found["place"].numpy().astype(int)
    np.testing.assert_array_equal(y.reshape(2, 3, -1), np.take_along_axis(
        x.reshape(2, 3, -1), place.reshape(2, 3, -1), 2).astype(y.dtype))
    assert (windows(x, 2, 2).astype(y.dtype) == y[..., None]).any(-1).all()
    gy = numbers(*y.shape, seed=3).astype(y.dtype)
    found["y"].backward(net.backend.asarray(gy))
    expected = np.zeros((2, 3, 48), y.dtype)
    np.put_along_axis(expected, place.reshape(2, 3, -1), gy.reshape(2, 3, -1), 2)
    np.testing.assert_array_equal(net.backend.to_host(a.grad).reshape(2, 3, -1), expected)


def test_stochastic_pooling_takes_large_entries_more_often():
    x = np.tile(np.array([[1.0, 2.0], [3.0, 4.0]]), (1, 1, 100, 100))
    net = Net(parse_net(inputs(x.shape) + text("Pooling", "pool: STOCHASTIC kernel_size: 2 stride: 2")),
              device="cpu", seed=3)
    y = net.forward(a=x)["y"].numpy()
    shares = [(y == value).mean() for value in (1, 2, 3, 4)]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.01)


@pytest.mark.parametrize("layer", [text("Pooling", "pool: STOCHASTIC kernel_size: 2 stride: 2"),
                                   text("SPP", "pool: STOCHASTIC pyramid_height: 2")])
def test_draws_follow_from_the_seed_and_the_iteration(make_net, layer):
    x = numbers(2, 3, 6, 8, low=0)

    def drawn(seed, iteration, **options):
        net = make_net(inputs(x.shape) + layer, seed=seed, **options)
        net.draw_patterns(iteration)
        return net.forward(a=x)["y"].numpy()

    first = drawn(1, 5)
    np.testing.assert_array_equal(first, drawn(1, 5))
    assert (first != drawn(1, 6)).any() and (first != drawn(2, 5)).any()
    tested = drawn(1, 5, phase="TEST")
    assert (tested != first).any()
    np.testing.assert_array_equal(tested, drawn(2, 6, phase="TEST"))


# -- SPP -----------------------------------------------------------------------------------------------------
def pyramid(F, x, levels, mean):
    import torch
    pool, parts = F.avg_pool2d if mean else F.max_pool2d, []
    for count in (2 ** level for level in range(levels)):
        size = [math.ceil(n / count) for n in x.shape[2:]]
        pad = [(k * count - n + 1) // 2 for k, n in zip(size, x.shape[2:], strict=True)]
        parts.append(pool(x, size, size, pad, ceil_mode=True))
        assert tuple(parts[-1].shape[2:]) == (count, count)
    return parts[0] if levels == 1 else torch.cat([part.flatten(1) for part in parts], 1)


@in_turn("shape", [(2, 3, 8, 8), (2, 3, 7, 10), (1, 2, 13, 6)])
@in_turn("levels", [1, 2, 3])
def test_pyramids(agrees, F, levels, shape):
    for pool in ("MAX", "AVE"):
        agrees(f'type: "SPP" spp_param {{ pyramid_height: {levels} pool: {pool} engine: CAFFE }}',
               partial(pyramid, F, levels=levels, mean=pool == "AVE"), shape)


def test_a_stochastic_pyramid(make_net, close):
    x = numbers(2, 3, 4, 8, low=0)
    net = make_net(inputs(x.shape) + text("SPP", "pyramid_height: 2 pool: STOCHASTIC"), phase="TEST")
    parts = [x.reshape(2, 3, 1, 1, 32), np.stack([x[:, :, h:h + 2, w:w + 4].reshape(2, 3, 8) for h, w
                                                  in itertools.product((0, 2), (0, 4))], 2)]
    expected = [((p ** 2).sum(-1) / p.sum(-1)).reshape(2, -1) for p in parts]
    close(net.forward(a=x)["y"].numpy(), np.concatenate(expected, 1))
    train = make_net(inputs(x.shape) + text("SPP", "pyramid_height: 2 pool: STOCHASTIC"))
    y = train.forward(a=x)["y"].numpy()
    whole, quarters = y[:, :3], y[:, 3:].reshape(2, 3, 4)
    flat = x.astype(y.dtype)
    assert (flat.reshape(2, 3, 32) == whole[..., None]).any(-1).all()
    assert (parts[1].astype(y.dtype) == quarters[..., None]).any(-1).all()


# -- mistakes ------------------------------------------------------------------------------------------------
MISTAKES = [
    (text("Pooling", "pool: AVE"), [IMAGES],
     "pooling_param needs kernel_size, at least 1, or global_pooling"),
    (text("Pooling", "kernel_size: 0"), [IMAGES],
     "kernel_size and stride must be at least 1, got [0, 0] and [1, 1]"),
    (text("Pooling", "kernel_size: 2 stride: 0"), [IMAGES],
     "kernel_size and stride must be at least 1, got [2, 2] and [0, 0]"),
    (text("Pooling", "kernel_h: 2"), [IMAGES],
     "kernel_h is given without kernel_w; give both, or kernel_size"),
    (text("Pooling", "kernel_w: 2"), [IMAGES],
     "kernel_w is given without kernel_h; give both, or kernel_size"),
    (text("Pooling", "kernel_size: 2 kernel_w: 2"), [IMAGES], "kernel_size and kernel_w are both given; keep "
     "one"),
    (text("Pooling", "kernel_size: 2 stride: 2 stride_h: 2"), [IMAGES],
     "stride and stride_h are both given; keep one"),
    (text("Pooling", "kernel_size: 2 pad: 2"), [IMAGES], "pad [2, 2] must be smaller than the window, [2, "
     "2]: one that lies in the padding alone has no entry"),
    (text("Pooling", "kernel_size: 3 pad_w: 3"), [IMAGES], "pad [0, 3] must be smaller than the window, [3, "
     "3]: one that lies in the padding alone has no entry"),
    (text("Pooling", "kernel_size: 9 pad: 1"), [IMAGES], "a window of 9 x 9 does not fit into the bottom of "
     "shape (2, 4, 7, 6) with pad 1 x 1; make kernel_size smaller"),
    (text("Pooling", "kernel_size: 2"), [(2, 4, 0, 6)], "a window of 2 x 2 does not fit into the bottom of "
     "shape (2, 4, 0, 6) with pad 0 x 0; make kernel_size smaller"),
    (text("Pooling", "kernel_size: 2"), [LINES], "expected images (N, C, H, W), got a bottom of shape (2, 4, "
     "9)"),
    (text("Pooling", "kernel_size: 2"), [VOLUMES], "expected images (N, C, H, W), got a bottom of shape (2, "
     "4, 4, 5, 3)"),
    *((text("Pooling", f"global_pooling: true {more}"), [IMAGES], "global_pooling takes the whole image: "
       "remove kernel_size, pad and stride") for more in ("kernel_size: 2", "kernel_h: 2 kernel_w: 2",
                                                          "pad: 1", "stride_h: 2")),
    (text("Pooling", "pool: STOCHASTIC kernel_size: 3 pad: 1"), [IMAGES], "pool STOCHASTIC has no pad"),
    (text("Pooling", "pool: AVE kernel_size: 3", tops="yz"), [IMAGES],
     "pool AVE takes no single entry, so it has one top"),
    (text("Pooling", "kernel_size: 3 round_mode: FLOOR ceil_mode: true"), [IMAGES],
     "round_mode and ceil_mode contradict each other; keep round_mode"),
    (text("SPP", "pool: MAX"), [IMAGES], "spp_param needs pyramid_height, at least 1"),
    (text("SPP", "pyramid_height: 4"), [IMAGES], "pyramid_height 4 cuts an axis into 2^3 windows, but the "
     "bottom of shape (2, 4, 7, 6) is too small for that; make it smaller"),
    (text("SPP", "pyramid_height: 3"), [(1, 2, 13, 5)], "pyramid_height 3 cuts an axis into 2^2 windows, but "
     "the bottom of shape (1, 2, 13, 5) is too small for that; make it smaller"),        # 2 of pad, 2 wide
    (text("SPP", "pyramid_height: 4000000000"), [IMAGES], "pyramid_height 4000000000 cuts an axis into "
     "2^3999999999 windows, but the bottom of shape (2, 4, 7, 6) is too small for that; make it smaller"),
    (text("SPP", "pyramid_height: 1"), [LINES], "expected images (N, C, H, W), got a bottom of shape (2, 4, "
     "9)"),
]


@in_turn("layer, shapes, message", MISTAKES, ids=[layer for layer, _, _ in MISTAKES])
def test_mistake(mistake, layer, shapes, message):
    assert mistake(layer, *shapes) == message


def test_stochastic_pooling_has_one_top_in_tests():
    """There it takes no single entry."""
    source = text("Pooling", "pool: STOCHASTIC kernel_size: 2 stride: 2", ("y", "i"))
    net_text = inputs((2, 3, 4, 4)) + source
    with pytest.raises(ConfigError, match="takes no single entry in phase TEST, so it has one top there"):
        Net(parse_net(net_text), phase="TEST", device="cpu")
    net = Net(parse_net(net_text), phase="TRAIN", device="cpu")
    assert set(net.forward(a=np.ones((2, 3, 4, 4)))) == {"y", "i"}


@pytest.mark.parametrize("text", ["type: 'Pooling' pooling_param { global_pooling: true }",
                                  "type: 'Pooling' pooling_param { global_pooling: true pool: AVE }",
                                  "type: 'SPP' spp_param { pyramid_height: 2 }",
                                  "type: 'SPP' spp_param { pyramid_height: 3 pool: AVE }"])
@in_turn("size", [(24, 24), (20, 22), (26, 30)])
def test_images_of_another_size_are_cut_as_if_the_net_were_made_for_them(text, size):
    """Data layers with batches of one give images of several sizes."""
    def layer(shape):
        dims = " ".join(f"dim: {n}" for n in shape)
        net = Net(parse_net(f"layer {{ name: 'in' type: 'Input' top: 'x' "
                            f"input_param {{ shape {{ {dims} }} }} }} "
                            f"layer {{ name: 'p' bottom: 'x' top: 'y' {text} }}"), phase="TEST", device="cpu")
        return net.layers["p"]
    x = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    np.testing.assert_array_equal(layer((1, 3, 24, 24)).forward(Tensor(x)).numpy(),
                                  layer(x.shape).forward(Tensor(x)).numpy())


@pytest.mark.parametrize("text", ["type: 'Pooling' pooling_param { kernel_size: 7 }",
                                  "type: 'Pooling' pooling_param { kernel_size: 7 pool: AVE }",
                                  "type: 'Im2col' convolution_param { kernel_size: 7 }",
                                  "type: 'Convolution' convolution_param { num_output: 2 kernel_size: 7 }",
                                  "type: 'Convolution' "
                                  "convolution_param { num_output: 3 group: 3 kernel_size: 7 }"])
def test_an_image_that_is_smaller_than_the_window_is_refused(text):
    net = Net(parse_net("layer { name: 'in' type: 'Input' top: 'x' "
                        "input_param { shape { dim: 1 dim: 3 dim: 24 dim: 24 } } } "
                        f"layer {{ name: 'p' bottom: 'x' top: 'y' {text} }}"), phase="TEST", device="cpu")
    with pytest.raises(ShapeError, match=r"window of \(7, 7\) .* does not fit into images of \(4, 5\)"):
        net.layers["p"].forward(Tensor(np.ones((1, 3, 4, 5), np.float32)))
