"""reproduce_lstm.py and bench_lstm.py: models, methods, what they run, keep, and make of it."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from programs import run_here

from minidrop import ConfigError, Net, NonFiniteError


@pytest.fixture
def text(tmp_path):
    """A text of 8000 tokens, of 12 words and <eos>."""
    path = tmp_path / "text.txt"
    words = np.array("the cat dog sees hears and a small large old bird sings".split())
    rng = np.random.default_rng(0)
    path.write_text("\n".join(" ".join(words[rng.integers(len(words), size=7)]) for _ in range(1000)) + "\n")
    return path


@pytest.fixture
def tiny(scripts, monkeypatch):
    """A model for this process alone, in MODELS too."""
    model = replace(scripts.bench_models.MODELS["quick_lm"], units=20, vocabulary=15, streams=4)
    monkeypatch.setitem(scripts.bench_models.MODELS, "tiny", model)
    return model


def run(scripts, *arguments):
    return CliRunner().invoke(scripts.reproduce_lstm.main, [str(argument) for argument in arguments])


def bench(scripts, folder, *arguments):
    return run_here(scripts.folder / "bench_lstm.py", *arguments, folder=folder)


# -- methods -------------------------------------------------------------------------------------------------
PERIODIC, STEP, SEQUENCE = {"pattern": "PERIODIC"}, {"time": "STEP"}, {"time": "SEQUENCE"}
FIVE = {"steps_per_pattern": 5}


@pytest.mark.parametrize("text, inputs, hidden, kind, how", [
    ("conventional", None, None, "APPROX", ""),
    ("Dropout", None, None, "APPROX", ""),
    ("NR", PERIODIC | SEQUENCE, None, "APPROX", ""),
    ("NR STEP always", PERIODIC | STEP, None, "APPROX", "always"),
    ("NR ROW:max_period=3,scale=PATTERN STEP", {"pattern": "ROW", "max_period": 3, "scale": 1} | STEP, None,
     "APPROX", ""),
    ("RH STEP", None, PERIODIC | STEP, "APPROX", ""),
    ("RH UNIT STEP dense", None, {"pattern": "UNIT"} | STEP, "APPROX", "dense"),
    ("RH CONVENTIONAL STEP", None, STEP, "CONVENTIONAL", ""),
    ("NR+RH SEQUENCE", PERIODIC | SEQUENCE, PERIODIC | SEQUENCE, "APPROX", ""),
    ("NR 5", PERIODIC | FIVE, None, "APPROX", ""),
    ("NR+RH UNIT 5 always", {"pattern": "UNIT"} | FIVE, {"pattern": "UNIT"} | FIVE, "APPROX", "always"),
    ("RH CONVENTIONAL 5", None, FIVE, "CONVENTIONAL", ""),
])
def test_methods_say_what_stands_where(scripts, text, inputs, hidden, kind, how):
    assert scripts.drop_methods.parse_recurrent_method(text) == scripts.drop_methods.Method(text, inputs,
                                                                                            hidden, kind, how)


@pytest.mark.parametrize("text, expected", [
    ("NH", "method 'NH': expected one of conventional, NR, RH, NR+RH first, got 'NH'"),
    ("", "expected one of conventional, NR, RH, NR+RH first, got ''"),
    ("conventional STEP", "method 'conventional STEP': ordinary dropout has no settings; write conventional"),
    ("NR ROWS", "method 'NR ROWS': unknown pattern 'ROWS'; did you mean 'ROW'?"),
    ("NR ROW:period=3", "'period' is no setting; did you mean 'max_period'?"),
    ("NR STEP dense", "'dense' is not understood; expected NR [FAMILY[:setting=value,...]] [STEP | number of "
     "steps | SEQUENCE] [always]"),
    ("RH STEP ROW", "'ROW' is not understood; expected RH [FAMILY[:setting=value,...]] [STEP | number of "
     "steps | SEQUENCE] [dense | always]"),
    ("NR 0", "method 'NR 0': unknown pattern '0'"),
    ("NR 5 5", "'5' is not understood; expected NR"),
    ("NR ROW:steps_per_pattern=5", "'steps_per_pattern' is no setting"),
    ("NR CONVENTIONAL", "CONVENTIONAL stands after RH alone"),
])
def test_mistakes_in_methods(scripts, text, expected):
    with pytest.raises(ConfigError) as error:
        scripts.drop_methods.parse_recurrent_method(text)
    assert expected in str(error.value)


def test_a_method_that_cannot_have_a_rate(scripts):
    scripts.bench_models.MODELS["quick_lm"].check(["conventional", "RH CONVENTIONAL", "NR ROW:max_period=3"],
                                                  [0.3, 0.5])
    with pytest.raises(ConfigError, match="^method 'RH ROW:max_period=3' at rate 0.7: max_period 3 is too "
                       "small"):
        scripts.bench_models.MODELS["quick_lm"].check(["RH ROW:max_period=3"], [0.3, 0.7])


# -- models --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method, drops, hidden", [
    ("conventional", {"drop_embed": "Dropout", "drop1": "Dropout", "drop2": "Dropout"}, None),
    ("NR STEP", {"drop_embed": "ApproxDropout", "drop1": "ApproxDropout", "drop2": "ApproxDropout"}, None),
    ("RH STEP", {"drop_embed": "Dropout", "drop1": "Dropout", "drop2": "Dropout"}, "STEP"),
    ("NR+RH STEP", {"drop_embed": "ApproxDropout", "drop1": "ApproxDropout", "drop2": "ApproxDropout"},
     "STEP"),
    ("NR+RH SEQUENCE", {"drop_embed": "ApproxDropout"}, "SEQUENCE"),
    ("NR+RH 5", {"drop_embed": "ApproxDropout", "drop1": "ApproxDropout", "drop2": "ApproxDropout"}, 5),
])
def test_drops_stand_in_their_places(scripts, tiny, method, drops, hidden):
    net = tiny.net(method, 0.3)
    layers = {layer.name: layer for layer in net.layer}
    assert {name: layer.type for name, layer in layers.items() if "Dropout" in layer.type} == drops
    for name in ("lstm1", "lstm2"):
        settings = layers[name].recurrent_param
        assert settings.HasField("hidden_dropout") == (hidden is not None)
        if hidden:
            found = settings.hidden_dropout
            assert (found.steps_per_pattern or found.Time.Name(found.time)) == hidden
            assert settings.hidden_dropout.dropout_ratio == pytest.approx(0.3)
    assert list(layers["scores"].bottom) == ["lstm2" if "drop2" not in drops else "drop2"]


@pytest.mark.parametrize("method, kept", [
    ("conventional", 1),
    ("NR", (2 * (4 / 2 + 4) * 200**2 + 200 * 10000 / 2) / (2 * (4 + 4) * 200**2 + 200 * 10000)),
    ("NR+RH SEQUENCE",
     (2 * (4 / 4 + 4 / 4) * 200**2 + 200 * 10000 / 2) / (2 * (4 + 4) * 200**2 + 200 * 10000)),
])
def test_bound_of_the_products(scripts, method, kept):
    assert scripts.bench_models.MODELS["ptb_small"].bound(method, 0.5) == pytest.approx(1 / kept, rel=1e-6)


def test_a_shorter_training_falls_at_the_same_shares(scripts, tiny):
    net, file = tiny.net("conventional", 0.5), tiny.file_solver
    whole = tiny.solver_settings(net, file.max_iter)
    assert list(whole.stepvalue) == list(file.stepvalue) and whole.base_lr == file.base_lr
    tenth = tiny.solver_settings(net, file.max_iter // 10, random_seed=7, test_iter=[3])
    assert list(tenth.stepvalue) == pytest.approx([step / 10 for step in whole.stepvalue], abs=1)
    assert (tenth.random_seed, list(tenth.test_iter), tenth.gamma) == (7, [3], whole.gamma)
    caption = scripts.bench_models.MODELS["caption_lm_3"]
    half = caption.file_solver.max_iter // 2
    assert caption.solver_settings(net, half).stepsize == caption.file_solver.stepsize // 2


@pytest.mark.parametrize("name, layers, units, words, steps, streams", [
    ("ptb_small", 2, 200, 10000, 20, 20), ("ptb_medium", 2, 650, 10000, 35,
                                           20), ("ptb_large", 2, 1500, 10000, 35, 20),
    ("caption_lm_2", 2, 1000, 8801, 20, 100), ("caption_lm_3", 3, 1000, 8801, 20,
                                               100), ("quick_lm", 2, 128, 2000, 20, 20),
])
def test_models_are_those_of_the_files(scripts, name, layers, units, words, steps, streams):
    model = scripts.bench_models.MODELS[name]
    net = model.net("conventional", model.rate)
    kinds = [layer.type for layer in net.layer if layer.name not in ("perplexity", "accuracy")]
    assert kinds == ["Input", "Embed", "Dropout", *["LSTM", "Dropout"] * layers, "InnerProduct",
                     "SoftmaxWithLoss"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[steps, streams]] * 3
    assert {layer.recurrent_param.num_output for layer in net.layer if layer.type == "LSTM"} == {units}
    assert next(layer for layer in net.layer
                if layer.type == "InnerProduct").inner_product_param.num_output == words


def test_dense_and_always_compute_the_same(scripts, tiny, monkeypatch):
    from minidrop.backend import Backend
    losses, skips = {}, {}
    for method in ("RH STEP", "RH STEP dense", "RH STEP always", "NR STEP", "NR STEP always"):
        with monkeypatch.context() as patch:
            patch.setattr(Backend, "pays", Backend.pays)          # put back what the methods change
            net = tiny.net(method, 0.5)
            settings = tiny.solver_settings(net, 9, random_seed=1, base_lr=1e-3)
            solver = scripts.bench_models.make_solver(settings, tiny.parse(method))
            solver.net.set_inputs(**tiny.batches()[0])
            solver.step(3)
            losses[method], skips[method] = solver.smoothed_loss, solver.net.layers["lstm1"].plan.skips
            consumers = [drop.consumers for drop in solver.net.plan.drops if drop.node.name == "drop1"]
            # 4 streams do not pay
            assert not consumers or bool(consumers[0]) == (method == "NR STEP always")
    assert skips["RH STEP always"] is True and skips["RH STEP dense"] is False
    assert losses["RH STEP dense"] == pytest.approx(losses["RH STEP"], rel=1e-5)
    assert losses["RH STEP always"] == pytest.approx(losses["RH STEP"], rel=1e-5)
    assert losses["NR STEP always"] == pytest.approx(losses["NR STEP"], rel=1e-5)


def test_torch_is_given_the_same_model(scripts, tiny):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    own, peer = scripts.bench_steps.MinidropSteps(tiny, "Dropout",
                                                  0.5), scripts.bench_steps.torch_steps(tiny, 0.5)
    count = sum(parameter.data.size for parameter in own.solver.net.parameters().values())
    # PyTorch has a second bias of four gates in each layer.
    assert sum(parameter.numel() for parameter in peer.parameters) == count + 2 * 4 * 20
    before = [parameter.clone() for parameter in peer.parameters]
    assert [(own.step(), peer.step()) for _ in range(3)] == [(1.0, "")] * 3
    assert own.solver.smoothed_loss == pytest.approx(math.log(15), rel=0.05)           # weights near 0
    assert not any(a.equal(b) for a, b in zip(before, peer.parameters, strict=True))
    assert all(part.abs().sum() > 0 for part in peer.state)


# -- times ---------------------------------------------------------------------------------------------------
def test_time_of_a_step_weighs_kinds(scripts):
    times = [("a", 1.0), ("a", 1.2), ("a", 90.0), ("b", 4.0)]
    assert scripts.in_turn.step_time(times, {"a": 0.5, "b": 0.25, "c": 0.25}) == (
        pytest.approx(1.2 * 2 / 3 + 4.0 / 3), 0.75)


def test_time_of_a_step_stands_on_a_line(scripts):
    rng = np.random.default_rng(0)
    times = [(x, 1 + 2 * x) for x in rng.random(40)] + [(0.5, 50.0), (0.1, 70.0)]
    seconds, share = scripts.in_turn.step_time(times, 0.3)
    assert seconds == pytest.approx(1.6, rel=0.02) and share == 1
    # all keep the same: the median
    assert scripts.in_turn.line_at([(0.5, 1.0), (0.5, 2.0), (0.5, 9.0)], 0.4) == 2


def test_steps_say_what_their_patterns_keep(scripts, tiny):
    steps = scripts.bench_steps.MinidropSteps(tiny, "NR ROW", 0.5)
    kept = [steps.step() for _ in range(12)]
    assert len(set(kept)) > 2 and steps.weights() == pytest.approx(0.5, abs=1e-6)
    steps = scripts.bench_steps.MinidropSteps(tiny, "NR+RH SEQUENCE", 0.3)
    assert steps.step() == pytest.approx(0.7) == steps.weights()


def test_bench_lstm_measures_any_method(scripts, workers_here, tmp_path):
    methods = ["RH STEP dense", "NR+RH SEQUENCE"]
    done = bench(scripts, tmp_path, "--models", "quick_lm", "--blocks", 1, "--block-seconds", 0.02, "--json",
                 "lstm.json", "--methods", *methods)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["model", "p", "method"] and len(lines) == 2 + 3
    assert [method for method, line in zip(["Dropout", *methods], lines[2:], strict=True)
            if f" {method} " in line] == [
        "Dropout", *methods]
    cell, = json.loads((tmp_path / "lstm.json").read_text())["cells"]
    assert (cell["model"], cell["rate"], list(cell["methods"])) == ("quick_lm", 0.3, ["Dropout", *methods])
    assert all(one["ms"] > 0 and one["memory_mib"] > 10 for one in cell["methods"].values())
    assert cell["methods"]["Dropout"]["bound"] == 1 and "bound" not in cell["methods"]["RH STEP dense"]
    # 400 tokens; 128 units, 2000 words; two operations, three passes.
    assert cell["methods"]["Dropout"]["gflop"] == pytest.approx(400 * 2 * 3 * (2 * 8 * 128**2 + 128 * 2000)
                                                                / 1e9)


@pytest.mark.parametrize("arguments, expected", [
    (["--models", "ptb_tiny"], "argument --models: invalid choice: 'ptb_tiny'"),
    (["--rates", "0.5", "1"], "argument --rates: expected numbers above 0 and below 1, got 1"),
    (["--methods", "NR", "NR ROWS"], "method 'NR ROWS': unknown pattern 'ROWS'"),
    (["--peer", "keras"], "argument --peer: invalid choice: 'keras'"),
])
def test_mistakes_on_the_command_line_of_bench_lstm(scripts, tmp_path, arguments, expected):
    done = bench(scripts, tmp_path, *arguments)
    assert done.returncode == 2 and not done.stdout
    assert expected in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


# -- runs ----------------------------------------------------------------------------------------------------
@pytest.fixture
def cells(scripts):
    def cell(net, rate, iterations, part, *methods):
        training = {"stage": "training", "text": "ptb", "iterations": iterations}
        return scripts.reproduction.Cell(net, rate, ("conventional", *methods), training,
                                         {"blocks": 2, "block_seconds": 0.1}, part=part)
    return [cell("caption_lm_2", 0.3, 2000, "table2", "NR ROW", "NR"),
            cell("caption_lm_2", 0.5, 2000, "table2", "NR ROW", "NR"),
            cell("ptb_small", 0.3, 300, "cases", "NR STEP")]


@pytest.mark.parametrize("arguments, code, expected", [
    (["--nets", "ptb"], 2, "expected one of ptb_small, ptb_medium"),
    (["--rates", "0.5,1"], 2, "expected a number above 0 and below 1, got 1"),
    (["--part", "table3"], 2, "'table3' is not one of 'table2', 'cases'"),
    (["--methods", "NR,NR ROWS"], 2, "method 'NR ROWS': unknown pattern 'ROWS'; did you mean 'ROW'?"),
    (["--text", "nothing.txt"], 1, "source 'nothing.txt': no such file"),
    (["--text", "python-stdlib", "--report"], 1, "holds none of these runs; leave out --report to make them"),
])
def test_mistakes_on_the_command_line(scripts, tmp_path, arguments, code, expected):
    done = run(scripts, "--quick", "--out", tmp_path / "out", *arguments)
    assert done.exit_code == code and expected in done.output
    assert not (tmp_path / "out").exists()


def test_what_is_run_unless_asked_otherwise(scripts, text):
    def made(part):
        return scripts.reproduce_lstm.make_cells((part,), None, None, None, str(text), None, 1,
                                                 scripts.reproduce_lstm.FULL)

    cells = made("table2")
    assert [(cell.net, cell.rate, cell.training["iterations"]) for cell in cells] == [
        (net, rate, 2000) for net in ("caption_lm_2", "caption_lm_3") for rate in (0.3, 0.5, 0.7)]
    assert cells[0].methods == ("conventional", "NR ROW", "NR TILE", "NR")
    cells = made("cases")
    assert [(cell.net, cell.rate, cell.training["iterations"])
            for cell in cells] == [("ptb_small", 0.3, 30199),
                                                                                      ("ptb_medium", 0.5,
                                                                                       17251)]
    assert cells[0].methods == ("conventional", "NR", "NR STEP", "NR+RH STEP", "NR+RH SEQUENCE")


def test_the_text_unless_asked_otherwise(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    default = scripts.text_training.default_text
    assert [default(net) for net in ("ptb_small", "char_lstm")] == ["python-stdlib"] * 2
    for name in ("ptb/train.txt", "tinyshakespeare/input.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a text\n")
    assert [default(net) for net in ("ptb_small", "char_lstm")] == ["ptb", "tinyshakespeare/input.txt"]


def test_speed_measures_what_is_missing_beside_conventional(scripts, cells, tmp_path, monkeypatch):
    calls = []

    def measure(net, rate, methods, blocks, block_seconds):
        calls.append((net, rate, methods, blocks, block_seconds))
        return {method: {"ms": {"conventional": 12.0, "NR ROW": 4.0}.get(method, 3.0)} for method in methods}

    monkeypatch.setattr(scripts.bench_cpu, "measure", measure)
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    store.add({**cells[0].speed("NR ROW"), "speed_up": 2.5})
    for _ in range(2):
        scripts.reproduction.measure_speed(cells, store)
    assert calls == [("caption_lm_2", 0.3, ["conventional", "NR"], 2, 0.1),
                     ("caption_lm_2", 0.5, ["conventional", "NR ROW", "NR"], 2, 0.1),
                     ("ptb_small", 0.3, ["conventional", "NR STEP"], 2, 0.1)]
    assert [record["speed_up"] for record in store.records] == [2.5, 4, 3, 4, 4]


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.full)])
def test_trainings_from_the_command_line(scripts, tiny, text, tmp_path, monkeypatch, processes):
    """Each in a process of its own, or here with a smaller net: reproduce_mlp.py has the same processes."""
    def here(script, keys, jobs, extra, threads):
        return [(key, scripts.reproduce_lstm.train(key, extra)) for key in keys]

    if not processes:
        monkeypatch.setitem(scripts.bench_models.MODELS, "quick_lm", tiny)
        monkeypatch.setattr(scripts.reproduction, "run_in_workers", here)
    out = tmp_path / "out"
    command = ["--quick", "--part", "cases", "--stage", "training", "--methods", "NR+RH SEQUENCE",
               "--iterations", "50", "--text", text, "--out", out, "--jobs", "2"]
    done = run(scripts, *command)
    assert done.exit_code == 0, done.output
    records = {record["method"]: record
               for record in scripts.reproduction.Store(out / "results.jsonl").records}
    assert set(records) == {"conventional", "NR+RH SEQUENCE"}
    for record in records.values():
        # 13 different tokens; 2000 before it has learnt anything
        assert 7 < record["perplexity"] < 40
        assert [point[0] for point in record["curve"]] == [25, 50]
        assert 0 < record["curve"][0][1] < record["curve"][1][1] == record["seconds"]
        assert math.exp(record["curve"][1][3]) == pytest.approx(record["perplexity"], rel=1e-3)
    table = (out / "table.md").read_text()
    assert table in done.output and f"{records['NR+RH SEQUENCE']['perplexity']:.2f}" in table
    assert not (out / "unfinished").exists()

    before = (out / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(before[:-20])               # killed while it wrote the last line
    assert run(scripts, *command).output.count("seed 1") == 1
    assert run(scripts, *command, "--report").output.count("seed 1") == 0
    again = scripts.reproduction.Store(out / "results.jsonl").records
    assert {record["method"]: record["perplexity"] for record in again} == pytest.approx(
        {method: record["perplexity"] for method, record in records.items()}, rel=0.01)


def test_an_interrupted_training_goes_on_from_its_snapshot(scripts, tiny, text, tmp_path, monkeypatch):
    key = {"stage": "training", "net": "tiny", "rate": 0.5, "method": "NR+RH SEQUENCE", "seed": 1,
           "text": str(text), "iterations": 75}
    whole = scripts.reproduce_lstm.train(key)
    keep = scripts.text_training.keep

    def interrupted(solver, curve, folder):
        keep(solver, curve, folder)
        if solver.iteration == 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(scripts.text_training, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scripts.reproduce_lstm.train(key, tmp_path / "unfinished")
    folder, = (tmp_path / "unfinished").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["50.h5", "curve.json"]
    again = scripts.reproduce_lstm.train(key, tmp_path / "unfinished")
    assert not folder.exists()
    without_seconds = [[point[:1] + point[2:] for point in one["curve"]] for one in (whole, again)]
    assert without_seconds[0] == without_seconds[1]


def test_a_training_that_diverges_is_a_result(scripts, tiny, text, tmp_path, monkeypatch):
    def finish(solver, key, folder):
        raise NonFiniteError("the loss is nan")

    monkeypatch.setattr(scripts.text_training, "finish", finish)
    key = {"stage": "training", "net": "tiny", "rate": 0.5, "method": "NR", "seed": 1, "text": str(text),
           "iterations": 2}
    assert scripts.reproduce_lstm.train(key) == {"perplexity": None, "accuracy": None, "seconds": None,
                                                 "diverged": "the loss is nan"}


def test_the_parts_of_ptb_share_a_vocabulary(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "train.txt").write_text("b a a\n" * 200)
    (tmp_path / "ptb" / "test.txt").write_text("a unseen b\n" * 100)
    model = replace(scripts.bench_models.MODELS["quick_lm"], streams=2)
    net = model.net("conventional", 0.5, "ptb")
    # Two streams: 800 tokens in streams of 400, 399 of them read; 400 in streams of 200.
    assert [scripts.bench_models.batches_per_pass(net, phase)
            for phase in ("TRAIN", "TEST")] == [399 // 20, 199 // 20]
    train, test = (Net(net, phase, device="cpu", stages=["test"]).layers["text"]
                   for phase in ("TRAIN", "TEST"))
    assert train.vocabulary is test.vocabulary and "unseen" not in test.vocabulary.tokens
    assert test.settings.source == "ptb/test.txt"


def test_other_texts_are_cut_into_two_parts(scripts, tiny, text):
    net = tiny.net("NR", 0.5, str(text))
    # 8000 tokens, 7200 and 800 of them in four streams.
    assert [scripts.bench_models.batches_per_pass(net, phase)
            for phase in ("TRAIN", "TEST")] == [1799 // 20, 199 // 20]


# -- table and figure ----------------------------------------------------------------------------------------
@pytest.fixture
def results(scripts, cells, tmp_path):
    """A store of some of the selection's runs, made by hand."""
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    first, second, third = cells
    for cell, method, perplexity, accuracy, seconds in (
            (first, "conventional", 100.0, 0.25, 60.0), (first, "NR ROW", 104.0, 0.24, 40.0),
            (first, "NR", 100.5, 0.2525, 30.0), (second, "conventional", None, None, None),
            (third, "conventional", 130.0, 0.2, 12.0)):
        curve = perplexity and [[i, seconds * i / 4, 5.0 - i / 10, 5.2 - i / 10, perplexity, accuracy]
                                for i in range(1, 5)]
        store.add({**cell.run(method, 1), "perplexity": perplexity, "accuracy": accuracy, "seconds": seconds,
                   "curve": curve, "threads": 2})
    store.add({**first.speed("NR ROW"), "speed_up": 1.5})
    # another run
    store.add({**third.run("NR STEP", 1) | {"iterations": 5}, "perplexity": 1.0, "accuracy": 1.0})
    return store


def test_tables(scripts, cells, results, monkeypatch):
    report = scripts.reproduction_report
    monkeypatch.setattr(report.Row, "bound", property(lambda row: 1.0 + (row.method != "conventional")))
    lines = scripts.reproduce_lstm.text_of(report.rows_of(cells, results)).splitlines()
    assert len({len(line) for line in lines[4:10]}) == 1                 # the columns line up
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    heads = ["net", "p", "method", "speed-up", "bound", "paper", "iterations", "seconds", "perplexity",
             "to conventional", "accuracy %", "difference"]
    name, other = ["caption_lm_2", "0.3"], ["caption_lm_2", "0.5"]
    assert tables == [
        heads,
        [*name, "conventional", "1.00x", "1.00x", "-", "2000", "60.0", "100.00", "-", "25.00", "-"],
        [*name, "NR ROW", "1.50x", "2.00x", "1.16x", "2000", "40.0", "104.00", "+4.00 %", "24.00", "-1.00"],
        [*name, "NR", "-", "2.00x", "-", "2000", "30.0", "100.50", "+0.50 %", "25.25", "+0.25"],
        [*other, "conventional", "-", "1.00x", "-", "2000", "-", "diverged", "-", "diverged", "-"],
        heads,
        ["ptb_small", "0.3", "conventional", "-", "1.00x", "-", "300", "12.0", "130.00", "-", "20.00", "-"],
    ]


def test_figure(scripts, cells, results, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `plot`)")
    from matplotlib.image import imread
    rows = scripts.reproduction_report.rows_of(cells, results)
    assert scripts.reproduce_lstm.draw(rows, tmp_path / "figure.png") is True
    pixels = imread(tmp_path / "figure.png")[..., :3]
    for color, panels in zip(scripts.reproduction_report.COLORS, ([True, True], [True, False], [True, False]),
                             strict=False):
        color = np.array([int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)])
        found = np.abs(pixels[150:] - color).max(axis=2) < 0.02        # below the legend
        middle = pixels.shape[1] // 2
        assert [part.sum() > 100 for part in (found[:, :middle], found[:, middle:])] == panels
    assert scripts.reproduce_lstm.draw([],
                                       tmp_path
                                       / "none.png") is False and not (tmp_path / "none.png").exists()


def test_without_matplotlib_one_line_says_how_to_install_it(scripts, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    cell, = scripts.reproduce_lstm.make_cells(("cases",), None, None, None, str(text), None, 1,
                                              scripts.reproduce_lstm.QUICK)
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    store.add({**cell.run("NR", 1), "perplexity": 9.0, "accuracy": 0.5, "seconds": 1.0, "threads": 1,
               "curve": [[300, 1.0, 2.3, 2.2, 9.0, 0.5]]})
    done = run(scripts, "--quick", "--part", "cases", "--report", "--text", text, "--out", tmp_path)
    assert done.exit_code == 0 and "python -m pip install 'minidrop[plot]'" in done.output
    assert (tmp_path / "table.md").exists() and not (tmp_path / "figure.png").exists()
