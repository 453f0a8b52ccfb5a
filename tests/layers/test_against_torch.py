"""Every layer that computes, through a small Net built from text, against PyTorch."""

import numpy as np
import pytest
from cases import in_turn

torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
F = torch.nn.functional


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def layer(type_and_settings, bottoms="a", tops="y"):
    """The text of a layer: layer('type: "ReLU"')."""
    blobs = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
    return f'layer {{ name: "l" {blobs} {type_and_settings} }}'


X, IMAGES = numbers(3, 4), numbers(2, 3, 4, 5)
ONE_BOTTOM = {
    'type: "ReLU"': torch.relu,
    'type: "ReLU" relu_param { negative_slope: 0.1 engine: CUDNN }': lambda x: F.leaky_relu(x, 0.1),
    'type: "Sigmoid"': torch.sigmoid,
    'type: "TanH"': torch.tanh,
    'type: "Power"': lambda x: x * 1,
    'type: "Power" power_param { power: 2 scale: 0.1 shift: -0.3 }': lambda x: (0.1 * x - 0.3) ** 2,
    'type: "Softmax"': lambda x: F.softmax(x, 1),
    'type: "Softmax" softmax_param { axis: -1 }': lambda x: F.softmax(x, -1),
    'type: "Softmax" softmax_param { axis: 0 engine: CAFFE }': lambda x: F.softmax(x, 0),
    'type: "Flatten"': lambda x: torch.flatten(x, 1),
    'type: "Flatten" flatten_param { axis: 0 }': torch.flatten,
    'type: "Flatten" flatten_param { axis: -2 end_axis: -1 }': lambda x: torch.flatten(x, -2),
    'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }': lambda x: x.reshape(x.shape[0], -1),
    'type: "Reshape" reshape_param { shape { dim: 2 dim: -1 } axis: 1 '
    '}': lambda x: x.reshape(x.shape[0], 2, -1), 'type: "Reshape" reshape_param { shape { dim: 1 } axis: -1 '
    'num_axes: 0 }': lambda x: x[..., None],
}


@pytest.mark.parametrize("x", [X, IMAGES], ids=["matrix", "images"])
@in_turn("settings", ONE_BOTTOM)
def test_one_bottom(agrees_with_torch, layer_function, settings, x):
    agrees_with_torch(layer_function(layer(settings), x), ONE_BOTTOM[settings], x)


@pytest.mark.parametrize("kind", ["Dropout", "ApproxDropout"])
def test_drops_are_the_identity_in_a_test(agrees_with_torch, layer_function, kind):
    agrees_with_torch(layer_function(layer(f'type: "{kind}"'), X, phase="TEST"), lambda x: x * 1, X)


def test_split(agrees_with_torch, layer_function):
    agrees_with_torch(layer_function(layer('type: "Split"', tops="yzw"), X), lambda x: (x * 1, x * 1, x * 1),
                      X)


MANY = {
    'type: "Eltwise"': lambda a, b, c: a + b + c,
    'type: "Eltwise" eltwise_param { operation: SUM coeff: 0.1 coeff: -1 coeff: 2 }': lambda a, b,
    c: 0.1 * a - b + 2 * c, 'type: "Eltwise" eltwise_param { operation: PROD }': lambda a, b, c: a * b * c,
    'type: "Eltwise" eltwise_param { operation: MAX }': lambda a, b, c: torch.maximum(torch.maximum(a, b), c),
    'type: "Concat"': lambda *xs: torch.cat(xs, 1),
    'type: "Concat" concat_param { axis: -2 }': lambda *xs: torch.cat(xs, -2),
    'type: "Concat" concat_param { concat_dim: 0 }': lambda *xs: torch.cat(xs, 0),
}


@in_turn("settings", MANY)
def test_three_bottoms(agrees_with_torch, layer_function, settings):
    arrays = [numbers(2, 3, 4, seed=seed) for seed in range(3)]
    agrees_with_torch(layer_function(layer(settings, "abc"), *arrays), MANY[settings], *arrays)


def test_concat_of_different_lengths(agrees_with_torch, layer_function):
    arrays = numbers(2, 3), numbers(2, 1), numbers(2, 5)
    agrees_with_torch(layer_function(layer('type: "Concat"', "abc"), *arrays), lambda *xs: torch.cat(xs, 1),
                      *arrays)
    agrees_with_torch(layer_function(layer('type: "Concat"'), arrays[0]), lambda x: x * 1, arrays[0])


@in_turn("settings, tops, sizes, axis", [
    ("", "yzw", [2, 2, 2], 1),
    ("slice_param { slice_point: 1 slice_point: 4 }", "yzw", [1, 3, 2], 1),
    ("slice_param { axis: -1 slice_point: 3 }", "yz", [3, 1], 2),
    ("slice_param { slice_dim: 0 }", "yz", [1, 1], 0),
    ("", "y", [6], 1),
])
def test_slice(agrees_with_torch, layer_function, settings, tops, sizes, axis):
    x = numbers(2, 6, 4)
    agrees_with_torch(layer_function(layer(f'type: "Slice" {settings}', tops=tops), x),
                      lambda x: tuple(part * 1 for part in torch.split(x, sizes, axis)), x)


@in_turn("settings, shape, axis", [
    ("", (3, 4), 1), ("", (3, 2, 4), 1), ("axis: 2", (3, 2, 4), 2), ("axis: -1", (2, 3, 4, 5), 3),
    ("axis: 2", (2, 3, 4, 5), 2),
])
@in_turn("transpose", [False, True])
@in_turn("bias", [False, True])
def test_inner_product(make_net, close, settings, shape, axis, transpose, bias):
    """Top and gradients of the bottom, W and b; W in Caffe's layout."""
    from minidrop import Tensor
    from minidrop.autograd import backward
    x = numbers(*shape)
    net = make_net(f'''
        layer {{ name: "in" type: "Input" top: "x"
          input_param {{ shape {{ {" ".join(f"dim: {n}" for n in shape)} }} }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{
          num_output: 6 transpose: {str(transpose).lower()} bias_term: {str(bias).lower()} {settings}
          weight_filler {{ type: "xavier" }} bias_filler {{ type: "uniform" }} }} }}''')
    W = net.params["ip"]["weight"]
    inputs = int(np.prod(shape[axis:]))
    assert W.shape == ((inputs, 6) if transpose else (6, inputs))
    assert list(net.params["ip"]) == (["weight", "bias"] if bias else ["weight"])
    host = net.backend.to_host
    tensor = Tensor(net.backend.asarray(x, net.dtype), requires_grad=True)
    y = net.forward(x=tensor)["y"]
    gy = numbers(*y.shape, seed=5)
    backward([(y, net.backend.asarray(gy, net.dtype))])

    tx, tW = (torch.tensor(np.asarray(host(v), float), requires_grad=True) for v in (tensor.data, W.data))
    tb = torch.tensor(np.asarray(host(net.params["ip"]["bias"].data), float),
                      requires_grad=True) if bias else None
    expected = F.linear(tx.reshape(*shape[:axis], -1), tW.T if transpose else tW, tb)
    expected.backward(torch.tensor(gy))
    close(y.numpy(), expected.detach().numpy())
    close(host(tensor.grad), tx.grad.numpy())
    close(host(W.grad), tW.grad.numpy())
    if bias:
        close(host(net.params["ip"]["bias"].grad), tb.grad.numpy())
    product, = net.layers["ip"].flow([shape])[:1]
    assert (product.rows, product.inputs, product.outputs) == (np.prod(shape[:axis]), inputs, 6)


LABEL = np.array([[1, 0], [2, 2], [0, 1]])


@in_turn("settings, ignore, divisor", [
    ("", None, 6), ("loss_param { normalization: FULL }", None, 6),
    ("loss_param { normalization: BATCH_SIZE }", None, "outer"),
    ("loss_param { normalization: NONE }", None, 1), ("loss_param { ignore_label: 2 }", 2, 4),
    ("loss_param { ignore_label: 2 normalization: FULL }", 2, 6),
    ("loss_param { normalize: false }", None, "outer"), ("loss_param { normalize: true ignore_label: 2 }", 2,
                                         4), ("loss_param { normalize: false normalization: "
                                              "NONE }", None, 1),
])
@in_turn("axis", [1, 2])
def test_softmax_with_loss(agrees_with_torch, layer_function, settings, ignore, divisor, axis):
    """With the second top, the probabilities."""
    x = numbers(3, 3, 2) if axis == 1 else numbers(3, 2, 3)
    # Caffe's outer_num, all axes before `axis`
    divisor = {1: 3, 2: 6}[axis] if divisor == "outer" else divisor

    def reference(x, label):
        scores = torch.movedim(x, axis, 1)
        return F.cross_entropy(scores, label, reduction="sum",
                               ignore_index=-100 if ignore is None else ignore) / divisor, F.softmax(x, axis)
    text = layer(f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }} {settings}', "ab", "yz")
    agrees_with_torch(layer_function(text, x, LABEL), reference, x, LABEL)
    text = layer(f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }} {settings}', "ab")
    agrees_with_torch(layer_function(text, x, LABEL), lambda x, label: reference(x, label)[0], x, LABEL)


def test_euclidean_loss(agrees_with_torch, layer_function):
    a, b = numbers(3, 2, 4), numbers(3, 2, 4, seed=1)
    agrees_with_torch(layer_function(layer('type: "EuclideanLoss"', "ab"), a, b),
                      lambda a, b: ((a - b) ** 2).sum() / 6, a, b)


@in_turn("settings, ignore, divisor", [
    ("", None, 3), ("loss_param { normalization: VALID }", None, 6),
    ("loss_param { ignore_label: 1 normalization: VALID }", 1, 3),
    ("loss_param { normalize: true }", None, 6), ("loss_param { normalization: NONE }", None, 1),
])
def test_sigmoid_cross_entropy_loss(agrees_with_torch, layer_function, settings, ignore, divisor):
    x, target = numbers(3, 2), np.array([[0, 1], [1, 0], [0, 1]])

    def reference(x, target):
        weight = (target != ignore).double() if ignore is not None else None
        loss = F.binary_cross_entropy_with_logits(x, target.double(), weight, reduction="sum") / divisor
        return loss, torch.sigmoid(x)
    text = layer(f'type: "SigmoidCrossEntropyLoss" {settings}', "ab", "yz")
    agrees_with_torch(layer_function(text, x, target), reference, x, target)
