"""Python layers: a class outside minidrop computes a layer."""

import copy
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import inputs, ip, layer, net_of, numbers

import minidrop as md
from minidrop import caffe
from minidrop.autograd import check_gradients
from minidrop.cli import run
from minidrop.config import parse_net
from minidrop.errors import BackendError, ConfigError, DataError
from minidrop.layers import allow_python
from minidrop.net import Layerwise, Net

MODULE = '''
import numpy as np
from minidrop.layers import PythonLayer


class Distance(PythonLayer):
    """Half the squared distance by sample, and its mean."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("needs two bottoms")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("the bottoms must have the same size")
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)
        top[1].reshape(bottom[0].num)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.
        top[1].data[...] = np.sum(self.diff**2, axis=1) / 2.

    def backward(self, top, propagate_down, bottom):
        assert len(propagate_down) == 2
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                own = top[0].diff / bottom[i].num + top[1].diff[:, None]
                bottom[i].diff[...] = sign * own * self.diff


class Line(PythonLayer):
    """y = a x + b with parameters a (of each column) and b; counts its passes in a third."""

    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].shape[1])
        self.blobs.add_blob(1)
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * bottom[0].data + self.blobs[1].data
        self.blobs[2].data[...] += 1

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] = (top[0].diff * bottom[0].data).sum(0)
        self.blobs[1].diff[...] = top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff


class Source(PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(3, 2)

    def setup(self, bottom, top):
        self.number = 0

    def forward(self, bottom, top):
        self.number += 1
        top[0].data[...] = self.number


class Seen(PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[...] = 10 * self.phase + len(self.param_str)

    def backward(self, top, propagate_down, bottom):
        pass


class Broken(PythonLayer):
    def setup(self, bottom, top):
        if self.param_str == "setup":
            {}["no such key"]

    def reshape(self, bottom, top):
        if self.param_str != "nothing":
            top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        if self.param_str == "forward":
            1 / 0

    def backward(self, top, propagate_down, bottom):
        raise ValueError("not\\nso")


class Once(PythonLayer):
    setups = 0

    def setup(self, bottom, top):
        self.size = bottom[0].num
        self.blobs.add_blob(2)
        Once.setups += 1

    def reshape(self, bottom, top):
        if bottom[0].num > 9:
            raise Exception("too many")
        top[0].reshape(bottom[0].num)

    def forward(self, bottom, top):
        top[0].data[...] = self.size + self.blobs[0].data[0]


class Halve(PythonLayer):
    """In place: y = tanh(x) / 2, after Caffe's idiom of a reshape that does nothing."""

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        assert (top[0].data == bottom[0].data).all()
        top[0].data[...] = np.tanh(top[0].data) / 2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * (1 - (2 * top[0].data)**2) / 2


class Look(PythonLayer):
    """In place, changes nothing; reshapes what it is told to."""

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if self.param_str:
            bottom[0].reshape(*map(int, self.param_str.split()))


class Stranger:
    pass
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The module of these layers, importable and allowed."""
    (tmp_path / "somelayers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = allow_python()
    yield tmp_path / "somelayers.py"
    allow_python(before)
    for name in [name for name in sys.modules if name.split(".")[0] in (
            "somelayers", "brokenlayers", "pyloss", "caffe")]:
        del sys.modules[name]


def python(kind, bottoms, top, param_str="", more="", module="somelayers"):
    bottoms, tops = (" ".join(f'{side}: "{name}"' for name in names.split())
                     for side, names in (("bottom", bottoms), ("top", top)))
    return (f'layer {{ name: "py" type: "Python" {bottoms} {tops} {more} python_param {{ module: "{module}" '
            f'layer: "{kind}" param_str: "{param_str}" }} }}')


def test_gradients_with_several_tops():
    net = net_of(inputs((4, 3), (4, 3)), python("Distance", "a b", "loss each"))
    forward = net.layers["py"].forward
    check_gradients(forward, numbers(4, 3), numbers(4, 3, seed=1))
    # Another batch size:
    check_gradients(forward, numbers(5, 3), numbers(5, 3, seed=1), wanted=[False, True])


def test_it_is_a_loss_by_its_weight():
    def layers(loss):
        return inputs((4, 3), (4, 2)), ip("ip", "a", 2), loss
    net = net_of(*layers(python("Distance", "ip b", "loss each", more="loss_weight: 2 loss_weight: 0")))
    plain = net_of(*layers(layer("EuclideanLoss", "loss", "ip b", more="loss_weight: 2")))
    for one in (net, plain):
        one.forward(a=numbers(4, 3), b=numbers(4, 2))
        one.backward()
    assert net.blobs["loss"].shape == (1,) and net.loss == pytest.approx(plain.loss)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(net.params["ip"][name].grad, plain.params["ip"][name].grad, rtol=1e-12)


def test_parameters_begin_as_setup_left_them_and_are_trained():
    net = net_of(inputs((4, 3)), python("Line", "a", "y", "2.5", "param { lr_mult: 1 } param { lr_mult: 2 } "
                                                                 "param { lr_mult: 0 }"),
                 layer("Reduction", "loss", "y", more="loss_weight: 1"))
    a, b, passes = net.params["py"].values()
    assert a.data.tolist() == [2.5] * 3 and b.data.tolist() == [0] and passes.data.tolist() == [0]
    x = numbers(4, 3)
    net.forward(a=x)
    net.backward()
    np.testing.assert_allclose(net.blobs["y"].data, 2.5 * x)
    np.testing.assert_allclose(a.grad, x.sum(0))
    assert b.grad.tolist() == [12] and passes.data.tolist() == [1] and b.lr_mult == 2
    a.data[...] = 3
    np.testing.assert_allclose(net.forward(a=x) and net.blobs["y"].data, 3 * x)


def test_parameters_go_through_files(tmp_path):
    net = net_of(inputs((4, 3)), python("Line", "a", "y", "2.5"), dtype="float32")
    net.params["py"]["blob1"].data[...] = 4
    net.save(tmp_path / "w.caffemodel")
    other = net_of(inputs((4, 3)), python("Line", "a", "y", "1"), dtype="float32")
    other.load_weights(tmp_path / "w.caffemodel")
    assert [p.data.flat[0] for p in other.params["py"].values()] == [2.5, 4, 0]


def test_without_bottoms_it_feeds_the_net():
    net = net_of(python("Source", "", "x"), ip("ip", "x", 2))
    first, second = (net.forward() and net.blobs["x"].data for _ in range(2))
    assert net.blobs["x"].shape == (3, 2) and (first == 1).all() and (second == 2).all()
    assert not net.blobs["x"].requires_grad and net.layers["py"].is_data


def test_phase_and_text():
    for phase, expected in (("TRAIN", 3), ("TEST", 13)):
        net = net_of(inputs((1, 1)), python("Seen", "a", "y", "abc"), phase=phase)
        assert float(net.forward(a=[[1]])["y"]) == expected
    text = inputs((1, 1)) + python("Seen", "a", "y").replace("python_param", 'param_str: "abcd" python_param')
    assert float(net_of(text).forward(a=[[1]])["y"]) == 4


def test_backward_of_an_earlier_pass_has_what_that_pass_had():
    net = net_of(inputs((2, 3), (2, 3)), python("Distance", "a b", "loss each"))
    forward = net.layers["py"].forward
    x, y = md.Tensor(numbers(2, 3), True), md.Tensor(numbers(2, 3, seed=1), True)
    loss, _ = forward(x, y)
    expected = float(loss.data[0])
    forward(md.Tensor(np.ones((2, 3)), True), md.Tensor(np.ones((2, 3)), True))
    assert float(loss.data[0]) == expected != 0


def test_reshaped_and_copied_nets_go_on_with_the_instance():
    line = python("Line", "a", "y", "2").replace('"py"', '"line"')
    net = net_of(inputs((4, 3)), python("Source", "", "x"), line)
    net.forward(a=numbers(4, 3))
    steps = Layerwise(net)
    steps.reshape_input("a", (2, 3))
    steps.forward()
    assert (steps.value("x").data == 2).all() and steps.shape("y") == (2, 3)
    twin = copy.deepcopy(net)
    twin.forward(a=numbers(2, 3))
    twin.forward(a=numbers(2, 3))
    net.forward(a=numbers(2, 3))
    assert (net.blobs["x"].data == 3).all() and (twin.blobs["x"].data == 4).all()


def test_in_place_a_top_is_its_bottom():
    look = python("Look", "ip", "ip").replace('"py"', '"look"')
    middles = (python("Halve", "ip", "ip"), look), (
        layer("TanH", "tanh", "ip", "ip"),
        layer("Power", "half", "ip", "ip", more="power_param { scale: 0.5 }"))
    net, own = (net_of(inputs((4, 3), (4, 2)), ip("ip", "a", 2), *middle,
                       layer("EuclideanLoss", "loss", "ip b")) for middle in middles)
    for one in (net, own):
        for _ in range(2):
            one.forward(a=numbers(4, 3), b=numbers(4, 2))
        one.backward()
    assert net.loss == pytest.approx(own.loss)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(net.params["ip"][name].grad, own.params["ip"][name].grad, rtol=1e-12)
    check_gradients(net.layers["py"].forward, numbers(4, 2))
    x = numbers(4, 2)
    net.layers["py"].forward(md.Tensor(x))
    np.testing.assert_array_equal(x, numbers(4, 2))


@pytest.mark.parametrize("shape", ["4 5", "3 2", "2"])
def test_a_diff_of_another_shape_is_refused(shape):
    net = net_of(inputs((2, 3)) + ip("ip", "a", 3) + python("Look", "ip", "ip", shape) + layer(
        "Reduction", "loss", "ip", more="loss_weight: 1"))
    net.forward(a=numbers(2, 3))
    with pytest.raises(DataError, match=r"layer 'py' \(Python\): somelayers.Look: backward left bottom\[0\] "
                                        r"in shape \(\d.*\), expected \(2, 3\)"):
        net.backward()


def test_setup_runs_once_however_often_a_net_is_reshaped():
    net = net_of(inputs((4, 3)), python("Once", "a", "y"))
    steps, user, parameter = Layerwise(net), net.layers["py"].user, net.params["py"]["blob0"]
    for size in (2, 5):
        steps.reshape_input("a", (size, 3))
        parameter.data[...] = size
        steps.forward()
        np.testing.assert_array_equal(steps.value("y").data, np.full(size, 4 + size))
    assert net.layers["py"].user is user and net.params["py"]["blob0"] is parameter
    assert type(user).setups == 1 and net_of(inputs((4, 3)), python("Once", "a", "y")) and user.setups == 2
    steps.reshape_input("a", (10, 3))
    with pytest.raises(ConfigError, match="too many"):
        steps.forward()
    net.forward(a=np.zeros((5, 3)))
    assert net.blobs["y"].shape == (5,)


def error_of(text):
    with pytest.raises(ConfigError) as caught:
        net_of(inputs((2, 3)), text)
    return caught.value


def test_it_is_refused_unless_allowed(module):
    allow_python(False)
    module.write_text("raise SystemExit('run')")
    error = error_of(python("Line", "a", "y"))
    assert "net.prototxt:3:" in str(error) and str(error).endswith(
        "layer 'py' (Python): a Python layer runs the code of module 'somelayers', which is refused at "
        "first; if you trust it: --allow-python, or minidrop.layers.allow_python() [bottoms: a (2, 3)]")
    assert "somelayers" not in sys.modules
    assert allow_python() is False and allow_python() is True


@pytest.mark.parametrize("text, what", [
    (python("", "a", "y"), "needs module and layer"),
    (python("Line", "a", "y", module="no.such"), "import of no.such raised ModuleNotFoundError.*PYTHONPATH"),
    (python("Line", "a", "y", module="../x"), "the name of a module, such as a.b, got '../x'"),
    (python("Lime", "a", "y", "2"), "no class 'Lime' that is derived from.*did you mean 'Line'"),
    (python("Stranger", "a", "y"), "no class 'Stranger' that is derived"),
    (python("np", "a", "y"), "no class 'np'"),
    (python("Line", "a", "y", "two"), r"setup raised ValueError: could not convert.*somelayers.py:4\d"),
    (python("Distance", "a", "y"), "setup raised Exception: needs two bottoms"),
    (python("Broken", "a", "y", "setup"), r"somelayers.Broken: setup raised KeyError: 'no such key' \(.*py:"),
])
def test_mistakes_when_it_is_built(text, what):
    error = str(error_of(text))
    assert re.search(what, error) and "layer 'py' (Python)" in error and "\n" not in error


@pytest.mark.parametrize("where, what", [("forward", "ZeroDivisionError"),
                                         ("backward", "ValueError: not so")])
def test_mistakes_when_it_runs(where, what):
    text = inputs((2, 3)) + ip("ip", "a", 3) + python("Broken", "ip", "y", where) + layer(
        "Reduction", "loss", "y", more="loss_weight: 1")
    net = net_of(text)
    expected = rf"layer 'py' \(Python\): somelayers.Broken: {where} raised {what}"
    with pytest.raises(DataError, match=expected) as caught:
        net.forward(a=numbers(2, 3))
        net.backward()
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert type(cause).__name__ == what.split(":")[0] and cause.__traceback__ is not None
    assert "\n" not in str(caught.value)


def test_a_class_without_its_methods_says_so(module):
    module.write_text("from minidrop.layers import PythonLayer\nclass Empty(PythonLayer): pass\n")
    assert "needs a method reshape(self, bottom, top)" in str(error_of(python("Empty", "a", "y")))


def test_a_module_that_fails_is_named(module):
    Path(module.parent / "brokenlayers.py").write_text("x = 1\nx.no\n")
    assert "import of brokenlayers raised AttributeError" in str(
        error_of(python("Line", "a", "y", module="brokenlayers")))


# -- Caffe's own example -------------------------------------------------------------------------------------
PYLOSS = '''
import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have one size.")
        self.difference = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference ** 2) / bottom[0].num / 2.

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] = (1 - 2 * i) * self.difference / bottom[i].num
'''
SOLVER = 'net: "linreg.prototxt" base_lr: 0.02 lr_policy: "fixed" max_iter: 40 display: 0 random_seed: 1'


@pytest.fixture
def linreg(module):
    data = os.environ.get("MINIDROP_DATA")
    path = Path(data or "", "caffe/examples/pycaffe/linreg.prototxt")
    if not data or not path.is_file():
        pytest.skip("needs Caffe's files in $MINIDROP_DATA")
    (module.parent / "pyloss.py").write_text(PYLOSS)
    (module.parent / "linreg.prototxt").write_text(path.read_text())
    (module.parent / "s.prototxt").write_text(SOLVER)
    return module.parent


def test_linreg_trains_at_the_command_line_once_that_is_allowed(linreg, monkeypatch, capsys):
    monkeypatch.chdir(linreg)
    allow_python(False)
    train = ["train", "--solver", "s.prototxt", "--device", "cpu"]
    for arguments in (train, ["check", "linreg.prototxt"]):
        assert run(arguments) == 1
        error = capsys.readouterr().err
        assert "--allow-python" in error and "Traceback" not in error and "pyloss" not in sys.modules
    assert run([*train, "--allow-python"]) == 0
    assert run(["check", "linreg.prototxt", "--allow-python"]) == 0
    assert "loss" in capsys.readouterr().out
    assert allow_python() is False


def test_linreg_equals_the_loss_of_its_own(linreg):
    caffe.install()
    text = (linreg / "linreg.prototxt").read_text()
    own = text[:text.index("type: 'Python'")] + (
        "type: 'EuclideanLoss' name: 'loss' top: 'loss' bottom: 'ipx' bottom: 'ipy' }")
    nets = [Net(parse_net(one), device="cpu") for one in (text, own)]
    for net in nets:
        net.forward()
    assert nets[0].loss == pytest.approx(nets[1].loss, rel=1e-6)
    solvers = [md.Solver(solver_of(one)) for one in (text, own)]
    for solver in solvers:
        solver.step(30)
        assert solver.losses[-1] < nets[0].loss
    assert solvers[0].losses[-1] == pytest.approx(solvers[1].losses[-1], rel=1e-4)


def solver_of(net_text):
    solver = md.SolverParameter(base_lr=0.02, lr_policy="fixed", max_iter=40, random_seed=1, display=0)
    solver.net_param.CopyFrom(parse_net(net_text).message)
    return solver


def test_large_parameters_need_no_memory_to_be_looked_at(module):
    module.write_text(MODULE.replace("self.blobs.add_blob(1)", "self.blobs.add_blob(1 << 40)"))
    text = parse_net(inputs((2, 3)) + python("Line", "a", "y", "1"), "net.prototxt")
    assert Net(text, device="cpu", fills=False).params["py"]["blob1"].shape == (1 << 40,)
    with pytest.raises(BackendError, match="'py': blob1 of shape .* does not fit into memory"):
        Net(text, device="cpu")
