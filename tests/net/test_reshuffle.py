"""reshuffle_interval: what moves when hidden units are permuted, that the net stays the same function, and
every refusal."""

import nets
import numpy as np
import pytest
from cases import in_turn
from nets import IMAGES, LOSS, images, ip, layer

import minidrop as md
from minidrop.config import minidrop_pb2 as pb
from minidrop.layers.base import ParameterSpec
from minidrop.patterns import known_families
from minidrop.rng import generator
from minidrop.testing import assert_matches_masked_dense

BATCH = images()


def drop(name, bottom, top=None, every=3, extra="", more=""):
    return layer("ApproxDropout", name, bottom, top,
                 f"approx_dropout_param {{ reshuffle_interval: {every} {extra} }} {more}")


def net_of(*layers, inputs=IMAGES, **options):
    return nets.net_of(inputs, *layers, **options)


def apply_due(net, iteration):
    """What a Solver does, without histories. Returns the number of arrays that moved."""
    moves = list(net.due_permutations(iteration))
    for parameter, axis, order in moves:
        parameter.data[...] = np.take(parameter.data, order, axis=axis)
    return len(moves)


def moved(net):
    return [reshuffle.moves for reshuffle in net.reshuffles]


RELU1 = layer("ReLU", "relu1", "ip1", "ip1")
PLAIN = (ip("ip1", "data", 29), RELU1, drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")

# (layers, what moves for each drop, in the order of the file)
W1, B1, W2 = ("ip1", "weight", 0), ("ip1", "bias", 0), ("ip2", "weight", 1)
NETS = {
    "plain": (PLAIN, [(W1, B1, W2)]),
    "transposed": ((ip("ip1", "data", 29, "transpose: true"), drop("drop1", "ip1"),
                    ip("ip2", "drop1", 7, "transpose: true"), LOSS % "ip2"),
                   [(("ip1", "weight", 1), B1, ("ip2", "weight", 0))]),
    "no bias": ((ip("ip1", "data", 29, "bias_term: false"), drop("drop1", "ip1"), ip("ip2", "drop1", 7),
                 LOSS % "ip2"),
                [(W1, W2)]),
    "two readers below": (
        (ip("ip1", "data", 29), drop("drop1", "ip1"), layer("TanH", "tanh", "drop1"), ip("ip2", "tanh", 7),
         ip("other", "drop1", 7), 'layer { name: "sum" type: "Eltwise" bottom: "ip2" bottom: "other" top: '
         '"sum" }', LOSS % "sum"), [(W1, B1, ("other", "weight", 1), W2)]),
    "a reader beside the drop": (
        (ip("ip1", "data", 29), layer("Sigmoid", "act", "ip1"), drop("drop1", "act"), ip("ip2", "drop1", 7),
         ip("skip", "ip1", 7), 'layer { name: "sum" type: "Eltwise" bottom: "ip2" bottom: "skip" top: "sum" '
         '}', LOSS % "sum"), [(W1, B1, ("skip", "weight", 1), W2)]),
    "split and silence": (
        (ip("ip1", "data", 29), layer("Split", "split", "ip1", "a", 'top: "b" top: "c"'), drop("drop1", "a"),
         ip("ip2", "drop1", 7), ip("other", "b", 7), 'layer { name: "hush" type: "Silence" bottom: "c" }',
         'layer { name: "sum" type: "Eltwise" bottom: "ip2" bottom: "other" top: "sum" }', LOSS % "sum"),
        [(W1, B1, ("other", "weight", 1), W2)]),
    "an element dropout on the way": (
        (ip("ip1", "data", 29), layer("Dropout", "soft", "ip1"), drop("drop1", "soft"), ip("ip2", "drop1", 7),
         LOSS % "ip2"),
        [(W1, B1, W2)]),
    "noise on the way": (
        (ip("ip1", "data", 29), drop("drop1", "ip1"), layer("GaussianDropout", "noise", "drop1"),
         ip("ip2", "noise", 7), LOSS % "ip2"), [(W1, B1, W2)]),
    "weights dropped below": (
        (ip("ip1", "data", 29), drop("drop1", "ip1"),
         ip("ip2", "drop1", 7).replace("InnerProduct", "DropConnect"), LOSS % "ip2"), [(W1, B1, W2)]),
    "two drops on one hidden layer": (
        (ip("ip1", "data", 29), drop("dropA", "ip1"), drop("dropB", "dropA", every=2), ip("ip2", "dropB", 7),
         LOSS % "ip2"),
        [(W1, B1, W2), (W1, B1, W2)]),
    "three hidden layers": (
        (ip("ip1", "data", 29), RELU1, drop("drop1", "ip1", "ip1"), ip("ip2", "ip1", 31),
         layer("ReLU", "relu2", "ip2", "ip2"), drop("drop2", "ip2", "ip2"), ip("ip3", "ip2", 17),
         drop("drop3", "ip3", every=6), ip("ip4", "drop3", 7), LOSS % "ip4"),
        [(W1, B1, W2), (("ip2", "weight", 0), ("ip2", "bias", 0), ("ip3", "weight", 1)),
         (("ip3", "weight", 0), ("ip3", "bias", 0), ("ip4", "weight", 1))]),
    "sequences": (
        (ip("ip1", "steps", 29, "axis: 2"), drop("drop1", "ip1"), ip("ip2", "drop1", 7, "axis: 2"),
         layer("Flatten", "flat", "ip2"), LOSS % "flat"), [(W1, B1, W2)]),
}
STEPS = '\nlayer { name: "in2" type: "Input" top: "steps" input_param { shape { dim: 6 dim: 4 dim: 5 } } }'


@pytest.mark.parametrize("name", NETS)
class TestTheNetStaysTheSameFunction:
    def build(self, name, **options):
        layers, moves = NETS[name]
        sequences = name == "sequences"
        steps = {"steps": np.random.default_rng(1).standard_normal((6, 4, 5))} if sequences else {}
        inputs = BATCH | steps
        return net_of(*layers, inputs=IMAGES + STEPS * sequences, **options), moves, inputs

    def test_what_moves(self, name):
        net, moves, _ = self.build(name)
        assert [sorted(m) for m in moved(net)] == [sorted(m) for m in moves]

    def test_outputs_without_drops_and_with_masks(self, name):
        net, moves, inputs = self.build(name)
        test = self.build(name, phase="TEST", share=net)[0]
        score = [node.bottoms[0].name for node in net.graph.nodes if node.name == "loss"][0]

        def run():
            test.forward(**inputs)
            return test.blobs[score].numpy()
        before, weights = run(), {key: p.data.copy() for key, p in net.parameters().items()}
        assert apply_due(net, 6) == sum(map(len, moves))
        np.testing.assert_allclose(run(), before, rtol=0, atol=1e-12)
        for layer_name, parameter, _ in {move for some in moves for move in some}:
            key = f"{layer_name}/{parameter}"
            assert not np.array_equal(net.parameters()[key].data, weights[key]), key
        for key in set(weights) - {f"{a}/{b}" for some in moves for a, b, _ in some}:
            np.testing.assert_array_equal(net.parameters()[key].data, weights[key])
        for iteration in range(4):
            assert_matches_masked_dense(net, iteration, inputs)


@pytest.mark.parametrize("family", known_families())
def test_with_every_family(family):
    family = f'pattern: "{family}"'
    net = net_of(ip("ip1", "data", 64), RELU1, drop("drop1", "ip1", extra=family), ip("ip2", "drop1", 32),
                 drop("drop2", "ip2", extra=family), ip("ip3", "drop2", 7), LOSS % "ip3")
    net.set_dropping(False)
    before = net.forward(**BATCH)["loss"].numpy().copy()
    assert apply_due(net, 3) == 6
    np.testing.assert_allclose(net.forward(**BATCH)["loss"].numpy(), before, rtol=0, atol=1e-12)
    net.set_dropping(True)
    for iteration in range(4):
        assert_matches_masked_dense(net, iteration, BATCH)


def test_the_order_follows_from_seed_drop_and_iteration():
    net = net_of(*PLAIN, seed=5)
    before = {key: p.data.copy() for key, p in net.parameters().items()}
    apply_due(net, 6)
    order = generator(5, "reshuffle", "drop1", 6).permutation(29)
    np.testing.assert_array_equal(net.params["ip1"]["weight"].data, before["ip1/weight"][order])
    np.testing.assert_array_equal(net.params["ip1"]["bias"].data, before["ip1/bias"][order])
    np.testing.assert_array_equal(net.params["ip2"]["weight"].data, before["ip2/weight"][:, order])
    np.testing.assert_array_equal(net.params["ip2"]["bias"].data, before["ip2/bias"])
    assert not np.array_equal(order, net.reshuffles[0].order(5, 9))
    assert not np.array_equal(order, net.reshuffles[0].order(6, 6))


def test_every_drop_has_its_own_order_and_schedule():
    net = net_of(*NETS["three hidden layers"][0])
    due = {k: [p.name for p, _, _ in net.due_permutations(k)] for k in range(7)}
    first = ["ip1.weight", "ip1.bias", "ip2.weight", "ip2.weight", "ip2.bias", "ip3.weight"]
    assert due == {0: [], 1: [], 2: [], 3: first, 4: [], 5: [],
                   6: [*first, "ip3.weight", "ip3.bias", "ip4.weight"]}


def test_lines():
    net = net_of(*NETS["two drops on one hidden layer"][0])
    assert [r.line for r in net.reshuffles] == ["dropA permutes the units of ip1 every 3 iterations",
                                                "dropB permutes the units of ip1 every 2 iterations"]
    assert net_of(*PLAIN[:2], drop("drop1", "ip1", every=0), *PLAIN[3:]).reshuffles == []


def test_a_net_for_testing_alone_needs_none():
    """Where nothing is trained, nothing is permuted and nothing refused: the hidden layer may be an
    output."""
    assert net_of(ip("ip1", "data", 29), drop("drop1", "ip1"), phase="TEST").reshuffles == []


READ = "blob {0} is read by {1} at net.prototxt:{2}:1, whose result would change with their order"
REFUSED = {
    "data": ((drop("drop1", "data"), ip("ip2", "drop1", 7), LOSS % "ip2"),
             "blob data is written by in (Input) at net.prototxt:1:1, which has no units that trained "
             "weights define"),
    "concat above": (
        (ip("ip1", "data", 20), 'layer { name: "cat" type: "Concat" bottom: "ip1" bottom: "data" top: "cat" '
         '}', drop("drop1", "cat"), ip("ip2", "drop1", 7), LOSS % "ip2"),
        "blob cat is written by cat (Concat) at net.prototxt:3:1, which has no units that trained weights "
        "define"),
    "loss": ((ip("ip1", "data", 7), drop("drop1", "ip1"), LOSS % "drop1"),
             READ.format("drop1", "loss (SoftmaxWithLoss)", 4)),
    "euclidean loss": (
        (ip("ip1", "data", 13), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2",
         'layer { name: "l2" type: "EuclideanLoss" bottom: "ip1" bottom: "data" top: "l2" }'),
        READ.format("ip1", "l2 (EuclideanLoss)", 6)),
    "concat": ((ip("ip1", "data", 20), drop("drop1", "ip1"),
                'layer { name: "cat" type: "Concat" bottom: "drop1" bottom: "data" top: "cat" }',
                ip("ip2", "cat", 7), LOSS % "ip2"), READ.format("drop1", "cat (Concat)", 4)),
    "eltwise": ((ip("ip1", "data", 13), drop("drop1", "ip1"),
                 'layer { name: "sum" type: "Eltwise" bottom: "drop1" bottom: "data" top: "sum" }',
                 ip("ip2", "sum", 7), LOSS % "ip2"), READ.format("drop1", "sum (Eltwise)", 4)),
    "softmax": ((ip("ip1", "data", 20), drop("drop1", "ip1"), layer("Softmax", "soft", "drop1"),
                 ip("ip2", "soft", 7), LOSS % "ip2"), READ.format("drop1", "soft (Softmax)", 4)),
    "slice": ((ip("ip1", "data", 20), drop("drop1", "ip1"), layer("Slice", "cut", "drop1", "a", 'top: "b"'),
               ip("ip2", "a", 7), ip("ip3", "b", 7), LOSS % "ip2"), READ.format("drop1", "cut (Slice)", 4)),
    "metric": ((ip("ip1", "data", 20), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2",
                'layer { name: "acc" type: "Accuracy" bottom: "ip1" bottom: "label" top: "acc" }'),
               READ.format("ip1", "acc (Accuracy)", 6)),
    "reshape": ((ip("ip1", "data", 20), drop("drop1", "ip1"),
                 layer("Reshape", "shape", "drop1", None, "reshape_param { shape { dim: 0 dim: 4 dim: 5 } }"),
                 ip("ip2", "shape", 7), LOSS % "ip2"), READ.format("drop1", "shape (Reshape)", 4)),
    "loss_weight": ((ip("ip1", "data", 20, more="loss_weight: 0.5"), drop("drop1", "ip1"),
                     ip("ip2", "drop1", 7), LOSS % "ip2"), "blob ip1 of ip1 (InnerProduct) at "
                    "net.prototxt:2:1 counts in the loss"),
    "loss_weight on the way": (
        (ip("ip1", "data", 20), layer("ReLU", "relu1", "ip1", None, "loss_weight: 0.5"),
         drop("drop1", "relu1"), ip("ip2", "drop1", 7), LOSS % "ip2"), "blob relu1 of relu1 (ReLU) at "
        "net.prototxt:3:1 counts in the loss"),
    "loss_weight on the drop": (
        (ip("ip1", "data", 20), drop("drop1", "ip1", more="loss_weight: 2"), ip("ip2", "drop1", 7),
         LOSS % "ip2"),
        "blob drop1 of drop1 (ApproxDropout) at net.prototxt:3:1 counts in the loss"),
    "output of the net": ((ip("ip1", "data", 20), layer("ReLU", "seen", "ip1"), drop("drop1", "ip1"),
                           ip("ip2", "drop1", 7), LOSS % "ip2"), "blob seen of seen (ReLU) at "
                          "net.prototxt:3:1 is an output of the net"),
    "shared weight above": (
        (ip("ip1", "data", 13, more='param { name: "W" }'), drop("drop1", "ip1"), ip("ip2", "drop1", 13),
         ip("ip3", "ip2", 13, more='param { name: "W" }'), LOSS % "ip3"),
        "the parameter 'W' is shared by ip1 (InnerProduct) at net.prototxt:2:1 and ip3 (InnerProduct) at "
        "net.prototxt:5:1"),
    "shared weight below": (
        (ip("ip1", "data", 13), drop("drop1", "ip1"), ip("ip2", "drop1", 13, more='param { name: "W" }'),
         ip("ip3", "ip2", 13, more='param { name: "W" }'), LOSS % "ip3"),
        "the parameter 'W' is shared by ip2 (InnerProduct) at net.prototxt:4:1 and ip3 (InnerProduct) at "
        "net.prototxt:5:1"),
}


@in_turn("name", REFUSED)
def test_refused(name):
    layers, reason = REFUSED[name]
    with pytest.raises(md.ConfigError) as caught:
        net_of(*layers)
    message = str(caught.value)
    place = next(i for i, text in enumerate((IMAGES, *layers), 1) if '"ApproxDropout"' in text)
    column = (IMAGES, *layers)[place - 1].index("reshuffle_interval") + 1
    assert message == (f"net.prototxt:{place}:{column}: layer 'drop1' (ApproxDropout): reshuffle_interval "
                       f"cannot permute the units above: {reason}; remove reshuffle_interval")
    # without it nothing is wrong
    net_of(*(text.replace("reshuffle_interval: 3", "") for text in layers))


def test_an_inner_product_over_several_axes_as_one_is_refused():
    layers = (ip("ip1", "steps", 20, "axis: 2"), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")
    with pytest.raises(md.ConfigError,
                       match=r"blob drop1 is read by ip2 \(InnerProduct\) at net.prototxt:5:1, whose result"):
        net_of(*layers, inputs=IMAGES + STEPS)


def test_a_drop_of_another_axis_is_refused():
    images = ('layer { name: "in2" type: "Input" top: "steps" input_param { shape { dim: 6 dim: 2 dim: 3 '
              'dim: 5 } } }')
    layers = (ip("ip1", "steps", 20, "axis: 3"), drop("drop1", "ip1"), ip("ip2", "drop1", 7), LOSS % "ip2")
    with pytest.raises(md.ConfigError,
                       match=r"axis 1 of blob ip1 is dropped, but the units of ip1 \(InnerProduct\) at "
                                             r"net.prototxt:3:1 lie on axis 3"):
        net_of(*layers, inputs=f"{IMAGES}\n{images}")


@pytest.mark.parametrize("layers, reason", [
    ((RELU1, drop("drop1", "ip1")), "blob ip1 is written by relu1 (ReLU) at net.prototxt:3:1, which has no "
     "units"),
    ((drop("drop1", "ip1", "ip1"), RELU1), "blob ip1 is read by relu1 (ReLU) at net.prototxt:4:1, whose "
     "result would change"),
], ids=["above", "below"])
def test_an_elementwise_layer_with_trained_values_of_its_own_is_refused(monkeypatch, layers, reason):
    """Nothing says which of its values belongs to which unit."""
    relu = md.layers.layer_class("ReLU")
    monkeypatch.setattr(relu, "parameter_specs",
                        lambda self: [ParameterSpec("slope", (29,), pb.FillerParameter())])
    with pytest.raises(md.ConfigError) as caught:
        net_of(ip("ip1", "data", 29), *layers, ip("ip2", layers[1].split('top: "')[1].split('"')[0], 7),
               LOSS % "ip2")
    assert reason in str(caught.value)


def test_a_flatten_that_changes_nothing_leaves_units_in_their_places():
    net = net_of(ip("ip1", "data", 20), drop("drop1", "ip1"), layer("Flatten", "flat", "drop1"),
                 ip("ip2", "flat", 7), LOSS % "ip2")
    assert net.reshuffles[0].moves == (("ip1", "weight", 0), ("ip1", "bias", 0), ("ip2", "weight", 1))


def test_every_drop_that_cannot_is_named():
    with pytest.raises(md.ConfigError) as caught:
        net_of(drop("drop0", "data"), ip("ip1", "drop0", 7), drop("drop1", "ip1"), LOSS % "drop1")
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == [
        "layer 'drop0' (ApproxDropout)", "layer 'drop1' (ApproxDropout)"]


TEST_NETS = {
    "a reader of its own": ((*PLAIN, ip("probe", "drop1", 7)), "probe does not use them alike in both nets"),
    "a reader without the writer": ((ip("ip2", "wide", 7), LOSS % "ip2"), "there is no layer ip1 here"),
    "a reader of something else": ((PLAIN[0], ip("ip2", "wide", 7), ip("ip3", "ip1", 7), LOSS % "ip2"),
                                   "ip2 does not use them alike in both nets"),
    "units as output": ((*PLAIN, layer("ReLU", "seen", "ip1")),
                        "blob seen of seen (ReLU) at net.prototxt:8:1 is an output of the net"),
}
WIDE = '\nlayer { name: "in2" type: "Input" top: "wide" input_param { shape { dim: 6 dim: 29 } } }'


@pytest.mark.parametrize("name", TEST_NETS)
def test_a_net_that_shares_the_parameters_must_be_able_to_follow(name):
    layers, reason = TEST_NETS[name]
    train = net_of(*PLAIN)
    with pytest.raises(md.ConfigError) as caught:
        net_of(*layers, inputs=IMAGES + WIDE, phase="TEST", share=train)
    message = str(caught.value)
    assert message.startswith("net.prototxt:3:1: layer 'ip") and reason in message, message
    assert ("the training net permutes the units of ip1 (reshuffle_interval of drop1), and this net, which "
            "shares its parameters, cannot follow") in message
    net_of(*layers, inputs=IMAGES + WIDE, phase="TEST",
           share=net_of(*PLAIN[:2], drop("drop1", "ip1", every=0), *PLAIN[3:]))


@pytest.mark.parametrize("layers", [
    (ip("ip1", "data", 29), RELU1, ip("ip2", "ip1", 7), LOSS % "ip2"),
    (ip("first", "data", 5), ip("second", "first", 7), LOSS % "second"),
], ids=["without the drop", "without the layers"])
def test_a_net_that_follows(layers):
    train = net_of(*PLAIN)
    test = net_of(*layers, phase="TEST", share=train)
    before = test.forward(**BATCH)["loss"].numpy().copy()
    apply_due(train, 3)
    np.testing.assert_allclose(test.forward(**BATCH)["loss"].numpy(), before, rtol=0, atol=1e-12)
