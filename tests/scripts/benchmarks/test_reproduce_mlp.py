# ruff: noqa: E501 (the expected report has wide tables)
"""reproduce_mlp.py and bench_mlp.py: what they run, what they keep, and what they make of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from programs import run_here

from minidrop import ConfigError, DataError, MinidropError, Net
from minidrop.data import HDF5Records
from minidrop.data.prepare import write_part
from minidrop.patterns import PatternSequence, PatternSettings, get_family, known_families


@pytest.fixture
def cache(scripts, tmp_path, monkeypatch):
    """A cache whose "mnist" is 480 and 100 easy images of 28 x 28."""
    labels = np.arange(580) % 10
    images = np.random.default_rng(0).integers(0, 100, (580, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label:2 * label + 3] += 120
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    write_part(folder, "train", images[:480], labels[:480])
    write_part(folder, "test", images[480:], labels[480:])
    monkeypatch.setenv("MINIDROP_CACHE", str(folder.parent))
    return folder


@pytest.fixture
def cells(scripts):
    training = {"stage": "accuracy", "iterations": 20, "learning_rate": 0.1}
    return [scripts.reproduction.Cell("32x16", rate, ("conventional", "ROW", "PERIODIC"), training,
                                      {"blocks": 2, "block_seconds": 0.1}, 2) for rate in (0.3, 0.5)]


def run(scripts, *arguments):
    return CliRunner().invoke(scripts.reproduce_mlp.main, [str(argument) for argument in arguments])


# -- methods -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, expected", [
    ("conventional", None),
    ("Dropout", None),
    ("PERIODIC", {"pattern": "PERIODIC"}),
    ("ROW:max_period=3,scale=PATTERN", {"pattern": "ROW", "max_period": 3, "scale": 1}),
    ("PERIODIC:step=20,reshuffle_interval=500",
     {"pattern": "PERIODIC", "step": 20, "reshuffle_interval": 500}),
])
def test_methods_are_families_with_settings(scripts, text, expected):
    assert scripts.drop_methods.parse_method(text) == scripts.drop_methods.Method(text, expected)


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
        scripts.drop_methods.parse_method(text)
    assert expected in str(error.value)


def test_a_method_that_cannot_have_a_rate(scripts):
    scripts.bench_models.Perceptron(()).check(["conventional", "ROW:max_period=3"], [0.3, 0.5])
    with pytest.raises(ConfigError, match="^method 'ROW:max_period=3' at rate 0.7: max_period 3 is too "
                       "small"):
        scripts.bench_models.Perceptron(()).check(["conventional", "ROW:max_period=3"], [0.3, 0.7])


def test_lists_of_methods(scripts):
    assert scripts.reproduction.split_methods("ROW:max_period=3,scale=PATTERN,conventional, PERIODIC:step=4 "
                                              "ROW,ROW") == (
        "ROW:max_period=3,scale=PATTERN", "conventional", "PERIODIC:step=4", "ROW")


@pytest.mark.parametrize("arguments, code, expected", [
    (["--nets", "2048"], 2, "expected two hidden layers as 2048x2048, got '2048'"),
    (["--rates", "0.5,1"], 2, "expected a number above 0 and below 1, got 1"),
    (["--learning-rates", "fast"], 2, "could not convert string to float: 'fast'"),
    (["--stage", "all"], 2, "'all' is not one of 'speed', 'accuracy', 'best'"),
    (["--methods", "ROW,PERIODICAL"], 1, "unknown pattern 'PERIODICAL'; did you mean 'PERIODIC'?"),
    (["--methods", "PERIODIC:step=70000"], 1, "method 'PERIODIC:step=70000' at rate 0.5: pattern PERIODIC has "
     "steps up to 65536"),
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
    assert done.exit_code == 1 and "minidrop data mnist" in done.output
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
    models = scripts.bench_models
    model = models.find_model("2048x2048")
    net = Net(models.with_constant_weights(model.net(method, 0.5)), device="cpu")
    assert models.product_operations(net) == pytest.approx((sum(dense), expected))
    # The whole: 3.32 where both sides of the large product shrink, 1.99 where only one does.
    bound = {1: 1.0, 1 / 4: 3.3156, 1 / 2: 1.9923}[shares[1]]
    assert model.bound(method, 0.5) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize("family", ["ROW", "PERIODIC"])
def test_the_choice_of_an_iteration_is_that_of_its_pattern(family):
    sequence = PatternSequence(get_family(PatternSettings(0.35, family)), 1, "drop1")
    drawn = [(sequence.choice_at(i), sequence.at(i)) for i in (0, 1, 2, 3, 2500, 7, 999, 1000)]
    assert all(choice == (pattern.step if family == "ROW" else pattern.width) for choice, pattern in drawn)
    assert len({choice for choice, _ in drawn}) > 1


@pytest.mark.parametrize("families", [
    ("PERIODIC", "BLOCK"), pytest.param(("PERIODIC", "TILE", "BLOCK"), marks=pytest.mark.full)])
def test_bench_mlp_measures_any_method(scripts, tmp_path, families):
    # Of 60 and 30 units PERIODIC keeps the same number every time, so that its products can be timed alone.
    methods = ["ROW:max_period=4", *families]
    done = run_here(scripts.folder / "bench_mlp.py", "--sizes", "60x30", "--rates", "0.5", "--blocks", "1",
                    "--block-seconds", "0.02", "--json", tmp_path / "mlp.json", "--methods", *methods,
                    folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[2:]] == ["Dropout", *methods]
    assert "bound" in lines[1] and lines[2].split()[4:6] == ["1.00x", "1.00x"]
    cell, = json.loads((tmp_path / "mlp.json").read_text())["cells"]
    all_have = {"ms", "steps", "weight_measured", "memory_mib", "bound", "gflop", "gflop_per_second"}
    assert set(cell["methods"]["PERIODIC"]) == all_have | {"gemm_ms", "gemm_share"}
    assert set(cell["methods"]["ROW:max_period=4"]) == all_have
    assert all(one["ms"] > 0 and one["bound"] >= 1 for one in cell["methods"].values())


# -- the store -----------------------------------------------------------------------------------------------
def test_a_store_keeps_runs_and_forgets_half_a_line(scripts, cells, tmp_path):
    path = tmp_path / "results.jsonl"
    store = scripts.reproduction.Store(path)
    first, second, third = (cell.run("ROW", seed)
                            for cell, seed in ((cells[0], 1), (cells[0], 2), (cells[1], 1)))
    store.add({**first, "accuracy": 0.5})
    store.add({**second, "accuracy": 0.25})
    assert store.missing([first, third, second, third]) == [third]

    path.write_bytes(path.read_bytes() + b'{"stage": "accuracy", "net": "32x16", "ra')
    again = scripts.reproduction.Store(path)
    assert again.missing([first, third, second]) == [third]
    again.add({**third, "accuracy": 0.75})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["accuracy"] for line in lines] == [0.5, 0.25, 0.75]
    assert scripts.reproduction.Store(path).find(third) == {**third, "accuracy": 0.75}


def test_everything_that_defines_a_run_is_in_its_key(scripts, cells, tmp_path):
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    key = cells[0].run("ROW", 1)
    store.add({**key, "accuracy": 0.5})
    others = {"stage": "validation", "net": "32x32", "rate": 0.5, "method": "ROW:step=3", "seed": 2,
              "iterations": 21, "learning_rate": 0.2}
    assert set(others) == set(key)
    assert store.find(key) and not any(store.find(key | {name: value}) for name, value in others.items())
    assert not store.find(cells[0].speed("ROW"))


def test_a_broken_line_in_the_middle_is_named(scripts, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"stage": "speed"}\nnot JSON\n{"stage": "speed"}\n')
    with pytest.raises(DataError, match=r"results.jsonl:2: expected one run as a JSON object, got b'not "
                       r"JSON'; delete"):
        scripts.reproduction.Store(path)


# -- stages --------------------------------------------------------------------------------------------------
def test_speed_measures_what_is_missing_beside_conventional(scripts, cells, tmp_path, monkeypatch):
    calls = []

    def measure(net, rate, methods, blocks, block_seconds):
        calls.append((net, rate, methods, blocks, block_seconds))
        return {method: {"ms": {"conventional": 12.0, "ROW": 4.0, "PERIODIC": 3.0}[method]}
                for method in methods}

    monkeypatch.setattr(scripts.bench_cpu, "measure", measure)
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    store.add({**cells[0].speed("ROW"), "speed_up": 2.5})
    scripts.reproduction.measure_speed(cells, store)
    assert calls == [("32x16", 0.3, ["conventional", "PERIODIC"], 2, 0.1),
                     ("32x16", 0.5, ["conventional", "ROW", "PERIODIC"], 2, 0.1)]
    assert [(record["rate"], record["method"], record["speed_up"]) for record in store.records] == [
        (0.3, "ROW", 2.5), (0.3, "PERIODIC", 4), (0.5, "ROW", 3), (0.5, "PERIODIC", 4)]
    scripts.reproduction.measure_speed(cells, store)
    assert len(calls) == 2


def test_accuracy_from_the_command_line(scripts, cache, tmp_path):
    out = tmp_path / "out"
    command = ["--nets", "32x16", "--rates", "0.5", "--methods", "ROW", "--seeds", "1", "--iterations", "30",
               "--stage", "accuracy", "--out", out, "--jobs", "2"]
    done = run(scripts, *command)
    assert done.exit_code == 0, done.output
    records = {record["method"]: record
               for record in scripts.reproduction.Store(out / "results.jsonl").records}
    assert set(records) == {"conventional", "ROW"}
    assert all(0.2 < record["accuracy"] <= 1 for record in records.values())     # guessing gives 0.1
    table = (out / "table.md").read_text()
    assert table in done.output and f"{100 * records['ROW']['accuracy']:.2f}" in table

    # The record's key is all that a training depends on, but for the rounding of another number of threads.
    key = {name: value for name, value in records["ROW"].items() if name not in ("accuracy", "threads")}
    assert scripts.reproduce_mlp.train(key)["accuracy"] == pytest.approx(records["ROW"]["accuracy"], abs=0.02)

    before = (out / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(before[:-20])               # killed while it wrote the last line
    assert run(scripts, *command).output.count("learning rate 0.1  seed 1") == 1
    assert sorted((out / "results.jsonl").read_text().splitlines()) == sorted(before.decode().splitlines())
    assert run(scripts, *command, "--report").output.count("learning rate 0.1  seed 1") == 0


def test_best_is_chosen_by_validation_and_trained_on_everything(scripts, cells, cache, tmp_path, monkeypatch):
    validation = {("conventional", 0.3, 0.05): 0.9, ("ROW", 0.5, 0.1): 0.9, ("PERIODIC", 0.5, 0.05): 0.9}
    made = []

    def train_all(script, keys, store, jobs, parts=None):
        for key in store.missing(keys):
            made.append((key["stage"], parts))
            own = key["method"], key["rate"], key["learning_rate"]
            diverged = key["stage"] == "validation" and own == ("ROW", 0.3, 0.1)
            value = validation.get(own, 0.8) if key["stage"] == "validation" else 0.6 + key["seed"] / 100
            store.add({**key, "accuracy": None if diverged else value})

    monkeypatch.setattr(scripts.reproduce_mlp, "train_all", train_all)
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    scripts.reproduce_mlp.find_best(cells, (0.05, 0.1), store, 1, tmp_path)
    assert made == [("validation", str(tmp_path / "validation"))] * 12 + [("accuracy", None)] * 6
    finals = [(r["method"], r["rate"], r["learning_rate"], r["seed"]) for r in store.records
              if r["stage"] == "accuracy"]
    assert finals == [(*best, seed) for best in validation for seed in (1, 2)]
    rows = scripts.reproduce_mlp.best_rows(cells, (0.05, 0.1), store)
    assert [(row.method, row.cell.rate, row.cell.training["learning_rate"], value, row.difference)
            for row, value in rows] == [
        ("conventional", 0.3, 0.05, 0.9, None), ("ROW", 0.5, 0.1, 0.9, 0), ("PERIODIC", 0.5, 0.05, 0.9, 0)]
    assert [row.values("accuracy") for row, _ in rows] == [pytest.approx([61, 62])] * 3


def test_validation_takes_the_last_sixth_of_the_training_records(scripts, cache, tmp_path):
    folder = scripts.reproduce_mlp.split_training_records(tmp_path / "validation")
    whole, train, rest = (HDF5Records(path, ("data", "label")).read(np.arange(count)) for path, count in (
        (cache / "train.txt", 480), (folder / "train.txt", 400), (folder / "test.txt", 80)))
    for name in ("data", "label"):
        np.testing.assert_array_equal(train[name], whole[name][:400])
        np.testing.assert_array_equal(rest[name], whole[name][400:])


def test_validation_reads_its_own_parts(scripts, cells, cache, tmp_path):
    """Where all records to test on are of one class that training never saw, no answer is right."""
    images = np.zeros((100, 28, 28), np.uint8)
    write_part(tmp_path, "train", images, np.zeros(100))
    write_part(tmp_path, "test", images, np.full(100, 7))
    key = cells[1].run("ROW", 1, stage="validation")
    assert scripts.reproduce_mlp.train(key, tmp_path)["accuracy"] == 0


def test_a_training_that_diverges_is_a_result(scripts, cells, cache):
    result = scripts.reproduce_mlp.train(cells[1].run("conventional", 1, learning_rate=1e30))
    assert result["accuracy"] is None and "the loss is" in result["diverged"]


def test_a_training_that_fails_ends_the_run(scripts, cells, cache, tmp_path):
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    with pytest.raises(MinidropError, match="a training has failed, its error stands above: .*'NONE'"):
        scripts.reproduction.train_all(scripts.reproduce_mlp.__file__, [cells[1].run("NONE", 1)], store, 1)
    assert not store.records


def test_a_worker_does_not_outlive_its_parent(scripts, cells, cache):
    key = cells[1].run("ROW", 1) | {"iterations": 10**9}
    process = subprocess.Popen([sys.executable, scripts.folder / "reproduce_mlp.py", "--worker"],
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
    """Cells and a store, of 2048x2048 at 0.5 and 0.3, made by hand."""
    low, high = cells = scripts.reproduce_mlp.make_cells(
        ("2048x2048",), (0.3, 0.5), ("ROW", "UNIT"), 2, 4000, {"blocks": 8, "block_seconds": 0.5})
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    for method, accuracies in {"conventional": (0.985, 0.983), "ROW": (0.977, 0.979),
                               "UNIT": (0.984, None)}.items():
        for seed, accuracy in enumerate(accuracies, 1):
            store.add({**high.run(method, seed), "accuracy": accuracy})
    store.add({**high.speed("ROW"), "speed_up": 2.704})
    store.add({**low.run("conventional", 1), "accuracy": 0.98})
    store.add({**low.run("ROW", 1), "accuracy": None})
    store.add({**high.run("conventional", 1, iterations=300), "accuracy": 0.1})    # another run
    for method, accuracy in (("conventional", 0.981), ("ROW", 0.982), ("UNIT", None)):
        for cell in cells:
            store.add({**cell.run(method, 1, stage="validation"), "accuracy": accuracy
                       and accuracy + cell.rate / 100})
    return cells, store


def test_tables(scripts, results, monkeypatch):
    cells, store = results
    report = scripts.reproduction_report
    monkeypatch.setattr(report.Row, "bound", property(lambda row: 1.0 if row.method == "conventional"
                                                      else 3.3156))
    best = scripts.reproduce_mlp.best_rows(cells, (0.1,), store)
    assert scripts.reproduce_mlp.text_of(report.rows_of(cells, store), best) == """\
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
    assert scripts.reproduce_mlp.draw(scripts.reproduction_report.rows_of(*results),
                                      tmp_path / "figure.png") is True
    pixels = imread(tmp_path / "figure.png")[..., :3]
    assert pixels.shape[0] == 1080                                 # two panels, one above the other
    color = np.array([int(scripts.reproduction_report.COLORS[0][i:i + 2], 16) / 255 for i in (1, 3, 5)])
    bars = np.abs(pixels - color).max(axis=2) < 0.02               # ROW, the first method that is drawn
    assert bars[:540].sum() > 1000 and bars[540:].sum() > 1000


def test_figure_of_nothing_but_conventional_is_none(scripts, cells, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `plot`)")
    row = scripts.reproduction_report.Row(cells[0], "conventional", 1.0)
    assert scripts.reproduce_mlp.draw([row], tmp_path / "figure.png") is False
    assert not (tmp_path / "figure.png").exists()


def test_without_matplotlib_one_line_says_how_to_install_it(scripts, results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(scripts.reproduction_report.Row, "bound", 1.0)
    done = run(scripts, "--report", "--nets", "2048x2048", "--methods", "ROW,UNIT", "--seeds", "2", "--out",
               tmp_path)
    assert done.exit_code == 0 and "python -m pip install 'minidrop[plot]'" in done.output
    assert (tmp_path / "table.md").exists() and not (tmp_path / "figure.png").exists()
