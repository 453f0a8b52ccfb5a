"""The peers of bench_mlp.py and bench_lstm.py: what a user would write in PyTorch or JAX instead.

    torch       nn.Dropout, nn.LSTM for all layers, optim.SGD or optim.Adam; with fused=True as well. Of nets
                of sentences there is this peer alone (torch_text.py)
    handmade    structured dropout by hand: the kept rows and columns of the weights are gathered, and the
                products are those of PyTorch on what is left. The same units as minidrop's PERIODIC with one
                group drops, drawn by minidrop, so the method that computes the same is measured beside
    compile     both of these through torch.compile; where it fails they run eagerly, and a line says so
    jax         perceptrons, jitted: ordinary dropout, and the same compaction by hand

All update every weight, with momentum and weight decay. PyTorch and JAX are imported where they are used.
"""

from functools import partial
from importlib.util import find_spec

import minidrop as md

# isort: split
import numpy as np
from bench_models import BATCHES, SentenceModel
from bench_steps import Choices, TorchLSTM, TorchMLP, torch_steps
from torch_text import sentence_steps

from minidrop.config import decimal

PEERS = {"torch": ("torch", "torch fused"), "handmade": ("torch handmade",),
         "compile": ("torch compile", "torch handmade compile"), "jax": ("jax", "jax handmade")}
ALL = tuple(method for methods in PEERS.values() for method in methods)
PACKAGES = {"torch": ("PyTorch", "pip install 'minidrop[peers]'"), "jax": ("JAX", "pip install jax")}


def missing(peer):
    """Return what to install for a peer; "" if nothing is missing."""
    package = PEERS[peer][0].split()[0]
    name, command = PACKAGES[package]
    return "" if find_spec(package) else f"--peer {peer} needs {name}: {command}"


def peer_steps(method, model, rate):
    """Return the steps of one of ALL, as those of bench_steps.py; `note`: what to know about its time."""
    words = method.split()[1:]
    if method.startswith("jax"):
        return JaxMLP(model, rate, "handmade" in words)
    if "handmade" in words:
        make = partial(HandmadeLSTM if model.by_share else HandmadeMLP, model, rate)
    else:
        kind = sentence_steps if isinstance(model, SentenceModel) else torch_steps
        make = partial(kind, model, rate, fused=method != "torch")
    return compiled(make) if "compile" in words else make()


def compiled(make):
    """Return make(compiled=True), or where torch.compile fails make(), with the reason as its `note`."""
    steps = make(compiled=True)
    try:
        for _ in range(BATCHES):        # what is compiled later, for another pattern, is not timed
            steps.step()
    except Exception as error:      # of dynamo, of the code generator, of the C++ compiler
        steps = make()
        reason = (str(error).strip().splitlines() or [""])[0]
        steps.note = f"eager: torch.compile fails with {type(error).__name__}: {reason[:160]}"
    return steps


class DrawnUnits:
    """Which units live in each iteration, at every drop of a model: minidrop's own draws of one group.

    index: makes a framework's array of NumPy's; once for each pattern, of which there are few. padded: how
    many live depends on where a pattern begins if its step does not divide the axis, and a compiler would
    compile for each number. So a few units more are computed, as many as ever live, and multiplied by 0.
    """

    dtype = np.float32      # of factors

    def __init__(self, model, rate, index, padded=False):
        # allocates nothing
        net = md.Net(model.net(model.one_group, rate), "TRAIN", "cpu", seed=0, fills=False)
        self.sites, self.index, self.known = list(net.drop_sites.values()), index, {}
        self.kinds, self.padded = Choices(net), padded

    def at(self, iteration):
        """Return [(indices of the units that live, or None for all; what they are multiplied by)]."""
        return [self._known(site.draw(iteration)) for site in self.sites]

    def _known(self, draw):
        if draw.kept is None:
            return None, draw.scale
        if draw.kept not in self.known:
            indices, factor = draw.kept.indices.copy(), draw.scale
            if self.padded:
                lives = draw.kept.mask(bool)
                more = np.flatnonzero(~lives)[:most_that_live(draw) - len(indices)]
                indices = np.sort(np.concatenate([indices, more]))
                factor = self.index(np.where(lives[indices], factor, 0).astype(self.dtype))
            self.known[draw.kept] = self.index(indices), factor
        return self.known[draw.kept]


def most_that_live(draw):
    """Return how many units a regular pattern keeps at most, wherever it begins."""
    pattern, total = draw.pattern, draw.kept.total
    return total // pattern.step * pattern.width + min(pattern.width, total % pattern.step)


# -- PyTorch -------------------------------------------------------------------------------------------------
class Handmade:
    """Steps of PyTorch whose `loss` is given what lives, behind the batch."""

    def build(self, nn, rate):
        super().build(nn, rate)
        device = self.batches[0]["data"].device
        self.units = DrawnUnits(self.model, rate, partial(self.torch.as_tensor, device=device),
                                self.compiled)
        self.weights = self.units.kinds.weights

    def draw(self):
        return self.units.at(self.count)

    def step(self):
        kind = self.units.kinds.of(self.count)
        super().step()
        return kind

    def gathered(self, W, rows=None, cols=None):
        """Return what lives of a matrix or vector. index_select: its gradient is the fastest of all ways."""
        W = W if rows is None else W.index_select(0, rows)
        return W if cols is None else W.index_select(1, cols)


class HandmadeMLP(Handmade, TorchMLP):
    """Every nn.Linear computes the units that live, from those that live below."""

    def loss(self, data, label, *drawn):
        functional = self.torch.nn.functional
        layers, x, below = [one for one in self.module.net if hasattr(one, "weight")], data, None
        for layer, (rows, scale) in zip(layers, (*drawn, (None, None)), strict=True):
            x = functional.linear(x, self.gathered(layer.weight, rows, below),
                                  self.gathered(layer.bias, rows))
            if layer is not layers[-1]:
                x, below = functional.relu(x) * scale, rows
        return functional.cross_entropy(x, label)


class HandmadeLSTM(Handmade, TorchLSTM):
    """PyTorch's own loop over the steps, a layer at a time: its input and weights are those that live."""

    def loss(self, data, label, _cont, *drawn):
        functional, lstm = self.torch.nn.functional, self.module.lstm
        drawn = list(drawn) if len(drawn) > lstm.num_layers else [(None, 1.0), *drawn]
        x, states = self.module.embed(data), []
        for layer, own in enumerate(lstm.all_weights):
            x, cols = self.alive(x, drawn[layer])
            weights = [self.gathered(own[0], cols=cols), *own[1:]]
            state = [part[layer:layer + 1] for part in self.state]
            x, *state = self.torch.lstm(x, state, weights, True, 1, 0.0, True, False, False)
            states.append(state)
        self.state = tuple(self.torch.cat(parts).detach() for parts in zip(*states, strict=True))
        x, cols = self.alive(x, drawn[-1])
        scores = functional.linear(x, self.gathered(self.module.scores.weight, cols=cols),
                                   self.module.scores.bias)
        return functional.cross_entropy(scores.flatten(0, 1), label.flatten())

    def alive(self, x, drawn):
        """Return (the entries of x that live, scaled; which they are)."""
        cols, scale = drawn
        return (x if cols is None else x.index_select(2, cols) * scale), cols


# -- JAX -----------------------------------------------------------------------------------------------------
class JaxMLP:
    """A perceptron as a jitted step: value_and_grad, and SGD with momentum in the same computation."""

    note = ""

    def __init__(self, model, rate, handmade=False):
        import jax
        self.jax, self.rate, self.count = jax, rate, 0
        solver, rng = model.settings("Dropout", rate), np.random.default_rng(0)
        self.numbers = [decimal(getattr(solver, name)) for name in ("base_lr", "momentum", "weight_decay")]
        self.parameters = []
        for a, b in zip((model.inputs, *model.sizes), (*model.sizes, model.classes), strict=True):
            bound = a ** -0.5       # nn.Linear's
            self.parameters.append((jax.numpy.asarray(rng.uniform(-bound, bound, (b, a)), np.float32),
                                    jax.numpy.asarray(rng.uniform(-bound, bound, b), np.float32)))
        self.history = jax.tree.map(jax.numpy.zeros_like, self.parameters)
        self.batches = [[jax.numpy.asarray(array) for array in batch.values()] for batch in model.batches()]
        self.units = DrawnUnits(model, rate, jax.numpy.asarray, True) if handmade else None
        self.key, self.advance = jax.random.key(0), jax.jit(self._advance, donate_argnums=(0, 1))

    def draw(self, count):
        """Return what a step draws on the host: what lives, or the number of the step."""
        return self.units.at(count) if self.units else count

    def step(self):
        count = self.count
        self.parameters, self.history = self.advance(
            self.parameters, self.history, self.draw(count), *self.batches[count % BATCHES])
        self.jax.block_until_ready(self.parameters)
        self.count += 1
        return self.units.kinds.of(count) if self.units else ""

    def weights(self):
        return self.units.kinds.weights() if self.units else {"": 1.0}

    def loss(self, parameters, drawn, data, label):
        """Return the loss of a batch; JAX compiles it for each number of units that live."""
        scores = (self.compact if self.units else self.dense)(parameters, drawn, data)
        chosen = self.jax.numpy.take_along_axis(self.jax.nn.log_softmax(scores), label[:, None], 1)
        return -chosen.mean()

    def dense(self, parameters, count, x):
        """Return the scores with ordinary dropout."""
        random, key = self.jax.random, self.jax.random.fold_in(self.key, count)
        for i, (W, b) in enumerate(parameters[:-1]):
            x = self.jax.nn.relu(x @ W.T + b)
            lives = random.bernoulli(random.fold_in(key, i), 1 - self.rate, x.shape)
            x = self.jax.numpy.where(lives, x / (1 - self.rate), 0)
        W, b = parameters[-1]
        return x @ W.T + b

    def compact(self, parameters, drawn, x):
        """Return the scores of what lives."""
        below = None
        for (W, b), (rows, scale) in zip(parameters[:-1], drawn, strict=True):
            x = self.jax.nn.relu(x @ self.gathered(self.gathered(W, rows, 0), below, 1).T
                                 + self.gathered(b, rows, 0)) * scale
            below = rows
        W, b = parameters[-1]
        return x @ self.gathered(W, below, 1).T + b

    def gathered(self, W, kept, axis):
        """Return what lives of one axis; that indices ascend lets XLA scatter the gradient as it comes."""
        return W if kept is None else self.jax.numpy.take(W, kept, axis, mode="clip", unique_indices=True,
                                                          indices_are_sorted=True)

    def _advance(self, parameters, history, drawn, data, label):
        lr, momentum, decay = self.numbers
        gradients = self.jax.grad(self.loss)(parameters, drawn, data, label)
        history = self.jax.tree.map(lambda w, h, g: momentum * h + lr * (g + decay * w),
                                    parameters, history, gradients)
        return self.jax.tree.map(lambda w, h: w - h, parameters, history), history

    def close(self):
        self.batches = None
