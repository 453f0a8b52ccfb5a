"""Every layer type computes on the GPU what it computes on the CPU; and every method of a backend has a test
that says so."""

import re
from pathlib import Path

import numpy as np
import pytest

import minidrop as md
from minidrop.autograd import Tensor, backward
from minidrop.backend import Backend
from minidrop.config import parse_net
from minidrop.layers import known_layers

FILLERS = ('weight_filler { type: "uniform" min: -.5 max: .5 } bias_filler { type: "uniform" min: -.5 max: '
           '.5 }')
UNIFORM = 'filler { type: "uniform" min: -.5 max: .5 }'
RECURRENT = f"recurrent_param {{ num_output: 5 {FILLERS} }}"


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def labels(below, *shape):
    return np.random.default_rng(3).integers(0, below, shape)


X, IMAGES, SEQUENCE = numbers(9, 13), numbers(3, 5, 4, 3), numbers(5, 3, 7)
CONT = (np.random.default_rng(4).random((5, 3)) > 0.3).astype(float)

WEIGHTED = f"loss_param {{ ignore_label: 2 class_weight: {[*range(1, 14)]} }}"

TAGS = np.where(np.arange(5)[:, None] < (5, 2, 0), labels(7, 5, 3), -1)

# type: [(settings, bottoms)]; a layer with more tops than one says so in TOPS.
CASES = {
    "AbsVal": [("", (X,))],
    "Accuracy": [("", (X, labels(13, 9))), ("accuracy_param { top_k: 3 }", (X, labels(13, 9)))],
    "ApproxDropout": [(f'approx_dropout_param {{ dropout_ratio: 0.5 pattern: "{family}" }}', (X,))
                      for family in ("PERIODIC", "ROW", "SLICE", "UNIT")],
    "ArgMax": [(f"argmax_param {{ {settings} }}", (x,)) for x in (X, IMAGES)
               for settings in ("", "top_k: 3 out_max_val: true", "top_k: 2 axis: 1", "axis: 0")],
    "Attention": [(f"attention_param {{ {settings} }}", bottoms) for settings, bottoms in (
        ("num_heads: 2 causal: true", [numbers(5, 3, 8, seed=i) for i in range(3)]),
        ("num_heads: 2 dropout_ratio: 0.3 block_keys: 3 causal: true scale: 0.2",
         (numbers(5, 3, 8), numbers(7, 3, 8), numbers(7, 3, 4))),
        ("num_heads: 3", (numbers(4, 3, 6), numbers(5, 3, 6), numbers(5, 3, 3), CONT)))],
    "AttentionDecoder": [(f"decoder_param {{ num_output: 4 weight_{UNIFORM} bias_{UNIFORM} {more} }}",
                          (SEQUENCE, numbers(6, SEQUENCE.shape[1], 4), np.ones((6, SEQUENCE.shape[1]))))
                         for more in ("", "score: DOT", "score: ADDITIVE input_feeding: false",
                                      "hidden_dropout { dropout_ratio: 0.5 }",
                                      "hidden_dropout { dropout_ratio: 0.5 time: STEP }",
                                      "hidden_dropout { dropout_ratio: 0.5 steps_per_pattern: 2 }")],
    "BNLL": [("", (X,))],
    "BatchReindex": [("", (x, labels(len(x), 6))) for x in (X, IMAGES, X[:, 0], X[:, :1])],
    "CRF": [(f"crf_param {{ {FILLERS} }} {more}", (SEQUENCE, TAGS))
            for more in ("", "loss_param { normalization: NONE }")],
    "Clip": [("clip_param { min: -0.5 max: 1 }", (X,))],
    "BatchNorm": [("", (X,)), ("batch_norm_param { use_global_stats: true }", (IMAGES,)),
                  ("batch_norm_param { eps: 0.1 }", (IMAGES,))],
    "Bias": [(f"bias_param {{ {UNIFORM} }}", (IMAGES,)), ("", (IMAGES, numbers(5, 4)))],
    "Concat": [("", (X, numbers(9, 4)))],
    "ContrastiveLoss": [(f"contrastive_loss_param {{ margin: 4 legacy_version: {legacy} }}",
                         (X, numbers(9, 13, seed=1), labels(2, 9))) for legacy in ("true", "false")],
    "Convolution": [(f"convolution_param {{ num_output: 10 {more} {FILLERS} }}", (x,)) for more, x in (
        ("kernel_size: 3 pad: 1", IMAGES), ("kernel_h: 2 kernel_w: 3 stride: 2 group: 5", IMAGES),
        ("kernel_size: 1", IMAGES), ("kernel_size: 2 dilation: 2", IMAGES),
        ("group: 2 kernel_size: 3", numbers(2, 4, 7)))],
    "Crop": [("crop_param { offset: 1 offset: 0 }", (IMAGES, numbers(3, 5, 2, 3))),
             ("crop_param { axis: 1 offset: 3 }", (X, numbers(9, 4)))],
    "Deconvolution": [(f"convolution_param {{ num_output: 10 {settings} {FILLERS} }}", (IMAGES,))
                      for settings in ("kernel_size: 3 pad: 1 stride: 2", "kernel_size: 2 group: 5")],
    "DropConnect": [(f"inner_product_param {{ num_output: 11 {FILLERS} }} dropout_param "
                     f"{{ dropout_ratio: 0.3 }}", (X,))],
    "Dropout": [("dropout_param { dropout_ratio: 0.3 }", (X,)),
                ("dropout_param { dropout_ratio: 0.3 axes: 0 axes: 1 }", (IMAGES,))],
    "DummyData": [('dummy_data_param { shape { dim: 4 dim: 3 } data_filler { type: "gaussian" } }', ())],
    "ELU": [("elu_param { alpha: 0.5 }", (X,))],
    "Eltwise": [(f"eltwise_param {{ operation: {kind} }}", (X, numbers(9, 13, seed=1)))
                for kind in ("SUM", "PROD", "MAX")],
    "Embed": [(f"embed_param {{ num_output: 6 input_dim: 11 {FILLERS} }}", (labels(11, 5, 3),))],
    "EuclideanLoss": [("", (X, numbers(9, 13, seed=1)))],
    "Exp": [("exp_param { base: 2 scale: 0.5 shift: -1 }", (X,))],
    "F1": [("", (labels(13, 5, 3), TAGS)), ("crf_param { scheme: IOB2 }", (TAGS, TAGS))],
    "Filter": [("", (x, labels(2, len(x)))) for x in (X, IMAGES)],
    "Flatten": [("", (IMAGES,))],
    "GELU": [(settings, (X,)) for settings in ("", "gelu_param { approximate: TANH }")],
    "Fill": [(f"fill_param {{ {settings} }}", (SEQUENCE,)) for settings in (
        "value: 3", "shape { dim: 0 dim: 0 dim: 4 } value: 1 first: -2")],
    "GRU": [(RECURRENT, (SEQUENCE, CONT))],
    "GaussianDropout": [("dropout_param { dropout_ratio: 0.3 }", (X,))],
    "HingeLoss": [(f"hinge_loss_param {{ norm: {norm} }}", (X, labels(13, 9))) for norm in ("L1", "L2")],
    "Im2col": [("convolution_param { kernel_size: 2 stride: 2 pad: 1 }", (IMAGES,))],
    "InfogainLoss": [(f"infogain_loss_param {{ axis: 1 }} {more}", (x, label, numbers(n, n, seed=2)))
                     for more in ("", "loss_param { ignore_label: 2 }")
                     for x, label, n in ((X, labels(13, 9), 13), (IMAGES, labels(5, 3, 4, 3), 5))],
    "InnerProduct": [(f"inner_product_param {{ num_output: 11 {more} {FILLERS} }}", (x,))
                     for more in ("", "transpose: true", "bias_term: false") for x in (X, IMAGES)],
    "Input": [("input_param { shape { dim: 4 dim: 3 } }", ())],
    "LRN": [("", (IMAGES,)), ("lrn_param { local_size: 3 alpha: 0.1 beta: 0.6 k: 2 }", (X,)),
            ("lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", (IMAGES,))],
    "LSTM": [(RECURRENT, (SEQUENCE, CONT))],
    "LastState": [("", (SEQUENCE, CONT)),
                  ("recurrent_param { bidirectional: true }", (numbers(5, 3, 6), CONT))],
    "LayerNorm": [(f"layer_norm_param {{ {settings} }}", (x,)) for x in (X, SEQUENCE, IMAGES)
                  for settings in ("", "axis: 1 eps: 0.1", "bias_term: false", "weight_term: false")],
    "Log": [("log_param { base: 10 scale: 0.5 shift: 3 }", (X,))],
    "MemoryData": [("memory_data_param { batch_size: 4 channels: 2 height: 3 width: 1 }", ())],
    "MultinomialLogisticLoss": [("", (abs(X), labels(13, 9)))],
    "Parameter": [(f"parameter_param {{ shape {{ dim: 4 dim: 3 }} {more} }}", ()) for more in ("", UNIFORM)],
    "MVN": [(f"mvn_param {{ {more} }}", (IMAGES,)) for more in ("", "across_channels: true",
                                                               "normalize_variance: false")],
    "PReLU": [("", (X,)), (f"prelu_param {{ {UNIFORM} }}", (IMAGES,)),
              ("prelu_param { channel_shared: true }", (IMAGES,))],
    "Patches": [("patches_param { patch_size: 2 }", (numbers(3, 5, 4, 6),))],
    "Permute": [("permute_param { order: 2 order: 0 order: 1 }", (SEQUENCE,))],
    "Perplexity": [("", (X, labels(13, 9)))],
    "Pooling": [(f"pooling_param {{ pool: {settings} }}", (abs(IMAGES),)) for settings in (
        "MAX kernel_size: 2 stride: 2", "AVE kernel_size: 3 stride: 2 pad: 1", "STOCHASTIC kernel_size: 2",
        "MAX global_pooling: true")],
    "Position": [(f"position_param {{ {settings} }}", (SEQUENCE,)) for settings in (
        'weight_filler { type: "uniform" }', 'max_steps: 9 weight_filler { type: "uniform" }',
        "kind: SINUSOIDAL base: 100")],
    "Power": [("power_param { power: 2 scale: 0.1 shift: -0.3 }", (X,))],
    "RMSNorm": [("rms_norm_param { eps: 0.1 }", (SEQUENCE,)), ("rms_norm_param { axis: 1 }", (IMAGES,))],
    "RNN": [(RECURRENT, (SEQUENCE, CONT)),
            (RECURRENT.replace("num_output", "output_product: false num_output"), (SEQUENCE, CONT))],
    "ReLU": [("", (X,)), ("relu_param { negative_slope: 0.1 }", (IMAGES,))],
    "Reduction": [(f"reduction_param {{ operation: {kind} axis: {axis} coeff: 0.7 }}", (IMAGES,))
                  for kind in ("SUM", "ASUM", "SUMSQ", "MEAN") for axis in (0, 2)],
    "Reshape": [("reshape_param { shape { dim: 0 dim: -1 } }", (IMAGES,))],
    "Rotary": [("rotary_param { num_heads: 2 base: 100 }", (numbers(5, 3, 12),))],
    "Scale": [(f"scale_param {{ {more} {UNIFORM} bias_term: true bias_{UNIFORM} }}", (IMAGES,))
              for more in ("", "axis: 0 num_axes: 2", "num_axes: 0")] + [("", (X, numbers(13)))],
    "SiLU": [("", (X,))],
    "Sigmoid": [("", (X,))],
    "SPP": [(f"spp_param {{ pyramid_height: 2 pool: {pool} }}", (IMAGES,)) for pool in ("MAX", "AVE")],
    "SigmoidCrossEntropyLoss": [("", (X, numbers(9, 13, seed=1) > 0))],
    "Silence": [("", (X,))],
    "Slice": [("slice_param { slice_point: 2 }", (X,))],
    "Softmax": [("", (X,)), ("softmax_param { axis: 1 }", (IMAGES,))],
    "SoftmaxWithLoss": [("", (X, labels(13, 9))), ("loss_param { ignore_label: 2 }", (X, labels(13, 9))),
                        ("softmax_param { axis: 1 }", (IMAGES, labels(5, 3, 4, 3))),
                        ("loss_param { label_smoothing: 0.1 ignore_label: 2 }", (X, labels(13, 9))),
                        (WEIGHTED, (X, labels(13, 9)))],
    "Split": [("", (X,))],
    "Swish": [("swish_param { beta: 1.5 }", (X,))],
    "TanH": [("", (X,))],
    "Threshold": [("threshold_param { threshold: 0.3 }", (X,))],
    "Tile": [("tile_param { tiles: 3 }", (X,)), ("tile_param { tiles: 2 axis: 0 }", (IMAGES,))],
}
TOPS = {"Silence": (), "Slice": ("y", "z"), "Split": ("y", "z"), "MemoryData": ("y", "label"),
        "CRF": ("y", "path"), "F1": ("y", "precision", "recall", "accuracy")}
ELSEWHERE = {       # read files; what they give to the device is what MemoryData gives
    "HDF5Data": "test_hdf5_and_text_data", "TextData": "test_hdf5_and_text_data",
    "ParallelTextData": "test_hdf5_and_text_data",
    "Data": "test_images_from_files", "ImageData": "test_images_from_files",
    "WindowData": "test_images_from_files", "HDF5Output": "test_images_from_files",
    "Lambda": "layers/test_settings.py", "LoaderData": "solver/test_objects.py",
    "Python": "layers/test_python.py", "TaggedTextData": "layers/test_tagging.py"}


def test_every_layer_type_has_a_case():
    cases = sorted([*CASES, *ELSEWHERE])
    assert cases == known_layers(), "a layer type without a case here (or a case without its type)"


def run(kind, settings, bottoms, device):
    """Return {what: array} of the tops and all gradients of a net with one layer, for one iteration."""
    names = "abcdef"[:len(bottoms)]
    tops = TOPS.get(kind, ("y",))
    lines = [f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
             f'{" ".join(f"dim: {length}" for length in np.shape(array))} }} }} }}'
             for name, array in zip(names, bottoms, strict=True)]
    blobs = " ".join([*(f'bottom: "{name}"' for name in names), *(f'top: "{top}"' for top in tops)])
    net = md.Net(parse_net("\n".join([*lines, f'layer {{ name: "l" type: "{kind}" {blobs} {settings} }}'])),
                 device=device, dtype="float64", seed=3)
    on, inputs = net.backend, {}
    if kind == "MemoryData":
        net.set_input_arrays(numbers(10, 2, 3, 1), labels(5, 10))
    if kind == "Input":
        inputs["y"] = numbers(4, 3)
    for name, array in zip(names, bottoms, strict=True):
        real = array.dtype.kind == "f"
        inputs[name] = Tensor(on.asarray(array.astype(np.float64 if real else np.int64)), requires_grad=real,
                              backend=on)
    net.draw_patterns(1)
    with on.active():
        net.forward(**inputs)
        found = {top: net.blobs[top] for top in tops}
        seeds = [(y, on.compact(on.asarray(numbers(*y.shape, seed=5)), y.kept, y.kept_axis))
                 for y in found.values() if y.requires_grad]
        backward(seeds)
        result = {top: y.numpy() for top, y in found.items()}
        result |= {f"gradient of {name}": on.to_host(x.grad) for name, x in inputs.items()
                   if isinstance(x, Tensor) and x.grad is not None}
        result |= {f"gradient of {name}": on.to_host(p.grad) for name, p in net.parameters().items()
                   if p.grad is not None}
    net.close()
    return result


@pytest.fixture(params=["emulated", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request):
    """What a Net can be built on; the emulated one runs the GPU's overrides on the host."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated_cuda")()
    return request.getfixturevalue("backend_of_name")(request.param)


@pytest.mark.parametrize("kind, settings, bottoms", [(kind, *case) for kind, cases in CASES.items()
                                                     for case in cases],
                         ids=[f"{kind}-{number}" for kind, cases in CASES.items()
                              for number in range(len(cases))])
def test_a_layer_agrees(device, kind, settings, bottoms):
    expected, got = (run(kind, settings, bottoms, on) for on in ("cpu", device))
    assert got.keys() == expected.keys()
    # nothing to differentiate
    wanted = {"Accuracy", "ArgMax", "DummyData", "F1", "Fill", "Input", "MemoryData", "Perplexity",
              "Silence", "Threshold"}
    assert (kind in wanted) != any(name.startswith("gradient") for name in expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=1e-10, atol=1e-12, err_msg=f"{kind}: {name}")


def test_hdf5_and_text_data(device, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    (tmp_path / "words.txt").write_text("".join(f"w{i} w{i + 1}\n" for i in range(40)))
    with h5py.File(tmp_path / "records.h5", "w") as file:
        file["data"], file["label"] = numbers(10, 6), labels(5, 10)
    (tmp_path / "records.txt").write_text(f"{tmp_path / 'records.h5'}\n")
    for text in (f'type: "HDF5Data" top: "data" top: "label" hdf5_data_param '
                 f'{{ source: "{tmp_path / "records.txt"}" batch_size: 4 shuffle: true }}',
                 'type: "TextData" top: "data" top: "label" top: "cont" text_data_param { source: '
                 '"words.txt" batch_size: 3 steps: 5 }',
                 'type: "ParallelTextData" top: "source" top: "mask" top: "target" top: "label" '
                 'parallel_text_data_param { source: "words.txt" target: "words.txt" batch_size: 3 '
                 'source_steps: 5 target_steps: 6 }'):
        found = []
        for on in ("cpu", device):
            net = md.Net(parse_net(f'layer {{ name: "d" {text} }}'), device=on, dtype="float64", seed=3)
            batches = []
            for _ in range(4):
                net.forward()
                batches.append({name: net.blobs[name].numpy() for name in net.blobs})
            net.close()
            found.append(batches)
        for ours, theirs in zip(*found, strict=True):
            assert ours.keys() == theirs.keys() and len(ours) >= 2
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_images_from_files(device, tmp_path):
    """Data, ImageData and WindowData feed a device, and HDF5Output writes from it, what the CPU does."""
    h5py = pytest.importorskip("h5py")
    for package in ("lmdb", "PIL"):
        pytest.importorskip(package, reason="of the extra `caffe`, which reads databases and images")
    from minidrop.data.database_writer import new_database
    from minidrop.data.datum import write_datum
    from minidrop.data.images import encode
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 9, 9), np.uint8)
    with new_database(tmp_path / "db", "LMDB") as put:
        for n, image in enumerate(images):
            put(b"%d" % n, write_datum(image, n))
            (tmp_path / f"{n}.png").write_bytes(encode(image, "png"))
    (tmp_path / "list.txt").write_text("".join(f"{n}.png {n}\n" for n in range(7)))
    (tmp_path / "windows.txt").write_text("# 0\n0.png\n3\n9\n9\n2\n1 1 0 0 5 5\n0 0 2 2 8 6\n")
    for kind, text in (
            ("Data", f'data_param {{ source: "{tmp_path}/db" backend: LMDB batch_size: 3 rand_skip: 5 }}'),
            ("ImageData", f'image_data_param {{ source: "{tmp_path}/list.txt" batch_size: 3 shuffle: true '
                          f'}}'),
            ("WindowData", f'window_data_param {{ source: "{tmp_path}/windows.txt" root_folder: '
                           f'"{tmp_path}/" '
                           'batch_size: 4 }')):
        found = []
        for name, on in (("cpu", "cpu"), ("other", device)):
            net = md.Net(parse_net(
                f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {text} transform_param {{ '
                'crop_size: 6 mirror: true scale: 0.5 mean_value: 3 } } layer { name: "o" type: "HDF5Output" '
                f'bottom: "data" bottom: "label" hdf5_output_param {{ file_name: "{tmp_path}/{name}.h5" }} '
                f'}}'),
                device=on, dtype="float64", seed=3)
            for _ in range(4):
                net.forward()
            net.close()
            with h5py.File(tmp_path / f"{name}.h5") as file:
                found.append({key: dataset[:] for key, dataset in file.items()})
        ours, theirs = found
        for key in ("data", "label"):
            np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours["data"].shape[1:] == (3, 6, 6) and ours["data"].std() > 0


# -- methods -------------------------------------------------------------------------------------------------
# What computes nothing, and the file that tests it instead.
OTHER_TESTS = {"active": "test_cuda_device.py", "trim": "test_on_the_gpu.py", "pinned": "test_on_the_gpu.py",
               "upload": "test_on_the_gpu.py", "fetch": "test_on_the_gpu.py", "capture": "test_on_the_gpu.py",
               "refuse": "test_captured_errors.py", "as_captured": "test_captured_steps.py",
               "keep_if_well": "test_nothing_waits.py", "round_block": "../kernels/test_every_kernel.py",
               "send": "test_uploads.py", "pays": "../net/test_recurrent_drops.py",
               "norm_parts": "test_overlapping_blocks.py", "rule_update": "test_overlapping_blocks.py",
               "add_columns": "../kernels/test_every_kernel.py",
               "put_outputs": "../kernels/test_every_kernel.py", "link": "test_nccl.py",
               "linkable": "test_nccl.py", "link_key": "test_nccl.py",
               "late_product": "test_late_products.py", "late_norm": "test_late_products.py"}


def test_every_method_of_a_backend_has_a_test_on_all_of_them():
    here = Path(__file__).parent
    files = (f"test_{kind}_agree.py" for kind in ("backends", "kept_sets", "products", "updates", "noise",
                                                  "attention", "layer_methods", "images"))
    text = "".join((here / name).read_text() for name in files)
    methods = {name for name in dir(Backend) if callable(getattr(Backend, name)) and not name.startswith("_")}
    missing = {name for name in methods if not re.search(rf"\b(on|backend|which|broken|low)\.{name}\(", text)}
    assert len(methods) > 60 and missing <= OTHER_TESTS.keys(), "a method of Backend without a test"
    assert all((here / file).is_file() for file in OTHER_TESTS.values())
