"""Precision of products: refused where there is no GPU; float16 with a scaled loss, on a cuBLAS that works on
the host."""

import logging

import numpy as np
import pytest

import minidrop as md
from minidrop.backend import PRECISIONS, get_backend
from minidrop.config import parse_solver
from minidrop.errors import BackendError, ConfigError, NonFiniteError, SnapshotError
from minidrop.solver import loss_scale
from minidrop.solver.loss_scale import LossScale

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 20 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" %s }
"""


def make(device, settings="", loss_weight="", **options):
    text = (f"base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.01 max_iter: 12 random_seed: 3 "
            f"{settings} net_param {{ {NET % loss_weight} }}")
    return md.Solver(parse_solver(text), device=device, **options)


def weights(solver):
    return {name: p.data.copy() for name, p in solver.net.parameters().items()}


# -- on the CPU ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_the_cpu_refuses_what_only_a_gpu_has(precision):
    message = (f"^precision {precision} needs a GPU: on the CPU products are in float32 or float64, the type "
               f"of all numbers; remove it, or choose --device cuda:N$")
    for build in (lambda: get_backend("cpu", precision), lambda: make("cpu", f"precision: '{precision}'"),
                  lambda: make("cpu", precision=precision),
                  lambda: md.Net(md.NetSpec("empty").to_proto(), device="cpu", precision=precision)):
        with pytest.raises(BackendError, match=message):
            build()


def test_float32_is_what_the_cpu_has():
    assert get_backend("cpu", "float32") is get_backend("cpu")
    assert make("cpu", "precision: 'float32'").loss_scale is None


def test_unknown_precision():
    with pytest.raises(BackendError,
                       match=r"^unknown precision 'bfloat'; did you mean 'bfloat16' or .*\(known: float32, "
                                           r"tf32, float16, bfloat16\)$"):
        get_backend("auto", "bfloat")


def test_float64_cannot_have_products_in_less(host_cuda):
    with pytest.raises(ConfigError, match="^precision tf32 rounds products of float32 numbers, but dtype is "
                       "float64; keep one "
                                          "of them$"):
        make(host_cuda("tf32"), "precision: 'tf32'", dtype="float64")


# -- the scale -----------------------------------------------------------------------------------------------
def test_the_scale_falls_at_once_and_rises_slowly(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)
    scale = LossScale(8.0)
    values = []
    for finite in (True, True, False, True, True, True, True, False, False):
        assert scale.note(finite)
        values.append(scale.value)
    assert values == [8, 8, 4, 4, 4, 8, 8, 4, 2]
    assert scale.values == {"loss_scale": 2.0, "skipped_steps": 3}


def test_it_stays_inside_its_bounds(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 1)
    scale = LossScale(loss_scale.MOST)
    assert scale.note(True) and scale.value == loss_scale.MOST
    scale = LossScale(2.0)
    assert [scale.note(False) for _ in range(3)] == [True, False, False]
    assert scale.value == 1


def test_it_survives_a_snapshot():
    scale = LossScale(512.0, 17, 3)
    assert LossScale.of("x.h5", scale.state).state == {"loss_scale": 512.0, "good_steps": 17,
                                                       "skipped_steps": 3}
    assert LossScale.of("x.h5", {}).state == LossScale().state


@pytest.mark.parametrize("change", [{"loss_scale": float("nan")}, {"loss_scale": 0.5},
                                    {"loss_scale": 2.0**30}, {"loss_scale": "8"}, {"good_steps": -1},
                                    {"good_steps": 2000}, {"skipped_steps": 0.5}, {"skipped_steps": None}])
def test_a_snapshot_with_an_impossible_scale_is_refused(change):
    with pytest.raises(SnapshotError, match="^x.h5: refused as a snapshot: expected loss_scale from 1 to "
                       "1.67772e"):
        LossScale.of("x.h5", {**LossScale().state, **change})


# -- training ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings", ["", "clip_gradients: 0.3", "iter_size: 2", "type: 'Nesterov'"])
def test_float16_trains_as_float32_does_to_its_own_rounding(host_cuda, settings):
    exact, low = make("cpu", settings), make(host_cuda("float16"), settings)
    assert exact.loss_scale is None and low.loss_scale.value == loss_scale.FIRST
    before = weights(low)
    for solver in (exact, low):
        solver.step(5)
    assert low.loss_scale.skipped == 0
    moved = max(np.abs(value - before[name]).max() for name, value in weights(low).items())
    for name, value in weights(exact).items():
        np.testing.assert_allclose(weights(low)[name], value, atol=0.02 * moved)
        assert weights(low)[name].dtype == np.float32
    assert any((weights(low)[name] != value).any() for name, value in weights(exact).items())


def test_small_gradients_survive(host_cuda):
    """With a loss weight of 1e-7 all gradients of float16's products vanish, unless they are scaled."""
    moved = {}
    for scale in (1.0, loss_scale.FIRST):
        solver = make(host_cuda("float16"), "", "loss_weight: 1e-7")
        solver.loss_scale.value = scale
        solver.net.clear_grads()
        solver.net.forward()
        solver.net.backward(scale)
        moved[scale] = np.abs(solver.net.params["ip1"]["weight"].grad / scale).max()
    exact = make("cpu", "", "loss_weight: 1e-7")
    exact.net.clear_grads()
    exact.net.forward()
    exact.net.backward()
    expected = np.abs(exact.net.params["ip1"]["weight"].grad).max()
    assert abs(moved[loss_scale.FIRST] / expected - 1) < 0.01
    assert abs(moved[1.0] / expected - 1) > 0.1


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")       # NumPy's, where a GPU says nothing
def test_a_step_that_overflows_is_skipped_and_counted(host_cuda, caplog):
    solver = make(host_cuda("float16"), "display: 1", "loss_weight: 300")
    events = []
    solver.add_callback(events.append)
    solver.loss_scale.value = 1024.0 * 300
    before = weights(solver)
    history = {name: [h.copy() for h in own] for name, own in solver.updater.history.items()}
    with caplog.at_level(logging.INFO, "minidrop"):
        solver.step()
    assert caplog.messages[-1] == ("Iteration 0, gradients are not finite at a loss scale of 307200: no "
                                   "update, the scale is now 153600")
    for name, value in weights(solver).items():
        np.testing.assert_array_equal(value, before[name])
        np.testing.assert_array_equal(solver.updater.history[name][0], history[name][0])
    assert solver.iteration == 1 and all(not p.blocks for p in solver.net.parameters().values())
    while not any((value != before[name]).any() for name, value in weights(solver).items()):
        solver.step()
    assert solver.loss_scale.skipped == solver.iteration - 1 > 0
    shown = [event.values for event in events if event.kind == "display"]
    assert shown[0]["loss_scale"] == 307200 and shown[1]["loss_scale"] == 153600
    assert [values["skipped_steps"] for values in shown[:2]] == [0, 1]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_gradients_that_no_scale_saves_end_the_training(host_cuda):
    solver = make(host_cuda("float16"), "", "loss_weight: 1e30")
    solver.loss_scale.value = 1.0
    with pytest.raises(NonFiniteError,
                       match=r"^iteration 0: in float16 the gradients are not finite even unscaled. Try a "
                                             r"smaller base_lr \(now 0.05\), or precision: \"bfloat16\"$"):
        solver.step()


def test_a_resumed_run_goes_on_with_its_scale(host_cuda, tmp_path):
    settings = f"precision: 'float16' snapshot_prefix: '{tmp_path}/x'"
    whole, first, second = (make(host_cuda("float16"), settings) for _ in range(3))
    for solver in (whole, first):
        solver.loss_scale = LossScale(256.0, 1998, 4)
        solver.step(3)
    second.restore(first.snapshot())
    assert second.loss_scale.state == {"loss_scale": 512.0, "good_steps": 1, "skipped_steps": 4}
    for solver in (whole, second):
        solver.step(2)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(second)[name])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("columns", [1, 8, 341])
def test_rows_of_rounded_operands_begin_on_multiples_of_16_bytes(host_cuda, kind, columns):
    """For one product and for a batch of them, whatever is kept: cuBLAS has fast kernels for no others."""
    backend, x = host_cuda(kind), np.ones((5, columns), np.float32)
    for rounded in (backend._read(x, kind), backend._read(backend.operand(x), kind),
                    *backend._stacked([x, x[:3]], (5, columns), kind)):
        assert rounded.shape == (5, columns) and rounded.strides[0] % 16 == 0 and rounded.strides[1] == 2
