"""A small script of a user, which mypy checks: it finds the lines that end in "wrong", and no others."""

import numpy as np

import minidrop as md
from minidrop import nn, optim


class Classifier(nn.Module):
    def __init__(self, hidden: int) -> None:
        self.body = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.ApproxDropout(0.5))
        self.scores = nn.Linear(hidden, 3)

    def forward(self, x: nn.Symbol) -> nn.Symbol:
        return self.scores(self.body(x))


def right() -> float:
    x, label = np.ones((8, 4), np.float32), np.arange(8) % 3
    loader = md.data.DataLoader(md.data.ArrayDataset(x, label), batch_size=4, shuffle=True, seed=1)
    model = Classifier(hidden=16).set_seed(1).to("cpu")
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = optim.schedulers.cosine(optimizer, max_iter=10)
    averages = optim.EMA(model.named_parameters(), decay=0.9)
    total = 0.0
    for images, labels in loader:
        scores: md.Tensor = model.train()(images)
        loss = md.functions.cross_entropy(scores, labels) + 0.0 * (scores[:, 1:] ** 2 - scores.mean()).sum()
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        averages.update()
        total += loss.item()
    with md.no_grad(), averages.applied():
        share = (model.eval()(x).argmax(1) == label).float().mean()
    state: dict[str, np.ndarray] = model.state_dict()
    model.load_state_dict(state)
    optimizer.param_groups[0].lr = 0.01
    rates: list[float] = scheduler.rates(3)
    return total + float(share) + sum(rates) + over_axes(md.tensor(x))


def over_axes(x: md.Tensor) -> float:
    F = md.functions
    means: md.Tensor = x.mean(dim=1, keepdim=True) - x.sum(0, keepdims=True) + x.var(dim=(0, 1), correction=0)
    parts: tuple[md.Tensor, ...] = x.split(2, dim=1) + F.chunk(x, 2, dim=0) + F.unbind(x, dim=0)
    shares = F.softmax(x, dim=1).log_softmax(dim=-1).cumsum(dim=0).cumsum(1)
    shares = shares.unsqueeze(dim=0).squeeze(dim=(0,)).unsqueeze(1).squeeze(1)
    chosen = x.argmax(dim=1, keepdim=True).float() * x.amax(dim=1, keepdim=True) + x.max(axis=0)
    joined = F.cat([x, F.stack([x[0], x[1]], dim=0)], dim=0).logsumexp(dim=1) * x.norm()
    joined = joined + (x > 0).any(dim=None)
    return float(means.sum() + parts[0].sum() + shares.sum() + chosen.min() + joined.std(dim=None))


def wrong(model: Classifier, loader: md.data.DataLoader) -> None:
    nn.Linear("4", 3)                                               # wrong: a text for a number
    nn.Linear(4)                                                    # wrong: out_features is missing
    nn.ReLU(slope=0.1)                                              # wrong: no such argument
    optim.SGD(model.parameters())                                   # wrong: lr is missing
    optim.Adam(model.parameters(), lr="fast")                       # wrong: a text for a number
    optim.schedulers.cosine(model, max_iter=10)                     # wrong: a module for an optimizer
    md.data.DataLoader([1, 2, 3], batch_size="4")                   # wrong: a text for a number
    md.functions.cross_entropy(np.ones((2, 3)))                     # wrong: target is missing
    print(loader.epochs)                                            # wrong: it is called epoch
    names: list[str] = model.parameters()                           # wrong: Parameters, not names
    md.nn.Linaer(4, 3)                                              # wrong: no such module
    nn.Sequential(lambda x: x)                                      # wrong: a function needs nn.Lambda
    x = md.tensor([1.0, 2.0])
    x.meen()                                                        # wrong: no such method
    x.sum(dim="rows")                                               # wrong: a text for an axis
    x.mean(dims=0)                                                  # wrong: no such argument
    x.std(0, keepdim="yes")                                         # wrong: a text for a truth value
    x.max(1)                                                        # wrong: axis is given by name
    x.min(dim=1)                                                    # wrong: PyTorch's returns a pair
    x.cumsum()                                                      # wrong: the axis is missing
    x.argmax(dim=(0, 1))                                            # wrong: one axis, or None for all
    md.functions.softmax(x, dim=None)                               # wrong: one axis
    md.functions.cat([x, x], dim="rows")                            # wrong: a text for an axis
    md.functions.unsqueeze(x)                                       # wrong: the axis is missing
    md.functions.split(x, 2, dim=0).sum()                           # wrong: a tuple has no sum
    print(names)
