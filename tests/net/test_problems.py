"""All independent mistakes of a net are reported together, and a flood of them takes no time that grows with
its square."""

import pytest

import minidrop as md
from minidrop.config import parse_net
from minidrop.net import graph

DATA = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 8 } } }\n'


def ip(name, bottom, num_output=64, more=""):
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f'inner_product_param {{ num_output: {num_output} {more} }} }}\n')


def drop(name, bottom, settings):
    return (f'layer {{ name: "{name}" type: "ApproxDropout" bottom: "{bottom}" top: "{name}" '
            f'approx_dropout_param {{ {settings} }} }}\n')


def report(text, **options):
    with pytest.raises(md.ConfigError) as caught:
        md.Net(parse_net(text, "net.prototxt"), device="cpu", **options)
    return [line.removeprefix("net.prototxt:") for line in str(caught.value).split("\n")]


def test_mistakes_of_every_pass_are_one_report():
    rules = 'layer { name: "both" type: "Silence" bottom: "data" include { } exclude { phase: TEST } }\n'
    lines = report(DATA + rules + ip("lost", "nowhere") + ip("none", "data", 0)
                   + ip("filled", "data", more='weight_filler { type: "xaver" }')
                   + 'layer { name: "odd" type: "Odd" bottom: "data" top: "odd" }\n'
                   + drop("moving", "data", "pattern: \"ROW\" reshuffle_interval: 5")
                   + ip("wide", "data", 30) + drop("tiles", "wide", 'pattern: "TILE" tile_size: 16')
                   + ip("after", "lost"))
    assert [line.split(":")[0] for line in lines] == ["2", "3", "4", "5", "6", "7", "9"]
    for line, words in zip(lines, ("include and exclude", "nowhere", "num_output", "xaver", "Odd",
                                   "reshuffle_interval cannot permute", "wide"), strict=True):
        assert words in line


def test_a_drop_whose_reader_has_a_mistake_is_not_accused():
    drops = drop("drop", "ip", 'pattern: "ROW" reshuffle_interval: 5')
    lines = report(DATA + ip("ip", "data") + drops + ip("below", "drop", 0))
    assert len(lines) == 1 and "'below'" in lines[0]


def test_shapes_that_differ_from_the_shared_net_stand_beside_other_mistakes():
    train = md.Net(parse_net(DATA + ip("ip", "data", 8)), device="cpu")
    lines = report(DATA + ip("ip", "data", 9) + ip("lost", "nowhere"), phase="TEST", share=train)
    assert ["shared with" in line for line in lines] == [True, True, False]


def test_of_a_flood_only_what_is_shown_is_put_into_words(monkeypatch):
    searched = []
    monkeypatch.setattr(graph, "nearest", lambda name, known: searched.append((name, len(known))) or "")
    blobs = " ".join(f'top: "t{i}"' for i in range(300))
    lost = " ".join(f'bottom: "u{i}"' for i in range(300))
    lines = report(f'layer {{ name: "in" type: "Input" {blobs} input_param {{ shape {{ dim: 2 }} }} }}\n'
                   f'layer {{ name: "all" type: "Concat" {lost} top: "t300" }}')
    assert searched == [(f"u{i}", 300) for i in range(100)]
    assert len(lines) == 101 and lines[-1] == "... and 200 more mistakes"
    assert lines[0].endswith("end with 't294', 't295', 't296', 't297', 't298', 't299')")
