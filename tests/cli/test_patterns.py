"""minidrop patterns: tables, plots, the table of searches."""

import importlib.util
import json
from functools import partial

import pytest
from cases import in_turn

from minidrop.cli.plots import text_plots
from minidrop.patterns import PatternSettings, known_families
from minidrop.patterns.report import report, search_table

FEW = ("--iterations", "200", "--units", "64")


def test_all_families_as_tables(minidrop):
    result = minidrop("patterns", *FEW)
    assert result.code == 0 and result.err == ""
    for name in known_families():
        assert f"{name}  rate 0.5, 64 " in result.out
    assert "64 x 64 weights in 16 tiles" in result.out and "64 units in 4 blocks" in result.out
    assert "products left     50.0% of the product above" in result.out
    assert result.out.count("200 iterations of layer 'drop1', seed 0: mean rate") == len(known_families())
    assert max(len(line) for line in result.out.splitlines()) <= 140


def test_one_family_says_what_is_exact_and_what_is_not(minidrop):
    row = minidrop("patterns", *FEW, "--family", "row", "--rate", "0.4", "--max-period", "2").out
    assert "seen in" not in row and "by symmetry" not in row
    assert "sub-models        3; entropy 1.055 nats, 0.5004 of them the choice's" in row
    unit = minidrop("patterns", *FEW, "--family", "unit").out
    assert "by symmetry" in unit and "units kept        32 to 32, seen in 200 iterations; mean 32.0" in unit
    assert "sub-models        10^18; entropy 42.05 nats" in unit


def test_options_reach_their_families(minidrop):
    options = ("--tile-size", "8", "--block-samples", "16", "--block-units", "4", "--inputs", "128", "--step",
               "4", "--scale", "PATTERN", "--seed", "5", "--layer", "fc", "--json")
    reports = json.loads(minidrop("patterns", *FEW, *options).out)
    assert reports["TILE"]["settings"]["tile_size"] == 8 and reports["TILE"]["sites"]["count"] == 8 * 16
    assert reports["BLOCK"]["settings"]["block_samples"] == 16 and reports["BLOCK"]["sites"]["count"] == 16
    assert (reports["BLOCK"]["settings"]["scale"] == "RATE"
            and reports["UNIT"]["settings"]["scale"] == "PATTERN")
    assert reports["PERIODIC"]["settings"]["step"] == 4 and reports["ROW"]["settings"]["step"] == 0
    assert {(one["sequence"]["seed"], one["sequence"]["layer"]) for one in reports.values()} == {(5, "fc")}


@pytest.mark.parametrize("arguments, message", [
    (["--family", "UNIT", "--tile-size", "8"], "pattern UNIT has no tile_size, got tile_size: 8"),
    (["--family", "BLOCK", "--scale", "PATTERN"], "pattern BLOCK has no scale PATTERN, only RATE"),
    (["--family", "BLOCK", "--block-units", "64"], "block_units 64 cuts 64 units into 1 block"),
    (["--family", "slices"], "unknown pattern 'slices'; did you mean 'SLICE'? (known patterns: BLOCK, "
     "PERIODIC, "),
    (["--iterations", "0"], "iterations must be an integer of at least 1, got 0"),
    (["--inputs", "0"], "inputs must be an integer of at least 1, got 0"),
    (["--png", "no/such/x.png"], "--png no/such/x.png: there is no folder no/such; make it"),
    (["--png", "out.jpeg"], "--png out.jpeg: expected a name that ends with .png, .pdf, .svg"),
])
def test_mistakes(minidrop, arguments, message):
    result = minidrop("patterns", *FEW, *arguments)
    assert result.code == 1 and message in result.err


def test_seeds_count_from_0(minidrop):
    result = minidrop("patterns", *FEW, "--seed", "-1")
    assert result.code == 2 and "--seed" in result.err and "-1 is not in the range x>=0" in result.err


def test_a_shortened_sequence_says_so(minidrop, monkeypatch):
    monkeypatch.setattr("minidrop.patterns.report.DRAWN", 64 * 50)
    out = minidrop("patterns", *FEW, "--family", "UNIT").out
    assert "only 50 of 200 iterations are looked at: more would need too much memory" in out
    assert "seen in 50 iterations" in out and "50 iterations of layer 'drop1', seed 0: mean rate" in out
    monkeypatch.setattr("minidrop.patterns.report.STRETCH", 8)
    assert "units, seen in 50 iterations, among 32 of them; 0.250" in minidrop("patterns", *FEW, "--family",
                                                                               "UNIT").out


@pytest.mark.parametrize("units, unit_axis, distance_axis", [
    (1, "unit 0", None), (2, "unit 0 to 1", "distance 1"), (5, "unit 0 to 4", "distance 1 to 4"),
    (40, "unit 0" + " " * 32 + "39", "distance 1" + " " * 27 + "39"),
])
def test_axis_labels_stand_apart(units, unit_axis, distance_axis):
    lines = [line.strip() for line in text_plots(report(PatternSettings(0.5), units, iterations=20),
                                                 100).splitlines()]
    assert unit_axis in lines
    assert [line for line in lines if line.startswith("distance")] == ([distance_axis] if distance_axis
                                                                       else [])


def test_search_table(minidrop, monkeypatch):
    # those of a small lambda2 take seconds
    monkeypatch.setattr(importlib.import_module("minidrop.cli.patterns"), "search_table",
                        partial(search_table, lambdas=(0.5, 0.1)))
    found = json.loads(minidrop("patterns", "--search-table", "--json").out)
    assert found[0]["reached"] == pytest.approx(0.431, abs=5e-4)
    out = minidrop("patterns", "--search-table").out
    rows = [line.split() for line in out.splitlines() if line.strip()[:2] == "0."]
    assert len(rows) == len(found) == 8
    assert [row[:5] for row in rows[::2]] == [["0.3", "8", "0.5", "0.4308", "+0.1308"],
                                              ["0.5", "8", "0.5", "0.5643", "+0.0643"],
                                              ["0.7", "8", "0.5", "0.6814", "-0.0186"],
                                              ["0.9", "11", "0.5", "0.8080", "-0.0920"]]


def test_plots_of_characters(minidrop):
    out = minidrop("patterns", *FEW, "--family", "ROW", "--max-period", "3", "--plot").out
    assert "share dropped in an iteration" in out and "█" in out and "●" in out and "─" in out
    bars = [line for line in out.splitlines() if "█" in line]
    # nothing, 1 of 2, 1 of 3 in two or three counts of 64 units; the likeliest choice has the longest bar
    assert bars[0].startswith("    0.000") and [line.count("█") for line in bars[:2]] == sorted(
        [line.count("█") for line in bars[:2]])


@pytest.mark.parametrize("name", known_families())
@in_turn("rate, units", [(0, 5), (0.5, 1), (0.5, 2), (0.9, 300)])
def test_plots_fit_any_axis(name, rate, units):
    one = report(PatternSettings(rate, name), units, iterations=50)
    for width in (40, 80):
        text = text_plots(one, width)
        assert all(len(line) <= width for line in text.splitlines() if any(c in line for c in "█●│┤"))


def test_png(minidrop, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (pip install 'minidrop[plot]') is not installed")
    file = tmp_path / "patterns.png"
    result = minidrop("patterns", *FEW, "--png", file)
    assert result.code == 0 and f"drawn into {file}" in result.out
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and file.stat().st_size > 50000
    for rate, units, more in (("0", "5", ["--family", "TILE"]), ("0.5", "1", ["--family", "PERIODIC"])):
        result = minidrop("patterns", "--rate", rate, "--units", units, "--iterations", "5", *more, "--png",
                          tmp_path / "small.svg")
        assert result.code == 0
    result = minidrop("patterns", *FEW, "--family", "ROW", "--json", "--png", tmp_path / "b.png")
    assert json.loads(result.out) and "drawn into" in result.err


def test_png_without_matplotlib(minidrop, monkeypatch):
    monkeypatch.setattr("minidrop.cli.plots.find_spec", lambda name: None)
    result = minidrop("patterns", *FEW, "--png", "out.png")
    assert result.code == 1 and result.out == ""
    assert "matplotlib, which is not installed; install it with: pip install 'minidrop[plot]'" in result.err


def test_matplotlib_is_imported_for_a_picture_only():
    source = importlib.util.find_spec("minidrop.cli.plots").origin
    with open(source, encoding="utf-8") as file:
        assert not [line for line in file if line.startswith(("import matplotlib", "from matplotlib"))]
