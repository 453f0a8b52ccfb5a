"""get_solver gives the class of the file's type, as scripts ask for it."""

from pathlib import Path

import pytest

import minidrop.caffe as caffe
from minidrop.caffe import layers as L
from minidrop.errors import ConfigError


def solver_file(settings):
    n = caffe.NetSpec()
    n.data = L.DummyData(shape={"dim": [2, 3]}, data_filler={"type": "gaussian"})
    n.fc = L.InnerProduct(n.data, num_output=1, weight_filler={"type": "xavier"})
    n.loss = L.EuclideanLoss(n.fc, n.fc)
    Path("train.prototxt").write_text(str(n.to_proto()))
    Path("solver.prototxt").write_text(f'train_net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" '
                                       f'max_iter: 1 {settings}')
    return "solver.prototxt"


@pytest.mark.parametrize("settings, kind", [
    ("", "SGD"), ('type: "SGD"', "SGD"), ('type: "Adam" momentum: 0.9', "Adam"),
    ('type: "AdaGrad"', "AdaGrad"), ("solver_type: ADAGRAD", "AdaGrad"),
    ("solver_type: NESTEROV momentum: 0.9", "Nesterov"), ('type: "RMSProp" rms_decay: 0.9', "RMSProp"),
    ('type: "AdaDelta" momentum: 0.9', "AdaDelta")])
def test_the_class_of_the_type(settings, kind):
    solver = caffe.get_solver(solver_file(settings))
    assert type(solver) is getattr(caffe, f"{kind}Solver")
    assert solver.type == solver.param.type == kind


def test_an_unknown_type():
    with pytest.raises(ConfigError, match="solver.prototxt:1.*'Adm'; did you mean 'Adam'"):
        caffe.get_solver(solver_file('type: "Adm"'))
