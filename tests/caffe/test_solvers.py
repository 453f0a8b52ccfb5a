"""Solvers by pycaffe's names, as Caffe's notebooks use them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import minidrop.caffe as caffe
from minidrop.caffe import layers as L
from minidrop.caffe import params as P
from minidrop.errors import ConfigError, NonFiniteError

SOLVER = 'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 20 random_seed: 1 display: 0 '


def written(name, text):
    Path(name).write_text(str(text))
    return name


def digits(name, records=12, seed=0):
    """An HDF5 source of images (1, 8, 8) of three classes, each a bright stripe at its place, and a list."""
    rng = np.random.default_rng(seed)
    label = np.arange(records) % 3
    data = rng.standard_normal((records, 1, 8, 8)) * 0.1
    for i, place in enumerate(label):
        data[i, 0, 2 * place] += 1
    with h5py.File(f"{name}.h5", "w") as file:
        file["data"], file["label"] = data.astype("f4"), label.astype("f4")
    return written(f"{name}.txt", f"{name}.h5\n")


def lenet(source, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=source, ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=4, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=10, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=3, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


@pytest.fixture
def solver_file():
    train, test = digits("train"), digits("test", seed=1)
    written("train.prototxt", lenet(train, 4))
    written("test.prototxt", lenet(test, 6))
    s = caffe.proto.caffe_pb2.SolverParameter()
    s.train_net = "train.prototxt"
    s.test_net.append("test.prototxt")
    s.test_interval, s.max_iter, s.base_lr, s.momentum, s.lr_policy = 500, 20, 0.1, 0.9, "fixed"
    s.test_iter.append(2)
    s.test_initialization, s.random_seed, s.snapshot_prefix = False, 1, "lenet"
    s.solver_mode = s.GPU
    return written("solver.prototxt", s)


def test_learning_lenet(solver_file):
    caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    assert [(k, v.data.shape) for k, v in solver.net.blobs.items()][:3] == [
        ("data", (4, 1, 8, 8)), ("label", (4,)), ("conv1", (4, 4, 6, 6))]
    assert [(k, v[0].data.shape) for k, v in solver.net.params.items()] == [
        ("conv1", (4, 1, 3, 3)), ("fc1", (10, 36)), ("score", (3, 10))]
    solver.net.forward()
    out = solver.test_nets[0].forward()
    assert out["loss"].shape == ()
    assert solver.net.blobs["label"].data[:8].tolist() == [0, 1, 2, 0]
    solver.step(1)
    assert solver.net.blobs["label"].data.tolist() == [1, 2, 0, 1]        # the next batch
    assert solver.net.params["conv1"][0].diff[:, 0].reshape(2, 2, 3, 3).any()
    losses, correct = [], 0
    for it in range(19):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
        solver.test_nets[0].forward(start="conv1")
        assert solver.test_nets[0].blobs["score"].data[:8].shape == (6, 3)
        assert solver.test_nets[0].blobs["label"].data.tolist() == [0, 1, 2, 0, 1, 2]
        if it == 18:
            for _ in range(2):
                solver.test_nets[0].forward()
                correct += sum(solver.test_nets[0].blobs["score"].data.argmax(1)
                               == solver.test_nets[0].blobs["label"].data)
    assert solver.iter == 20 and losses[-1] < losses[0] / 2 and correct == 12


def test_a_step_equals_the_loop_by_hand(solver_file):
    solver, own = caffe.SGDSolver(solver_file), caffe.SGDSolver(solver_file)
    for _ in range(3):
        solver.step(1)
        own.net.clear_param_diffs()
        own.net.forward()
        own.net.backward()
        before = own.net.params["fc1"][0].diff.copy()
        own.apply_update()
    np.testing.assert_allclose(solver.net.params["fc1"][0].diff, before, rtol=1e-5, atol=1e-8)
    for name, blobs in solver.net.params.items():
        for place, blob in enumerate(blobs):
            np.testing.assert_allclose(own.net.params[name][place].data, blob.data, rtol=1e-5, atol=1e-7)
    assert (own.net.params["fc1"][0].data is own.core.test_nets[0].params["fc1"]["weight"].data)


def test_passes_added_up_by_hand_equal_iter_size(solver_file):
    written(solver_file, Path(solver_file).read_text() + "iter_size: 2\n")
    solver, own = caffe.SGDSolver(solver_file), caffe.SGDSolver(solver_file)
    solver.step(2)
    own.step(1)
    own.net.clear_param_diffs()
    for _ in range(2):
        own.net.forward()
        own.net.backward()
    own.apply_update()
    for name, blobs in solver.net.params.items():
        np.testing.assert_allclose(own.net.params[name][0].data, blobs[0].data, rtol=1e-5, atol=1e-7)
        assert not own.net.params[name][0].diff.any()
    assert own.iter == 1


def test_step_takes_whole_numbers(solver_file):
    solver = caffe.SGDSolver(solver_file)
    for steps in (1.5, "2", True):
        with pytest.raises(ConfigError, match="step: iterations: expected a whole number, got "):
            solver.step(steps)
    solver.step(-1)
    assert solver.iter == 0
    solver.step(np.int64(1))
    assert solver.iter == 1


def test_looking_on_changes_nothing(solver_file):
    plain, watched = caffe.SGDSolver(solver_file), caffe.SGDSolver(solver_file)
    plain.step(4)
    for _ in range(4):
        watched.step(1)
        assert watched.net.params["fc1"][0].diff.any() and watched.net.blobs["fc1"].data.any()
        watched.test_nets[0].forward()
    np.testing.assert_array_equal(plain.net.params["fc1"][0].data, watched.net.params["fc1"][0].data)


def test_a_step_leaves_the_gradients_of_blobs(solver_file):
    """Also with two passes a step, and where a drop leaves out units."""
    text = Path("train.prototxt").read_text()
    place = text.index("layer {", text.index('name: "relu1"'))
    written("train.prototxt", text[:place] + 'layer { name: "drop" type: "ApproxDropout" bottom: "fc1" top: '
            '"drop" approx_dropout_param { dropout_ratio: 0.5 } } ' + text[place:].replace(
                'bottom: "fc1"', 'bottom: "drop"'))
    written(solver_file, Path(solver_file).read_text() + "iter_size: 2\n")
    solver = caffe.SGDSolver(solver_file)
    solver.net.forward()
    solver.net.backward()
    seen = []
    for _ in range(2):
        solver.step(1)
        seen.append(solver.net.blobs["score"].diff.copy())
    names = "conv1", "fc1", "drop", "score"
    for name in names:
        blob = solver.net.blobs[name]
        assert blob.diff.shape == blob.data.shape and blob.diff.any() and blob.diff.flags.writeable, name
    assert (seen[0] != seen[1]).any()
    np.testing.assert_allclose(seen[1].sum(1), 0, atol=1e-6)        # of a softmax
    kept = solver.net.blobs["drop"].data.any(0)
    assert 0 < kept.sum() < 10 and not solver.net.blobs["fc1"].diff[:, ~kept].any()
    assert solver.net.blobs["loss"].diff == 1 and not solver.net.blobs["data"].diff.any()
    solver.net.backward()       # on what the blobs hold, with the weights of now
    assert solver.net.blobs["score"].diff.any()


def test_gradients_of_blobs_are_those_of_a_pass_by_hand(solver_file):
    solver, own = caffe.SGDSolver(solver_file), caffe.SGDSolver(solver_file)
    for _ in range(2):
        own.net.clear_param_diffs()
        own.net.forward()
        own.net.backward()
        solver.step(1)
        for name in ("score", "fc1", "conv1"):
            np.testing.assert_allclose(solver.net.blobs[name].diff, own.net.blobs[name].diff, rtol=1e-4,
                                       atol=1e-7, err_msg=name)
        own.apply_update()


def test_an_array_that_is_held_shows_what_later_passes_compute(solver_file):
    solver, other = caffe.SGDSolver(solver_file), caffe.SGDSolver(solver_file)
    held = {name: solver.net.blobs[name].data for name in ("data", "conv1", "fc1", "loss")}
    for number in range(4):
        for one in (solver, other):
            if number % 2:
                one.step(1)
            else:
                one.net.clear_param_diffs()
                one.net.forward()
                one.net.backward()
        for name, array in held.items():
            np.testing.assert_array_equal(array, other.net.blobs[name].data, err_msg=f"{name} {number}")
            assert solver.net.blobs[name].data is array
        for name, blobs in solver.net.params.items():
            np.testing.assert_array_equal(blobs[0].diff, other.net.params[name][0].diff)


def test_the_rule_of_the_class_counts_more_than_the_file(solver_file):
    text = Path(solver_file).read_text().replace("momentum: 0.9", "")
    written("plain.prototxt", text)
    for name in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
        settings = {"RMSProp": "rms_decay: 0.9", "AdaDelta": "momentum: 0.9", "Adam": "momentum: 0.9"}
        solver = getattr(caffe, f"{name}Solver")(written(f"{name}.prototxt", text + settings.get(name, "")))
        assert solver.param.type == name and solver.core.updater.rule is not None
        before = solver.net.params["score"][1].data.copy()
        solver.step(1)
        assert (solver.net.params["score"][1].data != before).any(), name
    assert caffe.get_solver("plain.prototxt").param.type == "SGD"


def test_solve_callbacks_and_snapshots(solver_file):
    solver = caffe.SGDSolver(solver_file)
    calls = []
    solver.add_callback(lambda: calls.append(("start", solver.iter)),
                        lambda: calls.append(("ready", solver.iter)))
    solver.step(2)
    assert calls == [("start", 0), ("ready", 0), ("start", 1), ("ready", 1)]
    path = solver.snapshot()
    solver.solve()
    assert solver.iter == 20 and calls[-2:] == [("start", 19), ("ready", 19)] and len(calls) == 40
    again = caffe.SGDSolver(solver_file)
    inside = again.net.params["fc1"][0].data.copy()
    again.restore(path)
    assert again.iter == 2 and (again.net.params["fc1"][0].data != inside).any()
    again.solve()
    np.testing.assert_array_equal(again.net.params["fc1"][0].data, solver.net.params["fc1"][0].data)
    third = caffe.SGDSolver(solver_file)
    third.solve(path)
    np.testing.assert_array_equal(third.net.params["fc1"][0].data, solver.net.params["fc1"][0].data)
    assert third.lr == pytest.approx(0.1)


@pytest.mark.parametrize("drop", ["", 'layer { name: "drop" type: "ApproxDropout" bottom: "fc1" top: "fc1" '
                                      'approx_dropout_param { dropout_ratio: 0.5 } } '])
def test_what_a_callback_writes_to_gradients_is_what_the_update_uses(solver_file, drop):
    text = Path("train.prototxt").read_text()
    place = text.index("layer {", text.index('name: "relu1"'))
    written("train.prototxt", text[:place] + drop + text[place:])
    solver = caffe.SGDSolver(solver_file)
    weight, fixed = solver.net.params["fc1"][0], solver.net.params["score"][0]
    before, kept, seen = weight.data.copy(), fixed.data.copy(), []

    def mask():
        seen.append(weight.diff.copy())
        weight.diff[:, 18:] = 0
        weight.diff[...] *= 0.5
        fixed.diff[...] = 0

    solver.add_callback(lambda: None, mask)
    solver.step(1)
    expected = np.concatenate([seen[0][:, :18] / 2, np.zeros((10, 18))], 1)
    assert expected.any() and seen[0][:, 18:].any()
    np.testing.assert_allclose(before - weight.data, 0.1 * expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(fixed.data, kept)
    np.testing.assert_allclose(weight.diff, expected, rtol=1e-6)
    before, history = weight.data.copy(), solver.core.updater.history["fc1/weight"][0].copy()
    weight.diff[...] = 1        # until a pass backward, or `clear_param_diffs`, it is what an update uses
    assert (weight.diff == 1).all()
    solver.apply_update()
    np.testing.assert_allclose(before - weight.data, 0.9 * history + 0.1, rtol=1e-3)
    solver.step(1)
    weight.diff[...] = 100
    solver.net.forward()
    solver.net.backward()
    assert (abs(weight.diff) < 50).all()
    weight.diff[...] = 1
    assert (solver.core.net.params["fc1"]["weight"].grad == 1).all()


def test_an_update_that_is_not_finite_is_refused(solver_file):
    solver = caffe.SGDSolver(solver_file)
    before = solver.net.params["fc1"][0].data.copy()
    solver.net.params["fc1"][0].diff[...] = np.nan
    with pytest.raises(NonFiniteError, match="gradient of fc1/weight"):
        solver.apply_update()
    np.testing.assert_array_equal(solver.net.params["fc1"][0].data, before)


def test_a_net_with_inputs_trains_on_what_they_hold():
    n = caffe.NetSpec()
    n.x = L.Input(shape=dict(dim=[4, 2]))
    n.y = L.Input(shape=dict(dim=[4, 1]))
    n.score = L.InnerProduct(n.x, num_output=1, weight_filler=dict(type="gaussian", std=0.1))
    n.loss = L.EuclideanLoss(n.score, n.y)
    written("net.prototxt", n.to_proto())
    solver = caffe.SGDSolver(written("s.prototxt", SOLVER + 'net: "net.prototxt"'))
    solver.net.blobs["x"].data[...] = [[0, 1], [1, 0], [1, 1], [0, 0]]
    solver.net.blobs["y"].data[:, 0] = [1, 2, 3, 0]
    solver.step(100)
    np.testing.assert_allclose(solver.net.params["score"][0].data, [[2, 1]], atol=0.05)
    solver.net.blobs["x"].reshape(2, 2)
    solver.net.blobs["y"].reshape(2, 1)
    solver.net.blobs["y"].data[...] = 3
    solver.step(150)
    assert float(solver.net.params["score"][1].data[0]) == pytest.approx(3, abs=0.1)


# -- fine-tuning ---------------------------------------------------------------------------------------------
def style_net(train, classes=3, learn_all=False, source=None):
    frozen, learned = [dict(lr_mult=0)] * 2, [dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]
    n = caffe.NetSpec()
    if source is None:
        n.data = L.DummyData(shape=dict(dim=[1, 1, 8, 8]))
    else:
        n.data, n.label = L.HDF5Data(batch_size=6, source=source, ntop=2)
    param = learned if learn_all else frozen
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=4, param=param,
                            weight_filler=dict(type="gaussian", std=0.3))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    drop = fc = L.InnerProduct(n.relu1, num_output=12, param=param, weight_filler=dict(type="xavier"))
    n.fc7 = fc
    if train:
        n.drop7 = drop = L.Dropout(fc, in_place=True)
    name = f"fc8_{classes}"
    fc8 = L.InnerProduct(drop, num_output=classes, param=learned, weight_filler=dict(type="xavier"))
    n.__setattr__(name, fc8)
    if not train:
        n.probs = L.Softmax(fc8)
    if source is not None:
        n.loss = L.SoftmaxWithLoss(getattr(n, name), n.label)
        n.acc = L.Accuracy(fc8, n.label)
    return written(f"net_{train}_{classes}_{source}.prototxt", n.to_proto())


def test_fine_tuning():
    source = digits("style")
    pretrained = caffe.Net(style_net(False, classes=7), caffe.TEST)
    pretrained.save("pretrained.caffemodel")
    text = SOLVER.replace("0.1", "0.05") + f'train_net: "{style_net(True, source=source)}"'
    solver, scratch = (caffe.get_solver(written("s.prototxt", text)) for _ in range(2))
    solver.net.copy_from("pretrained.caffemodel")
    losses = np.zeros((2, 12))
    for it in range(12):
        for number, one in enumerate((solver, scratch)):
            one.step(1)
            losses[number, it] = one.net.blobs["loss"].data.copy()
            assert 0 <= one.net.blobs["acc"].data <= 1
    assert losses[0, -1] < losses[0, 0]
    np.testing.assert_array_equal(solver.net.params["conv1"][0].data, pretrained.params["conv1"][0].data)
    assert (solver.net.params["conv1"][0].data != scratch.net.params["conv1"][0].data).any()
    solver.net.save("tuned.caffemodel")
    test = caffe.Net(style_net(False), "tuned.caffemodel", caffe.TEST)
    blob = test.blobs["data"]
    blob.data[0, ...] = solver.net.blobs["data"].data[0]
    probs = test.forward(start="conv1")["probs"][0]
    assert probs.sum() == pytest.approx(1) and probs.argmax() == solver.net.blobs["label"].data[0]


# -- brewing logistic regression -----------------------------------------------------------------------------
def logreg(hdf5, batch_size, hidden=False):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    x = n.data
    if hidden:
        n.ip1 = L.InnerProduct(n.data, num_output=8, weight_filler=dict(type="xavier"))
        n.relu1 = x = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(x, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip2, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


@pytest.mark.parametrize("hidden", [False, True])
def test_brewing_logreg(hidden):
    rng = np.random.default_rng(3)
    data = rng.standard_normal((40, 4)).astype("f4")
    with h5py.File("train.h5", "w") as file:
        file["data"], file["label"] = data, (data[:, 0] > data[:, 1]).astype("f4")
    with open("train.txt", "w") as file:
        file.write("train.h5\ntrain.h5\n")
    written("logreg.prototxt", logreg("train.txt", 10, hidden))
    s = SOLVER + 'train_net: "logreg.prototxt" test_net: "logreg.prototxt" test_iter: 4 test_interval: 10'
    solver = caffe.get_solver(written("s.prototxt", s))
    solver.step(20)
    accuracy = 0
    for _ in range(8):
        solver.test_nets[0].forward()
        accuracy += solver.test_nets[0].blobs["accuracy"].data
    assert accuracy / 8 > 0.85


def test_lenet_reads_a_database_of_datums():
    lmdb = pytest.importorskip("lmdb", reason="needs lmdb")
    rng = np.random.default_rng(0)
    with lmdb.open("digits_lmdb", map_size=1 << 24) as database, database.begin(write=True) as put:
        for i in range(8):
            pixels = rng.integers(0, 256, (1, 8, 8), np.uint8)
            put.put(f"{i:08}".encode(), caffe.io.array_to_datum(pixels, i % 3).SerializeToString())
    n = caffe.NetSpec()
    n.data, n.label = L.Data(batch_size=4, backend=P.Data.LMDB, source="digits_lmdb",
                             transform_param=dict(scale=1. / 255), ntop=2)
    n.score = L.InnerProduct(n.data, num_output=3, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    written("net.prototxt", n.to_proto())
    solver = caffe.SGDSolver(written("s.prototxt", SOLVER + 'net: "net.prototxt"'))
    solver.step(2)
    np.testing.assert_allclose(solver.net.blobs["data"].data[3], pixels / 255, rtol=1e-6)
    assert solver.net.blobs["label"].data.tolist() == [1, 2, 0, 1]


def test_averages_and_early_stopping(solver_file):
    """apply_update counts as an update, which the averages follow; step ends where the tests say so."""
    text = Path(solver_file).read_text()
    solver = caffe.get_solver(written("ema.prototxt", f"{text} ema_decay: 0.5"))
    weight = solver.net.params["score"][0]
    weight.data[...] = 2.0
    before = weight.data.copy()
    for _ in range(2):
        solver.net.forward()
        solver.net.backward()
        solver.apply_update()
    assert solver.core.ema.updates == 2
    first = solver.core.ema.averages["score/weight"]
    assert np.abs(first - weight.data).max() > 0 and np.abs(first - before).max() < 1
    early = 'test_interval: 3 early_stopping { metric: "loss" mode: MIN min_delta: 99 patience: 2 }'
    stopped = caffe.get_solver(written("early.prototxt", text.replace("test_interval: 500", early)))
    stopped.step(20)
    assert stopped.iter == 9         # tests at 3, 6 and 9


def with_inputs(name):
    """A solver of three rows a record, with a Flatten; and fresh inputs for it."""
    text = ('force_backward: true layer { name: "in" type: "Input" top: "x" top: "label" input_param { '
            'shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 } } } layer { name: "ip" type: "InnerProduct" '
            'bottom: "x" top: "ip" inner_product_param { axis: 2 num_output: 2 weight_filler { '
            'type: "xavier" } } } layer { name: "flat" type: "Flatten" bottom: "ip" top: "flat" } '
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "flat" bottom: "label" top: "loss" }')
    rest = 'lr_policy: "fixed" max_iter: 20 random_seed: 1 display: 0'
    solver = caffe.SGDSolver(written(name, f"net_param {{ {text} }} base_lr: 0 {rest}"))
    return solver, np.random.default_rng(0).normal(size=(2, 4, 2, 3))


def test_a_step_leaves_the_gradient_of_an_input():
    solver, (x, other) = with_inputs("input.prototxt")
    for values in (x, other):
        solver.net.blobs["x"].data[...] = values
        solver.step(1)
    found = solver.net.blobs["x"].diff.copy()
    solver.net.forward()
    solver.net.backward()
    np.testing.assert_allclose(found, solver.net.blobs["x"].diff, rtol=1e-6)
    assert np.abs(found).max() > 0.01


def test_a_row_of_a_blob_shows_a_step():
    """Also where the blob is a view itself, as what a Flatten gives is."""
    solver, (x, other) = with_inputs("input.prototxt")
    blobs = solver.net.blobs
    blobs["x"].data[...] = x
    solver.net.forward()
    rows = {name: blobs[name].data[1] for name in ("x", "ip", "flat")}
    before = {name: row.copy() for name, row in rows.items()}
    blobs["x"].data[...] = other
    solver.step(1)
    for name, row in rows.items():
        np.testing.assert_array_equal(row, blobs[name].data[1])
        assert (row != before[name]).all()
