"""minidrop upgrade, and Caffe's names for it; --skip-mismatched and Caffe's files on the command line."""

import os

import numpy as np
import pytest
from caffe_nets import message, values

import minidrop as md
from minidrop.cli import commands
from minidrop.config import load_net, load_solver
from minidrop.config import minidrop_pb2 as pb
from minidrop.data.wire import BYTES, as_key, as_varint
from minidrop.net import Net

V1 = '''name: "old" input: "x" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4
layers { name: "d" type: DATA top: "d" data_param { source: "s" scale: 0.5 batch_size: 1 } }
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2   # a comment
         convolution_param { num_output: 2 kernel_size: 3 } }'''


@pytest.mark.parametrize("command", ["upgrade", "upgrade_net_proto_text"])
def test_a_text_net(tmp_path, minidrop, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.prototxt").write_text(V1)
    result = minidrop(command, "old.prototxt", "new.prototxt")
    assert result.code == 0 and result.out.splitlines() == [
        "2 `layers` of the form V1 became 2 `layer`", "input 'x' became the Input layer 'input'",
        "scale, mean_file, crop_size or mirror moved into transform_param: d", "wrote new.prototxt"]
    new = load_net("new.prototxt").message
    assert [layer.type for layer in new.layer] == ["Input", "Data", "Convolution"] and not new.layers
    assert [param.lr_mult for param in new.layer[2].param] == [1, 2]
    assert "layers" not in (tmp_path / "new.prototxt").read_text()
    assert (tmp_path / "old.prototxt").read_text() == V1
    again = minidrop(command, "new.prototxt", "again.prototxt")
    assert again.out == "wrote again.prototxt: new.prototxt is in today's form already\n"
    assert (tmp_path / "again.prototxt").read_text() == (tmp_path / "new.prototxt").read_text()


def test_of_two_layers_of_a_name_each_is_told(tmp_path, minidrop):
    """As those that feed the two phases are."""
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text("".join(f'layers {{ name: "d" type: DATA top: "d" include {{ phase: {phase} }} data_param '
                           f'{{ source: "s" batch_size: 1 {own} }}' for phase, own in (
                               ("TRAIN", "mirror: true }"), ("TEST", "} transform_param { scale: 2 }"))))
    assert "moved into transform_param: d" in minidrop("upgrade", old, new).out
    assert [layer.transform_param.mirror for layer in load_net(new).message.layer] == [True, False]


@pytest.mark.parametrize("form", ["V1", "V0"])
def test_a_binary_net_keeps_its_weights(tmp_path, minidrop, form):
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    old.write_bytes(message(form).SerializeToString())
    result = minidrop("upgrade_net_proto_binary", old, new)
    assert result.code == 0 and f"3 `layers` of the form {form} became 3 `layer`" in result.out
    found = pb.NetParameter()
    found.ParseFromString(new.read_bytes())
    assert [layer.type for layer in found.layer] == ["Convolution", "ReLU", "InnerProduct"]
    np.testing.assert_array_equal(np.array(found.layer[2].blobs[0].data, np.float32),
                                  values("ip", 0).reshape(-1))


@pytest.mark.parametrize("command", ["upgrade", "upgrade_solver_proto_text"])
def test_a_solver(tmp_path, minidrop, command):
    text = f'base_lr: 0.1 solver_type: ADAGRAD lr_policy: "fixed" net_param {{ {V1} }}'
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(text)
    lines = minidrop(command, old, new).out.splitlines()
    assert lines[0] == 'solver_type: ADAGRAD is type: "AdaGrad" now'
    assert lines[1] == "net_param: 2 `layers` of the form V1 became 2 `layer`"
    found = load_solver(new).message
    assert found.type == "AdaGrad" and not found.HasField("solver_type") and len(found.net_param.layer) == 3
    binary = pb.SolverParameter(base_lr=0.5, solver_type=pb.SolverParameter.NESTEROV, net="x" * 40,
                                max_iter=7)
    old.write_bytes(binary.SerializeToString())
    assert minidrop(command, old, new).code == 0
    found = pb.SolverParameter()
    found.ParseFromString(new.read_bytes())
    assert (found.type, found.max_iter, found.net) == ("Nesterov", 7, "x" * 40)


def field(number, text):
    """A serialized field of some bytes."""
    return as_key(number, BYTES) + as_varint(len(text)) + text


def test_fields_of_forks(tmp_path, minidrop):
    old, new = tmp_path / "old", tmp_path / "new"
    raw = message("V1").SerializeToString()
    layer = pb.V1LayerParameter(name="r", type=pb.V1LayerParameter.RELU).SerializeToString()
    old.write_bytes(raw + field(300, b"fork") + field(2, layer + field(999, b"x")))
    result = minidrop("upgrade", old, new)
    assert result.out.splitlines() == [
        "4 `layers` of the form V1 became 4 `layer`", "kept fields that minidrop does not know: 300",
        "left out fields that minidrop does not know: layers.999", f"wrote {new}"]
    found = pb.NetParameter()
    found.ParseFromString(new.read_bytes())
    assert [layer.type for layer in found.layer] == ["Convolution", "ReLU", "InnerProduct", "ReLU"]
    assert field(300, b"fork") in new.read_bytes()
    old.write_bytes(pb.SolverParameter(net="n", solver_type=5).SerializeToString() + field(301, b"y"))
    assert minidrop("upgrade", old, new).out.splitlines() == [
        'solver_type: ADAM is type: "Adam" now', "kept fields that minidrop does not know: 301",
        f"wrote {new}"]
    state = pb.SolverState(iter=7, learned_net="w")     # its numbers are a solver's, but not its types
    old.write_bytes(state.SerializeToString())
    assert "neither text nor a serialized network" in minidrop("upgrade", old, new).err

    old.write_text('layer { name: "c" type: "Convolution" convolution_param { hole: 2 num_output: 3 } }')
    result = minidrop("upgrade", old, new)
    assert result.code == 1 and f"{old}:1:59: " in result.err
    result = minidrop("upgrade", old, new, "--ignore-unknown")
    assert result.code == 0 and "hole" not in new.read_text() and "num_output: 3" in new.read_text()
    assert "'hole' of ConvolutionParameter is ignored" in result.err


def test_mistakes(tmp_path, minidrop):
    old = tmp_path / "old.prototxt"
    old.write_text(V1)
    os.link(old, tmp_path / "link")
    for name in ("old.prototxt", "link", "./old.prototxt"):
        result = minidrop("upgrade", old, f"{tmp_path}/{name}")
        assert result.code == 1 and "is the file that is read; name another one to write to" in result.err
    assert old.read_text() == V1
    out = tmp_path / "out"
    for content, text in ((b'layer { type: "x" nonsense: 3 }', "old.prototxt:1:19: "),
                          (b"\x00\x01\x02" * 20, "neither text nor a serialized network or solver"),
                          (message().SerializeToString()[:-5], "neither text nor a serialized"),
                          (V1.replace("input_dim: 4", "", 1).encode(), "expected 4 input_dim")):
        old.write_bytes(content)
        result = minidrop("upgrade", old, out)
        assert result.code == 1 and text in result.err and not out.exists(), result.err
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in minidrop("upgrade", tmp_path / "pipe", out).err
    old.write_text(V1)
    for target, text in ((tmp_path / "no" / "out", "No such file"), (tmp_path, "directory")):
        result = minidrop("upgrade", old, target)
        assert result.code == 1 and text in result.err
    result = minidrop("upgrade", tmp_path / "nope", out)
    assert result.err.startswith(f"error: {tmp_path}/nope: there is no such file")
    assert minidrop("upgrade", old).code == 2


def test_weights_that_do_not_fit(tiny, minidrop):
    net = Net.from_file(tiny.net, device="cpu")
    net.save(tiny.path / "w.caffemodel")
    command = ["test", "--model", tiny.net, "--weights", "w.caffemodel", "--iterations", "1"]
    assert minidrop(*command).out.startswith("w.caffemodel: 4 of 4 parameters copied\n1 batches on")
    wide = ["--set", "layer.ip1.inner_product_param.num_output=9"]
    result = minidrop(*command, *wide)
    assert result.code == 1 and result.err.count("\n") == 3, result.err
    assert "w.caffemodel: ip1/bias has shape (20,), this net expects (9,)\n" in result.err
    assert "--skip-mismatched (from Python skip_mismatched=True) leaves what does not fit" in result.err
    readers = {name: {option.name for option in one.params} for name, one in commands.commands.items()
               if {"weights", "pretrained_model"} & {option.name for option in one.params}}
    assert set(readers) == {"train", "find_lr", "test", "generate", "translate", "tag", "classify",
                            "extract_features", "predict", "export"}
    assert all({"skip_mismatched", "ema"} <= options for options in readers.values())
    result = minidrop(*command, *wide, "-skip_mismatched")
    assert result.code == 0 and "1 of 4 parameters copied" in result.out
    assert "ip1/bias    mismatched  (20,) in the file, (9,) in the net" in result.out
    train = ["train", "--solver", tiny.solver, "--set", "max_iter=1", *wide]
    for more in (["--weights", "w.caffemodel"], ["--set", "weights=../w.caffemodel"]):
        assert minidrop(*train, *more, "--out", "o").code == 1
        result = minidrop(*train, *more, "--out", f"o{len(more[0])}", "--skip-mismatched")
        assert result.code == 0 and "ip2/bias    copied" in result.out, result.err


def test_a_run_of_caffes_goes_on(tiny, minidrop):
    solver = md.Solver(tiny.solver, ["max_iter=7"], device="cpu", snapshot_prefix=tiny.path / "x")
    solver.step(7)
    solver.save_solverstate(tiny.path / "c_iter_7.solverstate")
    solver.close()
    result = minidrop("train", "-solver", tiny.solver, "-snapshot", "c_iter_7.solverstate", "--out", "o")
    assert result.code == 0 and "going on at iteration 7 from c_iter_7.solverstate" in result.out, result.err
    assert minidrop("train", "-solver", tiny.solver, "--out", "whole").code == 0
    whole, own = (Net.from_file(tiny.net, device="cpu") for _ in range(2))
    whole.load_weights("whole/snapshots/task_iter_40.h5")
    own.load_weights("o/snapshots/task_iter_40.h5")
    for name, parameter in whole.parameters().items():
        np.testing.assert_array_equal(parameter.data, own.parameters()[name].data, err_msg=name)
    result = minidrop("train", "-solver", tiny.solver, "-snapshot", "c_iter_7.caffemodel", "--out", "p")
    assert result.code == 1 and "holds weights but no solver state; give it with --weights" in result.err
    for command in (["train", "-solver", tiny.solver], ["test", "-model", tiny.net]):
        result = minidrop(*command, "-weights", "c_iter_7.solverstate")
        assert result.code == 1 and "is a solver state, not weights; give it with --resume" in result.err
