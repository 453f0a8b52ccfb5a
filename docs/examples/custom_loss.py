"""Train a module with several branches by losses of one's own, on digits of which some are rare.

    python docs/examples/custom_loss.py

The module returns two things: a vector for each picture, which a triplet loss puts near to those of the same
digit, and scores, with a focal loss, in which what is right already counts little. Parameter groups, a
scheduler and averages of the weights (EMA) come from `minidrop.optim`. It prints how often the weights and
their averages are right, on all test pictures and on those of the rare digits.
"""

import minidrop as md

# isort: split
import argparse

import numpy as np

from minidrop import nn, optim

F = md.functions
RARE = (7, 8, 9)        # digits of which training has one record in five


class TwoBranches(nn.Module):
    """Vectors (N, 32) of length 1 and scores (N, 10) of pictures (N, 64), by filters beside products."""

    def __init__(self, hidden):
        self.filters = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.products = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.ApproxDropout(0.5))
        self.joined = nn.Sequential(nn.Linear(32 * 16 + hidden, hidden), nn.ReLU(), nn.ApproxDropout(0.5))
        self.vector, self.scores = nn.Linear(hidden, 32), nn.Linear(hidden, 10)
        self.unit = nn.Lambda(lambda x: x / (x.norm(axis=1, keepdims=True) + 1e-6))

    def forward(self, x):
        both = nn.concat([self.filters(x.reshape(-1, 1, 8, 8)), self.products(x)])
        h = self.joined(both)
        return self.unit(self.vector(h)), self.scores(h)


def triplet_loss(vectors, label, margin=0.5):
    """Return the mean of max(0, margin + d(x, p) - d(x, n)) over triplets of vectors (N, size) of length 1.

    p has the label of x, n another one; d is the square of the distance, 2 - 2 x.y. Source: Hermans et al.
    2017, In Defense of the Triplet Loss, equation 6.
    """
    distance = 2 - 2 * (vectors @ vectors.T)
    cost = (margin + distance[:, :, None] - distance[:, None, :]).clamp(min=0)     # of each (x, p, n)
    same = label[:, None] == label
    counts = same[:, :, None] & ~same[:, None, :]
    return (cost * counts).sum() / max(1, counts.sum())


def focal_loss(scores, label, gamma=2.0):
    """Return the mean of -(1 - p)^gamma log p, p the probability of the label; scores (N, classes).

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, equation 4.
    """
    log_p = F.log_softmax(scores, axis=1)[np.arange(len(label)), label]
    return (-(1 - log_p.exp()) ** gamma * log_p).mean()


def digits(seed=0):
    """Return (train, test), datasets of (pixels 0 .. 1, label); of RARE digits training has few."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    data = md.data.ArrayDataset(images, labels)
    train, test = md.data.random_split(data, (1297, 500), seed)
    wanted = ~np.isin(labels[train.indices], RARE) | (np.arange(len(train)) % 5 == 0)
    return md.data.Subset(train, wanted), test


def accuracy(model, x, label):
    """Return the shares of right answers, among all records and among those of rare digits."""
    model.eval()
    with md.no_grad():
        right = (model(x)[1].argmax(axis=1) == label).numpy()
    model.train()
    return f"{right.mean():.1%} ({right[np.isin(label, RARE)].mean():.1%} of the rare digits)"


def groups(model):
    """Return parameter groups: biases without decay, filters with half of the learning rate."""
    named = dict(model.named_parameters())
    biases = {name: p for name, p in named.items() if name.endswith("bias")}
    filters = {name: p for name, p in named.items() if name.startswith("filters") and name not in biases}
    rest = {name: p for name, p in named.items() if name not in biases and name not in filters}
    return [{"params": rest}, {"params": filters, "lr": 1e-3}, {"params": biases, "weight_decay": 0.0}]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="four epochs of a small net")
    args = parser.parse_args(arguments)
    hidden, epochs = (128, 4) if args.quick else (args.hidden, args.epochs)

    train, test = digits()
    loader = md.data.DataLoader(train, 64, shuffle=True, seed=1, drop_last=True)
    x, label = test[:]

    model = TwoBranches(hidden).set_seed(1)
    optimizer = optim.AdamW(groups(model), lr=2e-3, weight_decay=0.01)
    scheduler = optim.schedulers.cosine(optimizer, max_iter=epochs * len(loader), warmup_iter=5)
    averages = optim.EMA(model.named_parameters(), decay=0.99, warmup=True)
    dense, left = model.operations(train[:64][0])
    print(f"{left / dense:.0%} of the operations in products are left ({left / 1e6:.0f} of {dense / 1e6:.0f} "
          f"million a batch)")

    for epoch in range(epochs):
        sums = np.zeros(2)
        for images, labels in loader:
            vectors, scores = model(images)
            losses = triplet_loss(vectors, labels), focal_loss(scores, labels)
            sum(losses).backward()
            optimizer.step()
            scheduler.step()
            averages.update()
            sums += [loss.item() for loss in losses]
        triplet, focal = sums / len(loader)
        print(f"epoch {epoch + 1}: triplet loss {triplet:.3f}, focal loss {focal:.3f}; right "
              f"{accuracy(model, x, label)}")
    with averages.applied():
        print(f"averages of the weights: right {accuracy(model, x, label)}")
    return triplet


if __name__ == "__main__":
    main()
