"""Train a perceptron on pictures of digits with a loop of one's own; then save it, and load it again.

    python docs/examples/mnist_loop.py                      # scikit-learn's digits, 8 x 8
    python docs/examples/mnist_loop.py --mnist FOLDER       # MNIST's four files, as they are
    python docs/examples/mnist_loop.py --dropout conventional

After every epoch it prints the loss, the accuracy on the test pictures and the seconds; in the end what was
saved, and whether the model that was loaded gives the same scores.
"""

import minidrop as md

# isort: split
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from minidrop import nn, optim

F = md.functions


def digits():
    """Return (train, test) of scikit-learn's digits: 1438 and 359 records (pixels 0 .. 1, label)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = md.data.ArrayDataset((images / 16).astype(np.float32), labels)
    return md.data.random_split(data, (1438, 359), seed=0)


def mnist(folder):
    """Return (train, test) of MNIST's files: 60000 and 10000 records (pixels 0 .. 1, label)."""
    return [md.data.MNIST(folder, train).map(
        lambda image, label: (image.reshape(-1) / np.float32(255), label)) for train in (True, False)]


def perceptron(inputs, hidden, drop):
    """Return a classifier with two hidden layers, each with a drop behind it."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), drop(0.5),
                         nn.Linear(hidden, hidden), nn.ReLU(), drop(0.5),
                         nn.Linear(hidden, 10))


def train_epoch(model, loader, optimizer):
    """Train on every record once; returns the mean loss of a batch."""
    model.train()
    losses = []
    for x, label in loader:
        loss = F.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()            # and clears the gradients
        losses.append(loss.item())
    return float(np.mean(losses))


def evaluate(model, loader):
    """Return the share of the records whose label has the highest score."""
    model.eval()
    right = total = 0
    with md.no_grad():
        for x, label in loader:
            right += int((model(x).argmax(1) == label).sum())
            total += len(label)
    return right / total


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mnist", metavar="FOLDER", help="with train-images-idx3-ubyte and the other three")
    parser.add_argument("--dropout", choices=("approx", "conventional"), default="approx")
    parser.add_argument("--hidden", type=int, default=1024, help="units of a hidden layer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two epochs of a small net")
    args = parser.parse_args(arguments)
    hidden, epochs = (256, 2) if args.quick else (args.hidden, args.epochs)

    train, test = mnist(args.mnist) if args.mnist else digits()
    batches = md.data.DataLoader(train, 64, shuffle=True, seed=1, workers=1)
    test_batches = md.data.DataLoader(test, 256)
    inputs = train[0][0].size

    drop = nn.ApproxDropout if args.dropout == "approx" else nn.Dropout
    model = perceptron(inputs, hidden, drop).set_seed(1)
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    dense, left = model.operations(train[:64][0])
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {left / dense:.0%} of the operations "
          f"in products are left ({left / 1e6:.0f} of {dense / 1e6:.0f} million a batch)")

    for epoch in range(epochs):
        begin = time.perf_counter()
        loss = train_epoch(model, batches, optimizer)
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: loss {loss:.4f}, test accuracy {evaluate(model, test_batches):.2%}, "
              f"{seconds:.1f} s")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        np.savez(path, **model.state_dict())
        loaded = perceptron(inputs, hidden, drop).eval()
        with np.load(path) as state:
            loaded.load_state_dict(state)
        x = test[:100][0]
        same = np.array_equal(model.eval()(x).numpy(), loaded(x).numpy())
        print(f"saved {path.stat().st_size / 1e6:.1f} MB; the loaded model gives the same scores: {same}")
    return evaluate(loaded, test_batches)


if __name__ == "__main__":
    main()
