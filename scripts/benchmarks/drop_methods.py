"""What --methods of the benchmarks and reproductions understands.

Of perceptrons, a method is `conventional` (also: `Dropout`) or a pattern family with settings, fields of
approx_dropout_param, as in ROW:max_period=3,scale=PATTERN. Of language models it is PLACES
[FAMILY[:setting=value,...]] [STEP | number of steps | SEQUENCE] [dense | always]:

    conventional    ordinary dropout on the input of every LSTM layer and before the projection
    NR              approximate dropout in these places, a pattern for all steps of a batch
    NR STEP         the same, a pattern for each step
    NR 5            the same, a pattern for five steps
    RH STEP         ordinary dropout in these places, and a pattern a step on the state that the gates read
    NR+RH STEP      both, a pattern a step; NR+RH 5: one in five steps
    NR+RH SEQUENCE  whole units of the LSTM layers leave the batch; what reads them needs no drop of its own

FAMILY is PERIODIC unless given, or for RH alone CONVENTIONAL: every unit of every stream by itself. `dense`
multiplies the state by the pattern as a mask instead of skipping its products; `always` skips those of
single steps or several also where minidrop's rule finds that it does not pay.
"""

from dataclasses import dataclass

from minidrop.config import LayerParameter
from minidrop.config.check import problem_of, value_of
from minidrop.errors import ConfigError, nearest
from minidrop.layers.drop_settings import pattern_settings
from minidrop.patterns import get_family, known_families

ORDINARY = ("conventional", "Dropout")
TIMES = ("STEP", "SEQUENCE")


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
        return self.hidden is not None and self.inputs is not None and self.hidden.get("time") == "SEQUENCE"

    def check(self, rates):
        """Raise ConfigError where a family with these settings cannot have one of the rates."""
        for settings in (self.inputs, self.hidden):
            for rate in rates if settings and "pattern" in settings else ():
                layer = LayerParameter(approx_dropout_param={"dropout_ratio": rate, **settings})
                try:
                    get_family(pattern_settings(layer.approx_dropout_param))
                except ConfigError as error:
                    raise ConfigError(f"method {self.text!r} at rate {rate:g}: {error}") from None


def parse_method(text):
    """Return the Method of a perceptron. ConfigError for an unknown family or setting, and for an unfit
    value."""
    where, (family, colon, _) = f"method {text!r}", text.partition(":")
    if family not in ORDINARY:
        return Method(text, family_settings(text, where, ("conventional",)))
    if colon:
        raise ConfigError(f"{where}: ordinary dropout has no settings; write {family}")
    return Method(text)


def parse_recurrent_method(text):
    """Return the Method of a language model. ConfigError where the text is not as the head of this file
    says."""
    where = f"method {text!r}"
    places, *words = text.split() or [""]
    if places in ORDINARY:
        if words:
            raise ConfigError(f"{where}: ordinary dropout has no settings; write {places}")
        return Method(text)
    if places not in ("NR", "RH", "NR+RH"):
        known = ("conventional", "NR", "RH", "NR+RH")
        raise ConfigError(f"{where}: expected one of {', '.join(known)} first, got "
                          f"{places!r}{nearest(places, known)}")
    hows = ("dense", "always") if "RH" in places else ("always",)
    plain = bool(words) and not _is_time(words[0]) and words[0] not in ("dense", "always")
    family = words.pop(0) if plain else "PERIODIC"
    word = words.pop(0) if words and _is_time(words[0]) else "SEQUENCE"
    time = {"time": word} if word in TIMES else {"steps_per_pattern": int(word)}
    how = words.pop(0) if words and words[0] in hows else ""
    if words:
        raise ConfigError(f"{where}: {words[0]!r} is not understood; expected {places} "
                          f"[FAMILY[:setting=value,...]] [STEP | number of steps | SEQUENCE] "
                          f"[{' | '.join(hows)}]")
    if family == "CONVENTIONAL":
        if places != "RH" or how:
            raise ConfigError(f"{where}: CONVENTIONAL stands after RH alone, as in 'RH CONVENTIONAL STEP'")
        return Method(text, None, time, "CONVENTIONAL")
    settings = {**family_settings(family, where), **time}
    return Method(text, settings if "NR" in places else None, settings if "RH" in places else None, how=how)


def _is_time(word):
    """Whether a word says how long a pattern holds: STEP, SEQUENCE or a number of steps."""
    return word in TIMES or word.isascii() and word.isdigit() and 0 < int(word[:10]) < 2**32


def family_settings(text, where, beside=()):
    """Return {field of approx_dropout_param: value} of FAMILY:setting=value,...; `beside`: other names known
    there."""
    family, colon, rest = text.partition(":")
    if family not in known_families():
        known = (*beside, *known_families())
        raise ConfigError(f"{where}: unknown pattern {family!r}{nearest(family, known)} (known: "
                          f"{', '.join(known)})")
    fields = {field.name: field for field in LayerParameter().approx_dropout_param.DESCRIPTOR.fields
              if field.name not in ("dropout_ratio", "pattern", "time", "steps_per_pattern")}
    settings = {"pattern": family}
    for part in rest.split(",") if colon else ():
        name, _, value = part.partition("=")
        if name not in fields:
            raise ConfigError(f"{where}: {name!r} is no setting{nearest(name, fields)} (settings: "
                              f"{', '.join(fields)})")
        problem = problem_of(value, fields[name])
        if problem:
            raise ConfigError(f"{where}: {problem}")
        settings[name] = value_of(value, fields[name])
    return settings
