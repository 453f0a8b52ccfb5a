"""Caffe's own files: all parse; all nets build and run a training step, on data that commands here make.

The files are those of $MINIDROP_DATA/caffe, in the layout of Caffe's tree.
"""

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import in_turn

from minidrop import Net, Solver
from minidrop.cli import run
from minidrop.config import NetConfig, SolverConfig, SolverParameter, load_net, load_solver
from minidrop.solver.checks import warn_of_ignored

ROOT = Path(os.environ.get("MINIDROP_DATA", "/nonexistent")) / "caffe"
FILES = sorted(path for path in ROOT.glob("*/**/*.prototxt") if "weights" not in path.parts)
SOLVERS = [path for path in FILES if "solver" in path.name]
NETS = [path for path in FILES if path not in SOLVERS]
IMAGENET = 256, 256

pytestmark = pytest.mark.skipif(not FILES, reason="Caffe's files are not here: MINIDROP_DATA names no folder "
                                                  "with caffe/ in it")


def name_of(path):
    return str(path.relative_to(ROOT))


def test_there_are_all():
    assert (len(SOLVERS), len(NETS)) == (25, 29)


@in_turn("path", SOLVERS, ids=name_of)
def test_solvers_parse(path, caplog):
    """And nothing in them is warned of."""
    config = load_solver(path)
    assert config.message.lr_policy
    warn_of_ignored(config)
    assert not caplog.messages


# -- data, made by the commands ------------------------------------------------------------------------------
def idx(path, array):
    path.write_bytes(struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
                     + array.tobytes())


def minidrop(*arguments):
    """Run a command of minidrop's."""
    assert run(list(map(str, arguments))) == 0


def mnist(rng):
    for part in ("train", "test"):
        idx(Path(f"{part}-images"), rng.integers(0, 256, (20, 28, 28), np.uint8))
        idx(Path(f"{part}-labels"), rng.integers(0, 10, 20, np.uint8))
        minidrop("convert_mnist_data", f"{part}-images", f"{part}-labels",
                 f"examples/mnist/mnist_{part}_lmdb", "--backend", "lmdb")
        minidrop("convert_mnist_siamese_data", f"{part}-images", f"{part}-labels",
                 f"examples/siamese/mnist_siamese_{part}_leveldb")


def cifar10(rng):
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (10000, 3073), np.uint8)
        records[:, 0] %= 10
        Path(name).write_bytes(records.tobytes())
    minidrop("convert_cifar_data", ".", "examples/cifar10", "lmdb")
    minidrop("compute_image_mean", "--backend=lmdb", "examples/cifar10/cifar10_train_lmdb",
             "examples/cifar10/mean.binaryproto")


def images(rng):
    Image = pytest.importorskip("PIL.Image")
    lines = []
    for i in range(4):
        pixels = rng.integers(0, 256, (*IMAGENET, 3), np.uint8)
        Image.fromarray(pixels).save(f"{i}.png")
        lines.append(f"{i}.png {i}\n")
    Path("list.txt").write_text("".join(lines))
    for name in ("train", "val"):
        minidrop("convert_imageset", "--shuffle", f"{os.getcwd()}/", "list.txt",
                 f"examples/imagenet/ilsvrc12_{name}_lmdb")
    minidrop("compute_image_mean", "examples/imagenet/ilsvrc12_train_lmdb",
             "data/ilsvrc12/imagenet_mean.binaryproto")
    for name in ("examples/_temp/file_list", "data/flickr_style/train", "data/flickr_style/test"):
        Path(f"{name}.txt").write_text("".join(f"{os.getcwd()}/{line}" for line in lines))
    windows = "".join(f"# {i}\n{os.getcwd()}/{i}.png\n3\n256\n256\n2\n{i + 1} 0.9 10 20 200 210\n"
                      "0 0.1 5 5 90 80\n" for i in range(4))
    for name in ("trainval", "test"):
        Path(f"examples/finetune_pascal_detection/window_file_2007_{name}.txt").write_text(windows)


def vectors(rng):
    import h5py
    for part in ("train", "test"):
        with h5py.File(f"{part}.h5", "w") as h5:
            h5["data"], h5["label"] = rng.normal(size=(20, 4)), rng.integers(0, 2, 20)
        Path(f"examples/hdf5_classification/data/{part}.txt").write_text(f"{os.getcwd()}/{part}.h5\n")


@pytest.fixture(scope="module")
def caffe_tree(tmp_path_factory):
    """A folder in which each source of Caffe's files is."""
    pytest.importorskip("lmdb", reason="no lmdb here: pip install lmdb")
    pytest.importorskip("plyvel", reason="no plyvel here: pip install plyvel")
    folder, before = tmp_path_factory.mktemp("caffe"), os.getcwd()
    for name in ("mnist", "siamese", "cifar10", "imagenet", "_temp", "finetune_pascal_detection",
                 "hdf5_classification/data"):
        (folder / "examples" / name).mkdir(parents=True)
    for name in ("ilsvrc12", "flickr_style"):
        (folder / "data" / name).mkdir(parents=True)
    os.chdir(folder)
    try:
        rng = np.random.default_rng(0)
        for make in (mnist, cifar10, images, vectors):
            make(rng)
    finally:
        os.chdir(before)
    return folder


PYLOSS = """
import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    def setup(self, bottom, top):
        self.difference = None

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference ** 2) / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for sign, wanted, blob in zip((1, -1), propagate_down, bottom):
            if wanted:
                blob.diff[...] = sign * top[0].diff[0] * self.difference / blob.num
"""


# -- nets ----------------------------------------------------------------------------------------------------
def smaller(config, whole):
    """The same net on batches of 2, so that a step of AlexNet takes a second; unless `whole`, no InnerProduct
    has more than 100 outputs."""
    for layer in config.message.layer:
        for _, value in layer.ListFields():
            if hasattr(value, "batch_size"):
                value.batch_size = 2
        for shape in layer.input_param.shape:
            shape.dim[0] = min(shape.dim[0], 2)
        if not whole and layer.inner_product_param.num_output > 1000:
            layer.inner_product_param.num_output = 100
    return config


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("path", NETS, ids=name_of)
def test_a_net_builds_and_runs_a_training_step(path, whole, caffe_tree, monkeypatch, caplog):
    """And no warning names a setting of Caffe's own as one without effect."""
    take_step(path, whole, caffe_tree, monkeypatch)
    assert not [message for message in caplog.messages if "effect" in message]


def take_step(path, whole, caffe_tree, monkeypatch):
    monkeypatch.chdir(caffe_tree)
    if path.name == "linreg.prototxt":
        allow_python_layers(monkeypatch, caffe_tree)
    config = smaller(load_net(path), whole)
    if not any(layer.type.endswith("Data") for layer in config.message.layer):
        return run_backward(config)
    settings = SolverParameter(net_param=config.message, base_lr=1e-6, lr_policy="fixed", max_iter=1,
                               snapshot_after_train=False)
    solver = Solver(SolverConfig.of(settings), device="cpu", overrides=("random_seed=1",))
    before = {name: parameter.numpy().copy() for name, parameter in solver.net.parameters().items()}
    solver.step(1)
    assert solver.iteration == 1
    if solver.net.losses:
        assert np.isfinite(solver.net.loss)
        assert any((before[name] != parameter.numpy()).any()
                   for name, parameter in solver.net.parameters().items())
    solver.close()


def allow_python_layers(monkeypatch, folder):
    """Allow Python layers in one test, and put in a folder the module that Caffe's example names."""
    (folder / "pyloss.py").write_text(PYLOSS)
    monkeypatch.syspath_prepend(folder)
    from minidrop import caffe, layers
    monkeypatch.setitem(sys.modules, "caffe", caffe)
    layers.allow_python()


def run_backward(config: NetConfig):
    """A net for use has inputs but no loss: forward, and backward from the sum of its outputs."""
    net = Net(config, phase="TEST", device="cpu", seed=1)
    rng = np.random.default_rng(0)
    shapes = {name: tensor for layer in net.layers.values() if layer.type == "Input"
              for name, tensor in layer.shapes.items()}
    outputs = net.forward(**{name: rng.normal(size=shape) for name, shape in shapes.items()})
    assert outputs and all(np.isfinite(output.numpy()).all() for output in outputs.values())
