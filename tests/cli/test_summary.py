"""minidrop summary: the numbers of a small net, counted by hand, and what it shares with `minidrop check`."""

import json
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_the_numbers_of_a_net(tiny, minidrop):
    found = json.loads(minidrop("summary", tiny.net, "--json").out)
    # 6 inputs, 20 units of which half live, 3 classes, batches of 8; products of 2 n m operations a sample.
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert (found["net"], found["phase"], found["batch"], found["dtype"]) == (tiny.net, "TRAIN", 8, "float32")
    assert layers["ip1"]["outputs"] == {"ip1": [8, 20]} and layers["ip1"]["output_bytes"] == 8 * 20 * 4
    assert (layers["ip1"]["parameters"], layers["ip2"]["parameters"]) == (6 * 20 + 20, 20 * 3 + 3)
    assert layers["ip1"]["dense"] == 8 * 2 * 6 * 20 * 2          # forward, and the gradient of the weights
    assert layers["ip2"]["dense"] == 8 * 2 * 20 * 3 * 3          # and that of the input
    assert layers["ip1"]["expected"] == pytest.approx(layers["ip1"]["dense"] / 2)
    assert found["dense"] == layers["ip1"]["dense"] + layers["ip2"]["dense"]
    drop, = found["drops"]
    assert drop["layer"] == "drop1" and drop["saved"] == pytest.approx(found["dense"] / 2)
    blobs = 8 * 6 + 8 + 3 * 8 * 20 + 8 * 3 + 1
    assert found["memory"] == {"parameters": 203 * 4, "activations": blobs * 4, "gradients": 203 * 4,
                               "activation_gradients": blobs * 4}


def test_the_text(tiny, minidrop):
    lines = minidrop("summary", tiny.net).out.splitlines()
    assert lines[0] == f"{tiny.net}: phase TRAIN, float32, batches of 8"
    assert lines[1].split()[-2:] == ["output", "bytes"]
    assert any(line.startswith("  memory of parameters and blobs: 6.") for line in lines)
    assert lines[-1].startswith("  drop1 (PERIODIC) saves 0.0034 MFLOP, 50.0% of the dense net's")
    checked = minidrop("check", tiny.net, "--phase", "TRAIN").out
    assert lines[-1] in checked
    tables = ([line.split()[:3] for line in text[2:9]] for text in (checked.splitlines(), lines))
    assert next(tables) == next(tables)


def test_phase_test_and_other_numbers(tiny, minidrop):
    found = json.loads(minidrop("summary", tiny.net, "--phase", "TEST", "--json", "--dtype", "float64").out)
    assert (found["batch"], found["drops"]) == (10, [])
    assert set(found["memory"]) == {"parameters", "activations"}
    assert found["memory"]["parameters"] == 203 * 8
    text = minidrop("summary", tiny.net, "--dropout", "none").out
    assert text.endswith("  drop1 (PERIODIC) saves nothing: dropout_ratio is 0\n")


def test_mistakes(tiny, minidrop):
    (tiny.folder / "wrong.prototxt").write_text("layer { nme: 1 }")
    done = minidrop("summary", "task/wrong.prototxt")
    assert done.code == 1 and "nme" in done.err and done.out == ""
    assert minidrop("summary").code == 2


@pytest.mark.parametrize("name, shape, parameters", [
    ("lenet", "1,28,28", 431_080), ("caffenet", "3,227,227", 60_965_224),
    ("vgg16", "3,224,224", 138_357_544)])
def test_nets_whose_data_are_not_here(minidrop, monkeypatch, tmp_path, name, shape, parameters):
    """The published numbers of parameters."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    path = MODELS / name / "train_val.prototxt"
    found = json.loads(minidrop("summary", path, "--shape", shape, "--json").out)
    assert (found["parameters"], found["phase"]) == (parameters, "TEST")
    assert found["layers"][0]["outputs"] == {"data": [found["batch"], *map(int, shape.split(","))]}
    assert minidrop("summary", path, "--shape", shape, "--phase", "TRAIN").code == 2
