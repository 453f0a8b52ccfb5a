"""What drops of channels save: the costs of nets with images, by hand, and the products that really run."""

import numpy as np
import pytest
from cases import in_turn
from image_nets import SAMPLES, batch, conv, deconv, dropped, make
from nets import LOSS, inputs, ip, layer, net_of

from minidrop.backend.numpy import direct
from minidrop.net.costs import costs, drop_savings
from minidrop.patterns import BLOCK_LENGTH

# Of images (4, 6, 5) both convolutions, with a pad of 1, have 6 x 5 places, and ip reads 12 channels of them.
PLACES, WINDOW = 6 * 5, 9


def net_with(first="", second="", rate=0.5, groups=(1, 1), **options):
    """Two convolutions 4 -> 12 -> 12 and an InnerProduct, with a drop behind each convolution."""
    layers, bottom = [], "data"
    for number, (pattern, group) in enumerate(zip((first, second), groups, strict=True), 1):
        layers.append(conv(f"c{number}", bottom, 12, f"kernel_size: 3 pad: 1 group: {group}"))
        bottom = f"c{number}"
        if pattern:
            layers.append(dropped(f"d{number}", bottom, pattern, rate))
            bottom = f"d{number}"
    return make(*layers, ip("ip", bottom, 10), LOSS % "ip", **options)


def table(net):
    return {row.node.name: (row.dense, row.expected) for row in costs(net) if row.dense}


def dense(groups=(1, 1)):
    """Forward, and two gradients; the data need none."""
    rows = SAMPLES * PLACES
    return {"c1": 2 * 2 * rows * (4 // groups[0] * WINDOW) * 12,
            "c2": 3 * 2 * rows * (12 // groups[1] * WINDOW) * 12, "ip": 3 * 2 * SAMPLES * 12 * PLACES * 10}


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3), (4, 6)])
@in_turn("first, second, shares", [
    ("", "", (1, 1, 1)), ("UNIT", "", (0.3, 0.3, 1)), ("", "UNIT", (1, 0.3, 0.3)),
    ("UNIT", "PERIODIC", (0.3, 0.09, 0.3)), ("ROW", "SLICE", (0.3, 0.09, 0.3)), ("TILE", "", (1, 0.3, 1)),
    ("BLOCK", "BLOCK", (1, 1, 1)),
])
def test_by_hand(first, second, shares, groups):
    """A convolution of single channels (4 of 4) has no share of its own: all of it is computed."""
    if groups[0] == 4:
        shares = (1, *shares[1:])
    expected = {name: (count, pytest.approx(share * count))
                for (name, count), share in zip(dense(groups).items(), shares, strict=True)}
    assert table(net_with(first, second, 0.7, groups)) == expected
    assert table(net_with(first, second, 0.7, groups, phase="TEST")) == {
        name: (count / (2 if name == "c1" else 3),) * 2 for name, count in dense(groups).items()}


def test_windows_and_their_places():
    """Strides, holes and pads count by their places; a Deconvolution multiplies at those of its bottom."""
    net = make(conv("c1", "data", 12, "kernel_size: [3, 2] stride: 2 dilation: [1, 2]"),       # 2 x 2 places
               dropped("d", "c1", "UNIT", 0.5), deconv("c2", "d", 7, "kernel_size: 4 stride: 3"),
               layer("Pooling", "pool", "c2", None, "pooling_param { global_pooling: true }"),
               ip("ip", "pool", 10), LOSS % "ip")
    first, second = 2 * 2 * SAMPLES * 2 * 2 * (4 * 6) * 12, 3 * 2 * SAMPLES * 2 * 2 * (12 * 16) * 7
    assert table(net) == {"c1": (first, first / 2), "c2": (second, second / 2),
                          "ip": (3 * 2 * SAMPLES * 7 * 10,) * 2}


def test_a_convolution_of_each_channel_has_the_channels_that_pass_through_it():
    between = make(conv("c1", "data", 12), dropped("d", "c1", "UNIT", 0.5),
                   conv("own", "d", 24, "kernel_size: 3 group: 12 bias_term: false"), ip("ip", "own", 10),
                   LOSS % "ip")
    count = 3 * 2 * SAMPLES * 4 * 3 * WINDOW * 24
    assert table(between)["own"] == (count, count / 2)
    above = make(conv("c1", "data", 12), conv("own", "c1", 12, "kernel_size: 3 group: 12"),
                 dropped("d", "own", "UNIT", 0.5), ip("ip", "d", 10), LOSS % "ip")
    assert table(above)["own"] == (count / 2, count / 4)
    stopped = make(conv("c1", "data", 12), dropped("d", "c1", "UNIT", 0.5),
                   conv("own", "d", 24, "kernel_size: 3 group: 12"), ip("ip", "own", 10), LOSS % "ip")
    assert table(stopped)["own"] == (count, count)


def test_each_bottom_counts_for_itself():
    """Of the two products of c2 one reads a drop, whichever its number."""
    settings = "convolution_param { num_output: 9 kernel_size: 3 } top: \"z\""
    for bottoms in ("d c0", "c0 d"):
        net = make(conv("c0", "data", 12), conv("c1", "data", 12), dropped("d", "c1", "UNIT", 0.7),
                   layer("Convolution", "c2", bottoms, None, settings), layer("Eltwise", "sum", "c2 z"),
                   ip("ip", "sum", 10), LOSS % "ip")
        one = 3 * 2 * SAMPLES * 4 * 3 * (12 * WINDOW) * 9
        assert table(net)["c2"] == (2 * one, pytest.approx(one + 0.3 * one))


def test_what_one_drop_saves():
    whole = dense()
    saved = {drop.node.name: count for drop, count in drop_savings(net_with("UNIT", "SLICE"))}
    assert saved == {"d1": pytest.approx(whole["c1"] / 2 + whole["c2"] / 4),
                     "d2": pytest.approx(whole["c2"] / 4 + whole["ip"] / 2)}


# -- the products that run -----------------------------------------------------------------------------------
class Counting:
    """NumPy, which notes the multiplications of every product that writes to `out`."""

    def __init__(self, found):
        self.found = found

    def __getattr__(self, name):
        return getattr(np, name)

    def dot(self, a, b, out):
        self.found.append(a.shape[0] * a.shape[1] * b.shape[1])
        return np.dot(a, b, out=out)


def counts_direct(direct, found, patch):
    """Have the convolutions of images where they are note the multiplications of what they are given."""
    def note(name, size):
        function = getattr(direct, name)

        def counting(*arguments):
            result = function(*arguments)
            if result is not False:     # nothing done
                found.append(size(*arguments))
            return result
        patch.setattr(direct, name, counting)

    note("convolve", lambda backend, x, W, b, window, y, *_: len(x) * W.size * y[0, 0].size)
    note("image_gradient", lambda backend, W, gy, *_: len(gy) * W.size * gy[0, 0].size)
    note("weight_gradient", lambda backend, x, gy, window, c, channels, o, outputs:
         len(x) * channels * outputs * window.entries * gy[0, 0].size)
    note("each_weight_gradient", lambda backend, x, gy, window: gy.size * window.entries)


@pytest.fixture
def counted(monkeypatch):
    """counted(net, iteration) -> multiplications in (forward, backward) of one step."""
    def run(net, iteration):
        found, kind = [], type(net.backend)
        gemm = kind.gemm

        def counting(self, a, b, trans_a=False, trans_b=False, out=None):
            y = gemm(self, a, b, trans_a, trans_b, out)
            found.append(y.shape[0] * (a.shape[0] if trans_a else a.shape[1]) * y.shape[1])
            return y

        with monkeypatch.context() as patch:
            patch.setattr(kind, "gemm", counting)
            patch.setattr("minidrop.backend.numpy.convolution.np", Counting(found))
            counts_direct(direct, found, patch)
            net.clear_grads()
            net.draw_patterns(iteration)
            net.forward(**batch(net.graph.shapes[net.graph.nodes[0].tops[0]][1:]))
            forward = sum(found)
            net.backward()
        return forward, sum(found) - forward
    return run


def left_by_the_masks(net, groups):
    """{product: multiplications of one pass that the drawn masks leave}, counted image by image."""
    whole = np.ones((SAMPLES, 12), bool)
    kept = {name: np.broadcast_to(mask.reshape(len(mask), -1) != 0, whole.shape)
            for name, mask in net.masks().items()}
    first, second = kept.get("d1", whole), kept.get("d2", whole)

    def runs(mask, count):
        return mask.reshape(SAMPLES, count, -1).sum(axis=2)

    return {"c1": PLACES * WINDOW * 4 // groups[0] * first.sum(),
            "c2": PLACES * WINDOW * (runs(first, groups[1]) * runs(second, groups[1])).sum(),
            "ip": 10 * PLACES * second.sum()}


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("first, second", [("UNIT groups: 1", "UNIT groups: 1"), ("UNIT groups: 2", ""),
                                           ("", "PERIODIC groups: 3"), ("ROW groups: 2", "SLICE groups: 2"),
                                           ("SLICE groups: 9", "ROW groups: 9"), ("", "")])
def test_every_product_of_a_step_has_the_size_of_what_is_left(counted, first, second, groups):
    """Also the gradients: nothing below c1 is trained, so it has none of its input."""
    net = net_with(first, second, 0.7, groups)
    for iteration in range(4):
        forward, backward = counted(net, iteration)
        left = left_by_the_masks(net, groups)
        assert forward == sum(left.values())
        assert backward == 2 * sum(left.values()) - left["c1"]


@pytest.mark.parametrize("window", ["kernel_size: 1", "kernel_size: 2 stride: 2",
                                    "kernel_size: 3 dilation: 2 pad: 1"])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 7), (4, 3, 5, 4)], ids=["images", "lines", "volumes"])
def test_dense_products_are_those_of_the_costs(counted, kind, window, shape):
    text = inputs((SAMPLES, *shape), (SAMPLES,), names=("data", "label"))
    net = net_of(text, conv("c0", "data", 6, "kernel_size: 1"), conv("c1", "c0", 8, window, kind),
                 ip("ip", "c1", 10), LOSS % "ip")
    assert 2 * sum(counted(net, 0)) == sum(row.dense for row in costs(net))


@pytest.mark.parametrize("groups", [(1, 1), (2, 3)])
@pytest.mark.parametrize("first, second", [("UNIT groups: 1", "UNIT groups: 1"), ("SLICE", "UNIT"),
                                           ("PERIODIC groups: 2", "PERIODIC groups: 2")])
def test_the_mean_is_what_check_announces(first, second, groups):
    net = net_with(first, second, 0.5, groups)
    sums = dict.fromkeys(("c1", "c2", "ip"), 0)
    for iteration in range(BLOCK_LENGTH):
        net.draw_patterns(iteration)
        for name, count in left_by_the_masks(net, groups).items():
            sums[name] += count
    for name, (_, expected) in table(net).items():
        passes = 2 if name == "c1" else 3
        assert 2 * passes * sums[name] / BLOCK_LENGTH == pytest.approx(expected, rel=0.02)
