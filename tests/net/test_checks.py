"""A net with less room than its text has tokens is refused when it is built, not at the first rare token."""

import pytest
from cases import in_turn

from minidrop import ConfigError
from minidrop.cli import main
from minidrop.config import parse_net
from minidrop.net import Net

NET = """layer { name: "text" type: "TextData" top: "data" top: "label" top: "cont"
  text_data_param { source: "words.txt" batch_size: 2 steps: 3 TEXT } }
layer { name: "embed" type: "Embed" bottom: "BOTTOM" top: "embed"
  embed_param { input_dim: ROWS num_output: 4 } }
layer { name: "scores" type: "InnerProduct" bottom: "embed" top: "scores"
  inner_product_param { num_output: CLASSES axis: 2 } }
layer { name: "judge" type: "JUDGE" bottom: "scores" bottom: "label" top: "judge" AXIS }
"""
JUDGES = {"SoftmaxWithLoss": "softmax_param { axis: 2 }", "Perplexity": "softmax_param { axis: -1 }",
          "Accuracy": "accuracy_param { axis: 2 }"}
WRITES = "in the layer that computes them"


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    """words.txt has 12 tokens, <unk> and <eos> included."""
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    (tmp_path / "words.txt").write_text("a b c d e f g h i j\n" * 3)
    (tmp_path / "words.vocabulary").write_text("\n".join(["<unk>", "<eos>", *"abcdefghij"]) + "\n")


def net_text(rows=12, classes=12, judge="SoftmaxWithLoss", text="", bottom="data"):
    values = {"ROWS": rows, "CLASSES": classes, "JUDGE": judge, "AXIS": JUDGES[judge], "TEXT": text,
              "BOTTOM": bottom}
    result = NET
    for name, value in values.items():
        result = result.replace(name, str(value))
    return result


def mistakes(**options):
    with pytest.raises(ConfigError) as caught:
        Net(parse_net(net_text(**options), "net.prototxt"), device="cpu")
    return str(caught.value).split("\n")


@pytest.mark.parametrize("judge", JUDGES)
def test_room_for_every_token(judge):
    for room in (12, 13):
        Net(parse_net(net_text(room, room, judge)), device="cpu").forward()
    # as the message says
    Net(parse_net(net_text(5, 5, judge, "vocabulary_size: 5")), device="cpu").forward()


@pytest.mark.parametrize("bottom", ["data", "label"])
def test_too_few_rows(bottom):
    place = "net.prototxt:4:" + str(net_text(11, bottom=bottom).split("\n")[3].index("input_dim") + 1)
    assert mistakes(rows=11, bottom=bottom) == [
        f"{place}: layer 'embed' (Embed): input_dim is 11, but the vocabulary of 'text' has 12 tokens; set "
        f"input_dim: 12, or vocabulary_size: 11 in text_data_param"]


def test_cont_holds_no_tokens():
    Net(parse_net(net_text(rows=2, bottom="cont")), device="cpu").forward()


@pytest.mark.parametrize("judge", JUDGES)
def test_too_few_classes(judge):
    (line,) = mistakes(classes=11, judge=judge)
    assert line.startswith("net.prototxt:7:") and line.split(": ", 1)[1] == (
        f"layer 'judge' ({judge}): 'scores' has 11 classes on axis 2, but the vocabulary of 'text' has 12 "
        f"tokens; set num_output: 12 {WRITES}, or vocabulary_size: 11 in text_data_param")


@pytest.mark.parametrize("room, text", [(2, ""), (11, 'vocabulary: "words.vocabulary"')])
def test_a_vocabulary_that_cannot_shrink(room, text):
    (line,) = mistakes(rows=room, text=text)
    assert line.endswith("has 12 tokens; set input_dim: 12")


def test_reported_with_other_mistakes():
    lines = mistakes(rows=3, classes=3, judge="Accuracy")
    assert [line.split(" (")[0].split(": ", 1)[1] for line in lines] == ["layer 'embed'", "layer 'judge'"]
    (line,) = mistakes(text="begin: 1", rows=3)         # a text with a mistake has no vocabulary to compare
                                                        # with
    assert "begin and end must be shares" in line


@pytest.mark.parametrize("text, tokens", [("", 12), ("vocabulary_size: 9", 9)])
def test_check_shows_the_tokens(tmp_path, capsys, text, tokens):
    (tmp_path / "net.prototxt").write_text(net_text(text=text))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(tmp_path / "net.prototxt")])
    assert ended.value.code == 0
    # in both phases
    assert capsys.readouterr().out.count(f"  text: {tokens} tokens in the vocabulary\n") == 2


def test_settings_that_do_nothing_are_told(caplog):
    """A filler's std without its type, which is then constant, filled zeros without a word; and a loss that
    reads no ignore_label counted all labels."""
    net = parse_net("""layer { name: "a" type: "Input" top: "a" top: "l"
          input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip" inner_product_param { num_output: 3
          weight_filler { std: 0.1 value: 0 } bias_filler { type: "uniform" mean: 2 min: -1 } } }
        layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2"
          inner_product_param { num_output: 3 weight_filler { std: 0.1 value: 1 } } }
        layer { name: "hinge" type: "HingeLoss" bottom: "ip2" bottom: "l" top: "hinge"
          loss_param { ignore_label: 2 normalize: true } }
        layer { name: "softmax" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "l" top: "softmax"
          loss_param { ignore_label: 2 normalization: FULL normalize: false } }
        layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 }
          data_filler { type: "uniform" std: 2 } } }
        layer { name: "p" type: "Perplexity" bottom: "ip2" bottom: "l" top: "p"
          loss_param { ignore_label: 2 normalization: FULL } }""", "n.prototxt")
    train = Net(net, device="cpu")
    said = [message.removeprefix("n.prototxt:") for message in caplog.messages]
    assert said == [
        "8:24: layer 'hinge': loss_param: ignore_label has no effect: HingeLoss does not read it",
        "8:40: layer 'hinge': loss_param: normalize has no effect: HingeLoss does not read it",
        "14:40: layer 'p': loss_param: normalization has no effect: Perplexity does not read it",
        "3:9: layer 'ip': std has no effect: filler 'constant' does not read it (that of weight, and 1 more)",
        "3:9: layer 'ip': mean has no effect: filler 'uniform' does not read it (that of bias)",
        "11:9: layer 'x': std has no effect: filler 'uniform' does not read it (that of its top)"]
    caplog.clear()
    Net(net, "TEST", device="cpu", share=train)
    assert not caplog.messages


def test_fillers_of_a_net_that_trains_nothing_are_not_told(caplog):
    """Caffe's own files have such ones: GoogLeNet's to deploy, whose weights come from a file."""
    Net(parse_net("""layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 4 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"
          inner_product_param { num_output: 3 weight_filler { type: "xavier" std: 0.1 } } }"""), device="cpu")
    assert not caplog.messages


LOSS = """layer { name: "in" type: "Input" top: "x" top: "l"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "l" top: "loss" }
layer { name: "a" top: "a" bottom: "ip" """
ACCURACY, ARG_MAX = 'type: "Accuracy" bottom: "l"', 'type: "ArgMax" }\nlayer { name: "p" bottom: "a" top: "p"'
EACH = 'propagate_down: false propagate_down: false'


@in_turn("more, top", [
    (f"{ACCURACY} loss_weight: 1", "a"), (f'{ACCURACY} top: "b" loss_weight: 0 loss_weight: 1', "b"),
    ('type: "ArgMax" loss_weight: 0.1', "a"), ('type: "Threshold" loss_weight: -1', "a"),
    (f'{ARG_MAX} type: "Power" loss_weight: 1', "p"), (f'{ARG_MAX} type: "EuclideanLoss" bottom: "l"', "p"),
    ('type: "Perplexity" bottom: "l" loss_weight: 1', "a"), (f"{ACCURACY} loss_weight: 0", None),
    (f"{ACCURACY} loss_weight: 1 {EACH}", None), (f'{ARG_MAX} type: "Power"', None)])
def test_a_loss_that_trains_nothing_is_refused(more, top):
    """It added to the loss that was shown; Caffe ends with "Not Implemented". Tests show it, as there."""
    text = f"{LOSS}{more} }}"
    Net(parse_net(text), "TEST", device="cpu")
    frozen = text.replace("num_output: 4 }", "num_output: 4 }" + 2 * " param { lr_mult: 0 }")
    Net(parse_net(frozen), device="cpu")
    if top is None:
        Net(parse_net(text), device="cpu")
        return
    with pytest.raises(ConfigError, match=f"'{top}' counts in the loss, but trains nothing: layer 'a' passes "
                                          rf"no gradient on; take it out \(loss_weight: 0\)$"):
        Net(parse_net(text), device="cpu")


def test_labels_without_a_gradient_are_no_fault():
    """The labels that a net gives itself: the scores are trained."""
    Net(parse_net(LOSS + """type: "ArgMax" argmax_param { axis: 1 } }
        layer { name: "own" type: "SoftmaxWithLoss" bottom: "ip" bottom: "a" top: "own" }"""), device="cpu")
