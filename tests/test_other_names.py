"""Who writes a name of PyTorch's or Keras's that is none here is told what to write."""

import inspect
import re

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.data import torch_names as data_names
from minidrop.functions.torch_names import FUNCTIONS, HINTS, KEYWORDS, TOP
from minidrop.nn import torch_names
from minidrop.optim import torch_names as optim_names

MODULES = {"md": md, "nn": md.nn, "F": md.functions, "schedulers": md.optim.schedulers}
PARAMETER = md.Parameter(np.zeros(2))
SGD = md.optim.SGD([PARAMETER], lr=0.1)


@in_turn("module, name, words", [
    (md.nn, "BatchNorm2d", "module 'minidrop.nn' has no attribute 'BatchNorm2d'; use nn.BatchNorm(channels)"),
    (md.nn, "Linaer", "module 'minidrop.nn' has no attribute 'Linaer'; did you mean 'Linear'"),
    (md.nn, "zzz", "module 'minidrop.nn' has no attribute 'zzz'"),
    (md.functions, "conv2d", "' has no attribute 'conv2d'; use nn.Conv2d, or F.convolution"),
    (md.functions, "sofmax", "did you mean 'softmax'"),
    (md, "relu", "module 'minidrop' has no attribute 'relu'; use md.functions.relu"),
    (md, "Linear", "use md.nn.Linear"), (md, "DataLoader", "use md.data.DataLoader"),
    (md, "randn", "use md.tensor(numpy.random.default_rng(0).standard_normal(shape, 'float32'))"),
    (md.optim, "lr_scheduler", "use md.optim.schedulers"), (md.optim, "Adma", "did you mean 'Adam'"),
    (md.optim.schedulers, "StepLR", "use schedulers.step(optimizer, stepsize, gamma)"),
    (md.optim.schedulers, "cosin", "did you mean 'cosine'"),
    (md.data, "TensorDataset", "use md.data.ArrayDataset(x, y)"), (md.data, "Subet", "did you mean 'Subset'"),
    (md, "inference_mode", "use with md.no_grad()"), (md, "triplet_margin_loss", "use F.relu((a - p).norm("),
])
def test_a_name_that_is_missing_says_what_to_write(module, name, words):
    with pytest.raises(AttributeError, match=re.escape(words)) as caught:
        getattr(module, name)
    assert caught.value.name == name and not hasattr(module, name)


@in_turn("hints, module", [
    (HINTS, md.Tensor), (FUNCTIONS, md.functions), (TOP, md), (torch_names.HINTS, md.nn),
    (torch_names.METHODS, md.nn.Module), (data_names.HINTS, md.data), (optim_names.HINTS, md.optim),
    (optim_names.SCHEDULERS, md.optim.schedulers), (optim_names.SCHEDULER, md.optim.schedulers.Scheduler),
    (optim_names.OPTIMIZER, md.optim.Optimizer)])
def test_hints_name_what_there_is(hints, module):
    """And what is there needs none."""
    for name, hint in hints.items():
        assert module is md.Tensor or not hasattr(module, name), name
        for home, inside in re.findall(r"\b(md|nn|F|schedulers)\.(\w+(?:\.\w+)*)", hint):
            found = MODULES[home]
            for part in inside.split("."):
                found = getattr(found, part)


def test_what_an_object_lacks_says_what_to_write():
    scheduler, x = md.optim.schedulers.fixed(SGD), md.tensor([1.0])
    for owner, name, words in (
            (scheduler, "get_last_lr", "Scheduler has no attribute 'get_last_lr'; use rates("),
            (scheduler, "iteratoin", "did you mean 'iteration'"),
            (SGD, "_zzz", "SGD has no attribute '_zzz'"),
            (SGD, "state", "SGD has no attribute 'state'; use param_groups[i].history"),
            (x, "lt", "Tensor has no attribute 'lt'; use x < y"),
            (x, "sigmoid_", "use x = x.sigmoid(...): nothing works in place")):
        with pytest.raises(AttributeError, match=re.escape(words)):
            getattr(owner, name)


@in_turn("make, words", [
    (lambda: md.nn.ReLU(inplace=True), "ReLU takes negative_slope, name; got 'inplace'; leave it out"),
    (lambda: md.nn.Softmax(dim=1), "Softmax takes axis, name; got 'dim'; it is axis here"),
    (lambda: md.nn.CrossEntropyLoss(ignore_label_=1), "got 'ignore_label_'; did you mean 'ignore_label'"),
    (lambda: md.nn.Weight(3, fill=1), "Weight takes *shape, filler, name; got 'fill'; did you mean 'filler'"),
    (lambda: md.functions.softmax(md.tensor([[1.0]]), axes=1), "softmax takes x, axis"),
    (lambda: md.nn.LayerNorm(normalized_shape=3),
     "LayerNorm takes shape, eps, affine, bias, name, settings; got 'normalized_shape'; it is shape here"),
    (lambda: md.tensor([[1.0]]).var(unbiased=False), "got 'unbiased'; correction=0 stands for unbiased=Fal"),
    (lambda: md.data.DataLoader([(1, 2)], 1, num_workers=2), "DataLoader takes dataset, batch_size, shuffle, "
     "seed, drop_last, workers, prefetch, collate, augment; got 'num_workers'; it is workers here"),
    (lambda: md.optim.Adam([PARAMETER], fused=True), "Adam takes params, lr, betas, eps, weight_decay, l1, "
     "form; got 'fused'; leave it out: it changes no result"),
    (lambda: SGD.zero_grad(set_to_none=True), "takes no arguments; got 'set_to_none'; leave it out"),
    (lambda: SGD.step(len), "step takes no argument by position, got 1"),
    (lambda: md.nn.ReLU().zero_grad(set_to_none=True), "zero_grad takes no arguments; got 'set_to_none'"),
    (lambda: md.optim.schedulers.cosine(SGD, T_max=9), "cosine takes optimizer, max_iter, min_lr, "
     "warmup_iter; got 'T_max'; it is max_iter here"),
    (lambda: md.optim.schedulers.fixed(SGD).step(3), "step takes no argument by position, got 1"),
    (lambda: md.optim.clip_grad_norm([PARAMETER], max_norm=1), "got 'max_norm'; it is most here"),
    (lambda: md.tensor([1.0]).backward(retain_graph=True), "backward takes gy; got 'retain_graph'; a graph "
     "runs backward once: add the losses"),
])
def test_a_keyword_that_is_missing_says_what_to_write(make, words):
    with pytest.raises(TypeError, match="^" + re.escape(words) if words[0].isupper() else re.escape(words)):
        make()


@in_turn("settings, words", [
    ({"batch_first": True}, "has no setting 'batch_first'; sequences are (steps, records, ...)"),
    ({"num_layers": 2}, "has no setting 'num_layers'; write a module for each layer"),
    ({"device": "cpu"}, "has no setting 'device'; module.to(device, dtype) moves it"),
    ({"num_outptu": 2}, "has no setting 'num_outptu'; did you mean 'num_output'"),
])
def test_a_setting_that_is_missing_says_what_to_write(settings, words):
    with pytest.raises(md.ConfigError, match=re.escape(words)):
        md.nn.LSTM(3, 4, **settings)


def test_a_method_of_a_module_that_is_missing_says_what_to_write():
    module = md.nn.Linear(3, 2)
    for name, hint in torch_names.METHODS.items():
        with pytest.raises(AttributeError, match=re.escape(f"Linear has no attribute {name!r}; use {hint}")):
            getattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'wight'"):
        _ = module.wight


def test_keywords_that_have_another_name_here_exist():
    """"it is NAME here" holds of what takes the keyword in PyTorch."""
    nn, schedulers = md.nn, md.optim.schedulers
    takes = {"dim": nn.Softmax, "start_dim": nn.Flatten, "end_dim": nn.Flatten, "keepdim": md.Tensor.sum,
             "ignore_index": nn.CrossEntropyLoss, "elementwise_affine": nn.LayerNorm,
             "size_average": nn.CrossEntropyLoss, "reduce": nn.CrossEntropyLoss, "ddof": md.Tensor.var,
             "num_features": nn.BatchNorm, "normalized_shape": nn.LayerNorm,
             "embed_dim": nn.MultiHeadAttention, "num_heads": nn.MultiHeadAttention,
             "num_workers": md.data.DataLoader,
             "collate_fn": md.data.DataLoader, "prefetch_factor": md.data.DataLoader,
             "step_size": schedulers.step, "milestones": schedulers.multistep, "T_max": schedulers.cosine,
             "eta_min": schedulers.cosine, "total_steps": schedulers.onecycle, "total_iters": schedulers.poly,
             "max_norm": md.optim.clip_grad_norm}
    for name, hint in KEYWORDS.items():
        if own := re.fullmatch(r"it is (\w+) here", hint):
            assert own[1] in inspect.signature(takes[name]).parameters, name
