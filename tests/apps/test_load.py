"""md.load: nets made of one file alone, what those files hold, and files that are damaged or hostile."""

import base64
import json
from io import BytesIO

import h5py
import numpy as np
import pytest
from nets import inputs, ip, layer, net_of

import minidrop as md
from minidrop.config import parse_net
from minidrop.errors import ConfigError, SnapshotError
from minidrop.snapshot import Snapshot, read_snapshot, write_snapshot

NET = """name: "n\u00e4t"
layer { name: "data" type: "MemoryData" top: "data" top: "label" transform_param { scale: 0.1 crop_size: 2 }
        memory_data_param { batch_size: 4 channels: 3 height: 3 width: 3 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" relu_param { negative_slope: 0.1 } }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1"
        approx_dropout_param { dropout_ratio: 0.3 } }
layer { name: "norm" type: "BatchNorm" bottom: "ip1" top: "norm" }
layer { name: "ip2" type: "InnerProduct" bottom: "norm" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
        include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = 'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 4 random_seed: 3 ema_decay: 0.5\n'
ENDINGS = ("h5", "caffemodel.h5", "safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def needs(ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors", reason="of the extra `safetensors`")


def records(count=10):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 3, 3, 3)).astype(np.float32), rng.integers(0, 3, count)


def trained(solver_text=SOLVER, net=NET):
    """A Solver after a few iterations, with a test net."""
    with open("net.prototxt", "w", encoding="utf-8") as file:
        file.write(net)
    with open("solver.prototxt", "w") as file:
        file.write('net: "net.prototxt" test_iter: 1 test_interval: 100 ' + solver_text)
    solver = md.Solver.from_file("solver.prototxt", device="cpu")
    for net in (solver.net, *solver.test_nets):
        net.set_input_arrays(*records(8))
    solver.step(4)
    return solver


def parameters(net):
    return {name: parameter.data for name, parameter in net.parameters().items()}


def assert_same(a, b, dtype):
    a, b = parameters(a), parameters(b)
    assert list(a) == list(b)
    for name, array in a.items():
        assert array.dtype == b[name].dtype == dtype and array.tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_net_comes_back_to_the_last_bit(ending, dtype):
    needs(ending)
    net = md.Net(parse_net(NET), device="cpu", dtype=dtype, seed=1)
    net.save(f"net.{ending}")
    x, label = records()
    found = md.load(f"net.{ending}", device="cpu")
    assert found.phase == "TEST" and [layer.type for layer in found.config.message.layer][0] == "Input"
    assert_same(net, found, dtype)
    assert found.predict(x).tobytes() == net.predict(x).tobytes()
    assert (found.predict(x, outputs="ip1") != net.predict(10 * x, outputs="ip1")).any()
    # forward takes what is behind the transform, of any batch size, and the losses are there.
    inside = np.float32(0.1) * x[:, :, :2, :2]
    assert np.isfinite(float(found.forward(data=inside, label=label)["loss"]))
    # What was loaded is saved and loaded again, and goes on training.
    found.save(f"again.{ending}")
    again = md.load(f"again.{ending}", phase="TRAIN", device="cpu")
    assert_same(net, again, dtype)
    again.forward(data=inside, label=label)
    again.backward()
    assert np.abs(again.params["ip1"]["weight"].grad).max() > 0
    other = "float64" if dtype == "float32" else "float32"
    assert md.load(f"net.{ending}", device="cpu", dtype=other).dtype == other


def test_a_snapshot_is_enough():
    solver, (x, _) = trained(), records()
    path = solver.snapshot("run.h5")
    wanted = solver.test_nets[0]
    for name in ("net.prototxt", "solver.prototxt"):
        (path.parent / name).unlink()
    found = md.load(path, device="cpu")
    assert_same(wanted, found, "float32")
    assert "accuracy" in found.layers           # the definition is that of the net that is tested
    assert found.predict(x).tobytes() == wanted.predict(x).tobytes()
    averages = read_snapshot(path).arrays["ema/ip1/weight"]
    assert (md.load(path, device="cpu", ema=True).params["ip1"]["weight"].data == averages).all()
    assert not (averages == found.params["ip1"]["weight"].data).all()


def test_other_readers_pass_over_the_definition(folder):
    net = md.Net(parse_net(NET), device="cpu", seed=1)
    net.save("net.h5")
    with h5py.File("net.h5") as file:
        assert list(file) == ["data"] and sorted(file.attrs) == ["deploy", "dtype"]
    safetensors = pytest.importorskip("safetensors.numpy", reason="of the extra `safetensors`")
    net.save("net.safetensors")
    assert set(safetensors.load_file("net.safetensors")) == {name.replace("/", ".")
                                                             for name in net.parameters()}


def test_modules_are_nets():
    module = md.nn.Sequential(md.nn.Linear(6, 4), md.nn.ReLU(), md.nn.ApproxDropout(0.5), md.nn.Linear(4, 2))
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    wanted = module.eval()(x).numpy()
    module.net_for(x).save("module.h5")
    found = md.load("module.h5", device="cpu")
    assert found.predict(x).tobytes() == wanted.tobytes()
    odd = md.nn.Sequential(md.nn.Linear(6, 4), md.nn.Lambda(lambda x: x * 2))
    odd.net_for(x).save("odd.h5")
    with pytest.raises(ConfigError, match="odd.h5: deploy:.*which no file can hold"):
        md.load("odd.h5", device="cpu")


@pytest.mark.parametrize("ending", ["h5", "safetensors", "snapshot.h5"])
def test_a_mean_file_comes_along(ending, folder):
    """The definition holds the mean itself, of records before cropping; its file is not read again."""
    needs(ending)
    mean = np.random.default_rng(1).normal(size=(3, 3, 3)).astype("float32")
    np.save(folder / "mean.npy", mean)
    text = NET.replace("scale: 0.1", 'scale: 0.1 mean_file: "mean.npy"')
    x, _ = records()
    if ending == "snapshot.h5":
        solver = trained(net=text)
        solver.snapshot("run.snapshot.h5")
        net, path = solver.test_nets[0], "run.snapshot.h5"
    else:
        net, path = md.Net(parse_net(text), device="cpu", seed=1), f"net.{ending}"
        net.save(path)
    wanted, without = net.predict(x), md.Net(parse_net(NET), device="cpu", seed=1)
    np.save(folder / "mean.npy", 0 * mean)
    (folder / "mean.npy").unlink()
    found = md.load(path, device="cpu")
    assert found.predict(x).tobytes() == wanted.tobytes() != without.predict(x).tobytes()
    found.save("again.h5")
    assert md.load("again.h5", device="cpu").predict(x).tobytes() == wanted.tobytes()
    with pytest.raises(ConfigError, match=r"mean_data: expected a mean of shape \(3, 4, 4\)"):
        found.predict(np.zeros((2, 3, 4, 4), "f"))


def test_the_mean_is_the_one_that_the_net_has_trained_with(folder):
    """Whatever has become of its file since."""
    mean = np.random.default_rng(1).normal(size=(3, 3, 3)).astype("float32")
    text = NET.replace("scale: 0.1", 'mean_file: "mean.npy"')
    np.save("mean.npy", mean)
    net = md.Net(parse_net(text), device="cpu", seed=1)
    wanted, x = net.predict(records()[0]), records()[0]
    for change in (lambda: np.save("mean.npy", mean + 1), lambda: (folder / "mean.npy").unlink()):
        change()
        net.save("net.h5")
        assert md.load("net.h5", device="cpu").predict(x).tobytes() == wanted.tobytes()


def test_a_mean_file_that_is_gone_or_too_large(folder, caplog):
    """Weights are saved all the same."""
    np.save("mean.npy", np.ones((3, 3, 3), "f"))
    settings = 'transform_param { mean_file: "mean.npy" } input_param'
    text = inputs((2, 3, 3, 3)).replace("input_param", settings) + ip("ip1", "a", 4)
    (folder / "mean.npy").unlink()      # which an Input layer does not read before it predicts
    net = net_of(text, dtype="float32")
    net.save("net.h5")
    assert "cannot be loaded by itself (md.load), as it names a mean_file" in caplog.text
    with pytest.raises(SnapshotError, match="names a file .mean_file: 'mean.npy'"):
        md.load("net.h5", device="cpu")
    assert net_of(text, dtype="float32").load_weights("net.h5").copied
    np.save("mean.npy", np.ones((1, 1000, 1000), "f"))
    text = inputs((2, 1, 1000, 1000)).replace("input_param", settings)
    net_of(text + layer("Reduction", "sum", "a"), dtype="float32").save("large.h5")
    assert "the mean is too large" in caplog.text


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_modules_need_no_more_than_before(kind):
    """Nothing but x is asked for, of fewer steps, too, and each pass begins anew."""
    module = md.nn.Sequential(getattr(md.nn, kind)(5, 4), md.nn.ApproxDropout(0.5), md.nn.Linear(4, 2)).eval()
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(*shape, 5)).astype("f") for shape in ((6, 3), (4, 3)))
    wanted = [module(x).numpy() for x in (first, second, first)]
    module.net_for(first).save("net.h5")
    found = md.load("net.h5", device="cpu")
    assert found.inputs == ["x"]
    for x, y in zip((first, second, first), wanted, strict=True):
        np.testing.assert_allclose(found.forward(x=x)[found.outputs[0]].numpy(), y, rtol=1e-6)
    # A Solver's net, which carries states on, too.
    data = md.data.ArrayDataset(first, np.zeros((6, 3), "int32"))
    loader = md.data.DataLoader(data, 6)
    rule = md.optim.SGD(module.parameters(), lr=0.1)
    solver = md.Solver.of(module.train(), lambda y, t: (y * y).mean(), rule, loader, max_iter=2)
    solver.solve()
    found, wanted = md.load(solver.snapshot("run.h5"), device="cpu"), module.eval()(first).numpy()
    for _ in range(2):
        np.testing.assert_allclose(found.forward(x=first)[found.outputs[0]].numpy(), wanted, rtol=1e-6)


def test_states_to_begin_with_come_along():
    class Decoder(md.nn.Module):
        def __init__(self):
            self.lstm = md.nn.LSTM(5, 4)

        def forward(self, x):
            _, (_, c) = self.lstm(x, return_state=True)
            return c
    module = Decoder().eval()
    x = np.random.default_rng(0).normal(size=(6, 3, 5)).astype("f")
    module.net_for(x).save("net.h5")
    found = md.load("net.h5", device="cpu")
    assert found.inputs == ["x"]
    for part in (x, x[:2]):
        np.testing.assert_allclose(found.forward(x=part)[found.outputs[0]].numpy(), module(part).numpy(),
                                   rtol=1e-6)


def test_losses_and_metrics_that_are_functions():
    """No file can hold them: the definition has what they judge, without the targets that they alone read."""
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    loader = md.data.DataLoader(md.data.ArrayDataset(x, np.arange(8) % 3), 4)
    for loss, metrics, given in (
            (lambda scores, label: md.functions.cross_entropy(scores, label), {}, ["x"]),
            (md.nn.CrossEntropyLoss(), {"sure": lambda scores, label: scores.max(axis=1).mean()},
             ["x", "target"])):
        module = md.nn.Sequential(md.nn.Linear(6, 4), md.nn.ReLU(), md.nn.Linear(4, 3))
        solver = md.Solver.of(module, loss, md.optim.SGD(module.parameters(), lr=0.1), loader, loader,
                              metrics=metrics, max_iter=2)
        solver.step(2)
        solver.net.save("net.h5")
        wanted = module.eval()(x)
        for path in (solver.snapshot("run.h5"), "net.h5"):
            found = md.load(path, device="cpu")
            probability = wanted if len(given) == 1 else wanted.softmax(1)
            np.testing.assert_allclose(found.predict(x), probability.numpy(), rtol=1e-6)
            assert found.inputs == given and "sure" not in found.layers
        module.train()


def test_shared_weights_and_texts():
    share = 'param { name: "w" }'
    text = inputs((4, 3)) + ip("one", "a", 3, "bias_term: false", share) + ip("two", "one", 3,
                                                                              "bias_term: false", share)
    net = net_of(text, seed=1)
    net.save("net.h5")
    found = md.load("net.h5", device="cpu")
    assert found.params["one"]["weight"] is found.params["two"]["weight"]
    assert_same(net, found, "float64")


# -- files that do not do ------------------------------------------------------------------------------------
def rewritten(path, **attributes):
    """Give net.h5 (anew), a .safetensors or a snapshot other attributes; None takes one away."""
    net = md.Net(parse_net(NET), device="cpu", seed=1)
    if path.endswith(".snapshot.h5"):
        solver = trained()
        solver.snapshot(path)
        snapshot = read_snapshot(path)
        attrs = {name: value for name, value in {**snapshot.attrs, **attributes}.items() if value is not None}
        write_snapshot(path, Snapshot(snapshot.arrays, attrs))
        return
    net.save(path)
    if path.endswith(".h5"):
        with h5py.File(path, "r+") as file:
            for name, value in attributes.items():
                del file.attrs[name]
                if value is not None:
                    file.attrs.create(name, np.bytes_(value.encode()))
        return
    content = open(path, "rb").read()
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8:8 + size])
    own = {**json.loads(head["__metadata__"]["minidrop"]), **attributes}
    head["__metadata__"]["minidrop"] = json.dumps({name: value for name, value in own.items()
                                                   if value is not None})
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + content[8 + size:])


FILES = ("net.h5", "net.safetensors", "run.snapshot.h5")


@pytest.mark.parametrize("path", FILES)
def test_without_a_definition(path):
    needs(path.rsplit(".")[-1])
    rewritten(path, deploy=None)
    with pytest.raises(SnapshotError, match=r"not the definition of their net.*md\.Net\(\"net\.prototxt\"\)"
                                            r"\.load_weights\('" + path):
        md.load(path, device="cpu")
    assert md.Net(parse_net(NET), device="cpu").load_weights(path).copied    # as before


def test_a_caffemodel_and_no_file():
    md.Net(parse_net(NET), device="cpu").save("net.caffemodel")
    with pytest.raises(SnapshotError, match="net.caffemodel: holds weights, but not the definition"):
        md.load("net.caffemodel")
    with pytest.raises(SnapshotError, match="none.h5: there is no such file"):
        md.load("none.h5")


def test_what_holds_no_weights_is_not_said_to(tmp_path):
    for name, content, said in (("junk.h5", b"\xff\x00junk", "is no minidrop snapshot and no .caffemodel"),
                                ("net.prototxt", NET.encode(), "is it the network's description"),
                                ("empty.h5", b"", "no minidrop snapshot")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnapshotError, match=said):
            md.load(tmp_path / name)


def npy(array):
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_data(content):
    """Return bytes, or an array as a .npy file, in base64."""
    return base64.b64encode(content if isinstance(content, bytes) else npy(content)).decode()


BODY = NET[NET.index('layer { name: "ip1"'):]
INPUT = 'layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 4 dim: 12 }' \
        ' shape { dim: 4 } } %s }\n'
HOSTILE = {
    "reads data": 'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
                  'hdf5_data_param { source: "/etc/passwd" batch_size: 4 } }\n' + BODY,
    r"names a file \(mean_file: 'secret'\)": INPUT % 'transform_param { mean_file: "secret" }' + BODY,
    r"names a file \(file_name: 'taken.h5'\)": INPUT % "" + BODY + (
        'layer { name: "out" type: "HDF5Output" bottom: "ip2" bottom: "label" '
        'hdf5_output_param { file_name: "taken.h5" } }'),
    **{message: INPUT % f'transform_param {{ mean_data: "{data}" {more} }}' + BODY
       for message, data, more in (
        ("mean_data: expected a .npy file in base64", "?", ""),
        ("mean_data: expected a .npy file of numbers, got another kind", as_data(b"junk"), ""),
        ("mean_data: expected a .npy file of numbers, got entries of object", as_data(np.array([None])), ""),
        ("expected 108 bytes for the shape .* got 104", as_data(npy(np.ones((3, 3, 3), "f"))[:-4]), ""),
        (r"expected the mean of records that become \(12,\), got one of shape \(3, 3, 3\)",
         as_data(np.ones((3, 3, 3), "f")), ""),
        ("mean_data and mean_value are both given", as_data(np.ones(12, "f")), "mean_value: 1"))},
    "imports the module": INPUT % "" + BODY + (
        'layer { name: "p" type: "Python" bottom: "ip2" top: "p" python_param { module: "os" layer: "x" } }'),
    "'weights' belongs to a solver file": 'weights: "x"\n' + INPUT % "" + BODY,
    "unknown layer type 'Evil'|no layer type 'Evil'|'Evil'": (INPUT % "" + BODY).replace('"ReLU"', '"Evil"'),
    "more than the .* bytes of the file": INPUT % "" + BODY.replace("num_output: 8", "num_output: 2000000"),
    "expects": INPUT % "" + BODY.replace("num_output: 8", "num_output: 9"),
    "no weights for more/weight": INPUT % "" + BODY + (
        'layer { name: "more" type: "InnerProduct" bottom: "ip2" top: "z" '
        'inner_product_param { num_output: 1 } }'),
    "expected at most 4194304 bytes": "#" * (4 << 20) + "\n" + INPUT % "" + BODY,
    "deploy:1": "layer { name: ",
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_definitions(folder, message):
    path = "net.h5"
    rewritten(path, deploy=HOSTILE[message])
    before = sorted(one.name for one in folder.iterdir())
    with pytest.raises((SnapshotError, ConfigError), match=message) as caught:
        md.load(path, device="cpu")
    assert path in str(caught.value)
    assert sorted(one.name for one in folder.iterdir()) == before


def test_python_layers_are_refused_where_they_are_allowed_too(monkeypatch):
    from minidrop.layers import allow_python
    before = allow_python()
    try:
        rewritten("net.h5", deploy=HOSTILE["imports the module"])
        with pytest.raises(SnapshotError, match="imports the module"):
            md.load("net.h5", device="cpu")
    finally:
        allow_python(before)


def test_attributes_of_other_kinds(folder):
    rewritten("net.h5")
    for value in (3, "of variable length", np.arange(3)):
        with h5py.File("net.h5", "r+") as file:
            del file.attrs["deploy"]
            file.attrs["deploy"] = value
        with pytest.raises(SnapshotError, match="net.h5"):
            md.load("net.h5", device="cpu")
    rewritten("net.h5", dtype="float16")
    with pytest.raises(ConfigError, match="float16"):
        md.load("net.h5", device="cpu")


@pytest.mark.parametrize("path", FILES)
def test_damaged_files(path):
    needs(path.rsplit(".")[-1])
    rewritten(path)
    with open(path, "rb") as file:
        content = file.read()
    rng = np.random.default_rng(0)
    cuts = [0, 1, 7, 100, *rng.integers(0, len(content), 3).tolist()]
    for cut in cuts:
        with open(path, "wb") as file:
            file.write(content[:cut])
        with pytest.raises((SnapshotError, ConfigError)):
            md.load(path, device="cpu")
