"""bench_nn.py: both sides compute the same, bit for bit, and a short run prints a table."""

import contextlib
import io
import re

import numpy as np
from programs import run_here


def test_both_sides_compute_the_same(scripts, monkeypatch):
    bench = scripts.bench_nn
    for name, value in {"rows": 16, "hidden": 64, "shapes": [[16, 784], [16]]}.items():
        monkeypatch.setattr(bench.Perceptron, name, value)
    for name, value in {"steps": 4, "streams": 3, "units": 16, "words": 20, "shapes": [[4, 3]] * 3}.items():
        monkeypatch.setattr(bench.LanguageModel, name, value)
    for net in bench.NETS:
        own, other = bench.NetSteps(net, 0.5), bench.ModuleSteps(net, 0.5)
        for _ in range(3):
            assert own.step() == other.step() == ""
            assert own.loss == other.loss
        for mine, theirs in zip(own.parameters, other.parameters, strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data, err_msg=mine.name)
        assert len(own.net.plan.drops) == 2


def test_a_short_run_prints_a_table(scripts, monkeypatch, tmp_path):
    class Here:
        def __init__(self, script, *arguments):
            self.arguments = arguments

        def close(self):
            pass
    monkeypatch.setattr(scripts.bench_nn, "Worker", Here)
    monkeypatch.setattr(scripts.bench_nn, "measure", lambda workers, blocks, seconds, by_turn: {
        who: {"ms": 2.0 + (who == "module"), "turn_ms": [2.0, 2.5 + (who == "module")]} for who in workers})
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        scripts.bench_nn.main(["--nets", "mlp", "--json", str(tmp_path / "nn.json")])
    assert re.fullmatch(r"net +net ms +module ms +module/net +of turns\n"
                        r"mlp +2\.00 +3\.00 +1\.50x +1\.00 - 1\.40x\n", out.getvalue())
    assert (tmp_path / "nn.json").read_text().count('"ms"') == 2
    help_text = run_here(scripts.folder / "bench_nn.py", "--help")
    assert help_text.returncode == 0 and "--block-seconds" in help_text.stdout


def test_turns_are_told_apart(scripts):
    class Worker:
        def __init__(self, seconds):
            self.seconds, self.asked = iter(seconds), 0

        def ask(self, command, count=0):
            if command == "steps":
                self.asked += 1
                # 3 + 3 steps, then in each turn two that do not count
                second = next(self.seconds) if self.asked > 2 and self.asked % 2 == 0 else 0.01
                return [["", second]] * count
            return {"": 1.0} if command == "weights" else 5.0

    results = scripts.in_turn.measure({"a": Worker([0.25, 0.5, 0.75])}, 3, 0.05, by_turn=True)
    assert results["a"]["turn_ms"] == [250, 500, 750] and results["a"]["ms"] == 500
    assert "turn_ms" not in scripts.in_turn.measure({"a": Worker([0.25])}, 1, 0.05)["a"]
