"""reproduce_sparsedrop.py: its tasks, when a training ends, that it goes on, and the tables."""

import json

import numpy as np
import pytest
from cases import in_turn
from click.testing import CliRunner

from minidrop.data import HDF5Records
from minidrop.data.prepare import write_part
from minidrop.errors import DataError


@pytest.fixture
def cache(scripts, tmp_path, monkeypatch):
    """A cache with 96 easy images of "mnist" and a text."""
    folder = tmp_path / "cache"
    labels = np.arange(96) % 10
    images = np.random.default_rng(0).integers(0, 100, (96, 1, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label:2 * label + 3] += 120
    (folder / "mnist").mkdir(parents=True)
    write_part(folder / "mnist", "train", images, labels)
    (folder / "tinyshakespeare").mkdir()
    (folder / "tinyshakespeare" / "input.txt").write_text("to be, or not to be: that is the question.\n" * 40)
    monkeypatch.setenv("MINIDROP_CACHE", str(folder))
    return folder


@pytest.fixture
def small(scripts, monkeypatch):
    """Tasks of the smallest size, in place of the quick ones."""
    shape = scripts.sparsedrop_tasks.replace(scripts.sparsedrop_tasks.GPT, width=8, heads=2, blocks=1)
    tasks = {"mlp_8": scripts.sparsedrop_tasks.Task("mnist", 16, 1e-2, 4, 3, width=8, records=(64, 32)),
             "gpt_8": scripts.sparsedrop_tasks.Task("tinyshakespeare", 4, 1e-2, 3, 3, shape, steps=6,
                                                    rule="AdamW", decay=0.1, looks=2)}
    for name, task in tasks.items():
        monkeypatch.setitem(scripts.reproduce_sparsedrop.ALL, name, task)
    return tasks


def run(scripts, *arguments):
    return CliRunner().invoke(scripts.reproduce_sparsedrop.main, [str(argument) for argument in arguments])


# -- tasks ---------------------------------------------------------------------------------------------------
@in_turn("name, drops", [("mlp", 4), ("vit_cifar10", 8), ("vit_fashion", 8), ("gpt", 24), ("mlp_128", 4),
                         ("vit_64_cifar10", 4), ("gpt_64", 12)])
def test_every_product_has_its_drop(scripts, name, drops):
    task = scripts.reproduce_sparsedrop.ALL[name]
    for method, expected in {"none": set(), "conventional": {("Dropout", "")},
                             "BLOCK": {("ApproxDropout", "BLOCK")},
                             "PERIODIC:step=4": {("ApproxDropout", "PERIODIC")}}.items():
        net = task.net(method, 0.3, "parts")
        found = [layer for layer in net.layer if "Drop" in layer.type]
        assert len(found) == (drops if expected else 0)
        assert {(layer.type, layer.approx_dropout_param.pattern if layer.type != "Dropout" else "")
                for layer in found} == expected
        sources = [layer.hdf5_data_param.source for layer in net.layer if layer.type == "HDF5Data"]
        assert all(source.endswith(("parts/train.txt", "parts/test.txt")) for source in sources)
        assert len(sources) == (0 if task.is_text else 2)
    assert not any(layer.inner_product_param.bias_term for layer in net.layer if layer.type == "InnerProduct")


def test_records_are_resized_and_split_once(scripts, cache, small, tmp_path):
    folder = small["mlp_8"].make_parts(tmp_path / "records")
    whole = HDF5Records(cache / "mnist" / "train.txt", ("data", "label")).read(np.arange(96))
    train, rest = (HDF5Records(folder / f"{part}.txt", ("data", "label")).read(np.arange(count))
                   for part, count in (("train", 64), ("test", 32)))
    np.testing.assert_array_equal(np.concatenate([train["label"], rest["label"]]), whole["label"])
    assert train["data"].shape == (64, 1, 32, 32) and train["data"].dtype == np.uint8
    np.testing.assert_allclose(rest["data"].mean(axis=(1, 2, 3)), whole["data"][64:].mean(axis=(1, 2, 3)),
                               atol=2)
    before = (folder / "train.h5").stat().st_mtime_ns
    small["mlp_8"].make_parts(tmp_path / "records")
    assert (folder / "train.h5").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="expected at least 20480 records, got 96"):
        scripts.sparsedrop_tasks.TASKS["mlp"].make_parts(tmp_path / "records")


def test_a_training_ends_when_nothing_gets_better(scripts):
    module, tasks = scripts.reproduce_sparsedrop, scripts.sparsedrop_tasks.TASKS

    def curve(*values):
        return [[i, i, value, value] for i, value in enumerate(values)]
    falling = curve(3, 2, 1, 1, 1.5, 1.2, 1.1)
    assert module.best_of(tasks["gpt"], falling) == [2, 2, 1, 1]
    assert module.best_of(tasks["mlp"], falling) == [0, 0, 3, 3]
    assert not module.ended(tasks["gpt"], falling) and module.ended(tasks["mlp"], falling)
    assert module.ended(tasks["gpt"], [*falling, *curve(2)]) and not module.ended(tasks["gpt"], [])
    assert module.ended(tasks["mlp"], curve(*range(100)))
    assert not module.ended(tasks["mlp"], curve(*range(99)))


# -- runs ----------------------------------------------------------------------------------------------------
def key_of(scripts, task, method, rate=0.5):
    [cell] = scripts.reproduce_sparsedrop.make_cells([task], [rate], (method,), 1, None)
    return cell.run(method, 1)


@in_turn("name, method", [("mlp_8", "BLOCK:block_samples=4,block_units=4"), ("gpt_8", "PERIODIC"),
                          ("gpt_8", "conventional")])
def test_an_interrupted_training_goes_on_as_if_it_was_not(scripts, cache, small, tmp_path, name, method):
    module, key = scripts.reproduce_sparsedrop, key_of(scripts, name, method)
    parts = small[name].make_parts(tmp_path / "records")
    extra = {"parts": parts and str(parts), "unfinished": str(tmp_path / "unfinished")}
    whole = module.train(key, extra)
    assert [point[0] for point in whole["curve"]] == [small[name].every * i for i in (1, 2, 3)]
    folder = scripts.reproduction.folder_of(key, extra["unfinished"])
    assert not folder.exists()
    task, solver = module.build({**key, "looks": 1}, extra["parts"])        # killed after a look
    module.finish(task, solver, folder)
    solver.close()
    assert (folder / "curve.json").exists()
    again = module.train(key, extra)
    curves = [[[i, *values] for i, _, *values in one["curve"]] for one in (whole, again)]
    assert curves[0] == curves[1]
    assert again["iteration"] == whole["iteration"] and not folder.exists()


def test_a_training_that_diverges_is_a_result(scripts, cache, small, tmp_path, monkeypatch):
    monkeypatch.setitem(scripts.reproduce_sparsedrop.ALL, "mlp_8",
                        scripts.sparsedrop_tasks.replace(small["mlp_8"], rate=1e38))
    parts = small["mlp_8"].make_parts(tmp_path / "records")
    result = scripts.reproduce_sparsedrop.train(key_of(scripts, "mlp_8", "none", 0.0),
                                                {"parts": str(parts), "unfinished": str(tmp_path)})
    assert result["accuracy"] is None and result["diverged"]


def test_tasks_without_data_are_left_out(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    done = run(scripts, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "the data of no task are there" in done.output
    assert "vit_fashion is left out: " in done.output


def test_mistakes(scripts, tmp_path):
    for arguments, code, expected in (
            (["--methods", "BLOK"], 1, "unknown pattern 'BLOK'; did you mean 'BLOCK'"),
            (["--tasks", "mlpp"], 2, "expected one of mlp, "),
            (["--rates", "1"], 2, "expected a number above 0"),
            (["--report", "--tasks", "mlp"], 1, "holds none of these runs")):
        done = run(scripts, *arguments, "--out", tmp_path)
        assert done.exit_code == code and expected in done.output


# -- table and figure ----------------------------------------------------------------------------------------
@pytest.fixture
def results(scripts, tmp_path):
    """A store of trainings made by hand."""
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    values = {("mlp", "none", 0): 0.96, ("mlp", "BLOCK", 0.3): 0.97, ("mlp", "BLOCK", 0.5): 0.96,
              ("mlp", "PERIODIC", 0.3): None, ("gpt", "none", 0): 1.7, ("gpt", "BLOCK", 0.3): 1.5,
              ("gpt", "BLOCK", 0.5): 1.45}
    methods = "none", "BLOCK", "PERIODIC"
    cells = scripts.reproduce_sparsedrop.make_cells(["mlp", "gpt"], (0.3, 0.5), methods, 1, None)
    for cell in cells:
        for method in cell.methods:
            if (cell.net, method, cell.rate) in values:
                value = values[cell.net, method, cell.rate]
                store.add({**cell.run(method, 1), "accuracy": value and min(1, value), "loss": value,
                           "seconds": 90.0, "iteration": 160, "threads": 2})
    return cells, store


def test_tables_have_the_best_rate_of_each_method(scripts, results):
    rows = scripts.reproduce_sparsedrop.rows_of(*results)
    assert len(rows) == 7
    assert [(row.task, row.method, row.rate) for row in scripts.reproduce_sparsedrop.best_rows(rows)] == [
        ("mlp", "none", 0), ("mlp", "BLOCK", 0.3), ("mlp", "PERIODIC", 0.3), ("gpt", "none", 0),
        ("gpt", "BLOCK", 0.5)]
    lines = scripts.reproduce_sparsedrop.text_of(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert ["mlp", "BLOCK", "0.3", "accuracy %", "97.00", "1.50", "160", "p 0.3: 97.61, 3.18 min"] in cells
    assert ["mlp", "none", "-", "accuracy %", "96.00", "1.50", "160", "p 0: 96.96, 1.94 min"] in cells
    assert ["gpt", "BLOCK", "0.5", "loss", "1.450", "1.50", "160", "p 0.5: 1.43, 42.6 min"] in cells
    assert any(cell[:2] == ["mlp", "PERIODIC"] and "1 diverged" in cell[4] for cell in cells)


def test_figure(scripts, results, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `plot`)")
    rows = scripts.reproduce_sparsedrop.rows_of(*results)
    assert scripts.reproduce_sparsedrop.draw(rows, tmp_path / "figure.png") is True
    assert (tmp_path / "figure.png").stat().st_size > 10000
    assert scripts.reproduce_sparsedrop.draw([], tmp_path / "none.png") is False


def test_the_command_makes_what_is_missing_and_no_more(scripts, cache, tmp_path, monkeypatch):
    made = []

    def train_all(script, keys, store, jobs, extra, threads):
        for key in store.missing(keys):
            made.append((key["net"], key["method"], key["rate"]))
            store.add({**key, "accuracy": 0.5, "loss": 1.0, "seconds": 1.0, "iteration": 1,
                       "threads": threads})

    monkeypatch.setattr(scripts.reproduction, "train_all", train_all)
    command = ["--tasks", "gpt_64", "--methods", "none,BLOCK", "--rates", "0.3,0.5", "--out",
               tmp_path / "out"]
    first, second = (run(scripts, *command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    assert made == [("gpt_64", "none", 0.0), ("gpt_64", "BLOCK", 0.3), ("gpt_64", "BLOCK", 0.5)]
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])["looks"] == 8
