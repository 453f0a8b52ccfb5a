"""Functions that take a Net say what to give in place of a module, a path or nothing."""

from pathlib import Path

import pytest

import minidrop as md
from minidrop.testing import assert_matches_masked_dense

FUNCTIONS = {
    "to_torch_state_dict": md.to_torch_state_dict,
    "from_torch_state_dict": lambda net: md.from_torch_state_dict(net, {}),
    "monte_carlo": md.monte_carlo,
    "evaluate_monte_carlo": lambda net: md.evaluate_monte_carlo(net, 1),
    "load_weights": lambda net: md.load_weights(net, "weights.h5"),
    "assert_matches_masked_dense": lambda net: assert_matches_masked_dense(net, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_net(name):
    module = md.nn.Sequential(md.nn.Linear(2, 3), md.nn.ApproxDropout(0.5))
    for given, said in ((module, "a Net, got Sequential; give the net behind the module, module.net_for"),
                        (Path("net.prototxt"), "Net.from_file reads a network file"),
                        (None, "a Net, got NoneType$"), (md.Net, "a Net, got the class Net")):
        with pytest.raises(md.ConfigError, match=f"net: expected .*{said}"):
            FUNCTIONS[name](given)


def test_a_module_that_is_to_be_exported(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(md.ConfigError, match="give the net behind the module"):
        md.export_onnx(md.nn.Linear(2, 3), tmp_path / "net.onnx")
