"""Functions of minidrop.functions in a traced forward do what they do with Tensors, by layers if they can."""

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn
from minidrop.backend.window import Window

F = md.functions
X = np.random.default_rng(1).uniform(-2, 2, (3, 4, 5))
Y = np.random.default_rng(2).uniform(-2, 2, (3, 4, 5))

# {what is called: (the function of x and y, the types of the layers that are added)}
CALLS = {
    "relu": (lambda x, y: F.relu(x), ["ReLU"]),
    "relu of a slope": (lambda x, y: F.relu(x, negative_slope=0.25), ["ReLU"]),
    "x.relu()": (lambda x, y: x.relu(), ["ReLU"]),
    "sigmoid": (lambda x, y: F.sigmoid(x), ["Sigmoid"]),
    "tanh": (lambda x, y: F.tanh(x), ["TanH"]),
    "gelu": (lambda x, y: F.gelu(x), ["GELU"]),
    "gelu tanh": (lambda x, y: F.gelu(x, "tanh"), ["GELU"]),
    "elu": (lambda x, y: F.elu(x, 0.5), ["ELU"]),
    "swish": (lambda x, y: F.swish(x, beta=2.0), ["Swish"]),
    "abs": (lambda x, y: F.abs(x), ["AbsVal"]),
    "bnll": (lambda x, y: F.bnll(x), ["BNLL"]),
    "softmax": (lambda x, y: F.softmax(x), ["Softmax"]),
    "softmax by dim": (lambda x, y: F.softmax(x, dim=-1), ["Softmax"]),
    "clamp": (lambda x, y: F.clamp(x, -1, 1.5), ["Clip"]),
    "clip": (lambda x, y: F.clip(x, -1, 1), ["Clip"]),
    "clamp on one side": (lambda x, y: x.clamp(min=0.25), ["Lambda"]),
    "concat": (lambda x, y: F.concat([x, y]), ["Concat"]),
    "cat": (lambda x, y: F.cat((x, y, x), dim=2), ["Concat"]),
    "flatten": (lambda x, y: F.flatten(x), ["Flatten"]),
    "reshape": (lambda x, y: F.reshape(x, (3, -1)), ["Reshape"]),
    "permute": (lambda x, y: F.permute(x, (2, 0, 1)), ["Permute"]),
    "transpose": (lambda x, y: F.transpose(x, -1, 1), ["Permute"]),
    "transpose of all": (lambda x, y: F.transpose(x), ["Permute"]),
    "sum": (lambda x, y: F.sum(x, (0, 2)), ["Permute", "Reduction"]),
    "mean": (lambda x, y: F.mean(x), ["Reduction"]),
    "mean that keeps": (lambda x, y: F.mean(x, 1, keepdims=True),
                        ["Permute", "Reduction", "Reshape"]),
    "mean of places that keeps": (lambda x, y: F.mean(x, (1, -1), True), ["Reduction", "Reshape"]),
    "sum of all that keeps": (lambda x, y: x.sum(keepdim=True), ["Reduction", "Reshape"]),
    "maximum": (lambda x, y: F.maximum(x, y), ["Lambda"]),       # the gradient of ties is another
    "maximum of a list": (lambda x, y: F.maximum([x, y]), ["Eltwise"]),
    "maximum with a number": (lambda x, y: F.maximum(x, 0.25), ["Lambda"]),
    "minimum": (lambda x, y: F.minimum(x, y), ["Lambda"]),
    "add": (lambda x, y: F.add(x, y), ["Eltwise"]),
    "add a number": (lambda x, y: F.add(2, x), ["Power"]),
    "subtract": (lambda x, y: F.subtract(x, y), ["Eltwise"]),
    "multiply": (lambda x, y: F.multiply(x, y), ["Eltwise"]),
    "negative": (lambda x, y: F.negative(x), ["Power"]),
    "pow": (lambda x, y: F.pow(F.abs(x), 3), ["AbsVal", "Power"]),
    "exp": (lambda x, y: F.exp(x), ["Exp"]),
    "exp to a base": (lambda x, y: F.exp(x, 2.0), ["Lambda"]),
    "x.exp()": (lambda x, y: x.exp(), ["Exp"]),
    "x.abs().log()": (lambda x, y: x.abs().log(), ["AbsVal", "Log"]),
    "sqrt": (lambda x, y: x.square().sqrt(), ["Lambda", "Lambda"]),
    "max": (lambda x, y: x.max(axis=1), ["Lambda"]),
    "log_softmax": (lambda x, y: F.log_softmax(x, -1), ["Lambda"]),
    "stack": (lambda x, y: F.stack([x, y], 1), ["Lambda"]),
    "unsqueeze": (lambda x, y: x.unsqueeze(0), ["Reshape"]),
    "unsqueeze behind": (lambda x, y: x.unsqueeze(-1), ["Reshape"]),
    "unsqueeze between": (lambda x, y: F.unsqueeze(x, dim=-3), ["Reshape"]),
    "squeeze": (lambda x, y: x[:, :1].squeeze(1), ["Reshape"]),
    "squeeze of two": (lambda x, y: F.squeeze(x[:, :1, -1:], (-1, 1)), ["Reshape"]),
    "squeeze of any": (lambda x, y: x[:1].squeeze(), ["Lambda"]),
    "where": (lambda x, y: F.where(True, x, y), ["Lambda"]),
    "matmul": (lambda x, y: F.matmul(x, F.transpose(y, 1, 2)), ["Permute", "Lambda"]),
    "einsum": (lambda x, y: F.einsum("nij,nkj->nik", x, y), ["Lambda"]),
    "attention": (lambda x, y: F.attention(x, y, y, causal=False), ["Lambda"]),
    "mse_loss": (lambda x, y: F.mse_loss(x, y), ["Lambda"]),
    "split": (lambda x, y: F.split(x, 2, axis=1)[1], ["Lambda"]),
}


class Of(nn.Module):
    def __init__(self, function):
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


@in_turn("name", list(CALLS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_function_does_what_it_does_with_tensors(name, dtype):
    function, kinds = CALLS[name]
    x, y = X.astype(dtype), Y.astype(dtype)
    module = Of(function).to("cpu", dtype)
    one, other = md.tensor(x, requires_grad=True), md.tensor(x, requires_grad=True)
    got, expected = module(one, md.tensor(y)), function(other, md.tensor(y))
    assert got.shape == expected.shape and got.dtype == expected.dtype
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(got.numpy(), expected.numpy(), **close)
    (got * got).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(one.grad, other.grad, rtol=close["rtol"] * 100, atol=close["atol"] * 100)
    added = [layer.type for layer in module.net_for(x, y).config.message.layer]
    assert [kind for kind in added if kind not in ("Input", "Silence", "Split", "Slice")] == kinds


def test_a_product_applies_a_rectifier_that_is_a_function():
    """And leaves out what a drop behind it drops."""
    class Net(nn.Module):
        def __init__(self):
            self.first, self.drop, self.last = nn.Linear(6, 8), nn.ApproxDropout(0.5), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.drop(F.relu(self.first(x))))

    lines = list(Net().to("cpu").net_for(np.zeros((4, 6), "f")).plan.lines())
    assert "first computes only the units kept by drop" in lines
    assert "first applies relu and the scale of drop" in lines


def test_a_weight_may_be_an_argument():
    class Net(nn.Module):
        def __init__(self):
            self.weight = nn.Weight(2, 5, filler={"type": "constant", "value": 0.5})

        def forward(self, x):
            return F.linear(x, self.weight)

    net = Net().to("cpu")
    x = md.tensor(X.astype("f"))
    y = net(x)
    np.testing.assert_allclose(y.numpy(), np.repeat(X.sum(2)[..., None] * 0.5, 2, 2), rtol=1e-5)
    y.sum().backward()
    [weight] = net.parameters()
    np.testing.assert_allclose(weight.grad, np.repeat(X.sum((0, 1))[None], 2, 0), rtol=1e-5)


SHAPES = ((3, 4, 5), (3, 4), (4,), ())
SAME = [
    lambda x, y: F.concat(x),
    lambda x, y: F.cat(x),
    lambda x, y: x.flatten(),
    lambda x, y: x.flatten(start_dim=1),
    lambda x, y: F.flatten(x, 2, 1),
    lambda x, y: x.transpose(0, 1),
    lambda x, y: x.transpose(1, 2),
    lambda x, y: x.argmax(1),
    lambda x, y: x.argmax(dim=1),
    lambda x, y: x.argmax(),
    lambda x, y: x.clip(min=0.0),
    lambda x, y: F.maximum(x, x),
    lambda x, y: F.softmax(x, axis=0, dim=1),
    lambda x, y: F.mean(x, axis=0, dim=1),
    lambda x, y: F.sum(x, (1, 1)),
    lambda x, y: F.permute(x, [-1, 0]),
    lambda x, y: F.reshape(x, -1),
    lambda x, y: F.divide(x, y),
    lambda x, y: F.divide(x, 1e-20),
    lambda x, y: F.add(x, F.mean(x, 1, keepdims=True)),
    lambda x, y: x / x.norm(axis=1, keepdims=True),
    lambda x, y: x - F.max(x, axis=-1, keepdims=True),
    lambda x, y: x.mean(1, keepdims=True),
    lambda x, y: x.mean(dim=1),
    lambda x, y: x.sum(1, True),
    lambda x, y: x.unsqueeze(4),
    lambda x, y: x.unsqueeze(-5),
    lambda x, y: x.unsqueeze(dim=1),
    lambda x, y: x.unsqueeze(True),
    lambda x, y: x.squeeze(0),
    lambda x, y: x.squeeze((0, 0)),
    lambda x, y: x.squeeze(),
    lambda x, y: x.sum(0, 1),
    lambda x, y: F.maximum(x, np.float32(0.5)),
    lambda x, y: F.transpose(x, np.int64(0), np.int64(1)),
    lambda x, y: F.sum(x, np.int64(1)),
    lambda x, y: F.mean(F.sum(x)),
    lambda x, y: F.sum(x, ()),
    lambda x, y: F.to(x, np.float64).sum(),
    lambda x, y: F.relu([x]),
    lambda x, y: F.sum([x, y]),
    lambda x, y: F.sum(x, 1.5),
    lambda x, y: F.add(x, 10**400),
    lambda x, y: F.add(x, "x"),
    lambda x, y: F.multiply(x, None),
    lambda x, y: x @ x.transpose(0, 1),
    lambda x, y: x.sub(y).mul(2).neg(),
    lambda x, y: x.argmin(0),
    lambda x, y: x.view(-1, 2),
    lambda x, y: F.weighted_sum([x, y], [2, -1]),
    lambda x, y: F.max_pooling(x[None], Window((2, 2), (1, 1))),
    lambda x, y: F.norm(x, axis=1),
    lambda x, y: x.std(),
    lambda x, y: F.clip(x, 2, 1),
    lambda x, y: F.elu(x, alpha="a"),
    lambda x, y: F.softmax(x, 7),
]


@in_turn("shape", SHAPES)
@in_turn("case", list(range(len(SAME))))
def test_what_tensors_give_or_refuse_symbols_do(case, shape):
    x = np.random.default_rng(3).uniform(-2, 2, shape).astype("f")
    outcomes = []
    for function in (Of(SAME[case]).to("cpu"), SAME[case]):
        try:
            outcomes.append(np.asarray(function(md.tensor(x), md.tensor(x * 0.5)).numpy(), "f"))
        except (md.MinidropError, TypeError, IndexError) as error:
            assert str(error)
            outcomes.append(None)
    assert (outcomes[0] is None) == (outcomes[1] is None), outcomes
    if outcomes[0] is not None:
        np.testing.assert_allclose(*outcomes, rtol=1e-5, atol=1e-6)


def test_weights_alone_are_arguments():
    class Net(nn.Module):
        def __init__(self):
            self.a, self.b = (nn.Weight(2, 3, filler={"type": "gaussian", "std": 1}) for _ in range(2))

        def forward(self, x):
            return x @ F.relu(F.transpose(self.a)) + F.stack([self.b, self.a]).sum()

    net = Net().to("cpu")
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    a, b = (one.data for one in net.parameters())
    np.testing.assert_allclose(net(x).numpy(), x @ np.maximum(a.T, 0) + a.sum() + b.sum(), rtol=1e-5)


@in_turn("shape, types", [((3, 1), ["Reshape", "Scale"]), ((1, 4), ["Lambda"]), ((4,), ["Scale"])])
def test_a_weight_that_broadcasts(shape, types):
    class Net(nn.Module):
        def __init__(self):
            self.w = nn.Weight(*shape, filler={"type": "constant", "value": 2.0})

        def forward(self, x):
            return x * self.w

    net, x = Net().to("cpu"), np.arange(12, dtype="f").reshape(3, 4)
    np.testing.assert_array_equal(net(x).numpy(), x * 2)
    found = [layer.type for layer in net.net_for(x).config.message.layer]
    assert found == ["Input", "Parameter", *types]


def test_names_of_modules_stay_when_a_function_of_that_name_is_called():
    class Net(nn.Module):
        def __init__(self):
            self.relu = nn.Linear(3, 3)

        def forward(self, x):
            return self.relu(F.relu(x))

    names = [layer.name for layer in Net().to("cpu").net_for(np.zeros((2, 3), "f")).config.message.layer]
    assert "relu" in names and "relu_2" in names
    assert names.index("relu_2") < names.index("relu")


def test_wrong_arguments_are_said_as_with_tensors():
    for call in (lambda x, y: F.gelu(x, "close"), lambda x, y: F.softmax(x, 7),
                 lambda x, y: F.clamp(x, 2, 1)):
        messages = []
        for function in (Of(call).to("cpu"), call):
            with pytest.raises(md.MinidropError) as caught:
                function(md.tensor(X), md.tensor(Y))
            messages.append(str(caught.value))
        assert all(messages)
    with pytest.raises(TypeError, match="unexpected|too many|missing"):
        Of(lambda x, y: F.relu(x, slope=1)).to("cpu")(X, Y)


def test_a_distance_of_two_calls_can_be_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")

    class Twins(nn.Module):
        def __init__(self):
            self.body = nn.Linear(3, 4)

        def forward(self, a, b):
            return (self.body(a) - self.body(b)).abs().sum(1).exp()

    net, a, b = Twins().to("cpu").eval(), X[0, :, :3].astype("f"), Y[0, :, :3].astype("f")
    md.export_onnx(net.net_for(a, b), tmp_path / "twins.onnx")
    got, = onnxruntime.InferenceSession(tmp_path / "twins.onnx").run(None, {"a": a, "b": b})
    np.testing.assert_allclose(got, net(a, b).numpy(), rtol=1e-5)


@pytest.mark.parametrize("records", [1, 4])
def test_a_gate_of_channels_is_a_scale_through_which_drops_pass(records):
    """x (N, C, H, W) * gate (N, C, 1, 1), as in squeeze-and-excitation nets."""
    class Gated(nn.Module):
        def __init__(self):
            self.conv, self.drop = nn.Conv2d(2, 12, 3), nn.ApproxDropout(0.5)
            self.gate, self.last = nn.Linear(12, 12), nn.Conv2d(12, 3, 1)

        def forward(self, x):
            h = self.drop(self.conv(x).relu())
            gate = self.gate(h.mean((2, 3))).sigmoid().unsqueeze(-1).unsqueeze(-1)
            return self.last(self.joined(gate, h) - h.mean(1, keepdim=True))

        def joined(self, gate, h):
            return gate * h

    class Plain(Gated):
        def joined(self, gate, h):
            return nn.Lambda(lambda one, other: one * other)(gate, h)

    x, grads = np.random.default_rng(3).standard_normal((records, 2, 5, 5)), []
    for kind in (Gated, Plain):
        net = kind().set_seed(2).to("cpu", "float64")
        y = net(x)
        (y * y).sum().backward()
        grads.append([y.numpy(), *(p.grad for p in net.parameters())])
        types = [layer.type for layer in net.net_for(x).config.message.layer]
        assert ("Scale" in types) == (kind is Gated)
        lines = list(net.net_for(x).plan.lines())
        assert "conv computes only the units kept by drop" in lines
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
