"""The examples of training loops in docs/examples run, learn, and say what they save."""

import importlib.util
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import minidrop as md

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def share_left(printed):
    """The share of the operations that a program says are left, in percent."""
    return int(re.search(r"(\d+)% of the operations in products are left", printed).group(1))


def write_idx(path, array):
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


# -- mnist_loop ----------------------------------------------------------------------------------------------
def test_mnist_loop_on_digits(capsys):
    pytest.importorskip("sklearn")
    assert example("mnist_loop").main(["--quick"]) > 0.6
    printed = capsys.readouterr().out
    assert share_left(printed) < 35 and printed.endswith("the loaded model gives the same scores: True\n")
    losses = [float(loss) for loss in re.findall(r"loss (\d\.\d+)", printed)]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_mnist_loop_on_files_with_ordinary_dropout(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 100)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), 2 * labels] = 255              # a row of its own for each label
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
    arguments = ["--mnist", str(tmp_path), "--dropout", "conventional", "--quick"]
    assert example("mnist_loop").main(arguments) > 0.9
    assert share_left(capsys.readouterr().out) == 100


# -- character_lstm ------------------------------------------------------------------------------------------
def test_character_lstm(tmp_path, capsys):
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog. " * 2400)
    program = example("character_lstm")
    distinct = np.log2(len(set("the quick brown fox jumps over the lazy dog. ")))
    assert program.main(["--text", str(tmp_path / "text"), "--quick"]) < 0.9 * distinct
    printed = capsys.readouterr().out
    assert share_left(printed) < 60 and len(printed.split(" s)\n", 1)[1]) == 41


def test_each_stream_goes_on_in_the_next_batch(tmp_path):
    (tmp_path / "text").write_text("".join(chr(97 + i % 26) for i in range(400)))
    text = md.data.TextDataset(tmp_path / "text", steps=5, level="CHARACTER")
    batches = [x for x, _ in example("character_lstm").streams(text, range(30), 4)]
    for i, stream in enumerate(np.concatenate(batches, axis=1)):
        np.testing.assert_array_equal(stream, text.indices[35 * i:35 * (i + 1)])


# -- custom_loss ---------------------------------------------------------------------------------------------
def test_custom_loss(capsys):
    pytest.importorskip("sklearn")
    assert example("custom_loss").main(["--quick"]) < 0.4
    printed = capsys.readouterr().out
    assert share_left(printed) < 65 and "averages of the weights: right" in printed


def test_the_losses_are_what_their_formulas_say():
    program, rng = example("custom_loss"), np.random.default_rng(1)
    x, scores = rng.standard_normal((7, 4)), rng.standard_normal((7, 3))
    label = np.array([0, 1, 2, 1, 0, 0, 2])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    costs = [max(0, 0.5 + ((x[a] - x[p]) ** 2).sum() - ((x[a] - x[n]) ** 2).sum())
             for a in range(7) for p in range(7) for n in range(7) if label[a] == label[p] != label[n]]
    assert program.triplet_loss(md.Tensor(x), label).item() == pytest.approx(np.mean(costs), rel=1e-12)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    p = p[np.arange(7), label]
    focal = program.focal_loss(md.Tensor(scores), label)
    assert focal.item() == pytest.approx(np.mean(-(1 - p) ** 2 * np.log(p)), rel=1e-12)
    md.check_gradients(lambda x: program.triplet_loss(x, label), x)
    md.check_gradients(lambda scores: program.focal_loss(scores, label), scores)


def test_every_parameter_is_in_one_group():
    program = example("custom_loss")
    model = program.TwoBranches(16)
    groups = program.groups(model)
    assert sorted(name for group in groups for name in group["params"]) == sorted(
        name for name, _ in model.named_parameters())
