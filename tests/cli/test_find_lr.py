"""minidrop find_lr: the table, JSON, the plot, and what is refused."""

import json
import os

import pytest


def test_a_table_and_a_suggestion(tiny, minidrop):
    before = sorted(os.listdir(tiny.path)), sorted(os.listdir(tiny.folder))
    out = minidrop("find-lr", "--solver", tiny.solver, "--lowest", "1e-3", "--highest", "10", "--iterations",
                   "40").out
    lines = out.splitlines()
    assert lines[0].split() == ["learning", "rate", "loss", "smoothed"]
    assert lines[1].split()[0] == "0.001" and 10 <= len(lines) <= 15
    assert lines[-1].startswith(("suggestion: base_lr: ", "no suggestion: "))
    assert (sorted(os.listdir(tiny.path)), sorted(os.listdir(tiny.folder))) == before
    assert minidrop("find_lr", "--solver", tiny.solver, "--lowest", "1e-3", "--highest", "10", "--iterations",
                    "40").out == out


def test_json_holds_every_number(tiny, minidrop):
    found = json.loads(minidrop("find-lr", "--solver", tiny.solver, "--iterations", "12", "--json").out)
    assert found.keys() == {"rates", "losses", "smoothed", "suggestion", "diverged"}
    assert len(found["rates"]) == 12 and found["rates"][0] == 1e-6 and found["rates"][-1] == 1.0


def test_a_plot(tiny, minidrop):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    result = minidrop("find-lr", "--solver", tiny.solver, "--iterations", "12", "--plot", "lr.png")
    assert result.out.endswith("wrote lr.png\n")
    assert (tiny.path / "lr.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_needs_matplotlib_and_a_name(tiny, minidrop, monkeypatch):
    result = minidrop("find-lr", "--solver", tiny.solver, "--plot", "lr.gif")
    assert result.code == 1 and "--plot lr.gif: expected a name that ends with" in result.err
    monkeypatch.setattr("minidrop.cli.plots.find_spec", lambda name: None)
    result = minidrop("find-lr", "--solver", tiny.solver, "--plot", "lr.png")
    assert result.code == 1 and "--plot draws with matplotlib, which is not installed" in result.err


@pytest.mark.parametrize("options, message", [
    (("--lowest", "2"), "rates 0 < lowest < highest, got 2 and 1"),
    (("--lowest", "1e20", "--highest", "1e30"), "Try a smaller lowest rate")])
def test_mistakes(tiny, minidrop, options, message):
    result = minidrop("find-lr", "--solver", tiny.solver, *options)
    assert result.code == 1 and message in result.err
