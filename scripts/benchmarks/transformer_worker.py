"""The processes of bench_transformer.py, each of one method: see in_turn.py.

    transformer_worker.py net METHOD NET RATE           training steps; METHOD of transformer_nets.py, "torch
                                                        METHOD" or "compiled METHOD"
    transformer_worker.py attention WHO STEPS BATCH     attention alone; WHO minidrop or torch
    transformer_worker.py product METHOD SIZE RATE      one product; METHOD of PRODUCTS, or "torch METHOD"
    transformer_worker.py compiles                      prints why torch.compile works not; nothing if it does
"""

import sys
from dataclasses import dataclass
from functools import partial

from bench_steps import TorchSteps
from conv_layers import MinidropLayer, TorchLayer
from conv_worker import NetSteps
from in_turn import serve
from transformer_nets import find_net

# isort: split
import numpy as np

from minidrop import functions
from minidrop.autograd import Parameter, Tensor
from minidrop.backend import get_backend
from minidrop.config import decimal
from minidrop.functions.attention import computed_scores
from minidrop.kernels import threads
from minidrop.patterns import DropSite, PatternSettings

WIDTH, HEADS = 1024, 8
PRODUCTS = ("dense", "Dropout", "PERIODIC", "BLOCK")


# -- nets ----------------------------------------------------------------------------------------------------
class TorchNetSteps(TorchSteps):
    """Steps of the same net in PyTorch: optim.AdamW, fused; `compiled` by torch.compile."""

    def __init__(self, model, method, rate, compiled=False):
        self.method = method
        super().__init__(model, rate)
        if model.is_text:                       # (streams, steps), as PyTorch's users have them
            self.batches = [{name: array.T.contiguous() for name, array in batch.items()}
                            for batch in self.batches]
        if compiled:
            self.forward = self.torch.compile(self.loss, dynamic=False)

    def build(self, nn, rate):
        self.module.net = self.model.torch_net(self.method, rate)

    def make_optimizer(self, optim, fused):
        solver = self.model.settings(self.method)
        decay, groups = decimal(solver.weight_decay), {True: [], False: []}
        for parameter in self.parameters:
            groups[parameter.ndim >= solver.decay_axes].append(parameter)
        return optim.AdamW([{"params": own, "weight_decay": decay * decays}
                            for decays, own in groups.items() if own], lr=decimal(solver.base_lr),
                           betas=(decimal(solver.momentum), decimal(solver.momentum2)), fused=fused)

    def loss(self, data, label):
        return self.module.net.loss(data, label)


def net_steps(method, model, rate):
    """Return the steps of a method, or of its peer."""
    peer, _, own = method.rpartition(" ")
    if not peer:
        return NetSteps(model, own, float(rate))
    return TorchNetSteps(model, own, float(rate), peer == "compiled")


def why_not_compiled():
    """Return why torch.compile does not work here, a line; "" if it does."""
    try:
        TorchNetSteps(find_net("gpt_tiny"), "conventional", 0.5, compiled=True).step()
    except Exception as error:      # of any kind: there may be no compiler, or one that fails
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else ''}".replace("\n", " ")
    return ""


# -- attention alone -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AttentionCase:
    """Causal attention of 8 heads of 128; q, k and v have gradients."""

    steps: int
    is_first = False

    def arrays(self, batch):
        """Return q, k and v (steps, batch, width)."""
        rng = np.random.default_rng(0)
        return [rng.standard_normal((self.steps, batch, WIDTH), np.float32) for _ in range(3)]

    def operations(self, batch):
        """Return the operations of both products and of the four of the backward pass, tiles as they are."""
        return 6 * 2 * batch * WIDTH * computed_scores(self.steps, self.steps, True)


class MinidropAttention(MinidropLayer):
    """functions.attention."""

    def build(self, arrays):
        self.backend = get_backend("cpu")
        self.tensors = [Tensor(array, True, self.backend) for array in arrays]
        self.forward = partial(functions.attention, *self.tensors, heads=HEADS, causal=True)


class TorchAttention(TorchLayer):
    """scaled_dot_product_attention; q, k and v are views (streams, heads, steps, size)."""

    def build(self, arrays):
        import torch
        self.to_own = torch.from_numpy
        self.tensors = [torch.from_numpy(array.transpose(1, 0, 2).copy()).requires_grad_()
                        for array in arrays]
        self.attend = torch.nn.functional.scaled_dot_product_attention

    def forward(self):
        streams, steps, _ = self.tensors[0].shape
        q, k, v = (x.view(streams, steps, HEADS, -1).transpose(1, 2) for x in self.tensors)
        return self.attend(q, k, v, is_causal=True).transpose(1, 2).reshape(streams, steps, WIDTH)

    def gradients(self):
        return [x.grad.transpose(0, 1).numpy() for x in self.tensors]


# -- one product ---------------------------------------------------------------------------------------------
class ProductSteps:
    """Forward and both gradients of y = drop(x) W^T, all size x size: SparseDrop's curve.

    x is dense: with PERIODIC what is kept of it is gathered first, and its gradient put back.
    """

    def __init__(self, method, size, rate):
        self.method, self.rate, self.count = method, rate, 0
        self.backend = backend = get_backend("cpu")
        x, W, self.gy = product_arrays(size)
        self.x, self.W = Tensor(x, True, backend), Parameter(W, backend)
        if method in PRODUCTS[2:]:
            self.site = DropSite("drop", PatternSettings(rate, method), 0)
            self.site.shape(size)

    def forward(self):
        if self.method == "dense":
            return functions.linear(self.x, self.W)
        if self.method == "Dropout":
            return functions.linear(functions.dropout(self.x, self.rate, self.count), self.W)
        draw = self.site.draw(self.count)
        if self.method == "BLOCK":
            return functions.linear(self.x, self.W, scale=draw.scale, inputs=draw)
        return functions.linear(functions.approx_dropout(self.x, draw), self.W)

    def step(self):
        self.x.clear_grad()
        self.W.clear_grad()
        self.forward().backward(self.gy)
        self.count += 1
        return ""

    def weights(self):
        return {"": 1.0}


class TorchProductSteps:
    """The same by nn.functional: dense, or behind dropout."""

    def __init__(self, method, size, rate):
        import torch
        self.x, self.W, self.gy = map(torch.from_numpy, product_arrays(size))
        self.x.requires_grad_()
        self.W.requires_grad_()
        self.functional, self.rate = torch.nn.functional, rate if method == "Dropout" else 0

    def step(self):
        self.x.grad = self.W.grad = None
        x = self.functional.dropout(self.x, self.rate) if self.rate else self.x
        self.functional.linear(x, self.W).backward(self.gy)
        return ""

    def weights(self):
        return {"": 1.0}


def product_arrays(size):
    """Return x, W and the gradient of y."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((size, size), np.float32) for _ in range(3)]


def main(command, *arguments):
    if command == "compiles" or arguments[0].startswith(("torch", "compiled")):
        import torch
        torch.set_num_threads(threads.COUNT)
    if command == "net":
        method, net, rate = arguments
        serve(net_steps(method, find_net(net), rate))
    elif command == "attention":
        who, steps, batch = arguments
        kind = TorchAttention if who == "torch" else MinidropAttention
        serve(kind(AttentionCase(int(steps)), int(batch)))
    elif command == "product":
        method, size, rate = arguments
        peer, _, own = method.rpartition(" ")
        serve((TorchProductSteps if peer else ProductSteps)(own, int(size), float(rate)))
    else:
        print(why_not_compiled())


if __name__ == "__main__":
    main(*sys.argv[1:])
