"""Modules that several tests of md.nn train or call."""

import numpy as np

import minidrop as md
from minidrop import nn

F = md.functions


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f")


def mlp(drop=None, seed=1):
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), drop or nn.ApproxDropout(0.5),
                         nn.Linear(16, 3)).to("cpu").set_seed(seed)


class Images(nn.Module):
    """Batch norms, which have statistics, and dropout."""

    def __init__(self):
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm(8)
        self.rest = nn.Sequential(nn.ReLU(), nn.ApproxDropout(0.5), nn.AvgPool2d(None), nn.Flatten())
        self.scores = nn.Linear(8, 3)

    def forward(self, x):
        return self.scores(self.rest(self.norm(self.conv(x))))


def step(model, x, label, lr=0.1):
    model.zero_grad()
    loss = F.softmax_cross_entropy(model(x), label)
    loss.backward()
    for parameter in model.parameters():
        parameter.data[...] -= parameter.dtype.type(lr) * parameter.dense_grad()
    return float(loss)
