"""The Python blocks of pages run from top to bottom, print what the page shows, and have the values said."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from pages import PAGES, ROOT, Block, blocks, blocks_of, run, run_block, run_page

import minidrop as md
from minidrop.apps.onnx import writer
from minidrop.config import layer_types
from minidrop.layers import allow_python
from minidrop.patterns import base

# Pages whose blocks need files, or run with others: each has a test of its own.
OWN_TESTS = {"README.md", "docs/python_api.md", "docs/tutorial.md", "docs/coming_from_caffe.md",
             "docs/export.md", "docs/how_to/several_machines.md"}
COMPLETE = [page for page in PAGES if blocks_of(page, "python")
            and str(page.relative_to(ROOT)) not in OWN_TESTS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for what pages write; layers and families that they register are forgotten."""
    monkeypatch.chdir(tmp_path)
    with layer_types.forgetting(), base._families.forgetting():
        yield tmp_path
    base.get_family.cache_clear()


def missing(code):
    """The first package that a block imports and that is not installed, or None."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return next((name for name in (name.partition(".")[0] for name in names)
                 if importlib.util.find_spec(name) is None), None)


@pytest.mark.parametrize("page", COMPLETE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(folder, page):
    """A page that needs nothing else runs from top to bottom, up to a package that is not installed."""
    names = {}
    for block in blocks_of(page, "python"):
        if (package := missing(block.code)) is not None:
            pytest.skip(f"{page.name}:{block.line} and what follows needs {package}, which is not installed")
        if "safetensors" in block.code:
            pytest.importorskip("safetensors", reason="safetensors is not installed")
        run_block(page, block, names)


def test_every_page_with_python_is_run():
    of_pages = {str(page.relative_to(ROOT)) for page in PAGES if blocks_of(page, "python")}
    assert of_pages - {str(page.relative_to(ROOT)) for page in COMPLETE} == OWN_TESTS
    assert len(COMPLETE) >= 11


def test_blocks_of_networks_and_solvers_are_read():
    """With the names of fields and messages, each at its place; layers may be a part of a net."""
    read = 0
    for page in PAGES:
        for block in blocks_of(page, "prototxt"):
            is_solver = re.search(r"^(base_lr|net):", block.code, re.M)
            text_format.Parse(block.code, md.SolverParameter() if is_solver else md.NetParameter())
            read += 1
    assert read >= 7


def test_from_a_csv_file_to_predictions_in_under_15_lines():
    block = next(block for block in blocks_of(ROOT / "docs" / "how_to" / "own_data.md", "python")
                 if "CSVDataset" in block.code)
    assert len([line for line in block.code.split("\n") if line.strip()]) < 15 and "eval()" in block.code


def test_python_api(folder):
    assert run_page(ROOT / "docs" / "python_api.md", {}) >= 40
    assert sorted(os.listdir()) == ["model.npz", "net.prototxt", "twin.caffemodel"]


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


# -- pages that speak of files -------------------------------------------------------------------------------
IMAGES = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
TRAIN_IMAGES = """
layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param {
        shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } data_filler { type: "gaussian" }
        data_filler { value: 1 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "train.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 2 random_seed: 1\n'


def test_pycaffe(folder):
    image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `images`) reads cat.jpg")
    image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save("cat.jpg")
    (folder / "deploy.prototxt").write_text(IMAGES)
    (folder / "train.prototxt").write_text(TRAIN_IMAGES)
    (folder / "solver.prototxt").write_text(
        SOLVER + 'test_iter: 1 test_interval: 100 test_net: "train.prototxt" test_initialization: false')
    md.Net.from_file("deploy.prototxt").save("weights.caffemodel")
    allowed, names = allow_python(False), {}
    try:
        run_page(ROOT / "docs" / "coming_from_caffe.md", names)
    finally:
        allow_python(allowed)
    assert names["solver"].iter == 100


def test_export(folder):
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("safetensors", reason="the extra `safetensors` is not installed")
    (folder / "train_val.prototxt").write_text(IMAGES)
    md.Net.from_file("train_val.prototxt", seed=1).save("weights.safetensors")
    module = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 4, 3), "fc": torch.nn.Linear(144, 5)})
    names = {"module": module, "torch": torch}
    names["state"] = {name.replace("conv", "features.0"): value
                      for name, value in module.state_dict().items()}
    first, own_operator, both_ways = blocks_of(ROOT / "docs" / "export.md", "python")
    page = ROOT / "docs" / "export.md"
    run_block(page, first, names)
    assert onnx.load("net.onnx").graph.output[0].name == "prob" and (folder / "other.safetensors").is_file()
    with writer._writers.forgetting():
        run_block(page, own_operator, {})
    del module["conv"]
    module["conv1"] = torch.nn.Conv2d(3, 4, 3)
    run_block(page, both_ways, names)
    assert np.array_equal(module["fc"].weight.detach().numpy(), names["net"].params["fc"]["weight"].data)


def test_a_program_of_several_ranks(folder):
    pytest.importorskip("mpi4py", reason="the extra `mpi` is not installed")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    for block in blocks_of(ROOT / "docs" / "how_to" / "several_machines.md", "python"):
        (folder / "program.py").write_text(block.code)
        done = subprocess.run([mpiexec, "-n", "2", sys.executable, "program.py"],
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "MINIDROP_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        ranks = re.findall(r"rank (\d) of 2: (\d+\.\d{4})", done.stdout)
        assert sorted(rank for rank, _ in ranks) == ["0", "1"] and len({value for _, value in ranks}) == 1
