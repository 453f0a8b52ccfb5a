"""Captured iterations: errors are those of uncaptured ones, and nothing is lost."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.errors import DataError, NonFiniteError
from minidrop.solver import captured as captured_module
from tests.backend.captured_mlps import (
    DATA,
    INPUT,
    MEMORY,
    compare,
    language_model,
    mlp,
    run,
    solver,
    text_solver,
)


def named(data, labels):
    return {"data": data, "labels": labels}


def broken(record, value):
    data, labels = (array.copy() for array in DATA)
    if value == "label":
        labels[record] = 9
    else:
        data[record, 3] = value
    return named(data, labels)


@pytest.mark.parametrize("value, error, text", [
    (np.nan, NonFiniteError, "iteration 18: the loss is nan, because the data hold a NaN or .*: record 21"),
    ("label", DataError, "label 9 at place 1 of the batch is out of range.*record 21 of the arrays set"),
])
def test_an_error_is_told_as_uncaptured_and_nothing_is_lost(recorded_cuda, value, error, text):
    """Record 21 comes in iteration 3, and again in 7, 10, 14, 18: the arrays are broken after 15
    iterations."""
    whole, other = solver(recorded_cuda(), mlp("ROW")), solver("cpu", mlp("ROW"))
    for made in (whole, other):
        run(made, 15)
        made.net.layers["in"].batches.records.arrays = broken(21, value)
        with pytest.raises(error, match=text):
            for _ in range(20):
                made.step()
            made.settle()
        assert made.iteration == 18
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_allclose(parameter.numpy(), other.net.parameters()[name].numpy(), rtol=1e-9,
                                   err_msg=name)
    assert whole.captured.replayed > 4
    for made in (whole, other):         # and both go on
        made.net.layers["in"].batches.records.arrays = named(*DATA)
        made.net.seek(18)
    compare(run(whole, 6), run(other, 6), rtol=1e-9, atol=1e-11)


def test_the_loss_is_looked_at_sooner_or_later(recorded_cuda):
    whole = solver(recorded_cuda(), mlp("Dropout"))
    whole.step(10)
    whole.net.layers["in"].batches.records.arrays = named(np.full_like(DATA[0], np.inf), DATA[1])
    with pytest.raises(NonFiniteError, match="iteration 10: the loss is nan"):
        for _ in range(2 * captured_module.LOOK_EVERY + 1):
            whole.step()


def test_arrays_given_by_hand_cannot_be_given_again(recorded_cuda):
    text = mlp("ROW").replace(MEMORY, INPUT)
    made = md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' max_iter: 99 random_seed: 4 net_param "
                                  f"{{ {text} }}"),
                     device=recorded_cuda(), dtype="float64")
    batch = {"data": DATA[0][:6, :, 0, 0], "label": DATA[1][:6]}
    made.net.set_inputs(**batch)
    made.step(6)
    made.net.set_inputs(data=batch["data"] * np.nan)
    made.step(2)
    with pytest.raises(NonFiniteError, match="iteration 6: the loss is nan; the arrays given to the net in "
                       "that iteration are "
                                             "gone, so where is not known: set capture_steps: false"):
        made.settle()
    assert made.iteration == 6
    made.net.set_inputs(**{**batch, "label": batch["label"] + 5})
    made.step()
    with pytest.raises(DataError, match="iteration 6: a label, an index or cont is out of range"):
        made.settle()


def test_states_stay_as_the_bad_iteration_found_them(recorded_cuda, tmp_path):
    shapes = 3 * "shape { dim: 5 dim: 3 } "
    _, *layers = language_model(tmp_path, "ROW").split("\n")
    text = "\n".join(['layer { name: "text" type: "Input" top: "data" top: "label" top: "cont" '
                      f'input_param {{ {shapes} }} }}', *layers])
    whole, rng = text_solver(recorded_cuda(), text), np.random.default_rng(2)
    for _ in range(12):
        whole.net.set_inputs(data=rng.integers(0, 12, (5, 3)), label=rng.integers(0, 12, (5, 3)),
                             cont=np.ones((5, 3)))
        whole.step()
    whole.settle()
    before = {place: whole.net.backend.to_host(state).copy() for place, state in whole.net.states.items()}
    for bad in ({"cont": np.full((5, 3), 0.5)}, {"cont": np.ones((5, 3)), "data": np.full((5, 3), 12)}):
        whole.net.set_inputs(**bad)
        whole.step(3)
        with pytest.raises(DataError, match="iteration 12: a label, an index or cont is out of range"):
            whole.settle()
        for place, state in whole.net.states.items():
            np.testing.assert_array_equal(whole.net.backend.to_host(state), before[place])
            assert state.any()
    assert whole.captured.replayed > 3
