"""What `loss` means in the lines of a training is said, where it is not just the net's one loss."""

import pytest

import minidrop as md
from minidrop.cli.train import training_loss
from minidrop.config import parse_solver

SOLVER = """base_lr: 0.1 lr_policy: "fixed" max_iter: 9 random_seed: 1 weight_decay: 0.5 display: 1
test_iter: 2 test_interval: 5 test_compute_loss: true SETTINGS net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 2 dim: 5 }
    data_filler { type: "constant" value: 1 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
    inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
  LOSSES }"""
ONE = 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "TOP" MORE }'
TWO = (ONE.replace("TOP", "loss").replace("MORE", "")
       + ONE.replace('"loss"', '"more"').replace("TOP", "more").replace("MORE", "loss_weight: 0.5"))


def solver(losses, settings=""):
    text = SOLVER.replace("LOSSES", losses).replace("SETTINGS", settings)
    return md.Solver(parse_solver(text), device="cpu")


@pytest.mark.parametrize("losses, settings, said", [
    (ONE.replace("TOP", "loss").replace("MORE", ""), "", ""),
    (ONE.replace("TOP", "error").replace("MORE", ""), "", "error as its loss, without weight decay;"),
    (ONE.replace("TOP", "loss").replace("MORE", "loss_weight: 3"), "",
     "3 loss as its loss, without weight decay;"),
    (ONE.replace("TOP", "loss").replace("MORE", ""), "average_loss: 7",
     "loss as its loss, without weight decay, mean of the last 7 iterations;"),
    (TWO, "", "loss + 0.5 more as its loss, without weight decay;"),
])
def test_what_the_loss_is(losses, settings, said):
    line = training_loss(solver(losses, settings))
    assert line == (f"training shows {said} tests show every output" if said else "")


def test_the_values_are_what_the_words_say():
    made, shown = solver(TWO, "average_loss: 2"), []
    made.add_callback(lambda event: shown.append(event) if event.kind in ("display", "test") else None)
    made.step(2)
    test, *displays = shown
    assert test.values["total_loss"] == pytest.approx(1.5 * test.values["loss"])
    sums = []
    for event in displays:
        sums.append(1.5 * event.values["more"])       # both losses are the same number
        assert event.values["loss"] == pytest.approx(sum(sums) / len(sums))
