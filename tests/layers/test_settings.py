"""What each layer says of wrong settings and shapes; and that no layer is forgotten by the tests."""

import copy
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from cases import in_turn
from nets import inputs, numbers

import minidrop.layers
from minidrop import ConfigError, Net, ShapeError, Tensor
from minidrop.config import parse_net
from minidrop.data import ArrayDataset, DataLoader, LoaderBatches
from minidrop.functions import add, multiply
from minidrop.layers import Layer, layer_class, register_layer


def test_every_layer_type_is_tested():
    """A layer file needs at least one net text with its type in this folder, or in what its tests share."""
    tested, here = set(), Path(__file__).parent
    for path in (*here.glob("test_*.py"), here.parent / "recurrent_layers.py"):
        tested |= set(re.findall(r'(?:type: |text\()"(\w+)"', path.read_text(encoding="utf-8")))
    for module in pkgutil.iter_modules(minidrop.layers.__path__):
        for value in vars(getattr(minidrop.layers, module.name)).values():
            if isinstance(value, type) and issubclass(value, Layer) and value.type:
                assert value.type in tested, f"no test names layer type {value.type}"


def test_a_type_is_registered_once():
    with pytest.raises(ValueError, match="^layer type 'ReLU' is registered twice: by <class .*ReLU'> and "
                       "<class .*Other'>$"):
        register_layer("ReLU")(type("Other", (Layer,), {}))
    assert layer_class("ReLU").type == "ReLU"


def net_of(layer, *shapes):
    inputs = [f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
              f'{" ".join(f"dim: {n}" for n in shape)} }} }} }}'
              for name, shape in zip("abcdef", shapes, strict=False)]
    return Net(parse_net("\n".join([*inputs, layer]), "net.prototxt"), device="cpu")


def text(kind, settings="", bottoms="a", tops="y"):
    blobs = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
    return f'layer {{ name: "l" type: "{kind}" {blobs} {settings} }}'


M, IMAGES = (3, 4), (2, 3, 4, 5)
MISTAKES = [
    (text("InnerProduct"), [M], "inner_product_param needs num_output, at least 1"),
    (text("AttentionDecoder", bottoms="abc"), [IMAGES[:3], (5, 3, 2), (5, 3)],
     "decoder_param needs num_output, at least 1"),
    (text("AttentionDecoder", "decoder_param { num_output: 2 }", "abc"), [IMAGES[:3], (5, 2, 2), (5, 3)],
     "expected x (steps, streams, inputs), memory (places, streams, entries) and mask (places, streams), got "
     "(2, 3, 4), (5, 2, 2) and (5, 3)"),
    (text("AttentionDecoder", "decoder_param { num_output: 7 score: DOT }", "abc"),
     [IMAGES[:3], (5, 3, 2), (5, 3)], "score: DOT needs a memory of 7 entries, one for each unit, got 2; set "
     "score: GENERAL, or num_output: 2"),
    (text("InnerProduct", "inner_product_param { num_output: 2 axis: 2 }"), [M],
     "axis 2 does not exist: the bottom has 2 axes"),
    (text("InnerProduct", "inner_product_param { num_output: 2 axis: -2 }"), [M], "axis 0 is the batch; "
     "expected 1 or more"),
    (text("InnerProduct", "inner_product_param { num_output: 2 }"), [(3, 0)],
     "bottom of shape (3, 0) has no features from axis 1 on"),
    (text("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "xaver" } }'), [M],
     "weight_filler: unknown filler 'xaver'; did you mean 'xavier'? (known fillers: bilinear, constant, "
     "gaussian, msra, positive_unitball, uniform, xavier)"),
    (text("InnerProduct", 'inner_product_param { num_output: 2 bias_filler { type: "gaussian" sparse: 1 } }'),
     [M], "bias_filler: a sparse gaussian filler needs a matrix, got shape (2,)"),
    (text("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "msra" sparse: 1 } }'),
     [M], "weight_filler: filler 'msra' has no `sparse`; only gaussian has"),
    (text("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "uniform" min: 2 max: 1 '
          '} }'), [M],
     "weight_filler: uniform filler: min 2 is above max 1"),
    (text("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: -1 } }'),
     [M], "weight_filler: filler: std must not be negative, got -1"),
    (text("Dropout", "dropout_param { dropout_ratio: 1 }"), [M], "dropout_ratio must lie in [0, 1), got 1"),
    (text("Dropout", "dropout_param { dropout_ratio: -0.1 }"), [M], "dropout_ratio must lie in [0, 1), got "
     "-0.1"),
    (text("Dropout", "dropout_param { axes: 2 }"), [M], "axes: 2 does not exist: the bottom has 2 axes"),
    (text("Dropout", "dropout_param { axes: -3 }"), [M], "axes: -3 does not exist: the bottom has 2 axes"),
    (text("Dropout", "dropout_param { axes: 1 axes: -3 }"), [IMAGES], "axes [1, -3] name axis 1 twice; name "
     "it once"),
    (text("Dropout", "dropout_param { axes: 0 shared: true }"), [M], "axes [0] and shared name axis 0 twice; "
     "name it once"),
    (text("Dropout", "dropout_param { shared: true }"), [()], "shared: axis 0 does not exist: the bottom has "
     "0 axes"),
    (text("Dropout", "dropout_param { axes: 0 axes: -1 }"), [M],
     "axes [0, -1]: that is every axis of the bottom, so one draw would drop everything or nothing; leave "
     "one out"),
    (text("Dropout", "dropout_param { axes: 1 shared: true }"), [M],
     "axes [1] and shared: that is every axis of the bottom, so one draw would drop everything or nothing; "
     "leave one out"),
    (text("Dropout", "dropout_param { shared: true }"), [(3,)],
     "shared: that is every axis of the bottom, so one draw would drop everything or nothing; leave one out"),
    (text("GaussianDropout", "dropout_param { dropout_ratio: 1 }"), [M], "dropout_ratio must lie in [0, 1), "
     "got 1"),
    (text("GaussianDropout", "dropout_param { axes: 1 }"), [M],
     "axes and shared are settings of Dropout; GaussianDropout has no use for them"),
    (text("DropConnect", "inner_product_param { num_output: 2 } dropout_param { dropout_ratio: -0.5 }"), [M],
     "dropout_ratio must lie in [0, 1), got -0.5"),
    (text("DropConnect", "inner_product_param { num_output: 2 } dropout_param { shared: true }"), [M],
     "axes and shared are settings of Dropout; DropConnect has no use for them"),
    (text("DropConnect", "dropout_param { dropout_ratio: 0.5 }"), [M], "inner_product_param needs "
     "num_output, at least 1"),
    (text("DropConnect", "inner_product_param { num_output: 2 axis: 2 }"), [M],
     "axis 2 does not exist: the bottom has 2 axes"),
    (text("DropConnect", 'inner_product_param { num_output: 2 weight_filler { type: "xaver" } }'), [M],
     "weight_filler: unknown filler 'xaver'; did you mean 'xavier'? (known fillers: bilinear, constant, "
     "gaussian, msra, positive_unitball, uniform, xavier)"),
    (text("ApproxDropout"), [(3,)], "ApproxDropout drops features, but the bottom of shape (3,) has only a "
     "batch axis"),
    (text("Softmax", "softmax_param { axis: 2 }"), [M], "axis 2 does not exist: the bottom has 2 axes"),
    (text("SoftmaxWithLoss", "softmax_param { axis: -3 }", "ab"), [M, (3,)], "axis -3 does not exist: the "
     "bottom has 2 axes"),
    (text("SoftmaxWithLoss", "", "ab"), [M, (4,)],
     "scores of shape (3, 4) (classes on axis 1) need 3 labels, but the label blob has shape (4,)"),
    (text("Accuracy", "", "ab"), [IMAGES, (2,)],
     "scores of shape (2, 3, 4, 5) (classes on axis 1) need 40 labels, but the label blob has shape (2,)"),
    (text("Accuracy", "accuracy_param { top_k: 5 }", "ab"), [M, (3,)],
     "top_k must lie in 1..4, the number of classes, got 5"),
    (text("Accuracy", "accuracy_param { top_k: 0 }", "ab"), [M, (3,)],
     "top_k must lie in 1..4, the number of classes, got 0"),
    (text("Embed", "embed_param { input_dim: 5 }"), [M], "embed_param needs num_output, at least 1"),
    (text("Embed", "embed_param { num_output: 5 }"), [M], "embed_param needs input_dim, at least 1"),
    (text("Perplexity", "softmax_param { axis: 2 }", "ab"), [M, (3,)], "axis 2 does not exist: the bottom "
     "has 2 axes"),
    (text("Perplexity", "", "ab"), [M, (4,)],
     "scores of shape (3, 4) (classes on axis 1) need 3 labels, but the label blob has shape (4,)"),
    (text("EuclideanLoss", "", "ab"), [M, (4, 3)], "expected bottoms with one batch size and as many values, "
     "got (3, 4) and (4, 3)"),
    (text("SigmoidCrossEntropyLoss", "", "ab"), [M, (4, 4)], "bottoms of one size expected, got (3, 4) and "
     "(4, 4)"),
    (text("Concat", "", "ab"), [M, (2, 4)], "bottoms may differ on axis 1 only, got (3, 4), (2, 4)"),
    (text("Concat", "", "ab"), [M, (3, 4, 1)], "bottoms may differ on axis 1 only, got (3, 4), (3, 4, 1)"),
    (text("Concat", "concat_param { axis: 1 concat_dim: 1 }", "ab"), [M, M], "axis and concat_dim are both "
     "given; keep axis"),
    (text("Concat", "concat_param { concat_dim: 2 }", "ab"), [M, M], "concat_dim 2 does not exist: the "
     "bottom has 2 axes"),
    (text("Slice", "", tops="yzw"), [M],
     "axis 1 of length 4 cannot be cut into 3 equal parts; give slice_points"),
    (text("Slice", "slice_param { slice_point: 1 }", tops="yzw"), [M], "3 tops need 2 slice_points, got 1"),
    (text("Slice", "slice_param { slice_point: 1 }", tops="yz"), [(3, 1)],
     "axis 1 of length 1 cannot be cut into 2 parts that are not empty"),
    (text("Slice", "slice_param { slice_point: 3 slice_point: 3 }", tops="yzw"), [M],
     "slice_points must rise strictly within 1..3, got [3, 3]"),
    (text("Slice", "slice_param { slice_point: 4 }", tops="yz"), [M], "slice_points must rise strictly "
     "within 1..3, got [4]"),
    (text("Slice", "slice_param { axis: 1 slice_dim: 1 }", tops="yz"), [M], "axis and slice_dim are both "
     "given; keep axis"),
    (text("Eltwise", "", "ab"), [M, (3, 5)], "bottoms of one shape expected, got (3, 4), (3, 5)"),
    (text("Eltwise", "eltwise_param { coeff: 1 }", "ab"), [M, M], "2 bottoms need as many coeff or none, got "
     "1"),
    (text("Eltwise", "eltwise_param { operation: MAX coeff: 1 coeff: 1 }", "ab"), [M, M],
     "coeff belongs to operation SUM, not MAX"),
    (text("Flatten", "flatten_param { axis: 2 end_axis: 1 }"), [IMAGES], "end_axis 1 lies before axis 2"),
    (text("Flatten", "flatten_param { end_axis: 4 }"), [IMAGES], "end_axis 4 does not exist: the bottom has "
     "4 axes"),
    (text("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }"), [M],
     "cannot infer the -1 of [5, -1]: 12 elements are no multiple of 5"),
    (text("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), [M],
     "shape may hold one -1 and otherwise sizes of 0 or more, got [-1, -1]"),
    (text("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: 0 } }"), [M],
     "dim 0 at place 2 copies axis 2, but the bottom has 2 axes"),
    (text("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 0 } }", "ab"), [M, (2, 3)],
     "dim 0 at place 2 copies axis 2, but the second bottom has 2 axes"),
    (text("Reshape", "reshape_param { shape { dim: 5 dim: 2 } }"), [M], "12 elements (3, 4) do not fill "
     "shape (5, 2)"),
    (text("Reshape", "reshape_param { shape { dim: 5 } axis: 3 }"), [M], "axis 3 does not exist: the bottom "
     "has 2 axes"),
    (text("Reshape", "reshape_param { shape { dim: 5 } axis: 1 num_axes: 2 }"), [M],
     "num_axes 2 from axis 1 on leaves the bottom's 2 axes"),
    (text("Input", "input_param { shape { dim: 1 } shape { dim: 1 } }", "", "yzw"), [],
     "input_param needs one shape, or one for each of the 3 tops, got 2"),
    (text("Input", "input_param { shape { dim: -1 } }", ""), [], "input_param: sizes must not be negative, "
     "got (-1,)"),
    (text("DummyData", "dummy_data_param { shape { dim: 1 } num: 1 }", ""), [],
     "dummy_data_param: give shape, or num/channels/height/width, not both"),
    (text("DummyData", "dummy_data_param { num: 1 channels: 2 height: 1 }", ""), [],
     "dummy_data_param: num, channels, height and width need the same number of entries"),
    (text("DummyData", "", "", "yz"), [], "dummy_data_param needs one shape, or one for each of the 2 tops, "
     "got 0"),
    (text("DummyData", "dummy_data_param { shape { dim: -2 } }", ""), [],
     "dummy_data_param: sizes must not be negative, got (-2,)"),
    (text("DummyData", "dummy_data_param { shape { dim: 2 } data_filler { } data_filler { } }", "", "yzw"),
     [], "dummy_data_param needs no data_filler, one, or one for each of the 3 tops, got 2"),
    (text("DummyData", 'dummy_data_param { shape { } data_filler { type: "xavier" } }', ""), [],
     "filler 'xavier' scales by numbers of connections, which shape () has not; use constant, uniform or "
     "gaussian"),
    (text("MemoryData", "memory_data_param { batch_size: 2 height: 1 }", ""), [],
     "memory_data_param needs channels, width, at least 1"),
    (text("MemoryData", "memory_data_param { batch_size: 2 channels: 2 height: 3 width: 5 } transform_param "
          "{ crop_size: 4 }", ""), [], "transform_param: crop_size must be at most the height and width of "
     "the images, 3 x 5, got 4"),
    (text("MemoryData", "memory_data_param { batch_size: 2 channels: 2 height: 3 width: 5 } transform_param "
          "{ force_gray: true }", ""), [], "transform_param: force_gray is for encoded images (JPEG, PNG); "
     "these records are arrays: leave it out"),
    (text("MemoryData", "memory_data_param { batch_size: 2 channels: 2 height: 3 width: 5 } transform_param "
          '{ mean_file: "m.npy" mean_value: 3 }', ""), [], "transform_param: mean_file and mean_value are "
     "both given; keep one"),
    (text("MemoryData", "memory_data_param { batch_size: 2 channels: 2 height: 1 width: 1 } "
          "transform_param { mean_value: 1 mean_value: 1 mean_value: 1 }", ""), [],
     "transform_param: expected one mean_value, or one for each of the 2 channels, got 3"),
    (text("HDF5Data", "hdf5_data_param { batch_size: 2 }", ""), [],
     "hdf5_data_param needs a source, the text file that lists the HDF5 files"),
    (text("HDF5Data", 'hdf5_data_param { source: "x.txt" }', ""), [], "hdf5_data_param needs a batch_size, "
     "at least 1"),
]


@in_turn("layer, shapes, message", MISTAKES, ids=[message[:60] for _, _, message in MISTAKES])
def test_mistake(layer, shapes, message):
    with pytest.raises(ConfigError) as caught:
        net_of(layer, *shapes)
    kind = re.search(r'type: "(\w+)"', layer)[1]
    line = len(shapes) + 1
    found = re.fullmatch(r"net\.prototxt:(\d+):\d+: layer 'l' \((\w+)\): (.*?)(?: \[bottoms: (.*)\])?",
                         str(caught.value))
    assert found, str(caught.value)
    assert (int(found[1]), found[2], found[3]) == (line, kind, message)


def test_a_missing_source_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    with pytest.raises(ConfigError,
                       match=r"layer 'l' \(HDF5Data\): .*make it with: minidrop data "
                       r"mnist$"):
        net_of(text("HDF5Data", 'hdf5_data_param { source: "mnist/train.txt" batch_size: 2 }', ""))


def test_the_bottoms_shapes_are_named():
    with pytest.raises(ConfigError, match=r"\[bottoms: a \(3, 4\), b \(3, 5\)\]$"):
        net_of(text("Eltwise", "", "ab"), (3, 4), (3, 5))


def test_silence():
    net = net_of(text("Silence", "", "ab", ""), (3, 4), (3,))
    assert net.outputs == [] and net.forward(a=np.zeros((3, 4)), b=np.zeros(3)) == {}


def lambda_net(function, *shapes, **options):
    return Net(parse_net("".join([inputs(*shapes), text("Lambda", "", "ab"[:len(shapes)])])), device="cpu",
               handed={"l": function}, **options)


def test_lambda():
    """Its function runs in every pass; gradients flow as it says, to what it has captured too."""
    calls = []

    def function(a, b):
        calls.append(a.numpy().sum())
        return multiply(add(a, b), captured)
    captured = Tensor(numbers(3, 4), requires_grad=True)
    net = lambda_net(function, (3, 4), (3, 4), dtype="float64")
    a, b = (Tensor(numbers(3, 4, seed=seed), requires_grad=True) for seed in (1, 2))
    for value in (a, b, captured):
        value.data = value.data.astype(float)
    assert calls == [0]
    net.forward(a=a, b=b)["y"].backward(np.ones((3, 4)))
    np.testing.assert_array_equal(net.blobs["y"].data, (a.data + b.data) * captured.data)
    np.testing.assert_array_equal(a.grad, captured.data)
    np.testing.assert_array_equal(captured.grad, a.data + b.data)
    assert calls == [0, a.data.sum()]
    again = copy.deepcopy(net).forward(a=a, b=b)["y"]
    np.testing.assert_array_equal(again.data, net.blobs["y"].data)


def test_a_lambda_of_fewer_records():
    net = lambda_net(lambda a, b: multiply(a, b), (4, 3), (4, 3))
    assert net.forward(a=np.ones((2, 3)), b=np.ones((2, 3)))["y"].shape == (2, 3)
    net = lambda_net(lambda a: Tensor(a.data.T), (4, 3))
    assert net.forward(a=np.ones((2, 3)))["y"].shape == (3, 2)
    net = lambda_net(lambda a: Tensor(np.concatenate([a.data[:3], a.data[:1]])), (4, 3))
    assert net.forward(a=np.ones((2, 3)))["y"].shape == (3, 3)
    net = lambda_net(lambda a: Tensor(a.data[:1 if a.data.any() else 2]), (4, 3))
    with pytest.raises(ShapeError, match=r"the function gives \[\(1, 3\)\], but \[\(2, 3\)\]"):
        net.forward(a=np.ones((2, 3)))


def test_what_a_lambda_cannot_do():
    with pytest.raises(ConfigError, match="layer 'l' .Lambda.: a Lambda runs a Python function, which no "
                       "file can hold"):
        net_of(text("Lambda"), (3, 4))
    with pytest.raises(ConfigError, match="must return a Tensor or a tuple of them, got float"):
        lambda_net(lambda a: 1.0, (3, 4))
    net = lambda_net(lambda a: a if a.data.any() else Tensor(np.zeros(2, "f")), (3, 4))
    with pytest.raises(ShapeError, match=r"layer 'l' .*the function gives \[\(3, 4\)\], but \[\(2,\)\] for "
                       "bottoms of zeros; shapes must not depend on values"):
        net.forward(a=np.ones((3, 4)))


def test_loader_data():
    """It reads a loader that a net was handed, and can be sought in; no file can hold one."""
    text = 'layer { name: "l" type: "LoaderData" top: "x" top: "target" }'
    with pytest.raises(ConfigError, match="layer 'l' .LoaderData.: LoaderData reads a DataLoader, which no "
                       "file can hold"):
        Net(parse_net(text), device="cpu")
    loader = DataLoader(ArrayDataset(numbers(7, 3), np.arange(7)), 3)
    net = Net(parse_net(text), device="cpu",
              handed={"l": LoaderBatches(loader, ["one", "two"])})
    for n in (0, 1, 2, 3):
        outputs = net.forward()
        np.testing.assert_array_equal(outputs["x"].data, numbers(7, 3)[3 * (n % 3):][:3].astype("f"))
        assert net.layers["l"].share == pytest.approx(1 / 3 if n == 2 else 1)
        assert net.positions == {"l": n + 1}
    net.seek(1)
    assert net.forward()["target"].data.tolist() == [3, 4, 5]
    assert net.layers["l"].record_of(2) == "record 5 of the ArrayDataset"
    assert net.layers["l"].varies and net.layers["l"].place_settings()["records"] == 7
    with net.one_pass() as batches:
        assert batches == 3 and net.forward()["target"].data.tolist() == [0, 1, 2]
    assert net.forward()["target"].data.tolist() == [6]


def test_a_parameter_begins_as_its_filler_says():
    settings = 'shape { dim: 3 dim: 2 } %s'
    zeros, ones = (Net(parse_net(text("Parameter", f"parameter_param {{ {settings % more} }}", "")),
                       device="cpu") for more in ("", "filler { value: 1 }"))
    assert not zeros.params["l"]["weight"].data.any() and (ones.params["l"]["weight"].data == 1).all()


def test_accuracy_layer(make_net, rng, dtype):
    """Top-2 of 5 classes along the last axis, class 3 ignored, and the accuracy of each class."""
    scores, label = rng.standard_normal((2, 3, 5)), np.array([[0, 3, 1], [4, 4, 2]])
    net = make_net('''
        layer { name: "in" type: "Input" top: "x" top: "t"
                input_param { shape { dim: 2 dim: 3 dim: 5 } shape { dim: 2 dim: 3 } } }
        layer { name: "acc" type: "Accuracy" bottom: "x" bottom: "t" top: "acc" top: "by_class"
                accuracy_param { top_k: 2 axis: -1 ignore_label: 3 } }''')
    out = net.forward(x=scores, t=label)
    best = np.argsort(-scores.astype(dtype), axis=-1)[..., :2]
    hit = (best == label[..., None]).any(axis=-1)
    assert float(out["acc"]) == pytest.approx(hit[label != 3].mean(), rel=1e-6)
    expected = [hit[label == c].mean() if (label == c).any() and c != 3 else 0 for c in range(5)]
    assert out["by_class"].numpy().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ignored, expected",
                         [("", [0, 1, 2, 3, 4, 5]), ("loss_param { ignore_label: 4 }", [0, 1, 2, 5])])
def test_perplexity_layer(make_net, rng, dtype, ignored, expected):
    """exp of the mean over the places that count, here along the last axis."""
    scores, label = rng.standard_normal((2, 3, 5)), np.array([[0, 3, 1], [4, 4, 2]])
    net = make_net(f'''
        layer {{ name: "in" type: "Input" top: "x" top: "t"
                input_param {{ shape {{ dim: 2 dim: 3 dim: 5 }} shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "p" type: "Perplexity" bottom: "x" bottom: "t" top: "p"
          softmax_param {{ axis: -1 }} {ignored} }}''')
    probability = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(probability, label[..., None], -1).reshape(-1)[expected]
    p = net.forward(x=scores, t=label)["p"]
    assert p.shape == () and not p.requires_grad
    assert float(p) == pytest.approx(np.exp(-np.log(chosen).mean()), rel=1e-5)
    assert net.layers["p"].batch_weight == len(expected)
