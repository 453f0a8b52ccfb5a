"""The nets of models/ as ONNX files, with random weights: what onnxruntime computes, for any batch."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import inputs, ip, layer, net_of, numbers
from onnx_files import assert_computes, assert_equal_outputs, exported, package, run

from minidrop import BackendError, ConfigError, Net, SnapshotError, export_onnx
from minidrop.config import load_net, parse_net
from minidrop.net.deploy import deployment

MODELS = Path(__file__).resolve().parents[2] / "models"
TEXT = {"data": (7, 3), "cont": (7, 3)}
# {model: {input: its shape for a batch of 2 or 3}}; those with words: how many there are.
SHAPES = {
    "char_lstm": TEXT, "cifar10_full": {"data": (2, 3, 32, 32)}, "cifar10_quick": {"data": (2, 3, 32, 32)},
    "digits_mlp": {"data": (2, 1, 8, 8)}, "gpt_shakespeare": {"data": (64, 2)},
    "lenet": {"data": (2, 1, 28, 28)}, "mnist_mlp": {"data": (2, 1, 28, 28)}, "ptb_small": TEXT,
    "resnet_cifar": {"data": (2, 3, 32, 32)},
    "vit_tiny": {"data": (2, 1, 8, 8)}}
MORE = {"vit_cifar10": {"data": (2, 3, 32, 32)}, "mlp_sparsedrop": {"data": (2, 3, 32, 32)},
        "vit_sparsedrop": {"data": (2, 3, 32, 32)}, "caption_lm": TEXT, "caption_lm/train_val_3": TEXT,
        "ptb_medium": TEXT, "ptb_large": TEXT, "gpt_sparsedrop": {"data": (128, 2)},
        "gpt_shakespeare/train_val_full": {"data": (256, 2)}, "caffenet": {"data": (2, 3, 227, 227)},
        "vgg16": {"data": (1, 3, 224, 224)}}
# With drops in place of none, which phase TEST leaves out.
MORE |= {f"{model}/train_val_approx": {**SHAPES, **MORE}[model]
         for model in ("cifar10_full", "cifar10_quick", "lenet", "resnet_cifar", "caffenet", "vgg16")}
TAGGERS = ("ner_tiny", "ner_conll2003", "ner_wnut17")
REFUSED = ("nmt_tiny", "nmt_multi30k")


def deployed_net(model, shapes, share=None):
    folder, _, file = model.partition("/")
    deployed = deployment(load_net(MODELS / folder / f"{file or 'train_val'}.prototxt"), texts=True)
    assert set(deployed.inputs) == set(shapes)
    net = Net(deployed.with_shapes(shapes), "TEST", "cpu", "float64", 3, share=share)
    for name, parameter in net.parameters().items() if share is None else ():
        if name.endswith(("variance", "scale_factor")):
            parameter.data[...] = numbers(*parameter.shape, low=0.5, high=1.5)
        elif name.endswith(("mean", "bias")):
            parameter.data[...] = numbers(*parameter.shape, low=-0.1, high=0.1)
    return net


def batch_of(net):
    """Random inputs: integers for tokens, sequences that begin at step 0."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in ((name, net.graph.shapes[ref]) for name in net.inputs
                        for ref in net.graph.writer if ref.name == name):
        readers = {reader.config.type for ref in net.graph.readers if ref.name == name
                   for reader, _ in net.graph.readers[ref]}
        if "Embed" in readers:
            found[name] = rng.integers(0, 50, shape)
        elif name.endswith("cont"):
            found[name] = np.arange(shape[0])[:, None] * np.ones(shape) > 0
        else:
            found[name] = rng.standard_normal(shape)
    return found


LESS_OFTEN = [pytest.param(name, marks=pytest.mark.full) for name in MORE]


@pytest.mark.parametrize("model", [*SHAPES, *LESS_OFTEN])
def test_a_model_computes_the_same_for_batches_of_any_size(tmp_path, model):
    shapes, path = {**SHAPES, **MORE}[model], tmp_path / "model.onnx"
    net = deployed_net(model, shapes)
    assert_equal_outputs(net, path, batch_of(net))
    axis = 1 if shapes["data"][0] > 3 else 0
    larger = {name: tuple(5 if i == axis else n for i, n in enumerate(shape))
              for name, shape in shapes.items()}
    other = deployed_net(model, larger, share=net)
    assert_computes(path, other, batch_of(other))


def test_every_model_is_exported_or_refused():
    told = {*SHAPES, *MORE, *TAGGERS, *REFUSED}
    assert {str(path.parent.name) + f"/{path.stem}".removesuffix("/train_val")
            for path in MODELS.glob("*/train_val*.prototxt")} == told


@pytest.mark.parametrize("model", REFUSED)
def test_a_decoder_that_reads_its_own_words_is_refused(tmp_path, model):
    deployed = deployment(load_net(MODELS / model / "train_val.prototxt"), texts=True)
    net = Net(deployed.with_shapes(dict.fromkeys(deployed.inputs, (7, 3))), "TEST", "cpu", "float32", 3)
    with pytest.raises(ConfigError, match=r"\(AttentionDecoder\): it reads its own result .*`minidrop tra"):
        exported(net, tmp_path / "net.onnx")


@pytest.mark.parametrize("model", [name if name == "ner_tiny" else pytest.param(name, marks=pytest.mark.full)
                                   for name in TAGGERS])
def test_a_tagger_tags_up_to_its_scores(tmp_path, model):
    """Any number of sentences; behind a sentence and a word is padding."""
    steps, letters = 4, 6

    def net_for(streams, share=None):
        words, characters = (steps, streams), (letters, streams * steps)
        return deployed_net(model, {"words": words, "cont": words, "characters": characters,
                                    "character_cont": characters}, share)

    net, path = net_for(3), tmp_path / "ner.onnx"
    assert exported(net, path).inputs["words"] == (steps, "N")
    other, rng = net_for(5, net), np.random.default_rng(1)
    given, inside = batch_of(other), {}
    for name, most in (("cont", steps), ("character_cont", letters)):
        inside[name] = np.arange(most)[:, None] < rng.integers(1, most + 1, given[name].shape[1])
        given[name] = given[name] & inside[name]
    assert_computes(path, other, given, {"scores": inside["cont"]})


def test_a_batch_that_a_layer_names_is_of_that_size(tmp_path):
    net = net_of(inputs((4, 6)), layer("Reshape", "b", "a", more="reshape_param { shape { dim: 4 dim: 2 "
                                       "dim: 3 } }"), ip("y", "b", 2), phase="TEST")
    with pytest.raises(ConfigError, match="the batch cannot be of any size, .*; export with a fixed batch"):
        exported(net, tmp_path / "net.onnx")
    assert_equal_outputs(net, tmp_path / "net.onnx", batch_of(net), batch=None)


def test_a_description_with_weights(tmp_path, monkeypatch):
    """The net in use of a train_val file: its data layer, whose data is not there, is an input."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    folder = tmp_path / "digits"
    shutil.copytree(MODELS / "digits_mlp", folder)
    net = deployed_net("digits_mlp", {"data": (2, 1, 8, 8)})
    net.save(tmp_path / "w.caffemodel")
    config, path = load_net(folder / "train_val.prototxt"), tmp_path / "net.onnx"
    with pytest.raises(ConfigError, match=r"The shape of 'data' is unknown without it: give that of"):
        exported(config, path, weights=tmp_path / "w.caffemodel")
    with pytest.raises(ConfigError, match="export needs the weights of the net"):
        exported(config, path)
    net.params["ip3"]["bias"].data[0] = 1e300
    with pytest.raises(SnapshotError, match="ip3.bias has a NaN, an infinity or a number too large for"):
        exported(net, path)
    net.load_weights(tmp_path / "w.caffemodel")
    with pytest.raises(ConfigError, match="has no input 'date'; did you mean 'data'"):
        exported(config, path, weights=tmp_path / "w.caffemodel", shapes={"date": (2, 1, 8, 8)})
    done = exported(config, path, weights=tmp_path / "w.caffemodel", shapes=(1, 8, 8),
                    batch="batch")
    assert done.inputs == {"data": ("batch", 1, 8, 8)} and done.bytes == path.stat().st_size
    assert done.outputs == {"ip3_prob": ("batch", 10)} and done.unread == []
    assert done.transforms == {"data": "scale: 0.0625"}
    metadata = package().load(path).metadata_props
    assert {entry.key: entry.value for entry in metadata} == {"transform_param of data": "scale: 0.0625"}
    x = numbers(5, 1, 8, 8)
    np.testing.assert_allclose(run(path, {"data": x})["ip3_prob"], net.predict(x), atol=1e-6)
    other = net_of(inputs((2, 3)), ip("ip1", "a", 2))
    other.save(tmp_path / "other.caffemodel")
    with pytest.raises(SnapshotError):
        exported(config, path, weights=tmp_path / "other.caffemodel", shapes={"data": (9, 1, 8, 8)})


def test_one_array_of_shared_weights_and_names_of_constants(tmp_path):
    share = 'param { name: "w" }'
    embed = ('embed_param { num_output: 5 input_dim: 9 bias_term: false '
             'weight_filler { type: "xavier" } }')
    net = net_of(inputs((4, 3)), layer("Embed", "embed", "a", more=f"{share} {embed}"),
                 ip("out", "embed", 9, "axis: 2 bias_term: false", share), phase="TEST")
    given = {"a": np.arange(12).reshape(4, 3) % 9}
    assert_equal_outputs(net, tmp_path / "net.onnx", given)
    graph = package().load(tmp_path / "net.onnx").graph
    assert [value.name for value in graph.initializer] == ["embed.weight"]


def test_outputs_that_are_the_same_value_inputs_or_written_in_place(tmp_path):
    net = net_of(inputs((4, 3)), ip("y", "a", 2), layer("ReLU", "r", "y", "y"),
                 layer("Dropout", "d", "y", "y"), layer("Dropout", "e", "y", "z"),
                 layer("Split", "s", "a", "t"), phase="TEST")
    given = {"a": numbers(4, 3)}
    found = assert_equal_outputs(net, tmp_path / "net.onnx", given, ("y", "z", "t"))
    np.testing.assert_array_equal(found["y"], found["z"])
    model = package().load(tmp_path / "net.onnx")
    package().checker.check_model(model, full_check=True)
    assert (model.producer_name, model.opset_import[0].version) == ("minidrop", 18)


def test_an_input_that_a_layer_changes_in_place_keeps_its_name(tmp_path):
    """The version of a blob that the file gives has its name, and where none does what the user feeds."""
    scaled = layer("Power", "p", "a", "a", "power_param { scale: 2 }")
    net = net_of(inputs((4, 3)), scaled, ip("y", "a", 2), phase="TEST")
    done = exported(net, tmp_path / "net.onnx")
    assert (done.inputs, done.outputs) == ({"a": ("N", 3)}, {"y": ("N", 2)})
    assert_equal_outputs(net, tmp_path / "net.onnx", {"a": numbers(4, 3)})
    done = exported(net, tmp_path / "net.onnx", outputs="a")
    assert (done.inputs, done.outputs, done.unread) == ({"a/0": ("N", 3)}, {"a": ("N", 3)}, [])


def test_the_transformation_of_an_input_that_is_also_an_output_is_that_of_what_is_fed(tmp_path):
    data = ('layer { name: "d" type: "MemoryData" top: "a" memory_data_param { batch_size: 4 channels: 3 '
            'height: 1 width: 1 } transform_param { scale: 0.5 } }')
    net = net_of(data, layer("ReLU", "r", "a", "a"), ip("y", "a", 2), phase="TEST")
    for outputs, name in ((("y",), "a"), (("a", "y"), "a/0")):
        done = exported(net, tmp_path / "net.onnx", outputs=outputs)
        assert (list(done.inputs), done.transforms, done.unread) == ([name], {name: "scale: 0.5"}, [])
        [(key, _)] = [(one.key, one.value) for one in package().load(tmp_path / "net.onnx").metadata_props]
        assert key == f"transform_param of {name}"


def test_settings_of_the_file(tmp_path):
    net = net_of(inputs((4, 3)), ip("y", "a", 2), phase="TEST")
    newest = package().defs.onnx_opset_version()
    for opset in (17, newest + 1):
        with pytest.raises(ConfigError, match=f"opset: expected 18 to {newest}"):
            exported(net, tmp_path / "net.onnx", opset=opset)
    exported(net, tmp_path / "net.onnx", opset=21)
    assert package().load(tmp_path / "net.onnx").opset_import[0].version == 21
    done = exported(net, tmp_path / "net.onnx", batch=None)
    assert done.inputs == {"a": (4, 3)}


def test_a_net_of_phase_train_is_exported_as_it_is_used(tmp_path):
    text = inputs((4, 3), (4,), names=["data", "label"]) + "\n".join([
        ip("y", "data", 5), layer("Dropout", "d", "y", "y"),
        layer("SoftmaxWithLoss", "loss", "y label"), layer("Accuracy", "accuracy", "y label")])
    net = Net(parse_net(text), device="cpu", dtype="float64")
    done = exported(net, tmp_path / "net.onnx")
    assert (done.inputs, done.outputs) == ({"data": ("N", 3)}, {"y_prob": ("N", 5)})
    x = numbers(6, 3)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", {"data": x})["y_prob"], net.predict(x), atol=1e-6)


def test_an_input_may_have_a_multiple_of_the_batch(tmp_path):
    """Letters of all words of a batch, as in ner_tiny, but with a Reshape that says steps and not records."""
    steps, letters = 4, 2
    recurrent = 'recurrent_param { num_output: 3 bidirectional: true weight_filler { type: "xavier" } }'

    def net_for(records, share=None):
        return net_of(
            inputs((steps, records), (steps, records), (letters, steps * records), (letters, steps * records),
                   names=["words", "cont", "letters", "letter_cont"]),
            *(layer("Embed", f"embed_{name}", name, more="embed_param { num_output: 5 input_dim: 50 "
                    'bias_term: false weight_filler { type: "xavier" } }') for name in ("words", "letters")),
            layer("LSTM", "spell", "embed_letters letter_cont", more=recurrent),
            layer("LastState", "spelled", "spell letter_cont",
                  more="recurrent_param { bidirectional: true }"),
            layer("Reshape", "spelling", "spelled words",
                  more="reshape_param { shape { dim: 0 dim: 0 dim: 6 } }"),
            layer("Concat", "token", "embed_words spelling", more="concat_param { axis: 2 }"),
            layer("LSTM", "y", "token cont", more=recurrent), phase="TEST", share=share)

    net, path = net_for(3), tmp_path / "net.onnx"
    done = exported(net, path)
    assert done.inputs == {"words": (steps, "N"), "cont": (steps, "N"), "letters": (letters, "4*N"),
                           "letter_cont": (letters, "4*N")}
    assert done.outputs == {"y": (steps, "N", 6)}
    other = net_for(5, net)
    assert_computes(path, other, batch_of(other))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r'python -m pip install "minidrop\[onnx\]", or python -m pip'):
        export_onnx(net_of(inputs((4, 3)), ip("y", "a", 2)), tmp_path / "net.onnx")


def test_an_input_that_all_records_share_stays_as_it_is(tmp_path):
    net = net_of(inputs((4, 3), (3,)), layer("Scale", "y", "a b"), ip("z", "y", 2), phase="TEST")
    with pytest.raises(ConfigError, match="has the inputs a, b; give the whole shape of each"):
        exported(net, tmp_path / "net.onnx", shapes=[3])
    assert exported(net, tmp_path / "net.onnx").inputs == {"a": ("N", 3), "b": (3,)}
    x, factor = numbers(7, 3), numbers(3)
    net.forward(a=x, b=factor)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", {"a": x, "b": factor})["z"], net.blobs["z"].numpy(),
                               atol=1e-6)


def test_many_inputs_have_their_records_on_the_same_axis(tmp_path):
    names = "abcdef"
    step = layer("Position", "p", "y", more="position_param { kind: SINUSOIDAL }")
    net = net_of(inputs(*[(4, 3, 2)] * 6), layer("Eltwise", "y", " ".join(names)), step, phase="TEST")
    assert exported(net, tmp_path / "net.onnx", outputs="p").inputs == dict.fromkeys(names, (4, "N", 2))
