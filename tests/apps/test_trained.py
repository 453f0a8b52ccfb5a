"""Weights for nets that are used: all parameters, of one file or of several together."""

import numpy as np
import pytest

import minidrop as md
from minidrop.apps.trained import load_all_weights
from minidrop.config import parse_solver
from tests.nets import inputs, ip, net_of


def test_files_hold_all_weights_together(tmp_path, caplog):
    parts = {name: net_of(inputs((2, 3)), ip(name, "a", 4)) for name in ("ip1", "ip2")}
    for name, part in parts.items():
        part.save(tmp_path / f"{name}.caffemodel")
    net = net_of(inputs((2, 3)), ip("ip1", "a", 4), ip("ip2", "a", 4))
    before = {name: p.numpy() for name, p in net.parameters().items()}
    load_all_weights(net, ())
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
    caplog.clear()
    load_all_weights(net, (tmp_path / f"{name}.caffemodel" for name in parts))
    for name, parameter in net.parameters().items():
        own = parts[name.split("/")[0]].parameters()[name].numpy()
        np.testing.assert_array_equal(parameter.numpy(), own)
    assert "not copied" not in caplog.text          # each file lacks what the other one has
    for path in (tmp_path / "ip1.caffemodel", str(tmp_path / "ip1.caffemodel")):
        with pytest.raises(md.SnapshotError, match="ip1.caffemodel: no weights for ip2/weight, ip2/bias; was "
                                                   "it written by another net"):
            load_all_weights(net, path)


TRAINED = """base_lr: 0.5 lr_policy: 'fixed' max_iter: 3 random_seed: 3 solver_mode: CPU ema_decay: 0.5
net_param {
  layer { name: "data" type: "DummyData" top: "a" top: "label"
    dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
      data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
  layer { name: "ip1" type: "InnerProduct" bottom: "a" top: "ip1"
    inner_product_param { num_output: 4 weight_filler { type: "msra" } } }
  layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
    inner_product_param { num_output: 2 weight_filler { type: "msra" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" } }"""


def test_averages_are_loaded_where_they_fit(tmp_path, caplog):
    """ema takes the averages, skip_mismatched leaves what has another shape as it is, and says so."""
    solver = md.Solver(parse_solver(TRAINED), dtype="float64")
    solver.solve()
    path = solver.snapshot(tmp_path / "run.h5")
    averages = {name: np.array(value) for name, value in solver.ema.averages.items()}
    weights = {name: p.numpy().copy() for name, p in solver.net.parameters().items()}
    assert not np.array_equal(averages["ip1/weight"], weights["ip1/weight"])
    net = net_of(inputs((2, 3)), ip("ip1", "a", 4), ip("ip2", "ip1", 5))
    before = {name: p.numpy().copy() for name, p in net.parameters().items()}
    with pytest.raises(md.SnapshotError, match=r"run.h5: ip2/weight has shape \(2, 4\), this net expects "
                                               r"\(5, 4\)"):
        load_all_weights(net, path, ema=True)
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
    for ema, source in ((True, averages), (False, weights)):
        caplog.clear()
        load_all_weights(net, path, skip_mismatched=True, ema=ema)
        assert "not copied: ip2/weight" in caplog.text and "not copied: ip2/bias" in caplog.text
        for name, parameter in net.parameters().items():
            np.testing.assert_array_equal(parameter.numpy(), (source if "ip1" in name else before)[name])
    more = net_of(inputs((2, 3)), ip("ip1", "a", 4), ip("ip2", "ip1", 5), ip("ip3", "ip2", 2))
    with pytest.raises(md.SnapshotError, match="run.h5: no weights for ip3/weight, ip3/bias; was it written"):
        load_all_weights(more, path, skip_mismatched=True, ema=True)
    net.save(tmp_path / "plain.caffemodel")
    with pytest.raises(md.SnapshotError, match="plain.caffemodel: holds no averages of weights"):
        load_all_weights(net, [path, tmp_path / "plain.caffemodel"], skip_mismatched=True, ema=True)
