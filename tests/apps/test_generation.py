"""Transformers write text: a cache of keys and values changes nothing, a full context forgets half of it."""

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.data import read_text
from minidrop.errors import ConfigError

TEXT = "abac\nabad\n" * 40
CONTEXT = 12
TEXT_DATA = """
layer { name: "text" type: "TextData" top: "data" top: "label" text_data_param { source: "text.txt" %s
        batch_size: 4 steps: %d shuffle: true } %s }
"""
BLOCK = """
layer { name: "norm#" type: "LayerNorm" bottom: "x#" top: "n#" }
layer { name: "q#" type: "InnerProduct" bottom: "n#" top: "q#" inner_product_param { num_output: 16 axis: 2
        weight_filler { type: "xavier" } } }
layer { name: "k#" type: "InnerProduct" bottom: "n#" top: "k#" inner_product_param { num_output: 16 axis: 2
        weight_filler { type: "xavier" } } }
layer { name: "v#" type: "InnerProduct" bottom: "n#" top: "v#" inner_product_param { num_output: 16 axis: 2
        weight_filler { type: "xavier" } } }
ROTARY
layer { name: "att#" type: "Attention" bottom: "q#" bottom: "k#" bottom: "v#" top: "a#"
        attention_param { num_heads: 2 causal: true dropout_ratio: 0.1 } }
layer { name: "out#" type: "InnerProduct" bottom: "a#" top: "o#" inner_product_param { num_output: 16 axis: 2
        weight_filler { type: "xavier" } } }
layer { name: "sum#" type: "Eltwise" bottom: "x#" bottom: "o#" top: "xM" }
"""
ROTARY = "".join(f'layer {{ name: "rot_{x}#" type: "Rotary" bottom: "{x}#" top: "{x}#" '
                 f'rotary_param {{ num_heads: 2 }} }}\n' for x in "qk")
POSITIONS = {
    "learned": ('position_param { weight_filler { type: "gaussian" std: 1 } }', ""),
    "longest": ('position_param { max_steps: 17 weight_filler { type: "gaussian" std: 1 } }', ""),
    "sinusoidal": ("position_param { kind: SINUSOIDAL }", ""),
    "rotary": (None, ROTARY),
}
HEAD = """
layer { name: "scores" type: "InnerProduct" bottom: "x2" top: "scores" inner_product_param { num_output: 20
        axis: 2 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss"
        softmax_param { axis: 2 } }
"""


def gpt(kind="learned", level="level: CHARACTER", steps=CONTEXT, more=""):
    position, rotary = POSITIONS[kind]
    layers = [TEXT_DATA % (level, steps, ""), """
layer { name: "embed" type: "Embed" bottom: "data" top: "e" embed_param { input_dim: 300 num_output: 16
        weight_filler { type: "gaussian" std: 1 } } }
"""]
    layers.append(f'layer {{ name: "pos" type: "{"Position" if position else "Power"}" bottom: "e" top: "x0" '
                  f'{position or ""} }}')
    for n in range(2):
        layers.append(BLOCK.replace("ROTARY", rotary).replace("#", str(n)).replace("xM", f"x{n + 1}"))
    return "\n".join([*layers, more, HEAD])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def writers(text, folder, **options):
    """Two writers of the same weights, with a cache and without."""
    net = md.Net(parse_net(text), "TRAIN", device="cpu", dtype="float64", seed=3)
    net.save(folder / "weights.h5")
    return [md.TextModel(parse_net(text), folder / "weights.h5", device="cpu", dtype="float64", cache=cache,
                         **options) for cache in (True, False)]


@pytest.mark.parametrize("kind", POSITIONS)
def test_the_cache_changes_nothing(folder, kind):
    """Through several contexts; the scores are those of the whole window."""
    cached, whole = writers(gpt(kind), folder)
    assert (cached.context, whole.context) == (CONTEXT, CONTEXT)
    assert cached.net.states and not whole.net.states
    for prompt, seed in (("", 0), ("abad\n" * 3, 2)):
        text = cached.generate(prompt, 20, 2.0, seed)
        assert text == whole.generate(prompt, 20, 2.0, seed) and len(text) == 20
    memories = [None, None]
    for token in np.random.default_rng(0).integers(0, 5, 20):
        results = [one._read([int(token)], memory)
                   for one, memory in zip((cached, whole), memories, strict=True)]
        memories = [memory for _, memory in results]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-9, atol=1e-12)


def trainer(folder, more=""):
    solver = ("type: 'AdamW' momentum: 0.9 momentum2: 0.95 weight_decay: 0.01 decay_axes: 2 base_lr: 0.02 "
              "lr_policy: 'cosine' min_lr: 0.001 warmup_iter: 10 max_iter: 100 clip_gradients: 1 "
              f"random_seed: 1 snapshot_after_train: false {more} net_param {{ {gpt('rotary')} }}")
    return md.Solver(parse_solver(solver), device="cpu", snapshot_prefix=folder / "gpt")


def test_what_a_transformer_has_learnt_comes_out_again(folder):
    """Whether c or d follows "aba" only the line before tells; a resumed run has learnt the same."""
    whole = trainer(folder)
    whole.step(75)
    half = whole.snapshot(folder / "half.h5")
    whole.step(25)
    resumed = trainer(folder)
    resumed.restore(half)
    resumed.step(25)
    for name, parameter in whole.net.parameters().items():
        np.testing.assert_array_equal(resumed.net.parameters()[name].data, parameter.data, err_msg=name)
    whole.snapshot(folder / "gpt.h5")
    for cache in (True, False):
        writer = md.TextModel(parse_net(gpt("rotary")), folder / "gpt.h5", device="cpu", cache=cache)
        assert writer.generate("abac\nab", 33, 0) == ("ad\nabac\nab" * 4)[:33]


def watched(writer):
    """Return the list that every pass of a writer adds its tokens to."""
    seen, one_pass = [], writer._pass
    writer._pass = lambda tokens, states: (seen.append([int(token) for token in tokens]),
                                           one_pass(tokens, states))[1]
    return seen


def test_a_full_context_forgets_its_older_half(folder):
    """What a net sees, and how often: each token is read at most twice."""
    cached, whole = writers(gpt(), folder)
    seen = watched(cached)
    tokens = [int(token) for token in np.random.default_rng(1).integers(0, 5, 20)]
    memory = None
    for token in tokens:
        scores, memory = cached._read([token], memory)
    # 12 fit; with the 13th the last 6 are read again, and with the 19th those behind them
    assert sum(seen, []) == tokens[:12] + tokens[6:12] + tokens[12:18] + tokens[12:]
    assert list(memory[0]) == tokens[12:]
    window = np.zeros((CONTEXT, 1), int)
    window[:8, 0] = tokens[12:]
    whole.net.forward(data=window)
    np.testing.assert_allclose(scores, whole.net.blobs["scores"].numpy()[7, 0, :len(scores)], rtol=1e-9)


LSTM = TEXT_DATA.replace('top: "label"', 'top: "label" top: "cont"') % ("sentences: true", 5, "") + """
  layer { name: "embed" type: "Embed" bottom: "data" top: "x" embed_param { input_dim: 20 num_output: 6
          weight_filler { type: "gaussian" std: 1 } } }
  layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "x2" recurrent_param { num_output: 6
          weight_filler { type: "gaussian" std: 1 } } }""" + HEAD


@pytest.mark.parametrize("kind", [*POSITIONS, "sentences", "LSTM"])
def test_a_prompt_read_at_once_is_one_read_token_by_token(folder, monkeypatch, kind):
    """In one pass or in pieces, of a net that forgets or remembers all; and so is what follows."""
    text = {"LSTM": LSTM, "sentences": gpt(level="sentences: true")}.get(kind) or gpt(kind)
    cached, _ = writers(text, folder)
    eos = cached.vocabulary.eos if cached.sentences else None
    tokens = [int(token) for token in np.random.default_rng(2).integers(2, 4, 40)]
    if cached.sentences:
        tokens[9] = tokens[21] = eos
    one_by_one = [(None, None)]
    for token in tokens:
        one_by_one.append(cached._read([token], one_by_one[-1][1]))
    seen = watched(cached)
    for count in (1, 7, 8, 12, 13, 18, 40):
        scores, single = one_by_one[count]
        for most in (256, 5):
            monkeypatch.setattr("minidrop.apps.generation.MOST_STEPS", most)
            seen.clear()
            found, memory = cached._read(tokens[:count])
            # nothing is read twice, and nothing that is forgotten again
            assert sum(seen, []) == (list(single[0]) if cached.context else tokens[:count])
            passes = -(-len(sum(seen, [])) // most)
            assert len(seen) == (passes if len(sum(seen, [])) >= 8 else len(sum(seen, [])))
            np.testing.assert_allclose(found, scores, rtol=1e-9, atol=1e-12)
            assert memory[0] == single[0] and memory[1].keys() == single[1].keys()
            for name, array in memory[1].items():
                np.testing.assert_allclose(array, single[1][name], rtol=1e-9, atol=1e-12)
            after = [cached._read(tokens[:3], one)[0] for one in (memory, single)]
            np.testing.assert_allclose(*after, rtol=1e-9, atol=1e-12)


def test_what_was_read_before_changes_nothing(folder):
    """A second net reads prompts, of the length of the last one: the text follows from the prompt alone."""
    cached, _ = writers(gpt("rotary"), folder)
    prompts = ["ab", "abac\nabad", "abac\nabad\n" * 3, "abac\nabad\na"]
    alone = []
    for prompt in prompts:
        fresh = md.TextModel(parse_net(gpt("rotary")), folder / "weights.h5", device="cpu", dtype="float64")
        alone.append(list(fresh.tokens(prompt, 16, 2.0, 1)))
        fresh.close()
    assert [list(cached.tokens(prompt, 16, 2.0, 1)) for prompt in prompts] == alone
    turns = zip(*(cached.tokens(prompt, 16, 2.0, 1) for prompt in prompts), strict=True)
    assert [list(one) for one in zip(*turns, strict=True)] == alone


def test_the_context_is_that_of_training(folder):
    test = gpt("rotary").replace(TEXT_DATA % ("level: CHARACTER", CONTEXT, ""),
                                 TEXT_DATA % ("level: CHARACTER", CONTEXT, "include { phase: TRAIN }")
                                 + TEXT_DATA % ("level: CHARACTER", 3, "include { phase: TEST }"))
    assert md.TextModel(parse_net(test), device="cpu").context == CONTEXT
    only = gpt("longest").replace("shuffle: true }", "} include { phase: TEST }")
    assert md.TextModel(parse_net(only), device="cpu").context == 17
    for cache in (True, False):
        with pytest.raises(ConfigError, match="'att0' is not causal: it reads what is still to be written"):
            md.TextModel(parse_net(gpt().replace("causal: true", "")), device="cpu", cache=cache)


OVER_STEPS = """
layer { name: "turned" type: "Permute" bottom: "%s" top: "turned"
        permute_param { order: 1 order: 2 order: 0 } }
layer { name: "window" type: "Convolution" bottom: "turned" top: "window" convolution_param { num_output: 16
        kernel_size: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "own" type: "Crop" bottom: "window" bottom: "turned" top: "own" crop_param { axis: 2 } }
layer { name: "back" type: "Permute" bottom: "own" top: "back" permute_param { order: 2 order: 0 order: 1 } }
"""


def test_a_layer_that_forgets_the_steps_before_is_refused(folder):
    """A token behind others had the scores of one that stands alone, if it was read alone."""
    below, between, head = gpt().partition(HEAD)
    over = below + OVER_STEPS % "x2" + between.replace('bottom: "x2"', 'bottom: "back"')
    embed = 'layer { name: "embed" type: "Embed" bottom: "data" top: "e" embed_param { input_dim: 300 ' \
            'num_output: 16 weight_filler { type: "gaussian" std: 1 } } }'
    alone = (TEXT_DATA % ("level: CHARACTER", CONTEXT, "") + embed + OVER_STEPS % "e"
             + HEAD.replace('bottom: "x2"', 'bottom: "back"'))
    for text, remedy in ((over, r"md\.TextModel\(\.\.\., cache=False\) reads the whole context anew for"),
                         (alone, "such a net cannot write")):
        with pytest.raises(ConfigError, match=f"one by one have other scores than those read at .*{remedy}"):
            md.TextModel(parse_net(text), device="cpu")
    md.TextModel(parse_net(over), device="cpu", cache=False).generate("abacab", 3)


def test_sentences_begin_anew(folder):
    """After <eos> the next token depends on nothing before it."""
    cached, whole = writers(gpt(level="sentences: true"), folder)
    eos, memory = cached.vocabulary.eos, None
    alone = cached._read([eos])[0]
    for token in (eos, 2, 2, 3, eos):
        scores, memory = cached._read([token], memory)
    np.testing.assert_array_equal(scores, alone)
    assert cached.generate("", 20, 2.0, 1) == whole.generate("", 20, 2.0, 1)


@pytest.mark.parametrize("context", [1, 2, 3])
def test_a_tiny_context(folder, context):
    cached, whole = writers(gpt(steps=context), folder)
    assert cached.generate("ab", 15, 2.0, 1) == whole.generate("ab", 15, 2.0, 1)


def test_a_recurrent_net_needs_no_cache(folder):
    text = TEXT_DATA % ("level: CHARACTER", 5, "") + """
      layer { name: "embed" type: "Embed" bottom: "data" top: "x2" embed_param { input_dim: 20 num_output: 6
              weight_filler { type: "gaussian" std: 1 } } }""" + HEAD
    cached, whole = writers(text, folder)
    assert (cached.context, whole.context, whole.cache) == (0, 0, True)
    assert cached.generate("a", 9, 2.0, 1) == whole.generate("a", 9, 2.0, 1)


def test_pieces_of_words_read_right_when_they_are_written_one_by_one(folder):
    kit = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    made = kit.Tokenizer(kit.models.BPE())
    made.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = kit.decoders.ByteLevel()
    made.train_from_iterator([TEXT], kit.trainers.BpeTrainer(
        vocab_size=262, show_progress=False, initial_alphabet=kit.pre_tokenizers.ByteLevel.alphabet()))
    made.save(str(folder / "pieces.json"))
    text = gpt(level='level: PIECE vocabulary: "pieces.json"').replace("num_output: 20", "num_output: 300")
    cached, whole = writers(text, folder)
    assert cached.vocabulary is read_text(folder / "text.txt", "PIECE", folder / "pieces.json").vocabulary
    assert cached.unknown("\N{SNOWMAN}") == []
    for prompt, seed in (("", 0), ("abac", 1)):
        parts = list(cached.stream(prompt, 20, 2.0, seed))
        tokens = list(cached.tokens(prompt, 20, 2.0, seed))
        assert "".join(parts) == whole.generate(prompt, 20, 2.0, seed)
        # what random bytes read as depends on where they are cut; the characters among them do not
        plain = [one.replace("\N{REPLACEMENT CHARACTER}", "")
                 for one in ("".join(parts), cached.vocabulary.decode(tokens))]
        assert plain[0] == plain[1] and plain[0]
    snowman = cached.vocabulary.encode("a\N{SNOWMAN}b").tolist()
    assert list(cached._joined("x", snowman)) == ["a", "", "", "\N{SNOWMAN}", "b"]
    assert list(cached._joined("", snowman[:3])) == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]
