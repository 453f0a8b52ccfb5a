"""A solver of a net with one hidden layer, on random data, and what it has trained."""

import numpy as np

import minidrop as md
from minidrop.config import parse_solver

NET = """
name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { } param { lr_mult: 2
  decay_mult: 0 }
  inner_product_param { num_output: 20 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
BASE = ("base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 4 momentum: 0.9 weight_decay: 0.01 max_iter: "
        "12 random_seed: 3\n")


def make(settings="", tmp_path="/nonexistent", net=NET, dtype="float64", base=BASE, **options):
    text = f"{base} {settings} solver_mode: CPU net_param {{ {net} }}"
    return md.Solver(parse_solver(text), dtype=dtype, snapshot_prefix=f"{tmp_path}/tiny", **options)


def weights(solver):
    return {name: p.data.copy() for name, p in solver.net.parameters().items()}


def assert_same_weights(a, b):
    for name, value in weights(a).items():
        np.testing.assert_array_equal(value, b.net.parameters()[name].data, err_msg=name)


def events_of(solver):
    events = []
    solver.add_callback(events.append)
    return events


RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.9 delta: 1e-6", "Adam": "momentum: 0.9",
         "AdamW": "momentum: 0.9"}


def run_steps(solver, count):
    events = events_of(solver)
    solver.step(count)
    return [e for e in events if e.kind == "step"]
