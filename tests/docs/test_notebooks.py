"""The notebooks of docs/notebooks run from top to bottom, draw their curves, and learn."""

import json
import re
from pathlib import Path

import pytest
from pages import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = ["character_lm", "mnist_with_curves"]


def executed(name, folder, monkeypatch):
    """Run a notebook in a kernel of its own; returns (what it printed, how many figures it drew)."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient (the extra `notebooks`) is not installed")
    for package in ("ipykernel", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} (the extra `notebooks`) is not installed")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for threads in ("OPENBLAS_NUM_THREADS", "MINIDROP_THREADS"):    # other tests run beside it
        monkeypatch.setenv(threads, "1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output["text"] for output in outputs if output.output_type == "stream"), figures


def test_digits_with_curves(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    printed, figures = executed("mnist_with_curves", tmp_path, monkeypatch)
    accuracies = [float(found) for found in re.findall(r"accuracy (0\.\d+|1\.0+)", printed)]
    assert len(accuracies) == 2 and min(accuracies) > 0.93 and figures == 3
    assert "2 reads only" not in printed and "0 computes only the units kept by 2" in printed


def test_a_language_model(tmp_path, monkeypatch):
    printed, figures = executed("character_lm", tmp_path, monkeypatch)
    found = re.search(r"([\d.]+) bits a character at first, ([\d.]+) in the end", printed)
    first, last = map(float, found.groups())
    assert last < first - 2 and figures == 1 and printed.count("--- temperature") == 3


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_without_outputs(name):
    """What a cell gives would be stale after any change of the code; a test runs the notebook instead."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert sorted(Path(path).stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert all(cell["outputs"] == [] and cell["execution_count"] is None
               for cell in notebook["cells"] if cell["cell_type"] == "code")
