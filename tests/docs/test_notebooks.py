"""The notebooks of docs/notebooks run from top to bottom, draw their curves, and learn."""

import json
import re
from pathlib import Path

import pytest
from pages import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = ["character_lm", "mnist_with_curves"]


def executed(names, folder, monkeypatch):
    """Run notebooks in one kernel, which forgets the names of one before the next; returns for each (what it
    printed, how many figures it drew)."""
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
    notebooks = [nbformat.read(FOLDER / f"{name}.ipynb", as_version=4) for name in names]
    together = nbformat.v4.new_notebook()
    together.cells = [cell for notebook in notebooks
                      for cell in (nbformat.v4.new_code_cell("%reset -f"), *notebook.cells)]
    nbclient.NotebookClient(together, timeout=120, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}}).execute()
    for notebook in notebooks:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        figures = sum("image/png" in output.get("data", {}) for output in outputs)
        yield "".join(output["text"] for output in outputs if output.output_type == "stream"), figures


def test_they_run_and_learn(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    (printed, figures), (of_digits, figures_of_digits) = executed(NAMES, tmp_path, monkeypatch)
    found = re.search(r"([\d.]+) bits a character at first, ([\d.]+) in the end", printed)
    first, last = map(float, found.groups())
    assert last < first - 2 and figures == 1 and printed.count("--- temperature") == 3
    accuracies = [float(found) for found in re.findall(r"accuracy (0\.\d+|1\.0+)", of_digits)]
    assert len(accuracies) == 2 and min(accuracies) > 0.93 and figures_of_digits == 3
    assert "2 reads only" not in of_digits and "0 computes only the units kept by 2" in of_digits


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_without_outputs(name):
    """What a cell gives would be stale after any change of the code; a test runs the notebook instead."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert sorted(Path(path).stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert all(cell["outputs"] == [] and cell["execution_count"] is None
               for cell in notebook["cells"] if cell["cell_type"] == "code")
