"""`import caffe` after install(), and what importing minidrop.caffe does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code, folder, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True,
                          text=True)


def test_import_caffe_after_install(tmp_path):
    done = run("""
import minidrop.caffe
minidrop.caffe.install()
import caffe
import caffe.io
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
import caffe.draw
from caffe.net_spec import Function, Top
relu = L.ReLU("x", negative_slope=0.5)
assert isinstance(relu, Top) and isinstance(relu.fn, Function) and relu.n == 0
assert (relu.fn.type_name, relu.fn.inputs, relu.fn.ntop, relu.fn.params) == (
    "ReLU", ("x",), 1, {"negative_slope": 0.5})
layer = caffe_pb2.LayerParameter()
caffe.net_spec.assign_proto(layer, "convolution_param", dict(num_output=3, kernel_size=[1, 2]))
assert layer.convolution_param.kernel_size == [1, 2] and relu.to_proto().layer[0].type == "ReLU"
assert caffe is minidrop.caffe and caffe.io is minidrop.caffe.io
assert caffe_pb2.NetParameter is caffe.proto.caffe_pb2.NetParameter
assert P.Pooling.MAX == 0 and caffe.NetSpec().to_proto() == caffe_pb2.NetParameter()
minidrop.caffe.install()
""", tmp_path)
    assert done.returncode == 0, done.stderr


def test_another_caffe_is_not_replaced(tmp_path):
    (tmp_path / "caffe.py").write_text("")
    done = run("import sys; sys.path.insert(0, '.'); import caffe, minidrop.caffe; minidrop.caffe.install()",
               tmp_path)
    assert "another package caffe is imported already" in done.stderr.splitlines()[-1]


def test_importing_it_allows_python_layers_and_importing_minidrop_does_not(tmp_path):
    code = "import minidrop{}; from minidrop.layers import allow_python; print(allow_python())"
    assert run(code.format(""), tmp_path).stdout.strip() == "False"
    assert run(code.format(".caffe"), tmp_path).stdout.strip() == "True"
