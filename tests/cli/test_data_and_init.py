"""minidrop data list, and minidrop init: what is there, and what is copied."""

import json
from pathlib import Path

import pytest

from minidrop.apps.models import known_models
from minidrop.config import load_net, load_solver
from minidrop.data import DATA_SETS
from minidrop.data.data_sets import IDX_SETS, TEXT_SETS, TITLES

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path / "cache"))


def test_every_data_set_is_described():
    assert tuple(TITLES) == DATA_SETS == ("digits", *IDX_SETS, "cifar10", *TEXT_SETS)


def test_the_list_of_data_sets_says_what_is_there(minidrop, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is absent")
    lines = minidrop("data").out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(DATA_SETS)
    assert all(line.endswith("not here yet") for line in lines[:-1])
    assert lines[-1] == "fetch one with: minidrop data digits"
    made = minidrop("data", "digits", "--folder", "own")
    assert made.code == 0 and 'source "digits/train.txt"' in made.out and made.err == ""
    assert sorted(path.name for path in Path("own/digits").iterdir()) == [
        "test.h5", "test.txt", "train.h5", "train.txt"]
    assert not (tmp_path / "cache").exists()
    found = json.loads(minidrop("data", "list", "--json", "--folder", "own").out)
    assert [one["name"] for one in found if one["is_there"]] == ["digits"]
    assert found[0]["folder"] == "own/digits" and found[3]["download_mb"] == 170
    again = minidrop("data", "digits", "--folder", "own")
    assert again.out == "digits: already in own/digits (--force makes it again)\n"


@pytest.mark.parametrize("arguments, message", [
    (["mnits"], "'mnits' is not one of 'list', 'digits'"),
    (["list", "--force"], "are for fetching: name a data set"),
    (["digits", "--json"], "--json is for `minidrop data list`"),
    (["digits", "--mirror", "http://x"], "leave out --from and --mirror")])
def test_wrong_usage_of_data(minidrop, arguments, message):
    done = minidrop("data", *arguments)
    assert done.code == 2 and message in done.err


def test_the_list_of_models(minidrop):
    lines = minidrop("init").out.splitlines()
    folders = sorted(path.parent.name for path in MODELS.glob("*/solver.prototxt"))
    assert [line.split()[0] for line in lines[:-1]] == folders
    assert max(map(len, lines)) <= 110 and "](" not in "".join(lines)
    found = {one["name"]: one for one in json.loads(minidrop("init", "--json").out)}
    assert found["mnist_mlp"]["data_sets"] == ["mnist"] and found["nmt_tiny"]["data_sets"] == []
    assert found["lenet"]["title"].startswith("LeNet for handwritten digits of 28 x 28 pixels")


@pytest.mark.parametrize("name", [model.name for model in known_models()])
def test_each_model_is_described_and_whole(name):
    model = next(one for one in known_models() if one.name == name)
    assert 10 < len(model.title) < 250 and {"README.md", "solver.prototxt"} <= {f.name for f in model.files}
    for solver in model.solvers:
        nets = [load_solver(MODELS / name / solver).message.net]
        assert {Path(net).name for net in nets} <= {file.name for file in model.files}


def test_a_model_is_copied_and_never_overwritten(minidrop, tmp_path):
    done = minidrop("init", "digits_mlp")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        *(f"wrote digits_mlp/{name}" for name in ("README.md", "solver.prototxt", "train_val.prototxt")),
        "next:", "  minidrop data digits", "  minidrop train --solver digits_mlp/solver.prototxt"]
    assert load_net("digits_mlp/train_val.prototxt").message.name == "digits_mlp"
    own = Path("digits_mlp/solver.prototxt")
    own.write_text("mine")
    Path("digits_mlp/README.md").unlink()
    again = minidrop("init", "digits_mlp")
    assert again.code == 1 and "is there already, and nothing was copied" in again.err
    assert own.read_text() == "mine" and not Path("digits_mlp/README.md").exists()
    assert minidrop("init", "digits_mlp", "digits_mlp", "--force").code == 0
    assert own.read_bytes() == (MODELS / "digits_mlp" / "solver.prototxt").read_bytes()
    other = minidrop("init", "digits_mlp", "a b/c")
    assert other.out.splitlines()[-1] == "  minidrop train --solver 'a b/c/solver.prototxt'"


def test_mistakes_of_init(minidrop, tmp_path):
    assert "did you mean 'mnist_mlp'?" in minidrop("init", "mnistmlp").err
    assert minidrop("init", "--force").code == 2
    Path("file").write_text("")
    done = minidrop("init", "lenet", "file/below")
    assert done.code == 1 and "cannot be written" in done.err
