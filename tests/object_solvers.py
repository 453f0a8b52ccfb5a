"""A small model, its data, and its Solver of Python objects, for the tests of those."""

import numpy as np

import minidrop as md
from minidrop import nn, optim
from minidrop.data import ArrayDataset, DataLoader, GeneratorDataset

RECORDS, INPUTS, CLASSES, BATCH, SEED = 50, 12, 4, 16, 5     # four batches an epoch, the last of 2 records
rng = np.random.default_rng(0)
X = rng.standard_normal((RECORDS, INPUTS)).astype("f")
Y = rng.integers(0, CLASSES, RECORDS)


def mlp(rate=0.5, dtype="float32", seed=SEED, **settings):
    return nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.ApproxDropout(rate, **settings),
                         nn.Linear(32, CLASSES)).to("cpu", dtype).set_seed(seed)


def loader(shuffle=True, size=BATCH, records=RECORDS, **options):
    return DataLoader(ArrayDataset(X[:records], Y[:records]), size, shuffle=shuffle, seed=2, **options)


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def solver_of(model, optimizer, train=None, **options):
    return md.Solver.of(model, nn.CrossEntropyLoss(), optimizer, loader() if train is None else train,
                        **{"max_iter": 10, **options})


def by_hand(model, optimizer, batches, iterations, scheduler=None, loss=None):
    """The loop that a Solver of objects does in place of a user."""
    loss = loss or nn.CrossEntropyLoss().to("cpu", model.dtype)
    while iterations:
        for *x, y in batches:
            loss(model(*x), y).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            iterations -= 1
            if not iterations:
                return


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def groups(kind, **options):
    def make(model):
        return kind([{"params": model[0].parameters(), "lr": 0.02, "weight_decay": 0.1},
                     {"params": model[3].parameters()}], lr=0.01, **options)
    return make


def adamw(model):
    return optim.AdamW(model.parameters(), lr=0.01)


def stream(length=None):
    def numbers(epoch):
        order = np.random.default_rng(epoch).permutation(RECORDS - epoch if length is None else RECORDS)
        yield from zip(X[order], Y[order], strict=True)
    return lambda: DataLoader(GeneratorDataset(numbers, length, buffer=9, per_epoch=True), BATCH,
                              shuffle=True, drop_last=length is None)


def squares(scores, labels):
    labels = labels.numpy() if isinstance(labels, md.Tensor) else labels
    hot = md.tensor(np.eye(CLASSES, dtype="f")[labels.astype(int)])
    return ((scores - hot) ** 2).mean()


class Untraced(nn.Module):
    traced = False

    def forward(self, scores, labels):
        return squares(scores, labels) * (2.0 if float(scores.numpy()[0, 0]) > 0 else 1.0)
