"""check, patterns, devices, test, time, and what every command has in common."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minidrop.cli import options


def test_help_names_every_command(minidrop):
    result = minidrop("--help")
    assert result.code == 0
    for command in ("train", "test", "time", "check", "generate", "tag", "patterns", "devices"):
        assert f"\n  {command} " in result.out
        assert minidrop(command, "--help").code == 0


def test_help_loads_nothing_heavy():
    heavy = ("numba", "h5py", "tqdm", "cupy")
    code = f"import sys, minidrop.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("arguments, message", [
    (["trian"], "there is no command 'trian'; did you mean 'train'?"),
    (["train"], "Missing option '--solver'"),
    (["train", "-solver", "x", "-snapshot", "a.h5", "-weights", "b.h5"], "exclude each other"),
    (["train", "-solver", "x", "-gpu", "0,1"], "-gpu 0,1: one process uses one GPU; name one of them, as in "
     "-gpu 0. A process for each of them trains with: CUDA_VISIBLE_DEVICES=0,1 mpiexec -n 2 minidrop train "
     "... --device auto --batch-per-rank"),
    (["train", "-solver", "x", "-gpu", "first"], "expected the number of a GPU, or all"),
    (["train", "-solver", "x", "-gpu", "0", "--device", "cpu"], "both choose the device"),
    (["train", "-solver", "x", "-sigint_effect", "die"], "'die' is not one of"),
    (["test", "-model", "x"], "give --weights"),
    (["time"], "give either --solver or --model"),
    (["time", "-solver", "x", "-phase", "TEST"], "give --model"),
    (["time", "-model", "x", "--dropout", "approx", "--compare", "approx"], "asks for already"),
])
def test_wrong_usage_exits_with_2(minidrop, arguments, message):
    result = minidrop(*arguments)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("arguments, message", [
    (["train", "-solver", "nope.prototxt"], "error: nope.prototxt: there is no such file"),
    (["train", "-solver", "task/solver.prototxt", "--device", "tpu"], "unknown device 'tpu'"),
    (["train", "-solver", "task/solver.prototxt", "--set", "base_lrr=1"], "did you mean 'base_lr'?"),
    (["train", "-solver", "task/solver.prototxt", "--dropout", "approx:RWO"], "did you mean 'ROW'?"),
    (["time", "-solver", "task/solver.prototxt", "--compare", "conv"], "--compare conv: expected none, "),
    (["time", "-solver", "task/solver.prototxt", "--compare", "approx:RWO"], "--compare approx:RWO: unknown"),
    (["train", "-solver", "task/solver.prototxt", "-snapshot", "nope.h5"], "nope.h5"),
    (["train", "-solver", "task/solver.prototxt", "-weights", "task/train.h5"], "this is no minidrop "
     "snapshot"),
    (["test", "-model", "task/net.prototxt", "-weights", "task/train.h5"], "this is no minidrop snapshot"),
    (["patterns", "--family", "perodic"], "did you mean 'PERIODIC'?"),
    (["patterns", "--rate", "1"], "must lie in [0, 1)"),
    (["patterns", "--units", "0"], "units must be an integer of at least 1"),
])
def test_mistakes_are_one_line_and_exit_with_1(tiny, minidrop, arguments, message):
    result = minidrop(*arguments)
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tiny.path / "runs").exists()         # a mistake leaves no run folder behind


def test_debug_shows_the_traceback(monkeypatch, capsys):
    from minidrop.cli import run
    monkeypatch.setenv("MINIDROP_DEBUG", "1")
    assert run(["check", "--set", "x", "nope.prototxt"]) == 1        # check has its own report
    assert run(["train", "--solver", "nope.prototxt"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_gpu_is_one_clear_line(tiny, minidrop):
    from minidrop.backend import cuda_devices
    if cuda_devices()[0]:
        pytest.skip("there is a GPU here")
    result = minidrop("-solver", tiny.solver, "-gpu", "0", "train")
    assert result.code == 1
    assert "device cuda:0 cannot be used" in result.err
    for command in ("devices", "device_query"):
        out = minidrop(command).out
        assert out.startswith("cpu (")
        assert "no GPU: " in out and "minidrop[cuda12]" in out


@pytest.mark.parametrize("command", ["train", "time", "test"])
def test_precision_without_a_gpu_is_one_clear_line(tiny, minidrop, command):
    what = {"train": ("--solver", tiny.solver), "time": ("--solver", tiny.solver),
            "test": ("--model", tiny.net, "--weights", "none.h5")}[command]
    result = minidrop(command, *what, "--device", "cpu", "--precision", "bfloat16")
    assert result.code == 1
    assert result.err == ("error: precision bfloat16 needs a GPU: on the CPU products are in float32 or "
                          "float64, the type of all numbers; remove it, or choose --device cuda:N\n")
    in_file = minidrop("train", "--solver", tiny.solver, "--device", "cpu", "--set", "precision=tf32")
    assert in_file.code == 1 and "precision tf32 needs a GPU" in in_file.err


# -- check ---------------------------------------------------------------------------------------------------
def test_check_shows_costs_and_savings(tiny, minidrop):
    result = minidrop("check", tiny.net)
    assert result.code == 0
    train, test = result.out.split("phase TEST")
    rows = {line.split()[0]: line.split() for line in train.splitlines()[:10]}
    # ip1: 2 * 8 * 6 * 20 operations forward, as many for the weight gradient, none for data; half of it with
    # drop1.
    assert rows["ip1"][1:] == ["InnerProduct", "ip1", "8x20", "140", "0.0038", "0.0019", "(50.0%)"]
    assert rows["ip2"][1:] == ["InnerProduct", "ip2", "8x3", "63", "0.0029", "0.0014", "(50.0%)"]
    assert rows["total"][1:] == ["203", "0.0067", "0.0034", "(50.0%)"]
    assert "ip1 computes only the units kept by drop1" in train
    assert "drop1 (PERIODIC) saves 0.0034 MFLOP, 50.0% of the dense net's" in train
    assert "with drops" not in test


def test_check_says_why_a_drop_saves_nothing(tiny, minidrop):
    net = tiny.folder / "net.prototxt"
    net.write_text(net.read_text().replace('bottom: "ip1" top: "drop1"', 'bottom: "data" top: "drop1"'))
    out = minidrop("check", tiny.net).out
    assert "drop1 gathers: blob data has 2 readers" in out
    out = minidrop("check", tiny.net, "--dropout", "conventional").out
    assert "drop1 (Dropout) saves nothing" in out


@pytest.mark.parametrize("kind, settings, reason", [
    ("Dropout", "", "it drops every element on its own; try --dropout approx"),
    ("Dropout", "dropout_param { shared: true }", "it multiplies by zero what has been computed; try "
     "--dropout approx"),
    ("GaussianDropout", "", "it sets no unit to zero, so there is none to leave out"),
    ("DropConnect", "inner_product_param { num_output: 4 }",
     "it drops every weight on its own, and the product is computed whole"),
])
def test_check_says_why_other_drops_save_nothing(tiny, minidrop, kind, settings, reason):
    net = tiny.folder / "net.prototxt"
    text = net.read_text().replace("approx_dropout_param { dropout_ratio: 0.5 }", settings)
    net.write_text(text.replace('"ApproxDropout"', f'"{kind}"'))
    train, test = minidrop("check", tiny.net).out.split("phase TEST")
    assert f"  drop1 ({kind}) saves nothing: {reason}\n" in train
    assert "saves nothing" not in test and "with drops" not in train
    rows = {line.split()[0]: line.split() for line in train.splitlines()[:10]}
    if kind == "DropConnect":         # 3 * 2 * 8 * 20 * 4 operations, none left out
        assert rows["drop1"][1:] == ["DropConnect", "drop1", "8x4", "84", "0.0038"]


def test_check_does_not_advise_what_converts_nothing(tiny, minidrop):
    """A Dropout of single values of images stays under --dropout approx."""
    net = tiny.folder / "images.prototxt"
    net.write_text('layer { name: "x" type: "Input" top: "x" '
                   'input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } } '
                   'layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" '
                   'convolution_param { num_output: 6 kernel_size: 3 } } '
                   'layer { name: "drop" type: "Dropout" bottom: "conv" top: "drop" }')
    assert ("  drop (Dropout) saves nothing: it drops single values of images, which --dropout approx leaves "
            "as they are; axes: [2, 3] drops whole channels\n"
            ) in minidrop("check", net, "--dropout", "approx").out
    net.write_text(net.read_text().replace('top: "drop" }', 'top: "drop" dropout_param { axes: [2, 3] } }'))
    assert "(Dropout) saves nothing: it multiplies by zero what has been computed; try --dropout approx" in (
        minidrop("check", net).out)
    assert "conv computes only the units kept by drop" in minidrop("check", net, "--dropout", "approx").out


def test_check_reports_all_mistakes_at_once(tiny, minidrop):
    (tiny.folder / "net.prototxt").write_text("""
layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "mnist/nope.txt" batch_size: 8 } }
layer { name: "ip" type: "InnerProdct" bottom: "data" top: "ip" }
layer { name: "r" type: "ReLU" bottom: "ipp" top: "r" }
layer { name: "s" type: "Silence" bottom: "r" inner_product_param { num_output: 1 } include { phase: TEST } }
""")
    solver = tiny.folder / "solver.prototxt"
    solver.write_text(solver.read_text().replace('"fixed"', '"stepp"'))
    result = minidrop("check", tiny.solver, tiny.net)
    assert result.code == 1
    for message in ("solver.prototxt:5:1: lr_policy", "did you mean 'step'?", "did you mean 'InnerProduct'?",
                    "bottom 'ipp' is written by no layer", "minidrop data mnist",
                    "net.prototxt:5:47: layer 's' (Silence): inner_product_param belongs to another layer "
                    "type"):
        assert message in result.err
    assert "net.prototxt:3:20: layer 'ip': unknown layer type 'InnerProdct'" in result.err
    assert "it has no settings (phase TEST)" in result.err
    assert result.err.endswith("9 mistakes\n")


# -- patterns ------------------------------------------------------------------------------------------------
def test_patterns_as_json(minidrop):
    reports = json.loads(minidrop("patterns", "--rate", "0.5", "--units", "2048", "--iterations", "1000",
                                  "--json").out)
    assert set(reports) >= {"PERIODIC", "ROW"}
    for one in reports.values():
        assert one["rate_reached"] == pytest.approx(0.5, abs=1e-9)
        assert one["unit_rate"]["min"] == pytest.approx(0.5, abs=1e-9)
        assert len(one["unit_rate"]["all"]) == {"tiles": 64 * 64,
                                                "blocks": 16}.get(one["sites"]["what"], 2048)
        assert one["gemm_share"]["one_side"] == pytest.approx(0.5, abs=1e-9)
    row = json.loads(minidrop("patterns", "--family", "row", "--max-period", "4", "--json").out)["ROW"]
    assert [choice["choice"] for choice in row["distribution"]] == ["1 of 1", "1 of 2", "1 of 3", "1 of 4"]


def test_patterns_for_people(minidrop):
    out = minidrop("patterns", "--rate", "0.7", "--units", "100", "--family", "PERIODIC", "--step", "20").out
    assert "6 of 20" in out
    assert "rate reached      0.700000" in out
    assert "30.0% with one side dropped, 9.0% with both" in out


# -- test, time ----------------------------------------------------------------------------------------------
def test_test_prints_means_and_what_was_not_copied(tiny, minidrop):
    assert minidrop("train", "-solver", tiny.solver, "--out", "o").code == 0
    last = [json.loads(line) for line in (tiny.path / "o/metrics.jsonl").read_text().splitlines()][-1]
    result = minidrop("test", "-model", tiny.net, "-weights", "o/snapshots/task_iter_40.h5", "-iterations",
                      "2", "--json")
    assert result.code == 0
    assert last["phase"] == "TEST"
    assert json.loads(result.out) == {"iterations": 2, "values": last["values"]}
    result = minidrop("test", "-model", tiny.net, "-weights", "o/snapshots/task_iter_40.h5", "--set",
                      "layer.ip2.name=other")
    assert result.code == 0
    assert "not copied: other/weight (not in the file)" in result.err
    assert "not copied: ip2/bias (not in the net)" in result.err
    assert "2 of 4 parameters copied" in result.out
    assert "5 batches on cpu: accuracy = " in result.out         # all 50 records, 10 in a batch


def test_test_reads_every_record_and_the_averages(tiny, minidrop):
    """As the tests of the training did, which reads the averages as well."""
    settings = ["--set", "test_iter=-1", "--set", "ema_decay=0.7", "--dtype", "float64"]
    assert minidrop("train", "-solver", tiny.solver, "--out", "o", *settings).code == 0
    last = [json.loads(line) for line in (tiny.path / "o/metrics.jsonl").read_text().splitlines()][-1]
    command = ["test", "-model", tiny.net, "-weights", "o/snapshots/task_iter_40.h5", "--dtype", "float64",
               "--json"]
    for more in ([], ["-iterations", "all"], ["-iterations", "5"]):
        result = json.loads(minidrop(*command, *more, "--ema").out)
        assert result == {"iterations": 5, "values": last["values"]}
    assert json.loads(minidrop(*command).out)["values"]["loss"] != last["values"]["loss"]
    odd = ["--set", "layer.data.hdf5_data_param.batch_size=8"]          # 50 records: the last batch has 2
    found = json.loads(minidrop(*command, *odd, "--ema").out)
    assert found["iterations"] == 7
    assert found["values"] == pytest.approx(last["values"], rel=1e-12)
    result = minidrop(*command, "-iterations", "0")
    assert result.code == 2 and "all" in minidrop("test", "--help").out


def test_early_stopping_ends_a_run_well(tiny, minidrop):
    fields = ["test_interval=5", "test_iter=-1", *(f"early_stopping.{field}" for field in (
        "metric=loss", "mode=MIN", "patience=2", "min_delta=9"))]
    settings = [option for field in fields for option in ("--set", field)]
    result = minidrop("train", "-solver", tiny.solver, "--out", "o", *settings)
    assert result.code == 0, result.err
    text = result.out + result.err
    assert "early stopping at iteration 10: in 2 tests in a row loss was not below" in text
    assert "the best is that of iteration 0" in text and "done: 10 iterations" in text
    assert (tiny.path / "o/snapshots/task_iter_10.h5").exists()
    lines = (tiny.path / "o/metrics.jsonl").read_text()
    again = minidrop("train", "-solver", tiny.solver, "--out", "o", "--resume", "auto", *settings)
    assert again.code == 0 and "done: 0 iterations" in again.out + again.err
    assert (tiny.path / "o/metrics.jsonl").read_text() == lines
    more = [*settings, "--set", "early_stopping.patience=4"]
    assert minidrop("train", "-solver", tiny.solver, "--out", "o", "--resume", "auto", *more).code == 0
    assert (tiny.path / "o/snapshots/task_iter_20.h5").exists()


def test_time_compares_in_one_run(tiny, minidrop):
    result = minidrop("time", "--solver", tiny.solver, "--compare", "conventional", "--iterations", "12",
                      "--json", "--device", "cpu")
    numbers = json.loads(result.out)
    assert set(numbers["steps"]) == {"as written", "conventional"}
    assert all(step["count"] == 12 and 0 < step["p10"] <= step["median"] <= step["p90"]
               for step in numbers["steps"].values())
    means = [step["mean"] for step in numbers["steps"].values()]
    assert numbers["speed_up"]["mean"] == pytest.approx(means[1] / means[0])
    layers = numbers["where"]["conventional"]["layers"]
    assert layers["ip2"]["forward"] > 0 and layers["ip2"]["backward"] > 0 and layers["ip2"]["update"] > 0
    assert (layers["drop1"]["backward"] > 0 and layers["drop1"]["update"] == 0
            and layers["data"]["backward"] == 0)
    assert 0 < numbers["where"]["as written"]["gemm_share"] < 1
    assert not (tiny.path / "runs").exists()


def test_time_of_a_model_file(tiny, minidrop):
    result = minidrop("time", "-model", tiny.net, "-iterations", "3")
    assert result.code == 0 and "TRAIN step on " in result.out and "products of matrices" in result.out
    result = minidrop("time", "-model", tiny.net, "-iterations", "3", "-phase", "TEST")
    assert result.code == 0 and "TEST step on " in result.out


def test_time_feeds_input_layers_itself(tmp_path, minidrop):
    path = tmp_path / "input.prototxt"
    path.write_text('layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 4 dim: 6 '
                    '} shape { dim: 4 } } } '
                    'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { '
                    'num_output: 3 } } layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" '
                    'top: "loss" }')
    for phase in ("TRAIN", "TEST"):
        result = minidrop("time", "-model", str(path), "-iterations", "3", "-phase", phase)
        assert result.code == 0 and f"{phase} step on " in result.out, result.err


@pytest.mark.parametrize("file", ["net", "solver"])
def test_check_makes_no_parameters(tiny, minidrop, file, monkeypatch):
    monkeypatch.setattr("minidrop.net.parameters.fill", lambda *_: pytest.fail("a parameter was filled"))
    monkeypatch.setattr("minidrop.net.weights.Loading", lambda *_: pytest.fail("weights were read"))
    wide = "layer.ip1.inner_product_param.num_output=50000000"
    result = minidrop("check", getattr(tiny, file), "--set", wide)
    assert result.code == 0 and "350,000,000" in result.out and "phase TEST" in result.out


def test_check_reads_the_weights_of_a_solver(tiny, minidrop):
    result = minidrop("check", tiny.solver, "--set", "weights=none.h5")
    assert result.code == 1 and "none.h5" in result.err


def test_test_tells_the_averages_of_every_batch_where_the_net_has_debug_info(minidrop, tiny):
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--set", "max_iter=1")
    weights, = Path("run/snapshots").glob("*_iter_1.h5")
    arguments = "test", "--weights", weights, "--iterations", "3", "--model", tiny.net
    plain = minidrop(*arguments).out
    net = tiny.folder / "net.prototxt"
    net.write_text("debug_info: true\n" + net.read_text())
    lines = minidrop(*arguments).out.splitlines()
    told = [line for line in lines if line.startswith("    [Forward] Layer ")]
    assert [line for line in lines if line not in told] == plain.splitlines()
    assert len(told) == 3 * (8 + 4) and sum("top blob loss data: " in line for line in told) == 3
    assert json.loads(minidrop(*arguments, "--json").out)["iterations"] == 3


@pytest.mark.parametrize("count, rank, ranks, device, warns", [
    (0, 0, 1, "cuda:0", False), (1, 0, 1, "cuda:0", False), (4, 0, 1, "cuda:0", True),
    (4, 3, 8, "cuda:3", False), (2, 3, 4, "cuda:1", False), (0, 1, 2, "cuda:0", False)])
def test_all_gpus_are_one_for_each_rank(monkeypatch, capsys, count, rank, ranks, device, warns):
    monkeypatch.setattr(options, "cuda_devices", lambda: (count, ""))
    assert options.chosen_device("auto", "all", rank, ranks) == device
    warning = capsys.readouterr().err
    assert bool(warning) == warns
    if warns:
        assert warning == ("warning: -gpu all: one process uses one GPU; cuda:0 of 4 is taken. A process for "
                           "each of them trains with: mpiexec -n 4 minidrop train ... --device auto "
                           "--batch-per-rank\n")
