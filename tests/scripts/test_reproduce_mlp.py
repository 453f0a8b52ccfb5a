# ruff: noqa: E501 (the expected report has wide tables)
"""scripts/reproduce_mlp.py and scripts/bench_mlp.py: what they run, what they keep, and what they make of
it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from minidrop import ConfigError, DataError, MinidropError, Net
from minidrop.data import HDF5Records
from minidrop.patterns import PatternSequence, PatternSettings, get_family, known_families

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    """The modules of the scripts, imported as they import each other: by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("bench_mlp", "download_data", "reproduce_mlp", "reproduce_report", "reproduce_runs")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def cache(scripts, tmp_path, monkeypatch):
    """A cache whose "mnist" is 480 and 100 easy images of 28 x 28."""
    labels = np.arange(580) % 10
    images = np.random.default_rng(0).integers(0, 100, (580, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label:2 * label + 3] += 120
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    scripts.download_data.write_part(folder, "train", images[:480], labels[:480])
    scripts.download_data.write_part(folder, "test", images[480:], labels[480:])
    monkeypatch.setenv("MINIDROP_CACHE", str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS.parent), prepend=os.pathsep)
    return folder


@pytest.fixture
def selection(scripts):
    return scripts.reproduce_runs.Selection(nets=("32x16",), rates=(0.3, 0.5),
                                            methods=("conventional", "ROW", "PERIODIC"), seeds=2,
                                            iterations=20, learning_rate=0.1, learning_rates=(0.05, 0.1),
                                            blocks=2, block_seconds=0.1)


def run(scripts, *arguments):
    return CliRunner().invoke(scripts.reproduce_mlp.main, [str(argument) for argument in arguments])


# -- methods -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, expected", [
    ("conventional", ("Dropout", {})),
    ("Dropout", ("Dropout", {})),
    ("PERIODIC", ("ApproxDropout", {"pattern": "PERIODIC"})),
    ("ROW:max_period=3,scale=PATTERN", ("ApproxDropout", {"pattern": "ROW", "max_period": 3, "scale": 1})),
    ("PERIODIC:step=20,reshuffle_interval=500", ("ApproxDropout", {"pattern": "PERIODIC", "step": 20,
                                                                   "reshuffle_interval": 500})),
])
def test_methods_are_families_with_settings(scripts, text, expected):
    assert scripts.bench_mlp.parse_method(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("ROWS", "method 'ROWS': unknown pattern 'ROWS'; did you mean 'ROW'? (known: conventional, "),
    ("conventional:step=3", "method 'conventional:step=3': ordinary dropout has no settings; write "
     "conventional"),
    ("ROW:period=3", "method 'ROW:period=3': 'period' is no setting; did you mean 'max_period'? (settings: "
     "max_period, "),
    ("ROW:pattern=ROW", "'pattern' is no setting"),
    ("ROW:max_period=three", "method 'ROW:max_period=three': 'max_period' takes an integer from 0 to "
     "4294967295, got 'three'"),
    ("ROW:scale=BOTH", "'scale' has no value 'BOTH'; its values are RATE, PATTERN"),
    ("ROW:max_period", "'max_period' takes an integer"),
])
def test_mistakes_in_methods(scripts, text, expected):
    with pytest.raises(ConfigError) as error:
        scripts.bench_mlp.parse_method(text)
    assert expected in str(error.value)


def test_a_method_that_cannot_have_a_rate(scripts):
    scripts.bench_mlp.check_methods(["conventional", "ROW:max_period=3"], [0.3, 0.5])
    with pytest.raises(ConfigError, match="^method 'ROW:max_period=3' at rate 0.7: max_period 3 is too "
                       "small"):
        scripts.bench_mlp.check_methods(["conventional", "ROW:max_period=3"], [0.3, 0.7])


def test_lists_of_methods(scripts):
    assert scripts.reproduce_mlp.split_methods("ROW:max_period=3,scale=PATTERN,conventional, PERIODIC:step=4 "
                                               "ROW,ROW") == (
        "ROW:max_period=3,scale=PATTERN", "conventional", "PERIODIC:step=4", "ROW")


@pytest.mark.parametrize("arguments, code, expected", [
    (["--nets", "2048"], 2, "expected two hidden layers as 2048x2048, got '2048'"),
    (["--rates", "0.5,1"], 2, "expected a number above 0 and below 1, got 1"),
    (["--learning-rates", "fast"], 2, "could not convert string to float: 'fast'"),
    (["--stage", "all"], 2, "'all' is not one of 'speed', 'accuracy', 'best'"),
    (["--methods", "ROW,PERIODICAL"], 1, "unknown pattern 'PERIODICAL'; did you mean 'PERIODIC'?"),
    (["--methods", "ROW:max_period=2"], 1, "method 'ROW:max_period=2' at rate 0.5: max_period 2 is too "
     "small"),
    (["--report"], 1, "holds none of these runs; leave out --report to make them"),
])
def test_mistakes_on_the_command_line(scripts, tmp_path, arguments, code, expected):
    done = run(scripts, "--quick", "--out", tmp_path / "out", *arguments)
    assert done.exit_code == code and expected in done.output
    assert not (tmp_path / "out").exists()


def test_without_data_it_says_how_to_get_it_before_it_runs(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = run(scripts, "--quick")
    assert done.exit_code == 1 and "python scripts/download_data.py mnist" in done.output
    assert not list(tmp_path.iterdir())


# -- what the products cost ----------------------------------------------------------------------------------
@pytest.mark.parametrize("method, shares", [
    ("conventional", (1, 1, 1)),
    ("ROW", (1 / 2, 1 / 4, 1 / 2)),            # of outputs, of both, of inputs
    ("PERIODIC", (1 / 2, 1 / 4, 1 / 2)),
    ("TILE", (1 / 2, 1 / 2, 1)),               # of the weights above each drop
])
def test_bound_of_the_products(scripts, method, shares):
    if method not in ("conventional", *known_families()):
        pytest.skip(f"there is no family {method}")
    # A multiply and an add; no gradient for the images, so two passes in the first product and three in the
    # others.
    dense = [2 * 128 * count for count in (784 * 2048 * 2, 2048 * 2048 * 3, 2048 * 10 * 3)]
    expected = sum(cost * share for cost, share in zip(dense, shares, strict=True))
    net = Net(scripts.bench_mlp.mlp(method, (2048, 2048), 0.5, filler="constant"), device="cpu")
    assert scripts.bench_mlp.product_operations(net) == pytest.approx((sum(dense), expected))
    # The whole: 3.32 where both sides of the large product shrink, 1.99 where only one does.
    bound = {1: 1.0, 1 / 4: 3.3156, 1 / 2: 1.9923}[shares[1]]
    assert scripts.reproduce_mlp.bound("2048x2048", 0.5, method) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize("family", ["ROW", "PERIODIC"])
def test_the_choice_of_an_iteration_is_that_of_its_pattern(family):
    sequence = PatternSequence(get_family(PatternSettings(0.35, family)), 1, "drop1")
    drawn = [(sequence.choice_at(i), sequence.at(i)) for i in (0, 1, 2, 3, 2500, 7, 999, 1000)]
    assert all(choice == (pattern.step if family == "ROW" else pattern.width) for choice, pattern in drawn)
    assert len({choice for choice, _ in drawn}) > 1


def test_bench_mlp_measures_any_method(scripts, tmp_path):
    # Of 60 and 30 units PERIODIC keeps the same number every time, so that its products can be timed alone.
    methods = ["ROW:max_period=4", *(name for name in ("PERIODIC", "TILE", "BLOCK")
                                     if name in known_families())]
    done = subprocess.run([sys.executable, SCRIPTS / "bench_mlp.py", "--sizes", "60x30", "--rates", "0.5",
                           "--blocks", "1", "--block-seconds", "0.02", "--json", tmp_path / "mlp.json",
                           "--methods", *methods],
                          capture_output=True, text=True, timeout=120, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[2:]] == ["Dropout", *methods]
    assert "bound" in lines[1] and lines[2].split()[4:6] == ["1.00x", "1.00x"]
    cell, = json.loads((tmp_path / "mlp.json").read_text())["cells"]
    assert set(cell["methods"]["PERIODIC"]) == {"ms", "steps", "weight_measured", "memory_mib", "gemm_ms",
                                                "gemm_share", "gflop", "bound"}
    assert set(cell["methods"]["ROW:max_period=4"]) == {"ms", "steps", "weight_measured", "memory_mib",
                                                        "bound"}
    assert all(one["ms"] > 0 and one["bound"] >= 1 for one in cell["methods"].values())


# -- the store -----------------------------------------------------------------------------------------------
def test_a_store_keeps_runs_and_forgets_half_a_line(scripts, selection, tmp_path):
    path = tmp_path / "results.jsonl"
    store = scripts.reproduce_runs.Store(path)
    first, second, third = (selection.run("32x16", rate, "ROW", seed)
                            for rate, seed in ((0.3, 1), (0.3, 2), (0.5, 1)))
    store.add({**first, "accuracy": 0.5})
    store.add({**second, "accuracy": 0.25})
    assert store.missing([first, third, second, third]) == [third]

    path.write_bytes(path.read_bytes() + b'{"stage": "accuracy", "net": "32x16", "ra')
    again = scripts.reproduce_runs.Store(path)
    assert again.missing([first, third, second]) == [third]
    again.add({**third, "accuracy": 0.75})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["accuracy"] for line in lines] == [0.5, 0.25, 0.75]
    assert scripts.reproduce_runs.Store(path).find(third) == {**third, "accuracy": 0.75}


def test_everything_that_defines_a_run_is_in_its_key(scripts, selection, tmp_path):
    store = scripts.reproduce_runs.Store(tmp_path / "results.jsonl")
    key = selection.run("32x16", 0.3, "ROW", 1)
    store.add({**key, "accuracy": 0.5})
    others = {"stage": "validation", "net": "32x32", "rate": 0.5, "method": "ROW:step=3", "seed": 2,
              "iterations": 21, "learning_rate": 0.2}
    assert set(others) == set(key)
    assert store.find(key) and not any(store.find(key | {name: value}) for name, value in others.items())
    assert not store.find(selection.speed("32x16", 0.3, "ROW"))


def test_a_broken_line_in_the_middle_is_named(scripts, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"stage": "speed"}\nnot JSON\n{"stage": "speed"}\n')
    with pytest.raises(DataError,
                       match=r"results.jsonl:2: expected one run as a JSON object, got b'not JSON'; delete"):
        scripts.reproduce_runs.Store(path)


# -- stages --------------------------------------------------------------------------------------------------
def test_speed_measures_what_is_missing_beside_conventional(scripts, selection, tmp_path, monkeypatch):
    calls = []

    def measure(net, rate, methods, blocks, block_seconds):
        calls.append((net, rate, methods, blocks, block_seconds))
        return {method: {"ms": {"conventional": 12.0, "ROW": 4.0, "PERIODIC": 3.0}[method]}
                for method in methods}

    monkeypatch.setattr(scripts.bench_mlp, "measure", measure)
    store = scripts.reproduce_runs.Store(tmp_path / "results.jsonl")
    store.add({**selection.speed("32x16", 0.3, "ROW"), "speed_up": 2.5})
    scripts.reproduce_mlp.measure_speed(selection, store)
    assert calls == [("32x16", 0.3, ["conventional", "PERIODIC"], 2, 0.1),
                     ("32x16", 0.5, ["conventional", "ROW", "PERIODIC"], 2, 0.1)]
    assert [(record["rate"], record["method"], record["speed_up"]) for record in store.records] == [
        (0.3, "ROW", 2.5), (0.3, "PERIODIC", 4), (0.5, "ROW", 3), (0.5, "PERIODIC", 4)]
    scripts.reproduce_mlp.measure_speed(selection, store)
    assert len(calls) == 2


def test_accuracy_from_the_command_line(scripts, cache, tmp_path):
    out = tmp_path / "out"
    command = ["--nets", "32x16", "--rates", "0.5", "--methods", "ROW", "--seeds", "1", "--iterations", "30",
               "--stage", "accuracy", "--out", out, "--jobs", "2"]
    done = run(scripts, *command)
    assert done.exit_code == 0, done.output
    records = {record["method"]: record
               for record in scripts.reproduce_runs.Store(out / "results.jsonl").records}
    assert set(records) == {"conventional", "ROW"}
    assert all(0.2 < record["accuracy"] <= 1 for record in records.values())     # guessing gives 0.1
    table = (out / "table.md").read_text()
    assert table in done.output and f"{100 * records['ROW']['accuracy']:.2f}" in table

    # The record's key is all that a training depends on, but for the rounding of another number of threads.
    key = {name: value for name, value in records["ROW"].items() if name != "accuracy"}
    assert scripts.reproduce_mlp.train(key)["accuracy"] == pytest.approx(records["ROW"]["accuracy"], abs=0.02)

    before = (out / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(before[:-20])               # killed while it wrote the last line
    assert run(scripts, *command).output.count("learning rate 0.1  seed 1") == 1
    assert sorted((out / "results.jsonl").read_text().splitlines()) == sorted(before.decode().splitlines())
    assert run(scripts, *command, "--report").output.count("learning rate 0.1  seed 1") == 0


def test_best_is_chosen_by_validation_and_trained_on_everything(scripts, selection, cache, tmp_path,
                                                                monkeypatch):
    validation = {("conventional", 0.3, 0.05): 0.9, ("ROW", 0.5, 0.1): 0.9, ("PERIODIC", 0.5, 0.05): 0.9}
    made = []

    def train_all(keys, store, jobs, parts=None):
        for key in store.missing(keys):
            made.append((key["stage"], parts))
            own = key["method"], key["rate"], key["learning_rate"]
            diverged = key["stage"] == "validation" and own == ("ROW", 0.3, 0.1)
            value = validation.get(own, 0.8) if key["stage"] == "validation" else 0.6 + key["seed"] / 100
            store.add({**key, "accuracy": None if diverged else value})

    monkeypatch.setattr(scripts.reproduce_mlp, "train_all", train_all)
    store = scripts.reproduce_runs.Store(tmp_path / "results.jsonl")
    scripts.reproduce_mlp.find_best(selection, store, 1, tmp_path)
    assert made == [("validation", tmp_path / "validation")] * 12 + [("accuracy", None)] * 6
    finals = [(r["method"], r["rate"], r["learning_rate"], r["seed"]) for r in store.records
              if r["stage"] == "accuracy"]
    assert finals == [(*best, seed) for best in validation for seed in (1, 2)]
    rows = scripts.reproduce_report.best_rows(selection, store)
    assert [(row.method, row.rate, row.learning_rate, row.validation, row.difference) for row in rows] == [
        ("conventional", 0.3, 0.05, 90, None), ("ROW", 0.5, 0.1, 90, 0), ("PERIODIC", 0.5, 0.05, 90, 0)]
    assert [row.accuracies for row in rows] == [pytest.approx([61, 62])] * 3


def test_validation_takes_the_last_sixth_of_the_training_records(scripts, cache, tmp_path):
    folder = scripts.reproduce_mlp.split_training_records(tmp_path / "validation")
    whole, train, rest = (HDF5Records(path, ("data", "label")).read(np.arange(count)) for path, count in (
        (cache / "train.txt", 480), (folder / "train.txt", 400), (folder / "test.txt", 80)))
    for name in ("data", "label"):
        np.testing.assert_array_equal(train[name], whole[name][:400])
        np.testing.assert_array_equal(rest[name], whole[name][400:])


def test_validation_reads_its_own_parts(scripts, selection, cache, tmp_path):
    """Where all records to test on are of one class that training never saw, no answer is right."""
    images = np.zeros((100, 28, 28), np.uint8)
    scripts.download_data.write_part(tmp_path, "train", images, np.zeros(100))
    scripts.download_data.write_part(tmp_path, "test", images, np.full(100, 7))
    key = selection.run("32x16", 0.5, "ROW", 1, stage="validation")
    assert scripts.reproduce_mlp.train(key, tmp_path)["accuracy"] == 0


def test_a_training_that_diverges_is_a_result(scripts, selection, cache):
    result = scripts.reproduce_mlp.train(selection.run("32x16", 0.5, "conventional", 1, learning_rate=1e30))
    assert result["accuracy"] is None and "the loss is" in result["diverged"]


def test_a_training_that_fails_ends_the_run(scripts, selection, cache, tmp_path):
    store = scripts.reproduce_runs.Store(tmp_path / "results.jsonl")
    with pytest.raises(MinidropError, match="a training has failed, its error stands above: .*'NONE'"):
        scripts.reproduce_mlp.train_all([selection.run("32x16", 0.5, "NONE", 1)], store, 1)
    assert not store.records


def test_a_worker_does_not_outlive_its_parent(scripts, selection, cache):
    key = selection.run("32x16", 0.5, "ROW", 1) | {"iterations": 10**9}
    process = subprocess.Popen([sys.executable, SCRIPTS / "reproduce_mlp.py", "--worker"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps([key, None]) + "\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.stdin.close()
    assert process.wait(30) == 1
    process.stdout.close()


# -- table and figure ----------------------------------------------------------------------------------------
@pytest.fixture
def results(scripts, tmp_path):
    """A selection and a store, of 2048x2048 at 0.5 and 0.3, made by hand."""
    selection = scripts.reproduce_runs.Selection(nets=("2048x2048",), rates=(0.3, 0.5), seeds=2,
                                                 iterations=4000, methods=("conventional", "ROW", "UNIT"),
                                                 learning_rate=0.1, learning_rates=(0.1,), blocks=8,
                                                 block_seconds=0.5)
    store = scripts.reproduce_runs.Store(tmp_path / "results.jsonl")
    for method, accuracies in {"conventional": (0.985, 0.983), "ROW": (0.977, 0.979),
                               "UNIT": (0.984, None)}.items():
        for seed, accuracy in enumerate(accuracies, 1):
            store.add({**selection.run("2048x2048", 0.5, method, seed), "accuracy": accuracy})
    store.add({**selection.speed("2048x2048", 0.5, "ROW"), "speed_up": 2.704})
    store.add({**selection.run("2048x2048", 0.3, "conventional", 1), "accuracy": 0.98})
    store.add({**selection.run("2048x2048", 0.3, "ROW", 1), "accuracy": None})
    # another run
    store.add({**selection.run("2048x2048", 0.5, "conventional", 1) | {"iterations": 300}, "accuracy": 0.1})
    for method, accuracy in (("conventional", 0.981), ("ROW", 0.982), ("UNIT", None)):
        for rate in (0.3, 0.5):
            store.add({**selection.run("2048x2048", rate, method, 1, 0.1, "validation"),
                       "accuracy": accuracy and accuracy + rate / 100})
    return selection, store


def test_tables(scripts, results):
    selection, store = results
    report = scripts.reproduce_report
    rows = report.rows_of(selection, store, bound=lambda net, rate, method: 1.0 if method == "conventional"
                          else 3.3156)
    assert report.text_of(selection, rows, report.best_rows(selection, store)) == """\
MNIST, 784-h1-h2-10; 4000 iterations of batch 128, learning rate 0.1 falling to 0 (models/mnist_mlp); 2 seeds, mean ± \
standard deviation.
Speed-up: a whole training step, conventional dropout over the method, in one run. Bound: the same for the operations of the \
products.
Difference: of the test accuracy to conventional dropout, in points. The paper: arXiv 1805.08939, Caffe, 60000 iterations.

| net       | p   | method       | speed-up | bound | test accuracy %    | difference | paper: speed-up | paper: difference |
|-----------|-----|--------------|----------|-------|--------------------|------------|-----------------|-------------------|
| 2048x2048 | 0.3 | conventional | -        | 1.00x | 98.00 (1 missing)  | -          | -               | -                 |
| 2048x2048 | 0.3 | ROW          | -        | 3.32x | diverged           | -          | -               | -                 |
| 2048x2048 | 0.5 | conventional | 1.00x    | 1.00x | 98.40 ± 0.14       | -          | -               | -                 |
| 2048x2048 | 0.5 | ROW          | 2.70x    | 3.32x | 97.80 ± 0.14       | -0.60      | 1.45x           | -0.86             |
| 2048x2048 | 0.5 | UNIT         | -        | 3.32x | 98.40 (1 diverged) | -          | -               | -                 |

Each method at its own best rate and learning rate: chosen on the last sixth of the training records, trained on all:

| net       | p   | method       | learning rate | validation accuracy % | test accuracy % | difference | speed-up |
|-----------|-----|--------------|---------------|-----------------------|-----------------|------------|----------|
| 2048x2048 | 0.5 | conventional | 0.1           | 98.60                 | 98.40 ± 0.14    | -          | 1.00x    |
| 2048x2048 | 0.5 | ROW          | 0.1           | 98.70                 | 97.80 ± 0.14    | -0.60      | 2.70x    |
"""


def test_figure(scripts, results, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `plot`)")
    from matplotlib.image import imread
    rows = scripts.reproduce_report.rows_of(*results, bound=lambda net, rate, method: 1.0)
    scripts.reproduce_report.draw(rows, tmp_path / "figure.png")
    pixels = imread(tmp_path / "figure.png")[..., :3]
    assert pixels.shape[0] == 1080                                 # two panels, one above the other
    color = np.array([int(scripts.reproduce_report.COLORS[0][i:i + 2], 16) / 255 for i in (1, 3, 5)])
    bars = np.abs(pixels - color).max(axis=2) < 0.02               # ROW, the first method that is drawn
    assert bars[:540].sum() > 1000 and bars[540:].sum() > 1000


def test_figure_of_nothing_but_conventional_is_none(scripts, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `plot`)")
    scripts.reproduce_report.draw([scripts.reproduce_report.Row("32x16", 0.5, "conventional", 1.0)],
                                  tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_without_matplotlib_one_line_says_how_to_install_it(scripts, results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(scripts.reproduce_mlp, "bound", lambda net, rate, method: 1.0)
    done = run(scripts, "--report", "--nets", "2048x2048", "--methods", "ROW,UNIT", "--seeds", "2", "--out",
               tmp_path)
    assert done.exit_code == 0 and "python -m pip install 'minidrop[plot]'" in done.output
    assert (tmp_path / "table.md").exists() and not (tmp_path / "figure.png").exists()
