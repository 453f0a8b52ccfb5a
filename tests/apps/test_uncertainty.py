"""Monte-Carlo dropout: the statistics by hand, the law of the patterns enumerated, and a net left as it
was."""

from math import log

import h5py
import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.apps.uncertainty import Prediction
from minidrop.autograd import no_grad
from minidrop.config import parse_net
from minidrop.testing import assert_matches_masked_dense

X, LABEL = np.random.default_rng(0).standard_normal((5, 6)), np.array([0, 2, 1, 1, 0])
INPUT = ('layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 5 dim: 6 } '
         'shape { dim: 5 } } }')
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }'
ACCURACY = 'layer { name: "accuracy" type: "Accuracy" bottom: "ip3" bottom: "label" top: "accuracy" }'


def ip(name, bottom, outputs):
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} bias_filler {{ '
            f'type: "uniform" }} }} }}')


def drop(name, bottom, kind):
    """A drop layer; `kind` is Dropout, GaussianDropout, or settings of ApproxDropout."""
    if kind.endswith("Dropout"):
        return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" }}'
    return (f'layer {{ name: "{name}" type: "ApproxDropout" bottom: "{bottom}" top: "{name}" '
            f'approx_dropout_param {{ {kind} }} }}')


def text(kind, tail=(LOSS, ACCURACY), source=INPUT):
    return "\n".join([source, ip("ip1", "data", 16), 'layer { name: "relu1" type: "ReLU" bottom: "ip1" top: '
                      '"ip1" }', drop("drop1", "ip1", kind), ip("ip2", "drop1", 12),
                      drop("drop2", "ip2", kind), ip("ip3", "drop2", 3), *tail])


def net_of(text, **options):
    return md.Net(parse_net(text, "net.prototxt"), **{"phase": "TEST", "device": "cpu", "dtype": "float64",
                                                      "seed": 3, **options})


def one_pass(net, counter, masked=False):
    """The scores of one explicit pass with drops."""
    with no_grad(), net.restored():
        net.set_dropping(True)
        net.run_masked_dense(masked)
        net.draw_patterns(counter)
        net.forward(data=X, label=LABEL)
        return net.blobs["ip3"].numpy()


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


KINDS = ['pattern: "PERIODIC"', 'pattern: "ROW" scale: PATTERN', 'pattern: "UNIT"', 'pattern: "SLICE"',
         'pattern: "TILE" tile_size: 2', 'pattern: "BLOCK" block_samples: 2', "Dropout", "GaussianDropout"]


# -- statistics by hand --------------------------------------------------------------------------------------
def test_quality_leaves_out_ignored_places():
    half, sure = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    prediction = Prediction(np.array([sure, half, half]), np.array([half, half, half]), np.zeros((3, 2)),
                            np.full(3, log(2)), np.array([log(2), 0, 5.0]), np.array([0, 1, 255]),
                            np.array([True, True, False]))
    record = prediction.quality.as_dict()
    assert record["places"] == 2
    assert record["deterministic"]["accuracy"] == 0.5
    assert record["monte_carlo"]["accuracy"] == 0       # of ties
    assert record["deterministic"]["negative_log_likelihood"] == pytest.approx(log(2) / 2)
    assert record["monte_carlo"]["negative_log_likelihood"] == pytest.approx(log(2))
    assert record["deterministic"]["entropy"] == pytest.approx(log(2) / 2)
    assert record["monte_carlo"]["entropy"] == pytest.approx(log(2))
    assert record["monte_carlo"]["mutual_information"] == pytest.approx(log(2) / 2)


# -- passes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@in_turn("phase", ["TRAIN", "TEST"])
def test_equals_whole_passes_with_masks(kind, phase):
    net = net_of(text(kind), phase=phase)
    found = md.monte_carlo(net, passes=7, start=5, data=X, label=LABEL)
    scores = np.array([one_pass(net, counter, masked=True) for counter in range(5, 12)])
    assert scores.std(axis=0).min() > 0
    np.testing.assert_allclose(found.blobs["ip3"].mean, scores.mean(axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.blobs["ip3"].std, scores.std(axis=0, ddof=1), rtol=0, atol=1e-9)
    p = np.array([softmax(one) for one in scores])
    prediction = found.predictions["ip3"]
    np.testing.assert_allclose(prediction.mean, p.mean(axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(prediction.std, p.std(axis=0, ddof=1), rtol=0, atol=1e-9)
    total = -(p.mean(axis=0) * np.log(p.mean(axis=0))).sum(axis=1)
    np.testing.assert_allclose(prediction.entropy, total, rtol=0, atol=1e-9)
    np.testing.assert_allclose(prediction.mutual_information,
                               total + (p * np.log(p)).sum(axis=2).mean(axis=0), rtol=0, atol=1e-9)
    assert (prediction.mutual_information > 0).all()


@pytest.mark.parametrize("kind", ['pattern: "PERIODIC"', 'pattern: "TILE" tile_size: 2'])
def test_masked_dense_is_respected(kind):
    net = net_of(text(kind))
    compact = md.monte_carlo(net, passes=4, data=X, label=LABEL)
    net.run_masked_dense(True)
    dense = md.monte_carlo(net, passes=4, data=X, label=LABEL)
    assert net.mode.masked
    for name in ("ip3", "loss", "accuracy"):
        np.testing.assert_allclose(compact.blobs[name].mean, dense.blobs[name].mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(compact.blobs[name].std, dense.blobs[name].std, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["dropout_ratio: 0", 'pattern: "ROW" dropout_ratio: 0'])
def test_without_drops_all_passes_are_the_deterministic_one(kind):
    net = net_of(text(kind))
    found = md.monte_carlo(net, passes=5, data=X, label=LABEL)
    with no_grad():
        net.forward(data=X, label=LABEL)
    np.testing.assert_array_equal(found.blobs["ip3"].deterministic, net.blobs["ip3"].numpy())
    for spread in found.blobs.values():
        np.testing.assert_array_equal(spread.mean, spread.deterministic)
        assert not spread.std.any()
    prediction = found.predictions["ip3"]
    np.testing.assert_array_equal(prediction.mean, prediction.deterministic)
    assert not prediction.std.any() and not prediction.mutual_information.any()
    quality = prediction.quality.as_dict()
    assert quality["monte_carlo"]["calibration_error"] == quality["deterministic"]["calibration_error"]


@pytest.mark.parametrize("kind, expected_patterns",
                         [('pattern: "PERIODIC" step: 4', 4), ('pattern: "ROW" max_period: 3', 6)])
def test_the_mean_goes_to_the_expectation_over_all_patterns(kind, expected_patterns):
    net = net_of("\n".join([INPUT, ip("ip1", "data", 16), drop("drop1", "ip1", kind), ip("ip3", "drop1", 3)]))
    site = net.drop_sites["drop1"]
    family = site.family
    h = X @ net.params["ip1"]["weight"].data.T + net.params["ip1"]["bias"].data
    mean, square, patterns = 0, 0, 0
    for choice, probability in zip(family.distribution.choices, family.distribution.probabilities,
                                   strict=True):
        for offset in range(family.offsets(choice)):
            pattern = family.pattern(choice, offset)
            mask = np.zeros(16)
            mask[pattern.kept(16).index] = pattern.scale
            scores = (h * mask) @ net.params["ip3"]["weight"].data.T + net.params["ip3"]["bias"].data
            weight = probability / family.offsets(choice)
            mean, square, patterns = mean + weight * scores, square + weight * scores**2, patterns + 1
    assert patterns == expected_patterns
    std = np.sqrt(square - mean**2)
    passes = 3000
    found = md.monte_carlo(net, passes, ["ip3"], data=X, label=LABEL).blobs["ip3"]
    # Five standard errors of a mean.
    assert (np.abs(found.mean - mean) < 5 * std / passes**0.5).all()
    np.testing.assert_allclose(found.std, std, rtol=0.1)
    # Inverted dropout of a product without anything after it: the mean over the patterns is the net without
    # drops.
    np.testing.assert_allclose(mean, found.deterministic, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ['pattern: "PERIODIC"', "Dropout"])
def test_follows_from_the_seed(kind):
    def run(seed, **options):
        net = net_of(text(kind), seed=seed)
        for name, parameter in net.parameters().items():
            parameter.data[...] = np.random.default_rng(len(name)).standard_normal(parameter.data.shape)
        return md.monte_carlo(net, 4, data=X, label=LABEL, **options).blobs["ip3"].mean

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any() and (run(1) != run(1, start=4)).any()


class TestStateIsRestored:
    def check(self, net, call):
        mode = net.mode
        net.draw_patterns(11)
        patterns, positions = dict(net.patterns), dict(net.positions)
        call()
        assert net.mode == mode
        assert net.patterns == patterns and net.positions == positions

    @pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
    def test_after_success(self, phase):
        net = net_of(text('pattern: "ROW"'), phase=phase)
        net.set_dropping(True)
        self.check(net, lambda: md.monte_carlo(net, 3, data=X, label=LABEL))

    def test_after_an_error_in_a_pass(self):
        net = net_of(text('pattern: "ROW"'))
        layer, calls = net.layers["ip3"], []
        forward = layer.forward

        def failing(x):
            calls.append(x)
            if len(calls) == 3:
                raise RuntimeError("third pass")
            return forward(x)
        layer.forward = failing

        def call():
            with pytest.raises(RuntimeError, match="third pass"):
                md.monte_carlo(net, 5, data=X, label=LABEL)
        self.check(net, call)

    def test_a_training_net_trains_on_as_if_nothing_had_been(self):
        def losses(with_passes):
            net, found = net_of(text("Dropout", tail=(LOSS,)), phase="TRAIN"), []
            for i in range(3):
                if with_passes and i:
                    md.monte_carlo(net, 3, data=X, label=LABEL)
                found.append(float(net.forward(data=X, label=LABEL)["loss"]))
                net.backward()
            return found
        assert losses(True) == losses(False)

    def test_nothing_is_remembered_for_backward(self):
        net = net_of(text("Dropout"))
        md.monte_carlo(net, 2, data=X, label=LABEL)
        assert not net.blobs["loss"].requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_set_dropping_makes_a_test_net_drop_as_a_training_net_does(kind):
    def scores(phase, dropping=None):
        net = net_of(text(kind), phase=phase)
        assert list(net.drop_layers) == ["drop1", "drop2"]
        assert all(net.is_dropping(layer) == (phase == "TRAIN") for layer in net.drop_layers.values())
        if dropping is not None:
            net.set_dropping(dropping)
        net.draw_patterns(2)
        net.forward(data=X, label=LABEL)
        return net.blobs["ip3"].numpy()

    np.testing.assert_array_equal(scores("TEST", True), scores("TRAIN"))
    np.testing.assert_array_equal(scores("TRAIN", False), scores("TEST"))
    assert (scores("TRAIN") != scores("TEST")).any()


class TestRerun:
    def test_runs_only_what_drops_reach(self):
        net = net_of(text('pattern: "PERIODIC"'))
        count = {}
        for name, layer in net.layers.items():
            def counted(*bottoms, name=name, forward=layer.forward):
                count[name] = count.get(name, 0) + 1
                return forward(*bottoms)
            layer.forward = counted
        md.monte_carlo(net, 5, data=X, label=LABEL)
        assert count == {"in": 1, "ip1": 1, "relu1": 1, "drop1": 6, "ip2": 6, "drop2": 6, "ip3": 6, "loss": 6,
                         "accuracy": 6}

    def test_needs_a_whole_forward(self):
        net = net_of(text('pattern: "PERIODIC"'))
        with pytest.raises(md.DataError, match="forward pass without drops first"):
            net.rerun()
        net.set_dropping(True)
        net.forward(data=X, label=LABEL)
        with pytest.raises(md.DataError, match="forward pass without drops first"):
            net.rerun()


# -- what is reported ----------------------------------------------------------------------------------------
class TestReports:
    def test_default_outputs_are_those_of_the_net_and_what_is_judged(self):
        net = net_of(text("Dropout"))
        assert set(md.monte_carlo(net, 2, data=X, label=LABEL).blobs) == {"loss", "accuracy", "ip3"}
        assert set(md.monte_carlo(net, 2, ["drop1"], data=X, label=LABEL).blobs) == {"drop1"}

    def test_dropped_units_are_zeros(self):
        net = net_of(text('pattern: "PERIODIC" step: 4'))
        found = md.monte_carlo(net, 12, ["drop1", "ip1"], data=X, label=LABEL).blobs
        assert found["drop1"].mean.shape == (5, 16)
        np.testing.assert_array_equal(found["ip1"].std, np.zeros((5, 16)))
        # Kept in about half of the passes and scaled by 2, or zero: the spread is the value itself, about.
        value, std = found["drop1"].deterministic, found["drop1"].std
        assert (value > 0.1).any() and not std[value == 0].any()
        assert (np.abs(std / np.where(value > 0, value, 1) - 1)[value > 0.1] < 0.2).all()

    def test_regression_has_blobs_and_no_classes(self):
        loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip3" bottom: "target" top: "loss" }'
        source = INPUT.replace('top: "label"', 'top: "target"').replace("shape { dim: 5 }", "shape { dim: 5 "
                                                                        "dim: 3 }")
        net = net_of(text("Dropout", (loss,), source))
        found = md.monte_carlo(net, 5, data=X, target=np.zeros((5, 3)))
        assert found.predictions == {} and set(found.blobs) == {"loss", "ip3"}
        assert found.blobs["ip3"].std.shape == (5, 3) and (found.blobs["ip3"].std > 0).all()

    def test_softmax_output_without_labels(self):
        net = net_of(text("Dropout", ('layer { name: "p" type: "Softmax" bottom: "ip3" top: "p" }',)))
        found = md.monte_carlo(net, 6, data=X, label=LABEL)
        prediction = found.predictions["ip3"]
        np.testing.assert_allclose(prediction.mean, found.blobs["p"].mean, rtol=1e-12)
        assert prediction.labels is None and prediction.quality.calibration == {}
        assert set(prediction.quality.as_dict()["monte_carlo"]) == {"entropy", "mutual_information"}

    @pytest.mark.parametrize("tail", [
        (LOSS, ACCURACY),
        (ACCURACY,),
        ('layer { name: "p" type: "Softmax" bottom: "ip3" top: "p" }', ACCURACY.replace('"ip3"', '"p"')),
        ('layer { name: "p" type: "Softmax" bottom: "ip3" top: "ip3" }', ACCURACY),
        ('layer { name: "s" type: "Split" bottom: "ip3" top: "a" top: "b" }', LOSS.replace('"ip3"', '"a"'),
         ACCURACY.replace('"ip3"', '"b"'), 'layer { name: "p" type: "Softmax" bottom: "ip3" top: "p" }'),
    ])
    def test_one_prediction_however_it_is_judged(self, tail):
        reference = md.monte_carlo(net_of(text("Dropout")), 4, data=X, label=LABEL).predictions["ip3"]
        found = md.monte_carlo(net_of(text("Dropout", tail)), 4, data=X, label=LABEL).predictions
        assert list(found) == ["ip3"]
        np.testing.assert_allclose(found["ip3"].mean, reference.mean, rtol=1e-12)
        assert found["ip3"].quality.calibration["monte_carlo"].count.sum() == 5

    def test_two_sets_of_labels_are_two_predictions(self):
        source = INPUT.replace('top: "label"', 'top: "label" top: "coarse"').replace(
            "shape { dim: 5 } }", "shape { dim: 5 } shape { dim: 5 } }")
        second = LOSS.replace('"label"', '"coarse"').replace('"loss"', '"loss2"')
        found = md.monte_carlo(net_of(text("Dropout", (LOSS, second), source)), 2, data=X, label=LABEL,
                               coarse=np.zeros(5))
        assert list(found.predictions) == ["ip3, label", "ip3, coarse"]
        assert found.predictions["ip3, coarse"].labels.tolist() == [0] * 5

    def test_ignore_label_and_places_of_images(self):
        source = ('layer { name: "in" type: "Input" top: "data" top: "label" '
                  'input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } shape { dim: 2 dim: 2 dim: 2 } } }')
        loss = ('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "d" bottom: "label" top: "loss" '
                'loss_param { ignore_label: 255 } }')
        net = net_of("\n".join([source, drop("d", "data", "Dropout"), loss]))
        scores = np.random.default_rng(1).standard_normal((2, 3, 2, 2))
        labels = np.array([0, 1, 2, 255, 1, 1, 255, 0]).reshape(2, 2, 2)
        found = md.monte_carlo(net, 3, data=scores, label=labels)
        prediction = found.predictions["d"]
        np.testing.assert_allclose(prediction.deterministic,
                                   softmax(scores.transpose(0, 2, 3, 1).reshape(8, 3)))
        assert prediction.counted.tolist() == [True, True, True, False, True, True, False, True]
        quality = prediction.quality
        assert quality.places == 6
        assert quality.calibration["deterministic"].negative_log_likelihood == pytest.approx(
            float(found.blobs["loss"].deterministic))

    def test_everything_ignored_has_no_accuracy(self):
        loss = LOSS.replace('top: "loss"', 'top: "loss" loss_param { ignore_label: 9 }')
        found = md.monte_carlo(net_of(text("Dropout", (loss,))), 2, data=X, label=np.full(5, 9))
        assert np.isnan(found.predictions["ip3"].quality.as_dict()["monte_carlo"]["accuracy"])

    @pytest.mark.parametrize("passes", [1, 0, 2.5, "3", None])
    def test_passes_must_be_two_or_more(self, passes):
        with pytest.raises(md.ConfigError, match="passes must be an integer of at least 2, got"):
            md.monte_carlo(net_of(text("Dropout")), passes, data=X, label=LABEL)

    def test_nothing_random(self):
        net = net_of("\n".join([INPUT, ip("ip3", "data", 3), LOSS]))
        for call in (lambda: md.monte_carlo(net, data=X, label=LABEL),
                     lambda: md.evaluate_monte_carlo(net, 1)):
            with pytest.raises(md.ConfigError, match="nothing is random: the net has no drop layer in phase "
                               "TEST"):
                call()

    def test_unknown_blob(self):
        with pytest.raises(md.ConfigError, match="no blob 'ip33'; did you mean 'ip3'"):
            md.monte_carlo(net_of(text("Dropout")), 2, ["ip33"], data=X, label=LABEL)


# -- many batches --------------------------------------------------------------------------------------------
@pytest.fixture
def hdf5_net(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = rng.standard_normal((15, 6)).astype(np.float32)
        file["label"] = rng.integers(3, size=15)
    (tmp_path / "data.txt").write_text("data.h5\n")
    monkeypatch.chdir(tmp_path)
    source = ('layer { name: "in" type: "HDF5Data" top: "data" top: "label" '
              'hdf5_data_param { source: "data.txt" batch_size: 5 } }')
    nets = []

    def build(kind):
        nets.append(net_of(text(kind, source=source)))
        return nets[-1]
    yield build
    for net in nets:
        net.close()


@pytest.mark.parametrize("kind", ['pattern: "PERIODIC"', "Dropout"])
def test_evaluation_is_the_batches_together(hdf5_net, kind):
    net = hdf5_net(kind)
    net.forward()
    before = net.positions
    with pytest.raises(md.ConfigError, match="^iterations must be at least 1, got 0$"):
        md.evaluate_monte_carlo(net, 0, 4)
    found = md.evaluate_monte_carlo(net, 3, 4)
    assert net.positions == before == {"in": 1}
    net.seek(0)
    batches = []
    for batch in range(3):
        batches.append(md.monte_carlo(net, 4, start=4 * batch))
        net.forward()
    assert found.iterations == 3 and found.passes == 4
    for name in ("loss", "accuracy"):
        spreads = [one.blobs[name] for one in batches]
        assert found.outputs[name].deterministic == pytest.approx(np.mean([one.deterministic
                                                                           for one in spreads]))
        assert found.outputs[name].mean == pytest.approx(np.mean([one.mean for one in spreads]))
        assert found.outputs[name].std == pytest.approx(np.mean([one.std**2 for one in spreads])**0.5)
    quality = found.predictions["ip3"]
    predictions = [one.predictions["ip3"] for one in batches]
    assert quality.places == 15
    assert quality.mutual_information == pytest.approx(np.mean([one.mutual_information
                                                                for one in predictions]))
    assert quality.entropy["monte_carlo"] == pytest.approx(np.mean([one.entropy for one in predictions]))
    p, label = np.concatenate([one.mean
                               for one in predictions]), np.concatenate([one.labels for one in predictions])
    assert quality.calibration["monte_carlo"].accuracy == pytest.approx((p.argmax(axis=1) == label).mean())
    assert (quality.calibration["monte_carlo"].negative_log_likelihood
            == pytest.approx(-np.log(p[np.arange(15), label]).mean()))
    # Without drops accuracy and likelihood are what the net's own layers say.
    assert (quality.calibration["deterministic"].accuracy
            == pytest.approx(float(found.outputs["accuracy"].deterministic)))
    assert quality.calibration["deterministic"].negative_log_likelihood == pytest.approx(
        float(found.outputs["loss"].deterministic))
    assert set(found.seconds) == {"deterministic", "passes"} and min(found.seconds.values()) > 0
    again = md.evaluate_monte_carlo(net, 3, 4).as_dict()
    # text, for empty bins are NaN
    assert repr({**again, "seconds": 0}) == repr({**found.as_dict(), "seconds": 0})


def test_the_batch_is_held_while_passes_run(hdf5_net):
    net = hdf5_net("dropout_ratio: 0")
    found = md.monte_carlo(net, 5)
    assert found.blobs["loss"].std == 0 and net.positions == {"in": 0}


def test_statistics_of_norms_stay_as_they_were():
    """In phase TRAIN each pass would move them: of Monte-Carlo, of the oracle, of any that is restored."""
    norm = 'layer { name: "norm" type: "BatchNorm" bottom: "ip3" top: "ip3" }'
    net = net_of(text(KINDS[0], [norm, LOSS]), phase="TRAIN")
    net.forward(data=X, label=LABEL)
    before = {name: parameter.data.copy() for name, parameter in net.parameters().items()}
    md.monte_carlo(net, 3, ["loss"], data=X, label=LABEL)
    assert_matches_masked_dense(net, 2, {"data": X, "label": LABEL.astype(int)})
    with pytest.raises(ZeroDivisionError), net.restored():
        net.forward(data=X, label=LABEL)
        assert not np.array_equal(net.parameters()["norm/mean"].data, before["norm/mean"])
        1 / 0       # noqa: B018
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.data, before[name], err_msg=name)
