"""TaggedTextData, CRF, F1 and LastState in nets: what they feed, padding, kept sets, means, refusals."""

import re

import numpy as np
import pytest

from minidrop import ConfigError, DataError, Net, Solver
from minidrop.config import parse_net, parse_solver
from minidrop.solver.capturable import problem_of
from minidrop.solver.evaluation import run_test
from minidrop.testing import assert_matches_masked_dense

TRAIN = "".join(f"{word} {tag}\n" + "\n" * end for word, tag, end in (
    ("Ann", "B-PER", 0), ("met", "O", 0), ("Bob", "B-PER", 0), ("Ray", "I-PER", 0), (".", "O", 1),
    ("Rome", "B-LOC", 1), ("we", "O", 0), ("left", "O", 0), ("Old", "B-LOC", 0), ("Rome", "I-LOC", 1),
    ("Bob", "B-PER", 0), ("left", "O", 0), (".", "O", 1), ("a", "O", 0), ("man", "O", 1)))
UNIFORM = " ".join(f'{name}_filler {{ type: "uniform" min: -.7 max: .7 }}' for name in ("weight", "bias"))
BOTH = f"recurrent_param {{ num_output: 4 bidirectional: true {UNIFORM} }}"


def text(phase, settings):
    tops = " ".join(f'top: "{top}"' for top in ("words", "tags", "cont", "characters", "character_cont",
                                                "character_mask"))
    return (f'layer {{ name: "text" type: "TaggedTextData" {tops} include {{ phase: {phase} }} '
            f'tagged_text_data_param {{ {settings} }} }}')


def net_text(settings="batch_size: 3", drop="", hidden="", convolution=False):
    source = 'source: "train.txt"'
    spelling = f"""
layer {{ name: "spell" type: "LSTM" bottom: "ec" bottom: "character_cont" top: "spell" {BOTH} }}
layer {{ name: "last" type: "LastState" bottom: "spell" bottom: "character_cont" top: "last"
        recurrent_param {{ bidirectional: true }} }}"""
    if convolution:     # padded by a whole window on both sides, so every word has a window of padding alone
        spelling = f"""
layer {{ name: "masked" type: "Scale" bottom: "ec" bottom: "character_mask" top: "masked"
        scale_param {{ axis: 0 }} }}
layer {{ name: "turned" type: "Permute" bottom: "masked" top: "turned"
        permute_param {{ order: 1 order: 2 order: 0 }} }}
layer {{ name: "image" type: "Reshape" bottom: "turned" top: "image"
        reshape_param {{ shape {{ dim: 0 dim: 0 dim: -1 dim: 1 }} }} }}
layer {{ name: "window" type: "Convolution" bottom: "image" top: "window"
        convolution_param {{ num_output: 8 kernel_h: 3 kernel_w: 1 pad_h: 3 pad_w: 0 {UNIFORM} }} }}
layer {{ name: "last" type: "Pooling" bottom: "window" top: "last" pooling_param {{ pool: MAX
        global_pooling: true }} }}"""
    return f"""
{text("TRAIN", f"{source} {settings}")} {text("TEST", f"{source} batch_size: 3")}
layer {{ name: "silence" type: "Silence" bottom: "character_mask" }}
layer {{ name: "ew" type: "Embed" bottom: "words" top: "ew" embed_param {{ input_dim: 20 num_output: 6
        bias_term: false {UNIFORM} }} }}
layer {{ name: "ec" type: "Embed" bottom: "characters" top: "ec" embed_param {{ input_dim: 30 num_output: 5
        bias_term: false {UNIFORM} }} }}
{spelling}
layer {{ name: "spelling" type: "Reshape" bottom: "last" bottom: "words" top: "spelling"
        reshape_param {{ shape {{ dim: 0 dim: 0 dim: 8 }} }} }}
layer {{ name: "token" type: "Concat" bottom: "ew" bottom: "spelling" top: "token"
        concat_param {{ axis: 2 }} }}
{drop}
layer {{ name: "lstm" type: "LSTM" bottom: "{'drop' if drop else 'token'}" bottom: "cont" top: "lstm"
        {BOTH.replace("num_output", f"{hidden} num_output")} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "lstm" top: "scores"
        inner_product_param {{ num_output: 9 axis: 2 {UNIFORM} }} }}
layer {{ name: "loss" type: "CRF" bottom: "scores" bottom: "tags" top: "loss" top: "path"
        crf_param {{ {UNIFORM} }} }}
layer {{ name: "f1" type: "F1" bottom: "path" bottom: "tags" top: "f1" top: "precision" top: "recall"
        top: "accuracy" }}
"""


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_padding_changes_nothing_in_either_direction(built, kind):
    """Also where padding is of other values, and every stream is of another length."""
    def states(x, cont):
        net = built(with_inputs(layer_text(kind, BOTH, tops="y"), x.shape, cont.shape))
        return net.forward(a=x, b=cont)["y"].numpy()
    rng, lengths = np.random.default_rng(2), np.array([6, 4, 1, 0])
    x, step = rng.normal(size=(6, 4, 3)), np.arange(9)[:, None]
    cont = ((step > 0) & (step < lengths)).astype(float)
    padded = np.concatenate([np.where((step[:6] < lengths)[:, :, None], x, 50), np.full((3, 4, 3), -50.0)])
    got = states(padded, cont)
    for n, length in enumerate(lengths[:3]):
        alone = states(x[:length, n:n + 1], cont[:length, n:n + 1])
        np.testing.assert_allclose(got[:length, n], alone[:, 0], rtol=0, atol=1e-12)


def test_found_tags_may_come_from_arg_max(layer_function, dtype):
    found = np.array([[[1], [2], [0]], [[0], [2], [3]]], dtype)
    wanted = np.array([[1, 1, 0], [2, 2, -1]], dtype)
    function = layer_function('layer { name: "l" type: "F1" bottom: "a" bottom: "b" top: "f1" top: "p" '
                              'crf_param { scheme: IOB2 } }', found, wanted)
    # Of the streams B O, I I and O the second is that chunk that is wanted, B I; the first is too short.
    assert [float(y.data) for y in function(found, wanted)] == [0.5, 0.5]


DROP = ('layer { name: "drop" type: "ApproxDropout" bottom: "token" top: "drop" approx_dropout_param '
        "{ dropout_ratio: 0.5 %s } }")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    (tmp_path / "train.txt").write_text(TRAIN)
    return tmp_path


@pytest.fixture
def built(folder):
    """built(text, phase, ...) -> a Net in float64 on the CPU."""
    def build(text, phase="TRAIN", **options):
        return Net(parse_net(text, "net.prototxt"), phase, "cpu", "float64", 3, **options)
    return build


def test_shapes_are_those_of_each_batch(built):
    net = built(net_text(), "TEST")
    shapes = {ref.name: shape for ref, shape in net.graph.shapes.items()}
    assert shapes["words"] == (5, 3) and shapes["characters"] == (4, 15)
    net.forward()
    assert net.blobs["words"].shape == (5, 3) and net.blobs["token"].shape == (5, 3, 14)
    net.forward()
    assert net.blobs["words"].shape == (3, 3) and net.blobs["characters"].shape == (4, 9)
    assert net.blobs["tags"].numpy()[:, 2].tolist() == [-1] * 3       # five sentences in batches of three
    assert problem_of(Solver(parse_solver(
        f'base_lr: 1 lr_policy: "fixed" max_iter: 1 net_param {{ {net_text()} }}'), device="cpu")) == (
        "the batches of layer 'text' (TaggedTextData) differ in shape")


@pytest.mark.parametrize("convolution", [False, True])
def test_padding_changes_nothing(built, convolution):
    """The same sentences in batches of their own length and beside longer ones, with longer words."""
    net = built(net_text(convolution=convolution), "TEST")
    encoded = net.layers["text"].encoded
    batches = net.layers["text"].batches

    def forward(*chosen):
        batches.chosen = lambda n: np.array(chosen)
        net.clear_grads()
        net.forward()
        net.backward()
        return {name: net.blobs[name].numpy() for name in ("scores", "path", "loss")}, {
            name: parameter.dense_grad().copy() for name, parameter in net.parameters().items()}

    together, gradients = forward(0, 1, 4)
    sums = {name: 0.0 for name in gradients}
    for stream, own in enumerate((0, 1, 4)):
        alone, gradient = forward(own)
        length = encoded.lengths[own]
        for name in ("scores", "path"):
            np.testing.assert_allclose(alone[name][:length, 0], together[name][:length, stream], rtol=0,
                                       atol=1e-12)
            assert (alone["path"][length:] == -1).all()
        sums = {name: sums[name] + gradient[name] / 3 for name in sums}
    for name, wanted in sums.items():
        np.testing.assert_allclose(gradients[name], wanted, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("drop, hidden", [
    (DROP % "groups: 1", ""), (DROP % "groups: 2", ""), (DROP % "", ""), (DROP % 'pattern: "ROW"', ""),
    ("", "hidden_dropout { dropout_ratio: 0.5 }"), ("", "hidden_dropout { dropout_ratio: 0.5 groups: 2 }"),
    (DROP % "time: STEP", "hidden_dropout { dropout_ratio: 0.5 time: STEP }"),
    (DROP % "steps_per_pattern: 2", "hidden_dropout { dropout_ratio: 0.5 steps_per_pattern: 3 groups: 2 }")])
def test_compact_is_masked_dense_in_batches_of_any_length(built, drop, hidden):
    net = built(net_text("batch_size: 3 shuffle: true", drop, hidden))
    for iteration in range(4):
        net.seek(iteration)
        assert_matches_masked_dense(net, iteration)


def test_conventional_hidden_dropout_of_a_shorter_batch(built):
    hidden = "hidden_dropout { dropout_ratio: 0.5 %s } hidden_dropout_type: CONVENTIONAL"
    for time in ("time: STEP", "steps_per_pattern: 2", "time: SEQUENCE"):
        net = built(net_text("batch_size: 3", "", hidden % time))
        net.seek(1)
        net.forward()
        net.backward()


def test_means_over_test_batches_are_those_of_all_chunks(built):
    net = built(net_text(), "TEST")
    result = run_test(net, 2)
    net.layers["text"].batches.streams = 3
    right = found = wanted = tokens = hits = loss = 0
    net.seek(0)
    for _ in range(2):
        net.forward()
        counts = net.layers["f1"].counts
        right, found, wanted = right + counts.right, found + counts.found, wanted + counts.wanted
        tokens, hits = tokens + counts.tokens, hits + counts.right_tokens
        loss += net.loss * int((net.blobs["tags"].numpy()[0] >= 0).sum())
    assert (wanted, tokens) == (5, 15)
    assert result["f1"] == pytest.approx(2 * right / (found + wanted))
    assert result["precision"] == pytest.approx(right / max(1, found))
    assert result["recall"] == pytest.approx(right / wanted)
    assert result["accuracy"] == pytest.approx(hits / tokens)
    assert result["loss"] == pytest.approx(loss / 5) == pytest.approx(result["total_loss"])


def solver_of(folder, iterations):
    return Solver(parse_solver(
        f'base_lr: 0.2 lr_policy: "fixed" max_iter: {iterations} random_seed: 1 net_param '
        f'{{ {net_text("batch_size: 3 shuffle: true unknown_rate: 0.5", DROP % "")} }}',
        str(folder / "solver.prototxt")), device="cpu")


def test_a_resumed_run_is_an_uninterrupted_one(folder):
    whole, first, second = (solver_of(folder, 7) for _ in range(3))
    whole.step(7)
    first.step(3)
    first.snapshot(folder / "three.h5")
    second.restore(folder / "three.h5")
    second.step(4)
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_array_equal(parameter.data, second.net.parameters()[name].data, err_msg=name)


def test_it_learns_its_text(folder):
    solver = solver_of(folder, 150)
    solver.step(150)
    net = Net(parse_net(net_text(drop=DROP % ""), "net.prototxt"), "TEST", "cpu", share=solver.net)
    assert run_test(net, 2)["f1"] == 1


def layer_text(kind, settings="", bottoms="ab", tops="y"):
    blobs = " ".join([*(f'bottom: "{name}"' for name in bottoms), *(f'top: "{name}"' for name in tops)])
    return f'layer {{ name: "l" type: "{kind}" {blobs} {settings} }}'


def with_inputs(layer, *shapes):
    return "\n".join([*(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
                        f'{" ".join(f"dim: {n}" for n in shape)} }} }} }}'
                        for name, shape in zip("ab", shapes, strict=False)), layer])


@pytest.mark.parametrize("layer, shapes, message", [
    (layer_text("CRF"), [(3, 2, 4), (2, 3)], "expected scores (steps, streams, tags) and tags (steps, "
     "streams), got (3, 2, 4) and (2, 3)"),
    (layer_text("CRF", "loss_param { ignore_label: 0 }"), [(3, 2, 4), (3, 2)],
     "loss_param: ignore_label is 0, but the padding of sequences is -1; leave it out"),
    (layer_text("F1"), [(3, 2, 4), (3, 2)], "expected found and wanted tags (steps, streams), got (3, 2, 4) "
     "and (3, 2)"),
    (layer_text("F1", "crf_param { scheme: NONE }"), [(3, 2), (3, 2)],
     "crf_param: scheme NONE has no chunks"),
    (layer_text("LastState"), [(3, 2, 4), (3, 1)], "expected h (steps, streams, units) and cont (steps, "
     "streams), got (3, 2, 4) and (3, 1)"),
    (layer_text("LastState", "recurrent_param { bidirectional: true }"), [(3, 2, 3), (3, 2)],
     "bidirectional is true, but 3 units are no two halves"),
    (layer_text("LastState", "recurrent_param { num_output: 3 }"), [(3, 2, 3), (3, 2)],
     "recurrent_param: of it LastState reads only bidirectional; remove num_output")])
def test_wrong_layers(built, layer, shapes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        built(with_inputs(layer, *shapes))


@pytest.mark.parametrize("settings, message", [
    ("batch_size: 3", "tagged_text_data_param needs a source"),
    ('source: "train.txt"', "tagged_text_data_param needs batch_size, at least 1"),
    ('source: "train.txt" batch_size: 3 most_characters: 0', "most_characters must be at least 1, got 0"),
    ('source: "train.txt" batch_size: 3 tag_column: 0', "word_column and tag_column are both 0"),
    ('source: "train.txt" batch_size: 3 minimum_count: 2 unknown_rate: 0.5', "minimum_count: 2 reads each "
     "word that occurs once as <unk>, so unknown_rate: 0.5 changes nothing; remove one of them"),
    ('source: "train.txt" batch_size: 3 unknown_rate: 1.5', "unknown_rate must lie in [0, 1], got 1.5"),
    ('source: "no.txt" batch_size: 3', "'no.txt': no such file"),
    ('source: "train.txt" batch_size: 3 tag_column: 4', "columns of at least 5, got 2 ('Ann')")])
def test_wrong_settings(built, settings, message):
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        built(text("TRAIN", settings))


def test_a_vocabulary_file_says_not_how_often_words_occur(built, folder):
    """Beside one minimum_count did nothing."""
    read = f'source: "train.txt" vocabulary: "{folder}/own.vocabulary" batch_size: 3'
    net = built(text("TRAIN", 'source: "train.txt" batch_size: 3'))
    net.layers["text"].vocabulary.save(folder / "own.vocabulary")
    assert len(built(text("TRAIN", f"{read} minimum_count: 1")).layers["text"].vocabulary) == 13
    with pytest.raises(ConfigError, match=r"own.vocabulary: holds words without their counts.* 2 times;"):
        built(text("TRAIN", f"{read} minimum_count: 2"))


def test_room_for_words_characters_and_tags(built):
    small = net_text().replace("input_dim: 20", "input_dim: 2").replace("input_dim: 30", "input_dim: 2")
    with pytest.raises(ConfigError) as caught:
        built(small.replace("num_output: 9", "num_output: 8"))
    assert re.findall(r"the vocabulary of 'text' has (\d+) tokens; set (\w+): \1", str(caught.value)) == [
        ("13", "input_dim"), ("19", "input_dim"), ("9", "num_output")]


def test_a_test_text_needs_the_vocabulary_of_the_training(folder):
    (folder / "test.txt").write_text("Rome B-LOC\nBob B-PER\n")
    nets = net_text().replace('source: "train.txt" batch_size: 3 }', 'source: "test.txt" batch_size: 3 }', 2)
    first, second = nets.split("include { phase: TEST }")
    nets = first.replace("test.txt", "train.txt") + "include { phase: TEST }" + second
    with pytest.raises(ConfigError, match='set vocabulary: "train.txt" in its tagged_text_data_param'):
        Solver(parse_solver(f'base_lr: 1 lr_policy: "fixed" max_iter: 1 test_iter: 1 test_interval: 1 '
                            f'net_param {{ {nets} }}', str(folder / "solver.prototxt")), device="cpu")
