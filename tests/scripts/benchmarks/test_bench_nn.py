"""bench_nn.py: both sides compute the same, bit for bit, and pairs tell small differences."""

import json

import numpy as np
import pytest
from programs import run_here

SMALL = {"Perceptron": {"rows": 16, "hidden": 64, "shapes": [[16, 784], [16]]},
         "LanguageModel": {"steps": 4, "streams": 3, "units": 16, "words": 20, "shapes": [[4, 3]] * 3},
         "LeNet": {"images": 4, "shapes": [[4, 1, 28, 28], [4]]},
         "SmallGPT": {"steps": 4, "streams": 3, "words": 20, "shapes": [[4, 3]] * 2,
                      "size": {"width": 16, "heads": 2, "blocks": 2, "deviation": 0.2}}}


@pytest.fixture
def bench(scripts, monkeypatch):
    for kind, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(getattr(scripts.bench_nn, kind), name, value)
    return scripts.bench_nn


def test_both_sides_compute_the_same(bench):
    for net, drops in {"mlp": 2, "lstm": 2, "lenet": 1, "gpt": 2}.items():
        own, other = bench.NetSteps(net, 0.5), bench.ModuleSteps(net, 0.5)
        for _ in range(3):
            own.step()
            other.step()
            assert own.loss == other.loss
        theirs = {f"{module.layer_name}/{name}": parameter for module in other.model.modules()
                  for name, parameter in module.own_parameters().items()}
        assert len(own.parameters) == len(other.parameters)
        for name, mine in own.net.parameters().items():
            np.testing.assert_array_equal(mine.data, theirs[name].data, err_msg=name)
        assert len(own.net.plan.drops) == drops


def test_a_short_run_prints_a_table(bench, scripts, tmp_path, capsys):
    bench.main(["--nets", "mlp", "gpt", "--seconds", "0", "--json", str(tmp_path / "nn.json")])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["net", "net", "ms", "module", "ms", "module", "/", "net"]
    assert [line.split()[0] for line in lines] == ["mlp", "gpt"] and "20 pairs" in lines[0]
    found = json.loads((tmp_path / "nn.json").read_text())
    assert found["rate"] == 0.5 and found["nets"]["gpt"]["pairs"] == 20
    help_text = run_here(scripts.folder / "bench_nn.py", "--help")
    assert help_text.returncode == 0 and "--block" in help_text.stdout


def test_pairs_take_turns_and_tell_a_small_difference(scripts):
    """The machine is three times as slow half of the time; the second method takes 3 % longer."""
    now, order, rng = [0.0], [], np.random.default_rng(1)

    def step(which, seconds):
        def run():
            order.append(which)
            slow = 3.0 if int(now[0] / 0.5) % 2 else 1.0
            now[0] += slow * seconds * rng.uniform(0.99, 1.01)
        return run
    pairs = scripts.in_pairs.in_pairs(step("a", 0.01), step("b", 0.0103), 4.0, 2, clock=lambda: now[0])
    assert order[:8] == [*"bbaa", *"aabb"] and len(pairs) > 50
    found = scripts.in_pairs.ratios_of(pairs)
    assert found.interval[0] < found.median < found.interval[1]
    assert found.interval[0] > 1.02 and found.interval[1] < 1.04
    assert found.quartiles[0] <= found.median <= found.quartiles[1]
    assert found == scripts.in_pairs.ratios_of(pairs)           # the same draws each time
    assert len(scripts.in_pairs.in_pairs(step("a", 1.0), step("b", 1.0), 0.0, least=5,
                                         clock=lambda: now[0])) == 5
