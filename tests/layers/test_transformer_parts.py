"""LayerNorm, RMSNorm, GELU, SiLU, Position, Rotary, Patches, Permute, smoothed labels."""

import logging

import numpy as np
import pytest
from cases import in_turn
from nets import FILLERS, LOSS, drop, inputs, ip, layer, net_of, numbers

from minidrop.errors import DataError
from minidrop.testing import assert_matches_masked_dense

SHAPE = (5, 4, 12)
UNIFORM = 'weight_filler { type: "uniform" min: -1 max: 1 }'


# -- against PyTorch -----------------------------------------------------------------------------------------
def test_activations(agrees, F):
    agrees('type: "GELU"', F.gelu, SHAPE)
    agrees('type: "GELU" gelu_param { approximate: TANH }', lambda x: F.gelu(x, approximate="tanh"), SHAPE)
    agrees('type: "SiLU"', F.silu, SHAPE)


def test_norms(agrees, F):
    values = {"weight": numbers(12), "bias": numbers(12, seed=1)}
    agrees('type: "LayerNorm"', lambda x, w, b: F.layer_norm(x, (12,), w, b), SHAPE, values=values)
    agrees('type: "LayerNorm" layer_norm_param { eps: 0.1 bias_term: false }',
           lambda x, w: F.layer_norm(x, (12,), w, eps=0.1), SHAPE, values={"weight": numbers(12)})
    agrees('type: "LayerNorm" layer_norm_param { weight_term: false axis: 1 }',
           lambda x: F.layer_norm(x, (4, 12)), SHAPE)
    agrees('type: "RMSNorm"', lambda x, w: F.rms_norm(x, (12,), w, 1e-6), SHAPE,
           values={"weight": numbers(12)})
    agrees('type: "RMSNorm" rms_norm_param { axis: 1 eps: 0.5 }', lambda x, w: F.rms_norm(x, (4, 12), w, 0.5),
           SHAPE)


def test_norms_begin_as_pytorchs(make_net):
    net = make_net(inputs(SHAPE) + layer("LayerNorm", "l", "a") + layer("RMSNorm", "r", "a"))
    for name, parameter, value in (("l", "weight", 1), ("l", "bias", 0), ("r", "weight", 1)):
        assert (net.params[name][parameter].numpy() == value).all()


def test_positions(agrees):
    agrees(f'type: "Position" position_param {{ {UNIFORM} }}', lambda x, P: x + P[:, None], SHAPE)
    agrees(f'type: "Position" position_param {{ max_steps: 9 {UNIFORM} }}',
           lambda x, P: x + P[:5, None], SHAPE)

    def added(x):
        import torch
        t, i = torch.arange(5.0, dtype=float)[:, None], torch.arange(6, dtype=float)
        angle = t / 50 ** (2 * i / 12)
        return x + torch.stack((angle.sin(), angle.cos()), dim=2).reshape(5, 1, 12)
    agrees('type: "Position" position_param { kind: SINUSOIDAL base: 50 }', added, SHAPE)

    def halves(x):
        import torch
        angle = torch.arange(5.0, dtype=float)[:, None] / 50 ** (2 * torch.arange(2, dtype=float) / 4)
        cosine, sine = (f(torch.cat((angle, angle), dim=1))[:, None, None] for f in (torch.cos, torch.sin))
        heads = x.reshape(5, 4, 3, 4)
        other = torch.cat((-heads[..., 2:], heads[..., :2]), dim=3)
        return (heads * cosine + other * sine).reshape(SHAPE)
    agrees('type: "Rotary" rotary_param { num_heads: 3 base: 50 }', halves, SHAPE)


def test_patches_and_permute(agrees):
    agrees('type: "Permute" permute_param { order: 2 order: 0 order: 1 }',
           lambda x: x.permute(2, 0, 1), SHAPE)
    agrees('type: "Patches" patches_param { patch_size: 2 }', lambda x: x.reshape(3, 5, 2, 2, 3, 2).permute(
        2, 4, 0, 1, 3, 5).reshape(6, 3, 20), (3, 5, 4, 6))


def test_patches_times_weights_are_a_convolution():
    shape, fillers = (2, 3, 6, 4), f"num_output: 5 {FILLERS}"
    net = net_of(inputs(shape), layer("Patches", "p", "a", "p", "patches_param { patch_size: 2 }"),
                 layer("InnerProduct", "ip", "p", "ip", f"inner_product_param {{ axis: 2 {fillers} }}"),
                 layer("Convolution", "conv", "a", "conv",
                       f"convolution_param {{ kernel_size: 2 stride: 2 {fillers} }}"))
    for name in ("weight", "bias"):
        parameter = net.params["conv"][name].data
        parameter[...] = net.params["ip"][name].data.reshape(parameter.shape)
    net.forward(a=numbers(*shape))
    conv = net.blobs["conv"].numpy().reshape(2, 5, 6)
    np.testing.assert_allclose(net.blobs["ip"].numpy(), conv.transpose(2, 0, 1), rtol=1e-12, atol=1e-12)


@in_turn("more, ignored", [("", -100), ("ignore_label: 2", 2)])
def test_label_smoothing(make_net, close, F, more, ignored):
    import torch
    scores, label = numbers(6, 7), np.array([0, 2, 6, 2, 3, 1])
    net = make_net(inputs((6, 7), (6,)) + layer(
        "SoftmaxWithLoss", "l", "a b", "y", f"loss_param {{ label_smoothing: 0.1 {more} }}"))
    x = torch.tensor(scores, requires_grad=True)
    expected = F.cross_entropy(x, torch.tensor(label), label_smoothing=0.1, ignore_index=ignored)
    expected.backward()
    from minidrop import Tensor
    ours = Tensor(net.backend.asarray(scores, net.dtype), requires_grad=True, backend=net.backend)
    loss = net.forward(a=ours, b=label)["y"]
    loss.backward()
    close(loss.numpy(), expected.detach().numpy())
    close(net.backend.to_host(ours.grad), x.grad.numpy())


# -- drops ---------------------------------------------------------------------------------------------------
SETTINGS = {
    "GELU": "", "GELU by tanh": "gelu_param { approximate: TANH }", "SiLU": "",
    "Position": f"position_param {{ {UNIFORM} }}",
    "Position, longer": f"position_param {{ max_steps: 9 {UNIFORM} }}",
    "Position of sines": "position_param { kind: SINUSOIDAL }",
    "LayerNorm": "", "RMSNorm": "", "Rotary": "rotary_param { num_heads: 3 }",
    "Permute": "permute_param { order: 0 order: 1 order: 2 }",
}
CROSSED = {name for name in SETTINGS if name.split()[0].strip(",") in ("GELU", "SiLU", "Position")}
CARRIES = {name for name in CROSSED if not name.startswith("Position")}
FAMILIES = {"units": "PERIODIC groups: 1", "groups": "UNIT groups: 2", "weights": "TILE", "blocks": "BLOCK"}
SEQUENCES = ('layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 5 dim: 4 '
             'dim: 13 } shape { dim: 5 dim: 4 } } }')
SCORES = LOSS.replace('top: "loss"', 'top: "loss" softmax_param { axis: 2 }')


def check(net):
    for iteration in range(2):
        labels = np.random.default_rng(iteration).integers(0, 7, (5, 4))
        assert_matches_masked_dense(net, iteration, {"data": numbers(5, 4, 13), "label": labels})


def of_type(name, bottom):
    return layer(name.split()[0].strip(","), "l", bottom, None, SETTINGS[name])


def product(name, bottom, outputs):
    return ip(name, bottom, outputs, "axis: 2")


@in_turn("family", FAMILIES)
@in_turn("name", SETTINGS)
def test_drop_above(name, family):
    """ip1 -> layer -> drop: the product leaves out what is dropped where the layer lets units pass."""
    net = net_of(SEQUENCES, product("ip1", "data", 24), of_type(name, "ip1"),
                 drop("d", "l", FAMILIES[family]), product("ip2", "d", 7), SCORES % "ip2")
    assert (net.plan.drops[0].producer is not None) == (name in CROSSED)
    check(net)


@in_turn("family", FAMILIES)
@in_turn("name", SETTINGS)
def test_drop_below(name, family):
    """ip1 -> drop -> layer -> ip2: carried on by what keeps zeros, made whole before all others."""
    net = net_of(SEQUENCES, product("ip1", "data", 24), drop("d", "ip1", FAMILIES[family]),
                 of_type(name, "d"), product("ip2", "l", 7), SCORES % "ip2")
    carries = name in CARRIES and family != "weights"
    assert [node.name for node in net.plan.drops[0].carriers] == ["l"] * carries
    assert [node.name for node in net.plan.drops[0].consumers] == ["ip2"] * carries
    check(net)


@pytest.mark.parametrize("ratio", [0, 0.3, 0.5, 0.7, 0.9])
def test_a_block_of_a_transformer(ratio):
    """Everything of this file in one net, with chains of drops and residual branches."""
    rate = f"dropout_ratio: {ratio}"
    net = net_of(
        'layer { name: "in" type: "Input" top: "image" top: "label" input_param { shape { dim: 3 dim: 2 '
        'dim: 4 dim: 6 } shape { dim: 6 dim: 3 } } }',
        layer("Patches", "patches", "image", None, "patches_param { patch_size: 2 }"),
        product("embed", "patches", 12),
        layer("Position", "at", "embed", None, f"position_param {{ {UNIFORM} }}"),
        drop("d0", "at", "PERIODIC groups: 1", settings=rate), layer("RMSNorm", "n0", "d0"),
        product("q", "n0", 12), layer("Rotary", "turned", "q", None, "rotary_param { num_heads: 2 }"),
        layer("Eltwise", "sum1", "d0 turned"), layer("LayerNorm", "n1", "sum1"),
        product("up", "n1", 40), layer("GELU", "gelu", "up", "up"),
        drop("d1", "up", "UNIT groups: 3", "up", settings=rate), product("down", "up", 12),
        drop("d2", "down", "PERIODIC groups: 1", settings=rate), layer("Eltwise", "sum2", "sum1 d2"),
        layer("LayerNorm", "n2", "sum2", None, "layer_norm_param { bias_term: false }"),
        product("ip", "n2", 7),
        layer("SoftmaxWithLoss", "loss", "ip label", "loss",
              "softmax_param { axis: 2 } loss_param { label_smoothing: 0.1 }"))
    for iteration in range(3):
        labels = np.random.default_rng(iteration).integers(0, 7, (6, 3))
        assert_matches_masked_dense(net, iteration, {"image": numbers(3, 2, 4, 6), "label": labels})


# -- step by step --------------------------------------------------------------------------------------------
CONTINUING = {
    "learned": ("Position", f"position_param {{ max_steps: 7 %s {UNIFORM} }}"),
    "sines": ("Position", "position_param { kind: SINUSOIDAL %s }"),
    "rotary": ("Rotary", "rotary_param { num_heads: 2 %s }"),
}


def continuing(name, steps, more="continues: true", **options):
    kind, settings = CONTINUING[name]
    return net_of(inputs((steps, 2, 8)), layer(kind, "l", "a", "y", settings % more), phase="TEST", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@in_turn("name", CONTINUING)
def test_steps_one_by_one_are_the_sequence(name, dtype):
    x = numbers(7, 2, 8).astype(dtype)
    whole = continuing(name, 7, "", dtype=dtype)
    expected = whole.forward(a=x)["y"].numpy()
    assert whole.states == {}
    one, three = continuing(name, 1, dtype=dtype), continuing(name, 3, dtype=dtype)
    for _ in range(2):
        found = [one.forward(a=x[t:t + 1])["y"].numpy() for t in range(7)]
        np.testing.assert_array_equal(np.concatenate(found), expected)
        assert one.states["l", "position"].tolist() == [7]
        one.reset_states()
    for t in (0, 3):
        np.testing.assert_array_equal(three.forward(a=x[t:t + 3])["y"].numpy(), expected[t:t + 3])
    states = three.states
    three.reset_states()
    three.forward(a=x[:3])
    three.set_states(states)        # as a generator does whose turn it is again
    assert three.states["l", "position"].tolist() == [6]


@in_turn("name", CONTINUING)
def test_batches_of_other_lengths_than_declared(name):
    """As those of sentences are; Rotary took the declared number alone, and the others no more than that."""
    x = numbers(7, 2, 8)
    expected = continuing(name, 7, "").forward(a=x)["y"].numpy()
    for declared in (1, 5, 7):
        net, goes_on = continuing(name, declared, ""), continuing(name, declared)
        for steps in (3, 7, 1, 4):
            np.testing.assert_array_equal(net.forward(a=x[:steps])["y"].numpy(), expected[:steps])
        for first, last in ((0, 4), (4, 6), (6, 7)):
            np.testing.assert_array_equal(goes_on.forward(a=x[first:last])["y"].numpy(), expected[first:last])


def test_past_the_last_position():
    net = continuing("learned", 3)
    for _ in range(2):
        net.forward(a=numbers(3, 2, 8))
    with pytest.raises(DataError, match=r"layer 'l'.*has 9 steps with those of this batch, but the layer "
                                        r"tells only 7 apart; begin anew \(Net.reset_states\), generate a "
                                        r"shorter text, or use a net with a larger max_steps"):
        net.forward(a=numbers(3, 2, 8))
    net.reset_states()
    net.forward(a=numbers(3, 2, 8))
    endless = continuing("rotary", 1, dtype="float32")
    endless.set_states({("l", "position"): np.array([2**24], np.float32)})
    with pytest.raises(DataError, match="tells only 16777216 apart"):
        endless.forward(a=numbers(1, 2, 8))


def test_the_table_of_a_shorter_sequence_is_shared(caplog):
    """A net of one step reads the rows that a net of long sequences has learned."""
    caplog.set_level(logging.WARNING)
    text = layer("Position", "l", "a", "y", f"position_param {{ max_steps: 7 {UNIFORM} %s }}")
    train = net_of(inputs((7, 2, 8)), text % "")
    step = net_of(inputs((1, 2, 8)), text % "continues: true", phase="TEST", share=train)
    assert step.params["l"]["weight"] is train.params["l"]["weight"] and not caplog.records


# -- mistakes ------------------------------------------------------------------------------------------------
SEQUENCE, IMAGES = (5, 4, 12), (2, 3, 4, 6)


@in_turn("text, shapes, message", [
    ('type: "LayerNorm" layer_norm_param { axis: 0 }', [SEQUENCE], "axis 0 is the batch; expected 1 or more"),
    ('type: "LayerNorm" layer_norm_param { axis: 3 }', [SEQUENCE],
     "axis 3 does not exist: the bottom has 3 axes"),
    ('type: "LayerNorm" layer_norm_param { eps: -1 }', [SEQUENCE], "eps must not be negative, got -1"),
    ('type: "RMSNorm" rms_norm_param { eps: -1 }', [SEQUENCE], "eps must not be negative, got -1"),
    ('type: "RMSNorm"', [(3, 0)], "bottom of shape (3, 0) has nothing to normalize from axis 1 on"),
    ('type: "Position"', [IMAGES], "expected a bottom (steps, streams, units), got shape (2, 3, 4, 6)"),
    ('type: "Position" position_param { max_steps: 4 }', [SEQUENCE],
     "max_steps is 4, but the bottom has 5 steps; give at least as many"),
    ('type: "Position" position_param { kind: SINUSOIDAL max_steps: 9 }', [SEQUENCE],
     "max_steps is a setting of kind LEARNED, and the kind is SINUSOIDAL; remove it"),
    ('type: "Position" position_param { kind: SINUSOIDAL weight_filler { } }', [SEQUENCE],
     "weight_filler is a setting of kind LEARNED, and the kind is SINUSOIDAL; remove it"),
    ('type: "Position" position_param { base: 9 }', [SEQUENCE],
     "base is a setting of kind SINUSOIDAL, and the kind is LEARNED; remove it"),
    ('type: "Position" position_param { kind: SINUSOIDAL base: 0 }', [SEQUENCE],
     "base must be above 0, got 0"),
    ('type: "Position" position_param { max_steps: 9 continues: true }', [SEQUENCE],
     "continues is for phase TEST, which generates step by step; in training every batch begins at step 0: "
     "remove it, or include { phase: TEST }"),
    ('type: "Position" phase: TEST position_param { continues: true }', [SEQUENCE],
     "continues needs max_steps, the length of the longest sequence: as many as the net had in training"),
    ('type: "Rotary" rotary_param { continues: true }', [SEQUENCE],
     "continues is for phase TEST, which generates step by step; in training every batch begins at step 0: "
     "remove it, or include { phase: TEST }"),
    ('type: "Rotary" rotary_param { num_heads: 0 }', [SEQUENCE], "num_heads must be at least 1, got 0"),
    ('type: "Rotary" rotary_param { num_heads: 4 }', [SEQUENCE],
     "12 units are no 4 heads of pairs; give a number of units that 2 * num_heads divides"),
    ('type: "Rotary" rotary_param { base: -1 }', [SEQUENCE], "base must be above 0, got -1"),
    ('type: "Patches"', [IMAGES], "patches_param needs patch_size, at least 1"),
    ('type: "Patches" patches_param { patch_size: 2 }', [SEQUENCE],
     "expected images (records, channels, height, width), got shape (5, 4, 12)"),
    ('type: "Patches" patches_param { patch_size: 4 }', [IMAGES],
     "patch_size 4 does not divide the height and width of the images, 4 x 6"),
    ('type: "Permute"', [SEQUENCE],
     "permute_param needs an order that names each of the bottom's 3 axes once, 0 to 2, got []"),
    ('type: "Permute" permute_param { order: 1 order: 0 order: 1 }', [SEQUENCE],
     "permute_param needs an order that names each of the bottom's 3 axes once, 0 to 2, got [1, 0, 1]"),
    ('type: "SoftmaxWithLoss" bottom: "b" loss_param { label_smoothing: 1 }', [(5, 4), (5,)],
     "loss_param: label_smoothing must lie in [0, 1), got 1"),
    ('type: "SoftmaxWithLoss" bottom: "b" loss_param { class_weight: [1, 2] }', [(5, 4), (5,)],
     "loss_param: expected a class_weight for each of the 4 classes of the scores, got 2"),
    ('type: "SoftmaxWithLoss" bottom: "b" loss_param { class_weight: [1, 2, -1, 0] }', [(5, 4), (5,)],
     "loss_param: class_weight must be numbers from 0 on, not all 0, got 1, 2, -1, 0"),
    ('type: "HingeLoss" bottom: "b" loss_param { class_weight: [1, 2, 1, 1] }', [(5, 4), (5,)],
     "loss_param: class_weight is a setting of SoftmaxWithLoss; HingeLoss has none, remove it"),
    ('type: "EuclideanLoss" bottom: "b" loss_param { label_smoothing: 0.1 }', [(5, 4), (5, 4)],
     "loss_param: label_smoothing is a setting of SoftmaxWithLoss; EuclideanLoss has none, remove it"),
    ('type: "HingeLoss" bottom: "b" loss_param { label_smoothing: 0.1 }', [(5, 4), (5,)],
     "loss_param: label_smoothing is a setting of SoftmaxWithLoss; HingeLoss has none, remove it"),
    ('type: "Perplexity" bottom: "b" loss_param { label_smoothing: 0.1 }', [(5, 4), (5,)],
     "loss_param: label_smoothing is a setting of SoftmaxWithLoss; Perplexity has none, remove it"),
])
def test_mistake(mistake, text, shapes, message):
    assert mistake(f'layer {{ name: "l" bottom: "a" top: "y" {text} }}', *shapes) == message
