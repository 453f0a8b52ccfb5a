"""Training steps, on a CPU or a GPU: of minidrop and of PyTorch, of all models of bench_models.py.

Each has `step()`, which runs one training step (on a GPU: gives it to the device) and returns its kind, on
which its cost depends, and `weights()`, which says how to make one time of those of all kinds (see
in_turn.py). Data lie on the device beforehand.
"""

from contextlib import contextmanager, nullcontext
from statistics import mean

from bench_models import BATCHES, DROPS, make_solver, with_constant_weights

# isort: split
import numpy as np

from minidrop.autograd import Parameter, Tensor
from minidrop.backend.device_sets import DeviceGrid
from minidrop.config import decimal
from minidrop.functions.linear import linear
from minidrop.patterns import PatternSettings, get_family
from minidrop.patterns.draw import NOTHING, Blocks, Steps


class Choices:
    """Steps cost the same where each drop makes the same choice, say of its period."""

    def __init__(self, net):
        self.sites = list(net.drop_sites.values())

    def of(self, counter):
        """Return the choices of a step."""
        return "/".join(site.family.describe(site.sequence.choice_at(counter)) for site in self.sites)

    def weights(self):
        """Return how often each kind of step is drawn."""
        weights = {"": 1.0}
        for site in self.sites:
            choices = site.family.distribution
            shares = [(site.family.describe(choice), float(share))
                      for choice, share in zip(choices.choices, choices.probabilities, strict=True)]
            weights = {"/".join(filter(None, (a, b))): x * y for a, x in weights.items() for b, y in shares}
        return weights


class Shares:
    """What a step costs lies on a line through the mean share that its patterns keep."""

    def __init__(self, net):
        self.net = net

    def of(self, _counter):
        """Return the share of the step that has just been run."""
        drawn = [share for draw in self.net.draws.values() for share in _kept_shares(draw)]
        return float(mean(drawn)) if drawn else 1.0

    def weights(self):
        """Return the mean share, over all that is ever drawn."""
        sizes = [(drop, drop.site.steps or 1) for drop in self.net.plan.drops]      # a pattern a step, or one
        total = sum(size for _, size in sizes)
        return float(sum(size * drop.kept_share for drop, size in sizes) / total) if total else 1.0


def _kept_shares(draw):
    """Return what a draw keeps: a share for each step that has a pattern of its own, else one."""
    if isinstance(draw, Steps):
        return [kept.count / kept.total for kept in draw.by_step]
    return [1 - draw.pattern.rate]


class MinidropSteps:
    """Steps of a Solver of a model that drops by a method; `changes` are of its settings.

    On a GPU without `capture` each is given to the device piece by piece. With it, `step` returns None for
    one that was no mere launch of a graph: the first two of each form, which say nothing of the others.
    """

    def __init__(self, model, method, rate, device="cpu", precision=None, capture=True, by_share=None,
                 **changes):
        settings = model.settings(method, rate, capture_steps=capture, **changes)
        if device != "cpu":
            with_constant_weights(settings.net_param)
        self.solver = make_solver(settings, model.parse(method), device=device, precision=precision)
        self.net, self.backend = self.solver.net, self.solver.net.backend
        self.kinds = (Shares if (model.by_share if by_share is None else by_share) else Choices)(self.net)
        self.weights = self.kinds.weights
        with self.backend.active():
            self.batches = [{top: self.backend.asarray(array, self.net.dtype) for top, array in batch.items()}
                            for batch in model.batches()]
            if device != "cpu":
                # Random weights: multiplying constants takes less power, and so less time.
                self.backend.xp.random.seed(0)
                for weight in (parameter.data for parameter in self.net.parameters().values()):
                    if weight.ndim == 2:
                        normal = self.backend.xp.random.standard_normal(weight.shape)
                        weight[...] = normal * (2 / weight.shape[1]) ** 0.5

    @property
    def captured(self):
        """The solver's CapturedSteps where it captures; else None."""
        captured = self.solver.captured
        return captured if captured is not None and captured.active else None

    def _counts(self):
        return (self.captured.replayed, len(self.captured.graphs)) if self.captured else (0, 0)

    def step(self):
        counter, (launches, graphs) = self.solver.iteration, self._counts()
        self.net.set_inputs(**self.batches[counter % BATCHES])
        self.solver.step()
        return None if self.captured and self._counts() != (launches + 1, graphs) else self.kinds.of(counter)

    @contextmanager
    def piece_by_piece(self):
        """Within this context steps launch no graph: each product is asked for again."""
        captured = self.captured
        if captured is None:
            yield
            return
        before = captured.graphs, captured.launches
        captured.graphs, captured.launches = {}, False
        try:
            yield
        finally:
            captured.graphs, captured.launches = before

    def parameters(self):
        """Return the number of weights: the update reads and writes each, and its history."""
        return sum(parameter.data.size for parameter in self.net.parameters().values())

    def close(self):
        self.solver.close()


# -- PyTorch -------------------------------------------------------------------------------------------------
def torch_steps(model, *more, **options):
    """Return TorchSteps of a model: see there."""
    return (TorchLSTM if model.by_share else TorchMLP)(model, *more, **options)


class TorchSteps:
    """Steps in PyTorch as its users write it; with `compiled`, through torch.compile with CUDA graphs.

    note: what to know about its time.
    """

    note = ""

    def __init__(self, model, rate, device="cpu", precision="float32", compiled=False, fused=True):
        import torch
        self.torch, self.model, self.compiled = torch, model, compiled
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        lower = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        self.context = (lambda: torch.autocast(torch.device(device).type, lower)) if lower else nullcontext
        self.batches = [{name: torch.as_tensor(array, device=device) for name, array in batch.items()}
                        for batch in model.batches()]
        self.count, self.module = 0, torch.nn.Module()
        self.build(torch.nn, rate)
        self.module.to(device)
        self.parameters = list(self.module.parameters())
        self.optimizer = self.make_optimizer(torch.optim, fused or None)
        self.forward = self.loss
        if compiled:
            # Each network by itself: after another one it would compile for any size.
            torch.compiler.reset()
            self.forward = torch.compile(self.loss, mode="reduce-overhead", dynamic=False)

    def step(self):
        self.optimizer.zero_grad()
        with self.context():
            loss = self.forward(*self.batch(), *self.draw())
        loss.backward()
        self.update()
        self.count += 1
        return ""

    def batch(self):
        """Return what `loss` is given first: the arrays of this step's batch."""
        return self.batches[self.count % BATCHES].values()

    def draw(self):
        """Return what `loss` is given of this step besides its batch."""
        return ()

    def update(self):
        self.optimizer.step()

    def weights(self):
        return {"": 1.0}

    def close(self):
        self.batches = None


class TorchMLP(TorchSteps):
    """nn.Linear, nn.ReLU, nn.Dropout, optim.SGD."""

    def build(self, nn, rate):
        widths, layers = (self.model.inputs, *self.model.sizes), []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(rate)]
        self.module.net = nn.Sequential(*layers, nn.Linear(widths[-1], self.model.classes))

    def make_optimizer(self, optim, fused):
        solver = self.model.settings("Dropout", 0.5)
        return optim.SGD(self.parameters, lr=decimal(solver.base_lr), momentum=decimal(solver.momentum),
                         weight_decay=decimal(solver.weight_decay), fused=fused)

    def loss(self, data, label):
        return self.torch.nn.functional.cross_entropy(self.module.net(data), label)


class TorchRecurrent(TorchSteps):
    """Gradients clipped to a norm; optim.SGD or optim.Adam."""

    def make_optimizer(self, optim, fused):
        solver = self.model.settings("Dropout", 0.5)
        more = {} if solver.type == "Adam" else {"momentum": decimal(solver.momentum)}
        self.clip = decimal(solver.clip_gradients)
        return getattr(optim, solver.type)(self.parameters, lr=decimal(solver.base_lr), fused=fused, **more)

    def update(self):
        self.torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()


class TorchLSTM(TorchRecurrent):
    """nn.Embedding, nn.LSTM (cuDNN's), nn.Linear."""

    def build(self, nn, rate):
        model, layers, words = self.model, self.model.layers("LSTM"), self.model.words
        width, units = model.layers("Embed")[0].embed_param.num_output, layers[0].recurrent_param.num_output
        self.module.embed, self.module.scores = nn.Embedding(words, width), nn.Linear(units, words)
        self.module.lstm = nn.LSTM(width, units, len(layers), dropout=rate)
        self.drop = nn.Dropout(rate)
        self.first_drop = self.drop if len(model.layers(*DROPS)) > len(layers) else nn.Identity()
        for parameter in self.module.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        zeros = self.torch.zeros(len(layers), model.text.batch_size, units,
                                 device=self.batches[0]["data"].device)
        self.state = zeros, zeros

    def loss(self, data, label, _cont):
        h, state = self.module.lstm(self.first_drop(self.module.embed(data)), self.state)
        self.state = tuple(part.detach() for part in state)
        scores = self.module.scores(self.drop(h))
        return self.torch.nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten())


# -- one product ---------------------------------------------------------------------------------------------
class BlockProduct:
    """Forward and both gradients of y = x W^T, size^3, with blocks of x dropped (SparseDrop's curve).

    Where the device captures and has kernels that skip dropped blocks it is, as in a captured step, one
    launch, which reads from one table what lives. Piece by piece the host would be what is measured.
    """

    def __init__(self, backend, size, rate, block=128):
        self.backend = backend
        family = get_family(PatternSettings(rate, "BLOCK", block_samples=block, block_units=block))
        with backend.active():
            normal = backend.xp.random.standard_normal
            arrays = [backend.asarray(normal((size, size)), np.float32) for _ in range(3)]
        self.x, self.W = Tensor(arrays[0], True, backend), Parameter(arrays[1], backend)
        self.gy, self.rate, self.count, self.graph = arrays[2], rate, 0, None
        # Of each draw the same sparsity in the mean; eight take turns.
        self.draws = [Blocks(family.pattern("blocks", draw), size, 1 / (1 - rate))
                      for draw in range(BATCHES)] if rate else [NOTHING]
        with backend.active():
            if backend.captures and (not rate or backend.block_products(arrays[0].dtype)):
                self._capture()

    def _capture(self):
        draw = self.draws[0]
        if self.rate:
            grids = [one.grid(len(self.x.data)) for one in self.draws]
            self.tables = [self.backend.asarray(grid.lives) for grid in grids]
            self.lives = self.tables[0].copy()
            draw = draw.given(DeviceGrid(self.lives, *grids[0].block_shape))
        self._work(draw)        # compiles
        self.graph = self.backend.capture(lambda: self._work(draw))

    def _work(self, draw):
        self.x.clear_grad()
        self.W.clear_grad()
        linear(self.x, self.W, scale=draw.scale, inputs=draw).backward(self.gy)

    def step(self):
        draw = self.count % len(self.draws)
        with self.backend.active():
            if self.graph is None:
                self._work(self.draws[draw])
            else:
                if self.rate:
                    self.lives[...] = self.tables[draw]
                self.graph.launch()
        self.count += 1
        return ""

    def weights(self):
        return {"": 1.0}

    def close(self):
        pass
