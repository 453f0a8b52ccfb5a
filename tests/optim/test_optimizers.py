"""Optimizers against torch.optim, with gradients in blocks; groups, states, clipping, and what is refused."""

import copy
import math

import nets
import numpy as np
import pytest
from cases import in_turn

from minidrop import nn, optim
from minidrop.autograd import Block, Parameter, Tensor
from minidrop.errors import ConfigError, NonFiniteError, SnapshotError
from minidrop.kept import Kept

LAYERS = (nets.IMAGES, nets.ip("ip1", "data", 24), nets.drop("drop1", "ip1", "PERIODIC groups: 3"),
          nets.ip("ip2", "drop1", 7), nets.LOSS % "ip2")
RATES = [0.05 * 0.9 ** i for i in range(20)]
SAME = {"weight_decay": 0.01}
PYTORCH = {
    "SGD": ("SGD", {"lr": 0.05}, {"lr": 0.05}),
    "SGD, momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, **SAME}, {"lr": 0.05, "momentum": 0.9, **SAME}),
    "SGD, nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, **SAME},
                      {"lr": 0.05, "momentum": 0.9, "nesterov": True, **SAME}),
    "SGD, form": ("SGD", {"lr": 0.05, "momentum": 0.9, "form": "pytorch", **SAME},
                  {"lr": 0.05, "momentum": 0.9, **SAME}),
    "Nesterov, form": ("Nesterov", {"lr": 0.05, "momentum": 0.8125, "form": "pytorch", **SAME},
                       {"lr": 0.05, "momentum": 0.8125, "nesterov": True, **SAME}),
    "Adam, form": ("Adam", {"lr": 0.01, "betas": (0.87654321, 0.9871234567), "eps": 1e-3, "form": "pytorch",
                            **SAME},
                   {"lr": 0.01, "betas": (0.87654321, 0.9871234567), "eps": 1e-3, **SAME}),
    "AdamW": ("AdamW", {"lr": 0.01, "eps": 1e-3, **SAME}, {"lr": 0.01, "eps": 1e-3, **SAME}),
    "RMSProp": ("RMSProp", {"lr": 0.001, "eps": 1e-3, **SAME}, {"lr": 0.001, "eps": 1e-3, **SAME}),
    "AdaGrad": ("AdaGrad", {**SAME}, {**SAME}),
    "AdaDelta": ("AdaDelta", {**SAME}, {**SAME}),
}
THEIRS = {"Nesterov": "SGD", "RMSProp": "RMSprop", "AdaGrad": "Adagrad", "AdaDelta": "Adadelta"}
EXACT_WITH_ANY_RATE = [key for key in PYTORCH if key not in ("SGD, momentum", "SGD, nesterov")]


def net(dtype="float64"):
    made = nets.net_of(*LAYERS, dtype=dtype, seed=3)
    made.set_inputs(**nets.images())
    return made


def backward(made, i):
    made.draw_patterns(i)
    made.forward()
    made.backward()


def weights(made):
    return {name: p.numpy().copy() for name, p in made.parameters().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name]), name


def theirs_of(torch, kind, params, settings):
    return getattr(torch.optim, THEIRS.get(kind, kind))(params, **settings)


@pytest.mark.parametrize("changing", [False, True])
@in_turn("key", PYTORCH)
def test_steps_are_pytorchs(key, changing):
    """The gradients are this net's, in blocks; PyTorch gets them dense."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind, ours, settings = PYTORCH[key]
    made, blocks = net(), 0
    optimizer = getattr(optim, kind)(made.parameters(), **ours)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in weights(made).items()}
    other = theirs_of(torch, kind, list(theirs.values()), settings)
    for i, rate in enumerate(RATES):
        if changing:
            optimizer.lr = other.param_groups[0]["lr"] = rate
        backward(made, i)
        for name, p in made.parameters().items():
            theirs[name].grad = torch.tensor(p.dense_grad())
            blocks = max(blocks, len(p.blocks))
        optimizer.step()
        other.step()
    assert blocks > 1
    differs = max(np.abs(value - theirs[name].detach().numpy()).max()
                  for name, value in weights(made).items())
    if changing and key not in EXACT_WITH_ANY_RATE:
        assert differs > 1e-4           # Caffe's form: the rate is part of the history
    else:
        assert differs < 1e-12


def test_caffes_adam_differs_from_pytorchs_in_eps_alone():
    steps = {}
    for form in ("caffe", "pytorch"):
        for eps in (1e-3, 0.0):
            made = net()
            optimizer = optim.Adam(made.parameters(), eps=eps, form=form)
            backward(made, 0)
            optimizer.step()
            steps[form, eps] = weights(made)["ip1/weight"]
    assert np.abs(steps["caffe", 1e-3] - steps["pytorch", 1e-3]).max() > 1e-5
    np.testing.assert_array_equal(steps["caffe", 0.0], steps["pytorch", 0.0])


@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_is_the_solvers_update(clip):
    """The same gradients, by a Solver and by an optimizer: the same bits, unless they are scaled before."""
    import minidrop as md
    from minidrop.config import parse_solver
    text = "\n".join(LAYERS)
    made = md.Solver(parse_solver(
        f"base_lr: 0.1 lr_policy: 'fixed' type: 'Adam' momentum: 0.9 momentum2: 0.99 delta: 1e-8 max_iter: 9 "
        f"weight_decay: 0.01 {f'clip_gradients: {clip}' if clip else ''} random_seed: 3 "
        f"net_param {{ {text} }}"), device="cpu")
    own = net("float32")
    optimizer = optim.Adam(own.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    made.net.set_inputs(**nets.images())
    made.step(5)
    norms = []
    for i in range(5):
        backward(own, i)
        norms.append(optim.clip_grad_norm(optimizer.parameters, clip or math.inf))
        optimizer.step()
    assert max(norms) > 0.5
    if clip is None:
        assert_equal(weights(own), weights(made.net))
    for name, value in weights(made.net).items():
        np.testing.assert_allclose(weights(own)[name], value, rtol=1e-5, atol=1e-6)


def test_groups_have_settings_of_their_own():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    made = net()
    params = made.parameters()
    matrices = [(name, p) for name, p in params.items() if p.ndim == 2]
    biases = [(name, p) for name, p in params.items() if p.ndim == 1]
    optimizer = optim.AdamW([{"params": matrices, "weight_decay": 0.3, "lr": 0.02}, {"params": biases}],
                            lr=0.01, weight_decay=0.0, eps=1e-3)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in weights(made).items()}
    other = torch.optim.AdamW([
        {"params": [theirs[name] for name, _ in matrices], "weight_decay": 0.3, "lr": 0.02},
        {"params": [theirs[name] for name, _ in biases]}], lr=0.01, weight_decay=0.0, eps=1e-3)
    for i in range(6):
        if i == 3:
            optimizer.param_groups[1].lr = other.param_groups[1]["lr"] = 0.5
            optimizer.param_groups[0].weight_decay = other.param_groups[0]["weight_decay"] = 0.0
        backward(made, i)
        for name, p in params.items():
            theirs[name].grad = torch.tensor(p.dense_grad())
        optimizer.step()
        other.step()
    for name, value in weights(made).items():
        np.testing.assert_allclose(value, theirs[name].detach().numpy(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ConfigError, match="the groups have 2 learning rates; read param_groups"):
        _read = optimizer.lr
    optimizer.lr = 0.25
    assert optimizer.lr == 0.25
    assert repr(optimizer).splitlines()[1] == (
        "  0: 2 parameters (ip1/weight, ip2/weight), lr=0.25, betas=(0.9, 0.999), eps=0.001, "
        "weight_decay=0.0, 6 steps")


def test_a_group_that_is_added_later_counts_its_own_steps(backend):
    one, two = (Parameter(backend.asarray(np.ones(3)), backend) for _ in range(2))
    optimizer = optim.Adam([("one", one)], lr=0.1, eps=0.0)
    one.grad = backend.asarray(np.ones(3))
    optimizer.step()
    optimizer.add_param_group({"params": [("two", two)], "lr": 0.5})
    for p in (one, two):
        p.grad = backend.asarray(np.ones(3))
    optimizer.step()
    np.testing.assert_allclose(one.numpy(), 0.8, rtol=1e-9)
    np.testing.assert_allclose(two.numpy(), 0.5, rtol=1e-9)     # Adam's first step is lr, with eps = 0


def test_numbers_of_a_rule_can_be_changed():
    p = Parameter(np.zeros(2), name="p")
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
    group, = optimizer.param_groups
    group.lr = 0.25
    for _ in range(2):
        p.grad = np.ones(2)
        optimizer.step()
        group.change(momentum=0.0)
    assert p.data.tolist() == [-0.5, -0.5] and group.lr == 0.25 and "momentum=0.0" in repr(optimizer)
    for settings, message in (({"form": "pytorch"}, "makes another rule"),
                              ({"momentum": 1.5}, "< 1, got 1.5"),
                              ({"l1": True}, "makes another rule"), ({"beta": 1}, "no setting 'beta'")):
        with pytest.raises(ConfigError, match=message):
            group.change(**settings)
    assert group.options["momentum"] == 0.0 and group.options["form"] == "caffe"


def test_multipliers_of_a_parameter_count():
    from minidrop.backend import get_backend
    backend = get_backend("cpu")
    plain, twice = Parameter(np.ones(3), backend, "a"), Parameter(np.ones(3), backend, "b", 2.0, 0.0)
    frozen = Parameter(np.ones(3), backend, "c", lr_mult=0.0)
    optimizer = optim.SGD([plain, twice, frozen], lr=0.1, weight_decay=0.5)
    assert list(optimizer.parameters) == ["a", "b"]
    for p in (plain, twice):
        p.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_allclose([plain.data[0], twice.data[0], frozen.data[0]], [1 - 0.15, 1 - 0.2, 1])
    assert plain.grad is None


@pytest.mark.parametrize("kind, settings", [("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {"lr": 0.01}),
                                            ("AdaDelta", {}), ("Nesterov", {"lr": 0.1, "form": "pytorch"})])
def test_a_loaded_state_goes_on_bit_for_bit(kind, settings, tmp_path):
    first, second = net("float32"), net("float32")
    one, two = (getattr(optim, kind)(made.parameters(), **settings) for made in (first, second))
    schedule = optim.schedulers.cosine(one, 9, warmup_iter=2)
    for i in range(4):
        backward(first, i)
        one.step()
        schedule.step()
    np.savez(tmp_path / "state.npz", **one.state_dict())
    other_schedule = optim.schedulers.cosine(two, 9, warmup_iter=2)
    other_schedule.load_state_dict(schedule.state_dict())
    two.load_state_dict(np.load(tmp_path / "state.npz"))
    assert two.lr == one.lr and repr(two) == repr(one)
    for p, q in zip(first.parameters().values(), second.parameters().values(), strict=True):
        q.data[...] = p.data
    for i in range(4, 8):
        for made, optimizer, scheduler in ((first, one, schedule), (second, two, other_schedule)):
            backward(made, i)
            optimizer.step()
            scheduler.step()
    assert_equal(weights(first), weights(second))
    assert_equal(one.state_dict(), two.state_dict())


def test_another_state_is_refused_unchanged():
    made = net()
    optimizer = optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    backward(made, 0)
    optimizer.step()
    before = optimizer.state_dict()
    for change, message in (
            (lambda s: s.pop("history/ip1/weight/0"), "SGD: has no 'history/ip1/weight/0'"),
            (lambda s: s.update({"history/ip1/bias/0": np.zeros(3)}), r"expected float64 of shape \(24,\)"),
            (lambda s: s.update({"groups/0/SGD/lr": np.array([-0.1])}), "expected a number >= 0, got -0.1"),
            (lambda s: s.update({"groups/0/SGD/lr": np.array([math.inf])}), "is not finite"),
            (lambda s: s.update({"groups/0/SGD/iteration": np.array([1.5])}), "expected int64")):
        state = optimizer.state_dict()
        change(state)
        with pytest.raises(SnapshotError, match=message):
            optimizer.load_state_dict(state)
    for other in (optim.Adam(made.parameters()), optim.SGD(made.parameters(), 0.1, form="pytorch")):
        with pytest.raises(SnapshotError, match="has no 'groups/0/"):
            optimizer.load_state_dict(other.state_dict())
    assert_equal(optimizer.state_dict(), before)


def test_a_copy_goes_on_by_itself():
    """With the module copied beside it: its parameters are those of the copied module."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to("cpu")
    optimizer = optim.Adam(module.named_parameters(), lr=0.1)
    scheduler = optim.schedulers.onecycle(optimizer, 0.5, 20, momenta=(0.8, 0.9))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("f")

    def train(module, optimizer, scheduler):
        for _ in range(3):
            module(x).sum().backward()
            optimizer.step()
            scheduler.step()
        return module.state_dict() | optimizer.state_dict() | scheduler.state_dict()

    train(module, optimizer, scheduler)
    other = copy.deepcopy((module, optimizer, scheduler))
    assert other[2].groups[0] is other[1].param_groups[0]
    before = module.state_dict()
    after = train(*other)
    assert_equal(module.state_dict(), before)
    assert_equal(train(module, optimizer, scheduler), after)


def test_restored_takes_steps_back_exactly():
    made = net("float32")
    optimizer = optim.Adam(made.parameters(), lr=0.1)
    backward(made, 0)
    optimizer.step()
    before, state = weights(made), optimizer.state_dict()
    with optimizer.restored():
        optimizer.lr = 5.0
        for i in range(3):
            backward(made, i)
            optimizer.step()
        assert not np.array_equal(weights(made)["ip1/weight"], before["ip1/weight"])
    assert_equal(weights(made), before)
    assert_equal(optimizer.state_dict(), state)


# -- clipping and gradients that are not finite --------------------------------------------------------------
def test_clipping_keeps_blocks_and_gives_the_norm(backend, dtype):
    rng = np.random.default_rng(1)
    p = Parameter(backend.asarray(np.zeros((6, 5), dtype)), backend, "p")
    q = Parameter(backend.asarray(np.zeros(4, dtype)), backend, "q")
    # Two blocks that overlap in row 2.
    for rows in (Kept(0, 2, 1, 6), Kept(2, 3, 1, 6)):
        p.accumulate(Block(backend.asarray(rng.standard_normal((rows.count, 5)).astype(dtype)), rows))
    q.grad = backend.asarray(rng.standard_normal(4).astype(dtype))
    dense = [backend.to_host(one.dense_grad()).copy() for one in (p, q)]
    norm = math.sqrt(sum(float(np.square(g.astype("float64")).sum()) for g in dense))
    assert len(p.blocks) == 2 and not p.has_separate_blocks()
    relative = 1e-12 if dtype == "float64" else 1e-5
    assert optim.clip_grad_norm([p, q], 1e9) == pytest.approx(norm, rel=relative)
    for one, before in zip((p, q), dense, strict=True):
        assert np.array_equal(backend.to_host(one.dense_grad()), before)
    assert optim.clip_grad_norm([p, q], 0.25) == pytest.approx(norm, rel=relative)
    assert len(p.blocks) == 2
    for one, before in zip((p, q), dense, strict=True):
        np.testing.assert_allclose(backend.to_host(one.dense_grad()), before * (0.25 / norm),
                                   rtol=10 * relative)
    assert optim.clip_grad_norm([p, q], 0.25) == pytest.approx(0.25, rel=relative)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(backend, bad):
    a, b = (Parameter(backend.asarray(np.ones(3)), backend, name) for name in "ab")
    optimizer = optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1, momentum=0.9, weight_decay=0.1)
    a.grad, b.grad = backend.asarray(np.ones(3)), backend.asarray(np.array([1, bad, 2]))
    for work in (optimizer.step, lambda: optim.clip_grad_norm([a, b], 1.0)):
        with pytest.raises(NonFiniteError, match="the gradient of b is not finite; nothing was changed"):
            work()
    for p in (a, b):
        assert np.array_equal(p.numpy(), np.ones(3))
    assert not any(array.any() for array in optimizer.state_dict().values() if array.size == 3)
    optimizer.zero_grad()
    assert a.grad is None and b.grad is None
    optimizer.step()            # a gradient of 0: the decay acts
    np.testing.assert_allclose(a.numpy(), 0.99, rtol=1e-6)


@in_turn("make, message", [
    (lambda p: optim.SGD([p], lr=-1), "lr: expected a number >= 0, got -1"),
    (lambda p: optim.SGD([p], lr=0.1, momentum=1.0), "SGD: momentum: SGD needs a number >= 0 and < 1, got 1"),
    (lambda p: optim.SGD([p], lr=0.1, form="torch"), "form: expected 'caffe' or 'pytorch', got 'torch'; did"),
    (lambda p: optim.SGD([p], lr=0.1, weight_decay=math.nan), "weight_decay: expected a number >= 0, got "),
    (lambda p: optim.Adam([p], betas=(0.9, 1.5)), r"Adam: betas\[1\]: Adam needs a number >= 0 and < 1"),
    (lambda p: optim.Adam([p], betas=0.9), "betas: expected two numbers, got 0.9"),
    (lambda p: optim.AdaGrad([p], eps=-1), "AdaGrad: eps: AdaGrad needs a number >= 0, got -1"),
    (lambda p: optim.SGD([Tensor(np.zeros(2), True)], lr=1), "got Tensor at place 0; md.Parameter.array. is"),
    (lambda p: optim.SGD([p], lr=1, nesterov=True), "SGD: nesterov=True changes nothing without a momentum"),
    (lambda p: optim.SGD([p], lr=1, nesterov=1), "SGD: nesterov=True changes nothing without a momentum"),
    (lambda p: optim.SGD([p], lr=None), "lr: expected a number >= 0, got None"),
    (lambda p: optim.SGD([], lr=0.1), "a group needs at least one parameter, got none"),
    (lambda p: optim.SGD([{"params": [p], "momentun": 1}], lr=0.1), "no setting 'momentun'; did you mean "
                                                                    "'momentum'"),
    (lambda p: optim.SGD([{"lr": 1}], lr=0.1), 'a group is {"params": ..., settings}'),
    (lambda p: optim.SGD([{"params": [p]}, {"params": [p]}], lr=0.1), "is in a group already"),
    (lambda p: optim.clip_grad_norm([p], 0), "most: expected a number above 0, got 0"),
])
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make(Parameter(np.ones(3)))


@pytest.mark.parametrize("kind, settings", [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "form": "pytorch"}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.1})])
def test_a_frozen_parameter_stays_as_it_is(kind, settings):
    """Frozen before the optimizer is made, or after: neither momentum nor decay moves it, as in PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    start = np.arange(1.0, 5.0)
    ours = [Parameter(start.copy()), Parameter(-start)]
    theirs = [torch.tensor(p.numpy().copy(), requires_grad=True) for p in ours]
    ours[1].require_grad(False)
    optimizer = getattr(optim, kind)(ours, **settings)
    reference = getattr(torch.optim, kind)(theirs, **{name: value for name, value in settings.items()
                                                      if name != "form"})
    for frozen in (1, 1, 0, 0, None, None, 1, None):
        before = [p.numpy().copy() for p in ours]
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.require_grad(i != frozen)
            p.grad = None if i == frozen else 0.5 * p.data
            q.grad = None if i == frozen else 0.5 * q.data
        optimizer.step()
        reference.step()
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            assert np.array_equal(p.data, before[i]) == (i == frozen)
            if kind == "SGD":           # AdamW counts the steps of a group, PyTorch those of a parameter
                np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12)


def test_what_is_kept_of_a_moved_parameter_is_refused():
    """Its digits would be lost in a history, or averages, of the dtype that it had."""
    p = Parameter(np.ones(3, np.float32))
    optimizer, ema = optim.Adam([p]), optim.EMA([p], 0.9)
    p.move_to(p.backend, "float64")
    p.grad = np.ones(3)
    for work in (optimizer.step, ema.update):
        with pytest.raises(ConfigError, match="parameter 0 is in float64, but what is kept of it not; the"):
            work()
    assert p.numpy().tolist() == [1, 1, 1] and p.grad is not None


def test_attributes_that_would_change_nothing_are_refused():
    weight = Parameter(np.ones(2))
    for optimizer, name, value in ((optim.SGD([weight], lr=0.1), "momentum", 0.5),
                                   (optim.Adam([weight], lr=0.1), "betas", (0.5, 0.5)),
                                   (optim.Adam([weight], lr=0.1), "eps", 1.0)):
        group = optimizer.param_groups[0]
        for owner in (optimizer, group):
            with pytest.raises(ConfigError, match=rf"{name} is a setting, .*change\({name}=\.\.\.\) sets it"):
                setattr(owner, name, value)
        group.change(**{name: value})
        assert group.options[name] == value
    with pytest.raises(ConfigError, match=r"SGD: weight_decay is a setting, .*param_groups\[i\]\.change"):
        optim.SGD([weight], lr=0.1).weight_decay = 0.5
    for name, said in (("lr", "group.lr"), ("momentum", r"group.change\(momentum")):
        with pytest.raises(ConfigError, match=f"a group is no dictionary: {said}"):     # as PyTorch's is
            group[name] = 0.5
    with pytest.raises(ConfigError, match=r"group.options\['betas'\] reads it"):
        group["betas"]
    group.lr, group.weight_decay, optimizer.lr, optimizer.note = 0.2, 0.1, 0.3, "mine"
    assert (group.lr, group.weight_decay) == (0.3, 0.1)
