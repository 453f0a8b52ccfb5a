"""The two ways to describe a net agree: models/*_mlp built with NetSpec is the message that the file
holds."""

from pathlib import Path

import pytest

from minidrop import L, NetSpec
from minidrop.config import load_net, load_solver

MODELS = Path(__file__).resolve().parents[1] / "models"


def mlp(name, data_set, hidden, scale, test_batch):
    n = NetSpec(name)
    for phase, part, settings in (("TRAIN", "train", {"batch_size": 128, "shuffle": True}),
                                  ("TEST", "test", {"batch_size": test_batch})):
        data = n.add("HDF5Data", data_set, top=["data", "label"], include={"phase": phase},
                     transform_param={"scale": scale}, source=f"{data_set}/{part}.txt", **settings)
    rates = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 1, "decay_mult": 0}]
    bottom, label = data
    for i, units in enumerate((hidden, hidden, 10), 1):
        n[f"ip{i}"] = L.InnerProduct(bottom, num_output=units, weight_filler={"type": "msra"}, param=rates)
        if i < 3:
            n[f"relu{i}"] = L.ReLU(n[f"ip{i}"], in_place=True)
            bottom = n[f"drop{i}"] = L.ApproxDropout(n[f"relu{i}"], dropout_ratio=0.5, in_place=True)
    n.accuracy = L.Accuracy(n.ip3, label, include={"phase": "TEST"})
    n.loss = L.SoftmaxWithLoss(n.ip3, label)
    return n.to_proto()


@pytest.mark.parametrize("name, arguments", [
    ("digits_mlp", ("digits", 1024, 1 / 16, 71)),
    ("mnist_mlp", ("mnist", 2048, 1 / 256, 100)),
])
def test_spec_equals_file(name, arguments):
    assert mlp(name, *arguments) == load_net(MODELS / name / "train_val.prototxt").message


@pytest.mark.parametrize("name, batch, records", [("digits_mlp", 71, 355), ("mnist_mlp", 100, 10000)])
def test_a_test_reads_every_record_once(name, batch, records):
    solver = load_solver(MODELS / name / "solver.prototxt").message
    assert [n * batch for n in solver.test_iter] == [records]
