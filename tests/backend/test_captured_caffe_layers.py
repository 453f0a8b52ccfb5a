"""Captured iterations of nets with Caffe's other layers equal those on the CPU; what cannot be captured says
so."""

import numpy as np
import pytest
from nets import ip, layer

import minidrop as md
from minidrop.config import parse_solver

DATA = ('layer { name: "in" type: "MemoryData" top: "data" top: "label" '
        'memory_data_param { batch_size: 6 channels: 13 height: 2 width: 3 } }')
ARRAYS = np.random.default_rng(7).standard_normal((22, 13, 2, 3)), np.random.default_rng(8).integers(0, 5, 22)
NETS = {
    "elementwise": [layer(kind, kind, above, more=more) for kind, above, more in (
        ("ELU", "data", ""), ("AbsVal", "ELU", ""), ("BNLL", "AbsVal", ""), ("Swish", "BNLL", ""),
        ("Clip", "Swish", "clip_param { min: 0 max: 2 }"), ("Exp", "Clip", "exp_param { base: 2 scale: -1 }"),
        ("Log", "Exp", "log_param { shift: 0.5 }"))] + [ip("scores", "Log", 5)],
    "shapes": [layer("Parameter", "p", "", more="parameter_param { shape { dim: 1 dim: 1 dim: 1 dim: 2 } }"),
               layer("Crop", "crop", "data p", more="crop_param { axis: 2 offset: 0 offset: 1 }"),
               layer("Tile", "tile", "crop", more="tile_param { tiles: 2 }"),
               layer("Reduction", "means", "tile", more="reduction_param { operation: MEAN axis: 2 }"),
               layer("BatchReindex", "again", "means label"), layer("ArgMax", "best", "again"),
               layer("Silence", "quiet", "best").replace('top: "quiet"', ""),
               layer("Threshold", "above", "again"), layer("Eltwise", "sum", "again above"),
               ip("scores", "sum", 5)],
}
LOSSES = {
    "SoftmaxWithLoss": [layer("SoftmaxWithLoss", "loss", "scores label")],
    "HingeLoss": [layer("HingeLoss", "loss", "scores label", more="hinge_loss_param { norm: L2 }")],
    "MultinomialLogisticLoss": [layer("Softmax", "soft", "scores"),
                                layer("MultinomialLogisticLoss", "loss", "soft label")],
    "InfogainLoss": [layer("InfogainLoss", "loss", "scores label",
                           more="infogain_loss_param { source: 'H' }")],
    "ContrastiveLoss": [layer("Threshold", "similar", "label", more="threshold_param { threshold: 2 }"),
                        layer("TanH", "other", "scores"),
                        layer("ContrastiveLoss", "loss", "scores other similar")],
}


@pytest.fixture
def matrix(tmp_path):
    np.save(tmp_path / "H.npy", np.random.default_rng(9).random((5, 5)))
    return str(tmp_path / "H.npy")


def solver(layers, device):
    text = (f"base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 max_iter: 99 random_seed: 4 net_param {{ {DATA} "
            f"{' '.join(layers)} }}")
    made = md.Solver(parse_solver(text), device=device, dtype="float64")
    made.net.set_input_arrays(*ARRAYS)
    return made


def trained(made):
    losses = []
    for _ in range(8):
        made.step()
        losses.append(made.net.loss)
    return losses, {name: p.numpy() for name, p in made.net.parameters().items()}


@pytest.mark.parametrize("body, loss", [("elementwise", loss) for loss in LOSSES] + [("shapes", "HingeLoss")])
def test_captured_training_equals_that_on_the_cpu(recorded_cuda, matrix, body, loss):
    layers = [text.replace("'H'", f"'{matrix}'") for text in NETS[body] + LOSSES[loss]]
    made = solver(layers, recorded_cuda())
    losses, parameters = trained(made)
    assert made.captured.problem == "" and made.captured.replayed > 3
    expected_losses, expected = trained(solver(layers, "cpu"))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    assert losses[-1] != losses[0] and parameters.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_a_filter_is_not_captured(recorded_cuda):
    made = solver([layer("Threshold", "chosen", "label", more="threshold_param { threshold: 1 }"),
                   'layer { name: "some" type: "Filter" bottom: "data" bottom: "label" bottom: "chosen" '
                   'top: "x" top: "t" }', ip("scores", "x", 5), layer("SoftmaxWithLoss", "loss", "scores t")],
                  recorded_cuda())
    trained(made)
    assert made.captured.problem == "layer 'some' (Filter) does not say that it is capturable"
