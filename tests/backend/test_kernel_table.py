"""Every kernel has its row: what it computes, its reference, and the measurement that is its reason to
exist."""

import re
from pathlib import Path

from minidrop.backend import Backend
from minidrop.kernels.cuda import KERNELS as CUDA_KERNELS

KERNELS = Path(__file__).resolve().parents[2] / "minidrop" / "kernels"
HELPERS = {"philox_words", "gradient_row", "regularised", "inverse_power", "channel_window", "square_window",
           "inside", "image_rows", "put_image_rows", "lay_out", "exponential", "sum_of_lanes", "serve",
           "sgd_row", "compute_tile", "expand_row", "gather_row", "transpose_places", "add_squares",
           "take_larger", "surround", "logistic", "hyperbolic"}       # those whose names begin with _ as well
ON_THE_CPU, ON_THE_GPU = (KERNELS / "README.md").read_text().split("\n## On the GPU\n")


def rows_of(text):
    """Return {kernel: cells of its row}."""
    return {name: cells.split("|")
            for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)}


def test_every_numba_kernel_has_a_row_with_figures():
    defined = {name for file in KERNELS.glob("cpu*.py")
               for name in re.findall(r"@jit\ndef ([a-z]\w*)", file.read_text())} - HELPERS
    rows = rows_of(ON_THE_CPU)
    assert defined and defined <= set(rows)
    assert all(re.fullmatch(r" (\d+\.\dx|not yet) ", rows[name][-1]) for name in defined)


def test_every_cuda_kernel_has_a_row_with_its_reference():
    rows = rows_of(ON_THE_GPU.split("Tried and not kept:")[0])
    assert set(rows) == set(CUDA_KERNELS)
    for name, (_, _, reference, *_) in rows.items():
        methods = re.findall(r"`(?:Backend\.)?(\w+)`", reference)
        assert methods and all(hasattr(Backend, method) for method in methods), name
