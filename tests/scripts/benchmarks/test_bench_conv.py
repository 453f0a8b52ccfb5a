"""bench_conv.py: nets and layers that give the same in PyTorch, what is dropped where, and short runs."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
from programs import run_here

import minidrop as md
from minidrop.config import load_net, parse_net

NETS = ("lenet", "cifar10_quick", "cifar10_full", "resnet_cifar")
LAYERS = ("conv3_64", "conv5_groups", "conv11_stride", "conv1", "depthwise", "max_pool", "ave_pool",
          "lrn_across", "lrn_within", "batch_norm")


def torch_side(scripts, message, net):
    """The translation of a net, with its weights, in float64 and without drops."""
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the other side here")
    torch.manual_seed(0)
    translated = scripts.torch_net.TorchNet(message)
    translated.module.double()
    translated.copy_weights(net)
    for module in translated.module.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0
    return torch, translated


def check_translation(scripts, message, inputs):
    """Loss and every gradient agree between a net and its translation."""
    net = md.Net(message, "TRAIN", "cpu", dtype="float64", seed=1)
    net.set_dropping(False)
    torch, translated = torch_side(scripts, message, net)
    net.forward(**inputs)
    net.backward()
    loss = translated.loss(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    loss.backward()
    assert net.loss == pytest.approx(loss.item(), rel=1e-12)
    trained = {name for name, parameter in net.parameters().items() if parameter.requires_grad}
    assert set(translated.names) == trained
    for name, theirs in translated.names.items():
        layer, own = name.split("/")
        ours, theirs = net.params[layer][own].dense_grad(), theirs.grad.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-10 * max(1e-3, np.abs(theirs).max()),
                                   err_msg=name)


@pytest.mark.parametrize("name, method", [
    *product(NETS, ("dense", "approx", "channels")),
    pytest.param("caffenet", "dense", marks=pytest.mark.full)])     # large: takes seconds
def test_translations_have_the_same_loss_and_gradients(scripts, name, method):
    model = scripts.conv_nets.find_net(f"{name}:{1 if name == 'caffenet' else 3}")
    batch = {top: array.astype(np.float64 if top == "data" else np.int64)
             for top, array in model.batches()[0].items()}
    check_translation(scripts, model.net(method), batch)


SMALL = """
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 2 dim: 4 dim: 9 dim: 8 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0 group: 2 %s
                            weight_filler { type: "msra" } } }
%s
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 5 bias_term: false weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("settings, layers", [
    ("dilation: 2", ""),
    ("bias_term: false", 'layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }'),
    *(("", f'layer {{ name: "norm" type: "LRN" bottom: "conv" top: "conv" lrn_param {{ '
           f'local_size: 3 alpha: 3 {more} }} }}') for more in ("k: 2", "norm_region: WITHIN_CHANNEL")),
    *(("", f'layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "conv" pooling_param {{ pool: {kind} '
           f'{window} }} }}')
      for kind in ("MAX", "AVE")
      for window in ("kernel_size: 2 stride: 2", "kernel_size: 3 stride: 2 pad: 1", "global_pooling: true",
                     "kernel_size: 2 stride: 2 round_mode: FLOOR"))])
def test_settings_are_translated(scripts, settings, layers):
    rng = np.random.default_rng(0)
    inputs = {"data": rng.standard_normal((2, 4, 9, 8)), "label": np.array([1, 4])}
    check_translation(scripts, parse_net(SMALL % (settings, layers)).message, inputs)


@pytest.mark.parametrize("layer, expected", [
    ('name: "x" type: "Sigmoid"', "layer 'x': type Sigmoid has no translation to PyTorch here"),
    ('name: "x" type: "Scale"', "layer 'x': the translation of Scale to PyTorch expects a BatchNorm below"),
    ('name: "x" type: "ReLU" relu_param { negative_slope: 0.1 }', "expects no negative_slope")])
def test_what_has_no_translation_is_refused(scripts, layer, expected):
    pytest.importorskip("torch")
    message = parse_net(SMALL % ("", f'layer {{ {layer} bottom: "conv" top: "conv" }}')).message
    with pytest.raises(md.ConfigError, match=expected.split("(")[0]):
        scripts.torch_net.TorchNet(message)


def test_drops_are_translated_by_what_they_drop(scripts):
    pytest.importorskip("torch")
    net = scripts.torch_net.TorchNet(scripts.conv_nets.find_net("lenet:2").net("approx"))
    found = [(type(module).__name__, module.p) for module in net.module if "Dropout" in type(module).__name__]
    assert found == [("Dropout2d", 0.25), ("Dropout", 0.5)]


@pytest.mark.parametrize("name, behind", [
    ("lenet", {"conv1": "conv1", "conv2": "conv2"}),
    ("cifar10_quick", {"conv1": "conv1", "conv2": "relu2", "conv3": "relu3"}),
    ("caffenet", {f"conv{i}": f"relu{i}" for i in range(1, 6)}),
    ("resnet_cifar", {"conv1": "conv1_relu", "res2a_branch2a": "res2a_branch2a_relu",
                      "res2a_branch2b": "scale2a_branch2b"})])
def test_channels_are_dropped_behind_every_convolution(scripts, name, behind):
    model = scripts.conv_nets.find_net(name)
    layers = list(model.net("channels", 0.25).layer)
    before = {layer.name.removesuffix("_channels"): layers[i - 1].name for i, layer in enumerate(layers)
              if layer.type == "ApproxDropout"}
    assert behind.items() <= before.items()
    assert len(before) == sum(layer.type == "Convolution" for layer in layers)
    drops = [layer for layer in layers if layer.type == "ApproxDropout"]
    assert all(list(drop.bottom) == list(drop.top) for drop in drops)
    assert {(drop.approx_dropout_param.dropout_ratio, drop.approx_dropout_param.axis,
             drop.approx_dropout_param.groups) for drop in drops} == {(0.25, 1, 1)}
    assert [layer for layer in layers if layer not in drops] == list(model.net("dense").layer)


@pytest.mark.parametrize("name", [*NETS, "caffenet", "vgg16"])
def test_nets_are_the_files_with_data_in_memory(scripts, name):
    model = scripts.conv_nets.find_net(name)
    file = load_net(scripts.conv_nets.FOLDER / name / "train_val.prototxt").message
    data, (channels, *sides) = file.layer[0], scripts.conv_nets.SHAPES[name]
    assert model.samples == data.hdf5_data_param.batch_size
    assert data.transform_param.crop_size in (0, sides[0])
    kinds = Counter(layer.type for layer in file.layer)
    expected = kinds - Counter(["HDF5Data"] * 2 + ["Accuracy"] * kinds["Accuracy"]) + Counter(["Input"])
    assert Counter(layer.type for layer in model.net("dense").layer) == expected
    dense, approx, channels = (model.operations(method) for method in ("dense", "approx", "channels"))
    assert dense[0] == dense[1] == approx[0] == channels[0] > max(approx[1], channels[1])
    assert channels[1] < 0.6 * dense[0]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_same_gradients(scripts, name):
    pytest.importorskip("torch")
    layers = scripts.conv_layers
    sides = [kind(layers.CASES[name], 1) for kind in (layers.MinidropLayer, layers.TorchLayer)]
    for side in sides:
        side.step()
    ours, theirs = [side.gradients() for side in sides]
    assert [gradient is None for gradient in ours] == [gradient is None for gradient in theirs]
    assert (ours[0] is None) == (name == "conv11_stride")
    for a, b in zip(ours, theirs, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


SHORT = ("--blocks", "1", "--block-seconds", "0.01")


def run(scripts, path, *arguments):
    done = run_here(scripts.folder / "bench_conv.py", *arguments, "--json", path)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout.splitlines()


def test_steps_of_a_net(scripts, workers_here, tmp_path):
    pytest.importorskip("torch")
    result, lines = run(scripts, tmp_path / "conv.json", "--peer", "torch", "--nets", "lenet:2", "--methods",
                        "dense", "--channel-drops", "--threads", "1", *SHORT)
    assert [line.split()[:3] for line in lines[-2:]] == [["lenet", "2", "dense"], ["lenet", "2", "channels"]]
    assert (result["threads"], result["rate"]) == (1, 0.5)
    [cell] = result["cells"]
    assert (cell["net"], cell["batch"]) == ("lenet", 2) and cell["gflop_per_second"] > 0
    dense, channels = cell["methods"].values()
    assert channels["to_dense"] == pytest.approx(dense["ms"] / channels["ms"])
    assert channels["to_torch"] == pytest.approx(channels["torch"]["ms"] / channels["ms"])
    assert channels["torch_to_dense"] == pytest.approx(dense["torch"]["ms"] / channels["torch"]["ms"])
    assert channels["bound_ms"] == pytest.approx(1e3 * channels["gflop"] / cell["gflop_per_second"])
    assert channels["gflop"] < channels["gflop_dense"] == dense["gflop"]


@pytest.mark.full
def test_layers_in_turn(scripts, tmp_path):
    pytest.importorskip("torch")
    result, lines = run(scripts, tmp_path / "conv.json", "--peer", "torch", "--layers", "conv5_32",
                        "--batch", "1", *SHORT)
    assert [line.split()[0] for line in lines[-1:]] == ["conv5_32"]
    [convolution] = result["cells"]
    assert 0 < convolution["forward_ms"] < convolution["ms"] and convolution["torch"]["forward_ms"] > 0
    # 2 operations, 3 products, 32 outputs of 32 channels and 25 entries at 16 x 16 places
    assert convolution["gflop"] == pytest.approx(2 * 3 * 32 * 32 * 25 * 256 / 1e9)
    rate = convolution["gflop_per_second"]
    assert convolution["bound_ms"] == pytest.approx(1e3 * convolution["gflop"] / rate)


def test_a_layer_without_products_and_a_peer(scripts, tmp_path):
    result, _ = run(scripts, tmp_path / "conv.json", "--layers", "max_pool", "--batch", "1", *SHORT)
    [pooling] = result["cells"]
    assert pooling["ms"] > pooling["forward_ms"] > 0
    assert not {"bound_ms", "torch", "to_torch"} & set(pooling)


@pytest.mark.parametrize("peer", [False, pytest.param(True, marks=pytest.mark.full)])     # one more process
def test_memory_of_a_training(scripts, tmp_path, peer):
    if peer:
        pytest.importorskip("torch")
    result, _ = run(scripts, tmp_path / "conv.json", *(["--peer", "torch"] if peer else []), "--memory",
                    "--nets", "lenet:64", "--methods", "dense")
    dense = result["cells"][0]["methods"]["dense"]
    for own in (dense, dense["torch"]) if peer else (dense,):
        assert own["total"] == own["peak"] - own["before"] > 1
        assert own["steps"] == own["peak"] - own["built"] > 0


@pytest.mark.parametrize("arguments, expected", [
    (["--nets", "lenett"], "unknown net 'lenett'; did you mean 'lenet'?"),
    (["--nets", "lenet:0"], "expected NAME or NAME:BATCH, got the batch '0'"),
    (["--methods", "sparse"], "argument --methods: unknown 'sparse'"),
    (["--layers", "conv2"], "argument --layers: unknown 'conv2'"),
    (["--rate", "1"], "expected a number above 0 and below 1, got 1"),
    (["--threads", "0"], "argument --threads: expected at least 1, got 0")])
def test_mistakes_are_one_clear_message(scripts, arguments, expected):
    done = run_here(scripts.folder / "bench_conv.py", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
