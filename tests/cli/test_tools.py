"""draw_net, parse_log, device_query, --log-format caffe, --ignore-unknown at the command line."""

import csv
import os
import re
import stat
from datetime import datetime

import numpy as np
import pytest

from minidrop.apps.logs import read_log

# What Caffe's own parse_log.py and extract_seconds.py look for, written anew.
ITERATION = re.compile(r"Iteration (\d+)")
TRAIN = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
TEST = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")


def time_of(line):
    """The time that extract_seconds.py reads from a line; ValueError where it would stop."""
    words = line.strip().split()
    place = words[1].rfind(".")
    hour, minute, second = (int(part) for part in words[1][:place].split(":"))
    return datetime(2026, int(words[0][1:3]), int(words[0][3:]), hour, minute, second,
                    int(words[1][place + 1:]))


def as_caffe_reads(path):
    """Return (iteration, seconds, kind, output, value, rate) tuples as parse_log.py sees a log."""
    lines = iter(path.read_text().splitlines())
    start = next(time_of(line) for line in lines if "Solving" in line)
    iteration, rate, found = -1, None, []
    for line in lines:
        if match := ITERATION.search(line):
            iteration = int(match[1])
        if iteration == -1:
            continue
        seconds = (time_of(line) - start).total_seconds()       # of every line from the first iteration on
        rate = RATE.search(line) or rate
        for kind, pattern in (("train", TRAIN), ("test", TEST)):
            if match := pattern.search(line):
                found.append((iteration, seconds, kind, match[2], float(match[3]), rate and float(rate[1])))
    return found


def test_caffes_log_format_is_what_caffes_parser_reads(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver, "--log-format", "caffe", "--out", "run", "--device",
                      "cpu")
    assert result.code == 0
    found = as_caffe_reads(tiny.path / "run/train.log")
    assert [row[0] for row in found if row[2] == "train"] == list(range(0, 40, 5))
    assert {row[3] for row in found if row[2] == "train"} == {"loss"}
    assert [(row[0], row[3]) for row in found if row[2] == "test"] == [
        (iteration, name) for iteration in (0, 20, 40) for name in ("accuracy", "loss")]
    assert all(row[1] >= 0 for row in found)
    assert found[-1][5] == 0.05
    # The console shows the same lines, each with its head.
    assert all(re.match(r"[IW]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.py:\d+\] ", line)
               for line in (result.out + result.err).splitlines())
    assert "    Train net output #0: loss = " in result.out
    again = minidrop("train", "--solver", tiny.solver, "--out", "plain", "--device", "cpu").out
    assert again.startswith("task/solver.prototxt: training to iteration 40")       # not for ever
    ours, caffes = read_log(tiny.path / "plain/train.log"), read_log(tiny.path / "run/train.log")
    assert [row["loss"] for row in ours.train][:8] == [row["loss"] for row in caffes.train]
    assert [list(row.values())[2:] for row in ours.test] == [list(row.values())[2:] for row in caffes.test]


def test_an_average_of_losses_is_not_shown_as_the_nets_output(tiny, minidrop):
    minidrop("train", "--solver", tiny.solver, "--log-format", "caffe", "--out", "a", "--set",
             "average_loss=5", "--device", "cpu")
    minidrop("train", "--solver", tiny.solver, "--log-format", "caffe", "--out", "b", "--device", "cpu")
    mean, plain = ((tiny.path / name / "train.log").read_text() for name in "ab")
    pattern = r"Train net output #0: loss = \S+"
    assert re.findall(pattern, mean) == re.findall(pattern, plain)
    smoothed = r"Iteration 10 .*, loss = (\S+)"
    assert re.search(smoothed, mean)[1] != re.search(smoothed, plain)[1]


def test_parse_log_writes_caffes_tables(tiny, minidrop):
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu")
    (tiny.path / "tables").mkdir()
    result = minidrop("parse_log", "run/train.log", "tables", "--verbose", "--delimiter", ";")
    assert result.code == 0
    assert result.out == "wrote tables/train.log.train: 9 rows\nwrote tables/train.log.test: 3 rows\n"
    with open("tables/train.log.test", newline="") as file:
        rows = list(csv.reader(file, delimiter=";"))
    assert rows[0] == ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]
    assert [row[0] for row in rows[1:]] == ["0.0", "20.0", "40.0"]
    assert minidrop("parse_log", "run/train.log", "tables").out == ""


def test_parse_log_plots(tiny, minidrop):
    pytest.importorskip("matplotlib")
    (tiny.path / "log").write_text("".join(f"Iteration {i}, loss = {1 / (i + 1)}, lr = 0.1, $x^$ = nan\n"
                                           for i in range(5)))
    assert minidrop("parse_log", "log", ".", "--plot", "p.png").code == 0
    assert (tiny.path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert minidrop("parse_log", "log", ".", "--plot", "p.svg").code == 0


@pytest.mark.parametrize("arguments, message", [
    (("parse_log", "task/net.prototxt", "nowhere"), "nowhere: there is no such folder"),
    (("parse_log", "task/net.prototxt", "."), "expected a log of minidrop or Caffe"),
    (("parse_log", "none", "."), "none: cannot be read: No such file"),
    (("parse_log", "none", ".", "--delimiter", "ab"), "expected one character"),
    (("parse_log", "none", ".", "--plot", "x.gif"), "--plot x.gif: expected a name that ends with"),
    (("draw_net", "task/net.prototxt", "x.gif"), "x.gif: expected a name that ends with .dot, .svg, .png, "),
    (("draw_net", "none", "x.svg"), "none: there is no such file"),
    (("draw_net", "task/net.prototxt", "no/x.svg"), "no/x.svg: cannot be written"),
    (("draw_net", "task/net.prototxt", "x.svg", "--rankdir", "XX"), "'XX' is not one of"),
    (("device_query", "-gpu", "first"), "expected the number of a GPU"),
    (("device_query", "-gpu", "998,999"), "there is no GPU 998 here"),
])
def test_mistakes_are_one_clear_line(tiny, minidrop, arguments, message):
    result = minidrop(*arguments)
    assert result.code in (1, 2)
    assert message in result.err


def test_every_tool_has_its_help_and_its_name_with_hyphens(minidrop):
    listed = minidrop("--help").out
    for name in ("draw_net", "parse_log", "classify", "extract_features"):
        assert f"\n  {name} " in listed
        assert minidrop(name, "--help").code == minidrop(name.replace("_", "-"), "--help").code == 0
    assert minidrop("device-query").out == minidrop("device_query").out == minidrop("devices").out


def without_graphviz(monkeypatch, path):
    monkeypatch.setenv("PATH", str(path))


def graphviz(monkeypatch, path, script):
    """Put a program named dot into PATH."""
    (path / "dot").write_text(f"#!/bin/sh\n{script}\n")
    (path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_draw_net_without_graphviz(tiny, minidrop, monkeypatch):
    without_graphviz(monkeypatch, tiny.path)
    result = minidrop("draw_net", tiny.net, "x.svg", "--rankdir", "TB", "--phase", "TRAIN")
    assert result.out == "x.svg: 6 layers\n"
    assert "keeps 50.0% of the units" in (tiny.path / "x.svg").read_text()
    assert minidrop("draw_net", tiny.net, "x.dot", "--display_lrm").out == "x.dot: 8 layers\n"
    assert 'rankdir=LR' in (tiny.path / "x.dot").read_text()
    result = minidrop("draw_net", tiny.net, "x.png")
    assert result.code == 1
    assert result.err == ("error: x.png: .png needs graphviz, whose program dot is not installed; draw an "
                          ".svg, or install it (apt install graphviz)\n")


def test_draw_net_asks_graphviz_where_it_is(tiny, minidrop, monkeypatch):
    graphviz(monkeypatch, tiny.path, 'echo "drawn $1"; cat')
    assert minidrop("draw_net", tiny.net, "x.png").code == 0
    assert (tiny.path / "x.png").read_text().startswith("drawn -Tpng\ndigraph \"tiny\" {")
    graphviz(monkeypatch, tiny.path, "echo it burns >&2; exit 3")
    result = minidrop("draw_net", tiny.net, "y.svg")
    assert result.code == 1 and "failed with exit code 3: it burns" in result.err
    assert not (tiny.path / "y.svg").exists()
    (tiny.path / "dot").write_text("no program")
    (tiny.path / "dot").chmod(stat.S_IRWXU)
    assert "cannot be run" in minidrop("draw_net", tiny.net, "y.svg").err


def test_a_net_without_its_data_is_drawn_with_a_warning(tiny, minidrop):
    (tiny.folder / "train.txt").unlink()
    result = minidrop("draw_net", tiny.net, "x.dot")
    assert result.code == 0
    assert result.err.startswith("warning: shapes or savings are missing: task/net.prototxt:")


def forked(tiny):
    net = tiny.folder / "net.prototxt"
    net.write_text(net.read_text().replace('name: "ip2"', 'name: "ip2" forward_type: FLOAT'))
    solver = tiny.folder / "solver.prototxt"
    solver.write_text(solver.read_text() + "rampup_lr: 0.1\n")


def test_ignore_unknown_goes_on_with_a_warning_for_each_field(tiny, minidrop, weights_of):
    minidrop("train", "--solver", tiny.solver, "--out", "plain", "--device", "cpu")
    forked(tiny)
    stopped = minidrop("train", "--solver", tiny.solver, "--device", "cpu")
    assert stopped.code == 1 and "--ignore-unknown" in stopped.err
    result = minidrop("train", "--solver", tiny.solver, "--out", "run", "--ignore-unknown", "--device", "cpu")
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if "is ignored" in line]
    assert [line.split("'")[1] for line in lines] == ["rampup_lr", "forward_type"]
    ours, plain = (weights_of(tiny.path / name / "snapshots/task_iter_40.h5") for name in ("run", "plain"))
    assert all((ours[name] == plain[name]).all() for name in plain)
    snapshot = "run/snapshots/task_iter_40.h5"
    for command in (("test", "--model", tiny.net, "--weights", snapshot, "--iterations", 2),
                    ("time", "--model", tiny.net, "--iterations", 1), ("check", tiny.net),
                    ("time", "--solver", tiny.solver, "--iterations", 1), ("check", tiny.solver),
                    ("draw_net", tiny.net, "x.dot")):
        assert minidrop(*command).code == 1
        result = minidrop(*command, "--ignore_unknown")
        assert result.code == 0, result.err
        assert "'forward_type' of LayerParameter is ignored" in result.err


def test_extract_features_takes_caffes_arguments(tiny, minidrop):
    pytest.importorskip("lmdb")
    minidrop("train", "--solver", tiny.solver, "--out", "run", "--device", "cpu")
    weights = "run/snapshots/task_iter_40.h5"
    result = minidrop("extract_features", weights, tiny.net, "ip1,ip2", "a,b", 2, "lmdb", "CPU",
                      "DEVICE_ID=0")
    assert result.code == 0, result.err
    assert result.out.splitlines()[1:] == ["a: 20 records of ip1", "b: 20 records of ip2"]
    for arguments, message in (((weights, tiny.net, "ip1", "a", 1, "lmdb"), "a: expected the name of a new"),
                               ((weights, tiny.net, "ip1", "c", 1, "sqlite"), "'sqlite' is not one of"),
                               ((weights, tiny.net, "ip1", "c", 0, "lmdb"), "BATCHES"),
                               ((weights, tiny.net, "ip1", "c", 1, "lmdb", "TPU"), "expected CPU or GPU"),
                               ((weights, tiny.net, "ip1", "c", 1, "lmdb", "GPU", "x"), "number of a GPU"),
                               (("none.h5", tiny.net, "ip1", "c", 1, "lmdb"), "none.h5")):
        result = minidrop("extract_features", *arguments)
        assert result.code in (1, 2) and message in result.err
    assert not (tiny.path / "c").exists()


IMAGE_NET = """layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def test_classify_takes_caffes_flags(tiny, minidrop):
    image_module = pytest.importorskip("PIL.Image")
    from minidrop.net import Net
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    image_module.fromarray(pixels).save("x.png")
    (tiny.path / "deploy.prototxt").write_text(IMAGE_NET)
    (tiny.path / "labels").write_text("cat\ndog\n\x1b[31mfox\n")
    net = Net.from_file("deploy.prototxt", phase="TEST", device="cpu", seed=3)
    net.save("w.caffemodel")
    model = ("--model_def", "deploy.prototxt", "--pretrained_model", "w.caffemodel", "--device", "cpu")
    result = minidrop("classify", "x.png", "y.npy", *model, "--images_dim", "6,6", "--center_only",
                      "--labels", "labels", "--input_scale", "0.01")
    assert result.code == 0, result.err
    bgr = pixels[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    expected = net.forward(data=bgr * np.float32(0.01))["prob"].numpy()
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=1e-5)
    place = int(expected.argmax())
    name = ("cat", "dog", "\\x1b[31mfox")[place]
    assert result.out.splitlines()[1:3] == ["---------- Prediction for x.png ----------",
                                            f'{expected[0, place]:.4f} - "{name}"']
    plain = minidrop("classify", "x.png", "z.npy", *model, "--images_dim", "6,6", "--center_only",
                     "--channel_swap", "", "--mean_file", "", "--raw_scale", "2.55")
    assert plain.code == 0
    rgb = net.forward(data=bgr[:, ::-1] * np.float32(0.01))["prob"].numpy()
    np.testing.assert_allclose(np.load("z.npy"), rgb, rtol=1e-5)
    for arguments, message in ((("x.png", "y.txt", *model), "expected a name that ends with .npy"),
                               (("none.png", "y.npy", *model), "none.png: cannot be read"),
                               (("x.png", "y.npy", *model, "--images_dim", "6"), "expected height,width"),
                               (("x.png", "y.npy", *model, "--images_dim", "a,b"), "expected integers"),
                               (("x.png", "y.npy", *model, "--channel_swap", "0,1"), "channel_swap"),
                               (("x.png", "no/y.npy", *model), "no/y.npy: there is no such folder"),
                               (("x.png", "y.npy", *model, "--labels", "x.png"), "x.png: expected 3 labels")):
        result = minidrop("classify", *arguments)
        assert result.code in (1, 2) and message in result.err, (arguments, result.err)
