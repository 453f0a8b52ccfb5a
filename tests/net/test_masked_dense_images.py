"""The contract over nets with images: dropped channels cost nothing, and change nothing but by their mask.

With each net stands what the planner has to find: a saving that disappears fails a test.
"""

import pytest
from cases import in_turn
from image_nets import PATTERNS, check, conv, deconv, dropped, kind_of, make, plan
from nets import FILLERS, LOSS, ip, layer

RATES = (0, 0.3, 0.5, 0.7, 0.9)

CHAIN = {
    "units": ["c1 computes only the units kept by d1", "c2 reads only the units kept by d1",
              "c2 computes only the units kept by d2", "ip reads only the units kept by d2"],
    "weights": ["d1 gathers runs of units, and drops no weights: c1 (Convolution) can leave out no weights",
                "c2 reads only the units kept by d1",
                "d2 gathers runs of units, and drops no weights: c2 (Convolution) can leave out no weights",
                "ip reads only the units kept by d2"],
    "blocks": ["d1 multiplies by a mask: c1 (Convolution) can leave out no blocks",
               "c2 reads all of d1: it cannot leave anything out",
               "d1 saves nothing: no product computes or reads its blocks",
               "d2 multiplies by a mask: c2 (Convolution) can leave out no blocks",
               "ip reads all of d2: it cannot leave anything out",
               "d2 saves nothing: no product computes or reads its blocks"]}


@pytest.mark.parametrize("pattern", PATTERNS)
@in_turn("rate", RATES)
def test_chain_of_two_drops(pattern, rate):
    net = make(conv("c1", "data", 11), layer("ReLU", "r1", "c1", "c1"),
               dropped("d1", "c1", pattern, rate, "c1"),
               conv("c2", "c1", 12, "kernel_size: 2 stride: 2"), dropped("d2", "c2", pattern, rate),
               ip("ip", "d2", 7), LOSS % "ip")
    assert plan(net) == CHAIN[kind_of(pattern)]
    scale = " and the scale of d1" if kind_of(pattern) == "units" else ""
    assert [one.line for one in net.plan.epilogues] == [f"c1 applies r1{scale}"]
    check(net)


UP, DOWN = ["c1 computes only the units kept by d"], ["c2 reads only the units kept by d"]
READS = ["ip reads only the units kept by d"]
END = (ip("ip", "c2", 7), LOSS % "ip")
SUM = 'layer { name: "sum" type: "Eltwise" bottom: "%s" bottom: "%s" top: "sum" }'
RESHAPE = ('layer { name: "shaped" type: "Reshape" bottom: "%s" top: "shaped" reshape_param { shape { dim: 0 '
           'dim: 24 dim: 3 dim: 5 } } }')
SHARED = 'param { name: "w" } param { name: "b" }'


def lrn(region):
    return layer("LRN", "lrn", "pool", None, f"lrn_param {{ local_size: 3 norm_region: {region} }}")


def pool(bottom="d", settings="kernel_size: 3 stride: 2 pad: 1", kind="MAX"):
    return layer("Pooling", "pool", bottom, None, f"pooling_param {{ pool: {kind} {settings} }}")


def back(name, kind):
    return [f"the units dropped by d are put back as zeros before {name} ({kind})"]


C1, C2 = conv("c1", "data", 12), conv("c2", "d", 9)
GATHERS = "d gathers: blob {} is written by {} ({}), which computes all of it"
IP = ip("ip", "sum", 7), LOSS % "ip"

# {name: (a function of the drop, which is given its bottom and writes d, to layers; the plan for units)}
NETS = {
    "point": (lambda d: (conv("c1", "data", 12, "kernel_size: 1"), d("c1"),
                         conv("c2", "d", 9, "kernel_size: 1"), *END), UP + DOWN),
    "strides and holes": (lambda d: (conv("c1", "data", 12, "kernel_size: 3 pad: 2 dilation: 2"), d("c1"),
                                     conv("c2", "d", 9, "kernel_size: [3, 2] stride: 2"), *END), UP + DOWN),
    "no bias": (lambda d: (conv("c1", "data", 12, "kernel_size: 3 bias_term: false"), d("c1"),
                           conv("c2", "d", 9, "kernel_size: 3 bias_term: false"), *END), UP + DOWN),
    "any function above": (lambda d: (C1, layer("Sigmoid", "act", "c1"), d("act"), C2, *END), UP + DOWN),
    "pooling and LRN above": (lambda d: (C1, pool("c1", kind="AVE"), lrn("WITHIN_CHANNEL"), d("lrn"), C2,
                                         *END), UP + DOWN),
    "LRN over channels above": (lambda d: (C1, pool("c1"), lrn("ACROSS_CHANNELS"), d("lrn"), C2, *END),
                                [GATHERS.format("lrn", "lrn", "LRN"), *DOWN]),
    "largest, LRN over channels": (lambda d: (C1, d("c1"), pool(), lrn("ACROSS_CHANNELS"),
                                              conv("c2", "lrn", 9), *END), UP + back("lrn", "LRN")),
    "largest, LRN within channels": (lambda d: (C1, d("c1"), pool(), lrn("WITHIN_CHANNEL"),
                                                conv("c2", "lrn", 9), *END), UP + DOWN),
    "means, LRN over channels": (lambda d: (C1, d("c1"), pool(kind="AVE"), lrn("ACROSS_CHANNELS"),
                                            conv("c2", "lrn", 9), *END), UP + back("lrn", "LRN")),
    "means, LRN within channels": (lambda d: (C1, d("c1"), pool(kind="AVE"), lrn("WITHIN_CHANNEL"),
                                              conv("c2", "lrn", 9), *END), UP + DOWN),
    "the whole image": (lambda d: (C1, d("c1"), pool("d", "global_pooling: true", "AVE"), ip("ip", "pool", 7),
                                   LOSS % "ip"), UP + READS),
    "places of the largest": (
        lambda d: (C1, d("c1"), layer("Pooling", "pool", "d", None,
                                      'top: "place" pooling_param { kernel_size: 2 }'),
                   'layer { name: "hush" type: "Silence" bottom: "place" }', conv("c2", "pool", 9), *END),
        UP + back("pool", "Pooling")),
    "pyramid": (lambda d: (C1, d("c1"), layer("SPP", "spp", "d", None, "spp_param { pyramid_height: 2 }"),
                           ip("ip", "spp", 7), LOSS % "ip"), UP + back("spp", "SPP")),
    "Im2col": (lambda d: (C1, d("c1"), layer("Im2col", "cols", "d", None,
                                             "convolution_param { kernel_size: 2 }"), ip("ip", "cols", 7),
                          LOSS % "ip"), UP + READS),
    "Flatten, InnerProduct": (lambda d: (C1, d("c1"), layer("Flatten", "flat", "d"), ip("ip", "flat", 7),
                                         LOSS % "ip"), UP + READS),
    "Flatten of the places": (
        lambda d: (C1, d("c1"), layer("Flatten", "flat", "d", None, "flatten_param { axis: 2 }"),
                   ip("ip", "flat", 7), LOSS % "ip"), UP + READS),
    "InnerProduct": (lambda d: (C1, d("c1"), ip("ip", "d", 7, "transpose: true"), LOSS % "ip"), UP + READS),
    "groups above": (lambda d: (conv("c1", "data", 12, "kernel_size: 3 group: 2"), d("c1"), C2, *END),
                     UP + DOWN),
    "groups below": (lambda d: (C1, d("c1"), conv("c2", "d", 9, "kernel_size: 2 group: 3"), *END), UP + DOWN),
    "groups above and below": (lambda d: (conv("c1", "data", 12, "kernel_size: 3 group: 2 bias_term: false"),
                                          d("c1"), conv("c2", "d", 8, "kernel_size: 2 group: 4"), *END),
                               UP + DOWN),
    "each channel between": (
        lambda d: (C1, d("c1"), conv("own", "d", 24, "kernel_size: 3 group: 12 bias_term: false"),
                   conv("c2", "own", 9), *END), UP + DOWN),
    "each channel between, with a bias": (
        lambda d: (C1, d("c1"), conv("own", "d", 12, "kernel_size: 3 group: 12"), conv("c2", "own", 9), *END),
        UP + back("own", "Convolution")),
    "each channel above": (
        lambda d: (C1, conv("own", "c1", 12, "kernel_size: 3 group: 12"), layer("ReLU", "relu", "own"),
                   d("relu"), C2, *END), UP + DOWN),
    "several outputs of each channel above": (
        lambda d: (C1, conv("own", "c1", 24, "kernel_size: 3 group: 12"), d("own"), C2, *END),
        [GATHERS.format("own", "own", "Convolution"), *DOWN]),
    "Deconvolution on both sides": (lambda d: (deconv("c1", "data", 12), d("c1"), deconv("c2", "d", 9), *END),
                                    UP + DOWN),
    "grouped Deconvolution on both sides": (
        lambda d: (deconv("c1", "data", 12, "kernel_size: 3 group: 2"), d("c1"),
                   deconv("c2", "d", 9, "kernel_size: 3 group: 3"), *END), UP + DOWN),
    "Deconvolution above": (lambda d: (deconv("c1", "data", 12), d("c1"), C2, *END), UP + DOWN),
    "Deconvolution below": (lambda d: (C1, d("c1"), deconv("c2", "d", 9), *END), UP + DOWN),
    "drop in the branch of a sum": (
        lambda d: (conv("c0", "data", 12), conv("c1", "c0", 10), d("c1"), conv("c2", "d", 12),
                   SUM % ("c0", "c2"), *IP), UP + DOWN),
    "drop before a sum": (
        lambda d: (conv("c0", "data", 12), conv("c1", "c0", 12), d("c1"), SUM % ("c0", "d"),
                   conv("c2", "sum", 9), *END), [*UP, "sum adds the units kept by d to its other bottoms"]),
    "drop on a sum": (lambda d: (conv("c0", "data", 12), conv("c1", "c0", 12), SUM % ("c0", "c1"), d("sum"),
                                 C2, *END), [GATHERS.format("sum", "sum", "Eltwise"), *DOWN]),
    "several readers": (
        lambda d: (C1, d("c1"), C2, deconv("c3", "d", 9, "kernel_size: 1"), conv("c4", "c3", 9),
                   SUM % ("c2", "c4"), *IP), [*UP, *DOWN, "c3 reads only the units kept by d"]),
    "a reader above the drop": (lambda d: (C1, d("c1"), C2, conv("c3", "c1", 9), SUM % ("c2", "c3"), *IP),
                                ["d gathers: blob c1 has 2 readers", *DOWN]),
    "shared weights": (lambda d: (conv("c1", "data", 4, more=SHARED), d("c1"),
                                  conv("c2", "d", 4, more=SHARED), *END), UP + DOWN),
    "a layer of several bottoms": (
        lambda d: (C1, d("c1"), conv("c0", "data", 12),
                   layer("Convolution", "c2", "d c0", "c2", f'top: "c3" convolution_param {{ num_output: 9 '
                         f'kernel_size: 3 {FILLERS} }}'), SUM % ("c2", "c3"), *IP), UP + DOWN),
    "Reshape above": (lambda d: (C1, RESHAPE % "c1", d("shaped"), C2, *END),
                      [GATHERS.format("shaped", "shaped", "Reshape"), *DOWN]),
    "Reshape below": (lambda d: (C1, d("c1"), RESHAPE % "d", conv("c2", "shaped", 9), *END),
                      UP + back("shaped", "Reshape")),
    "PReLU": (lambda d: (C1, d("c1"), layer("PReLU", "prelu", "d"), conv("c2", "prelu", 9), *END), UP + DOWN),
    "PReLU above": (lambda d: (C1, layer("PReLU", "prelu", "c1"), d("prelu"), C2, *END), UP + DOWN),
    "Scale": (lambda d: (C1, layer("Scale", "above", "c1", None, "scale_param { bias_term: true }"),
                         d("above"), layer("Scale", "below", "d"), conv("c2", "below", 9), *END), UP + DOWN),
    "Concat": (lambda d: (C1, d("c1"),
                          'layer { name: "cat" type: "Concat" bottom: "d" bottom: "data" top: "cat" }',
                          conv("c2", "cat", 9), *END), UP + back("cat", "Concat")),
    "drop on the data": (lambda d: (d("data"), C2, *END),
                         [GATHERS.format("data", "in_data", "Input"), *DOWN]),
    "drop before the loss": (
        lambda d: (conv("c1", "data", 7), pool("c1", "global_pooling: true", "AVE"), d("pool"), LOSS % "d"),
        UP + back("loss", "SoftmaxWithLoss")),
}


OF_EACH_KIND = list(zip(("PERIODIC groups: 1", "UNIT groups: 2", "ROW groups: 3", "SLICE groups: 9", "TILE",
                         "BLOCK"), (0.5, 0.7, 0.3, 0.6, 0.5, 0.4), strict=True))


def some_of_each_kind():
    """Every net with one pattern of units and one other, which take turns; all others with --full."""
    units = [one for one in OF_EACH_KIND if kind_of(one[0]) == "units"]
    others = [one for one in OF_EACH_KIND if one not in units]
    for i, name in enumerate(NETS):
        chosen = units[i % len(units)], others[i % len(others)]
        for one in OF_EACH_KIND:
            yield pytest.param(name, *one, marks=() if one in chosen else pytest.mark.full)


@pytest.mark.parametrize("name, pattern, rate", list(some_of_each_kind()))
def test_nets(name, pattern, rate):
    """TILE drops runs of channels here, and BLOCK multiplies by a mask: no convolution leaves out either."""
    layers, expected = NETS[name]
    net = make(*layers(lambda bottom: dropped("d", bottom, pattern, rate)))
    if kind_of(pattern) == "units":
        assert plan(net) == expected
    else:
        assert net.plan.drops[0].producer is None
    check(net, 3)
