"""Train a language model on the characters of a text, and let it write.

    python docs/examples/character_lstm.py                  # on the source code of Python's argparse
    python docs/examples/character_lstm.py --text FILE --epochs 30

Each stream of a batch reads a part of the text from its beginning to its end, and the LSTMs go on from call
to call with the states that they had (`stateful`). Drops leave out units between the layers, and inside of
the products of the states. After every epoch it prints the losses in bits per character; in the end what the
model writes.
"""

import minidrop as md

# isort: split
import argparse
import time

import numpy as np

from minidrop import nn, optim

F = md.functions


class CharacterModel(nn.Module):
    """Scores of the next character (steps, streams, characters) for indices (steps, streams)."""

    def __init__(self, characters, units, rate):
        recurrent = dict(stateful=True, hidden_dropout={"dropout_ratio": rate})
        self.embedding = nn.Embedding(characters, 64)
        self.lstm1, self.drop1 = nn.LSTM(64, units, **recurrent), nn.ApproxDropout(rate)
        self.lstm2, self.drop2 = nn.LSTM(units, units, **recurrent), nn.ApproxDropout(rate)
        self.scores = nn.Linear(units, characters)

    def forward(self, x):
        h = self.drop1(self.lstm1(self.embedding(x)))
        return self.scores(self.drop2(self.lstm2(h)))


def streams(dataset, windows, count):
    """Return batches (count, steps) of some windows of the text; row i goes on in row i of the next batch.

    Stream i has the windows i * n ... (i + 1) * n - 1, so that batch t takes those with i * n + t.
    """
    batches = len(windows) // count
    order = np.array(windows)[:batches * count].reshape(count, batches).T.reshape(-1)
    return md.data.DataLoader(md.data.Subset(dataset, order), count)


def bits(model, x, following):
    """Return the mean cross entropy of a batch (streams, steps), in bits per character, as a Tensor."""
    scores = model(x.T)                                             # sequences have the steps first
    return F.softmax_cross_entropy(scores, following.T, axis=2) * (1 / np.log(2))


def train_epoch(model, loader, optimizer, scheduler):
    model.train().reset_states()
    losses = []
    for x, following in loader:
        loss = bits(model, x, following)
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def evaluate(model, loader):
    model.eval().reset_states()
    with md.no_grad():
        return float(np.mean([bits(model, x, following).item() for x, following in loader]))


def write(model, vocabulary, prompt, length, temperature=0.7, seed=0):
    """Return what follows a prompt: each character is drawn from softmax(scores / temperature)."""
    model.eval().reset_states()
    rng, found = np.random.default_rng(seed), []
    indices = vocabulary.encode(prompt)
    with md.no_grad():
        for _ in range(length):
            scores = model(indices[:, None])[-1, 0].double()        # the states stay for the next call
            share = F.softmax(scores / temperature, axis=0).numpy()
            indices = rng.choice(len(share), 1, p=share)
            found.append(int(indices[0]))
    return vocabulary.decode(found)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", default=argparse.__file__, metavar="FILE")
    parser.add_argument("--units", type=int, default=256, help="of an LSTM")
    parser.add_argument("--rate", type=float, default=0.3, help="the share of units that is dropped")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one epoch of a small net on some of the text")
    args = parser.parse_args(arguments)
    units, epochs = (96, 1) if args.quick else (args.units, args.epochs)

    text = md.data.TextDataset(args.text, steps=32, level="CHARACTER")
    windows = len(text) // 4 if args.quick else len(text)
    most = round(0.9 * windows)
    train = streams(text, range(most), 16)
    test = streams(text, range(most, windows), 4)

    model = CharacterModel(len(text.vocabulary), units, args.rate).set_seed(1)
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    iterations = epochs * len(train)
    scheduler = optim.schedulers.cosine(optimizer, max_iter=iterations, warmup_iter=iterations // 20)
    dense, left = model.operations(np.zeros((32, 16), np.int32))
    print(f"{len(text.indices):,} characters, {len(text.vocabulary)} of them distinct; {left / dense:.0%} of "
          f"the operations in products are left ({left / 1e6:.0f} of {dense / 1e6:.0f} million a batch)")
    for epoch in range(epochs):
        begin = time.perf_counter()
        loss = train_epoch(model, train, optimizer, scheduler)
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: {loss:.3f} bits a character, {evaluate(model, test):.3f} on the test part "
              f"({seconds:.1f} s)")
    print(write(model, text.vocabulary, "    def ", 40 if args.quick else 300))
    return evaluate(model, test)


if __name__ == "__main__":
    main()
