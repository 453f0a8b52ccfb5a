"""Weights for nets that are used: all parameters, of one file or of several together."""

import numpy as np
import pytest

import minidrop as md
from minidrop.apps.trained import load_all_weights
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
