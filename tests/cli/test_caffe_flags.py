"""Caffe's way of writing a command line."""

from cases import in_turn

from minidrop.cli.caffe_flags import normalise, without


@in_turn("written, ours", [
    ("train -solver s.prototxt", "train --solver s.prototxt"),
    ("train --solver=s.prototxt -gpu=0", "train --solver=s.prototxt --gpu=0"),
    ("-solver s.prototxt -gpu 0 train", "train --solver s.prototxt --gpu 0"),
    ("-solver=s.prototxt train -snapshot x.h5", "train --solver=s.prototxt --snapshot x.h5"),
    ("train -sigint_effect snapshot --sighup_effect=none", "train --sigint-effect snapshot "
     "--sighup-effect=none"),
    ("test -model m -weights w -iterations 5", "test --model m --weights w --iterations 5"),
    ("train --set base_lr=-1 -level -1", "train --set base_lr=-1 --level -1"),
    ("device_query -gpu all", "device_query --gpu all"),
    ("-h", "-h"),
    ("--version", "--version"),
    ("-solver s.prototxt", "--solver s.prototxt"),
    ("check -- -odd-name.prototxt", "check -- -odd-name.prototxt"),
])
def test_normalise(written, ours):
    assert normalise(written.split()) == ours.split()


def test_a_value_keeps_its_spelling():
    assert normalise(["train", "-solver=my_dir/-a_b.prototxt"]) == ["train", "--solver=my_dir/-a_b.prototxt"]


def test_without():
    arguments = ["train", "--solver", "s", "--resume", "auto", "--out=x", "--set", "a=b"]
    assert without(arguments, "resume", "out") == ["train", "--solver", "s", "--set", "a=b"]
