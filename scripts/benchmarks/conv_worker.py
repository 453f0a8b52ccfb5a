"""The processes of bench_conv.py, each of one method: conv_worker.py COMMAND ..., see in_turn.py.

    conv_worker.py net METHOD NET RATE          training steps; METHOD of conv_nets.py, or "torch METHOD"
    conv_worker.py layer WHO CASE BATCH         a layer of conv_layers.py; WHO minidrop or torch
    conv_worker.py product                      a product of matrices, by NumPy's BLAS
    conv_worker.py memory METHOD NET RATE       prints what a training takes
"""

import ctypes
import gc
import json
import resource
import sys
from contextlib import suppress
from dataclasses import replace

from bench_steps import MinidropSteps, TorchSteps
from conv_layers import CASES, MinidropLayer, TorchLayer
from conv_nets import find_net
from in_turn import serve
from torch_net import TorchNet

# isort: split
import numpy as np

from minidrop.backend import get_backend
from minidrop.config import decimal
from minidrop.kernels import threads

PRODUCT_SIZE = 1536
MEMORY_STEPS = 3


class NetSteps(MinidropSteps):
    """Steps of minidrop. The widths that a drop draws differ by one unit, so all steps count as alike."""

    def __init__(self, model, method, rate):
        super().__init__(model, method, rate)
        self.kinds, self.weights = self, lambda: {"": 1.0}

    def of(self, _counter):
        return ""


class TorchNetSteps(TorchSteps):
    """Steps of a TorchNet: optim.SGD, fused where this version of PyTorch has that on a CPU."""

    def __init__(self, model, method, rate):
        self.method = method
        super().__init__(model, rate)

    def build(self, nn, rate):
        self.net = TorchNet(self.model.net(self.method, rate))
        self.module.net = self.net.module

    def make_optimizer(self, optim, fused):
        solver = self.model.settings(self.method)
        options = {"lr": decimal(solver.base_lr), "momentum": decimal(solver.momentum),
                   "weight_decay": decimal(solver.weight_decay)}
        try:
            return optim.SGD(self.parameters, fused=fused, **options)
        except (RuntimeError, TypeError):
            return optim.SGD(self.parameters, **options)

    def loss(self, data, label):
        return self.net.loss(data=data, label=label)


class Product:
    """A product of square float32 matrices, by whose rate operations become a time."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.a, self.b = (rng.standard_normal((PRODUCT_SIZE,) * 2, np.float32) for _ in range(2))
        self.y = self.a.copy()

    def step(self):
        self.a.dot(self.b, out=self.y)
        return ""

    def weights(self):
        return {"": 1.0}


def net_steps(method, model, rate):
    """Return the steps of a method, or of its peer."""
    peer, _, own = method.rpartition(" ")
    return (TorchNetSteps if peer else NetSteps)(model, own, float(rate))


# -- memory --------------------------------------------------------------------------------------------------
def memory(method, model, rate):
    """Return MiB: {"before" a net is built, "built": with it, "peak": of its steps}.

    Steps with one image come first: they load and compile what the others need.
    """
    net_steps(method, replace(model, batch=1), rate).step()
    gc.collect()
    get_backend("cpu").trim()                       # minidrop keeps large buffers to use them again
    with suppress(OSError, AttributeError):         # only glibc gives memory back on request
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")                             # the peak begins anew
    before = _mib("VmRSS")
    steps = net_steps(method, model, rate)
    built = _mib("VmRSS")
    for _ in range(MEMORY_STEPS):
        steps.step()
    return {"before": before, "built": built, "peak": _mib("VmHWM")}


def _mib(field):
    """Return a number of /proc/self/status; elsewhere the peak of the process.

    (ru_maxrss counts also what the process that started this one had in use then.)
    """
    with suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(command, *arguments):
    if any(argument.startswith("torch") for argument in arguments):
        import torch
        torch.set_num_threads(threads.COUNT)
    if command == "net":
        method, net, rate = arguments
        serve(net_steps(method, find_net(net), rate))
    elif command == "layer":
        who, case, batch = arguments
        steps = (TorchLayer if who == "torch" else MinidropLayer)(CASES[case], int(batch))
        serve(steps, forward=lambda count: steps.forward_seconds[-count:])
    elif command == "product":
        serve(Product())
    else:
        method, net, rate = arguments
        print(json.dumps(memory(method, find_net(net), rate)))


if __name__ == "__main__":
    main(*sys.argv[1:])
