"""caffe.draw: files with and without graphviz, and what is refused."""

import os
from pathlib import Path

import pytest

import minidrop.caffe as caffe
from minidrop.caffe import layers as L
from minidrop.errors import ConfigError


def message():
    n = caffe.NetSpec("small")
    n.data = L.Input(shape=[2, 3])
    n.fc = L.InnerProduct(n.data, num_output=4, param={"lr_mult": 3}, include={"phase": "TRAIN"})
    n.prob = L.Softmax(n.data)
    return n.to_proto()


def test_without_graphviz(monkeypatch):
    monkeypatch.setenv("PATH", "")
    caffe.draw.draw_net_to_file(caffe.proto.caffe_pb2.NetParameter(name="empty"), "empty.svg")
    caffe.draw.draw_net_to_file(message(), "net.svg")
    assert "fc" in Path("net.svg").read_text()
    caffe.draw.draw_net_to_file(message(), "net.dot", "TB", phase=caffe.TEST)
    text = Path("net.dot").read_text()
    assert "prob" in text and "fc" not in text and "rankdir=TB" in text
    with pytest.raises(ConfigError, match="net.png: .png needs graphviz"):
        caffe.draw.draw_net_to_file(message(), "net.png")


def test_by_graphviz_where_it_is(monkeypatch, tmp_path):
    (tmp_path / "dot").write_text('#!/bin/sh\necho "drawn $1"; cat\n')
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    caffe.draw.draw_net_to_file(message(), "net.png", "BT", display_lrm=True)
    text = Path("net.png").read_text()
    assert text.startswith('drawn -Tpng\ndigraph "small" {\n  rankdir=BT;') and "lr_mult 3" in text


@pytest.mark.parametrize("arguments, expected", [
    (("net.gif",), "net.gif: expected a name that ends with .dot, .svg, .png, .pdf"),
    (("net.dot", "XX"), "rankdir: expected one of TB, LR, BT, RL, got 'XX'"),
    (("net.dot", "LR", 5), "phase: expected caffe.TRAIN, caffe.TEST or None for all layers, got 5"),
    (("net.dot", "LR", [0]), "phase: expected caffe.TRAIN, caffe.TEST or None for all layers, got [0]"),
    (("no/net.dot",), "no/net.dot: cannot be written: No such file or directory; give another name"),
])
def test_mistakes(arguments, expected):
    with pytest.raises(ConfigError) as caught:
        caffe.draw.draw_net_to_file(message(), *arguments)
    assert str(caught.value) == expected
    assert not list(Path().iterdir())
