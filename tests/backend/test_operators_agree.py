"""Operators of tensors on the device are those on the CPU: values and gradients."""

import numpy as np
import pytest
from cases import in_turn
from operator_cases import PAIRS, SHARED, numbers

from minidrop import Kept, Tensor, functions
from minidrop.autograd import backward

CASES = SHARED | {name: (lambda *xs, call=call: call(functions, functions, *xs), *arrays)
                  for name, (call, *arrays) in PAIRS.items()}
KEPT = Kept(0, 2, 1, 7)


@pytest.fixture(params=["emulated", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request):
    """The emulated device runs the GPU's overrides on the host."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated_cuda")()
    return request.getfixturevalue("backend_of_name")(request.param)


def run(function, arrays, on, kept=None):
    with on.active():
        tensors = [Tensor(on.asarray(a), np.asarray(a).dtype.kind == "f", on) for a in arrays]
        first = tensors[0] if kept is None else functions.take(tensors[0], kept)
        y = function(first, *tensors[1:])
        y = y if isinstance(y, tuple) else (y,)
        gys = [on.asarray(numbers(*one.shape).astype(one.dtype)) for one in y]
        backward([(one, on.compact(gy, one.kept, one.kept_axis)) for one, gy in zip(y, gys, strict=True)
                  if one.requires_grad])
        return [one.numpy() for one in y], [None if x.grad is None else on.to_host(x.grad) for x in tensors]


@in_turn("name", CASES)
def test_an_operator(backend_of_name, device, name):
    function, *arrays = CASES[name]
    agree(run(function, arrays, backend_of_name("cpu")), run(function, arrays, device))


@in_turn("name", [name for name, case in CASES.items() if np.shape(case[1]) == (4, 7)
                  and not any(word in name for word in ("log", "sqrt", "**", "/ x", "std", "kl_div"))])
def test_an_operator_of_a_compact_tensor(backend_of_name, device, name):
    function, *arrays = CASES[name]
    agree(run(function, arrays, backend_of_name("cpu"), KEPT), run(function, arrays, device, KEPT))


def agree(expected, found):
    for ours, theirs in zip(expected[0] + expected[1], found[0] + found[1], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)
