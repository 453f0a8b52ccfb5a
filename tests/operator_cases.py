"""What operators, methods and functions of tensors compute: {name: (a function, its arrays)}.

The functions take minidrop's tensors, and most of them PyTorch's as well: `SHARED` has those under the same
names in both, `PAIRS` (ours, PyTorch's, arrays), with F, the namespace of functions, as their first argument.
"""

import operator

import numpy as np


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    """Random numbers no nearer than 0.05 to 0 and 1, where some functions have a kink."""
    x = np.random.default_rng([seed, 17, *shape]).uniform(low, high, shape)
    x = np.where(abs(x) < 0.05, 0.1, x)
    return np.where(abs(abs(x) - 1) < 0.05, 1.1 * np.sign(x), x)


X, Y = numbers(4, 7), numbers(4, 7, seed=1)
POSITIVE = numbers(4, 7, low=0.2, high=3.0)
CUBE = numbers(2, 3, 4)
PLACES = np.array([[3, -1, 3], [0, 2, 2]])
MASK = X > 0.3

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
BROADCASTS = [((4, 7), (4, 7)), ((4, 7), (7,)), ((4, 7), ()), ((4, 1), (7,)), ((2, 1, 3), (4, 1)), ((), ()),
              ((0, 3), (3,)), ((1, 1), (2, 3))]

SHARED = {}
for _sign, _call in ARITHMETIC.items():
    for _a, _b in BROADCASTS:
        SHARED[f"{_a} {_sign} {_b}"] = (_call, numbers(*_a), numbers(*_b, seed=1))
        SHARED[f"{_b} {_sign} {_a}"] = (_call, numbers(*_b), numbers(*_a, seed=1))
    for _number in (2, -0.5, 3.0):
        SHARED[f"x {_sign} {_number}"] = (lambda x, c=_call, n=_number: c(x, n), X)
        SHARED[f"{_number} {_sign} x"] = (lambda x, c=_call, n=_number: c(n, x), X)
        SHARED[f"{_number} {_sign} one number"] = (lambda x, c=_call, n=_number: c(n, x), numbers())
for _number in (0, 1, 2, 3, -1, 0.5, 2.5, -1.5):
    SHARED[f"x ** {_number}"] = (lambda x, n=_number: x ** n, POSITIVE)
SHARED |= {
    "x ** 3 of negative numbers": (lambda x: x ** 3, X),
    "2 ** x": (lambda x: 2 ** x, X),
    "0.3 ** x": (lambda x: 0.3 ** x, X),
    "x ** y": (operator.pow, POSITIVE, numbers(7)),
    "x ** y of one number": (operator.pow, numbers(low=0.5), numbers(3, seed=2)),
    "-x": (operator.neg, X),
    "x // 0.7, x % 0.7": (lambda x: (x.detach() // 0.7 * x, x % 0.7), X),
    "2 // x, 2 % x": (lambda x: (2 // x.detach() * x, 2 % x.detach() * x), X),
    "x // y, x % y": (lambda x, y: (x.detach() // y.detach() * x, x % y.detach() * y), X, numbers(7)),
    "+x": (operator.pos, X),
    "abs(x)": (abs, X),
    "x += y": (lambda x, y: operator.iadd(x * 1, y), X, Y),
    "x -= y": (lambda x, y: operator.isub(x * 1, y), X, numbers(7)),
    "x *= y": (lambda x, y: operator.imul(x * 1, y), X, Y),
    "x /= 3": (lambda x: operator.itruediv(x * 1, 3), X),
    "a formula": (lambda x, y: (x * y - 2) / (1 + x ** 2) - abs(y), X, numbers(4, 1)),
    "x used often": (lambda x: x * x + x - x / (x * x + 1), X),
}
for _name in ("abs", "exp", "sigmoid", "relu", "tanh", "square", "sin", "cos", "expm1", "neg", "sign",
              "floor", "ceil", "round"):
    SHARED[f"x.{_name}()"] = (lambda x, n=_name: getattr(x, n)(), X)
for _name in ("log", "sqrt", "log1p"):
    SHARED[f"x.{_name}()"] = (lambda x, n=_name: getattr(x, n)(), POSITIVE)
for _name in ("sum", "mean", "var", "std", "amax", "amin", "logsumexp", "norm"):
    for _axis in (0, 1, -1, (0, 2), (1, 2), (0, 1, 2))[:5 if _name == "norm" else 6]:
        for _keepdim in (False, True):
            SHARED[f"x.{_name}({_axis}, {_keepdim})"] = (
                lambda x, n=_name, a=_axis, k=_keepdim: getattr(x, n)(dim=a, keepdim=k), CUBE)
for _name in ("sum", "mean", "var", "std", "max", "min", "norm"):
    SHARED[f"x.{_name}()"] = (lambda x, n=_name: getattr(x, n)(), X)
for _axis in (0, 1, -1):
    SHARED[f"x.softmax({_axis})"] = (lambda x, a=_axis: x.softmax(a), CUBE)
    SHARED[f"x.log_softmax({_axis})"] = (lambda x, a=_axis: x.log_softmax(dim=a), CUBE)
    SHARED[f"x.cumsum({_axis})"] = (lambda x, a=_axis: x.cumsum(a), CUBE)
    SHARED[f"x.squeeze({_axis})"] = (lambda x, a=_axis: x.squeeze(a), numbers(1, 1))
    SHARED[f"x.unbind({_axis})"] = (lambda x, a=_axis: tuple(x.unbind(a)), CUBE)
    for _parts in (1, 2, 3):
        SHARED[f"x.chunk({_parts}, {_axis})"] = (lambda x, n=_parts, a=_axis: tuple(x.chunk(n, a)), CUBE)
        SHARED[f"x.split({_parts}, {_axis})"] = (lambda x, n=_parts, a=_axis: tuple(x.split(n, a)), CUBE)
for _axis in (0, 1, 2, 3, -1, -4):
    SHARED[f"x.unsqueeze({_axis})"] = (lambda x, a=_axis: x.unsqueeze(a), CUBE)
for _index in (0, -1, slice(1, 3), slice(None, None, 2), (0, 1), (slice(None), 2), (..., 1), (None, 1), ...,
               (slice(1, None), None, slice(0, 2)), (slice(3, 1),), [0, 2, 0],
               (slice(None), [1, 1, 0]), ([0, 1, 0], [2, 2, 2]), ([0], slice(None)), (1, [6, 6]), ()):
    SHARED[f"x[{_index}]"] = (lambda x, i=_index: x[i], X)
    if _index != (0, 1):
        SHARED[f"cube[{_index}]"] = (lambda x, i=_index: x[i], numbers(4, 7, 3))
SHARED |= {
    "x.reshape": (lambda x: x.reshape(7, 4), X),
    "x.reshape((..))": (lambda x: x.reshape((2, -1, 7)), X),
    "x.view": (lambda x: x.view(-1), X),
    "x.flatten": (lambda x: x.flatten(), CUBE),
    "x.flatten(1)": (lambda x: x.flatten(1), CUBE),
    "x.flatten(0, 1)": (lambda x: x.flatten(0, 1), CUBE),
    "number.flatten": (lambda x: x.flatten(), numbers()),
    "x.permute": (lambda x: x.permute(2, 0, -2), CUBE),
    "x.transpose": (lambda x: x.transpose(0, -1), CUBE),
    "x.T": (lambda x: x.T * 2, X),
    "x.squeeze()": (lambda x: x.squeeze(), numbers(1, 3, 1, 2)),
    "x.split list": (lambda x: tuple(x.split([1, 4, 2], 1)), X),
    "rows of x": (lambda x: sum(row * (i + 1) for i, row in enumerate(x)), X),
    "x.clip": (lambda x: x.clip(-0.5, 0.7), X),
    "x.clamp(min)": (lambda x: x.clamp(min=0.3), X),
    "x.clamp(max)": (lambda x: x.clamp(max=-0.3), X),
    "x.broadcast_to": (lambda x: x.broadcast_to((3, 4, 7)), numbers(4, 1)),
    "x.clone": (lambda x: x.clone() * x, X),
    "x.float of the same": (lambda x: (x.double() * 2).to(x.dtype), X),
    "x.max ties": (lambda x: x.amax(dim=1), np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])),
    "x.logsumexp far": (lambda x: x.logsumexp(dim=1), np.array([[1e4, 1e4, -1e4], [-2e3, -2e3, -2e3]])),
    "x.norm of 0": (lambda x: x.norm(), np.zeros((2, 3))),
    "x.detach": (lambda x: x * x.detach(), X),
}
for _a, _b in [((3,), (3,)), ((4, 3), (3,)), ((3,), (3, 5)), ((4, 3), (3, 5)), ((2, 4, 3), (2, 3, 5)),
               ((2, 4, 3), (3, 5)), ((4, 3), (2, 3, 5)), ((2, 1, 4, 3), (6, 3, 5)), ((2, 4, 3), (3,)),
               ((3,), (2, 3, 5)), ((0, 3), (3, 5)), ((4, 0), (0, 5)), ((1, 4, 3), (2, 3, 5))]:
    SHARED[f"{_a} @ {_b}"] = (operator.matmul, numbers(*_a), numbers(*_b, seed=1))
SHARED |= {
    "x @ y.T": (lambda x, y: x @ y.T, X, Y),
    "x.T @ y": (lambda x, y: x.T @ y, X, Y),
    "x @ transposed stack": (lambda x, y: x @ y.transpose(1, 2), CUBE, numbers(2, 5, 4)),
}


def _targets(x):
    return (x > 0).to(x.dtype) * 0.75


def _weights(x):
    """Weights of 5 classes, without gradient."""
    return x.detach().flatten()[:5].exp()


def _labels(*shape, classes, seed=0, ignored=False):
    found = np.random.default_rng([seed, 5]).integers(0, classes, shape)
    if ignored:
        found.reshape(-1)[0] = -100
    return found


PAIRS = {                   # F: md.functions or torch.nn.functional, T: md.functions or torch
    "maximum": (lambda F, T, x, y: T.maximum(x, y), X, numbers(7)),
    "minimum": (lambda F, T, x, y: T.minimum(x, y), X, numbers(7)),
    "maximum of equals": (lambda F, T, x, y: T.maximum(x, y), np.ones(3), np.array([0.0, 1.0, 2.0])),
    "where": (lambda F, T, x, y: T.where(x > 0.1, x, y * 2), X, numbers(7)),
    "where with a number": (lambda F, T, x: T.where(x > 0.1, x, 0.0), X),
    "where with a number first": (lambda F, T, x: T.where(x > 0.1, 1.5, x), X),
    "masked_fill": (lambda F, T, x: x.masked_fill(x > 0.2, -1.0), X),
    "x[x > 0]": (lambda F, T, x: x[x > 0], X),
    "x[mask of rows]": (lambda F, T, x: x[x[:, 0] > 0], X),
    "x[places]": (lambda F, T, x, i: x[i], X, PLACES),
    "x[:, places]": (lambda F, T, x, i: x[:, i], X, PLACES),
    "x * (x > 0)": (lambda F, T, x: x * (x > 0), X),
    "int * x": (lambda F, T, x, i: i * x, X[:2, :3], PLACES),
    "x / int": (lambda F, T, x, i: x / (i + 5), X[:2, :3], PLACES),
    "cat": (lambda F, T, x, y: T.cat([x, y, x]), X, numbers(2, 7)),
    "cat axis 1": (lambda F, T, x, y: T.cat((x, y), dim=1), X, numbers(4, 2)),
    "stack": (lambda F, T, x, y: T.stack([x, y]), X, Y),
    "stack axis -1": (lambda F, T, x, y: T.stack([x, y], dim=-1), X, Y),
}
for _equation, *_shapes in (("ij,jk->ik", (3, 4), (4, 2)), ("bij,bjk", (2, 3, 4), (2, 4, 5)),
                            ("ij->ji", (3, 4)), ("ij->", (3, 4)), ("ij->j", (3, 4)),
                            ("i,j->ij", (3,), (4,)), ("ij,ij->", (3, 4), (3, 4)),
                            ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij,k->k", (3, 4), (2,)),
                            ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)), ("ba", (3, 4))):
    PAIRS[f"einsum {_equation}"] = (lambda F, T, *xs, e=_equation: T.einsum(e, *xs),
                                    *(numbers(*shape, seed=i) for i, shape in enumerate(_shapes)))
for _reduction in ("mean", "sum", "none"):
    PAIRS |= {
        f"mse_loss {_reduction}": (lambda F, T, x, y, r=_reduction: F.mse_loss(x, y, reduction=r), X, Y),
        f"l1_loss {_reduction}": (lambda F, T, x, y, r=_reduction: F.l1_loss(x, y, reduction=r), X, Y),
        f"huber_loss {_reduction}": (
            lambda F, T, x, y, r=_reduction: F.huber_loss(x, y, reduction=r, delta=0.7), X, Y),
        f"smooth_l1_loss {_reduction}": (
            lambda F, T, x, y, r=_reduction: F.smooth_l1_loss(x, y, reduction=r, beta=0.4), X, Y),
        f"smooth_l1_loss of beta 0 {_reduction}": (
            lambda F, T, x, y, r=_reduction: F.smooth_l1_loss(x, y, reduction=r, beta=0.0), X, Y),
        f"binary_cross_entropy {_reduction}": (
            lambda F, T, x, r=_reduction: F.binary_cross_entropy(x.sigmoid(), _targets(x), reduction=r), X),
        f"binary_cross_entropy, weighted {_reduction}": (
            lambda F, T, x, r=_reduction: F.binary_cross_entropy(
                x.sigmoid(), _targets(x), weight=x.detach().exp(), reduction=r), X),
        f"binary_cross_entropy_with_logits {_reduction}": (
            lambda F, T, x, r=_reduction: F.binary_cross_entropy_with_logits(x, _targets(x), reduction=r),
            X),
        f"binary_cross_entropy_with_logits, weighted {_reduction}": (
            lambda F, T, x, r=_reduction: F.binary_cross_entropy_with_logits(
                x, _targets(x), weight=x.detach().exp(), pos_weight=x[0].detach().exp(), reduction=r), X),
        f"kl_div {_reduction}": (lambda F, T, x, y, r=_reduction: F.kl_div(
            F.log_softmax(x, 1), F.softmax(y, 1), reduction=r), X, Y),
        f"kl_div of logarithms {_reduction}": (lambda F, T, x, y, r=_reduction: F.kl_div(
            F.log_softmax(x, 1), F.log_softmax(y, 1), reduction=r, log_target=True), X, Y),
        f"cross_entropy of probabilities {_reduction}": (lambda F, T, x, y, r=_reduction: F.cross_entropy(
            x, F.softmax(y, 1), reduction=r, label_smoothing=0.1), X, Y),
        f"cross_entropy of probabilities, weighted {_reduction}": (
            lambda F, T, x, y, r=_reduction: F.cross_entropy(x, F.softmax(y, 1), reduction=r,
                                                             weight=x[0].detach().exp()), X, Y),
    }
    for _smoothing in (0.0, 0.2):
        for _weighted in (False, True):
            for _shape, _places in (((6, 5), (6,)), ((3, 5, 2), (3, 2)), ((5,), ())):
                PAIRS[f"cross_entropy {_shape} {_reduction} {_smoothing}{', weighted' * _weighted}"] = (
                    lambda F, T, x, t, r=_reduction, s=_smoothing, use=_weighted: F.cross_entropy(
                        x, t, weight=_weights(x) if use else None, reduction=r, label_smoothing=s),
                    numbers(*_shape), _labels(*_places, classes=5, ignored=len(_places) > 0))
    PAIRS[f"nll_loss {_reduction}"] = (
        lambda F, T, x, t, r=_reduction: F.nll_loss(F.log_softmax(x, 1), t, reduction=r),
        numbers(6, 5), _labels(6, classes=5, ignored=True))
    PAIRS[f"nll_loss, weighted {_reduction}"] = (
        lambda F, T, x, t, r=_reduction: F.nll_loss(x, t, weight=_weights(x), reduction=r, ignore_index=2),
        numbers(3, 5, 2), _labels(3, 2, classes=5))
PAIRS["kl_div batchmean"] = (lambda F, T, x, y: F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1),
                                                         reduction="batchmean"), X, Y)
