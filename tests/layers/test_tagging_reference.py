"""A tagging net of characters, words and a CRF against PyTorch, which reads each sentence and word alone."""

import itertools

import numpy as np
import pytest
from cases import in_turn
from layers.test_tagging import net_text

from minidrop import Net
from minidrop.config import parse_net

torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")

LETTERS = [*"abÄß漢é😀𝒳İı", "e\N{COMBINING ACUTE ACCENT}", "\N{ZERO WIDTH JOINER}"]
LENGTHS = 5, 1, 3, 2, 4, 1, 6       # of sentences: the last batch of three has one


def sentences():
    """Return the words of each sentence, and a text of them with tags."""
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(LETTERS, rng.integers(1, most)))
             for most in rng.choice([2, 5, 20], sum(LENGTHS))]
    tags = rng.choice(["O", "B-PER", "B-LOC"], len(words))
    lines = [f"{word} {tag}" for word, tag in zip(words, tags, strict=True)]
    ends = [*itertools.pairwise([0, *itertools.accumulate(LENGTHS)])]
    return [words[i:j] for i, j in ends], "\n\n".join("\n".join(lines[i:j]) for i, j in ends)


class Reference:
    """The net in float64, one word and one sentence at a time."""

    def __init__(self, net, most):
        self.weights = {name: torch.tensor(p.data.copy(), requires_grad=True)
                        for name, p in net.parameters().items()}
        self.vocabulary, self.most = net.layers["text"].vocabulary, most

    def states(self, xs, name):
        """The states of both directions at each step, and those after the last one each reads."""
        found = []
        for prefix, own in ((f"{name}/", xs), (f"{name}/reverse_", xs[::-1])):
            W, U, b = (self.weights[prefix + kind] for kind in ("weight", "recurrent_weight", "bias"))
            h = c = torch.zeros(U.shape[1], dtype=torch.float64)
            found.append([])
            for x in own:
                i, f, o, g = (W @ x + U @ h + b).chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                found[-1].append(h)
        forth, back = found
        steps = [torch.cat(both) for both in zip(forth, back[::-1], strict=True)]
        return steps, torch.cat([forth[-1], back[-1]])

    def spelled(self, word):
        index, embedded = self.vocabulary.characters.index, self.weights["ec/weight"]
        read = [embedded[index(letter)] for letter in word[:self.most]]
        if "spell/weight" in self.weights:
            return self.states(read, "spell")[1]
        padded = torch.nn.functional.pad(torch.stack(read).T[None], (3, 3))
        windows = torch.nn.functional.conv1d(padded, self.weights["window/weight"][..., 0],
                                             self.weights["window/bias"])
        return windows[0].amax(1)

    def scores(self, words):
        index, embedded = self.vocabulary.words.index, self.weights["ew/weight"]
        read = [torch.cat([embedded[index(self.vocabulary.as_word(word))], self.spelled(word)])
                for word in words]
        return torch.stack(self.states(read, "lstm")[0]) @ self.weights["scores/weight"].T + self.weights[
            "scores/bias"]

    def loss(self, x, tags):
        W, start, end = (self.weights[f"loss/{name}"] for name in ("transitions", "start", "end"))
        own, before = start[tags[0]] + x[0, tags[0]], start + x[0]
        for t in range(1, len(x)):
            own = own + W[tags[t - 1], tags[t]] + x[t, tags[t]]
            before = torch.logsumexp(before[:, None] + W, 0) + x[t]
        return torch.logsumexp(before + end, 0) - own - end[tags[-1]]


@in_turn("convolution, settings, most", [(False, "", 40), (True, "", 40), (False, "lower_case: true", 40),
                                         (True, "most_characters: 7", 7)])
def test_words_of_any_characters_and_length(tmp_path, monkeypatch, convolution, settings, most):
    monkeypatch.chdir(tmp_path)
    given, text = sentences()
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    described = net_text(convolution=convolution).replace("input_dim: 20", "input_dim: 40")
    net = Net(parse_net(described.replace("batch_size: 3", f"batch_size: 3 {settings}")), "TEST", "cpu",
              "float64", seed=1)
    reference = Reference(net, most)
    for first in range(0, len(given), 3):
        net.clear_grads()
        net.forward()
        net.backward()
        tags, losses = net.blobs["tags"].numpy().astype(int), []
        for stream, words in enumerate(given[first:first + 3]):
            scores = reference.scores(words)
            np.testing.assert_allclose(net.blobs["scores"].numpy()[:len(words), stream],
                                       scores.detach().numpy(), rtol=0, atol=1e-12)
            losses.append(reference.loss(scores, tags[:len(words), stream]))
        loss = sum(losses) / len(losses)
        wanted = torch.autograd.grad(loss, list(reference.weights.values()))
        assert float(net.blobs["loss"].numpy()) == pytest.approx(loss.item(), abs=1e-12)
        for (name, parameter), gradient in zip(net.parameters().items(), wanted, strict=True):
            np.testing.assert_allclose(parameter.dense_grad(), gradient.numpy(), rtol=0, atol=1e-11,
                                       err_msg=name)
