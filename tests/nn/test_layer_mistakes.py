"""What the ready modules say of mistakes."""

import copy
import pickle
import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop import nn

IMAGES, VECTORS, SEQUENCE = np.ones((3, 4, 7, 6)), np.ones((5, 8)), np.ones((5, 3, 8))

DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]
MISTAKES = {
    "unknown layer type 'Relu'; did you mean 'ReLU'": lambda: nn.Layer("Relu"),
    "layer 'layer' (LRN): has no setting 'size'": lambda: nn.Layer("LRN", size=3),
    "HDF5Data feeds a net of its own; a module is called with its data": lambda: nn.Layer("HDF5Data"),
    "bottom is no setting of a module (ReLU): it reads what it is called with":
        lambda: nn.Layer("ReLU", bottom="x"),
    "Linear 'fc': expected 8 features on the last axis; put nn.Flatten() before it if they lie on several; "
    "got (3, 4, 7, 6)": lambda: nn.Sequential(fc=nn.Linear(8, 2)).to("cpu")(IMAGES),
    "Conv2d: expected 3 channels on axis 1; got (3, 4, 7, 6)": lambda: nn.Conv2d(3, 2, 3).to("cpu")(IMAGES),
    "Conv1d: expected 3 axes, (N, C) and 1 of places, got (3, 4, 7, 6)":
        lambda: nn.Conv1d(4, 2, 3).to("cpu")(IMAGES),
    "LSTM: expected x (steps, streams, 4), got (5, 8)": lambda: nn.LSTM(4, 2).to("cpu")(VECTORS),
    "LSTM: expected 2 states to begin with, got 1":
        lambda: nn.LSTM(8, 2).to("cpu")(SEQUENCE, state=(np.ones((1, 3, 2)),)),
    "Sequential: layer '0' (Convolution): a window of 9 x 9 does not fit into the bottom of shape (3, 4, 7, "
    "6)": lambda: nn.Sequential(nn.Conv2d(4, 2, 9)).to("cpu")(IMAGES),
    "2: reshuffle_interval permutes weights and the history of their updates, which a Solver does and a loop":
        lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.ApproxDropout(reshuffle_interval=5),
                              nn.Linear(8, 2)).to("cpu")(np.zeros((4, 12), np.float32)),
    "ApproxDropout: layer 'approxdropout' (ApproxDropout): reshuffle_interval cannot permute the units above":
        lambda: nn.ApproxDropout(approx_dropout_param={"reshuffle_interval": 5}).to("cpu")(np.zeros((4, 8))),
    "LSTM: layer 'lstm' (LSTM): hidden_dropout: the units of a recurrent layer cannot be permuted":
        lambda: nn.LSTM(8, 2, hidden_dropout={"reshuffle_interval": 5}).to("cpu")(SEQUENCE),
    "unknown filler 'mrsa'; did you mean 'msra'":
        lambda: nn.Linear(8, 2, weight_filler="mrsa").to("cpu").parameters(),
    "reduction should be one of mean, batch, sum, got 'none'": lambda: nn.CrossEntropyLoss(reduction="none"),
    "MSELoss: expected predictions and targets of one shape, got (5, 8) and (5,)":
        lambda: nn.MSELoss().to("cpu")(VECTORS, VECTORS[:, 0]),
    "Silence: tops: expected a whole number from 1 to 10000, got 0": lambda: nn.Layer("Silence", tops=0),
    "ReLU: tops: expected a whole number from 1 to 10000, got 'x'": lambda: nn.Layer("ReLU", tops="x"),
    "Split: tops: expected a whole number from 1 to 10000, got 2147483648":
        lambda: nn.Layer("Split", tops=2**31),
    "'num_output' takes an integer from 0 to 4294967295, got an array of shape (3, 3)":
        lambda: nn.Linear(4, np.ones((3, 3))),
    "reduction should be 'mean' or 'sum', got an array of shape (2,)": lambda: nn.MSELoss(np.ones(2)),
    "lists and dicts are nested too deeply": lambda: nn.ReLU()(DEEP),
    "train: expected True or False, got an array of shape (2,)": lambda: nn.ReLU().train(np.ones(2)),
    ": expected auto, cpu or cuda:N": lambda: nn.ReLU().to(DEEP),
    "Layer: inputs: expected a list or None, got 3": lambda: nn.Layer("ReLU", inputs=3),
    "GELU: name: expected a text or None, got ndarray": lambda: nn.GELU(name=np.ones(3)),
    "MultiHeadAttention: heads: expected a whole number, got NoneType":
        lambda: nn.MultiHeadAttention(4, None),
    "ModuleDict: modules: expected Mapping or None, got 3": lambda: nn.ModuleDict(3),
    "concat: xs: expected a list, got 3": lambda: nn.concat(3),
    "Linear: cannot take in_features = 3, out_features = 4, settings = {'axis': 1} (TypeError: ":
        lambda: nn.Linear(3, 4, axis=1),
    "AvgPool2d: ceil_mode: expected True or False, got an array":
        lambda: nn.AvgPool2d(2, ceil_mode=np.ones(2)),
    "layer 'b' is to share its weight with another by `param { name }`; call the module's method `tie`":
        lambda: nn.Sequential(a=nn.Linear(8, 8, bias=False, param={"name": "w"}), b=nn.Linear(
            8, 8, bias=False, param={"name": "w"})).to("cpu")(VECTORS),
    "Module: 'train' is a method or property of every Module; give the attribute another name":
        lambda: setattr(nn.Module(), "train", nn.ReLU()),
    "Sequential: 'seed' is a method or property of every Module": lambda: nn.Sequential(seed=nn.ReLU()),
    "Module: blocks is a list of modules, whose parameters would not be found; use nn.ModuleList":
        lambda: setattr(nn.Module(), "blocks", [nn.ReLU()]),
    "Sequential: expected modules, got function; use nn.Lambda for a function":
        lambda: nn.Sequential(nn.ReLU(), lambda x: x),
    "Sequential: expected modules, got the class ReLU; write ReLU(...)": lambda: nn.Sequential(nn.ReLU),
    "Linear: expected {name: array}, got str; np.load reads a .npz file":
        lambda: nn.Linear(8, 2).load_state_dict("w.npz"),
    "a module's name is not empty and has no '.' or '/', got 'a.b'":
        lambda: nn.ModuleDict({"a.b": nn.ReLU()}),
    "two modules are called 'fc'; their initial values and patterns would be the same":
        lambda: nn.Sequential(nn.Linear(8, 8, name="fc"), nn.Linear(8, 8, name="fc")).to("cpu")(VECTORS),
    "two modules are called '1'": lambda: nn.Sequential(nn.Linear(8, 8, name="1"), nn.Linear(8, 8)).to(
        "cpu")(VECTORS),
    "Linear: its parameters have values already, of seed 0; call set_seed before they are used":
        lambda: _filled(nn.Linear(8, 2)).set_seed(1),
    "Linear: to share a parameter with another layer, call tie('weight', that layer)":
        lambda: setattr(nn.Linear(8, 2), "weight", _filled(nn.Linear(8, 2)).weight),
    "Linear: its weight of shape (2, 8) is tied to weight of Embedding, of shape (2, 7)":
        lambda: _tied(nn.Linear(8, 2), nn.Embedding(2, 7)).parameters(),
    "Linear has no parameter 'weigth' to tie; did you mean 'weight'":
        lambda: _tied(nn.Linear(8, 2), nn.Embedding(2, 8), "weigth").parameters(),
    "unknown dtype 'float16': expected float32 or float64": lambda: nn.ReLU().to(dtype="float16"),
    "unknown dtype 'bfloat16': expected float32 or float64; precision='bfloat16' is what products on a GPU":
        lambda: nn.ReLU().to("bfloat16"),
    "unknown dtype the class float16: expected float32 or float64; precision='float16'":
        lambda: nn.ReLU().to(np.float16),
    "fc: weight is in float64 on cpu, but Sequential computes in float32 on":
        lambda: nn.Sequential(fc=_filled(nn.Linear(8, 2).to("cpu", "float64")))(VECTORS),
    "the arguments of ReLU: expected arrays or Tensors, numbers, text, None, or tuples, lists and dicts of "
    "them, got object": lambda: nn.ReLU().to("cpu")(object()),
    "the arguments of ReLU: an array is no array of numbers (its dtype is complex128; convert it)":
        lambda: nn.ReLU().to("cpu")(VECTORS + 1j),
    "the arguments of ReLU: a Tensor with a gradient is on cpu in float32 (products in float32), but the "
    "module computes on cpu in float64": lambda: nn.ReLU().to("cpu", "float64")(
        md.Tensor(VECTORS.astype("f"), requires_grad=True)),
    "Sequential: the state does not fit: no array '0.weight'; did you mean '0.weigth'?; no array '0.bias'; "
    "an array '0.weigth' that the module has not": lambda: nn.Sequential(nn.Linear(8, 2)).to(
        "cpu").load_state_dict({"0.weigth": np.ones((2, 8))}),
    "'weight': shape (2, 7), expected (2, 8)": lambda: nn.Linear(8, 2, bias=False).to("cpu").load_state_dict(
        {"weight": np.ones((2, 7))}),
    "'weight': a NaN, an infinity or a number too large for float32": lambda: nn.Linear(
        1, 1, bias=False).to("cpu").load_state_dict({"weight": np.array([[1e60]])}),
    "ModuleList is a list: call its modules, or use nn.Sequential":
        lambda: nn.ModuleList([nn.ReLU()]).to("cpu")(VECTORS),
    "an array 'running_var' that the module has not; md.from_torch_state_dict(module.net_for(x), state)":
        lambda: nn.BatchNorm(2).to("cpu").load_state_dict(
            dict.fromkeys(("weight", "bias", "running_mean", "running_var"), np.ones(2))),
    "a Module cannot be pickled": lambda: pickle.dumps(nn.ReLU()),
    "a device cannot be pickled, nor what computes on it: save the state_dict() of a module, an optimizer":
        lambda: pickle.dumps(md.optim.Adam(nn.Linear(8, 2).to("cpu").parameters())),
    "copy.copy of ReLU would share what it holds; copy.deepcopy": lambda: copy.copy(nn.ReLU()),
    "LSTM: behind x stands `cont`, which says where sequences begin; states are given by name, state=(h, c)":
        lambda: nn.LSTM(3, 4).to("cpu")(np.ones((5, 2, 3)), (np.ones((1, 2, 4)), np.ones((1, 2, 4)))),
    "GRU: behind x stands `cont`, which says where sequences begin; states are given by name, state=(h,)":
        lambda: nn.GRU(3, 4).to("cpu")(np.ones((5, 2, 3)), np.ones((1, 2, 4))),
    "Module: w is a Parameter, which parameters() would not find; hold self.w = nn.Weight(*shape), whose "
    "array is self.w.weight.data": lambda: setattr(nn.Module(), "w", md.Parameter(np.ones(2))),
    "Module: ws holds a Parameter, which": lambda: setattr(nn.Module(), "ws", [md.Parameter(np.ones(2))]),
}


def _filled(module):
    module.parameters()
    return module


def _tied(module, other, name="weight"):
    module.tie(name, other.to("cpu"))
    return module.to("cpu")


def test_arguments_that_are_missing_or_too_many():
    with pytest.raises(TypeError, match="^Linear: missing a required argument: 'x'; its forward takes x$"):
        nn.Linear(8, 2).to("cpu")()
    with pytest.raises(TypeError, match="^Linear: too many positional arguments; its forward takes x$"):
        nn.Linear(8, 2).to("cpu")(VECTORS, VECTORS)


@in_turn("words", list(MISTAKES))
def test_mistakes(words):
    with pytest.raises(md.MinidropError, match=re.escape(words)):
        MISTAKES[words]()


def test_a_missing_attribute_names_the_nearest():
    with pytest.raises(AttributeError, match="Sequential has no attribute 'fc'; did you mean 'fc1'?"):
        nn.Sequential(fc1=nn.ReLU()).fc     # noqa: B018
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        nn.Sequential(nn.ReLU()).to("cpu")()
    with pytest.raises(NotImplementedError, match="Module needs a method forward"):
        nn.Module().to("cpu")()
