"""reproduce_structured.py: its tasks, what they train and measure, and the table."""

import json

import pytest
from cases import in_turn
from click.testing import CliRunner

from minidrop.errors import DataError


def run(scripts, *arguments):
    return CliRunner().invoke(scripts.reproduce_structured.main, [str(argument) for argument in arguments])


# -- tasks ---------------------------------------------------------------------------------------------------
@in_turn("method, drops, hidden", [
    ("conventional", {"source_drop", "memory", "target_drop", "output_drop"}, None),
    ("NR 5", {"source_drop", "memory", "target_drop", "output_drop"}, None),
    ("NR+RH 5", {"source_drop", "memory", "target_drop", "output_drop"}, 5),
    ("NR+RH SEQUENCE", {"source_drop", "target_drop", "output_drop"}, "SEQUENCE")])
def test_drops_of_a_translation_model(scripts, method, drops, hidden):
    """What the encoder gives lacks whole units already; what the decoder gives is complete."""
    layers = {layer.name: layer for layer in scripts.bench_models.find_model("nmt_tiny").net(
        method, 0.25).layer if layer.name != "pairs"}
    found = {name: layer.type for name, layer in layers.items() if "Dropout" in layer.type}
    assert found == dict.fromkeys(drops, "Dropout" if method == "conventional" else "ApproxDropout")
    for settings in (layers["encoder"].recurrent_param, layers["decoder"].decoder_param):
        assert settings.HasField("hidden_dropout") == (hidden is not None)
        own = settings.hidden_dropout
        assert not hidden or (own.steps_per_pattern or own.Time.Name(own.time)) == hidden
    assert layers["decoder"].bottom[1] == ("memory" if "memory" in drops else "encoder")


def test_drops_of_a_tagging_model(scripts):
    """No state is dropped in the LSTM that reads characters."""
    net = scripts.bench_models.find_model("ner_tiny").net("NR+RH STEP", 0.25)
    assert [layer.name for layer in net.layer if layer.recurrent_param.HasField("hidden_dropout")] == ["lstm"]
    assert {layer.name: layer.type for layer in net.layer if "Drop" in layer.type} == {
        "drop": "ApproxDropout"}


def test_what_is_run_unless_asked_otherwise(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module, text = scripts.reproduce_structured, tmp_path / "text.txt"
    text.write_text("the cat sees a large dog\n" * 400)
    cells = module.make_cells(module.QUICK["tasks"], None, module.METHODS, str(text), None, 2, {})
    assert [(cell.net, cell.part, cell.rate, cell.training.get("text"), cell.training["iterations"])
            for cell in cells] == [("quick_lm", "language model", 0.3, str(text), 300),
                                   ("nmt_tiny", "translation", 0.1, None, 600),
                                   ("ner_tiny", "tagging", 0.3, None, 500)]
    assert [cell.training["batches"] for cell in cells[1:]] == [313, 100]
    assert len(cells[2].runs()) == 2 * len(module.METHODS)
    with pytest.raises(DataError, match="multi30k"):
        module.make_cells(["nmt_multi30k"], None, module.METHODS, None, None, 1, {})


# -- runs ----------------------------------------------------------------------------------------------------
@in_turn("net, method, measures", [("ner_tiny", "NR+RH 5", {"f1"}),
                                   ("nmt_tiny", "NR+RH SEQUENCE", {"perplexity", "bleu"})])
def test_a_training_measures_what_its_task_asks_for(scripts, monkeypatch, net, method, measures):
    module = scripts.reproduce_structured
    monkeypatch.setattr(module, "sentences_of", lambda name, whole=module.sentences_of: whole(name)[:8])
    monkeypatch.setattr(scripts.text_training, "batches_per_pass", lambda net, phase: 1)
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        measures = measures - {"bleu"}
    key = {"stage": "training", "net": net, "rate": 0.3, "method": method, "seed": 1, "iterations": 2}
    result = module.train(key)
    assert set(result) == {"accuracy", "seconds", "curve", *measures}
    assert 0 <= result["accuracy"] <= 1 and len(result["curve"]) == 1
    assert all(0 <= result["f1"] <= 1 for _ in measures & {"f1"})
    assert all(0 <= result["bleu"] <= 100 for _ in measures & {"bleu"})


def test_the_sentences_of_a_text(scripts, tmp_path):
    (tmp_path / "text.de").write_text("ein hund läuft\nein ball\n", encoding="utf-8")
    assert scripts.reproduce_structured.sentences_of(tmp_path / "text.de") == ["ein hund läuft", "ein ball"]
    made = scripts.reproduce_structured.sentences_of("made-dates/test.digits")
    assert len(made) == 1000 and set(" ".join(made)) <= set("0123456789- ")


def test_steps_are_taken_apart_and_as_many_for_each_method(scripts, workers_here):
    """Batches have several lengths: all methods read the same ones."""
    found = scripts.bench_cpu.measure("ner_tiny", 0.3, ["conventional", "NR 5"], 1, 0.01, parts=1)
    assert found["conventional"]["steps"] == found["NR 5"]["steps"]
    for own in found.values():
        parts = [own[f"{part}_ms"] for part in ("forward", "backward", "update")]
        assert min(parts) > 0 and 0.5 * own["ms"] < sum(parts) <= own["ms"]


def test_the_command_makes_what_is_missing_and_no_more(scripts, tmp_path, monkeypatch):
    made = []

    def measure(net, rate, methods, blocks, block_seconds, parts):
        made.append((net, *methods))
        return {method: {"ms": 12.0 / (1 + i), "forward_ms": 4.0} for i, method in enumerate(methods)}

    def train_all(script, keys, store, jobs, extra, threads):
        for key in store.missing(keys):
            made.append((key["net"], key["method"], key["seed"]))
            store.add({**key, "f1": 0.5 + 0.02 * key["seed"] + 0.1 * (key["method"] == "NR 5"),
                       "accuracy": 0.75, "seconds": 4.0, "threads": threads,
                       "curve": [[i, i, 1.0, 2.0 / i, 0.5, 0.5] for i in (1, 2)]})

    monkeypatch.setattr(scripts.bench_cpu, "measure", measure)
    monkeypatch.setattr(scripts.reproduction_report.Row, "bound", 1.0)
    monkeypatch.setattr(scripts.reproduction, "train_all", train_all)
    command = ["--quick", "--tasks", "ner_tiny", "--methods", "NR 5", "--seeds", 2, "--iterations", 50,
               "--out", tmp_path / "out"]
    speed, both, again = (run(scripts, *command, *more) for more in (["--stage", "speed"], [], []))
    assert speed.exit_code == both.exit_code == again.exit_code == 0, both.output
    assert made == [("ner_tiny", "conventional", "NR 5")] + [
        ("ner_tiny", method, seed) for seed in (1, 2) for method in ("conventional", "NR 5")]
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])["speed_up"] == 2
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table
             if line.startswith("| tagging")]
    assert lines == [
        ["tagging", "ner_tiny", "0.3", "conventional", "1.00x", "1.00x", "12.00", "4.00", "-", "-", "1.2",
         "50", "4.0", "F1 %", "53.00 ± 1.41", "-", "-"],
        ["tagging", "ner_tiny", "0.3", "NR 5", "2.00x", "1.00x", "6.00", "4.00", "-", "-", "0.6", "50", "4.0",
         "F1 %", "63.00 ± 1.41", "+10.00", "1.23 to 1.64x"]]


def test_translations_without_bleu_are_compared_by_their_words(scripts, tmp_path):
    module, report = scripts.reproduce_structured, scripts.reproduction_report
    [cell] = module.make_cells(["nmt_tiny"], None, ("conventional", "NR"), None, 5, 1, {})
    store = scripts.reproduction.Store(tmp_path / "results.jsonl")
    store.add({**cell.run("conventional", 1), "accuracy": 0.5, "bleu": 12.0, "seconds": 1.0, "threads": 1})
    store.add({**cell.run("NR", 1), "accuracy": 0.25, "seconds": 1.0, "threads": 1})
    first, second = report.rows_of([cell], store)
    assert (module.measure_of(first), module.measure_of(second)) == ("bleu", "accuracy")
    assert module.to_conventional(second) == "-"            # of two measures
    assert report.spread(first, "bleu") == "12.00" and report.spread(second, "accuracy") == "25.00"


@in_turn("arguments, code, expected", [
    (["--tasks", "ner"], 2, "expected one of ptb_small, "),
    (["--methods", "NR,NR ROWS"], 2, "method 'NR ROWS': unknown pattern 'ROWS'; did you mean 'ROW'?"),
    (["--rates", "1"], 2, "expected a number above 0 and below 1"),
    (["--tasks", "ner_conll2003"], 1, "eng.train"),
    (["--report", "--tasks", "ner_tiny"], 1, "holds none of these runs")])
def test_mistakes(scripts, tmp_path, monkeypatch, arguments, code, expected):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path / "nothing"))
    done = run(scripts, "--quick", *arguments, "--out", tmp_path / "out")
    assert done.exit_code == code and expected in done.output
