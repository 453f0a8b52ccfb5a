"""Caffe's files of weights and solver states: every form of Caffe's years, what is no such file, damage."""

import os
import time
import tracemalloc

import h5py
import numpy as np
import pytest
from caffe_nets import FORMS, NET, SHAPES, fill, message, values

from minidrop.config import minidrop_pb2 as pb
from minidrop.config import parse_net
from minidrop.data.wire import BYTES, as_key, as_varint
from minidrop.errors import MinidropError, SnapshotError
from minidrop.net import Net
from minidrop.net.loading import Loading
from minidrop.snapshot import caffe_file
from minidrop.snapshot.caffe_file import file_kind, read_binary_state, read_binary_weights
from minidrop.snapshot.caffe_hdf5 import read_hdf5_state, read_hdf5_weights


def write(path, what):
    path.write_bytes(what if isinstance(what, bytes) else what.SerializeToString())
    return path


def check(path):
    net = Net(parse_net(NET), device="cpu")
    report = net.load_weights(path)
    assert report.copied == ["conv/weight", "conv/bias", "ip/weight", "ip/bias"] and not report.left
    for layer, shapes in SHAPES.items():
        for i, parameter in enumerate(net.params[layer].values()):
            assert parameter.shape == shapes[i]
            np.testing.assert_array_equal(parameter.data, values(layer, i))


@pytest.fixture(params=["in memory", "in the file"])
def place(request, monkeypatch):
    """Where the arrays of a binary file stay until they are used: this is decided by its size."""
    if request.param == "in the file":
        monkeypatch.setattr(caffe_file, "IN_MEMORY", 0)
    return request.param


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_caffemodel(tmp_path, form, double, place):
    check(write(tmp_path / "w.caffemodel", message(form, double=double)))


def test_new_layers_with_old_shapes(tmp_path):
    check(write(tmp_path / "w.caffemodel", message("V2", old=True)))


def test_values_one_by_one_and_in_several_parts(tmp_path, place):
    def blob(array, parts):
        flat = array.reshape(-1)
        head = pb.BlobProto(shape=pb.BlobShape(dim=array.shape)).SerializeToString()
        if parts == 1:
            return head + b"".join(as_key(5, 5) + value.tobytes() for value in flat)
        return head + b"".join(as_key(5, BYTES) + as_varint(part.nbytes) + part.tobytes()
                               for part in np.array_split(flat, parts))

    for parts in (1, 2, 7):
        raw = b""
        for name, shapes in SHAPES.items():
            layer = pb.LayerParameter(name=name).SerializeToString()
            for i in range(len(shapes)):
                own = blob(values(name, i), parts if values(name, i).size >= parts else 1)
                layer += as_key(7, BYTES) + as_varint(len(own)) + own
            raw += as_key(100, BYTES) + as_varint(len(layer)) + layer
        check(write(tmp_path / "w.caffemodel", raw))


def test_arrays_are_views_of_the_file(tmp_path):
    found = read_binary_weights(write(tmp_path / "w.caffemodel", message()))
    array = found.layers["conv"][0].array
    assert not array.flags.owndata and not array.flags.writeable and found.layers["relu"] == {}


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path, place):
    path = write(tmp_path / "w.caffemodel", message())
    net = Net(parse_net(NET), device="cpu")
    loading = Loading(net, path)
    os.truncate(path, 500)
    if place == "in memory":
        loading.apply()
        np.testing.assert_array_equal(net.params["ip"]["weight"].data, values("ip", 0))
    else:
        with pytest.raises(SnapshotError, match="w.caffemodel: became shorter while it was read"):
            loading.apply()
    raw = message().SerializeToString()
    blob = read_binary_weights(write(path, raw)).layers["conv"][1]
    path.write_bytes(raw.replace(b"\n\x01\x04", b"\n\x01\x05"))       # the length of its one axis
    if place == "in memory":
        np.testing.assert_array_equal(blob.array, values("conv", 1))
    else:
        with pytest.raises(SnapshotError, match="array 1 of layer 'conv' has 16 bytes of values for the sha"):
            blob.read()


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(caffe_file, "IN_MEMORY", 1 << 20)
    layers = "".join(f'layer {{ name: "ip{i}" type: "InnerProduct" bottom: "x" top: "y{i}" '
                     f'inner_product_param {{ num_output: 512 weight_filler {{ value: {i} }} '
                     f'}} }} ' for i in range(8))
    net = Net(parse_net(NET[:NET.index("layer", 5)].replace("dim: 4 dim: 4", "dim: 16 dim: 16") + layers),
              device="cpu")
    net.save(tmp_path / "w.caffemodel")         # 8 arrays of 1.5 MiB
    for i in range(8):
        net.params[f"ip{i}"]["weight"].data[...] = -1
    tracemalloc.start()
    try:
        net.load_weights(tmp_path / "w.caffemodel")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert all((net.params[f"ip{i}"]["weight"].data == i).all() for i in range(8))


def strange(name):
    """A message of NET's weights and of three arrays in a layer `name`, none of which can be read."""
    net = message()
    layer = next((one for one in net.layer if one.name == name), None) or net.layer.add(name=name)
    del layer.blobs[:]
    layer.blobs.add(data=[1, 2], shape=pb.BlobShape(dim=[2]))
    layer.blobs.add(shape=pb.BlobShape(dim=[0, 3]))
    half = layer.blobs.add(shape=pb.BlobShape(dim=[2]))
    half.MergeFromString(as_key(12, BYTES) + b"\x04\x00\x3c\x00\x40")
    return net


def test_an_array_that_cannot_be_read_counts_only_in_a_layer_of_the_net(tmp_path):
    net = Net(parse_net(NET), device="cpu")
    report = net.load_weights(write(tmp_path / "w.caffemodel", strange("other")))
    assert len(report.copied) == 4 and report.left_out == ["other"]
    assert "other        left out    the arrays of an unknown form in the file" in str(report)
    with pytest.raises(SnapshotError, match="w.caffemodel: array 1 of layer 'ip' holds no values; if an"):
        net.load_weights(write(tmp_path / "w.caffemodel", strange("ip")))
    net = strange("ip")
    del net.layer[2].blobs[:2]
    with pytest.raises(SnapshotError, match="array 0 of layer 'ip' holds no values but NVCaffe's raw_data"):
        read_binary_weights(write(tmp_path / "w.caffemodel", net)).layers["ip"]


def hdf5(path, skip=(), extra=None):
    with h5py.File(path, "w") as file:
        for name in ("conv", "relu", "ip"):
            group = file.create_group(f"data/{name}")
            for i in range(len(SHAPES.get(name, ()))):
                if (name, i) not in skip:
                    group[str(i)] = values(name, i)
        if extra:
            extra(file)
    return path


def test_hdf5_as_caffe_writes_it(tmp_path):
    check(hdf5(tmp_path / "w.caffemodel.h5"))
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for name, shapes in SHAPES.items():
            for i in range(len(shapes)):
                file.create_dataset(f"data/{name}/{i}", data=values(name, i).astype(np.float64), chunks=True,
                                    compression="gzip")
    check(tmp_path / "packed.h5")


def link(kind):
    def add(file):
        file["data/conv"]["2"] = h5py.SoftLink("/data/ip/0") if kind == "soft" else h5py.ExternalLink(
            "/etc/passwd", "/")
    return add


@pytest.mark.parametrize("extra, text", [
    (link("soft"), "soft or external link"), (link("external"), "soft or external link"),
    (lambda file: file.create_dataset("data/conv/bias", data=1.0), "expected arrays called 0, 1"),
    (lambda file: file.create_dataset("data/conv/2", data=b"text"), "expected integers, floats"),
    (lambda file: file.create_dataset("data/conv/2", (3, 0), "f4"), r"expected values, got the shape \(3, "),
    (lambda file: file.create_dataset("data/conv/2", (1 << 40,), "f4"), "not written to the end")])
def test_hdf5_that_is_refused(tmp_path, extra, text):
    with pytest.raises(SnapshotError, match=text):
        read_hdf5_weights(hdf5(tmp_path / "w.h5", extra=extra))


def state(learned_net="w.caffemodel"):
    found = pb.SolverState(iter=7, learned_net=learned_net, current_step=2)
    for layer, shapes in SHAPES.items():
        for i in range(len(shapes)):
            fill(found.history.add(), values(layer, i))
    return found


def test_both_forms_of_a_solver_state(tmp_path, place):
    with h5py.File(tmp_path / "s.solverstate.h5", "w") as file:
        file["iter"], file["current_step"] = np.array([7], np.int32), np.array([2], np.int32)
        file["learned_net"] = np.bytes_(b"w.caffemodel\0")
        for i, (layer, number) in enumerate((a, b) for a in SHAPES for b in range(2)):
            file[f"history/{i}"] = values(layer, number)
    for found in (read_binary_state(write(tmp_path / "s.solverstate", state())),
                  read_hdf5_state(tmp_path / "s.solverstate.h5")):
        assert (found.iteration, found.learned_net, found.current_step) == (7, "w.caffemodel", 2)
        assert [blob.array.shape for blob in found.history] == [s for own in SHAPES.values() for s in own]
        np.testing.assert_array_equal(found.history[2].array, values("ip", 0))


@pytest.mark.parametrize("content, text", [
    (b"", "it is empty"), (b'layer { name: "x" }', "is a text file; is it the network's description"),
    (b"\xff\xd8\xff\xe0JFIF" * 20, "this is no minidrop snapshot and no .caffemodel"),
    (pb.NetParameter(name="x"), "it holds no layers"),
    (pb.BlobProto(num=1, channels=1, height=1, width=1, data=[1]), "is one array"),
    (state(), "is a solver state, not weights; give it with --resume")])
def test_what_is_no_file_of_weights(tmp_path, content, text, place):
    with pytest.raises(SnapshotError, match=f"w.caffemodel: .*{text}"):
        Net(parse_net(NET), device="cpu").load_weights(write(tmp_path / "w.caffemodel", content))


def test_what_is_no_solver_state(tmp_path):
    with pytest.raises(SnapshotError, match="holds weights but no solver state; give it with --weights"):
        read_binary_state(write(tmp_path / "w", message()))
    with pytest.raises(SnapshotError, match="holds weights but no solver state; give it with --weights"):
        read_hdf5_state(hdf5(tmp_path / "w.h5"))
    with pytest.raises(SnapshotError, match="is a solver state, not weights"):
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["iter"] = [1]
            file["history/0"] = [1.0]
        read_hdf5_weights(tmp_path / "s.h5")
    with pytest.raises(SnapshotError, match="iterations were done; expected 0 to"):
        read_binary_state(write(tmp_path / "s", b"\x08" + as_varint(2**64 - 1)))


@pytest.mark.parametrize("make, text", [
    (lambda path: None, "there is no such {}; check the name"),
    (lambda path: path.mkdir(), "expected a {}, got a folder; name a file in it"),
    (lambda path: os.mkfifo(path), "expected a {}, got a pipe or a device; save its content as a file")])
def test_missing_files_folders_and_pipes(tmp_path, make, text):
    make(tmp_path / "w")
    for read, what in ((file_kind, "file of weights or snapshot"),
                       (read_binary_weights, "file of weights or snapshot"),
                       (read_hdf5_weights, "file of weights or snapshot"),
                       (read_binary_state, "solver state or snapshot"),
                       (read_hdf5_state, "solver state or snapshot")):
        with pytest.raises(SnapshotError, match=f"w: {text.format(what)}"):
            read(tmp_path / "w")


def test_a_state_that_is_no_hdf5_file_is_called_one(tmp_path):
    with pytest.raises(SnapshotError, match="and no .solverstate.h5 of Caffe's: it is no HDF5 file"):
        read_hdf5_state(write(tmp_path / "s.solverstate.h5", b"text"))


def test_two_gibibytes_are_refused(tmp_path):
    with open(tmp_path / "w.caffemodel", "wb") as file:
        file.write(message().SerializeToString())
        file.truncate(1 << 31)          # sparse: takes no room on the disk
    with pytest.raises(SnapshotError, match="expected less than 2 GiB.*save it as .caffemodel.h5"):
        read_binary_weights(tmp_path / "w.caffemodel")


def mutated(raw, rng):
    """A copy of some bytes with a few mistakes: other bytes, a piece gone or twice, an end cut off."""
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        at, many = int(rng.integers(len(raw))), int(rng.integers(1, 9))
        kind = rng.integers(5)
        if kind == 0:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[at:at + many] = rng.integers(0, 256, many, np.uint8).tobytes()
        elif kind == 2:
            del raw[at:at + many]
        elif kind == 3:
            raw[at:at] = raw[at:at + many * 4]
        else:
            del raw[max(at, 1):]
    return bytes(raw)


@pytest.mark.parametrize("read, whole", [
    (read_binary_weights, message("V2")), (read_binary_weights, message("V1", double=True)),
    (read_binary_weights, message("V0")), (read_binary_state, state())])
def test_damaged_files_are_errors_of_ours(tmp_path, read, whole):
    rng, raw, refused = np.random.default_rng(5), whole.SerializeToString(), 0
    # Mistakes in numbers alone are of no interest: most of the bytes are left out.
    small = raw.replace(values("ip", 0).tobytes(), values("ip", 0).tobytes()[:8])
    began = time.process_time()
    for i in range(int(os.environ.get("MINIDROP_MUTATIONS", 100))):
        try:
            dict(getattr(read(write(tmp_path / "w", mutated(raw if i % 2 else small, rng))), "layers", {}))
        except MinidropError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'w'}: ") and len(str(error)) < 6000
    assert refused > 10 and time.process_time() - began < 60
