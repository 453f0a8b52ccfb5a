"""The contract over nets with images: normalization, several drops, volumes, lines, and sums of gradients."""

import numpy as np
import pytest
from cases import every_value, in_turn
from image_nets import PATTERNS, batch, check, conv, dropped, kind_of, make, plan
from nets import FILLERS, LOSS, ip, layer

UP, DOWN = ["c1 computes only the units kept by d"], ["c2 reads only the units kept by d"]
C1, C2 = conv("c1", "data", 12), conv("c2", "d", 9)
END, OF_SUM = (ip("ip", "c2", 7), LOSS % "ip"), (ip("ip", "sum", 7), LOSS % "ip")
OF_EACH_KIND = list(zip(("PERIODIC groups: 1", "UNIT groups: 2", "ROW groups: 3", "SLICE groups: 9", "TILE",
                         "BLOCK"), (0.5, 0.7, 0.3, 0.6, 0.5, 0.4), strict=True))
MIXES = ("d gathers: bn (BatchNorm) takes its means over all samples, so that groups of samples cannot "
         "differ in it")
SCALE = layer("Scale", "scale", "bn", "bn", "scale_param { bias_term: true }")


@in_turn("pattern", PATTERNS)
def test_batch_norm_above(pattern):
    """One set of channels for all samples goes through it; several cannot, and TILE and BLOCK say why not."""
    net = make(C1, layer("BatchNorm", "bn", "c1"), SCALE, layer("ReLU", "relu", "bn", "bn"),
               dropped("d", "bn", pattern), C2, *END)
    if kind_of(pattern) == "units":
        one, = net.plan.drops
        assert plan(net) == [*(UP if one.site.groups == 1 else [MIXES + "; try groups: 1"]), *DOWN]
        assert one.site.groups == 1 or pattern[-1] != "1"
    check(net)


@in_turn("pattern, rate", OF_EACH_KIND)
def test_batch_norm_below(pattern, rate):
    """Its running statistics count the zeros of dropped channels, so it gets them."""
    net = make(C1, dropped("d", "c1", pattern, rate), layer("BatchNorm", "bn", "d"), SCALE,
               conv("c2", "bn", 9), *END)
    if kind_of(pattern) == "units":
        assert plan(net) == UP + ["the units dropped by d are put back as zeros before bn (BatchNorm)"]
    check(net)
    stored = layer("BatchNorm", "bn", "d", None, "batch_norm_param { use_global_stats: true }")
    check(make(C1, dropped("d", "c1", pattern, rate), stored, SCALE, conv("c2", "bn", 9),
               *END), 2)


def test_batch_norm_with_stored_statistics_lets_groups_pass():
    stored = layer("BatchNorm", "bn", "c1", None, "batch_norm_param { use_global_stats: true }")
    net = make(C1, stored, dropped("d", "bn", "UNIT groups: 2"), C2, *END)
    for name, value in (("mean", 0.5), ("variance", 4), ("scale_factor", 2)):
        net.params["bn"][name].data[...] = value
    assert plan(net) == UP + DOWN
    check(net)


@pytest.mark.parametrize("second", ["PERIODIC groups: 1", "UNIT groups: 2", "SLICE groups: 3", "BLOCK"])
@in_turn("first, rate", OF_EACH_KIND)
def test_two_drops_in_a_row(first, second, rate):
    net = make(C1, dropped("d", "c1", first, rate), dropped("e", "d", second, 0.3),
               conv("c2", "e", 9), *END)
    producers = [one.producer and one.producer.name for one in net.plan.drops]
    assert producers == ["c1" if kind_of(first) == "units" else None, None]
    assert (DOWN[0].replace("by d", "by e") in plan(net)) == (kind_of(second) == "units")
    check(net)


@every_value(("second", ["PERIODIC groups: 1", "UNIT groups: 2", "ROW groups: 3"]), ("groups", [1, 3]))
@in_turn("first, rate", OF_EACH_KIND)
def test_a_convolution_between_two_drops(first, second, rate, groups):
    """Groups of samples need not be the same above and below."""
    net = make(conv("c1", "data", 12, f"kernel_size: 3 group: {groups if groups == 1 else 2}"),
               dropped("d", "c1", first, rate), conv("c2", "d", 9, f"kernel_size: 3 group: {groups}"),
               dropped("e", "c2", second, 0.6), ip("ip", "e", 7), LOSS % "ip")
    assert plan(net)[-2:] == ["c2 computes only the units kept by e", "ip reads only the units kept by e"]
    check(net)


@pytest.mark.parametrize("shape", [(4, 3, 4, 3), (4, 7)], ids=["volumes", "lines"])
@in_turn("pattern, rate", OF_EACH_KIND)
def test_volumes_and_lines(shape, pattern, rate):
    """Channels on axis 1; for lines, which look like sequences, the drop has to be told."""
    net = make(conv("c1", "data", 12, "kernel_size: 2 pad: 1"), layer("ReLU", "relu", "c1", "c1"),
               dropped("d", "c1", pattern, rate, settings="axis: 1"),
               conv("c2", "d", 9, "kernel_size: 2"), *END, shape=shape)
    if kind_of(pattern) == "units":
        assert plan(net) == UP + DOWN
    assert net.drop_sites["d"].total == 12
    check(net)


def test_lines_without_an_axis_are_sequences():
    net = make(conv("c1", "data", 12, "kernel_size: 2"), dropped("d", "c1", "UNIT groups: 1"),
               conv("c2", "d", 9, "kernel_size: 2"), *END, shape=(4, 7))
    assert net.drop_sites["d"].total == 6
    assert plan(net) == ["d gathers: c1 does not compute the dropped axis as its outputs",
                         "the units dropped by d are put back as zeros before c2 (Convolution)",
                         "d saves nothing: no product computes or reads its units"]
    check(net)


@in_turn("pattern, rate", OF_EACH_KIND)
def test_channels_on_a_later_axis(pattern, rate):
    """Axes before that of the channels are images of their own; groups of samples are then of axis 1."""
    net = make(conv("c1", "data", 12, "axis: 2 kernel_size: 2 pad: 1"),
               dropped("d", "c1", pattern, rate, settings="axis: 2"),
               conv("c2", "d", 9, "axis: 2 kernel_size: 2"), *END, shape=(3, 4, 5, 4))
    if kind_of(pattern) == "units":
        assert plan(net) == UP + DOWN
    check(net)


def two(first, second):
    """A layer of two bottoms, with the tops y and z."""
    settings = f"convolution_param {{ num_output: 12 kernel_size: 3 {FILLERS} }}"
    return layer("Convolution", "y", f"{first} {second}", None, f'top: "z" {settings}')


def summed(first, second):
    return layer("Eltwise", "sum", f"{first} {second}")


@in_turn("pattern, rate", OF_EACH_KIND)
def test_several_tops_of_one_layer(pattern, rate):
    """What is dropped from one must not be missing in the others."""
    c0, alike = conv("c0", "data", 4), two("data", "c0")
    one = make(c0, alike, dropped("d", "z", pattern, rate), summed("d", "y"), *OF_SUM)
    both = make(c0, alike, dropped("d", "y", pattern, rate), dropped("e", "z", pattern, rate),
                summed("d", "e"), *OF_SUM)
    if kind_of(pattern) == "units":
        assert plan(one)[0] == ("d gathers: y (Convolution) computes several tops, which would all lack what "
                                "is dropped from one")
    check(one)
    check(both)


@in_turn("pattern, rate", OF_EACH_KIND)
def test_several_bottoms_with_the_drop(pattern, rate):
    """Each way in which a layer may read a drop twice."""
    for between, second in (((), "d"), ((layer("ReLU", "relu", "d"),), "relu"), ((), "c0")):
        for first, last in (("d", second), (second, "d")):
            net = make(conv("c0", "data", 12), C1, dropped("d", "c1", pattern, rate), *between,
                       two(first, last), summed("y", "z"), *OF_SUM)
            if kind_of(pattern) == "units":
                assert plan(net) == [*UP, "y reads only the units kept by d"]
            check(net, 2)


# Layers of the channels of axis 2, whose images are those of (axis 0, axis 1), between layers of axis 1.
OF_AXIS_2 = {
    "Convolution": "num_output: 3 kernel_size: 3 pad: 1",
    "Convolution of each channel": "num_output: 3 group: 3 kernel_size: 3 pad: 1 bias_term: false",
    "Deconvolution": "num_output: 3 kernel_size: 3 pad: 1", "Im2col": "kernel_size: 2",
}


@pytest.mark.parametrize("kind", OF_AXIS_2)
@in_turn("pattern, rate", OF_EACH_KIND)
def test_no_drop_of_other_channels_passes(kind, pattern, rate):
    """Missing entries of axis 1 would be missing images there."""
    between = f"convolution_param {{ axis: 2 {OF_AXIS_2[kind]} }}"
    kind, c1 = kind.split()[0], conv("c1", "data", 12, "kernel_size: 1")
    c2 = conv("c2", "{}", 9, "kernel_size: 1")
    above = make(c1, layer(kind, "own", "c1", None, between), dropped("d", "own", pattern, rate),
                 c2.replace("{}", "d"), *END, shape=(4, 3, 5, 4))
    below = make(c1, dropped("d", "c1", pattern, rate), layer(kind, "own", "d", None, between),
                 c2.replace("{}", "own"), *END, shape=(4, 3, 5, 4))
    assert above.plan.drops[0].producer is None and not below.plan.drops[0].carriers
    if kind_of(pattern) == "units":
        assert plan(above)[1:] == DOWN and plan(below)[0] in UP
    check(above)
    check(below)


def test_gradients_of_several_batches_add_up():
    """Blocks of other channels, and whole gradients, of one parameter."""
    net = make(conv("c1", "data", 12, "kernel_size: 3 group: 2"), dropped("d", "c1", "UNIT groups: 2", 0.7),
               C2, *END)
    total = {}
    for masked in (False, True):
        net.run_masked_dense(masked)
        net.clear_grads()
        for iteration in range(3):
            net.draw_patterns(iteration)
            net.forward(**batch())
            net.backward()
        total[masked] = {name: p.dense_grad() for name, p in net.parameters().items()}
    for name, expected in total[True].items():
        np.testing.assert_allclose(total[False][name], expected, rtol=1e-9, atol=1e-9, err_msg=name)


def test_phase_test_keeps_every_channel():
    layers = (C1, dropped("d", "c1", "UNIT groups: 2"), C2, *END)
    test = make(*layers, phase="TEST")
    test.draw_patterns(3)
    test.forward(**batch())
    assert test.blobs["d"].kept is None and (test.masks()["d"] == 1).all()
    np.testing.assert_array_equal(test.blobs["d"].numpy(), test.blobs["c1"].numpy())
