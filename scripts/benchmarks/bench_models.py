"""What the benchmarks and reproductions train: perceptrons of any size, and recurrent nets of models/.

Each model has `net(method, rate)` and `settings(method, rate)`, of a solver, with dropout as a method of
drop_methods.py says; `batches()`, random ones; `by_share`: what the cost of its steps depends on, see
bench_steps.py; and `one_group`, the method with the same units for all samples, see peers.py.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import minidrop as md

# isort: split
import numpy as np
from drop_methods import parse_method, parse_recurrent_method

from minidrop.backend import Backend
from minidrop.config import TRAIN, NetParameter, SolverParameter, decimal, load_net, load_solver
from minidrop.config.assign import assign
from minidrop.net.costs import costs
from minidrop.solver.lr_policy import SHAPING

FOLDER = Path(__file__).resolve().parents[2] / "models"
DROPS = ("Dropout", "ApproxDropout")
BATCHES = 8


class Model:
    """What all models have."""

    def check(self, methods, rates):
        """Raise ConfigError where a method is unknown, or cannot have one of the rates."""
        for method in methods:
            self.parse(method).check(rates)

    def bound(self, method, rate):
        """Return all over expected operations in the products of a training step."""
        net = with_constant_weights(self.net(method, rate))
        dense, expected = product_operations(md.Net(net, device="cpu"))
        return dense / expected

    def operations(self, method, rate=0.5):
        """Return (all, expected) operations in the products of a training step."""
        return product_operations(md.Net(self.net(method, rate), device="cpu", fills=False))


@dataclass(frozen=True)
class Perceptron(Model):
    """784-h1-...-10 with a drop after each hidden layer, trained by SGD with momentum and weight decay."""

    sizes: tuple
    batch: int = 128
    inputs, classes, by_share, parse = 784, 10, False, staticmethod(parse_method)
    one_group = "PERIODIC:groups=1"

    def net(self, method, rate):
        """Return the NetParameter."""
        drop = self.parse(method).inputs
        net, bottom = md.NetSpec("mlp"), "data"
        net.add("Input", "in", top=["data", "label"], shape=[[self.batch, self.inputs], [self.batch]])
        for i, outputs in enumerate((*self.sizes, self.classes), 1):
            net.add("InnerProduct", f"ip{i}", bottom, num_output=outputs, weight_filler={"type": "msra"})
            bottom = f"ip{i}"
            if i <= len(self.sizes):
                net.add("ReLU", f"relu{i}", bottom, bottom)
                net.add(DROPS[drop is not None], f"drop{i}", bottom, bottom, dropout_ratio=rate, **drop or {})
        net.add("SoftmaxWithLoss", "loss", [bottom, "label"])
        return net.to_proto()

    def settings(self, method, rate, **changes):
        """Return the SolverParameter; the learning rate is low: labels are noise, and nothing may diverge."""
        return SolverParameter(**{"base_lr": 1e-4, "lr_policy": "fixed", "momentum": 0.9,
                                  "weight_decay": 0.0005, "max_iter": 10**9, "random_seed": 0,
                                  "net_param": self.net(method, rate), **changes})

    def batches(self):
        """Return random batches, {top: array}."""
        rng = np.random.default_rng(0)
        return [{"data": rng.random((self.batch, self.inputs), np.float32),
                 "label": rng.integers(0, self.classes, self.batch)} for _ in range(BATCHES)]


@dataclass(frozen=True)
class FileModel(Model):
    """A recurrent net of models/, as its files say."""

    folder: str
    net_file: str = "train_val.prototxt"
    by_share, parse = True, staticmethod(parse_recurrent_method)
    one_group = "NR PERIODIC:groups=1"

    @cached_property
    def file_net(self):
        """The NetParameter of the file."""
        return load_net(FOLDER / self.folder / self.net_file).message

    @cached_property
    def file_solver(self):
        """The SolverParameter of the file."""
        return load_solver(FOLDER / self.folder / "solver.prototxt").message

    def layers(self, *types):
        """The layers of some types, in order."""
        return [layer for layer in self.file_net.layer if layer.type in types]

    @property
    def rate(self):
        """The dropout rate of the file."""
        return decimal(self.layers(*DROPS)[0].approx_dropout_param.dropout_ratio)

    def dropping(self, layers, method, rate, states=()):
        """Return a NetParameter of layers that drop as a Method says; `states`: the layers whose state it
        drops, all LSTMs if there are none."""
        net, renamed, whole = NetParameter(name=self.file_net.name), {}, set()
        for layer in layers:
            if layer.type in DROPS and layer.bottom[0] in whole:        # its units are absent already
                renamed[layer.top[0]] = layer.bottom[0]
                continue
            net.layer.add().CopyFrom(layer)
            layer = net.layer[-1]
            layer.bottom[:] = [renamed.get(name, name) for name in layer.bottom]
            if layer.type in DROPS:
                layer.ClearField("approx_dropout_param")
                layer.ClearField("dropout_param")
                layer.type = DROPS[method.inputs is not None]
                assign(layer, PARAMETERS[layer.type], {"dropout_ratio": rate, **(method.inputs or {})})
            elif method.hidden is not None and (layer.name in states if states else layer.type == "LSTM"):
                settings = getattr(layer, PARAMETERS[layer.type])
                assign(settings, "hidden_dropout", {"dropout_ratio": rate, **method.hidden})
                assign(settings, "hidden_dropout_type", method.hidden_type)
                if layer.type == "LSTM" and method.whole_units:     # a decoder's result has all of its units
                    whole.update(layer.top)
        return net

    def settings(self, method, rate, **changes):
        """Return the SolverParameter for timings; the learning rate is low: nothing may diverge."""
        settings = self.solver_settings(self.net(method, rate), 10**9, **{
            "base_lr": 1e-3, "lr_policy": "fixed", "random_seed": 0, **changes})
        for field in SHAPING:           # what the policy of the file reads
            settings.ClearField(field)
        return settings

    def solver_settings(self, net, iterations, **changes):
        """Return the SolverParameter of the file for another net and length.

        The learning rate falls at the same shares of the iterations.
        """
        settings = SolverParameter()
        settings.CopyFrom(self.file_solver)
        share = iterations / settings.max_iter
        settings.stepvalue[:] = dict.fromkeys(max(1, round(step * share)) for step in settings.stepvalue)
        if settings.HasField("stepsize"):
            settings.stepsize = max(1, round(settings.stepsize * share))
        for name in ("net", "snapshot_best", "test_state", "test_iter", "display", "snapshot"):
            settings.ClearField(name)
        settings.net_param.CopyFrom(net)
        for name, value in {"max_iter": iterations, "test_interval": 0, **changes}.items():
            assign(settings, name, value)
        return settings


@dataclass(frozen=True)
class LanguageModel(FileModel):
    """A language model of models/, or one of other sizes; 0 leaves the file's."""

    units: int = 0                  # of each layer, and of the embedding
    vocabulary: int = 0
    streams: int = 0

    @cached_property
    def file_net(self):
        """The NetParameter of the file, sizes changed."""
        net = load_net(FOLDER / self.folder / self.net_file).message
        changes = {"TextData": {"vocabulary_size": self.vocabulary, "batch_size": self.streams},
                   "Embed": {"input_dim": self.vocabulary, "num_output": self.units},
                   "LSTM": {"num_output": self.units}, "InnerProduct": {"num_output": self.vocabulary}}
        for layer in net.layer:
            for name, value in changes.get(layer.type, {}).items():
                if value:
                    assign(layer, PARAMETERS[layer.type], {name: value})
        return net

    @property
    def text(self):
        """The TextDataParameter of phase TRAIN."""
        return self.layers("TextData")[0].text_data_param

    @property
    def words(self):
        """The number of different tokens."""
        return self.layers("Embed")[0].embed_param.input_dim

    def net(self, method, rate, text=None):
        """Return the NetParameter.

        text: what `read_text_from` takes; without it the net has inputs `data`, `label`, `cont`, all (steps,
        streams).
        """
        layers = list(self.file_net.layer)
        if text is None:
            inputs = md.NetSpec()
            shape = [self.text.steps, self.text.batch_size]
            inputs.add("Input", "text", top=["data", "label", "cont"], shape=[shape] * 3)
            layers = [*inputs.to_proto().layer, *(layer for layer in layers if layer.type != "TextData")]
        net = self.dropping(layers, self.parse(method), rate)
        for layer in net.layer:
            if layer.type == "TextData":
                read_text_from(layer, text, self.words)
        return net

    def batches(self):
        """Return random batches, {top: array}, each array (steps, streams); no stream ever ends."""
        rng, shape = np.random.default_rng(0), (self.text.steps, self.text.batch_size)
        return [{"data": rng.integers(self.words, size=shape), "label": rng.integers(self.words, size=shape),
                 "cont": np.ones(shape)} for _ in range(BATCHES)]


@dataclass(frozen=True)
class SentenceModel(FileModel):
    """A translation or tagging model of models/, which reads its own sentences: their lengths matter.

    states: the recurrent layers whose state methods drop; None of the others has a drop on its input.
    """

    states: tuple = ()

    def net(self, method, rate, text=None):
        """Return the NetParameter; `text`: there is no other than the file's."""
        return self.dropping(self.file_net.layer, self.parse(method), rate, self.states)

    def batches(self):
        """Return what a step is given: nothing, its net reads."""
        return [{}] * BATCHES


PARAMETERS = {"TextData": "text_data_param", "Embed": "embed_param", "LSTM": "recurrent_param",
              "InnerProduct": "inner_product_param", "Dropout": "dropout_param",
              "ApproxDropout": "approx_dropout_param", "AttentionDecoder": "decoder_param"}
MODELS = {
    "ptb_small": LanguageModel("ptb_small"),
    "ptb_medium": LanguageModel("ptb_medium"),
    "ptb_large": LanguageModel("ptb_large"),
    "caption_lm_2": LanguageModel("caption_lm"),
    "caption_lm_3": LanguageModel("caption_lm", "train_val_3.prototxt"),
    "char_lstm": LanguageModel("char_lstm"),
    "quick_lm": LanguageModel("ptb_small", units=128, vocabulary=2000),
}
SENTENCE_MODELS = {
    "nmt_multi30k": SentenceModel("nmt_multi30k", states=("encoder", "decoder")),
    "nmt_tiny": SentenceModel("nmt_tiny", states=("encoder", "decoder")),
    "ner_conll2003": SentenceModel("ner_conll2003", states=("lstm",)),
    "ner_wnut17": SentenceModel("ner_wnut17", states=("lstm",)),
    "ner_tiny": SentenceModel("ner_tiny", states=("lstm",)),
}


def find_model(name, batch=128):
    """Return a recurrent model, or the Perceptron of hidden layers as 2048x2048."""
    found = MODELS.get(name) or SENTENCE_MODELS.get(name)
    return found or Perceptron(tuple(int(part) for part in name.split("x")), batch)


def read_text_from(layer, text, vocabulary):
    """Let a TextData layer read its part of "ptb", or of a source, of which nine tenths are to train."""
    settings, train = layer.text_data_param, layer.include[0].phase == TRAIN
    settings.vocabulary_size = vocabulary
    for name in ("begin", "end", "vocabulary"):
        settings.ClearField(name)
    if text == "ptb":
        settings.source = f"ptb/{'train' if train else 'valid' if layer.include[0].not_stage else 'test'}.txt"
        settings.vocabulary = "ptb/train.txt"
    else:
        settings.source = text
        assign(settings, "end" if train else "begin", 0.9)


def text_net(net, phase="TRAIN", **options):
    """Return a Net of what a NetParameter reads its text with, alone."""
    layers = [layer for layer in net.layer if layer.type.endswith("TextData")]
    return md.Net(NetParameter(layer=layers), phase, "cpu", **options)


def batches_per_pass(net, phase):
    """Return the number of batches of the text that a phase reads, in the stage "test" where there is one."""
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    staged = any("test" in (*rule.stage, *rule.not_stage) for rule in rules)
    [layer] = text_net(net, phase, stages=("test",) * staged).layers.values()
    return layer.batches.batches_per_pass


def with_constant_weights(net):
    """Return a NetParameter, changed: no weights are random, which would take the host long."""
    for layer in net.layer:
        if layer.type in ("InnerProduct", "LSTM", "Embed", "AttentionDecoder"):
            getattr(layer, PARAMETERS[layer.type]).weight_filler.type = "constant"
    return net


def make_solver(settings, method, **options):
    """Return the Solver of a SolverParameter; `dense` and `always` of the Method change the whole process."""
    pays = Backend.pays
    if method.how == "always":              # of this whole process, which is this method's alone
        Backend.pays = lambda *_: True
    elif method.how == "dense":             # the state's products, the only ones of several calls
        Backend.pays = lambda self, rows, share, calls=1, held=1, split=0: calls == 1 and pays(
            self, rows, share, 1, held)
    return md.Solver(settings, **{"device": "cpu", **options})


def product_operations(net):
    """Return (all, expected) operations in the products of a training step; their ratio is the bound."""
    rows = costs(net)
    return sum(row.dense for row in rows), sum(row.expected for row in rows)
