"""Every update rule against steps worked out by hand and, where the formulas coincide, against PyTorch."""

import numpy as np
import pytest
from cases import every_pair, in_turn

from minidrop.autograd import Block, Blocks, Parameter
from minidrop.backend import get_backend
from minidrop.backend.generic import Backend as Generic
from minidrop.config.minidrop_pb2 import SolverParameter
from minidrop.errors import ConfigError
from minidrop.kept import Kept
from minidrop.solver.rules import check_rule, get_rule, known_rules
from minidrop.solver.rules.base import UpdateRule

RULES = ["AdaDelta", "AdaGrad", "Adam", "AdamW", "Nesterov", "RMSProp", "SGD"]
REGULARISED = [name for name in RULES if name != "AdamW"]     # those whose gradient has the decay in it


Backend = get_backend("cpu")


def parameter(w, g):
    made = Parameter(np.array(w))
    made.grad = np.array(g, made.dtype)
    return made


def run(name, gradients, lr=0.1, w=(1.0, -2.0), dtype="f8", options=None, **update):
    """Return w after each step with the given gradients, and the history after the last."""
    decay = update.get("decay", 0.0)
    rule = get_rule(SolverParameter(type=name, **(options or {})))
    p = parameter(np.array(w, dtype), np.zeros(len(w)))
    history, steps = [np.zeros_like(p.data) for _ in range(rule.slots)], []
    for t, g in enumerate(gradients):
        p = parameter(p.data, g)
        rule.update(Backend, p, history, rule.numbers(lr[t] if isinstance(lr, list) else lr, decay, t),
                    **update)
        steps.append(p.data.copy())
    return steps, history


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=0)


def test_sgd_keeps_the_rate_inside_the_history():
    steps, (h,) = run("SGD", [[1, 2], [3, -1]], lr=[0.1, 0.01], options={"momentum": 0.5})
    close(steps[0], [1 - 0.1, -2 - 0.2])
    close(h, [0.05 + 0.03, 0.1 - 0.01])  # half of the old step, with the old rate
    close(steps[1], [0.9 - 0.08, -2.2 - 0.09])


def test_nesterov():
    steps, (h,) = run("Nesterov", [[1, 2], [3, -1]], lr=[0.1, 0.01], options={"momentum": 0.5})
    close(steps[0], [1 - 1.5 * 0.1, -2 - 1.5 * 0.2])
    close(h, [0.08, 0.09])
    close(steps[1], [0.85 - (1.5 * 0.08 - 0.5 * 0.1), -2.3 - (1.5 * 0.09 - 0.5 * 0.2)])


def test_adagrad():
    steps, (h,) = run("AdaGrad", [[3, 1], [4, 0]], options={"delta": 1})
    close(steps[0], [1 - 0.1 * 3 / (3 + 1), -2 - 0.1 * 1 / (1 + 1)])
    close(h, [25, 1])
    close(steps[1], [0.925 - 0.1 * 4 / (5 + 1), -2.05])


def test_rmsprop():
    steps, (h,) = run("RMSProp", [[4, 2], [2, 1]], options={"rms_decay": 0.75, "delta": 1})
    close(steps[0], [1 - 0.1 * 4 / (2 + 1), -2 - 0.1 * 2 / (1 + 1)])  # h = 4, 1
    close(h, [0.75 * 4 + 0.25 * 4, 0.75 * 1 + 0.25 * 1])
    close(steps[1], [steps[0][0] - 0.1 * 2 / (2 + 1), steps[0][1] - 0.1 * 1 / (1 + 1)])


def test_adadelta():
    steps, (h, d) = run("AdaDelta", [[2, 0], [2, 0]], lr=0.5, options={"momentum": 0.75, "delta": 1})
    # h = 0.25 * 4 = 1; u = 2 * sqrt((0 + 1) / (1 + 1)) = sqrt(2); d = 0.25 * 2 = 0.5
    close(steps[0], [1 - 0.5 * 2**0.5, -2])
    # h = 0.75 + 1 = 1.75; u = 2 * sqrt(1.5 / 2.75); d = 0.375 + 0.25 * 4 * 1.5 / 2.75
    close(steps[1], [steps[0][0] - 0.5 * 2 * (1.5 / 2.75) ** 0.5, -2])
    close(h, [1.75, 0])
    close(d, [0.375 + 1.5 / 2.75, 0])


def test_adam():
    steps, (m, v) = run("Adam", [[2, -1], [0, 3]], options={"momentum": 0.5, "momentum2": 0.75, "delta": 0.5})
    # t = 1: m = 1, -0.5; v = 1, 0.25; correction sqrt(0.25) / 0.5 = 1
    close(steps[0], [1 - 0.1 * 1 / 1.5, -2 + 0.1 * 0.5 / 1.0])
    # t = 2: m = 0.5, 1.25; v = 0.75, 2.4375; correction sqrt(1 - 0.5625) / 0.75
    close(m, [0.5, 1.25])
    close(v, [0.75, 2.4375])
    rate = 0.1 * 0.4375**0.5 / 0.75
    close(steps[1] - steps[0], [-rate * 0.5 / (0.75**0.5 + 0.5), -rate * 1.25 / (2.4375**0.5 + 0.5)])


@in_turn("name", REGULARISED)
@in_turn("l1", [False, True])
def test_decay_and_scale_make_the_gradient(name, l1):
    """g = scale * gradient + decay * w, or + decay * sign(w); from there on nothing differs."""
    w, gradient = np.array([1.0, -2.0, 0.0]), np.array([0.5, 3.0, -4.0])
    g = 0.25 * gradient + 0.1 * (np.array([1.0, -1.0, 0.0]) if l1 else w)
    (expected,), _ = run(name, [g], w=w)
    (actual,), _ = run(name, [gradient], w=w, decay=0.1, l1=l1, grad_scale=0.25)
    close(actual, expected)


@in_turn("name", RULES)
@in_turn("dtype", ["f4", "f8"])
def test_updates_in_place_and_leaves_the_gradient(name, dtype):
    rule = get_rule(SolverParameter(type=name))
    w, g = np.linspace(-1, 1, 12).reshape(3, 4).astype(dtype), np.ones((3, 4), dtype)
    p = Parameter(w)
    p.grad = g
    history = [np.zeros_like(w) for _ in range(rule.slots)]
    kept = list(history)
    rule.update(Backend, p, history, rule.numbers(0.1, 0.01, 0), decay=0.01, grad_scale=0.5)
    assert p.data is w and all(a is b for a, b in zip(history, kept, strict=True))
    assert w.dtype == dtype and not np.array_equal(w, np.linspace(-1, 1, 12).reshape(3, 4).astype(dtype))
    assert all(h.dtype == dtype and h.any() for h in history)
    assert (g == 1).all()


@pytest.mark.parametrize("name", RULES)
def test_one_rule_serves_parameters_of_many_shapes(name):
    """The shared buffers do not leak from one parameter into another."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (7,), (5, 5), (), (1, 2, 3), (0, 4)]
    together, alone = get_rule(SolverParameter(type=name)), []
    for shape in shapes:
        w, g = rng.normal(size=shape), rng.normal(size=shape)
        results = []
        for rule in (together, get_rule(SolverParameter(type=name))):
            p = parameter(w, g)
            history = [np.zeros_like(p.data) for _ in range(rule.slots)]
            rule.update(Backend, p, history, rule.numbers(0.1, 0.1, 0), decay=0.1)
            results.append(p.data)
        alone.append(np.array_equal(*results) and (not w.size or not np.array_equal(results[0], w)))
    assert all(alone)


IN_PYTORCH = {  # name: (class, its options, ours)
    "SGD": ("SGD", {"momentum": 0.9}, {"momentum": 0.9}),
    "Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9}),
    "AdaGrad": ("Adagrad", {"eps": 1e-8}, {"delta": 1e-8}),
    "RMSProp": ("RMSprop", {"alpha": 0.95, "eps": 1e-8}, {"rms_decay": 0.95, "delta": 1e-8}),
    "AdaDelta": ("Adadelta", {"rho": 0.95, "eps": 1e-6}, {"momentum": 0.95, "delta": 1e-6}),
    # PyTorch adds epsilon after the correction, Caffe before: they agree where it is 0.
    "Adam": ("Adam", {"betas": (0.9, 0.999), "eps": 0}, {"momentum": 0.9, "momentum2": 0.999, "delta": 0}),
    "AdamW": ("AdamW", {"betas": (0.9, 0.95), "eps": 1e-3}, {"momentum": 0.9, "momentum2": 0.95,
                                                             "delta": 1e-3}),
}


@pytest.mark.parametrize("name", RULES)
def test_twenty_steps_equal_pytorchs(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(1)
    w, gradients = rng.normal(size=6), rng.normal(size=(20, 6))
    p = torch.tensor(w, requires_grad=True)
    kind, options, ours = IN_PYTORCH[name]
    optimizer = getattr(torch.optim, kind)([p], lr=0.1, weight_decay=0.01, **options)
    steps, _ = run(name, gradients, w=w, decay=0.01, options=ours)
    for g, actual in zip(gradients, steps, strict=True):
        p.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(actual, p.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_registry():
    assert known_rules() == RULES
    assert {name: get_rule(SolverParameter(type=name)).slots for name in RULES} == {
        "SGD": 1, "Nesterov": 1, "AdaGrad": 1, "RMSProp": 1, "AdaDelta": 2, "Adam": 2,
        "AdamW": 2}
    assert get_rule(SolverParameter()).name == "SGD"
    assert get_rule(SolverParameter(type="Adam", momentum=0.9)).momentum == 0.9
    with pytest.raises(NotImplementedError):
        UpdateRule(SolverParameter()).numbers(1.0, 0.0, 0)


@in_turn("options, field, message", [
    ({"type": "Adagrad"}, "type", "type: expected one of AdaDelta, AdaGrad, Adam, AdamW, Nesterov, RMSProp, "
                                  "SGD; got 'Adagrad'; did you mean 'AdaGrad'"),
    ({"type": "LBFGS"}, "type", "got 'LBFGS'"),
    ({"momentum": 1.0}, "momentum", "momentum: SGD needs a number >= 0 and < 1, got 1"),
    ({"momentum": -0.1}, "momentum", "got -0.1"),
    ({"type": "Adam", "momentum2": 1.5}, "momentum2", "momentum2: Adam needs a number >= 0 and < 1, got 1.5"),
    ({"type": "AdaGrad", "momentum": 0.9}, "momentum", "momentum: AdaGrad has none; remove it (got 0.9)"),
    ({"type": "RMSProp", "rms_decay": 1.0}, "rms_decay", "RMSProp needs a number >= 0 and < 1, got 1"),
    ({"type": "RMSProp", "delta": -1.0}, "delta", "RMSProp needs a number >= 0, got -1"),
    ({"type": "AdaDelta", "momentum": float("nan")}, "momentum", "got nan"),
    ({"type": "AdamW", "momentum2": 1.0}, "momentum2", "AdamW needs a number >= 0 and < 1, got 1"),
    ({"type": "AdamW", "regularization_type": "L1"}, "regularization_type",
     'AdamW decays the weights themselves, which is L2; expected "L2", got "L1"'),
])
def test_mistakes(options, field, message):
    param = SolverParameter(**options)
    (where, problem), = check_rule(param)
    assert where == field and message in problem
    with pytest.raises(ConfigError) as caught:
        get_rule(param)
    assert message in str(caught.value)


LAYOUTS = {
    "dense": [(None, None)], "rows": [(Kept(1, 3, 1, 12), None)], "columns": [(None, Kept(0, 2, 1, 10))],
    "both": [(Kept(-1, 4, 2, 12), Kept.of([1, 5, 6], 10))], "apart": [(Kept(0, 2, 1, 12), Kept(0, 2, 1, 10)),
                                                                    (Kept(1, 2, 1, 12), Kept(1, 2, 1, 10))],
    "sharing rows": [(Kept(0, 2, 1, 12), None), (Kept(0, 3, 1, 12), Kept(0, 2, 1, 10))],
}


@every_pair(("name", list(RULES)), ("dtype", ["f4", "f8"]), ("layout", list(LAYOUTS)))
def test_compact_gradients_equal_dense_ones(name, dtype, layout):
    """One pass over memory with blocks, and the formula on whole arrays: the same bits, for matrices and for
    four axes."""
    rng = np.random.default_rng(3)
    rule = get_rule(SolverParameter(type=name, **({"momentum": 0.9} if name not in ("AdaGrad", "RMSProp")
                                                  else {})))
    for shape in ((12, 10), (12, 5, 2, 1)):
        for decay, l1 in ((0.0, False), (0.01, False), (0.01, True)):
            w = rng.standard_normal(shape).astype(dtype)
            compact, dense = Parameter(w.copy()), Parameter(w.copy())
            histories = [[np.zeros_like(w) for _ in range(rule.slots)] for _ in range(2)]
            for iteration in range(3):
                blocks = [Block(rng.standard_normal((12 if rows is None else rows.count, 10 if cols is None
                                                     else cols.count))
                                .astype(dtype), rows, cols) for rows, cols in LAYOUTS[layout]]
                compact.clear_grad()
                compact.accumulate(Blocks(blocks, dtype))
                dense.grad = compact.dense_grad().copy()
                numbers = rule.numbers(0.1, decay, iteration)
                rule.update(Backend, compact, histories[0], numbers, decay, l1, 0.5)
                if name == "SGD":
                    rule.update(Backend, dense, histories[1], numbers, decay, l1, 0.5)
                else:
                    Generic().rule_update(dense.data, histories[1], dense.blocks, rule, numbers,
                                          decay * rule.regularises, l1, 0.5)
                for got, expected in zip((compact.data, *histories[0]), (dense.data, *histories[1]),
                                         strict=True):
                    np.testing.assert_array_equal(got, expected)


def test_adamw_decays_the_weights_and_not_the_gradient():
    steps, (m, v) = run("AdamW", [[2, -1], [0, 3]], decay=0.5, options={"momentum": 0.5, "momentum2": 0.75,
                                                                       "delta": 0.5})
    # t = 1: m' = 2, -1; v' = 4, 1; the weights shrink by 0.1 * 0.5
    close(steps[0], [0.95 - 0.1 * 2 / 2.5, -1.9 + 0.1 * 1 / 1.5])
    close(m, [0.5, 1.25])
    close(v, [0.75, 2.4375])
    # t = 2: m' = m / 0.75, v' = v / 0.4375
    close(steps[1], [0.95 * steps[0][0] - 0.1 * (0.5 / 0.75) / ((0.75 / 0.4375) ** 0.5 + 0.5),
                     0.95 * steps[0][1] - 0.1 * (1.25 / 0.75) / ((2.4375 / 0.4375) ** 0.5 + 0.5)])


def test_a_rule_cannot_be_registered_twice():
    from minidrop.solver.rules import register_rule
    with pytest.raises(ValueError, match="update rule 'Adam' is registered twice"):
        register_rule("Adam")(UpdateRule)
