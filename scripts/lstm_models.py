"""The language models of bench_lstm.py and reproduce_lstm.py: those of models/, with dropout as a method
says.

A *method* says how the dropped units are chosen, PLACES [FAMILY[:setting=value,...]] [STEP | SEQUENCE] [dense
| always]:

    conventional        ordinary dropout where the model file drops: on the input of every LSTM layer, before
                        the projection (also: Dropout)
    NR                  approximate dropout in these places, a pattern for all steps of a batch; NR STEP: one
                        for each step
    RH STEP             ordinary dropout in these places, and a pattern a step on the state that the gates
                        read
    NR+RH STEP          both a pattern a step
    NR+RH SEQUENCE      whole units of the LSTM layers leave the batch, so that what reads them needs no drop
                        of its own

FAMILY is a pattern family, PERIODIC unless given, or for RH alone CONVENTIONAL: every unit of every stream on
its own. `dense` multiplies the state by the pattern as a mask instead of skipping its products; `always`
skips those of a STEP also where minidrop's rule finds that it does not pay. Between the two the rule has to
choose.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from drop_methods import check_rates, family_settings

FOLDER = Path(__file__).resolve().parents[1] / "models"
INPUTS = ("data", "label", "cont")


@dataclass(frozen=True)
class LanguageModel:
    """A model of models/, as its files say, or with other sizes; 0 leaves the file's."""

    folder: str
    net_file: str = "train_val.prototxt"
    units: int = 0                  # of each layer, and of the embedding
    vocabulary: int = 0
    streams: int = 0

    @cached_property
    def net(self):
        """The NetParameter of the file, sizes changed."""
        from minidrop.config import load_net
        net = load_net(FOLDER / self.folder / self.net_file).message
        for layer in net.layer:
            if layer.type == "TextData":
                settings = layer.text_data_param
                settings.vocabulary_size = self.vocabulary or settings.vocabulary_size
                settings.batch_size = self.streams or settings.batch_size
            elif layer.type == "Embed":
                layer.embed_param.input_dim = self.vocabulary or layer.embed_param.input_dim
                layer.embed_param.num_output = self.units or layer.embed_param.num_output
            elif layer.type == "LSTM":
                layer.recurrent_param.num_output = self.units or layer.recurrent_param.num_output
            elif layer.type == "InnerProduct":
                layer.inner_product_param.num_output = self.vocabulary or layer.inner_product_param.num_output
        return net

    @cached_property
    def solver(self):
        """The SolverParameter of the file."""
        from minidrop.config import load_solver
        return load_solver(FOLDER / self.folder / "solver.prototxt").message

    def layers(self, *types):
        """The layers of some types, in order."""
        return [layer for layer in self.net.layer if layer.type in types]

    @property
    def text(self):
        """The TextDataParameter of phase TRAIN."""
        return self.layers("TextData")[0].text_data_param

    @property
    def rate(self):
        """The dropout rate of the file."""
        from minidrop.config import decimal
        return decimal(self.layers(*DROPS)[0].approx_dropout_param.dropout_ratio)


DROPS = ("Dropout", "ApproxDropout")
MODELS = {
    "ptb_small": LanguageModel("ptb_small"),
    "ptb_medium": LanguageModel("ptb_medium"),
    "ptb_large": LanguageModel("ptb_large"),
    "caption_lm_2": LanguageModel("caption_lm"),
    "caption_lm_3": LanguageModel("caption_lm", "train_val_3.prototxt"),
    "char_lstm": LanguageModel("char_lstm"),
    "quick_lm": LanguageModel("ptb_small", units=128, vocabulary=2000),
}


# -- methods -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """What a method puts where: settings of ApproxDropout layers and of hidden_dropout; None for ordinary or
    no dropout."""

    text: str
    inputs: dict | None = None
    hidden: dict | None = None
    hidden_type: str = "APPROX"
    how: str = ""                   # "dense", "always"

    @property
    def whole_units(self):
        """True where units are absent from all steps, and with them from all that reads the layer."""
        return self.hidden is not None and self.inputs is not None and self.hidden["time"] == "SEQUENCE"


def parse_method(text):
    """Return the Method that a text describes; see the head of this file. ConfigError for what is none."""
    from minidrop.errors import ConfigError, nearest
    where = f"method {text!r}"
    places, *words = text.split() or [""]
    if places in ("conventional", "Dropout"):
        if words:
            raise ConfigError(f"{where}: ordinary dropout has no settings; write {places}")
        return Method(text)
    if places not in ("NR", "RH", "NR+RH"):
        known = ("conventional", "NR", "RH", "NR+RH")
        raise ConfigError(f"{where}: expected one of {', '.join(known)} first, got "
                          f"{places!r}{nearest(places, known)}")
    family, time, how = "PERIODIC", "SEQUENCE", ""
    hows = ("dense", "always") if "RH" in places else ("always",)
    if words and words[0] not in ("STEP", "SEQUENCE", "dense", "always"):
        family = words.pop(0)
    if words and words[0] in ("STEP", "SEQUENCE"):
        time = words.pop(0)
    if words and words[0] in hows:
        how = words.pop(0)
    if words:
        raise ConfigError(f"{where}: {words[0]!r} is not understood; expected {places} "
                          f"[FAMILY[:setting=value,...]] [STEP | SEQUENCE] [{' | '.join(hows)}]")
    if family == "CONVENTIONAL":
        if places != "RH" or how:
            raise ConfigError(f"{where}: CONVENTIONAL stands after RH alone, as in 'RH CONVENTIONAL STEP'")
        return Method(text, None, {"time": time}, "CONVENTIONAL")
    settings = {**family_settings(family, where), "time": time}
    return Method(text, settings if "NR" in places else None, settings if "RH" in places else None, how=how)


def check_methods(methods, rates):
    """Raise ConfigError where a method is none, or cannot have one of the rates."""
    for text in methods:
        method = parse_method(text)
        for settings in (method.inputs, method.hidden):
            if settings and "pattern" in settings:
                check_rates(text, settings, rates)


# -- networks ------------------------------------------------------------------------------------------------
def language_model(model, method, rate, text=None):
    """Return the NetParameter of a LanguageModel that drops by a method.

    text: what `read_text_from` takes; without it the net has inputs `data`, `label`, `cont`, all (steps,
    streams).
    """
    from minidrop.config import NetParameter, NetSpec
    method = parse_method(method)
    net = NetParameter(name=model.net.name)
    if text is None:
        inputs = NetSpec()
        inputs.add("Input", "text", top=INPUTS, shape=[[model.text.steps, model.text.batch_size]] * 3)
        net.CopyFrom(inputs.to_proto())
    renamed, whole = {}, set()
    for layer in model.net.layer:
        if layer.type == "TextData" and text is None:
            continue
        if layer.type in DROPS and layer.bottom[0] in whole:        # its units are absent already
            renamed[layer.top[0]] = layer.bottom[0]
            continue
        layer = _copied(net, layer, renamed)
        if layer.type in DROPS:
            _set_drop(layer, method, rate)
        elif layer.type == "LSTM":
            _set_hidden_drop(layer, method, rate)
            whole.update(layer.top if method.whole_units else ())
        elif layer.type == "TextData":
            read_text_from(layer, text, model.layers("Embed")[0].embed_param.input_dim)
    return net


def _copied(net, layer, renamed):
    copy = net.layer.add()
    copy.CopyFrom(layer)
    copy.bottom[:] = [renamed.get(name, name) for name in layer.bottom]
    return copy


def _set_drop(layer, method, rate):
    from minidrop.config.spec import assign
    layer.ClearField("approx_dropout_param")
    layer.ClearField("dropout_param")
    layer.type = "Dropout" if method.inputs is None else "ApproxDropout"
    settings = {"dropout_ratio": rate, **(method.inputs or {})}
    assign(layer, "dropout_param" if method.inputs is None else "approx_dropout_param", settings)


def _set_hidden_drop(layer, method, rate):
    from minidrop.config.spec import assign
    if method.hidden is not None:
        assign(layer.recurrent_param, "hidden_dropout", {"dropout_ratio": rate, **method.hidden})
        assign(layer.recurrent_param, "hidden_dropout_type", method.hidden_type)


def read_text_from(layer, text, vocabulary):
    """Let a TextData layer read its part of a text: "ptb", which is three files, or a source, nine tenths of
    it to train."""
    from minidrop.config import TRAIN
    settings, train = layer.text_data_param, layer.include[0].phase == TRAIN
    settings.vocabulary_size = vocabulary
    settings.ClearField("begin")
    settings.ClearField("end")
    settings.ClearField("vocabulary")
    if text == "ptb":
        settings.source = ("ptb/train.txt" if train else "ptb/valid.txt" if layer.include[0].not_stage
                           else "ptb/test.txt")
        settings.vocabulary = "ptb/train.txt"
    else:
        settings.source = text
        if train:
            settings.end = 0.9
        else:
            settings.begin = 0.9


def batches_per_pass(net, phase):
    """Return the number of batches of the part of the text that a phase reads, a NetParameter's stage
    "test"."""
    import minidrop as md
    from minidrop.config import NetParameter
    data = NetParameter(layer=[layer for layer in net.layer if layer.type == "TextData"])
    return md.Net(data, phase, device="cpu", stages=("test",)).layers["text"].batches.batches_per_pass


def solver_settings(model, net, iterations, **changes):
    """Return the SolverParameter of a model's file for another net and length.

    The learning rate falls at the same shares of the iterations.
    """
    from minidrop.config import SolverParameter
    from minidrop.config.spec import assign
    settings = SolverParameter()
    settings.CopyFrom(model.solver)
    share = iterations / settings.max_iter
    settings.stepvalue[:] = list(dict.fromkeys(max(1, round(step * share)) for step in settings.stepvalue))
    if settings.HasField("stepsize"):
        settings.stepsize = max(1, round(settings.stepsize * share))
    for name in ("net", "snapshot_best", "test_state", "test_iter", "display", "snapshot"):
        settings.ClearField(name)
    settings.net_param.CopyFrom(net)
    for name, value in {"max_iter": iterations, "solver_mode": "CPU", "test_interval": 0, **changes}.items():
        assign(settings, name, value)
    return settings


def make_solver(settings, method):
    """Return the Solver of a SolverParameter, and do what that cannot say: `dense` and `always`."""
    import minidrop as md
    from minidrop.backend import Backend
    method = parse_method(method)
    pays = Backend.pays
    if method.how == "always":              # of this whole process, which is this method's alone
        Backend.pays = lambda *_: True
    elif method.how == "dense":             # the state's products, the only ones of several calls
        Backend.pays = lambda self, rows, share, calls=1: calls == 1 and pays(self, rows, share)
    solver = md.Solver(settings, device="cpu")
    return solver
