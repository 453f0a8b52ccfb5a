"""minidrop generate and TextModel: what a model has learnt comes out again, alike for every way to ask."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minidrop as md
from minidrop.errors import ConfigError, NonFiniteError, SnapshotError
from minidrop.snapshot import Snapshot, read_snapshot, write_snapshot

NET = """
name: "writer"
layer { name: "text" type: "TextData" top: "data" top: "label" top: "cont"
        text_data_param { source: "text.txt" LEVEL batch_size: 4 steps: 9 } }
layer { name: "embed" type: "Embed" bottom: "data" top: "embed" embed_param { input_dim: 20 num_output: 12
        weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "drop1" type: "ApproxDropout" bottom: "embed" top: "drop1"
  approx_dropout_param { dropout_ratio: 0.2 } }
layer { name: "lstm" type: "LSTM" bottom: "drop1" bottom: "cont" top: "lstm" recurrent_param { num_output: 24
        weight_filler { type: "xavier" } } }
layer { name: "scores" type: "InnerProduct" bottom: "lstm" top: "scores"
  inner_product_param { num_output: 20 axis: 2
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
  softmax_param { axis: 2 }
        loss_param { ignore_label: -1 } }
layer { name: "accuracy" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy"
        accuracy_param { axis: 2 ignore_label: -1 } include { phase: TEST } }
"""
SOLVER = """net: "net.prototxt"
type: "Adam"
base_lr: 0.03
lr_policy: "fixed"
momentum: 0.9
momentum2: 0.999
max_iter: 120
random_seed: 2
snapshot_after_train: false
solver_mode: CPU
"""
# After "a" comes b or c, and which one only what stood before tells: a net without state cannot write this.
CHARACTERS = "abac\n"
WORDS = "the cat sat\nthe dog ran home\n"
SENTENCES = "one two three\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three nets, trained a second each: folder/{characters,words,sentences}/{net.prototxt,weights.h5}."""
    folder = tmp_path_factory.mktemp("writers")
    for name, text, level in (("characters", CHARACTERS, "level: CHARACTER"), ("words", WORDS, ""),
                              ("sentences", SENTENCES, "sentences: true")):
        here = folder / name
        here.mkdir()
        (here / "text.txt").write_text(text * 40)
        (here / "net.prototxt").write_text(NET.replace("LEVEL", level))
        (here / "solver.prototxt").write_text(SOLVER)
        solver = md.Solver.from_file(here / "solver.prototxt", device="cpu")
        solver.solve()
        solver.snapshot(here / "weights.h5")
    return folder


@pytest.fixture
def written(folder, minidrop):
    """written("words", option, ...) -> code, out, err of `minidrop generate` with that net."""
    def call(name, *arguments):
        here = folder / name
        return minidrop("generate", "--model", here / "net.prototxt", "--weights", here / "weights.h5",
                        "--device", "cpu", *arguments)
    return call


def model(folder, name="words", **options):
    return md.TextModel(folder / name / "net.prototxt", folder / name / "weights.h5", device="cpu", **options)


@pytest.mark.parametrize("prompt, expected", [
    ("ab", "ac\nabac\na"), ("aba", "c\nabac\nab"), ("abac", "\nabac\naba"), ("", "abac\nabac")])
def test_the_likeliest_characters_go_on_with_the_pattern(written, prompt, expected):
    result = written("characters", "--prompt", prompt, "--length", 9, "--temperature", 0)
    assert (result.code, result.err) == (0, "")
    assert result.out == prompt + expected + "\n"


@pytest.mark.parametrize("prompt, expected", [
    ("the dog", "the dog ran home\nthe cat sat\nthe\n"),
    ("the cat sat\nthe", "the cat sat\nthe dog ran home\nthe cat sat\n\n"),
    ("ran", "ran home\nthe cat sat\nthe dog\n")])
def test_the_likeliest_words(written, prompt, expected):
    result = written("words", "--prompt", prompt, "--length", 8, "--temperature", 0)
    assert (result.code, result.err) == (0, "")
    assert result.out == expected


def test_sentences_begin_anew(written, folder):
    out = written("sentences", "--prompt", "one", "--length", 7, "--temperature", "0").out
    assert out == "one two three\none two three\n\n"
    assert written("sentences", "--length", 4, "--temperature", "0").out == "one two three\n\n"
    writer, seen = model(folder, "sentences"), []
    forward = writer.net.forward
    writer.net.forward = lambda **inputs: (seen.append({name: int(a[0, 0]) for name, a in inputs.items()}),
                                           forward(**inputs))
    writer.generate("one two", 4, 0)
    words = [writer.vocabulary[one["data"]] for one in seen]
    assert words == ["<eos>", "one", "two", "three", "<eos>", "one"]
    assert [one["cont"] for one in seen] == [0, 1, 1, 1, 0, 1]


def test_streams_begin_once(folder):
    writer, seen = model(folder), []
    forward = writer.net.forward
    writer.net.forward = lambda **inputs: (seen.append(int(inputs["cont"][0, 0])), forward(**inputs))
    for _ in range(2):
        writer.generate("the cat", 5, 0)
    assert seen == [0, 1, 1, 1, 1, 1] * 2


def test_products_on_the_cpu_are_not_rounded(written):
    result = written("characters", "--device", "cpu", "--precision", "bfloat16")
    assert result.code == 1 and result.err.startswith("error: precision bfloat16 needs a GPU")


def test_a_seed_is_a_text(written):
    hot = ("--length", 40, "--temperature", 3, "--seed")
    texts = [written("characters", *hot, seed).out for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 41


def test_temperature_is_what_the_scores_are_divided_by(folder):
    """The share of each first token over many seeds is softmax(scores / temperature), for a cold and a hot
    one."""
    writer = model(folder)
    tokens = writer.vocabulary.encode("the").tolist()
    scores, _ = writer._read(tokens[:1])
    for temperature in (3, 9):
        odds = np.exp(scores / temperature)
        expected = odds / odds.sum()
        drawn = [next(writer.tokens("the", 1, temperature, seed)) for seed in range(500)]
        found = np.bincount(drawn, minlength=len(expected)) / len(drawn)
        assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / len(drawn))
        assert expected.max() < 0.95


def test_only_tokens_of_the_vocabulary(folder):
    """The net has 20 scores, the vocabulary fewer: what nothing stands for is never drawn."""
    writer = model(folder, "characters")
    assert len(writer.vocabulary) == 5
    tokens = list(writer.tokens("a", 300, 1000, 0))
    assert set(tokens) == {0, 1, 2, 3, 4}
    assert "\N{REPLACEMENT CHARACTER}" in writer.vocabulary.decode(tokens)


@pytest.mark.parametrize("name, prompts", [
    ("characters", ["", "ab"]), ("words", ["", "the", "the dog ", "sat\n"]), ("sentences", ["", "one"])])
def test_stream_and_generate_agree(folder, name, prompts):
    writer = model(folder, name)
    for prompt in prompts:
        assert "".join(writer.stream(prompt, 30, 2, 5)) == writer.generate(prompt, 30, 2, 5)


@pytest.mark.parametrize("prompt, expected", [
    ("the dog", " ran home\n"), ("the dog ", "ran home\n"), ("the dog ran home", "\nthe cat")])
def test_a_prompt_and_what_follows_read_right(folder, prompt, expected):
    assert model(folder).generate(prompt, 3, 0) == expected


def test_a_step_at_a_time_equals_the_whole_sequence(folder):
    """The scores after each token of the text, one by one through the carried state, are those of a batch of
    9 steps."""
    writer = model(folder, dtype="float64")
    net = md.Net(folder / "words" / "net.prototxt", "TEST", "cpu", "float64")
    md.load_weights(net, folder / "words" / "weights.h5")
    net.forward()
    data, expected = net.blobs["data"].numpy(), net.blobs["scores"].numpy()
    for stream in range(4):
        states = None
        for step in range(9):
            scores, states = writer._read([int(data[step, stream])], states)
            np.testing.assert_allclose(scores, expected[step, stream, :len(scores)], rtol=1e-10, atol=1e-12)


def test_unknown_words_are_said(written):
    result = written("words", "--prompt", "the bird sat the bird", "--length", 2)
    assert result.code == 0
    assert result.err == "warning: the vocabulary lacks 'bird'; the model reads <unk> instead\n"
    assert result.out.startswith("the bird sat the bird")
    assert written("characters", "--prompt", "az", "--length",
                   2).err.startswith("warning: the vocabulary lacks 'z';")


@pytest.mark.parametrize("arguments, code, message", [
    (["--temperature", "-1"], 2, "-1"), (["--length", "0"], 2, "0 is not in the range"),
    (["--seed", "-1"], 2, "--seed"),
    (["--temperature", "nan"], 1, "error: temperature: expected a number from 0 on, got nan"),
    (["--temperature", "inf"], 1, "error: temperature: expected a number from 0 on, got inf"),
    (["--set", "layer.scores.inner_product_param.num_output=21"], 1, "has shape (20, 24), this net expects "
     "(21, 24)"),
    (["--set", "layer.text.text_data_param.source=nope.txt"], 1, "source 'nope.txt': no such file"),
    (["--set", "layer.lstm.recurrent_param.bidirectional=true"], 1, "layer 'lstm' is bidirectional"),
    (["--device", "tpu"], 1, "unknown device 'tpu'"),
])
def test_wrong_arguments(written, arguments, code, message):
    result = written("words", *arguments)
    assert result.code == code and message in result.err
    assert code == 2 or result.err.count("\n") == result.err.count("error: ")
    assert result.out == ""


def test_without_weights(folder, minidrop):
    result = minidrop("generate", "--model", folder / "words" / "net.prototxt")
    assert result.code == 2 and "give --weights" in result.err


@pytest.mark.parametrize("pattern, replacement, message", [
    (r'layer { name: "(loss|accuracy)"(.|\n)*?(?=layer|\Z)', "",
     "no SoftmaxWithLoss, Perplexity or Accuracy layer reads the label 'label'"),
    (r'TextData" (.*)\n.*', r'Input" \1 input_param { shape { dim: 9 dim: 4 } } }', "no TextData layer in "
     "phase TEST"),
    ("num_output: 20", "num_output: 5",
     r"expected scores for the 8 tokens of the vocabulary along axis 2 of 'scores', got shape \(1, 1, 5\)"),
    (r"\Z", 'layer { name: "more" type: "TextData" top: "x" top: "y" }', r":\d+:\d+: the net has 2 TextData"),
    (r"\Z", 'layer { name: "more" type: "Input" top: "x" input_param { shape { dim: 1 } } }', "has the input "
     "'x'"),
])
def test_nets_that_cannot_write(folder, minidrop, pattern, replacement, message):
    changed = re.sub(pattern, replacement, NET.replace("LEVEL", ""))
    (folder / "words" / "other.prototxt").write_text(changed)
    result = minidrop("generate", "--model", folder / "words" / "other.prototxt", "--weights",
                      folder / "words" / "weights.h5")
    assert result.code == 1 and result.err.count("\n") == 1
    assert re.search(message, result.err), result.err


def test_weights_of_another_net(folder, tmp_path):
    changed = NET.replace("LEVEL", "").replace('name: "scores" type', 'name: "other" type')
    (folder / "words" / "renamed.prototxt").write_text(changed)
    with pytest.raises(SnapshotError, match="no weights for other/weight, other/bias; was it written by "
                       "another net"):
        md.TextModel(folder / "words" / "renamed.prototxt", [folder / "words" / "weights.h5"], device="cpu")


def test_a_text_that_only_training_reads(folder):
    """The net of phase TRAIN will do, and then too nothing is dropped."""
    changed = NET.replace("LEVEL", "").replace('type: "TextData"', 'type: "TextData" include { phase: TRAIN '
                                               '}')
    (folder / "words" / "train.prototxt").write_text(changed)
    writer = md.TextModel(folder / "words" / "train.prototxt", [folder / "words" / "weights.h5"],
                          device="cpu")
    assert writer.generate("the dog", 3, 0) == " ran home\n"
    assert writer.net.phase == "TEST" and not any(map(writer.net.is_dropping,
                                                      writer.net.drop_layers.values()))


def test_scores_that_are_no_numbers(folder):
    writer = model(folder)
    bias, before = writer.net.params["lstm"]["bias"].data, writer.generate("the")
    healthy = bias.copy()
    bias[...] = np.nan
    with pytest.raises(NonFiniteError, match=r"NaN or infinity \(blob 'lstm' of layer 'lstm'\)"):
        writer.generate("the")
    bias[...] = healthy
    assert writer.generate("the") == before         # nothing of it is left in the states


@pytest.mark.parametrize("name", ["words", "characters", "sentences"])
def test_generators_that_take_turns_do_not_disturb_each_other(folder, name):
    writer = model(folder, name)
    prompt = "a" if name == "characters" else "the"
    asked = [{"prompt": prompt, "length": 12, "seed": seed} for seed in (0, 1)]
    expected = [writer.generate(**one) for one in asked]
    pieces = list(zip(*(writer.stream(**one) for one in asked), strict=True))
    assert ["".join(own) for own in zip(*pieces, strict=True)] == expected


def test_threads_may_share_a_writer(folder):
    writer = model(folder)
    expected = [writer.generate("the", 25, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: writer.generate("the", 25, seed=seed), range(4))) == expected


def test_wrong_use_from_python(folder):
    writer = model(folder)
    with pytest.raises(ConfigError, match="length: expected a whole number of at least 0, got -1"):
        writer.generate("the", -1)
    assert writer.generate("the", 0) == ""


def test_output_of_little_alphabet(written, monkeypatch):
    """What the terminal's encoding lacks is written as ?, not as a crash."""
    import io
    import sys
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    assert written("words", "--prompt", "caf\u00e9", "--length", 1, "--temperature", 0).code == 0
    assert raw.getvalue().startswith(b"caf?")


def test_averages_and_what_does_not_fit(folder, minidrop, tmp_path, caplog):
    """--ema reads what the solver averaged; --skip-mismatched leaves a layer as the filler made it."""
    solver = md.Solver(folder / "words" / "solver.prototxt", ["ema_decay=0.5", "max_iter=4"], device="cpu",
                       snapshot_prefix=tmp_path / "averaged")
    solver.step(3)
    path = solver.snapshot(tmp_path / "averaged.h5")
    plain, averaged = (md.TextModel(folder / "words" / "net.prototxt", path, device="cpu", ema=ema)
                       for ema in (False, True))
    for name, average in solver.ema.averages.items():
        np.testing.assert_array_equal(averaged.net.parameters()[name].data, average)
        np.testing.assert_array_equal(plain.net.parameters()[name].data, solver.net.parameters()[name].data)
    command = ["generate", "--model", folder / "words" / "net.prototxt", "--device", "cpu", "--length", "3",
               "--weights"]
    assert minidrop(*command, path, "--ema").code == 0
    result = minidrop(*command, folder / "words" / "weights.h5", "--ema")
    assert result.code == 1 and "holds no averages of weights" in result.err
    name = next(name for name, p in plain.net.parameters().items() if p.ndim == 1)
    read = read_snapshot(path)
    key = next(key for key in read.arrays if key == f"data/{name}")
    write_snapshot(tmp_path / "odd.h5", Snapshot({**read.arrays, key: np.zeros(3, np.float32)}, read.attrs))
    result = minidrop(*command, tmp_path / "odd.h5")
    assert result.code == 1 and "--skip-mismatched" in result.err
    result = minidrop(*command, tmp_path / "odd.h5", "--skip-mismatched")
    assert result.code == 0 and f"not copied: {name} ((3,) in the file" in result.err
