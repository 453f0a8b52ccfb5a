"""best_steps_per_pattern.py: what it sets, measures and chooses."""

from pathlib import Path

import pytest
from click.testing import CliRunner

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture
def script(scripts):
    return scripts.best_steps_per_pattern


def test_every_drop_of_a_sequence_holds_for_as_long(script, tmp_path):
    solvers = script.solvers_of(MODELS / "nmt_tiny" / "solver.prototxt", (3,))
    held = {name: site.held for name, site in solvers[3].net.drop_sites.items()}
    assert set(held) == {"source_drop", "memory", "target_drop", "output_drop"} and set(held.values()) == {3}
    assert not solvers["Dropout"].net.drop_sites
    assert script.skips(solvers[3].net) == []                   # too few rows: masks
    for solver in solvers.values():
        solver.close()


def test_states_are_held_too(script, tmp_path):
    text = (MODELS / "nmt_tiny" / "train_val.prototxt").read_text()
    for layer in ("num_output: 64\n    bidirectional: true", "decoder_param {\n    num_output: 64"):
        assert layer in text
        text = text.replace(layer, f"{layer}\n    hidden_dropout {{ dropout_ratio: 0.5 groups: 1 }}")
    (tmp_path / "train_val.prototxt").write_text(text)
    path = tmp_path / "solver.prototxt"
    path.write_text((MODELS / "nmt_tiny" / "solver.prototxt").read_text())
    solver = script.solvers_of(path, (4,))[4]
    sites = {drop.node.name: drop.site.held for drop, _ in script.sequence_drops(solver.net)}
    assert sites["encoder"] == sites["decoder"] == sites["source_drop"] == 4
    assert {"encoder", "decoder"} <= set(script.skips(solver.net))          # 64 streams times 4 steps
    solver.close()


def test_the_best_is_the_shortest_of_the_fast_ones(script):
    seconds = {1: 1.3, 2: 1.04, 5: 1.0, 10: 1.02}
    assert [script.best_of(seconds, within) for within in (0, 0.05, 0.5)] == [5, 2, 1]


def test_the_command(script):
    done = CliRunner().invoke(script.main, [str(MODELS / "ner_tiny" / "solver.prototxt"), "--steps", "2,5",
                                            "--iterations", "1"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines] == ["Dropout", "2", "5", "best:"]
    assert "skips for nothing" in lines[1] and lines[-1] in ("best: steps_per_pattern: 2",
                                                              "best: steps_per_pattern: 5")


@pytest.mark.parametrize("arguments, code, expected", [
    (["none.prototxt"], 1, "drops no units of sequences"),
    (["none.prototxt", "--steps", "2,0"], 2, "expected whole numbers from 1 on, got 2,0"),
    (["missing.prototxt"], 1, "error: ")])
def test_mistakes(script, tmp_path, arguments, code, expected):
    name, *more = arguments
    (tmp_path / "none.prototxt").write_text("""base_lr: 1 max_iter: 1 lr_policy: "fixed" net_param {
        layer { name: "in" type: "Input" top: "x" top: "y" input_param {
            shape { dim: 2 dim: 4 } shape { dim: 2 } } }
        layer { name: "drop" type: "ApproxDropout" bottom: "x" top: "d" }
        layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 3 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" } }""")
    done = CliRunner().invoke(script.main, [str(tmp_path / name), *more])
    assert done.exit_code == code and expected in done.output
