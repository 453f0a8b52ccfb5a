"""Settings that are changed in a solver that is there already: what acts, and what is refused."""

import numpy as np
import pytest
from cases import in_turn
from object_solvers import mlp, sgd, solver_of

import minidrop as md
from minidrop.config import SolverParameter, parse_solver
from minidrop.solver.read_once import ReadOnce

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 8 dim: 6 }
        shape { dim: 8 } data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
        weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
CHANGES = {"momentum": 0.1, "weight_decay": 0.5, "regularization_type": "L1", "clip_gradients": 0.001,
           "type": "Adam", "random_seed": 7, "average_loss": 3, "ema_decay": 0.5,
           "log_gradient_norm": True, "delta": 0.3, "snapshot_prefix": "x", "decay_axes": 2}


def make(**settings):
    text = "base_lr: 0.05 lr_policy: 'step' stepsize: 2 gamma: 0.5 max_iter: 8 random_seed: 3"
    return md.Solver(parse_solver(f"{text} net_param {{ {NET} }}"), settings, device="cpu")


def weights(solver):
    solver.step(2)
    solver.step(2)
    return solver.net.params["ip"]["weight"].data


@in_turn("name", list(CHANGES))
def test_a_change_of_what_is_read_once_is_refused(name):
    solver = make()
    solver.step(1)
    setattr(solver.settings, name, CHANGES[name])
    for run in (solver.step, solver.solve):
        with pytest.raises(md.ConfigError, match=f"solver.settings.{name} was changed from .* but a solver "
                                                 "reads it only when it is made; make another solver"):
            run()
    assert solver.iteration == 1


def test_a_change_of_a_message_or_a_list_is_refused():
    solver = make()
    solver.settings.early_stopping.patience = 2
    with pytest.raises(md.ConfigError, match=r"solver.settings.early_stopping was changed"):
        solver.step()
    solver = make()
    solver.settings.test_iter.append(3)
    with pytest.raises(md.ConfigError, match=r"solver.settings.test_iter was changed from '\[\]' to '\[3\]'"):
        solver.step()


@in_turn("name, value", [("base_lr", 0.5), ("gamma", 0.1), ("stepsize", 1), ("lr_policy", "fixed"),
                         ("iter_size", 3)])
def test_other_changes_are_those_of_a_solver_made_so(name, value):
    changed = make()
    setattr(changed.settings, name, value)
    np.testing.assert_array_equal(weights(changed), weights(make(**{name: value})))
    assert not np.array_equal(changed.net.params["ip"]["weight"].data, weights(make()))


def test_rates_of_objects_are_those_of_the_optimizer():
    model = mlp()
    optimizer = sgd(model)
    solver = solver_of(model, optimizer)
    solver.step()
    solver.settings.base_lr = 0.5
    with pytest.raises(md.ConfigError, match="base_lr was changed from 0.1 to 0.5, .* optimizer's groups"):
        solver.step()
    solver.settings.base_lr = 0.1
    optimizer.lr, solver.settings.max_iter = 0.5, 3
    solver.solve()
    assert solver.iteration == 3 and solver.learning_rate == 0.5


def test_every_setting_is_read_once_or_later():
    settings = SolverParameter()
    names = {field.name for field in SolverParameter.DESCRIPTOR.fields}
    assert set(ReadOnce(settings).names) < set(ReadOnce(settings, frozenset()).names) < names
