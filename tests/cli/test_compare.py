"""minidrop compare: the same trainings in turns, their table, and that it goes on where it was stopped."""

import json
import os
import re
import signal

import pytest

from minidrop.apps import comparison
from minidrop.solver import Solver

KINDS = ("--dropout", "none,conventional,approx", "--device", "cpu")


@pytest.fixture
def compare(tiny, minidrop, monkeypatch):
    monkeypatch.setattr(comparison, "WARM_UP", 1)

    def call(*arguments):
        return minidrop("compare", tiny.solver, "--iterations", "8", "--block", "3", *arguments)
    return call


def values(text):
    """Return {kind: {output: values of all seeds}} of the JSON."""
    return {method["dropout"]: {name: value["each"] for name, value in method["values"].items()}
            for method in json.loads(text)["methods"]}


def test_the_table(compare, tiny):
    done = compare(*KINDS, "--seeds", "2")
    assert (done.code, done.err) == (0, "")
    head, empty, columns, rule, *rows = done.out.rstrip("\n").split("\n")
    assert head.startswith(f"{tiny.solver}: 8 iterations, mean and standard deviation of 2 seeds, on cpu")
    assert columns.split() == ["dropout", "a", "step", "speed-up", "test", "accuracy", "test", "loss"]
    assert (empty, set(rule)) == ("", {"-"})
    for name, line in zip(("none", "conventional", r"approx \(PERIODIC\)"), rows, strict=True):
        value = r" +[\d.]+ \+- [\d.e-]+"
        assert re.fullmatch(rf"{name} +[\d.]+ ms +[\d.]+x{value}{value}", line), line
    assert "1.00x" in rows[1]
    assert sorted(path.name for path in tiny.path.iterdir()) == ["task"]       # it leaves nothing


def test_the_numbers(compare, tiny):
    result = json.loads(compare(*KINDS, "--seeds", "2", "--json", "--metric", "loss").out)
    assert (result["iterations"], result["seeds"], result["first_seed"]) == (8, 2, 3)
    assert result["against"] == "conventional"
    none, conventional, approx = result["methods"]
    assert (none["families"], conventional["families"], approx["families"]) == ([], [], ["PERIODIC"])
    for method in result["methods"]:
        assert list(method["values"]) == ["loss"]
        assert method["seconds_per_step"] == pytest.approx(method["seconds"] / 16)
        assert method["speed_up"] == pytest.approx(conventional["seconds"] / method["seconds"])
        assert len(set(method["values"]["loss"]["each"])) == 2
    # What it measures is what a training with that dropout and seed ends with.
    with_seed = {"max_iter": 8, "random_seed": 4, "test_interval": 0, "snapshot": 0}
    solver = Solver.from_file(tiny.solver, with_seed, dropout="approx", device="cpu")
    solver.step(8)
    assert approx["values"]["loss"]["each"][1] == solver.test()["loss"]
    solver.close()
    other = json.loads(compare("--dropout", "approx,none", "--json").out)
    assert other["against"] == "approx" and other["methods"][0]["speed_up"] == 1
    assert other["methods"][0]["values"]["loss"]["deviation"] is None


@pytest.mark.parametrize("at", [7, pytest.param(2, marks=pytest.mark.full)])
def test_it_goes_on_where_it_was_stopped(compare, tiny, monkeypatch, at):
    whole = values(compare(*KINDS, "--seeds", "2", "--json").out)
    monkeypatch.setattr(comparison, "SAVE_AFTER", -1.0)
    step, seen = Solver.step, []

    def failing(self, iterations=1):
        seen.append((self.seed, self.iteration))
        if self.seed == 4 and self.iteration + iterations > at and self.dropout == "approx":
            raise OSError("the power is gone")
        step(self, iterations)
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "step", failing)
        assert compare(*KINDS, "--seeds", "2", "--out", "kept").code == 1
    assert (tiny.path / "kept" / "comparison.json").is_file()
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "step", lambda self, n=1: (seen.append((self.seed, self.iteration)),
                                                         step(self, n)))
        again = compare(*KINDS, "--seeds", "2", "--out", "kept", "--json")
    assert values(again.out) == whole
    trained = seen[len(whole):]         # behind the warm-up
    assert trained[0] == (4, at // 3 * 3) and {seed for seed, _ in trained} == {4}
    assert [path.name for path in (tiny.path / "kept").iterdir()] == ["comparison.json"]
    # All is done: nothing is trained, and another seed only adds itself.
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "step", lambda self, n=1: pytest.fail("trains again"))
        assert values(compare(*KINDS, "--seeds", "2", "--out", "kept", "--json").out) == whole
    more = values(compare(*KINDS, "--seeds", "3", "--out", "kept", "--json").out)
    assert {kind: {name: each[:2] for name, each in own.items()} for kind, own in more.items()} == whole


def test_a_signal_keeps_what_is_done(compare, tiny, monkeypatch):
    whole = values(compare(*KINDS, "--seeds", "2", "--json").out)
    step, count = Solver.step, [0]

    def until(n, number):
        def stepped(self, iterations=1):
            step(self, iterations)
            count[0] += 1
            if count[0] == n:
                os.kill(os.getpid(), number)
        count[0] = 0
        monkeypatch.setattr(Solver, "step", stepped)
    until(5, signal.SIGINT)         # three to warm up, then in the first block
    found = compare(*KINDS, "--seeds", "2", "--out", "kept", "--json")
    assert (found.code, found.out, found.err) == (130, "", "stopped by SIGINT; the same command goes on in "
                                                           "kept\n")
    assert json.loads((tiny.path / "kept" / comparison.FILE).read_text())["iteration"] == 3
    monkeypatch.setattr(Solver, "step", step)
    assert values(compare(*KINDS, "--seeds", "2", "--out", "kept", "--json").out) == whole
    until(5, signal.SIGTERM)
    found = compare(*KINDS)
    assert (found.code, found.err) == (143, "stopped by SIGTERM; without --out nothing is kept\n")


def test_a_folder_of_something_else(compare, tiny):
    assert compare("--out", "kept").code == 0
    done = compare("--out", "kept", "--set", "base_lr=0.1")
    assert done.code == 1 and "kept: holds a comparison of other settings" in done.err
    done = compare("--out", "kept", "--dropout", "none,approx")
    assert done.code == 1 and "kept: holds a comparison of other settings" in done.err
    (tiny.path / "kept" / "comparison.json").write_text('{"facts": 1}')
    done = compare("--out", "kept")
    assert done.code == 1 and "expected what a comparison has written" in done.err
    done = compare("--out", "task/net.prototxt/below")
    assert done.code == 1 and "the folder cannot be made: Not a directory" in done.err
    done = compare("--out", "task")
    assert done.code == 1 and "is no folder of a comparison, and not empty" in done.err


@pytest.mark.parametrize("arguments, code, message", [
    (["--dropout", "approx:PERIODICAL"], 1, "unknown pattern 'PERIODICAL'; did you mean 'PERIODIC'?"),
    (["--metric", "acuracy"], 1, "'acuracy' of one number; did you mean 'accuracy'? (such outputs: acc"),
    (["--dropout", "approx,approx"], 2, "expected different kinds"),
    (["--set", "test_iter=", "--set", "test_iter"], 1, "test_iter"),
    (["--seeds", "0"], 2, "--seeds"),
])
def test_mistakes(compare, arguments, code, message):
    done = compare(*arguments)
    assert done.code == code and message in done.err and done.out == ""
