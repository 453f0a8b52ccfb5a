"""Numbers and truths that a caller gives, and where they are asked for."""

import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn, optim
from minidrop.config.numbers import real_number, truth, whole_number
from minidrop.errors import in_short


@in_turn("two", [2, np.int8(2), np.uint64(2), np.array(2)])
def test_whole_numbers(two):
    assert whole_number("n", two) == 2 and type(whole_number("n", two)) is int
    assert real_number("n", two) == 2.0 and type(real_number("n", two)) is float


@in_turn("other", [2.0, "2", None, [2], np.array([2]), np.array(2.0), True, 2j])
def test_what_is_no_whole_number(other):
    words = f"n: expected a whole number of at least 1, got {in_short(other)}"
    with pytest.raises(md.ConfigError, match=re.escape(words)):
        whole_number("n", other, 1)


@in_turn("half", [0.5, np.float16(0.5), np.array(0.5), np.longdouble(0.5)])
def test_real_numbers(half):
    assert real_number("x", half) == 0.5 and type(real_number("x", half)) is float


@in_turn("other", ["0.5", None, [0.5], np.array([0.5]), 2j, np.complex64(1), 10**400, np.array("0.5")])
def test_what_is_no_real_number(other):
    with pytest.raises(md.DataError, match=re.escape(f"x: expected a share, got {in_short(other):.40}")):
        real_number("x", other, "a share", error=md.DataError)


@in_turn("yes", [True, 1, np.True_, np.int8(1), np.array(True)])
def test_truths(yes):
    assert truth("x", yes) is True and truth("x", yes ^ 1) is False


def test_a_loader_takes_the_shuffle_that_pytorch_has_by_default():
    assert md.data.DataLoader([(1,)], 1, shuffle=None).shuffle is False


@in_turn("other", ["no", "False", None, 2, -1, 1.0, [], [True], np.array([True]), np.float32(1)])
def test_what_is_no_truth(other):
    with pytest.raises(md.DataError, match=re.escape(f"x: expected True or False, got {in_short(other)}")):
        truth("x", other, md.DataError)


PARAMETERS = nn.Linear(2, 1).parameters()
REFUSED = {
    "lr: expected a number >= 0, got '0.1'": lambda: optim.SGD(PARAMETERS, lr="0.1"),
    "params: expected Parameters or pairs (name, Parameter), got int": lambda: optim.SGD(3, lr=0.1),
    "params: expected several Parameters, got one; write [parameter]":
        lambda: optim.Adam(PARAMETERS[0], lr=0.1),
    "params: expected Parameters or pairs (name, Parameter), got the module Linear; write module.parameters":
        lambda: optim.Adam(nn.Linear(2, 1), lr=0.1),
    "got the module Sequential; write module.parameters()": lambda: optim.EMA(nn.Sequential(nn.ReLU()), 0.9),
    "clip_grad_norm: most: expected a number above 0, got [1]": lambda: optim.clip_grad_norm(PARAMETERS, [1]),
    "EMA: decay: expected a number from 0 to below 1, got None": lambda: optim.EMA(PARAMETERS, None),
    "lr_policy 'cosine': max_iter: expected a number, got '9'": lambda: scheduler("cosine", max_iter="9"),
    "which must be at least 1, but is nan": lambda: scheduler("cosine", max_iter=float("nan")),
    "lr_policy 'multistep': stepvalue: expected a number, got [1]":
        lambda: scheduler("multistep", stepvalues=[[1]]),
    "lr_policy 'multistep': stepvalue: expected a number, got 'a'":
        lambda: scheduler("multistep", stepvalues="a"),
    "random_split: a length: expected a number, got 'a'": lambda: md.data.random_split([(1,)], "a"),
    "random_split: expected lengths that add up to 1": lambda: md.data.random_split([(1,)], 3),
    "Subset: expected an integer, a slice, or a list": lambda: md.data.Subset([(1,)], [[1, 2], [3]]),
    "the state of the net: 'level' takes an integer (32-bit), got 2147483648":
        lambda: md.Net.from_file("net.prototxt", level=2**31),
    "the state of the net: 'stage' takes text": lambda: md.Net.from_file("net.prototxt", stages=[3]),
    "DataLoader: shuffle: expected True or False, got 'no'": lambda: md.data.DataLoader([(1,)], 1, "no"),
    "DataLoader: drop_last: expected True": lambda: md.data.DataLoader([(1,)], 1, drop_last="no"),
    "requires_grad: expected True or False, got 'no'": lambda: md.tensor([1.0], requires_grad="no"),
    "sum: keepdims: expected True or False, got 1; several axes are one argument, as in axis=(0, 1)":
        lambda: md.tensor([[1.0]]).sum(0, 1),
    "max: keepdims: expected True or False": lambda: md.functions.max(md.tensor([1.0]), keepdims="no"),
    "LSTM: stateful: expected True or False, got 'no'": lambda: nn.LSTM(2, 3, stateful="no"),
    "LSTM: return_state: expected True or False":
        lambda: nn.LSTM(2, 3)(np.ones((1, 1, 2)), return_state="no"),
    "BatchNorm: affine: expected True or False": lambda: nn.BatchNorm(3, affine="no"),
    "MaxPool2d: ceil_mode: expected True or False": lambda: nn.MaxPool2d(2, ceil_mode="no"),
    "Linear: strict: expected True or False": lambda: nn.Linear(2, 1).load_state_dict({}, strict="no"),
    "skip_mismatched: expected True or False":
        lambda: md.Net.from_file("net.prototxt").load_weights("w.h5", skip_mismatched="no"),
    "ema: expected True or False": lambda: md.Net.from_file("net.prototxt").load_weights("w.h5", ema="no"),
    "diffs: expected True or False": lambda: md.Net.from_file("net.prototxt").save("w.h5", diffs="no"),
    "set_dropping: expected True or False": lambda: md.Net.from_file("net.prototxt").set_dropping("no"),
    "run_masked_dense: expected True or False":
        lambda: md.Net.from_file("net.prototxt").run_masked_dense("no"),
}


def scheduler(policy, **settings):
    return getattr(optim.schedulers, policy)(optim.SGD(PARAMETERS, lr=0.1), **settings)


@in_turn("words", list(REFUSED))
def test_numbers_of_the_api(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text('layer { name: "x" type: "Input" top: "x" '
                                           'input_param { shape { dim: 1 } } }')
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        REFUSED[words]()


def test_paths_are_no_numbers_of_open_files():
    with pytest.raises(TypeError, match="expected str, bytes or os.PathLike object, not int"):
        md.load(3)
