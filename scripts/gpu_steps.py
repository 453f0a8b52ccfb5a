"""Training steps on a GPU for bench_gpu.py: of minidrop and of PyTorch, of multilayer perceptrons and
language models.

Each has `step()`, which gives one training step to the device and returns its kind, and `weights()`, how
often each kind is drawn. Data lie on the device beforehand.
"""

from contextlib import contextmanager, nullcontext

import numpy as np
from bench_mlp import CLASSES, DECAY, INPUTS, MOMENTUM, RATE
from drop_methods import parse_method

BATCHES = 8


class MinidropSteps:
    """Steps of a Solver whose net has an Input layer; `batches`: {top: array} in turn.

    Without `capture` each is given to the device piece by piece. With it, `step` returns None for one that
    was no mere launch of a graph: the first two of each form, which say nothing of the others.
    """

    def __init__(self, settings, batches, device, precision, capture=True):
        import minidrop as md
        from minidrop.config import SolverParameter
        settings = SolverParameter.FromString(settings.SerializeToString())
        settings.capture_steps = capture
        self.solver = md.Solver(settings, device=device, precision=precision)
        self.net, self.backend = self.solver.net, self.solver.net.backend
        self.input = next(layer for layer in self.net.layers.values() if layer.type == "Input")
        with self.backend.active():
            self.batches = [{top: self.backend.asarray(array, self.net.dtype) for top, array in batch.items()}
                            for batch in batches]
            # Random numbers, made where they are needed: multiplying constants takes less power, and so less
            # time.
            self.backend.xp.random.seed(0)
            for parameter in self.net.parameters().values():
                if parameter.data.ndim == 2:
                    shape = parameter.data.shape
                    parameter.data[...] = self.backend.xp.random.standard_normal(shape) * (2
                                                                                           / shape[1]) ** 0.5
        self.sites = list(self.net.drop_sites.values())

    @property
    def captured(self):
        """The solver's CapturedSteps where it captures; else None."""
        captured = self.solver.captured
        return captured if captured is not None and captured.active else None

    def _counts(self):
        return (self.captured.replayed, len(self.captured.graphs)) if self.captured else (0, 0)

    def step(self):
        counter, (launches, graphs) = self.solver.iteration, self._counts()
        self.input.give(self.batches[counter % BATCHES])
        self.solver.step()
        if self.captured and self._counts() != (launches + 1, graphs):
            return None
        return "/".join(site.family.describe(site.sequence.choice_at(counter)) for site in self.sites)

    @contextmanager
    def piece_by_piece(self):
        """Within this context steps do what the graphs do, but launch none: each product is asked for
        again."""
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

    def weights(self):
        weights = {"": 1.0}
        for site in self.sites:
            choices = site.family.distribution
            shares = [(site.family.describe(choice), float(share))
                      for choice, share in zip(choices.choices, choices.probabilities, strict=True)]
            weights = {"/".join(filter(None, (a, b))): x * y for a, x in weights.items() for b, y in shares}
        return weights

    def parameters(self):
        """The number of weights: the update reads and writes each, and its history."""
        return sum(parameter.data.size for parameter in self.net.parameters().values())

    def close(self):
        self.solver.close()


def mlp_settings(method, sizes, rate, batch):
    """Return the SolverParameter of a 784-h1-...-10 network that drops by a method."""
    import minidrop as md
    from minidrop.config import SolverParameter
    kind, settings = parse_method(method)
    net = md.NetSpec("mlp")
    net.add("Input", "in", top=["data", "label"], shape=[[batch, INPUTS], [batch]])
    bottom = "data"
    for i, outputs in enumerate((*sizes, CLASSES), 1):
        net.add("InnerProduct", f"ip{i}", bottom, num_output=outputs, weight_filler={"type": "constant"})
        if i <= len(sizes):
            net.add("ReLU", f"relu{i}", f"ip{i}", f"ip{i}")
            net.add(kind, f"drop{i}", f"ip{i}", f"ip{i}", dropout_ratio=rate, **settings)
        bottom = f"ip{i}"
    net.add("SoftmaxWithLoss", "loss", [f"ip{len(sizes) + 1}", "label"])
    return SolverParameter(base_lr=RATE, lr_policy="fixed", momentum=MOMENTUM, weight_decay=DECAY,
                           max_iter=10**9, random_seed=0, net_param=net.to_proto())


def mlp_batches(batch):
    rng = np.random.default_rng(0)
    return [{"data": rng.random((batch, INPUTS), np.float32), "label": rng.integers(0, CLASSES, batch)}
            for _ in range(BATCHES)]


def lstm_settings(model, method, rate):
    """Return the SolverParameter of a language model of models/ that drops by a method of lstm_models.py."""
    from lstm_models import language_model, solver_settings
    net = language_model(model, method, rate)
    for layer in net.layer:
        for part in ("inner_product_param", "recurrent_param", "embed_param"):
            if layer.HasField(part):
                getattr(layer, part).weight_filler.type = "constant"
    return solver_settings(model, net, 10**9, base_lr=1e-3, lr_policy="fixed", random_seed=0)


def token_batches(model):
    rng, shape = np.random.default_rng(0), (model.text.steps, model.text.batch_size)
    words = model.layers("Embed")[0].embed_param.input_dim
    return [{"data": rng.integers(words, size=shape), "label": rng.integers(words, size=shape),
             "cont": np.ones(shape)}
            for _ in range(BATCHES)]


# -- PyTorch -------------------------------------------------------------------------------------------------
class TorchSteps:
    """Steps of a PyTorch network as its users write it; with `compiled`, through torch.compile with CUDA
    graphs."""

    def __init__(self, batches, device, precision, compiled):
        import torch
        self.torch, self.device = torch, device
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        lower = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        self.context = (lambda: torch.autocast(torch.device(device).type, lower)) if lower else nullcontext
        self.batches = [{name: torch.as_tensor(array, device=device) for name, array in batch.items()}
                        for batch in batches]
        self.count, self.state = 0, None
        self.build(torch.nn)
        self.parameters_ = [p for module in self.modules for p in module.parameters()]
        self.optimizer = self.make_optimizer(torch.optim)
        self.forward = self.loss
        if compiled:
            # Each network by itself: what was compiled before would make it guess that sizes change, and
            # compile for any.
            torch.compiler.reset()
            self.forward = torch.compile(self.loss, mode="reduce-overhead", dynamic=False)

    def step(self):
        batch = self.batches[self.count % BATCHES]
        self.count += 1
        self.optimizer.zero_grad()
        with self.context():
            loss = self.forward(*batch.values())
        loss.backward()
        self.update()
        return ""

    def update(self):
        self.optimizer.step()

    def weights(self):
        return {"": 1.0}

    def close(self):
        self.batches = None


class TorchMLP(TorchSteps):
    """nn.Linear, nn.ReLU, nn.Dropout, optim.SGD with its fused kernel."""

    def __init__(self, sizes, rate, batch, *more):
        self.sizes, self.rate = sizes, rate
        super().__init__(mlp_batches(batch), *more)

    def build(self, nn):
        widths, layers = (INPUTS, *self.sizes), []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(self.rate)]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES)).to(self.device)
        self.modules = [self.net]

    def make_optimizer(self, optim):
        return optim.SGD(self.parameters_, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)

    def loss(self, data, label):
        return self.torch.nn.functional.cross_entropy(self.net(data), label)


class TorchLSTM(TorchSteps):
    """nn.Embedding, nn.LSTM (cuDNN's), nn.Linear; gradients clipped, optim.SGD."""

    def __init__(self, model, rate, *more):
        self.model, self.rate = model, rate
        super().__init__(token_batches(model), *more)

    def build(self, nn):
        from lstm_models import DROPS
        model, layers = self.model, self.model.layers("LSTM")
        words, width = (model.layers("Embed")[0].embed_param.input_dim,
                        model.layers("Embed")[0].embed_param.num_output)
        units = layers[0].recurrent_param.num_output
        self.embed, self.scores = nn.Embedding(words,
                                               width).to(self.device), nn.Linear(units, words).to(self.device)
        self.lstm = nn.LSTM(width, units, len(layers), dropout=self.rate).to(self.device)
        self.drop = nn.Dropout(self.rate)
        self.first_drop = self.drop if len(model.layers(*DROPS)) > len(layers) else nn.Identity()
        zeros = self.torch.zeros(len(layers), model.text.batch_size, units, device=self.device)
        self.state, self.modules = (zeros, zeros), [self.embed, self.lstm, self.scores]

    def make_optimizer(self, optim):
        from minidrop.config import decimal
        return optim.SGD(self.parameters_, lr=1e-3, momentum=decimal(self.model.solver.momentum), fused=True)

    def loss(self, data, label, _cont):
        h, state = self.lstm(self.first_drop(self.embed(data)), self.state)
        self.state = tuple(part.detach() for part in state)
        return self.torch.nn.functional.cross_entropy(self.scores(self.drop(h)).flatten(0, 1),
                                                      label.flatten())

    def update(self):
        from minidrop.config import decimal
        self.torch.nn.utils.clip_grad_norm_(self.parameters_, decimal(self.model.solver.clip_gradients))
        self.optimizer.step()


# -- one product ---------------------------------------------------------------------------------------------
class BlockProduct:
    """Forward and both gradients of y = x W^T, size x size x size, blocks of 128 x 128 of x dropped
    (SparseDrop's curve).

    As in a captured step, and for the same reason: it is one launch, which reads from one table what lives,
    where the device captures and has kernels that skip dropped blocks. Piece by piece the host would be what
    is measured.
    """

    def __init__(self, backend, size, rate, block=128):
        from minidrop.autograd import Parameter, Tensor
        from minidrop.patterns import PatternSettings, get_family
        from minidrop.patterns.draw import NOTHING, Blocks
        self.backend = backend
        family = get_family(PatternSettings(family="BLOCK", rate=rate, block_samples=block,
                                            block_units=block))
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
        moving = self.draws[0]
        if self.rate:
            self.tables = [self.backend.asarray(draw.grid(len(self.x.data)).lives) for draw in self.draws]
            self.lives = self.tables[0].copy()
            moving = moving.given(self.lives)
        self._work(moving)      # compiles
        self.graph = self.backend.capture(lambda: self._work(moving))

    def _work(self, draw):
        from minidrop.functions.linear import linear
        self.x.clear_grad()
        self.W.clear_grad()
        y = linear(self.x, self.W, scale=draw.scale, inputs=draw)
        y.backward(self.gy)

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
