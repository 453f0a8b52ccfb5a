"""Weights in .safetensors files: both ways, with the package's own reader and writer, and what is refused."""

import json
import sys

import numpy as np
import pytest
from nets import inputs, ip, layer, net_of

from minidrop import Net, SnapshotError, Solver
from minidrop.config import parse_net

safetensors = pytest.importorskip("safetensors", reason="of the extra `safetensors`")
numpy_files = pytest.importorskip("safetensors.numpy")

NET = [inputs((4, 3)), ip("fc.1", "a", 5), layer("BatchNorm", "norm", "fc.1"), ip("out", "norm", 2)]


def values_of(net):
    return {name: parameter.data.copy() for name, parameter in net.parameters().items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways(tmp_path, dtype):
    net, other = (net_of(*NET, dtype=dtype, seed=seed) for seed in (1, 2))
    path = tmp_path / "w.safetensors"
    net.save(path)
    stored = numpy_files.load_file(path)
    assert sorted(stored) == ["fc.1.bias", "fc.1.weight", "norm.mean", "norm.scale_factor", "norm.variance",
                              "out.bias", "out.weight"]
    assert stored["fc.1.weight"].dtype == dtype and stored["fc.1.weight"].shape == (5, 3)
    with safetensors.safe_open(path, "numpy") as file:
        own = json.loads(file.metadata()["minidrop"])
    assert own["version"] == 1 and own["shared"] == [] and own["dtype"] == dtype
    assert sorted(own) == ["deploy", "dtype", "shared", "version"]      # see tests/apps/test_load.py
    report = other.load_weights(str(path))
    assert report.copied == list(net.parameters()) and not report.left
    for name, value in values_of(net).items():
        np.testing.assert_array_equal(value, values_of(other)[name])
    net.save(tmp_path / "other.name", format=".safetensors")
    assert (tmp_path / "other.name").read_bytes() == path.read_bytes()


def test_files_of_the_package_itself(tmp_path):
    net, path = net_of(*NET), tmp_path / "w.safetensors"
    arrays = {"fc.1.weight": np.arange(15, dtype=np.float16).reshape(5, 3),
              "fc.1.bias": np.ones(5, np.float32), "elsewhere.weight": np.ones(3)}
    numpy_files.save_file(arrays, path)
    report = net.load_weights(path)
    assert report.copied == ["fc.1/weight", "fc.1/bias"] and report.left_out == ["elsewhere/weight"]
    np.testing.assert_array_equal(net.params["fc.1"]["weight"].data, arrays["fc.1.weight"])
    assert net.params["fc.1"]["weight"].data.dtype == np.float64


def test_a_shared_array_is_stored_once(tmp_path):
    share = 'param { name: "w" }'
    text = "\n".join([inputs((4, 3)), ip("one", "a", 3, "bias_term: false", share),
                      ip("two", "one", 3, "bias_term: false", share)])
    net, path = Net(parse_net(text), device="cpu", seed=1), tmp_path / "w.safetensors"
    net.save(path)
    assert list(numpy_files.load_file(path)) == ["one.weight"]
    apart = Net(parse_net(text.replace(share, "")), device="cpu", seed=2)
    apart.load_weights(path)
    np.testing.assert_array_equal(apart.params["two"]["weight"].data, net.params["one"]["weight"].data)


def test_what_is_refused(tmp_path):
    net, path = net_of(*NET), tmp_path / "w.safetensors"
    net.save(path)
    good, before = path.read_bytes(), values_of(net)
    weight = np.ones((5, 3), np.float32)

    def refused(expected, content=None, arrays=None, metadata=None):
        if arrays is not None:
            numpy_files.save_file(arrays, path, metadata)
        else:
            path.write_bytes(content)
        with pytest.raises(SnapshotError, match=expected) as caught:
            net.load_weights(path)
        assert str(path) in str(caught.value)
        for name, value in values_of(net).items():
            np.testing.assert_array_equal(value, before[name])

    broken = "is no intact .safetensors file .*; get it again"
    large = (1 << 40).to_bytes(8, "little")
    for content in (b"", good[:4], good[:-3], good + b"x", b"\xff" * 40, large + good[8:]):
        refused(broken, content)
    length = int.from_bytes(good[:8], "little")
    head = json.loads(good[8:8 + length])
    head["fc.1.weight"]["shape"] = [1 << 40, 1 << 40]
    claimed = json.dumps(head).encode()
    refused(broken, len(claimed).to_bytes(8, "little") + claimed + good[8 + length:])
    refused("layer 'fc.1' has no parameter 'wieght'; did you mean 'weight'", arrays={"fc.1.wieght": weight})
    numpy_files.save_file({"fc.1.wieght": weight, "fc.1.weight": weight}, path)
    assert net_of(*NET).load_weights(path, skip_mismatched=True).left_out == ["fc.1/wieght"]
    refused("expected keys such as ip1.weight, .* got 'weight'", arrays={"weight": weight})
    refused(r"fc.1/weight has shape \(3, 5\), this net expects \(5, 3\)",
            arrays={"fc.1.weight": weight.T.copy()})
    refused("'fc.1.weight': expected numbers of F16, F32, F64, got I32",
            arrays={"fc.1.weight": weight.astype(np.int32)})
    refused("fc.1/weight has a NaN", arrays={"fc.1.weight": weight * np.nan})
    refused("holds no parameter of this net", arrays={"elsewhere.weight": weight})
    for text, expected in (('{"version": 2, "shared": []}', "expected version 1 of minidrop's weights, .* 2"),
                           ("[", "its metadata are none of minidrop's"), ("[3]", "none of minidrop's"),
                           ('{"version": 1, "shared": [3]}', "expected shared to be lists of names")):
        refused(expected, arrays={"fc.1.weight": weight}, metadata={"minidrop": text})
    with pytest.raises(SnapshotError, match="there is no such file of weights"):
        net.load_weights(tmp_path / "none.safetensors")
    with pytest.raises(SnapshotError, match="has weights alone; write gradients to a .caffemodel"):
        net.save(path, diffs=True)


def test_weights_are_no_state_of_a_solver(tmp_path):
    net, path = net_of(*NET), tmp_path / "w.safetensors"
    net.save(path)
    (tmp_path / "net.prototxt").write_text(NET[0] + ip("y", "a", 1) + layer("Reduction", "l", "y", more=(
        "loss_weight: 1")))
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1')
    with pytest.raises(SnapshotError, match="holds weights but no solver state"):
        Solver(str(solver), device="cpu").restore(path)


def test_without_the_package(tmp_path, monkeypatch):
    net, path = net_of(*NET), tmp_path / "w.safetensors"
    net.save(path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for action in (net.save, net.load_weights):
        with pytest.raises(SnapshotError, match=r'python -m pip install "minidrop\[safetensors\]"'):
            action(path)


def test_damaged_files_are_read_or_refused(tmp_path):
    """Bytes of the header and of the numbers changed, and pieces cut out, at random: no other error."""
    net, path = net_of(*NET), tmp_path / "w.safetensors"
    net.save(path)
    good, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        bad = bytearray(good)
        first = int(rng.integers(len(bad)))
        if rng.integers(3):
            for place in rng.integers(0, 700, rng.integers(1, 4)):
                bad[place] = rng.integers(256)
        else:
            del bad[first:first + int(rng.integers(1, 40))]
        path.write_bytes(bad)
        try:
            net.load_weights(path)
        except SnapshotError:
            refused += 1
    assert refused > 200
