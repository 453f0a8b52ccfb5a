"""Translating: beam search against trying every sequence, what a Translator writes, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import ConfigError, DataError, SnapshotError, Translator
from minidrop.apps.beam import beam_search, length_penalty
from minidrop.apps.translation import Bleu
from minidrop.config import parse_net

WORDS, BEGIN, END = 4, 2, 3         # of beam search's own little language: 0, 1 and 3 may be written


class Model:
    """Logarithmic probabilities that belong to all that was read, for some sentences and beams."""

    def __init__(self, sentences, beams, seed=0):
        self.read = [()] * (sentences * beams)
        self.beams, self.seed = beams, seed

    def log_probabilities(self, sentence, words):
        logits = np.random.default_rng([self.seed, sentence, *words]).normal(size=WORDS) * 1.5
        return logits - np.log(np.exp(logits).sum())

    def __call__(self, words, origins):
        self.read = [(*self.read[origin], int(word)) for word, origin in zip(words, origins, strict=True)]
        scores = [self.log_probabilities(i // self.beams, read) for i, read in enumerate(self.read)]
        return np.array(scores), np.arange(len(self.read)) % 3


def every_sequence(model, sentence, most, alpha):
    """The best of all sequences of at most `most` words: (score, words)."""
    found = []
    for length in range(most):
        for words in itertools.product((0, 1), repeat=length):
            read, total = (BEGIN,), 0.0
            for word in (*words, END):
                total += model.log_probabilities(sentence, read)[word]
                read = (*read, word)
            found.append((total / length_penalty(length + 1, alpha), [*words, END]))
    return max(found)


@in_turn("alpha", [0.0, 0.6, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(alpha):
    for seed in range(2):
        model = Model(2, 32, seed)
        found = beam_search(model, 2, 32, BEGIN, END, 5, alpha, (BEGIN,))
        for sentence, best in enumerate(found):
            score, words = every_sequence(model, sentence, 5, alpha)
            assert best.words == words and best.score == pytest.approx(score, rel=1e-12)
            assert best.log_probability == pytest.approx(score * length_penalty(len(words), alpha))
            assert len(best.places) == len(best.words)


def test_one_beam_takes_the_likeliest_word_each_time():
    model = Model(4, 1)
    for sentence, best in enumerate(beam_search(model, 4, 1, BEGIN, END, 6, 1.0, (BEGIN,))):
        read = (BEGIN,)
        while read[-1] != END:
            scores = model.log_probabilities(sentence, read)
            scores[BEGIN] = -math.inf
            read = (*read, END if len(read) == 6 else int(scores.argmax()))
        assert best.words == list(read[1:])


def test_only_wanted_sentences_are_waited_for():
    whole = beam_search(Model(6, 1), 6, 1, BEGIN, END, 9)
    lengths = [len(best.words) for best in whole]
    assert len(set(lengths)) > 1
    for wanted in range(1, 7):
        model = Model(6, 1)
        assert beam_search(model, 6, 1, BEGIN, END, 9, wanted=wanted) == whole[:wanted]
        assert len(model.read[0]) == max(lengths[:wanted])


def test_a_wider_beam_is_never_worse_here():
    scores = [sum(best.score for best in beam_search(Model(6, beams), 6, beams, BEGIN, END, 6, 0.0, (BEGIN,)))
              for beams in (1, 4, 64)]
    assert scores[0] < scores[2] and scores[1] <= scores[2]


# -- a whole net ---------------------------------------------------------------------------------------------
SOURCE = ["a b c", "c b a", "b", "a a c", "c c b a"]
TARGET = ["x y z", "z y x", "y", "x x z", "z z y x"]
UNIFORM = 'weight_filler { type: "uniform" min: -0.7 max: 0.7 }'


SINES = ('layer { name: "sines" type: "Position" bottom: "te" top: "sines" '
         'position_param { kind: SINUSOIDAL } }')
ONE = ('layer { name: "one" type: "Fill" bottom: "t" top: "one" fill_param { shape { dim: 0 dim: 0 } '
       'value: 1 first: 0 } } ')        # as cont: every batch begins anew
OWN = ('layer {{ name: "cell" type: "Attention" bottom: "{0}" bottom: "{0}" bottom: "te" top: "cell" '
       'attention_param {{ causal: true }} }}')
PARTS = {
    "learned": [f'layer {{ name: "cell" type: "Position" bottom: "te" top: "cell" '
                f'position_param {{ {UNIFORM} }} }}'],
    "sines": [SINES, OWN.format("sines")],
    "rotary": ['layer { name: "rotary" type: "Rotary" bottom: "te" top: "rotary" }',
               OWN.format("rotary")],
    "both": [SINES, OWN.format("sines").replace('"cell"', '"own"'), f"""
        layer {{ name: "k" type: "InnerProduct" bottom: "enc" top: "k"
                inner_product_param {{ axis: 2 num_output: 4 {UNIFORM} }} }}
        layer {{ name: "cell" type: "Attention" bottom: "own" bottom: "k" bottom: "k" bottom: "m"
                top: "cell" }}"""]}


def net_text(decoder="", cell="", target_words=7):
    """A net with an encoder of two directions; `cell` puts an LSTM, or what PARTS has, below the decoder."""
    lines = ['layer { name: "pairs" type: "ParallelTextData" top: "s" top: "m" top: "t" top: "l" top: "sc" '
             'top: "tc" parallel_text_data_param { source: "source.txt" target: "target.txt" batch_size: 2 '
             'source_steps: 6 target_steps: 6 } }',
             f'layer {{ name: "se" type: "Embed" bottom: "s" top: "se" embed_param {{ input_dim: 7 '
             f'num_output: 4 {UNIFORM} }} }}',
             f'layer {{ name: "enc" type: "LSTM" bottom: "se" bottom: "sc" top: "enc" recurrent_param {{ '
             f'bidirectional: true num_output: 3 {UNIFORM} }} }}',
             f'layer {{ name: "te" type: "Embed" bottom: "t" top: "te" embed_param {{ input_dim: 7 '
             f'num_output: 4 {UNIFORM} }} }}']
    below = "te"
    if cell in PARTS:
        lines += PARTS[cell]
        below = "cell"
    elif cell:
        lines.append(f'layer {{ name: "cell" type: "{cell}" bottom: "te" bottom: "tc" top: "cell" '
                     f'recurrent_param {{ num_output: 5 {UNIFORM} }} }}')
        below = "cell"
    lines += [f'layer {{ name: "dec" type: "AttentionDecoder" bottom: "{below}" bottom: "enc" bottom: "m" '
              f'top: "dec" decoder_param {{ num_output: 6 {UNIFORM} {decoder} }} }}',
              'layer { name: "drop" type: "ApproxDropout" bottom: "dec" top: "drop" }',
              f'layer {{ name: "scores" type: "InnerProduct" bottom: "drop" top: "scores" '
              f'inner_product_param {{ axis: 2 num_output: {target_words} {UNIFORM} }} }}',
              'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "l" top: "loss" '
              'softmax_param { axis: 2 } loss_param { ignore_label: -1 } }']
    return "\n".join(lines)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source.txt").write_text("\n".join(SOURCE) + "\n")
    (tmp_path / "target.txt").write_text("\n".join(TARGET) + "\n")
    return tmp_path


def weights_of(text, tmp_path, seed=0):
    net = md.Net(parse_net(text), "TEST", "cpu", "float64", seed)
    net.save(tmp_path / "weights.caffemodel")
    return net, tmp_path / "weights.caffemodel"


KINDS = [("", ""), ("score: DOT", ""), ("score: ADDITIVE input_feeding: false", ""),
         ("bridge: false", "LSTM"), ("input_feeding: false", "GRU"), *(("", part) for part in PARTS)]


def scored(net, vocabularies, source, words):
    """The sum of logarithmic probabilities that the net, all steps at once, gives to words (with </s>)."""
    own, steps = vocabularies.source.indices(source), len(words)
    layer = net.layers["pairs"]
    mask = np.ones((len(own), 1), np.int32)
    inputs = np.array([[vocabularies.target.begin], *[[word] for word in words[:-1]]], np.int32)
    cont = np.ones((steps, 1), np.int32)
    cont[0] = 0
    source_cont = np.ones((len(own), 1), np.int32)
    source_cont[0] = 0
    arrays = {"source": own[:, None], "source_mask": mask, "target": inputs,
              "label": np.array(words)[:, None], "source_cont": source_cont, "target_cont": cont}
    two = {name: np.repeat(array, 2, axis=1).astype(np.int32) for name, array in arrays.items()}
    layer.batches = type("Given", (), {"batch": staticmethod(lambda n: two)})
    net.reset_states()
    net.forward()
    scores = net.blobs["scores"].numpy()[:, 0]
    scores = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return float(scores[np.arange(steps), words].sum())


@in_turn("decoder, cell", KINDS)
def test_every_translation_has_the_probability_that_the_whole_net_gives_it(files, decoder, cell):
    """Encoder, bridge, states of beams that change places, padding: all must be right for this.

    What tells steps apart, or attends to them, goes on from word to word; it read each word as the first."""
    text = net_text(decoder, cell)
    net, path = weights_of(text, files)
    for beams in (1, 3):
        translator = Translator(parse_net(text), path, beams, 0.5, batch_size=4, device="cpu",
                                dtype="float64")
        found = translator.best([sentence.split() for sentence in SOURCE[:3]])
        for sentence, best in zip(SOURCE, found, strict=False):
            expected = scored(net, translator.vocabularies, sentence.split(), best.words)
            assert best.log_probability == pytest.approx(expected, rel=1e-9)


def test_a_wide_beam_is_exhaustive_with_a_net(files):
    text = net_text()
    net, path = weights_of(text, files)
    wide = Translator(parse_net(text), path, 150, 1.0, 1, 2, device="cpu", dtype="float64")
    [best] = wide.best([SOURCE[0].split()])
    unk = wide.vocabularies.target.unk
    sequences = [[*words, 3] for length in range(3)
                 for words in itertools.product((unk, 4, 5, 6), repeat=length)]
    scores = [scored(net, wide.vocabularies, SOURCE[0].split(), words) / length_penalty(len(words), 1.0)
              for words in sequences]
    assert best.words == sequences[int(np.argmax(scores))]
    assert best.score == pytest.approx(max(scores), rel=1e-9)


def test_more_words_than_in_training(files):
    """Learned positions do not say where a later word stands: that is told at once, not at that word."""
    for cell in ("", "sines", "rotary"):
        text = net_text(cell=cell)
        net, path = weights_of(text, files)
        net.params["scores"]["bias"].data[3] = -50      # no sentence ends
        net.save(path)
        for own in (text, text.replace("target_steps: 6", "")):
            [found] = Translator(parse_net(own), path, most=9, batch_size=1, device="cpu").translate(["a b"])
            assert len(found.split()) == 9
    with pytest.raises(ConfigError, match="has learned 6 positions.*5 words; got 9 as the most"):
        Translator(parse_net(net_text(cell="learned")), most=9, device="cpu")


def test_batches_and_neighbours_change_nothing(files):
    text = net_text()
    _, path = weights_of(text, files)
    sentences = [*SOURCE, "", "b a", "  "]
    found = [list(Translator(parse_net(text), path, 2, batch_size=size, device="cpu", dtype="float64")
                  .translate(sentences)) for size in (1, 3, 8)]
    assert found[0] == found[1] == found[2]
    assert found[0][5] == found[0][7] == "" and len(found[0]) == 8


def test_streams_that_fill_a_batch_are_not_waited_for(files, monkeypatch):
    """As a net with one stream does, a wider one stops where the sentences of a last batch end."""
    text = net_text()
    _, path = weights_of(text, files)
    narrow, wide = (Translator(parse_net(text), path, batch_size=size, device="cpu", dtype="float64")
                    for size in (1, 4))
    steps = []
    forward = wide.writer.forward
    monkeypatch.setattr(wide.writer, "forward", lambda **arrays: steps.append(1) or forward(**arrays))
    padding = {len(narrow.best([[word]])[0].words) for word in "abc"}
    ends_first = False
    for sentence in SOURCE:
        [best] = narrow.best([sentence.split()])
        steps.clear()
        assert wide.best([sentence.split()])[0].words == best.words and len(steps) == len(best.words)
        ends_first |= len(best.words) < max(padding)
    assert ends_first


def test_unknown_words_are_replaced_by_what_is_looked_at(files):
    text = net_text()
    net, path = weights_of(text, files)
    net.params["scores"]["bias"].data[:] = [0, 50, 0, 0, 0, 0, 0]
    net.params["scores"]["bias"].data[3] = 45
    net.save(path)
    sentence = "q1 q2 q3"
    kept, replaced = (list(Translator(parse_net(text), path, most=3, replaces=replaces, device="cpu")
                           .translate([sentence]))[0].split() for replaces in (False, True))
    assert set(kept) == {"<unk>"} and len(kept) == len(replaced)
    assert set(replaced) <= set(sentence.split())


def test_streaming_reads_no_more_than_a_batch_ahead(files):
    text = net_text()
    _, path = weights_of(text, files)
    read = []

    def sentences():
        for sentence in SOURCE:
            read.append(sentence)
            yield sentence
    found = Translator(parse_net(text), path, batch_size=2, device="cpu").translate(sentences())
    next(found)
    assert len(read) == 2


def test_long_sentences_are_cut_with_a_warning(files, caplog):
    text = net_text()
    _, path = weights_of(text, files)
    translator = Translator(parse_net(text), path, device="cpu")
    found = list(translator.translate(["a b c a b c a b", "a b c a b c"]))
    assert found[0] == found[1] and "sentence 1 has 8 words; only the first 6 are read" in caplog.text


@in_turn("sentences, message", [
    ("a b", "expected several sentences, such as a list of them, got 'a b'"),
    (None, "several sentences.*got None"),
    (["a", ["b"]], "sentence 2: expected a text, words with blanks in between, got list")])
def test_what_is_no_list_of_texts_is_refused(files, sentences, message):
    text = net_text()
    _, path = weights_of(text, files)
    with pytest.raises(md.DataError, match=message):
        list(Translator(parse_net(text), path, device="cpu").translate(sentences))


def edited(old, new):
    assert old in net_text()
    return net_text().replace(old, new)


@in_turn("text, message", [
    (lambda: edited('type: "ParallelTextData"', 'type: "TextData"'), "the net has no ParallelTextData layer"),
    (lambda: edited('type: "AttentionDecoder"', 'type: "Concat"'), "needs one AttentionDecoder layer, got 0"),
    (lambda: edited('type: "SoftmaxWithLoss"', 'type: "EuclideanLoss"'), "layer reads the label 'l'"),
    (lambda: edited('bottom: "te" bottom: "enc"', 'bottom: "se" bottom: "enc"'),
     "layer 'dec' does not read the target, top 't'"),
    (lambda: net_text(cell="LSTM").replace('num_output: 5', 'num_output: 5 bidirectional: true'),
     "layer 'cell' is bidirectional"),
    (lambda: net_text(cell="sines").replace("causal: true", ""), "layer 'cell' is not causal: it reads"),
    (lambda: net_text(cell="sines").replace('"sines" bottom: "te" top', '"se" bottom: "se" top'),
     "layer 'cell' is causal, but its keys are no steps of the translation"),
    (lambda: net_text(cell="LSTM").replace('"tc" top: "cell"', '"one" top: "cell"').replace(
        'layer { name: "cell"', f'{ONE}layer {{ name: "cell"'), "words that are read one by one have other"),
    (lambda: net_text(cell="learned").replace("position_param {", "position_param { max_steps: 4"),
     "layer 'cell' has learned 4 positions, so that a translation has at most 3 words; got 5 as the most"),
    (lambda: net_text(target_words=6), "expected scores (steps, streams, words) for the 7 words of the "
                                       "target"),
    (lambda: edited("source.txt", "nothing.txt"), "'nothing.txt': no such file")])
def test_nets_that_cannot_translate(files, text, message):
    with pytest.raises((ConfigError, DataError)) as error:
        Translator(parse_net(text(), "net.prototxt"), device="cpu")
    assert message in str(error.value) and "net.prototxt" in str(error.value)


@in_turn("options, message", [
    ({"beams": 0}, "beams: expected a whole number from 1 to 1000, got 0"),
    ({"beams": 2.5}, "beams: expected a whole number from 1 to 1000, got 2.5"),
    ({"batch_size": 0}, "batch_size: expected a whole number of at least 1"),
    ({"penalty": math.nan}, "penalty: expected a number from 0 on, got nan")])
def test_options_that_are_refused(files, options, message):
    with pytest.raises(ConfigError, match=message):
        Translator(parse_net(net_text()), device="cpu", **options)


def test_weights_of_another_net(files):
    _, path = weights_of(net_text(), files)
    with pytest.raises(SnapshotError, match="no weights for other/weight, other/bias"):
        Translator(parse_net(edited('name: "scores"', 'name: "other"')), path, device="cpu")


def test_bleu():
    pytest.importorskip("sacrebleu", reason="sacrebleu (the extra `bleu`) computes BLEU")
    metric = Bleu()
    lines = ["the cat sat on the mat", "a dog ran over the wide field"]
    assert metric.of(lines, lines).score == pytest.approx(100)
    assert metric.of(lines, ["the cat sat on a mat", "a dog ran over the field"]).score < 80
    with pytest.raises(DataError, match="expected a reference for each of the 2 translations, got 1"):
        metric.of(lines, lines[:1])
    with pytest.raises(ConfigError, match="BLEU knows no tokenizer 'flores200'"):
        Bleu("flores200")
