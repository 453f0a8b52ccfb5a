"""Schedulers of optimizers: the solver's policies and PyTorch's, groups, states, and what is refused."""

import copy

import numpy as np
import pytest
from cases import in_turn

from minidrop import optim
from minidrop.autograd import Parameter
from minidrop.config import SolverParameter
from minidrop.errors import ConfigError, SnapshotError
from minidrop.optim import schedulers
from minidrop.solver.lr_policy import POLICIES, learning_rate


def optimizer(*rates):
    return optim.SGD([{"params": [(f"p{i}", Parameter(np.zeros(2)))], "lr": rate}
                      for i, rate in enumerate(rates)], lr=0.5)


MADE = {     # {policy: (scheduler, the same settings in a solver file)}
    "fixed": (schedulers.fixed, {}),
    "step": (lambda o, **more: schedulers.step(o, 5, 0.5, **more), {"stepsize": 5, "gamma": 0.5}),
    "multistep": (lambda o, **more: schedulers.multistep(o, [4, 9], 0.25, **more),
                  {"stepvalue": [4, 9], "gamma": 0.25}),
    "exp": (lambda o, **more: schedulers.exp(o, 0.9, **more), {"gamma": 0.9}),
    "inv": (lambda o, **more: schedulers.inv(o, 0.1, 0.75, **more), {"gamma": 0.1, "power": 0.75}),
    "poly": (lambda o, **more: schedulers.poly(o, 18, 2.0, **more), {"max_iter": 18, "power": 2}),
    "sigmoid": (lambda o, **more: schedulers.sigmoid(o, 8, -0.5, **more), {"stepsize": 8, "gamma": -0.5}),
    "cosine": (lambda o, **more: schedulers.cosine(o, 18, 0.125, **more), {"max_iter": 18, "min_lr": 0.125}),
    "onecycle": (lambda o, **more: schedulers.onecycle(o, 2.0, 18, 0.4, 0.125, **more),
                 {"max_lr": 2.0, "max_iter": 18, "pct_start": 0.4, "min_lr": 0.125}),
}


@pytest.mark.parametrize("warmup_iter", [0, 4])
@in_turn("policy", POLICIES)
def test_rates_are_those_of_a_solver_file(policy, warmup_iter):
    make, settings = MADE[policy]
    own = optimizer(0.5, 0.25)
    scheduler = make(own, warmup_iter=warmup_iter)
    params = [SolverParameter(base_lr=rate, lr_policy=policy, warmup_iter=warmup_iter, **settings)
              for rate in (0.5, 0.25)]
    for iteration in range(20):
        expected = [learning_rate(param, iteration) for param in params]
        assert [group.lr for group in own.param_groups] == expected
        assert scheduler.rates(iteration) == expected
        scheduler.step()
    assert scheduler.iteration == 20


@pytest.mark.parametrize("make, theirs", [
    (lambda o: schedulers.step(o, 7, 0.3), lambda t, o: t.StepLR(o, 7, 0.3)),
    (lambda o: schedulers.multistep(o, [3, 11], 0.3), lambda t, o: t.MultiStepLR(o, [3, 11], 0.3)),
    (lambda o: schedulers.exp(o, 0.93), lambda t, o: t.ExponentialLR(o, 0.93)),
    (lambda o: schedulers.poly(o, 30, 1.7), lambda t, o: t.PolynomialLR(o, 30, 1.7)),
    (lambda o: schedulers.cosine(o, 30, 0.03), lambda t, o: t.CosineAnnealingLR(o, 30, 0.03)),
    (lambda o: schedulers.onecycle(o, 0.7 * 25, 20, 0.37, 0.7 / 1e4), lambda t, o: t.OneCycleLR(
        o, 0.7 * 25, 20, pct_start=0.37, cycle_momentum=False)),
])
def test_rates_are_pytorchs(make, theirs):
    """In full precision, of numbers that no 32-bit float holds."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    own = optimizer(0.7)
    other = torch.optim.SGD([torch.zeros(1)], lr=0.7)
    scheduler, their_scheduler = make(own), theirs(torch.optim.lr_scheduler, other)
    for i in range(20):
        assert own.lr == pytest.approx(other.param_groups[0]["lr"], rel=1e-12)
        if i < 19:
            scheduler.step()
            other.step()
            their_scheduler.step()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_cycle_of_the_momentum_is_pytorchs(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p, q = Parameter(np.array([3.0, -2.0]), name="p"), torch.tensor([3.0, -2.0], dtype=torch.float64,
                                                                     requires_grad=True)
    own = getattr(optim, kind)([p], lr=0.01 / 25, form="pytorch")
    other = getattr(torch.optim, kind)([q], lr=1, **({"momentum": 0.9} if kind == "SGD" else {}))
    scheduler = schedulers.onecycle(own, 0.01, 20, 0.37, 0.01 / 25 / 1e4, momenta=(0.8123, 0.9456))
    theirs = torch.optim.lr_scheduler.OneCycleLR(other, 0.01, 20, pct_start=0.37, base_momentum=0.8123,
                                                 max_momentum=0.9456)
    seen = []
    for i in range(20):
        options = own.param_groups[0].options
        seen.append(options["momentum"] if kind == "SGD" else options["betas"][0])
        p.grad, q.grad = 2 * p.data, 2 * q.detach()
        own.step()
        other.step()
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12)
        if i < 19:
            scheduler.step()
            theirs.step()
    assert min(seen) < 0.82 and seen[0] == pytest.approx(0.9456) and seen[-1] == pytest.approx(0.9456)


def test_a_loaded_state_goes_on():
    one, two = optimizer(0.5, 0.25), optimizer(0.125, 1)
    first, second = (schedulers.cosine(o, 10, warmup_iter=2) for o in (one, two))
    for _ in range(4):
        first.step()
    second.load_state_dict(first.state_dict())
    assert repr(second) == "Scheduler(cosine, max_iter=10, min_lr=0.0, warmup_iter=2, iteration=4)"
    for _ in range(3):
        assert [g.lr for g in one.param_groups] == [g.lr for g in two.param_groups]
        first.step()
        second.step()


def test_schedulers_follow_each_other_and_take_no_turns():
    own = optimizer(0.5)
    first, second = schedulers.step(own, 2, 0.5), schedulers.exp(own, 0.5)
    for scheduler in (first, first, second, second):        # one after the other
        scheduler.step()
    assert own.lr == 0.125
    with pytest.raises(ConfigError, match=r"^Scheduler\(step, .*, iteration=2\): another scheduler of this "
                                          r"optimizer has set the learning rate since the step before"):
        first.step()
    assert own.lr == 0.125 and first.iteration == 2
    first.seek(4)                                           # who says so goes back
    first.step()
    assert own.lr == 0.125 and first.iteration == 5


def test_a_group_that_is_added_later_keeps_its_rate():
    own = optimizer(0.5)
    scheduler = schedulers.exp(own, 0.5)
    own.add_param_group({"params": [("late", Parameter(np.zeros(2)))], "lr": 0.75})
    scheduler.step()
    assert [group.lr for group in own.param_groups] == [0.25, 0.75]


@in_turn("make, message", [
    (lambda o: schedulers.Scheduler(o, "cosin", max_iter=5), "got 'cosin'; did you mean 'cosine'"),
    (lambda o: schedulers.Scheduler(o, "step", gamma=0.1), "'step' needs stepsize, which is missing"),
    (lambda o: schedulers.step(o, 0), "stepsize, which must be at least 1, but is 0"),
    (lambda o: schedulers.multistep(o, []), "stepvalue, which is missing"),
    (lambda o: schedulers.multistep(o, [5, 3]), "must increase, but is 5, 3"),
    (lambda o: schedulers.cosine(o, 5, min_lr=0.75), "min_lr: expected a number from 0 to base_lr, 0.5"),
    (lambda o: schedulers.cosine(o, 5, warmup_iter=5), "expected fewer than 5, got 5"),
    (lambda o: schedulers.fixed(o, warmup_iter=-1), "warmup_iter: expected a number >= 0, got -1"),
    (lambda o: schedulers.onecycle(o, 0.25, 5), "max_lr: expected a number from base_lr on, 0.5, got 0.25"),
    (lambda o: schedulers.onecycle(o, 2, 5, momenta=(0.9, 0.8)), "lowest <= highest < 1, got 0.9 and 0.8"),
    (lambda o: schedulers.onecycle(o, 2, 5, momenta=(0.8, 0.9), warmup_iter=2), "warmup_iter of 0, got 2"),
    (lambda o: schedulers.onecycle(optim.AdaGrad(o.parameters), 2, 5, momenta=(0.8, 0.9)), "AdaGrad has no"),
    (lambda o: schedulers.fixed(o).seek(2.5), "seek: expected a whole number of at least 0, got 2.5"),
])
def test_mistakes_change_nothing(make, message):
    own = optimizer(0.5)
    with pytest.raises(ConfigError, match=message):
        make(own)
    assert own.lr == 0.5


def test_states_that_do_not_fit_are_refused():
    own = optimizer(0.5)
    scheduler = schedulers.cosine(own, 5, min_lr=0.25)
    for change, message in (({"iteration": np.array([-1])}, "expected an iteration and learning rates >= 0"),
                            ({"base_lr": np.array([0.125])}, "does not fit these settings: min_lr"),
                            ({"base_lr": np.array([1.0, 2.0])}, r"expected float64 of shape \(1,\)")):
        with pytest.raises(SnapshotError, match=message):
            scheduler.load_state_dict({**scheduler.state_dict(), **change})
    assert own.lr == 0.5 and scheduler.iteration == 0


def test_a_scheduler_goes_to_any_iteration():
    """Rates and momentum there are those of so many steps."""
    ones = [optim.SGD([Parameter(np.zeros(2))], lr=0.1, momentum=0.9) for _ in range(2)]
    stepped, sought = (schedulers.onecycle(one, 0.5, 10, momenta=(0.8, 0.95)) for one in ones)
    for _ in range(3):
        stepped.step()
    for iteration in (7, 3):
        sought.seek(iteration)
    assert ones[0].lr == ones[1].lr and ones[0].param_groups[0].options == ones[1].param_groups[0].options
    assert sought.state_dict()["iteration"] == 3


def test_settings_are_said_where_a_scheduler_is_made():
    """Its rates follow from those that it was given; an attribute or entry changed nothing."""
    scheduler = schedulers.cosine(optimizer(0.5), 10, min_lr=0.1)
    for name in ("max_iter", "min_lr", "lr_policy", "settings", "base_lr"):
        with pytest.raises(ConfigError, match=f"Scheduler: {name} is said where the scheduler is made"):
            setattr(scheduler, name, 5)
    with pytest.raises(TypeError):
        scheduler.settings["max_iter"] = 5
    assert copy.deepcopy(scheduler).rates(10) == scheduler.rates(10) == [0.1]
