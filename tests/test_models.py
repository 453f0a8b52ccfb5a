"""Every file in models/ builds, without a mistake, and reads what its comments say."""

import re
from pathlib import Path

import pytest

from minidrop import Net, Solver
from minidrop.config import load_net, load_solver
from minidrop.data import Sentences, TextStreams, read_text
from minidrop.data.sources import DATA_SETS

MODELS = Path(__file__).resolve().parents[1] / "models"
SOLVERS = sorted(MODELS.glob("*/solver*.prototxt"))
NETS = sorted(path for path in MODELS.glob("*/*.prototxt") if not path.name.startswith("solver"))
TOKENS = {"train": 929589, "valid": 73760, "test": 82430}       # of the Penn Treebank, its line ends counted


def name_of(path):
    return "/".join(path.parts[-2:])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Stand-ins for the texts that no machine is sure to have: ptb/*.txt of as many tokens and different
    words."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "ptb").mkdir()
    words = [f"w{i}" for i in range(9998)]
    for part, tokens in TOKENS.items():
        lines = [" ".join(words[(i * 21 + j) % 9998] for j in range(21)) for i in range(tokens // 22)]
        rest = tokens - 22 * len(lines)
        lines += [" ".join(words[:rest - 1])] * (rest > 0)
        (folder / "ptb" / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def build(texts, monkeypatch):
    """Let the sources of texts be the stand-ins; a model of images needs the real ones, or is skipped."""
    def ready(path):
        found = {source.partition("/")[0] for source in re.findall(r'source: "(.*?)"', path.with_name(
            "train_val.prototxt").read_text())} & set(DATA_SETS)
        if found & {"digits", "mnist"}:
            pytest.skip(f"needs converted records: {', '.join(found)}; test_spec_equals_file.py checks the "
                        f"file")
        monkeypatch.setenv("MINIDROP_CACHE", str(texts))
        monkeypatch.chdir(texts)
    return ready


@pytest.mark.parametrize("path", SOLVERS, ids=name_of)
def test_solvers_build(path, build):
    build(path)
    solver = Solver.from_file(path, device="cpu")
    names = {name for net in solver.test_nets for name in net.outputs}
    assert {"loss", "accuracy"} <= names
    assert solver.settings.snapshot_best.removeprefix("-") in names
    # A test net shares every parameter, so it is tested on what was trained; and every drop saves something.
    for net in solver.test_nets:
        assert {id(p) for p in net.parameters().values()} == {id(p) for p in solver.net.parameters().values()}
    assert solver.net.plan.drops
    solver.close()


@pytest.mark.parametrize("path", NETS, ids=name_of)
def test_nets_build(path, build):
    build(path)
    net = Net(load_net(path), "TRAIN", "cpu")
    assert net.losses and net.drop_layers
    readers = {node.name for drop in net.plan.drops for node in drop.consumers}
    assert "scores" in readers          # the largest product of a language model is compacted


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
def test_caption_lm_is_the_papers(file, layers, build):
    path = MODELS / "caption_lm" / f"{file}.prototxt"
    build(path)
    net = Net(load_net(path), "TRAIN", "cpu")
    lstms = [layer for layer in net.layers.values() if layer.config.type == "LSTM"]
    assert [layer.units for layer in lstms] == [1000] * layers
    assert [site.settings.rate for site in net.drop_sites.values()] == [0.5] * (layers + 1)
    assert net.graph.shapes[net.graph.nodes[0].tops[0]] == (20, 100)
    assert net.params["embed"]["weight"].shape == (8801, 1000)
