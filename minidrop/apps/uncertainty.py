"""Monte-Carlo dropout: a net's uncertainty, from several passes with its drops left on.

Each pass draws new patterns, so it runs a different thinned net; the spread of their outputs is the net's
uncertainty (Gal and Ghahramani 2016, arXiv 1506.02142). Layers before the first drops are computed once, and
compact products make every pass cheaper than one without drops. A pattern of ApproxDropout is shared by a
batch, or by each of its groups of samples: the spread of each sample is correct, but samples vary together,
so *their* correlation means nothing. Dropout draws for each sample.
"""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.apps.calibration import Calibration, entropy, share
from minidrop.autograd import no_grad
from minidrop.errors import ConfigError, nearest
from minidrop.net.given import given_net
from minidrop.solver import mean_of

if TYPE_CHECKING:
    from minidrop.net.net import Net


@dataclass(frozen=True)
class Spread:
    """Statistics of a blob over the passes, as float64 arrays of its shape.

    deterministic: its value without drops. mean, std: mean and sample standard deviation of the passes
    (divided by passes - 1).
    """

    deterministic: np.ndarray
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A net's predicted class probabilities at all places of a batch, one row per place.

    Made from scores (outer..., classes at an axis, inner...).
    deterministic, mean, std: class probabilities (places, classes) without drops, averaged over the passes,
    and their standard deviation.
    entropy             H[mean] = - sum mean log mean, in nats, (places,): the total uncertainty
    mutual_information  H[mean] minus the mean entropy of the passes, (places,): how much the passes disagree
                        (BALD; Houlsby et al. 2011, arXiv 1112.5745)
    labels, counted: (places,), counted False where the label is the ignore_label; None if the net reads no
    labels.
    """

    deterministic: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    labels: np.ndarray | None = None
    counted: np.ndarray | None = None

    @property
    def quality(self) -> Any:
        """The PredictionQuality of this batch alone."""
        found = PredictionQuality()
        found.add(self)
        return found


@dataclass(frozen=True)
class MonteCarlo:
    """The result of several passes over one batch.

    blobs: {name: Spread}. predictions: {name of the scores: Prediction} if the net classifies. seconds of the
    forward passes: "deterministic" of the one without drops, which reads the data, "passes" of all others.
    """

    passes: int
    blobs: dict
    predictions: dict
    seconds: dict


def monte_carlo(net: Net, passes: int = 30, outputs: list[str] | None = None, start: int = 0,
                **inputs: np.ndarray) -> MonteCarlo:
    """Return the MonteCarlo of `passes` forward passes with drops over one batch.

    Pass k draws the patterns of iteration `start` + k, so the result depends on the net's seed alone. The
    batch is the next one of the data layers, or `inputs` as in `net.forward`. outputs: names of blobs to
    report (default: the net's outputs, and what its losses and Accuracy layers read). A Prediction is made
    for each SoftmaxWithLoss, Accuracy, and Softmax at the end of the net; Accuracy is assumed to read scores,
    or probabilities from a Softmax. The net is left as it was, including its position in the data. Memory: a
    few arrays per reported blob, regardless of the number of passes. Raises ConfigError if nothing is random,
    a name is unknown or `passes` is less than 2; and what `forward` raises.
    """
    passes = _checked(net, passes)
    outputs = _judged(net) if outputs is None else list(outputs)
    known = [ref.name for ref in net.graph.writer]
    unknown = [name for name in outputs if name not in known]
    if unknown:
        raise ConfigError(f"{net.config.where()}: there is no blob "
                          f"{unknown[0]!r}{nearest(unknown[0], known)}; outputs are names of tops")
    with no_grad(), net.restored():
        return _sample(net, passes, outputs, start, inputs)


@dataclass
class Evaluation:
    """The result of several passes over each of many batches.

    outputs: {name: Spread} of the net's outputs: means over the batches; std is the root of the batches' mean
    variance. predictions: {name of the scores: PredictionQuality}. seconds: as in `MonteCarlo`, summed.
    """

    iterations: int
    passes: int
    outputs: dict = field(default_factory=dict)
    predictions: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=lambda: {"deterministic": 0.0, "passes": 0.0})

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {"iterations": self.iterations, "passes": self.passes,
                "values": {name: {part: getattr(spread, part).tolist()
                                  for part in ("deterministic", "mean", "std")}
                           for name, spread in self.outputs.items()},
                "predictions": {name: quality.as_dict() for name, quality in self.predictions.items()},
                "seconds": self.seconds}


class PredictionQuality:
    """Quality of class predictions over many batches: without drops, and averaged over the passes.

    places: number of places that count. entropy: {"deterministic": mean, "monte_carlo": mean}, in nats.
    mutual_information: a mean, too. calibration: {"deterministic": Calibration, "monte_carlo": Calibration},
    {} if the net reads no labels.
    """

    def __init__(self):
        self.places, self.calibration = 0, {}
        self._entropy, self._mutual_information = {"deterministic": 0.0, "monte_carlo": 0.0}, 0.0

    def add(self, prediction: Any) -> None:
        """Add the places of one batch."""
        counted = slice(None) if prediction.counted is None else prediction.counted
        self.places += len(prediction.entropy[counted])
        self._entropy["deterministic"] += entropy(prediction.deterministic[counted]).sum()
        self._entropy["monte_carlo"] += prediction.entropy[counted].sum()
        self._mutual_information += prediction.mutual_information[counted].sum()
        if prediction.labels is not None:
            for name, probability in (("deterministic", prediction.deterministic),
                                      ("monte_carlo", prediction.mean)):
                self.calibration.setdefault(name, Calibration()).add(
                    probability[counted], prediction.labels[counted])

    @property
    def entropy(self) -> Any:
        return {name: share(total, self.places) for name, total in self._entropy.items()}

    @property
    def mutual_information(self) -> np.ndarray:
        return share(self._mutual_information, self.places)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        sides = {name: {"entropy": mean, **(self.calibration[name].as_dict() if self.calibration else {})}
                 for name, mean in self.entropy.items()}
        sides["monte_carlo"]["mutual_information"] = self.mutual_information
        return {"places": self.places, **sides}


def evaluate_monte_carlo(net: Net, iterations: int, passes: int = 30) -> Any:
    """Return the Evaluation of `passes` passes with drops over each of the data's first `iterations` batches.

    Every pass draws its own patterns, also across batches. Everything else as in `monte_carlo`. Raises
    ConfigError for fewer than one iteration.
    """
    passes = _checked(net, passes)
    if iterations < 1:
        raise ConfigError(f"iterations must be at least 1, got {iterations}")
    result = Evaluation(iterations, passes)
    means = {ref.name: [mean_of(net, ref), mean_of(net, ref)] for ref in net.graph.outputs}
    variances: dict[str, np.ndarray] = {}
    weights = 0.0
    with no_grad(), net.restored():
        net.seek(0)
        _sample(net, 2, [], 0, {})      # warms up: compiling kernels and opening files is not timed below
        net.seek(0)
        net.reset_states()
        for batch in range(iterations):
            one = _sample(net, passes, net.outputs, batch * passes, {})
            for name, spread in one.blobs.items():
                for mean, value in zip(means[name], (spread.deterministic, spread.mean), strict=True):
                    mean.add(value)
                variances[name] = variances.get(name, 0) + net.run.share * spread.std**2
            weights += net.run.share
            for name, prediction in one.predictions.items():
                result.predictions.setdefault(name, PredictionQuality()).add(prediction)
            for name, seconds in one.seconds.items():
                result.seconds[name] += seconds
    for name, variance in variances.items():
        deterministic, average = (np.asarray(mean.value) for mean in means[name])
        result.outputs[name] = Spread(deterministic, average, np.sqrt(variance / weights))
    return result


# -- one batch -----------------------------------------------------------------------------------------------
def _sample(net, passes, outputs, start, inputs):
    heads = _heads(net.graph)
    seconds = {}

    def run(kind, forward):
        net.backend.synchronize()
        begin = time.perf_counter()
        forward()
        net.backend.synchronize()
        seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - begin
        return ({name: net.blobs[name].numpy() for name in outputs},
                {name: _probabilities(net, head) for name, head in heads.items()})

    net.set_dropping(False)
    whole, certain = run("deterministic", lambda: net.forward(**inputs))
    net.set_dropping(True)
    blobs = {name: _Moments() for name in outputs}
    classes, entropies = ({name: _Moments() for name in heads} for _ in range(2))
    for number in range(start, start + passes):
        net.draw_patterns(number)
        values, probabilities = run("passes", net.rerun)
        for name, value in values.items():
            blobs[name].add(value)
        for name, probability in probabilities.items():
            classes[name].add(probability)
            entropies[name].add(entropy(probability))
    spreads = {name: Spread(whole[name].astype(np.float64), found.mean, found.std())
               for name, found in blobs.items()}
    predictions = {}
    for name, head in heads.items():
        mean = classes[name].mean
        total = entropy(mean)
        predictions[name] = Prediction(certain[name], mean, classes[name].std(), total,
                                       np.maximum(total - entropies[name].mean, 0), *_labels(net, head))
    return MonteCarlo(passes, spreads, predictions, seconds)


class _Moments:
    """Running mean and standard deviation of arrays (Welford 1962): of equal arrays exactly 0."""

    def __init__(self):
        self.count, self.mean, self._squares = 0, np.float64(0), np.float64(0)

    def add(self, value):
        value = np.asarray(value, np.float64)
        self.count += 1
        with np.errstate(invalid="ignore"):         # a loss may be infinite
            deviation = value - self.mean
            self.mean = self.mean + deviation / self.count
            self._squares = self._squares + deviation * (value - self.mean)

    def std(self):
        return np.sqrt(self._squares / (self.count - 1))


@dataclass(frozen=True)
class _Head:
    """Where a net predicts classes: refs of scores and labels, the axis of classes, the ignored labels."""

    scores: object
    axis: int
    labels: object = None
    ignored: set = field(default_factory=set)


def _heads(graph):
    found = {}
    for node in graph.nodes:
        kind = node.config.type
        if kind in ("SoftmaxWithLoss", "Accuracy"):
            scores, labels = (_above(graph, ref, "Split") for ref in node.bottoms)
            if kind == "Accuracy":
                scores = _above(graph, scores, "Softmax", "Split")
            head = found.setdefault((scores, labels), _Head(scores, node.layer.axis, labels))
            settings = node.layer.settings if kind == "Accuracy" else node.config.loss_param
            if settings.HasField("ignore_label"):
                head.ignored.add(settings.ignore_label)
        elif kind == "Softmax" and not graph.readers[node.tops[0]]:
            scores = _above(graph, node.bottoms[0], "Split")
            found.setdefault((scores, None), _Head(scores, node.layer.axis))
    judged = {head.scores for head in found.values() if head.labels is not None}
    heads = [head for head in found.values() if head.labels is not None or head.scores not in judged]
    names = [head.scores.name for head in heads]
    return {name if names.count(name) == 1 else f"{name}, {getattr(head.labels, 'name', 'unlabelled')}": head
            for name, head in zip(names, heads, strict=True)}


def _above(graph, ref, *kinds):
    """Return the blob that `ref` is made from, skipping back over layers of the types `kinds`."""
    while graph.writer[ref].config.type in kinds:
        ref = graph.writer[ref].bottoms[0]
    return ref


def _probabilities(net, head):
    """Return softmax(scores) as float64 rows, (places, classes)."""
    scores = np.moveaxis(net.tensor(head.scores).numpy().astype(np.float64), head.axis, -1)
    rows = scores.reshape(-1, scores.shape[-1])
    rows = np.exp(rows - rows.max(axis=1, keepdims=True))
    return rows / rows.sum(axis=1, keepdims=True)


def _labels(net, head):
    """Return (labels, counted), or (None, None). The net's own layer has checked their range."""
    if head.labels is None:
        return None, None
    labels = net.tensor(head.labels).numpy().reshape(-1).astype(np.int64)
    return labels, ~np.isin(labels, list(head.ignored))


def _judged(net):
    read = [node.bottoms[0].name for node in net.graph.nodes if node.layer.is_loss
            or node.config.type == "Accuracy"]
    return list(dict.fromkeys([*net.outputs, *read]))


def _checked(net, passes):
    given_net(net)
    try:
        number = operator.index(passes)
    except TypeError:
        number = 0
    if number < 2:
        raise ConfigError(f"passes must be an integer of at least 2, got {passes!r}; one pass has no spread")
    if not net.drop_layers:
        raise ConfigError(f"{net.config.where()}: nothing is random: the net has no drop layer in phase "
                          f"{net.phase}, so all passes would be equal; add an ApproxDropout or Dropout layer "
                          f"(one without include rules)")
    return number
