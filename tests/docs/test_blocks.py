"""The Python blocks of pages run from top to bottom, print what the page shows, and have the values said."""

import ast
import copy
import os
import re

import numpy as np
import pytest
from pages import ROOT, Block, blocks, run, run_page

import minidrop as md
from minidrop import nn, optim


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_api(folder):
    assert run_page(ROOT / "docs" / "python_api.md", {}) >= 40
    assert sorted(os.listdir()) == ["model.npz", "net.prototxt", "twin.caffemodel"]


def test_the_table_for_who_comes_from_pytorch(folder):
    """What stands in its column "here" is there, and what is an expression can be evaluated."""
    text = (ROOT / "docs" / "python_api.md").read_text().split("## Coming from PyTorch")[1]
    rows = [re.findall(r"`([^`]+)`", line.split(" | ")[1]) for line in text.splitlines()
            if line.startswith("| `")]
    assert len(rows) >= 40
    rng = np.random.default_rng(0)
    x = md.Tensor(rng.uniform(1, 2, (2, 6)).astype("f"), requires_grad=True)
    model = nn.Sequential(nn.Linear(6, 4)).to("cpu")
    names = {"md": md, "np": np, "nn": nn, "optim": optim, "F": md.functions, "rng": rng, "data": [1.0, 2.0],
             "x": x, "y": x * 2, "rows": np.arange(2), "i": np.array([1, 0]), "shape": (2, 3),
             "ps": model.parameters(), "f": "model.npz", "device": "cpu", "d": [1.0, 2.0],
             "o": optim.SGD(model.parameters(), lr=0.1), "max_lr": 0.5, "max_iter": 10,
             "net": model.net_for(x), "state": md.to_torch_state_dict(model.net_for(x)),
             "DataLoader": lambda seed: md.data.DataLoader([1.0], 1, seed=seed)}
    md.functions.mse_loss(model(x), np.zeros((2, 4), "f")).backward()
    evaluated = 0
    for snippet in (snippet for row in rows for snippet in row):
        if snippet in NO_CODE:
            continue
        for statement in ast.parse(snippet.replace("workers=4", "batch_size=1, workers=4")).body:
            exec(ast.unparse(statement), {**names, "model": copy.deepcopy(model), "m": copy.deepcopy(model)})
            evaluated += 1
    assert evaluated > 40


# What stands for something else in the table, or takes a GPU or the package onnx.
NO_CODE = ("out, (h, c) = lstm(x, state=(h, c))", "x.broadcast_to(3, 4)", 'model.to(precision="float16")',
           "md.export_onnx(model.eval().net_for(x), path)")


def test_pages_are_read_as_they_should_be():
    page = ("a\n```python\nx = 2\nx * 3    # -> 6\nprint(x)\n```\n```\n2\n```\n```sh\nls\n```\n"
            "```python\nx\n```\n\n```\n3\n```\n")
    assert blocks(page) == [Block("python", 3, "x = 2\nx * 3    # -> 6\nprint(x)\n", "2\n"),
                            Block("sh", 11, "ls\n"), Block("python", 14, "x\n"), Block("", 18, "3\n")]
    assert run("page", "y = 1\ny + 1  # -> 2\n", 1, {}) == 1
    with pytest.raises(AssertionError, match="page:4"):
        run("page", "y = 1\ny + 1  # -> 3\n", 3, {})


# -- README --------------------------------------------------------------------------------------------------
NET = """
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 6 } shape { dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 16 weight_filler { type: "msra" } } }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1" }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
TEXT = """
layer { name: "text" type: "TextData" top: "data" top: "label" top: "cont"
        text_data_param { source: "text" level: CHARACTER steps: 5 batch_size: 2 } }
layer { name: "embed" type: "Embed" bottom: "data" top: "embed" embed_param { input_dim: 12 num_output: 4
        weight_filler { type: "gaussian" } } }
layer { name: "lstm" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm" recurrent_param { num_output: 8
        weight_filler { type: "xavier" } } }
layer { name: "scores" type: "InnerProduct" bottom: "lstm" top: "scores"
        inner_product_param { num_output: 12 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
        softmax_param { axis: 2 } }
"""
DUMMY = """
layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param {
        shape { dim: 4 dim: 6 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { value: 1 } } }
"""


def test_readme(folder):
    (folder / "text").write_text("def abcdef()\n" * 20)
    (folder / "net.prototxt").write_text(NET)
    (folder / "lm.prototxt").write_text(TEXT)
    (folder / "train.prototxt").write_text(DUMMY + NET.split("\n", 3)[3])
    (folder / "solver.prototxt").write_text('net: "train.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1')
    (folder / "lm_solver.prototxt").write_text('net: "lm.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1')
    writer = md.Solver.from_file("lm_solver.prototxt", device="cpu")
    writer.step()
    writer.snapshot("SNAPSHOT.h5")
    writer.close()
    rng = np.random.default_rng(0)
    names = {"iteration": 0, "x": rng.standard_normal((4, 6)).astype("f"), "y": np.arange(4) % 3}
    run_page(ROOT / "README.md", names)
    assert names["solver"].iteration == 100 and len(names["text"]) == 200
    assert set(names["out"]) == {"loss"} and names["sure"] is not None
