"""Who writes a name of PyTorch's or Keras's that is none here is told what to write."""

import re

import pytest
from cases import in_turn

import minidrop as md
from minidrop.functions.torch_names import FUNCTIONS, HINTS, TOP
from minidrop.nn import torch_names

MODULES = {"md": md, "nn": md.nn, "F": md.functions}


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
])
def test_a_name_that_is_missing_says_what_to_write(module, name, words):
    with pytest.raises(AttributeError, match=re.escape(words)) as caught:
        getattr(module, name)
    assert caught.value.name == name and not hasattr(module, name)


@in_turn("hints, module", [(HINTS, md.Tensor), (FUNCTIONS, md.functions), (TOP, md),
                           (torch_names.HINTS, md.nn)])
def test_hints_name_what_there_is(hints, module):
    """And what is there needs none."""
    for name, hint in hints.items():
        assert module is md.Tensor or not hasattr(module, name), name
        for home, inside in re.findall(r"\b(md|nn|F)\.(\w+(?:\.\w+)*)", hint):
            found = MODULES[home]
            for part in inside.split("."):
                found = getattr(found, part)
