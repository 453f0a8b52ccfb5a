"""Translation and tagging nets of models/ in PyTorch, as its users write them: peers of bench_lstm.py.

Sentences are packed (pack_padded_sequence), dropout is ordinary. minidrop reads the batches, so that both
sides have the same ones in the same order, at the same cost. PyTorch is imported where it is used.
"""

from bench_models import text_net
from bench_steps import TorchRecurrent


def sentence_steps(model, *more, **options):
    """Return the steps of a SentenceModel in PyTorch."""
    translates = bool(model.layers("AttentionDecoder"))
    return (TorchTranslation if translates else TorchTagging)(model, *more, **options)


class TorchSentences(TorchRecurrent):
    """Steps that read their batches as minidrop's net does; `blobs` names what `loss` is given."""

    def __init__(self, model, *more, **options):
        self.reader = text_net(model.file_net, seed=0)
        super().__init__(model, *more, **options)

    def build(self, nn, rate):
        self.module.drop = nn.Dropout(rate)
        self.make(nn, self.module, [layer.embed_param for layer in self.model.layers("Embed")],
                  [layer.recurrent_param.num_output for layer in self.model.layers("LSTM")])
        for parameter in self.module.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def batch(self):
        self.reader.forward()
        found = [self.torch.from_numpy(self.reader.blobs[name].numpy()) for name in self.blobs]
        return [array.long() for array in found]

    def packed(self, x, lengths):
        return self.torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)

    def read(self, lstm, x, lengths):
        """Return what an LSTM makes of sentences of these lengths, zeros behind their ends."""
        h, _ = lstm(self.packed(x, lengths))
        return self.torch.nn.utils.rnn.pad_packed_sequence(h, total_length=len(x))[0]


class TorchTranslation(TorchSentences):
    """Luong's decoder: nn.LSTMCell with input feeding, a general score, over a bidirectional nn.LSTM."""

    blobs = "source", "source_mask", "target", "label"

    def make(self, nn, module, embeds, encoders):
        source, target = embeds
        units = self.model.layers("AttentionDecoder")[0].decoder_param.num_output
        entries = 2 * encoders[0]
        module.source_embed = nn.Embedding(source.input_dim, source.num_output)
        module.target_embed = nn.Embedding(target.input_dim, target.num_output)
        module.encoder = nn.LSTM(source.num_output, encoders[0], bidirectional=True)
        module.bridge_h, module.bridge_c = nn.Linear(entries, units), nn.Linear(entries, units)
        module.keys = nn.Linear(entries, units, bias=False)
        module.cell = nn.LSTMCell(target.num_output + units, units)
        module.result = nn.Linear(entries + units, units, bias=False)
        module.scores = nn.Linear(units, target.input_dim)

    def loss(self, source, mask, target, label):
        torch, module = self.torch, self.module
        lengths = mask.sum(0)
        memory = module.drop(self.read(module.encoder, module.drop(module.source_embed(source)), lengths))
        mean = memory.sum(0) / lengths[:, None]
        h, c = module.bridge_h(mean).tanh(), module.bridge_c(mean).tanh()
        keys, memory = module.keys(memory).transpose(0, 1), memory.transpose(0, 1)
        padding, fed, made = mask.T == 0, torch.zeros_like(h), []
        for x in module.drop(module.target_embed(target)):
            h, c = module.cell(torch.cat([x, fed], 1), (h, c))
            scores = (keys @ h[:, :, None]).squeeze(2).masked_fill(padding, -torch.inf)
            context = (scores.softmax(1)[:, None] @ memory).squeeze(1)
            fed = module.result(torch.cat([context, h], 1)).tanh()
            made.append(fed)
        scores = module.scores(module.drop(torch.stack(made)))
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten(), ignore_index=-1)


class TorchTagging(TorchSentences):
    """A bidirectional nn.LSTM over words and their letters, and a CRF in log space, a step at a time."""

    blobs = "words", "tags", "cont", "characters", "character_cont"

    def make(self, nn, module, embeds, units):
        words, letters = embeds
        hidden, scores = (layer.inner_product_param.num_output for layer in self.model.layers("InnerProduct"))
        module.words = nn.Embedding(words.input_dim, words.num_output)
        module.letters = nn.Embedding(letters.input_dim, letters.num_output)
        module.spell = nn.LSTM(letters.num_output, units[0], bidirectional=True)
        module.lstm = nn.LSTM(words.num_output + 2 * units[0], units[1], bidirectional=True)
        module.hidden, module.scores = nn.Linear(2 * units[1], hidden), nn.Linear(hidden, scores)
        module.transitions = nn.Parameter(self.torch.empty(scores, scores))
        module.start, module.end = (nn.Parameter(self.torch.empty(scores)) for _ in range(2))

    def loss(self, words, tags, cont, characters, character_cont):
        torch, module = self.torch, self.module
        # A stream of padding alone is read as one word, one of one letter: the tags leave it out.
        _, (spelled, _) = module.spell(self.packed(module.letters(characters), character_cont.sum(0) + 1))
        spelled = torch.cat(tuple(spelled), 1).view(*words.shape, -1)
        token = module.drop(torch.cat([module.words(words), spelled], 2))
        h = self.read(module.lstm, token, cont.sum(0) + 1)
        return self.crf(module.scores(module.hidden(h).tanh()), tags)

    def crf(self, x, tags):
        """Return the mean of -log P(tags) over the sentences; x (T, N, K), tags -1 in padding."""
        module, alive = self.module, tags >= 0
        some = alive[0]
        x, tags, alive = x[:, some], tags[:, some].clamp(min=0), alive[:, some]
        own = (x.gather(2, tags[:, :, None]).squeeze(2) * alive).sum(0)
        moves = (module.transitions[tags[:-1], tags[1:]] * alive[1:]).sum(0)
        last = tags.gather(0, alive.sum(0)[None] - 1)[0]
        score = own + moves + module.start[tags[0]] + module.end[last]
        before = module.start + x[0]
        for step, goes_on in zip(x[1:], alive[1:], strict=True):
            after = (before[:, :, None] + module.transitions).logsumexp(1) + step
            before = after.where(goes_on[:, None], before)
        return ((before + module.end).logsumexp(1) - score).mean()
