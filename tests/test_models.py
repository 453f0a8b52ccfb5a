"""Every file in models/ builds, without a mistake, and reads what its comments say."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import text_format
from programs import run_here

from minidrop import Net, Solver
from minidrop.config import load_net, load_solver, parse_net
from minidrop.config.minidrop_pb2 import NetParameter
from minidrop.data import Sentences, TextStreams, read_text
from minidrop.data.mean_file import write_mean
from minidrop.solver.prepare import described_nets

MODELS = Path(__file__).resolve().parents[1] / "models"
SOLVERS = sorted(MODELS.glob("*/solver*.prototxt"))
NETS = sorted(path for path in MODELS.glob("*/*.prototxt") if not path.name.startswith("solver"))
TOKENS = {"train": 929589, "valid": 73760, "test": 82430}       # of the Penn Treebank, its line ends counted


IMAGES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "ilsvrc12": (3, 256, 256)}
# Nets of images, and the last product of each that leaves out what a drop of its `approx` file drops.
CAFFES = {"lenet": "ip2", "cifar10_quick": "ip1", "cifar10_full": "ip1", "caffenet": "fc8", "vgg16": "fc8",
          "resnet_cifar": "res4c_branch2b"}
# Their weights would take seconds to fill.
LARGE = ("caffenet", "vgg16", "ptb_large", "caption_lm", "gpt_sparsedrop", "vit_sparsedrop")
TRANSFORMERS = ("gpt_shakespeare", "gpt_sparsedrop", "vit_tiny", "vit_cifar10", "vit_sparsedrop")
_CONLL, _WNUT = ("LOC", "MISC", "ORG", "PER"), ("corporation", "creative-work", "group", "location", "person",
                                                "product")
# Texts of tagged tokens, and the kinds of their names.
TAGGED = {**{f"conll2003/eng.{part}.xz": _CONLL for part in ("train", "testa", "testb")},
          **{f"wnut17/{part}.xz": _WNUT for part in ("wnut17train.conll", "emerging.dev.conll",
                                                     "emerging.test.annotated")}}
DROPS = ("Dropout", "ApproxDropout")


def name_of(path):
    return "/".join(path.parts[-2:])


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Stand-ins for the data that no machine is sure to have: ptb/*.txt of as many tokens and different
    words, and for images a few black ones of the same size."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "ptb").mkdir()
    words = [f"w{i}" for i in range(9998)]
    for part, tokens in TOKENS.items():
        lines = [" ".join(words[(i * 21 + j) % 9998] for j in range(21)) for i in range(tokens // 22)]
        rest = tokens - 22 * len(lines)
        lines += [" ".join(words[:rest - 1])] * (rest > 0)
        (folder / "ptb" / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "tinyshakespeare").mkdir()
    (folder / "tinyshakespeare" / "input.txt").write_text("".join(map(chr, range(48, 113))) * 700)
    (folder / "multi30k").mkdir()
    for language, count in (("de", 7855), ("en", 5917)):        # words that occur twice
        line = " ".join(f"w{i // 2}" for i in range(2 * count))
        for part in ("train", "val"):
            (folder / "multi30k" / f"{part}.lc.norm.tok.{language}.xz").write_text(f"{line}\n")
    for name, kinds in TAGGED.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"name {letter}-{kind}\n" for kind in kinds for letter in "BI") + "\n")
    for name, shape in IMAGES.items():
        (folder / name).mkdir()
        write_mean(folder / name / "mean.binaryproto", np.zeros(shape))
        for part in ("train", "val", "test"):
            (folder / name / f"{part}.txt").write_text(f"{part}.h5\n")
            with h5py.File(folder / name / f"{part}.h5", "w") as h5:
                h5["data"], h5["label"] = np.zeros((2, *shape), np.uint8), np.arange(2)
    return folder


@pytest.fixture(autouse=True)
def only_stand_ins(stand_ins, monkeypatch):
    """Let every source be a stand-in."""
    monkeypatch.setenv("MINIDROP_CACHE", str(stand_ins))
    monkeypatch.chdir(stand_ins)


def drops_of(net):
    return [layer.name for layer in net.config.message.layer if layer.type == "ApproxDropout"]


@pytest.mark.parametrize("path", SOLVERS, ids=name_of)
def test_solvers_build(path, caplog):
    """And nothing in them is warned of."""
    check_solver(path)
    assert not [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def check_solver(path):
    if path.parent.name in LARGE:
        config = load_solver(path)
        check_nets(*described_nets(config, (), None, 0, ()), settings=config.message)
        return
    solver = Solver.from_file(path, device="cpu")
    check_nets(solver.net, *solver.test_nets, settings=solver.settings)
    solver.close()


def check_nets(train, *tests, settings):
    names = {name for net in tests for name in net.outputs}
    assert {"loss", "accuracy"} <= names
    assert settings.snapshot_best.removeprefix("-") in names
    # A test net shares every parameter, so it is tested on what was trained; and every drop saves something.
    for net in tests:
        assert {id(p) for p in net.parameters().values()} == {id(p) for p in train.parameters().values()}
    assert bool(train.plan.drops) == bool(drops_of(train))


@pytest.mark.parametrize("path", NETS, ids=name_of)
def test_nets_build(path):
    net = Net(load_net(path), "TRAIN", "cpu", fills=path.parent.name not in LARGE)
    assert net.losses
    readers = {node.name for drop in net.plan.drops for node in drop.consumers}
    if path.parent.name in CAFFES:
        assert bool(readers) == bool(drops_of(net))
        assert not readers or CAFFES[path.parent.name] in readers
    elif path.parent.name in TRANSFORMERS:
        assert net.plan.drops and all(drop.saves for drop in net.plan.drops)
    elif path.parent.name.startswith("ner_"):
        assert readers == {"lstm"}
    elif not path.parent.name.startswith("mlp_") and not path.parent.name.endswith("_mlp"):
        assert net.drop_layers and "scores" in readers      # a language model's largest product is compacted


@pytest.mark.parametrize("name, file", [
    *((name, f"{name}/train_val.prototxt") for name in TRANSFORMERS),
    ("gpt_shakespeare_full", "gpt_shakespeare/train_val_full.prototxt")])
def test_transformers_are_what_the_script_writes(name, file):
    done = run_here(MODELS.parent / "scripts" / "make_transformer.py", name)
    assert done.stdout == (MODELS / file).read_text()


def test_the_script_writes_transformers_of_other_sizes_and_drops():
    text = run_here(MODELS.parent / "scripts" / "make_transformer.py", "gpt_shakespeare", "--set", "width=24",
                    "--set", "heads=3", "--set", "blocks=1", "--drop", "hidden=0.25").stdout
    layers = {layer.name: layer for layer in parse_net(text).message.layer}
    assert layers["block1_attention"].attention_param.num_heads == 3 and "block2_attention" not in layers
    assert layers["block1_attention_q"].inner_product_param.num_output == 24
    drops = [layer for layer in layers.values() if layer.type == "ApproxDropout"]
    assert [layer.approx_dropout_param.dropout_ratio for layer in drops] == [0.25]


@pytest.mark.parametrize("name", CAFFES)
def test_approx_changes_nothing_but_the_drops(name):
    def layers(file, *without):
        return [layer for layer in load_net(MODELS / name / file).message.layer
                if layer.type not in (*DROPS, *without)]
    assert layers("train_val_approx.prototxt") == layers("train_val.prototxt")
    without = "HDF5Data", "DummyData", "Accuracy"
    if name in ("caffenet", "vgg16"):
        assert layers("timing.prototxt", *without) == layers("train_val.prototxt", *without)
    plain, approx = (load_solver(MODELS / name / f"solver{end}.prototxt").message for end in ("", "_approx"))
    assert (plain.net, approx.net) == ("train_val.prototxt", "train_val_approx.prototxt")
    plain.net = approx.net
    assert plain == approx


def plain_layers(message):
    """The layers of a net but for data and drops, without settings that say what is so anyway."""
    layers = []
    for layer in message.layer:
        if layer.type in (*DROPS, "Data", "HDF5Data"):
            continue
        simplify(layer)
        layers.append(layer)
    return layers


def simplify(message):
    for field, value in message.ListFields():
        if field.message_type is None:
            if value == field.default_value or field.name == "stride" and value == [1]:
                message.ClearField(field.name)
            continue
        several = not hasattr(value, "ListFields")
        for one in value if several else [value]:
            simplify(one)
        if not several and not value.ListFields() and field.name not in ("include", "exclude"):
            message.ClearField(field.name)


@pytest.mark.parametrize("name, original", [
    ("lenet", "examples/mnist/lenet_train_test"),
    ("cifar10_quick", "examples/cifar10/cifar10_quick_train_test"),
    ("cifar10_full", "examples/cifar10/cifar10_full_train_test"),
    ("caffenet", "models/bvlc_reference_caffenet/train_val")])
def test_layers_are_those_of_caffe(name, original, data_folder):
    path = data_folder / "caffe" / f"{original}.prototxt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    theirs = text_format.Parse(path.read_text(), NetParameter(), allow_unknown_field=True)
    ours = load_net(MODELS / name / "train_val.prototxt").message
    assert plain_layers(ours) == plain_layers(theirs)


@pytest.mark.parametrize("file, arguments", [("train_val", ()), ("train_val_approx", ("--drop", "0.25"))])
def test_the_residual_net_is_what_its_script_writes(file, arguments):
    done = run_here(MODELS.parent / "scripts" / "make_resnet_cifar.py", *arguments)
    assert (MODELS / "resnet_cifar" / f"{file}.prototxt").read_text() == done.stdout


@pytest.mark.parametrize("size, steps, epochs, rate_after", [
    ("small", 20, 13, {4: 1, 5: 0.5, 13: 0.5**9}), ("medium", 35, 39, {6: 1, 7: 1 / 1.2, 39: 1.2**-33}),
    ("large", 35, 55, {14: 1, 15: 1 / 1.15, 55: 1.15**-41})])
def test_epochs_of_the_penn_treebank(size, steps, epochs, rate_after):
    """Rates and lengths are counted in batches: TextStreams is the truth about how many an epoch has."""
    message = load_solver(MODELS / f"ptb_{size}" / "solver.prototxt").message
    epoch = TextStreams(range(TOKENS["train"]), 20, steps).batches_per_pass
    assert (message.test_interval, message.max_iter) == (epoch, epochs * epoch)
    tests = [TextStreams(range(TOKENS[part]), 10, steps).batches_per_pass for part in ("valid", "test")]
    assert list(message.test_iter) == tests
    for number, rate in rate_after.items():
        # the first and the last of epoch `number`
        for iteration in ((number - 1) * epoch, number * epoch - 1):
            halvings = sum(iteration >= value for value in message.stepvalue)
            assert message.base_lr / steps * message.gamma**halvings == pytest.approx(rate, rel=1e-4)
    clip = {"small": 5, "medium": 5, "large": 10}[size]
    assert message.clip_gradients * steps == pytest.approx(clip, rel=1e-5)


def test_real_penn_treebank(data_folder):
    """The numbers of above are those of the real text, and caption_lm's of its sentences."""
    folder = data_folder / "ptb"
    if not folder.is_dir():
        pytest.skip(f"no Penn Treebank in {folder}")
    train = folder / "ptb.train.txt.xz"
    assert {part: len(read_text(folder / f"ptb.{part}.txt.xz").indices) for part in TOKENS} == TOKENS
    assert len(read_text(train).vocabulary) == 10000
    message = load_solver(MODELS / "caption_lm" / "solver.prototxt").message
    for part, batches in zip(("valid", "test"), message.test_iter, strict=True):
        text = read_text(folder / f"ptb.{part}.txt.xz", "WORD", train, 8801)
        assert len(text.vocabulary) == 8801
        assert Sentences(text.indices, text.vocabulary.eos, 100, 20).batches_per_pass == batches


@pytest.mark.parametrize("file, layers", [("train_val", 2), ("train_val_3", 3)])
def test_caption_lm_is_the_papers(file, layers):
    net = Net(load_net(MODELS / "caption_lm" / f"{file}.prototxt"), "TRAIN", "cpu", fills=False)
    lstms = [layer for layer in net.layers.values() if layer.config.type == "LSTM"]
    assert [layer.units for layer in lstms] == [1000] * layers
    assert [site.settings.rate for site in net.drop_sites.values()] == [0.5] * (layers + 1)
    assert net.graph.shapes[net.graph.nodes[0].tops[0]] == (20, 100)
    assert net.params["embed"]["weight"].shape == (8801, 1000)
