"""Every kernel has its row: what it computes, its reference, and the measurement that is its reason to exist."""

import re
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "minidrop" / "kernels"
HELPERS = {"philox_words"}         # called by kernels


def test_every_numba_kernel_has_a_row_with_figures():
    defined = set(re.findall(r"@_jit\ndef (\w+)", (KERNELS / "cpu.py").read_text())) - HELPERS
    rows = {name: cells.split("|") for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", (KERNELS / "README.md").read_text(),
                                                                 re.MULTILINE)}
    assert defined and defined <= set(rows)
    assert all(re.fullmatch(r" \d+\.\dx ", rows[name][-1]) for name in defined)
