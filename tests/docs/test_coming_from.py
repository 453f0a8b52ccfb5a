"""The tables for who comes from PyTorch, Keras or Chainer: what they name here exists, and runs."""

import ast
import copy
import importlib
import re

import numpy as np
import pytest
from pages import ROOT, rows

import minidrop as md
from minidrop import nn, optim

ROWS = {"PyTorch": 45, "Keras": 50, "Chainer": 55}      # at least so many
# What stands for something else in a table, or takes a GPU or the package onnx.
NO_CODE = {"out, (h, c) = lstm(x, state=(h, c))", "x.broadcast_to(3, 4)", "DataLoader(seed=0)", "solve()",
           'model.to(precision="float16")', "md.export_onnx(model.eval().net_for(x), path)"}


def snippets(origin):
    """Return the code in the second column of a page's table."""
    table = rows(ROOT / "docs" / "how_to" / f"coming_from_{origin.lower()}.md", f"Coming from {origin}")
    assert len(table) >= ROWS[origin]
    return [code for row in table for code in re.findall(r"`([^`]+)`", row[1])]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the tables speak of."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = md.Tensor(rng.uniform(1, 2, (2, 6)).astype("f"), requires_grad=True)
    model = nn.Sequential(nn.Linear(6, 4)).set_seed(0).to("cpu")
    np.savez("w.npz", **model.state_dict())
    net = model.net_for(x)
    return {"md": md, "np": np, "nn": nn, "optim": optim, "F": md.functions, "rng": rng, "data": [1.0, 2.0],
            "x": x, "y": x * 2, "rows": np.arange(2), "i": np.array([1, 0]), "shape": (2, 3),
            "f": "model.npz", "a": np.ones((3, 4), "f"), "device": "cpu", "d": [1.0, 2.0], "max_lr": 0.5,
            "max_iter": 10, "net": net, "state": md.to_torch_state_dict(net), "model": model,
            "encoder": nn.Embedding(9, 4), "decoder": nn.Linear(4, 9), "print": lambda *_: None}


def evaluate(code, names, own):
    """Run a snippet on a model of its own; a name that stands alone has to exist."""
    if re.fullmatch(r"minidrop(\.\w+)+", code):
        module, _, name = code.rpartition(".")
        return getattr(importlib.import_module(module), name)
    model = copy.deepcopy(names["model"])
    md.functions.mse_loss(model(names["x"]), np.zeros((2, 4), "f")).backward()
    here = {**names, "model": model, "m": model, "ps": model.parameters(),
            "o": optim.SGD(model.parameters(), lr=0.1)}
    here |= {name: make(model) for name, make in own.items()}
    for statement in ast.parse(code.replace("DataLoader(d, workers=4)", "DataLoader(d, 1, workers=4)")).body:
        exec(ast.unparse(statement), here)


def loader(model):
    data = md.data.ArrayDataset(np.ones((2, 6), "f"), np.array([1, 3], np.int32))
    return md.data.DataLoader(data, 2)


def rule(model):
    return optim.Adam(model.parameters(), lr=0.01)


OWN = {"x": lambda model: np.ones((2, 6), "f"), "y": lambda model: np.array([1, 3], np.int32),
       "loader": loader, "loss": lambda model: nn.CrossEntropyLoss(), "rule": rule,
       "v": lambda model: md.Tensor(np.ones((3, 4), "f"), requires_grad=True),
       "solver": lambda model: md.Solver.of(model, nn.CrossEntropyLoss(), rule(model), train=loader(model),
                                            max_iter=1)}


@pytest.mark.parametrize("origin", ROWS)
def test_what_a_table_names_is_there(origin, names):
    evaluated, wrong = 0, []
    for code in snippets(origin):
        if code in NO_CODE:
            continue
        try:
            evaluate(code, names, {} if origin == "PyTorch" else OWN)
            evaluated += 1
        except Exception as error:
            wrong.append(f"{code}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    assert evaluated > 40


def test_what_is_passed_over_is_there():
    assert NO_CODE <= {code for origin in ROWS for code in snippets(origin)}


def test_a_wrong_name_is_found(names):
    for code in ("nn.Linaer(6, 4)", "md.optim.Adamm", "minidrop.solver.mpi.wrld", "nn.Linear(6, 4, pad=1)"):
        with pytest.raises((AttributeError, TypeError, md.MinidropError)):
            evaluate(code, names, OWN)
