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
    return total + float(share) + sum(rates)


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
    md.tensor([1.0, 2.0]).meen()                                    # wrong: no such method
    print(names)
