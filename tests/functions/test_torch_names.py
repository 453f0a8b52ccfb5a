"""The calls of PyTorch's tensors that are used most: each works under its name, or says what to write."""

import operator

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import Tensor, functions
from minidrop.functions.torch_names import HINTS

X = np.arange(1.0, 13.0).reshape(3, 4)

# What works under the same name, with the same arguments and result.
SAME = {
    "x + y": lambda T, x: x + x,
    "x @ y": lambda T, x: x @ x.T,
    "x[index]": lambda T, x: x[1:, [0, 2]],
    "x[mask]": lambda T, x: x[x > 3],
    "x == y": lambda T, x: (x == 2).float().sum(),
    "item": lambda T, x: x.sum().item(),
    "tolist": lambda T, x: x.tolist(),
    "numpy": lambda T, x: x.detach().cpu().numpy(),
    "shape": lambda T, x: tuple(x.shape),
    "size": lambda T, x: (tuple(x.size()), x.size(0), x.size(-1)),
    "dim": lambda T, x: (x.dim(), x.ndim, x.numel(), len(x)),
    "sum": lambda T, x: x.sum(dim=1, keepdim=True),
    "mean": lambda T, x: x.mean(-1),
    "std": lambda T, x: (x.std(), x.var(0)),
    "max": lambda T, x: (x.max(), x.min(), x.amax(dim=1)),
    "argmax": lambda T, x: (x.argmax(), x.argmax(dim=1), x.argmin(dim=0), x.argmax(dim=1, keepdim=True)),
    "view": lambda T, x: (x.view(4, 3), x.reshape(-1), x.flatten()),
    "permute": lambda T, x: (x.permute(1, 0), x.transpose(0, 1), x.T),
    "unsqueeze": lambda T, x: (x.unsqueeze(0), x.unsqueeze(-1).squeeze(-1)),
    "cat": lambda T, x: (T.cat([x, x], dim=1), T.stack([x, x])),
    "split": lambda T, x: (*x.split(2), *x.chunk(2, dim=1), *x.unbind(0)),
    "exp": lambda T, x: (x.exp(), x.log(), x.sqrt(), x.abs(), x.sin()),
    "relu": lambda T, x: ((x - 5).relu(), x.sigmoid(), x.tanh(), x.softmax(dim=1), x.log_softmax(dim=-1)),
    "clamp": lambda T, x: (x.clamp(min=2), x.clamp(2, 5), T.clamp(x, max=4)),
    "where": lambda T, x: (T.where(x > 3, x, -x), x.masked_fill(x > 3, 0.0)),
    "any": lambda T, x: ((x > 3).any(), (x > 3).all(dim=0), bool((x > 0).all())),
    "pow": lambda T, x: (x.pow(2), x ** 0.5, x.mm(x.T), x.matmul(x.T), x.add(x), x.mul(2)),
    "cumsum": lambda T, x: (x.cumsum(0), x.logsumexp(dim=1), x.norm()),
    "long": lambda T, x: (x.long(), x.int(), x.double(), x.bool(), x.contiguous(), x.clone()),
    "iteration": lambda T, x: [row.sum().item() for row in x],
    "~": lambda T, x: (~(x > 3), (x > 3) & (x < 7), (x > 3) | (x < 2), (x > 3) ^ (x < 7)),
    "requires_grad_": lambda T, x: x.detach().requires_grad_().requires_grad,
    "is_leaf": lambda T, x: (x.is_leaf, (x * 2).is_leaf, x.requires_grad),
    "floor": lambda T, x: ((x / 2).floor(), (x / 2).ceil(), (x / 2).round(), (x - 3).sign()),
}


@in_turn("name", SAME)
def test_what_works_under_the_same_name(name):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    ours = SAME[name](functions, Tensor(X.copy(), True))
    theirs = SAME[name](torch, torch.tensor(X, requires_grad=True))
    compare(ours, theirs)


def compare(ours, theirs):
    if isinstance(theirs, tuple | list) and not all(isinstance(one, int | float) for one in theirs):
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other)
        return
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.detach().numpy().dtype and ours.requires_grad == theirs.requires_grad
        ours, theirs = ours.numpy(), theirs.detach().numpy()
        assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@in_turn("name", sorted(HINTS))
def test_what_has_another_name_says_so(name):
    with pytest.raises(AttributeError) as caught:
        getattr(Tensor(X), name)
    assert str(caught.value) == f"Tensor has no attribute {name!r}; use {HINTS[name]}"


def test_hints_are_right():
    x = Tensor(X)
    assert x.broadcast_to((2, 3, 4)).shape == (2, 3, 4) and functions.tile(x, 2, 1).shape == (3, 8)
    assert x[np.repeat(range(len(x)), 2)].shape == (6, 4)
    assert (x[:, None] * x).shape == (3, 3, 4) and x.transpose(-1, -2).shape == (4, 3)
    assert not (x != x).any() and x.creator is None and x.device == "cpu"


def test_other_names():
    with pytest.raises(AttributeError, match=r"^Parameter has no attribute 'summ'; did you mean 'sum'"):
        operator.attrgetter("summ")(md.Parameter(X))
    for name in ("__array_interface__", "_private", "xyzzy"):
        with pytest.raises(AttributeError, match=f"^Tensor has no attribute '{name}'$"):
            getattr(Tensor(X), name)
        assert not hasattr(Tensor(X), name)


def test_a_training_step_as_it_is_written_in_pytorch():
    """Linear regression with operators alone finds the weights."""
    rng = np.random.default_rng(0)
    inputs, true = rng.standard_normal((64, 3)), np.array([1.0, -2.0, 0.5])
    w, b = md.tensor(np.zeros(3), requires_grad=True), md.tensor(0.0, dtype="float64", requires_grad=True)
    for _ in range(200):
        loss = ((Tensor(inputs) @ w + b - (inputs @ true + 0.3)) ** 2).mean()
        loss.backward()
        for p in (w, b):
            p.data -= 0.1 * p.grad
            p.zero_grad()
    assert loss.item() < 1e-8 and np.allclose(w.numpy(), true, atol=1e-3)


def test_logsumexp_of_nothing_finite():
    """Of nothing but -inf it is -inf with a gradient of NaN, without a warning, as PyTorch's."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    values = np.array([[-np.inf, -np.inf], [0.0, -np.inf], [np.inf, 1.0]])
    ours, theirs = Tensor(values, True), torch.tensor(values, requires_grad=True)
    found, expected = functions.logsumexp(ours, 1), torch.logsumexp(theirs, 1)
    found.backward(np.ones(3))
    expected.backward(torch.ones(3))
    np.testing.assert_array_equal(found.numpy(), expected.detach().numpy())
    np.testing.assert_array_equal(ours.grad, theirs.grad.numpy())
